//! Datasets, their manifests, and where a version comes from.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::dataset::{DatasetManifest, DatasetRecord};
use crate::trainer::run::RunRecord;

/// One dataset in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetSummary {
    /// Its name: the digest of its manifest.
    pub dataset: String,
    /// What people call it.
    pub title: String,
    /// Model line.
    pub line: String,
    /// `captured` by devices, or `imported`.
    pub origin: String,
    /// Rows.
    pub rows: u64,
    /// Devices they come from.
    pub devices: u64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub made_at: Timestamp,
    /// Who made it, or for which training job.
    pub made_by: String,
    /// In a sentence.
    pub sentence: String,
}

impl DatasetSummary {
    /// Of the store's document.
    pub fn of(record: &DatasetRecord) -> Self {
        Self {
            dataset: record.manifest.digest.to_string(),
            title: record.title.clone(),
            line: record.line.to_string(),
            origin: record.origin.clone(),
            rows: record.rows,
            devices: record.devices,
            made_at: record.made_at,
            made_by: record.made_by.clone(),
            sentence: record.sentence.clone(),
        }
    }
}

/// One dataset, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetDetail {
    /// What a list shows.
    pub summary: DatasetSummary,
    /// The document that its name is the digest of.
    pub manifest: DatasetManifest,
    /// Versions that were trained on it, such as `rain auto-4`.
    pub versions: Vec<String>,
}

/// Data that somebody brings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportDataset {
    /// What to call it.
    pub title: String,
    /// Model line.
    pub line: String,
    /// Digest of the file, uploaded before: Parquet or CSV.
    pub file: String,
    /// The column with the labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The column with the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<String>,
    /// Where else it lies.
    #[serde(default)]
    pub external: Vec<crate::dataset::External>,
}

/// Which data, which code, which run, which parent, and who approved: the answer for one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// Model line.
    pub line: String,
    /// Version.
    pub version: String,
    /// The data its signed lineage names.
    pub data: Vec<OriginData>,
    /// Name of the training code, and its revision.
    pub code: String,
    /// The revision.
    pub code_revision: String,
    /// The training job, if one made it.
    pub job: Option<String>,
    /// The record of the run, if the worker brought one and it is about this model file.
    pub run: Option<RunRecord>,
    /// The version it was retrained from, or the digest of its manifest if that is not registered.
    pub parent: Option<String>,
    /// Who let it through, one sentence each: the signature, the comparison with the champion, people.
    pub approved: Vec<String>,
    /// One sentence for each of the five questions.
    pub sentences: Vec<String>,
}

/// Data in a version's lineage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OriginData {
    /// What it was used for.
    pub role: String,
    /// Digest of the file.
    pub digest: String,
    /// Rows.
    pub rows: u64,
    /// The dataset it belongs to, if it is here.
    pub dataset: Option<String>,
    /// That dataset in a sentence, or what the lineage calls it.
    pub sentence: String,
}
