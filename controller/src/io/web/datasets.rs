//! Datasets: what models were trained and judged on, and where a version comes from.
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Line, Version};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, Query, name};
use super::guard::By;
use super::load::MAX_PAGE;
use super::resource::Page;
use super::resource::dataset::{DatasetDetail, DatasetSummary, ImportDataset, Origin, OriginData};
use crate::dataset::DatasetRecord;
use crate::dataset::compare::Comparison;
use crate::io::dataset::Import;
use crate::registry::ModelVersion;
use crate::retraining::job::JobState;
use crate::trainer::run::RunRecord;

/// Datasets on one page unless asked otherwise.
const LIMIT: usize = 50;

/// Which datasets.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// Only of this model line.
    line: Option<String>,
    /// Where the page starts, from `next_cursor`.
    cursor: Option<String>,
    /// How many, at most 500.
    limit: Option<usize>,
}

/// In which form.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    /// `parquet` or `csv`; as it is if absent.
    format: Option<String>,
}

/// Datasets, newest first.
#[utoipa::path(get, path = "/api/v1/datasets", tag = "datasets", operation_id = "listDatasets", params(Asked), responses((status = 200, body = Page<DatasetSummary>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>, Query(asked): Query<Asked>) -> Result<Json<Page<DatasetSummary>>, Problem> {
    let line = asked.line.as_deref().map(name::<Line>).transpose()?;
    let limit = asked.limit.unwrap_or(LIMIT).clamp(1, MAX_PAGE);
    let all = web.controller().datasets()?;
    let mut of_line = all.iter().filter(|record| line.as_ref().is_none_or(|line| record.line == *line)).peekable();
    if let Some(cursor) = &asked.cursor {
        // The cursor is the last one shown: those that were made meanwhile stand before it.
        let last = name::<Digest>(cursor).ok().filter(|digest| of_line.by_ref().any(|record| record.manifest.digest == *digest));
        last.ok_or_else(|| Problem::BadRequest("the cursor is none that this API gave out: start again without it".to_owned()))?;
    }
    let items: Vec<DatasetSummary> = of_line.by_ref().take(limit).map(DatasetSummary::of).collect();
    let next_cursor = of_line.peek().and_then(|_| items.last()).map(|last| last.dataset.clone());
    Ok(Json(Page { items, next_cursor }))
}

/// One dataset, by its digest or the beginning of it, its title, or one of its files.
#[utoipa::path(get, path = "/api/v1/datasets/{dataset}", tag = "datasets", operation_id = "getDataset", params(("dataset" = String, Path, description = "The dataset")),
    responses((status = 200, body = DatasetDetail), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(dataset): Path<String>) -> Result<Json<DatasetDetail>, Problem> {
    let (record, manifest) = web.controller().dataset(&dataset).await?;
    Ok(Json(web.dataset_detail(&record, manifest)))
}

/// A file of a dataset: `train`, `holdout`, or `data` of an imported one.
#[utoipa::path(get, path = "/api/v1/datasets/{dataset}/files/{role}", tag = "datasets", operation_id = "getDatasetFile", params(("dataset" = String, Path, description = "The dataset"), ("role" = String, Path, description = "Which file"), Form),
    responses((status = 200, description = "Its rows, as Parquet or CSV", content_type = "application/octet-stream"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn file(
    State(web): State<Web>,
    method: Method,
    Path((dataset, role)): Path<(String, String)>,
    Query(form): Query<Form>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let file = web.controller().dataset_file(&dataset, &role).await?;
    let form = form.format.unwrap_or_else(|| file.format.clone());
    let kind = if form == "csv" { "text/csv; charset=utf-8" } else { "application/vnd.apache.parquet" };
    let kind = HeaderValue::from_static(kind);
    if form == file.format {
        // Ranges and all.
        let mut response = super::files::blob(State(web), method, Path(file.digest.hex()), headers).await?;
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        return Ok(response);
    }
    Ok(([(header::CONTENT_TYPE, kind)], web.controller().dataset_rows(&file, &form).await?).into_response())
}

/// Two datasets side by side: rows, devices, labels, and how far each feature moved.
#[utoipa::path(get, path = "/api/v1/datasets/{dataset}/compare/{other}", tag = "datasets", operation_id = "compareDatasets", params(("dataset" = String, Path, description = "The first"), ("other" = String, Path, description = "The second, which is compared with the first")),
    responses((status = 200, body = Comparison), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn compare(State(web): State<Web>, Path((dataset, other)): Path<(String, String)>) -> Result<Json<Comparison>, Problem> {
    Ok(Json(web.controller().compare_datasets(&dataset, &other).await?))
}

/// Make a dataset of a file that was uploaded as a blob, with references to where else it lies.
#[utoipa::path(post, path = "/api/v1/datasets", tag = "datasets", operation_id = "importDataset", request_body = ImportDataset,
    responses((status = 200, body = DatasetSummary), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn import(State(web): State<Web>, By(by): By, Body(asked): Body<ImportDataset>) -> Result<Json<DatasetSummary>, Problem> {
    let import = Import {
        title: asked.title,
        line: name::<Line>(&asked.line)?,
        file: name::<Digest>(&asked.file)?,
        label: asked.label,
        weight: asked.weight,
        external: asked.external,
    };
    Ok(Json(DatasetSummary::of(&web.controller().import_dataset(import, &by).await?)))
}

/// The record of a training job's run: code, parameters, environment, data, begin and end.
#[utoipa::path(get, path = "/api/v1/training/jobs/{job}/run", tag = "training", operation_id = "getTrainingRun", params(("job" = String, Path, description = "The job")),
    responses((status = 200, body = RunRecord), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn run(State(web): State<Web>, Path(job): Path<String>) -> Result<Json<RunRecord>, Problem> {
    let shown: String = job.chars().take(80).collect();
    let found = web.controller().run_of(&job).await?;
    found.map(Json).ok_or_else(|| Problem::NotFound(format!("there is no record of a run of training job {shown:?}")))
}

/// Which data, which code, which run, which parent, and who approved.
#[utoipa::path(get, path = "/api/v1/models/{line}/versions/{version}/origin", tag = "models", operation_id = "getOrigin", params(("line" = String, Path, description = "The line"), ("version" = String, Path, description = "The version")),
    responses((status = 200, body = Origin), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn origin(State(web): State<Web>, Path((line, version)): Path<(String, String)>) -> Result<Json<Origin>, Problem> {
    Ok(Json(web.origin(&name::<Line>(&line)?, &name::<Version>(&version)?).await?))
}

impl Web {
    fn dataset_detail(&self, record: &DatasetRecord, manifest: crate::dataset::DatasetManifest) -> DatasetDetail {
        let made = |v: &&ModelVersion| v.lineage.datasets.iter().any(|d| record.names(d.digest));
        let snapshot = self.controller().snapshot();
        let mut versions: Vec<&ModelVersion> = snapshot.versions.values().map(AsRef::as_ref).filter(made).collect();
        versions.sort_by_key(|v| (&v.line, v.seq));
        let versions = versions.iter().map(|v| format!("{} {}", v.line, v.version)).collect();
        DatasetDetail { summary: DatasetSummary::of(record), manifest, versions }
    }

    async fn origin(&self, line: &Line, version: &Version) -> Result<Origin, Problem> {
        let snapshot = self.controller().snapshot();
        let missing = || Problem::NotFound(format!("there is no version {version} of {line}"));
        let found = snapshot.version(line, version).cloned().ok_or_else(missing)?;
        let records = self.controller().datasets()?;
        let data: Vec<OriginData> = found.lineage.datasets.iter().map(|d| origin_data(d, &records)).collect();
        let job = found.lineage.training_run.clone();
        let run = match &job {
            // What a person's release calls its run need not be a job of this controller.
            Some(job) => self.controller().run_of(job).await.unwrap_or_default().filter(|run| run.model == found.model.digest),
            None => None,
        };
        let known = snapshot.manifests();
        let parent = found.lineage.parent.map(|digest| match known.get(&digest) {
            Some(parent) => format!("{} {}", parent.line, parent.version),
            None => digest.to_string(),
        });
        let approved = self.approved(&found)?;
        let mut origin = Origin {
            line: line.to_string(),
            version: version.to_string(),
            data,
            code: found.lineage.code.clone(),
            code_revision: found.lineage.code_revision.clone(),
            job,
            run,
            parent,
            approved,
            sentences: Vec::new(),
        };
        origin.sentences = origin.words();
        Ok(origin)
    }

    /// Who let a version through: whoever signed it, the gate, and people who approved its rollouts.
    fn approved(&self, version: &ModelVersion) -> Result<Vec<String>, Problem> {
        let snapshot = self.controller().snapshot();
        let mut said = vec![format!("The key of role {} signed it; it was registered at {}.", version.signer, version.published_at)];
        let became = |state: &JobState| matches!(state, JobState::Published { version: made } if *made == version.version);
        for job in snapshot.jobs.values().filter(|job| job.request.line == version.line && became(&job.state)) {
            if let Some(comparison) = self.controller().job_data(&job.request.id)?.comparison {
                said.push(format!("The gate let it pass: {}", comparison.sentence));
            }
        }
        for rollout in snapshot.rollouts.values().filter(|r| r.spec.line == version.line && r.spec.version == version.version) {
            said.push(format!("{} created rollout {} at {}.", rollout.created_by.name(), rollout.id, rollout.created_at));
            for approval in &rollout.approvals {
                said.push(format!("{} approved stage {} of rollout {} at {}.", approval.by, approval.stage + 1, rollout.id, approval.at));
            }
        }
        Ok(said)
    }
}

fn origin_data(data: &leeway_protocol::manifest::Dataset, records: &[DatasetRecord]) -> OriginData {
    let record = records.iter().find(|record| record.names(data.digest));
    OriginData {
        role: data.role.clone(),
        digest: data.digest.to_string(),
        rows: data.rows,
        dataset: record.map(|record| record.manifest.digest.to_string()),
        sentence: record.map_or_else(|| format!("{:?}, which is not kept here", data.name), |record| record.sentence.clone()),
    }
}

impl Origin {
    fn words(&self) -> Vec<String> {
        let each: Vec<String> = self.data.iter().map(|d| format!("{} rows of {} data ({})", d.rows, d.role, d.digest)).collect();
        let mut dataset: Vec<&str> = self.data.iter().map(|d| d.sentence.as_str()).collect();
        dataset.dedup();
        let data =
            if each.is_empty() { "its manifest names none".to_owned() } else { format!("{}. {}", each.join(", "), dataset.join(" ")) };
        let code =
            if self.code.is_empty() { "its manifest names none".to_owned() } else { format!("{} at {}", self.code, self.code_revision) };
        let run = match (&self.run, &self.job) {
            (Some(run), _) => run.sentence(),
            (None, Some(job)) => format!("{job}, of which there is no record here"),
            (None, None) => "none is named".to_owned(),
        };
        let parent = self.parent.clone().unwrap_or_else(|| "none".to_owned());
        vec![
            format!("Data: {data}"),
            format!("Code: {code}"),
            format!("Run: {run}"),
            format!("Parent: {parent}"),
            format!("Approved: {}", self.approved.join(" ")),
        ]
    }
}
