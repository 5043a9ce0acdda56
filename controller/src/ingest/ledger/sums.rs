//! What one window adds to each metric that a rollout is judged by, and where it is added.
//!
//! What stays true: a window's sums depend on the window and its manifest alone; a device settles once.
use super::*;
use crate::rollout::GatePolicy;
use crate::rollout::evidence::latency::Timing;
use crate::rollout::evidence::{Arms, MAX_SLICES, Paces, Settled, devices};
use crate::rollout::shared::slices_of;

impl Ledger {
    /// Add a window to the evidence of one rollout, if it speaks about it.
    pub(super) fn evidence_for(&mut self, rollout: &Rollout, device: &Device, window: &WindowReport, manifest: &Manifest, at: Timestamp) {
        let spec = &rollout.spec;
        let Some(candidate) = self.snapshot.version(&spec.line, &spec.version).map(|v| v.manifest.digest) else { return };
        let baseline = spec.baseline.as_ref().and_then(|b| self.snapshot.version(&spec.line, b)).map(|v| v.manifest.digest);
        let is_candidate = window.manifest == candidate;
        let arm = rollout.arm_of(device, window.manifest, candidate, baseline);
        if !is_candidate && arm.is_none() {
            return;
        }
        let cohort = self.cohort_of(&device.id);
        let all = Arc::make_mut(&mut self.snapshot.evidence);
        let evidence = Arc::make_mut(all.entry(rollout.id.clone()).or_default());
        if evidence.manifest != Some(candidate) {
            *evidence = Evidence { manifest: Some(candidate), ..Evidence::default() };
        }
        // Controls count from the canaries' first window on, so that both sides saw the same days.
        if arm == Some(Arm::Control) && evidence.inferences == 0 {
            return;
        }
        let slices = arm.map(|_| slices(rollout, device, cohort.as_ref())).unwrap_or_default();
        let devices = self.sums.entry(rollout.id.clone()).or_default();
        let known = devices.contains_key(&device.id);
        let sums = devices.entry(device.id.clone()).or_default();
        if is_candidate {
            evidence.inferences += window.inferences;
            evidence.errors += window.errors.against_model();
            evidence.devices += u64::from(!known);
            evidence.last_at = Some(at);
        }
        if let Some(arm) = arm {
            // Both arms are measured from what the control group did before, so that a control differs from it by chance only.
            let shift = shift(&evidence.usual, &window.classes).map(|shift| (Metric::OutputShift, shift));
            let gate = &spec.policy.gate;
            for (metric, more) in contributions(window, manifest).into_iter().chain(shift).filter(|(metric, _)| is_counted(gate, *metric)) {
                let old = sums.get(&metric).copied().unwrap_or_default();
                let new = Totals { n: old.n + more.n, x: old.x + more.x };
                sums.insert(metric, new);
                let settled = devices::settles(metric, &gate.limits_of(metric), old, new);
                count(evidence, &slices, metric, arm, (old, new), settled);
            }
            time(evidence, &slices, self.timings.entry(rollout.id.clone()).or_default(), sums, (device, arm), window);
            if arm == Arm::Control {
                evidence.usual.resize(evidence.usual.len().max(window.classes.len()), 0.0);
                evidence.usual.iter_mut().zip(&window.classes).for_each(|(usual, &n)| *usual += f64::from(n));
            }
        }
        self.dirty.evidence.insert(rollout.id.clone());
    }
}

/// Decisions of the control group needed before anything is measured from them: with fewer, their own chance would be seen.
const USUAL_FROM: f64 = 200.0;

/// How many of a window's decisions would have to be others for it to look like the usual ones (total variation).
fn shift(usual: &[f64], classes: &[u32]) -> Option<Totals> {
    let (all, n) = (usual.iter().sum::<f64>(), classes.iter().map(|&n| f64::from(n)).sum::<f64>());
    if all < USUAL_FROM || n <= 0.0 {
        return None;
    }
    let of = |class: usize| (usual.get(class).copied().unwrap_or(0.0) / all, classes.get(class).map_or(0.0, |&n| f64::from(n)) / n);
    let distance: f64 = (0..usual.len().max(classes.len())).map(of).map(|(usual, now)| (usual - now).abs()).sum();
    Some(Totals { n, x: 0.5 * distance * n })
}

/// The parts of the fleet that a device belongs to and that the rollout may be judged apart by: `hw=rev-b`.
fn slices(rollout: &Rollout, device: &Device, cohort: Option<&Cohort>) -> Vec<String> {
    let keys = &rollout.spec.policy.slice_by;
    let all = slices_of(device, cohort.map(Cohort::as_str));
    all.filter(|slice| keys.iter().any(|key| key == slice.key())).map(|slice| slice.to_string()).collect()
}

/// Whether a rollout counts a metric. Of what applications tell, only what its guardrails name: their number is bounded, that of
/// the names that devices can think of is not.
fn is_counted(gate: &GatePolicy, metric: Metric) -> bool {
    !matches!(metric, Metric::User(_)) || gate.guardrails.iter().any(|rail| rail.metric == metric)
}

/// Put a device's new totals in the place of its old ones, and its share among the settled ones if it has just settled.
fn count(evidence: &mut Evidence, slices: &[String], metric: Metric, arm: Arm, (old, new): (Totals, Totals), settled: Option<f64>) {
    let replace = |arms: &mut Arms| match arm {
        Arm::Canary => arms.canary.replace(old, new),
        Arm::Control => arms.control.replace(old, new),
    };
    replace(evidence.arms.entry(metric).or_default());
    let settle = |all: &mut BTreeMap<Metric, Settled>| {
        let Some(share) = settled else { return };
        let settled = all.entry(metric).or_default();
        if arm == Arm::Canary { &mut settled.canary } else { &mut settled.control }.add(share);
    };
    settle(&mut evidence.settled);
    // A device whose label changes goes on in its new slice; what it showed before stays where it was.
    for slice in slices {
        if evidence.slices.len() < MAX_SLICES || evidence.slices.contains_key(slice) {
            replace(evidence.slices.entry(slice.clone()).or_default().entry(metric).or_default());
            settle(&mut evidence.apart.entry(slice.clone()).or_default().settled);
        }
    }
}

/// Add a window's latencies to a device's own, unless it is its first window; once there are enough, they stand for the device.
fn time(
    evidence: &mut Evidence,
    slices: &[String],
    timings: &mut Timings,
    sums: &mut Sums,
    (device, arm): (&Device, Arm),
    window: &WindowReport,
) {
    if sums.contains_key(&Metric::Latency) {
        return;
    }
    let Some(timing) = timings.get_mut(&device.id) else {
        timings.insert(device.id.clone(), Timing::default());
        return;
    };
    timing.add(&window.latency);
    let Some(octaves) = timing.value() else { return };
    timings.remove(&device.id);
    let settled = Totals { n: 1.0, x: 0.0 };
    sums.insert(Metric::Latency, settled);
    count(evidence, slices, Metric::Latency, arm, (Totals::default(), settled), None);
    let add = |paces: &mut Paces| if arm == Arm::Canary { &mut paces.canary } else { &mut paces.control }.add(octaves);
    add(&mut evidence.latency);
    // Those that there was no room for are not there.
    let known = |slice: &&String| evidence.slices.contains_key(slice.as_str());
    for slice in slices.iter().filter(known) {
        add(&mut evidence.apart.entry(slice.clone()).or_default().latency);
    }
}

/// What one window adds to each metric.
pub fn contributions(window: &WindowReport, manifest: &Manifest) -> Vec<(Metric, Totals)> {
    let errors = window.errors.against_model();
    let asked = (window.inferences + errors) as f64;
    let mut out = vec![(Metric::ErrorRatio, Totals { n: asked, x: errors as f64 })];
    // Slow is what lies in buckets wholly above the signed limit.
    let limit = latency_bucket(manifest.limits.p99_us.saturating_mul(1000));
    let timed: f64 = window.latency.iter().map(|&n| f64::from(n)).sum();
    let slow: f64 = window.latency.iter().skip((limit + 1).min(LATENCY_BUCKETS)).map(|&n| f64::from(n)).sum();
    out.push((Metric::SlowRatio, Totals { n: timed, x: slow }));
    let labels = window.labels();
    if labels.rows > 0 {
        out.push((Metric::LabelledAccuracy, Totals { n: labels.rows as f64, x: labels.correct as f64 }));
    }
    let decided: f64 = window.confidence.iter().map(|&n| f64::from(n)).sum();
    if decided > 0.0 && manifest.calibration.accuracy.len() == window.confidence.len() {
        let expected = window.confidence.iter().zip(&manifest.calibration.accuracy).map(|(&n, accuracy)| f64::from(n) * accuracy).sum();
        out.push((Metric::EstimatedAccuracy, Totals { n: decided, x: expected }));
    }
    out.extend(window.user.iter().map(|(name, told)| (Metric::User(*name), Totals { n: told.trials as f64, x: told.sum() })));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::evidence::Limits;

    #[test]
    fn a_device_settles_once_and_slices_are_bounded() {
        let mut evidence = Evidence::default();
        let totals = |n: f64| Totals { n, x: n / 2.0 };
        for (old, new) in [(0.0, 30.0), (30.0, 60.0), (60.0, 600.0)] {
            let totals = (totals(old), totals(new));
            let settled = devices::settles(Metric::ErrorRatio, &Limits::default(), totals.0, totals.1);
            count(&mut evidence, &["hw=rev-b".to_owned()], Metric::ErrorRatio, Arm::Canary, totals, settled);
        }
        let settled = &evidence.settled[&Metric::ErrorRatio];
        assert_eq!((settled.canary.devices, settled.control.devices), (1, 0));
        assert_eq!(evidence.arms[&Metric::ErrorRatio].canary, evidence.slices["hw=rev-b"][&Metric::ErrorRatio].canary);
        assert_eq!(evidence.arms[&Metric::ErrorRatio].canary.n, 600.0);
        assert_eq!(evidence.apart["hw=rev-b"].settled, evidence.settled);
        for i in 0..200 {
            let totals = (Totals::default(), totals(1.0));
            count(&mut evidence, &[format!("serial={i}")], Metric::ErrorRatio, Arm::Control, totals, None);
        }
        assert_eq!(evidence.slices.len(), MAX_SLICES);
        assert_eq!(evidence.arms[&Metric::ErrorRatio].control.devices, 200, "whoever has no slice still counts");
    }

    #[test]
    fn a_device_is_timed_once_and_not_in_its_first_window() {
        let mut evidence = Evidence::default();
        let (mut timings, mut sums) = (Timings::new(), Sums::new());
        let device = Device::new("a".parse().unwrap(), String::new(), BTreeMap::new(), Timestamp::from_secs(0));
        for (bucket, seen) in [(30, 0), (22, 0), (22, 1), (30, 1)] {
            let mut window = crate::ingest::tests::window(0);
            window.latency = vec![0; LATENCY_BUCKETS];
            window.latency[bucket] = 60;
            time(&mut evidence, &[], &mut timings, &mut sums, (&device, Arm::Canary), &window);
            assert_eq!((evidence.latency.canary.devices, sums.contains_key(&Metric::Latency)), (seen, seen == 1));
        }
        let median = evidence.latency.canary.median(0.5).unwrap().value;
        assert!((22.0..23.0).contains(&median), "neither the first window nor the fourth counts: {median}");
        assert!(timings.is_empty() && evidence.arms[&Metric::Latency].canary.devices == 1);
    }

    #[test]
    fn what_applications_tell_counts_where_a_guardrail_names_it_and_the_way_it_says() {
        use leeway_protocol::report::UserTotals;

        use crate::ingest::tests::{manifest, window};
        use crate::planner::tests::world::{World, manifest_of, name, quick};
        use crate::rollout::Guardrail;

        let pick: Metric = name("user:pick_success");
        for (higher_is_better, canary_bad, control_bad) in [(true, 0.75, 0.1), (false, 0.25, 0.9)] {
            let mut world = World::new();
            let mut policy = quick();
            let limits = Limits { higher_is_better: Some(higher_is_better), ..Limits::default() };
            policy.gate.guardrails.push(Guardrail { metric: pick, limits, ..Guardrail::default() });
            world.roll_out("2", policy);
            (0..3).for_each(|_| drop(world.pass(1000)));
            let mut ledger = Ledger { snapshot: world.state.clone(), ..Ledger::default() };
            ledger.snapshot.evidence = Default::default();
            let rollout = world.rollout("r2");
            let mut heard = [0, 0];
            // Canaries first: controls count from the first of them on.
            for arm in [Arm::Canary, Arm::Control] {
                for device in world.state.fleet.iter().filter(|d| d.part_in(&rollout.id).is_some_and(|part| part.arm == arm)) {
                    let (version, good) = if arm == Arm::Canary { ("2", 15_000_000) } else { ("1", 54_000_000) };
                    let told = |sum_millionths| UserTotals { trials: 60, sum_millionths };
                    let user = [(name("pick_success"), told(good)), (name("stray"), told(0))].into();
                    let window = WindowReport { manifest: manifest_of(version), user, ..window(1) };
                    ledger.evidence_for(rollout, &device, &window, &manifest(), world.now);
                    heard[usize::from(arm == Arm::Control)] += 1;
                }
            }
            let (evidence, sums, _) = ledger.evidence_of(&rollout.id).unwrap();
            let (arms, settled) = (&evidence.arms[&pick], &evidence.settled[&pick]);
            assert!(heard[0] > 0 && heard[1] > 0);
            assert_eq!([arms.canary.devices, arms.control.devices], heard);
            assert_eq!([arms.canary.share(), arms.control.share()], [Some(0.25), Some(0.9)]);
            let mean = |values: &crate::sequential::bets::Values| (values.mean().unwrap() * 1e9).round() / 1e9;
            assert_eq!([mean(&settled.canary), mean(&settled.control)], [canary_bad, control_bad]);
            assert!(!evidence.arms.contains_key(&name::<Metric>("user:stray")), "no guardrail names it");
            assert!(sums.values().all(|own| own.len() <= Metric::ALL.len() + 1));
            let again: Evidence = serde_json::from_slice(&serde_json::to_vec(&evidence).unwrap()).unwrap();
            assert_eq!(again.settled[&pick].canary.devices, heard[0], "a checkpoint is read as it was written");
        }
    }

    #[test]
    fn a_shift_is_the_share_of_decisions_that_would_have_to_be_others() {
        let x = |usual: &[f64], classes: &[u32]| shift(usual, classes).map(|t| (t.n, (t.x * 1e9).round() / 1e9));
        assert_eq!(x(&[150.0, 50.0], &[30, 10]), Some((40.0, 0.0)));
        assert_eq!(x(&[150.0, 50.0], &[10, 30]), Some((40.0, 20.0)));
        assert_eq!(x(&[200.0], &[0, 10]), Some((10.0, 10.0)));
        assert_eq!(x(&[100.0, 50.0], &[10, 30]), None, "too few to know what is usual");
        assert_eq!(x(&[150.0, 50.0], &[]), None);
    }
}
