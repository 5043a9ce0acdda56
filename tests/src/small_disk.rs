//! A small disk of its own for a program: a tmpfs in a mount namespace, which the test fills and empties from outside.
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::site::Told;

/// `sh` script: a tmpfs of `$1` on `$2`, then the rest of the arguments as the program.
const ON_A_SMALL_DISK: &str = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && shift 2 && exec \"$@\"";

/// Why there are no mount namespaces here, if there are none.
pub fn problem() -> Option<String> {
    let probe = Told::by(Command::new("unshare").args(["--map-root-user", "--mount", "true"]));
    (probe.code != 0)
        .then(|| format!("mount namespaces are needed to fill a disk without filling yours: run as root ({})", probe.err.trim()))
}

/// `command`, with its folder `at` on a disk of this size.
///
/// # Panics
/// Where there are no mount namespaces.
pub fn on_a_small_disk(command: &Command, size: &str, at: &Path) -> Command {
    std::fs::create_dir_all(at).expect("a folder");
    assert_eq!(problem(), None);
    let mut small = Command::new("unshare");
    small.args(["--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, "sh", size]).arg(at);
    small.arg(command.get_program()).args(command.get_args());
    small
}

/// The folder `at` as the process with this id sees it.
pub fn seen_by(id: u32, at: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{id}/root{}", at.display()))
}

/// Take every byte that is left.
///
/// # Panics
/// When the disk is not a small one.
pub fn fill(folder: &Path) -> PathBuf {
    use std::io::Write as _;
    let path = folder.join("filler");
    let mut file = std::fs::File::create(&path).expect("a file on the small disk");
    let block = vec![1; 4096];
    for _ in 0..100_000 {
        if file.write_all(&block).is_err() {
            return path;
        }
    }
    panic!("{} is not a small disk", folder.display());
}
