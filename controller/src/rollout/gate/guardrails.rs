//! Canary against control, guardrail by guardrail: in the whole fleet, and in each part of it that may be judged apart.
//!
//! Where a rollout may leave out a part of the fleet, harm that is confined to it must be found although the whole dilutes it. Each
//! guardrail then has half of its error for the whole and half for the slices together ([`evidence::apart::tests`]), so what was
//! promised still holds; the price is ln 2 of evidence for the whole. A slice is only ever heard if it proves harm: it holds no stage
//! up, and passes nothing. Failed devices have no slices here, what they share is looked up among the devices themselves.
use super::*;

/// Devices of a slice needed on each side: one device is itself, two are the least that speak for what they share.
const SLICE_DEVICES: u64 = 2;

/// Every guardrail's check, and one for each slice in which it proves harm.
pub(super) fn checks(question: &Question<'_>) -> Vec<Check> {
    let of = |rail: &Guardrail| std::iter::once(guardrail(question, rail)).chain(slices(question, rail)).collect::<Vec<Check>>();
    question.policy.guardrails.iter().flat_map(of).collect()
}

fn guardrail(question: &Question<'_>, rail: &Guardrail) -> Check {
    let arms = arms(question, rail.metric);
    let verdict = verdict(question, rail, &arms);
    // A handful of devices can never say anything of latency: a fleet of so few is not to wait for it.
    let seen = if rail.metric == Metric::Latency { enough(rail, &arms) } else { arms.canary.n > 0.0 && arms.control.n > 0.0 };
    let blocks = match rail.need {
        Need::Always => true,
        // Harm that is proven counts wherever data came from.
        Need::IfSeen => seen || verdict.outcome == Outcome::Fail,
        Need::Observe => false,
    };
    let (outcome, sentence) = match (verdict.outcome, rail.proof) {
        (Outcome::Inconclusive, Proof::NoHarm) if unharmed(rail, &arms, &verdict) => {
            (Outcome::Pass, format!("{} Enough was seen without a sign of harm, which this check accepts.", verdict.sentence))
        }
        (outcome, _) => (outcome, verdict.sentence.clone()),
    };
    Check { blocks, verdict: Some(verdict), ..Check::plain(rail.metric.to_string(), outcome, sentence) }
}

/// What the tests of one guardrail say with its part of the error.
fn verdict(question: &Question<'_>, rail: &Guardrail, arms: &Arms) -> Verdict {
    let alpha = question.policy.alpha_of(rail);
    if rail.metric == Metric::DeviceFailures {
        return evidence::failures::judge(arms, &Limits { alpha: Some(alpha), ..rail.limits }, horizon(question));
    }
    let alpha = if question.by_slice { 0.5 * alpha } else { alpha };
    let evidence = question.evidence;
    let settled = evidence.and_then(|e| e.settled.get(&rail.metric));
    weigh(question.compare, rail, arms, settled, evidence.map(|e| &e.latency), alpha)
}

/// The tests of one guardrail over one group of devices.
fn weigh(
    compare: Compare,
    rail: &Guardrail,
    arms: &Arms,
    settled: Option<&evidence::Settled>,
    latency: Option<&evidence::Paces>,
    alpha: f64,
) -> Verdict {
    let limits = Limits { alpha: Some(alpha), ..rail.limits };
    if rail.metric == Metric::Latency {
        return latency
            .map_or_else(|| evidence::latency::judge(&Default::default(), &limits), |paces| evidence::latency::judge(paces, &limits));
    }
    let [by_row, by_device] = limits.legs();
    let rows = compare(rail.metric, &arms.canary, &arms.control, &by_row);
    let settled = settled.filter(|_| enough(rail, arms));
    evidence::devices::join(rows, settled.and_then(|settled| evidence::devices::judge(rail.metric, settled, &by_device)))
}

/// Slices in which a guardrail proves harm.
fn slices(question: &Question<'_>, rail: &Guardrail) -> Vec<Check> {
    let Some(evidence) = question.evidence.filter(|_| question.by_slice) else { return Vec::new() };
    if !rail.decides() || rail.metric == Metric::DeviceFailures {
        return Vec::new();
    }
    let alpha = 0.5 * question.policy.alpha_of(rail) / evidence::apart::tests(evidence.slices.len());
    let least = rail.limits.min_devices.max(SLICE_DEVICES);
    let judged = |(name, metrics): (&String, &std::collections::BTreeMap<Metric, Arms>)| {
        let arms = metrics.get(&rail.metric).filter(|arms| arms.canary.devices >= least && arms.control.devices >= least)?;
        let apart = evidence.apart.get(name);
        let settled = apart.and_then(|apart| apart.settled.get(&rail.metric));
        let verdict = weigh(question.compare, rail, arms, settled, apart.map(|apart| &apart.latency), alpha);
        let sentence = format!("Devices with {name}: {}", verdict.sentence);
        let title = format!("{} in {name}", rail.metric);
        let check = Check { verdict: Some(verdict), slice: Some(name.clone()), ..Check::plain(title, Outcome::Fail, sentence) };
        check.verdict.as_ref().is_some_and(|v| v.outcome == Outcome::Fail).then_some(check)
    };
    evidence.slices.iter().filter_map(judged).collect()
}

/// The most devices either side can come to have: the control group is held from the start, everyone else may become a canary.
fn horizon(question: &Question<'_>) -> Horizon {
    let control = question.counts.control.max(question.failures.control.devices as usize);
    let canary = question.reach.max(question.counts.members).saturating_sub(control).max(1);
    Horizon { canary: canary as u64, control: control as u64 }
}

/// Enough trials on both sides.
fn enough(rail: &Guardrail, arms: &Arms) -> bool {
    let limits = &rail.limits;
    let (trials, devices) = match rail.metric {
        Metric::DeviceFailures => (1, limits.min_devices),
        Metric::Latency => (1, limits.min_devices.max(evidence::latency::FEW)),
        _ => (limits.min_trials, limits.min_devices),
    };
    [arms.canary, arms.control].iter().all(|arm| arm.n >= trials as f64 && arm.devices >= devices)
}

/// Enough trials on both sides, and an estimate that is not worse than the margin.
fn unharmed(rail: &Guardrail, arms: &Arms, verdict: &Verdict) -> bool {
    let within = verdict.estimate.is_some_and(|difference| {
        let harm = if rail.metric.higher_is_better(&rail.limits) { -difference } else { difference };
        harm <= rail.limits.margin
    });
    enough(rail, arms) && within
}
