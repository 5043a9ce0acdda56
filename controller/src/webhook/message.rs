//! What a receiver gets: a CloudEvents 1.0 document, signed as Standard Webhooks 1.0 says.
//!
//! Both are what receivers have libraries for. The signature covers id, moment and body, so that a delivery can neither be
//! changed nor shown again later as a new one; the id is the same for every try of one entry, so that a receiver can tell that it
//! has it already.
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use leeway_protocol::ids::Tenant;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Sha256;

use crate::audit::Event;

/// What every secret begins with, so that receivers' libraries know it.
const PREFIX: &str = "whsec_";
/// Type of the body.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// What deliveries are signed with. Shown once, to whoever makes the webhook; kept as it is, because it signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Of random bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("{PREFIX}{}", BASE64_STANDARD.encode(bytes)))
    }

    /// As the receiver needs it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The signature over one delivery, as it stands in `webhook-signature`.
    pub fn sign(&self, id: &str, at: Timestamp, body: &str) -> String {
        let key = self.0.strip_prefix(PREFIX).and_then(|text| BASE64_STANDARD.decode(text).ok()).unwrap_or_default();
        let seconds = at.as_millis().div_euclid(1_000);
        // A key of any length is a key.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { return String::new() };
        mac.update(format!("{id}.{seconds}.{body}").as_bytes());
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// The name of an entry, the same in every try.
pub fn id(tenant: &Tenant, seq: u64) -> String {
    format!("{tenant}-{seq}")
}

/// The document of an entry.
pub fn body(tenant: &Tenant, event: &Event) -> String {
    let Event { seq, at, actor, kind, subject, sentence, data, prev, hash } = event;
    json!({
        "specversion": "1.0",
        "id": id(tenant, *seq),
        "source": format!("/leeway/{tenant}"),
        "type": format!("leeway.{kind}"),
        "subject": subject,
        "time": at,
        "datacontenttype": "application/json",
        // An extension of CloudEvents: rises with every entry, so that a receiver notices what it missed.
        "sequence": seq.to_string(),
        "data": { "actor": actor, "sentence": sentence, "data": data, "prev": prev, "hash": hash },
    })
    .to_string()
}
