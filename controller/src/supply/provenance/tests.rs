//! What a release's statement says, and each way in which it may be refused.
use leeway_protocol::manifest::{Dataset, Lineage};

use super::*;

/// A release with every kind of descent.
pub(crate) fn release() -> Manifest {
    let dataset =
        |role: &str, name: &str, rows| Dataset { role: role.to_owned(), name: name.to_owned(), digest: Digest::of(name.as_bytes()), rows };
    let lineage = Lineage {
        code: "https://example.org/weather".to_owned(),
        code_revision: "8edd093f5f5c0a0b7c3b9f0d6a1e2c3d4e5f6071".to_owned(),
        datasets: vec![dataset("train", "1949.csv", 900), dataset("holdout", "1953.csv", 300)],
        parent: Some(Digest::of(b"parent")),
        training_run: Some("rain-17".to_owned()),
        metrics: BTreeMap::from([("holdout_accuracy".to_owned(), 0.875)]),
        reason: "The world moved.".to_owned(),
    };
    Manifest { version: "1.1.0".parse().unwrap(), seq: 7, lineage, ..crate::ingest::tests::manifest() }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

fn build() -> Build {
    Build { builder: "urn:test:builder".to_owned(), parameters: BTreeMap::from([("l2".to_owned(), "0.1".to_owned())]) }
}

fn checked(bytes: &[u8], manifest: &Manifest, auto: bool) -> Result<Build, String> {
    let keys = [key(1).public(), key(2).public()];
    check(bytes, keys.iter(), manifest, manifest.blob(), auto).map_err(|e| e.to_string())
}

#[test]
fn what_is_sealed_is_taken_and_says_what_the_manifest_says() {
    for (manifest, auto) in [(release(), true), (crate::ingest::tests::manifest(), false)] {
        let said = statement(&manifest, manifest.blob(), auto, &build());
        let sealed = seal(&said, &key(2));
        assert_eq!(sealed, seal(&said, &key(2)));
        assert_eq!(checked(&sealed, &manifest, auto), Ok(build()));
        assert!(checked(&seal(&said, &key(3)), &manifest, auto).unwrap_err().contains("expected key"), "a stranger's");
    }
    let manifest = release();
    let said = statement(&manifest, manifest.blob(), true, &build());
    insta::assert_snapshot!("statement", serde_json::to_string_pretty(&said).unwrap());
}

#[test]
fn code_that_is_no_address_and_a_revision_that_is_no_commit_are_still_named() {
    let mut manifest = release();
    (manifest.lineage.code, manifest.lineage.code_revision) = ("leeway trainer".to_owned(), "0.1.0".to_owned());
    let said = statement(&manifest, manifest.blob(), false, &Build::default());
    let code = &said["predicate"]["buildDefinition"]["resolvedDependencies"][2];
    assert_eq!((code["uri"].as_str(), code.get("digest")), (Some("urn:leeway:code:leeway%20trainer"), None));
    assert_eq!(checked(&seal(&said, &key(1)), &manifest, false), Ok(Build::default()));
}

#[test]
fn whatever_differs_from_the_manifest_is_refused_by_name() {
    let manifest = release();
    let good = statement(&manifest, manifest.blob(), false, &build());
    let other = Value::from(Digest::of(b"other").hex());
    let definition = "/predicate/buildDefinition";
    let dependency = |n: usize, rest: &str| format!("{definition}/resolvedDependencies/{n}{rest}");
    let cases = [
        ("/subject/0/digest/sha256".to_owned(), other.clone(), "subject"),
        ("/subject/0/name".to_owned(), "models/rain/release/9.onnx".into(), "subject"),
        ("/subject".to_owned(), json!([]), "subject"),
        ("/subject".to_owned(), json!([good["subject"][0], good["subject"][0]]), "subject"),
        ("/predicateType".to_owned(), "https://slsa.dev/provenance/v0.2".into(), "v0.2"),
        ("/_type".to_owned(), "x".into(), "read is"),
        (format!("{definition}/buildType"), "urn:other".into(), "urn:other"),
        (format!("{definition}/externalParameters/line"), "wind".into(), "line \"wind\""),
        (format!("{definition}/externalParameters/version"), "2".into(), "version \"2\""),
        (format!("{definition}/externalParameters/reason"), "none".into(), "reason"),
        (format!("{definition}/internalParameters/seq"), 8.into(), "number"),
        (dependency(0, "/digest/sha256"), other.clone(), "leaves out train data"),
        (dependency(0, "/annotations/role"), "holdout".into(), "leaves out train data"),
        (dependency(1, "/annotations/rows"), 299.into(), "of 299 rows"),
        (dependency(2, "/annotations/revision"), "abc".into(), "code"),
        (dependency(2, "/digest/gitCommit"), "abc".into(), "commit"),
        (dependency(2, "/name"), "elsewhere".into(), "code"),
        (dependency(3, "/digest/sha256"), other.clone(), "parent"),
        (dependency(3, "/annotations/kind"), "dataset".into(), "parent"),
        ("/predicate/runDetails/metadata/invocationId".to_owned(), "rain-18".into(), "training run"),
        ("/predicate/runDetails/byproducts/0/digest/sha256".to_owned(), other, "manifest"),
        ("/predicate/runDetails/byproducts".to_owned(), json!([]), "manifest"),
    ];
    for (at, value, why) in cases {
        let mut said = good.clone();
        *said.pointer_mut(&at).unwrap_or_else(|| panic!("{at}")) = value;
        let refused = checked(&seal(&said, &key(1)), &manifest, false).unwrap_err();
        assert!(refused.contains(why), "{at}: {refused}");
    }
    assert!(checked(&seal(&good, &key(1)), &manifest, true).is_err(), "a person's release is not the trainer's");
    let mut more = good;
    let dependencies = more.pointer_mut(&dependency(0, "").replace("/0", "")).and_then(Value::as_array_mut).unwrap();
    dependencies.push(json!({ "name": "numpy", "uri": "pkg:pypi/numpy@2.1.0" }));
    assert!(checked(&seal(&more, &key(1)), &manifest, false).is_ok(), "a trainer may say more");
}

#[test]
fn a_flipped_byte_anywhere_is_refused() {
    let manifest = release();
    let sealed = seal(&statement(&manifest, manifest.blob(), false, &build()), &key(1));
    let name = String::from_utf8_lossy(&sealed).find("keyid").unwrap();
    // The name of the key is a hint, and the only part that nothing depends on.
    for at in (0..sealed.len()).filter(|at| *at < name - 2) {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert!(checked(&damaged, &manifest, false).is_err(), "byte {at}");
    }
}
