//! `leeway trainer episodes|episode|call`: why a better model was asked for, what came of it, and what was not begun.
use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::resource::episode::{Episode, EpisodeList, EpisodeStep, RetrainAnswer, RetrainCall, WithheldCause};
use leeway_controller::io::web::words;
use leeway_protocol::ids::Line;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::metadata::percent_encoded;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, put, table};

/// Width of sentences.
const COLUMNS: usize = 110;
/// Causes shown that began nothing.
const SHOWN: usize = 20;

/// All of them.
pub fn list(context: &Context) -> Outcome {
    let list: EpisodeList = context.client.read("/api/v1/episodes")?;
    if context.json {
        return output::json(&list);
    }
    let (now, style) = (output::now(), &context.style);
    if list.episodes.is_empty() {
        eprintln!("no episode of retraining yet");
        eprintln!(
            "help: one begins when drift hurts, by the line's schedule, when another system calls, or with `leeway trainer request LINE --reason …`"
        );
    } else {
        let row = |e: &leeway_controller::io::web::resource::episode::EpisodeSummary| {
            vec![e.id.clone(), e.cause.clone(), style.state(e.level, &e.step), words::ago(now, e.began_at), e.sentence.clone()]
        };
        put!("{}", table(style, &["EPISODE", "CAUSE", "AT", "BEGAN", "WHAT"], &list.episodes.iter().map(row).collect::<Vec<_>>()));
    }
    if !list.withheld.is_empty() {
        put!("\n{}\n", style.bold("Not begun"));
        list.withheld.iter().take(SHOWN).for_each(|withheld| withheld_line(context, now, withheld));
    }
    Ok(())
}

fn withheld_line(context: &Context, now: Timestamp, withheld: &WithheldCause) {
    let head = format!("{} · {} · {} · {}", words::ago(now, withheld.at), withheld.line, withheld.cause, withheld.limits.join(", "));
    put!("  {}\n    {}\n", context.style.dim(&head), output::wrap(&withheld.sentence, COLUMNS, 4));
}

/// One of them.
pub fn show(context: &Context, id: &str) -> Outcome {
    let episode: Episode = context.client.read(&format!("/api/v1/episodes/{}", percent_encoded(id)))?;
    if context.json {
        return output::json(&episode);
    }
    let (now, style, s) = (output::now(), &context.style, &episode.summary);
    put!("{} {}\n{}\n", style.bold(&s.id), style.state(s.level, &s.step), output::wrap(&s.sentence, COLUMNS, 0));
    for step in &episode.steps {
        one(context, now, step);
    }
    if !episode.withheld.is_empty() {
        put!("\n{}\n", style.bold("Before it, causes that began nothing"));
        episode.withheld.iter().take(SHOWN).for_each(|withheld| withheld_line(context, now, withheld));
    }
    Ok(())
}

fn one(context: &Context, now: Timestamp, step: &EpisodeStep) {
    let style = &context.style;
    let when = step.at.map(|at| format!("{at} ({})", words::ago(now, at))).unwrap_or_default();
    let word = match step.state.as_str() {
        "not-done" => "not done",
        other => other,
    };
    put!("\n{} {} {}\n", style.sign(step.level), style.bold(&words::capital(&step.name)), style.dim(&format!("{word} {when}")));
    put!("  {}\n", output::wrap(&step.sentence, COLUMNS, 2));
    for detail in &step.details {
        put!("  · {}\n", output::wrap(detail, COLUMNS, 4));
    }
    for link in &step.links {
        put!("  {}\n", style.tint(Level::Busy, &format!("{}: {}{}", link.title, context.client.base(), link.href)));
    }
}

/// Call for a better model.
pub fn call(context: &Context, line: &Line, call: &RetrainCall) -> Outcome {
    let answer: RetrainAnswer = context.client.send(&format!("/api/v1/models/{line}/retrain/call"), call)?;
    if context.json {
        output::json(&answer)?;
    } else if answer.outcome != "withheld" {
        put!("{}\n", answer.sentence);
    }
    if answer.outcome == "withheld" {
        return Err(Failure::new(answer.sentence).code(6));
    }
    Ok(())
}
