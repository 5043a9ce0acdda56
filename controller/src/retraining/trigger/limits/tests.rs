//! Who is bound by what, and what is written down how often.
use super::super::tests::{NOW, job, load};
use super::*;

fn causes() -> [Trigger; 4] {
    let by = || "someone".to_owned();
    [
        Trigger::Drift { features: Vec::new() },
        Trigger::Scheduled { every_ms: 1 },
        Trigger::Called { by: by(), source: by(), key: None },
        Trigger::Asked { by: by() },
    ]
}

#[test]
fn the_table_of_limits_holds() {
    use Limit::{CoolDown, Cost, JobOpen, NotAutomatic, Quorum, Quota, RolloutOpen, Rows};
    let mut open = job(JobState::Queued, NOW - 5);
    open.request.cost = 60;
    let policy = TriggerPolicy {
        automatic: false,
        max_jobs: 1,
        min_cohorts: 2,
        cost_per_run: 50,
        cost_per_month: Some(100),
        ..TriggerPolicy::default()
    };
    for trigger in causes() {
        let drift = matches!(trigger, Trigger::Drift { .. });
        let jobs = [&open];
        let load = Load { cohorts: drift.then_some(1), ..load(&jobs, true) };
        let found: BTreeSet<Limit> = limits(&policy, &trigger, &load).into_iter().map(|refusal| refusal.limit).collect();
        let wanted: BTreeSet<Limit> = match trigger {
            Trigger::Asked { .. } => [JobOpen, Cost].into(),
            Trigger::Drift { .. } => [JobOpen, Cost, NotAutomatic, RolloutOpen, CoolDown, Quota, Rows, Quorum].into(),
            _ => [JobOpen, Cost, NotAutomatic, RolloutOpen, CoolDown, Quota, Rows].into(),
        };
        assert_eq!(found, wanted, "{trigger:?}");
    }
}

#[test]
fn a_budget_is_for_any_thirty_days_and_counts_what_failed() {
    let policy = TriggerPolicy { cost_per_run: 40, cost_per_month: Some(100), ..TriggerPolicy::default() };
    let paid = |ago: i64| {
        let mut job = job(JobState::Failed { sentence: String::new() }, NOW - ago);
        job.request.cost = 40;
        job
    };
    let asked = Trigger::Asked { by: "alice".to_owned() };
    let (one, two, old) = (paid(20 * 86_400_000), paid(29 * 86_400_000), paid(MONTH_MS));
    assert_eq!(limits(&policy, &asked, &load(&[&one, &old], false)), []);
    let refused = limits(&policy, &asked, &load(&[&one, &two], false));
    assert_eq!(refused[0].sentence, "A run costs 40, and 80 of the 100 for any 30 days are spent.");
    let free = TriggerPolicy { cost_per_month: None, ..policy };
    assert_eq!(limits(&free, &asked, &load(&[&one, &two], false)), []);
}

#[test]
fn the_same_refusal_is_written_down_once_a_day() {
    let at = |ms: i64, limit| {
        let refusal = Refusal { limit, sentence: "No.".to_owned() };
        Withheld::new(causes()[0].clone(), "It drifted.", &[refusal], Timestamp::from_millis(ms))
    };
    let first = at(0, Limit::Rows);
    assert!(first.is_news(&[], None));
    assert_eq!(first.sentence, "No better model is asked for, though there is cause (It drifted). No.");
    let said = [first];
    assert!(!at(AGAIN_MS - 1, Limit::Rows).is_news(&said, None), "said");
    assert!(at(AGAIN_MS, Limit::Rows).is_news(&said, None), "a day later");
    assert!(at(5, Limit::Cost).is_news(&said, None), "for another reason");
    assert!(at(5, Limit::Rows).is_news(&said, Some(Timestamp::from_millis(3))), "a job was asked for in between");
}
