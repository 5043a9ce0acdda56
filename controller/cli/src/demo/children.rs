//! The programs that the demo starts beside itself: the controller and the trainer, real processes that can really be killed.
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::failure::{During, Outcome};

/// A started program; killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Start this very binary with `args`, its output in `log`.
    pub fn start(args: &[&str], log: &Path) -> Outcome<Self> {
        let program = std::env::current_exe().during("finding this program")?;
        let out = File::options().create(true).append(true).open(log).during(format!("opening {}", log.display()))?;
        let err = out.try_clone().during("opening the log twice")?;
        let child = Command::new(program).args(args).stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        Ok(Self { child: child.during(format!("starting leeway {}", args.join(" ")))?, log: log.to_path_buf() })
    }

    /// SIGKILL: it gets no chance to tidy up.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines it wrote, for an error message.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port nobody listens on at this moment.
pub fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).during("looking for a free port")?;
    Ok(listener.local_addr().during("looking for a free port")?.port())
}
