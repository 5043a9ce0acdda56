//! Ceremonies and uploads: what the signing side makes devices accept, and what it refuses itself.
use super::*;
use crate::trust::fixture::*;
use crate::trust::metadata::{Document, RoleKeys};
use crate::trust::tuf::{Client, Stored};

fn until() -> Timestamp {
    now().plus_secs(30 * DAY_SECS)
}

fn next_rain(world: &World) -> RoleBuilder {
    RoleBuilder::after(&world.state.role("rain").unwrap(), false, until())
}

fn refused(world: &mut World, role: &str, bytes: &[u8]) -> String {
    let (signer, before) = (world.signer.clone(), world.state.files().clone());
    let error = world.state.accept_role(role, bytes, &signer, now()).unwrap_err().to_string();
    assert_eq!(world.state.files(), &before, "a refused upload changes nothing");
    error
}

#[test]
fn a_ceremony_makes_documents_that_devices_accept_and_keeps_keys_apart() {
    let world = World::empty();
    let by_custody = |custody| world.keys.keys.iter().filter(|key| key.custody == custody).map(|key| key.name.as_str()).collect::<Vec<_>>();
    assert_eq!(by_custody(Custody::Offline), ["root-1", "root-2", "root-3", "targets-1", "targets-2", "targets-3"]);
    assert_eq!(by_custody(Custody::Online), ["snapshot", "timestamp", "director"]);
    assert_eq!(by_custody(Custody::Release), ["rain", "wind"]);
    assert_eq!(by_custody(Custody::Trainer), ["rain-auto", "wind-auto"]);
    let distinct: std::collections::BTreeSet<_> = world.keys.keys.iter().map(|key| key.key.public()).collect();
    assert_eq!(distinct.len(), world.keys.keys.len());
    let (client, _) = world.refreshed();
    assert!(client.all_targets().is_empty());
    // No online key may sign targets, and no single offline one may sign root or targets.
    for (role, names) in [("targets", ["snapshot", "timestamp", "director"]), ("root", ["targets-1", "snapshot", "director"])] {
        assert!(names.iter().all(|name| !client.root().keys_of(role).contains(&world.key(name).public())));
        assert_eq!(client.root().roles[role].threshold, 2);
    }
    let director = Client::new(&world.keys.director_root, Stored::default(), now()).unwrap();
    assert!(
        ["targets", "snapshot", "timestamp"].iter().all(|role| director.root().keys_of(role).contains(&world.key("director").public()))
    );
}

#[test]
fn lines_whose_names_clash_with_another_key_are_refused() {
    let name = |lines: &[&str]| {
        let lines: Vec<_> = lines.iter().map(|name| LineGrant { line: line(name), trainer_io: None }).collect();
        ceremony(&lines, &Lifetimes::default(), now(), &mut || [7; 32]).map(drop)
    };
    for bad in [&["rain", "rain"][..], &["rain", "rain-auto"], &["director"], &["root-1"], &["targets"]] {
        assert!(name(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn files_are_written_so_that_the_timestamp_is_last_and_a_reopened_repository_goes_on() {
    let mut world = World::new();
    let bytes = next_rain(&world).add(&model("1.2.0"), &custom("rain", "1.2.0", 4)).sign(&[world.key("rain")]).unwrap();
    let signer = world.signer.clone();
    let accepted = world.state.accept_role("rain", &bytes, &signer, now()).unwrap();
    let written: Vec<_> = accepted.changes.write.iter().map(|persist| persist.file.as_str()).collect();
    assert_eq!(written, ["3.rain.json", "6.snapshot.json", "timestamp.json"]);
    assert_eq!((accepted.line, accepted.auto), (line("rain"), false));
    assert_eq!(accepted.added, [(rain_path("1.2.0"), model("1.2.0"), custom("rain", "1.2.0", 4))]);
    let mut reopened = RepositoryState::open(world.state.files().clone()).unwrap();
    assert_eq!(reopened.contents().versions(), world.state.contents().versions());
    let changes = reopened.refresh(&signer, now().plus_secs(60)).unwrap();
    assert_eq!(changes.write.iter().map(|p| p.file.as_str()).collect::<Vec<_>>(), ["timestamp.json"]);
    let changes = reopened.refresh(&signer, now().plus_secs(4 * DAY_SECS)).unwrap();
    assert_eq!(changes.write.iter().map(|p| p.file.as_str()).collect::<Vec<_>>(), ["7.snapshot.json", "timestamp.json"]);
    assert!(reopened.client_at(now().plus_secs(4 * DAY_SECS)).is_ok());

    let mut files = world.state.files().clone();
    files.remove("6.snapshot.json");
    assert!(RepositoryState::open(files).unwrap_err().to_string().contains("6.snapshot.json is missing"));
    assert!(matches!(RepositoryState::open(Files::new()), Err(RepositoryError::NoRoot)));
}

#[test]
fn uploads_that_no_device_would_accept_are_refused_with_the_reason() {
    let mut world = World::new();
    let add = |world: &World, path: &str, version: &str, seq: u64| {
        next_rain(world).add(&model(path), &custom("rain", version, seq)).sign(&[world.key("rain")]).unwrap()
    };
    let good = next_rain(&world).add(&model("1.2.0"), &custom("rain", "1.2.0", 4));
    type Edit = fn(&mut Targets);
    let edit = |edit: Edit| edited::<Targets>(&good.sign(&[world.key("rain")]).unwrap(), &[world.key("rain")], edit);
    let cases = [
        ("rain", good.sign(&[&stranger()]).unwrap(), "signed by 0 of the 1"),
        ("rain", good.sign(&[world.key("rain-auto")]).unwrap(), "signed by 0 of the 1"),
        ("rain-auto", good.sign(&[world.key("rain")]).unwrap(), "signed by 0 of the 1"),
        ("snow", good.sign(&[world.key("rain")]).unwrap(), "no role \"snow\""),
        ("targets", good.sign(&[world.key("rain")]).unwrap(), "no role"),
        ("../targets", good.sign(&[world.key("rain")]).unwrap(), "no role"),
        ("rain", world.state.file("2.rain.json").unwrap().to_vec(), "version 3 is next"),
        ("rain", edit(|targets| targets.header.version = u64::MAX), "version 3 is next"),
        ("rain", edit(|targets| targets.header.expires = metadata::Expires::at(now())), "expired"),
        (
            "rain",
            edit(|targets| targets.delegations = Some(Delegations { keys: BTreeMap::new(), roles: vec![], rest: Map::new() })),
            "may not delegate",
        ),
        ("rain", add(&world, "other bytes", "1.1.0", 2), "never changes"),
        ("rain", add(&world, "1.2.0", "1.2.0", 3), "seq 3 is not above 3"),
        ("rain", next_rain(&world).add(&model("a"), &custom("wind", "1.2.0", 4)).sign(&[world.key("rain")]).unwrap(), "its path should be"),
        (
            "rain",
            next_rain(&world)
                .add(&model("a"), &custom("rain", "a", 4))
                .add(&model("b"), &custom("rain", "b", 4))
                .sign(&[world.key("rain")])
                .unwrap(),
            "the same seq",
        ),
        ("rain", b"{}".to_vec(), "refused"),
        ("rain", world.state.file("timestamp.json").unwrap().to_vec(), "says it is \"timestamp\""),
    ];
    for (role, bytes, why) in cases {
        let error = refused(&mut world, role, &bytes);
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn a_trainer_releases_only_what_it_was_granted_and_until_the_grant_is_taken_back() {
    let mut world = World::new();
    let next = |world: &World, custom: &TargetCustom| {
        let previous = world.state.role("rain-auto").unwrap();
        RoleBuilder::after(&previous, true, until()).add(&model("auto-4"), custom).sign(&[world.key("rain-auto")]).unwrap()
    };
    let other_io = TargetCustom { io: Digest::of(b"another shape"), ..custom("rain", "auto-4", 4) };
    let bytes = next(&world, &other_io);
    assert!(refused(&mut world, "rain-auto", &bytes).contains("not granted"));
    // Wind's trainer has a key and a role, but no grant yet.
    let bytes = RoleBuilder::new(true, until()).add(&model("w"), &custom("wind", "auto-2", 2)).sign(&[world.key("wind-auto")]).unwrap();
    assert!(refused(&mut world, "wind-auto", &bytes).contains("not granted"));
    let signer = world.signer.clone();
    let targets = TargetsBuilder::after(&world.state.role("targets").unwrap(), until()).unwrap();
    let granted = targets.grant_trainer(&line("wind"), io()).revoke_trainer(&line("rain"));
    let granted = granted.sign(&[world.key("targets-2"), world.key("targets-3")]).unwrap();
    world.state.accept_targets(&granted, &signer, now()).unwrap();
    world.state.accept_role("wind-auto", &bytes, &signer, now()).unwrap();
    let bytes = next(&world, &custom("rain", "auto-4", 4));
    assert!(refused(&mut world, "rain-auto", &bytes).contains("no role"));
    let (client, _) = world.refreshed();
    assert_eq!(client.target(&rain_path("auto-3")).unwrap(), None, "what it had released is gone too");
    assert!(client.target("models/wind/auto/auto-2.onnx").unwrap().is_some());
    let keys = &client.role("targets").unwrap().claims().delegations.as_ref().unwrap().keys;
    assert_eq!(keys.len(), 3, "the revoked trainer's key is not listed any more");
}

#[test]
fn offline_documents_need_their_threshold_and_can_be_signed_one_after_the_other() {
    let mut world = World::new();
    let signer = world.signer.clone();
    let builder =
        TargetsBuilder::after(&world.state.role("targets").unwrap(), until()).unwrap().policy(&line("rain"), |policy| policy.min_seq = 2);
    let one = builder.sign(&[world.key("targets-1")]).unwrap();
    assert!(world.state.accept_targets(&one, &signer, now()).unwrap_err().to_string().contains("1 of the 2"));
    let with_online = metadata::add_signature::<Targets>(&one, 1 << 20, world.key("snapshot")).unwrap();
    assert!(world.state.accept_targets(&with_online, &signer, now()).is_err());
    let two = metadata::add_signature::<Targets>(&one, 1 << 20, world.key("targets-3")).unwrap();
    world.state.accept_targets(&two, &signer, now()).unwrap();
    assert_eq!(world.refreshed().0.line_policy(&line("rain")).unwrap().min_seq, 2);
    assert!(world.state.accept_targets(&two, &signer, now()).unwrap_err().to_string().contains("version 3 is next"));
    let unreadable = builder.policy(&line("rain"), |policy| {
        policy.revoked = (0..=metadata::MAX_REVOKED as u64).map(|n| Digest::of(&n.to_le_bytes())).collect();
    });
    assert!(unreadable.sign(&[world.key("targets-1")]).is_err(), "nobody signs what nobody reads");
}

#[test]
fn a_controller_with_keys_that_the_root_does_not_name_says_so() {
    let mut world = World::new();
    let wrong = OnlineSigner { timestamp: stranger(), ..world.signer.clone() };
    assert!(world.state.refresh(&wrong, now()).unwrap_err().to_string().contains("timestamp key"));
    let root = RootBuilder::after(world.state.contents().root(), until()).role("snapshot", &[spare(0xd1).public()], 1);
    let root = root.sign(&[world.key("root-1"), world.key("root-2")]).unwrap();
    let signer = world.signer.clone();
    assert!(world.state.accept_root(&root, &signer, now()).unwrap_err().to_string().contains("snapshot key"));
    assert_eq!(world.state.contents().versions().root, 1);
    let changes = world.state.accept_root(&root, &OnlineSigner { snapshot: spare(0xd1), ..signer }, now()).unwrap();
    assert_eq!(changes.write.iter().map(|p| p.file.as_str()).collect::<Vec<_>>(), ["2.root.json", "6.snapshot.json", "timestamp.json"]);
    assert_eq!((world.state.contents().versions().root, world.refreshed().0.versions().root), (2, 2));
}

#[test]
fn a_root_that_replaces_the_targets_keys_comes_together_with_new_targets() {
    let mut world = World::new();
    let signer = world.signer.clone();
    let fresh = [spare(0xe1), spare(0xe2), spare(0xe3)];
    let public: Vec<_> = fresh.iter().map(SigningKey::public).collect();
    let root = RootBuilder::after(world.state.contents().root(), until()).role("targets", &public, 2);
    let root = root.sign(&[world.key("root-1"), world.key("root-2")]).unwrap();
    let before = world.state.files().clone();
    let alone = world.state.accept_root(&root, &signer, now()).unwrap_err();
    assert!(matches!(alone, RepositoryError::Orphaned(_)), "{alone}");
    let next = TargetsBuilder::after(&world.state.role("targets").unwrap(), until()).unwrap();
    let by_old = next.sign(&[world.key("targets-1"), world.key("targets-2")]).unwrap();
    assert!(matches!(world.state.accept_root_with(&root, Some(&by_old), &signer, now()), Err(RepositoryError::Unsigned(_))));
    assert_eq!(world.state.files(), &before, "a refused upload changes nothing");
    let by_new = next.sign(&[&fresh[0], &fresh[2]]).unwrap();
    let changes = world.state.accept_root_with(&root, Some(&by_new), &signer, now()).unwrap();
    let written: Vec<_> = changes.write.iter().map(|persist| persist.file.as_str()).collect();
    assert_eq!(written, ["2.root.json", "2.targets.json", "6.snapshot.json", "timestamp.json"]);
    let versions = world.refreshed().0.versions();
    assert_eq!((versions.root, versions.targets), (2, 2));
}

#[test]
fn who_signed_is_told_apart_from_who_claims_to_have() {
    let world = World::empty();
    let root = Document::<Root>::parse(&world.keys.image_root, 1 << 20).unwrap();
    let targets = TargetsBuilder::new(until()).sign(&[world.key("targets-2"), world.key("director")]).unwrap();
    let document = Document::<Targets>::parse(&targets, 1 << 20).unwrap();
    let keys = root.claims().keys_of("targets");
    assert_eq!(document.signers(&keys), [&world.key("targets-2").public().key_id()]);
    assert_eq!((document.claimed_signers().count(), keys.threshold()), (2, 2));
}

#[test]
fn old_files_go_and_what_a_slow_device_still_needs_stays() {
    let mut world = World::new();
    let slow = world.state.files()["timestamp.json"].clone();
    for n in 0..KEEP_VERSIONS - 1 {
        world.release("rain", &format!("2.{n}.0"), 10 + n);
    }
    let mut files = world.state.files().clone();
    files.insert("timestamp.json".into(), slow);
    assert!(refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap().0.target(&rain_path("1.1.0")).unwrap().is_some());
    for n in 0..5 {
        world.release("rain", &format!("3.{n}.0"), 100 + n);
    }
    let names = |kind: &str| world.state.files().keys().filter(|name| name.ends_with(kind)).count() as u64;
    assert_eq!((names(".snapshot.json"), names(".rain.json")), (KEEP_VERSIONS, KEEP_VERSIONS));
    assert_eq!(world.refreshed().0.all_targets().len() as u64, 4 + KEEP_VERSIONS - 1 + 5);
}

#[test]
fn two_of_three_means_two_distinct_keys_in_a_ceremony_too() {
    let world = World::empty();
    let id = world.key("targets-1").public().key_id();
    let root = edited::<Root>(&world.keys.image_root, &[world.key("root-1"), world.key("root-2")], |root| {
        let alias = metadata::Key::of(&world.key("targets-1").public());
        let twin = crate::trust::keyring::KeyId("00".repeat(32));
        root.keys.insert(twin.clone(), alias);
        root.roles.insert("targets".into(), RoleKeys { keyids: vec![id.clone(), twin], threshold: 2 });
    });
    let root = Document::<Root>::parse(&root, 1 << 20).unwrap();
    assert!(!root.claims().keys_of("targets").can_be_met());
}
