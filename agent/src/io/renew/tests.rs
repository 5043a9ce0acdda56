//! A device against a controller's door and a broker, both real TLS servers: it comes in, waits, is refused, renews, and goes back.
use std::io::{Read as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use leeway_protocol::enrolment;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{PublicKey, Signature};
use leeway_protocol::trust::repository::{Lifetimes, LineGrant, ceremony};
use serde_json::{Value, json};

use super::*;
use crate::event::Event;
use crate::io::enrol::{Enrolment, Outcome, enrol};
use crate::io::mqtt::{Ended, Link, Told};
use crate::io::run::identity;
use crate::io::tls::tests::{Authority, Clients, Incoming, Party, digest_of, listen, request, respond, server_config, shown, today};

/// What the controller says next, once it knows who asks.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Say {
    LetsIn,
    Pending,
    Revoked,
    Breaks,
}

/// A controller: one door over TLS that asks for a proof and checks it, and whatever it is told to say.
pub(in crate::io) struct Controller {
    pub(in crate::io) authority: Arc<Authority>,
    port: u16,
    pub(in crate::io) script: Arc<Mutex<Script>>,
}

pub(in crate::io) struct Script {
    say: Say,
    /// What it names as its authority, if another than its own.
    names: Option<String>,
    pub(in crate::io) mqtt: Value,
    /// How long its certificates are good, if not for all our years.
    pub(in crate::io) life_secs: Option<u64>,
    asked: u32,
    csrs: Vec<String>,
    roots: (String, String),
}

pub(in crate::io) fn controller() -> Controller {
    let authority = Arc::new(Authority::new("ours"));
    let mut n = 0;
    let keys = ceremony(&[] as &[LineGrant], &Lifetimes::default(), Timestamp::from_secs(1_795_410_000), &mut || {
        n += 1;
        [n; 32]
    })
    .unwrap();
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    let script = Arc::new(Mutex::new(Script {
        say: Say::LetsIn,
        names: None,
        mqtt: json!({ "host": "127.0.0.1", "port": 8883, "username": "device-1", "password": "first", "tls": true }),
        life_secs: None,
        asked: 0,
        csrs: Vec::new(),
        roots: (text(&keys.image_root), text(&keys.director_root)),
    }));
    let config = server_config(&authority.server(&["127.0.0.1"], (2020, 2090)), Clients::Maybe(&authority));
    let (known, ours) = (Arc::clone(&script), Arc::clone(&authority));
    let own_port = Arc::new(Mutex::new(0));
    let told = Arc::clone(&own_port);
    let port = listen(config, move |mut stream| {
        assert_eq!(shown(&stream), None, "the door needs no certificate, and is shown none");
        while let Some((first, body)) = request(&mut stream) {
            if !first.starts_with("POST /api/v1/enrol ") {
                respond(&mut stream, 404, "{}");
                continue;
            }
            let (status, answer) = answer(&ours, &mut known.lock().unwrap(), &body, *told.lock().unwrap());
            if status == 0 {
                return;
            }
            respond(&mut stream, status, &answer.to_string());
        }
    });
    *own_port.lock().unwrap() = port;
    Controller { authority, port, script }
}

fn answer(authority: &Authority, script: &mut Script, body: &[u8], port: u16) -> (u16, Value) {
    let asked: Value = serde_json::from_slice(body).unwrap();
    let text = |key: &str| asked[key].as_str().unwrap().to_owned();
    let Some(proof) = asked["proof"].as_str() else { return (409, json!({ "challenge": "sign this", "detail": "the name is taken" })) };
    let (device, csr) = (text("device"), text("csr"));
    let signed = enrolment::proof(&device.parse().unwrap(), &text("public_key"), "sign this", Some(&csr));
    let key = PublicKey::from_hex(&text("public_key")).unwrap();
    assert!(key.verifies(&signed, &Signature::from_hex(proof).unwrap()), "the proof covers name, key, challenge and request");
    script.asked += 1;
    script.csrs.push(csr.clone());
    match script.say {
        Say::Breaks => (0, Value::Null),
        Say::Pending => (202, json!({ "state": "pending", "sentence": format!("{device} waits for Ann"), "retry_secs": 1 })),
        Say::Revoked => (403, json!({ "title": "Forbidden", "detail": format!("{device} was revoked: stolen") })),
        Say::LetsIn => (
            200,
            json!({
                "tenant": "test", "device": device, "mqtt": script.mqtt, "http_base": format!("https://127.0.0.1:{port}"),
                "image_root": script.roots.0, "director_root": script.roots.1,
                "tls": {
                    "ca": script.names.clone().unwrap_or(authority.pem.clone()),
                    "chain": authority.certify(&csr, &device, script.life_secs),
                    "not_after": "2090-01-01T00:00:00Z",
                },
            }),
        ),
    }
}

impl Controller {
    fn say(&self, say: Say) {
        self.script.lock().unwrap().say = say;
    }

    pub(in crate::io) fn asked(&self) -> u32 {
        self.script.lock().unwrap().asked
    }

    /// An enrolment in this directory, with the authority given.
    fn enrolment(&self, dir: &Path) -> Enrolment {
        let ca = dir.join("ca.pem");
        std::fs::write(&ca, &self.authority.pem).unwrap();
        Enrolment {
            url: format!("https://127.0.0.1:{}/", self.port),
            device: Some("device-1".parse().unwrap()),
            token: Some("token".to_owned()),
            dir: dir.join("data"),
            labels: BTreeMap::new(),
            image_root: None,
            director_root: None,
            broker_secret: None,
            ca: Some(ca),
            wait: false,
        }
    }
}

/// An enrolled device.
pub(in crate::io) fn enrolled(controller: &Controller) -> (tempfile::TempDir, Enrolment, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let ask = controller.enrolment(dir.path());
    let Outcome::Enrolled(identity) = enrol(&ask).unwrap() else { panic!("it has to wait") };
    (dir, ask, *identity)
}

fn open(identity: &Identity, dir: &Path) -> Certificates {
    Certificates::open(identity, dir).unwrap().unwrap()
}

/// Ask as the loop does, and take what comes.
fn renew(certificates: &mut Certificates, identity: &Identity) -> Result<Certificate, RenewalFailure> {
    let (to, mut from) = tokio::sync::mpsc::channel(1);
    certificates.ask(FetchId(7), identity, &identity.labels, &to);
    let Asked { ask, outcome } = from.blocking_recv().unwrap();
    assert_eq!(ask, FetchId(7));
    outcome.and_then(|pair| certificates.take(*pair))
}

#[test]
fn a_device_comes_in_over_tls_and_everything_it_needs_lies_on_its_disk() {
    let controller = controller();
    let (_kept, ask, told) = enrolled(&controller);
    let read = identity(&ask.dir).unwrap();
    assert_eq!((&read.tls, &read.broker, &read.artifacts), (&told.tls, &told.broker, &told.artifacts));
    let tls = read.tls.as_ref().unwrap();
    assert_eq!((tls.door.as_str(), tls.ca.as_str()), (ask.url.trim_end_matches('/'), controller.authority.pem.as_str()));
    let certificates = open(&read, &ask.dir);
    assert_eq!(certificates.dates().not_after, "2090-01-01T00:00:00Z".parse().unwrap());
    assert!(certificates.sentence(today().read()).starts_with("until 2090-01-01T00:00:00Z; obtained 20"));
    let lines = crate::io::status(&ask.dir).unwrap();
    assert!(lines.iter().any(|line| line.starts_with("certificate  until 2090")), "{lines:?}");
    assert!(lines.iter().any(|line| line == "broker       127.0.0.1:8883 over TLS"), "{lines:?}");
    // Again, and without --ca: the authority is known from before. The key of the device is the same, that for TLS is another.
    let again = Enrolment { ca: None, ..ask.clone() };
    let Outcome::Enrolled(again) = enrol(&again).unwrap() else { panic!("it has to wait") };
    assert_eq!(again.key.public(), told.key.public());
    assert_ne!(again.tls.unwrap().enrolment, tls.enrolment);
    assert_eq!(std::fs::read_dir(ask.dir.join("tls")).unwrap().count(), 2, "of the earlier enrolment nothing is left");
}

#[test]
fn over_https_the_authority_must_be_given_and_must_be_the_right_one() {
    let controller = controller();
    let dir = tempfile::tempdir().unwrap();
    let ask = Enrolment { ca: None, ..controller.enrolment(dir.path()) };
    let error = format!("{:#}", enrol(&ask).unwrap_err());
    assert!(error.contains("--ca FILE"), "{error}");
    let wrong = dir.path().join("wrong.pem");
    std::fs::write(&wrong, Authority::new("ours").pem).unwrap();
    let error = format!("{:#}", enrol(&Enrolment { ca: Some(wrong), ..ask.clone() }).unwrap_err());
    assert!(error.contains("not signed by the authority this device believes"), "{error}");
    let error = format!("{:#}", enrol(&Enrolment { ca: Some(dir.path().join("none")), ..ask.clone() }).unwrap_err());
    assert!(error.contains("there is no certificate in"), "{error}");
    assert_eq!(controller.asked(), 0, "nobody was told anything");
    assert!(!ask.dir.join("identity.json").exists());
}

#[test]
fn one_that_must_wait_waits_or_comes_again_with_the_same_keys_and_one_that_is_refused_does_not() {
    let controller = controller();
    let dir = tempfile::tempdir().unwrap();
    let ask = controller.enrolment(dir.path());
    controller.say(Say::Pending);
    for _ in 0..2 {
        // Broken off in between, by --no-wait or by a power cut: what was drawn is on the disk.
        let Outcome::Pending(sentence) = enrol(&ask).unwrap() else { panic!("it was let in") };
        assert_eq!(sentence, "device-1 waits for Ann");
        assert!(!ask.dir.join("identity.json").exists());
    }
    controller.say(Say::Revoked);
    let error = format!("{:#}", enrol(&Enrolment { wait: true, ..ask.clone() }).unwrap_err());
    assert!(error.contains("does not let device-1 in: device-1 was revoked: stolen"), "{error}");
    controller.say(Say::Pending);
    let (asked, waiting) = (controller.asked(), Enrolment { wait: true, ..ask.clone() });
    let waits = std::thread::spawn(move || enrol(&waiting));
    let begun = Instant::now();
    while controller.asked() == asked {
        assert!(begun.elapsed() < Duration::from_secs(20), "it never asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    controller.say(Say::LetsIn);
    let Outcome::Enrolled(identity) = waits.join().unwrap().unwrap() else { panic!("it did not wait") };
    assert_eq!(identity.device.as_str(), "device-1");
    let keys: Vec<String> = controller.script.lock().unwrap().csrs.iter().map(|csr| key_of(csr)).collect();
    assert!(keys.len() >= 5 && keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
}

/// What a request asks to be certified.
fn key_of(csr: &str) -> String {
    use rcgen::PublicKeyData as _;
    let key = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap().public_key;
    leeway_protocol::digest::Digest::of(key.der_bytes()).hex()
}

#[test]
fn without_tls_at_the_controller_everything_is_as_it_was() {
    let (roots, listener) = (controller(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (image, director) = roots.script.lock().unwrap().roots.clone();
    let told = base.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while request(&mut stream).is_some() {
                let mqtt = json!({ "host": "127.0.0.1", "port": 1883, "username": "device-1", "password": "secret" });
                let body = json!({ "tenant": "test", "mqtt": mqtt, "http_base": told, "image_root": image, "director_root": director });
                respond(&mut stream, 200, &body.to_string());
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let ask = Enrolment { url: base.clone(), ca: None, ..roots.enrolment(dir.path()) };
    let Outcome::Enrolled(told) = enrol(&ask).unwrap() else { panic!("it has to wait") };
    assert_eq!((told.tls, told.broker.tls, told.artifacts.as_str()), (None, false, base.as_str()));
    assert!(!ask.dir.join("tls").exists() && !std::fs::read_to_string(ask.dir.join("identity.json")).unwrap().contains("tls"));
    assert!(Certificates::open(&identity(&ask.dir).unwrap(), &ask.dir).unwrap().is_none());
}

#[test]
fn the_next_certificate_is_shown_at_once_and_the_old_one_is_kept_until_it_has_worked() {
    let controller = controller();
    let (_kept, ask, identity) = enrolled(&controller);
    let mut certificates = open(&identity, &ask.dir);
    let old = certificates.shown().unwrap().document.clone();
    controller.script.lock().unwrap().mqtt["password"] = json!("second");
    let number = certificates.connections().1;
    renew(&mut certificates, &identity).unwrap();
    let new = certificates.shown().unwrap().document.clone();
    assert_ne!((&old.key, &old.chain), (&new.key, &new.chain));
    assert_eq!(certificates.way().unwrap().0.password, "second", "the last secret counts");
    // An old connection says nothing about it; a restart goes on with it, and with the old one behind it.
    certificates.worked(number);
    assert_eq!(certificates.unaccepted(number), None);
    let mut certificates = open(&identity, &ask.dir);
    assert_eq!(
        (certificates.shown().unwrap().document.clone(), certificates.current.as_ref().unwrap().document.clone()),
        (new.clone(), old)
    );
    assert!(certificates.sentence(today().read()).contains("has yet to be accepted"));
    certificates.worked(certificates.number);
    let certificates = open(&identity, &ask.dir);
    assert!(certificates.next.is_none() && certificates.current.unwrap().document == new);
}

#[test]
fn one_that_is_not_accepted_is_given_up_for_the_old_one_and_its_secret_is_kept() {
    let controller = controller();
    let (_kept, ask, identity) = enrolled(&controller);
    let mut certificates = open(&identity, &ask.dir);
    let old = certificates.shown().unwrap().clone();
    controller.script.lock().unwrap().mqtt["password"] = json!("second");
    renew(&mut certificates, &identity).unwrap();
    let number = certificates.connections().1;
    assert_eq!(certificates.unaccepted(number), Some(Some(old.certificate)));
    for certificates in [&certificates, &open(&identity, &ask.dir)] {
        let shown = certificates.shown().unwrap();
        assert_eq!((&shown.document.key, shown.document.mqtt.password.as_str()), (&old.document.key, "second"));
        assert!(certificates.next.is_none());
    }
    // There is nothing to go back to from the old one; five silent ends in a row are a refusal, and four are not.
    assert_eq!(certificates.unaccepted(certificates.number), Some(None));
    assert_eq!((0..6).map(|_| certificates.was_unanswered()).collect::<Vec<_>>(), [false, false, false, false, true, false]);
}

#[test]
fn every_way_to_get_no_certificate_is_told_apart_and_leaves_the_old_one() {
    let controller = controller();
    let (_kept, ask, identity) = enrolled(&controller);
    let mut certificates = open(&identity, &ask.dir);
    let old = certificates.shown().unwrap().document.clone();
    for (say, expected) in [(Say::Pending, "waits for Ann"), (Say::Revoked, "revoked: stolen"), (Say::Breaks, "does not answer")] {
        controller.say(say);
        let failure = renew(&mut certificates, &identity).unwrap_err();
        let said = match (say, failure) {
            (Say::Pending, RenewalFailure::Pending { sentence, retry_secs: 1 }) => sentence,
            (Say::Revoked, RenewalFailure::Revoked(sentence)) => sentence,
            (Say::Breaks, RenewalFailure::Failed(why)) => why,
            (_, failure) => panic!("{say:?}: {failure:?}"),
        };
        assert!(said.contains(expected), "{say:?}: {said}");
        assert_eq!(open(&identity, &ask.dir).shown().unwrap().document, old, "{say:?}");
    }
    // All of it lost: the device says so, and gets another one by its own key and the authority that enrolment wrote down.
    controller.say(Say::LetsIn);
    std::fs::remove_dir_all(ask.dir.join("tls")).unwrap();
    let mut certificates = open(&identity, &ask.dir);
    assert!(certificates.dates().not_after <= built_at() && certificates.sentence(today().read()).contains("is lost"));
    renew(&mut certificates, &identity).unwrap();
    assert!(certificates.next.is_none() && open(&identity, &ask.dir).current.is_some());
}

#[test]
fn another_authority_is_believed_only_if_the_controller_can_show_itself_under_it() {
    let controller = controller();
    let (_kept, ask, identity) = enrolled(&controller);
    let mut certificates = open(&identity, &ask.dir);
    controller.script.lock().unwrap().names = Some(Authority::new("nobody's").pem);
    renew(&mut certificates, &identity).unwrap();
    assert_eq!(certificates.authority(), controller.authority.pem, "it would lock the device out");
    let both = format!("{}{}", Authority::new("next").pem, controller.authority.pem);
    controller.script.lock().unwrap().names = Some(both.clone());
    renew(&mut certificates, &identity).unwrap();
    assert_eq!(certificates.authority(), both, "an old and a new one for a while");
}

/// A broker that takes anybody who comes through the handshake, or says what it is told to say.
pub(in crate::io) fn broker(
    server: &Party,
    clients: Clients<'_>,
    connack: u8,
    seen: Arc<Mutex<Vec<leeway_protocol::digest::Digest>>>,
) -> u16 {
    listen(server_config(server, clients), move |mut stream: Incoming| {
        seen.lock().unwrap().extend(shown(&stream));
        let mut packet = [0; 2048];
        while let Ok(read @ 1..) = stream.read(&mut packet) {
            let answer: Vec<u8> = match packet[0] >> 4 {
                1 => vec![0x20, 3, 0, connack, 0],
                // The packet's number follows its length, which is short here.
                8 => vec![0x90, 5, packet[2], packet[3], 0, 1, 1],
                _ => continue,
            };
            assert!(read > 3);
            drop(stream.write_all(&answer).and_then(|()| stream.flush()));
        }
    })
}

/// Connect once, and say how it went.
fn connect(identity: &Identity, certificates: &Certificates, port: u16, host: &str) -> Result<(), (String, Ended)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (to, mut from) = tokio::sync::mpsc::channel(8);
        let mut access = certificates.way().unwrap().0.clone();
        (access.host, access.port) = (host.to_owned(), port);
        let link = Link::open(identity, &access, certificates.connections().0, Vec::new(), 1, to);
        let told = tokio::time::timeout(Duration::from_secs(20), from.recv()).await.unwrap().unwrap().1;
        drop(link);
        match told {
            Told::Event(Event::Connected { .. }) => Ok(()),
            Told::Event(event) => panic!("{event:?}"),
            Told::Down(why, ended) => Err((why, ended)),
        }
    })
}

#[test]
fn the_broker_is_believed_by_the_pinned_authority_alone_and_sees_the_certificate_of_each_connection() {
    let controller = controller();
    let (_kept, ask, identity) = enrolled(&controller);
    let mut certificates = open(&identity, &ask.dir);
    let (ours, theirs) = (&controller.authority, Authority::new("ours"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let stand = |authority: &Authority, names: &[&str], years, clients, connack| {
        broker(&authority.server(names, years), clients, connack, Arc::clone(&seen))
    };
    let good = stand(ours, &["127.0.0.1"], (2020, 2090), Clients::Only(ours), 0);
    assert_eq!(connect(&identity, &certificates, good, "127.0.0.1"), Ok(()));
    let first = digest_of(&certificates.shown().unwrap().document.chain);
    renew(&mut certificates, &identity).unwrap();
    assert_eq!(connect(&identity, &certificates, good, "127.0.0.1"), Ok(()));
    let second = digest_of(&certificates.shown().unwrap().document.chain);
    assert_eq!(*seen.lock().unwrap(), [first, second], "the next connection shows the next certificate");
    assert_ne!(first, second);
    for (case, port, host, part, ends) in [
        ("theirs", stand(&theirs, &["127.0.0.1"], (2020, 2090), Clients::Anybody, 0), "127.0.0.1", "not signed by", [Ended::Otherwise; 2]),
        ("over", stand(ours, &["127.0.0.1"], (2020, 2021), Clients::Anybody, 0), "127.0.0.1", "is over by", [Ended::Otherwise; 2]),
        ("name", stand(ours, &["127.0.0.1"], (2020, 2090), Clients::Anybody, 0), "localhost", "another name", [Ended::Otherwise; 2]),
        // Its last words may be lost when it closes the line.
        (
            "stranger",
            stand(ours, &["127.0.0.1"], (2020, 2090), Clients::Only(&theirs), 0),
            "127.0.0.1",
            "",
            [Ended::Unaccepted, Ended::Unanswered],
        ),
        (
            "no entry",
            stand(ours, &["127.0.0.1"], (2020, 2090), Clients::Only(ours), 0x87),
            "127.0.0.1",
            "NotAuthorized",
            [Ended::Unaccepted; 2],
        ),
    ] {
        let (why, ended) = connect(&identity, &certificates, port, host).unwrap_err();
        assert!(why.contains(part) && ends.contains(&ended), "{case}: {why} {ended:?}");
    }
}

#[test]
fn a_disk_that_refuses_leaves_the_old_certificate_and_the_next_try_takes_the_new_one() {
    let controller = controller();
    let (_kept, ask, identity) = enrolled(&controller);
    let mut certificates = open(&identity, &ask.dir);
    let old = certificates.shown().unwrap().document.clone();
    // A directory in the way of the copy that is written first.
    let blocked = ask.dir.join("tls").join(format!("{}.next.json.new", identity.tls.as_ref().unwrap().enrolment));
    std::fs::create_dir(&blocked).unwrap();
    assert!(matches!(renew(&mut certificates, &identity), Err(RenewalFailure::Failed(why)) if why.contains("cannot be kept")));
    assert_eq!(certificates.shown().unwrap().document, old);
    std::fs::remove_dir(&blocked).unwrap();
    renew(&mut certificates, &identity).unwrap();
    let keys: Vec<String> = controller.script.lock().unwrap().csrs.iter().rev().take(2).map(|csr| key_of(csr)).collect();
    assert_eq!(keys[0], keys[1], "what was drawn for the first try serves the second");
    renew(&mut certificates, &identity).unwrap();
    assert_ne!(key_of(controller.script.lock().unwrap().csrs.last().unwrap()), keys[0], "and no third one");
}
