//! The answer in sentences: what the command line, the API and the audit trail say.
use super::device::FETCH_PER_MS;
use super::run::HORIZON_MS;
use super::study::Study;
use super::{Forecast, HarmForecast, MOST};
use crate::planner::draft::{devices, duration};
use crate::rollout::{OnSuccess, Rollout};
use crate::snapshot::Snapshot;

/// The answer, the most important first.
pub fn sentences(forecast: &Forecast, study: &Study, in_time: i64) -> Vec<String> {
    let mut all = vec![pace(forecast, in_time)];
    all.extend(forecast.harms.iter().map(|harm| harm.sentence.clone()));
    let runs = forecast.false_abort.runs;
    all.push(format!("A good version is stopped by mistake in {} of {runs} runs.", forecast.false_abort.words()));
    if forecast.held_up.share > 0.0 {
        let why = forecast.held_up_why.as_ref().map_or_else(String::new, |why| format!(" {why}"));
        all.push(format!("It stands still and waits for a person in {} of runs.{why}", forecast.held_up.words()));
    }
    let peak = forecast.peak;
    if peak.devices_per_minute > 0 {
        let count = devices(peak.devices_per_minute as usize);
        all.push(format!("In the busiest minute {count} begin to download: {} a second.", bytes(peak.bytes_per_second)));
    }
    all.extend(forecast.unfit.iter().map(|group| {
        let names = if group.names.len() as u64 == group.devices {
            group.names.join(", ")
        } else {
            format!("{} and others", group.names.join(", "))
        };
        format!("{} will refuse it. {} ({names})", devices(group.devices as usize), group.why)
    }));
    if forecast.reach.unreached > 0 {
        let names = &forecast.reach.unreached_names;
        let listed = if names.is_empty() { String::new() } else { format!(", among them {}", names.join(", ")) };
        all.push(format!(
            "{} will probably not be reached within {}{listed}.",
            devices(forecast.reach.unreached as usize),
            duration(in_time)
        ));
    }
    if study.strangers > 0 {
        all.push(format!("{} of the fleet are no business of it: in no cohort of its line, or not let in.", devices(study.strangers)));
    }
    all.extend(forecast.broken.iter().map(|sentence| format!("Beyond its risk budget: {sentence}")));
    all.extend(rough(forecast));
    all
}

/// Runs from which on a small chance is right to some three points.
const ENOUGH_RUNS: u32 = 200;

/// That there were few runs, and what that leaves open.
fn rough(forecast: &Forecast) -> Option<String> {
    let runs = forecast.false_abort.runs;
    let of_harms = forecast.harms.iter().map(|harm| harm.stopped.runs);
    let least = of_harms.min().unwrap_or(runs).min(runs);
    let range = forecast.false_abort;
    (least < ENOUGH_RUNS).then(|| {
        format!(
            "The figures come from {runs} runs of a good version and at least {least} of each bad one, so a chance is known to some {:.0} points; --runs {ENOUGH_RUNS} and more narrow that, and take longer.",
            ((range.high - range.low) * 50.0).max(1.0)
        )
    })
}

fn pace(forecast: &Forecast, in_time: i64) -> String {
    if forecast.devices == 0 {
        return "No device is in a cohort of its line yet, so nothing would happen.".to_owned();
    }
    let reach = &forecast.reach;
    let total = devices(forecast.devices as usize);
    let away = match reach.long_away {
        0 => String::new(),
        1 => "; 1 is usually offline for more than a day".to_owned(),
        n => format!("; {n} are usually offline for more than a day"),
    };
    let time = |ms: u64| duration(i64::try_from(ms).unwrap_or(i64::MAX));
    let late = reach.most_p90_ms.map_or_else(String::new, |ms| format!(", nine runs of ten within {}", time(ms)));
    match (reach.most_median_ms, reach.complete_median_ms) {
        (Some(ms), _) => format!("Reaches {:.0} % of {total} in {} (median{late}){away}.", MOST * 100.0, time(ms)),
        (None, Some(ms)) => format!(
            "Is complete after {} (median) with {} of {total}; {:.0} % are not reached within {}{away}.",
            time(ms),
            reach.reached,
            MOST * 100.0,
            duration(in_time.max(HORIZON_MS))
        ),
        (None, None) => {
            format!("Mostly does not complete: of {total}, {} get the version within {}{away}.", reach.reached, duration(HORIZON_MS))
        }
    }
}

/// One harm.
pub fn harm(harm: &HarmForecast, study: &Study) -> String {
    let clause = &harm.clause;
    let exposed = format!("{} (nine runs of ten: at most {})", devices(harm.exposed_median as usize), harm.exposed_p90);
    match harm.stopped_median_ms {
        _ if !harm.is_seen => {
            let most = devices(harm.exposed_median as usize);
            format!("{clause}, the gate does not see it (it stops a good version as often): {most} of {} would run it.", study.members)
        }
        Some(ms) if harm.stopped.share >= 1.0 => {
            let by = if harm.taken_back.share >= 0.5 { "is taken back" } else { "stands still for a person" };
            format!("{clause}, {exposed} will have run it before it {by}, after {} (median).", duration(ms as i64))
        }
        _ => format!("{clause}, it is stopped in {} of runs, and {exposed} will have run it.", harm.stopped.words()),
    }
}

/// What was taken for granted.
pub fn assumed(study: &Study, snapshot: &Snapshot, rollout: &Rollout) -> Vec<String> {
    let mut all = study.base.sources.clone();
    let origins = study.origins;
    if origins.borrowed > 0 {
        all.push(format!("{} have no day of contact on record and borrow one from their cohort.", devices(origins.borrowed)));
    }
    if origins.guessed > 0 {
        all.push(format!(
            "Of {} nothing is recorded about when they are online: those that are stay so, the others return after as long again as they have been away.",
            devices(origins.guessed)
        ));
    }
    if study.base.labelled.is_none() {
        all.push(
            "No labels have come for this line, so nobody would notice a loss of accuracy that the model's own confidence does not show."
                .to_owned(),
        );
    }
    all.push(format!("A device downloads {} at {} a second.", bytes(study.length), bytes(FETCH_PER_MS * 1000)));
    if study.scale > 1.0 {
        all.push(format!(
            "{} drawn by cohort stand for {}; the exposed are scaled up, which is too many rather than too few: a gate needs a number of failures, not a share.",
            devices(study.profiles.len()),
            study.members
        ));
    }
    let policy = &rollout.spec.policy;
    if policy.require_approval || policy.stages.iter().any(|stage| stage.require_approval || stage.on_success == OnSuccess::Pause) {
        all.push("People approve and promote at once: the time they take is not counted.".to_owned());
    }
    let before = snapshot.rollouts.values().find(|r| r.id != rollout.id && r.spec.line == rollout.spec.line && !r.state.is_over());
    if let Some(before) = before {
        all.push(format!("Rollout {} of the same line is {} and goes first: times count from its end.", before.id, before.state.phase()));
    }
    all
}

fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
