//! Bytes that nobody meant: documents cut, mixed and overwritten, and well-signed nonsense. Nothing panics, and nothing that was
//! not signed is believed.
use super::simulator::*;
use super::*;
use crate::trust::metadata::Role;

/// A seeded source of choices (xorshift), so that a red run can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n.max(1) as u64).unwrap()
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let from = self.below(len + 1);
        from..(from + self.below(24)).min(len)
    }
}

/// A repository with something of everything, in version 2.
fn publisher() -> Publisher {
    let mut publisher = Publisher::new();
    publisher.digests = true;
    publisher.delegate("targets", "line", &["models/*"], true);
    publisher.list("line", "models/a", b"a");
    publisher.list("targets", "plain", b"plain");
    publisher.targets().custom = Some(serde_json::json!({ "lines": { "rain": { "min_seq": 3 } } }));
    publisher.publish(&["root", "line"]);
    publisher.publish_targets();
    publisher
}

const FILES: [&str; 6] = ["1.root.json", "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "1.line.json"];

/// Overwritten, cut, doubled, moved, or spliced from another file.
fn damaged(dice: &mut Dice, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=dice.below(3) {
        let range = dice.range(bytes.len());
        match dice.below(7) {
            0 => bytes[range].iter_mut().for_each(|byte| *byte = b'0' + *byte % 10),
            1 => drop(bytes.drain(range)),
            2 => {
                let copy = bytes[range.clone()].to_vec();
                bytes.splice(range.start..range.start, copy);
            }
            3 => {
                let part = other[dice.range(other.len())].to_vec();
                bytes.splice(range, part);
            }
            4 => bytes.truncate(range.start),
            5 => {
                const TOKENS: [&[u8]; 12] =
                    [b"{", b"}", b"[", b"\"", b",", b":", b"null", b"-1", b"1e999", b"18446744073709551616", b"\\ud800", b"\xff\xfe"];
                let token = TOKENS[dice.below(TOKENS.len())];
                bytes.splice(range, token.iter().copied());
            }
            _ => {
                let bit = 1 << dice.below(8);
                if let Some(byte) = bytes.get_mut(range.start) {
                    *byte ^= bit;
                }
            }
        }
    }
    bytes
}

fn reads_as<T: Role + PartialEq>(bytes: &[u8], good: &[u8], keys: &metadata::KeySet<'_>) {
    let Ok(document) = Document::<T>::parse(bytes, 1 << 20) else { return };
    if document.verify(keys).is_ok() {
        assert_eq!(document.claims(), &claims::<T>(good), "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn damaged_documents_neither_panic_nor_mean_anything_new() {
    let publisher = publisher();
    let targets = publisher.roles["targets"].clone();
    let root = &publisher.root;
    let (_, line) = targets.delegation("line").unwrap();
    let mut dice = Dice(0x1ee_3a7);
    for round in 0..6_000 {
        let name = FILES[round % FILES.len()];
        let (good, other) = (&publisher.files[name], &publisher.files[FILES[dice.below(FILES.len())]]);
        let bytes = damaged(&mut dice, good, other);
        // A root is read as the second one: the first has the same keys, and version 1.
        reads_as::<Root>(&bytes, if name == "1.root.json" { good } else { &publisher.files["2.root.json"] }, &root.keys_of("root"));
        reads_as::<TimestampMeta>(&bytes, &publisher.files["timestamp.json"], &root.keys_of("timestamp"));
        reads_as::<SnapshotMeta>(&bytes, &publisher.files["2.snapshot.json"], &root.keys_of("snapshot"));
        reads_as::<Targets>(&bytes, &publisher.files["2.targets.json"], &root.keys_of("targets"));
        reads_as::<Targets>(&bytes, &publisher.files["1.line.json"], &line);
    }
}

#[test]
fn a_refresh_over_damaged_files_fails_or_finds_what_is_signed() {
    let publisher = publisher();
    let mut good = Reader::of(&publisher);
    let paths = ["plain", "models/a", "models/b"];
    let expected: Vec<_> = good.find(&publisher, &paths).into_iter().map(Result::unwrap).collect();
    assert_eq!(expected.iter().flatten().count(), 2);
    let mut dice = Dice(0xbad_5eed);
    let (mut found, mut refused) = (0, 0);
    for round in 0..1_500 {
        let mut world = publisher.clone();
        let mut reader = if round % 3 == 0 { good.clone() } else { Reader::of(&publisher) };
        let name = FILES[dice.below(FILES.len())];
        let other = publisher.files[FILES[dice.below(FILES.len())]].clone();
        if round % 3 == 0 {
            // On the reader's disk. Its root is its anchor: that one is not played with here.
            let name = ["timestamp.json", "snapshot.json", "targets.json", "line.json"][dice.below(4)];
            let bytes = damaged(&mut dice, reader.disk.file(name).unwrap(), &other);
            reader.disk.insert(name, bytes);
        } else {
            let bytes = damaged(&mut dice, &world.files[name], &other);
            world.files.insert(name.to_owned(), bytes);
        }
        for (result, expected) in reader.find(&world, &paths).into_iter().zip(&expected) {
            match result {
                Ok(target) => {
                    assert_eq!(&target, expected, "round {round}");
                    found += 1;
                }
                Err(_) => refused += 1,
            }
        }
        // Whatever happened, an honest repository sets it right.
        let after: Vec<_> = reader.find(&publisher, &paths).into_iter().map(Result::unwrap).collect();
        assert_eq!(after, expected, "round {round}");
    }
    assert!(found > 500 && refused > 500, "the damage is neither harmless nor total: {found} found, {refused} refused");
}

/// Every place in a value.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| places(item, &format!("{at}/{n}"), found)),
        Value::Object(fields) => {
            let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
            fields.iter().for_each(|(name, field)| places(field, &format!("{at}/{}", escaped(name)), found));
        }
        _ => {}
    }
}

#[test]
fn nonsense_with_a_good_signature_is_refused_or_harmless() {
    let publisher = publisher();
    let odd = [
        Value::Null,
        true.into(),
        0.into(),
        (-1).into(),
        u64::MAX.into(),
        "".into(),
        "sha256".into(),
        "2026-02-30T00:00:00Z".into(),
        "../../root".into(),
        "x".repeat(5000).into(),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!([[[[[[{}]]]]]]),
        serde_json::json!({ "": { "": 1 } }),
    ];
    let mut tried = 0;
    for (role, file) in [
        ("root", "2.root.json"),
        ("timestamp", "timestamp.json"),
        ("snapshot", "2.snapshot.json"),
        ("targets", "2.targets.json"),
        ("line", "1.line.json"),
    ] {
        let signed = publisher.value(role);
        let mut all = Vec::new();
        places(&signed, "", &mut all);
        for place in all {
            for odd in &odd {
                let mut changed = signed.clone();
                *changed.pointer_mut(&place).unwrap() = odd.clone();
                let bytes = sealed(changed, &publisher.pens[role]);
                // Parents list what is there, so that it is read and not just compared.
                let mut world = publisher.clone();
                world.digests = false;
                world.files.insert(file.to_owned(), bytes);
                for (entry, version) in [("line.json", 1), ("targets.json", 2)] {
                    let meta = world.snapshot.meta.get_mut(entry).unwrap();
                    (meta.version, meta.length, meta.hashes) = (version, None, None);
                }
                if role != "snapshot" {
                    world.serve("snapshot", 2);
                } else {
                    let meta = world.timestamp.meta.get_mut("snapshot.json").unwrap();
                    (meta.length, meta.hashes) = (None, None);
                }
                if role != "timestamp" {
                    world.serve("timestamp", 2);
                }
                // Its signer may list what it wants; what is asked is that the client comes to an end, in good order.
                let mut reader = Reader::of(&world);
                reader.find(&world, &["plain", "models/a"]);
                assert!(reader.asked.len() < 12, "{role}{place}: {:?}", reader.asked);
                tried += 1;
            }
        }
    }
    assert!(tried > 1_000, "{tried}");
}
