//! `leeway keys`: every key of a fleet, made and used offline for its whole life, files in and files out.
//!
//! The folder that `init` makes keeps apart what must be kept by different hands: `offline/` (people), `release/` (the machine
//! that releases), `trainer/` (the training worker), `controller/` (the only one that goes to the controller, with its online
//! keys and first documents) and `repository/` (public; what devices are made with). People need not meet: a key that joins is
//! handed over as its public half, and whoever has a share adds one signature to a document that travels between them.
//! What stays true: no command here talks to a network, nothing is overwritten, private keys are readable by their owner only.
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use clap::Subcommand;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{KeyFile, SigningKey};

use crate::failure::{During, Failure, Outcome};

mod broker;
mod document;
mod drill;
mod init;
mod pair;
mod root;
mod show;
mod sign;
mod targets;
#[cfg(test)]
mod tests;

pub use document::is_director;
pub use init::init;
pub use targets::next_targets;

/// The largest file that is read: no document is longer.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Keys and offline documents.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make every key of a new fleet and sign its first documents.
    Init(init::Init),
    /// Make one key: a private file, and a public one (.pub) to hand over.
    New(pair::New),
    /// Say what a file is: document, version, expiry, who signed, how many signatures are missing.
    Show(show::Show),
    /// Add one person's signature to a document.
    Sign(sign::Sign),
    /// The same document once more with a later expiry: the next version, to be signed again.
    Renew(sign::Renew),
    /// Replace keys of a root's role: root, targets, snapshot, timestamp, or the director's.
    Rotate(root::Rotate),
    /// Replace keys of a line: its release keys, or with --trainer its trainer's.
    RotateLine(targets::RotateLine),
    /// Begin another model line.
    AddLine(targets::AddLine),
    /// Refuse everything of a line below a number from now on.
    RaiseFloor(targets::RaiseFloor),
    /// Let a line's trainer release models with the inputs and outputs of an existing one.
    GrantTrainer(targets::Grant),
    /// Take the grant of a line's trainer back.
    RevokeTrainer(targets::Revoke),
    /// Forbid one model for good: devices that run it stop at their next refresh.
    RevokeModel(targets::RevokeModel),
    /// Make a certificate for a broker that is not the controller's own, signed by the device authority.
    Broker(broker::Broker),
    /// Play every theft of a key on simulated devices: what the thief gets, and what recovers it.
    Drill(drill::Drill),
}

/// Run a `leeway keys` command.
pub fn run(command: &Keys, now: Timestamp) -> Outcome {
    match command {
        Keys::Init(args) => init::run(args, now),
        Keys::New(args) => pair::run(args),
        Keys::Broker(args) => broker::run(args, now),
        Keys::Show(args) => show::run(args, now),
        Keys::Sign(args) => sign::run(args, now),
        Keys::Renew(args) => sign::renew(args, now),
        Keys::Rotate(args) => root::run(args, now),
        Keys::RotateLine(args) => targets::rotate_line(args, now),
        Keys::AddLine(args) => targets::add_line(args, now),
        Keys::RaiseFloor(args) => targets::raise_floor(args, now),
        Keys::GrantTrainer(args) => targets::grant(args, now),
        Keys::RevokeTrainer(args) => targets::revoke(args, now),
        Keys::RevokeModel(args) => targets::revoke_model(args, now),
        Keys::Drill(args) => drill::run(args),
    }
}

/// Read a private key file.
pub fn read_key(path: &Path) -> Outcome<SigningKey> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    let file = KeyFile::parse(&text).during(format!("reading the key {}", path.display()))?;
    Ok(file.key)
}

/// Read a file of a reasonable size.
fn read(path: &Path) -> Outcome<Vec<u8>> {
    let length = fs::metadata(path).during(format!("reading {}", path.display()))?.len();
    if length > MAX_FILE_BYTES {
        return Err(Failure::new(format!("{} has {length} bytes: no key and no document is that long", path.display())));
    }
    fs::read(path).during(format!("reading {}", path.display()))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Outcome {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).during(format!("making {}", folder.display()))?;
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path).map_err(|e| {
        let failure = Failure::new(format!("writing {}: {e}", path.display()));
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            failure.help("keys and documents are never overwritten: name a new folder or file")
        } else {
            failure
        }
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).during(format!("writing {}", path.display()))
}

fn expect_absent(path: &Path) -> Outcome {
    if path.symlink_metadata().is_ok() {
        return Err(Failure::new(format!("{} exists", path.display())).help("keys and documents are never overwritten: name a new file"));
    }
    Ok(())
}
