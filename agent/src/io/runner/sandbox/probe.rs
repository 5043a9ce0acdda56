//! What a model that took its runner over could do on this machine, tried out: the same confinement, then the attempt.
//!
//! For operators who want to see it instead of believing it, and for the tests. With `--confined no` the attempt is made without the
//! confinement, to see that it would have succeeded; no model is ever loaded here, so the option opens nothing.
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::super::{DONE, Options, REFUSED};
use super::{CPU_SECONDS, Keep, Memory, confine};
use crate::control::Slot;

/// More memory than [`SIGNED`] and all that is added to it.
const TOO_MUCH: usize = 1 << 30;
/// What a model may use here.
const SIGNED: u64 = 64 << 20;

/// Confine, try, and tell: status 0 if it was refused.
pub(crate) fn run(options: &Options) -> anyhow::Result<u8> {
    let attempt = options.one("--try")?;
    let file = options.all("--file").next().unwrap_or("/etc/passwd");
    let folders = options.all("--models").map(Into::into).collect();
    let cpu_seconds = if attempt == "spin" { Some(1) } else { Some(CPU_SECONDS) };
    let confinement = if options.all("--confined").next() == Some("no") {
        None
    } else {
        let memory = Memory::of_process(true);
        let confinement = confine(&Keep { folders, cpu_seconds });
        memory.allow(Slot::A, SIGNED).context("memory cannot be bounded")?;
        Some(confinement)
    };
    let tried = attempt_to(attempt, file, options.all("--to").next())?;
    let error = tried.err().map(|error| error.to_string());
    println!("{}", json!({"confinement": confinement, "tried": attempt, "refused": error.is_some(), "error": error}));
    Ok(if error.is_some() { DONE } else { REFUSED })
}

fn attempt_to(attempt: &str, file: &str, to: Option<&str>) -> anyhow::Result<std::io::Result<()>> {
    let full = |_| std::io::Error::from(std::io::ErrorKind::OutOfMemory);
    Ok(match attempt {
        "read" => std::fs::read(file).map(drop),
        "write" => std::fs::OpenOptions::new().append(true).create(true).open(file).map(drop),
        "remove" => std::fs::remove_file(file),
        "connect" => std::net::TcpStream::connect(to.context("--to is needed")?).map(drop),
        "connect-unix" => std::os::unix::net::UnixStream::connect(to.context("--to is needed")?).map(drop),
        "listen" => std::net::TcpListener::bind("127.0.0.1:0").map(drop),
        "datagram" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
        // Ends the process: there is no coming back from either outcome.
        "exec" => Err(Command::new("/bin/true").exec()),
        "spawn" => Command::new("/bin/true").status().map(drop),
        "thread" => std::thread::Builder::new().spawn(|| ()).map(|thread| drop(thread.join())),
        "allocate" => Vec::<u8>::new().try_reserve_exact(TOO_MUCH).map_err(full),
        "spin" => loop {
            std::hint::spin_loop();
        },
        other => bail!(
            "--try {other}: known are read, write, remove, connect, connect-unix, listen, datagram, exec, spawn, thread, allocate, spin"
        ),
    })
}
