//! Each rule of the gate alone, with everything else in order.
use super::*;
use crate::rollout::evidence::{Arm, Arms, compare};

fn arm(devices: u64, n: f64, x: f64) -> Arm {
    let d = devices as f64;
    Arm { devices, n, x, n2: n * n / d, x2: x * x / d, nx: n * x / d }
}

struct Case {
    policy: GatePolicy,
    evidence: Option<Evidence>,
    counts: Counts,
    baseline: bool,
    soaking: Option<i64>,
    success_share: f64,
    drawn: Option<(usize, usize)>,
    dismissed: Vec<Dismissal>,
    failures: Arms,
    by_slice: bool,
}

impl Case {
    fn good() -> Self {
        let same = |x: f64| Arms { canary: arm(3, 1000.0, x), control: arm(12, 4000.0, 4.0 * x) };
        let arms = [(Metric::ErrorRatio, same(2.0)), (Metric::LabelledAccuracy, same(800.0))].into();
        let evidence =
            Evidence { arms, inferences: 1000, errors: 2, devices: 3, last_at: Some(Timestamp::from_secs(20)), ..Evidence::default() };
        let counts = Counts { members: 60, allowed: 3, control: 12, running: 3, exposed: 3, ..Counts::default() };
        Self {
            policy: GatePolicy::default(),
            evidence: Some(evidence),
            counts,
            baseline: true,
            soaking: Some(10),
            success_share: 0.0,
            drawn: None,
            dismissed: Vec::new(),
            failures: Arms::default(),
            by_slice: false,
        }
    }

    fn judged(&self) -> GateReport {
        judge(&Question {
            policy: &self.policy,
            evidence: self.evidence.as_ref(),
            failures: self.failures,
            counts: &self.counts,
            reach: 0,
            by_slice: self.by_slice,
            has_baseline: self.baseline,
            soaking_since: self.soaking.map(Timestamp::from_secs),
            stage: StageOutcome {
                index: 0,
                finished: self.counts.executed(),
                running: self.counts.running,
                success_share: self.success_share,
                drawn: self.drawn,
            },
            abort: &[],
            dismissed: &self.dismissed,
            compare,
        })
    }
}

type Row = (&'static str, fn(&mut Case), Outcome, &'static str);

#[test]
fn each_rule_decides_alone() {
    let table: [Row; 20] = [
        ("all is well", |_| {}, Outcome::Pass, "Every check passed"),
        ("nothing was ever heard", |c| c.evidence = None, Outcome::Inconclusive, "0 inferences were reported"),
        ("nothing since the soak began", |c| c.soaking = Some(30), Outcome::Inconclusive, "No report about the version"),
        ("not soaking yet", |c| c.soaking = None, Outcome::Inconclusive, "The stage has not filled yet"),
        ("nobody runs it", |c| c.counts.running = 0, Outcome::Inconclusive, "0 devices prove"),
        ("absolutely too many errors", |c| c.evidence.as_mut().unwrap().errors = 100, Outcome::Fail, "100 of 1100 inferences failed"),
        ("two of five failed by the model", |c| c.counts.failed_by_model = 2, Outcome::Fail, "2 of 5 devices"),
        ("one of four is not too many", |c| c.counts.failed_by_model = 1, Outcome::Pass, "Every check"),
        ("the only one that tried failed", |c| (c.counts.running, c.counts.failed_by_model) = (0, 1), Outcome::Fail, "1 of 1 devices"),
        ("other refusals do not speak against it", |c| c.counts.failed_otherwise = 50, Outcome::Pass, "Every check"),
        (
            "one in four may fail for a reason of its own, rounded in its favour",
            |c| (c.counts.failed_otherwise, c.success_share) = (1, 0.8),
            Outcome::Pass,
            "Every check",
        ),
        (
            "a finished stage below its share is no success",
            |c| (c.counts.failed_otherwise, c.success_share) = (2, 0.8),
            Outcome::Inconclusive,
            "3 of the stage's 5 devices",
        ),
        (
            "who is still at it is on neither side",
            |c| (c.counts.installing, c.counts.deferred, c.success_share) = (50, 50, 0.8),
            Outcome::Pass,
            "Every check",
        ),
        ("as many heard of as drawn", |c| c.drawn = Some((3, 12)), Outcome::Pass, "Every check"),
        (
            "canaries of whom nothing is heard",
            |c| c.drawn = Some((40, 12)),
            Outcome::Inconclusive,
            "3 of 40 canaries and 12 of 12 controls were heard of: not the ratio",
        ),
        (
            "waved through by a person",
            |c| {
                let (check, by, reason) = ("sample_ratio".to_owned(), "ann".to_owned(), "Known.".to_owned());
                c.drawn = Some((40, 12));
                c.dismissed = vec![Dismissal { stage: 0, check, seen: 0, by, at: Timestamp::from_secs(1), reason }];
            },
            Outcome::Pass,
            "Every check",
        ),
        ("silence stops but does not condemn", |c| c.counts.lost = 3, Outcome::Inconclusive, "3 of 6 devices"),
        (
            "no baseline, no comparison",
            |c| (c.baseline, c.evidence.as_mut().unwrap().arms) = (false, Default::default()),
            Outcome::Pass,
            "Every check",
        ),
        ("a required comparison without data", |c| c.evidence.as_mut().unwrap().arms.clear(), Outcome::Inconclusive, "Error ratio"),
        (
            "much worse accuracy",
            |c| c.evidence.as_mut().unwrap().arms.get_mut(&Metric::LabelledAccuracy).unwrap().canary = arm(3, 1000.0, 300.0),
            Outcome::Fail,
            "Measured accuracy",
        ),
    ];
    for (name, spoil, outcome, sentence) in table {
        let mut case = Case::good();
        spoil(&mut case);
        let report = case.judged();
        assert_eq!(report.outcome, outcome, "{name}: {report:?}");
        assert!(report.sentence.starts_with(sentence), "{name}: {}", report.sentence);
    }
}

#[test]
fn labels_are_waited_for_only_where_asked() {
    let mut case = Case::good();
    case.evidence.as_mut().unwrap().arms.remove(&Metric::LabelledAccuracy);
    assert_eq!(case.judged().outcome, Outcome::Pass, "labels may never come");
    let rail = Guardrail { metric: Metric::LabelledAccuracy, need: Need::Always, ..Guardrail::default() };
    case.policy.guardrails.push(rail);
    assert_eq!(case.judged().outcome, Outcome::Inconclusive);
    case.policy.guardrails.last_mut().unwrap().need = Need::Observe;
    assert_eq!(case.judged().outcome, Outcome::Pass);
}

#[test]
fn a_slightly_worse_estimate_needs_proof_or_more_data() {
    let mut case = Case::good();
    let arms = case.evidence.as_mut().unwrap().arms.get_mut(&Metric::LabelledAccuracy).unwrap();
    *arms = Arms { canary: arm(3, 300.0, 222.0), control: arm(12, 1200.0, 960.0) };
    assert_eq!(case.judged().outcome, Outcome::Inconclusive, "six points worse on 300 labels is neither proof nor fine");
    let arms = case.evidence.as_mut().unwrap().arms.get_mut(&Metric::LabelledAccuracy).unwrap();
    arms.canary = arm(3, 300.0, 237.0);
    assert_eq!(case.judged().outcome, Outcome::Pass, "one point worse is within the margin");
    let strict = |g: &mut Guardrail| g.proof = Proof::NonInferior;
    case.policy.guardrails.iter_mut().filter(|g| g.metric == Metric::LabelledAccuracy).for_each(strict);
    assert_eq!(case.judged().outcome, Outcome::Inconclusive, "but that is no proof");
}

#[test]
fn one_stated_error_is_shared_out_over_the_comparisons() {
    let policy = GatePolicy::default();
    assert!((policy.promised() - 0.05).abs() < 1e-12);
    let of = |policy: &GatePolicy, metric| policy.guardrails.iter().find(|r| r.metric == metric).map(|r| policy.alpha_of(r)).unwrap();
    assert!((of(&policy, Metric::DeviceFailures) - 2.0 * of(&policy, Metric::ErrorRatio)).abs() < 1e-12);
    // One that states its own takes that; the others share what is left. What is only shown takes nothing.
    let mut mixed = policy.clone();
    mixed.guardrails[0].limits.alpha = Some(0.02);
    mixed.guardrails[2].need = Need::Observe;
    assert!((mixed.promised() - 0.05).abs() < 1e-12);
    assert!((of(&mixed, Metric::SlowRatio) - 0.03 / 5.0).abs() < 1e-12);
    // Documents from before say 1 % each, and mean it.
    let old = r#"{"guardrails":[{"metric":"error_ratio","limits":{"margin":0.05,"alpha":0.01}},{"metric":"slow_ratio","limits":{"alpha":0.07}}]}"#;
    let old: GatePolicy = serde_json::from_str(old).unwrap();
    assert!((of(&old, Metric::ErrorRatio) - 0.01).abs() < 1e-12 && (old.promised() - 0.08).abs() < 1e-12);
    let silent = GatePolicy { false_abort: 0.0, ..GatePolicy::default() };
    assert_eq!(of(&silent, Metric::DeviceFailures), 0.0);
}

fn told(way: bool, need: Need) -> Guardrail {
    let limits = Limits { higher_is_better: Some(way), ..Limits::default() };
    Guardrail { metric: "user:retry".parse().unwrap(), limits, need, ..Guardrail::default() }
}

#[test]
fn a_user_metric_is_judged_the_way_its_guardrail_says() {
    let more = Arms { canary: arm(3, 1000.0, 900.0), control: arm(12, 4000.0, 1200.0) };
    let less = Arms { canary: arm(3, 1000.0, 300.0), control: arm(12, 4000.0, 3600.0) };
    let same = Arms { canary: arm(3, 1000.0, 300.0), control: arm(12, 4000.0, 1200.0) };
    let table = [
        (false, more, Outcome::Fail),
        (true, more, Outcome::Pass),
        (true, less, Outcome::Fail),
        (false, less, Outcome::Pass),
        (true, same, Outcome::Pass),
        (false, same, Outcome::Pass),
    ];
    for (way, arms, outcome) in table {
        let mut case = Case::good();
        case.policy.guardrails.push(told(way, Need::IfSeen));
        assert_eq!(case.policy.check(), Ok(()));
        assert_eq!(case.judged().outcome, Outcome::Pass, "nobody told anything");
        case.evidence.as_mut().unwrap().arms.insert("user:retry".parse().unwrap(), arms);
        let report = case.judged();
        assert_eq!(report.outcome, outcome, "{way} {arms:?}: {}", report.sentence);
        if outcome == Outcome::Fail {
            assert!(report.sentence.starts_with("User metric retry: canary"), "{}", report.sentence);
        }
    }
    // Device by device too, with the shares as the application told them.
    let mut case = Case::good();
    case.policy.guardrails.push(told(true, Need::IfSeen));
    let metric = "user:retry".parse().unwrap();
    let evidence = case.evidence.as_mut().unwrap();
    evidence.arms.insert(metric, Arms { canary: arm(60, 400.0, 200.0), control: arm(240, 1600.0, 1280.0) });
    case.policy.guardrails.iter_mut().for_each(|rail| rail.limits.rho = 0.95);
    let settled = evidence.settled.entry(metric).or_default();
    (0..60).for_each(|_| settled.canary.add(0.5));
    (0..240).for_each(|_| settled.control.add(0.2));
    let report = case.judged();
    assert_eq!(report.outcome, Outcome::Fail);
    let said = "User metric retry, device by device: canary 50.0 % as the mean of 60 devices, control 80.0 %";
    assert!(report.sentence.starts_with(said), "{}", report.sentence);
}

#[test]
fn a_user_metric_that_nobody_tells_is_waited_for_where_asked_and_takes_its_part_of_the_error() {
    let mut case = Case::good();
    case.policy.guardrails.push(told(true, Need::Always));
    let report = case.judged();
    assert_eq!(report.outcome, Outcome::Inconclusive);
    assert!(
        report.sentence.starts_with("User metric retry: nothing to compare yet, the canary has reported nothing"),
        "{}",
        report.sentence
    );
    assert_eq!(report.checks.last().unwrap().name, "user:retry");
    // Five of weight 1, failed devices of weight 2, and this one.
    let policy = &case.policy;
    assert!((policy.alpha_of(policy.guardrails.last().unwrap()) - 0.05 / 8.0).abs() < 1e-12);
    assert!((policy.promised() - 0.05).abs() < 1e-12);
}

#[test]
fn guardrails_that_do_not_say_enough_are_refused() {
    let of = |guardrails: Vec<Guardrail>| GatePolicy { guardrails, ..GatePolicy::default() }.check();
    let without = Guardrail { limits: Limits::default(), ..told(true, Need::Always) };
    let known = Guardrail { metric: Metric::ErrorRatio, ..told(true, Need::Always) };
    let many = (0..9).map(|i| Guardrail { metric: format!("user:m{i}").parse().unwrap(), ..told(true, Need::Always) });
    for (guardrails, words) in [
        (vec![without], "user:retry needs limits.higher_is_better: true where more is good"),
        (vec![known], "it is known which way error_ratio is good"),
        (vec![told(true, Need::Always), told(false, Need::Observe)], "both when higher and when lower"),
        (many.collect(), "9 user metrics are compared: at most 8"),
    ] {
        let problem = of(guardrails).unwrap_err();
        assert!(problem.contains(words), "{problem}");
    }
    assert_eq!(of(vec![told(true, Need::Always), told(true, Need::Observe)]), Ok(()));
}

#[test]
fn absolute_limits_may_leave_the_decision_to_the_control_group() {
    let mut case = Case::good();
    case.counts.failed_by_model = 2;
    case.policy.too_many = TooMany::Hold;
    assert_eq!(case.judged().outcome, Outcome::Fail, "nobody was held back, so the limit decides");
    case.failures = Arms { canary: arm(5, 5.0, 2.0), control: arm(12, 12.0, 3.0) };
    let held = case.judged();
    assert_eq!(held.outcome, Outcome::Inconclusive);
    assert!(held.sentence.ends_with("whether it is the version's doing, the control group decides."), "{}", held.sentence);
    case.failures = Arms { canary: arm(40, 40.0, 20.0), control: arm(100, 100.0, 1.0) };
    (case.counts.members, case.counts.control) = (500, 100);
    assert!(case.judged().sentence.starts_with("Failed devices: canary 20 of 40"), "{}", case.judged().sentence);
    case.policy.too_many = TooMany::Abort;
    assert!(case.judged().sentence.starts_with("2 of 5 devices"));
    // A baseline that fails as often is no proof against the version either.
    let mut case = Case::good();
    case.evidence.as_mut().unwrap().errors = 100;
    case.evidence
        .as_mut()
        .unwrap()
        .arms
        .insert(Metric::ErrorRatio, Arms { canary: arm(3, 1100.0, 100.0), control: arm(12, 4000.0, 400.0) });
    assert_eq!(case.judged().outcome, Outcome::Inconclusive);
}

#[test]
fn devices_that_settled_are_a_comparison_of_their_own() {
    let mut case = Case::good();
    let evidence = case.evidence.as_mut().unwrap();
    // So few trials that the rows say nothing, and forty devices that all say the same.
    *evidence.arms.get_mut(&Metric::LabelledAccuracy).unwrap() = Arms { canary: arm(60, 400.0, 200.0), control: arm(240, 1600.0, 1280.0) };
    case.policy.guardrails.iter_mut().for_each(|rail| rail.limits.rho = 0.95);
    assert_ne!(case.judged().outcome, Outcome::Fail);
    let settled = case.evidence.as_mut().unwrap().settled.entry(Metric::LabelledAccuracy).or_default();
    (0..60).for_each(|_| settled.canary.add(0.5));
    (0..240).for_each(|_| settled.control.add(0.2));
    let report = case.judged();
    assert_eq!(report.outcome, Outcome::Fail);
    assert!(report.sentence.starts_with("Measured accuracy, device by device"), "{}", report.sentence);
}

#[test]
fn blame_is_settled_for_every_code() {
    let against = [
        "prescan-refused",
        "load-failed",
        "golden-mismatch",
        "too-slow",
        "too-much-memory",
        "crashed",
        "hung",
        "output-not-finite",
        "inference-errors",
        "shadow-diverged",
        "io-mismatch",
        "manifest-invalid",
    ];
    let neither = [
        "signature-invalid",
        "digest-mismatch",
        "length-mismatch",
        "not-listed",
        "revoked",
        "below-floor",
        "metadata-expired",
        "metadata-rollback",
        "metadata-unavailable",
        "disk-full",
        "disk-failed",
        "download-failed",
        "already-failed",
        "assignment-stale",
        "superseded",
        "from-the-future",
    ];
    assert!(against.iter().all(|c| blames_model(&Code::from((*c).to_owned()))));
    assert!(!neither.iter().any(|c| blames_model(&Code::from((*c).to_owned()))));
}

#[test]
fn a_version_that_is_far_slower_fails_though_it_keeps_within_the_signed_limit() {
    use crate::sequential::ladder::Ladder;
    let slower_by = |octaves: f64, canaries: usize| {
        let mut case = Case::good();
        let evidence = case.evidence.as_mut().unwrap();
        let group = |n: usize, at: f64| {
            (0..n).fold(Ladder::default(), |mut ladder, i| {
                ladder.add(at + 0.02 * (i % 9) as f64);
                ladder
            })
        };
        (evidence.latency.canary, evidence.latency.control) = (group(canaries, 23.0 + octaves), group(120, 23.0));
        let arms = evidence.arms.entry(Metric::Latency).or_default();
        *arms = Arms { canary: arm(canaries as u64, canaries as f64, 0.0), control: arm(120, 120.0, 0.0) };
        let judged = case.judged();
        let check = judged.checks.into_iter().find(|c| c.name == "latency").unwrap();
        (judged.outcome, check.outcome, check.blocks, check.sentence)
    };
    let (outcome, latency, _, sentence) = slower_by(1.6, 30);
    assert_eq!((outcome, latency), (Outcome::Fail, Outcome::Fail), "{sentence}");
    let (outcome, latency, _, sentence) = slower_by(0.6, 12);
    assert_eq!((outcome, latency), (Outcome::Pass, Outcome::Pass), "{sentence}");
    // Too few devices ever to say anything hold nothing up, nor do none at all.
    let (outcome, latency, blocks, _) = slower_by(0.0, 3);
    assert_eq!((outcome, latency, blocks), (Outcome::Pass, Outcome::Inconclusive, false));
    let (outcome, latency, blocks, _) = slower_by(0.0, 0);
    assert_eq!((outcome, latency, blocks), (Outcome::Pass, Outcome::Inconclusive, false));
}

#[test]
fn harm_that_is_confined_to_a_part_fails_for_that_part() {
    let slice = |canary: f64, control: f64| {
        let arms = Arms { canary: arm(4, 1000.0, canary * 1000.0), control: arm(8, 2000.0, control * 2000.0) };
        std::collections::BTreeMap::from([(Metric::LabelledAccuracy, arms)])
    };
    let mut case = Case::good();
    case.evidence.as_mut().unwrap().slices = [("hw=rev-a".to_owned(), slice(0.8, 0.8)), ("hw=rev-b".to_owned(), slice(0.3, 0.8))].into();
    assert_eq!(case.judged().outcome, Outcome::Pass, "where no part may be judged apart, the whole decides");
    case.by_slice = true;
    let judged = case.judged();
    assert_eq!(judged.outcome, Outcome::Fail);
    assert!(judged.sentence.starts_with("Devices with hw=rev-b: Measured accuracy: canary 30.0 %"), "{}", judged.sentence);
    let found: Vec<_> = judged.checks.iter().filter_map(|c| Some((c.name.as_str(), c.slice.as_deref()?))).collect();
    assert_eq!(found, [("labelled_accuracy in hw=rev-b", "hw=rev-b")]);
    // One device alone is itself, not what it shares with others.
    let arms = case.evidence.as_mut().unwrap().slices.get_mut("hw=rev-b").unwrap().get_mut(&Metric::LabelledAccuracy).unwrap();
    arms.canary = arm(1, 1000.0, 300.0);
    assert_eq!(case.judged().outcome, Outcome::Pass);
    // Nor are devices that were only looked at.
    let arms = case.evidence.as_mut().unwrap().slices.get_mut("hw=rev-b").unwrap().get_mut(&Metric::LabelledAccuracy).unwrap();
    arms.canary = arm(4, 1000.0, 300.0);
    case.policy.guardrails.iter_mut().filter(|g| g.metric == Metric::LabelledAccuracy).for_each(|g| g.need = Need::Observe);
    assert_eq!(case.judged().outcome, Outcome::Pass);
}
