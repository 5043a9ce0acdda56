//! Bits flipped in every file of a controller: it starts and serves, or refuses by naming the file, and leaves it as it is.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use leeway_firmware_sim::rng::Rng;
use leeway_tests::api::Api;
use leeway_tests::harness::{Running, free_port, program};

use crate::bench::Bench;
use crate::device_rot::Damage;
use crate::judge;

/// Everything the controller knows.
const STORE: &str = "store.redb";
/// More flipped bits in it.
const FLIPS_IN_STORE: usize = 60;
/// The longest a start may take.
const START: Duration = Duration::from_secs(60);

#[test]
fn whatever_rots_in_a_controller_it_serves_or_names_the_file_and_leaves_it() {
    let mut bench = Bench::new();
    let mut device = bench.device();
    device.start();
    judge::it_converges(&bench, &mut device).expect("an install");
    device.kill_agent();
    bench.site.stop();
    let seed = std::env::var("LEEWAY_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(14);
    let (mut rng, whole) = (Rng::new(seed), bench.site.path("controller"));
    let mut files: Vec<String> = judge::files(&whole).into_iter().map(|(name, _)| name).collect();
    files.retain(|name| name != "lock");
    let damages = if crate::all() { Damage::ALL.as_slice() } else { &Damage::ALL[..1] };
    let (mut cases, mut failures) = (0, Vec::new());
    for name in &files {
        // The store is one large file of many pages: more of them are struck.
        let flips = if crate::all() && name == STORE { FLIPS_IN_STORE } else { 0 };
        for damage in damages.iter().chain(std::iter::repeat_n(&Damage::FlippedBit, flips)) {
            cases += 1;
            let copy = bench.site.path(&format!("rotten-{cases}"));
            copy_all(&whole, &copy);
            let what = damage.strike(&copy.join(name), &mut rng);
            let judged = try_one(&copy, name, &bench.site.path(&format!("rotten-{cases}.log")));
            println!("{name}: {what}: {}", judged.as_ref().map_or("FAILED".to_owned(), Clone::clone));
            match judged {
                Ok(_) => std::fs::remove_dir_all(&copy).expect("a copy"),
                Err(why) => failures.push(format!("{name}, {what}: {why}")),
            }
        }
    }
    println!("{cases} cases on {} files, seed {seed}", files.len());
    assert!(failures.is_empty(), "{} of {cases} failed:\n{}", failures.len(), failures.join("\n\n"));
}

/// Start a controller on damaged data; how it took it.
fn try_one(data: &Path, name: &str, log: &Path) -> Result<String, String> {
    let port = free_port();
    let mut serve = Command::new(program("leeway"));
    serve.arg("serve").arg("--data").arg(data).args([
        "--listen",
        &format!("127.0.0.1:{port}"),
        "--mqtt",
        &format!("127.0.0.1:{}", free_port()),
    ]);
    let damaged = std::fs::read(data.join(name)).ok();
    let mut controller = Running::start(&mut serve, log).map_err(|e| e.to_string())?;
    let (begun, api) = (Instant::now(), Api::new(port, None));
    loop {
        if let Some(status) = controller.ended() {
            let said = controller.log();
            let file = PathBuf::from(name);
            let short = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            return match status.code() {
                _ if said.contains("panicked") => Err(judge::tail(&said)),
                Some(1 | 2) if !said.contains(&short) => Err(format!("ended with {status} and did not name it:\n{}", judge::tail(&said))),
                Some(1 | 2) if is_other(name, damaged.as_deref(), std::fs::read(data.join(name)).ok().as_deref()) => {
                    Err(format!("changed it:\n{}", judge::tail(&said)))
                }
                Some(1 | 2) => Ok(format!("refused: {}", said.lines().last().unwrap_or_default())),
                _ => Err(format!("ended with {status}:\n{}", judge::tail(&said))),
            };
        }
        if api.get("/readyz").is_ok_and(|answer| answer.status == 200) {
            if name == STORE && damaged.as_deref().is_some_and(<[u8]>::is_empty) {
                return Err("began a new store over an emptied one".to_owned());
            }
            hands_out_nothing_damaged(&api, name, damaged.as_deref())?;
            let said = controller.log();
            controller.stop();
            return if said.contains("panicked") { Err(judge::tail(&said)) } else { Ok("serves".to_owned()) };
        }
        if begun.elapsed() > START {
            return Err(format!("neither serves nor ends:\n{}", judge::tail(&controller.log())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a file is another one than before. The store writes down for itself which of its pages are free when it is opened and closed;
/// it must not have been begun anew or cut.
fn is_other(name: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> bool {
    if name != STORE {
        return before != after;
    }
    before.map_or(0, <[u8]>::len) > after.map_or(0, <[u8]>::len)
}

/// A blob that rotted is not handed to devices, and a token that is empty opens nothing.
fn hands_out_nothing_damaged(api: &Api, name: &str, damaged: Option<&[u8]>) -> Result<(), String> {
    let answer = match name.strip_prefix("blobs/") {
        Some(digest) => api.get(&format!("/blobs/{digest}"))?,
        None if name == "admin.token" && damaged.is_none_or(<[u8]>::is_empty) => api.get("/api/v1/tokens")?,
        None => return Ok(()),
    };
    if answer.status >= 400 { Ok(()) } else { Err(format!("{name} is damaged and is answered with {}", answer.status)) }
}

fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
}
