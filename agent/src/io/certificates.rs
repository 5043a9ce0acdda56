//! The device's certificates on its disk: the one that works, the next one until it has worked, and the keys they belong to.
//!
//! Everything lies in `tls/`. A certificate is one document with its authority and the way to the broker that came in the same
//! answer, replaced whole, so there is never half of a pair; its key is a file of its own, written before any document names it,
//! and removed after none does. Each change is a list of steps made first and carried out then, so that a test can stop after
//! each of them. What stays true: whatever the list is broken off after, the old pair or the new one is there, whole.
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use super::disk::{create, make_dir, read_bounded};
use super::tls::{TrustedTime, certificates, client};
use crate::certificate::Certificate;
use crate::identity::BrokerAccess;

/// The directory, below the data directory.
const DIR: &str = "tls";
/// A key without a certificate yet: so that an enrolment that waits for a person asks with the same one after a restart.
const DRAWN: &str = "drawn.key";
/// Ending of the copy that is written before it is renamed over the old file.
const NEW: &str = ".new";
/// The longest document: two chains and a few words.
pub(super) const MAX_DOCUMENT: u64 = 256 << 10;
/// The longest key file.
const MAX_KEY: u64 = 4 << 10;
/// Hex digits of a key's name: enough that no two of one device are alike.
const NAME_DIGITS: usize = 16;

/// A certificate with everything that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) v: u32,
    /// The name of its key.
    pub(super) key: String,
    /// The device's chain (PEM).
    pub(super) chain: String,
    /// The authority that is believed with it (PEM).
    pub(super) ca: String,
    /// When it came, by the device's trusted time.
    pub(super) obtained: Timestamp,
    /// The way to the broker, as told with it.
    pub(super) mqtt: BrokerAccess,
    /// Base address of metadata and blobs, as told with it.
    pub(super) http_base: String,
}

/// A certificate that can be shown: whole, with its key.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) document: Document,
    pub(super) certificate: Certificate,
    /// The key (PEM).
    key: String,
}

impl Pair {
    /// Put a document and its key together, if they belong together.
    pub(super) fn new(document: Document, key: String, time: &Arc<TrustedTime>) -> anyhow::Result<Self> {
        client(&document.ca, Some((&document.chain, &key)), time)?;
        let chain = certificates(&document.chain, "the device's certificate")?;
        let certificate = chain.first().and_then(|first| Certificate::from_der(first, document.obtained));
        let certificate = certificate.context("the dates of the device's certificate cannot be read")?;
        Ok(Self { document, certificate, key })
    }

    /// Connections that show it.
    pub(super) fn client(&self, time: &Arc<TrustedTime>) -> anyhow::Result<Arc<ClientConfig>> {
        Ok(client(&self.document.ca, Some((&self.document.chain, &self.key)), time)?)
    }
}

/// A key that was drawn here, and the request for a certificate over it.
#[derive(Debug)]
pub(super) struct Drawn {
    name: String,
    key: String,
    /// PKCS#10 (PEM). The names in it are empty: the controller puts in the names it knows.
    pub(super) csr: String,
}

/// The certificates of one enrolment.
#[derive(Debug, Clone)]
pub(super) struct Store {
    dir: PathBuf,
    enrolment: String,
}

/// One touch of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Write { name: String, bytes: Vec<u8> },
    Sync { name: String },
    Rename { from: String, to: String },
    Remove { name: String },
    SyncDir,
}

/// Whose certificate a document is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The one that works.
    Current,
    /// The one that has yet to work.
    Next,
}

impl Store {
    pub(super) fn open(data_dir: &Path, enrolment: &str) -> anyhow::Result<Self> {
        if enrolment.is_empty() || !enrolment.bytes().all(|b| b.is_ascii_hexdigit()) {
            bail!("the enrolment {enrolment:?} has a name that cannot be a file's");
        }
        let dir = data_dir.join(DIR);
        make_dir(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        Ok(Self { dir, enrolment: enrolment.to_owned() })
    }

    fn document(&self, place: Place) -> String {
        match place {
            Place::Current => format!("{}.json", self.enrolment),
            Place::Next => format!("{}.next.json", self.enrolment),
        }
    }

    /// What lies in a place; none if nothing does, an error if it cannot be used.
    pub(super) fn read(&self, place: Place, time: &Arc<TrustedTime>) -> anyhow::Result<Option<Pair>> {
        let name = self.document(place);
        let Some(bytes) = read_bounded(&self.dir.join(&name), MAX_DOCUMENT).with_context(|| format!("{name} cannot be read"))? else {
            return Ok(None);
        };
        let document: Document = serde_json::from_slice(&bytes).with_context(|| format!("{name} is damaged"))?;
        if document.v != 1 {
            bail!("{name} has a form that this program does not read");
        }
        let file = key_file(&document.key)?;
        let key = read_bounded(&self.dir.join(&file), MAX_KEY).with_context(|| format!("{file} cannot be read"))?;
        let key = key.and_then(|bytes| String::from_utf8(bytes).ok()).with_context(|| format!("there is no key in {file}"))?;
        Ok(Some(Pair::new(document, key, time).with_context(|| format!("{name} cannot be used"))?))
    }

    /// Keep a pair: its key first, then the document that names it. What nothing names any more goes with [`Self::clean`], which
    /// an enrolment calls only when the identity names it.
    pub(super) fn keep(&self, place: Place, pair: &Pair) -> anyhow::Result<()> {
        carry_out(&self.dir, &self.steps_to_keep(place, pair)?)
    }

    fn steps_to_keep(&self, place: Place, pair: &Pair) -> anyhow::Result<Vec<Step>> {
        let mut text = serde_json::to_string_pretty(&pair.document).context("the document has no JSON form")?;
        text.push('\n');
        let mut steps = replace(key_file(&pair.document.key)?, pair.key.clone().into_bytes());
        steps.extend(replace(self.document(place), text.into_bytes()));
        Ok(steps)
    }

    /// The next one has worked: it is the one that works now.
    pub(super) fn promote(&self) -> anyhow::Result<()> {
        let steps = [Step::Rename { from: self.document(Place::Next), to: self.document(Place::Current) }, Step::SyncDir];
        carry_out(&self.dir, &steps)?;
        self.clean()
    }

    /// The next one does not work: back to the one that did, with the way to the broker that came last.
    pub(super) fn give_up_next(&self, current: &Pair) -> anyhow::Result<()> {
        self.keep(Place::Current, current)?;
        carry_out(&self.dir, &[Step::Remove { name: self.document(Place::Next) }, Step::SyncDir])?;
        self.clean()
    }

    /// Remove what no document of this enrolment names: keys of earlier certificates, copies that a power cut left, and whatever
    /// earlier enrolments kept here. A key that was drawn goes as soon as it has a certificate, and not before.
    pub(super) fn clean(&self) -> anyhow::Result<()> {
        let shown = "the directory of certificates cannot be read";
        let (mut kept, mut keys) = (vec![DRAWN.to_owned(), format!("{DRAWN}{NEW}")], Vec::new());
        for place in [Place::Current, Place::Next] {
            let name = self.document(place);
            if let Some(bytes) = read_bounded(&self.dir.join(&name), MAX_DOCUMENT).with_context(|| format!("{name} cannot be read"))? {
                // Of one that is damaged it is not known which key it names: nothing is removed for its sake.
                let named = serde_json::from_slice::<Document>(&bytes).ok().and_then(|document| key_file(&document.key).ok());
                let Some(key) = named else { return Ok(()) };
                keys.extend(read_bounded(&self.dir.join(&key), MAX_KEY).ok().flatten());
                kept.extend([name, key]);
            }
        }
        let drawn = read_bounded(&self.dir.join(DRAWN), MAX_KEY).ok().flatten();
        if drawn.is_some_and(|drawn| keys.contains(&drawn)) {
            kept.retain(|name| name != DRAWN);
        }
        let mut steps = Vec::new();
        for entry in fs::read_dir(&self.dir).context(shown)? {
            if let Ok(name) = entry.context(shown)?.file_name().into_string()
                && !kept.contains(&name)
            {
                steps.push(Step::Remove { name });
            }
        }
        steps.push(Step::SyncDir);
        carry_out(&self.dir, &steps)
    }
}

fn key_file(name: &str) -> anyhow::Result<String> {
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        bail!("the key {name:?} has a name that cannot be a file's");
    }
    Ok(format!("{name}.key"))
}

/// Replace a file whole: a new copy, synced, renamed, directory synced.
fn replace(name: String, bytes: Vec<u8>) -> Vec<Step> {
    let new = format!("{name}{NEW}");
    vec![Step::Write { name: new.clone(), bytes }, Step::Sync { name: new.clone() }, Step::Rename { from: new, to: name }, Step::SyncDir]
}

fn carry_out(dir: &Path, steps: &[Step]) -> anyhow::Result<()> {
    for step in steps {
        let done = match step {
            Step::Write { name, bytes } => create(&dir.join(name)).and_then(|mut file| file.write_all(bytes)),
            Step::Sync { name } => fs::OpenOptions::new().write(true).open(dir.join(name)).and_then(|file| file.sync_all()),
            Step::Rename { from, to } => fs::rename(dir.join(from), dir.join(to)),
            Step::Remove { name } => match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                done => done,
            },
            Step::SyncDir => File::open(dir).and_then(|dir| dir.sync_all()),
        };
        if let Err(error) = done {
            let what = match step {
                Step::Write { name, .. } | Step::Sync { name } | Step::Remove { name } | Step::Rename { to: name, .. } => name,
                Step::SyncDir => ".",
            };
            return Err(error).with_context(|| format!("{} cannot be kept", dir.join(what).display()));
        }
    }
    Ok(())
}

/// A new P-256 key and a request for a certificate over it; the key of an attempt that was broken off is used on.
pub(super) fn draw(data_dir: &Path) -> anyhow::Result<Drawn> {
    let dir = data_dir.join(DIR);
    make_dir(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let left = read_bounded(&dir.join(DRAWN), MAX_KEY).ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
    // One that was torn is drawn anew: nothing was said about it yet.
    let key = match left.and_then(|pem| KeyPair::from_pem(&pem).ok()).filter(|key| key.algorithm() == &PKCS_ECDSA_P256_SHA256) {
        Some(key) => key,
        None => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("no TLS key could be drawn")?;
            carry_out(&dir, &replace(DRAWN.to_owned(), key.serialize_pem().into_bytes()))?;
            key
        }
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key).and_then(|csr| csr.pem()).context("no request for a certificate could be made")?;
    let name: String = Digest::of(key.public_key_raw()).hex().chars().take(NAME_DIGITS).collect();
    Ok(Drawn { name, key: key.serialize_pem(), csr })
}

/// The device is enrolled where no TLS is spoken: what was drawn, and whatever an earlier enrolment left, is of no use.
pub(super) fn forget(data_dir: &Path) {
    drop(fs::remove_dir_all(data_dir.join(DIR)));
}

impl Drawn {
    /// The name of a first certificate's key is also the enrolment's.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What came for this key.
    pub(super) fn with(
        &self,
        (ca, chain): (String, String),
        access: (BrokerAccess, String),
        time: &Arc<TrustedTime>,
    ) -> anyhow::Result<Pair> {
        let (mqtt, http_base) = access;
        let document = Document { v: 1, key: self.name.clone(), chain, ca, obtained: time.read(), mqtt, http_base };
        Pair::new(document, self.key.clone(), time).context("the certificate that the controller gave cannot be used")
    }
}

#[cfg(test)]
mod tests;
