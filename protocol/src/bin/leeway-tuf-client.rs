//! `leeway-tuf-client`: the command line that the public TUF conformance suite drives, around the client that devices run.
//!
//! Everything that is decided is decided by [`leeway_protocol::trust::tuf`]; this file fetches over plain HTTP, keeps files and
//! reads the clock, once. What stays true: a file is replaced whole or not at all (a temporary file, synced, renamed, the
//! directory synced), the newest root is durable before it is used and is where the next run starts, nothing is written outside
//! of the two directories that were named, and the exit code is 0 only if everything that was asked for succeeded.
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::metadata::{MAX_FILE_NAME, TOP_LEVEL, percent_encoded};
use leeway_protocol::trust::tuf::{
    Client, ListedTarget, MAX_ROLES, MAX_ROOT_BYTES, MAX_ROOT_HOPS, MAX_TARGETS_BYTES, Persist, RootChain, Step, Stored, TargetError,
    TufError,
};

const USAGE: &str = "usage:
  leeway-tuf-client --metadata-dir DIR init TRUSTED_ROOT
  leeway-tuf-client --metadata-dir DIR --metadata-url URL refresh
  leeway-tuf-client --metadata-dir DIR --metadata-url URL --target-name PATH... --target-base-url URL --target-dir DIR download";

/// How long one file may take, answer and body: a repository that feeds bytes one by one must not hold the client for ever.
const FILE_LIMIT: Duration = Duration::from_secs(60);
/// Redirects one request follows: a mirror may point at its store.
const MAX_REDIRECTS: u32 = 3;
/// Files one refresh asks for: every root hop, three top-level files, every role.
const MAX_STEPS: usize = MAX_ROOT_HOPS as usize + MAX_ROLES + 8;
/// Bytes that are read and hashed at once.
const CHUNK: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}\n{USAGE}")]
    Usage(String),
    #[error("{}: {source}", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("{url}: {reason}")]
    Fetch { url: String, reason: String },
    #[error("{0}")]
    Refused(#[from] TufError),
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("the repository lists no target {0:?}")]
    NoSuchTarget(String),
    #[error("{} is there already: a new start would forget which versions were seen; remove the directory to do that", .0.display())]
    Initialised(PathBuf),
}

type Outcome<T> = Result<T, Failure>;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("leeway-tuf-client: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let mut line = CommandLine::parse(arguments)?;
    let metadata = PathBuf::from(line.flag("--metadata-dir")?);
    let words = std::mem::take(&mut line.words);
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["init", root] => init(&metadata, Path::new(root)),
        ["refresh"] => Session::start(metadata, line.flag("--metadata-url")?)?.refresh(),
        ["download"] => {
            let mut session = Session::start(metadata, line.flag("--metadata-url")?)?;
            let (base, directory) = (line.flag("--target-base-url")?, PathBuf::from(line.flag("--target-dir")?));
            if line.targets.is_empty() {
                return Err(Failure::Usage("--target-name is missing".to_owned()));
            }
            fs::create_dir_all(&directory).map_err(|source| Failure::Disk { path: directory.clone(), source })?;
            session.refresh()?;
            line.targets.iter().try_for_each(|path| session.download(path, &base, &directory))
        }
        _ => Err(Failure::Usage("one of init, refresh and download is expected".to_owned())),
    }
}

/// Flags and words in any order.
#[derive(Default)]
struct CommandLine {
    flags: Vec<(String, String)>,
    targets: Vec<String>,
    words: Vec<String>,
}

impl CommandLine {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut line = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| Failure::Usage(format!("{argument} needs a value")));
            match argument.as_str() {
                "--target-name" => line.targets.push(value()?),
                "--metadata-dir" | "--metadata-url" | "--target-dir" | "--target-base-url" => {
                    let value = value()?;
                    line.flags.push((argument, value));
                }
                flag if flag.starts_with("--") => return Err(Failure::Usage(format!("{flag} is not known"))),
                _ => line.words.push(argument),
            }
        }
        Ok(line)
    }

    /// The last value of a flag.
    fn flag(&self, name: &str) -> Outcome<String> {
        let found = self.flags.iter().rev().find(|(flag, _)| flag == name);
        found.map(|(_, value)| value.clone()).ok_or_else(|| Failure::Usage(format!("{name} is missing")))
    }
}

/// Keep the root that everything else follows from, if it is one.
fn init(metadata: &Path, root: &Path) -> Outcome<()> {
    let bytes = read_start(root, MAX_ROOT_BYTES)?;
    RootChain::new(&bytes, None)?;
    fs::create_dir_all(metadata).map_err(|source| Failure::Disk { path: metadata.to_owned(), source })?;
    let path = metadata.join("root.json");
    if path.exists() {
        return Err(Failure::Initialised(path));
    }
    replace(metadata, "root.json", &bytes)
}

/// One run over one repository.
struct Session {
    http: ureq::Agent,
    url: String,
    metadata: PathBuf,
    client: Client,
}

impl Session {
    /// From what earlier runs kept.
    fn start(metadata: PathBuf, url: String) -> Outcome<Self> {
        let root = read_start(&metadata.join("root.json"), MAX_ROOT_BYTES)?;
        let mut client = Client::new(&root, stored(&metadata)?, now())?;
        client.on_demand();
        let config = ureq::Agent::config_builder();
        let config = config.http_status_as_error(false).max_redirects(MAX_REDIRECTS).timeout_global(Some(FILE_LIMIT));
        Ok(Self { http: config.build().into(), url, metadata, client })
    }

    /// Fetch, judge and keep until the client wants nothing more.
    fn refresh(&mut self) -> Outcome<()> {
        for _ in 0..MAX_STEPS {
            let Step::Need { file, max_len, optional } = self.client.next() else { return Ok(()) };
            let url = under(&self.url, &file);
            let found = self.fetch(&url, max_len)?;
            if found.is_none() && !optional {
                eprintln!("leeway-tuf-client: {url} is not there");
            }
            for Persist { file, bytes } in self.client.provide(&file, found.as_deref())? {
                replace(&self.metadata, &file, &bytes)?;
            }
        }
        Err(Failure::Refused(TufError::NotFresh))
    }

    /// A metadata file; `None` if the repository says that it has none. One byte more than allowed is read, so that the client
    /// sees that the file is too long.
    fn fetch(&self, url: &str, max_len: u64) -> Outcome<Option<Vec<u8>>> {
        let Some(body) = self.open(url)? else { return Ok(None) };
        let mut bytes = Vec::new();
        body.take(max_len.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| failed(url, &e))?;
        Ok(Some(bytes))
    }

    fn open(&self, url: &str) -> Outcome<Option<impl io::Read + use<>>> {
        let answer = self.http.get(url).call().map_err(|e| failed(url, &e))?;
        match answer.status().as_u16() {
            200 => Ok(Some(answer.into_body().into_reader())),
            // Stores that may not be listed say 403 for what is not there.
            403 | 404 | 410 => Ok(None),
            status => Err(failed(url, &format!("the repository answers with status {status}"))),
        }
    }

    /// Bring `directory` to hold the target; nothing is fetched if it does already.
    fn download(&mut self, path: &str, base: &str, directory: &Path) -> Outcome<()> {
        self.client.only_for(path);
        self.refresh()?;
        let listed = self.client.listed(path)?.ok_or_else(|| Failure::NoSuchTarget(path.to_owned()))?;
        let name = local_name(path);
        if holds(&directory.join(&name), &listed) {
            return Ok(());
        }
        let url = under(base, &listed.location());
        let body = self.open(&url)?.ok_or_else(|| failed(&url, &"the repository has no such file"))?;
        keep(directory, &name, |file| {
            pour(body, &listed, |bytes| file.write_all(bytes)).map_err(|e| match e {
                Poured::Target(error) => error.into(),
                Poured::Disk(source) => Failure::Disk { path: directory.join(&name), source },
                Poured::Source(error) => failed(&url, &error),
            })
        })
    }
}

/// Why a target did not come through.
enum Poured {
    Source(io::Error),
    Disk(io::Error),
    Target(TargetError),
}

/// From anywhere to anywhere, through the check.
fn pour(mut from: impl io::Read, listed: &ListedTarget, mut to: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), Poured> {
    let (mut check, mut chunk) = (listed.check(), vec![0; CHUNK]);
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return check.finish().map_err(Poured::Target),
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Poured::Source(e)),
        };
        check.update(read).map_err(Poured::Target)?;
        to(read).map_err(Poured::Disk)?;
    }
}

/// Does this file hold the target? Any doubt is a no.
fn holds(path: &Path, listed: &ListedTarget) -> bool {
    File::open(path).is_ok_and(|file| pour(file, listed, |_| Ok(())).is_ok())
}

/// A target's file: its path as one name, so that no target leaves the directory; the digest of the path if that is too long.
fn local_name(path: &str) -> String {
    let name = percent_encoded(path);
    // "." and ".." mean directories; the temporary file's name begins with a dot, too.
    if name.starts_with('.') || name.is_empty() || name.len() > MAX_FILE_NAME { Digest::of(path.as_bytes()).hex() } else { name }
}

/// What earlier runs kept. A top-level file that is there and cannot be read stops the run: without it an old repository would
/// be believed. What is too long or damaged is left aside: it is fetched again, and so is any role.
fn stored(metadata: &Path) -> Outcome<Stored> {
    let mut stored = Stored::default();
    for name in TOP_LEVEL.map(|role| format!("{role}.json")) {
        match read_start(&metadata.join(&name), MAX_TARGETS_BYTES) {
            Ok(bytes) => stored.insert(name, bytes),
            Err(Failure::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    let disk = |source| Failure::Disk { path: metadata.to_owned(), source };
    // As many as one refresh looks at; a directory with more holds roles that nothing leads to any more.
    for entry in fs::read_dir(metadata).map_err(disk)?.take(MAX_ROLES) {
        let entry = entry.map_err(disk)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.ends_with(".json")
            && stored.file(&name).is_none()
            && let Ok(bytes) = read_start(&entry.path(), MAX_TARGETS_BYTES)
        {
            stored.insert(name, bytes);
        }
    }
    Ok(stored)
}

/// A file, or its first `max` bytes and one if it has more: whoever reads them sees that there are too many.
fn read_start(path: &Path, max: u64) -> Outcome<Vec<u8>> {
    let disk = |source| Failure::Disk { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(disk)?.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(disk)?;
    Ok(bytes)
}

fn replace(directory: &Path, name: &str, bytes: &[u8]) -> Outcome<()> {
    keep(directory, name, |file| file.write_all(bytes).map_err(|source| Failure::Disk { path: directory.join(name), source }))
}

/// Fill a new file and put it in the place of `name`, durably. After any error the old one is as it was.
fn keep(directory: &Path, name: &str, fill: impl FnOnce(&mut File) -> Outcome<()>) -> Outcome<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let disk = |source| Failure::Disk { path: directory.join(name), source };
    let filled = File::create(&temporary).map_err(disk).and_then(|mut file| {
        fill(&mut file)?;
        file.sync_all().map_err(disk)
    });
    let kept = filled.and_then(|()| fs::rename(&temporary, directory.join(name)).map_err(disk));
    if kept.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    kept.and_then(|()| File::open(directory).and_then(|directory| directory.sync_all()).map_err(disk))
}

fn under(base: &str, name: &str) -> String {
    format!("{}/{name}", base.trim_end_matches('/'))
}

fn failed(url: &str, reason: &dyn std::fmt::Display) -> Failure {
    Failure::Fetch { url: url.to_owned(), reason: reason.to_string() }
}

/// Read once, so that one run judges everything at one moment.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_secs(i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 1000))
}
