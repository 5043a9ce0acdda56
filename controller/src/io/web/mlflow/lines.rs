//! Registered models: lines, their tags and aliases.
use axum::Json;
use axum::extract::State;
use serde_json::json;

use super::super::Web;
use super::super::error::Problem;
use super::super::guard::{By, Who};
use super::{Answer, Asked, Refused, known, not_here};
use crate::io::control::{ControlError, NewLine};
use crate::registry::mlflow::entry::{self, NO_STAGE};
use crate::registry::mlflow::filter::PROMPT;
use crate::registry::mlflow::page::{Order, Wanted};
use crate::registry::mlflow::{Code, Filter, Refusal};
use crate::registry::{AliasName, TagChanges};

/// Models of one page, unless asked otherwise, and at most.
const PAGE: (usize, usize) = (100, 1_000);
/// MLflow's stages; every version is in the first.
const STAGES: [&str; 4] = [NO_STAGE, "Staging", "Production", "Archived"];
/// Why an alias was moved, when its client has no place to say so.
const REASON: &str = "asked for through MLflow's API";

pub(super) async fn create(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let (line, tags) = (asked.line()?, asked.tags()?);
    if tags.contains_key(PROMPT) {
        return Err(Refusal::invalid("prompts are not kept here: this is the registry of a fleet's models").into());
    }
    if web.controller().snapshot().lines.contains_key(&line) {
        return Err(Refusal::new(Code::ResourceAlreadyExists, format!("Registered Model (name={line}) already exists.")).into());
    }
    let new = NewLine { line: line.clone(), task: asked.maybe("description")?.to_owned(), tags };
    web.controller().create_line(new, &by).await.map_err(|error| match error {
        ControlError::Conflict(why) if why.contains("already") => Refused(Refusal::new(Code::ResourceAlreadyExists, why)),
        other => other.into(),
    })?;
    model(&web, &line)
}

pub(super) async fn show(State(web): State<Web>, asked: Asked) -> Answer {
    model(&web, &asked.line()?)
}

pub(super) async fn update(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let line = asked.line()?;
    known(&web, &line)?;
    if asked.has("description") {
        web.controller().write_description(&line, None, asked.maybe("description")?, &by).await?;
    }
    model(&web, &line)
}

pub(super) async fn search(State(web): State<Web>, asked: Asked) -> Answer {
    let (filter, order) = (asked.maybe("filter")?, asked.list("order_by")?);
    let wanted = Wanted::new(asked.max_results(PAGE.0, PAGE.1)?, asked.maybe("page_token")?, filter, &order);
    let (takes, order) = (Filter::of_models(filter)?, Order::of_models(&order)?);
    let mut found = entry::models(&web.controller().snapshot());
    found.retain(|model| takes.takes_model(model));
    order.sort(&mut found);
    let (part, next) = wanted.part(found.len())?;
    Ok(Json(json!({ "registered_models": found.get(part).unwrap_or_default(), "next_page_token": next })))
}

pub(super) async fn latest(State(web): State<Web>, asked: Asked) -> Answer {
    let (line, stages) = (asked.line()?, asked.list("stages")?);
    let state = known(&web, &line)?;
    if let Some(unknown) = stages.iter().find(|stage| !STAGES.iter().any(|known| known.eq_ignore_ascii_case(stage))) {
        let shown: String = unknown.chars().take(40).collect();
        return Err(Refusal::invalid(format!("Invalid Model Version stage: {shown}. Value must be one of {}.", STAGES.join(", "))).into());
    }
    let of_none = stages.is_empty() || stages.iter().any(|stage| stage.eq_ignore_ascii_case(NO_STAGE));
    let newest = state.lines.get(&line).filter(|_| of_none).map(|found| entry::model(&state, found).latest_versions);
    Ok(Json(json!({ "model_versions": newest.unwrap_or_default() })))
}

pub(super) async fn set_tag(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let line = asked.line()?;
    known(&web, &line)?;
    let change = TagChanges::from([(asked.text("key")?.to_owned(), Some(asked.maybe("value")?.to_owned()))]);
    web.controller().tag(&line, None, &change, &by).await?;
    Ok(Json(json!({})))
}

pub(super) async fn delete_tag(State(web): State<Web>, By(by): By, asked: Asked) -> Answer {
    let line = asked.line()?;
    known(&web, &line)?;
    web.controller().tag(&line, None, &TagChanges::from([(asked.text("key")?.to_owned(), None)]), &by).await?;
    Ok(Json(json!({})))
}

pub(super) async fn by_alias(State(web): State<Web>, asked: Asked) -> Answer {
    let line = asked.line()?;
    let state = known(&web, &line)?;
    let alias = asked.text("alias")?;
    let to = state.lines.get(&line).and_then(|found| entry::pointers(found).get(alias).cloned());
    let version = to.and_then(|version| entry::version(&state, &line, &version));
    let missing = || {
        let shown: String = alias.chars().take(80).collect();
        Refusal::missing(format!("Registered model alias {shown} not found for registered model with name={line}."))
    };
    Ok(Json(json!({ "model_version": version.ok_or_else(missing)? })))
}

pub(super) async fn set_alias(State(web): State<Web>, Who(who): Who, asked: Asked) -> Answer {
    let line = asked.line()?;
    let version = asked.version(&web, &line)?;
    let who = who.ok_or(Problem::Unauthorized)?;
    web.controller().point_alias(&line, alias(&asked)?, Some(version), REASON, &who).await?;
    Ok(Json(json!({})))
}

pub(super) async fn delete_alias(State(web): State<Web>, Who(who): Who, asked: Asked) -> Answer {
    let line = asked.line()?;
    known(&web, &line)?;
    let who = who.ok_or(Problem::Unauthorized)?;
    web.controller().point_alias(&line, alias(&asked)?, None, REASON, &who).await?;
    Ok(Json(json!({})))
}

pub(super) async fn rename(_by: By, asked: Asked) -> Answer {
    let line = asked.line()?;
    Err(not_here(format!(
        "model line {line} keeps its name, because every signed manifest and every device's report carries it: publish the next version \
         under the new name with `leeway model publish --line NEW …`"
    )))
}

pub(super) async fn remove(_by: By, asked: Asked) -> Answer {
    let line = asked.line()?;
    Err(not_here(format!(
        "model line {line} is never deleted, because devices and the audit log name it: `leeway model mark {line} VERSION yanked --reason …` \
         takes a version back from every device"
    )))
}

fn alias(asked: &Asked) -> Result<AliasName, Refusal> {
    asked.text("alias")?.parse().map_err(|e| Refusal::invalid(format!("{e}")))
}

fn model(web: &Web, line: &leeway_protocol::ids::Line) -> Answer {
    let state = known(web, line)?;
    let found = state.lines.get(line).map(|found| entry::model(&state, found));
    Ok(Json(json!({ "registered_model": found })))
}
