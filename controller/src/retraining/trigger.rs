//! When a better model is asked for: the world moved *and* it hurts. Drift that harms nothing is shown, not acted on.
//!
//! An alarm of the cohort layer alone is no reason (a stable model may not care), a bad month of labels alone is none either
//! (it may be chance): both together are. Instruments under alarm never count; they are a technician's. Concept drift leaves
//! the inputs alone and shows in the labels only, so its own alarm stands for both. A cool-down and a quota keep a wrong detector, or
//! a world that moves every week, from retraining in circles. What stays true: every "no" says what is missing.
use std::collections::BTreeSet;

use leeway_protocol::ids::Cohort;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::job::{JobState, TrainingJob, Trigger};

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
    /// Why, in a sentence.
    pub reason: String,
    /// What was measured, in sentences.
    pub evidence: Vec<String>,
}

/// Ask, or say why not (one sentence per missing thing).
pub fn decide<'a>(
    policy: &TriggerPolicy,
    conditions: &[Condition],
    jobs: impl IntoIterator<Item = &'a TrainingJob>,
    rollout_open: bool,
    now: Timestamp,
) -> Result<Ask, Vec<String>> {
    let mut why_not = Vec::new();
    if !policy.automatic {
        why_not.push("Retraining is not automatic for this line.".to_owned());
    }
    if rollout_open {
        why_not.push("A rollout of this line is under way; its outcome is awaited first.".to_owned());
    }
    let quota = quota(policy, jobs, now);
    let mut blocked = !policy.automatic || rollout_open || !quota.is_empty();
    why_not.extend(quota);
    let mut hurt: Vec<(&Condition, Vec<String>)> = Vec::new();
    for condition in conditions {
        match harm(policy, condition) {
            Ok(losses) => hurt.push((condition, losses)),
            Err(sentence) => why_not.push(sentence),
        }
    }
    let rows: u64 = conditions.iter().map(|c| c.rows).sum();
    if !hurt.is_empty() && rows < policy.min_rows {
        why_not.push(format!("Only {rows} labelled rows wait for training, {} are needed.", policy.min_rows));
        blocked = true;
    }
    // Sentences of unharmed cohorts do not stop the harmed ones.
    if hurt.is_empty() || blocked {
        if why_not.is_empty() {
            why_not.push("No cohort reports yet.".to_owned());
        }
        return Err(why_not);
    }
    Ok(ask(&hurt, rows))
}

fn ask(hurt: &[(&Condition, Vec<String>)], rows: u64) -> Ask {
    let features: BTreeSet<String> = hurt.iter().flat_map(|(c, _)| c.moved.iter().map(|(name, _)| name.clone())).collect();
    let cohorts: Vec<Cohort> = hurt.iter().filter_map(|(c, _)| c.cohort.clone()).collect();
    let names: Vec<&str> = cohorts.iter().map(Cohort::as_str).collect();
    let what = if features.is_empty() { "the labels changed their meaning".to_owned() } else { format!("{} moved", list(&features)) };
    let losses = hurt.iter().flat_map(|(_, l)| l.iter()).next().cloned().unwrap_or_default();
    let reason = format!("At {}, {what}, and it hurts: {losses} A new model is trained on {rows} labelled rows.", names.join(", "));
    let evidence = hurt.iter().flat_map(|(c, losses)| c.moved.iter().map(|(_, s)| s.clone()).chain(losses.iter().cloned())).collect();
    Ask { trigger: Trigger::Drift { features: features.into_iter().collect() }, cohorts, reason, evidence }
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

fn quota<'a>(policy: &TriggerPolicy, jobs: impl IntoIterator<Item = &'a TrainingJob>, now: Timestamp) -> Vec<String> {
    let (mut recent, mut last, mut open) = (0u32, None, None);
    for job in jobs {
        if job.state.is_open() {
            open = Some(job.request.id.clone());
        }
        let by_person = matches!(job.request.trigger, Trigger::Asked { .. });
        if !by_person && now.millis_since(job.request.asked_at) < policy.period_ms {
            recent += 1;
        }
        // A job that broke is retried by its own rules; it cools nothing down.
        if !matches!(job.state, JobState::Failed { .. }) {
            last = last.max(Some(job.updated_at));
        }
    }
    let mut sentences = Vec::new();
    if let Some(id) = open {
        sentences.push(format!("A training job is already under way ({id})."));
    }
    if recent >= policy.max_jobs {
        sentences.push(format!("A training job would be one too many: {recent} in this period, {} are allowed.", policy.max_jobs));
    }
    if let Some(at) = last.filter(|&at| now.millis_since(at) < policy.cool_down_ms) {
        let rest = (policy.cool_down_ms - now.millis_since(at)) / 1000;
        sentences.push(format!("The last training job changed at {at}; the next may be asked for in {rest} s."));
    }
    sentences
}

fn list(names: &BTreeSet<String>) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| n.replace('_', " ")).collect();
    let more = names.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::super::job::RetrainRequest;
    use super::*;

    fn harmed() -> Condition {
        Condition {
            cohort: Some("coast".parse().unwrap()),
            moved: vec![("wind_speed".into(), "Wind speed at coast moved lower.".into())],
            expected: Some(0.8),
            measured: Some((0.6, 500)),
            estimated: Some(0.79),
            rows: 5000,
            ..Condition::default()
        }
    }

    fn job(state: JobState, at: i64) -> TrainingJob {
        let asked = RetrainRequest::of_a_test("rain-1", "1.0.0", Timestamp::from_millis(at));
        let request = RetrainRequest { trigger: Trigger::Drift { features: vec![] }, ..asked };
        TrainingJob { request, state, updated_at: Timestamp::from_millis(at) }
    }

    const NOW: i64 = 1_000_000_000;

    fn decide_with(condition: Condition, jobs: &[TrainingJob], rollout_open: bool) -> Result<Ask, Vec<String>> {
        decide(&TriggerPolicy::default(), &[condition], jobs, rollout_open, Timestamp::from_millis(NOW))
    }

    #[test]
    fn drift_that_hurts_asks_with_its_evidence() {
        let ask = decide_with(harmed(), &[], false).unwrap();
        assert_eq!(ask.trigger, Trigger::Drift { features: vec!["wind_speed".into()] });
        assert_eq!(
            ask.reason,
            "At coast, wind speed moved, and it hurts: measured accuracy at coast fell by 20.0 points to 60.0 % (500 labels). A new model is trained on 5000 labelled rows."
        );
        assert_eq!(ask.evidence.len(), 2);
        let concept = Condition { moved: vec![], concept_drift: true, ..harmed() };
        assert!(decide_with(concept, &[], false).unwrap().reason.contains("changed their meaning"));
        let shift = Condition { measured: None, outputs: ["wind_speed".to_owned()].into(), ..harmed() };
        assert!(decide_with(shift, &[], false).unwrap().reason.contains("has shifted"));
    }

    #[test]
    fn each_missing_thing_is_named() {
        let cases: [(&str, Condition, &[TrainingJob], bool); 7] = [
            ("no drift alarm", Condition { moved: vec![], ..harmed() }, &[], false),
            ("no loss of more than 3.0 points", Condition { measured: Some((0.79, 500)), ..harmed() }, &[], false),
            ("no loss of more than", Condition { measured: Some((0.5, 20)), ..harmed() }, &[], false),
            ("Only 10 labelled rows", Condition { rows: 10, ..harmed() }, &[], false),
            ("already under way (rain-1)", harmed(), &[job(JobState::Queued, 0)], false),
            ("the next may be asked for in", harmed(), &[job(JobState::Lost { sentence: String::new() }, NOW - 5)], false),
            ("A rollout of this line", harmed(), &[], true),
        ];
        for (want, condition, jobs, rollout_open) in cases {
            let why = decide_with(condition, jobs, rollout_open).unwrap_err();
            assert!(why.iter().any(|s| s.contains(want)), "{want}: {why:?}");
        }
        let many: Vec<TrainingJob> = (0..3).map(|i| job(JobState::Failed { sentence: String::new() }, NOW - 1000 - i)).collect();
        assert!(decide_with(harmed(), &many, false).unwrap_err()[0].contains("one too many"));
        let off = TriggerPolicy { automatic: false, ..TriggerPolicy::default() };
        assert!(decide(&off, &[harmed()], [], false, Timestamp::from_millis(NOW)).unwrap_err()[0].contains("not automatic"));
    }
}
