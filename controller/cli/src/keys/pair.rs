//! One key at a time: drawing it, its public half as a file to hand over, and reading whichever of the two is at hand.
use std::path::{Path, PathBuf};

use clap::Args;
use leeway_protocol::trust::keyring::{KeyFile, PublicKey, SigningKey};
use serde::{Deserialize, Serialize};

use super::{expect_absent, read, write_new};
use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// The longest name of a key.
const MAX_NAME: usize = 64;

/// `leeway keys new`.
#[derive(Debug, Args)]
pub struct New {
    /// What the key is for: root-4, targets-4, rain, rain-auto, snapshot, timestamp, director. The controller wants its three
    /// under exactly these names.
    #[arg(long)]
    pub role: String,
    /// Where to write the private key; the public one goes beside it, as `.pub`.
    #[arg(long)]
    pub out: PathBuf,
}

/// What is handed over of a key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicFile {
    keytype: String,
    role: String,
    public: String,
}

pub(super) fn run(args: &New) -> Outcome {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if args.role.is_empty() || args.role.len() > MAX_NAME || !args.role.bytes().all(plain) {
        return Err(Failure::new(format!("{:?} is no name for a key: use letters, digits, - and _", args.role)).code(2));
    }
    let public_path = args.out.with_extension("pub");
    if public_path == args.out {
        return Err(Failure::new("the private key may not be called .pub: name it .key").code(2));
    }
    // Looked at first, so that a taken name does not leave half a pair behind.
    expect_absent(&public_path)?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| Failure::new(format!("the system gives no random numbers: {e}")))?;
    let key = SigningKey::from_seed(&seed);
    write_new(&args.out, key.to_key_file(&args.role).as_bytes(), 0o600)?;
    let file = PublicFile { keytype: "ed25519".to_owned(), role: args.role.clone(), public: key.public().hex() };
    let mut text = serde_json::to_string_pretty(&file).during("writing the public key")?;
    text.push('\n');
    write_new(&public_path, text.as_bytes(), 0o644)?;
    putln!("made {} (keep it) and {} (hand it over), key id {}", args.out.display(), public_path.display(), short(&key.public()));
    Ok(())
}

/// A key as people compare it over the telephone.
pub(super) fn short(key: &PublicKey) -> String {
    key.key_id().0.chars().take(12).collect()
}

/// The public half from a `.pub` file or from a private key file, and what its maker noted.
pub(super) fn read_public(path: &Path) -> Outcome<(String, PublicKey)> {
    let text = String::from_utf8_lossy(&read(path)?).into_owned();
    parse(&text).ok_or_else(|| Failure::new(format!("{} is no key: name a .pub file, or the private key file itself", path.display())))
}

/// The same of text that may be a key.
pub(super) fn parse(text: &str) -> Option<(String, PublicKey)> {
    if let Ok(file) = KeyFile::parse(text) {
        return Some((file.role, file.key.public()));
    }
    let file: PublicFile = serde_json::from_str(text).ok()?;
    (file.keytype == "ed25519").then_some(())?;
    Some((file.role, PublicKey::from_hex(&file.public).ok()?))
}

/// Which of `keys` is meant by a file, a public key in hex, or the beginning of a key id.
pub(super) fn choose(keys: &[PublicKey], named: &str) -> Outcome<PublicKey> {
    let known = || keys.iter().map(short).collect::<Vec<_>>().join(", ");
    let path = Path::new(named);
    if path.exists() {
        let (_, key) = read_public(path)?;
        return keys.iter().find(|k| **k == key).copied().ok_or_else(|| {
            Failure::new(format!("{named} (key id {}) is not among the keys that are listed now: {}", short(&key), known()))
        });
    }
    let fits = |key: &&PublicKey| key.hex() == named || (named.len() >= 8 && key.key_id().0.starts_with(named));
    let mut found = keys.iter().filter(fits);
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(*key),
        _ => Err(Failure::new(format!("{named} is no file and names no single key; the ids listed now are {}", known()))),
    }
}
