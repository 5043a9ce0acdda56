//! One more signature, and the same document once more before it expires.
use std::path::PathBuf;

use clap::Args;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::repository::{Lifetimes, RoleBuilder, RootBuilder, TargetsBuilder};

use super::document::{Any, expect_listed, is_top, report};
use super::{expect_absent, read_key, write_new};
use crate::failure::{During, Failure, Outcome};

/// The longest life that `--days` gives: what is signed for longer is never looked at again.
const MAX_DAYS: i64 = 3_660;
const DAY_SECS: i64 = 86_400;

/// `leeway keys sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// The document, with whatever signatures it has.
    pub file: PathBuf,
    /// A private key; may be given several times.
    #[arg(long = "key", required = true)]
    pub keys: Vec<PathBuf>,
    /// Where to write the document with the added signature.
    #[arg(long)]
    pub out: PathBuf,
    /// The document that names its keys: the previous root, for targets the root, for a line's releases the targets.
    #[arg(long)]
    pub by: Option<PathBuf>,
    /// Whose releases they are, when none is listed yet.
    #[arg(long)]
    pub role: Option<String>,
}

/// `leeway keys renew`.
#[derive(Debug, Args)]
pub struct Renew {
    /// The current document: a root, targets, or a line's releases.
    pub file: PathBuf,
    /// A private key; as many as are at hand, the others sign with `leeway keys sign`.
    #[arg(long = "key")]
    pub keys: Vec<PathBuf>,
    /// Where to write the next version.
    #[arg(long)]
    pub out: PathBuf,
    /// The document that names its keys, to be told what is missing. A root is its own.
    #[arg(long)]
    pub by: Option<PathBuf>,
    /// Days that it is good for: 365 for a root, 90 for the others, if not given.
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..=MAX_DAYS))]
    pub days: Option<i64>,
}

pub(super) fn run(args: &Sign, now: Timestamp) -> Outcome {
    expect_absent(&args.out)?;
    let by = args.by.as_deref().map(Any::open).transpose()?;
    let mut document = Any::open(&args.file)?;
    if document.is_over(now) {
        return Err(Failure::new(format!("{} expired at {}", args.file.display(), document.header().expires.moment()))
            .help("make the next version with `leeway keys renew`, and sign that"));
    }
    let mut bytes = Vec::new();
    for path in &args.keys {
        let key = read_key(path)?;
        let standings = document.standings(by.as_ref(), args.role.as_deref())?;
        if standings.is_empty() && document.claimed().contains(&super::pair::short(&key.public())) {
            return Err(Failure::new(format!("{} has signed this already", path.display())).code(6));
        }
        expect_listed(&document, &standings, &key, path)?;
        bytes = document.with_signature(&key)?;
        document = Any::parse(&bytes)?;
    }
    write_new(&args.out, &bytes, 0o644)?;
    report(&args.out, &bytes, by.as_ref(), args.role.as_deref())
}

pub(super) fn renew(args: &Renew, now: Timestamp) -> Outcome {
    expect_absent(&args.out)?;
    let current = Any::open(&args.file)?;
    let keys = args.keys.iter().map(|path| read_key(path)).collect::<Outcome<Vec<_>>>()?;
    let keys: Vec<&SigningKey> = keys.iter().collect();
    let lifetimes = Lifetimes::default();
    let until = |default: i64| now.plus_secs(args.days.map_or(default, |days| days * DAY_SECS));
    let bytes = match &current {
        Any::Root(root) => RootBuilder::after(root.claims(), until(lifetimes.root_secs)).sign(&keys),
        Any::Targets(targets) if is_top(targets.claims()) => {
            TargetsBuilder::after(targets.claims(), until(lifetimes.targets_secs)).during("reading the line policy")?.sign(&keys)
        }
        Any::Targets(targets) => RoleBuilder::after(targets.claims(), false, until(lifetimes.role_secs)).sign(&keys),
        Any::Snapshot(_) | Any::Timestamp(_) => {
            return Err(Failure::new("snapshots and timestamps are renewed by the controller, which holds their keys").code(2));
        }
    };
    let bytes = bytes.during("signing")?;
    write_new(&args.out, &bytes, 0o644)?;
    let by = args.by.as_deref().map(Any::open).transpose()?;
    let by = match (&current, by) {
        (Any::Root(_), None) => Some(current),
        (_, by) => by,
    };
    report(&args.out, &bytes, by.as_ref(), None)
}
