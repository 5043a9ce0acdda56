//! Too often, too much, too slow: each is refused with how long to wait, and nobody else notices.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::site::{PATIENCE, Site};
use crate::access::allowance::Rate;
use crate::io::web::Limits;

const FEW: Rate = Rate { burst: 3, refill_ms: 600_000 };

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_told_to_wait_and_right_ones_never() {
    let site = Site::start_as(Limits { wrong_tokens: FEW, ..Limits::default() }, |config| config).await;
    let wrong = [("authorization", "Bearer wrong")];
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(site.anyone("GET", "/api/v1/fleet", None, &wrong).await.status, 401);
    assert_eq!(site.send("POST", "/login", Some(b"token=no".to_vec()), &form).await.status, 401);
    let key = leeway_protocol::trust::keyring::SigningKey::from_seed(&[9; 32]).public().hex();
    let enrol = format!(r#"{{"device":"d1","public_key":"{key}","token":"guess"}}"#);
    assert_eq!(site.anyone("POST", "/api/v1/enrol", Some(&enrol), &[]).await.status, 422);
    for (what, answer) in [
        ("a token", site.anyone("GET", "/api/v1/fleet", None, &wrong).await),
        ("an enrolment", site.anyone("POST", "/api/v1/enrol", Some(&enrol), &[]).await),
    ] {
        assert_eq!((answer.status, answer.json()["type"].as_str().unwrap()), (429, "/problems/too-many"), "{what}");
        let secs: u64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=600).contains(&secs) && answer.text().contains(&format!("wait {secs} seconds")), "{what}: {}", answer.text());
    }
    let form = site.send("POST", "/login", Some(b"token=no".to_vec()), &form).await;
    assert_eq!((form.status, form.header("retry-after").is_empty()), (429, false));
    assert!(form.text().contains("<html") && form.text().contains("wait"), "a person is told on a page");
    assert_eq!(site.get("/problems/too-many").await.status, 200);
    let right = site.bearer();
    assert_eq!(
        site.anyone("GET", "/api/v1/tokens", None, &[("authorization", &right)]).await.status,
        200,
        "the operator is not locked out"
    );
    assert!(!site.sign_in().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doors_that_open_without_a_token_are_counted() {
    let site = Site::start_as(Limits { open_doors: FEW, ..Limits::default() }, |config| config).await;
    for n in 0..5 {
        let answer = site.anyone("POST", "/api/v1/enrol", Some("{}"), &[]).await;
        assert_eq!(answer.status, if n < 3 { 400 } else { 429 }, "{}", answer.text());
        assert_eq!(answer.header("retry-after").is_empty(), n < 3);
    }
    let link = site.get("/login?token=x").await;
    assert_eq!(link.status, 429, "signing in goes through the same door");
    assert_eq!(site.get("/login").await.status, 200, "to look at the form is free");
    assert_eq!(site.get("/tuf/timestamp.json").await.status, 200, "devices fetch on");
    assert_eq!(site.get("/api/v1/fleet").await.status, 200);
}

/// Begin a request and send some of its body.
fn begin(site: &Site, path: &str, head: &str, some: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(site.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 4096\r\n{head}\r\n", site.addr()).unwrap();
    stream.write_all(some).unwrap();
    stream
}

fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let limits = Limits { body_grace: Duration::from_millis(300), ..Limits::default() };
    let site = Site::start_as(limits, |config| config).await;
    let json = "content-type: application/json\r\n";
    let auth = format!("authorization: {}\r\n", site.bearer());
    for (path, head) in [
        ("/api/v1/enrol", json.to_owned()),
        ("/api/v1/rollouts", format!("{json}{auth}")),
        ("/api/v1/blobs", auth),
        ("/login", String::new()),
    ] {
        let stream = begin(&site, path, &head, b"{");
        let answer = tokio::task::spawn_blocking(move || rest(stream)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408"), "{path}: {answer}");
        assert!(answer.contains("too slowly"), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_place_is_taken_one_is_told_so_and_strangers_take_none() {
    let limits = Limits { requests: 1, strangers: 1, body_grace: PATIENCE, ..Limits::default() };
    let site = Site::start_as(limits, |config| config).await;
    let json = "content-type: application/json\r\n";
    let stranger = begin(&site, "/api/v1/enrol", json, b"{");
    until("the stranger's place is taken", async || site.anyone("POST", "/api/v1/enrol", Some("{}"), &[]).await.status == 503).await;
    assert_eq!(site.get("/api/v1/fleet").await.status, 200, "others have a place of their own");
    let held = begin(&site, "/api/v1/rollouts", &format!("{json}authorization: {}\r\n", site.bearer()), b"{");
    until("the place is taken", async || site.get("/api/v1/fleet").await.status == 503).await;
    let busy = site.get("/api/v1/fleet").await;
    assert_eq!((busy.header("retry-after").as_str(), busy.json()["type"].as_str()), ("1", Some("/problems/busy")));
    assert_eq!(site.get("/livez").await.status, 200, "that it lives can always be asked");
    drop((stranger, held));
    until("places are given back", async || site.get("/api/v1/fleet").await.status == 200).await;
    assert_eq!(site.anyone("POST", "/api/v1/enrol", Some("{}"), &[]).await.status, 400);
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_has_a_bound_of_its_own() {
    let site = Site::start().await;
    let bearer = site.bearer();
    let (json, form) = (("content-type", "application/json"), ("content-type", "application/x-www-form-urlencoded"));
    let auth = ("authorization", bearer.as_str());
    // (path, headers, the largest body that is read)
    let table: [(&str, &[(&str, &str)], usize); 8] = [
        ("/api/v1/enrol", &[json], 16 << 10),
        ("/login", &[form], 4 << 10),
        ("/rollouts/x/abort", &[form, auth], 8 << 10),
        ("/api/v1/rollouts", &[json, auth], 256 << 10),
        ("/api/v1/tokens", &[json, auth], 256 << 10),
        ("/api/v1/tuf/roles/rain", &[json, auth], 4 << 20),
        ("/api/v1/tuf/targets", &[json, auth], 4 << 20),
        ("/api/v1/tuf/roots/image", &[json, auth], 4 << 20),
    ];
    for (path, headers, most) in table {
        let answer = site.send("POST", path, Some(vec![b' '; most + 1]), headers).await;
        assert_eq!(answer.status, 413, "{path}: {}", answer.text());
        assert!(answer.text().contains(&most.to_string()), "{path} says its bound: {}", answer.text());
        let fits = site.send("POST", path, Some(vec![b' '; most]), headers).await;
        assert_ne!(fits.status, 413, "{path}: {}", fits.text());
    }
}

/// Send a request whose second half comes a little later, and read the head of the answer.
fn in_two_halves(stream: &mut TcpStream, head: &str, len: usize) -> String {
    let body = vec![b' '; len];
    let (first, second) = body.split_at(len / 2 + len / 4);
    write!(stream, "{head}content-length: {len}\r\n\r\n").unwrap();
    stream.write_all(first).unwrap();
    // Long enough for a server that hangs up on who is still sending to do so.
    std::thread::sleep(Duration::from_millis(100));
    let _ = stream.write_all(second);
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        text.push(char::from(byte[0]));
    }
    let len = text.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|len| len.parse().ok());
    let mut body = vec![0; len.unwrap_or_default()];
    let _ = stream.read_exact(&mut body);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_while_still_sending_hears_why_and_goes_on() {
    let site = Site::start().await;
    let (addr, bearer) = (site.addr(), site.bearer());
    let json = "content-type: application/json\r\n";
    // (method and path, headers, bytes, status, whether the connection stays)
    let table = [
        ("PUT /api/v1/models/rain", format!("{json}authorization: {bearer}\r\n"), 400 << 10, "413", true),
        ("PUT /api/v1/models/rain", json.to_owned(), 400 << 10, "401", true),
        ("POST /api/v1/nothing", format!("authorization: {bearer}\r\n"), 400 << 10, "404", true),
        ("POST /api/v1/events", format!("authorization: {bearer}\r\n"), 400 << 10, "405", true),
        ("POST /api/v1/enrol", "content-type: text/plain\r\n".to_owned(), 400 << 10, "415", true),
        ("POST /login", String::new(), 400 << 10, "413", true),
        ("PUT /api/v1/models/rain", format!("{json}authorization: {bearer}\r\n"), 2 << 20, "413", false),
    ];
    tokio::task::spawn_blocking(move || {
        for (asked, headers, len, status, stays) in table {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let answer = in_two_halves(&mut stream, &format!("{asked} HTTP/1.1\r\nhost: {addr}\r\n{headers}"), len);
            if stays || !answer.is_empty() {
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{asked}, {len} bytes: {answer}");
                assert_eq!(answer.contains("connection: close"), !stays, "{asked}, {len} bytes: {answer}");
            }
            if stays {
                let next = in_two_halves(&mut stream, &format!("GET /livez HTTP/1.1\r\nhost: {addr}\r\n"), 0);
                assert!(next.starts_with("HTTP/1.1 200"), "after {asked}: {next}");
            }
        }
        let mut polite = TcpStream::connect(addr).unwrap();
        polite.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(polite, "POST /api/v1/blobs HTTP/1.1\r\nhost: {addr}\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n").unwrap();
        let answer = rest(polite);
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("connection: close"), "not asked to send it first: {answer}");
    })
    .await
    .unwrap();
}
