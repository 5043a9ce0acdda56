//! What the targets keys decide: lines, who releases for them, floors, revocations, trainers' grants.
use std::path::PathBuf;

use clap::Args;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{Document, LinePolicy, MAX_REVOKED, Targets};
use leeway_protocol::trust::repository::{Lifetimes, TargetsBuilder, release_role, trainer_role};
use leeway_protocol::trust::tuf::MAX_TARGETS_BYTES;

use super::document::{Any, is_top, report};
use super::pair::read_public;
use super::root::Change;
use super::show::keys_of;
use super::{expect_absent, read, read_key, write_new};
use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// What every command that signs targets needs.
#[derive(Debug, Args)]
pub struct Signing {
    /// The current targets document.
    #[arg(long)]
    pub targets: PathBuf,
    /// A targets key; as many as are at hand, the others sign with `leeway keys sign`.
    #[arg(long = "key")]
    pub keys: Vec<PathBuf>,
    /// Where to write the new document.
    #[arg(long)]
    pub out: PathBuf,
    /// The root that names the targets keys, to be told who still has to sign.
    #[arg(long)]
    pub root: Option<PathBuf>,
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

/// `leeway keys raise-floor`.
#[derive(Debug, Args)]
pub struct RaiseFloor {
    /// The line.
    #[arg(long)]
    pub line: Line,
    /// Releases with a lower number are refused. A floor never falls again.
    #[arg(long)]
    pub min_seq: u64,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// `leeway keys add-line`.
#[derive(Debug, Args)]
pub struct AddLine {
    /// Its name.
    #[arg(long)]
    pub line: Line,
    /// A release key's `.pub` file; may be given several times.
    #[arg(long = "release", required = true)]
    pub release: Vec<PathBuf>,
    /// How many release keys must sign.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub threshold: u32,
    /// The trainer's `.pub` file; what it may release is granted later.
    #[arg(long)]
    pub trainer: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

/// `leeway keys rotate-line`.
#[derive(Debug, Args)]
pub struct RotateLine {
    /// The line.
    #[arg(long)]
    pub line: Line,
    /// The trainer's keys instead of the release keys.
    #[arg(long)]
    pub trainer: bool,
    #[command(flatten)]
    pub(crate) change: Change,
    #[command(flatten)]
    pub(crate) signing: Signing,
}

pub(super) fn grant(args: &Grant, now: Timestamp) -> Outcome {
    edit(&args.signing, now, |targets, builder| {
        known(targets, &args.line)?;
        if targets.delegation(&trainer_role(&args.line)).is_none() {
            return Err(Failure::new(format!("line {} has no trainer", args.line))
                .help("list a key for it with `leeway keys rotate-line --trainer --add FILE`"));
        }
        Ok(builder.grant_trainer(&args.line, args.io))
    })
}

pub(super) fn revoke(args: &Revoke, now: Timestamp) -> Outcome {
    edit(&args.signing, now, |targets, builder| {
        known(targets, &args.line)?;
        Ok(builder.revoke_trainer(&args.line))
    })
}

pub(super) fn revoke_model(args: &RevokeModel, now: Timestamp) -> Outcome {
    edit(&args.signing, now, |targets, builder| {
        let policy = known(targets, &args.line)?;
        if policy.is_revoked(&args.model) {
            return Err(Failure::new(format!("{} is revoked already", args.model.short())).code(6));
        }
        if policy.revoked.len() >= MAX_REVOKED {
            return Err(Failure::new(format!("line {} revokes {MAX_REVOKED} releases, the most there may be", args.line))
                .help("raise the floor above them instead: `leeway keys raise-floor`"));
        }
        Ok(builder.policy(&args.line, |policy| {
            policy.revoked.insert(args.model);
        }))
    })
}

pub(super) fn raise_floor(args: &RaiseFloor, now: Timestamp) -> Outcome {
    edit(&args.signing, now, |targets, builder| {
        let floor = known(targets, &args.line)?.min_seq;
        if args.min_seq <= floor {
            return Err(Failure::new(format!("the floor of line {} is {floor} already: it only rises", args.line)).code(6));
        }
        Ok(builder.policy(&args.line, |policy| policy.min_seq = args.min_seq))
    })
}

pub(super) fn add_line(args: &AddLine, now: Timestamp) -> Outcome {
    edit(&args.signing, now, |targets, builder| {
        if targets.delegation(&release_role(&args.line)).is_some() || targets.delegation(&trainer_role(&args.line)).is_some() {
            return Err(
                Failure::new(format!("there is a line {} already: its keys change with `leeway keys rotate-line`", args.line)).code(6)
            );
        }
        let change = Change { dropped: Vec::new(), added: args.release.clone(), threshold: Some(args.threshold) };
        let (keys, threshold) = change.apply(&[], args.threshold)?;
        let builder = builder.line(&args.line, &keys, threshold);
        let Some(trainer) = &args.trainer else { return Ok(builder) };
        let (_, trainer) = read_public(trainer)?;
        if keys.contains(&trainer) {
            return Err(Failure::new("the trainer's key is a release key: then a trainer could release without a person"));
        }
        Ok(builder.trainer(&args.line, &[trainer], None))
    })
}

pub(super) fn rotate_line(args: &RotateLine, now: Timestamp) -> Outcome {
    let role = if args.trainer { trainer_role(&args.line) } else { release_role(&args.line) };
    let other = if args.trainer { release_role(&args.line) } else { trainer_role(&args.line) };
    edit(&args.signing, now, |targets, builder| {
        let policy = known(targets, &args.line)?;
        let keys = |role: &str| {
            let (delegated, _) = targets.delegation(role)?;
            let known = targets.delegations.as_ref().map(|delegations| &delegations.keys)?;
            Some((keys_of(&delegated.keys, known), delegated.keys.threshold))
        };
        let (now, threshold) = keys(&role).unwrap_or((Vec::new(), 1));
        let (new, threshold) = args.change.apply(&now, threshold)?;
        if keys(&other).is_some_and(|(others, _)| new.iter().any(|key| others.contains(key))) {
            return Err(Failure::new(format!("one of these keys signs for {other} already: one theft would give both")));
        }
        if !args.trainer {
            return Ok(builder.line(&args.line, &new, threshold));
        }
        if threshold != 1 {
            return Err(Failure::new("a trainer signs alone: its threshold is 1").code(2));
        }
        Ok(builder.trainer(&args.line, &new, policy.trainer.map(|grant| grant.io)))
    })?;
    putln!("once it is published: releases of {role} that the old keys signed count for nothing until the new ones sign them again:");
    putln!("  `leeway keys renew VERSION.{role}.json --key KEY --out FILE`, then `leeway model publish-role {role} FILE`");
    Ok(())
}

/// The policy of a line that exists.
fn known(targets: &Targets, line: &Line) -> Outcome<LinePolicy> {
    let policy = targets.policy()?;
    policy.lines.get(line).cloned().ok_or_else(|| {
        let names: Vec<&str> = policy.lines.keys().map(Line::as_str).collect();
        Failure::new(format!("there is no line {line}: the lines are {}", names.join(", "))).code(5)
    })
}

/// The next version of a targets document, edited and signed.
pub fn next_targets(
    current: &[u8],
    keys: &[&SigningKey],
    now: Timestamp,
    change: impl FnOnce(TargetsBuilder) -> TargetsBuilder,
) -> Outcome<Vec<u8>> {
    change(after(&parse(current)?, now)?).sign(keys).during("signing the targets document")
}

fn parse(bytes: &[u8]) -> Outcome<Targets> {
    let max = usize::try_from(MAX_TARGETS_BYTES).unwrap_or(usize::MAX);
    let document = Document::<Targets>::parse(bytes, max).during("reading the targets document")?;
    Ok(document.claims().clone())
}

fn after(current: &Targets, now: Timestamp) -> Outcome<TargetsBuilder> {
    TargetsBuilder::after(current, now.plus_secs(Lifetimes::default().targets_secs)).during("reading the line policy")
}

fn edit(signing: &Signing, now: Timestamp, change: impl FnOnce(&Targets, TargetsBuilder) -> Outcome<TargetsBuilder>) -> Outcome {
    expect_absent(&signing.out)?;
    let current = parse(&read(&signing.targets)?)?;
    if !is_top(&current) {
        let path = signing.targets.display();
        return Err(Failure::new(format!("{path} lists releases of a line; the targets document is the one that names the lines")).code(2));
    }
    let by = signing.root.as_deref().map(Any::open).transpose()?;
    let keys = signing.keys.iter().map(|path| read_key(path)).collect::<Outcome<Vec<_>>>()?;
    let next = change(&current, after(&current, now)?)?;
    let bytes = next.sign(&keys.iter().collect::<Vec<_>>()).during("signing the targets document")?;
    write_new(&signing.out, &bytes, 0o644)?;
    report(&signing.out, &bytes, by.as_ref(), None)
}
