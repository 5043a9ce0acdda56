//! Everyone outside a rollout: on their cohort's target, new devices and stragglers included.
//!
//! The target is the cohort's last known good (or the line's champion, for a cohort that has none yet). A device that is
//! canary of a running rollout is that rollout's business; everyone else, control group included, is brought to the target at
//! a bounded rate. What a device refused because of the model is not told again: it takes a person, a new version or a new
//! target. What failed for a reason of the device's own (bytes that rotted, a full disk) is told again after a while.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::assignment::Intent;
use leeway_protocol::ids::{Line, RolloutId};
use leeway_protocol::time::Timestamp;
use serde::Serialize;

use super::advance::RATE_WINDOW_MS;
use super::draft::{Draft, Telling, devices};
use super::report::say;
use super::rollback::Left;
use crate::fleet::bucket::is_held_back;
use crate::fleet::census::sooner;
use crate::fleet::{Arm, ByCohort, Census, CohortDoc, Device, Finding, Homes};
use crate::registry::ModelVersion;
use crate::rollout::gate::blames_model;
use crate::snapshot::Targets;

/// Bring every cohort to its target.
pub fn decide(draft: &mut Draft<'_>) {
    let lines: Vec<_> = draft.state.lines.keys().cloned().collect();
    for line in lines {
        let aim = Aim::of(draft, &line);
        let about = draft.about("converge", line.as_str(), &aim.terms());
        let (homes, now) = (draft.homes().clone(), draft.now());
        let look = |device: &Device, found: &mut Toward| homes.of(device).and_then(|home| aim.look(device, home, found, now));
        let census = Census::new(&draft.state.fleet, about, now, look);
        let found = census.total();
        let mut room = (draft.policy().converge_per_minute as usize).saturating_sub(found.told);
        for cohort in draft.cohorts(&line) {
            let Some(home) = homes.number(&cohort.name) else { continue };
            let wanting = |found: &Toward| found.cohorts.of(home).is_some_and(|count| count.wanting > 0);
            let wants = |device: &Device| homes.of(device) == Some(home) && aim.wants(device, home, now);
            let wanted = found.cohorts.of(home).map_or(0, |count| count.wanting).min(room);
            let next: Vec<Arc<Device>> = census.devices(wanting, wants).take(draft.afford(wanted)).collect();
            room -= next.len();
            let next: Vec<_> = next.iter().filter_map(|device| Some((device, aim.target(device, home)?))).collect();
            converge(draft, &cohort, found.cohorts.of(home).copied().unwrap_or_default(), &next);
        }
        if let Some(at) = found.again {
            draft.wake(at);
        }
        if room == 0 {
            let from = found.oldest.unwrap_or(now);
            draft.wake(from.plus_millis(RATE_WINDOW_MS));
        }
    }
}

/// Where the devices of one line are to go.
struct Aim {
    /// Rollouts whose canaries are their own business.
    active: Vec<RolloutId>,
    /// The targets of each cohort of the line, and what those of its devices run that are held back: the champion before.
    targets: BTreeMap<u32, (Targets, Option<Arc<ModelVersion>>)>,
    line: Line,
    held_share: f64,
    /// What must be left is called back by a rule of its own.
    left: Left,
    homes: Arc<Homes>,
    retry_after_ms: i64,
}

/// What is found about one line's devices outside rollouts.
#[derive(Default)]
struct Toward {
    cohorts: ByCohort<Tally>,
    /// Told outside a rollout within the last [`RATE_WINDOW_MS`], and when the first of them was.
    told: usize,
    oldest: Option<Timestamp>,
    /// When the next one that failed for a reason of its own is told again.
    again: Option<Timestamp>,
}

/// The devices of one cohort, each in one place.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    members: usize,
    canaries: usize,
    wanting: usize,
    converged: usize,
    failed: usize,
    refused: usize,
    on_the_way: usize,
    recalled: usize,
    unserved: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Canary,
    /// To be told, as soon as the rate allows.
    Wanting,
    Converged,
    /// For a reason of its own; told again at this moment.
    Failed(Timestamp),
    Refused,
    OnTheWay,
    /// Waits to be called back from what it has.
    Recalled,
    /// Of a part of the fleet on which every version has failed.
    Unserved,
}

impl Finding for Toward {
    fn add(&mut self, other: &Self) {
        self.cohorts.add(&other.cohorts);
        self.told += other.told;
        self.oldest = sooner(self.oldest, other.oldest);
        self.again = sooner(self.again, other.again);
    }
}

impl Finding for Tally {
    fn add(&mut self, other: &Self) {
        let Self { members, canaries, wanting, converged, failed, refused, on_the_way, recalled, unserved } = other;
        self.members += members;
        self.canaries += canaries;
        self.wanting += wanting;
        self.converged += converged;
        self.failed += failed;
        self.refused += refused;
        self.on_the_way += on_the_way;
        self.recalled += recalled;
        self.unserved += unserved;
    }
}

impl Aim {
    fn of(draft: &Draft<'_>, line: &Line) -> Self {
        let active = draft.state.rollouts.values().filter(|r| r.spec.line == *line && r.state.is_active()).map(|r| r.id.clone()).collect();
        let cohorts = draft.cohorts(line);
        let of = |cohort: &Arc<CohortDoc>| {
            let targets = draft.state.targets_of(cohort);
            let former = draft.state.lines.get(line).into_iter().flat_map(|line| line.aliases.former_champions());
            let behind = |version: &&Arc<ModelVersion>| targets.first().is_some_and(|usual| version.seq < usual.seq);
            let former = former.filter_map(|version| draft.state.assignable(line, version)).find(behind).cloned();
            Some((draft.homes().number(&cohort.name)?, (targets, former)))
        };
        let targets = cohorts.iter().filter_map(of).collect();
        let (left, homes, retry_after_ms) = (Left::of(draft), draft.homes().clone(), draft.policy().retry_after_ms);
        Self { active, targets, line: line.clone(), held_share: draft.hold_back_share(line), left, homes, retry_after_ms }
    }

    /// What a device is to run outside rollouts. One that is held back and already runs what the others do is not taken back by this,
    /// and nobody is held on a version that may not be assigned.
    fn target(&self, device: &Device, home: u32) -> Option<&Arc<ModelVersion>> {
        let (targets, former) = self.targets.get(&home)?;
        let usual = targets.of(device)?;
        let told = || device.desired.as_ref().is_some_and(|told| told.manifest == Some(usual.manifest.digest));
        let fits = |former: &&Arc<ModelVersion>| former.seq < usual.seq && former.unfit_for(device, self.homes.name(home)).is_none();
        let behind =
            former.as_ref().filter(fits).filter(|_| is_held_back(self.line.as_str(), device.id.as_str(), self.held_share) && !told());
        behind.or(Some(usual))
    }

    /// What is found depends on besides the devices.
    fn terms(&self) -> impl Serialize + use<'_> {
        let former = |former: &Option<Arc<ModelVersion>>| former.as_ref().map(|version| version.manifest.digest);
        let targets: Vec<_> = self.targets.iter().map(|(home, (targets, before))| (*home, targets.terms(), former(before))).collect();
        (&self.active, targets, self.held_share, self.left.terms(), self.retry_after_ms)
    }

    fn look(&self, device: &Device, home: u32, found: &mut Toward, now: Timestamp) -> Option<Timestamp> {
        let (targets, _) = self.targets.get(&home)?;
        let place = targets.first().map(|_| self.place(device, home, now));
        let told = device.desired.as_ref().filter(|d| d.rollout.is_none() && now.millis_since(d.issued_at) < RATE_WINDOW_MS);
        let told = told.map(|d| d.issued_at);
        found.told += usize::from(told.is_some());
        found.oldest = sooner(found.oldest, told);
        let tally = found.cohorts.entry(home);
        tally.members += 1;
        let mut until = told.map(|at| at.plus_millis(RATE_WINDOW_MS));
        match place {
            None => {}
            Some(Place::Canary) => tally.canaries += 1,
            Some(Place::Wanting) => tally.wanting += 1,
            Some(Place::Converged) => tally.converged += 1,
            Some(Place::Failed(again)) => {
                tally.failed += 1;
                found.again = sooner(found.again, Some(again));
                until = sooner(until, Some(again));
            }
            Some(Place::Refused) => tally.refused += 1,
            Some(Place::OnTheWay) => tally.on_the_way += 1,
            Some(Place::Recalled) => tally.recalled += 1,
            Some(Place::Unserved) => tally.unserved += 1,
        }
        // One that proves to run the target is told again too, once it is time, if its last word was a refusal.
        let again = retry_at(device, self.retry_after_ms).filter(|at| *at > now);
        sooner(until, again)
    }

    /// Where a device is on its way to its target.
    fn place(&self, device: &Device, home: u32, now: Timestamp) -> Place {
        if self.active.iter().any(|id| device.part_in(id).is_some_and(|p| p.arm == Arm::Canary && !p.recalled)) {
            return Place::Canary;
        }
        if self.left.concerns(device, self.homes.name(home)) {
            return Place::Recalled;
        }
        let Some(target) = self.target(device, home) else { return Place::Unserved };
        let manifest = target.manifest.digest;
        let told = device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
        let again = retry_at(device, self.retry_after_ms);
        if !told || device.retry || device.follows_another() || again.is_some_and(|at| at <= now) {
            Place::Wanting
        } else if device.proves(manifest) {
            Place::Converged
        } else if let Some(at) = again {
            Place::Failed(at)
        } else if gave_up(device) {
            Place::Refused
        } else {
            Place::OnTheWay
        }
    }

    fn wants(&self, device: &Device, home: u32, now: Timestamp) -> bool {
        self.targets.get(&home).is_some_and(|(targets, _)| targets.first().is_some()) && self.place(device, home, now) == Place::Wanting
    }
}

/// Tell the next devices of one cohort, and report on it.
fn converge(draft: &mut Draft<'_>, cohort: &CohortDoc, tally: Tally, next: &[(&Arc<Device>, &Arc<ModelVersion>)]) {
    if draft.state.target_of(cohort).is_none() {
        let report = draft.report.cohorts.entry(cohort.name.clone()).or_default();
        report.devices = tally.members;
        if tally.members > 0 {
            say(&mut report.why, format!("Line {} has no champion yet: a first rollout brings one.", cohort.line));
        }
        return;
    }
    next.iter().for_each(|(device, target)| bring(draft, device, cohort, target));
    let report = draft.report.cohorts.entry(cohort.name.clone()).or_default();
    (report.devices, report.converged) = (tally.members, tally.converged);
    for (count, what) in [
        (tally.canaries, "in a rollout"),
        (tally.on_the_way + next.len(), "on the way to the target"),
        (tally.wanting - next.len(), "not told yet: the rate for devices outside a rollout is used up"),
        (tally.recalled, "not called back yet from a version that must be left"),
        (tally.unserved, "of a part of the fleet on which every version has failed: they stay with what they have"),
        (tally.refused, "refused the target or went back because of the model; nothing is tried again until a person asks for a retry"),
        (tally.failed, "failed for a reason of their own, and are told again after a while"),
    ] {
        if count > 0 {
            say(&mut report.why, format!("{} {what}.", devices(count)));
        }
    }
}

fn bring(draft: &mut Draft<'_>, device: &Device, cohort: &CohortDoc, target: &ModelVersion) {
    let before = device.desired.as_ref().and_then(|d| Some((d.line.clone()?, d.version.clone()?)));
    let older = before
        .as_ref()
        .and_then(|(line, version)| draft.state.version(line, version))
        .is_some_and(|v| v.line == target.line && v.seq > target.seq);
    let intent = if older { Intent::Rollback } else { Intent::Install };
    let same = device.desired.as_ref().is_some_and(|d| d.manifest == Some(target.manifest.digest));
    let why = match (&before, device.retry) {
        (_, true) => "a person asked for another try",
        _ if device.follows_another() => {
            "it follows an assignment that this controller did not give; if this repeats, change the director's key"
        }
        (Some(_), _) if same && gave_up(device) => "its last attempt failed for a reason of its own",
        (None, _) => "its cohort runs it",
        (Some(_), _) if older => "its cohort went back to it",
        (Some(_), _) => "its cohort has moved on to it",
    };
    let reason = format!("{} {} on cohort {}: {why}.", target.line, target.version, cohort.name);
    let settings = draft.policy().settings;
    draft.tell(device, Telling { intent, version: Some(target), rollout: None, reason, settings, part: None });
}

/// When a device whose last attempt failed for no fault of the model is told again.
fn retry_at(device: &Device, after_ms: i64) -> Option<Timestamp> {
    let reason = device.reported.as_ref()?.reason.as_ref()?;
    (gave_up(device) && !blames_model(&reason.code)).then(|| device.desired.as_ref().map(|d| d.issued_at.plus_millis(after_ms)))?
}

/// Whether it has answered the latest assignment with a refusal or by going back.
fn gave_up(device: &Device) -> bool {
    use leeway_protocol::reported::Phase;
    let Some((desired, reported)) = device.desired.as_ref().zip(device.reported.as_ref()) else { return false };
    reported.generation == desired.generation && matches!(reported.phase, Phase::Reverted | Phase::Refused)
}
