//! Thresholds, rules and damaged bytes of single documents.
use super::*;
use crate::trust::keyring::SigningKey;

const MAX: usize = 1 << 16;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn root(keys: &[&SigningKey], threshold: u32) -> Root {
    let role = RoleKeys { keyids: keys.iter().map(|k| k.public().key_id()).collect(), threshold };
    Root {
        header: Header::new("root", 1, Timestamp::from_secs(2_000_000_000)),
        consistent_snapshot: true,
        keys: keys.iter().map(|k| (k.public().key_id(), Key::of(&k.public()))).collect(),
        roles: TOP_LEVEL.iter().map(|name| ((*name).to_owned(), role.clone())).collect(),
        rest: Map::new(),
    }
}

fn edited(bytes: &[u8], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut value: Value = serde_json::from_slice(bytes).unwrap();
    edit(&mut value);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn a_signed_root_is_read_back_and_its_bytes_are_kept() {
    let (a, b) = (key(1), key(2));
    let root = root(&[&a, &b], 2);
    let bytes = sign(&root, &[&a, &b]).unwrap();
    let read = Document::<Root>::parse(&bytes, MAX).unwrap();
    assert_eq!(read.verify(&root.keys_of("root")).unwrap(), &root);
    assert_eq!(read.bytes(), bytes);
}

#[test]
fn a_threshold_is_met_by_distinct_keys_only() {
    let (a, b) = (key(1), key(2));
    let mut root = root(&[&a, &b], 2);
    let one = sign(&root, &[&a]).unwrap();
    let verify = |bytes: &[u8], root: &Root| Document::<Root>::parse(bytes, MAX).unwrap().verify(&root.keys_of("root")).map(drop);
    assert_eq!(verify(&one, &root).unwrap_err(), ThresholdError { role: "root".into(), have: 1, need: 2 });
    // The same signature under the other key's id does not count.
    let id = b.public().key_id().0;
    let copied = edited(&one, |v| {
        let sig = v["signatures"][0]["sig"].clone();
        v["signatures"].as_array_mut().unwrap().push(serde_json::json!({ "keyid": id, "sig": sig }));
    });
    assert_eq!(verify(&copied, &root).unwrap_err().have, 1);
    // One key listed under two ids is one key.
    let alias = KeyId("another-name".into());
    root.keys.insert(alias.clone(), Key::of(&a.public()));
    root.roles.get_mut("root").unwrap().keyids = vec![a.public().key_id(), alias.clone()];
    let twice = edited(&sign(&root, &[&a]).unwrap(), |v| {
        let sig = v["signatures"][0]["sig"].clone();
        v["signatures"].as_array_mut().unwrap().push(serde_json::json!({ "keyid": alias.0, "sig": sig }));
    });
    assert_eq!(verify(&twice, &root).unwrap_err(), ThresholdError { role: "root".into(), have: 1, need: 2 });
    assert!(!root.keys_of("root").can_be_met());
    // And the honest way: one after the other.
    let root = super::tests::root(&[&a, &b], 2);
    let both = add_signature::<Root>(&add_signature::<Root>(&sign(&root, &[&a]).unwrap(), MAX, &b).unwrap(), MAX, &b).unwrap();
    assert_eq!(verify(&both, &root), Ok(()));
}

#[test]
fn documents_that_break_a_rule_are_refused_with_its_name() {
    let a = key(1);
    let good = sign(&root(&[&a], 1), &[&a]).unwrap();
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 15] = [
        ("says it is \"timestamp\"", |v| v["signed"]["_type"] = "timestamp".into()),
        ("\"2.0.0\" is not supported", |v| v["signed"]["spec_version"] = "2.0.0".into()),
        ("\"1\" is not supported", |v| v["signed"]["spec_version"] = "1".into()),
        ("versions start at 1", |v| v["signed"]["version"] = 0.into()),
        ("2033-05-18", |v| v["signed"]["expires"] = "2033-05-18T03:33:20.5Z".into()),
        ("2033-05-18", |v| v["signed"]["expires"] = "2033-05-18T03:33:20+00:00".into()),
        ("consistent_snapshot", |v| v["signed"]["consistent_snapshot"] = false.into()),
        ("threshold of role targets is 0", |v| v["signed"]["roles"]["targets"]["threshold"] = 0.into()),
        ("no keys for role snapshot", |v| drop(v["signed"]["roles"].as_object_mut().unwrap().remove("snapshot"))),
        ("lists a key id twice", |v| {
            let ids = v["signed"]["roles"]["root"]["keyids"].as_array_mut().unwrap();
            ids.push(ids[0].clone());
        }),
        ("same key id", |v| {
            let signatures = v["signatures"].as_array_mut().unwrap();
            signatures.push(signatures[0].clone());
        }),
        ("65 signatures are more than the 64 allowed", |v| {
            let other = |n| serde_json::json!({ "keyid": format!("other-{n}"), "sig": "" });
            v["signatures"].as_array_mut().unwrap().extend((0..MAX_KEYS).map(other));
        }),
        ("role root lists 65 keys", |v| {
            let ids = v["signed"]["roles"]["root"]["keyids"].as_array_mut().unwrap();
            ids.extend((0..MAX_KEYS).map(|n| format!("other-{n}").into()));
        }),
        ("\"1.1.0\" is not supported", |v| v["signed"]["spec_version"] = "1.1.0".into()),
        ("missing field `signed`", |v| drop(v.as_object_mut().unwrap().remove("signed"))),
    ];
    for (why, edit) in cases {
        let error = Document::<Root>::parse(&edited(&good, edit), MAX).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    assert!(Document::<Root>::parse(&good, good.len() - 1).unwrap_err().to_string().contains("more than"));
}

#[test]
fn no_flipped_byte_is_accepted_and_none_panics() {
    let a = key(1);
    let root = root(&[&a], 1);
    let good = sign(&root, &[&a]).unwrap();
    let mut bytes = good.clone();
    for at in 0..bytes.len() {
        for bit in [0x01, 0x20, 0x80] {
            bytes[at] ^= bit;
            let accepted = Document::<Root>::parse(&bytes, MAX).ok().and_then(|d| d.verify(&root.keys_of("root")).ok().cloned());
            assert!(accepted.is_none_or(|content| content == root), "byte {at} ^ {bit:#x} was accepted with another meaning");
            bytes[at] ^= bit;
        }
    }
    for len in 0..good.len() {
        assert!(Document::<Root>::parse(&good[..len], MAX).is_err(), "cut to {len}");
    }
}

#[test]
fn delegations_and_policy_are_checked_when_read() {
    let a = key(1);
    let ids = vec![a.public().key_id()];
    let role = |name: &str| DelegatedRole {
        name: name.to_owned(),
        keys: RoleKeys { keyids: ids.clone(), threshold: 1 },
        terminating: true,
        paths: Some(vec!["models/rain/release/*".to_owned()]),
        path_hash_prefixes: None,
    };
    let with = |roles: Vec<DelegatedRole>, custom: Option<Value>| {
        let keys = BTreeMap::from([(ids[0].clone(), Key::of(&a.public()))]);
        let delegations = Some(Delegations { keys, roles, rest: Map::new() });
        Targets { delegations, custom, ..Targets::new(1, Timestamp::from_secs(2_000_000_000)) }
    };
    assert!(with(vec![role("rain"), role("rain-auto")], None).check().is_ok());
    let keyed = |keyids, threshold| DelegatedRole { keys: RoleKeys { keyids, threshold }, ..role("rain") };
    let both = DelegatedRole { path_hash_prefixes: Some(vec!["a".into()]), ..role("rain") };
    for (bad, why) in [
        (with(vec![role("root")], None), "may not be named"),
        (with(vec![role("")], None), "may not be named"),
        (with(vec![role("rain"), role("rain")], None), "twice"),
        (with(vec![both], None), "either paths"),
        (with(vec![DelegatedRole { paths: None, ..role("rain") }], None), "either paths"),
        (with(vec![keyed(ids.clone(), 0)], None), "threshold of role rain is 0"),
        (with(vec![keyed(vec![ids[0].clone(), ids[0].clone()], 1)], None), "lists a key id twice"),
        (with(vec![], Some(serde_json::json!({ "lines": { "rain": { "revoked": ["zz"] } } }))), "line policy"),
        (with(vec![], Some(serde_json::json!({ "lines": { "../x": {} } }))), "line policy"),
        (with(vec![], Some(serde_json::json!({ "lines": [] }))), "line policy"),
        (with(vec![], Some(serde_json::json!({ "lines": { "rain": {}, "rain-auto": {} } }))), "name of another line"),
    ] {
        let error = bad.check().unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
        assert!(sign(&bad, &[&a]).is_err(), "a signer refuses it too");
    }
    let grant = TrainerGrant { role: "rain-auto".into(), io: Digest::of(b"io") };
    let line = LinePolicy { min_seq: 3, revoked: [Digest::of(b"bad")].into(), trainer: Some(grant) };
    let policy = Policy { lines: [("rain".parse().unwrap(), line)].into() };
    let custom = policy.write_into(Some(serde_json::json!({ "other": 1 })));
    assert_eq!(custom["other"], 1);
    let bytes = sign(&with(vec![], Some(custom)), &[&a]).unwrap();
    assert_eq!(Document::<Targets>::parse(&bytes, MAX).unwrap().claims().policy().unwrap(), policy);
}

#[test]
fn parents_that_list_what_cannot_be_are_refused() {
    let later = Timestamp::from_secs(2_000_000_000);
    let listing = |names: &[&str], meta: &FileMeta| names.iter().map(|name| ((*name).to_owned(), meta.clone())).collect();
    let (good, none) = (FileMeta::of(1, b"x"), FileMeta { version: 0, ..FileMeta::of(1, b"x") });
    let odd = FileMeta { hashes: Some([("md5".to_owned(), "x".to_owned())].into()), ..good.clone() };
    let timestamp =
        |names: &[&str], meta| TimestampMeta { header: Header::new("timestamp", 1, later), meta: listing(names, meta), rest: Map::new() };
    let snapshot =
        |names: &[&str], meta| SnapshotMeta { header: Header::new("snapshot", 1, later), meta: listing(names, meta), rest: Map::new() };
    assert!(timestamp(&["snapshot.json"], &good).check().is_ok());
    assert!(snapshot(&["targets.json", "rain.json"], &good).check().is_ok());
    for (result, why) in [
        (timestamp(&[], &good).check(), "nothing else"),
        (timestamp(&["targets.json"], &good).check(), "nothing else"),
        (timestamp(&["snapshot.json", "targets.json"], &good).check(), "nothing else"),
        (timestamp(&["snapshot.json"], &none).check(), "version 0"),
        (timestamp(&["snapshot.json"], &odd).check(), "no sha256 or sha512"),
        (snapshot(&["rain.json"], &good).check(), "does not list targets.json"),
        (snapshot(&["targets.json", "rain.json"], &none).check(), "version 0"),
        (snapshot(&["targets.json"], &odd).check(), "no sha256 or sha512"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
    }
    let role = |n: usize| DelegatedRole {
        name: format!("r{n}"),
        keys: RoleKeys { keyids: Vec::new(), threshold: 1 },
        terminating: false,
        paths: Some(Vec::new()),
        path_hash_prefixes: None,
    };
    let with = |n: usize| Targets {
        delegations: Some(Delegations { keys: BTreeMap::new(), roles: (0..n).map(role).collect(), rest: Map::new() }),
        ..Targets::new(1, later)
    };
    assert!(with(MAX_DELEGATIONS).check().is_ok());
    assert!(with(MAX_DELEGATIONS + 1).check().unwrap_err().to_string().contains("513 delegations"));
}

#[test]
fn no_role_name_becomes_a_path() {
    for (role, file) in [("rain", "rain.json"), ("../x", "..%2Fx.json"), ("/", "%2F.json"), ("a?b", "a%3Fb.json"), ("ä", "%C3%A4.json")] {
        assert_eq!(file_name(role), file);
    }
    assert_eq!(versioned_name("rain-auto", 7), "7.rain-auto.json");
}
