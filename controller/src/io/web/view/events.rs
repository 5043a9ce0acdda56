//! The event log as the API shows it.
use crate::audit;
use crate::io::web::resource::Level;
use crate::io::web::resource::event::Event;

/// One row.
pub(in crate::io::web) fn event(row: &audit::Event) -> Event {
    Event {
        seq: row.seq,
        at: row.at,
        actor: row.actor.clone(),
        kind: row.kind.clone(),
        level: level(row),
        subject: row.subject.clone(),
        sentence: row.sentence.clone(),
        data: row.data.clone(),
        hash: row.hash.to_string(),
    }
}

/// How to read a row: its kind says what happened, and for a move its data where it led.
fn level(row: &audit::Event) -> Level {
    let text = |path: &str| row.data.pointer(path).and_then(serde_json::Value::as_str);
    let outcome = text("/step/to/move").or_else(|| text("/step/status/is")).or_else(|| text("/phase")).or_else(|| text("/is"));
    match outcome.unwrap_or_default() {
        "regress" | "abort" | "rolling_back" | "rolled_back" | "poisoned" | "yanked" => return Level::Bad,
        "pause" | "paused" | "aborted" | "deprecated" => return Level::Warn,
        "complete" | "completed" | "restored" => return Level::Ok,
        _ => {}
    }
    let has = |words: &[&str]| words.iter().any(|w| row.kind.contains(w));
    match () {
        () if has(&["ended", "restored"]) => Level::Ok,
        () if has(&["fail", "refus", "revert", "poison", "lost", "broken", "invalid"]) => Level::Bad,
        () if has(&["pause", "drift", "offline", "retrain", "yank", "abort", "alarm"]) => Level::Warn,
        () if has(&["publish", "complete", "committed", "approved", "enrol", "registered"]) => Level::Ok,
        () if has(&["rollout"]) => Level::Busy,
        () => Level::Idle,
    }
}
