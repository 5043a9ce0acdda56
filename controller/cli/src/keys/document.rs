//! Any of the four documents, read without knowing which it is, and how its signatures stand.
use std::path::Path;

use leeway_protocol::ids::Line;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{KeyId, SigningKey};
use leeway_protocol::trust::metadata::{
    Document, Header, KeySet, Role, RoleKeys, Root, SnapshotMeta, TOP_LEVEL, Targets, TimestampMeta, add_signature,
};
use leeway_protocol::trust::repository::{release_role, trainer_role};
use leeway_protocol::trust::tuf::MAX_TARGETS_BYTES;

use super::{pair, read};
use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// A document of one of the four kinds.
#[derive(Debug)]
pub(super) enum Any {
    Root(Box<Document<Root>>),
    Targets(Box<Document<Targets>>),
    Snapshot(Box<Document<SnapshotMeta>>),
    Timestamp(Box<Document<TimestampMeta>>),
}

/// How the signatures of a document stand against one set of keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whose keys.
    pub(super) whose: String,
    /// Key ids with a good signature.
    pub(super) signed: Vec<String>,
    /// Key ids that may still sign.
    pub(super) open: Vec<String>,
    /// How many must.
    pub(super) need: usize,
}

impl Standing {
    pub(super) fn missing(&self) -> usize {
        self.need.saturating_sub(self.signed.len())
    }

    pub(super) fn sentence(&self) -> String {
        let by = if self.signed.is_empty() { "nobody".to_owned() } else { self.signed.join(", ") };
        let state = match self.missing() {
            0 => "enough".to_owned(),
            1 => format!("1 signature is missing, of {}", self.open.join(", ")),
            n => format!("{n} signatures are missing, of {}", self.open.join(", ")),
        };
        format!("{}: {} of {} ({by}); {state}", self.whose, self.signed.len(), self.need)
    }
}

/// Whether a root is the director's: there one key does everything online.
pub fn is_director(root: &Root) -> bool {
    let ids = |role: &str| root.roles.get(role).map(|keys| keys.keyids.clone());
    ids("targets") == ids("timestamp") && ids("targets") == ids("snapshot")
}

impl Any {
    pub(super) fn open(path: &Path) -> Outcome<Self> {
        Self::parse(&read(path)?).map_err(|f| Failure::new(format!("{}: {f}", path.display())))
    }

    pub(super) fn parse(bytes: &[u8]) -> Outcome<Self> {
        let max = usize::try_from(MAX_TARGETS_BYTES).unwrap_or(usize::MAX);
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| Failure::new(format!("no signed document: {e}")))?;
        let kind = value.get("signed").and_then(|signed| signed.get("_type")).and_then(|kind| kind.as_str());
        Ok(match kind {
            Some(Root::TYPE) => Self::Root(Box::new(Document::parse(bytes, max)?)),
            Some(Targets::TYPE) => Self::Targets(Box::new(Document::parse(bytes, max)?)),
            Some(SnapshotMeta::TYPE) => Self::Snapshot(Box::new(Document::parse(bytes, max)?)),
            Some(TimestampMeta::TYPE) => Self::Timestamp(Box::new(Document::parse(bytes, max)?)),
            _ => return Err(Failure::new("no signed document: it does not say that it is root, targets, snapshot or timestamp")),
        })
    }

    pub(super) fn header(&self) -> &Header {
        match self {
            Self::Root(d) => &d.claims().header,
            Self::Targets(d) => &d.claims().header,
            Self::Snapshot(d) => &d.claims().header,
            Self::Timestamp(d) => &d.claims().header,
        }
    }

    /// What it is, in words.
    pub(super) fn what(&self) -> String {
        let kind = match self {
            Self::Root(d) if is_director(d.claims()) => "root of the director".to_owned(),
            Self::Root(_) => "root of the image repository".to_owned(),
            Self::Targets(d) if is_director_document(d.claims()) => "a device's assignment".to_owned(),
            Self::Targets(d) if is_top(d.claims()) => "targets: lines and their policies".to_owned(),
            Self::Targets(d) => match release_of(d.claims()) {
                Some(line) => format!("releases of line {line}"),
                None => "releases of a line (none yet)".to_owned(),
            },
            Self::Snapshot(_) => "snapshot".to_owned(),
            Self::Timestamp(_) => "timestamp".to_owned(),
        };
        format!("{kind}, version {}", self.header().version)
    }

    pub(super) fn claimed(&self) -> Vec<String> {
        fn ids<T: Role>(document: &Document<T>) -> Vec<String> {
            document.claimed_signers().map(short).collect()
        }
        match self {
            Self::Root(d) => ids(d),
            Self::Targets(d) => ids(d),
            Self::Snapshot(d) => ids(d),
            Self::Timestamp(d) => ids(d),
        }
    }

    /// How its signatures stand. A root speaks for itself, and `by` may be the one before it; everything else needs `by`: the
    /// root, or for a line's releases the targets.
    pub(super) fn standings(&self, by: Option<&Self>, role: Option<&str>) -> Outcome<Vec<Standing>> {
        let wrong = |needs: &str| Failure::new(format!("--by must name {needs} for this document")).code(2);
        match (self, by) {
            (Self::Root(new), by) => {
                let own = if new.version() == 1 { "its own root keys" } else { "the new root keys" };
                let mut all = Vec::new();
                match by {
                    Some(Self::Root(old)) => {
                        if old.version().checked_add(1) != Some(new.version()) {
                            let (old, new) = (old.version(), new.version());
                            return Err(Failure::new(format!(
                                "root version {new} does not follow version {old}: give --by the one before it"
                            )));
                        }
                        if is_director(old.claims()) != is_director(new.claims()) {
                            return Err(Failure::new("one of these roots is the image repository's and the other is the director's"));
                        }
                        all.push(standing("the previous root keys", new, &old.claims().keys_of("root"), old.claims().roles.get("root")));
                    }
                    Some(_) => return Err(wrong("the previous root")),
                    None => {}
                }
                all.push(standing(own, new, &new.claims().keys_of("root"), new.claims().roles.get("root")));
                Ok(all)
            }
            (_, None) => Ok(Vec::new()),
            (Self::Targets(d), Some(Self::Root(root))) => Ok(vec![of_root("targets", d, root.claims())]),
            (Self::Snapshot(d), Some(Self::Root(root))) => Ok(vec![of_root("snapshot", d, root.claims())]),
            (Self::Timestamp(d), Some(Self::Root(root))) => Ok(vec![of_root("timestamp", d, root.claims())]),
            (Self::Targets(d), Some(Self::Targets(top))) => {
                let role = match role.map(str::to_owned).or_else(|| role_of(d.claims())) {
                    Some(role) => role,
                    None => return Err(Failure::new("it lists no release, so say whose it is: --role rain, or --role rain-auto").code(2)),
                };
                let (delegated, keys) = top
                    .claims()
                    .delegation(&role)
                    .ok_or_else(|| Failure::new(format!("the targets delegate nothing to {role:?}")).code(5))?;
                Ok(vec![standing(&format!("the keys of {role}"), d, &keys, Some(&delegated.keys))])
            }
            (_, Some(_)) => Err(wrong("the root (or, for a line's releases, the targets)")),
        }
    }

    /// The same bytes with one more signature.
    pub(super) fn with_signature(&self, key: &SigningKey) -> Outcome<Vec<u8>> {
        let max = usize::try_from(MAX_TARGETS_BYTES).unwrap_or(usize::MAX);
        let signed = match self {
            Self::Root(d) => add_signature::<Root>(d.bytes(), max, key),
            Self::Targets(d) => add_signature::<Targets>(d.bytes(), max, key),
            Self::Snapshot(d) => add_signature::<SnapshotMeta>(d.bytes(), max, key),
            Self::Timestamp(d) => add_signature::<TimestampMeta>(d.bytes(), max, key),
        };
        signed.during("adding the signature")
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.header().expires.is_over(now)
    }
}

/// Whether targets are the top-level ones: those delegate, a line's releases do not.
pub(super) fn is_top(targets: &Targets) -> bool {
    targets.delegations.is_some() || targets.custom.as_ref().is_some_and(|custom| custom.get("lines").is_some())
}

fn is_director_document(targets: &Targets) -> bool {
    targets.custom.as_ref().is_some_and(|custom| custom.get("device").is_some())
}

fn release_of(targets: &Targets) -> Option<String> {
    targets.targets.keys().next()?.split('/').nth(1).map(str::to_owned)
}

/// The role that releases what is listed, by the paths.
fn role_of(targets: &Targets) -> Option<String> {
    let path = targets.targets.keys().next()?;
    let line: Line = path.split('/').nth(1)?.parse().ok()?;
    Some(if path.split('/').nth(2) == Some("auto") { trainer_role(&line) } else { release_role(&line) })
}

fn of_root<T: Role>(role: &str, document: &Document<T>, root: &Root) -> Standing {
    debug_assert!(TOP_LEVEL.contains(&role), "one of the four");
    standing(&format!("the {role} keys of root {}", root.header.version), document, &root.keys_of(role), root.roles.get(role))
}

fn standing<T: Role>(whose: &str, document: &Document<T>, keys: &KeySet<'_>, listed: Option<&RoleKeys>) -> Standing {
    let signers = document.signers(keys);
    let ids = listed.map_or(&[][..], |keys| &keys.keyids);
    let open = ids.iter().filter(|id| !signers.contains(id)).map(short).collect();
    let need = usize::try_from(keys.threshold()).unwrap_or(usize::MAX);
    Standing { whose: whose.to_owned(), signed: signers.into_iter().map(short).collect(), open, need }
}

/// A key id as people compare it.
pub(super) fn short(id: &KeyId) -> String {
    id.0.chars().take(12).collect()
}

/// What was just written, and what is still to do with it.
pub(super) fn report(path: &Path, bytes: &[u8], by: Option<&Any>, role: Option<&str>) -> Outcome {
    let written = Any::parse(bytes)?;
    putln!("wrote {}: {}, good until {}", path.display(), written.what(), written.header().expires.moment());
    let standings = written.standings(by, role)?;
    for standing in &standings {
        putln!("{}", standing.sentence());
    }
    let proven = !standings.is_empty() && (written.header().version == 1 || by.is_some());
    let f = path.display();
    match (&written, standings.iter().any(|s| s.missing() > 0)) {
        (_, true) => putln!("next: `leeway keys sign {f} --key KEY --out FILE`, by everyone who is missing"),
        (_, false) if !proven => {
            putln!("whether that is enough, `leeway keys show {f} --by FILE` says, FILE being the document that names its keys")
        }
        (Any::Root(_), false) => putln!("next: `leeway model publish-root {f}`"),
        (Any::Targets(d), false) if is_top(d.claims()) => putln!("next: `leeway model publish-targets {f}`"),
        (Any::Targets(_), false) => putln!("next: `leeway model publish-role ROLE {f}`"),
        _ => {}
    }
    Ok(())
}

/// The key's public half is in no set of keys that counts.
pub(super) fn expect_listed(any: &Any, standings: &[Standing], key: &SigningKey, name: &Path) -> Outcome {
    let id = pair::short(&key.public());
    if standings.iter().any(|s| s.signed.contains(&id)) {
        return Err(Failure::new(format!("{} has signed this already", name.display())).code(6));
    }
    if !standings.is_empty() && !standings.iter().any(|s| s.open.contains(&id)) {
        let whose: Vec<&str> = standings.iter().map(|s| s.whose.as_str()).collect();
        let failure = Failure::new(format!(
            "{} (key id {id}) is not among {}: its signature would count for nothing",
            name.display(),
            whose.join(" or ")
        ));
        return Err(match any {
            Any::Root(d) if d.version() > 1 => failure.help("if it is a key of the previous root, give that with --by"),
            _ => failure,
        });
    }
    Ok(())
}
