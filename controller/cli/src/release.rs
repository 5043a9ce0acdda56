//! Publishing a release: check what is there, add one target, sign, upload. Used by people, by the trainer and by the demo.
//!
//! The release machine does not trust the controller: it walks the metadata from its own copy of the root, and signs on top of a
//! role document only after the signatures above it verified. The controller checks the upload as a device would.
use leeway_protocol::manifest::{Blob, Manifest, TargetCustom};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::repository::{Lifetimes, RoleBuilder, release_role, trainer_role};
use leeway_protocol::trust::tuf;

use crate::client::Client;
use crate::failure::{During, Failure, Outcome};

/// The most metadata files one walk may ask for: the root chain, three roles and the delegations.
const MAX_STEPS: usize = 1024;

/// The current metadata of a controller, verified from `root`.
pub fn walk(client: &Client, root: &[u8], now: Timestamp) -> Outcome<tuf::Client> {
    let mut tuf = tuf::Client::new(root, tuf::Stored::default(), now).during("reading the root of trust")?;
    for _ in 0..MAX_STEPS {
        let tuf::Step::Need { file, .. } = tuf.next() else { return Ok(tuf) };
        let bytes = client.fetch(&format!("/tuf/{file}"))?;
        tuf.provide(&file, bytes.as_deref()).during(format!("checking the controller's {file}"))?;
    }
    Err(Failure::new("the controller's metadata does not come to an end"))
}

/// The number the next release of the manifest's line must have.
pub fn next_seq(tuf: &tuf::Client, manifest: &Manifest) -> u64 {
    let roles = [release_role(&manifest.line), trainer_role(&manifest.line)];
    let newest =
        roles.iter().filter_map(|role| tuf.role(role)).map(|document| leeway_protocol::trust::repository::max_seq(document.claims()));
    newest.max().unwrap_or(0) + 1
}

/// A published release.
#[derive(Debug, Clone)]
pub struct Published {
    /// The manifest as it was signed, with its sequence number.
    pub manifest: Manifest,
    /// The manifest's address.
    pub blob: Blob,
}

/// Publish `model` with `manifest` (its `seq` is set here): `auto` with the trainer's key, otherwise with the release key.
pub fn publish(
    client: &Client,
    root: &[u8],
    key: &SigningKey,
    auto: bool,
    model: &[u8],
    manifest: &Manifest,
    now: Timestamp,
) -> Outcome<Published> {
    let tuf = walk(client, root, now)?;
    let manifest = Manifest { seq: next_seq(&tuf, manifest), model: Blob::of(model), ..manifest.clone() };
    upload(client, &tuf, key, auto, model, &manifest.to_bytes(), now)
}

/// Publish exactly these bytes: what was approved, and nothing that was changed since.
pub fn publish_exactly(
    client: &Client,
    root: &[u8],
    key: &SigningKey,
    auto: bool,
    model: &[u8],
    manifest: &[u8],
    now: Timestamp,
) -> Outcome<Published> {
    upload(client, &walk(client, root, now)?, key, auto, model, manifest, now)
}

fn upload(
    client: &Client,
    tuf: &tuf::Client,
    key: &SigningKey,
    auto: bool,
    model: &[u8],
    bytes: &[u8],
    now: Timestamp,
) -> Outcome<Published> {
    let manifest = Manifest::parse(bytes).during("checking the manifest")?;
    let blob = Blob::of(bytes);
    let role = if auto { trainer_role(&manifest.line) } else { release_role(&manifest.line) };
    let until = now.plus_secs(Lifetimes::default().role_secs);
    let builder = match tuf.role(&role) {
        Some(document) => RoleBuilder::after(document.claims(), auto, until),
        None => RoleBuilder::new(auto, until),
    };
    let custom = TargetCustom {
        v: 1,
        line: manifest.line.clone(),
        version: manifest.version.clone(),
        seq: manifest.seq,
        manifest: blob,
        io: manifest.io_digest(),
    };
    let signed = builder.add(&manifest.model, &custom).sign(&[key]).during("signing the release")?;
    client.send_bytes("/api/v1/blobs", "application/octet-stream", model)?;
    client.send_bytes("/api/v1/blobs", "application/octet-stream", bytes)?;
    client.send_bytes(&format!("/api/v1/tuf/roles/{role}"), "application/json", &signed)?;
    Ok(Published { manifest, blob })
}
