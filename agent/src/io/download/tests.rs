//! Downloads against a small server with bad manners.
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;

use super::*;
use crate::action::Repository;

/// How the server behaves.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Good,
    NoRanges,
    BreaksOff,
    FlipsAByte,
    OtherLength,
    NotFound,
}

/// A server on a free port; answers until the test ends.
fn serve(content: Vec<u8>, manners: Manners) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut range = None;
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    let (from, to) = value.trim().split_once('-').unwrap();
                    range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()));
                }
                line.clear();
            }
            let mut body = content.clone();
            if manners == Manners::FlipsAByte {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            if manners == Manners::OtherLength {
                body.push(0);
            }
            let total = body.len();
            let (status, extra) = match (manners, range) {
                (Manners::NotFound, _) => ("404 Not Found", String::new()),
                (Manners::NoRanges, _) | (_, None) => ("200 OK", String::new()),
                (_, Some((from, to))) => {
                    body = body[from..=to.min(total - 1)].to_vec();
                    ("206 Partial Content", format!("Content-Range: bytes {from}-{to}/{total}\r\n"))
                }
            };
            let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let sent = if manners == Manners::BreaksOff { body.len() / 2 } else { body.len() };
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..sent])));
        }
    });
    base
}

fn worker(base: String) -> Worker {
    let (events, _) = tokio::sync::mpsc::channel(1);
    let source = Arc::new(RwLock::new(Source { http: agent(None), base }));
    Worker { source, events, cancelled: Arc::new(AtomicU64::new(0)) }
}

fn content() -> Vec<u8> {
    (0..300_000u32).map(|n| (n % 251) as u8).collect()
}

#[test]
fn blobs_arrive_whole_or_not_at_all() {
    let content = content();
    let digest = Digest::of(&content);
    let length = content.len() as u64;
    let table = [
        (Manners::Good, None),
        (Manners::NoRanges, None),
        (Manners::BreaksOff, Some("Network")),
        (Manners::FlipsAByte, Some("Digest")),
        (Manners::OtherLength, Some("Length")),
        (Manners::NotFound, Some("404")),
    ];
    for (manners, failure) in table {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.part");
        let worker = worker(serve(content.clone(), manners));
        let got = worker.blob(FetchId(1), digest, length, &path, true);
        match failure {
            None => {
                assert_eq!(got, Ok(()));
                assert_eq!(std::fs::read(&path).unwrap(), content);
            }
            Some(text) => {
                let got = format!("{:?}", got.unwrap_err());
                assert!(got.contains(text), "{got}");
                assert_eq!(path.exists(), matches!(manners, Manners::BreaksOff | Manners::NotFound), "{got}");
            }
        }
    }
}

#[test]
fn a_broken_off_download_goes_on_where_it_was_and_what_is_there_is_digested_again() {
    let content = content();
    let (digest, length) = (Digest::of(&content), content.len() as u64);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.part");
    let rude = worker(serve(content.clone(), Manners::BreaksOff));
    assert!(rude.blob(FetchId(1), digest, length, &path, true).is_err());
    let have = std::fs::metadata(&path).unwrap().len();
    assert!(have > 0 && have < length);
    let good = worker(serve(content.clone(), Manners::Good));
    assert_eq!(good.blob(FetchId(2), digest, length, &path, true), Ok(()));

    for rubbish in [vec![7; 1000], vec![7; 400_000]] {
        std::fs::write(&path, &rubbish).unwrap();
        let got = good.blob(FetchId(3), digest, length, &path, true);
        let too_long = rubbish.len() as u64 > length;
        assert_eq!(got.is_ok(), too_long, "a wrong beginning is found at the end, a file that is too long at once");
        assert_eq!(good.blob(FetchId(4), digest, length, &path, true), Ok(()), "the next try starts over");
    }
    std::fs::write(&path, b"old").unwrap();
    assert_eq!(good.blob(FetchId(5), digest, length, &path, false), Ok(()), "told to start over");
}

#[test]
fn a_cancelled_download_ends_and_nobody_listening_is_an_answer() {
    let content = content();
    let (digest, length) = (Digest::of(&content), content.len() as u64);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.part");
    let good = worker(serve(content, Manners::Good));
    good.cancelled.store(7, Ordering::Relaxed);
    assert!(matches!(good.blob(FetchId(7), digest, length, &path, true), Err(BlobFailure::Network(why)) if why.contains("newer")));
    assert_eq!(good.blob(FetchId(8), digest, length, &path, true), Ok(()));
    let nobody = worker("http://127.0.0.1:1".to_owned());
    assert!(matches!(nobody.blob(FetchId(1), digest, length, &path.with_extension("2"), true), Err(BlobFailure::Network(_))));
    let missing = dir.path().join("no").join("such");
    assert!(matches!(nobody.blob(FetchId(1), digest, length, &missing, true), Err(BlobFailure::Disk(_))));
}

#[test]
fn metadata_is_bounded_and_absence_is_an_answer() {
    let file = MetadataFile { repository: Repository::Image, name: "timestamp.json".to_owned() };
    let good = worker(serve(vec![1; 1000], Manners::Good));
    assert_eq!(good.metadata(&file, 1000).unwrap(), Fetched::Bytes(vec![1; 1000]));
    assert_eq!(good.metadata(&file, 10).unwrap(), Fetched::Bytes(vec![1; 11]));
    let none = worker(serve(vec![], Manners::NotFound));
    assert_eq!(none.metadata(&file, 10).unwrap(), Fetched::Absent);
}

#[test]
fn a_download_that_was_whole_and_never_said_to_be_synced_is_begun_anew() {
    use std::os::unix::fs::MetadataExt as _;
    let content = content();
    let (digest, length) = (Digest::of(&content), content.len() as u64);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.part");
    std::fs::write(&path, &content).unwrap();
    let tainted = std::fs::File::open(&path).unwrap();
    let good = worker(serve(content.clone(), Manners::Good));
    assert_eq!(good.blob(FetchId(1), digest, length, &path, true), Ok(()));
    assert_ne!(tainted.metadata().unwrap().ino(), std::fs::metadata(&path).unwrap().ino(), "a second sync of the same file proves nothing");
    assert_eq!(std::fs::read(&path).unwrap(), content);
}
