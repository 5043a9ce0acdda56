//! The application's names for its requests, as the numbers the recorder keeps.
//!
//! A label may come days later and through another process, so the number must follow from the name alone: a name this runner
//! gave itself *is* the number in hex, any other name is hashed. Numbers it gives start at a random place at every start, so
//! they do not repeat over restarts.
use std::sync::atomic::{AtomicU64, Ordering};

use leeway_protocol::digest::Digest;

/// Gives numbers to requests without a name.
#[derive(Debug)]
pub(super) struct Numbering(AtomicU64);

impl Numbering {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut start = [0; 8];
        getrandom::fill(&mut start).map_err(|e| anyhow::anyhow!("the system gives no random numbers: {e}"))?;
        Ok(Self(AtomicU64::new(u64::from_le_bytes(start))))
    }

    /// A number for a request without a name.
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// The name under which the application can speak of a numbered request.
pub(super) fn name(number: u64) -> String {
    format!("{number:016x}")
}

/// The number of a named request.
pub(super) fn number(name: &str) -> u64 {
    let ours = name.len() == 16 && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if ours && let Ok(number) = u64::from_str_radix(name, 16) {
        return number;
    }
    let digest = Digest::of(name.as_bytes());
    digest.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_numbers() {
        let numbering = Numbering::new().unwrap();
        let (a, b) = (numbering.next(), numbering.next());
        assert_ne!(a, b);
        assert_eq!(number(&name(a)), a);
        assert_eq!(number("order-17"), number("order-17"));
        assert_ne!(number("order-17"), number("order-18"));
        assert_ne!(number("ABCDEF0123456789"), 0xABCD_EF01_2345_6789, "only names this runner writes are read as numbers");
    }
}
