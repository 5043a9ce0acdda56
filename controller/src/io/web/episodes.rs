//! Episodes: what began, how far it came, and what was not begun. And the call of another system.
use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::ids::Line;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, name};
use super::guard::By;
use super::resource::episode::{Episode, EpisodeList, RetrainAnswer, RetrainCall};
use crate::io::control::{Answer, Call};

impl Web {
    /// One episode.
    pub(super) fn episode(&self, id: &str) -> Result<Episode, Problem> {
        let missing = || Problem::NotFound(format!("there is no episode {:?}", id.chars().take(80).collect::<String>()));
        if !self.controller().snapshot().jobs.contains_key(id) {
            return Err(missing());
        }
        let data = self.controller().job_data(id)?;
        self.facts(|facts| facts.episode(id, &data)).ok_or_else(missing)
    }
}

/// Every episode of retraining, and every cause that began none, newest first.
#[utoipa::path(get, path = "/api/v1/episodes", tag = "training", operation_id = "listEpisodes", responses((status = 200, body = EpisodeList), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn list(State(web): State<Web>) -> Result<Json<EpisodeList>, Problem> {
    Ok(Json(web.facts(|facts| facts.episodes())))
}

/// One episode, from its cause to its outcome.
#[utoipa::path(get, path = "/api/v1/episodes/{episode}", tag = "training", operation_id = "getEpisode", params(("episode" = String, Path, description = "The episode: the name of its training job")), responses((status = 200, body = Episode), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn show(State(web): State<Web>, Path(episode): Path<String>) -> Result<Json<Episode>, Problem> {
    Ok(Json(web.episode(&episode)?))
}

/// Another system has found cause to ask for a better model. It is bound by the line's limits like the controller itself; that they
/// forbid it is an answer and not an error, so that a caller need not try again.
#[utoipa::path(post, path = "/api/v1/models/{line}/retrain/call", tag = "training", operation_id = "callRetraining", params(("line" = String, Path, description = "The line")), request_body = RetrainCall,
    responses((status = 200, body = RetrainAnswer), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn call(
    State(web): State<Web>,
    Path(line): Path<String>,
    By(by): By,
    Body(call): Body<RetrainCall>,
) -> Result<Json<RetrainAnswer>, Problem> {
    let RetrainCall { source, reason, key, evidence } = call;
    let answer = web.controller().call_retraining(&name::<Line>(&line)?, Call { source, reason, key, evidence }, &by).await?;
    Ok(Json(match answer {
        Answer::Asked(job) => told("asked", &job),
        Answer::Known(job) => told("known", &job),
        Answer::Withheld(withheld) => {
            let limits = withheld.limits.iter().filter_map(|limit| serde_json::to_value(limit).ok()?.as_str().map(ToOwned::to_owned));
            let limits = limits.collect();
            RetrainAnswer { outcome: "withheld".to_owned(), sentence: withheld.sentence, episode: None, limits }
        }
    }))
}

fn told(outcome: &str, job: &crate::retraining::job::TrainingJob) -> RetrainAnswer {
    let episode = Some(job.request.id.clone());
    RetrainAnswer { outcome: outcome.to_owned(), sentence: job.sentence(), episode, limits: Vec::new() }
}
