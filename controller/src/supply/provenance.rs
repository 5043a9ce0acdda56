//! SLSA provenance v1 of a release: who built it, from which data, code and parent, as an in-toto statement in a DSSE envelope.
//!
//! It says nothing that the manifest does not, in a form that other tools read, and is signed by the same key as the release.
//! Two documents that say the same can contradict each other, so [`check`] compares every claim with the manifest; a statement
//! may say more (packages of the trainer, say), never something else, and never less.
//!
//! The build type `urn:leeway:model-training:v1` means: `externalParameters` has `line`, `version`, `reason` and `parameters`
//! (what the trainer was told, as text); `internalParameters` has `seq`; each of `resolvedDependencies` that is part of the
//! lineage says in its annotations which `kind` it is, `dataset` (with `role`, `rows`), `code` (with `revision`) or `parent` (a
//! manifest); the manifest itself is the one byproduct of kind `manifest`.
//!
//! What stays true: the same manifest and the same build give the same bytes.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::assignment::target_path;
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, Manifest};
use leeway_protocol::trust::canonical;
use leeway_protocol::trust::keyring::{PublicKey, Signature, SigningKey};
use leeway_protocol::trust::metadata::percent_encoded;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::dsse::{Envelope, EnvelopeError};
use super::{IN_TOTO, MAX_DOCUMENT_BYTES, STATEMENT};

/// What the statement states.
pub const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// How releases are made here; the head of this file says what its parameters mean.
pub const BUILD_TYPE: &str = "urn:leeway:model-training:v1";
/// Who built it, where nobody says otherwise: a person at the release machine.
pub const BUILDER: &str = "urn:leeway:builder:release-machine";
/// Gaps between manifest and statement that a refusal names.
const MAX_NAMED: usize = 4;

/// What the manifest does not know about how a model was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Who built it, a URI.
    pub builder: String,
    /// What the trainer was told.
    pub parameters: BTreeMap<String, String>,
}

impl Default for Build {
    fn default() -> Self {
        Self { builder: BUILDER.to_owned(), parameters: BTreeMap::new() }
    }
}

/// Why provenance was refused.
#[derive(Debug, thiserror::Error)]
pub enum ProvenanceError {
    /// The envelope, or its signature.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Not JSON, or with a key twice.
    #[error("its statement is not a document of this form")]
    Json(#[from] canonical::JsonError),
    /// Parts are missing or have another type.
    #[error("its statement cannot be read: {0}")]
    Form(#[source] serde_json::Error),
    /// Another statement.
    #[error("its statement is {0:?}, read is {PREDICATE} with build type {BUILD_TYPE}")]
    Other(String),
    /// About another file.
    #[error("its subject is not the model with digest {0}, and nothing else")]
    Subject(Digest),
    /// It says something else than the manifest.
    #[error("it contradicts the manifest: {}", .0.join("; "))]
    Contradicts(Vec<String>),
}

/// Where a release is listed.
fn path(manifest: &Manifest, auto: bool) -> String {
    target_path(&manifest.line, auto, &manifest.version)
}

/// The statement about `manifest`, which is addressed by `blob`.
pub fn statement(manifest: &Manifest, blob: Blob, auto: bool, build: &Build) -> Value {
    let lineage = &manifest.lineage;
    let mut dependencies: Vec<Value> = Vec::new();
    for set in &lineage.datasets {
        dependencies.push(json!({ "name": set.name, "digest": { "sha256": set.digest.hex() },
            "annotations": { "kind": "dataset", "role": set.role, "rows": set.rows } }));
    }
    if !lineage.code.is_empty() {
        let mut code = json!({ "name": lineage.code, "uri": uri(&lineage.code),
            "annotations": { "kind": "code", "revision": lineage.code_revision } });
        if is_git(&lineage.code_revision)
            && let Some(code) = code.as_object_mut()
        {
            code.insert("digest".to_owned(), json!({ "gitCommit": lineage.code_revision }));
        }
        dependencies.push(code);
    }
    if let Some(parent) = lineage.parent {
        dependencies
            .push(json!({ "name": "parent's manifest", "digest": { "sha256": parent.hex() }, "annotations": { "kind": "parent" } }));
    }
    let mut metadata = Map::new();
    if let Some(run) = &lineage.training_run {
        metadata.insert("invocationId".to_owned(), run.as_str().into());
    }
    metadata.insert("finishedOn".to_owned(), manifest.created_at.to_string().into());
    json!({
        "_type": STATEMENT,
        "subject": [{ "name": path(manifest, auto), "digest": { "sha256": manifest.model.digest.hex() } }],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "line": manifest.line, "version": manifest.version, "reason": lineage.reason, "parameters": build.parameters,
                },
                "internalParameters": { "seq": manifest.seq },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": { "id": build.builder },
                "metadata": metadata,
                "byproducts": [{ "name": "manifest.json", "digest": { "sha256": blob.digest.hex() }, "annotations": { "kind": "manifest" } }],
            },
        },
    })
}

/// The statement, signed.
pub fn seal(statement: &Value, key: &SigningKey) -> Vec<u8> {
    let payload = serde_json::to_vec(statement).unwrap_or_default();
    Envelope::seal(IN_TOTO, &payload, &key.public().key_id().0, |message| key.sign(message).as_bytes().to_vec()).to_bytes()
}

/// A name of code as the URI that a resource has.
fn uri(code: &str) -> String {
    if code.contains("://") { code.to_owned() } else { format!("urn:leeway:code:{}", percent_encoded(code)) }
}

/// Whether a revision is a whole Git object name.
fn is_git(revision: &str) -> bool {
    matches!(revision.len(), 40 | 64) && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    form: String,
    subject: Vec<Resource>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: String,
    external_parameters: External,
    internal_parameters: Internal,
    #[serde(default)]
    resolved_dependencies: Vec<Resource>,
}

#[derive(Deserialize)]
struct External {
    line: String,
    version: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Internal {
    seq: u64,
}

#[derive(Deserialize)]
struct RunDetails {
    builder: Builder,
    #[serde(default)]
    metadata: Run,
    #[serde(default)]
    byproducts: Vec<Resource>,
}

#[derive(Deserialize)]
struct Builder {
    id: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    #[serde(default)]
    invocation_id: Option<String>,
}

#[derive(Deserialize)]
struct Resource {
    #[serde(default)]
    name: String,
    #[serde(default)]
    digest: BTreeMap<String, String>,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    revision: String,
}

impl Resource {
    fn sha256(&self) -> &str {
        self.digest.get("sha256").map_or("", String::as_str)
    }
}

/// Check what came with a release: signed by one of the keys that may sign it, about this model, and as the manifest says.
pub fn check<'a>(
    bytes: &[u8],
    keys: impl Iterator<Item = &'a PublicKey> + Clone,
    manifest: &Manifest,
    blob: Blob,
    auto: bool,
) -> Result<Build, ProvenanceError> {
    let verifies = |message: &[u8], signature: &[u8]| {
        let Ok(signature) = signature.try_into().map(Signature::from_bytes) else { return false };
        keys.clone().any(|key| key.verifies(message, &signature))
    };
    let payload = Envelope::parse(bytes)?.open(IN_TOTO, verifies)?;
    let value = canonical::parse(&payload, usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX))?;
    let statement: Statement = serde_json::from_value(value).map_err(ProvenanceError::Form)?;
    if statement.form != STATEMENT || statement.predicate_type != PREDICATE {
        return Err(ProvenanceError::Other(statement.predicate_type));
    }
    let Predicate { build_definition: definition, run_details: run } = statement.predicate;
    if definition.build_type != BUILD_TYPE {
        return Err(ProvenanceError::Other(definition.build_type));
    }
    let model = manifest.model.digest;
    if !matches!(&statement.subject[..], [one] if one.sha256() == model.hex() && one.name == path(manifest, auto)) {
        return Err(ProvenanceError::Subject(model));
    }
    let mut gaps = differences(&definition, &run, manifest, blob);
    if !gaps.is_empty() {
        gaps.truncate(MAX_NAMED);
        return Err(ProvenanceError::Contradicts(gaps));
    }
    Ok(Build { builder: run.builder.id, parameters: definition.external_parameters.parameters })
}

/// Every point in which statement and manifest say different things, in sentences.
fn differences(definition: &BuildDefinition, run: &RunDetails, manifest: &Manifest, blob: Blob) -> Vec<String> {
    let (lineage, said) = (&manifest.lineage, &definition.external_parameters);
    let mut gaps = Vec::new();
    let mut compare = |what: &str, said: &str, is: &str| {
        if said != is {
            gaps.push(format!("it says {what} {said:?}, the manifest {is:?}"));
        }
    };
    compare("line", &said.line, manifest.line.as_str());
    compare("version", &said.version, manifest.version.as_str());
    compare("number", &definition.internal_parameters.seq.to_string(), &manifest.seq.to_string());
    compare("reason", &said.reason, &lineage.reason);
    compare("training run", run.metadata.invocation_id.as_deref().unwrap_or(""), lineage.training_run.as_deref().unwrap_or(""));
    let byproducts: Vec<&str> = run.byproducts.iter().filter(|r| r.annotations.kind == "manifest").map(Resource::sha256).collect();
    compare("manifest", &byproducts.join(" "), &blob.digest.hex());
    let of = |kind: &'static str| definition.resolved_dependencies.iter().filter(move |r| r.annotations.kind == kind);
    let code = |r: &Resource| format!("{} at {}", r.name, r.annotations.revision);
    let is = if lineage.code.is_empty() { String::new() } else { format!("{} at {}", lineage.code, lineage.code_revision) };
    compare("code", &of("code").map(code).collect::<Vec<_>>().join(" "), &is);
    let commits = of("code").filter_map(|r| r.digest.get("gitCommit"));
    commits.for_each(|commit| compare("commit", commit, &lineage.code_revision));
    let parents: Vec<&str> = of("parent").map(Resource::sha256).collect();
    compare("parent", &parents.join(" "), &lineage.parent.map(|p| p.hex()).unwrap_or_default());
    let dataset = |role: &str, name: &str, rows: u64, digest: &str| format!("{role} data {name:?} of {rows} rows, {digest}");
    let said: BTreeSet<String> = of("dataset").map(|r| dataset(&r.annotations.role, &r.name, r.annotations.rows, r.sha256())).collect();
    let is: BTreeSet<String> = lineage.datasets.iter().map(|d| dataset(&d.role, &d.name, d.rows, &d.digest.hex())).collect();
    gaps.extend(said.difference(&is).map(|set| format!("it says {set}, which the manifest does not")));
    gaps.extend(is.difference(&said).map(|set| format!("it leaves out {set}")));
    gaps
}

#[cfg(test)]
pub(crate) mod tests;
