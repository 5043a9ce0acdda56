//! One stage of one rollout as it is now: who is in scope, where each device stands, how much room there is.
//!
//! A scene is counted, not listed: what is asked of single devices (their names, who failed first, who is next) looks only where
//! the counts say there are some.
use std::collections::BTreeSet;
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Cohort;
use leeway_protocol::time::Timestamp;

use super::RATE_WINDOW_MS;
use super::counting::{OfSlice, Seen, Survey, counted};
use super::draw::{Among, Draw, End, Pool, Ticket, neighbours};
use crate::fleet::bucket::{is_held_back, quota};
use crate::fleet::census::sooner;
use crate::fleet::{About, Arm, Census, Device, Finding, Fleet, Homes};
use crate::planner::draft::Draft;
use crate::registry::{ModelVersion, Slice};
use crate::rollout::evidence::{self, Arms};
use crate::rollout::gate::{Counts, StageOutcome};
use crate::rollout::standing::{changes_at, millis, retry_at};
use crate::rollout::{Membership, Rollout, RolloutState, Stage, Standing, standing};

/// A stage's scope with everyone in their places.
pub struct Scene {
    /// The rollout.
    pub rollout: Arc<Rollout>,
    /// The version it brings.
    pub version: Arc<ModelVersion>,
    /// Manifest of the version it is compared with, if there is one.
    pub baseline: Option<Digest>,
    /// The stage, from 0.
    pub index: usize,
    /// The stage itself.
    pub stage: Stage,
    /// Since when the stage runs; the moment of the pause, if it is paused.
    pub since: Timestamp,
    /// Since when it soaks.
    pub soaking_since: Option<Timestamp>,
    /// Everyone who has to do with the rollout, counted.
    pub counts: Counts,
    /// The same with what only the planner asks for.
    seen: Seen,
    fleet: Fleet,
    homes: Arc<Homes>,
    /// The line's cohorts, by number.
    ours: BTreeSet<u32>,
    /// Share of the line's devices that stay one version behind.
    held_share: f64,
    now: Timestamp,
    survey: Option<About>,
    pool: Option<About>,
    /// As if the devices of this slice were not there.
    apart: Option<Slice>,
}

/// A device and its place.
pub struct Member<'d> {
    /// The device, as far as planning looks at it.
    pub device: &'d Device,
    /// Where it stands.
    pub standing: Standing,
    /// Whether it is in the current stage's scope.
    pub in_scope: bool,
}

impl Scene {
    /// The stage as it is now, or `None` if the version or the stage is not known.
    pub fn of(draft: &mut Draft<'_>, rollout: &Arc<Rollout>) -> Option<Self> {
        Self::apart_from(draft, rollout, None)
    }

    /// The same without the devices of one slice, as if they were not there.
    pub fn without(&self, draft: &mut Draft<'_>, slice: &Slice) -> Option<Self> {
        Self::apart_from(draft, &self.rollout, Some(slice.clone()))
    }

    /// Slices whose devices are not part of this: those that the version failed on, then one left out in thought.
    pub fn left_out(&self) -> Vec<&Slice> {
        self.version.poisoned_for.iter().map(|poisoned| &poisoned.slice).chain(&self.apart).collect()
    }

    fn apart_from(draft: &mut Draft<'_>, rollout: &Arc<Rollout>, apart: Option<Slice>) -> Option<Self> {
        let version = draft.state.version(&rollout.spec.line, &rollout.spec.version)?.clone();
        let (index, stage) = rollout.stage().map(|(i, s)| (i, s.clone()))?;
        let (since, soaking_since) = match &rollout.state {
            RolloutState::Running { since, soaking_since, .. } => (*since, *soaking_since),
            RolloutState::Paused { at, soaking_since, .. } => (*at, *soaking_since),
            _ => return None,
        };
        let baseline = rollout.spec.baseline.as_ref().and_then(|to| draft.state.version(&rollout.spec.line, to));
        let baseline = baseline.map(|version| version.manifest.digest);
        // Everything that looking at a device depends on, and rather too much than too little.
        let bad_for: Vec<&Slice> = version.poisoned_for.iter().map(|poisoned| &poisoned.slice).collect();
        let held_share = if rollout.spec.baseline.is_some() { draft.hold_back_share(&rollout.spec.line) } else { 0.0 };
        let given = (&rollout.id, &rollout.spec, &rollout.state, rollout.created_at);
        let terms = (given, version.manifest.digest, baseline, bad_for, &apart, held_share);
        let survey = draft.about("survey", rollout.id.as_str(), &terms);
        let pool = draft.about("pool", rollout.id.as_str(), &terms);
        let (fleet, homes, now) = (draft.state.fleet.clone(), draft.homes().clone(), draft.now());
        let ours: BTreeSet<u32> = homes.of_line(&rollout.spec.line).collect();
        let (rollout, (counts, seen)) = (rollout.clone(), Default::default());
        let mut scene = Self {
            rollout,
            version,
            baseline,
            index,
            stage,
            since,
            soaking_since,
            counts,
            seen,
            fleet,
            homes,
            ours,
            held_share,
            now,
            survey,
            pool,
            apart,
        };
        let found = scene.census().total();
        if let Some(at) = found.wake {
            draft.wake(at);
        }
        found.cohorts.iter().for_each(|(_, seen)| scene.seen.add(seen));
        scene.counts = scene.seen.counts;
        scene.counts.allowed = scene.allowed();
        Some(scene)
    }

    fn census(&self) -> Census<Survey, impl Fn(&Device, &mut Survey) -> Option<Timestamp> + use<'_>> {
        let look = |device: &Device, survey: &mut Survey| self.look(device, self.home(device)?, survey);
        Census::new(&self.fleet, self.survey, self.now, look)
    }

    /// The number of a device's cohort, if that is one of the line's. Whoever has left them all keeps its part: leaving takes no failure
    /// back, and returning buys no new attempts.
    fn home(&self, device: &Device) -> Option<u32> {
        let home = self.homes.of(device)?;
        if self.ours.contains(&home) {
            return Some(home);
        }
        device.part_in(&self.rollout.id).map(|_| Homes::NOWHERE)
    }

    /// Where a device stands and whether it is in scope; `None` if it has nothing to do with the rollout, or stays one version behind.
    fn place(&self, device: &Device, home: u32) -> Option<(Standing, bool)> {
        self.stand(device, home).filter(|(place, _)| !self.stays_behind(device, *place))
    }

    fn stays_behind(&self, device: &Device, place: Standing) -> bool {
        place.is_untold() && is_held_back(self.rollout.spec.line.as_str(), device.id.as_str(), self.held_share)
    }

    fn stand(&self, device: &Device, home: u32) -> Option<(Standing, bool)> {
        let mut place = standing(device, &self.rollout, self.version.manifest.digest, self.now);
        let cohort = self.homes.name(home);
        if self.apart.as_ref().is_some_and(|slice| slice.holds(&device.labels, cohort)) {
            return None;
        }
        // Whoever belongs to a part of the fleet that the version failed on is out of this, told or not.
        if self.version.unfit_for(device, cohort).is_some() {
            device.part_in(&self.rollout.id)?;
            place = Standing::Recalled;
        }
        let named = self.stage.cohorts.is_empty() || self.stage.cohorts.iter().any(|name| self.homes.number(name) == Some(home));
        let late = self.stage.membership == Membership::Frozen && device.enrolled_at > self.since;
        let here = home != Homes::NOWHERE && named;
        let in_scope = here && self.stage.selector.matches(&device.labels) && !(late && place.is_untold());
        (in_scope || !place.is_untold()).then_some((place, in_scope))
    }

    /// Add one device; when time alone changes what is added.
    fn look(&self, device: &Device, home: u32, survey: &mut Survey) -> Option<Timestamp> {
        let (place, in_scope) = self.stand(device, home)?;
        let (now, manifest) = (self.now, self.version.manifest.digest);
        let mut until = changes_at(device, &self.rollout, place).filter(|at| *at > now);
        let seen = survey.cohorts.entry(home);
        if self.stays_behind(device, place) {
            seen.counts.held_back += 1;
            return until;
        }
        survey.wake = sooner(survey.wake, until);
        seen.reach += 1;
        let canary = device.part_in(&self.rollout.id).filter(|p| p.arm == Arm::Canary);
        seen.counts.add(place, canary.is_some_and(|p| p.exposed_at.is_some()));
        if let Some(part) = canary {
            seen.last_told = seen.last_told.max(Some(part.at));
            if now.millis_since(part.at) < RATE_WINDOW_MS {
                seen.recent += 1;
                seen.oldest_recent = sooner(seen.oldest_recent, Some(part.at));
                until = sooner(until, Some(part.at.plus_millis(RATE_WINDOW_MS)));
            }
        }
        let part = device.part_in(&self.rollout.id);
        seen.failed += usize::from(part.is_some_and(|p| p.failure.is_some()));
        seen.retry += usize::from(device.retry);
        if place == Standing::Control {
            let lost_after = millis(self.rollout.spec.policy.gate.lost_after_ms);
            let lost = device.silent_ms(now) >= lost_after;
            seen.held_near += usize::from(!lost);
            seen.held_heard += usize::from(device.reported.is_some());
            seen.held_lost += usize::from(device.reported.is_some() && lost);
            let heard = device.presence.last_seen.unwrap_or(device.enrolled_at);
            until = sooner(until, (!lost && !device.presence.online).then(|| heard.plus_millis(lost_after)));
        }
        let again = retry_at(device, &self.rollout, place);
        seen.retries += usize::from(again.is_some());
        seen.retries_due += usize::from(again.is_some_and(|at| at <= now) && device.presence.online);
        // Whoever tries again has failed before, and until it has succeeded that stands.
        let repeats = canary.is_some_and(|p| p.attempts > 1);
        let waits = place.is_in_flight() || place == Standing::Deferred;
        if in_scope && place != Standing::Recalled && canary.is_some() && (repeats || !waits) {
            seen.finished += 1;
            seen.succeeded += usize::from(place == Standing::Running);
        }
        if in_scope && place != Standing::Unreachable {
            // A device that got the version some other way uses up the share too, and one that is called back until it is gone.
            let has_it = device.runs(manifest) || device.desired.as_ref().is_some_and(|d| d.manifest == Some(manifest));
            let recalled = place == Standing::Recalled;
            seen.told_in_scope += usize::from(canary.is_some() && !recalled || has_it);
            if recalled {
                return until;
            }
            seen.counts.members += 1;
            seen.held_in_scope += usize::from(place == Standing::Control);
            let untold = canary.is_none() && (place.is_untold() || !self.holds_control());
            seen.counts.away += usize::from(untold && !device.presence.online);
            seen.counts.waiting += usize::from(untold && device.presence.online);
            seen.free += usize::from(self.is_free(device, place));
        }
        until
    }

    /// Whether a device in scope could be told or held back now.
    fn is_free(&self, device: &Device, place: Standing) -> bool {
        let bound = match place {
            Standing::Untold | Standing::Unreachable => {
                device.desired.as_ref().is_some_and(|d| d.manifest == Some(self.version.manifest.digest))
            }
            Standing::Control => self.holds_control(),
            _ => true,
        };
        !bound && device.presence.online
    }

    /// Devices of which `wanted` says that some are counted in a cohort and `fits` that it is one of them; cohort by cohort.
    fn members(&self, wanted: impl Fn(&Seen) -> bool + Copy, fits: impl Fn(&Member<'_>) -> bool, most: usize) -> Vec<Arc<Device>> {
        let census = self.census();
        let mut found = Vec::new();
        for home in self.ours.iter().copied().chain([Homes::NOWHERE]) {
            let wanted = |survey: &Survey| survey.cohorts.of(home).is_some_and(wanted);
            let fits = |device: &Device| {
                let place = self.place(device, home).filter(|_| self.home(device) == Some(home));
                place.is_some_and(|(standing, in_scope)| fits(&Member { device, standing, in_scope }))
            };
            let here = census.devices(wanted, fits);
            found.extend(here.take(most - found.len()));
            if found.len() == most {
                break;
            }
        }
        found
    }

    /// Devices to tell again: those for which a person asked for another try, where that would change something, and those whose
    /// failure does not speak against the model, when it is time and they are there; at most so many.
    pub fn asked_again(&self, most: usize) -> Vec<Arc<Device>> {
        use Standing::{FailedByModel, FailedOtherwise, Overdue, Unanswered};
        let failed = |place| matches!(place, FailedByModel | FailedOtherwise | Overdue | Unanswered);
        let due =
            |m: &Member<'_>| retry_at(m.device, &self.rollout, m.standing).is_some_and(|at| at <= self.now) && m.device.presence.online;
        let again = |m: &Member<'_>| failed(m.standing) && (m.device.retry || due(m));
        self.members(|seen| seen.retry > 0 || seen.retries_due > 0, again, most)
    }

    /// Devices that the model failed on, and those on which it proves to run, at most so many of each in the fleet's order (which
    /// has nothing to do with what they are).
    pub fn failing_and_sound(&self, most: usize) -> (Vec<Arc<Device>>, Vec<Arc<Device>>) {
        let in_places = |places: &[Standing]| {
            let some = |seen: &Seen| places.iter().any(|place| counted(&seen.counts, *place) > 0);
            self.members(some, |m| places.contains(&m.standing), most)
        };
        (in_places(&[Standing::FailedByModel, Standing::Lost]), in_places(&[Standing::Running]))
    }

    /// How many devices of a slice are in scope, were told, and run the version.
    pub fn of_slice(&self, draft: &Draft<'_>, slice: &Slice) -> (usize, usize, usize) {
        let bad_for: Vec<&Slice> = self.version.poisoned_for.iter().map(|poisoned| &poisoned.slice).collect();
        let given = (&self.rollout.id, &self.rollout.spec, &self.rollout.state, self.version.manifest.digest);
        let terms = (given, bad_for, &self.apart, self.held_share, slice);
        let about = draft.about("slice", &format!("{} {slice}", self.rollout.id), &terms);
        let look = |device: &Device, found: &mut OfSlice| {
            let home = self.home(device)?;
            let (place, in_scope) = self.place(device, home)?;
            if in_scope && slice.holds(&device.labels, self.homes.name(home)) {
                found.members += 1;
                found.told += usize::from(!place.is_untold() && place != Standing::Control);
                found.running += usize::from(place == Standing::Running);
            }
            changes_at(device, &self.rollout, place).filter(|at| *at > self.now)
        };
        let found = Census::new(&self.fleet, about, self.now, look).total();
        (found.members, found.told, found.running)
    }

    /// Devices of a slice that could be told now, at most so many.
    pub fn free_of(&self, slice: &Slice, most: usize) -> Vec<Arc<Device>> {
        let fits = |m: &Member<'_>| {
            let home = self.homes.of(m.device).and_then(|home| self.homes.name(home));
            m.in_scope && slice.holds(&m.device.labels, home) && self.is_free(m.device, m.standing)
        };
        self.members(|seen| seen.free > 0, fits, most)
    }

    /// A device's cohort.
    pub fn cohort_of(&self, device: &Device) -> Option<&Cohort> {
        self.homes.of(device).and_then(|home| self.homes.name(home))
    }

    /// The first device, in the fleet's order, that has a failure on record.
    pub fn first_failed(&self) -> Option<Arc<Device>> {
        let failed = |m: &Member<'_>| m.device.part_in(&self.rollout.id).is_some_and(|part| part.failure.is_some());
        self.members(|seen| seen.failed > 0, failed, 1).pop()
    }

    /// Whether devices are held back in this stage.
    pub fn holds_control(&self) -> bool {
        self.rollout.holds_control(self.index)
    }

    /// Places for the version in this stage's scope.
    fn allowed(&self) -> usize {
        let members = self.counts.members;
        let allowed = quota(self.stage.share, members);
        if !self.holds_control() {
            return allowed;
        }
        allowed.min(members.saturating_sub(self.control_quota())).max(usize::from(members > 0))
    }

    fn control_quota(&self) -> usize {
        let members = self.counts.members;
        quota(self.rollout.spec.policy.control_share, members).min(members.saturating_sub(1))
    }

    /// Whether devices are still to be held back.
    pub fn needs_control(&self) -> bool {
        self.holds_control() && self.missing_control() > 0
    }

    /// How many are still to be held back.
    pub fn missing_control(&self) -> usize {
        self.control_quota().saturating_sub(self.seen.held_in_scope)
    }

    /// Places left by the share.
    pub fn places(&self) -> usize {
        self.counts.allowed.saturating_sub(self.seen.told_in_scope)
    }

    /// How many more devices may be told now; asks to be woken when the rate allows more.
    pub fn room(&self, draft: &mut Draft<'_>) -> usize {
        self.places().min(self.rate_room(draft))
    }

    /// How many failed devices may be told again: they have their places already.
    pub fn room_for_retries(&self, draft: &mut Draft<'_>) -> usize {
        self.rate_room(draft)
    }

    /// What became of those told in the stage's scope.
    pub fn outcome(&self) -> StageOutcome {
        let soaked = self.soaking_since.is_some_and(|since| self.now >= since.plus_millis(millis(self.stage.soak_ms)));
        let drawn = (soaked && self.holds_control()).then_some((self.counts.running, self.seen.held_near));
        let Seen { finished, succeeded: running, .. } = self.seen;
        StageOutcome { index: self.index, finished, running, success_share: self.stage.success_share, drawn }
    }

    /// Whether a device that failed or ran out of time will be told again by itself.
    pub fn retries_pending(&self) -> bool {
        self.seen.retries > 0
    }

    /// Devices that have to do with the rollout: as far as it can go.
    pub fn reach(&self) -> usize {
        self.seen.reach
    }

    fn rate_room(&self, draft: &mut Draft<'_>) -> usize {
        let policy = &self.rollout.spec.policy;
        // By those told before this minute: counting the present one's would let a ramp climb all its steps at one moment.
        let before = self.counts.told().saturating_sub(self.seen.recent);
        let per_minute = policy.per_minute(before, self.counts.running);
        let by_rate = (per_minute as usize).saturating_sub(self.seen.recent);
        if let (0, Some(at)) = (by_rate, self.seen.oldest_recent) {
            draft.wake(at.plus_millis(RATE_WINDOW_MS));
        }
        by_rate.min((policy.max_in_flight as usize).saturating_sub(self.counts.in_flight()))
    }

    /// How many devices could be told or held back now: connected, in scope, without a part in this rollout that binds them.
    pub fn eligible(&self) -> usize {
        self.seen.free
    }

    /// Draw among these: from the end of the order those to hold back, from its front those to tell. Devices that answer with something
    /// else than the baseline are held back last: what another version does says nothing about it, so a device that once failed the
    /// baseline and went back is a control in vain.
    /// Nobody of `taken` is drawn. Of those to hold back come at most `now`; drawing again, once these are held, gives the others.
    pub fn draw(&self, hold: usize, now: usize, tell: usize, taken: &[Arc<Device>]) -> (Vec<Arc<Device>>, Vec<Arc<Device>>) {
        if self.eligible() == 0 || hold + tell == 0 {
            return Default::default();
        }
        let label = self.rollout.spec.policy.balance_by.as_ref();
        let fits = |device: &Device| self.baseline.is_none_or(|to| device.active().is_none_or(|running| running.manifest == to));
        let ticket = |device: &Device| {
            let cohort = self.home(device)?;
            let (standing, _) = self.place(device, cohort).filter(|(_, in_scope)| *in_scope)?;
            let (free, fit) = (self.is_free(device, standing), fits(device));
            Some((cohort, free, fit))
        };
        let look = |device: &Device, pool: &mut Pool| {
            let label = label.and_then(|key| device.labels.get(key)).map_or("", String::as_str);
            pool.look(device, ticket(device).map(|(cohort, free, fit)| Ticket { cohort, label, free, fit }));
            let place = standing(device, &self.rollout, self.version.manifest.digest, self.now);
            changes_at(device, &self.rollout, place)
        };
        let census = Census::new(&self.fleet, self.pool, self.now, look);
        let draw = Draw::new(&self.fleet, &census, &self.rollout.id, self.now);
        let taken: BTreeSet<&str> = taken.iter().map(|device| device.id.as_str()).collect();
        let mut held = draw.take(End::Back, Among::Fit, hold, |one| taken.contains(one.name));
        held.extend(draw.take(End::Back, Among::Unfit, hold - held.len(), |one| taken.contains(one.name)));
        let marks = draw.marks(&held);
        let told = draw.take(End::Front, Among::All, tell, |one| one.is_in(&marks) || taken.contains(one.name));
        (draw.devices(&neighbours(held, now)), draw.devices(&told))
    }

    /// Whether the stage is as full as it can be now, and everyone told has an outcome.
    pub fn is_filled(&self) -> bool {
        self.counts.in_flight() == 0 && self.counts.deferred == 0 && (self.places() == 0 || self.eligible() == 0)
    }

    /// The last moment at which a device was told, or at which the stage began.
    pub fn last_progress(&self) -> Timestamp {
        self.seen.last_told.map_or(self.since, |at| at.max(self.since))
    }

    /// Device failures of both sides as trials: those that tried, and of these those that failed or fell silent.
    pub fn failures(&self) -> Arms {
        // Without a control group to share an outage with, silence says nothing about the version.
        let failed = self.counts.failed_by_model + if self.holds_control() { self.counts.lost } else { 0 };
        Arms { canary: trials(self.counts.tried(), failed), control: trials(self.seen.held_heard, self.seen.held_lost) }
    }

    /// Its state in a sentence.
    pub fn headline(&self) -> String {
        let (counts, stages) = (&self.counts, self.rollout.spec.policy.stages.len());
        let stage = format!("stage {} of {stages} ({})", self.index + 1, self.stage.name);
        let place = match &self.rollout.state {
            RolloutState::Paused { reason, .. } => return format!("Paused in {stage}: {reason}"),
            _ if self.soaking_since.is_some() => "soaks in",
            _ => "fills",
        };
        format!("Version {} {place} {stage}: {} of {} allowed devices run it.", self.version.version, counts.running, counts.allowed)
    }

    /// Names of devices in a place, at most five, for sentences.
    pub fn names(&self, places: &[Standing]) -> String {
        // In the order of devices, so the counts of a place say where to look, and the place itself who is meant.
        let some = |seen: &Seen| places.iter().any(|place| counted(&seen.counts, *place) > 0);
        let found = self.members(some, |m| places.contains(&m.standing), 6);
        let names: Vec<&str> = found.iter().map(|device| device.id.as_str()).collect();
        let shown = names.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        if names.len() > 5 { format!("{shown} and others") } else { shown }
    }
}

fn trials(n: usize, x: usize) -> evidence::Arm {
    let (n, x) = (n as f64, x as f64);
    evidence::Arm { devices: n as u64, n, x, n2: n, x2: x, nx: x }
}
