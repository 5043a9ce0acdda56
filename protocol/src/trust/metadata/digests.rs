//! The digests that metadata lists for a file, and the check of a file against them while it streams in.
//!
//! SHA-256 is what Leeway writes; SHA-512 is read because other tools write it, some of them alone. What stays true: every
//! digest of a kind we know must match, at least one must be there, and one that cannot be read makes the list unreadable.
use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256, Sha512};

use crate::digest::Digest;
use crate::trust::keyring::bytes_of_hex;

/// What a file's bytes must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    sha256: Option<Digest>,
    sha512: Option<[u8; 64]>,
}

impl Digests {
    /// From digests by algorithm, as metadata lists them; `None` if none of them is of a known kind, or one of them is no digest.
    pub fn read(listed: &BTreeMap<String, String>) -> Option<Self> {
        let sha256 = listed.get("sha256").map(|hex| Digest::from_hex(hex)).transpose().ok()?;
        let sha512 = match listed.get("sha512") {
            Some(hex) => Some(bytes_of_hex(hex)?.try_into().ok()?),
            None => None,
        };
        (sha256.is_some() || sha512.is_some()).then_some(Self { sha256, sha512 })
    }

    /// The SHA-256, if that is listed.
    pub fn sha256(&self) -> Option<Digest> {
        self.sha256
    }

    /// The digest in hex by which a repository with consistent snapshots names the file.
    pub fn prefix(&self) -> String {
        use std::fmt::Write as _;
        self.sha256.map(|digest| digest.hex()).unwrap_or_else(|| {
            self.sha512.iter().flatten().fold(String::with_capacity(128), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        })
    }

    /// Begin a check.
    pub fn check(&self) -> DigestCheck {
        let want = self.clone();
        DigestCheck { sha256: self.sha256.map(|_| Sha256::new()), sha512: self.sha512.map(|_| Sha512::new()), want }
    }

    /// Do these bytes match?
    pub fn match_bytes(&self, bytes: &[u8]) -> bool {
        let mut check = self.check();
        check.update(bytes);
        check.matches()
    }
}

/// A file on its way through the digests it must have.
#[derive(Clone)]
pub struct DigestCheck {
    want: Digests,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
}

impl DigestCheck {
    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.iter_mut().for_each(|hash| hash.update(bytes));
        self.sha512.iter_mut().for_each(|hash| hash.update(bytes));
    }

    /// Did they all match?
    pub fn matches(self) -> bool {
        let sha256 = self.sha256.map(|hash| Digest::from_bytes(hash.finalize().into()));
        let sha512 = self.sha512.map(|hash| hash.finalize().into());
        self.want == Digests { sha256, sha512 }
    }
}

impl std::fmt::Debug for DigestCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DigestCheck({:?})", self.want)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix C.1.
    const ABC_512: &str =
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    fn listed(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, hex)| ((*name).to_owned(), (*hex).to_owned())).collect()
    }

    #[test]
    fn every_known_digest_must_match_and_one_must_be_known() {
        let abc = Digest::of(b"abc").hex();
        let (zeros, upper) = ("0".repeat(128), ABC_512.to_uppercase());
        for (entries, matches) in [
            (vec![("sha256", abc.as_str())], Some(true)),
            (vec![("sha512", ABC_512)], Some(true)),
            (vec![("sha256", &abc), ("sha512", ABC_512)], Some(true)),
            (vec![("sha256", &abc), ("sha512", &zeros)], Some(false)),
            (vec![("sha256", &zeros[..64]), ("sha512", ABC_512)], Some(false)),
            (vec![("sha256", &abc), ("blake3", "x")], Some(true)),
            (vec![("blake3", &abc)], None),
            (vec![("sha256", &abc[..62])], None),
            (vec![("sha256", &abc), ("sha512", &upper)], None),
            (vec![("sha256", &abc), ("sha512", "")], None),
            (vec![], None),
        ] {
            let read = Digests::read(&listed(&entries));
            assert_eq!(read.as_ref().map(|digests| digests.match_bytes(b"abc")), matches, "{entries:?}");
            assert!(read.is_none_or(|digests| !digests.match_bytes(b"abd")));
        }
        assert_eq!(Digests::read(&listed(&[("sha512", ABC_512)])).unwrap().prefix(), ABC_512);
        assert_eq!(Digests::read(&listed(&[("sha256", &abc), ("sha512", ABC_512)])).unwrap().prefix(), abc);
    }
}
