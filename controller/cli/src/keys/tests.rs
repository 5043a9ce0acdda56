//! The life of a fleet's keys, through files only.
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use clap::Parser as _;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;
use leeway_protocol::manifest::{Blob, TargetCustom};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::metadata::{Document, Root, Targets};
use leeway_protocol::trust::repository::{Lifetimes, OnlineSigner, RepositoryState, RoleBuilder};

use super::*;

#[derive(clap::Parser)]
struct Program {
    #[command(subcommand)]
    command: Keys,
}

/// A folder with the keys of a fleet, and commands in it.
struct Desk {
    dir: tempfile::TempDir,
    now: Timestamp,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap(), now: Timestamp::from_secs(1_795_000_000) };
        desk.ok("init --out k --line rain");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Run a command line; words with a dot or a slash, and what follows --out, are files of this desk.
    fn run(&self, line: &str) -> Outcome {
        let is_file = |word: &str| word.contains(['/', '.']) || word == "k";
        let word = |word: &str| if is_file(word) { self.path(word).display().to_string() } else { word.to_owned() };
        let words = std::iter::once("keys".to_owned()).chain(line.split_whitespace().map(word));
        let program = Program::try_parse_from(words).map_err(|e| Failure::new(e.to_string()).code(2))?;
        run(&program.command, self.now)
    }

    fn ok(&self, line: &str) {
        self.run(line).unwrap_or_else(|f| panic!("{line}: {}", f.whole()));
    }

    fn fails(&self, line: &str, with: &str) {
        let failure = self.run(line).expect_err(line).whole();
        assert!(failure.contains(with), "{line}: {failure}");
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn key(&self, name: &str) -> SigningKey {
        read_key(&self.path(name)).unwrap()
    }

    fn shown(&self, file: &str, by: Option<&str>) -> (String, bool) {
        let any = |name: &str| document::Any::open(&self.path(name)).unwrap();
        show::describe(&any(file), by.map(any).as_ref(), None, self.now).unwrap()
    }

    fn signer(&self, folder: &str) -> OnlineSigner {
        let key = |name: &str| self.key(&format!("{folder}/{name}.key"));
        OnlineSigner { snapshot: key("snapshot"), timestamp: key("timestamp"), director: key("director"), lifetimes: Lifetimes::default() }
    }

    /// A controller that was handed the first documents.
    fn repository(&self) -> RepositoryState {
        self.repository_at(self.now)
    }

    fn repository_at(&self, at: Timestamp) -> RepositoryState {
        let (root, targets) = (self.bytes("k/controller/1.root.json"), self.bytes("k/controller/1.targets.json"));
        RepositoryState::create(&root, &targets, &self.signer("k/controller"), at).unwrap()
    }
}

fn policy(bytes: &[u8]) -> leeway_protocol::trust::metadata::LinePolicy {
    let document = Document::<Targets>::parse(bytes, 1 << 20).unwrap();
    document.claims().policy().unwrap().lines[&"rain".parse::<Line>().unwrap()].clone()
}

#[test]
fn keys_are_kept_apart_private_and_never_overwritten() {
    let desk = Desk::new();
    let names = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(desk.path("k").join(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let documents = ["1.root.json", "1.targets.json", "director.1.root.json"];
    assert_eq!(names("repository"), documents);
    assert_eq!(names("controller"), [&documents[..], &["director.key", "snapshot.key", "timestamp.key"]].concat());
    let mode = |name: &str| fs::metadata(desk.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("k/release/rain.key"), 0o600);
    desk.fails("init --out k --line rain", "exists");
    desk.ok("new --role root-4 --out root-4.key");
    assert_eq!(mode("root-4.key"), 0o600);
    let public = String::from_utf8(desk.bytes("root-4.pub")).unwrap();
    assert!(public.contains(&desk.key("root-4.key").public().hex()) && !public.contains("private"), "{public}");
    for (line, why) in [
        ("new --role root-4 --out root-4.key", "exists"),
        ("new --role x --out y.pub", "name it .key"),
        ("new --role a/b --out c.key", "no name for a key"),
    ] {
        desk.fails(line, why);
    }
    let before = desk.bytes("root-4.key");
    fs::remove_file(desk.path("root-4.pub")).unwrap();
    desk.fails("new --role root-4 --out root-4.key", "exists");
    assert!(desk.bytes("root-4.key") == before && !desk.path("root-4.pub").exists(), "no half of a pair is left behind");
}

#[test]
fn people_who_sit_apart_sign_one_after_the_other() {
    let desk = Desk::new();
    let targets = "k/repository/1.targets.json";
    desk.ok(&format!("raise-floor --line rain --min-seq 3 --targets {targets} --out a.json"));
    let (text, good) = desk.shown("a.json", Some("k/repository/1.root.json"));
    assert!(!good && text.contains("version 2") && text.contains("2 signatures are missing") && text.contains("floor 3"), "{text}");
    desk.ok("sign a.json --key k/offline/targets-2.key --out b.json --by k/repository/1.root.json");
    let (text, good) = desk.shown("b.json", Some("k/repository/1.root.json"));
    assert!(!good && text.contains("1 of 2") && text.contains("1 signature is missing"), "{text}");
    desk.ok("sign b.json --key k/offline/targets-3.key --out c.json --by k/repository/1.root.json");
    let (text, good) = desk.shown("c.json", Some("k/repository/1.root.json"));
    assert!(good && text.contains("2 of 2"), "{text}");
    desk.repository().accept_targets(&desk.bytes("c.json"), &desk.signer("k/controller"), desk.now).unwrap();
    desk.ok("show c.json --check --by k/repository/1.root.json");
    for (line, why) in [
        ("sign b.json --key k/offline/targets-3.key --out c.json", "exists"),
        ("sign b.json --key k/offline/targets-2.key --out d.json --by k/repository/1.root.json", "signed this already"),
        ("sign b.json --key k/offline/targets-2.key --out d.json", "signed this already"),
        ("sign b.json --key k/offline/root-1.key --out d.json --by k/repository/1.root.json", "would count for nothing"),
        ("sign b.json --key k/release/none.key --out d.json", "No such file"),
        ("sign k/offline/root-1.key --key k/offline/root-1.key --out d.json", "no signed document"),
        ("show b.json --check --by k/repository/1.root.json", "would not be believed"),
        ("show b.json --by k/repository/1.targets.json", "--role"),
    ] {
        desk.fails(line, why);
    }
    assert!(!desk.path("d.json").exists());
    let late = Desk { now: desk.now.plus_secs(400 * 86_400), ..desk };
    late.fails("sign b.json --key k/offline/targets-3.key --out d.json --by k/repository/1.root.json", "renew");
    assert!(late.shown("c.json", None).0.contains("expired"));
}

#[test]
fn a_root_key_is_replaced_by_old_and_new_thresholds_in_both_repositories() {
    let desk = Desk::new();
    desk.ok("new --role root-4 --out root-4.key");
    for (name, old) in [("image", "k/repository/1.root.json"), ("director", "k/repository/director.1.root.json")] {
        let change = "--role root --drop k/offline/root-1.key --add root-4.pub";
        desk.ok(&format!("rotate --root {old} {change} --key k/offline/root-2.key --out {name}.a.json"));
        let (text, good) = desk.shown(&format!("{name}.a.json"), Some(old));
        assert!(!good && text.contains("the previous root keys: 1 of 2") && text.contains("the new root keys: 1 of 2"), "{text}");
        // The new key counts for the new threshold, and the one that leaves still for the old.
        desk.ok(&format!("sign {name}.a.json --key root-4.key --out {name}.b.json --by {old}"));
        let (text, good) = desk.shown(&format!("{name}.b.json"), Some(old));
        assert!(!good && text.contains("the previous root keys: 1 of 2") && text.contains("the new root keys: 2 of 2"), "{text}");
        desk.ok(&format!("sign {name}.b.json --key k/offline/root-1.key --out {name}.c.json --by {old}"));
        assert!(desk.shown(&format!("{name}.c.json"), Some(old)).1);
        assert!(!desk.shown(&format!("{name}.c.json"), None).1, "without the previous root nothing is proven");
        desk.fails(&format!("sign {name}.a.json --key k/offline/root-1.key --out {name}.x.json"), "--by");
    }
    desk.fails("show director.c.json --by k/repository/1.root.json", "the other is the director's");
    desk.repository().accept_root(&desk.bytes("image.c.json"), &desk.signer("k/controller"), desk.now).unwrap();
    assert!(desk.repository().accept_root(&desk.bytes("image.b.json"), &desk.signer("k/controller"), desk.now).is_err());
    let mut chain = leeway_protocol::trust::tuf::RootChain::new(&desk.bytes("k/repository/director.1.root.json"), None).unwrap();
    chain.provide(&desk.bytes("director.c.json")).unwrap();
}

#[test]
fn online_keys_and_targets_keys_are_replaced_by_a_root() {
    let mut desk = Desk::new();
    for role in ["snapshot", "timestamp", "director", "targets-4", "targets-5"] {
        desk.ok(&format!("new --role {role} --out n/{role}.key"));
    }
    let people = "--key k/offline/root-1.key --key k/offline/root-3.key";
    let old = "k/controller";
    desk.ok(&format!(
        "rotate --root {old}/1.root.json --role timestamp --drop {old}/timestamp.key --add n/timestamp.pub {people} --out 2.root.json"
    ));
    desk.ok(&format!(
        "rotate --root 2.root.json --role snapshot --drop {old}/snapshot.key --add n/snapshot.pub {people} --out 3.root.json"
    ));
    desk.ok(&format!(
        "rotate --root 3.root.json --role targets --drop k/offline/targets-1.key --drop k/offline/targets-2.key --add n/targets-4.pub \
         --add n/targets-5.pub {people} --out 4.root.json"
    ));
    let mut repository = desk.repository();
    let both = OnlineSigner { timestamp: desk.key("n/timestamp.key"), ..desk.signer(old) };
    repository.accept_root(&desk.bytes("2.root.json"), &both, desk.now).unwrap();
    let signer = desk.signer("n");
    repository.accept_root(&desk.bytes("3.root.json"), &signer, desk.now).unwrap();
    assert!(repository.accept_root(&desk.bytes("4.root.json"), &signer, desk.now).is_err(), "the served targets would count for nothing");
    desk.now = desk.now.plus_secs(86_400);
    desk.ok("renew k/repository/1.targets.json --key n/targets-4.key --key n/targets-5.key --by 4.root.json --out 2.targets.json");
    assert!(desk.shown("2.targets.json", Some("4.root.json")).1);
    repository.accept_root_with(&desk.bytes("4.root.json"), Some(&desk.bytes("2.targets.json")), &signer, desk.now).unwrap();
    assert_eq!((repository.contents().versions().root, repository.contents().versions().targets), (4, 2));

    desk.ok(&format!(
        "rotate --root {old}/director.1.root.json --role director --drop {old}/director.key --add n/director.pub {people} --out d.2.root.json"
    ));
    let root = Document::<Root>::parse(&desk.bytes("d.2.root.json"), 1 << 20).unwrap();
    for role in ["targets", "snapshot", "timestamp"] {
        assert!(root.claims().keys_of(role).contains(&desk.key("n/director.key").public()), "{role}");
    }
    assert!(is_director(root.claims()) && desk.shown("d.2.root.json", Some("k/controller/director.1.root.json")).1);
}

#[test]
fn a_rotation_that_makes_no_sense_is_refused() {
    let desk = Desk::new();
    desk.ok("new --role extra --out extra.key");
    let rotate = "rotate --root k/repository/1.root.json --out x.json";
    let directors = "rotate --root k/repository/director.1.root.json --out x.json";
    for (line, why) in [
        (format!("{rotate} --role root"), "nothing changes"),
        (format!("{rotate} --role root --drop extra.key"), "not among the keys"),
        (format!("{rotate} --role root --drop 0123456789ab"), "names no single key"),
        (format!("{rotate} --role root --add k/offline/root-2.key"), "listed already"),
        (format!("{rotate} --role root --drop k/offline/root-1.key --drop k/offline/root-2.key"), "can never give 2"),
        (format!("{rotate} --role root --threshold 4"), "can never give 4"),
        (format!("{rotate} --role timestamp --add k/offline/root-2.key"), "signs for root already"),
        (format!("{rotate} --role root --add extra.pub --key k/offline/targets-1.key"), "would count for nothing"),
        (format!("{rotate} --role director --add extra.pub"), "names no director"),
        (format!("{directors} --role targets --add extra.pub"), "--role director"),
        ("rotate --root k/repository/1.targets.json --role root --add extra.pub --out x.json".to_owned(), "is not a root"),
        (format!("{rotate} --role root --add k/repository/1.root.json"), "is no key"),
    ] {
        desk.fails(&line, why);
    }
    assert!(!desk.path("x.json").exists());
    // A key may also be named by the beginning of its id.
    let id: String = desk.key("k/offline/root-1.key").public().key_id().0.chars().take(10).collect();
    desk.ok(&format!("{rotate} --role root --drop {id} --add extra.pub"));
}

#[test]
fn lines_begin_change_their_keys_and_are_walled_off_by_the_targets_keys() {
    let desk = Desk::new();
    for name in ["wind", "wind-auto", "rain-2", "rain-auto-2"] {
        desk.ok(&format!("new --role {name} --out n/{name}.key"));
    }
    let people = "--key k/offline/targets-1.key --key k/offline/targets-2.key --root k/repository/1.root.json";
    let edit = |command: &str, from: u32| format!("{command} --targets {from}.t.json {people} --out {}.t.json", from + 1);
    fs::copy(desk.path("k/repository/1.targets.json"), desk.path("1.t.json")).unwrap();
    let mut repository = desk.repository();
    let signer = desk.signer("k/controller");
    let custom = |line: &str, seq| TargetCustom {
        v: 1,
        line: line.parse().unwrap(),
        version: format!("1.{seq}.0").parse().unwrap(),
        seq,
        manifest: Blob::of(b"manifest"),
        io: Digest::of(b"io"),
        provenance: None,
        bundle: None,
    };
    let until = desk.now.plus_secs(1_000);
    let first = RoleBuilder::new(false, until).add(&Blob::of(b"r"), &custom("rain", 1)).sign(&[&desk.key("k/release/rain.key")]).unwrap();
    repository.accept_role("rain", &first, &signer, desk.now).unwrap();
    fs::write(desk.path("1.rain.json"), &first).unwrap();

    desk.ok(&edit("add-line --line wind --release n/wind.pub --trainer n/wind-auto.pub", 1));
    desk.ok(&edit("rotate-line --line rain --drop k/release/rain.key --add n/rain-2.pub", 2));
    desk.ok(&edit("rotate-line --line rain --trainer --drop k/trainer/rain-auto.key --add n/rain-auto-2.pub", 3));
    let io = Digest::of(b"io");
    desk.ok(&edit(&format!("grant-trainer --line rain --io {io}"), 4));
    desk.ok(&edit(&format!("revoke-model --line rain --model {}", Digest::of(b"bad")), 5));
    desk.ok(&edit("raise-floor --line rain --min-seq 7", 6));
    for version in 2..=7 {
        assert!(desk.shown(&format!("{version}.t.json"), Some("k/repository/1.root.json")).1, "{version}");
        repository.accept_targets(&desk.bytes(&format!("{version}.t.json")), &signer, desk.now).unwrap();
    }
    let rain = policy(&desk.bytes("7.t.json"));
    assert!(rain.min_seq == 7 && rain.is_revoked(&Digest::of(b"bad")));
    assert_eq!(rain.trainer.as_ref().map(|grant| grant.io), Some(io));
    // The new line releases; the old key of rain does not any more, and the new one signs its releases again.
    let wind = RoleBuilder::new(false, until).add(&Blob::of(b"w"), &custom("wind", 1)).sign(&[&desk.key("n/wind.key")]).unwrap();
    repository.accept_role("wind", &wind, &signer, desk.now).unwrap();
    desk.ok("renew 1.rain.json --key k/release/rain.key --by 7.t.json --out old.rain.json");
    assert!(repository.accept_role("rain", &desk.bytes("old.rain.json"), &signer, desk.now).is_err());
    desk.ok("renew 1.rain.json --key n/rain-2.key --by 7.t.json --out 2.rain.json --days 30");
    assert!(desk.shown("2.rain.json", Some("7.t.json")).1 && desk.shown("2.rain.json", Some("7.t.json")).0.contains("30 days"));
    repository.accept_role("rain", &desk.bytes("2.rain.json"), &signer, desk.now).unwrap();
    desk.ok(&edit("revoke-trainer --line rain", 7));
    assert_eq!(policy(&desk.bytes("8.t.json")).trainer, None);
    for (line, why) in [
        ("raise-floor --line rain --min-seq 7", "is 7 already"),
        ("raise-floor --line snow --min-seq 7", "no line snow: the lines are rain, wind"),
        ("add-line --line wind --release n/rain-2.pub", "a line wind already"),
        ("add-line --line snow --release n/wind.pub --threshold 2", "can never give 2"),
        ("add-line --line snow --release n/wind.pub --trainer n/wind.pub", "without a person"),
        ("rotate-line --line rain --add n/rain-2.pub", "listed already"),
        ("rotate-line --line wind --add n/wind-auto.pub", "signs for wind-auto already"),
        ("revoke-trainer --line snow", "no line snow"),
    ] {
        desk.fails(&format!("{line} --targets 7.t.json {people} --out x.json"), why);
    }
    desk.fails(&format!("grant-trainer --line rain --io {io} --targets 8.t.json {people} --out x.json"), "has no trainer");
    desk.fails(&format!("raise-floor --line rain --min-seq 9 --targets 2.rain.json {people} --out x.json"), "names the lines");
}

#[test]
fn what_is_about_to_expire_is_signed_once_more() {
    let mut desk = Desk::new();
    desk.now = desk.now.plus_secs(80 * 86_400);
    desk.ok("renew k/repository/1.root.json --key k/offline/root-1.key --key k/offline/root-2.key --out 2.root.json");
    let (text, good) = desk.shown("2.root.json", Some("k/repository/1.root.json"));
    assert!(good && text.contains("version 2") && text.contains("365 days"), "{text}");
    desk.ok("renew k/repository/1.targets.json --key k/offline/targets-1.key --out 2.targets.json");
    let (text, good) = desk.shown("2.targets.json", Some("2.root.json"));
    assert!(!good && text.contains("1 signature is missing") && text.contains("90 days"), "{text}");
    desk.fails("renew k/repository/1.root.json --out 2.root.json", "exists");
    desk.fails("renew k/repository/1.root.json --out x.json --days 100000", "100000");
    let repository = desk.repository_at(desk.now.plus_secs(-80 * 86_400));
    fs::write(desk.path("t.json"), repository.file("timestamp.json").unwrap()).unwrap();
    desk.fails("renew t.json --out x.json", "by the controller");
    assert!(desk.shown("t.json", Some("k/repository/1.root.json")).0.contains("timestamp, version 1"));
}

#[test]
fn a_grant_is_a_new_version_signed_by_two() {
    let desk = Desk::new();
    let line: Line = "rain".parse().unwrap();
    let (one, three) = (desk.key("k/offline/targets-1.key"), desk.key("k/offline/targets-3.key"));
    let current = desk.bytes("k/repository/1.targets.json");
    let bytes = next_targets(&current, &[&one, &three], desk.now, |t| t.grant_trainer(&line, Digest::of(b"io"))).unwrap();
    assert_eq!(Document::<Targets>::parse(&bytes, 1 << 20).unwrap().version(), 2);
    assert_eq!(policy(&bytes).trainer.map(|grant| grant.io), Some(Digest::of(b"io")));
}
