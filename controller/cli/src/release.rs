//! Publishing a release: check what is there, add one target, sign, upload. Used by people, by the trainer and by the demo.
//!
//! The release machine does not trust the controller: it walks the metadata from its own copy of the root, and signs on top of a
//! role document only after the signatures above it verified. The controller checks the upload as a device would. With each release
//! goes its provenance, made from the manifest and signed with the same key.
use leeway_controller::supply::provenance::{self, Build};
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

/// What is released besides the manifest.
#[derive(Debug, Clone)]
pub struct Release<'a> {
    /// Released by the line's trainer, with its own key, and not by a person.
    auto: bool,
    /// The ONNX file.
    model: &'a [u8],
    /// How it was made, as far as the manifest does not say.
    build: Build,
    /// Its OpenSSF Model Signing bundle.
    bundle: Option<Vec<u8>>,
}

impl<'a> Release<'a> {
    /// A person's release.
    pub fn of(model: &'a [u8]) -> Self {
        Self { auto: false, model, build: Build::default(), bundle: None }
    }

    /// A trainer's.
    pub fn by_trainer(model: &'a [u8], build: Build) -> Self {
        Self { auto: true, model, build, bundle: None }
    }

    /// With what else was said of it.
    #[must_use]
    pub fn with(self, build: Build, bundle: Option<Vec<u8>>) -> Self {
        Self { build, bundle, ..self }
    }
}

/// Publish a release with `manifest`; its `seq` is set here.
pub fn publish(
    client: &Client,
    root: &[u8],
    key: &SigningKey,
    release: &Release<'_>,
    manifest: &Manifest,
    now: Timestamp,
) -> Outcome<Published> {
    let tuf = walk(client, root, now)?;
    let manifest = Manifest { seq: next_seq(&tuf, manifest), model: Blob::of(release.model), ..manifest.clone() };
    upload(client, &tuf, key, release, &manifest.to_bytes(), now)
}

/// Publish exactly these bytes: what was approved, and nothing that was changed since.
pub fn publish_exactly(
    client: &Client,
    root: &[u8],
    key: &SigningKey,
    release: &Release<'_>,
    manifest: &[u8],
    now: Timestamp,
) -> Outcome<Published> {
    upload(client, &walk(client, root, now)?, key, release, manifest, now)
}

fn upload(client: &Client, tuf: &tuf::Client, key: &SigningKey, release: &Release<'_>, bytes: &[u8], now: Timestamp) -> Outcome<Published> {
    let manifest = Manifest::parse(bytes).during("checking the manifest")?;
    let (blob, auto) = (Blob::of(bytes), release.auto);
    let role = if auto { trainer_role(&manifest.line) } else { release_role(&manifest.line) };
    let until = now.plus_secs(Lifetimes::default().role_secs);
    let builder = match tuf.role(&role) {
        Some(document) => RoleBuilder::after(document.claims(), auto, until),
        None => RoleBuilder::new(auto, until),
    };
    let provenance = provenance::seal(&provenance::statement(&manifest, blob, auto, &release.build), key);
    let custom = TargetCustom {
        manifest: blob,
        provenance: Some(Blob::of(&provenance)),
        bundle: release.bundle.as_deref().map(Blob::of),
        ..TargetCustom::of(&manifest)
    };
    let signed = builder.add(&manifest.model, &custom).sign(&[key]).during("signing the release")?;
    for blob in [release.model, bytes, &provenance].into_iter().chain(release.bundle.as_deref()) {
        client.send_bytes("/api/v1/blobs", "application/octet-stream", blob)?;
    }
    client.send_bytes(&format!("/api/v1/tuf/roles/{role}"), "application/json", &signed)?;
    Ok(Published { manifest, blob })
}
