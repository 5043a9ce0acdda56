//! `leeway device history`: what ran on a device at a moment, and why.
use leeway_controller::io::web::resource::history::{Entry, History};
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, Style, facts, put, table};

/// Run it.
pub(super) fn run(context: &Context, device: &DeviceId, at: Option<Timestamp>) -> Outcome {
    let query = at.map(|at| format!("?{}", crate::client::query(&[("at", at.to_string())]))).unwrap_or_default();
    let history: History = context.client.read(&format!("/api/v1/devices/{device}/history{query}"))?;
    if context.json {
        return output::json(&history);
    }
    put!("{}", render(&context.style, &history));
    Ok(())
}

fn render(style: &Style, h: &History) -> String {
    let mut rows = vec![("Device", style.bold(&h.device)), ("At", h.at.to_string()), ("Answer", h.sentence.clone())];
    if let Some(ran) = &h.running {
        let what = match (&ran.line, &ran.version) {
            (Some(line), Some(version)) => format!("{line} {version}, {} (generation {})", ran.phase, ran.generation),
            _ => format!("no model, {} (generation {})", ran.phase, ran.generation),
        };
        rows.push(("Ran", what));
        rows.push(("Manifest", ran.manifest.clone().unwrap_or_default()));
        rows.push(("Standby", ran.standby.clone().unwrap_or_default()));
        rows.push(("Since", format!("{}{}", ran.from, ran.device_from.map(|at| format!(" ({at} by its own clock)")).unwrap_or_default())));
        rows.push(("Until", ran.until.map_or_else(|| "now".to_owned(), |at| at.to_string())));
        rows.push(("Known", ran.how.clone()));
        rows.push(("Backed to", ran.confirmed_until.map(|at| at.to_string()).unwrap_or_default()));
        if let Some(told) = &ran.told {
            rows.push(("Told", format!("{}{}", told.reason, told.event.map(|seq| format!(" (event {seq})")).unwrap_or_default())));
        }
    }
    if let Some(told) = &h.pending {
        rows.push(("Pending", format!("{}{}", told.reason, told.event.map(|seq| format!(" (event {seq})")).unwrap_or_default())));
    }
    if let Some(rollout) = &h.rollout {
        rows.push(("Rollout", format!("{} by {}: {}", rollout.id, rollout.created_by, rollout.reason)));
        let approved = if rollout.approvals.is_empty() { "nobody had to, or did".to_owned() } else { rollout.approvals.join("; ") };
        rows.push(("Approved", approved));
    }
    if let Some(origin) = &h.origin {
        rows.push(("Published", format!("{} under {}", origin.published_at, origin.signer)));
        rows.push(("Code", origin.code.clone().unwrap_or_default()));
        rows.push(("Run", origin.run.clone().unwrap_or_default()));
        rows.push(("Parent", origin.parent.clone().unwrap_or_default()));
        rows.push(("Data", origin.datasets.join("; ")));
    }
    rows.retain(|(_, text)| !text.is_empty());
    let mut text = facts(style, &rows);
    for gap in &h.gaps {
        text += &format!("  {} {}\n", style.bold("gap"), style.plain(gap));
    }
    let entry = |e: &Entry| vec![e.seq.to_string(), e.at.to_string(), e.actor.clone(), e.sentence.clone()];
    let decisions: Vec<Vec<String>> = h.rollout.iter().flat_map(|r| r.decisions.iter().map(entry)).collect();
    if !decisions.is_empty() {
        text.push('\n');
        text += &table(style, &["EVENT", "AT", "BY", "DECISION"], &decisions);
    }
    if !h.record.is_empty() {
        let rows: Vec<Vec<String>> = h
            .record
            .iter()
            .map(|r| {
                let version = r.version.clone().unwrap_or_else(|| "none".to_owned());
                vec![r.from.to_string(), version, r.phase.clone(), r.heard_at.to_string(), r.why.clone()]
            })
            .collect();
        text.push('\n');
        text += &table(style, &["FROM", "VERSION", "PHASE", "HEARD", "WHY"], &rows);
    }
    text
}
