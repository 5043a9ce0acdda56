//! A controller that was killed: what it decided comes out again from its directory, what ran is answered for, and a changed count is found.
use super::*;
use crate::history::{Knowledge, Row, Seen, answer};
use crate::io::offline::{OfflineError, Stopped};
use crate::io::store::Write;

/// The directory once whoever ran on it has let go.
fn stopped(place: &Place) -> Stopped {
    loop {
        match Stopped::open(place.dir.path()) {
            Ok(stopped) => return stopped,
            Err(OfflineError::Live(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_controllers_decisions_come_out_again_and_what_ran_is_answered_for() {
    let place = Place::new();
    let handle = place.start().await;
    let controller = handle.controller.clone();
    cohort(&controller).await;
    let first = place.publish(&controller, "1", 1).await;
    let (key, access) = Device::enrol(&controller, 1).await;
    let id = access.device.clone();
    let before = clock::now();
    let mut device = Device::connect(key, access, 0).await;
    let rollout = controller.create_rollout(new_rollout("1"), "ann").await.unwrap();
    let (_, assignment) = device.directive().await;
    device.report(assignment.generation, &first, Phase::Committed);
    let report = leeway_protocol::report::WindowReport { manifest: first.blob().digest, model: first.model.digest, ..window(1) };
    for n in 1..=30 {
        let counter =
            device.say(Channel::Window, &leeway_protocol::report::WindowReport { window: WindowId(n), ..report.clone() }.to_bytes());
        device.receipted(counter).await;
    }
    until("the rollout completes", || controller.snapshot().rollouts[&rollout.id].state.phase() == "completed").await;
    assert!(matches!(Stopped::open(place.dir.path()), Err(OfflineError::Live(_))), "a live directory is refused");

    // Killed and started again: the record is there, and names what was decided.
    drop(controller);
    drop(handle);
    let handle = place.start().await;
    let rows = handle.controller.history(&id).unwrap();
    let now = clock::now();
    let seen = Seen { online: false, last_seen: Some(now), enrolled_at: Some(before), now };
    let known = answer(&rows, now, &seen);
    let span = known.span.as_ref().unwrap();
    assert_eq!(span.said.active.as_ref().unwrap().manifest, first.blob().digest);
    let (told, event) = span.told.unwrap();
    assert_eq!((told.rollout.as_ref(), told.generation), (Some(&rollout.id), assignment.generation));
    let events = handle.controller.events(0, 1000).unwrap();
    let named = events.iter().find(|e| Some(e.seq) == event).unwrap();
    assert_eq!((named.kind.as_str(), named.sentence.as_str()), ("device.desired", told.reason.as_str()));
    assert_eq!(answer(&rows, before.plus_secs(-1), &seen).knowledge, Knowledge::Unknown);
    assert!(matches!(rows[0].row, Row::Told(_)), "it was told before it said anything");
    let about = handle.controller.events_about(&format!("rollouts/{}", rollout.id), u64::MAX, 100).unwrap();
    assert_eq!(about.first().unwrap().kind, "rollout.created");
    handle.shutdown().await;

    let report = stopped(&place).replay().unwrap();
    assert!(report.is_equal(), "{}\n{:#?}", report.sentence(), report.differences);
    assert!(report.decisions.equal >= 2 && report.streams.equal >= 2 && report.windows == 30, "{}", report.sentence());
    assert_eq!(report.cannot, Vec::<String>::new());

    // One derived sum that is not what the windows add up to.
    let store = loop {
        match Store::open(&place.dir.path().join("store.redb"), StoreConfig::default()) {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let (key, bytes) = store.docs(Kind::Checkpoint).unwrap().into_iter().find(|(key, _)| key.starts_with("monitor/")).unwrap();
    let mut doc: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    doc["drift"]["blocks"]["late"] = 7.into();
    let write = Write::Put { kind: Kind::Checkpoint, key, value: serde_json::to_vec(&doc).unwrap() };
    store.commit(Batch { at: clock::now(), writes: vec![write], events: Vec::new(), urgent: true }).await.unwrap();
    drop(store);
    let report = stopped(&place).replay().unwrap();
    assert_eq!((report.different, report.differences[0].path.as_str()), (1, "/blocks/late"), "{}", report.sentence());
    assert_eq!(report.differences[0].recorded, "7");
}
