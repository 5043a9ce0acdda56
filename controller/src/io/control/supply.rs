//! What came with a release, checked when it is taken in and handed out again: provenance, a model signature; and the bill of
//! materials that is made of both.
//!
//! Provenance is checked whole, because the keys that may sign it are known. Whose key a model signature should have been made
//! with is the publisher's knowledge, who checks it before anything is uploaded; here it must at least be about this model.
use std::sync::Arc;

use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{Blob, Manifest, TargetCustom};
use leeway_protocol::trust::repository::trainer_role;
use serde_json::Value;

use super::publish::read_manifest;
use super::{ControlError, Controller, Inner};
use crate::registry::ModelVersion;
use crate::supply::{MAX_DOCUMENT_BYTES, bom, oms, provenance};

/// Which of the documents that came with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attached {
    /// SLSA provenance.
    Provenance,
    /// The OpenSSF Model Signing bundle.
    Bundle,
}

impl Attached {
    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provenance => "provenance",
            Self::Bundle => "model signature",
        }
    }

    /// Its address, if `version` has one.
    pub fn of(self, version: &ModelVersion) -> Option<Blob> {
        match self {
            Self::Provenance => version.provenance,
            Self::Bundle => version.bundle,
        }
    }
}

/// Check what a release brings along: there, about this model, and not in contradiction to its manifest.
pub(super) async fn check(inner: &Inner, role: &str, custom: &TargetCustom, manifest: &Manifest) -> Result<(), String> {
    if let Some(blob) = custom.provenance {
        let bytes = read(inner, blob).await.map_err(|why| format!("its provenance {why}"))?;
        let auto = role == trainer_role(&manifest.line);
        let repository = inner.repository();
        let targets = repository.state.contents().role("targets");
        let keys = targets.and_then(|targets| targets.claims().delegation(role)).map(|(_, keys)| keys);
        let keys: Vec<_> = keys.iter().flat_map(|keys| keys.iter()).collect();
        provenance::check(&bytes, keys.iter().copied(), manifest, custom.manifest, auto)
            .map_err(|e| format!("its provenance is refused: {e}"))?;
    }
    if let Some(blob) = custom.bundle {
        let bytes = read(inner, blob).await.map_err(|why| format!("its model signature {why}"))?;
        let listed = oms::unverified(&bytes).map_err(|e| format!("its model signature is refused: {e}"))?;
        if !listed.has(manifest.model.digest) {
            return Err("its model signature is refused: it is of other files than this model".to_owned());
        }
    }
    Ok(())
}

async fn read(inner: &Inner, blob: Blob) -> Result<Vec<u8>, String> {
    if blob.length > MAX_DOCUMENT_BYTES {
        return Err(format!("has {} bytes, the bound is {MAX_DOCUMENT_BYTES}", blob.length));
    }
    let missing = || "was not uploaded before its metadata, or has another length".to_owned();
    if !inner.blobs.has(blob).await {
        return Err(missing());
    }
    let bytes = inner.blobs.bytes(blob.digest, MAX_DOCUMENT_BYTES).await.map_err(|e| format!("cannot be read: {e}"))?;
    bytes.map(|bytes| bytes.to_vec()).ok_or_else(missing)
}

impl Controller {
    /// A document that came with a version, byte for byte.
    pub async fn attached(&self, line: &Line, version: &Version, which: Attached) -> Result<Vec<u8>, ControlError> {
        let registered = self.registered(line, version)?;
        let none = || ControlError::NotFound(format!("{line} {version} came without a {}", which.as_str()));
        let blob = which.of(&registered).ok_or_else(none)?;
        let unread = |why: String| ControlError::Unavailable(format!("the {} of {line} {version} {why}", which.as_str()));
        read(&self.inner, blob).await.map_err(unread)
    }

    /// The bill of materials of a version.
    pub async fn bill_of_materials(&self, line: &Line, version: &Version) -> Result<Value, ControlError> {
        let registered = self.registered(line, version)?;
        let unread = |why: String| ControlError::Unavailable(format!("{line} {version}: {why}"));
        let manifest = read_manifest(&self.inner, registered.manifest).await.map_err(unread)?;
        let snapshot = self.snapshot();
        let parent = manifest.lineage.parent.and_then(|parent| snapshot.manifests().get(&parent).copied());
        Ok(bom::document(&registered, &manifest, parent))
    }

    fn registered(&self, line: &Line, version: &Version) -> Result<Arc<ModelVersion>, ControlError> {
        let missing =
            || ControlError::NotFound(format!("line {line} has no version {version}: `leeway model list` shows those that exist"));
        self.snapshot().version(line, version).cloned().ok_or_else(missing)
    }
}
