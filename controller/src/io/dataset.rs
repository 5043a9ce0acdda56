//! Datasets in the store and the blobs: kept when they are made, listed, read, compared, imported.
//!
//! A dataset's files and its manifest are blobs; the store has one small document for each, so that a list reads no blob. What
//! takes memory (turning a file into CSV, comparing two) is done by one request at a time, in a thread that may block. What stays
//! true: a dataset that a model's lineage names is never removed, and its document appears only after its bytes are durable.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::Blob;
use serde_json::json;
use tokio::sync::Semaphore;

use super::clock;
use super::control::decisions::draft;
use super::control::{ControlError, Controller, Inner, document};
use super::store::{Batch, Kind};
use crate::dataset::compare::{self, Comparison, Side};
use crate::dataset::frame::{Column, Frame};
use crate::dataset::{self, DataFile, DatasetManifest, DatasetRecord, External, Labels, MAX_MANIFEST_BYTES, Parent, Provenance};
use crate::reference::table::Table;
use crate::registry::ModelVersion;
use crate::retraining::dataset::{DatasetInfo, Snapshot};
use crate::retraining::job::RetrainRequest;
use crate::trainer::run::{MAX_RUN_BYTES, RunRecord};

/// The largest file that is turned into another form, compared or imported: it is held in memory, several times over.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// References that an imported dataset may have.
const MAX_EXTERNAL: usize = 16;
/// The longest title.
const MAX_TITLE: usize = 120;

/// Requests that hold whole files in memory at one time.
static READERS: Semaphore = Semaphore::const_new(1);

/// Data that somebody brings.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// What to call it.
    pub title: String,
    /// The model line.
    pub line: Line,
    /// The file, a blob that was uploaded before: Parquet or CSV.
    pub file: Digest,
    /// The column with the labels, if there is one.
    pub label: Option<String>,
    /// The column with the weights, if there is one.
    pub weight: Option<String>,
    /// Where else it lies.
    pub external: Vec<External>,
}

impl Controller {
    /// Every dataset, newest first.
    pub fn datasets(&self) -> Result<Vec<DatasetRecord>, ControlError> {
        records(&self.inner)
    }

    /// The dataset that a person means, with its manifest.
    pub async fn dataset(&self, asked: &str) -> Result<(DatasetRecord, DatasetManifest), ControlError> {
        let all = records(&self.inner)?;
        let record = dataset::find(&all, asked).map_err(ControlError::NotFound)?.clone();
        let gone = || ControlError::Unavailable(format!("the manifest of dataset {} is gone from the blobs", record.manifest.digest));
        let bytes = self.inner.blobs.bytes(record.manifest.digest, MAX_MANIFEST_BYTES).await?.ok_or_else(gone)?;
        let manifest = DatasetManifest::parse(&bytes).map_err(|e| ControlError::Unavailable(e.to_string()))?;
        Ok((record, manifest))
    }

    /// A file of a dataset, which is a blob.
    pub async fn dataset_file(&self, asked: &str, role: &str) -> Result<DataFile, ControlError> {
        let (_, manifest) = self.dataset(asked).await?;
        let roles = || manifest.files.iter().map(|file| file.role.as_str()).collect::<Vec<_>>().join(", ");
        let missing = || ControlError::NotFound(format!("the dataset has no file of that role: it has {}", roles()));
        manifest.file(role).cloned().ok_or_else(missing)
    }

    /// The rows of a file in another form than it has.
    pub async fn dataset_rows(&self, file: &DataFile, format: &str) -> Result<Vec<u8>, ControlError> {
        // Imported data stays as it was brought; a Parquet file of this program has its rows as CSV, whose digest its manifest names.
        if format != "csv" || file.content.is_none() {
            let what = "a captured dataset can be had as parquet or csv, an imported one as it was brought";
            return Err(ControlError::Invalid(format!("the file is {}: {what}", file.format)));
        }
        let _one = READERS.acquire().await.map_err(|e| ControlError::Unavailable(e.to_string()))?;
        Csv::text(bytes(&self.inner, file).await?).await
    }

    /// The second dataset against the first.
    pub async fn compare_datasets(&self, first: &str, second: &str) -> Result<Comparison, ControlError> {
        let (first, second) = (self.dataset(first).await?.1, self.dataset(second).await?.1);
        let _one = READERS.acquire().await.map_err(|e| ControlError::Unavailable(e.to_string()))?;
        let (before, after) = (files(&self.inner, &first).await?, files(&self.inner, &second).await?);
        blocking(move || {
            let (before, after) = (side(&first, before)?, side(&second, after)?);
            Ok(compare::compare(&before, &after))
        })
        .await
    }

    /// Keep data that somebody brings as a dataset.
    pub async fn import_dataset(&self, import: Import, by: &str) -> Result<DatasetRecord, ControlError> {
        let inner = &self.inner;
        let title: String = import.title.trim().chars().take(MAX_TITLE).collect();
        if title.is_empty() || import.external.len() > MAX_EXTERNAL {
            return Err(ControlError::Invalid(format!("give it a title, and at most {MAX_EXTERNAL} references")));
        }
        if !inner.ledger().snapshot.lines.contains_key(&import.line) {
            return Err(ControlError::NotFound(format!("there is no model line {}", import.line)));
        }
        for external in &import.external {
            external.check().map_err(|e| ControlError::Invalid(e.to_string()))?;
        }
        let missing = || ControlError::Invalid("upload the file before it is made a dataset".to_owned());
        let _one = READERS.acquire().await.map_err(|e| ControlError::Unavailable(e.to_string()))?;
        let bytes = inner.blobs.bytes(import.file, MAX_FILE_BYTES).await?.ok_or_else(missing)?;
        let previous = records(inner)?.into_iter().find(|r| r.line == import.line).map(|r| r.manifest.digest);
        let manifest = blocking(move || imported(&import, title, &bytes, previous)).await?;
        inner.blobs.put(&manifest.to_bytes()).await?;
        let record = DatasetRecord::of(&manifest, clock::now(), by);
        register(inner, &record, by, "dataset.imported").await?;
        Ok(record)
    }

    /// The record of a training job's run, if its worker brought one.
    pub async fn run_of(&self, job: &str) -> Result<Option<RunRecord>, ControlError> {
        let Some(run) = self.job_data(job)?.candidate.and_then(|candidate| candidate.run) else { return Ok(None) };
        Ok(Some(read_run(&self.inner, run).await?))
    }
}

/// Every dataset, newest first.
fn records(inner: &Inner) -> Result<Vec<DatasetRecord>, ControlError> {
    let mut all: Vec<DatasetRecord> = inner.store.parsed(Kind::Dataset)?.into_iter().map(|(_, record)| record).collect();
    all.sort_by(|a, b| b.made_at.cmp(&a.made_at).then_with(|| a.manifest.digest.cmp(&b.manifest.digest)));
    Ok(all)
}

/// Keep what was made for a training job: files, manifest, document. What it is, with its name.
pub(super) async fn keep(
    inner: &Inner,
    request: &RetrainRequest,
    parent: &ModelVersion,
    made: Snapshot,
) -> Result<DatasetInfo, ControlError> {
    inner.blobs.put(&made.train).await?;
    inner.blobs.put(&made.holdout).await?;
    let known = records(inner)?;
    let versions: BTreeMap<Digest, Version> = {
        let ledger = inner.ledger();
        ledger.snapshot.versions.values().filter(|v| v.line == request.line).map(|v| (v.manifest.digest, v.version.clone())).collect()
    };
    let parents = parents(&known, request, parent);
    let from = Provenance { title: &request.id, line: &request.line, versions: &versions, parents };
    let manifest = DatasetManifest::captured(&inner.training.dataset, &made.info, &made.facts, from);
    let blob = inner.blobs.put(&manifest.to_bytes()).await?;
    // A job that was interrupted here makes the same dataset again, under the same name.
    if known.iter().all(|record| record.manifest.digest != blob.digest) {
        let record = DatasetRecord::of(&manifest, clock::now(), &format!("training job {}", request.id));
        register(inner, &record, "controller", "dataset.made").await?;
    }
    Ok(DatasetInfo { manifest: Some(blob.digest), ..made.info })
}

/// The dataset of the line before this one, and what the parent model was trained on.
fn parents(known: &[DatasetRecord], request: &RetrainRequest, parent: &ModelVersion) -> Vec<Parent> {
    let mut parents = Vec::new();
    // The job's own dataset, made before an interruption, is not its parent.
    if let Some(previous) = known.iter().find(|r| r.line == request.line && r.title != request.id) {
        parents.push(Parent { how: "previous".to_owned(), digest: previous.manifest.digest });
    }
    if let Some(train) = parent.lineage.datasets.iter().find(|d| d.role == "train") {
        let named = known.iter().find(|r| r.names(train.digest)).map_or(train.digest, |r| r.manifest.digest);
        parents.push(Parent { how: "trained-parent".to_owned(), digest: named });
    }
    parents
}

async fn register(inner: &Inner, record: &DatasetRecord, by: &str, kind: &str) -> Result<(), ControlError> {
    let (at, name) = (record.made_at, record.manifest.digest.hex());
    let write = document(Kind::Dataset, name.clone(), Some(record))?;
    let data = json!({ "manifest": record.manifest, "files": record.files, "rows": record.rows, "line": record.line });
    let event = draft(at, by, kind, format!("datasets/{name}"), record.sentence.clone(), data);
    inner.store.commit(Batch { at, writes: vec![write], events: vec![event], urgent: true }).await?;
    Ok(())
}

/// Refuse the record of a run that is about something else than the candidate it came with.
pub(super) async fn check_run(inner: &Inner, run: Blob, job: &str, model: Digest, train: Digest) -> Result<(), ControlError> {
    let record = read_run(inner, run).await?;
    record.is_about(job, model, train).map_err(|e| ControlError::Invalid(e.to_string()))
}

async fn read_run(inner: &Inner, run: Blob) -> Result<RunRecord, ControlError> {
    let missing = || ControlError::Invalid("upload the record of the run before submitting the candidate".to_owned());
    let bytes = inner.blobs.bytes(run.digest, MAX_RUN_BYTES).await?.ok_or_else(missing)?;
    RunRecord::parse(&bytes).map_err(|e| ControlError::Invalid(e.to_string()))
}

async fn bytes(inner: &Inner, file: &DataFile) -> Result<Bytes, ControlError> {
    let gone = || ControlError::Unavailable(format!("the file {} of the dataset is gone from the blobs", file.digest));
    inner.blobs.bytes(file.digest, MAX_FILE_BYTES).await?.ok_or_else(gone)
}

async fn files(inner: &Inner, manifest: &DatasetManifest) -> Result<Vec<Bytes>, ControlError> {
    let mut all = Vec::new();
    for file in &manifest.files {
        all.push(bytes(inner, file).await?);
    }
    Ok(all)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ControlError> + Send + 'static) -> Result<T, ControlError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ControlError::Unavailable(format!("the data could not be read: {e}")))?
}

/// A table as CSV in a file of its own, for the runner. Gone with the value.
pub(super) struct Csv {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Csv {
    /// From a dataset's file; those of older controllers are CSV already.
    pub(super) async fn of(inner: &Inner, table: Bytes) -> Result<Self, ControlError> {
        let bytes = if Frame::is_parquet(&table) { Self::text(table).await? } else { table.to_vec() };
        let csv = Self { path: inner.blobs.scratch("rows.csv"), bytes };
        let failed = |e: std::io::Error| ControlError::Unavailable(format!("the held-out rows cannot be written: {e}"));
        tokio::fs::write(&csv.path, &csv.bytes).await.map_err(failed)?;
        Ok(csv)
    }

    async fn text(table: Bytes) -> Result<Vec<u8>, ControlError> {
        blocking(move || Frame::read(table).map(|frame| frame.to_csv()).map_err(|e| ControlError::Invalid(e.to_string()))).await
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Csv {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// All rows of a dataset, for comparing.
fn side(manifest: &DatasetManifest, files: Vec<Bytes>) -> Result<Side, ControlError> {
    let invalid = |e: String| ControlError::Invalid(format!("dataset {:?}: {e}", manifest.title));
    let mut side = Side { title: manifest.title.clone(), ..Side::default() };
    if manifest.origin != "captured" {
        for bytes in files {
            let (table, _) = Table::parse_numbers(&bytes).map_err(|e| invalid(e.to_string()))?;
            side.take_table(manifest, table);
        }
        return Ok(side);
    }
    for bytes in files {
        let frame = Frame::read(bytes).map_err(|e| invalid(e.to_string()))?;
        side.take_frame(frame);
    }
    Ok(side)
}

impl Side {
    fn take_frame(&mut self, frame: Frame) {
        for (name, values) in frame.features.into_iter().zip(frame.values) {
            self.extend(name, values.into_iter().map(|v| Some(f64::from(v))));
        }
        self.labels.extend(frame.facts.iter().map(|f| Some(f64::from(f.label))));
        self.weights.extend(frame.facts.iter().map(|f| f.weight));
        self.rows.extend(frame.facts.into_iter().map(|f| (f.device, f.request)));
    }

    fn take_table(&mut self, manifest: &DatasetManifest, table: Table) {
        let role = |name: &str| manifest.columns.iter().find(|c| c.name == name).map_or("", |c| c.role.as_str());
        let rows = table.rows();
        let (mut labels, mut weights) = (vec![None; rows], Vec::new());
        for (name, values) in table.names.into_iter().zip(table.columns) {
            match role(&name) {
                "feature" => self.extend(name, values.into_iter()),
                "label" => labels = values,
                "weight" => weights = values.into_iter().map(|w| w.filter(|w| *w > 0.0).unwrap_or(0.0)).collect(),
                _ => {}
            }
        }
        self.labels.extend(labels);
        self.weights.extend(weights);
    }

    fn extend(&mut self, name: String, values: impl Iterator<Item = Option<f64>>) {
        match self.features.iter_mut().find(|(known, _)| *known == name) {
            Some((_, all)) => all.extend(values),
            None => self.features.push((name, values.collect())),
        }
    }
}

/// The manifest of data that somebody brought: its bytes stay as they are.
fn imported(import: &Import, title: String, bytes: &[u8], previous: Option<Digest>) -> Result<DatasetManifest, ControlError> {
    let invalid = |e: &dyn std::fmt::Display| ControlError::Invalid(format!("the file cannot be used as data: {e}"));
    let (table, others) = Table::parse_numbers(bytes).map_err(|e| invalid(&e))?;
    let column = |name: &Option<String>| name.as_deref().map(|name| table.column(name)).transpose().map_err(|e| invalid(&e));
    let (labels, weights) = (column(&import.label)?, column(&import.weight)?);
    let role = |name: &String| match () {
        () if Some(name) == import.label.as_ref() => "label",
        () if Some(name) == import.weight.as_ref() => "weight",
        () => "feature",
    };
    let number = |name: &String| Column { name: name.clone(), r#type: "number".to_owned(), role: role(name).to_owned() };
    let other = |name: &String| Column { name: name.clone(), r#type: "other".to_owned(), role: "other".to_owned() };
    let rows = table.rows() as u64;
    let labels = Labels::of(labels.unwrap_or_default().iter().copied());
    let format = if Frame::is_parquet(bytes) { "parquet" } else { "csv" };
    let features = table.names.iter().filter(|name| role(name) == "feature").count();
    let tracked: Vec<String> = import.external.iter().map(|e| format!("{} at {}", e.uri, e.revision)).collect();
    let tracked = if tracked.is_empty() { String::new() } else { format!(" It is also {}.", tracked.join(" and ")) };
    let blob = Blob::of(bytes);
    let file =
        DataFile { role: "data".to_owned(), format: format.to_owned(), digest: blob.digest, length: blob.length, rows, content: None };
    let worth = weights.map_or(rows as f64, |w| crate::reference::effective_rows(w.iter().flatten().copied().filter(|w| *w > 0.0)));
    let words = if labels.labelled == 0 { "no labels".to_owned() } else { labels.words() };
    Ok(DatasetManifest {
        v: 1,
        sentence: format!("{rows} rows with {features} features, imported as {title:?}: {words}.{tracked}"),
        title,
        line: import.line.clone(),
        origin: "imported".to_owned(),
        files: vec![file],
        columns: table.names.iter().map(number).chain(others.iter().map(other)).collect(),
        rows,
        labels,
        device_count: 0,
        devices: BTreeMap::new(),
        cohorts: BTreeMap::new(),
        sources: Vec::new(),
        first: None,
        last: None,
        effective_rows: worth,
        selection: None,
        parents: previous.map(|digest| Parent { how: "previous".to_owned(), digest }).into_iter().collect(),
        external: import.external.clone(),
    })
}
