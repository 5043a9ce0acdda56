//! Model versions: what was signed, and candidates that nobody signed yet.
use axum::Json;
use axum::extract::State;
use leeway_protocol::ids::{Line, Version};
use serde_json::json;

use super::super::Web;
use super::super::guard::By;
use super::{Answer, Asked, known, not_here};
use crate::registry::mlflow::entry::{self, ModelVersion};
use crate::registry::mlflow::page::{Order, Wanted};
use crate::registry::mlflow::{Filter, Refusal, Source};
use crate::registry::{NewCandidate, Note, TagChanges};
use crate::snapshot::Snapshot;

/// Versions asked for at once, unless asked otherwise, and at most; pages are shorter, and clients ask on.
const PAGE: (usize, usize) = (10_000, 200_000);
/// The tag by which a client may choose the name of what it registers.
const NAME_TAG: &str = "leeway.version";

/// Register. A source that was published here binds to that version; any other becomes a candidate that nobody signed.
pub(super) async fn create(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let line = asked.line()?;
    let state = known(&web, &line)?;
    let source = asked.text("source")?;
    let mut tags = asked.tags()?;
    let wanted = tags.remove(NAME_TAG).flatten();
    let wanted = wanted.map(|name| name.parse::<Version>().map_err(|e| Refusal::invalid(format!("tag {NAME_TAG}: {e}")))).transpose()?;
    let description = asked.maybe("description")?;
    if let Some(version) = published(&state, &line, source)? {
        if wanted.is_some_and(|wanted| wanted != version) {
            return Err(Refusal::invalid(format!("{source} is version {version} of {line}, and keeps that name")).into());
        }
        if !tags.is_empty() {
            web.controller().tag(&line, Some(&version), &tags, &by).await?;
        }
        if !description.is_empty() {
            web.controller().write_description(&line, Some(&version), description, &by).await?;
        }
        return answer(&web, &line, &version);
    }
    let mut note = Note {
        description: description.to_owned(),
        source: source.to_owned(),
        run: asked.maybe("run_id")?.to_owned(),
        run_link: asked.maybe("run_link")?.to_owned(),
        ..Note::default()
    };
    note.tags.change(&tags).map_err(|e| Refusal::invalid(e.to_string()))?;
    let version = web.controller().register_candidate(&line, NewCandidate { version: wanted, note }, &by).await?;
    answer(&web, &line, &version)
}

pub(super) async fn show(State(web): State<Web>, asked: Asked) -> Answer {
    let line = asked.line()?;
    answer(&web, &line, &asked.version(&web, &line)?)
}

pub(super) async fn update(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let line = asked.line()?;
    let version = asked.version(&web, &line)?;
    if asked.has("description") {
        web.controller().write_description(&line, Some(&version), asked.maybe("description")?, &by).await?;
    }
    answer(&web, &line, &version)
}

pub(super) async fn search(State(web): State<Web>, asked: Asked) -> Answer {
    let (filter, order) = (asked.maybe("filter")?, asked.list("order_by")?);
    let wanted = Wanted::new(asked.max_results(PAGE.0, PAGE.1)?, asked.maybe("page_token")?, filter, &order);
    let (takes, order) = (Filter::of_versions(filter)?, Order::of_versions(&order)?);
    let state = web.controller().snapshot();
    let mut all: Vec<ModelVersion> = state.lines.values().flat_map(|line| entry::versions(&state, line)).collect();
    all.retain(|version| takes.takes_version(version));
    order.sort(&mut all);
    let (part, next) = wanted.part(all.len())?;
    Ok(Json(json!({ "model_versions": all.get(part).unwrap_or_default(), "next_page_token": next })))
}

/// Where the ONNX file can be fetched; for a candidate what its client said.
pub(super) async fn download_uri(State(web): State<Web>, asked: Asked) -> Answer {
    let line = asked.line()?;
    let version = asked.version(&web, &line)?;
    let candidate = found(&web, &line, &version)?;
    let state = web.controller().snapshot();
    let uri = match state.version(&line, &version) {
        Some(release) => format!("{}/blobs/{}", web.controller().http_address(), release.model.digest.hex()),
        None => candidate.source,
    };
    Ok(Json(json!({ "artifact_uri": uri })))
}

pub(super) async fn set_tag(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let change = TagChanges::from([(asked.text("key")?.to_owned(), Some(asked.maybe("value")?.to_owned()))]);
    tag(&web, &asked, &change, &by).await
}

pub(super) async fn delete_tag(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    tag(&web, &asked, &TagChanges::from([(asked.text("key")?.to_owned(), None)]), &by).await
}

pub(super) async fn transition(State(web): State<Web>, _by: By, asked: Asked) -> Answer {
    let line = asked.line()?;
    let version = asked.version(&web, &line)?;
    Err(not_here(format!(
        "there are no stages here, as MLflow gave them up too: `leeway rollout create --line {line} --version {version}` brings a version out, \
         and set_registered_model_alias gives it a name"
    )))
}

/// Candidates may go; what was signed stays.
pub(super) async fn remove(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let line = asked.line()?;
    let version = asked.version(&web, &line)?;
    if web.controller().snapshot().version(&line, &version).is_some() {
        return Err(not_here(format!(
            "version {version} of {line} was signed and published, so it is never deleted: \
             `leeway model mark {line} {version} yanked --reason …` takes it back from every device"
        )));
    }
    web.controller().delete_candidate(&line, &version, &by).await?;
    Ok(Json(json!({})))
}

async fn tag(web: &Web, asked: &Asked, change: &TagChanges, by: &str) -> Answer {
    let line = asked.line()?;
    let version = asked.version(web, &line)?;
    web.controller().tag(&line, Some(&version), change, by).await?;
    Ok(Json(json!({})))
}

fn found(web: &Web, line: &Line, version: &Version) -> Result<ModelVersion, Refusal> {
    let missing = || Refusal::missing(format!("Model Version (name={line}, version={version}) not found"));
    entry::version(&known(web, line)?, line, version).ok_or_else(missing)
}

fn answer(web: &Web, line: &Line, version: &Version) -> Answer {
    Ok(Json(json!({ "model_version": found(web, line, version)? })))
}

/// The published version of `line` that a source names; none if the source is elsewhere, a refusal if it is here and does not fit.
fn published(state: &Snapshot, line: &Line, source: &str) -> Result<Option<Version>, Refusal> {
    let of = |other: &Line, version: Version| {
        if other != line {
            return Err(Refusal::invalid(format!(
                "{source} is a version of line {other}, and a release is signed for one line: publish the model in {line} with `leeway model publish`"
            )));
        }
        match state.version(line, &version) {
            Some(_) => Ok(Some(version)),
            None => Err(Refusal::missing(format!("version {version} of {line} was not published here, so {source} names nothing"))),
        }
    };
    match Source::parse(source) {
        Source::Elsewhere => Ok(None),
        Source::Version(other, version) => of(&other, version),
        Source::Number(other, number) => {
            let version = entry::meant(state, &other, &number.to_string());
            of(&other, version.ok_or_else(|| Refusal::missing(format!("line {other} has no version with number {number}")))?)
        }
        Source::Alias(other, alias) => {
            let to = state.lines.get(&other).and_then(|found| entry::pointers(found).remove(alias.as_str()));
            of(&other, to.ok_or_else(|| Refusal::missing(format!("line {other} has no alias {alias}")))?)
        }
        Source::Digest(digest) => {
            let named = state.versions.values().filter(|v| v.manifest.digest == digest || v.model.digest == digest);
            match named.clone().find(|v| v.line == *line).or_else(|| named.clone().next()) {
                Some(v) => of(&v.line, v.version.clone()),
                None => Err(Refusal::missing(format!("no published version has a manifest or a model with digest {digest}"))),
            }
        }
    }
}
