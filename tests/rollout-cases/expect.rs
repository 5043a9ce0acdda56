//! What must hold after a step; each difference is said with what was found.
use leeway_controller::rollout::RolloutState;
use leeway_controller::rollout::evidence::Outcome;
use leeway_protocol::assignment::Intent;
use serde_json::Value;

use crate::engine::{Engine, id};
use crate::format::Expect;

struct Differences(Vec<String>);

impl Differences {
    fn see<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, expected: Option<T>, found: impl FnOnce() -> T) {
        let Some(expected) = expected else { return };
        let found = found();
        if found != expected {
            self.0.push(format!("{what} should be {expected:?} and is {found:?}"));
        }
    }
}

fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        other => panic!("{other:?} is no word"),
    }
}

/// Everything that is not as expected.
pub fn compare(engine: &Engine, expect: &Expect) -> Vec<String> {
    let mut all = Differences(Vec::new());
    let rollout = engine.rollout();
    all.see("phase", expect.phase.as_deref(), || rollout.state.phase());
    all.see("stage", expect.stage, || rollout.state.stage().map_or(0, |stage| stage + 1));
    all.see("soaking", expect.soaking, || matches!(rollout.state, RolloutState::Running { soaking_since: Some(_), .. }));
    all.see("told", expect.told, || engine.ever_told().len());
    all.see("told_now", expect.told_now, || engine.told.len() - engine.told_before);
    if let Some(most) = expect.most_per_minute {
        let found = busiest_minute(engine);
        if found > most {
            all.0.push(format!("at most {most} should be told within a minute, and {found} were"));
        }
    }
    let desired = |wanted: &dyn Fn(Intent) -> bool| {
        engine.state.fleet.iter().filter_map(|d| d.desired.clone()).filter(|d| d.rollout == Some(id()) && wanted(d.intent)).count()
    };
    all.see("sent_back", expect.sent_back, || desired(&|intent| intent != Intent::Install));
    let places: Vec<String> = engine.state.fleet.iter().map(|d| word(engine.place(&d))).collect();
    let in_place = |place: &str| places.iter().filter(|p| *p == place).count();
    all.see("controls", expect.controls, || in_place("control"));
    for (place, count) in &expect.devices {
        all.see(&format!("devices {place}"), Some(*count), || in_place(place));
    }
    let manifest = engine.manifest();
    all.see("on_version", expect.on_version, || engine.state.fleet.iter().filter(|d| d.runs(manifest)).count());
    all.see("champion", expect.champion.clone(), || {
        let champion = engine.state.lines.values().find_map(|line| line.champion());
        champion.map_or("none".to_owned(), ToString::to_string)
    });
    all.see("version_is", expect.version_is.as_deref(), || {
        engine.state.versions.values().find(|v| v.version == engine.version).map_or("unknown", |v| v.status.as_str())
    });
    gate(engine, expect, &mut all);
    sentences(engine, expect, &mut all);
    all.0
}

fn gate(engine: &Engine, expect: &Expect, all: &mut Differences) {
    let gate = engine.report.rollouts.get(&id()).and_then(|report| report.gate.as_ref());
    let outcome = |outcome: Outcome| word(outcome);
    all.see("gate", expect.gate.clone(), || gate.map_or("none".to_owned(), |gate| outcome(gate.outcome)));
    for (check, expected) in &expect.checks {
        all.see(&format!("check {check}"), Some(expected.clone()), || {
            gate.and_then(|g| g.checks.iter().find(|c| c.name == *check)).map_or("none".to_owned(), |c| outcome(c.outcome))
        });
    }
}

fn sentences(engine: &Engine, expect: &Expect, all: &mut Differences) {
    match (&expect.refused, &engine.refused) {
        (None, None) => {}
        (Some(words), Some(refusal)) if refusal.contains(words.as_str()) => {}
        (None, Some(refusal)) => all.0.push(format!("refused: {refusal}")),
        (Some(words), found) => all.0.push(format!("should be refused with {words:?} and is {found:?}")),
    }
    let said = engine.says();
    for words in &expect.says {
        if !said.iter().any(|sentence| sentence.contains(words.as_str())) {
            all.0.push(format!("no sentence says {words:?}"));
        }
    }
    for words in &expect.says_not {
        if let Some(sentence) = said.iter().find(|sentence| sentence.contains(words.as_str())) {
            all.0.push(format!("a sentence says {words:?}: {sentence}"));
        }
    }
}

fn busiest_minute(engine: &Engine) -> usize {
    let within = |from: &leeway_protocol::time::Timestamp| {
        engine.told.iter().filter(|(at, _)| (0..60_000).contains(&at.millis_since(*from))).count()
    };
    engine.told.iter().map(|(at, _)| within(at)).max().unwrap_or(0)
}
