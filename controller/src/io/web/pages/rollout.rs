//! Rollouts: is the new model safe, what happens next, and how to stop it.
use leeway_protocol::time::Timestamp;
use maud::{Markup, html};

use super::charts::{interval, share_bar};
use super::layout::{Area, Frame, head, page};
use super::parts::{badge, card, command, conditions, empty, events, flush, legend, sign, tone, when};
use crate::io::web::resource::Level;
use crate::io::web::resource::rollout::{FailingDevice, Guardrail, Progress, Rollout, RolloutSummary, Stage};
use crate::io::web::words;

/// All rollouts.
pub fn rollouts_page(now: Timestamp, seq: u64, rollouts: &[RolloutSummary]) -> Markup {
    let active = rollouts.iter().filter(|r| matches!(r.level, Level::Busy | Level::Warn)).count() as u64;
    page(
        Frame { area: Area::Rollouts, title: "Rollouts", seq },
        html! {
            div #rollouts data-live {
                (head(&[], "Rollouts", html! {}, html! { (words::plural(active, "rollout")) " under way, " (words::count(rollouts.len() as u64)) " in all." }))
                div.stack {
                    @if rollouts.is_empty() {
                        section.card { (empty("No rollout yet", "A rollout takes a version to the fleet in stages, compares canary with control, and goes back on its own when the new one is worse.", Some("leeway rollout create --line rain --version 1.0.0"))) }
                    } @else {
                        section.card { div.flush data-scroll { (rollout_rows(now, rollouts)) } }
                    }
                }
            }
        },
    )
}

/// Rows of a table of rollouts.
pub(super) fn rollout_rows(now: Timestamp, rollouts: &[RolloutSummary]) -> Markup {
    html! {
        table {
            thead { tr { th { "Rollout" } th { "State" } th { "Versions" } th.num { "Stage" } th { "Devices" } th.num { "Exposed" } th.num { "Changed" } } }
            tbody {
                @for r in rollouts {
                    tr {
                        td.roomy { a href={ "/rollouts/" (r.id) } { (r.id) } span.sub { (r.sentence) } }
                        td { (badge(r.level, &r.phase)) }
                        td.nowrap { (r.line) " " (r.from_version.as_deref().unwrap_or("none")) " → " (r.to_version) }
                        td.num { (r.stage) " / " (r.stages) }
                        td.barred {
                            (share_bar(&r.id, &[("c-ok", r.actual_devices, "run it".to_owned()), ("c-busy", r.target_devices.saturating_sub(r.actual_devices), "on the way".to_owned()), ("c-idle", r.fleet_devices.saturating_sub(r.target_devices.max(r.actual_devices)), "not asked".to_owned())]))
                            span.sub.nowrap { @if is_over(r) { (r.actual_devices) " of " (r.fleet_devices) " run it now" } @else { (r.actual_devices) " run it, " (r.target_devices) " should, " (r.fleet_devices) " in all" } }
                        }
                        td.num { (words::count(r.exposed)) }
                        td.num { (when(now, r.updated_at)) }
                    }
                }
            }
        }
    }
}

fn is_over(r: &RolloutSummary) -> bool {
    matches!(r.phase.as_str(), "completed" | "rolled_back" | "aborted")
}

/// One rollout.
pub fn rollout_page(now: Timestamp, seq: u64, rollout: &Rollout) -> Markup {
    let s = &rollout.summary;
    page(
        Frame { area: Area::Rollouts, title: &s.id, seq },
        html! {
            div #rollout data-live {
                (head(&[("/rollouts", "Rollouts")], &s.id, badge(s.level, &s.phase), html! { (s.line) " " (s.from_version.as_deref().unwrap_or("none")) " → " a href={ "/models/" (s.line) "/versions/" (s.to_version) } { (s.to_version) } ", started " (when(now, s.created_at)) ", " (words::plural(s.exposed, "device")) " ever exposed" }))
                div.stack {
                    section class={ "card headline " (tone(s.level)) } {
                        div.body { p.say { (s.sentence) } @if !rollout.next.is_empty() { p.note { (rollout.next) } } @for part in &rollout.left_out { p.note { (badge(Level::Warn, "left out")) " " (part) } } (actions(rollout)) }
                    }
                    (card("Stages", progress_legend(), html! { div.rail { @for (i, stage) in rollout.stages.iter().enumerate() { (stage_box(stage, i as u32 + 1 == s.stage)) } } }))
                    @if !rollout.guardrails.is_empty() {
                        (card("Guardrails", legend(&[("c-current", "", "canary".to_owned()), ("c-reference", "", "control".to_owned()), ("c-bad", "dashed", "limit".to_owned())]), html! { div.guards { @for g in &rollout.guardrails { (guard(g)) } } }))
                    }
                    div.wide {
                        (failing(now, rollout))
                        div.stack {
                            @if !rollout.checks.is_empty() { (card("What else the gate looks at", html! {}, checks(rollout))) }
                            (card("Can the comparison be trusted?", html! {}, html! { @if rollout.conditions.is_empty() { p.note { @if is_over(s) { "It is over; nothing is compared any more." } @else { "Nothing to compare yet." } } } @else { (conditions(&rollout.conditions)) } }))
                        }
                    }
                    (flush("Events", html! {}, html! { @if rollout.events.is_empty() { (empty("Nothing yet", "Each decision about this rollout appears here with its reason.", None)) } @else { (events(now, &rollout.events)) } }))
                    (card("What was asked for", html! {}, html! {
                        details #spec { summary { "Specification" } pre { (serde_json::to_string_pretty(&rollout.spec).unwrap_or_default()) } }
                        p.note { "The same as JSON: " a href={ "/api/v1/rollouts/" (s.id) } { "/api/v1/rollouts/" (s.id) } }
                        (command(&format!("leeway rollout watch {}", s.id)))
                    }))
                }
            }
        },
    )
}

/// One form per action that is allowed now; each states what it would do and asks why.
fn actions(rollout: &Rollout) -> Markup {
    html! {
        div.actions {
            @for action in &rollout.allowed_actions {
                @let said = rollout.consequences.iter().find(|c| c.action == *action).map(|c| c.sentence.as_str());
                details.act id={ "act-" (action) } {
                    summary.button.danger[action == "abort"].primary[action == "promote"] { (action_name(action)) }
                    form method="post" action={ "/rollouts/" (rollout.summary.id) "/" (action) } {
                        @if let Some(said) = said { p { (said) } }
                        @if action == "dismiss" && !open_checks(rollout).is_empty() {
                            label { "Which check" select name="check" required { @for (name, sentence) in open_checks(rollout) { option value=(name) title=(sentence) { (words::capital(&name.replace('_', " "))) } } } }
                        }
                        label { "Why (goes to the audit trail)" input type="text" name="reason" required maxlength=(crate::io::web::resource::MAX_REASON) autocomplete="off"; }
                        div { button.button.danger[action == "abort"].primary[action != "abort"] type="submit" { (action_name(action)) } }
                    }
                }
            }
        }
    }
}

/// Checks and comparisons that hold the stage up: what a person may wave through, or hears why not.
fn open_checks(rollout: &Rollout) -> Vec<(&str, &str)> {
    let checks = rollout.checks.iter().map(|c| (c.verdict.as_str(), c.name.as_str(), c.sentence.as_str()));
    let rails = rollout.guardrails.iter().map(|g| (g.verdict.as_str(), g.metric.as_str(), g.sentence.as_str()));
    let open = |verdict: &str| matches!(verdict, "inconclusive" | "waiting");
    checks.chain(rails).filter(|(verdict, ..)| open(verdict)).map(|(_, name, sentence)| (name, sentence)).collect()
}

fn action_name(action: &str) -> String {
    match action {
        "abort" => "Roll back".to_owned(),
        "retry" => "Retry failed devices".to_owned(),
        other => words::capital(&other.replace('-', " ")),
    }
}

fn checks(rollout: &Rollout) -> Markup {
    html! {
        ul.conditions {
            @for c in &rollout.checks { li { (sign(c.level)) div { b { (words::capital(&c.name.replace('_', " "))) } span.say { (c.sentence) } } } }
        }
    }
}

fn parts_of(p: &Progress) -> [(&'static str, u64, String); 6] {
    [
        ("c-ok", p.committed, "committed".to_owned()),
        ("c-probation", p.probation, "on trial".to_owned()),
        ("c-busy", p.working, "installing".to_owned()),
        ("c-bad", p.failed, "failed".to_owned()),
        ("c-warn", p.rolled_back, "rolled back".to_owned()),
        ("c-idle", p.pending, "pending".to_owned()),
    ]
}

fn progress_legend() -> Markup {
    let entries = parts_of(&Progress::default()).map(|(class, _, name)| (class, "", name));
    legend(&entries)
}

fn stage_box(stage: &Stage, now: bool) -> Markup {
    let parts = parts_of(&stage.actual);
    let said: Vec<String> = parts.iter().filter(|(_, n, _)| *n > 0).map(|(_, n, name)| format!("{n} {name}")).collect();
    html! {
        div class={ "stage " (tone(stage.level)) @if now { " now" } } {
            header { h3 { (stage.name) } (badge(stage.level, &stage.state)) }
            p.aim { @if stage.target_devices > 0 { "target " b { (words::plural(stage.target_devices, "device")) } " · " } (stage.target) }
            (share_bar(&stage.name, &parts))
            @if !said.is_empty() { p.aim { "actual " b { (said.join(" · ")) } } }
            p.aim {
                "soak " (words::duration(stage.soak_ms))
                @if let Some(left) = stage.soak_left_ms { ", " b { (words::duration(left)) " left" } }
            }
            @if !stage.sentence.is_empty() { p.say { (stage.sentence) } }
        }
    }
}

fn guard(g: &Guardrail) -> Markup {
    html! {
        div.guard {
            header { h3 { (g.title) } (badge(g.level, &g.verdict)) }
            div.arms {
                div { span.name { i.swatch.c-current {} "Canary" } span.value { (value(g.canary, &g.unit)) } span.n { "n = " (words::count(g.canary_n)) } }
                div { span.name { i.swatch.c-reference {} "Control" } span.value { (value(g.control, &g.unit)) } span.n { "n = " (words::count(g.control_n)) } }
            }
            (interval(g))
            p.say { (g.sentence) }
        }
    }
}

fn value(x: Option<f64>, unit: &str) -> String {
    words::or_unknown(x, |x| match unit {
        "%" => words::percent(x),
        "µs" => words::micros(x),
        "" => words::number(x),
        unit => format!("{}\u{202f}{unit}", words::number(x)),
    })
}

fn failing(now: Timestamp, rollout: &Rollout) -> Markup {
    let row = |d: &FailingDevice| {
        html! {
            tr {
                td { a href={ "/devices/" (d.device) } { (d.device) } span.sub { (d.sentence) } }
                td { (d.cohort) }
                td { (badge(Level::Bad, &d.phase)) }
                td.num { @if let Some(at) = d.at { (when(now, at)) } }
            }
        }
    };
    flush(
        "Devices it does not run on",
        html! { (words::count(rollout.failing_total)) " in all" },
        html! {
            @if let Some(found) = rollout.shared.first().filter(|t| t.is_telling()) {
                div.body { p.say { "What they share: " (found.sentence) } }
            } @else if !rollout.shared.is_empty() {
                div.body { p.note { "They share no label that the others lack more often than by accident." } }
            }
            @if rollout.failing.is_empty() { (empty("None", "No device refused this version or went back on its own.", None)) }
            @else { table { thead { tr { th { "Device" } th { "Cohort" } th { "What it did" } th.num { "When" } } } tbody { @for d in &rollout.failing { (row(d)) } } } }
            @if rollout.shared.len() > 1 { (shared(rollout)) }
        },
    )
}

/// The labels of the failing devices against those of the sound ones, as a table.
fn shared(rollout: &Rollout) -> Markup {
    html! {
        details #shared {
            summary { "What the failing devices share" }
            table {
                thead { tr { th { "Label" } th.num { "Failing" } th.num { "Sound" } th.num { "By accident" } } }
                tbody { @for t in &rollout.shared { tr {
                    td { (t.slice) }
                    td.num { (t.failing_with) " of " (t.failing) }
                    td.num { (t.healthy_with) " of " (t.healthy) }
                    td.num { @if t.chance < 1e-4 { "less than 0.01 %" } @else { (words::percent(t.chance)) } }
                } } }
            }
            p.note { "Fisher's exact test, times the number of labels looked at: the chance that so strong a link is an accident." }
        }
    }
}
