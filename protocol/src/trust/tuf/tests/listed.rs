//! Target files as they are listed: digests of several kinds, locations, and files that are not the ones.
use super::simulator::*;
use super::*;
use crate::trust::metadata::TargetMeta;

const PATH: &str = "models/rain v1.onnx";
const CONTENT: &[u8] = b"abc";
/// Of `abc`; FIPS 180-2, appendix C.1.
const SHA_512: &str =
    "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

fn find(hashes: &[(&str, &str)]) -> Result<Option<ListedTarget>, TufError> {
    let mut publisher = Publisher::new();
    let mut target = TargetMeta::new(Digest::of(CONTENT), CONTENT.len() as u64, None);
    target.hashes = hashes.iter().map(|(name, hex)| ((*name).to_owned(), (*hex).to_owned())).collect();
    publisher.targets().targets.insert(PATH.to_owned(), target);
    publisher.publish_targets();
    let mut reader = Reader::of(&publisher);
    reader.refresh(&publisher)?;
    reader.find(&publisher, &[PATH]).remove(0)
}

fn judge(listed: &ListedTarget, chunks: &[&[u8]]) -> Result<(), TargetError> {
    let mut check = listed.check();
    chunks.iter().try_for_each(|chunk| check.update(chunk))?;
    check.finish()
}

#[test]
fn a_file_is_checked_against_every_digest_that_is_known() {
    let sha256 = Digest::of(CONTENT).hex();
    let zeros = "0".repeat(128);
    for (hashes, location) in [
        (vec![("sha256", sha256.as_str())], &sha256),
        (vec![("sha512", SHA_512)], &SHA_512.to_owned()),
        (vec![("sha256", sha256.as_str()), ("sha512", SHA_512)], &sha256),
        (vec![("sha256", sha256.as_str()), ("other", "x")], &sha256),
    ] {
        let listed = find(&hashes).unwrap().unwrap();
        assert_eq!(listed.location(), format!("models/{location}.rain%20v1.onnx"));
        assert_eq!((listed.length, listed.role.as_str(), listed.role_version), (3, "targets", 2));
        assert_eq!(judge(&listed, &[CONTENT]), Ok(()));
        assert_eq!(judge(&listed, &[b"a", b"", b"bc"]), Ok(()));
        for (chunks, why) in [
            (&[&b"abd"[..]][..], "digest differs"),
            (&[b"ab"], "shorter"),
            (&[], "shorter"),
            (&[b"abcd"], "longer"),
            (&[b"abc", b"d"], "longer"),
        ] {
            assert!(judge(&listed, chunks).unwrap_err().to_string().contains(why), "{chunks:?}");
        }
    }
    let listed = find(&[("sha256", &sha256), ("sha512", &zeros)]).unwrap().unwrap();
    assert!(matches!(judge(&listed, &[CONTENT]), Err(TargetError::Digest { .. })), "one right digest is not enough");
    // Without any that is known, or with one that is none, the whole document is refused.
    for hashes in [vec![], vec![("other", sha256.as_str())], vec![("sha256", "x")], vec![("sha256", &sha256), ("sha512", "x")]] {
        assert!(matches!(find(&hashes), Err(TufError::Malformed { .. })), "{hashes:?}");
    }
}

#[test]
fn a_device_installs_by_sha256_only() {
    let mut publisher = Publisher::new();
    for (path, hashes) in [
        ("both", vec![("sha256", Digest::of(CONTENT).hex()), ("sha512", SHA_512.to_owned())]),
        ("one", vec![("sha512", SHA_512.to_owned())]),
    ] {
        let mut target = TargetMeta::new(Digest::of(CONTENT), 3, None);
        target.hashes = hashes.into_iter().map(|(name, hex)| (name.to_owned(), hex)).collect();
        publisher.targets().targets.insert(path.to_owned(), target);
    }
    publisher.publish_targets();
    let mut client = Client::new(&publisher.files["1.root.json"], Stored::default(), now()).unwrap();
    client.run_over(&publisher.files).unwrap();
    assert_eq!(client.target("both").unwrap().unwrap().sha256, Digest::of(CONTENT));
    assert_eq!(client.target("one").unwrap(), None);
    assert!(client.listed("one").unwrap().is_some());
    assert_eq!(client.all_targets().len(), 1);
}

#[test]
fn a_location_stays_below_its_directory_and_in_its_url() {
    for (path, before, after) in
        [("a", "", ".a"), ("a/b/c?d#e", "a/b/", ".c%3Fd%23e"), ("a b/%2F", "a%20b/", ".%252F"), ("/x", "/", ".x"), ("", "", ".")]
    {
        let mut publisher = Publisher::new();
        publisher.list("targets", path, CONTENT);
        publisher.publish_targets();
        let listed = Reader::of(&publisher).find(&publisher, &[path]).remove(0).unwrap().unwrap();
        assert_eq!(listed.location(), format!("{before}{}{after}", Digest::of(CONTENT).hex()));
    }
}
