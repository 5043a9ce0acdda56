//! The workflow from root to targets: what is asked for, what is kept, where it stops, and at what.
use super::simulator::*;
use super::*;

#[test]
fn a_first_refresh_asks_for_four_files_and_keeps_what_came_byte_for_byte() {
    let mut publisher = Publisher::new();
    // A spelling that no writer of ours would choose.
    publisher.files.get_mut("timestamp.json").unwrap().extend(b" \n\t ");
    let targets = publisher.files.get_mut("1.targets.json").unwrap();
    *targets = String::from_utf8(targets.clone()).unwrap().replace("\"targets\"", "\"t\\u0061rgets\"").into_bytes();
    let mut reader = Reader::of(&publisher);
    reader.refresh(&publisher).unwrap();
    assert_eq!(reader.asked, ["2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json"]);
    for (kept, served) in [
        ("root.json", "1.root.json"),
        ("timestamp.json", "timestamp.json"),
        ("snapshot.json", "1.snapshot.json"),
        ("targets.json", "1.targets.json"),
    ] {
        assert_eq!(reader.disk.file(kept), Some(publisher.files[served].as_slice()), "{kept}");
    }
    // A search refreshes first, also when it finds nothing; and what is known is not asked for again.
    let mut searching = Reader::of(&publisher);
    assert!(matches!(searching.find(&publisher, &["nothing"]).as_slice(), [Ok(None)]));
    assert_eq!(searching.keeps(), "root 1, snapshot 1, targets 1, timestamp 1");
    searching.refresh(&publisher).unwrap();
    assert_eq!(searching.asked, ["2.root.json", "timestamp.json"]);
}

#[test]
fn without_a_good_first_root_nothing_is_asked_for() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit); 4] = [
        ("no version", |v| drop(v["signed"].as_object_mut().unwrap().remove("version"))),
        ("no signature", |v| v["signatures"] = serde_json::json!([])),
        ("another signature", |v| v["signatures"][0]["sig"] = "ab".repeat(64).into()),
        ("changed after signing", |v| v["signed"]["version"] = 7.into()),
    ];
    for (why, edit) in cases {
        let mut publisher = Publisher::new();
        publisher.tamper("1.root.json", edit);
        let mut reader = Reader::of(&publisher);
        assert!(reader.refresh(&publisher).is_err(), "{why}");
        assert!(reader.asked.is_empty(), "{why}");
    }
}

/// What is kept when the second version of one role is bad and the other three are good.
const STOPS_AT: [(&str, &str); 4] =
    [("root", "root 1"), ("timestamp", "root 2"), ("snapshot", "root 2, timestamp 2"), ("targets", "root 2, snapshot 2, timestamp 2")];

#[test]
fn a_refresh_stops_at_the_first_bad_role_and_keeps_what_came_before() {
    for (role, kept) in STOPS_AT {
        // Signed by nobody, and by somebody else.
        for pens in [vec![], vec![Pen::ed25519(0xee)]] {
            let mut publisher = Publisher::new();
            publisher.pens.insert(role.to_owned(), pens);
            publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
            let mut reader = Reader::of(&publisher);
            assert_eq!((kind(reader.refresh(&publisher)), reader.keeps()), ("Unsigned".into(), kept.into()), "{role}");
        }
        // Another version inside than outside. A timestamp has no version outside.
        if role != "timestamp" {
            let mut publisher = Publisher::new();
            publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
            publisher.header(role).version = 3;
            for role in ["root", "targets", "snapshot"] {
                publisher.serve(role, 2);
            }
            publisher.serve("timestamp", 2);
            let mut reader = Reader::of(&publisher);
            let refused = kind(reader.refresh(&publisher));
            assert!(["RootOrder", "WrongVersion"].contains(&refused.as_str()), "{role}: {refused}");
            assert_eq!(reader.keeps(), kept, "{role}");
        }
        // Not there.
        if role != "root" {
            let mut publisher = Publisher::new();
            publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
            let file = if role == "timestamp" { "timestamp.json".to_owned() } else { versioned_name(role, 2) };
            publisher.files.remove(&file);
            let mut reader = Reader::of(&publisher);
            assert_eq!((kind(reader.refresh(&publisher)), reader.keeps()), ("Missing".into(), kept.into()), "{role}");
            assert_eq!(reader.asked.last(), Some(&file));
        }
    }
}

#[test]
fn a_timestamp_of_the_same_version_says_nothing_new() {
    for version in [100, 1] {
        let mut publisher = Publisher::new();
        publisher.publish(&["snapshot", "timestamp"]);
        let mut reader = Reader::of(&publisher);
        reader.refresh(&publisher).unwrap();
        let before = reader.disk.file("timestamp.json").unwrap().to_vec();
        publisher.timestamp.meta.get_mut("snapshot.json").unwrap().version = version;
        publisher.serve("timestamp", 2);
        reader.refresh(&publisher).unwrap();
        assert_eq!(reader.asked, ["2.root.json", "timestamp.json"]);
        assert_eq!(reader.disk.file("timestamp.json"), Some(before.as_slice()));
    }
}

#[test]
fn a_file_is_the_one_that_its_parent_lists() {
    type Edit = fn(&mut FileMeta);
    let cases: [(&str, Edit); 6] = [
        ("fine", |_| {}),
        ("fine", |meta| meta.length = None),
        ("WrongDigest", |meta| drop(meta.hashes.as_mut().unwrap().insert("sha256".into(), "0".repeat(64)))),
        ("WrongDigest", |meta| drop(meta.hashes.as_mut().unwrap().insert("sha512".into(), "0".repeat(128)))),
        ("WrongLength", |meta| *meta.length.as_mut().unwrap() += 1),
        ("WrongLength", |meta| *meta.length.as_mut().unwrap() -= 1),
    ];
    for (expected, edit) in cases {
        let mut first = Publisher::new();
        first.digests = true;
        first.publish_targets();
        let mut reader = Reader::of(&first);
        reader.refresh(&first).unwrap();

        let mut publisher = first.clone();
        publisher.publish(&["targets"]);
        edit(publisher.snapshot.meta.get_mut("targets.json").unwrap());
        publisher.publish(&["snapshot", "timestamp"]);
        let mut one = reader.clone();
        let kept = if expected == "fine" { 3 } else { 2 };
        assert_eq!(kind(one.refresh(&publisher)), expected);
        assert_eq!(one.keeps(), format!("root 1, snapshot 3, targets {kept}, timestamp 3"), "{expected}");

        let mut publisher = first.clone();
        publisher.publish(&["snapshot"]);
        edit(publisher.timestamp.meta.get_mut("snapshot.json").unwrap());
        publisher.publish(&["timestamp"]);
        let mut one = reader.clone();
        assert_eq!(kind(one.refresh(&publisher)), expected);
        assert_eq!(one.keeps(), format!("root 1, snapshot {kept}, targets 2, timestamp 3"), "{expected}");
    }
}

#[test]
fn a_kept_copy_of_the_right_version_is_used_only_if_it_is_the_file_that_is_listed() {
    for role in ["snapshot", "targets"] {
        let mut publisher = Publisher::new();
        publisher.digests = true;
        publisher.publish_targets();
        let mut reader = Reader::of(&publisher);
        reader.refresh(&publisher).unwrap();
        publisher.snapshot.rest.insert("other".into(), role.into());
        publisher.targets().rest.insert("other".into(), role.into());
        publisher.serve(role, 2);
        if role == "targets" {
            publisher.publish(&["snapshot"]);
        }
        publisher.publish(&["timestamp"]);
        reader.refresh(&publisher).unwrap();
        assert_eq!(reader.asked.last().unwrap(), &versioned_name(role, 2));
        assert_eq!(reader.disk.file(&format!("{role}.json")), Some(publisher.files[&versioned_name(role, 2)].as_slice()));
    }
}

#[test]
fn fields_of_other_tools_are_signed_like_all_others() {
    let other = || serde_json::json!({ "a": 1, "b": [true, null, "ä"] });
    let mut publisher = Publisher::new();
    let mut pen = publisher.pen();
    pen.key.rest.insert("extra".into(), other());
    // An old field that named how ids are made; it means nothing.
    pen.key.rest.insert("keyid_hash_algorithms".into(), "md5".into());
    pen.key.keyval.rest.insert("extra".into(), other());
    let pen = pen.named_again();
    publisher.appoint("snapshot", std::slice::from_ref(&pen), 1);
    publisher.root.rest.insert("extra".into(), other());
    publisher.timestamp.rest.insert("extra".into(), other());
    publisher.snapshot.rest.insert("extra".into(), other());
    publisher.targets().rest.insert("extra".into(), other());
    publisher.list("targets", "file", b"file");
    publisher.targets().targets.get_mut("file").unwrap().rest.insert("extra".into(), other());
    publisher.publish(&["root", "targets", "snapshot"]);
    publisher.timestamp.meta.get_mut("snapshot.json").unwrap().rest.insert("extra".into(), other());
    publisher.publish(&["timestamp"]);
    let mut reader = Reader::of(&publisher);
    reader.refresh(&publisher).unwrap();
    assert_eq!(reader.keeps(), "root 2, snapshot 2, targets 2, timestamp 2");

    // Where the types have no place for them, too: the signature covers what was received.
    let mut signed = publisher.value("root");
    signed["roles"]["root"]["extra"] = other();
    signed["version"] = 3.into();
    publisher.files.insert("3.root.json".into(), sealed(signed, &publisher.pens["root"]));
    reader.refresh(&publisher).unwrap();
    assert!(reader.keeps().starts_with("root 3"));
    for (file, pointer) in [
        ("3.root.json", "/signed/roles/root/extra"),
        ("3.root.json", "/signed/extra"),
        ("timestamp.json", "/signed/meta/snapshot.json/extra"),
        ("2.targets.json", "/signed/targets/file/extra/b/2"),
    ] {
        let mut changed = publisher.clone();
        changed.tamper(file, |v| *v.pointer_mut(pointer).unwrap() = "changed".into());
        assert_eq!(kind(Reader::of(&publisher).refresh(&changed)), "Unsigned", "{file} {pointer}");
    }
}

#[test]
fn what_two_readers_could_read_in_two_ways_is_read_by_none() {
    for (from, to, why) in [
        (r#""version":2"#, r#""version":2,"version":2"#, "twice"),
        (r#""version":2"#, r#""version":2,"\u0076ersion":3"#, "twice"),
        (r#"{"signatures":["#, r#"{"signatures":[],"signatures":["#, "twice"),
        (r#"{"signatures":["#, r#"{"other":1.5,"signatures":["#, "whole number"),
        (r#""version":2"#, r#""version":2.0"#, "whole number"),
        (r#""version":2"#, r#""version":2e0"#, "whole number"),
        (r#""version":2"#, r#""version":2,"extra":{"deep":[0.1]}"#, "whole number"),
        (r#""version":2"#, r#""version":18446744073709551616"#, "whole number"),
        (r#""version":2"#, r#""version":-2"#, "not TUF metadata"),
        (r#""version":2"#, r#""version":"2""#, "not TUF metadata"),
    ] {
        let mut publisher = Publisher::new();
        let mut reader = Reader::of(&publisher);
        publisher.publish(&["timestamp"]);
        let text = String::from_utf8(publisher.files["timestamp.json"].clone()).unwrap();
        let (before, after) = text.split_at(if from.contains("version") { text.rfind(from).unwrap() } else { 0 });
        let changed = format!("{before}{}", after.replacen(from, to, 1));
        assert_ne!(changed, text, "{from}");
        publisher.files.insert("timestamp.json".into(), changed.into_bytes());
        let refused = reader.refresh(&publisher).unwrap_err().to_string();
        assert!(refused.contains(why), "{to}: {refused}");
        assert_eq!(reader.keeps(), "root 1");
    }
}

#[test]
fn no_type_of_metadata_passes_for_another() {
    let top = ["root", "timestamp", "snapshot", "targets"];
    for served in top {
        for wanted in top {
            // One key for everything, so that only the type inside the signature stands in the way.
            let mut publisher = Publisher::new();
            let mut reader = Reader::of(&publisher);
            let old = publisher.pens["root"].clone();
            let pen = publisher.pen();
            top.iter().for_each(|role| publisher.appoint(role, std::slice::from_ref(&pen), 1));
            publisher.pens.get_mut("root").unwrap().extend(old);
            publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
            publisher.publish(&["root"]);
            let file = |role: &str| match role {
                "timestamp" => "timestamp.json".to_owned(),
                "root" => "3.root.json".to_owned(),
                role => versioned_name(role, 2),
            };
            let mut signed = publisher.value(served);
            // As much like the other as it can be.
            signed["version"] = publisher.value(wanted)["version"].clone();
            for (field, value) in publisher.value(wanted).as_object().unwrap() {
                signed.as_object_mut().unwrap().entry(field).or_insert(value.clone());
            }
            if wanted == "timestamp" {
                signed["meta"] = publisher.value("timestamp")["meta"].clone();
            }
            publisher.files.insert(file(wanted), sealed(signed, &[pen]));
            let result = reader.refresh(&publisher);
            if served == wanted {
                result.unwrap();
                continue;
            }
            let refused = result.unwrap_err().to_string();
            assert!(refused.contains(&format!("says it is {served:?}, expected {wanted:?}")), "{refused}");
        }
    }
}

#[test]
fn what_is_over_is_not_taken_and_what_was_taken_stays() {
    for (role, kept) in [
        ("root", "root 2, snapshot 1, targets 1, timestamp 1"),
        ("timestamp", "root 2, snapshot 1, targets 1, timestamp 1"),
        ("snapshot", "root 2, snapshot 1, targets 1, timestamp 2"),
        ("targets", "root 2, snapshot 2, targets 1, timestamp 2"),
    ] {
        for (left_secs, expected) in [(1, "fine"), (0, "Expired"), (-5 * DAY_SECS, "Expired")] {
            let mut publisher = Publisher::new();
            let mut reader = Reader::of(&publisher);
            reader.refresh(&publisher).unwrap();
            publisher.header(role).expires = metadata::Expires::at(now().plus_secs(left_secs));
            publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
            assert_eq!(kind(reader.refresh(&publisher)), expected, "{role} {left_secs}");
            if expected == "Expired" {
                assert_eq!(reader.keeps(), kept, "{role}");
            }
        }
    }
}

#[test]
fn a_device_that_was_away_comes_back_through_what_is_over() {
    for role in ["root", "timestamp", "snapshot", "targets"] {
        let mut publisher = Publisher::new();
        publisher.header(role).expires = metadata::Expires::at(now().plus_secs(7 * DAY_SECS));
        publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
        let mut reader = Reader::of(&publisher);
        reader.refresh(&publisher).unwrap();
        let later = now().plus_secs(18 * DAY_SECS);
        let mut waiting = reader.clone();
        assert_eq!(kind(waiting.refresh_at(&publisher, later)), "Expired", "{role}");
        publisher.header(role).expires = metadata::Expires::at(now().plus_secs(21 * DAY_SECS));
        publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
        reader.refresh_at(&publisher, later).unwrap();
        assert_eq!(reader.keeps(), "root 3, snapshot 3, targets 3, timestamp 3", "{role}");
    }
}

/// A client as an agent holds it: for months, over many refreshes.
fn run(client: &mut Client, from: &Publisher) -> Result<(), TufError> {
    client.run_over(&from.files).map(drop)
}

#[test]
fn a_client_that_lives_on_forgets_the_troubles_of_the_last_refresh() {
    let mut publisher = Publisher::new();
    publisher.delegate("targets", "line", &["*"], true);
    publisher.list("line", "file", b"file");
    publisher.publish(&["line"]);
    publisher.publish_targets();
    let line = publisher.files.remove("1.line.json").unwrap();
    let mut client = Client::new(&publisher.files["1.root.json"], Stored::default(), now()).unwrap();
    client.only_for("file");
    run(&mut client, &publisher).unwrap();
    assert!(matches!(client.listed("file"), Err(TufError::Missing { .. })));
    assert!(client.failures().contains_key("line"));
    publisher.files.insert("1.line.json".into(), line);
    run(&mut client, &publisher).unwrap();
    assert!(client.listed("file").is_err(), "not before it refreshes");
    client.refresh(now());
    assert!(matches!(client.listed("file"), Err(TufError::NotFresh)));
    run(&mut client, &publisher).unwrap();
    assert!(client.listed("file").unwrap().is_some());
    assert!(client.failures().is_empty());
}

#[test]
fn more_roots_than_one_refresh_follows_take_two() {
    let mut publisher = Publisher::new();
    let roots = MAX_ROOT_HOPS + 40;
    (1..roots).for_each(|_| publisher.publish(&["root"]));
    let mut client = Client::new(&publisher.files["1.root.json"], Stored::default(), now()).unwrap();
    assert_eq!(kind(run(&mut client, &publisher)), "TooManyRoots");
    assert_eq!(client.versions().root, u64::from(MAX_ROOT_HOPS) + 1);
    client.refresh(now());
    run(&mut client, &publisher).unwrap();
    assert_eq!(client.versions().root, u64::from(roots));
}
