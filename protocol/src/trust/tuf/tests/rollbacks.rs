//! Old states that are served again, and the ways back that a rotation in the root opens.
use super::simulator::*;

#[test]
fn no_version_goes_back_while_the_keys_are_the_same() {
    for digests in [false, true] {
        let start = || {
            let mut publisher = Publisher::new();
            publisher.digests = digests;
            publisher.publish_targets();
            let mut reader = Reader::of(&publisher);
            reader.refresh(&publisher).unwrap();
            (publisher, reader)
        };
        let (mut publisher, mut reader) = start();
        publisher.header("timestamp").version = 1;
        publisher.serve("timestamp", 1);
        assert_eq!(kind(reader.refresh(&publisher)), "Rollback");
        assert_eq!(reader.keeps(), "root 1, snapshot 2, targets 2, timestamp 2");
        assert_eq!(reader.asked.last().unwrap(), "timestamp.json");

        let (mut publisher, mut reader) = start();
        publisher.rewind("snapshot");
        publisher.publish(&["snapshot", "timestamp"]);
        assert_eq!(kind(reader.refresh(&publisher)), "Rollback");
        assert_eq!(reader.keeps(), "root 1, snapshot 2, targets 2, timestamp 2");
        assert_eq!(reader.asked.last().unwrap(), "timestamp.json");
        // The same when only one of the two remembers: the snapshot itself, or the timestamp that named it.
        for damaged in ["timestamp.json", "snapshot.json"] {
            let mut reader = reader.clone();
            reader.disk.insert(damaged, b"{".to_vec());
            assert_eq!(kind(reader.refresh(&publisher)), "Rollback", "{damaged}");
        }

        let (mut publisher, mut reader) = start();
        publisher.rewind("targets");
        publisher.publish_targets();
        assert_eq!(kind(reader.refresh(&publisher)), "Rollback");
        assert_eq!(reader.keeps(), "root 1, snapshot 2, targets 2, timestamp 3");
        // Also when the reader's targets are damaged: the snapshot remembers.
        reader.disk.insert("targets.json", b"{".to_vec());
        assert_eq!(kind(reader.refresh(&publisher)), "Rollback");
    }
}

#[test]
fn no_role_disappears_while_the_keys_are_the_same() {
    let mut publisher = Publisher::new();
    publisher.delegate("targets", "line", &["line/*"], false);
    publisher.publish(&["line"]);
    publisher.publish_targets();
    let mut reader = Reader::of(&publisher);
    reader.refresh(&publisher).unwrap();
    publisher.snapshot.meta.remove("line.json");
    publisher.publish(&["snapshot", "timestamp"]);
    assert_eq!(kind(reader.refresh(&publisher)), "SnapshotDropped");
    assert_eq!(reader.keeps(), "root 1, snapshot 2, targets 2, timestamp 3");
}

/// What a thief pushed far ahead, whose keys the root takes away, what begins again at 1, and what is kept then.
const RECOVERIES: [(&str, &[&str], &[&str], &str); 4] = [
    ("timestamp", &["timestamp"], &["timestamp"], "root 2, snapshot 2, targets 2, timestamp 1"),
    ("snapshot", &["snapshot", "timestamp"], &["snapshot", "timestamp"], "root 2, snapshot 1, targets 2, timestamp 1"),
    ("targets", &["snapshot"], &["targets"], "root 2, snapshot 101, targets 1, timestamp 101"),
    ("targets", &["snapshot", "timestamp"], &["targets", "snapshot", "timestamp"], "root 2, snapshot 1, targets 1, timestamp 1"),
];

#[test]
fn a_rotation_opens_the_way_back_from_versions_that_a_thief_pushed_ahead() {
    for (pushed, rotated, rewound, kept) in RECOVERIES {
        let mut publisher = Publisher::new();
        publisher.delegate("targets", "line", &["line/*"], false);
        publisher.publish(&["line"]);
        publisher.publish_targets();
        // Everything above what was pushed has to name it.
        let above: &[&str] = match pushed {
            "timestamp" => &["timestamp"],
            "snapshot" => &["snapshot", "timestamp"],
            _ => &["targets", "snapshot", "timestamp"],
        };
        above.iter().for_each(|role| publisher.header(role).version = 99);
        publisher.publish(above);
        let mut reader = Reader::of(&publisher);
        reader.refresh(&publisher).unwrap();
        assert!(reader.keeps().contains(&format!("{pushed} 100")));

        let mut without = publisher.clone();
        rewound.iter().for_each(|role| without.rewind(role));
        without.publish(above);
        assert_eq!(kind(reader.clone().refresh(&without)), "Rollback", "{pushed}: not without a rotation");

        rotated.iter().for_each(|role| publisher.rotate(role));
        rewound.iter().for_each(|role| publisher.rewind(role));
        if rotated.contains(&"snapshot") {
            publisher.snapshot.meta.remove("line.json");
        }
        publisher.publish(&["root"]);
        publisher.publish(above);
        let result = reader.refresh(&publisher);
        assert_eq!((kind(result), reader.keeps().as_str()), ("fine".into(), kept), "{pushed} {rotated:?}");
    }
}
