//! The table of attacks on a repository, each tried on a whole refresh; roots and delegations have files of their own.
use super::*;
use crate::trust::fixture::*;
use crate::trust::metadata::{self, DelegatedRole, Delegations, Key, RoleKeys};
use crate::trust::repository::{RootBuilder, TargetsBuilder};

mod damage;
mod delegations;
mod graphs;
mod listed;
mod rollbacks;
mod roots;
mod simulator;
mod thresholds;
mod workflow;

const DAY_SECS: i64 = 86_400;

fn error(result: Result<(Client, Stored), TufError>) -> TufError {
    result.map(drop).unwrap_err()
}

#[test]
fn a_clean_refresh_finds_every_release_and_the_next_one_fetches_only_what_changed() {
    let mut world = World::new();
    let (client, stored) = world.refreshed();
    let target = client.target(&rain_path("1.1.0")).unwrap().unwrap();
    assert_eq!((target.sha256, target.length, target.role.as_str()), (model("1.1.0").digest, model("1.1.0").length, "rain"));
    assert_eq!(client.target(&rain_path("auto-3")).unwrap().unwrap().role, "rain-auto");
    assert_eq!(client.target(&rain_path("9.9.9")).unwrap(), None);
    assert_eq!(client.all_targets().len(), 4);
    assert_eq!(client.line_policy(&line("rain")).unwrap().trainer.as_ref().unwrap().io, io());
    assert!(matches!(client.failures().get("wind-auto"), Some(TufError::NotListed { .. })), "delegated to, nothing released yet");

    let again = |world: &World| asked_for(Client::new(&world.keys.image_root, stored.clone(), now()).unwrap(), world.state.files());
    assert_eq!(again(&world), ["2.root.json", "timestamp.json"]);
    world.release("wind", "2.1.0", 2);
    assert_eq!(again(&world), ["2.root.json", "timestamp.json", "6.snapshot.json", "2.wind.json"]);
}

#[test]
fn a_device_asks_only_for_the_roles_that_speak_for_its_path() {
    let world = World::new();
    let mut client = world.client();
    client.only_for(&rain_path("1.0.0"));
    assert_eq!(
        asked_for(client.clone(), world.state.files()),
        ["2.root.json", "timestamp.json", "5.snapshot.json", "1.targets.json", "2.rain.json"]
    );
    client.run_over(world.state.files()).unwrap();
    assert!(client.target(&rain_path("1.0.0")).unwrap().is_some());
    let elsewhere = client.target("models/wind/release/2.0.0.onnx").unwrap_err();
    assert!(elsewhere.to_string().contains("was not loaded"), "{elsewhere}");
    client.only_for("models/wind/release/2.0.0.onnx");
    assert_eq!(
        client.next(),
        Step::Need { file: "1.wind.json".into(), max_len: world.state.file("1.wind.json").unwrap().len() as u64, optional: false }
    );
    client.run_over(world.state.files()).unwrap();
    assert!(client.target("models/wind/release/2.0.0.onnx").unwrap().is_some());
}

#[test]
fn a_release_that_the_line_key_did_not_sign_is_not_installed_even_with_all_online_keys() {
    let world = World::new();
    let forged = role_listing(3, &rain_path("6.6.6"), &custom("rain", "6.6.6", 66), &stranger());
    for forged in [forged, role_listing(3, &rain_path("6.6.6"), &custom("rain", "6.6.6", 66), world.key("wind"))] {
        let (client, _) = refresh(&world.keys.image_root, Stored::default(), &world.list_anyway("rain", 3, &forged), now()).unwrap();
        let refused = client.target(&rain_path("6.6.6")).unwrap_err();
        assert!(matches!(refused, TufError::Unsigned { .. }), "{refused}");
        assert!(client.target(&rain_path("1.0.0")).is_err(), "nothing of a role that cannot be trusted");
        assert!(client.target("models/wind/release/2.0.0.onnx").unwrap().is_some(), "another line goes on");
    }
}

#[test]
fn nothing_that_another_key_signed_is_taken_for_a_top_level_role() {
    let world = World::new();
    let files = world.state.files();
    let (timestamp, snapshot, targets) = (&files["timestamp.json"], &files["5.snapshot.json"], &files["1.targets.json"]);
    for thief in ["director", "rain", "root-1", "targets-1"] {
        let key = [world.key(thief)];
        let mut forged = files.clone();
        forged.insert("timestamp.json".into(), edited::<TimestampMeta>(timestamp, &key, |t| t.header.version += 1));
        let refused = error(refresh(&world.keys.image_root, Stored::default(), &forged, now()));
        assert!(matches!(&refused, TufError::Unsigned { file, .. } if file == "timestamp.json"), "{thief}: {refused}");

        // With the timestamp key stolen, so that the parent names the forgery.
        let bytes = edited::<SnapshotMeta>(snapshot, &key, |s| s.header.version = 6);
        let names_it = edited::<TimestampMeta>(timestamp, &[&world.signer.timestamp], |t| {
            t.header.version += 1;
            t.meta.insert("snapshot.json".into(), FileMeta::of(6, &bytes));
        });
        let mut forged = files.clone();
        forged.extend([("timestamp.json".to_owned(), names_it), ("6.snapshot.json".to_owned(), bytes)]);
        let refused = error(refresh(&world.keys.image_root, Stored::default(), &forged, now()));
        assert!(matches!(&refused, TufError::Unsigned { file, .. } if file == "6.snapshot.json"), "{thief}: {refused}");

        // With both online keys stolen; one targets key of the two that are needed is not enough.
        let bytes = edited::<Targets>(targets, &key, |t| t.header.version = 2);
        let refused = error(refresh(&world.keys.image_root, Stored::default(), &world.list_anyway("targets", 2, &bytes), now()));
        assert!(matches!(&refused, TufError::Unsigned { file, .. } if file == "2.targets.json"), "{thief}: {refused}");
    }
}

#[test]
fn no_role_goes_back() {
    let mut world = World::new();
    let older = world.state.files().clone();
    world.release("rain", "1.2.0", 4);
    let (_, stored) = world.refreshed();
    let root = &world.keys.image_root;
    let again = |files: &Files| error(refresh(root, stored.clone(), files, now())).to_string();
    assert!(again(&older).starts_with("timestamp would go back from version 6 to 5"), "{}", again(&older));

    // A thief of the timestamp key names the old snapshot in a new timestamp.
    let mut files = world.state.files().clone();
    let old = older["5.snapshot.json"].clone();
    let bytes = edited::<TimestampMeta>(&files["timestamp.json"], &[&world.signer.timestamp], |timestamp| {
        timestamp.header.version += 1;
        timestamp.meta.insert("snapshot.json".into(), FileMeta::of(5, &old));
    });
    files.insert("timestamp.json".into(), bytes);
    assert!(again(&files).starts_with("snapshot would go back from version 6 to 5"));

    // A thief of both online keys lowers, or drops, an entry of the snapshot.
    let mut files = world.state.files().clone();
    let old = FileMeta::of(2, &files["2.rain.json"]);
    world.resign(&mut files, |snapshot| drop(snapshot.meta.insert("rain.json".into(), old)));
    assert!(again(&files).starts_with("rain.json would go back from version 3 to 2"));
    let mut files = world.state.files().clone();
    world.resign(&mut files, |snapshot| drop(snapshot.meta.remove("rain.json")));
    assert!(again(&files).contains("no longer lists rain.json"));

    // A root that goes back is no root.
    let mut files = world.state.files().clone();
    files.insert("2.root.json".into(), world.keys.image_root.clone());
    assert!(again(&files).contains("says it is root version 1, expected 2"));
}

#[test]
fn thieves_cannot_wall_off_the_future_once_the_root_takes_their_keys_away() {
    let world = World::new();
    let mut files = world.state.files().clone();
    world.resign(&mut files, |snapshot| {
        snapshot.header.version = 1_000_000;
        snapshot.meta.get_mut("wind.json").unwrap().version = 1;
    });
    let far = edited::<TimestampMeta>(&files["timestamp.json"], &[&world.signer.timestamp], |t| t.header.version = 2_000_000);
    files.insert("timestamp.json".into(), far);
    let (client, stored) = refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap();
    assert_eq!(client.versions().timestamp, 2_000_000);

    let mut honest = world.state.clone();
    let refused = error(refresh(&world.keys.image_root, stored.clone(), honest.files(), now()));
    assert!(matches!(refused, TufError::Rollback { .. }), "before the rotation: {refused}");

    let mut signer = world.signer.clone();
    (signer.snapshot, signer.timestamp) = (spare(0xa1), spare(0xa2));
    let root = RootBuilder::after(honest.contents().root(), now().plus_secs(365 * DAY_SECS))
        .role("snapshot", &[signer.snapshot.public()], 1)
        .role("timestamp", &[signer.timestamp.public()], 1)
        .sign(&[world.key("root-1"), world.key("root-3")])
        .unwrap();
    honest.accept_root(&root, &signer, now()).unwrap();
    let (client, stored) = refresh(&world.keys.image_root, stored, honest.files(), now()).unwrap();
    assert_eq!((client.versions().root, client.versions().timestamp), (2, 6));
    assert!(client.target(&rain_path("1.0.0")).unwrap().is_some());
    assert_eq!(stored.file("root.json"), Some(root.as_slice()));
}

#[test]
fn parts_of_two_states_do_not_mix() {
    let mut world = World::new();
    let older = world.state.files().clone();
    world.release("rain", "1.2.0", 4);
    let newer = world.state.files();
    for (name, from) in [("6.snapshot.json", "5.snapshot.json"), ("1.targets.json", "2.rain.json")] {
        let mut files = newer.clone();
        files.insert(name.into(), older[from].clone());
        let refused = error(refresh(&world.keys.image_root, Stored::default(), &files, now()));
        assert!(matches!(refused, TufError::WrongDigest { .. } | TufError::WrongLength { .. }), "{name}: {refused}");
    }
    let mut files = newer.clone();
    files.insert("3.rain.json".into(), older["2.rain.json"].clone());
    let (client, _) = refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap();
    assert!(client.target(&rain_path("1.0.0")).unwrap_err().to_string().contains("3.rain.json"));

    // The same without lengths and digests in the parents, as other tools may write them: then the versions speak.
    let mut files = newer.clone();
    files.insert("3.rain.json".into(), older["2.rain.json"].clone());
    world.resign(&mut files, |snapshot| {
        for meta in snapshot.meta.values_mut() {
            (meta.length, meta.hashes) = (None, None);
        }
    });
    let (client, _) = refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap();
    let refused = client.target(&rain_path("1.0.0")).unwrap_err();
    assert!(matches!(refused, TufError::WrongVersion { listed: 3, got: 2, .. }), "{refused}");
}

#[test]
fn expiry_blocks_what_is_new_and_leaves_what_is_stored_readable() {
    let world = World::new();
    let (_, stored) = world.refreshed();
    let lifetimes = world.signer.lifetimes;
    // From the shortest life to the longest: the first that is over is named.
    for (secs, who) in [(lifetimes.timestamp_secs, "timestamp"), (lifetimes.root_secs, "root")] {
        let refused = error(refresh(&world.keys.image_root, stored.clone(), world.state.files(), now().plus_secs(secs)));
        assert!(refused.to_string().starts_with(&format!("{who} expired at 20")), "{refused}");
        let stale = Client::new(&world.keys.image_root, stored.clone(), now().plus_secs(secs)).unwrap();
        assert_eq!(stale.versions().targets, 1);
        assert!(stale.line_policy(&line("rain")).is_some());
        assert!(matches!(stale.target(&rain_path("1.0.0")), Err(TufError::NotFresh)));
        assert!(stale.expires() <= now().plus_secs(secs));
    }
    let frozen = error(refresh(&world.keys.image_root, Stored::default(), world.state.files(), now().plus_secs(lifetimes.timestamp_secs)));
    assert!(frozen.to_string().starts_with("timestamp expired"), "for a device that never saw it, too: {frozen}");
    // The controller goes on signing timestamps and snapshots, people let theirs lapse.
    let mut state = world.state.clone();
    let later = now().plus_secs(lifetimes.targets_secs);
    state.refresh(&world.signer, later).unwrap();
    let refused = error(refresh(&world.keys.image_root, stored.clone(), state.files(), later));
    assert!(refused.to_string().starts_with("targets expired"), "{refused}");
    let mut files = world.state.files().clone();
    world.resign(&mut files, |snapshot| snapshot.header.expires = metadata::Expires::at(now()));
    assert!(error(refresh(&world.keys.image_root, stored, &files, now())).to_string().starts_with("snapshot expired"));
}

#[test]
fn an_expired_line_role_stops_its_own_line_only() {
    let world = World::new();
    let bytes = edited::<Targets>(&world.state.files()["2.rain.json"], &[world.key("rain")], |role| {
        role.header.version = 3;
        role.header.expires = metadata::Expires::at(now());
    });
    let (client, _) = refresh(&world.keys.image_root, Stored::default(), &world.list_anyway("rain", 3, &bytes), now()).unwrap();
    assert!(client.target(&rain_path("1.0.0")).unwrap_err().to_string().starts_with("rain expired"));
    assert!(client.target("models/wind/release/2.0.0.onnx").unwrap().is_some());
}

#[test]
fn endless_data_ends_at_the_named_length() {
    let world = World::new();
    let mut client = world.client();
    while let Step::Need { file, max_len, .. } = client.next() {
        let known = world.state.file(&file);
        assert!(max_len <= MAX_TARGETS_BYTES);
        if !file.starts_with("timestamp") && !file.ends_with("root.json") {
            assert_eq!(max_len, known.unwrap().len() as u64, "{file}");
        }
        let endless = vec![b' '; usize::try_from(max_len).unwrap() + 1];
        if client.versions().targets == 0 {
            let refused = client.provide(&file, Some(&endless)).unwrap_err().to_string();
            assert!(refused.contains("bytes"), "{file}: {refused}");
        }
        client.provide(&file, known).unwrap();
    }
    assert!(client.is_fresh());
}

#[test]
fn a_document_of_another_type_is_called_by_its_name() {
    let world = World::new();
    let files = world.state.files();
    let root = RootBuilder::new(now().plus_secs(DAY_SECS));
    let key = world.key("snapshot");
    let all = ["root", "targets", "snapshot", "timestamp"];
    let root = all.iter().fold(root, |root, role| root.role(role, &[key.public()], 1)).sign(&[key]).unwrap();
    let mut client = Client::new(&root, Stored::default(), now()).unwrap();
    client.provide("2.root.json", None).unwrap();
    let refused = client.provide("timestamp.json", Some(&files["5.snapshot.json"])).unwrap_err().to_string();
    assert!(refused.contains(r#"says it is "snapshot", expected "timestamp""#), "{refused}");
}

#[test]
fn a_role_speaks_only_for_its_own_paths() {
    let world = World::new();
    for path in ["models/wind/release/6.6.6.onnx", "models/rain/auto/6.6.6.onnx", "models/rain/release/x/6.6.6.onnx", "6.6.6.onnx"] {
        let bytes = role_listing(3, path, &custom("rain", "6.6.6", 66), world.key("rain"));
        let (client, _) = refresh(&world.keys.image_root, Stored::default(), &world.list_anyway("rain", 3, &bytes), now()).unwrap();
        assert_eq!(client.target(path).unwrap(), None, "{path}");
        assert!(client.all_targets().iter().all(|target| target.path != path));
    }
}

#[test]
fn a_stored_role_is_judged_by_the_delegator_of_today() {
    let world = World::new();
    let (_, stored) = world.refreshed();
    // The line's key was stolen: targets 2 names another. The snapshot goes on listing the old file, and the store has it.
    let (mut state, thief) = (world.state.clone(), world.key("rain"));
    let fresh = spare(0xb1);
    let targets = TargetsBuilder::after(&state.role("targets").unwrap(), now().plus_secs(DAY_SECS)).unwrap();
    let bytes = targets.line(&line("rain"), &[fresh.public()], 1).sign(&[world.key("targets-1"), world.key("targets-2")]).unwrap();
    state.accept_targets(&bytes, &world.signer, now()).unwrap();
    let (client, stored) = refresh(&world.keys.image_root, stored, state.files(), now()).unwrap();
    let refused = client.target(&rain_path("1.0.0")).unwrap_err();
    assert!(matches!(refused, TufError::Unsigned { .. }), "{refused}");
    let old = metadata::sign(&state.role("rain").unwrap(), &[thief]).unwrap();
    assert!(state.accept_role("rain", &old, &world.signer, now()).is_err());
    // Signed again by the new key, everything is back.
    let builder = crate::trust::repository::RoleBuilder::after(&state.role("rain").unwrap(), false, now().plus_secs(DAY_SECS));
    state.accept_role("rain", &builder.sign(&[&fresh]).unwrap(), &world.signer, now()).unwrap();
    let (client, _) = refresh(&world.keys.image_root, stored, state.files(), now()).unwrap();
    assert!(client.target(&rain_path("1.0.0")).unwrap().is_some());
}

#[test]
fn an_error_leaves_the_client_as_it_was() {
    let world = World::new();
    let mut client = world.client();
    while let Step::Need { file, optional, .. } = client.next() {
        let before = client.versions();
        assert!(matches!(client.provide("5.other.json", Some(b"{}")), Err(TufError::Unexpected { .. })));
        if before.targets == 0 {
            assert!(client.provide(&file, Some(b"{}")).is_err());
            assert_eq!(client.provide(&file, Some(b"")).is_err(), client.provide(&file, None).is_err() || optional);
            if optional {
                continue;
            }
            assert_eq!(client.versions(), before);
        }
        client.provide(&file, world.state.file(&file)).unwrap();
    }
    assert_eq!(client.versions(), world.refreshed().0.versions());
    assert!(client.provide("timestamp.json", Some(b"{}")).is_err());
}

#[test]
fn a_power_cut_after_any_file_loses_nothing() {
    let mut world = World::new();
    let (_, stored) = world.refreshed();
    world.release("rain", "1.2.0", 4);
    world.release("wind", "2.1.0", 2);
    let persist = Client::new(&world.keys.image_root, stored.clone(), now()).unwrap().run_over(world.state.files()).unwrap();
    assert_eq!(persist.len(), 4);
    for kept in 0..=persist.len() {
        for torn in [false, true] {
            let mut disk = stored.clone();
            for (at, Persist { file, bytes }) in persist.iter().take(kept).enumerate() {
                let torn = torn && at + 1 == kept;
                disk.insert(file.clone(), if torn { bytes[..bytes.len() / 2].to_vec() } else { bytes.clone() });
            }
            let (client, _) = refresh(&world.keys.image_root, disk, world.state.files(), now()).unwrap();
            assert!(client.target(&rain_path("1.2.0")).unwrap().is_some(), "kept {kept}, torn {torn}");
        }
    }
}

#[test]
fn no_flipped_byte_of_any_file_changes_what_a_device_would_install() {
    let world = World::new();
    let (good, _) = world.refreshed();
    let paths: Vec<String> = good.all_targets().into_iter().map(|target| target.path).collect();
    for name in ["timestamp.json", "5.snapshot.json", "2.rain.json"] {
        let bytes = &world.state.files()[name];
        for at in 0..bytes.len() {
            let mut files = world.state.files().clone();
            files.get_mut(name).unwrap()[at] ^= 1 << (at % 8);
            let Ok((client, _)) = refresh(&world.keys.image_root, Stored::default(), &files, now()) else { continue };
            for path in &paths {
                if let Ok(found) = client.target(path) {
                    assert_eq!(found, good.target(path).unwrap(), "{name} byte {at}");
                }
            }
        }
    }
}
