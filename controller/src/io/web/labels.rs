//! Labels that are wanted of a line.
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line};
use leeway_protocol::time::Timestamp;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::name;
use super::resource::labels::{LabelAsk, LabelShare, LabelsWanted};
use crate::quality::asking::{self, Ask, LabelPlan, LabelPolicy, Share};

const DAY_MS: i64 = 86_400_000;

/// Which devices to ask for how many labels today, with the probability of each decision to be asked, and why.
#[utoipa::path(get, path = "/api/v1/models/{line}/labels/wanted", tag = "drift", operation_id = "getLabelsWanted", params(("line" = String, Path, description = "The line")), responses((status = 200, body = LabelsWanted), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn wanted(State(web): State<Web>, Path(line): Path<String>) -> Result<Json<LabelsWanted>, Problem> {
    let line = name::<Line>(&line)?;
    let snapshot = web.controller().snapshot();
    if !snapshot.lines.contains_key(&line) {
        return Err(Problem::missing("model", &line));
    }
    let cohorts: Vec<Cohort> = snapshot.cohorts.values().filter(|c| c.line == line).map(|c| c.name.clone()).collect();
    let versions: BTreeMap<Digest, String> =
        snapshot.versions.values().filter(|v| v.line == line).map(|v| (v.manifest.digest, v.version.to_string())).collect();
    let now = web.controller().now();
    let (policy, places) = web.controller().look(|ledger| (ledger.quality.labels, ledger.label_places(&cohorts, &versions, now)));
    // Planned outside the lock.
    let plan = asking::plan(&policy, &line, now.as_millis().div_euclid(DAY_MS), &places);
    Ok(Json(resource(&line, &policy, plan)))
}

fn resource(line: &Line, policy: &LabelPolicy, plan: LabelPlan) -> LabelsWanted {
    let day = Timestamp::from_millis(plan.day * DAY_MS).to_string().chars().take(10).collect();
    LabelsWanted {
        line: line.to_string(),
        day,
        labels: plan.labels,
        per_day: policy.per_day,
        floor: policy.floor,
        half_width: policy.half_width,
        sentence: plan.sentence,
        shares: plan.shares.into_iter().map(share).collect(),
    }
}

fn share(share: Share) -> LabelShare {
    let ask = |ask: Ask| LabelAsk {
        device: ask.device.to_string(),
        labels: ask.labels,
        decisions_per_day: ask.decisions_per_day,
        inclusion: ask.inclusion,
    };
    LabelShare {
        cohort: share.cohort.to_string(),
        version: share.version,
        decisions_per_day: share.decisions_per_day,
        labels_per_day: share.labels_per_day,
        uniform: share.uniform,
        inclusion: share.inclusion,
        reason: share.reason,
        devices: share.devices.into_iter().map(ask).collect(),
    }
}
