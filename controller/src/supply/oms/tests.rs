//! Bundles of the reference tool, kept as it wrote them, and our own, damaged in every part. That the tool takes ours is seen in
//! `tests/e2e/supply_chain.rs`, where it runs.
use super::*;

/// Written by `model_signing sign key` 1.1.1 over one file and over a folder.
const FILE: &[u8] = include_bytes!("file.sigstore.json");
const FOLDER: &[u8] = include_bytes!("folder.sigstore.json");
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8eSArHXxD8lP7Q22iCN+kvZNJpH0
RjXCVWSXoLVE6fP9SCTifSwakrs1Kpt99tAYA/4AOb45OYn693zndRs+Zw==
-----END PUBLIC KEY-----
";

pub(crate) fn key(seed: u8) -> Key {
    Key(SecretKey::from_slice(&[seed; 32]).unwrap().into())
}

fn files(of: &[(&str, &[u8])]) -> Files {
    of.iter().map(|(path, bytes)| ((*path).to_owned(), Digest::of(bytes))).collect()
}

#[test]
fn bundles_of_the_reference_tool_are_read() {
    let public = PublicKey::from_pem(PUBLIC).unwrap();
    assert_eq!(public.to_pem(), PUBLIC);
    let one = verify(FILE, &public).unwrap();
    one.expect(&files(&[(SINGLE, b"a model\n")])).unwrap();
    assert!(one.expect(&files(&[(SINGLE, b"a modem\n")])).unwrap_err().to_string().contains("has digest"));
    let folder = verify(FOLDER, &public).unwrap();
    let all: [(&str, &[u8]); 2] = [("model.onnx", b"a model\n"), ("sub/b.txt", b"b\n")];
    folder.expect(&files(&all)).unwrap();
    folder.expect(&files(&[all[0], all[1], (".git/HEAD", b"x")])).unwrap();
    let missing = folder.expect(&files(&all[..1])).unwrap_err().to_string();
    assert!(missing.contains(r#"lists "sub/b.txt""#), "{missing}");
    let more = folder.expect(&files(&[all[0], all[1], (".gitx", b"x")])).unwrap_err().to_string();
    assert!(more.contains(r#"does not list ".gitx""#), "{more}");
    assert!(folder.has(Digest::of(b"a model\n")) && !folder.has(Digest::of(b"b")));
    assert!(matches!(verify(FILE, &key(1).public()), Err(BundleError::OtherKey(_))));
}

#[test]
fn our_own_bundle_is_the_same_each_time_and_any_flipped_byte_of_it_is_refused() {
    let (key, model) = (key(7), files(&[(SINGLE, b"model")]));
    let bundle = sign("model.onnx", &model, &[], &key);
    assert_eq!(bundle, sign("model.onnx", &model, &[], &key), "RFC 6979 needs no chance");
    assert_eq!(unverified(&bundle).unwrap(), verify(&bundle, &key.public()).unwrap());
    let read: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
    let parts =
        ["/dsseEnvelope/payload", "/dsseEnvelope/payloadType", "/dsseEnvelope/signatures/0/sig", "/verificationMaterial/publicKey/hint"];
    for part in parts.iter().chain(&["/mediaType"]) {
        let text = read.pointer(part).and_then(Value::as_str).unwrap();
        // The last digits of base64 may stand for bits that nobody reads: those are refused too.
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let mut damaged = read.clone();
            *damaged.pointer_mut(part).unwrap() = String::from_utf8(bytes).unwrap().into();
            assert!(verify(&serde_json::to_vec(&damaged).unwrap(), &key.public()).is_err(), "{part} at {at}");
        }
    }
}

#[test]
fn what_was_signed_in_another_way_is_refused_with_its_reason() {
    let key = key(7);
    let model = json!({ "name": ".", "algorithm": "sha256", "digest": Digest::of(b"m").hex() });
    let statement = |method: &str, hash: &str, resources: Value, root: Digest| {
        json!({ "_type": STATEMENT, "subject": [{ "name": "m", "digest": { "sha256": root.hex() } }], "predicateType": PREDICATE,
            "predicate": { "serialization": { "method": method, "hash_type": hash }, "resources": resources } })
    };
    let right = root([&Digest::of(b"m")]);
    let good = statement("files", "sha256", json!([model]), right);
    let sealed = |statement: &Value| {
        let payload = serde_json::to_vec(statement).unwrap();
        let envelope = Envelope::seal(IN_TOTO, &payload, "", |message| {
            let signature: Signature = key.0.sign(message);
            signature.to_der().as_bytes().to_vec()
        });
        // Without a hint, as older bundles are.
        serde_json::to_vec(&json!({ "mediaType": BUNDLE, "verificationMaterial": { "publicKey": {} }, "dsseEnvelope": envelope })).unwrap()
    };
    assert!(verify(&sealed(&good), &key.public()).is_ok());
    let mut other_type = good.clone();
    other_type["predicateType"] = "https://slsa.dev/provenance/v1".into();
    let cases = [
        (other_type, "statement is not"),
        (statement("shards", "sha256", json!([model]), right), "shards"),
        (statement("files", "blake3", json!([model]), right), "another digest"),
        (statement("files", "sha256", json!([]), root([])), "lists 0 files"),
        (statement("files", "sha256", json!([model, model]), root([&Digest::of(b"m"), &Digest::of(b"m")])), "twice"),
        (statement("files", "sha256", json!([model]), Digest::of(b"m")), "subject"),
    ];
    for (statement, why) in cases {
        let refused = verify(&sealed(&statement), &key.public()).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let mut certified: Value = serde_json::from_slice(&sealed(&good)).unwrap();
    certified["verificationMaterial"]["certificate"] = json!({ "rawBytes": "" });
    assert!(verify(certified.to_string().as_bytes(), &key.public()).unwrap_err().to_string().contains("P-256 key"));
    for bad in [&b""[..], b"{}", b"[1.5]", &vec![b' '; 2 << 20]] {
        assert!(verify(bad, &key.public()).is_err() && unverified(bad).is_err());
    }
}

#[test]
fn both_forms_of_a_private_key_are_read_and_nothing_else() {
    use p256::pkcs8::EncodePrivateKey as _;
    let secret = SecretKey::from_slice(&[7; 32]).unwrap();
    for pem in [secret.to_sec1_pem(LineEnding::LF).unwrap(), secret.to_pkcs8_pem(LineEnding::LF).unwrap()] {
        assert_eq!(Key::from_pem(&pem).unwrap().public(), key(7).public());
        assert!(PublicKey::from_pem(&pem).is_err());
    }
    let public = key(7).public();
    assert_eq!(PublicKey::from_pem(&public.to_pem()), Ok(public));
    assert!(Key::from_pem(&public.to_pem()).is_err() && Key::from_pem("").is_err() && PublicKey::from_pem("").is_err());
    assert!(!format!("{:?}", key(7)).contains(&"07".repeat(8)), "Debug must not show the secret");
}

#[test]
fn a_path_is_within_a_folder_and_not_merely_spelled_like_it() {
    for (path, folder, within) in [(".git", ".git", true), (".git/a", ".git/", true), (".gitx", ".git", false), ("a/.git", ".git", false)] {
        assert_eq!(is_within(path, folder), within, "{path} {folder}");
    }
}
