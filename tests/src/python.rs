//! Python environments for the stories that train with scikit-learn or compare with onnxruntime: made once, kept under `target/`.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use leeway_protocol::digest::Digest;

use crate::harness::root;

/// One environment at a time: installing is what takes the time, and two would take it from each other.
static MAKING: Mutex<()> = Mutex::new(());

/// The Python of an environment that holds what `requirements` (a file) asks for.
///
/// # Panics
/// With a sentence, when there is no Python or something cannot be installed.
pub fn environment(name: &str, requirements: &Path) -> PathBuf {
    let _one = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let wanted = std::fs::read_to_string(requirements).unwrap_or_else(|e| panic!("{}: {e}", requirements.display()));
    let folder = target().join("venv").join(format!("{name}-{}", Digest::of(wanted.as_bytes()).short()));
    let (python, done) = (folder.join("bin/python"), folder.join("complete"));
    // Written last, so an installation that broke off is begun again.
    if done.exists() && python.exists() {
        return python;
    }
    let _ = std::fs::remove_dir_all(&folder);
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder), "python3 with venv is needed: apt-get install python3-venv");
    let pip = ["-m", "pip", "install", "--quiet", "--no-input", "-r"];
    run(Command::new(&python).args(pip).arg(requirements), "the requirements cannot be installed");
    std::fs::write(&done, wanted).expect("the environment's folder can be written");
    python
}

/// Where built and fetched things are kept between runs.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn run(command: &mut Command, remedy: &str) {
    let done = command.output();
    let said = done.as_ref().map(|d| String::from_utf8_lossy(&d.stderr).into_owned()).unwrap_or_default();
    assert!(done.as_ref().is_ok_and(|d| d.status.success()), "{remedy}: {command:?}: {done:?}\n{said}");
}
