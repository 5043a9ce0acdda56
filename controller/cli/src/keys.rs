//! `leeway keys`: every key of a fleet, made and used offline, files in and files out.
//!
//! The folder that comes out keeps apart what must be kept by different hands: `offline/` (people), `release/` (the machine that
//! releases), `trainer/` (the training worker), `controller/` (the only one that goes to the controller, with its online keys and
//! first documents) and `repository/` (public; what devices are made with).
//! What stays true: no command here talks to a network, nothing is overwritten, private keys are readable by their owner only.
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{KeyFile, SigningKey};
use leeway_protocol::trust::metadata::{Document, Targets};
use leeway_protocol::trust::repository::{self, Ceremony, Custody, Lifetimes, LineGrant, TargetsBuilder};
use leeway_protocol::trust::tuf::MAX_TARGETS_BYTES;

use crate::failure::{During, Failure, Outcome};

/// Keys and offline documents.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make every key of a new fleet and sign its first documents.
    Init(Init),
    /// Let a line's trainer release models with the inputs and outputs of an existing one.
    GrantTrainer(Grant),
    /// Take the grant of a line's trainer back.
    RevokeTrainer(Revoke),
    /// Forbid one model for good: devices that run it stop at their next refresh.
    RevokeModel(RevokeModel),
}

/// `leeway keys init`.
#[derive(Debug, Args)]
pub struct Init {
    /// Folder to make.
    #[arg(long)]
    pub out: PathBuf,
    /// A model line; may be given several times.
    #[arg(long = "line", required = true)]
    pub lines: Vec<Line>,
}

/// What every command that signs targets needs.
#[derive(Debug, Args)]
pub struct Signing {
    /// The current targets document.
    #[arg(long)]
    pub targets: PathBuf,
    /// A targets key; give as many as the threshold asks for.
    #[arg(long = "key", required = true)]
    pub keys: Vec<PathBuf>,
    /// Where to write the new document.
    #[arg(long)]
    pub out: PathBuf,
}

/// `leeway keys grant-trainer`.
#[derive(Debug, Args)]
pub struct Grant {
    /// The line.
    #[arg(long)]
    pub line: Line,
    /// Digest of the inputs and outputs, as `leeway model show` prints it.
    #[arg(long)]
    pub io: Digest,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// `leeway keys revoke-trainer`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The line.
    #[arg(long)]
    pub line: Line,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// `leeway keys revoke-model`.
#[derive(Debug, Args)]
pub struct RevokeModel {
    /// The line.
    #[arg(long)]
    pub line: Line,
    /// Digest of the model file.
    #[arg(long)]
    pub model: Digest,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// Run a `leeway keys` command.
pub fn run(command: &Keys, now: Timestamp) -> Outcome {
    match command {
        Keys::Init(args) => {
            init(&args.out, &args.lines, now)?;
            println!("made the keys of a new fleet in {}", args.out.display());
            println!("keep offline/ with three people, release/ and trainer/ on their machines; give the controller only controller/");
            Ok(())
        }
        Keys::GrantTrainer(args) => edit(&args.signing, now, |targets| targets.grant_trainer(&args.line, args.io)),
        Keys::RevokeTrainer(args) => edit(&args.signing, now, |targets| targets.revoke_trainer(&args.line)),
        Keys::RevokeModel(args) => edit(&args.signing, now, |targets| {
            targets.policy(&args.line, |policy| {
                policy.revoked.insert(args.model);
            })
        }),
    }
}

/// Make a new fleet's keys in the new folder `out`.
pub fn init(out: &Path, lines: &[Line], now: Timestamp) -> Outcome<Ceremony> {
    let grants: Vec<LineGrant> = lines.iter().map(|line| LineGrant { line: line.clone(), trainer_io: None }).collect();
    let mut broken = None;
    let mut seed = || {
        let mut seed = [0; 32];
        if let Err(e) = getrandom::fill(&mut seed) {
            broken = Some(e);
        }
        seed
    };
    let made = repository::ceremony(&grants, &Lifetimes::default(), now, &mut seed).during("signing the first documents")?;
    if let Some(e) = broken {
        return Err(Failure::new(format!("the system gives no random numbers: {e}")));
    }
    for key in &made.keys {
        let folder = match key.custody {
            Custody::Offline => "offline",
            Custody::Release => "release",
            Custody::Trainer => "trainer",
            Custody::Online => "controller",
        };
        write_new(&out.join(folder).join(format!("{}.key", key.name)), key.key.to_key_file(&key.name).as_bytes(), 0o600)?;
    }
    for folder in ["controller", "repository"] {
        for (name, bytes) in
            [("1.root.json", &made.image_root), ("1.targets.json", &made.image_targets), ("director.1.root.json", &made.director_root)]
        {
            write_new(&out.join(folder).join(name), bytes, 0o644)?;
        }
    }
    Ok(made)
}

/// Read a key file.
pub fn read_key(path: &Path) -> Outcome<SigningKey> {
    let text = fs::read_to_string(path).during(format!("reading the key {}", path.display()))?;
    let file = KeyFile::parse(&text).during(format!("reading the key {}", path.display()))?;
    Ok(file.key)
}

/// The next version of a targets document, edited and signed.
pub fn next_targets(
    current: &[u8],
    keys: &[&SigningKey],
    now: Timestamp,
    change: impl FnOnce(TargetsBuilder) -> TargetsBuilder,
) -> Outcome<Vec<u8>> {
    let max = usize::try_from(MAX_TARGETS_BYTES).unwrap_or(usize::MAX);
    let document = Document::<Targets>::parse(current, max).during("reading the targets document")?;
    let until = now.plus_secs(Lifetimes::default().targets_secs);
    let builder = TargetsBuilder::after(document.claims(), until).during("reading the line policy")?;
    change(builder).sign(keys).during("signing the targets document")
}

fn edit(signing: &Signing, now: Timestamp, change: impl FnOnce(TargetsBuilder) -> TargetsBuilder) -> Outcome {
    let current = fs::read(&signing.targets).during(format!("reading {}", signing.targets.display()))?;
    let keys = signing.keys.iter().map(|path| read_key(path)).collect::<Outcome<Vec<_>>>()?;
    let bytes = next_targets(&current, &keys.iter().collect::<Vec<_>>(), now, change)?;
    write_new(&signing.out, &bytes, 0o644)?;
    println!("wrote {}; publish it with `leeway model publish-targets {0}`", signing.out.display());
    Ok(())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Outcome {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).during(format!("making {}", folder.display()))?;
    }
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path).map_err(|e| {
        let failure = Failure::new(format!("writing {}: {e}", path.display()));
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            failure.help("keys are never overwritten: name a new folder or file")
        } else {
            failure
        }
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).during(format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_kept_apart_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("keys");
        let lines = ["rain".parse().unwrap()];
        init(&out, &lines, Timestamp::from_secs(1_000_000)).unwrap();
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(out.join(folder)).unwrap();
            let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let documents = ["1.root.json", "1.targets.json", "director.1.root.json"];
        assert_eq!(names("repository"), documents);
        assert_eq!(names("controller"), [&documents[..], &["director.key", "snapshot.key", "timestamp.key"]].concat());
        let key = out.join("release/rain.key");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read_key(&key).is_ok());
        let again = init(&out, &lines, Timestamp::from_secs(1_000_000)).unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
    }

    #[test]
    fn a_grant_is_a_new_version_signed_by_two() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::from_secs(1_000_000);
        let line: Line = "rain".parse().unwrap();
        let made = init(&dir.path().join("keys"), std::slice::from_ref(&line), now).unwrap();
        let keys = [made.key("targets-1").unwrap(), made.key("targets-3").unwrap()];
        let bytes = next_targets(&made.image_targets, &keys, now, |t| t.grant_trainer(&line, Digest::of(b"io"))).unwrap();
        let document = Document::<Targets>::parse(&bytes, 1 << 20).unwrap();
        assert_eq!(document.version(), 2);
        let policy = document.claims().policy().unwrap();
        assert_eq!(policy.lines.get(&line).and_then(|l| l.trainer.as_ref()).map(|g| g.io), Some(Digest::of(b"io")));
    }
}
