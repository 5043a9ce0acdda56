//! Bytes from outside at every entrance, without a fuzzer: the committed corpus and seeded mutations of it.
//!
//! The fuzz targets in `tests/fuzz` look for new ways to fail and need a nightly compiler; this test holds on every machine what they
//! check, with the same entrances. What stays true: every document of the corpus is tried as it is, and what our own code makes
//! today is in the corpus; the mutations are the same in every run, so a red one stays red until it is mended.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

#[path = "../fuzz/entrances/certificate.rs"]
mod certificate;
#[path = "../fuzz/entrances/configuration.rs"]
mod configuration;
#[path = "../fuzz/entrances/director.rs"]
mod director;
#[path = "../fuzz/entrances/envelope.rs"]
mod envelope;
#[path = "../fuzz/entrances/onnx_prescan.rs"]
mod onnx_prescan;
#[path = "../fuzz/entrances/request.rs"]
mod request;
#[path = "../fuzz/entrances/selector.rs"]
mod selector;
#[path = "../fuzz/entrances/tuf_metadata.rs"]
mod tuf_metadata;

/// Mutations of each corpus.
const MUTATIONS: u64 = 2_000;
/// The longest document made by mutation; the bounds of the entrances lie at some of these sizes.
const MAX_BYTES: usize = 128 << 10;
/// Set it to write what our own code makes today into the corpus.
const WRITE: &str = "LEEWAY_WRITE_CORPUS";

type Documents = Vec<(String, Vec<u8>)>;

fn folder(entrance: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(entrance)
}

/// The committed corpus; it must hold what our own code makes today.
fn corpus(entrance: &str, honest: &Documents) -> Vec<Vec<u8>> {
    let folder = folder(entrance);
    if std::env::var_os(WRITE).is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        honest.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    }
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let files: BTreeMap<String, Vec<u8>> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).unwrap()))
        .collect();
    for (name, bytes) in honest {
        assert_eq!(files.get(name), Some(bytes), "{entrance}/{name} is not what our code makes: run this test with {WRITE}=1");
    }
    files.into_values().collect()
}

/// One to eight small wounds.
fn mutate(rng: &mut ChaCha8Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut below = |n: usize| if n == 0 { 0 } else { (rng.next_u64() % n as u64) as usize };
    let mut bytes = corpus[below(corpus.len())].clone();
    for _ in 0..=below(8) {
        let at = below(bytes.len() + 1);
        let end = (at + below(64)).min(bytes.len());
        match below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << below(8),
            1 if at < bytes.len() => bytes[at] = below(256) as u8,
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, [0x80, 0xff, 0xff, 0xff, 0x0f].into_iter().take(1 + below(5)))),
            5 => {
                let again = bytes[at..end].to_vec();
                let copies = 1 + below(20);
                drop(bytes.splice(at..at, again.repeat(copies)));
            }
            6 => {
                let other = &corpus[below(corpus.len())];
                let from = below(other.len() + 1);
                drop(bytes.splice(at.., other[from..].iter().copied()));
            }
            7 => {
                let words: [&[u8]; 12] =
                    [b"{", b"}", b"[", b"\"", b",", b"-1", b"1e999", b"null", b"18446744073709551616", b"\\ud800", b"\0", b"0"];
                drop(bytes.splice(at..end, words[below(words.len())].iter().copied()));
            }
            _ => {
                if let Some(digit) = bytes.iter_mut().skip(at).find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + below(10) as u8;
                }
            }
        }
        bytes.truncate(MAX_BYTES);
    }
    bytes
}

fn besiege(name: &str, enter: fn(&[u8]), honest: &Documents) {
    let corpus = corpus(name, honest);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    corpus.iter().for_each(|bytes| enter(bytes));
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    for number in 0..MUTATIONS {
        let bytes = mutate(&mut rng, &corpus);
        let entered = std::panic::catch_unwind(|| enter(&bytes));
        assert!(entered.is_ok(), "mutation {number} of {name} made it fail: {}", String::from_utf8_lossy(&bytes).escape_debug());
    }
}

#[test]
fn tuf_metadata_bears_any_bytes() {
    besiege("tuf_metadata", tuf_metadata::enter, &tuf_metadata::honest());
}

#[test]
fn directors_documents_bear_any_bytes() {
    besiege("director", director::enter, &director::honest());
}

#[test]
fn envelopes_bear_any_bytes() {
    besiege("envelope", envelope::enter, &envelope::honest());
}

#[test]
fn models_bear_any_bytes() {
    besiege("onnx_prescan", onnx_prescan::enter, &onnx_prescan::honest());
}

#[test]
fn requests_bear_any_bytes() {
    besiege("request", request::enter, &request::honest());
}

#[test]
fn selectors_bear_any_bytes() {
    besiege("selector", selector::enter, &selector::honest());
}

#[test]
fn configurations_bear_any_bytes() {
    besiege("configuration", configuration::enter, &configuration::honest());
}

#[test]
fn certificates_and_requests_for_them_bear_any_bytes() {
    besiege("certificate", certificate::enter, &certificate::honest());
}
