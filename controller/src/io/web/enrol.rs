//! Letting devices in.
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use leeway_protocol::ids::DeviceId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Web;
use super::error::{Problem, ProblemBody};
use super::extract::{Json as Body, SmallJson as Small, name};
use super::guard::By;
use super::limits::Asker;
use crate::io::control::{ControlError, EnrolRequest, NewEnrolmentToken};

/// What a device sends to be let in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Enrol {
    /// The name it wants.
    device: String,
    /// Its ed25519 public key, 64 hex digits.
    public_key: String,
    /// What cohorts select by.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// The enrolment token; not needed where enrolment is open.
    #[serde(default)]
    token: Option<String>,
    /// What a first try was told to sign.
    #[serde(default)]
    challenge: Option<String>,
    /// Its signature over name, key, challenge and request for a certificate, in hex; needed, instead of a token, to enrol a name
    /// again.
    #[serde(default)]
    proof: Option<String>,
    /// A request for a certificate (PEM, PKCS#10), where the controller speaks TLS. Only its public key counts.
    #[serde(default)]
    csr: Option<String>,
}

/// What a device hears that waits to be accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pending {
    /// `pending`.
    state: &'static str,
    /// What it waits for.
    sentence: String,
    /// Seconds after which it may ask again, by challenge and proof.
    retry_secs: u64,
}

/// What a token for enrolment should be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// What it is for, for the audit trail.
    name: String,
    /// How often it may be used.
    #[serde(default = "once")]
    uses: u32,
    /// How long it is good for, milliseconds.
    ttl_ms: i64,
    /// Whether devices that bring it need nobody's word.
    #[serde(default)]
    accept: bool,
}

fn once() -> u32 {
    1
}

/// A token for enrolment; shown once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Token {
    /// Hand it to the device.
    token: String,
}

/// Enrol a device. The answer holds its broker secret, and with TLS its certificate: they are given out once. A device that is
/// enrolled already is answered 409 with a `challenge`; with its signature over that it gets new ones, and needs no token. So it
/// renews its certificate, also one that is over. One that nobody has accepted yet is answered 202.
#[utoipa::path(post, path = "/api/v1/enrol", tag = "devices", operation_id = "enrol", request_body = Enrol, responses((status = 200, description = "How to connect, and the roots to trust", body = Object), (status = 202, description = "It waits to be accepted", body = Pending), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn enrol(State(web): State<Web>, asker: Asker, Small(ask): Small<Enrol>) -> Result<Response, Problem> {
    let request = EnrolRequest {
        device: name::<DeviceId>(&ask.device)?,
        public_key: ask.public_key,
        labels: ask.labels,
        token: ask.token,
        challenge: ask.challenge,
        proof: ask.proof,
        csr: ask.csr,
    };
    match web.controller().enrol(request).await {
        Ok(enrolled) => Ok(Json(enrolled).into_response()),
        Err(ControlError::Pending { sentence, retry_secs }) => {
            Ok((StatusCode::ACCEPTED, Json(Pending { state: "pending", sentence, retry_secs })).into_response())
        }
        Err(error @ ControlError::Forbidden(_)) => Err(web.limits().wrong(asker.0, web.now(), error.into())),
        Err(other) => Err(other.into()),
    }
}

/// Make a token for enrolment.
#[utoipa::path(post, path = "/api/v1/enrolment-tokens", tag = "devices", operation_id = "createEnrolmentToken", request_body = NewToken, responses((status = 200, body = Token), (status = "4XX", body = ProblemBody, content_type = "application/problem+json")))]
pub(super) async fn token(State(web): State<Web>, By(by): By, Body(new): Body<NewToken>) -> Result<Json<Token>, Problem> {
    let NewToken { name, uses, ttl_ms, accept } = new;
    let new = NewEnrolmentToken { name, uses, ttl_ms, accept };
    Ok(Json(Token { token: web.controller().create_enrolment_token(new, &by).await? }))
}
