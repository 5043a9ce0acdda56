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
    let has = |words: &[&str]| words.iter().any(|w| row.kind.contains(w));
    let phase = row.data.get("phase").or_else(|| row.data.get("to")).and_then(serde_json::Value::as_str).unwrap_or_default();
    match phase {
        "rolling_back" | "rolled_back" | "reverted" | "refused" | "poisoned" => return Level::Bad,
        "paused" | "aborted" => return Level::Warn,
        "completed" | "committed" | "published" => return Level::Ok,
        _ => {}
    }
    match () {
        () if has(&["ended", "over", "restored"]) => Level::Ok,
        () if has(&["fail", "refus", "revert", "regress", "poison", "lost", "broken", "invalid"]) => Level::Bad,
        () if has(&["pause", "drift", "offline", "retrain", "yank", "abort", "alarm"]) => Level::Warn,
        () if has(&["publish", "complete", "restored", "committed", "approved", "enrol", "registered", "won"]) => Level::Ok,
        () if has(&["rollout", "start", "advance", "soak"]) => Level::Busy,
        () => Level::Idle,
    }
}
