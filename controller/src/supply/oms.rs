//! OpenSSF Model Signing bundles with a P-256 key: what `model_signing sign key` writes and `model_signing verify key` reads.
//!
//! A sigstore bundle v0.3 holds a DSSE envelope with an in-toto statement that lists every file of the model with its SHA-256
//! and has, as subject, the digest over all those digests. A model that is one file is listed as `.`, one that is a folder by
//! the paths in it, sorted. P-256 because that is what the other tool signs with; certificates and transparency logs need a
//! network and a clock and are refused by name, as are other digests and files cut into shards.
//!
//! What stays true: a bundle is believed only whole. Every file it lists must be there with its digest, and every file that is
//! there must be listed, but for those that it says were left out.
use std::collections::BTreeMap;

use leeway_protocol::digest::{Digest, Hasher};
use leeway_protocol::trust::canonical;
use p256::SecretKey;
use p256::ecdsa::signature::{Signer as _, Verifier as _};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _, LineEnding};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::dsse::{Envelope, EnvelopeError};
use super::{IN_TOTO, MAX_DOCUMENT_BYTES, STATEMENT};

/// The bundle form that is read and written.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What the statement states.
const PREDICATE: &str = "https://model_signing/signature/v1.0";
/// Files of a model that are listed; a bundle of the longest length that is read has room for less.
pub const MAX_FILES: usize = 10_000;
/// How a model that is a single file is listed.
pub const SINGLE: &str = ".";
/// What is never part of a model, unless it was signed with it: the other tool leaves these out too.
pub const IGNORED: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// The files of a model by their path in it, `/` between the parts; of a single file only [`SINGLE`].
pub type Files = BTreeMap<String, Digest>;

/// A key that signs models.
pub struct Key(SigningKey);

/// The public half, as it is known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a key was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a private key that is read here.
    #[error(
        "this is not the PEM form of a P-256 private key (SEC1 or PKCS#8, without a password): `openssl ecparam -name prime256v1 -genkey -noout` makes one"
    )]
    Private,
    /// Not a public key that is read here.
    #[error("this is not the PEM form of a P-256 public key")]
    Public,
}

/// Why a bundle was not believed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not JSON, or with a key twice, or too long.
    #[error("the bundle is not a document of this form")]
    Json(#[from] canonical::JsonError),
    /// A part that is missing, or another form.
    #[error("the bundle cannot be read: {0}")]
    Form(String),
    /// The envelope.
    #[error("the bundle is refused: {0}")]
    Envelope(#[from] EnvelopeError),
    /// Made with another key.
    #[error("the bundle was made with another key than the one that was given: it names {0}")]
    OtherKey(String),
    /// It lists other files than there are.
    #[error("the bundle is not of this model: {0}")]
    Differs(String),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key(of {})", self.public().hint())
    }
}

impl Key {
    /// From the text of a key file, in either of the two forms that `openssl` writes.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        SecretKey::from_pem(text.trim()).map(|key| Self(key.into())).map_err(|_| KeyError::Private)
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }
}

impl PublicKey {
    /// From the text of a key file.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        VerifyingKey::from_public_key_pem(text.trim()).map(Self).map_err(|_| KeyError::Public)
    }

    /// The text of its key file.
    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// How a bundle names it: the digest of its PEM text.
    pub fn hint(&self) -> String {
        Digest::of(self.to_pem().as_bytes()).hex()
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<Hint>,
    #[serde(default)]
    tlog_entries: Vec<Value>,
}

#[derive(Deserialize, Serialize)]
struct Hint {
    #[serde(default)]
    hint: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    form: String,
    subject: Vec<Subject>,
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    #[serde(default)]
    ignore_paths: Vec<String>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    algorithm: String,
    digest: String,
}

/// What a bundle says of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its files.
    pub files: Files,
    /// Paths that were left out.
    pub ignored: Vec<String>,
}

impl Listed {
    /// Whether a path, or a folder above it, was left out.
    pub fn leaves_out(&self, path: &str) -> bool {
        self.ignored.iter().any(|ignored| is_within(path, ignored))
    }

    /// Whether a file with this digest is part of the model.
    pub fn has(&self, digest: Digest) -> bool {
        self.files.values().any(|file| *file == digest)
    }

    /// Whether these are the files of the model: all of them, and no other.
    pub fn expect(&self, files: &Files) -> Result<(), BundleError> {
        let differs = |what: String| Err(BundleError::Differs(what));
        for (path, digest) in files.iter().filter(|(path, _)| !self.leaves_out(path)) {
            match self.files.get(path) {
                None => return differs(format!("it does not list {path:?}, which is there")),
                Some(listed) if listed != digest => {
                    return differs(format!("{path:?} has digest {}, listed is {}", digest.hex(), listed.hex()));
                }
                Some(_) => {}
            }
        }
        match self.files.keys().find(|path| !files.contains_key(*path)) {
            Some(path) => differs(format!("it lists {path:?}, which is not there")),
            None => Ok(()),
        }
    }
}

/// Whether `path` is `folder` or lies in it.
pub fn is_within(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A bundle over `files`, which people call `name`; what was left out of them is said in it.
pub fn sign(name: &str, files: &Files, ignored: &[String], key: &Key) -> Vec<u8> {
    let resources: Vec<Value> =
        files.iter().map(|(path, digest)| json!({ "name": path, "algorithm": "sha256", "digest": digest.hex() })).collect();
    let statement = json!({
        "_type": STATEMENT,
        "subject": [{ "name": name, "digest": { "sha256": root(files.values()).hex() } }],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": { "method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": ignored },
            "resources": resources,
        },
    });
    let payload = serde_json::to_vec(&statement).unwrap_or_default();
    let sign = |message: &[u8]| -> Vec<u8> {
        let signature: Signature = key.0.sign(message);
        signature.to_der().as_bytes().to_vec()
    };
    let bundle = Bundle {
        media_type: BUNDLE.to_owned(),
        verification_material: Material { public_key: Some(Hint { hint: Some(key.public().hint()) }), tlog_entries: Vec::new() },
        dsse_envelope: Envelope::seal(IN_TOTO, &payload, "", sign),
    };
    serde_json::to_vec(&bundle).unwrap_or_default()
}

/// What `bundle` says, if `key` signed it.
pub fn verify(bundle: &[u8], key: &PublicKey) -> Result<Listed, BundleError> {
    let bundle = parse(bundle)?;
    let hint = bundle.verification_material.public_key.and_then(|key| key.hint);
    if let Some(hint) = hint.filter(|hint| *hint != key.hint()) {
        return Err(BundleError::OtherKey(hint.chars().take(64).collect()));
    }
    let verifies =
        |message: &[u8], signature: &[u8]| Signature::from_der(signature).is_ok_and(|signature| key.0.verify(message, &signature).is_ok());
    listed(&bundle.dsse_envelope.open(IN_TOTO, verifies)?)
}

/// What a bundle says without a look at who signed it: enough to see that it is of another model, and nothing more.
pub fn unverified(bundle: &[u8]) -> Result<Listed, BundleError> {
    listed(&parse(bundle)?.dsse_envelope.unverified(IN_TOTO)?)
}

fn parse(bytes: &[u8]) -> Result<Bundle, BundleError> {
    let value = canonical::parse(bytes, usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX))?;
    let unread = |what: &str| Err(BundleError::Form(what.to_owned()));
    for (part, what) in [("x509CertificateChain", "a certificate chain"), ("certificate", "a certificate")] {
        if value.get("verificationMaterial").is_some_and(|material| material.get(part).is_some()) {
            return unread(&format!("it was made with {what}; only bundles made with a P-256 key are read"));
        }
    }
    let bundle: Bundle = serde_json::from_value(value).map_err(|e| BundleError::Form(e.to_string()))?;
    if bundle.media_type != BUNDLE {
        return unread(&format!("its form is {:?}, read is {BUNDLE}", bundle.media_type.chars().take(80).collect::<String>()));
    }
    Ok(bundle)
}

fn listed(payload: &[u8]) -> Result<Listed, BundleError> {
    let form = |what: String| Err(BundleError::Form(what));
    let value = canonical::parse(payload, usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX))?;
    let statement: Statement = serde_json::from_value(value).map_err(|e| BundleError::Form(e.to_string()))?;
    if statement.form != STATEMENT || statement.predicate_type != PREDICATE {
        return form(format!("its statement is not {PREDICATE}"));
    }
    let Predicate { serialization, resources } = statement.predicate;
    if serialization.method != "files" || serialization.hash_type != "sha256" {
        return form("it was made over shards or with another digest; read are whole files with sha256".to_owned());
    }
    if resources.is_empty() || resources.len() > MAX_FILES {
        return form(format!("it lists {} files, between 1 and {MAX_FILES} are read", resources.len()));
    }
    let mut order = Vec::with_capacity(resources.len());
    let mut files = Files::new();
    for Resource { name, algorithm, digest } in resources {
        let Ok(digest) = Digest::from_hex(&digest) else { return form(format!("{name:?} has no sha256 digest")) };
        if algorithm != "sha256" {
            return form(format!("{name:?} has a digest by {algorithm:?}, read is sha256"));
        }
        order.push(digest);
        if files.insert(name.clone(), digest).is_some() {
            return form(format!("it lists {name:?} twice"));
        }
    }
    match &statement.subject[..] {
        [Subject { digest }] if digest.get("sha256") == Some(&root(&order).hex()) => {
            Ok(Listed { files, ignored: serialization.ignore_paths })
        }
        _ => form("its subject is not the digest over the files that it lists".to_owned()),
    }
}

/// The digest over the digests of all files, in their order.
fn root<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> Digest {
    let mut hasher = Hasher::default();
    digests.into_iter().for_each(|digest| hasher.update(digest.as_bytes()));
    hasher.finish()
}

#[cfg(test)]
pub(crate) mod tests;
