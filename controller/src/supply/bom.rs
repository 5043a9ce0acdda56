//! The bill of materials of a version: CycloneDX 1.6 in JSON, with the model, its card, its data, its parent and the runtime.
//!
//! Made when it is asked for, from the registry and the signed manifest alone, so it cannot go stale and there is nothing to
//! store. Only what never changes about a version goes in; its serial number is drawn from the document's own digest, so two
//! documents with one serial number are the same document, and its version is always 1.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, Dataset, Decision, Manifest};
use leeway_protocol::tensor::TensorSpec;
use serde_json::{Map, Value, json};

use crate::registry::{ModelVersion, Role};

/// The media type of what [`document`] makes.
pub const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json; version=1.6";
/// What runs models on devices, with the version that the workspace pins.
const RUNTIME: (&str, &str) = ("tract-onnx", "0.23.9");

/// The bill of materials of `version`; `parent` is the version it was retrained from, if that is registered.
pub fn document(version: &ModelVersion, manifest: &Manifest, parent: Option<&ModelVersion>) -> Value {
    // By the manifest, because two versions may have the same model, one the other's parent.
    let model = reference("release", version.manifest.digest);
    let runtime = format!("pkg:cargo/{}@{}", RUNTIME.0, RUNTIME.1);
    let datasets = by_digest(&manifest.lineage.datasets);
    let mut components = vec![json!({ "type": "library", "bom-ref": runtime, "name": RUNTIME.0, "version": RUNTIME.1, "purl": runtime })];
    components.extend(datasets.iter().map(|(digest, uses)| data(*digest, uses)));
    let mut dependencies = vec![json!({ "ref": model, "dependsOn": [runtime] }), json!({ "ref": runtime })];
    dependencies.extend(datasets.keys().map(|digest| json!({ "ref": reference("data", *digest) })));
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": manifest.created_at,
            "tools": { "components": [{ "type": "application", "name": "leeway", "version": env!("CARGO_PKG_VERSION") }] },
            "component": component(version, manifest, parent, &datasets),
        },
        "components": components,
        "dependencies": dependencies,
    });
    let serial = serial(&Digest::of(&serde_json::to_vec(&document).unwrap_or_default()));
    if let Some(fields) = document.as_object_mut() {
        fields.insert("serialNumber".to_owned(), serial.into());
    }
    document
}

/// A UUID of version 8 (RFC 9562: whatever its maker says) from a digest.
fn serial(digest: &Digest) -> String {
    let mut bytes: [u8; 16] = [0; 16];
    bytes.iter_mut().zip(digest.as_bytes()).for_each(|(to, from)| *to = *from);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let mut text = "urn:uuid:".to_owned();
    for (at, byte) in bytes.iter().enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02x}");
    }
    text
}

/// The name of something within the document.
fn reference(kind: &str, digest: Digest) -> String {
    format!("{kind}-{}", digest.hex())
}

fn hashes(digest: Digest) -> Value {
    json!([{ "alg": "SHA-256", "content": digest.hex() }])
}

fn property(name: &str, value: impl Into<String>) -> Value {
    json!({ "name": format!("leeway:{name}"), "value": value.into() })
}

/// One file may have been used twice, and is still one component.
fn by_digest(datasets: &[Dataset]) -> BTreeMap<Digest, Vec<&Dataset>> {
    let mut sets: BTreeMap<Digest, Vec<&Dataset>> = BTreeMap::new();
    datasets.iter().for_each(|set| sets.entry(set.digest).or_default().push(set));
    sets
}

fn data(digest: Digest, uses: &[&Dataset]) -> Value {
    let name = uses.first().map_or("", |set| set.name.as_str());
    let what: Vec<String> = uses.iter().map(|set| format!("{} data, {} rows", set.role, set.rows)).collect();
    json!({
        "type": "data", "bom-ref": reference("data", digest), "name": name, "hashes": hashes(digest),
        "data": [{ "type": "dataset", "name": name, "description": what.join("; ") }],
    })
}

fn component(
    version: &ModelVersion,
    manifest: &Manifest,
    parent: Option<&ModelVersion>,
    datasets: &BTreeMap<Digest, Vec<&Dataset>>,
) -> Value {
    let mut properties = vec![
        property("format", "ONNX"),
        property("line", version.line.as_str()),
        property("seq", version.seq.to_string()),
        property("manifest", version.manifest.digest.to_string()),
        property("target", version.target_path()),
        property("signed-by", version.signer.as_str()),
        property("origin", if version.role == Role::Auto { "trainer" } else { "release" }),
        property("length", version.model.length.to_string()),
    ];
    if let Some(run) = &manifest.lineage.training_run {
        properties.push(property("training-run", run.as_str()));
    }
    let (code, revision) = (&manifest.lineage.code, &manifest.lineage.code_revision);
    let mut references = vec![external("distribution", &version.model)];
    references.extend(version.provenance.iter().map(|blob| external("attestation", blob)));
    references.extend(version.bundle.iter().map(|blob| external("digital-signature", blob)));
    if is_address(code) {
        references.push(json!({ "type": "vcs", "url": code, "comment": format!("training code at {revision}") }));
    } else if !code.is_empty() {
        properties.push(property("code", code.as_str()));
        properties.push(property("code-revision", revision.as_str()));
    }
    let mut model = json!({
        "type": "machine-learning-model",
        "bom-ref": reference("release", version.manifest.digest),
        "name": version.line,
        "version": version.version,
        "hashes": hashes(version.model.digest),
        "externalReferences": references,
        "properties": properties,
        "modelCard": card(manifest, datasets),
    });
    if let Some(fields) = model.as_object_mut() {
        if !manifest.lineage.reason.is_empty() {
            fields.insert("description".to_owned(), manifest.lineage.reason.as_str().into());
        }
        if let Some(digest) = manifest.lineage.parent {
            fields.insert("pedigree".to_owned(), json!({ "ancestors": [ancestor(version, digest, parent)] }));
        }
    }
    model
}

/// Where a file lies on the controller.
fn external(kind: &str, blob: &Blob) -> Value {
    json!({ "type": kind, "url": format!("/blobs/{}", blob.digest.hex()), "hashes": hashes(blob.digest) })
}

/// Whether the name of code is one that an address may be, in every reader's eyes.
fn is_address(code: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#@!$&'()*+,;=".contains(&b);
    code.contains("://") && code.bytes().all(plain)
}

fn ancestor(version: &ModelVersion, manifest: Digest, parent: Option<&ModelVersion>) -> Value {
    let mut ancestor = Map::new();
    let mut put = |name: &str, value: Value| drop(ancestor.insert(name.to_owned(), value));
    put("type", "machine-learning-model".into());
    put("bom-ref", reference("release", manifest).into());
    put("name", json!(version.line));
    put("properties", json!([property("manifest", manifest.to_string())]));
    if let Some(parent) = parent.filter(|parent| parent.manifest.digest == manifest) {
        put("version", json!(parent.version));
        put("hashes", hashes(parent.model.digest));
    }
    Value::Object(ancestor)
}

fn card(manifest: &Manifest, datasets: &BTreeMap<Digest, Vec<&Dataset>>) -> Value {
    let format = |spec: &TensorSpec| {
        let shape: Vec<String> = spec.shape.iter().map(u64::to_string).collect();
        json!({ "format": format!("{}: {}[{}]", spec.name, format!("{:?}", spec.dtype).to_lowercase(), shape.join(",")) })
    };
    let mut parameters = Map::new();
    let mut put = |name: &str, value: Value| drop(parameters.insert(name.to_owned(), value));
    if manifest.decision != Decision::None {
        put("approach", json!({ "type": "supervised" }));
        put("task", "classification".into());
    }
    put("datasets", datasets.keys().map(|digest| json!({ "ref": reference("data", *digest) })).collect());
    put("inputs", manifest.free_inputs().map(|(_, spec)| format(spec)).collect());
    put("outputs", manifest.outputs.iter().map(format).collect());
    let metrics: Vec<Value> =
        manifest.lineage.metrics.iter().map(|(name, value)| json!({ "type": name, "value": value.to_string() })).collect();
    let limits = &manifest.limits;
    let most = format!(
        "devices run it only within {} bytes of memory, {} ms to load and {} µs (99th percentile) an answer",
        limits.rss_bytes, limits.load_ms, limits.p99_us
    );
    json!({
        "modelParameters": parameters,
        "quantitativeAnalysis": { "performanceMetrics": metrics },
        "considerations": { "technicalLimitations": [most] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::version;
    use crate::supply::provenance::tests::release;

    /// A version as it is registered with `manifest`.
    fn registered(manifest: &Manifest) -> ModelVersion {
        ModelVersion {
            line: manifest.line.clone(),
            version: manifest.version.clone(),
            manifest: manifest.blob(),
            model: manifest.model,
            lineage: manifest.lineage.clone(),
            provenance: Some(Blob::of(b"provenance")),
            bundle: Some(Blob::of(b"bundle")),
            ..version("1", manifest.seq, None)
        }
    }

    #[test]
    fn it_says_what_the_version_is_made_of() {
        let manifest = release();
        let parent = ModelVersion { manifest: Blob::of(b"parent"), ..version("1", 1, None) };
        let made = document(&registered(&manifest), &manifest, Some(&parent));
        assert_eq!(made, document(&registered(&manifest), &manifest, Some(&parent)));
        let text = made.to_string();
        let named = |quoted: &str| text.split(quoted).count() - 1;
        let refs: std::collections::BTreeSet<&str> =
            text.split("\"bom-ref\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!((refs.len(), named("bom-ref")), (5, 5), "every reference is one thing: {refs:?}");
        insta::assert_snapshot!("bom", serde_json::to_string_pretty(&made).unwrap());
    }

    #[test]
    fn the_serial_number_changes_with_the_content_and_with_nothing_else() {
        let manifest = release();
        let serial = |version: &ModelVersion, manifest: &Manifest| document(version, manifest, None)["serialNumber"].clone();
        let (mine, first) = (registered(&manifest), serial(&registered(&manifest), &manifest));
        let text = first.as_str().unwrap();
        assert!(text.starts_with("urn:uuid:") && text.len() == 45 && text.as_bytes()[23] == b'8', "{text}");
        let mut retired = mine.clone();
        retired.status = crate::registry::VersionStatus::Yanked { reason: "bad".into() };
        assert_eq!(serial(&retired, &manifest), first, "what may still be done with it is not what it is made of");
        let mut other = manifest.clone();
        other.lineage.datasets[0].rows += 1;
        assert_ne!(serial(&mine, &other), first);
    }

    #[test]
    fn one_file_used_twice_is_one_component_and_odd_names_of_code_are_no_addresses() {
        let mut manifest = release();
        manifest.lineage.datasets[1].digest = manifest.lineage.datasets[0].digest;
        manifest.lineage.code = "my code://x y".to_owned();
        let made = document(&registered(&manifest), &manifest, None);
        assert_eq!(made["components"].as_array().unwrap().len(), 2);
        assert_eq!(made["components"][1]["data"][0]["description"], "train data, 900 rows; holdout data, 300 rows");
        let model = &made["metadata"]["component"];
        assert!(model["externalReferences"].as_array().unwrap().iter().all(|r| r["type"] != "vcs"));
        assert!(model["properties"].to_string().contains("my code://x y"));
    }

    #[test]
    fn the_runtime_it_names_is_the_one_that_is_built_in() {
        let workspace = include_str!("../../../Cargo.toml");
        let pinned = format!("{} = {{ version = \"={}\"", RUNTIME.0, RUNTIME.1);
        assert!(workspace.contains(&pinned), "the workspace pins another version than {pinned}");
    }
}
