//! What programs send to the controller: refused by name, and it goes on.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use leeway_tests::lesson::teach;
use leeway_tests::release::publish;
use leeway_tests::site::Site;
use serde_json::json;

/// Bytes that no HTTP server and no broker expects.
const RUBBISH: [&[u8]; 5] =
    [b"\0\0\0\0", b"GET / HTTP/9.9\r\n\r\n", b"GET /%ff%00 HTTP/1.1\r\nhost: a\r\n\r\n", &[0x10, 0xff, 0xff, 0xff, 0x7f], &[0xff; 2000]];

#[test]
fn the_api_refuses_by_name_and_goes_on() {
    let site = Site::started("rain");
    site.configure();
    let api = site.api();
    let large = format!("{{\"task\":\"{}\"}}", "x".repeat(400 << 10));
    let key = "0".repeat(64);
    // Method, path, content type, body, status, words of the answer.
    let table: [(&str, &str, &str, &str, u16, &str); 21] = [
        ("PUT", "/api/v1/models/rain", "application/json", "rubbish", 400, "cannot be read"),
        ("PUT", "/api/v1/models/rain", "application/json", "{\"taks\":\"x\"}", 400, "taks"),
        ("PUT", "/api/v1/models/rain", "application/json", "{\"task\":5}", 400, "string"),
        ("PUT", "/api/v1/models/rain", "application/json", &large, 413, "262144"),
        ("PUT", "/api/v1/models/RAIN", "application/json", "{}", 400, "RAIN"),
        ("PUT", "/api/v1/cohorts/x", "application/json", "{\"line\":\"rain\",\"selector\":\"a on b\"}", 400, "a on b"),
        ("POST", "/api/v1/rollouts", "text/plain", "{}", 415, "application/json"),
        (
            "POST",
            "/api/v1/rollouts",
            "application/json",
            "{\"line\":\"rain\",\"version\":\"9\",\"policy\":{\"stages\":[]}}",
            404,
            "no version 9",
        ),
        ("POST", "/api/v1/rollouts/none/explode", "application/json", "{\"reason\":\"x\"}", 404, "explode"),
        ("POST", "/api/v1/tuf/roles/rain", "application/json", "rubbish", 422, "not strict JSON"),
        ("POST", "/api/v1/tuf/roles/nothing", "application/json", "{}", 422, "signatures"),
        ("POST", "/api/v1/tuf/targets", "application/json", "{\"signed\":{},\"signatures\":[]}", 422, ""),
        ("POST", "/api/v1/enrol", "application/json", "{\"device\":\"d\",\"public_key\":\"zz\"}", 422, "public key"),
        ("POST", "/api/v1/enrolment-tokens", "application/json", "{\"name\":\"x\",\"uses\":0,\"ttl_ms\":1}", 422, "uses"),
        ("POST", "/api/v1/training/jobs/none/fail", "application/json", "{\"worker\":\"w\",\"sentence\":\"s\"}", 404, "none"),
        ("GET", "/api/v1/devices?limt=5", "", "", 400, "limt"),
        ("GET", "/api/v1/devices/%2e%2e", "", "", 400, ".."),
        ("GET", "/api/v1/nothing", "", "", 404, ""),
        ("GET", "/blobs/../../../../etc/passwd", "", "", 404, ""),
        ("GET", "/tuf/..%2f..%2fadmin.token", "", "", 404, ""),
        ("POST", "/api/v1/events", "application/json", "{}", 405, "openapi"),
    ];
    let mut wrong = Vec::new();
    for (method, path, kind, body, status, says) in table {
        let answer = match method {
            "GET" => api.get(path),
            "PUT" => api.put_bytes(path, kind, body.as_bytes()),
            _ => api.post_bytes(path, kind, body.as_bytes()),
        };
        let answer = answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        if answer.status != status || !answer.text().contains(says) {
            wrong.push(format!("{method} {path} {body:.60}: {} {}", answer.status, answer.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let enrol = json!({ "device": "d", "public_key": key, "labels": {} });
    assert!(api.post("/api/v1/enrol", &enrol).expect("an answer").status >= 400, "a key that is no point of the curve");
    let strange = Site::new("rain");
    let lesson = teach("rain", "6.6.6", 0..600, "a stranger's");
    let root = std::fs::read(site.root()).expect("the root");
    let refused = publish(&api, &root, &strange.key("release/rain"), &lesson.model, &lesson.manifest).expect_err("a stranger signed it");
    assert!(refused.starts_with("422") && refused.contains("sign"), "{refused}");
    rubbish_on_both_ports(&site);
    site.publish(&teach("rain", "1.0.0", 0..600, "it goes on"));
    assert_eq!(api.get("/readyz").expect("an answer").status, 200);
    site.assert_chain();
    site.assert_calm();
}

fn rubbish_on_both_ports(site: &Site) {
    for port in [site.http(), site.mqtt()] {
        for bytes in RUBBISH {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the port is open");
            stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
            // It may hang up at any moment; that is its right.
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 512]);
        }
    }
}
