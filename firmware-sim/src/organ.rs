//! Between the agent's words and a simulated disk: carry out one disk effect, list what lies there, receive a download.
//!
//! Shared by the virtual and the live device, so that both give the agent exactly what the real executor gives it. What stays
//! true: nothing here decides anything; a refusal of the disk becomes the event that the contract names.
use leeway_agent::action::{AtStart, Dir, DiskOp, DiskPath, FetchId};
use leeway_agent::event::{BlobFailure, CertificateNews, Event, RenewalFailure, Stored, StoredFile};
use leeway_protocol::digest::Digest;

use crate::disk::{Disk, DiskError};

/// Carry out one disk effect; the event is what the agent is told if the disk refuses.
pub fn perform(disk: &mut Disk, op: &DiskOp) -> Result<(), Event> {
    let done = match op {
        DiskOp::Write { path, bytes } => disk.write(&path.to_string(), bytes),
        DiskOp::Sync { path } => disk.sync(&path.to_string()),
        DiskOp::Rename { from, to } => disk.rename(&from.to_string(), &to.to_string()),
        DiskOp::SyncDir { dir } => disk.sync_dir(dir.as_str()),
        DiskOp::Remove { path } => disk.remove(&path.to_string()),
    };
    done.map_err(|error| Event::DiskFailed {
        what: op.to_string(),
        path: op.path().cloned(),
        full: error == DiskError::Full,
        error: error.to_string(),
    })
}

/// What the executor hands in when the agent starts.
pub fn stored(disk: &Disk) -> Stored {
    let mut stored = Stored::default();
    for (path, bytes) in disk.files("") {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(dir) = Dir::ALL.into_iter().find(|d| d.as_str() == directory) else { continue };
        let Some(path) = DiskPath::parse(dir, name) else { continue };
        let length = bytes.len() as u64;
        let wanted = matches!(path.at_start(), AtStart::Bytes { max_len } if length <= max_len);
        stored.files.insert(path, StoredFile { length, bytes: wanted.then(|| bytes.to_vec()) });
    }
    stored
}

/// Read one file for the agent.
pub fn read(disk: &Disk, path: &DiskPath, max_len: u64) -> Event {
    let result = match disk.read(&path.to_string()) {
        Some(bytes) if bytes.len() as u64 > max_len => Err(format!("it has {} bytes, the bound is {max_len}", bytes.len())),
        found => Ok(found.map(<[u8]>::to_vec)),
    };
    Event::Read { path: path.clone(), result }
}

/// How a download ended, before it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The bytes that came, from `offset` on.
    pub bytes: Vec<u8>,
    /// Where they belong.
    pub offset: u64,
    /// What broke it off, if something did.
    pub broken: Option<String>,
}

/// How many bytes of a download lie in staging already.
pub fn resume_offset(disk: &Disk, digest: &Digest, length: u64, resume: bool) -> u64 {
    let kept = disk.read(&DiskPath::staging(digest).to_string()).map_or(0, |b| b.len() as u64);
    if resume && kept < length { kept } else { 0 }
}

/// Put what came into staging and judge it: whole, right and synced, or the reason why not.
pub fn receive(disk: &mut Disk, digest: &Digest, length: u64, received: Received) -> Result<(), BlobFailure> {
    let path = DiskPath::staging(digest).to_string();
    let total = received.offset + received.bytes.len() as u64;
    if total > length {
        let _ = disk.remove(&path);
        return Err(BlobFailure::Length { got: total });
    }
    let written = if received.offset == 0 { disk.write(&path, &received.bytes) } else { disk.append(&path, &received.bytes) };
    if let Err(error) = written {
        let _ = disk.remove(&path);
        return Err(failure(error));
    }
    if let Some(broken) = received.broken {
        return Err(BlobFailure::Network(broken));
    }
    if total < length {
        return Err(BlobFailure::Network(format!("the download ended after {total} of {length} bytes")));
    }
    let got = disk.read(&path).map(Digest::of).ok_or_else(|| BlobFailure::Disk("the staging file is gone".to_owned()))?;
    if got != *digest {
        let _ = disk.remove(&path);
        return Err(BlobFailure::Digest { got });
    }
    disk.sync(&path).map_err(|error| {
        let _ = disk.remove(&path);
        failure(error)
    })
}

fn failure(error: DiskError) -> BlobFailure {
    match error {
        DiskError::Full => BlobFailure::DiskFull,
        other => BlobFailure::Disk(other.to_string()),
    }
}

/// Simulated devices speak without TLS, so the agent has no certificate and never asks; if it did, this is the answer.
pub(crate) fn no_certificate(ask: FetchId) -> Event {
    let failure = RenewalFailure::Failed("simulated devices have no certificates".to_owned());
    Event::Certificate(CertificateNews::NotRenewed { ask, failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_judged_by_length_and_digest_and_can_resume() {
        let (body, path) = (b"model bytes".to_vec(), DiskPath::staging(&Digest::of(b"model bytes")).to_string());
        let digest = Digest::of(&body);
        let length = body.len() as u64;
        let came =
            |bytes: &[u8], offset, broken: Option<&str>| Received { bytes: bytes.to_vec(), offset, broken: broken.map(str::to_owned) };
        let mut disk = Disk::default();
        let broken = receive(&mut disk, &digest, length, came(&body[..4], 0, Some("line cut")));
        assert_eq!(broken, Err(BlobFailure::Network("line cut".into())));
        assert_eq!(resume_offset(&disk, &digest, length, true), 4);
        assert_eq!(resume_offset(&disk, &digest, length, false), 0);
        assert_eq!(receive(&mut disk, &digest, length, came(&body[4..], 4, None)), Ok(()));
        let table = [
            (came(b"model bytez", 0, None), BlobFailure::Digest { got: Digest::of(b"model bytez") }),
            (came(b"model bytes and more", 0, None), BlobFailure::Length { got: 20 }),
        ];
        for (received, failure) in table {
            assert_eq!(receive(&mut disk, &digest, length, received), Err(failure));
            assert_eq!(disk.read(&path), None);
        }
    }

    #[test]
    fn only_files_the_agent_could_have_made_are_handed_in() {
        let file = |path: &str, bytes: &[u8]| (path.to_owned(), bytes.to_vec());
        let disk = Disk::with_files([file("state.json", b"{}"), file("blobs/ab", b"12"), file("other/x", b"1"), file("staging/.x", b"1")]);
        let stored = stored(&disk);
        assert_eq!(stored.files.len(), 2);
        assert_eq!(stored.bytes(&DiskPath::state()), Some(b"{}".as_slice()));
        let blob = DiskPath::parse(Dir::Blobs, "ab").unwrap();
        assert_eq!((stored.files[&blob].length, stored.bytes(&blob)), (2, None));
        assert_eq!(read(&disk, &blob, 1), Event::Read { path: blob.clone(), result: Err("it has 2 bytes, the bound is 1".into()) });
        assert_eq!(read(&disk, &DiskPath::counters(), 1), Event::Read { path: DiskPath::counters(), result: Ok(None) });
    }
}
