//! Datasets as versions: what a model was trained and judged on, by name, for good.
//!
//! A dataset is a *manifest*: a JSON document that names its files by digest and says where their rows come from (which devices,
//! which versions served them, from when to when), how they were chosen (policy and seed), and what came before. The digest of
//! the manifest is the dataset's name, and a model's signed lineage carries that name: so a signature leads to the rows. There is no
//! clock in it: who made it, and when, stands beside it in the store, and the same rows chosen the same way are the same dataset.
//! References to other people's data stores (DVC, lakeFS) are kept as they were given; nothing is fetched from there.
//!
//! What stays true: a manifest never changes; bytes that are not its files' are not its data.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{DeviceId, Line, Version};
use leeway_protocol::manifest::Blob;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::retraining::dataset::{DatasetInfo, DatasetPolicy, Sample};
use frame::{Column, Frame};

pub mod compare;
pub mod external;
pub mod frame;

pub use external::External;

/// The largest manifest that is read: [`MAX_LISTED`] devices with names of the greatest length stay below.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// Devices listed by name, the first in order; the files know all of them.
pub const MAX_LISTED: usize = 10_000;
/// Classes counted one by one; a regression has no classes.
const MAX_CLASSES: usize = 64;
/// References and parents of one dataset.
const MAX_LINKS: usize = 64;

/// What a dataset is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DatasetManifest {
    /// Form: 1.
    pub v: u32,
    /// What people call it: the training job it was made for, or a name somebody gave.
    pub title: String,
    /// The model line.
    #[schema(value_type = String)]
    pub line: Line,
    /// `captured` by devices, or `imported`.
    pub origin: String,
    /// Its files.
    pub files: Vec<DataFile>,
    /// Columns of its files, in order.
    pub columns: Vec<Column>,
    /// Rows in all files.
    pub rows: u64,
    /// Labels of those rows.
    pub labels: Labels,
    /// How many devices they come from.
    pub device_count: u64,
    /// Rows by device; the first [`MAX_LISTED`] by name.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub devices: BTreeMap<DeviceId, u64>,
    /// Rows by cohort.
    pub cohorts: BTreeMap<String, u64>,
    /// Which versions served them, and when.
    pub sources: Vec<SourceWindow>,
    /// First row, on the application's axis.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Option<Timestamp>,
    /// Last row.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last: Option<Timestamp>,
    /// Rows the training weights are worth, (Σw)²/Σw².
    pub effective_rows: f64,
    /// How rows were chosen; absent for imported data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<Selection>,
    /// What came before.
    #[serde(default)]
    pub parents: Vec<Parent>,
    /// Where else it lies.
    #[serde(default)]
    pub external: Vec<External>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// One file of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DataFile {
    /// What it is for: `train`, `holdout`, or `data` for imported data that was not split.
    pub role: String,
    /// `parquet` or `csv`.
    pub format: String,
    /// Digest of its bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// How many.
    pub length: u64,
    /// Rows.
    pub rows: u64,
    /// Digest of the same rows as CSV, which no encoder touches; absent for imported data, whose bytes are its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub content: Option<Digest>,
}

impl DataFile {
    /// Its address.
    pub fn blob(&self) -> Blob {
        Blob { digest: self.digest, length: self.length }
    }
}

/// Labels of the rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Labels {
    /// Rows with one.
    pub labelled: u64,
    /// Rows by class; empty when labels are not classes.
    pub classes: BTreeMap<String, u64>,
}

/// Rows that one version served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceWindow {
    /// Digest of its manifest.
    #[schema(value_type = String)]
    pub served_by: Digest,
    /// Its name, if it is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub version: Option<Version>,
    /// First row.
    #[schema(value_type = String, format = DateTime)]
    pub first: Timestamp,
    /// Last row.
    #[schema(value_type = String, format = DateTime)]
    pub last: Timestamp,
    /// Rows.
    pub rows: u64,
    /// Devices.
    pub devices: u64,
}

/// How rows were chosen and split. With it and the captured rows, anybody gets the same files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Selection {
    /// Share held out, blocks, embargo, floors and bounds.
    #[schema(value_type = Object)]
    pub policy: DatasetPolicy,
    /// What decides which blocks of time are held out.
    pub seed: String,
    /// Time blocks trained on and held out.
    #[schema(value_type = Vec<u64>)]
    pub blocks: (u64, u64),
    /// Rows that came twice.
    pub duplicates: u64,
    /// Rows without a label, with values that are not finite, of another width, or too old.
    pub unusable: u64,
    /// Rows left out because they are next to a held-out block.
    pub embargoed: u64,
}

/// Something it descends from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Parent {
    /// `previous`: the dataset of the line before this one. `trained-parent`: what the parent model was trained on.
    pub how: String,
    /// The dataset's name, or the digest of a file that belongs to no dataset here.
    #[schema(value_type = String)]
    pub digest: Digest,
}

/// What is counted while rows are written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Digest of each file's rows as CSV, by role.
    pub contents: BTreeMap<String, Digest>,
    /// The columns.
    pub columns: Vec<Column>,
    /// Labels of all rows that are in a file.
    pub labels: Labels,
    /// Rows by device.
    pub devices: BTreeMap<DeviceId, u64>,
    /// Rows by cohort.
    pub cohorts: BTreeMap<String, u64>,
    /// By manifest, without the version's name.
    pub sources: Vec<SourceWindow>,
}

impl Facts {
    /// Of the two files; `samples` are all rows, also those that an embargo kept out of both.
    pub fn of(train: &Frame, holdout: &Frame, samples: &[&Sample]) -> Self {
        let written = || train.facts.iter().chain(&holdout.facts);
        let kept: BTreeSet<(&str, u64)> = written().map(|f| (f.device.as_str(), f.request)).collect();
        let mut facts = Self {
            contents: BTreeMap::from([("train".to_owned(), train.content()), ("holdout".to_owned(), holdout.content())]),
            columns: train.columns(),
            labels: Labels::of(written().map(|f| Some(f64::from(f.label)))),
            ..Self::default()
        };
        let mut sources: BTreeMap<Digest, (SourceWindow, BTreeSet<&DeviceId>)> = BTreeMap::new();
        for sample in samples.iter().filter(|s| kept.contains(&(s.device.as_str(), s.row.request))) {
            *facts.devices.entry(sample.device.clone()).or_insert(0) += 1;
            *facts.cohorts.entry(sample.cohort.to_string()).or_insert(0) += 1;
            let at = sample.row.at;
            let window = || SourceWindow { served_by: sample.manifest, version: None, first: at, last: at, rows: 0, devices: 0 };
            let (window, devices) = sources.entry(sample.manifest).or_insert_with(|| (window(), BTreeSet::new()));
            (window.first, window.last, window.rows) = (window.first.min(at), window.last.max(at), window.rows + 1);
            devices.insert(&sample.device);
        }
        let counted = |(window, devices): (SourceWindow, BTreeSet<&DeviceId>)| SourceWindow { devices: devices.len() as u64, ..window };
        facts.sources = sources.into_values().map(counted).collect();
        facts
    }
}

impl Labels {
    /// Count them; whole numbers are classes as long as there are few.
    pub fn of(labels: impl Iterator<Item = Option<f64>>) -> Self {
        let (mut counted, mut whole) = (Self::default(), true);
        for label in labels.flatten().filter(|label| label.is_finite()) {
            counted.labelled += 1;
            whole = whole && label.fract() == 0.0 && counted.classes.len() <= MAX_CLASSES;
            if whole {
                *counted.classes.entry(format!("{label}")).or_insert(0) += 1;
            }
        }
        if !whole || counted.classes.len() > MAX_CLASSES {
            counted.classes.clear();
        }
        counted
    }

    /// In words, such as `40 % class 0, 60 % class 1`.
    pub fn words(&self) -> String {
        let share = |n: u64| n as f64 * 100.0 / self.labelled.max(1) as f64;
        let each: Vec<String> = self.classes.iter().map(|(class, n)| format!("{:.1} % class {class}", share(*n))).collect();
        if each.is_empty() { format!("{} labels", self.labelled) } else { each.join(", ") }
    }
}

/// What a dataset that was made of captured rows is called and comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance<'a> {
    /// What people call it; also the seed of the split.
    pub title: &'a str,
    /// The model line.
    pub line: &'a Line,
    /// Registered versions by manifest.
    pub versions: &'a BTreeMap<Digest, Version>,
    /// What came before.
    pub parents: Vec<Parent>,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not this document.
    #[error("the dataset's manifest cannot be read")]
    Json(#[from] serde_json::Error),
    /// Another form, or past the bounds.
    #[error("the dataset's manifest has another form than this program reads, or is past its bounds: update the controller")]
    Form,
}

impl DatasetManifest {
    /// Of captured rows.
    pub fn captured(policy: &DatasetPolicy, info: &DatasetInfo, facts: &Facts, from: Provenance<'_>) -> Self {
        let file = |role: &str, blob: Blob, rows| DataFile {
            role: role.to_owned(),
            format: "parquet".to_owned(),
            digest: blob.digest,
            length: blob.length,
            rows,
            content: facts.contents.get(role).copied(),
        };
        let sources = facts.sources.iter().map(|s| SourceWindow { version: from.versions.get(&s.served_by).cloned(), ..s.clone() });
        Self {
            v: 1,
            title: from.title.to_owned(),
            line: from.line.clone(),
            origin: "captured".to_owned(),
            files: vec![file("train", info.train, info.train_rows), file("holdout", info.holdout, info.holdout_rows)],
            columns: facts.columns.clone(),
            rows: info.train_rows + info.holdout_rows,
            labels: facts.labels.clone(),
            device_count: facts.devices.len() as u64,
            devices: facts.devices.iter().take(MAX_LISTED).map(|(device, rows)| (device.clone(), *rows)).collect(),
            cohorts: facts.cohorts.clone(),
            sources: sources.collect(),
            first: Some(info.first),
            last: Some(info.last),
            effective_rows: info.effective_rows,
            selection: Some(Selection {
                policy: policy.clone(),
                seed: from.title.to_owned(),
                blocks: info.blocks,
                duplicates: info.duplicates,
                unusable: info.unusable,
                embargoed: info.embargoed,
            }),
            parents: from.parents,
            external: Vec::new(),
            sentence: format!("{} Labels: {}.", info.sentence, facts.labels.words()),
        }
    }

    /// The bytes whose digest is its name.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Read one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(ManifestError::Form);
        }
        let manifest: Self = serde_json::from_slice(bytes)?;
        let links = manifest.files.len().max(manifest.parents.len()).max(manifest.external.len());
        if manifest.v != 1 || links > MAX_LINKS || manifest.files.is_empty() || manifest.devices.len() > MAX_LISTED {
            return Err(ManifestError::Form);
        }
        Ok(manifest)
    }

    /// The file of a role.
    pub fn file(&self, role: &str) -> Option<&DataFile> {
        self.files.iter().find(|file| file.role == role)
    }
}

/// What the store keeps of a dataset, beside the blobs: enough for a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// The manifest; its digest is the dataset's name.
    pub manifest: Blob,
    /// What people call it.
    pub title: String,
    /// The model line.
    pub line: Line,
    /// `captured` or `imported`.
    pub origin: String,
    /// Files by role.
    pub files: BTreeMap<String, Digest>,
    /// Rows.
    pub rows: u64,
    /// Devices.
    pub devices: u64,
    /// When it was made.
    pub made_at: Timestamp,
    /// Who made it, or for which job.
    pub made_by: String,
    /// In a sentence.
    pub sentence: String,
}

impl DatasetRecord {
    /// Of a manifest.
    pub fn of(manifest: &DatasetManifest, made_at: Timestamp, made_by: &str) -> Self {
        Self {
            manifest: Blob::of(&manifest.to_bytes()),
            title: manifest.title.clone(),
            line: manifest.line.clone(),
            origin: manifest.origin.clone(),
            files: manifest.files.iter().map(|file| (file.role.clone(), file.digest)).collect(),
            rows: manifest.rows,
            devices: manifest.device_count,
            made_at,
            made_by: made_by.to_owned(),
            sentence: manifest.sentence.clone(),
        }
    }

    /// Whether `digest` is its name or one of its files.
    pub fn names(&self, digest: Digest) -> bool {
        self.manifest.digest == digest || self.files.values().any(|file| *file == digest)
    }
}

/// Shortest beginning of a name that is looked up: four digits are typed, two are an accident.
const MIN_PREFIX: usize = 4;

/// The record that a person means: by its digest or a beginning of it (with or without `sha256:`), by its title, or by one of its
/// files. Of several with one title the newest.
pub fn find<'a>(records: &'a [DatasetRecord], asked: &str) -> Result<&'a DatasetRecord, String> {
    let hex = asked.strip_prefix("sha256:").unwrap_or(asked);
    if let Ok(digest) = Digest::from_hex(hex)
        && let Some(found) = records.iter().filter(|r| r.names(digest)).max_by_key(|r| (r.manifest.digest == digest, r.made_at))
    {
        return Ok(found);
    }
    if let Some(found) = records.iter().filter(|r| r.title == asked).max_by_key(|r| r.made_at) {
        return Ok(found);
    }
    let begins = hex.len() >= MIN_PREFIX && hex.bytes().all(|b| b.is_ascii_hexdigit());
    let mut matching = records.iter().filter(|r| begins && r.manifest.digest.hex().starts_with(hex));
    let shown: String = asked.chars().take(80).collect();
    match (matching.next(), matching.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(format!("more than one dataset begins with {shown:?}: type more of it")),
        _ => Err(format!("there is no dataset {shown:?}: `leeway data list` shows them")),
    }
}

#[cfg(test)]
mod tests;
