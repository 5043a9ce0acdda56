//! `leeway keys rotate`: the next root, with other keys for one of its roles.
//!
//! What stays true: a root that is written here can be followed (enough keys for its thresholds, no key with two duties), and
//! names every change that people asked for and no other.
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{PublicKey, SigningKey};
use leeway_protocol::trust::metadata::{RoleKeys, Root};
use leeway_protocol::trust::repository::{Lifetimes, RootBuilder};

use super::document::{Any, expect_listed, is_director, report};
use super::pair::{self, choose, read_public};
use super::show::keys_of;
use super::{expect_absent, read_key, write_new};
use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// The roles of the director's root that its one online key has.
const DIRECTOR_ROLES: [&str; 3] = ["targets", "snapshot", "timestamp"];

/// Whose keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RootRole {
    /// The people who sign roots.
    Root,
    /// The people who sign targets.
    Targets,
    /// The controller's snapshot key.
    Snapshot,
    /// The controller's timestamp key.
    Timestamp,
    /// The controller's director key, in the director's root.
    Director,
}

/// What changes about a set of keys.
#[derive(Debug, Args)]
pub struct Change {
    /// A key that goes: its file, its public half in hex, or the beginning of its key id. May be given several times.
    #[arg(long = "drop", value_name = "KEY")]
    pub dropped: Vec<String>,
    /// A key that comes: its `.pub` file. May be given several times.
    #[arg(long = "add", value_name = "FILE")]
    pub added: Vec<PathBuf>,
    /// How many must sign from now on; as many as before if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub threshold: Option<u32>,
}

/// `leeway keys rotate`.
#[derive(Debug, Args)]
pub struct Rotate {
    /// The newest root.
    #[arg(long)]
    pub root: PathBuf,
    /// Whose keys change.
    #[arg(long)]
    pub role: RootRole,
    #[command(flatten)]
    pub(crate) change: Change,
    /// A root key, old or new; as many as are at hand, the others sign with `leeway keys sign`.
    #[arg(long = "key")]
    pub keys: Vec<PathBuf>,
    /// Where to write the next root.
    #[arg(long)]
    pub out: PathBuf,
}

impl Change {
    /// The keys and the threshold after the change.
    pub(super) fn apply(&self, now: &[PublicKey], threshold: u32) -> Outcome<(Vec<PublicKey>, u32)> {
        if self.dropped.is_empty() && self.added.is_empty() && self.threshold.is_none() {
            return Err(Failure::new("nothing changes: name a key with --drop or --add, or a --threshold").code(2));
        }
        let mut keys = now.to_vec();
        for named in &self.dropped {
            let gone = choose(now, named)?;
            keys.retain(|key| *key != gone);
        }
        for path in &self.added {
            let (_, key) = read_public(path)?;
            if now.contains(&key) || keys.contains(&key) {
                return Err(Failure::new(format!("{} is listed already", path.display())).code(6));
            }
            keys.push(key);
        }
        let threshold = self.threshold.unwrap_or(threshold);
        if keys.len() < usize::try_from(threshold).unwrap_or(usize::MAX) {
            let keys = keys.len();
            return Err(Failure::new(format!("{keys} keys can never give {threshold} signatures: add keys, or lower the --threshold")));
        }
        Ok((keys, threshold))
    }
}

pub(super) fn run(args: &Rotate, now: Timestamp) -> Outcome {
    expect_absent(&args.out)?;
    let current = Any::open(&args.root)?;
    let Any::Root(old) = &current else { return Err(Failure::new(format!("{} is not a root", args.root.display())).code(2)) };
    let next = next_root(old.claims(), args.role, &args.change, now)?;
    let unsigned = Any::parse(&next.sign(&[]).during("making the root")?)?;
    let mut keys = Vec::new();
    for path in &args.keys {
        let key = read_key(path)?;
        expect_listed(&unsigned, &unsigned.standings(Some(&current), None)?, &key, path)?;
        keys.push(key);
    }
    let bytes = next.sign(&keys.iter().collect::<Vec<&SigningKey>>()).during("signing the root")?;
    write_new(&args.out, &bytes, 0o644)?;
    report(&args.out, &bytes, Some(&current), None)?;
    for hint in hints(args.role, is_director(old.claims())) {
        putln!("{hint}");
    }
    Ok(())
}

/// The next root, to be signed.
pub(super) fn next_root(old: &Root, role: RootRole, change: &Change, now: Timestamp) -> Outcome<RootBuilder> {
    let directors = is_director(old);
    let names: &[&str] = match (role, directors) {
        (RootRole::Root, _) => &["root"],
        (RootRole::Director, true) => &DIRECTOR_ROLES,
        (RootRole::Targets, false) => &["targets"],
        (RootRole::Snapshot, false) => &["snapshot"],
        (RootRole::Timestamp, false) => &["timestamp"],
        (RootRole::Director, false) => {
            return Err(Failure::new("this is the image repository's root, which names no director: give the director's root").code(2));
        }
        (_, true) => return Err(Failure::new("this is the director's root: its one online key is changed with --role director").code(2)),
    };
    let listed = |name: &str| old.roles.get(name).map(|listed: &RoleKeys| (keys_of(listed, &old.keys), listed.threshold));
    let (keys, threshold) = names.first().and_then(|name| listed(name)).ok_or_else(|| Failure::new("the root lists no such role"))?;
    let (new, threshold) = change.apply(&keys, threshold)?;
    for name in old.roles.keys().filter(|name| !names.contains(&name.as_str())) {
        let others = listed(name).map(|(keys, _)| keys).unwrap_or_default();
        if let Some(twice) = new.iter().find(|key| others.contains(key)) {
            return Err(Failure::new(format!("key {} signs for {name} already: one theft would give both", pair::short(twice)))
                .help("make a key for this with `leeway keys new`"));
        }
    }
    if threshold < 2 && matches!(role, RootRole::Root | RootRole::Targets) {
        eprintln!("careful: with a threshold of 1, whoever steals one of these keys has everything that they guard");
    }
    let until = now.plus_secs(Lifetimes::default().root_secs);
    Ok(names.iter().fold(RootBuilder::after(old, until), |root, name| root.role(name, &new, threshold)))
}

fn hints(role: RootRole, directors: bool) -> &'static [&'static str] {
    match role {
        RootRole::Root if directors => &["the image repository's root names the same people: rotate it too"],
        RootRole::Root => &["the director's root names the same people: rotate it too"],
        RootRole::Targets => &[
            "if the targets that are served are not signed by enough of the new keys, sign new ones with `leeway keys renew` and publish both \
             together: `leeway model publish-root ROOT --targets TARGETS`",
        ],
        RootRole::Snapshot | RootRole::Timestamp | RootRole::Director => &[
            "before you publish it, give the controller the new key: put its .key file into the folder next/ of the controller's keys and \
             restart the controller",
        ],
    }
}
