//! What is asked for, and what each "no" says.
use super::super::job::{JobState, RetrainRequest, TrainingJob};
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

pub(super) fn job(state: JobState, at: i64) -> TrainingJob {
    let asked = RetrainRequest::of_a_test("rain-1", "1.0.0", Timestamp::from_millis(at));
    let mut job = TrainingJob::new(RetrainRequest { trigger: Trigger::Drift { features: vec![] }, ..asked });
    job.move_to(state, Timestamp::from_millis(at));
    job
}

pub(super) const NOW: i64 = 10_000_000_000;

pub(super) fn load<'a>(jobs: &'a [&'a TrainingJob], rollout_open: bool) -> Load<'a> {
    Load { jobs, rollout_open, rows: 0, cohorts: None, since: Timestamp::from_millis(0), now: Timestamp::from_millis(NOW) }
}

fn decide_with(policy: &TriggerPolicy, condition: Condition, jobs: &[TrainingJob], rollout_open: bool) -> Result<Ask, No> {
    let jobs: Vec<&TrainingJob> = jobs.iter().collect();
    decide(policy, &[condition], &load(&jobs, rollout_open))
}

#[test]
fn drift_that_hurts_asks_with_its_evidence() {
    let policy = TriggerPolicy::default();
    let ask = decide_with(&policy, harmed(), &[], false).unwrap();
    assert_eq!(ask.trigger, Trigger::Drift { features: vec!["wind_speed".into()] });
    assert_eq!(
        ask.reason,
        "At coast, wind speed moved, and it hurts: measured accuracy at coast fell by 20.0 points to 60.0 % (500 labels). A new model is trained on 5000 labelled rows."
    );
    assert_eq!(ask.evidence.len(), 2);
    let concept = Condition { moved: vec![], concept_drift: true, ..harmed() };
    assert!(decide_with(&policy, concept, &[], false).unwrap().reason.contains("changed their meaning"));
    let shift = Condition { measured: None, outputs: ["wind_speed".to_owned()].into(), ..harmed() };
    assert!(decide_with(&policy, shift, &[], false).unwrap().reason.contains("has shifted"));
}

#[test]
fn without_cause_nothing_is_withheld_and_what_is_missing_is_named() {
    let cases: [(&str, Condition); 3] = [
        ("no drift alarm", Condition { moved: vec![], ..harmed() }),
        ("no loss of more than 3.0 points", Condition { measured: Some((0.79, 500)), ..harmed() }),
        ("no loss of more than", Condition { measured: Some((0.5, 20)), ..harmed() }),
    ];
    for (want, condition) in cases {
        let no = decide_with(&TriggerPolicy::default(), condition, &[], false).unwrap_err();
        assert!(no.why.iter().any(|s| s.contains(want)) && no.withheld.is_none(), "{want}: {no:?}");
    }
}

#[test]
fn with_cause_what_forbids_it_is_withheld_with_its_sentence() {
    let failed = |at| job(JobState::Failed { sentence: String::new() }, at);
    let many: Vec<TrainingJob> = (0..3).map(|i| failed(NOW - 1000 - i)).collect();
    let (open, young) = (job(JobState::Queued, 0), job(JobState::Lost { sentence: String::new() }, NOW - 5));
    let off = TriggerPolicy { automatic: false, ..TriggerPolicy::default() };
    let two = TriggerPolicy { min_cohorts: 2, ..TriggerPolicy::default() };
    let default = TriggerPolicy::default();
    let cases: [(Limit, &str, &TriggerPolicy, Condition, &[TrainingJob], bool); 7] = [
        (Limit::Rows, "Only 10 labelled rows", &default, Condition { rows: 10, ..harmed() }, &[], false),
        (Limit::JobOpen, "already under way (rain-1: queued)", &default, harmed(), &[open], false),
        (Limit::CoolDown, "the next may be asked for in", &default, harmed(), &[young], false),
        (Limit::RolloutOpen, "A rollout of this line", &default, harmed(), &[], true),
        (Limit::Quota, "one too many", &default, harmed(), &many, false),
        (Limit::NotAutomatic, "not automatic", &off, harmed(), &[], false),
        (Limit::Quorum, "1 cohorts have a reason to retrain; 2 are needed", &two, harmed(), &[], false),
    ];
    for (limit, want, policy, condition, jobs, rollout_open) in cases {
        let no = decide_with(policy, condition, jobs, rollout_open).unwrap_err();
        let (trigger, reason, refusals) = no.withheld.expect(want);
        assert_eq!(refusals.iter().map(|r| r.limit).collect::<Vec<_>>(), [limit], "{want}");
        let withheld = Withheld::new(trigger, &reason, &refusals, Timestamp::from_millis(NOW));
        assert!(withheld.sentence.contains(want) && withheld.sentence.contains("wind speed moved"), "{}", withheld.sentence);
        assert!(no.why[0].contains(want), "{:?}", no.why);
    }
}

#[test]
fn a_schedule_asks_when_it_is_time_and_drift_goes_first() {
    let quiet = || Condition { moved: vec![], ..harmed() };
    let policy = TriggerPolicy { every_ms: 30 * 86_400_000, ..TriggerPolicy::default() };
    let ask = decide_with(&policy, quiet(), &[], false).unwrap();
    assert_eq!(ask.trigger, Trigger::Scheduled { every_ms: policy.every_ms });
    assert!(ask.reason.starts_with("A new model is asked for every 30 days, and none was since 1970"), "{}", ask.reason);
    assert_eq!(ask.cohorts, ["coast".parse().unwrap()]);
    assert!(matches!(decide_with(&policy, harmed(), &[], false).unwrap().trigger, Trigger::Drift { .. }));
    let recent = job(JobState::Lost { sentence: String::new() }, NOW - 2 * 86_400_000);
    let no = decide_with(&policy, quiet(), &[recent], false).unwrap_err();
    assert!(no.withheld.is_none(), "it is not time: {no:?}");
    let few = decide_with(&policy, Condition { rows: 1, ..quiet() }, &[], false).unwrap_err();
    assert!(matches!(few.withheld, Some((Trigger::Scheduled { .. }, _, _))), "{few:?}");
}
