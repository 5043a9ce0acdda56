//! `leeway keys show`: what a file is, and how far it is from being believed.
use std::path::PathBuf;

use clap::Args;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{KeyId, PublicKey};
use leeway_protocol::trust::metadata::{Key, Policy, RoleKeys, Root, Targets};

use super::document::{Any, Standing, is_top, short};
use super::{pair, read};
use crate::failure::{Failure, Outcome};
use crate::output::{put, putln};

/// `leeway keys show`.
#[derive(Debug, Args)]
pub struct Show {
    /// A document or a key.
    pub file: PathBuf,
    /// The document that names its keys: the previous root, for targets the root, for a line's releases the targets.
    #[arg(long)]
    pub by: Option<PathBuf>,
    /// Whose releases they are, when none is listed yet.
    #[arg(long)]
    pub role: Option<String>,
    /// End with 3 if it is expired, or not known to be signed by enough keys.
    #[arg(long)]
    pub check: bool,
}

pub(super) fn run(args: &Show, now: Timestamp) -> Outcome {
    let bytes = read(&args.file)?;
    if let Some((role, key)) = pair::parse(&String::from_utf8_lossy(&bytes)) {
        putln!("key for {role}, key id {}, public {}", pair::short(&key), key.hex());
        return Ok(());
    }
    let by = args.by.as_deref().map(Any::open).transpose()?;
    let document = Any::parse(&bytes).map_err(|f| Failure::new(format!("{}: {f}", args.file.display())))?;
    let (text, good) = describe(&document, by.as_ref(), args.role.as_deref(), now)?;
    put!("{text}");
    if args.check && !good {
        return Err(Failure::new(format!("{} would not be believed as it is", args.file.display())).code(3));
    }
    Ok(())
}

/// What it is, line by line, and whether it would be believed now.
pub(super) fn describe(document: &Any, by: Option<&Any>, role: Option<&str>, now: Timestamp) -> Outcome<(String, bool)> {
    let header = document.header();
    let until = header.expires.moment();
    let days = until.millis_since(now) / 86_400_000;
    let over = document.is_over(now);
    let mut lines = vec![document.what()];
    lines.push(match over {
        true => format!("expired at {until}: make the next version with `leeway keys renew`"),
        false => format!("good until {until}, {days} days from now"),
    });
    match document {
        Any::Root(root) => lines.extend(root_lines(root.claims())),
        Any::Targets(targets) => lines.extend(targets_lines(targets.claims())?),
        Any::Snapshot(_) | Any::Timestamp(_) => {}
    }
    let standings = document.standings(by, role)?;
    lines.extend(standings.iter().map(Standing::sentence));
    if standings.is_empty() {
        let claimed = document.claimed();
        let by = if claimed.is_empty() { "nobody".to_owned() } else { claimed.join(", ") };
        lines.push(format!("signed by {by}, unchecked: give --by the document that names its keys"));
    } else if header.version > 1 && by.is_none() {
        lines.push("whether the previous root's keys signed is unchecked: give that root with --by".to_owned());
    }
    let proven = !standings.is_empty() && (by.is_some() || header.version == 1);
    let good = proven && !over && standings.iter().all(|s| s.missing() == 0);
    Ok((lines.join("\n") + "\n", good))
}

fn of(role: &str, keys: &RoleKeys) -> String {
    let ids: Vec<String> = keys.keyids.iter().map(short).collect();
    format!("  {role}: {} of {}", keys.threshold, ids.join(", "))
}

fn root_lines(root: &Root) -> Vec<String> {
    root.roles.iter().map(|(role, keys)| of(role, keys)).collect()
}

fn targets_lines(targets: &Targets) -> Outcome<Vec<String>> {
    if !is_top(targets) {
        return Ok(targets.targets.keys().map(|path| format!("  {path}")).collect());
    }
    let Policy { lines } = targets.policy()?;
    let mut all: Vec<String> = targets.delegations.iter().flat_map(|d| &d.roles).map(|role| of(&role.name, &role.keys)).collect();
    for (line, policy) in lines {
        let trainer = if policy.trainer.is_some() { "its trainer may release" } else { "its trainer may not release" };
        all.push(format!("  line {line}: floor {}, {} revoked, {trainer}", policy.min_seq, policy.revoked.len()));
    }
    Ok(all)
}

/// The Ed25519 keys of a role, as they are listed.
pub(super) fn keys_of(listed: &RoleKeys, known: &std::collections::BTreeMap<KeyId, Key>) -> Vec<PublicKey> {
    listed.keyids.iter().filter_map(|id| known.get(id)?.public()).collect()
}
