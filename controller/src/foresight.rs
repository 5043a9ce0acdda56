//! A rollout before it begins: the controller's own planner lives through many futures of the fleet as it is recorded.
//!
//! Answered are how long it takes, how many devices a bad version reaches, how often a good one is stopped by mistake, what the
//! downloads peak at, who cannot take it and who will not be there. The rules are [`crate::planner::plan`] and nothing else:
//! what is simulated is devices ([`device`]), when they are there ([`contacts`]), and how they take to a version ([`base`],
//! [`harm`]). What stays true: one seed and one state give one answer; what is assumed and not recorded is said beside the answer;
//! every chance comes with the interval that the number of runs leaves open.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::planner::Policy;
use crate::rollout::Rollout;
use crate::snapshot::Snapshot;

pub mod base;
pub mod budget;
pub mod chance;
pub mod contacts;
pub mod device;
pub mod harm;
pub mod run;
pub mod study;
pub mod unfit;
mod words;

pub use budget::RiskBudget;
pub use harm::Harm;
pub use unfit::Unfit;

use harm::Effect;
use run::{End, HORIZON_MS, Outcome, Run};
use study::Study;

/// The share of devices whose time is given first: the last few are a question of who is on holiday.
pub const MOST: f64 = 0.95;
/// Devices named that will probably not be reached.
const MAX_NAMES: usize = unfit::MAX_NAMES;
/// Longer than this without contact is worth a word.
const LONG_AWAY_MS: i64 = 24 * 3_600_000;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The state it would begin in.
    pub snapshot: &'a Snapshot,
    /// The planner's policy.
    pub policy: &'a Policy,
    /// The rollout, as it would be created.
    pub rollout: &'a Rollout,
    /// When it would begin.
    pub now: Timestamp,
    /// The seed of all chance.
    pub seed: u64,
    /// How much may be computed.
    pub effort: Effort,
}

/// How much may be computed. Counted in planned devices (plans times devices) and not in seconds, so that the answer does not
/// depend on the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effort {
    /// Devices simulated at most; a larger fleet is drawn from.
    pub max_devices: usize,
    /// Runs of each case at most.
    pub max_runs: u32,
    /// Planned devices in all: a million take about half a second.
    pub work: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self { max_devices: 2_000, max_runs: 400, work: 15_000_000 }
    }
}

/// Runs of each case at least, however large the fleet.
const MIN_RUNS: u32 = 5;
/// Runs that go on to the last device that can be reached: times vary little between runs.
const LONG_RUNS: u32 = 5;

/// A chance, with what the number of runs leaves open (Wilson, 95 %).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Likelihood {
    /// Share of runs.
    pub share: f64,
    /// At least.
    pub low: f64,
    /// At most.
    pub high: f64,
    /// Runs.
    pub runs: u32,
}

/// How far and how fast a good version gets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reach {
    /// Until [`MOST`] of the devices run it, milliseconds: the median of the runs; absent if that is not reached in two weeks.
    pub most_median_ms: Option<u64>,
    /// The same in nine of ten runs.
    pub most_p90_ms: Option<u64>,
    /// Until every device that is reached in two weeks runs it.
    pub all_median_ms: Option<u64>,
    /// The same in nine of ten runs.
    pub all_p90_ms: Option<u64>,
    /// Until the rollout is complete.
    pub complete_median_ms: Option<u64>,
    /// The same in nine of ten runs.
    pub complete_p90_ms: Option<u64>,
    /// Devices that run it in the end (median).
    pub reached: u64,
    /// Devices that are usually without contact for more than a day.
    pub long_away: u64,
    /// Devices that will probably not be reached in two weeks, or in the budget's days.
    pub unreached: u64,
    /// Some of their names.
    pub unreached_names: Vec<String>,
}

/// What happens if the version is bad in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HarmForecast {
    /// In which way.
    pub harm: Harm,
    /// The same as the beginning of a sentence.
    pub clause: String,
    /// Runs in which it was taken back, or stood still for a person.
    pub stopped: Likelihood,
    /// Of the runs, those in which it was taken back without a person.
    pub taken_back: Likelihood,
    /// Whether the gate sees it: it is stopped more often than a good version is.
    pub is_seen: bool,
    /// Devices on which it ran before it was stopped: the median of the runs.
    pub exposed_median: u64,
    /// The same in nine of ten runs.
    pub exposed_p90: u64,
    /// From the start until it was stopped, milliseconds; absent if it mostly is not.
    pub stopped_median_ms: Option<u64>,
    /// The same in nine of ten runs.
    pub stopped_p90_ms: Option<u64>,
    /// All this in a sentence.
    pub sentence: String,
}

/// The busiest minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Peak {
    /// Downloads begun within a minute.
    pub devices_per_minute: u64,
    /// Their bytes, per second of that minute.
    pub bytes_per_second: u64,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Forecast {
    /// For people, the most important first.
    pub sentences: Vec<String>,
    /// Devices of the line.
    pub devices: u64,
    /// Of these, simulated.
    pub simulated: u64,
    /// The seed: the same gives the same answer in the same state.
    pub seed: u64,
    /// How far and how fast a good version gets.
    pub reach: Reach,
    /// How often a good version is taken back by mistake, from everywhere or from a part of the fleet.
    pub false_abort: Likelihood,
    /// How often a good version stands still and waits for a person.
    pub held_up: Likelihood,
    /// Why it does, in the run where it first did.
    pub held_up_why: Option<String>,
    /// What a bad version does.
    pub harms: Vec<HarmForecast>,
    /// The busiest minute.
    pub peak: Peak,
    /// Devices that will refuse it, by reason.
    pub unfit: Vec<Unfit>,
    /// What was assumed, in sentences.
    pub assumed: Vec<String>,
    /// What breaks the rollout's own risk budget, in sentences; empty if nothing does, or if it has none.
    pub broken: Vec<String>,
}

/// Look ahead; `None` if the rollout's version is not known.
pub fn foresee(question: &Question<'_>) -> Option<Forecast> {
    let study = Study::new(question)?;
    let good = case(&study, Effect::none(&study.base), "good", true);
    let stops = |o: &&Outcome| o.in_part || matches!(o.end, End::RolledBack(_) | End::Held(_));
    let usual = Likelihood::of(good.iter().filter(stops).count(), good.len());
    let harms = Harm::ALL.map(|harm| harm_of(&study, harm, usual)).to_vec();
    let risk = question.rollout.spec.policy.risk.as_ref();
    let in_time = risk.and_then(|r| r.max_days).map_or(HORIZON_MS, |days| (days * budget::DAY_MS) as i64).min(HORIZON_MS);
    let runs = good.len();
    let with = |what: fn(&Outcome) -> bool| Likelihood::of(good.iter().filter(|o| what(o)).count(), runs);
    let peak = good.iter().map(|o| o.peak).max().unwrap_or(0);
    let devices_per_minute = study.scaled(peak);
    let held_up_why = good.iter().find_map(|o| if let End::Held(why) = &o.end { Some(why.clone()) } else { None });
    let mut forecast = Forecast {
        sentences: Vec::new(),
        devices: study.members as u64,
        simulated: study.profiles.len() as u64,
        seed: question.seed,
        reach: reach(&study, &good, in_time),
        false_abort: with(|o| o.in_part || matches!(o.end, End::RolledBack(_))),
        held_up: with(|o| matches!(o.end, End::Held(_) | End::Unfinished)),
        held_up_why,
        harms,
        peak: Peak { devices_per_minute, bytes_per_second: devices_per_minute * study.length / 60 },
        unfit: study.unfit.clone(),
        assumed: words::assumed(&study, question.snapshot, question.rollout),
        broken: Vec::new(),
    };
    forecast.broken = risk.map(|risk| risk.broken_by(&forecast)).unwrap_or_default();
    forecast.sentences = words::sentences(&forecast, &study, in_time);
    Some(forecast)
}

/// As many futures of one case as the effort allows: the first shows what one costs.
fn case(study: &Study, effect: Effect, name: &str, long: bool) -> Vec<Outcome> {
    let run = |i: u32| Run::new(study, effect, &format!("{name}/{i}"), long && i < LONG_RUNS).go();
    let mut outcomes = vec![run(0)];
    // The good version gets half of the work: its chance of being stopped is the small figure that needs many runs.
    let work = study.effort.work / if long { 2 } else { 2 * Harm::ALL.len() as u64 };
    let (mut spent, mut runs) = (outcomes.iter().map(|o| o.work).sum::<u64>(), 1);
    while runs < study.effort.max_runs && (runs < MIN_RUNS || spent < work) {
        let outcome = run(runs);
        spent += outcome.work;
        runs += 1;
        outcomes.push(outcome);
    }
    outcomes
}

fn harm_of(study: &Study, harm: Harm, usual: Likelihood) -> HarmForecast {
    let outcomes = case(study, harm.effect(&study.base), harm.as_str(), false);
    let stops = |o: &&Outcome| matches!(o.end, End::RolledBack(_) | End::Held(_));
    let exposed: Vec<i64> = outcomes.iter().map(|o| o.exposed as i64).collect();
    // A run in which it was not stopped counts as taking for ever.
    let times: Vec<Option<i64>> = outcomes.iter().map(|o| Some(o.ended_ms).filter(|_| stops(&o))).collect();
    let exposed_at = |share: f64| study.scaled(quantile(exposed.iter().map(|n| Some(*n)), share).map_or(0, |n| n as usize));
    let stopped_at = |share: f64| quantile(times.iter().copied(), share).map(|ms| ms.max(0) as u64);
    let taken_back = outcomes.iter().filter(|o| matches!(o.end, End::RolledBack(_))).count();
    let mut forecast = HarmForecast {
        harm,
        clause: harm.clause(&study.base),
        stopped: Likelihood::of(outcomes.iter().filter(stops).count(), outcomes.len()),
        taken_back: Likelihood::of(taken_back, outcomes.len()),
        is_seen: true,
        exposed_median: exposed_at(0.5),
        exposed_p90: exposed_at(0.9),
        stopped_median_ms: stopped_at(0.5),
        stopped_p90_ms: stopped_at(0.9),
        sentence: String::new(),
    };
    forecast.is_seen = forecast.stopped.low > usual.high || forecast.stopped.share > 0.99;
    forecast.sentence = words::harm(&forecast, study);
    forecast
}

/// Times of a good version, over the runs in which it was not taken back by mistake.
fn reach(study: &Study, good: &[Outcome], in_time: i64) -> Reach {
    let stays = |o: &&Outcome| !matches!(o.end, End::RolledBack(_));
    let kept: Vec<&Outcome> = good.iter().filter(stays).collect();
    let long: Vec<&Outcome> = good.iter().take(LONG_RUNS as usize).filter(stays).collect();
    let devices = study.profiles.len();
    let most = (devices as f64 * MOST).ceil() as usize;
    let floor = |ms: i64, share: f64| (ms.max((study.least_ms as f64 * share) as i64)).max(0) as u64;
    let time = |outcomes: &[&Outcome], share: f64, of: &dyn Fn(&Outcome) -> Option<i64>, at: f64| {
        quantile(outcomes.iter().map(|o| of(o)), at).map(|ms| floor(ms, share))
    };
    let most_at = |o: &Outcome| most.checked_sub(1).and_then(|i| o.reached_ms.get(i).copied());
    let all_at = |o: &Outcome| o.reached_ms.last().copied();
    let complete_at = |o: &Outcome| (o.end == End::Completed).then_some(o.ended_ms);
    let late = |o: &Outcome| o.reached_ms.iter().filter(|ms| **ms > in_time).count();
    let missed = quantile(long.iter().map(|o| Some((o.unreached.len() + late(o)) as i64)), 0.5).unwrap_or(0);
    // Named is who was missed in more than half of the runs.
    let mut times_missed = vec![0_usize; devices];
    long.iter().flat_map(|o| &o.unreached).for_each(|i| times_missed[*i] += 1);
    let missing = times_missed.iter().zip(&study.profiles).filter(|(n, _)| **n * 2 > long.len());
    let away = study.profiles.iter().filter(|p| {
        let online = study.snapshot.fleet.device(&p.id).is_some_and(|d| d.presence.online);
        p.pattern.longest_away(online).is_none_or(|ms| ms > LONG_AWAY_MS)
    });
    Reach {
        most_median_ms: time(&long, MOST, &most_at, 0.5),
        most_p90_ms: time(&long, MOST, &most_at, 0.9),
        all_median_ms: time(&long, 1.0, &all_at, 0.5),
        all_p90_ms: time(&long, 1.0, &all_at, 0.9),
        complete_median_ms: time(&kept, 1.0, &complete_at, 0.5),
        complete_p90_ms: time(&kept, 1.0, &complete_at, 0.9),
        reached: study.scaled(quantile(long.iter().map(|o| Some(o.reached_ms.len() as i64)), 0.5).unwrap_or(0) as usize),
        long_away: study.scaled(away.count()),
        unreached: study.scaled(missed as usize),
        unreached_names: missing.map(|(_, p)| p.id.to_string()).take(MAX_NAMES).collect(),
    }
}

/// The value that a share of the runs does not exceed; `None` where that run never got there. A run without a value counts as the
/// largest of all.
fn quantile(values: impl Iterator<Item = Option<i64>>, share: f64) -> Option<i64> {
    let mut sorted: Vec<i64> = values.map(|value| value.unwrap_or(i64::MAX)).collect();
    sorted.sort_unstable();
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().filter(|value| *value < i64::MAX)
}

impl Likelihood {
    /// From counts.
    pub fn of(hits: usize, runs: usize) -> Self {
        const Z: f64 = 1.96;
        let (n, p) = (runs.max(1) as f64, hits as f64 / runs.max(1) as f64);
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        // At the ends rounding could leave a speck below 0 or above 1.
        let low = if hits == 0 { 0.0 } else { (middle - half).max(0.0) };
        let high = if hits == runs { 1.0 } else { (middle + half).min(1.0) };
        Self { share: p, low, high, runs: u32::try_from(runs).unwrap_or(u32::MAX) }
    }

    /// `1.3 % (0.4–3.0)`.
    pub fn words(&self) -> String {
        format!("{:.1} % ({:.1}–{:.1})", self.share * 100.0, self.low * 100.0, self.high * 100.0)
    }
}

#[cfg(test)]
mod tests;
