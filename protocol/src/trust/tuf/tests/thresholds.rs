//! Who signed, how many of them, and with what: thresholds, rotations, doubled ids, schemes.
use super::simulator::*;
use super::*;
use crate::trust::keyring::KeyId;

/// Ten keys by letter, `a` to `j`.
fn pens(letters: &str) -> Vec<Pen> {
    letters.bytes().map(|letter| Pen::ed25519(0x80 + letter - b'a')).collect()
}

/// Roots one after the other: who is listed, how many are needed, who signs. Only the last one may be bad.
const ROOTS: [(&str, &[(&str, u32, &str)], bool); 18] = [
    ("a key follows another", &[("a", 1, "a"), ("b", 1, "ba"), ("b", 1, "b")], true),
    ("strangers sign, too", &[("a", 1, "cad"), ("b", 1, "cbad"), ("b", 1, "cbd")], true),
    ("any three of five", &[("abcde", 3, "ace"), ("abcde", 3, "aeb"), ("abcde", 3, "abd"), ("abcde", 3, "bcd")], true),
    ("one of five changes, three signers are in both", &[("abcde", 3, "ace"), ("abdef", 3, "aeb")], true),
    ("one of five changes, more must sign", &[("abcde", 3, "ace"), ("abdef", 3, "acef"), ("abdef", 3, "aef")], true),
    ("all five change at once", &[("abcde", 3, "ace"), ("fghij", 3, "acefgh"), ("fghij", 3, "fgh")], true),
    ("the threshold rises", &[("abc", 1, "a"), ("abc", 2, "ab")], true),
    ("the threshold falls", &[("abc", 2, "ab"), ("abc", 1, "ab"), ("abc", 1, "a")], true),
    ("a second key comes in and is needed", &[("a", 1, "a"), ("ab", 2, "ab")], true),
    ("all keys are needed", &[("abcde", 5, "abcde"), ("abcde", 5, "edcba")], true),
    ("not by the old key", &[("a", 1, "a"), ("b", 1, "bcd")], false),
    ("not by the new key", &[("a", 1, "a"), ("b", 1, "acd")], false),
    ("by two of the three new ones", &[("abcde", 3, "ace"), ("abdef", 3, "ace")], false),
    ("by two of the three old ones", &[("abcde", 3, "ace"), ("abdef", 3, "aef")], false),
    ("below a threshold that rises", &[("abc", 1, "a"), ("abc", 2, "b")], false),
    ("below a threshold that only the new root lowers", &[("abc", 2, "ab"), ("abc", 1, "a")], false),
    ("the second hop is not signed by the first", &[("a", 1, "a"), ("b", 1, "ab"), ("c", 1, "ac")], false),
    ("by nobody", &[("a", 1, "a"), ("a", 1, "")], false),
];

#[test]
fn a_root_follows_another_when_both_say_so() {
    for (why, roots, accepted) in ROOTS {
        let mut publisher = Publisher::new();
        publisher.rewind("root");
        for (listed, threshold, signers) in roots {
            publisher.appoint("root", &pens(listed), *threshold);
            publisher.pens.insert("root".to_owned(), pens(signers));
            publisher.publish(&["root"]);
        }
        publisher.publish_targets();
        let mut reader = Reader::of(&publisher);
        let result = reader.refresh(&publisher);
        assert_eq!(result.is_ok(), accepted, "{why}: {result:?}");
        let last = if accepted { roots.len() } else { roots.len() - 1 };
        assert_eq!(reader.disk.file("root.json"), Some(publisher.files[&format!("{last}.root.json")].as_slice()), "{why}");
    }
}

/// Who is listed, how many are needed, who signs.
const SIGNERS: [(&str, &str, u32, &str, bool); 14] = [
    ("another key than before", "b", 1, "b", true),
    ("with strangers", "a", 1, "cad", true),
    ("first three", "abcde", 3, "abc", true),
    ("last three", "abcde", 3, "cde", true),
    ("three apart", "abcde", 3, "ace", true),
    ("in another order", "abcde", 3, "eba", true),
    ("more than needed", "abcde", 3, "abcde", true),
    ("all", "ab", 2, "ba", true),
    ("by the old key only", "b", 1, "acd", false),
    ("one of three is a stranger", "abdef", 3, "ace", false),
    ("two of three", "abdef", 3, "ae", false),
    ("one of two", "ab", 2, "a", false),
    ("more needed than there are", "abcde", 6, "abcde", false),
    ("nobody", "ab", 1, "", false),
];

#[test]
fn every_other_role_is_signed_by_enough_of_its_own_keys() {
    for (why, listed, threshold, signers, accepted) in SIGNERS {
        for role in ["timestamp", "snapshot", "targets"] {
            let mut publisher = Publisher::new();
            let mut reader = Reader::of(&publisher);
            reader.refresh(&publisher).unwrap();
            publisher.appoint(role, &pens(listed), threshold);
            publisher.pens.insert(role.to_owned(), pens(signers));
            publisher.publish(&["root", "targets", "snapshot", "timestamp"]);
            let expected = if accepted { "fine" } else { "Unsigned" };
            assert_eq!(kind(reader.refresh(&publisher)), expected, "{role}: {why}");
            // The root is not to blame for a role that can never be met.
            assert!(reader.keeps().starts_with("root 2"), "{role}: {why}");
            let newest = if role == "timestamp" { "timestamp.json".into() } else { versioned_name(role, 2) };
            assert_eq!(reader.disk.file(&format!("{role}.json")) == Some(publisher.files[&newest].as_slice()), accepted, "{role}: {why}");
        }
        // And a delegated role by the keys that its delegator names.
        let mut publisher = Publisher::new();
        publisher.delegate("targets", "line", &["*"], false);
        let (pens, signers) = (pens(listed), pens(signers));
        let delegations = publisher.targets().delegations.as_mut().unwrap();
        delegations.keys.extend(pens.iter().map(|pen| (pen.id.clone(), pen.key.clone())));
        delegations.roles[0].keys = RoleKeys { keyids: pens.iter().map(|pen| pen.id.clone()).collect(), threshold };
        publisher.pens.insert("line".to_owned(), signers);
        publisher.list("line", "file", b"file");
        publisher.publish(&["line"]);
        publisher.publish_targets();
        let found = Reader::of(&publisher).find(&publisher, &["file"]).remove(0);
        assert_eq!(found.is_ok_and(|found| found.is_some()), accepted, "delegated: {why}");
    }
}

#[test]
fn nothing_that_is_written_twice_counts_twice() {
    let start = || {
        let publisher = Publisher::new();
        let reader = Reader::of(&publisher);
        (publisher, reader)
    };
    let again = |publisher: &mut Publisher| {
        publisher.publish(&["root"]);
        publisher.publish_targets();
    };
    // One key id listed many times, and its signature copied as often.
    let (mut publisher, mut reader) = start();
    let pen = publisher.pen();
    publisher.appoint("snapshot", &vec![pen.clone(); 9], 6);
    again(&mut publisher);
    assert_eq!(kind(reader.refresh(&publisher)), "Malformed");
    assert_eq!(reader.keeps(), "root 1", "a root with a doubled key id is refused as a whole");
    // A signature copied, although there are enough without the copy.
    let (mut publisher, mut reader) = start();
    publisher.tamper("1.snapshot.json", |v| {
        let copy = v["signatures"][0].clone();
        v["signatures"].as_array_mut().unwrap().push(copy);
    });
    assert_eq!(kind(reader.refresh(&publisher)), "Malformed");
    // One key under many ids, each with its signature; and with it under a foreign id.
    for ids in [2, 9] {
        let (mut publisher, mut reader) = start();
        let pen = publisher.pen();
        let alias = |n| Pen { id: KeyId(format!("alias-{n}")), ..pen.clone() };
        let mut aliases: Vec<_> = (1..ids).map(alias).collect();
        aliases.push(pen.clone());
        publisher.appoint("snapshot", &aliases, 2);
        again(&mut publisher);
        assert_eq!(kind(reader.refresh(&publisher)), "Unsigned", "{ids}");
        assert_eq!(reader.keeps(), "root 2, timestamp 2");
        // A second key makes it two.
        aliases.push(publisher.pen());
        publisher.appoint("snapshot", &aliases, 2);
        again(&mut publisher);
        reader.refresh(&publisher).unwrap();
    }
}

#[test]
fn a_bad_signature_beside_enough_good_ones_does_no_harm() {
    let long = "ab".repeat(2000);
    for text in ["ab".repeat(64).as_str(), "", "not hex", "a", "AB", &long] {
        let mut publisher = Publisher::new();
        let good = publisher.pens["timestamp"][0].clone();
        let bad = publisher.pen().writing(text);
        let stranger = Pen::ed25519(0xee).writing(text);
        publisher.appoint("timestamp", &[bad, good], 1);
        publisher.pens.get_mut("timestamp").unwrap().insert(0, stranger);
        publisher.publish(&["root", "timestamp"]);
        let mut reader = Reader::of(&publisher);
        reader.refresh(&publisher).unwrap();
        assert_eq!(reader.keeps(), "root 2, snapshot 1, targets 1, timestamp 2");
    }
}

/// Add `pen` to the root's keys and make it needed; then let the next root carry another signature of it.
fn needs(pen: Pen, bad: &str) -> [(String, String); 2] {
    let mut publisher = Publisher::new();
    let mut reader = Reader::of(&publisher);
    let old = publisher.pens["root"][0].clone();
    publisher.appoint("root", &[old.clone(), pen.clone()], 2);
    publisher.publish(&["root"]);
    let first = (kind(reader.refresh(&publisher)), reader.keeps());
    publisher.pens.insert("root".into(), vec![old, pen.writing(bad)]);
    publisher.publish(&["root"]);
    [first, (kind(reader.refresh(&publisher)), reader.keeps())]
}

const ROOT_2: &str = "root 2, snapshot 1, targets 1, timestamp 1";

#[test]
fn an_ed25519_key_counts_and_one_of_an_unknown_scheme_does_not() {
    let [good, bad] = needs(Pen::ed25519(0x70), &"ab".repeat(64));
    assert_eq!((good.0.as_str(), good.1.as_str()), ("fine", ROOT_2));
    assert_eq!((bad.0.as_str(), bad.1.as_str()), ("Unsigned", ROOT_2));
    for (keytype, scheme) in [("rsa", "rsassa-pss-sha256"), ("ed25519", "ed448"), ("ed448", "ed25519"), ("", "")] {
        let mut pen = Pen::ed25519(0x70);
        (pen.key.keytype, pen.key.scheme) = (keytype.into(), scheme.into());
        let [first, _] = needs(pen.named_again(), "");
        assert_eq!(first, ("Unsigned".into(), "root 1".into()), "{keytype} {scheme}");
    }
}

#[cfg(not(feature = "p256"))]
#[test]
fn without_the_feature_a_p256_key_is_kept_and_never_counts() {
    let mut pen = Pen::ed25519(0x70);
    (pen.key.keytype, pen.key.scheme) = ("ecdsa".into(), "ecdsa-sha2-nistp256".into());
    assert_eq!(needs(pen.named_again(), "")[0], ("Unsigned".into(), "root 1".into()));
}

#[cfg(feature = "p256")]
mod p256_keys {
    use super::*;
    use crate::trust::keyring::PublicKey;
    use base64::Engine as _;
    use p256::ecdsa::signature::Signer as _;
    use std::rc::Rc;

    fn pen(seed: u8, keytype: &str, compressed: bool) -> Pen {
        let secret = p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap();
        let point = secret.verifying_key().to_sec1_point(compressed);
        let (sequence, bits) = if compressed { (0x39, 0x22) } else { (0x59, 0x42) };
        let mut der = vec![0x30, sequence, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        der.extend([0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, bits, 0x00]);
        der.extend(point.as_bytes());
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let mut pen = Pen::ed25519(seed);
        (pen.key.keytype, pen.key.scheme) = (keytype.into(), "ecdsa-sha2-nistp256".into());
        pen.key.keyval.public = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        pen.hand = Rc::new(move |message| {
            let signature: p256::ecdsa::DerSignature = secret.sign(message);
            signature.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
        });
        pen.named_again()
    }

    #[test]
    fn a_p256_key_counts_under_both_names_of_its_type() {
        for keytype in ["ecdsa", "ecdsa-sha2-nistp256"] {
            let [good, bad] = needs(pen(7, keytype, false), "3006020101020101");
            assert_eq!((good.0.as_str(), good.1.as_str()), ("fine", ROOT_2), "{keytype}");
            assert_eq!((bad.0.as_str(), bad.1.as_str()), ("Unsigned", ROOT_2), "{keytype}");
        }
        let mut other = pen(7, "ecdsa", false);
        other.key.scheme = "ecdsa-sha2-nistp384".into();
        assert_eq!(needs(other.named_again(), "")[0].0, "Unsigned");
    }

    #[test]
    fn one_point_in_two_spellings_is_one_key() {
        let mut publisher = Publisher::new();
        publisher.appoint("timestamp", &[pen(7, "ecdsa", false), pen(7, "ecdsa", true)], 2);
        publisher.publish(&["root", "timestamp"]);
        let mut reader = Reader::of(&publisher);
        assert_eq!((kind(reader.refresh(&publisher)), reader.keeps()), ("Unsigned".into(), "root 2".into()));
        publisher.appoint("timestamp", &[pen(7, "ecdsa", false), pen(8, "ecdsa", true)], 2);
        publisher.publish(&["root", "timestamp"]);
        reader.refresh(&publisher).unwrap();
    }

    #[test]
    fn a_p256_key_signs_no_messages_outside_of_metadata() {
        let mut publisher = Publisher::new();
        let (other, ours) = (pen(7, "ecdsa", false), Pen::ed25519(9));
        publisher.appoint("targets", &[other, ours], 2);
        let keys = publisher.root.keys_of("targets");
        assert!(keys.can_be_met());
        assert_eq!(keys.iter().collect::<Vec<&PublicKey>>(), [&spare(9).public()]);
    }
}
