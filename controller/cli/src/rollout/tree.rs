//! A rollout as a tree: the terminal twin of its page. Stage → devices (only failing ones by name) → what the gate measured.
use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::resource::rollout::{Guardrail, Progress, Rollout, Stage};
use leeway_controller::io::web::words;
use leeway_protocol::time::Timestamp;

use crate::output::{Style, facts, pad, width, wrap};

/// Cells of the progress bar.
const BAR: usize = 10;

/// On one line.
pub fn headline(style: &Style, rollout: &Rollout) -> String {
    let s = &rollout.summary;
    format!(
        "{}  stage {}/{}  {}/{} devices  {}",
        style.state(s.level, &s.phase),
        s.stage,
        s.stages,
        s.actual_devices,
        s.target_devices,
        style.plain(&s.sentence)
    )
}

/// The whole of it.
pub fn render(style: &Style, now: Timestamp, rollout: &Rollout) -> String {
    let mut rows = vec![root(style, now, rollout)];
    for (i, stage) in rollout.stages.iter().enumerate() {
        let current = i + 1 == rollout.summary.stage as usize;
        let last = i + 1 == rollout.stages.len();
        stage_rows(style, rollout, stage, i, current, last, &mut rows);
    }
    let mut text = head(style, now, rollout);
    text.push('\n');
    let columns = |i: usize| rows.iter().map(|r| r.get(i).map_or(0, |c| width(c))).max().unwrap_or(0);
    let widths = [columns(0).max(4), columns(1).max(6), columns(2).max(8)];
    let names = ["NAME", "STATUS", "PROGRESS", "INFO"].map(|n| style.dim(n));
    for row in std::iter::once(&names).chain(&rows) {
        let cells = row.iter().enumerate().map(|(i, c)| widths.get(i).map_or_else(|| c.clone(), |w| pad(c, *w)));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn head(style: &Style, now: Timestamp, rollout: &Rollout) -> String {
    let s = &rollout.summary;
    let stage = rollout.stages.get((s.stage as usize).saturating_sub(1)).filter(|_| s.stage > 0);
    let place = stage.map_or_else(|| format!("0/{}", s.stages), |stage| format!("{}/{} {}", s.stage, s.stages, stage.name));
    let room = style.columns.saturating_sub(9);
    let say = |text: &str| wrap(&style.plain(text), room + 9, 9);
    let next: Vec<String> = rollout
        .allowed_actions
        .iter()
        .filter(|a| ["resume", "pause", "promote", "abort"].contains(&a.as_str()))
        .map(|a| format!("leeway rollout {} {} --reason \"{}\"", cli_action(a), s.id, style.plain("…")))
        .collect();
    facts(
        style,
        &[
            ("Rollout", format!("{}  {}", style.bold(&s.id), style.state(s.level, &s.phase))),
            (
                "Model",
                format!(
                    "{} {} → {}, started {}",
                    s.line,
                    s.from_version.as_deref().unwrap_or("none"),
                    s.to_version,
                    words::ago(now, s.created_at)
                ),
            ),
            (
                "Stage",
                format!(
                    "{place}  target {}  actual {}  ever exposed {}",
                    s.target_devices,
                    stage.map_or_else(|| s.actual_devices.to_string(), |st| counts(style, &st.actual)),
                    s.exposed
                ),
            ),
            ("Why", say(&s.sentence)),
            ("Waits", say(&rollout.next)),
            ("Next", next.join(&format!("\n{}", " ".repeat(9)))),
        ],
    )
}

fn cli_action(action: &str) -> String {
    if action == "promote-all" { "promote --full".to_owned() } else { action.to_owned() }
}

/// `✔ 37 ◌ 2 ✖ 1`, without what there is none of.
fn counts(style: &Style, p: &Progress) -> String {
    let parts = [
        (Level::Ok, p.committed),
        (Level::Busy, p.working + p.probation),
        (Level::Bad, p.failed),
        (Level::Warn, p.rolled_back),
        (Level::Idle, p.pending),
    ];
    let shown: Vec<String> =
        parts.into_iter().filter(|(_, n)| *n > 0).map(|(level, n)| style.tint(level, &format!("{} {n}", style.sign(level)))).collect();
    if shown.is_empty() { "0".to_owned() } else { shown.join(" ") }
}

fn bar(style: &Style, done: u64, of: u64) -> String {
    let share = if of == 0 { 0.0 } else { done as f64 / of as f64 };
    let full = ((share * BAR as f64).round() as usize).min(BAR);
    let (on, off) = if style.unicode { ("█", "░") } else { ("#", "-") };
    format!("{}{} {:>3.0}%", on.repeat(full), off.repeat(BAR - full), share * 100.0)
}

fn root(style: &Style, now: Timestamp, rollout: &Rollout) -> [String; 4] {
    let s = &rollout.summary;
    let sign = if style.unicode { "⟳" } else { "*" };
    [
        format!("{sign} {}", s.id),
        style.state(s.level, &s.phase),
        bar(style, s.actual_devices, s.fleet_devices),
        style.plain(&format!("changed {}", words::ago(now, s.updated_at))),
    ]
}

/// The lines that join a branch to its parent.
struct Branch {
    here: String,
    below: String,
}

fn branch(style: &Style, above: &str, last: bool) -> Branch {
    let (tee, end, pipe) = if style.unicode { ("├─", "└─", "│ ") } else { ("|-", "`-", "| ") };
    Branch { here: format!("{above}{}", if last { end } else { tee }), below: format!("{above}{}", if last { "  " } else { pipe }) }
}

fn stage_rows(style: &Style, rollout: &Rollout, stage: &Stage, index: usize, current: bool, last: bool, rows: &mut Vec<[String; 4]>) {
    let own = branch(style, "", last);
    let left = stage.soak_left_ms.map(|ms| format!(", {} left", words::duration(ms))).unwrap_or_default();
    let info = format!("soak {}{left}", words::duration(stage.soak_ms));
    rows.push([
        format!("{}# stage {}  {} {}", own.here, index + 1, stage.name, style.plain(&words::whole_percent(stage.share))),
        style.state(stage.level, &stage.state),
        format!("{}/{}", stage.actual.committed, stage.target_devices),
        style.plain(&info),
    ]);
    if !current {
        return;
    }
    let gate = !rollout.guardrails.is_empty() || !rollout.checks.is_empty();
    let devices = branch(style, &own.below, !gate);
    rows.push([
        format!("{}{} devices", devices.here, if style.unicode { "⧉" } else { "=" }),
        counts(style, &stage.actual),
        String::new(),
        String::new(),
    ]);
    let unnamed = rollout.failing_total.saturating_sub(rollout.failing.len() as u64);
    for (i, d) in rollout.failing.iter().enumerate() {
        let b = branch(style, &devices.below, i + 1 == rollout.failing.len() && unnamed == 0);
        rows.push([
            format!("{}{} {}", b.here, if style.unicode { "□" } else { "-" }, d.device),
            style.state(Level::Bad, &d.phase),
            String::new(),
            style.plain(&d.code),
        ]);
    }
    if unnamed > 0 {
        let more = format!("{} and {unnamed} more", branch(style, &devices.below, true).here.trim_end());
        rows.push([more, String::new(), String::new(), style.plain("leeway rollout devices names them")]);
    }
    if let Some(found) = rollout.shared.first().filter(|t| t.is_telling()) {
        let info = style.plain(&found.sentence);
        rows.push([
            format!("{}{} what they share", devices.below, if style.unicode { "∩" } else { "&" }),
            String::new(),
            String::new(),
            info,
        ]);
    }
    if gate {
        gate_rows(style, rollout, &own.below, rows);
    }
}

fn gate_rows(style: &Style, rollout: &Rollout, above: &str, rows: &mut Vec<[String; 4]>) {
    let gate = branch(style, above, true);
    let verdicts = rollout.guardrails.iter().map(|g| g.level).chain(rollout.checks.iter().map(|c| c.level));
    let count = |wanted: Level| verdicts.clone().filter(|level| *level == wanted).count();
    let tally = [Level::Ok, Level::Bad, Level::Warn, Level::Idle].into_iter().map(|l| (l, count(l))).filter(|(_, n)| *n > 0);
    let tally: Vec<String> = tally.map(|(level, n)| style.tint(level, &format!("{} {n}", style.sign(level)))).collect();
    rows.push([format!("{}{} analysis", gate.here, if style.unicode { "α" } else { "%" }), tally.join(" "), String::new(), String::new()]);
    let total = rollout.checks.len() + rollout.guardrails.len();
    for (i, c) in rollout.checks.iter().enumerate() {
        let b = branch(style, &gate.below, i + 1 == total);
        rows.push([format!("{} {}", b.here, c.name), style.state(c.level, &c.verdict), String::new(), String::new()]);
    }
    for (i, g) in rollout.guardrails.iter().enumerate() {
        let b = branch(style, &gate.below, rollout.checks.len() + i + 1 == total);
        rows.push([format!("{} {}", b.here, g.metric), style.state(g.level, &g.verdict), String::new(), style.plain(&measured(g))]);
    }
}

/// `−22.7 pp [−29.8, −15.1] limit −5.0, n=312 vs 240`.
fn measured(g: &Guardrail) -> String {
    let points = |x: f64| format!("{}{:.1}", if x < 0.0 { "−" } else { "+" }, (x * 100.0).abs());
    match (g.difference, g.lower, g.upper, g.threshold) {
        (Some(d), Some(l), Some(u), Some(t)) => {
            format!("{} pp [{}, {}] limit {}, n={} vs {}", points(d), points(l), points(u), points(t), g.canary_n, g.control_n)
        }
        _ => format!("waiting, n={} vs {}", g.canary_n, g.control_n),
    }
}

#[cfg(test)]
mod tests;
