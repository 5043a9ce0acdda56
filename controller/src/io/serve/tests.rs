//! A whole controller in one process, with a device played by hand and a runner that is a script: what a device sees.
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use leeway_protocol::assignment::Assignment;
use leeway_protocol::digest::Digest;
use leeway_protocol::enrolment;
use leeway_protocol::ids::{BootId, DeviceId, Generation, Line, WindowId};
use leeway_protocol::manifest::{Blob, Manifest, TargetCustom};
use leeway_protocol::reported::{DeviceEvent, Phase, Receipt, Reported, Running, Status, TrustedVersions};
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::{Channel, Topic};
use leeway_protocol::trust::director::{self, Directive};
use leeway_protocol::trust::envelope::{self, Kind as Envelope};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{Document, Root};
use leeway_protocol::trust::repository::{Ceremony, LineGrant, RoleBuilder, RootBuilder, ceremony};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::time::timeout;

use super::*;
use crate::access::{Principal, Scope};
use crate::fleet::admission::Decision;
use crate::ingest::Why;
use crate::ingest::tests::{manifest, window};
use crate::io::broker::MAX_PACKET_BYTES;
use crate::io::control::{ControlError, EnrolRequest, Enrolled, NewAccessToken, NewRollout, Touched};
use crate::io::store::tests::small_disk;
use crate::retraining::job::{JobState, RetrainRequest, TrainingJob};
use crate::rollout::{RolloutPolicy, Stage};

mod admission;
mod device;
mod place;
mod replayed;
mod supply;

use device::Device;
use place::Place;

/// No message should take longer; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

fn line() -> Line {
    "rain".parse().unwrap()
}

fn one_stage() -> RolloutPolicy {
    RolloutPolicy { stages: vec![Stage { soak_ms: 50, ..Stage::share("all", 1.0) }], control_share: 0.0, ..RolloutPolicy::default() }
}

async fn cohort(controller: &Controller) {
    let cohort = CohortDoc {
        name: "coast".parse().unwrap(),
        line: line(),
        selector: "region=coast".parse().unwrap(),
        rank: 0,
        last_known_good: None,
        created_at: clock::now(),
    };
    controller.put_cohort(cohort, "ann").await.unwrap();
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn new_rollout(version: &str) -> NewRollout {
    NewRollout {
        id: None,
        line: line(),
        version: version.parse().unwrap(),
        policy: Some(one_stage()),
        reason: "The first model.".to_owned(),
        force: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_reaches_a_device_and_survives_a_kill() {
    let place = Place::new();
    let handle = place.start().await;
    let controller = handle.controller.clone();
    cohort(&controller).await;
    let first = place.publish(&controller, "1", 1).await;
    let (key, access) = Device::enrol(&controller, 1).await;
    let mut device = Device::connect(key.clone(), access, 0).await;
    let rollout = controller.create_rollout(new_rollout("1"), "ann").await.unwrap();
    let (directive, assignment) = device.directive().await;
    assert_eq!(assignment.release.as_ref().unwrap().version, first.version);
    assert_eq!(directive.target.as_ref().unwrap().sha256, first.model.digest);
    assert_eq!(assignment.rollout, Some(rollout.id.clone()));

    device.report(assignment.generation, &first, Phase::Committed);
    let report = leeway_protocol::report::WindowReport { manifest: first.blob().digest, model: first.model.digest, ..window(1) };
    let counter = device.say(Channel::Window, &report.to_bytes());
    device.receipted(counter).await;
    until("the report counts", || controller.snapshot().evidence.get(&rollout.id).is_some_and(|e| e.inferences == 4)).await;

    // Killed: nothing is written down at the end. The sums come back from the log.
    drop(controller);
    drop(handle);
    let handle = place.start().await;
    let controller = handle.controller.clone();
    let state = controller.snapshot();
    assert_eq!(state.rollouts[&rollout.id].spec, rollout.spec);
    assert_eq!(state.evidence[&rollout.id].inferences, 4);
    let known = state.fleet.device(&device.access.device).unwrap();
    assert!(known.part_in(&rollout.id).unwrap().exposed_at.is_some(), "what a rollout is judged by is on disk before the receipt");
    let generation = known.desired.as_ref().unwrap().generation;
    assert_eq!(generation, assignment.generation, "told before, and remembered");

    // The broker is new and empty; the desired state is there again. The port changed with the restart.
    let access = Enrolled {
        mqtt: crate::io::control::MqttAccess { port: handle.mqtt.unwrap().port(), ..device.access.mqtt.clone() },
        ..device.access.clone()
    };
    let mut device = Device::connect(key, access, device.counter).await;
    let (_, again) = device.directive().await;
    assert_eq!((again.generation, again.release), (assignment.generation, assignment.release));
    let counter = device.say(Channel::Window, &report.to_bytes());
    device.receipted(counter).await;
    assert_eq!(controller.snapshot().evidence[&rollout.id].inferences, 4, "the same window counts once, over the restart");

    // It goes on to the end: enough inferences, then complete, champion, last known good.
    device.report(assignment.generation, &first, Phase::Committed);
    let reporting = tokio::spawn(async move {
        for n in 2.. {
            let report = leeway_protocol::report::WindowReport { window: WindowId(n), ..report.clone() };
            let counter = device.say(Channel::Window, &report.to_bytes());
            device.receipted(counter).await;
        }
    });
    until("the rollout completes", || controller.snapshot().rollouts[&rollout.id].state.phase() == "completed").await;
    until("there is a champion", || controller.snapshot().lines[&line()].champion() == Some(&first.version)).await;
    let events = controller.events(0, 1000).unwrap();
    crate::audit::verify(crate::audit::Head::default(), &events).unwrap();
    assert!(events.iter().any(|e| e.kind == "rollout.moved" && e.data.get("report").is_some()), "moves carry the planner's report");
    reporting.abort();
    drop(controller);
    handle.shutdown().await;
    let handle = place.start().await;
    assert_eq!(handle.controller.snapshot().rollouts[&rollout.id].state.phase(), "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_online_keys_are_held_first_named_by_a_root_then_and_every_assignment_is_signed_again() {
    let place = Place::new();
    let fresh = |n: u8| SigningKey::from_seed(&[200 + n; 32]);
    let root = |old: &[u8], roles: &[(&str, u8)]| {
        let old = Document::<Root>::parse(old, 1 << 20).unwrap();
        let next = RootBuilder::after(old.claims(), clock::now().plus_secs(1000));
        let next = roles.iter().fold(next, |root, (role, n)| root.role(role, &[fresh(*n).public()], 1));
        next.sign(&[place.ceremony.key("root-1").unwrap(), place.ceremony.key("root-3").unwrap()]).unwrap()
    };
    let image = root(&place.ceremony.image_root, &[("snapshot", 0), ("timestamp", 1)]);
    let directors = root(&place.ceremony.director_root, &[("targets", 2), ("snapshot", 2), ("timestamp", 2)]);

    let handle = place.start().await;
    let refused = handle.controller.upload_root(&image, None, "ann").await.unwrap_err().to_string();
    assert!(refused.contains("snapshot key") && refused.contains("next/"), "{refused}");
    let refused = handle.controller.upload_director_root(&directors, "ann").await.unwrap_err().to_string();
    assert!(refused.contains("director key"), "{refused}");
    drop(handle);
    let next = place.dir.path().join("keys/next");
    std::fs::create_dir(&next).unwrap();
    for (n, name) in (0..).zip(["snapshot", "timestamp", "director"]) {
        let path = next.join(format!("{name}.key"));
        std::fs::write(&path, fresh(n).to_key_file(name)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    let handle = place.start().await;
    let controller = handle.controller.clone();
    cohort(&controller).await;
    place.publish(&controller, "1", 1).await;
    let (key, access) = Device::enrol(&controller, 1).await;
    let mut device = Device::connect(key, access, 0).await;
    controller.create_rollout(new_rollout("1"), "ann").await.unwrap();
    let (before, _) = device.directive().await;
    controller.upload_root(&image, None, "ann").await.unwrap();
    controller.upload_director_root(&directors, "ann").await.unwrap();
    assert!(controller.upload_director_root(&directors, "ann").await.is_err(), "the same root twice");
    let bytes = device.hear(Channel::Desired).await;
    let newest = Document::<Root>::parse(&directors, 1 << 20).unwrap();
    let again = director::verify(&bytes, newest.claims(), &device.access.device, clock::now(), Generation(0)).unwrap();
    assert_eq!((again.generation, again.target), (before.generation, before.target));
    assert!(director::verify(&bytes, device.director().claims(), &device.access.device, clock::now(), Generation(0)).is_err());
    assert_eq!(controller.tuf_file("director/2.root.json").unwrap(), directors);
    place.publish(&controller, "2", 2).await;
    let versions = |controller: &Controller| controller.inner.repository().state.client_at(clock::now()).unwrap().versions().root;
    assert_eq!(versions(&controller), 2, "the new keys sign freshness");

    // After a restart the root says again which keys sign. A key that is nobody's successor is still refused.
    drop((controller, handle));
    let handle = place.start().await;
    assert_eq!(versions(&handle.controller), 2);
    let signer = handle.controller.inner.repository().signer.clone();
    assert_eq!((signer.timestamp.public(), signer.director.public()), (fresh(1).public(), fresh(2).public()));
    drop(handle);
    place.hand_over("root-2", &next.join("other.key"));
    let foreign = place.refusal(place.config()).await;
    assert!(foreign.contains("root-2") && foreign.contains("move it away"), "{foreign}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_from_a_device_is_counted_and_harms_nobody() {
    let place = Place::new();
    let handle = place.start().await;
    let controller = &handle.controller;
    let (key, access) = Device::enrol(controller, 1).await;
    let mut device = Device::connect(key, access, 0).await;
    for channel in Channel::ALL.into_iter().filter(|c| c.is_uplink()) {
        for garbage in [&b""[..], b"\x01\x02", &[0xff; 4000]] {
            device.client.try_publish(device.topic(channel), QoS::AtLeastOnce, false, garbage.to_vec()).unwrap();
            while !matches!(device.next().await, Packet::PubAck(_)) {}
        }
    }
    // One acknowledgement is still out: the birth was sent before all these.
    while !matches!(device.next().await, Packet::PubAck(_)) {}
    until("garbage is counted", || controller.metrics().uplinks.refused.values().sum::<u64>() == 15).await;
    // Signed nonsense and reports about models nobody registered are receipted, so that the device forgets them.
    let counter = device.say(Channel::Window, b"nonsense");
    device.receipted(counter).await;
    let counter = device.say(Channel::Window, &window(1).to_bytes());
    device.receipted(counter).await;
    let event =
        DeviceEvent { v: 1, at: Timestamp::default(), generation: Generation(3), phase: Phase::Reverted, manifest: None, reason: None };
    let counter = device.say(Channel::Event, &serde_json::to_vec(&event).unwrap());
    device.receipted(counter).await;
    let events = controller.last_events(10).unwrap();
    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
    assert!(kinds.contains(&"uplink.refused") && kinds.contains(&"device.reverted"), "{kinds:?}");
    let view = controller.uplink(&device.access.device);
    assert!(view.tally.last_refusal.unwrap().1.contains("not registered"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_gives_no_receipt_and_loses_nothing() {
    let place = Place::new();
    let (room, opened) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
    let medium = small_disk(&place.dir.path().join("store.redb"), &room, &opened);
    let handle = place.try_start(ServeConfig { medium: Some(medium), ..place.config() }).await.unwrap();
    let controller = &handle.controller;
    cohort(controller).await;
    let first = place.publish(controller, "1", 1).await;
    let (key, access) = Device::enrol(controller, 1).await;
    let mut device = Device::connect(key, access, 0).await;
    let report = leeway_protocol::report::WindowReport { manifest: first.blob().digest, model: first.model.digest, ..window(1) };
    room.store(0, Ordering::SeqCst);
    device.say(Channel::Window, &report.to_bytes());
    while controller.metrics().store_errors == 0 {
        tokio::select! {
            packet = device.next() => assert!(!matches!(packet, Packet::Publish(_)), "no receipt for what is not stored"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
    let refused = controller.create_token("late", 1, 1000, "ann").await.unwrap_err().to_string();
    assert!(refused.contains("disk") && refused.contains("full"), "{refused}");
    assert_eq!(controller.snapshot().fleet.len(), 1, "reading goes on");
    assert_eq!(controller.uplink(&device.access.device).recent.len(), 0, "what is not stored does not count");
    room.store(u64::MAX, Ordering::SeqCst);
    let again = device.say(Channel::Window, &report.to_bytes());
    device.receipted(again).await;
    assert_eq!(controller.uplink(&device.access.device).recent.len(), 1);
    crate::audit::verify(crate::audit::Head::default(), &controller.events(0, 1000).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_no_device_would_take_are_refused_here() {
    let place = Place::new();
    let handle = place.start().await;
    let controller = &handle.controller;
    let model = controller.blobs().put(b"model 1").await.unwrap();
    let good = Manifest { model, ..manifest() };
    let why = |error: ControlError| error.to_string();
    let upload = async |bytes: Vec<u8>| controller.upload_role("rain", &bytes, "ann").await.map(|_| ()).map_err(why);
    let refused = upload(place.role(controller, &good)).await.unwrap_err();
    assert!(refused.contains("manifest was not uploaded"), "{refused}");
    controller.blobs().put(&good.to_bytes()).await.unwrap();
    let mut forged = place.role(controller, &good);
    let at = forged.windows(3).position(|w| w == b"sig").unwrap() + 8;
    forged[at] ^= 1;
    assert!(upload(forged).await.is_err());
    let missing = Manifest { model: Blob::of(b"never uploaded"), ..manifest() };
    controller.blobs().put(&missing.to_bytes()).await.unwrap();
    let refused = upload(place.role(controller, &missing)).await.unwrap_err();
    assert!(refused.contains("model file was not uploaded"), "{refused}");
    std::fs::write(
        place.runner_path(),
        "#!/bin/sh\necho '{\"ok\":false,\"reason\":{\"code\":\"golden-mismatch\",\"detail\":\"off by 1\"}}'\nexit 1\n",
    )
    .unwrap();
    let refused = upload(place.role(controller, &good)).await.unwrap_err();
    assert!(refused.contains("golden") && refused.contains("off by 1"), "{refused}");
    assert!(controller.snapshot().versions.is_empty(), "nothing was registered");
    assert!(controller.upload_role("nobody", b"{}", "ann").await.is_err());
    let none = controller.create_rollout(new_rollout("1"), "ann").await.unwrap_err().to_string();
    assert!(none.contains("there is no model line"), "{none}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stops_a_start_is_named_with_its_remedy() {
    let place = Place::new();
    let handle = place.start().await;
    let taken = place.try_start(place.config()).await.unwrap_err().to_string();
    assert!(taken.contains("another controller runs on"), "{taken}");

    let other = Place::new();
    let http = other.refusal(ServeConfig { http: handle.http, ..other.config() }).await;
    assert!(http.contains(&handle.http.to_string()) && http.contains("--listen"), "{http}");
    let mqtt = BrokerChoice::Embedded { listen: handle.mqtt.unwrap() };
    let mqtt = other.refusal(ServeConfig { broker: mqtt, ..other.config() }).await;
    assert!(mqtt.contains("--mqtt"), "{mqtt}");
    for name in ["root-1", "targets-2", "rain", "rain-auto"] {
        let path = other.dir.path().join("keys/renamed.txt");
        other.hand_over(name, &path);
        let foreign = other.refusal(other.config()).await;
        assert!(foreign.contains(name) && foreign.contains("move it away"), "{foreign}");
        std::fs::remove_file(path).unwrap();
    }
    let key = other.dir.path().join("keys/director.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = other.refusal(other.config()).await;
    assert!(open.contains("chmod 600"), "{open}");
    other.hand_over("snapshot", &key);
    let swapped = other.refusal(other.config()).await;
    assert!(swapped.contains("director.key"), "{swapped}");
    std::fs::remove_file(&key).unwrap();
    let missing = other.refusal(other.config()).await;
    assert!(missing.contains("leeway keys init"), "{missing}");
    other.hand_over("director", &key);
    std::fs::write(other.dir.path().join("store.redb"), vec![7; 100_000]).unwrap();
    let damaged = other.refusal(other.config()).await;
    assert!(damaged.contains("store.redb") && damaged.contains("backup"), "{damaged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_winner_that_nobody_signs_does_not_block_its_line() {
    let place = Place::new();
    let handle = place.start().await;
    let controller = &handle.controller;
    let approve = async |id: &str, updated_at: Timestamp| {
        let request = RetrainRequest::of_a_test(id, "1.0.0", updated_at);
        let state = JobState::Approved { candidate: Digest::of(id.as_bytes()), sentence: "It won.".to_owned() };
        let mut snapshot = controller.inner.ledger().snapshot.clone();
        Arc::make_mut(&mut snapshot.jobs).insert(id.to_owned(), Arc::new(TrainingJob { request, state, updated_at, moves: Vec::new() }));
        let touched = Touched { jobs: [id.to_owned()].into(), ..Touched::default() };
        let _turn = controller.inner.turn.lock().await;
        controller.inner.settle(snapshot, &touched, Vec::new(), Vec::new(), clock::now()).await.unwrap();
    };
    let state = |id: &str| controller.snapshot().jobs.get(id).unwrap().state.clone();
    // Its worker's grant was revoked meanwhile: it says so, and the job is over.
    approve("refused", clock::now()).await;
    controller.fail_job("refused", "w1", "the role rain-auto is not granted").await.unwrap();
    let JobState::Failed { sentence } = state("refused") else { panic!("{:?}", state("refused")) };
    assert!(sentence.contains("worker w1 could not sign it: the role rain-auto is not granted"), "{sentence}");
    assert!(matches!(controller.fail_job("refused", "w1", "again").await, Err(ControlError::Conflict(_))));
    // Its worker is gone: what was approved long ago is given up when the next worker asks, what is fresh waits.
    approve("old", clock::now().plus_secs(-8 * 86_400)).await;
    approve("fresh", clock::now().plus_secs(-86_400)).await;
    assert!(controller.claim_job("w2", &[]).await.unwrap().is_none());
    let JobState::Failed { sentence } = state("old") else { panic!("{:?}", state("old")) };
    assert!(sentence.contains("no worker signed it"), "{sentence}");
    assert!(matches!(state("fresh"), JobState::Approved { .. }));
    handle.shutdown().await;
}
