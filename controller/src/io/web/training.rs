//! Training jobs: what operators see, and the queue that workers pull from.
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::manifest::Blob;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, name};
use super::guard::By;
use super::resource::training::JobKept;
use super::resource::training::TrainingJob;
use super::view::training::training_job;
use crate::io::training::{Candidate, Delivery, ExternalRun};

/// A worker asks for work.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    /// Its name.
    worker: String,
    /// Lines it may train; empty for any.
    #[serde(default)]
    lines: Vec<String>,
}

/// A worker is still at it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Alive {
    /// Its name.
    worker: String,
    /// The run of another system that does the work.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    run: Option<ExternalRun>,
}

/// A worker brings a candidate. Both blobs were uploaded before.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Submit {
    /// Its name.
    worker: String,
    /// Digest of the ONNX file.
    model: String,
    /// Digest of the manifest.
    manifest: String,
    /// Length of the manifest, bytes.
    manifest_length: u64,
    /// Digest of the record of the run, if there is one.
    #[serde(default)]
    run: Option<String>,
    /// Its length, bytes.
    #[serde(default)]
    run_length: u64,
}

/// A worker gives up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GiveUp {
    /// Its name.
    worker: String,
    /// Why, in a sentence.
    sentence: String,
}

/// Every job, newest first.
#[utoipa::path(get, path = "/api/v1/training/jobs", tag = "training", operation_id = "listTrainingJobs", responses((status = 200, body = Vec<TrainingJob>), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>) -> Result<Json<Vec<TrainingJob>>, Problem> {
    let jobs = web.facts(|facts| facts.jobs());
    Ok(Json(jobs.into_iter().map(|job| web.with_data(job)).collect::<Result<_, _>>()?))
}

impl Web {
    /// A job with what it was made of and how it was judged, which the store has.
    fn with_data(&self, mut job: TrainingJob) -> Result<TrainingJob, Problem> {
        let data = self.controller().job_data(&job.id)?;
        job.dataset = data.dataset.map(|dataset| dataset.train.digest.to_string());
        if let Some(comparison) = data.comparison.filter(|_| job.version.is_some()) {
            job.sentence = format!("{} {}", job.sentence, comparison.sentence);
        }
        Ok(job)
    }
}

/// One job.
#[utoipa::path(get, path = "/api/v1/training/jobs/{job}", tag = "training", operation_id = "getTrainingJob", params(("job" = String, Path, description = "The job")), responses((status = 200, body = TrainingJob), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(job): Path<String>) -> Result<Json<TrainingJob>, Problem> {
    let found = web.facts(|facts| facts.snapshot.jobs.get(&job).map(|j| training_job(j)));
    let found =
        found.ok_or_else(|| Problem::NotFound(format!("there is no training job {:?}", job.chars().take(80).collect::<String>())))?;
    Ok(Json(web.with_data(found)?))
}

/// Take the oldest waiting job. 204 when there is none.
#[utoipa::path(post, path = "/api/v1/training/claim", tag = "training", operation_id = "claimTrainingJob", request_body = Claim,
    responses((status = 200, description = "What to train, with the digests of its data", body = Object), (status = 204, description = "Nothing waits"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn claim(State(web): State<Web>, _by: By, Body(claim): Body<Claim>) -> Result<Response, Problem> {
    let lines = claim.lines.iter().map(|l| name::<Line>(l)).collect::<Result<Vec<_>, _>>()?;
    Ok(match web.controller().claim_job(&claim.worker, &lines).await? {
        Some(spec) => Json(spec).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// Keep a job from being given to another worker.
#[utoipa::path(post, path = "/api/v1/training/jobs/{job}/alive", tag = "training", operation_id = "keepTrainingJob", params(("job" = String, Path, description = "The job")), request_body = Alive,
    responses((status = 200, body = JobKept), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn alive(
    State(web): State<Web>,
    Path(job): Path<String>,
    _by: By,
    Body(alive): Body<Alive>,
) -> Result<Json<JobKept>, Problem> {
    let data = web.controller().keep_job(&job, &alive.worker, alive.run).await?;
    Ok(Json(JobKept { delivery: data.delivery }))
}

/// What a job that is running is to be made of: for the system that trains for its worker.
#[utoipa::path(get, path = "/api/v1/training/jobs/{job}/spec", tag = "training", operation_id = "getTrainingSpec", params(("job" = String, Path, description = "The job")),
    responses((status = 200, description = "What to train, with the digests of its data", body = Object), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn spec(State(web): State<Web>, Path(job): Path<String>) -> Result<Response, Problem> {
    Ok(Json(web.controller().job_spec(&job).await?).into_response())
}

/// Deliver what a run has made, for the worker to take, to try out and to sign. The blobs were uploaded before.
#[utoipa::path(post, path = "/api/v1/training/jobs/{job}/delivery", tag = "training", operation_id = "deliverTraining", params(("job" = String, Path, description = "The job")), request_body = Object,
    responses((status = 204, description = "Noted"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn deliver(
    State(web): State<Web>,
    Path(job): Path<String>,
    _by: By,
    Body(delivery): Body<Delivery>,
) -> Result<StatusCode, Problem> {
    web.controller().deliver(&job, delivery).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Bring a candidate; it is tried out and compared with the champion.
#[utoipa::path(post, path = "/api/v1/training/jobs/{job}/candidate", tag = "training", operation_id = "submitCandidate", params(("job" = String, Path, description = "The job")), request_body = Submit,
    responses((status = 200, body = TrainingJob), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn candidate(
    State(web): State<Web>,
    Path(job): Path<String>,
    _by: By,
    Body(submit): Body<Submit>,
) -> Result<Json<TrainingJob>, Problem> {
    let manifest = Blob { digest: name::<Digest>(&submit.manifest)?, length: submit.manifest_length };
    let run = submit.run.as_deref().map(name::<Digest>).transpose()?;
    let run = run.map(|digest| Blob { digest, length: submit.run_length });
    let candidate = Candidate { model: name::<Digest>(&submit.model)?, manifest, run };
    Ok(Json(training_job(&*web.controller().submit_candidate(&job, &submit.worker, candidate).await?)))
}

/// Give a job up.
#[utoipa::path(post, path = "/api/v1/training/jobs/{job}/fail", tag = "training", operation_id = "failTrainingJob", params(("job" = String, Path, description = "The job")), request_body = GiveUp,
    responses((status = 204, description = "Noted"), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn fail(
    State(web): State<Web>,
    Path(job): Path<String>,
    _by: By,
    Body(give_up): Body<GiveUp>,
) -> Result<StatusCode, Problem> {
    web.controller().fail_job(&job, &give_up.worker, &give_up.sentence).await?;
    Ok(StatusCode::NO_CONTENT)
}
