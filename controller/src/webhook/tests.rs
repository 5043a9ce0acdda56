//! A webhook's place in the log, its tries and its words, without a network.
use leeway_protocol::digest::Digest;
use serde_json::json;

use super::*;
use crate::audit::Draft;

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn event(seq: u64, kind: &str) -> Event {
    let draft = Draft {
        at: now(),
        actor: "ann".into(),
        kind: kind.into(),
        subject: "rollouts/rain-2".into(),
        sentence: "It was paused.".into(),
        data: json!({ "stage": 1 }),
    };
    draft.seal(seq, Digest::of(b"before"))
}

fn webhook(kinds: &[&str]) -> Webhook {
    Webhook {
        name: "chat".into(),
        url: "https://hooks.example/".into(),
        kinds: kinds.iter().map(|&k| k.to_owned()).collect(),
        secret: Secret::of(&[7; 32]),
        made_at: now(),
        made_by: "ann".into(),
        after: 4,
        failures: 0,
        retry_at: None,
        paused: None,
        tries: VecDeque::new(),
    }
}

#[test]
fn a_webhook_wants_kinds_by_whole_words() {
    let table: [(&[&str], &str, bool); 7] = [
        (&[], "anything.at.all", true),
        (&["rollout"], "rollout.moved", true),
        (&["rollout"], "rollout", true),
        (&["rollout"], "rollouts.moved", false),
        (&["rollout.moved"], "rollout.moved", true),
        (&["rollout.moved"], "rollout.made", false),
        (&["drift", "device.alarm"], "device.alarm", true),
    ];
    for (kinds, kind, wanted) in table {
        assert_eq!(webhook(kinds).wants(&event(5, kind)), wanted, "{kinds:?} {kind}");
    }
}

#[test]
fn an_entry_is_offered_until_it_is_taken_or_the_schedule_ends() {
    let (mut hook, entry) = (webhook(&[]), event(5, "rollout.moved"));
    let mut at = now();
    for (n, wait) in WAITS_MS.iter().enumerate() {
        assert!(hook.is_due(at), "try {n}");
        assert!(!hook.note(&entry, &Answer::Status(503), at, 3), "try {n}");
        assert_eq!((hook.after, hook.retry_at), (4, Some(at.plus_millis(*wait))));
        assert!(!hook.is_due(at.plus_millis(wait - 1)));
        at = at.plus_millis(*wait);
    }
    let mut gives_up = hook.clone();
    assert!(gives_up.note(&entry, &Answer::None("no answer".into()), at, 3), "the schedule is over");
    assert!(!gives_up.is_due(at.plus_millis(i64::from(u32::MAX))), "nobody asks who is paused");
    let sentence = gives_up.sentence(9);
    assert!(
        sentence.contains("entry 5 was offered 10 times") && sentence.contains("no answer") && sentence.contains("resume chat"),
        "{sentence}"
    );
    for (skip, after) in [(false, 4), (true, 5)] {
        let mut resumed = gives_up.clone();
        resumed.resume(skip);
        assert!(resumed.is_due(at) && resumed.after == after && resumed.failures == 0);
    }
    assert!(!hook.note(&entry, &Answer::Status(204), at, 3));
    assert_eq!((hook.after, hook.failures, hook.retry_at, hook.paused.is_none()), (5, 0, None, true));
    assert_eq!(hook.tries.len(), 10);
    assert!(hook.sentence(5).contains("Everything"), "{}", hook.sentence(5));
}

#[test]
fn who_is_gone_is_paused_at_once_and_nobody_follows_elsewhere() {
    let mut hook = webhook(&[]);
    assert!(hook.note(&event(5, "a"), &Answer::Status(410), now(), 1));
    assert!(hook.sentence(5).contains("offered once"), "{}", hook.sentence(5));
    let mut hook = webhook(&[]);
    assert!(!hook.note(&event(5, "a"), &Answer::Status(302), now(), 1));
    assert!(hook.tries[0].sentence.contains("nobody follows") && !hook.tries[0].ok);
}

#[test]
fn the_place_only_rises_and_tries_are_bounded() {
    let mut hook = webhook(&[]);
    hook.pass(9);
    hook.pass(3);
    assert_eq!(hook.after, 9);
    for n in 0..500 {
        hook.note(&event(10 + n, "a"), &Answer::Status(200), now(), 1);
    }
    assert_eq!((hook.tries.len(), hook.tries[0].seq, hook.after), (REMEMBERED, 460, 509));
}

#[test]
fn names_and_kinds_are_checked() {
    let kinds = |list: &[&str]| list.iter().map(|&k| k.to_owned()).collect::<Vec<_>>();
    assert_eq!(check("chat-1", &kinds(&["rollout", "device.alarm"])), Ok(()));
    for name in ["", ".", "..", "a b", "a/b", &"x".repeat(65)] {
        assert!(matches!(check(name, &[]), Err(WebhookError::Name(_))), "{name:?}");
    }
    for list in [kinds(&[""]), kinds(&["a b"]), kinds(&[&"k".repeat(65)]), vec!["a".to_owned(); 33]] {
        assert!(matches!(check("chat", &list), Err(WebhookError::Kind(_))), "{list:?}");
    }
}

#[test]
fn signatures_are_those_of_standard_webhooks() {
    // The example that the specification's reference libraries test themselves with.
    let secret: Secret = serde_json::from_value(json!("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
    let (id, at, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp::from_secs(1_614_265_330), r#"{"test": 2432232314}"#);
    assert_eq!(secret.sign(id, at, body), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_ne!(secret.sign("another", at, body), secret.sign(id, at, body));
    assert_ne!(secret.sign(id, at.plus_millis(1_000), body), secret.sign(id, at, body));
    assert!(Secret::of(&[1; 32]).text().starts_with("whsec_") && !format!("{:?}", Secret::of(&[1; 32])).contains("whsec"));
}

#[test]
fn an_entry_becomes_a_cloudevent() {
    let tenant = "demo".parse().unwrap();
    let entry = event(5, "rollout.moved");
    let document: serde_json::Value = serde_json::from_str(&message::body(&tenant, &entry)).unwrap();
    let expected = json!({
        "specversion": "1.0", "id": "demo-5", "source": "/leeway/demo", "type": "leeway.rollout.moved", "subject": "rollouts/rain-2",
        "time": now(), "datacontenttype": "application/json", "sequence": "5",
        "data": { "actor": "ann", "sentence": "It was paused.", "data": { "stage": 1 }, "prev": entry.prev, "hash": entry.hash },
    });
    assert_eq!(document, expected);
}
