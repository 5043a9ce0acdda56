//! When to ask for a better model, and what forbids it.
//!
//! Four causes: the world moved *and* it hurts ([`harm`] says what hurts), it is time by the line's schedule, another system
//! calls, a person asks. An alarm of the cohort layer alone is no cause (a stable model may not care), a bad month of labels alone
//! is none either (it may be chance): both together are. Instruments under alarm never count; they are a technician's. Concept
//! drift leaves the inputs alone and shows in the labels only, so its own alarm stands for both.
//!
//! What forbids it although there is cause stands in [`limits`]: one table for all four causes, so that no way in is wider than
//! another by oversight. What stays true: every "no" says what is missing, and a "no" to a cause is written down.
use std::collections::BTreeSet;

use leeway_protocol::ids::Cohort;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::job::Trigger;

pub mod limits;

pub use limits::{Limit, Load, Refusal, Withheld, limits};

/// When to ask.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriggerPolicy {
    /// Whether the controller asks on its own at all.
    pub automatic: bool,
    /// Fall of accuracy, measured or estimated, that hurts.
    pub loss: f64,
    /// Labels behind a measured accuracy before it counts.
    pub min_labels: u64,
    /// Labelled rows that must wait for training.
    pub min_rows: u64,
    /// Milliseconds after the last job's last change before the next.
    pub cool_down_ms: i64,
    /// Jobs per period, at most.
    pub max_jobs: u32,
    /// That period, milliseconds.
    pub period_ms: i64,
    /// Cohorts that drift must hurt.
    pub min_cohorts: u32,
    /// Ask at least so often, milliseconds; 0 for never.
    pub every_ms: i64,
    /// What a run is declared to cost.
    pub cost_per_run: u64,
    /// What the runs of 30 days may cost.
    pub cost_per_month: Option<u64>,
}

impl Default for TriggerPolicy {
    fn default() -> Self {
        Self {
            automatic: true,
            loss: 0.03,
            min_labels: 200,
            min_rows: 1000,
            cool_down_ms: 86_400_000,
            max_jobs: 3,
            period_ms: 7 * 86_400_000,
            min_cohorts: 1,
            every_ms: 0,
            cost_per_run: 0,
            cost_per_month: None,
        }
    }
}

/// What is known about one cohort.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Condition {
    /// Which.
    pub cohort: Option<Cohort>,
    /// Features about the world whose alarm stands: name and sentence.
    pub moved: Vec<(String, String)>,
    /// Names among them that are outputs or confidence: a shift there is a loss of its own.
    pub outputs: BTreeSet<String>,
    /// Whether the labels' own detector (concept drift) is past its threshold.
    pub concept_drift: bool,
    /// Accuracy on held-out data at training time.
    pub expected: Option<f64>,
    /// Measured lately: share and labels.
    pub measured: Option<(f64, u64)>,
    /// Estimated lately.
    pub estimated: Option<f64>,
    /// Labelled rows that could be trained on.
    pub rows: u64,
}

/// What to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Why, as a value.
    pub trigger: Trigger,
    /// Cohorts whose data speaks for it.
    pub cohorts: Vec<Cohort>,
    /// The cause alone, in a sentence.
    pub cause: String,
    /// The cause and what is done about it.
    pub reason: String,
    /// What was measured, in sentences.
    pub evidence: Vec<String>,
}

/// Why nothing is asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct No {
    /// One sentence per missing thing.
    pub why: Vec<String>,
    /// What there was cause for, and what forbade it; absent if there was no cause.
    pub withheld: Option<(Trigger, String, Vec<Refusal>)>,
}

/// What the controller does on its own: ask, or say why not.
pub fn decide(policy: &TriggerPolicy, conditions: &[Condition], load: &Load<'_>) -> Result<Ask, No> {
    let mut why = Vec::new();
    let mut hurt: Vec<(&Condition, Vec<String>)> = Vec::new();
    for condition in conditions {
        match harm(policy, condition) {
            Ok(losses) => hurt.push((condition, losses)),
            Err(sentence) => why.push(sentence),
        }
    }
    let rows: u64 = conditions.iter().map(|c| c.rows).sum();
    let (ask, cohorts) = match on_time(policy, conditions, load) {
        _ if !hurt.is_empty() => (Some(ask(&hurt, rows)), Some(hurt.len())),
        due => (due, None),
    };
    let load = Load { rows, cohorts, ..*load };
    let Some(ask) = ask else {
        // Without a cause the limits are still worth a line: they say what would happen if there were one.
        let mut sentences: Vec<String> = limits(policy, &Trigger::Drift { features: Vec::new() }, &Load { rows: u64::MAX, ..load })
            .into_iter()
            .map(|refusal| refusal.sentence)
            .collect();
        sentences.extend(why);
        if sentences.is_empty() {
            sentences.push("No cohort reports yet.".to_owned());
        }
        return Err(No { why: sentences, withheld: None });
    };
    let refusals = limits(policy, &ask.trigger, &load);
    if refusals.is_empty() {
        return Ok(ask);
    }
    // Sentences of unharmed cohorts do not stop the harmed ones.
    let sentences = refusals.iter().map(|refusal| refusal.sentence.clone()).chain(why).collect();
    Err(No { why: sentences, withheld: Some((ask.trigger, ask.cause, refusals)) })
}

/// The line's schedule, if it is time.
fn on_time(policy: &TriggerPolicy, conditions: &[Condition], load: &Load<'_>) -> Option<Ask> {
    let since = load.last_asked().unwrap_or(load.since);
    if policy.every_ms <= 0 || load.now.millis_since(since) < policy.every_ms {
        return None;
    }
    let reason = format!("A new model is asked for every {}, and none was since {since}.", long(policy.every_ms));
    let cohorts = conditions.iter().filter_map(|c| c.cohort.clone()).collect();
    let (cause, evidence) = (reason.clone(), Vec::new());
    Some(Ask { trigger: Trigger::Scheduled { every_ms: policy.every_ms }, cohorts, cause, reason, evidence })
}

/// When it is time again by the schedule.
pub fn next_on_schedule(policy: &TriggerPolicy, load: &Load<'_>) -> Option<Timestamp> {
    (policy.every_ms > 0).then(|| load.last_asked().unwrap_or(load.since).plus_millis(policy.every_ms))
}

/// Milliseconds as a person says them.
fn long(ms: i64) -> String {
    let hours = ms / 3_600_000;
    match hours {
        48.. if hours % 24 == 0 => format!("{} days", hours / 24),
        2.. => format!("{hours} hours"),
        _ => format!("{} s", ms / 1000),
    }
}

fn ask(hurt: &[(&Condition, Vec<String>)], rows: u64) -> Ask {
    let features: BTreeSet<String> = hurt.iter().flat_map(|(c, _)| c.moved.iter().map(|(name, _)| name.clone())).collect();
    let cohorts: Vec<Cohort> = hurt.iter().filter_map(|(c, _)| c.cohort.clone()).collect();
    let names: Vec<&str> = cohorts.iter().map(Cohort::as_str).collect();
    let what = if features.is_empty() { "the labels changed their meaning".to_owned() } else { format!("{} moved", list(&features)) };
    let losses = hurt.iter().flat_map(|(_, l)| l.iter()).next().cloned().unwrap_or_default();
    let cause = format!("At {}, {what}, and it hurts: {losses}", names.join(", "));
    let reason = format!("{cause} A new model is trained on {rows} labelled rows.");
    let evidence = hurt.iter().flat_map(|(c, losses)| c.moved.iter().map(|(_, s)| s.clone()).chain(losses.iter().cloned())).collect();
    Ask { trigger: Trigger::Drift { features: features.into_iter().collect() }, cohorts, cause, reason, evidence }
}

/// The losses of a cohort that moved, in sentences; or why it is no reason to retrain.
fn harm(policy: &TriggerPolicy, c: &Condition) -> Result<Vec<String>, String> {
    let name = c.cohort.as_ref().map_or("The fleet", Cohort::as_str);
    if c.moved.is_empty() && !c.concept_drift {
        return Err(format!("{name}: no drift alarm stands."));
    }
    let mut losses = Vec::new();
    let fall = |now: f64| c.expected.map(|then| then - now).filter(|&loss| loss > policy.loss);
    let points = |share: f64| format!("{:.1}", share * 100.0);
    if let Some((now, labels)) = c.measured.filter(|&(_, labels)| labels >= policy.min_labels)
        && let Some(loss) = fall(now)
    {
        losses.push(format!("measured accuracy at {name} fell by {} points to {} % ({labels} labels).", points(loss), points(now)));
    }
    if let Some(now) = c.estimated
        && let Some(loss) = fall(now)
    {
        losses.push(format!(
            "estimated accuracy at {name} fell by {} points to {} % (assumes no concept drift).",
            points(loss),
            points(now)
        ));
    }
    if c.concept_drift {
        losses.push(format!("the labels at {name} say that errors rose past the tolerance."));
    }
    let shifted: BTreeSet<String> = c.moved.iter().map(|(n, _)| n.clone()).filter(|n| c.outputs.contains(n)).collect();
    if !shifted.is_empty() {
        losses.push(format!("what the model answers at {name} has shifted ({}).", list(&shifted)));
    }
    if losses.is_empty() {
        let moved: BTreeSet<String> = c.moved.iter().map(|(n, _)| n.clone()).collect();
        return Err(format!(
            "{name}: {} moved, but no loss of more than {} points is seen; it is watched.",
            list(&moved),
            points(policy.loss)
        ));
    }
    Ok(losses)
}

fn list(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| n.replace('_', " ")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests;
