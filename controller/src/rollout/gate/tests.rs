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
        }
    }

    fn judged(&self) -> GateReport {
        judge(&Question {
            policy: &self.policy,
            evidence: self.evidence.as_ref(),
            failures: Arms::default(),
            counts: &self.counts,
            reach: 0,
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
