//! What a device does with assignments: honest, forged, replayed, and from a stolen director key.
use super::*;
use crate::assignment::{AssignedRelease, Assignment, CapturePolicy, Intent, Probation, Shadow, Windows};
use crate::trust::fixture::*;
use crate::trust::metadata::Root;
use crate::trust::repository::TargetsBuilder;
use crate::trust::tuf::Stored;

const HOUR_SECS: i64 = 3600;

fn device() -> DeviceId {
    "bellevue-07".parse().unwrap()
}

fn assignment(generation: u64, version_name: &str) -> Assignment {
    Assignment {
        v: 1,
        device: device(),
        generation: Generation(generation),
        intent: Intent::Install,
        release: Some(AssignedRelease { path: rain_path(version_name), line: line("rain"), version: version(version_name) }),
        rollout: None,
        reason: "canary of 1.1.0".to_owned(),
        issued_at: now(),
        spread_ms: 0,
        window: None,
        shadow: Shadow::default(),
        probation: Probation::default(),
        windows: Windows::default(),
        capture: CapturePolicy { uniform: 0.25, max_rows_per_day: 10, labelled_only: true, ..CapturePolicy::default() },
        avoid: Vec::new(),
    }
}

fn target(version_name: &str) -> DirectedTarget {
    let model = model(version_name);
    DirectedTarget { path: rain_path(version_name), sha256: model.digest, length: model.length }
}

fn signed(world: &World, generation: u64, target: Option<&DirectedTarget>) -> Vec<u8> {
    let expires = now().plus_secs(HOUR_SECS);
    sign(&device(), Generation(generation), &assignment(generation, "1.1.0"), target, expires, world.key("director")).unwrap()
}

fn root(world: &World) -> Root {
    claims(&world.keys.director_root)
}

/// Everything a device does with an assignment.
fn judge(world: &World, bytes: &[u8], image: &Client) -> Result<ApprovedTarget, String> {
    let directive = verify(bytes, &root(world), &device(), now(), Generation(0)).map_err(|e| e.to_string())?;
    cross_check(&directive, image, 0).map_err(|e| e.to_string())
}

#[test]
fn an_assignment_with_fractions_in_it_round_trips_and_is_approved() {
    let world = World::new();
    let bytes = world.signer.sign_assignment(&assignment(7, "1.1.0"), Some(&target("1.1.0")), now()).unwrap();
    let directive = verify(&bytes, &root(&world), &device(), now(), Generation(7)).unwrap();
    assert_eq!(directive.assignment::<Assignment>().unwrap(), assignment(7, "1.1.0"));
    let (image, _) = world.refreshed();
    let approved = cross_check(&directive, &image, 2).unwrap();
    assert_eq!((approved.generation, approved.release.seq, approved.trainer_io), (Generation(7), 2, None));
    assert_eq!(approved.target.sha256, model("1.1.0").digest);
    // The trainer's release comes with the signature of inputs and outputs that the manifest must have.
    assert_eq!(judge(&world, &signed(&world, 8, Some(&target("auto-3"))), &image).unwrap().trainer_io, Some(io()));
    // The controller asks the same question before it assigns.
    assert_eq!(may_assign(&rain_path("1.1.0"), &image).unwrap(), target("1.1.0"));
    assert!(matches!(may_assign(&rain_path("9.9.9"), &image), Err(CrossCheckError::NotListed(_))));
}

#[test]
fn holding_names_no_target_and_installs_nothing() {
    let world = World::new();
    let directive = verify(&signed(&world, 1, None), &root(&world), &device(), now(), Generation(0)).unwrap();
    assert_eq!(directive.target, None);
    assert!(matches!(cross_check(&directive, &world.refreshed().0, 0), Err(CrossCheckError::Hold)));
}

#[test]
fn documents_that_the_director_did_not_sign_for_this_device_now_are_refused() {
    let world = World::new();
    let good = signed(&world, 5, Some(&target("1.1.0")));
    let (root, id) = (root(&world), device());
    let at = |bytes: &[u8], device: &DeviceId, now, last| {
        verify(bytes, &root, device, now, Generation(last)).map(drop).map_err(|e| (e.code(), e.to_string()))
    };
    assert_eq!(at(&good, &id, now(), 5), Ok(()), "a retained message comes back");
    let refused = |result: Result<(), (Code, String)>, code: Code, why: &str| {
        let (got, sentence) = result.unwrap_err();
        assert!(got == code && sentence.contains(why), "{why}: {got:?} {sentence}");
    };
    refused(at(&good, &"bellevue-08".parse().unwrap(), now(), 0), Code::AssignmentStale, "meant for device bellevue-07");
    refused(at(&good, &id, now(), 6), Code::AssignmentStale, "generation 6 was already followed");
    refused(at(&good, &id, now().plus_secs(HOUR_SECS), 0), Code::MetadataExpired, "expired");
    let lapsed = edited::<Targets>(&good, &[world.key("director")], |t| {
        t.header.expires = metadata::Expires::at(now().plus_secs(500 * 24 * HOUR_SECS))
    });
    refused(at(&lapsed, &id, now().plus_secs(400 * 24 * HOUR_SECS), 0), Code::MetadataExpired, "director's root expired");
    for signer in ["timestamp", "rain", "root-1", "targets-1"] {
        let forged = edited::<Targets>(&good, &[world.key(signer)], |_| {});
        refused(at(&forged, &id, now(), 0), Code::SignatureInvalid, "not signed by a director");
    }
    let by = world.key("director");
    refused(at(&edited::<Targets>(&good, &[by], |t| t.custom = None), &id, now(), 0), Code::SignatureInvalid, "no device");
    refused(
        at(&edited::<Targets>(&good, &[by], |t| t.custom = Some(serde_json::json!({ "v": 1 }))), &id, now(), 0),
        Code::SignatureInvalid,
        "another form",
    );
    let two = edited::<Targets>(&good, &[by], |t| drop(t.targets.insert("b".into(), TargetMeta::new(Digest::of(b""), 0, None))));
    refused(at(&two, &id, now(), 0), Code::SignatureInvalid, "one target");
    // Image metadata is no assignment, whoever signed it.
    refused(at(world.state.file("2.rain.json").unwrap(), &id, now(), 0), Code::SignatureInvalid, "not signed");
    refused(at(world.state.file("timestamp.json").unwrap(), &id, now(), 0), Code::SignatureInvalid, "says it is \"timestamp\"");
    refused(at(&vec![b' '; 70_000], &id, now(), 0), Code::SignatureInvalid, "more than");
}

#[test]
fn no_flipped_byte_of_an_assignment_is_followed_with_another_meaning() {
    let world = World::new();
    let mut bytes = signed(&world, 5, Some(&target("1.1.0")));
    let (root, id) = (root(&world), device());
    let good = verify(&bytes, &root, &id, now(), Generation(0)).unwrap();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x20, 0x80] {
            bytes[at] ^= bit;
            if let Ok(read) = verify(&bytes, &root, &id, now(), Generation(0)) {
                assert_eq!(read, good, "byte {at}");
            }
            bytes[at] ^= bit;
        }
    }
}

#[test]
fn a_stolen_director_chooses_among_approved_models_and_nothing_else() {
    let world = World::new();
    let (image, _) = world.refreshed();
    let other = |edit: fn(&mut DirectedTarget)| {
        let mut target = target("1.1.0");
        edit(&mut target);
        target
    };
    let cases = [
        (other(|t| t.path = rain_path("6.6.6")), "does not list"),
        (other(|t| t.path = "models/rain/release/../auto/auto-3.onnx".into()), "does not list"),
        (other(|t| t.path = "/etc/passwd".into()), "does not list"),
        (other(|t| t.sha256 = Digest::of(b"malware")), "offline-signed repository lists"),
        (other(|t| t.length += 1), "offline-signed repository lists"),
        (other(|t| t.path = rain_path("1.0.0")), "offline-signed repository lists"),
    ];
    for (target, why) in cases {
        let refused = judge(&world, &signed(&world, 1, Some(&target)), &image).unwrap_err();
        assert!(refused.contains(why), "{why}: {refused}");
    }
    assert!(judge(&world, &signed(&world, 1, Some(&target("1.0.0"))), &image).is_ok(), "going back to a listed one is allowed");
    // Without a complete refresh nothing is approved at all.
    let stale = Client::new(&world.keys.image_root, Stored::default(), now()).unwrap();
    let directive = verify(&signed(&world, 1, Some(&target("1.0.0"))), &root(&world), &device(), now(), Generation(0)).unwrap();
    assert_eq!(cross_check(&directive, &stale, 0).unwrap_err().code(), Code::MetadataUnavailable);
}

#[test]
fn the_offline_policy_has_the_last_word() {
    type Edit = fn(TargetsBuilder) -> TargetsBuilder;
    let cases: [(&str, u64, Code, Edit); 7] = [
        ("1.0.0", 0, Code::BelowFloor, |t| t.policy(&line("rain"), |policy| policy.min_seq = 2)),
        ("1.0.0", 2, Code::BelowFloor, |t| t),
        ("1.1.0", 0, Code::Revoked, |t| t.policy(&line("rain"), |policy| policy.revoked.extend([model("1.1.0").digest]))),
        ("1.1.0", 0, Code::Revoked, |t| {
            t.policy(&line("rain"), |policy| policy.revoked.extend([custom("rain", "1.1.0", 2).manifest.digest]))
        }),
        ("auto-3", 0, Code::NotListed, |t| t.revoke_trainer(&line("rain"))),
        ("auto-3", 0, Code::NotListed, |t| t.policy(&line("rain"), |policy| policy.trainer = None)),
        ("auto-3", 0, Code::IoMismatch, |t| t.grant_trainer(&line("rain"), Digest::of(b"another shape"))),
    ];
    for (version_name, floor, code, edit) in cases {
        let mut world = World::new();
        let signer = world.signer.clone();
        let builder = TargetsBuilder::after(&world.state.role("targets").unwrap(), now().plus_secs(HOUR_SECS)).unwrap();
        let bytes = edit(builder).sign(&[world.key("targets-1"), world.key("targets-2")]).unwrap();
        world.state.accept_targets(&bytes, &signer, now()).unwrap();
        let (image, _) = world.refreshed();
        let directive = verify(&signed(&world, 1, Some(&target(version_name))), &root(&world), &device(), now(), Generation(0)).unwrap();
        let refused = cross_check(&directive, &image, floor).unwrap_err();
        assert_eq!(refused.code(), code, "{version_name}: {refused}");
    }
}

#[test]
fn a_slip_in_the_delegations_opens_nothing() {
    // People delegate the release paths to the trainer's key by mistake: the role's name still decides.
    let mut world = World::new();
    let signer = world.signer.clone();
    let top =
        edited::<Targets>(world.state.file("1.targets.json").unwrap(), &[world.key("targets-1"), world.key("targets-2")], |targets| {
            targets.header.version = 2;
            let roles = &mut targets.delegations.as_mut().unwrap().roles;
            roles.retain(|role| role.name != "rain");
            roles.iter_mut().find(|role| role.name == "rain-auto").unwrap().paths = Some(vec!["models/rain/*/*".into()]);
        });
    world.state.accept_targets(&top, &signer, now()).unwrap();
    let path = rain_path("6.6.6");
    let bytes = role_listing(2, &path, &custom("rain", "6.6.6", 66), world.key("rain-auto"));
    let files = world.list_anyway("rain-auto", 2, &bytes);
    let (image, _) = refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap();
    assert!(image.target(&path).unwrap().is_some());
    let refused = may_assign(&path, &image).unwrap_err();
    assert!(matches!(refused, CrossCheckError::WrongRole { .. }), "{refused}");

    // A release key that describes its target as another release, or not at all.
    for (described, why) in [(custom("rain", "1.1.0", 66), "other version"), (custom("wind", "6.6.6", 66), "other line")] {
        let world = World::new();
        let files = world.list_anyway("rain", 3, &role_listing(3, &path, &described, world.key("rain")));
        let (image, _) = refresh(&world.keys.image_root, Stored::default(), &files, now()).unwrap();
        assert!(matches!(may_assign(&path, &image), Err(CrossCheckError::NotARelease(_))), "{why}");
    }
}

#[test]
fn nobody_uses_the_generations_up() {
    let world = World::new();
    let seen = |generation: u64, last: u64| {
        let document = signed(&world, generation, None);
        verify(&document, &root(&world), &device(), now(), Generation(last)).map(|directive| directive.generation.0)
    };
    assert_eq!(seen(MAX_GENERATION_STEP, 0).unwrap(), MAX_GENERATION_STEP);
    for (generation, last) in [(MAX_GENERATION_STEP + 1, 0), (u64::MAX, 7), (u64::MAX - 1, u64::MAX - 2 - MAX_GENERATION_STEP)] {
        let error = seen(generation, last).unwrap_err();
        assert!(matches!(error, DirectorError::TooFarAhead { .. }), "{generation} after {last}: {error}");
        assert_eq!(error.code(), Code::AssignmentStale);
    }
}
