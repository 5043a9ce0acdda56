//! The live stream is cut twenty times while versions are rolled out; whoever resumes by number misses nothing and gets nothing
//! twice, and has in the end exactly what the audit trail holds.
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use leeway_controller::io::web::resource::event::{Event, Frame};
use leeway_firmware_sim::rng::Rng;
use leeway_tests::harness::PATIENCE;
use leeway_tests::lesson::teach;
use leeway_tests::site::Site;
use leeway_tests::stations::stations;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// Cuts.
const CUTS: u64 = 20;
/// Entries read before a cut, at most: some cuts come while the past is sent, some while nothing has happened yet.
const MAX_READ: u64 = 6;
/// Stations, for something to happen.
const STATIONS: u32 = 9;

#[test]
fn a_stream_that_is_cut_twenty_times_has_no_gap_and_no_duplicate() {
    let site = Site::started("rain");
    site.configure();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let fleet = runtime.block_on(stations(&site, STATIONS, 2_000));
    fleet.aim_for(usize::MAX);
    for version in ["1.0.0", "2.0.0"] {
        site.publish(&teach("rain", version, 0..900, "a story of the tests"));
    }
    let (mut rng, mut heard) = (Rng::new(20), Vec::new());
    let first = site.roll_out("1.0.0");
    for _ in 0..CUTS / 2 {
        listen(&site, &mut heard, rng.below(MAX_READ));
    }
    assert_eq!(site.until_over(&first), "completed");
    let second = site.roll_out("2.0.0");
    for _ in CUTS / 2..CUTS {
        listen(&site, &mut heard, rng.below(MAX_READ));
    }
    assert_eq!(site.until_over(&second), "completed");
    fleet.pause();

    let newest = site.events(0).len();
    let left = newest - heard.len();
    listen(&site, &mut heard, left as u64);
    for (index, event) in heard.iter().enumerate() {
        assert_eq!(event.seq, index as u64 + 1, "a gap or a duplicate after {CUTS} cuts");
    }
    assert_eq!(heard[..newest], site.events(0)[..newest], "the stream and the audit trail are one");
    assert!(newest > 60, "only {newest} entries: too few to cut between");
    println!("{newest} entries over {CUTS} cuts");
    runtime.block_on(fleet.shutdown());
    site.assert_chain();
    site.assert_calm();
}

/// Resume after the last entry heard, hear `count` more, and tear the connection down in the middle of whatever comes next.
fn listen(site: &Site, heard: &mut Vec<Event>, count: u64) {
    let since = heard.last().map_or(0, |event| event.seq);
    let (mut socket, stream) = connect(site, since);
    let mut left = count;
    let mut greeted = false;
    while left > 0 {
        let text = match socket.read().expect("the stream goes on") {
            Message::Text(text) => text,
            _ => continue,
        };
        match serde_json::from_str::<Frame>(&text).expect("a frame") {
            Frame::Hello { seq, .. } => {
                assert!(!greeted && seq >= since, "hello at {seq} after {since}");
                greeted = true;
            }
            Frame::Event { seq, event } => {
                assert!(greeted, "an entry before the greeting");
                assert_eq!(seq, event.seq);
                heard.push(event);
                left -= 1;
            }
            Frame::Bookmark { .. } => {}
            frame => panic!("{frame:?}"),
        }
    }
    // No goodbye: a cable that is pulled.
    stream.shutdown(Shutdown::Both).expect("a cut");
}

fn connect(site: &Site, since: u64) -> (WebSocket<TcpStream>, TcpStream) {
    let address = format!("127.0.0.1:{}", site.http());
    let mut request = format!("ws://{address}/api/v1/stream?since={since}").into_client_request().expect("a request");
    let token = format!("Bearer {}", site.api().token());
    request.headers_mut().insert("authorization", token.parse().expect("a header"));
    request.headers_mut().insert("sec-websocket-protocol", "leeway.v1".parse().expect("a header"));
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE.min(Duration::from_secs(60)))).expect("a timeout");
    let cable = stream.try_clone().expect("its other end");
    let (socket, _) = client(request, stream).expect("a WebSocket");
    (socket, cable)
}
