//! Lines and versions in MLflow's shapes.
//!
//! Fields that MLflow has and we have not stay empty rather than invented: there is no stage, and no user but the role that signed.
//! A signed version says all that was signed about it in tags; a candidate says that nobody signed it. `status` is `READY` for both,
//! because in MLflow it says only that registering is done (anything else makes its client wait or fail), and `status_message` and
//! the tag `leeway.status` say what may be done with it.
use std::collections::BTreeMap;

use leeway_protocol::ids::{Line, Version};
use leeway_protocol::time::Timestamp;
use serde::Serialize;
use serde_json::json;

use super::source;
use crate::registry::book::{self, Candidate, Note};
use crate::registry::tags::Tags;
use crate::registry::version::{self, Role};
use crate::registry::{Alias, ModelLine};
use crate::snapshot::Snapshot;

/// The one stage that every version is in.
pub const NO_STAGE: &str = "None";
/// Datasets of a version that are named in its tags.
const MAX_DATASETS: usize = 32;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tag {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// An alias and where it points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pointer {
    /// Its name.
    pub alias: String,
    /// The version.
    pub version: String,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// When it was created, milliseconds.
    pub creation_timestamp: i64,
    /// When it changed last, milliseconds.
    pub last_updated_timestamp: i64,
    /// What it is for.
    pub description: String,
    /// The newest version.
    pub latest_versions: Vec<ModelVersion>,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Its aliases, by name.
    pub aliases: Vec<Pointer>,
}

/// A version or a candidate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVersion {
    /// The line.
    pub name: String,
    /// Its number: MLflow's clients take no other names of versions.
    pub version: String,
    /// When it was registered, milliseconds.
    pub creation_timestamp: i64,
    /// When it changed last, milliseconds.
    pub last_updated_timestamp: i64,
    /// The role that signed it, or who registered it.
    pub user_id: String,
    /// Always [`NO_STAGE`].
    pub current_stage: &'static str,
    /// What it is.
    pub description: String,
    /// Where it lies.
    pub source: String,
    /// The run that made it.
    pub run_id: String,
    /// `READY`.
    pub status: &'static str,
    /// What may be done with it, in a sentence.
    pub status_message: String,
    /// Its tags, ours too.
    pub tags: Vec<Tag>,
    /// Address of the run.
    pub run_link: String,
    /// Aliases that point to it.
    pub aliases: Vec<String>,
    /// The same as a number.
    #[serde(skip)]
    pub number: u64,
    /// Its name here.
    #[serde(skip)]
    pub called: String,
}

/// The line `name` as a registered model.
pub fn model(state: &Snapshot, line: &ModelLine) -> RegisteredModel {
    registered(line, versions(state, line))
}

/// Every line, by name.
pub fn models(state: &Snapshot) -> Vec<RegisteredModel> {
    state.lines.values().map(|line| model(state, line)).collect()
}

fn registered(line: &ModelLine, mut versions: Vec<ModelVersion>) -> RegisteredModel {
    let created = line.created_at.as_millis();
    let changed = versions.iter().map(|v| v.last_updated_timestamp).chain(line.book.changed_at.map(Timestamp::as_millis));
    let last_updated_timestamp = changed.fold(created, i64::max);
    let number = |called: &Version| versions.iter().find(|v| v.called == called.as_str()).map(|v| v.version.clone());
    let aliases = pointers(line).into_iter().filter_map(|(alias, to)| Some(Pointer { alias, version: number(&to)? })).collect();
    versions.truncate(1);
    RegisteredModel {
        name: line.line.to_string(),
        creation_timestamp: created,
        last_updated_timestamp,
        description: line.task.clone(),
        latest_versions: versions,
        tags: tags(&line.book.tags).collect(),
        aliases,
    }
}

/// Versions and candidates of a line, the newest first.
pub fn versions(state: &Snapshot, line: &ModelLine) -> Vec<ModelVersion> {
    let of = |v: &&std::sync::Arc<version::ModelVersion>| v.line == line.line;
    let signed = state.versions.values().filter(of).map(|v| signed(line, v));
    let candidates = line.book.candidates.iter().map(|(version, candidate)| unsigned(line, version, candidate));
    let mut all: Vec<ModelVersion> = signed.chain(candidates).collect();
    all.sort_by(|a, b| b.number.cmp(&a.number).then_with(|| b.creation_timestamp.cmp(&a.creation_timestamp)));
    all
}

/// One version or candidate.
pub fn version(state: &Snapshot, line: &Line, version: &Version) -> Option<ModelVersion> {
    let found = state.lines.get(line)?;
    match state.version(line, version) {
        Some(release) => Some(signed(found, release)),
        None => Some(unsigned(found, version, found.book.candidates.get(version)?)),
    }
}

/// The version or candidate that a client means: by its number, or by a name that is no number.
pub fn meant(state: &Snapshot, line: &Line, text: &str) -> Option<Version> {
    let found = state.lines.get(line)?;
    let Ok(number) = text.parse::<u64>() else {
        let version = text.parse().ok()?;
        let is_known = state.version(line, &version).is_some() || found.book.candidates.contains_key(&version);
        return is_known.then_some(version);
    };
    let signed = state.versions.values().filter(|v| v.line == *line).map(|v| (&v.version, found.book.number(&v.version, v.seq)));
    let candidates = found.book.candidates.iter().map(|(version, candidate)| (version, candidate.number));
    signed.chain(candidates).find(|(_, its)| *its == number).map(|(version, _)| version.clone())
}

/// Every alias of a line with its version, those that decide and those that people gave.
pub fn pointers(line: &ModelLine) -> BTreeMap<String, Version> {
    let deciding = [Alias::Champion, Alias::Challenger].into_iter();
    let deciding = deciding.filter_map(|alias| Some((alias.as_str().to_owned(), line.aliases.current(alias)?.clone())));
    deciding.chain(line.book.names.iter().map(|(name, version)| (name.to_string(), version.clone()))).collect()
}

fn aliases_of(line: &ModelLine, version: &Version) -> Vec<String> {
    pointers(line).into_iter().filter(|(_, to)| to == version).map(|(alias, _)| alias).collect()
}

fn tags(tags: &Tags) -> impl Iterator<Item = Tag> {
    tags.iter().map(|(key, value)| tag(key, value))
}

fn tag(key: &str, value: impl Into<String>) -> Tag {
    Tag { key: key.to_owned(), value: value.into() }
}

fn unsigned(line: &ModelLine, version: &Version, candidate: &Candidate) -> ModelVersion {
    let note = &candidate.note;
    let own = [tag("leeway.status", "candidate"), tag("leeway.version", version.to_string())];
    ModelVersion {
        name: line.line.to_string(),
        version: candidate.number.to_string(),
        creation_timestamp: candidate.at.as_millis(),
        last_updated_timestamp: note.changed_at.unwrap_or(candidate.at).as_millis(),
        user_id: candidate.by.clone(),
        current_stage: NO_STAGE,
        description: note.description.clone(),
        source: note.source.clone(),
        run_id: note.run.clone(),
        status: "READY",
        status_message: book::unsigned(&line.line, version, &note.source),
        tags: own.into_iter().chain(tags(&note.tags)).collect(),
        run_link: note.run_link.clone(),
        aliases: aliases_of(line, version),
        number: candidate.number,
        called: version.to_string(),
    }
}

fn signed(line: &ModelLine, v: &version::ModelVersion) -> ModelVersion {
    let empty = Note::default();
    let note = line.book.notes.get(&v.version).unwrap_or(&empty);
    let status = v.status.as_str();
    let message = match v.status.reason() {
        Some(reason) => format!("{status}: {reason}"),
        None => format!(
            "{status}: signed by role {}; `leeway rollout create --line {} --version {}` brings it out",
            v.signer, v.line, v.version
        ),
    };
    let number = line.book.number(&v.version, v.seq);
    let changed = note.changed_at.map_or(v.published_at, |at| at.max(v.published_at));
    ModelVersion {
        name: v.line.to_string(),
        version: number.to_string(),
        creation_timestamp: v.published_at.as_millis(),
        last_updated_timestamp: changed.as_millis(),
        user_id: v.signer.clone(),
        current_stage: NO_STAGE,
        description: if note.description.is_empty() { v.lineage.reason.clone() } else { note.description.clone() },
        source: source::address(&v.line, &v.version),
        run_id: v.lineage.training_run.clone().unwrap_or_else(|| note.run.clone()),
        status: "READY",
        status_message: message,
        tags: own_tags(v, note).into_iter().chain(tags(&note.tags)).collect(),
        run_link: note.run_link.clone(),
        aliases: aliases_of(line, &v.version),
        number,
        called: v.version.to_string(),
    }
}

/// What was signed, and what was learnt since. By key.
fn own_tags(v: &version::ModelVersion, note: &Note) -> Vec<Tag> {
    let lineage = &v.lineage;
    let mut own = vec![
        tag("leeway.status", v.status.as_str()),
        tag("leeway.version", v.version.to_string()),
        tag("leeway.number", v.seq.to_string()),
        tag("leeway.manifest", v.manifest.digest.to_string()),
        tag("leeway.model", v.model.digest.to_string()),
        tag("leeway.bytes", v.model.length.to_string()),
        tag("leeway.io", v.io.to_string()),
        tag("leeway.signed_by", v.signer.clone()),
        tag("leeway.origin", if v.role == Role::Auto { "auto" } else { "release" }),
    ];
    let mut put = |key: &str, value: Option<String>| own.extend(value.filter(|v| !v.is_empty()).map(|value| tag(key, value)));
    put("leeway.parent", lineage.parent.map(|digest| digest.to_string()));
    put("leeway.code", Some(lineage.code.clone()));
    put("leeway.code_revision", Some(lineage.code_revision.clone()));
    put("leeway.provenance", v.provenance.map(|blob| blob.digest.to_string()));
    put("leeway.signature", v.bundle.map(|blob| blob.digest.to_string()));
    put("leeway.source", Some(note.source.clone()));
    let datasets: Vec<_> = lineage.datasets.iter().take(MAX_DATASETS).collect();
    put("leeway.datasets", (!datasets.is_empty()).then(|| json!(datasets).to_string()));
    put("leeway.metrics", (!lineage.metrics.is_empty()).then(|| json!(lineage.metrics).to_string()));
    own.sort_by(|a, b| a.key.cmp(&b.key));
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::{World, line, name};
    use crate::registry::book::NewCandidate;
    use crate::registry::version::VersionStatus;

    fn world() -> World {
        let mut world = World::with(&["coast"], 1);
        world.edit_line(|line| {
            let new = NewCandidate { version: None, note: Note { source: "runs:/1/m".into(), ..Note::default() } };
            let taken = (1..=3).map(|n: u64| (name(&n.to_string()), n)).collect();
            line.book.register(new, &taken, "ann", Timestamp::from_secs(2_000_000)).unwrap();
            line.book.names.point(name("staging"), Some(name("4")), Timestamp::from_secs(2_000_001), "ann", "to try").unwrap();
        });
        world
    }

    #[test]
    fn a_line_and_its_versions_in_mlflows_shapes() {
        let world = world();
        let found = models(&world.state);
        let model = serde_json::to_value(&found[0]).unwrap();
        assert_eq!(model["name"], "rain");
        assert_eq!(model["aliases"], json!([{ "alias": "champion", "version": "1" }, { "alias": "staging", "version": "4" }]));
        assert_eq!(model["latest_versions"][0]["version"], "4");
        let candidate = &model["latest_versions"][0];
        assert_eq!((&candidate["status"], &candidate["source"]), (&json!("READY"), &json!("runs:/1/m")));
        assert!(candidate["status_message"].as_str().unwrap().contains("leeway model publish"));
        assert!(candidate["tags"].as_array().unwrap().contains(&json!({ "key": "leeway.status", "value": "candidate" })));
        let all = versions(&world.state, &world.state.lines[&line()]);
        assert_eq!(all.iter().map(|v| v.version.as_str()).collect::<Vec<_>>(), ["4", "3", "2", "1"]);
        let first = version(&world.state, &line(), &name("1")).unwrap();
        assert_eq!((first.aliases, first.source.as_str()), (vec!["champion".to_owned()], "leeway://rain/1"));
        assert!(first.tags.iter().any(|t| t.key == "leeway.manifest" && t.value.starts_with("sha256:")));
        assert!(version(&world.state, &line(), &name("9")).is_none());
    }

    #[test]
    fn numbers_and_names_are_told_apart() {
        let mut world = world();
        world.edit_line(|line| {
            let named = NewCandidate { version: Some(name("2.0.0")), note: Note::default() };
            let taken = (1..=3).map(|n: u64| (name(&n.to_string()), n)).collect();
            line.book.register(named, &taken, "ann", Timestamp::from_secs(2_000_002)).unwrap();
        });
        let meant = |text: &str| meant(&world.state, &line(), text).map(|v| v.to_string());
        for (text, expected) in
            [("1", Some("1")), ("4", Some("4")), ("5", Some("2.0.0")), ("2.0.0", Some("2.0.0")), ("6", None), ("x", None), ("-1", None)]
        {
            assert_eq!(meant(text).as_deref(), expected, "{text}");
        }
        let all = versions(&world.state, &world.state.lines[&line()]);
        assert_eq!((all[0].version.as_str(), all[0].called.as_str()), ("5", "2.0.0"));
    }

    #[test]
    fn a_version_that_failed_says_so() {
        let mut world = world();
        let found = std::sync::Arc::make_mut(&mut world.state.versions).get_mut(&(line(), name("2"))).unwrap();
        std::sync::Arc::make_mut(found).status = VersionStatus::Poisoned { reason: "more errors on coast".into() };
        let v = version(&world.state, &line(), &name("2")).unwrap();
        assert_eq!(v.status_message, "poisoned: more errors on coast");
        assert!(v.tags.contains(&tag("leeway.status", "poisoned")));
    }
}
