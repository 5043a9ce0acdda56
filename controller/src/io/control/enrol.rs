//! Who may come in: devices by enrolment, people and programs by token.
//!
//! A device draws its own key and keeps it; enrolment tells the controller the public half and gives back what the device needs
//! to trust and to connect. Tokens for enrolment are single-use unless said otherwise, and only their hashes are kept. A name
//! that is taken is given again only to whoever proves to hold its key, by signing a challenge that nobody saw before; that needs
//! no token and spends none. The same way a device waits until somebody accepts it, and gets its certificates: the first, the next,
//! and one after it was away so long that its last is over. What stays true: nobody can push a device out, nothing overheard lets anybody try, and who has
//! neither a token nor the very key learns nothing about which devices there are.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use leeway_protocol::digest::Digest;
use leeway_protocol::enrolment;
use leeway_protocol::ids::{DeviceId, Tenant};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::keyring::{PublicKey, Signature};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::clock;
use super::super::store::{Batch, Kind, Write};
use super::super::tls::Tls;
use super::super::tls::authority::{AuthorityError, Issued, Request};
use super::access::Holders;
use super::decisions::{check_labels, draft};
use super::{ControlError, Controller, Touched, document};
use crate::access::challenge::{self, Challenges};
use crate::audit::Draft;
use crate::fleet::admission::renewed;
use crate::fleet::{Admission, Device, Selector};
use crate::snapshot::Snapshot;

/// Devices of one controller: bounds memory and the store.
const MAX_DEVICES: usize = 200_000;
/// Devices that wait to be accepted: as many as people decide on.
const MAX_PENDING: usize = 10_000;
/// A device that waits asks again after so long.
const RETRY_SECS: u64 = 10;
/// Uses of one token.
const MAX_USES: u32 = 100_000;
/// Tokens that are open at one time.
const MAX_TOKENS: usize = 10_000;

/// Who is let in, and what they are told.
#[derive(Debug)]
pub(in crate::io) struct Access {
    pub(in crate::io) open_enrolment: bool,
    /// Base URL for devices.
    pub(in crate::io) http: String,
    /// Whether that was chosen, because others reach it by another name than its own address.
    pub(in crate::io) public: bool,
    /// Broker for devices.
    pub(in crate::io) mqtt: (String, u16),
    /// The controller's own name at a broker outside: no device may have it, its certificate would pass for the controller's.
    pub(in crate::io) reserved: Option<String>,
    /// Whether it speaks TLS.
    pub(in crate::io) mqtt_tls: bool,
    /// Whether a new device waits until somebody accepts it.
    pub(in crate::io) review: bool,
    /// Labels of those that do not wait.
    pub(in crate::io) accept: Option<Selector>,
    /// Whether secrets of devices are ours to give.
    pub(in crate::io) embedded: bool,
    /// People and programs.
    pub(in crate::io) holders: Holders,
    /// For devices, by the hash of the token.
    pub(in crate::io) tokens: RwLock<BTreeMap<Digest, Token>>,
    /// For devices that are in already.
    pub(in crate::io) challenges: Mutex<Challenges>,
}

/// A token for enrolment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::io) struct Token {
    name: String,
    uses_left: u32,
    expires_at: Timestamp,
    /// Whether a device that brings it needs nobody's word.
    #[serde(default)]
    accept: bool,
}

/// A token for enrolment that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEnrolmentToken {
    /// What it is for, for the audit trail.
    pub name: String,
    /// How often it may be used.
    pub uses: u32,
    /// How long, milliseconds.
    pub ttl_ms: i64,
    /// Whether a device that brings it needs nobody's word.
    pub accept: bool,
}

/// What a device sends to be let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The name it wants.
    pub device: DeviceId,
    /// Its ed25519 public key, 64 hex digits.
    pub public_key: String,
    /// What cohorts select by.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The token; not needed where enrolment is open.
    #[serde(default)]
    pub token: Option<String>,
    /// What the controller asked it to sign; from the answer to a first try.
    #[serde(default)]
    pub challenge: Option<String>,
    /// Proof that it holds the key: its signature, in hex, over [`leeway_protocol::enrolment::proof`]. Needed, instead of a token,
    /// to enrol a name again.
    #[serde(default)]
    pub proof: Option<String>,
    /// A request for a certificate (PEM, PKCS#10) for a key of P-256 that the device drew for TLS. Only its public key counts.
    #[serde(default)]
    pub csr: Option<String>,
}

/// What it gets back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Whose fleet it is in.
    pub tenant: Tenant,
    /// Its name.
    pub device: DeviceId,
    /// How to connect.
    pub mqtt: MqttAccess,
    /// Base of `/tuf/…` and `/blobs/…`.
    pub http_base: String,
    /// The image repository's first root, as text: what every signature is checked against.
    pub image_root: String,
    /// The director's newest root, as text.
    pub director_root: String,
    /// Its certificate, where there is TLS and it asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsGrant>,
}

/// A device's certificate, and whom it is to trust.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsGrant {
    /// Authorities for controller and broker, PEM; no others count.
    pub ca: String,
    /// The device's certificate, PEM.
    pub chain: String,
    /// Its end.
    pub not_after: Timestamp,
}

/// How a device connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MqttAccess {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name; the client id must be the same.
    pub username: String,
    /// Secret. Empty where the broker is not the controller's own: its operator hands secrets out.
    pub password: String,
    /// Whether the port speaks TLS.
    #[serde(default)]
    pub tls: bool,
}

/// How a device came in.
enum Way {
    /// It proved that it holds the key of a device that is in.
    Key,
    /// By a token, shown with what is left of it, or where none is needed.
    Token(Option<(Digest, Token)>),
}

/// A fresh secret of 256 bits, in hex.
pub(in crate::io) fn secret() -> Result<String, ControlError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| ControlError::Unavailable(format!("no random bytes could be drawn: {e}")))?;
    Ok(Digest::from_bytes(bytes).hex())
}

impl Controller {
    /// A new token for enrolment; shown once, kept as a hash.
    pub async fn create_token(&self, name: &str, uses: u32, ttl_ms: i64, by: &str) -> Result<String, ControlError> {
        self.create_enrolment_token(NewEnrolmentToken { name: name.to_owned(), uses, ttl_ms, accept: false }, by).await
    }

    /// The same, with everything that can be chosen.
    pub async fn create_enrolment_token(&self, new: NewEnrolmentToken, by: &str) -> Result<String, ControlError> {
        let NewEnrolmentToken { name, uses, ttl_ms, accept } = new;
        let name: String = name.chars().take(80).collect();
        if uses == 0 || uses > MAX_USES || ttl_ms <= 0 {
            return Err(ControlError::Invalid(format!("a token needs 1 to {MAX_USES} uses and a lifetime above 0")));
        }
        let text = secret()?;
        let hash = Digest::of(text.as_bytes());
        let _turn = self.inner.turn.lock().await;
        let at = clock::now();
        let expired = self.expired_tokens(at);
        let open = self.inner.access.tokens.read().unwrap_or_else(PoisonError::into_inner).len() - expired.len();
        if open >= MAX_TOKENS {
            return Err(ControlError::Conflict(format!("{MAX_TOKENS} enrolment tokens are open: let some expire first")));
        }
        let token = Token { name: name.clone(), uses_left: uses, expires_at: at.plus_millis(ttl_ms), accept };
        let mut writes: Vec<Write> = expired.iter().map(|hash| Write::Delete { kind: Kind::Token, key: hash.hex() }).collect();
        writes.push(document(Kind::Token, hash.hex(), Some(&token))?);
        let sentence = format!("An enrolment token {name:?} was made for {uses} uses until {}.", token.expires_at);
        let event = draft(at, by, "token.created", "tokens".to_owned(), sentence, json!({ "name": name, "uses": uses, "accept": accept }));
        self.inner.store.commit(Batch { at, writes, events: vec![event], urgent: true }).await?;
        let mut tokens = self.inner.access.tokens.write().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|hash, _| !expired.contains(hash));
        tokens.insert(hash, token);
        Ok(text)
    }

    fn expired_tokens(&self, at: Timestamp) -> Vec<Digest> {
        let tokens = self.inner.access.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().filter(|(_, token)| token.expires_at <= at || token.uses_left == 0).map(|(hash, _)| *hash).collect()
    }

    /// Let a device in: a new one by its token, one that is in already by its key.
    pub async fn enrol(&self, request: EnrolRequest) -> Result<Enrolled, ControlError> {
        let bad_key = |_| ControlError::Invalid("the public key is not an ed25519 key in 64 lower-case hex digits".to_owned());
        let key = PublicKey::from_hex(&request.public_key).map_err(bad_key)?;
        check_labels(&request.labels)?;
        // Whoever has no way in is told so before anything waits for it.
        let proven = self.is_proven(&request, &key)?;
        if !proven && !self.is_known(&request) {
            drop(self.spend(&request, clock::now())?);
        }
        let asked = self.asked(&request)?;
        let password = if self.inner.access.embedded { secret()? } else { String::new() };
        let credential = self.inner.access.embedded.then(|| Digest::of(password.as_bytes()));

        let _turn = self.inner.turn.lock().await;
        let at = clock::now();
        let mut state = self.inner.ledger().snapshot.clone();
        let known = state.fleet.device(&request.device);
        let (mut device, way) = match known.filter(|known| known.public_key == request.public_key) {
            Some(known) if proven => (returning(&known)?, Way::Key),
            Some(_) => return Err(self.challenge(&request, at)?),
            None => {
                let spent = self.spend(&request, at)?;
                (self.newcomer(&state, &request, &spent, at)?, Way::Token(spent))
            }
        };
        let issued = match (&asked, device.admission.is_in()) {
            (Some((tls, asked)), true) => {
                Some(tls.authority().device(&self.inner.tenant, &device.id, asked, at, tls.settings().device_secs).map_err(unmade)?)
            }
            _ => None,
        };
        if device.admission.is_in() {
            device.credential = credential;
            device.certificates = issued.iter().fold(device.certificates, |held, new| renewed(&held, new.certificate.clone(), at));
        }
        state.fleet.insert(device.clone());
        state.revision += 1;
        let touched = Touched { devices: [device.id.clone()].into(), ..Touched::default() };
        let event = told(&state, &device, &way, issued.as_ref(), at);
        let spent = if let Way::Token(spent) = way { spent } else { None };
        let more = spent.iter().map(|(hash, token)| document(Kind::Token, hash.hex(), Some(token))).collect::<Result<_, _>>()?;
        self.inner.settle(state, &touched, more, vec![event], at).await?;
        if let Some((hash, token)) = spent {
            self.inner.access.tokens.write().unwrap_or_else(PoisonError::into_inner).insert(hash, token);
        }
        self.inner.ledger().enrol(device.clone());
        waiting(&device)?;
        if let Some(credential) = credential {
            self.inner.credentials.admit(&device.id, credential);
        }
        self.inner.credentials.certify(&device.id, device.certificates.clone());
        let grant = issued.zip(asked).map(|(issued, (tls, _))| TlsGrant {
            ca: tls.trusted().to_owned(),
            chain: issued.chain,
            not_after: issued.certificate.not_after,
        });
        self.welcome(device.id, password, grant)
    }

    /// The certificate that is asked for, where there is TLS; a device that cannot use TLS is told so before it is let in.
    fn asked(&self, request: &EnrolRequest) -> Result<Option<(Arc<Tls>, Request)>, ControlError> {
        let Some(tls) = &self.inner.tls else { return Ok(None) };
        let Some(csr) = &request.csr else {
            return match tls.settings().plain_mqtt {
                Some(_) => Ok(None),
                None => {
                    Err(ControlError::Invalid("this fleet speaks TLS only: enrol with an agent that asks for a certificate".to_owned()))
                }
            };
        };
        let asked = Request::parse(csr).map_err(|e| ControlError::Invalid(e.to_string()))?;
        Ok(Some((Arc::clone(tls), asked)))
    }

    /// A device that is not in yet. Its token was asked for first: without one, nobody learns which names are taken.
    fn newcomer(
        &self,
        state: &Snapshot,
        request: &EnrolRequest,
        token: &Option<(Digest, Token)>,
        at: Timestamp,
    ) -> Result<Device, ControlError> {
        let name = &request.device;
        if state.fleet.device(name).is_some() {
            return Err(ControlError::Conflict(format!(
                "device {name} is enrolled with another key: choose another name, or remove it first"
            )));
        }
        if self.inner.access.reserved.as_deref() == Some(name.as_str()) {
            return Err(ControlError::Conflict(format!("{name} is the controller's own name at the broker: choose another name")));
        }
        if state.fleet.len() >= MAX_DEVICES {
            return Err(ControlError::Conflict(format!("{MAX_DEVICES} devices are enrolled, which is the bound")));
        }
        let access = &self.inner.access;
        let vouched = token.as_ref().is_some_and(|(_, token)| token.accept);
        let fits = access.accept.as_ref().is_some_and(|selector| selector.matches(&request.labels));
        let admission = if !access.review || vouched || fits { Admission::Accepted } else { Admission::Pending };
        if admission == Admission::Pending && state.fleet.iter().filter(|d| d.admission == Admission::Pending).count() >= MAX_PENDING {
            return Err(ControlError::Conflict(format!(
                "{MAX_PENDING} devices wait to be accepted, which is the bound: decide on some first"
            )));
        }
        let device = Device::new(name.clone(), request.public_key.clone(), request.labels.clone(), at);
        Ok(Device { admission, ..device })
    }

    fn is_known(&self, request: &EnrolRequest) -> bool {
        self.inner.ledger().snapshot.fleet.device(&request.device).is_some_and(|known| known.public_key == request.public_key)
    }

    /// Whether the request answers a challenge of ours. One that was shown is gone, right or wrong.
    fn is_proven(&self, request: &EnrolRequest, key: &PublicKey) -> Result<bool, ControlError> {
        let (Some(challenge), Some(proof)) = (&request.challenge, &request.proof) else { return Ok(false) };
        let mut open = self.inner.access.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.take(challenge, &request.device, &request.public_key, clock::now()) {
            return Ok(false);
        }
        drop(open);
        let message = enrolment::proof(&request.device, &request.public_key, challenge, request.csr.as_deref());
        match Signature::from_hex(proof).is_some_and(|signature| key.verifies(&message, &signature)) {
            true => Ok(true),
            false => Err(ControlError::Forbidden("the proof is not a signature by the device's key over the challenge".to_owned())),
        }
    }

    /// What a device that is in already is asked to sign.
    fn challenge(&self, request: &EnrolRequest, at: Timestamp) -> Result<ControlError, ControlError> {
        let text = secret()?;
        let mut open = self.inner.access.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        open.put(&text, &request.device, &request.public_key, at);
        let secs = challenge::LIFE_MS / 1_000;
        let detail = format!(
            "device {} is enrolled already: prove that you hold its key by signing the challenge, within {secs} seconds",
            request.device
        );
        Ok(ControlError::Prove { detail, challenge: text })
    }

    /// The token after this use; `None` where none is needed.
    fn spend(&self, request: &EnrolRequest, at: Timestamp) -> Result<Option<(Digest, Token)>, ControlError> {
        let Some(text) = &request.token else {
            return match self.inner.access.open_enrolment {
                true => Ok(None),
                false => Err(ControlError::Forbidden("enrolment needs a token: make one with `leeway device token`".to_owned())),
            };
        };
        let hash = Digest::of(text.as_bytes());
        let tokens = self.inner.access.tokens.read().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(&hash).filter(|token| token.uses_left > 0 && token.expires_at > at);
        let token = token
            .ok_or_else(|| ControlError::Forbidden("the enrolment token is unknown, used up or expired: make a new one".to_owned()))?;
        Ok(Some((hash, Token { uses_left: token.uses_left - 1, ..token.clone() })))
    }

    fn welcome(&self, device: DeviceId, password: String, tls: Option<TlsGrant>) -> Result<Enrolled, ControlError> {
        let repository = self.inner.repository();
        let text = |bytes: Option<axum::body::Bytes>| bytes.and_then(|b| String::from_utf8(b.to_vec()).ok());
        let missing = || {
            ControlError::Unavailable("the controller has no root to give: run `leeway keys init` and start it with those keys".to_owned())
        };
        let image_root = text(repository.file("1.root.json")).ok_or_else(missing)?;
        let director_root = text(repository.director_root()).ok_or_else(missing)?;
        let access = &self.inner.access;
        let (host, port) = access.mqtt.clone();
        let mqtt = MqttAccess { host, port, username: device.to_string(), password, tls: access.mqtt_tls };
        let tenant = self.inner.tenant.clone();
        Ok(Enrolled { tenant, device, mqtt, http_base: access.http.clone(), image_root, director_root, tls })
    }
}

/// A device that proved its key, unless it was put out or still waits.
fn returning(known: &Device) -> Result<Device, ControlError> {
    waiting(known)?;
    Ok(known.clone())
}

/// What a device hears that is not in.
fn waiting(device: &Device) -> Result<(), ControlError> {
    match device.admission.sentence(&device.id) {
        None => Ok(()),
        Some(sentence) if device.admission == Admission::Pending => Err(ControlError::Pending { sentence, retry_secs: RETRY_SECS }),
        Some(sentence) => Err(ControlError::Dismissed(sentence)),
    }
}

fn unmade(error: AuthorityError) -> ControlError {
    ControlError::Unavailable(error.to_string())
}

/// The row of the event log.
fn told(state: &Snapshot, device: &Device, way: &Way, issued: Option<&Issued>, at: Timestamp) -> Draft {
    let cohort = state.cohort_of(device).map_or_else(|| "no cohort".to_owned(), |c| format!("cohort {}", c.name));
    let good = issued.map(|issued| format!("; its certificate is good until {}", issued.certificate.not_after)).unwrap_or_default();
    let (kind, sentence) = match way {
        _ if !device.admission.is_in() => ("device.pending", device.admission.sentence(&device.id).unwrap_or_default()),
        Way::Key => ("device.enrolled", format!("{} was enrolled again, by its key, into {cohort}{good}.", device.id)),
        Way::Token(_) => ("device.enrolled", format!("{} was enrolled into {cohort}{good}.", device.id)),
    };
    let serial = issued.map(|issued| &issued.certificate.serial);
    let data = json!({ "labels": device.labels, "public_key": device.public_key, "certificate": serial });
    draft(at, &format!("devices/{}", device.id), kind, format!("devices/{}", device.id), sentence, data)
}
