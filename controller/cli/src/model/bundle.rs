//! `leeway model sign-bundle` and `verify-bundle`: OpenSSF Model Signing over files on this machine.
//!
//! A model is one file, or every file of a folder. Links are refused, because what they point at is not in the folder that
//! somebody else gets; so is anything that is neither file nor folder.
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use leeway_controller::supply::MAX_DOCUMENT_BYTES;
use leeway_controller::supply::oms::{self, Files, IGNORED, Key, Listed, MAX_FILES, PublicKey, SINGLE, is_within};
use leeway_protocol::digest::{Digest, Hasher};

use crate::failure::{During, Failure, Outcome};
use crate::output::putln;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;
/// The longest key file: a P-256 key has some 250 characters.
const MAX_KEY_BYTES: u64 = 16 << 10;
/// How deep folders are followed.
const MAX_DEPTH: usize = 32;

/// `leeway model sign-bundle`.
#[derive(Debug, Args)]
pub struct Sign {
    /// A file, or a folder with all that is in it.
    pub model: PathBuf,
    /// The private key: P-256, PEM.
    #[arg(long, value_name = "PEM")]
    pub key: PathBuf,
    /// Where to write the bundle.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// `leeway model verify-bundle`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The file or folder that was signed.
    pub model: PathBuf,
    /// The bundle.
    #[arg(long, value_name = "FILE")]
    pub bundle: PathBuf,
    /// The signer's public key: P-256, PEM.
    #[arg(long, value_name = "PEM")]
    pub public_key: PathBuf,
}

/// Make a bundle.
pub fn sign(args: &Sign) -> Outcome {
    let key = read_key(&args.key)?;
    let mut ignored: Vec<String> = IGNORED.map(str::to_owned).to_vec();
    // The bundle itself may lie in the folder, and cannot be listed in itself.
    ignored.extend(args.out.strip_prefix(&args.model).ok().and_then(Path::to_str).filter(|p| !p.is_empty()).map(ToOwned::to_owned));
    let files = files(&args.model, &ignored)?;
    let name = args.model.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    fs::write(&args.out, oms::sign(&name, &files, &ignored, &key)).during(format!("writing {}", args.out.display()))?;
    putln!("signed {} of {} as {}", counted(&files), args.model.display(), args.out.display());
    Ok(())
}

/// Check a bundle.
pub fn verify(args: &Verify) -> Outcome {
    let (_, listed) = checked(&args.bundle, &args.public_key)?;
    let files = expect(&listed, &args.model)?;
    putln!("{} is as it was signed: {}", args.model.display(), counted(&files));
    Ok(())
}

fn counted(files: &Files) -> String {
    leeway_controller::io::web::words::plural(files.len() as u64, "file")
}

/// A bundle, and what it lists, if the key signed it.
pub(super) fn checked(bundle: &Path, key: &Path) -> Outcome<(Vec<u8>, Listed)> {
    let key = PublicKey::from_pem(&text(key)?).during(format!("reading {}", key.display()))?;
    let bytes = read(bundle, MAX_DOCUMENT_BYTES)?;
    let listed = oms::verify(&bytes, &key).during(format!("checking {}", bundle.display()))?;
    Ok((bytes, listed))
}

/// The files at `model`, if they are those that are listed.
pub(super) fn expect(listed: &Listed, model: &Path) -> Outcome<Files> {
    let mut ignored = listed.ignored.clone();
    ignored.extend(IGNORED.map(str::to_owned));
    // What was signed counts, also where it would be left out today.
    ignored.retain(|folder| !listed.files.keys().any(|path| is_within(path, folder)));
    let files = files(model, &ignored)?;
    listed.expect(&files)?;
    Ok(files)
}

/// A private key.
pub(super) fn read_key(path: &Path) -> Outcome<Key> {
    Key::from_pem(&text(path)?).during(format!("reading {}", path.display()))
}

fn text(path: &Path) -> Outcome<String> {
    String::from_utf8(read(path, MAX_KEY_BYTES)?).during(format!("reading {}", path.display()))
}

fn read(path: &Path, max: u64) -> Outcome<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).during(format!("reading {}", path.display()))?;
    file.take(max + 1).read_to_end(&mut bytes).during(format!("reading {}", path.display()))?;
    if bytes.len() as u64 > max {
        return Err(Failure::new(format!("{} has more than {max} bytes, the bound", path.display())).code(2));
    }
    Ok(bytes)
}

/// The digests of a file, or of every file in a folder but those that are left out.
fn files(model: &Path, ignored: &[String]) -> Outcome<Files> {
    let mut found = Files::new();
    if fs::metadata(model).during(format!("reading {}", model.display()))?.is_file() {
        found.insert(SINGLE.to_owned(), digest(model)?);
        return Ok(found);
    }
    walk(model, "", MAX_DEPTH, ignored, &mut found)?;
    if found.is_empty() {
        return Err(Failure::new(format!("{} has no file to sign or check", model.display())).code(2));
    }
    Ok(found)
}

fn walk(folder: &Path, prefix: &str, depth: usize, ignored: &[String], found: &mut Files) -> Outcome {
    let refuse = |path: &Path, why: &str| Err(Failure::new(format!("{}: {why}", path.display())).code(2));
    let Some(depth) = depth.checked_sub(1) else { return refuse(folder, "folders are followed no deeper") };
    for entry in fs::read_dir(folder).during(format!("reading {}", folder.display()))? {
        let path = entry.during(format!("reading {}", folder.display()))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return refuse(&path, "its name is not UTF-8") };
        let name = format!("{prefix}{name}");
        if ignored.iter().any(|left_out| is_within(&name, left_out)) {
            continue;
        }
        let kind = fs::symlink_metadata(&path).during(format!("reading {}", path.display()))?.file_type();
        match () {
            () if kind.is_dir() => walk(&path, &format!("{name}/"), depth, ignored, found)?,
            () if !kind.is_file() => return refuse(&path, "only files and folders can be signed, no links"),
            () if found.len() == MAX_FILES => return refuse(&path, &format!("more than {MAX_FILES} files, the bound")),
            () => drop(found.insert(name, digest(&path)?)),
        }
    }
    Ok(())
}

fn digest(path: &Path) -> Outcome<Digest> {
    let reading = || format!("reading {}", path.display());
    let mut file = File::open(path).during(reading())?;
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece).during(reading())?;
        match piece.get(..read) {
            Some(bytes) if read > 0 => hasher.update(bytes),
            _ => return Ok(hasher.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_listed_whole_but_for_what_is_left_out_and_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("model.onnx", b"m");
        put("sub/deep/a.txt", b"a");
        put(".git/HEAD", b"x");
        put("model.sig", b"old");
        let ignored = [".git".to_owned(), "model.sig".to_owned()];
        let listed = files(dir.path(), &ignored).unwrap();
        assert_eq!(listed.keys().collect::<Vec<_>>(), ["model.onnx", "sub/deep/a.txt"]);
        assert_eq!(listed["model.onnx"], Digest::of(b"m"));
        assert_eq!(files(&dir.path().join("model.onnx"), &[]).unwrap().keys().collect::<Vec<_>>(), [SINGLE]);
        std::os::unix::fs::symlink("model.onnx", dir.path().join("link")).unwrap();
        assert!(files(dir.path(), &ignored).unwrap_err().to_string().contains("no links"));
        let empty = tempfile::tempdir().unwrap();
        assert!(files(empty.path(), &[]).is_err() && files(&empty.path().join("none"), &[]).is_err());
    }

    #[test]
    fn what_was_signed_counts_even_where_it_is_left_out_today() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.onnx"), b"m").unwrap();
        fs::write(dir.path().join(".gitignore"), b"i").unwrap();
        let both = |ignore: &[u8]| {
            [("model.onnx", Digest::of(b"m")), (".gitignore", Digest::of(ignore))].map(|(path, digest)| (path.to_owned(), digest)).into()
        };
        assert!(expect(&Listed { files: both(b"i"), ignored: Vec::new() }, dir.path()).is_ok());
        assert!(expect(&Listed { files: both(b"x"), ignored: Vec::new() }, dir.path()).is_err());
        let one = Files::from([("model.onnx".to_owned(), Digest::of(b"m"))]);
        let listed = Listed { files: one, ignored: Vec::new() };
        assert!(expect(&listed, dir.path()).is_ok(), "what no tool signs unasked is left out unasked");
        fs::write(dir.path().join("more.txt"), b"m").unwrap();
        assert!(expect(&listed, dir.path()).unwrap_err().to_string().contains("more.txt"));
    }
}
