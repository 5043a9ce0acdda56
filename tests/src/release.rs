//! Signing and uploading a release as a release machine does, in the test's own process: quick, and able to do it wrongly.
use leeway_protocol::manifest::{Blob, Manifest, TargetCustom};
use leeway_protocol::trust::keyring::SigningKey;
use leeway_protocol::trust::repository::{Lifetimes, RoleBuilder, max_seq, release_role, trainer_role};
use leeway_protocol::trust::tuf;

use crate::api::Api;
use crate::site::now;

/// More files than any repository here has.
const MAX_STEPS: usize = 200;

/// The controller's metadata, verified from `root`.
fn walk(api: &Api, root: &[u8]) -> Result<tuf::Client, String> {
    let mut client = tuf::Client::new(root, tuf::Stored::default(), now()).map_err(|e| e.to_string())?;
    for _ in 0..MAX_STEPS {
        let tuf::Step::Need { file, .. } = client.next() else { return Ok(client) };
        let answer = api.get(&format!("/tuf/{file}"))?;
        let bytes = if answer.status == 404 { None } else { Some(answer.ok()?.body) };
        client.provide(&file, bytes.as_deref()).map_err(|e| format!("{file}: {e}"))?;
    }
    Err("the metadata does not come to an end".to_owned())
}

/// Sign `manifest` (its number is set here) with `key` as a person's release, and upload it with its model.
pub fn publish(api: &Api, root: &[u8], key: &SigningKey, model: &[u8], manifest: &Manifest) -> Result<Manifest, String> {
    let tuf = walk(api, root)?;
    let line = &manifest.line;
    let seq = [release_role(line), trainer_role(line)].iter().filter_map(|role| tuf.role(role)).map(|d| max_seq(d.claims())).max();
    let manifest = Manifest { seq: seq.unwrap_or(0) + 1, model: Blob::of(model), ..manifest.clone() };
    let bytes = manifest.to_bytes();
    let role = release_role(line);
    let until = now().plus_secs(Lifetimes::default().role_secs);
    let builder = match tuf.role(&role) {
        Some(document) => RoleBuilder::after(document.claims(), false, until),
        None => RoleBuilder::new(false, until),
    };
    let signed = builder.add(&manifest.model, &TargetCustom::of(&manifest)).sign(&[key]).map_err(|e| e.to_string())?;
    for blob in [model, &bytes] {
        api.post_bytes("/api/v1/blobs", "application/octet-stream", blob)?.ok()?;
    }
    api.post_bytes(&format!("/api/v1/tuf/roles/{role}"), "application/json", &signed)?.ok()?;
    Ok(manifest)
}
