//! Devices with certificates: let in by a person's word, renewed by their key, put out at once; and what they fetch over HTTPS.
use std::collections::BTreeMap;

use leeway_protocol::enrolment;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::trust::keyring::SigningKey;
use serde_json::{Value, json};

use super::site::{Answer, Site};
use crate::io::control::NewEnrolmentToken;
use crate::io::serve::ServeConfig;
use crate::io::tls::TlsSettings;
use crate::io::tls::authority::KeyedCertificate;
use crate::io::tls::tests::Applicant;
use crate::io::web::Limits;

/// A device at the door.
struct Guest {
    name: DeviceId,
    key: SigningKey,
    applicant: Applicant,
}

impl Guest {
    fn new(name: &str, seed: u8) -> Self {
        Self { name: name.parse().unwrap(), key: SigningKey::from_seed(&[seed; 32]), applicant: Applicant::new() }
    }

    async fn ask(&self, site: &Site, more: Value) -> Answer {
        let mut body = json!({ "device": self.name, "public_key": self.key.public().hex(), "csr": self.applicant.csr });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        site.anyone("POST", "/api/v1/enrol", Some(&body.to_string()), &[]).await
    }

    /// By challenge and proof, with a proof over `signed` where another request is sent.
    async fn again(&self, site: &Site, signed: Option<&str>) -> Answer {
        let asked = self.ask(site, json!({})).await;
        assert_eq!(asked.status, 409, "{}", asked.text());
        let challenge = asked.json()["challenge"].as_str().unwrap().to_owned();
        let signed = signed.unwrap_or(&self.applicant.csr);
        let message = enrolment::proof(&self.name, &self.key.public().hex(), &challenge, Some(signed));
        self.ask(site, json!({ "challenge": challenge, "proof": self.key.sign(&message).hex() })).await
    }

    fn card(&self, answer: &Answer) -> KeyedCertificate {
        assert_eq!(answer.status, 200, "{}", answer.text());
        self.applicant.with(answer.json()["tls"]["chain"].as_str().unwrap())
    }
}

async fn secured(change: impl FnOnce(ServeConfig) -> ServeConfig) -> Site {
    let tls = |config: ServeConfig| ServeConfig { tls: Some(TlsSettings::default()), review: true, ..config };
    Site::start_as(Limits::default(), |config| change(tls(config))).await
}

async fn token(site: &Site, accept: bool) -> Value {
    let new = NewEnrolmentToken { name: "test".into(), uses: 9, ttl_ms: 600_000, accept };
    json!({ "token": site.controller().create_enrolment_token(new, "ann").await.unwrap() })
}

/// What the audit trail says about a device.
async fn told(site: &Site, device: &str) -> BTreeMap<String, String> {
    let log = site.anyone("GET", &format!("/api/v1/events?subject=devices/{device}"), None, &[("authorization", &site.bearer())]).await;
    let text = |e: &Value, field: &str| e[field].as_str().unwrap().to_owned();
    log.json()["items"].as_array().unwrap().iter().map(|e| (text(e, "kind"), text(e, "sentence"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_waits_is_accepted_is_renewed_and_is_put_out() {
    let site = secured(|config| config).await;
    let porch = Guest::new("porch", 1);
    let first = porch.ask(&site, token(&site, false).await).await;
    assert_eq!((first.status, &first.json()["state"]), (202, &json!("pending")), "{}", first.text());
    assert!(first.json()["sentence"].as_str().unwrap().contains("leeway device accept porch"));
    assert!(first.json()["retry_secs"].as_u64().unwrap() > 0 && first.json()["tls"].is_null());
    assert_eq!(porch.again(&site, None).await.status, 202, "asking does not help");
    let shown = site.anyone("GET", "/api/v1/devices/porch", None, &[("authorization", &site.bearer())]).await.json();
    assert_eq!(shown["summary"]["phase"], "pending");

    let accepted = site.post("/api/v1/devices/porch/accept", "{}").await;
    assert_eq!(accepted.status, 200, "{}", accepted.text());
    assert_eq!(site.post("/api/v1/devices/porch/accept", "{}").await.status, 409, "once");
    let answer = porch.again(&site, None).await;
    let card = porch.card(&answer);
    let granted = answer.json();
    assert_eq!((&granted["tls"]["ca"], &granted["mqtt"]["tls"]), (&json!(site.ca().unwrap()), &json!(true)));
    assert!(granted["http_base"].as_str().unwrap().starts_with("https://"));
    assert_eq!(site.showing(&card, "/tuf/timestamp.json").await.unwrap().status, 200);

    // Renewed by the key, with a new key for TLS each time; the former certificate goes on until it is over.
    let renewing = Guest { applicant: Applicant::new(), ..Guest::new("porch", 1) };
    let newer = renewing.card(&renewing.again(&site, None).await);
    for card in [&card, &newer] {
        assert_eq!(site.showing(card, "/tuf/timestamp.json").await.unwrap().status, 200);
    }
    let swapped = renewing.again(&site, Some(&porch.applicant.csr)).await;
    assert_eq!(swapped.status, 422, "the proof covers the request: {}", swapped.text());

    let unsaid = site.post("/api/v1/devices/porch/revoke", r#"{"reason":" "}"#).await;
    assert_eq!(unsaid.status, 422, "{}", unsaid.text());
    let revoked = site.post("/api/v1/devices/porch/revoke", r#"{"reason":"stolen from the porch"}"#).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    for card in [&card, &newer] {
        let refused = site.showing(card, "/tuf/timestamp.json").await.unwrap();
        assert_eq!((refused.status, refused.text().contains("stolen from the porch")), (403, true), "{}", refused.text());
    }
    let refused = renewing.again(&site, None).await;
    assert_eq!((refused.status, &refused.json()["type"]), (403, &json!("/problems/device-refused")));
    assert!(refused.text().contains("stolen from the porch"), "{}", refused.text());
    assert_eq!(site.post("/api/v1/devices/porch/accept", "{}").await.status, 409, "for good");
    assert!(site.revoked().contains("BEGIN X509 CRL"));

    let log = told(&site, "porch").await;
    for (kind, says) in [("device.pending", "waits"), ("device.accepted", "admin"), ("device.revoked", "stolen from the porch")] {
        assert!(log[kind].contains(says), "{log:?}");
    }
    // Removed, and enrolled anew with another key: certificates of the earlier life stay dead.
    assert_eq!(site.post("/api/v1/devices/porch/remove", r#"{"reason":"new board"}"#).await.status, 204);
    let anew = Guest::new("porch", 2);
    let fresh = anew.card(&anew.ask(&site, token(&site, true).await).await);
    assert_eq!(site.showing(&fresh, "/tuf/timestamp.json").await.unwrap().status, 200);
    assert_eq!(site.showing(&newer, "/tuf/timestamp.json").await.unwrap().status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_accepts_and_a_person_refuses() {
    let site = secured(|config| ServeConfig { accept: Some("site=lab".parse().unwrap()), ..config }).await;
    let plain = token(&site, false).await;
    let with = |labels: Value| json!({ "token": plain["token"], "labels": labels });
    let table = [
        ("lab", with(json!({ "site": "lab" })), 200),
        ("field", with(json!({ "site": "field" })), 202),
        ("vouched", token(&site, true).await, 200),
    ];
    for (seed, (name, body, status)) in table.into_iter().enumerate() {
        let answer = Guest::new(name, seed as u8).ask(&site, body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    let refused = site.post("/api/v1/devices/field/refuse", r#"{"reason":"nobody knows it"}"#).await;
    assert_eq!(refused.status, 200, "{}", refused.text());
    let answer = Guest::new("field", 1).again(&site, None).await;
    assert_eq!((answer.status, answer.text().contains("nobody knows it")), (403, true), "{}", answer.text());
    assert_eq!(site.post("/api/v1/devices/lab/refuse", r#"{"reason":"x"}"#).await.status, 409, "who is in is revoked, not refused");
    assert_eq!(site.post("/api/v1/devices/field/accept", r#"{"reason":"found it"}"#).await.status, 200, "a person may think again");
    assert_eq!(Guest::new("field", 1).again(&site, None).await.status, 200);
    assert_eq!(site.post("/api/v1/devices/nobody/accept", "{}").await.status, 404);
    // What comes without a request for a certificate, where there is nothing but TLS.
    let bare = json!({ "device": "bare", "public_key": SigningKey::from_seed(&[9; 32]).public().hex(), "token": plain["token"] });
    let answer = site.anyone("POST", "/api/v1/enrol", Some(&bare.to_string()), &[]).await;
    assert_eq!((answer.status, answer.text().contains("TLS only")), (422, true), "{}", answer.text());
    let rubbish = Guest { applicant: Applicant { csr: "rubbish".into(), key: Applicant::new().key }, ..Guest::new("rubbish", 8) };
    assert_eq!(rubbish.ask(&site, plain.clone()).await.status, 422);
    assert_eq!(site.controller().snapshot().fleet.len(), 3, "neither is in");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_devices_fetch_needs_a_certificate_or_a_token() {
    let site = secured(|config| config).await;
    let stranger = secured(|config| config).await;
    let (own, foreign) = (Guest::new("porch", 1), Guest::new("porch", 2));
    let card = own.card(&own.ask(&site, token(&site, true).await).await);
    let of_another = foreign.card(&foreign.ask(&stranger, token(&stranger, true).await).await);
    let bearer = site.bearer();
    for path in ["/tuf/timestamp.json", "/tuf/director/1.root.json"] {
        assert_eq!(site.showing(&card, path).await.unwrap().status, 200, "{path}");
        assert_eq!(site.anyone("GET", path, None, &[("authorization", &bearer)]).await.status, 200, "{path}");
        let nobody = site.get(path).await;
        assert_eq!((nobody.status, nobody.text().contains("enrol first")), (403, true), "{path}: {}", nobody.text());
        let error = site.showing(&of_another, path).await.map(|answer| answer.status);
        assert!(error.is_err(), "another authority's certificate gets no answer: {error:?}");
    }
    let over = site.controller().inner.tls.as_ref().unwrap();
    let asked = crate::io::tls::authority::Request::parse(&own.applicant.csr).unwrap();
    let late =
        over.authority().device(site.controller().tenant(), &own.name, &asked, crate::io::clock::now().plus_secs(-1_000), 500).unwrap();
    assert!(site.showing(&own.applicant.with(&late.chain), "/tuf/timestamp.json").await.is_err(), "one that is over gets none either");
    assert_eq!(site.showing(&card, "/api/v1/tokens").await.unwrap().status, 401, "a device's certificate is no token");
    // Somebody without TLS is not answered, and harms nobody.
    let plain = ureq::get(format!("http://{}/livez", site.addr())).call();
    assert!(plain.is_err());
    assert_eq!(site.get("/livez").await.status, 200);
}
