//! Who is let in, with what, for how long, and who is put out again.
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_enrol() {
    let place = Place::new();
    let handle = place.try_start(ServeConfig { open_enrolment: false, ..place.config() }).await.unwrap();
    let controller = &handle.controller;
    let key = SigningKey::from_seed(&[9; 32]);
    let device: DeviceId = "d1".parse().unwrap();
    let ask = |token: Option<&str>, challenge: Option<&str>, proof: Option<String>| EnrolRequest {
        device: device.clone(),
        public_key: key.public().hex(),
        labels: BTreeMap::new(),
        token: token.map(str::to_owned),
        challenge: challenge.map(str::to_owned),
        proof,
        csr: None,
    };
    let challenge = async |request| match controller.enrol(request).await {
        Err(ControlError::Prove { challenge, .. }) => challenge,
        other => panic!("{other:?}"),
    };
    let sign = |key: &SigningKey, challenge: &str| Some(key.sign(&enrolment::proof(&device, &key.public().hex(), challenge, None)).hex());
    let refused = controller.enrol(ask(None, None, None)).await.unwrap_err().to_string();
    assert!(refused.contains("token"), "{refused}");
    let token = controller.create_token("first", 1, 60_000, "ann").await.unwrap();
    assert!(matches!(controller.enrol(ask(Some("guess"), None, None)).await, Err(ControlError::Forbidden(_))));
    let first = controller.enrol(ask(Some(&token), None, None)).await.unwrap();
    assert_eq!(first.mqtt.username, "d1");
    let asked = challenge(ask(Some(&token), None, None)).await;
    let stranger = SigningKey::from_seed(&[10; 32]);
    let other = EnrolRequest { public_key: stranger.public().hex(), ..ask(Some("guess"), Some(&asked), sign(&stranger, &asked)) };
    assert!(matches!(controller.enrol(other).await, Err(ControlError::Forbidden(_))), "another key may not take the name");
    let asked = challenge(ask(None, None, None)).await;
    let again = controller.enrol(ask(None, Some(&asked), sign(&key, &asked))).await.unwrap();
    assert_ne!(again.mqtt.password, first.mqtt.password, "a new secret");
    let _ = challenge(ask(None, Some(&asked), sign(&key, &asked))).await;
    assert!(controller.principal(&handle.admin_token).is_some() && controller.principal("guess").is_none());
    let store = std::fs::read(place.dir.path().join("store.redb")).unwrap();
    let holds = |secret: &str| store.windows(secret.len()).any(|w| w == secret.as_bytes());
    assert!(!holds(&again.mqtt.password) && !holds(&first.mqtt.password), "secrets are kept as hashes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_outlive_a_restart_and_end_when_they_should() {
    let place = Place::new();
    let handle = place.start().await;
    let make = async |controller: &Controller, name: &str| {
        let new = NewAccessToken { name: name.into(), owner: "ann".into(), scope: Scope::Operator, ttl_ms: 60_000 };
        controller.create_access_token(new, "admin").await.unwrap().0
    };
    let (kept, revoked) = (make(&handle.controller, "kept").await, make(&handle.controller, "revoked").await);
    let ann = Some(Principal { name: "ann".into(), scope: Scope::Operator });
    assert_eq!((handle.controller.principal(&kept), handle.controller.principal(&revoked)), (ann.clone(), ann.clone()));
    handle.controller.revoke_access_token("revoked", "lost", "admin").await.unwrap();
    assert_eq!(handle.controller.principal(&revoked), None);
    let used = handle.controller.access_tokens()[0].last_used;
    assert!(used.is_some());
    handle.shutdown().await;
    let handle = place.start().await;
    assert_eq!(handle.controller.access_tokens()[0].last_used, used, "when it was used last is written down");
    assert_eq!((handle.controller.principal(&kept), handle.controller.principal(&revoked)), (ann, None));
    assert!(
        handle
            .controller
            .create_access_token(NewAccessToken { name: "short".into(), owner: "ann".into(), scope: Scope::Viewer, ttl_ms: 1 }, "admin")
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_device_is_told_of_once_and_a_revoked_one_is_not_heard() {
    let place = Place::new();
    let handle = place.start().await;
    let (key, access) = Device::enrol(&handle.controller, 1).await;
    let id = access.device.clone();
    let uplink = |counter: u64, agent: &str| {
        let status = Status { v: 1, online: true, session: counter, agent: agent.to_owned(), labels: BTreeMap::new(), report_form: 1 };
        let body = serde_json::to_vec(&status).unwrap();
        let bytes = envelope::seal(&key, &id, BootId(1), counter, Envelope::Status, &body).unwrap();
        vec![crate::io::mqtt::Incoming { topic: Topic::new(&access.tenant, &id, Channel::Status).to_string(), bytes }]
    };
    let twin = |controller: &Controller| controller.snapshot().fleet.device(&id).unwrap().twin.clone();
    let controller = &handle.controller;
    for (counter, agent) in [(2, "one"), (1, "one"), (2, "one"), (1, "one"), (3, "one")] {
        controller.take_in(uplink(counter, agent)).await;
    }
    assert_eq!(twin(controller), None, "late and repeated messages are one device's");
    for (counter, agent) in [(2, "another"), (3, "another"), (4, "one")] {
        controller.take_in(uplink(counter, agent)).await;
    }
    let sentence = twin(controller).unwrap();
    assert!(sentence.contains("the key of d1") && sentence.contains("message 2"), "{sentence}");
    let told = |controller: &Controller| controller.last_events(100).unwrap().iter().filter(|e| e.kind == "device.cloned").count();
    assert_eq!(told(controller), 1);
    handle.shutdown().await;
    let handle = place.start().await;
    let controller = &handle.controller;
    assert_eq!(twin(controller), Some(sentence), "it is known after a restart, too");
    controller.take_in(uplink(4, "another")).await;
    assert_eq!(told(controller), 1);

    let heard = || controller.snapshot().fleet.device(&id).unwrap().presence.last_seen;
    controller.decide_on(&id, Decision::Revoke, "there are two", "ann").await.unwrap();
    let before = heard();
    controller.take_in(uplink(5, "one")).await;
    assert_eq!(heard(), before);
    assert_eq!(controller.look(|ledger| ledger.tally.refused.get(&Why::NotAdmitted).copied()), Some(1), "dropped, and counted");
    assert!(!controller.snapshot().fleet.device(&id).unwrap().presence.online);
}
