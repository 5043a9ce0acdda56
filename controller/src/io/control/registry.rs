//! What people and other tools write about lines and versions: aliases, tags, descriptions, candidates. One transaction and one
//! row of the event log each; what changes nothing leaves no row.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::ids::{Line, Version};
use leeway_protocol::time::Timestamp;
use serde_json::json;

use super::decisions::{Change, draft, reason};
use super::{ControlError, Controller, Touched};
use crate::access::{Principal, Scope};
use crate::registry::book::{BookError, MAX_DESCRIPTION};
use crate::registry::{AliasName, Book, ModelLine, NewCandidate, TagChanges, hand};
use crate::snapshot::Snapshot;

/// Lines of one controller: every answer about lines walks over them.
const MAX_LINES: usize = 1_000;

/// A line that another tool creates.
#[derive(Debug, Clone)]
pub struct NewLine {
    /// Its name.
    pub line: Line,
    /// What it is for.
    pub task: String,
    /// Its tags.
    pub tags: TagChanges,
}

impl From<BookError> for ControlError {
    fn from(error: BookError) -> Self {
        match error {
            BookError::Taken(_) | BookError::Candidates | BookError::Full => Self::Conflict(error.to_string()),
            BookError::Tag(_) | BookError::Long { .. } => Self::Invalid(error.to_string()),
        }
    }
}

impl Controller {
    /// Point an alias to a version or to none. Whether that changed anything. Those that decide what devices run are moved by
    /// rollouts, and by hand only where that tells no device anything, by somebody who may operate the fleet.
    pub async fn point_alias(
        &self,
        line: &Line,
        alias: AliasName,
        to: Option<Version>,
        why: &str,
        who: &Principal,
    ) -> Result<bool, ControlError> {
        let why = reason(why)?;
        let change = |state: &mut Snapshot, at| {
            let found = line_of(state, line)?;
            if let Some(version) = &to {
                known(state, &found, version)?;
            }
            let mut next = found.as_ref().clone();
            let from;
            let changed = match alias.deciding() {
                Some(deciding) => {
                    from = found.aliases.current(deciding).cloned();
                    if from == to {
                        return Ok((false, Touched::default(), Vec::new()));
                    }
                    if !who.scope.covers(Scope::Operator) {
                        return Err(ControlError::Forbidden(format!(
                            "{alias} decides what devices run, so moving it needs the scope operator, and {} has {}: choose another alias",
                            who.name, who.scope
                        )));
                    }
                    hand::check(state, line, deciding, to.as_ref()).map_err(|e| ControlError::Conflict(e.to_string()))?;
                    next.aliases.move_by_hand(deciding, to.clone(), at, &who.name, &why)
                }
                None => {
                    from = found.book.names.get(&alias).cloned();
                    let book = &mut next.book;
                    let changed = book.names.point(alias.clone(), to.clone(), at, &who.name, &why);
                    book.changed_at = Some(at);
                    changed.map_err(|e| ControlError::Conflict(e.to_string()))?
                }
            };
            if !changed {
                return Ok((false, Touched::default(), Vec::new()));
            }
            let sentence = match &to {
                Some(version) => format!("{} pointed alias {alias} of {line} to version {version}: {why}", who.name),
                None => format!("{} took alias {alias} of {line} away: {why}", who.name),
            };
            let data = json!({ "alias": alias, "from": from, "to": to, "reason": why });
            let event = draft(at, &who.name, "alias.moved", format!("models/{line}"), sentence, data);
            Ok((true, put(state, next), vec![event]))
        };
        self.inner.decide_maybe(change).await
    }

    /// Change tags of a line, or of one of its versions. Those that changed something.
    pub async fn tag(&self, line: &Line, version: Option<&Version>, changes: &TagChanges, by: &str) -> Result<TagChanges, ControlError> {
        let change = |state: &mut Snapshot, at| {
            let found = line_of(state, line)?;
            if let Some(version) = version {
                known(state, &found, version)?;
            }
            let mut next = found.as_ref().clone();
            let changed = next.book.tag(version, changes, at)?;
            if changed.is_empty() {
                return Ok((changed, Touched::default(), Vec::new()));
            }
            let keys: Vec<&str> = changed.keys().map(String::as_str).collect();
            let sentence = format!("{by} changed tags of {}: {}.", spoken(line, version), keys.join(", "));
            let event = draft(at, by, "model.tagged", subject(line, version), sentence, json!({ "tags": changed }));
            Ok((changed, put(state, next), vec![event]))
        };
        self.inner.decide_maybe(change).await
    }

    /// Say what a line is for, or what one of its versions is.
    pub async fn write_description(&self, line: &Line, version: Option<&Version>, text: &str, by: &str) -> Result<(), ControlError> {
        check_description(text)?;
        let change = |state: &mut Snapshot, at| {
            let found = line_of(state, line)?;
            let mut next = found.as_ref().clone();
            match version {
                Some(version) => {
                    known(state, &found, version)?;
                    if next.book.note(version).is_some_and(|note| note.description == text) {
                        return Ok(((), Touched::default(), Vec::new()));
                    }
                    next.book.describe(version, text, at)?;
                }
                None if next.task == text => return Ok(((), Touched::default(), Vec::new())),
                None => {
                    text.clone_into(&mut next.task);
                    next.book.changed_at = Some(at);
                }
            }
            let sentence = format!("{by} described {} anew.", spoken(line, version));
            let event = draft(at, by, "model.described", subject(line, version), sentence, json!({ "description": text }));
            Ok(((), put(state, next), vec![event]))
        };
        self.inner.decide_maybe(change).await
    }

    /// Create a line that has no version yet. One that is there already is a conflict.
    pub async fn create_line(&self, new: NewLine, by: &str) -> Result<(), ControlError> {
        check_description(&new.task)?;
        let change = |state: &mut Snapshot, at| {
            let NewLine { line, task, tags } = new;
            if state.lines.contains_key(&line) {
                return Err(ControlError::Conflict(format!("line {line} is there already")));
            }
            if state.lines.len() >= MAX_LINES {
                return Err(ControlError::Invalid(format!("there are {MAX_LINES} lines already, which is the bound")));
            }
            let mut next = ModelLine::new(line.clone(), at);
            next.task = task;
            next.book.tag(None, &tags, at)?;
            let sentence = format!("{by} created line {line}; nothing is published in it yet.");
            let data = json!({ "task": next.task, "tags": next.book.tags });
            let event = draft(at, by, "line.changed", format!("models/{line}"), sentence, data);
            Ok(((), put(state, next), vec![event]))
        };
        self.inner.decide(change).await
    }

    /// Write down a version that nobody signed; its name. It shows in lists, and is never rolled out.
    pub async fn register_candidate(&self, line: &Line, new: NewCandidate, by: &str) -> Result<Version, ControlError> {
        let change = |state: &mut Snapshot, at: Timestamp| {
            let mut next = line_of(state, line)?.as_ref().clone();
            let source = new.note.source.clone();
            let version = next.book.register(new, &numbers(state, line), by, at)?;
            let sentence = format!("{by} registered candidate {version} of {line}; nobody signed it, so no device can be told to run it.");
            let data = json!({ "source": source, "run": next.book.note(&version).map(|note| note.run.clone()) });
            let event = draft(at, by, "candidate.added", subject(line, Some(&version)), sentence, data);
            Ok((version, put(state, next), vec![event]))
        };
        self.inner.decide(change).await
    }

    /// Delete a candidate, and the aliases that point to it. What was signed is never deleted.
    pub async fn delete_candidate(&self, line: &Line, version: &Version, by: &str) -> Result<(), ControlError> {
        let change = |state: &mut Snapshot, at: Timestamp| {
            let found = line_of(state, line)?;
            if state.version(line, version).is_some() {
                return Err(ControlError::Conflict(format!(
                    "version {version} of {line} was signed and published, so it is never deleted: \
                     `leeway model mark {line} {version} yanked --reason …` takes it back from every device"
                )));
            }
            let mut next = found.as_ref().clone();
            let Book { candidates, names, changed_at, .. } = &mut next.book;
            if candidates.remove(version).is_none() {
                return Err(no_version(line, version));
            }
            *changed_at = Some(at);
            let gone = names.forget(version, at, by, &format!("candidate {version} was deleted"));
            let sentence = format!("{by} deleted candidate {version} of {line}.");
            let event = draft(at, by, "candidate.deleted", subject(line, Some(version)), sentence, json!({ "aliases": gone }));
            Ok(((), put(state, next), vec![event]))
        };
        self.inner.decide(change).await
    }
}

impl super::Inner {
    /// The same as `decide`, but what has no row changes nothing, and is not written down.
    async fn decide_maybe<T>(&self, change: impl FnOnce(&mut Snapshot, Timestamp) -> Change<T>) -> Result<T, ControlError> {
        let _turn = self.turn.lock().await;
        let at = super::super::clock::now();
        let mut state = self.ledger().snapshot.clone();
        let (value, touched, events) = change(&mut state, at)?;
        if !events.is_empty() {
            state.revision += 1;
            self.settle(state, &touched, Vec::new(), events, at).await?;
        }
        Ok(value)
    }
}

fn check_description(text: &str) -> Result<(), ControlError> {
    if text.len() > MAX_DESCRIPTION {
        return Err(ControlError::Invalid(format!("the description has {} bytes, the bound is {MAX_DESCRIPTION}", text.len())));
    }
    Ok(())
}

fn line_of(state: &Snapshot, line: &Line) -> Result<Arc<ModelLine>, ControlError> {
    state
        .lines
        .get(line)
        .cloned()
        .ok_or_else(|| ControlError::NotFound(format!("there is no model line {line}: `leeway model list` shows those that exist")))
}

fn no_version(line: &Line, version: &Version) -> ControlError {
    ControlError::NotFound(format!("line {line} has no version {version}: `leeway model list` shows those that exist"))
}

fn known(state: &Snapshot, line: &ModelLine, version: &Version) -> Result<(), ControlError> {
    let is_known = state.version(&line.line, version).is_some() || line.book.candidates.contains_key(version);
    if is_known { Ok(()) } else { Err(no_version(&line.line, version)) }
}

fn numbers(state: &Snapshot, line: &Line) -> BTreeMap<Version, u64> {
    state.versions.values().filter(|v| v.line == *line).map(|v| (v.version.clone(), v.seq)).collect()
}

fn put(state: &mut Snapshot, line: ModelLine) -> Touched {
    let name = line.line.clone();
    Arc::make_mut(&mut state.lines).insert(name.clone(), Arc::new(line));
    Touched { lines: [name].into(), ..Touched::default() }
}

fn subject(line: &Line, version: Option<&Version>) -> String {
    version.map_or_else(|| format!("models/{line}"), |version| format!("models/{line}/versions/{version}"))
}

fn spoken(line: &Line, version: Option<&Version>) -> String {
    version.map_or_else(|| format!("line {line}"), |version| format!("version {version} of {line}"))
}
