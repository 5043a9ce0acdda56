//! A repository that publishes anything, also what no honest one would, and a reader with a disk that notes what it asked for.
//!
//! [`World`] goes through the front door, which refuses to sign nonsense; what an attacker or another tool may publish is made
//! here, without any check.
use std::rc::Rc;

use super::*;
use crate::trust::canonical;
use crate::trust::keyring::KeyId;
use crate::trust::metadata::{Header, TargetMeta};

/// A key and its hand: what it writes under a message, as hex. An impostor's hand writes something else.
#[derive(Clone)]
pub(super) struct Pen {
    pub(super) id: KeyId,
    pub(super) key: Key,
    pub(super) hand: Rc<dyn Fn(&[u8]) -> String>,
}

impl Pen {
    pub(super) fn ed25519(seed: u8) -> Self {
        let key = spare(seed);
        Self { id: key.public().key_id(), key: Key::of(&key.public()), hand: Rc::new(move |message| key.sign(message).hex()) }
    }

    /// The id that belongs to the key object as it is now.
    pub(super) fn named_again(mut self) -> Self {
        let object = serde_json::to_value(&self.key).unwrap();
        self.id = KeyId(Digest::of(&canonical::to_bytes(&object).unwrap()).hex());
        self
    }

    pub(super) fn writing(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        self.hand = Rc::new(move |_| text.clone());
        self
    }
}

/// One repository. Change its parts, then publish them.
#[derive(Clone)]
pub(super) struct Publisher {
    pub(super) root: Root,
    pub(super) timestamp: TimestampMeta,
    pub(super) snapshot: SnapshotMeta,
    /// The top-level targets and every delegated role.
    pub(super) roles: BTreeMap<String, Targets>,
    /// Who signs for a role, whoever may.
    pub(super) pens: BTreeMap<String, Vec<Pen>>,
    /// What it serves.
    pub(super) files: Files,
    /// Whether parents list lengths and digests.
    pub(super) digests: bool,
    seeds: u8,
}

impl Publisher {
    /// Every role with one key of its own, and published once.
    pub(super) fn new() -> Self {
        let later = now().plus_secs(30 * DAY_SECS);
        let (rest, meta) = (serde_json::Map::new(), BTreeMap::new());
        let head = |kind| Header::new(kind, 0, later);
        let mut new = Self {
            root: Root {
                header: head("root"),
                consistent_snapshot: true,
                keys: BTreeMap::new(),
                roles: BTreeMap::new(),
                rest: rest.clone(),
            },
            timestamp: TimestampMeta { header: head("timestamp"), meta: meta.clone(), rest: rest.clone() },
            snapshot: SnapshotMeta { header: head("snapshot"), meta, rest },
            roles: BTreeMap::from([("targets".to_owned(), Targets::new(0, later))]),
            pens: BTreeMap::new(),
            files: Files::new(),
            digests: false,
            seeds: 0,
        };
        for role in metadata::TOP_LEVEL {
            let pen = new.pen();
            new.appoint(role, std::slice::from_ref(&pen), 1);
        }
        new.publish(&["root", "targets", "snapshot", "timestamp"]);
        new
    }

    /// A key that nothing lists yet.
    pub(super) fn pen(&mut self) -> Pen {
        self.seeds += 1;
        Pen::ed25519(self.seeds)
    }

    /// These keys and no others speak for a top-level role, and all of them sign.
    pub(super) fn appoint(&mut self, role: &str, pens: &[Pen], threshold: u32) {
        self.root.keys.extend(pens.iter().map(|pen| (pen.id.clone(), pen.key.clone())));
        let keyids = pens.iter().map(|pen| pen.id.clone()).collect();
        self.root.roles.insert(role.to_owned(), RoleKeys { keyids, threshold });
        self.pens.insert(role.to_owned(), pens.to_vec());
    }

    /// A new key in the place of all others.
    pub(super) fn rotate(&mut self, role: &str) {
        let pen = self.pen();
        self.appoint(role, &[pen], 1);
    }

    pub(super) fn header(&mut self, role: &str) -> &mut Header {
        match role {
            "root" => &mut self.root.header,
            "timestamp" => &mut self.timestamp.header,
            "snapshot" => &mut self.snapshot.header,
            role => &mut self.roles.get_mut(role).unwrap().header,
        }
    }

    pub(super) fn targets(&mut self) -> &mut Targets {
        self.roles.get_mut("targets").unwrap()
    }

    /// List a file in a role.
    pub(super) fn list(&mut self, role: &str, path: &str, content: &[u8]) {
        let target = TargetMeta::new(Digest::of(content), content.len() as u64, None);
        self.roles.get_mut(role).unwrap().targets.insert(path.to_owned(), target);
    }

    /// Let `role` speak for `paths`, by the word of `from`, with a key of this delegation's own.
    pub(super) fn delegate(&mut self, from: &str, role: &str, paths: &[&str], terminating: bool) -> Pen {
        let pen = self.pen();
        let empty = Targets::new(0, self.root.header.expires.moment());
        self.roles.entry(role.to_owned()).or_insert(empty);
        self.pens.entry(role.to_owned()).or_default().push(pen.clone());
        let nothing = || Delegations { keys: BTreeMap::new(), roles: Vec::new(), rest: serde_json::Map::new() };
        let delegations = self.roles.get_mut(from).unwrap().delegations.get_or_insert_with(nothing);
        delegations.keys.insert(pen.id.clone(), pen.key.clone());
        delegations.roles.push(DelegatedRole {
            name: role.to_owned(),
            keys: RoleKeys { keyids: vec![pen.id.clone()], threshold: 1 },
            terminating,
            paths: Some(paths.iter().map(|path| (*path).to_owned()).collect()),
            path_hash_prefixes: None,
        });
        pen
    }

    /// Publish the next version of each of these, in this order.
    pub(super) fn publish(&mut self, roles: &[&str]) {
        for role in roles {
            self.header(role).version += 1;
            let version = self.header(role).version;
            self.serve(role, version);
        }
    }

    /// Everything but the root.
    pub(super) fn publish_targets(&mut self) {
        self.publish(&["targets", "snapshot", "timestamp"]);
    }

    /// Sign a role as it is and serve it under `version`, whatever version it says.
    pub(super) fn serve(&mut self, role: &str, version: u64) {
        let bytes = sealed(self.value(role), &self.pens[role]);
        let file = if role == "timestamp" { "timestamp.json".to_owned() } else { versioned_name(role, version) };
        let mut meta = FileMeta::of(version, &bytes);
        if !self.digests {
            (meta.length, meta.hashes) = (None, None);
        }
        match role {
            "root" | "timestamp" => {}
            "snapshot" => drop(self.timestamp.meta.insert("snapshot.json".to_owned(), meta)),
            role => drop(self.snapshot.meta.insert(format!("{role}.json"), meta)),
        }
        self.files.insert(file, bytes);
    }

    pub(super) fn value(&self, role: &str) -> Value {
        match role {
            "root" => serde_json::to_value(&self.root),
            "timestamp" => serde_json::to_value(&self.timestamp),
            "snapshot" => serde_json::to_value(&self.snapshot),
            role => serde_json::to_value(&self.roles[role]),
        }
        .unwrap()
    }

    /// Change a published file: its `signed` part, its signatures, anything.
    pub(super) fn tamper(&mut self, file: &str, edit: impl FnOnce(&mut Value)) {
        let bytes = self.files.get_mut(file).unwrap();
        let mut value = serde_json::from_slice(bytes).unwrap();
        edit(&mut value);
        *bytes = serde_json::to_vec(&value).unwrap();
    }

    /// Begin again before version 1.
    pub(super) fn rewind(&mut self, role: &str) {
        self.header(role).version = 0;
        self.files.retain(|file, _| !file.ends_with(&format!(".{role}.json")));
    }
}

/// A signed document, whatever is in it.
pub(super) fn sealed(signed: Value, pens: &[Pen]) -> Vec<u8> {
    let message = canonical::to_bytes(&signed).unwrap();
    let signature = |pen: &Pen| serde_json::json!({ "keyid": pen.id, "sig": (pen.hand)(&message) });
    serde_json::to_vec(&serde_json::json!({ "signatures": pens.iter().map(signature).collect::<Vec<_>>(), "signed": signed })).unwrap()
}

/// One device: what is durable, and what it asked the repository for.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) disk: Stored,
    pub(super) asked: Vec<String>,
}

impl Reader {
    /// With the repository's first root and nothing else.
    pub(super) fn of(publisher: &Publisher) -> Self {
        let mut disk = Stored::default();
        disk.insert("root.json", publisher.files["1.root.json"].clone());
        Self { disk, asked: Vec::new() }
    }

    pub(super) fn refresh(&mut self, from: &Publisher) -> Result<(), TufError> {
        self.refresh_at(from, now())
    }

    pub(super) fn refresh_at(&mut self, from: &Publisher, at: Timestamp) -> Result<(), TufError> {
        self.start(at).and_then(|mut client| self.run(&mut client, from))
    }

    /// The whole way to each of these paths, in one run.
    pub(super) fn find(&mut self, from: &Publisher, paths: &[&str]) -> Vec<Result<Option<ListedTarget>, TufError>> {
        let mut client = self.start(now()).unwrap();
        let mut find = |path: &&str| {
            client.only_for(path);
            self.run(&mut client, from)?;
            client.listed(path)
        };
        paths.iter().map(&mut find).collect()
    }

    fn start(&mut self, at: Timestamp) -> Result<Client, TufError> {
        self.asked.clear();
        let mut client = Client::new(self.disk.file("root.json").unwrap(), self.disk.clone(), at)?;
        client.on_demand();
        Ok(client)
    }

    fn run(&mut self, client: &mut Client, from: &Publisher) -> Result<(), TufError> {
        while let Step::Need { file, max_len, .. } = client.next() {
            self.asked.push(file.clone());
            let bytes = from.files.get(&file).map(|bytes| &bytes[..bytes.len().min(usize::try_from(max_len).unwrap() + 1)]);
            for Persist { file, bytes } in client.provide(&file, bytes)? {
                self.disk.insert(file, bytes);
            }
        }
        Ok(())
    }

    /// What is durable, as `role version` in order of names.
    pub(super) fn keeps(&self) -> String {
        let version = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap()["signed"]["version"].as_u64().unwrap();
        let all: Vec<_> = self.disk.iter().map(|(name, bytes)| format!("{} {}", name.trim_end_matches(".json"), version(bytes))).collect();
        all.join(", ")
    }
}

/// The name of an error, for tables.
pub(super) fn kind(result: Result<(), TufError>) -> String {
    match result {
        Ok(()) => "fine".to_owned(),
        Err(error) => format!("{error:?}").split([' ', '{', '(']).next().unwrap().to_owned(),
    }
}
