//! What lies on the disk after a power cut at any step, and what is done with it.
use std::collections::BTreeMap;

use super::*;
use crate::io::tls::tests::{Authority, today};

const ENROLMENT: &str = "ab12cd34";

fn access(password: &str) -> (BrokerAccess, String) {
    let broker =
        BrokerAccess { host: "127.0.0.1".into(), port: 8883, username: "device-1".into(), password: password.to_owned(), tls: true };
    (broker, "https://127.0.0.1:8443".to_owned())
}

/// A pair for what is drawn in this directory.
fn pair(dir: &Path, authority: &Authority, password: &str) -> Pair {
    let drawn = draw(dir).unwrap();
    let chain = authority.certify(&drawn.csr, "device-1", None);
    drawn.with((authority.pem.clone(), chain), access(password), &today()).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.join(DIR)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A device with one pair, and another one to come.
fn device() -> (tempfile::TempDir, Store, Pair, Pair) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let store = Store::open(dir.path(), ENROLMENT).unwrap();
    let old = pair(dir.path(), &authority, "old");
    store.keep(Place::Current, &old).unwrap();
    store.clean().unwrap();
    let new = pair(dir.path(), &authority, "new");
    assert_ne!(old.document.key, new.document.key, "a new key each time");
    (dir, store, old, new)
}

fn read(store: &Store, place: Place) -> Option<Document> {
    store.read(place, &today()).unwrap().map(|pair| pair.document)
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_pair_or_the_new_one_and_never_half() {
    for place in [Place::Current, Place::Next] {
        let (_kept, store, _, new) = device();
        let all = store.steps_to_keep(place, &new).unwrap().len();
        assert_eq!(all, 8);
        let mut was_new = false;
        for done in 0..=all {
            let (_kept, store, old, new) = device();
            let steps = store.steps_to_keep(place, &new).unwrap();
            carry_out(&store.dir, &steps[..done]).unwrap();
            let (current, next) = (read(&store, Place::Current), read(&store, Place::Next));
            match place {
                Place::Current => assert!(current == Some(old.document.clone()) || current == Some(new.document.clone()), "{done}"),
                Place::Next => {
                    assert_eq!(current, Some(old.document.clone()), "{done}");
                    assert!(next.is_none() || next == Some(new.document.clone()), "{done}");
                }
            }
            let is_new = current == Some(new.document.clone()) || next == Some(new.document.clone());
            assert!(is_new || !was_new, "{done}: once there, it stays");
            was_new = is_new;
            // The agent that starts then cleans up, and breaks nothing; the same attempt, made again, ends well.
            store.clean().unwrap();
            assert_eq!((read(&store, Place::Current), read(&store, Place::Next)), (current, next), "{done}");
            store.keep(place, &new).unwrap();
            assert_eq!(read(&store, place), Some(new.document), "{done}");
        }
        assert!(was_new);
    }
}

/// What a disk that loses everything unsynced would keep is not asked of a real one; that the order asks for it is.
#[test]
fn nothing_is_renamed_before_it_is_synced_and_no_document_before_its_key_is_there_for_good() {
    let (_kept, store, _, new) = device();
    let steps = store.steps_to_keep(Place::Next, &new).unwrap();
    let (mut written, mut synced, mut renamed, mut durable) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
    for step in &steps {
        match step {
            Step::Write { name, bytes } => drop(written.insert(name.clone(), bytes.clone())),
            Step::Sync { name } => synced.push(name.clone()),
            Step::Rename { from, to } => {
                assert!(written.contains_key(from) && synced.contains(from), "{from}");
                if to.ends_with(".json") {
                    assert!(durable.contains(&format!("{}.key", new.document.key)), "the key first");
                }
                renamed.push(to.clone());
            }
            Step::SyncDir => durable.append(&mut renamed),
            Step::Remove { name } => panic!("{name} is removed before the new one is named"),
        }
    }
    assert!(renamed.is_empty() && durable.len() == 2, "{durable:?}");
}

#[test]
fn the_new_one_takes_the_place_of_the_old_one_or_is_given_up_with_its_key() {
    let (dir, store, old, new) = device();
    store.keep(Place::Next, &new).unwrap();
    store.clean().unwrap();
    let key = |pair: &Pair| format!("{}.key", pair.document.key);
    let mut expected = vec![key(&old), key(&new), format!("{ENROLMENT}.json"), format!("{ENROLMENT}.next.json")];
    expected.sort();
    assert_eq!(names(dir.path()), expected, "what was drawn has a certificate now");
    store.promote().unwrap();
    assert_eq!((read(&store, Place::Current), read(&store, Place::Next)), (Some(new.document.clone()), None));
    assert_eq!(names(dir.path()).len(), 2);
    let later = pair(dir.path(), &Authority::new("ours"), "later");
    store.keep(Place::Next, &later).unwrap();
    store.clean().unwrap();
    let mut back = new.clone();
    back.document.mqtt = later.document.mqtt.clone();
    store.give_up_next(&back).unwrap();
    assert_eq!((read(&store, Place::Current), read(&store, Place::Next)), (Some(back.document), None), "with the last secret");
    assert_eq!(names(dir.path()).len(), 2);
}

#[test]
fn keys_are_the_owners_alone_and_what_was_drawn_outlives_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let drawn = draw(dir.path()).unwrap();
    assert!(drawn.csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----") && !drawn.csr.contains("PRIVATE"));
    assert_eq!(draw(dir.path()).unwrap().key, drawn.key, "an enrolment that waits asks with the same key");
    let mode = |name: &str| fs::metadata(dir.path().join(DIR).join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(DRAWN), mode(".")), (0o600, 0o700));
    let store = Store::open(dir.path(), ENROLMENT).unwrap();
    let pair = pair(dir.path(), &Authority::new("ours"), "secret");
    assert_eq!(pair.key, drawn.key);
    store.keep(Place::Current, &pair).unwrap();
    for name in names(dir.path()) {
        assert_eq!(mode(&name), 0o600, "{name}");
    }
    store.clean().unwrap();
    assert_ne!(draw(dir.path()).unwrap().key, drawn.key, "a new key for the next one");
    for torn in ["", "-----BEGIN PRIVATE KEY-----\nAAAA", "\0\0\0"] {
        fs::write(dir.path().join(DIR).join(DRAWN), torn).unwrap();
        assert!(!draw(dir.path()).unwrap().key.is_empty(), "{torn:?} is drawn anew");
    }
    forget(dir.path());
    assert!(!dir.path().join(DIR).exists());
}

#[test]
fn what_rotted_or_does_not_belong_together_is_said_and_never_shown() {
    let (dir, store, old, _) = device();
    let document = dir.path().join(DIR).join(format!("{ENROLMENT}.json"));
    let key = dir.path().join(DIR).join(format!("{}.key", old.document.key));
    let (good_document, good_key) = (fs::read(&document).unwrap(), fs::read(&key).unwrap());
    let text = String::from_utf8(good_document.clone()).unwrap();
    let broken: [(&str, &Path, Vec<u8>); 6] = [
        ("torn", &document, good_document[..good_document.len() / 2].to_vec()),
        ("another form", &document, text.replace("\"v\": 1", "\"v\": 2").into()),
        ("a key elsewhere", &document, text.replace(&old.document.key, "../identity").into()),
        ("a key of another", &key, draw(dir.path()).unwrap().key.into_bytes()),
        ("an empty key", &key, Vec::new()),
        ("another chain", &document, text.replace("-----BEGIN", "-----BEGUN").into()),
    ];
    for (case, file, bytes) in broken {
        fs::write(file, bytes).unwrap();
        assert!(store.read(Place::Current, &today()).is_err(), "{case}");
        store.clean().unwrap();
        fs::write(&document, &good_document).unwrap();
        fs::write(&key, &good_key).unwrap();
        assert_eq!(read(&store, Place::Current), Some(old.document.clone()), "{case}");
    }
    fs::remove_file(&key).unwrap();
    assert!(store.read(Place::Current, &today()).is_err(), "no key");
    fs::remove_file(&document).unwrap();
    assert_eq!(read(&store, Place::Current), None);
    assert!(Store::open(dir.path(), "../x").is_err() && Store::open(dir.path(), "").is_err());
}
