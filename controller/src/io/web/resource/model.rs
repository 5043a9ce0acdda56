//! Model lines, versions and where they come from.
use std::collections::BTreeMap;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Level;
use super::names::CandidateSummary;
use super::rollout::RolloutSummary;

/// One line of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub line: String,
    /// The state of the line in a sentence.
    pub sentence: String,
    /// Which version each alias names now.
    pub aliases: BTreeMap<String, String>,
    /// What the model expects and gives, for people: `x: f32[1,8] → p: f32[1,1]`.
    pub signature: String,
    /// Its versions, newest first.
    pub versions: Vec<VersionSummary>,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Versions that other tools registered and nobody signed, newest first.
    #[serde(default)]
    pub candidates: Vec<CandidateSummary>,
}

/// One version in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionSummary {
    /// Model line.
    pub line: String,
    /// Version.
    pub version: String,
    /// Place in the line.
    pub seq: u64,
    /// `release` when a person's key signed it, `auto` when the trainer's did.
    pub origin: String,
    /// The role and key that signed it.
    pub signer: String,
    /// When the controller registered it.
    #[schema(value_type = String, format = DateTime)]
    pub registered_at: Timestamp,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the model file.
    pub model: String,
    /// Size of the model file, bytes.
    pub bytes: u64,
    /// Offline metrics from the manifest.
    pub metrics: BTreeMap<String, f64>,
    /// Aliases that name it.
    pub aliases: Vec<String>,
    /// Devices that run it now.
    pub devices: u64,
    /// How to read its state.
    pub level: Level,
    /// Its state in a word: `serving`, `available`, `rolled back`, `revoked`.
    pub state: String,
    /// Why it was made, in a sentence.
    pub reason: String,
    /// Its tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// One version, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionDetail {
    /// What a list shows.
    pub summary: VersionSummary,
    /// Inputs.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
    /// Digest of inputs and outputs; what a trainer's grant names.
    pub io: String,
    /// How a decision is read, in words.
    pub decision: String,
    /// Rows of the reference data.
    pub reference_rows: u64,
    /// Features watched for drift.
    pub features: Vec<String>,
    /// Golden vectors and their tolerance, in words.
    pub golden: String,
    /// Limits on a device, in words.
    pub limits: String,
    /// Accuracy by confidence on held-out data.
    pub calibration: Vec<CalibrationBin>,
    /// When its manifest was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Descent.
    pub lineage: Lineage,
    /// Where it comes from, as its maker signed it; absent if it came without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Document>,
    /// The OpenSSF Model Signing bundle; absent if it came without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Document>,
    /// Address of its bill of materials.
    #[serde(default)]
    pub bom: String,
    /// Rollouts of it.
    pub rollouts: Vec<RolloutSummary>,
}

/// A document that came with a version; its digest is signed into the version's target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Document {
    /// Digest of its bytes.
    pub digest: String,
    /// How many.
    pub length: u64,
    /// Its address.
    pub href: String,
    /// What it is, in a sentence.
    pub sentence: String,
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TensorInfo {
    /// Name in the graph.
    pub name: String,
    /// Element type.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// `free`, `state` or `constant`.
    pub role: String,
}

/// One confidence bin on held-out data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibrationBin {
    /// Lower edge.
    pub from: f64,
    /// Upper edge.
    pub to: f64,
    /// Accuracy in it.
    pub accuracy: f64,
    /// Held-out rows in it.
    pub rows: u64,
}

/// Where a version comes from and what came of it: nodes and edges rather than a tree, because two versions may share a parent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lineage {
    /// Things.
    pub nodes: Vec<LineageNode>,
    /// How one came from the other.
    pub edges: Vec<LineageEdge>,
}

/// A version, a dataset, a training run or a code revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LineageNode {
    /// Its key within this answer.
    pub id: String,
    /// `version`, `dataset`, `run` or `code`.
    pub kind: String,
    /// What people call it.
    pub label: String,
    /// Digest, revision or figures.
    pub detail: String,
    /// Its page, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub href: Option<String>,
}

/// `to` was made from `from`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LineageEdge {
    /// Key of the older node.
    pub from: String,
    /// Key of the newer node.
    pub to: String,
    /// How: `parent`, `train`, `holdout`, `reference`, `code`, `run`.
    pub kind: String,
}

/// What publishing answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Published {
    /// Versions that became known by it.
    pub registered: Vec<VersionSummary>,
    /// What happened, in a sentence.
    pub sentence: String,
}
