//! Where else a dataset lies: references to other people's data stores, kept as lineage.
//!
//! Only what identifies the data is kept: for DVC the content hash that its `.dvc` file names, for lakeFS the commit. A branch or a
//! tag that can move is not a reference to data, so a lakeFS address must name a commit. What stays true: nothing is fetched, and
//! nothing here is believed about the bytes; their own digest is.
use serde::{Deserialize, Serialize};

/// The longest reference.
const MAX_REFERENCE: usize = 2048;
/// The largest `.dvc` file: they have a few hundred bytes.
pub const MAX_DVC_BYTES: usize = 64 << 10;

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct External {
    /// `dvc` or `lakefs`.
    pub system: String,
    /// `dvc:PATH`, or `lakefs://REPOSITORY/COMMIT/PATH`.
    pub uri: String,
    /// What identifies the data there: `md5:…` for DVC, the commit for lakeFS.
    pub revision: String,
}

/// What is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExternalError {
    /// Not an address.
    #[error("{0:?} is not of the form lakefs://REPOSITORY/COMMIT/PATH")]
    LakeFs(String),
    /// It can move.
    #[error("{0:?} names no commit: a branch or tag can move, so give the commit's 8 to 64 hex digits")]
    Moves(String),
    /// Not such a file.
    #[error("the .dvc file does not say `outs:` with one `md5:` and one `path:`")]
    Dvc,
    /// It is of other data.
    #[error("the .dvc file is of {tracked} bytes, the data has {given}: it is of another version of it")]
    Size {
        /// Tracked by DVC.
        tracked: u64,
        /// Given.
        given: u64,
    },
    /// From a program that does not check.
    #[error("the reference is too long, or of a system other than dvc and lakefs")]
    Unknown,
}

impl External {
    /// Read a lakeFS address.
    pub fn lakefs(uri: &str) -> Result<Self, ExternalError> {
        let shown = || uri.chars().take(200).collect::<String>();
        let wrong = || ExternalError::LakeFs(shown());
        let plain = uri.len() <= MAX_REFERENCE && !uri.chars().any(|c| c.is_control() || c.is_whitespace());
        let mut parts = uri.strip_prefix("lakefs://").filter(|_| plain).ok_or_else(wrong)?.splitn(3, '/');
        let (Some(repository), Some(commit), Some(path)) = (parts.next(), parts.next(), parts.next()) else { return Err(wrong()) };
        if repository.is_empty() || path.is_empty() {
            return Err(wrong());
        }
        if !(8..=64).contains(&commit.len()) || !commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ExternalError::Moves(shown()));
        }
        Ok(Self { system: "lakefs".to_owned(), uri: uri.to_owned(), revision: commit.to_owned() })
    }

    /// Read the text of a `.dvc` file that tracks one file of `length` bytes.
    pub fn dvc(text: &str, length: u64) -> Result<Self, ExternalError> {
        let lines = text.lines().take(1000).skip_while(|line| line.trim_end() != "outs:").skip(1);
        // The list ends where a line is no longer indented or an item.
        let outs: Vec<&str> = lines.take_while(|line| line.starts_with([' ', '-'])).collect();
        let of = |key: &str| -> Vec<&str> {
            let values = outs.iter().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key)?.strip_prefix(':'));
            values.map(|value| value.trim().trim_matches(['\'', '"'])).collect()
        };
        let (hashes, paths, sizes) = (of("md5"), of("path"), of("size"));
        let ([hash], [path]) = (&hashes[..], &paths[..]) else { return Err(ExternalError::Dvc) };
        if hash.len() != 32 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) || path.is_empty() || path.len() > MAX_REFERENCE {
            return Err(ExternalError::Dvc);
        }
        if let Some(tracked) = sizes.first().and_then(|size| size.parse::<u64>().ok()).filter(|tracked| *tracked != length) {
            return Err(ExternalError::Size { tracked, given: length });
        }
        Ok(Self { system: "dvc".to_owned(), uri: format!("dvc:{path}"), revision: format!("md5:{hash}") })
    }

    /// Whether one that came from elsewhere is one that [`Self::lakefs`] or [`Self::dvc`] could have made.
    pub fn check(&self) -> Result<(), ExternalError> {
        let short = [&self.uri, &self.revision].iter().all(|text| text.len() <= MAX_REFERENCE && !text.chars().any(char::is_control));
        match self.system.as_str() {
            _ if !short => Err(ExternalError::Unknown),
            "lakefs" => Self::lakefs(&self.uri).map(drop),
            "dvc" if self.uri.starts_with("dvc:") && self.revision.starts_with("md5:") => Ok(()),
            _ => Err(ExternalError::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DVC: &str = "outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 37891850\n  hash: md5\n  path: data.xml\n";

    #[test]
    fn a_dvc_file_names_its_hash_and_must_be_of_the_same_size() {
        let made = External::dvc(DVC, 37_891_850).unwrap();
        assert_eq!((made.uri.as_str(), made.revision.as_str()), ("dvc:data.xml", "md5:a304afb96060aad90176268345e10355"));
        assert!(made.check().is_ok());
        // Other keys before and after, quotes, no size.
        let more = "wdir: ..\nouts:\n  - path: 'a b.csv'\n    md5: a304afb96060aad90176268345e10355\nmeta:\n  md5: no\n";
        assert_eq!(External::dvc(more, 1).unwrap().uri, "dvc:a b.csv");
        assert!(matches!(External::dvc(DVC, 1), Err(ExternalError::Size { tracked: 37_891_850, given: 1 })));
        // A folder is many files; a pipeline's lock is something else.
        let two = format!("{DVC}- md5: a304afb96060aad90176268345e10355\n  path: b\n");
        for bad in ["", "outs:\n", "md5: x\npath: y\n", "outs:\n- md5: short\n  path: y\n", &two] {
            assert_eq!(External::dvc(bad, 1), Err(ExternalError::Dvc), "{bad}");
        }
    }

    #[test]
    fn a_lakefs_address_names_a_commit() {
        let made = External::lakefs("lakefs://weather/7b1fe18e4d2d/raw/rain.parquet").unwrap();
        assert_eq!(made.revision, "7b1fe18e4d2d");
        assert!(made.check().is_ok());
        for bad in [
            "",
            "s3://weather/7b1fe18e4d2d/x",
            "lakefs://weather",
            "lakefs://weather/7b1fe18e4d2d",
            "lakefs:///7b1fe18e4d2d/x",
            "lakefs://w/7b1fe18e4d2d/a b",
        ] {
            assert!(matches!(External::lakefs(bad), Err(ExternalError::LakeFs(_))), "{bad}");
        }
        assert!(matches!(External::lakefs("lakefs://weather/main/raw/rain.parquet"), Err(ExternalError::Moves(_))));
        let forged = External { system: "git".into(), uri: "x".into(), revision: "y".into() };
        assert_eq!(forged.check(), Err(ExternalError::Unknown));
    }
}
