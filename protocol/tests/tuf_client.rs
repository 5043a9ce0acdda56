//! `leeway-tuf-client` as its users see it: a command line, two directories, an exit code, and a repository over HTTP.
//!
//! What it decides is tested where it is decided, in the library; here is what only the program does.
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use leeway_protocol::assignment::target_path;
use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{Blob, TargetCustom};
use leeway_protocol::time::Timestamp;
use leeway_protocol::trust::repository::{
    Ceremony, Lifetimes, LineGrant, OnlineSigner, RepositoryState, RoleBuilder, RootBuilder, ceremony,
};
use tempfile::TempDir;

/// What the server answers for a path; anything else is 404.
#[derive(Clone)]
enum Answer {
    File(Vec<u8>),
    Status(u16),
    Endless,
}

#[derive(Default)]
struct Shelf {
    answers: BTreeMap<String, Answer>,
    asked: Vec<String>,
}

/// A web server on a free port of this machine; it ends with the test's process.
struct Server {
    addr: SocketAddr,
    shelf: Arc<Mutex<Shelf>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { addr: listener.local_addr().unwrap(), shelf: Arc::default() };
        let shelf = Arc::clone(&server.shelf);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shelf = Arc::clone(&shelf);
                // A client that hangs up early is what some of the tests are about.
                std::thread::spawn(move || drop(answer(stream, &shelf)));
            }
        });
        server
    }

    fn put(&self, path: impl Into<String>, answer: Answer) {
        self.shelf.lock().unwrap().answers.insert(path.into(), answer);
    }

    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shelf.lock().unwrap().asked)
    }
}

fn answer(mut stream: TcpStream, shelf: &Mutex<Shelf>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let found = {
        let mut shelf = shelf.lock().unwrap();
        shelf.asked.push(path.clone());
        shelf.answers.get(&path).cloned().unwrap_or(Answer::Status(404))
    };
    match found {
        Answer::Status(status) => write!(stream, "HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        Answer::File(bytes) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len())?;
            stream.write_all(&bytes)
        }
        Answer::Endless => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 4096])?;
            }
        }
    }
}

/// A repository with the line `rain` on a server, and a client's two directories.
struct Site {
    server: Server,
    state: RepositoryState,
    keys: Ceremony,
    signer: OnlineSigner,
    now: Timestamp,
    disk: TempDir,
}

impl Site {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = Timestamp::from_secs(i64::try_from(since.as_secs()).unwrap() - 60);
        let lifetimes = Lifetimes::default();
        let mut n = 0;
        let lines = [LineGrant { line: "rain".parse().unwrap(), trainer_io: None }];
        let keys = ceremony(&lines, &lifetimes, now, &mut || {
            n += 1;
            [n; 32]
        })
        .unwrap();
        let key = |name: &str| keys.key(name).unwrap().clone();
        let signer = OnlineSigner { snapshot: key("snapshot"), timestamp: key("timestamp"), director: key("director"), lifetimes };
        let state = RepositoryState::create(&keys.image_root, &keys.image_targets, &signer, now).unwrap();
        let site = Self { server: Server::start(), state, keys, signer, now, disk: tempfile::tempdir().unwrap() };
        fs::write(site.path("first-root.json"), &site.keys.image_root).unwrap();
        site
    }

    /// Release a version; its content is its name.
    fn release(&mut self, version: &str, seq: u64) -> String {
        let (line, version) = ("rain".parse().unwrap(), version.parse().unwrap());
        let path = target_path(&line, false, &version);
        let model = Blob::of(path.as_bytes());
        let custom = TargetCustom {
            v: 1,
            line,
            version,
            seq,
            manifest: Blob::of(b"manifest"),
            io: Digest::of(b"io"),
            provenance: None,
            bundle: None,
        };
        let expires = self.now.plus_secs(self.signer.lifetimes.role_secs);
        let builder = match self.state.role("rain") {
            Some(previous) => RoleBuilder::after(&previous, false, expires),
            None => RoleBuilder::new(false, expires),
        };
        let bytes = builder.add(&model, &custom).sign(&[self.keys.key("rain").unwrap()]).unwrap();
        self.state.accept_role("rain", &bytes, &self.signer, self.now).unwrap();
        self.publish();
        self.server.put(Self::location(&path), Answer::File(path.clone().into_bytes()));
        path
    }

    fn publish(&self) {
        for (name, bytes) in self.state.files() {
            self.server.put(format!("metadata/{name}"), Answer::File(bytes.clone()));
        }
    }

    /// Where the file of a target is served.
    fn location(path: &str) -> String {
        let (directory, name) = path.rsplit_once('/').unwrap();
        format!("targets/{directory}/{}.{name}", Digest::of(path.as_bytes()).hex())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.disk.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_leeway-tuf-client")).args(arguments).output().unwrap()
    }

    fn init(&self) -> Output {
        self.run(&["--metadata-dir", self.path("metadata").to_str().unwrap(), "init", self.path("first-root.json").to_str().unwrap()])
    }

    fn refresh(&self) -> Output {
        let url = format!("http://{}/metadata/", self.server.addr);
        self.run(&["--metadata-url", &url, "--metadata-dir", self.path("metadata").to_str().unwrap(), "refresh"])
    }

    fn download(&self, paths: &[&str]) -> Output {
        let (metadata, targets) = (format!("http://{}/metadata", self.server.addr), format!("http://{}/targets/", self.server.addr));
        let (directory, files) = (self.path("metadata"), self.path("files"));
        let mut arguments = vec!["--metadata-url", &metadata, "--metadata-dir", directory.to_str().unwrap()];
        paths.iter().for_each(|path| arguments.extend(["--target-name", path]));
        arguments.extend(["--target-dir", files.to_str().unwrap(), "--target-base-url", &targets, "download"]);
        self.run(&arguments)
    }

    /// Name and content of every file in a directory.
    fn files(&self, directory: &str) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(self.path(directory)).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    }
}

fn says(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn fine(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", says(output));
}

fn refused(output: &Output, why: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", says(output));
    assert!(says(output).contains(why), "{why}: {}", says(output));
}

#[test]
fn from_a_first_root_to_a_file_that_is_fetched_once() {
    let mut site = Site::new();
    let path = site.release("1.0.0", 1);
    fine(&site.init());
    assert!(site.server.take_asked().is_empty(), "init asks nobody");
    fine(&site.refresh());
    let asked = site.server.take_asked();
    assert_eq!(asked, ["2.root.json", "timestamp.json", "2.snapshot.json", "1.targets.json"].map(|name| format!("metadata/{name}")));
    let kept = site.files("metadata");
    assert_eq!(kept.keys().collect::<Vec<_>>(), ["root.json", "snapshot.json", "targets.json", "timestamp.json"]);
    for (kept_as, served_as) in [("timestamp.json", "timestamp.json"), ("snapshot.json", "2.snapshot.json")] {
        assert_eq!(&kept[kept_as], site.state.file(served_as).unwrap(), "byte for byte");
    }
    fine(&site.download(&[&path]));
    let files = site.files("files");
    assert_eq!(files.into_values().collect::<Vec<_>>(), [path.clone().into_bytes()]);
    assert_eq!(site.server.take_asked().last(), Some(&Site::location(&path)));
    assert!(site.files("metadata").contains_key("rain.json"));
    fine(&site.download(&[&path, &path]));
    assert_eq!(site.server.take_asked(), ["metadata/2.root.json", "metadata/timestamp.json"]);
    // Without what it remembers an old repository would be believed, so a file that is there and cannot be read stops the run.
    let snapshot = site.path("metadata/snapshot.json");
    fs::remove_file(&snapshot).unwrap();
    fs::create_dir(&snapshot).unwrap();
    refused(&site.refresh(), "snapshot.json");
    fs::remove_dir(&snapshot).unwrap();
    // What was damaged on the disk is fetched again, and a file left over from a power cut disturbs nobody.
    let name = site.files("files").into_keys().next().unwrap();
    fs::write(site.path("files").join(&name), b"damaged").unwrap();
    fs::write(site.path("metadata/timestamp.json"), b"{\"signed\"").unwrap();
    fs::write(site.path("metadata/.timestamp.json.new"), b"{").unwrap();
    fine(&site.download(&[&path]));
    assert_eq!(site.files("files")[&name], path.into_bytes());
}

#[test]
fn a_start_is_made_once_and_from_a_root() {
    let site = Site::new();
    refused(&site.refresh(), "root.json");
    fs::write(site.path("first-root.json"), b"{}").unwrap();
    refused(&site.init(), "refused");
    assert!(!site.path("metadata/root.json").exists());
    let unsigned = String::from_utf8(site.keys.image_root.clone()).unwrap().replace("\"sig\":\"", "\"sig\":\"00");
    fs::write(site.path("first-root.json"), unsigned).unwrap();
    refused(&site.init(), "signed by 0");
    fs::write(site.path("first-root.json"), &site.keys.image_root).unwrap();
    fine(&site.init());
    refused(&site.init(), "is there already");
    assert!(site.server.take_asked().is_empty());
}

#[test]
fn the_newest_root_is_where_the_next_run_starts() {
    let mut site = Site::new();
    site.release("1.0.0", 1);
    fine(&site.init());
    fine(&site.refresh());
    let [a, b] = ["root-1", "root-3"].map(|name| site.keys.key(name).unwrap().clone());
    let root = RootBuilder::after(site.state.contents().root(), site.now.plus_secs(86_400)).sign(&[&a, &b]).unwrap();
    site.state.accept_root(&root, &site.signer, site.now).unwrap();
    site.publish();
    // It is kept although nothing after it comes through.
    site.server.put("metadata/timestamp.json", Answer::Status(503));
    refused(&site.refresh(), "status 503");
    assert_eq!(site.files("metadata")["root.json"], root);
    site.publish();
    site.server.take_asked();
    fine(&site.refresh());
    assert_eq!(site.server.take_asked(), ["metadata/3.root.json", "metadata/timestamp.json", "metadata/3.snapshot.json"]);
}

#[test]
fn a_root_that_cannot_be_fetched_is_not_the_end_of_the_chain() {
    let mut site = Site::new();
    site.release("1.0.0", 1);
    fine(&site.init());
    site.server.put("metadata/2.root.json", Answer::Status(500));
    refused(&site.refresh(), "status 500");
    assert_eq!(site.server.take_asked(), ["metadata/2.root.json"]);
    site.server.put("metadata/2.root.json", Answer::Status(404));
    fine(&site.refresh());
}

#[test]
fn endless_data_ends() {
    let mut site = Site::new();
    let path = site.release("1.0.0", 1);
    fine(&site.init());
    for (file, why) in [("metadata/2.root.json", "2.root.json was refused"), ("metadata/timestamp.json", "more than the 16384 allowed")] {
        let before = site.server.shelf.lock().unwrap().answers.get(file).cloned();
        site.server.put(file, Answer::Endless);
        refused(&site.refresh(), why);
        site.server.put(file, before.unwrap_or(Answer::Status(404)));
    }
    site.server.put(Site::location(&path), Answer::Endless);
    refused(&site.download(&[&path]), "longer than the");
    assert!(site.files("files").is_empty(), "nothing is left of it");
}

#[test]
fn another_file_is_not_kept_and_the_first_failure_ends_the_run() {
    let mut site = Site::new();
    let paths = [site.release("1.0.0", 1), site.release("1.1.0", 2), site.release("1.2.0", 3)];
    fine(&site.init());
    fine(&site.download(&[&paths[0]]));
    let good = site.files("files");
    for bad in [paths[2].clone().into_bytes(), b"short".to_vec(), b"far too long, longer than any of them was ever listed".to_vec()] {
        site.server.put(Site::location(&paths[1]), Answer::File(bad));
        refused(&site.download(&[&paths[0], &paths[1], &paths[2]]), &paths[1]);
        assert_eq!(site.files("files"), good);
    }
    site.server.put(Site::location(&paths[1]), Answer::Status(404));
    refused(&site.download(&[&paths[1]]), "has no such file");
    refused(&site.download(&["models/rain/release/9.9.9.onnx", &paths[2]]), "lists no target");
    assert_eq!(site.files("files"), good);
    fine(&site.download(&[&paths[2], &paths[0]]));
    assert_eq!(site.files("files").len(), 2);
}

#[test]
fn a_command_line_that_is_not_understood_does_nothing() {
    let site = Site::new();
    let cases: [(&[&str], &str); 7] = [
        (&[], "--metadata-dir is missing"),
        (&["--metadata-dir", "x"], "one of init, refresh and download"),
        (&["--metadata-dir"], "needs a value"),
        (&["--metadata-dir", "x", "--color", "refresh"], "--color is not known"),
        (&["--metadata-dir", "x", "refresh"], "--metadata-url is missing"),
        (&["--metadata-dir", "x", "init"], "one of init, refresh and download"),
        (&["--metadata-dir", "x", "refresh", "download"], "one of init, refresh and download"),
    ];
    for (arguments, why) in cases {
        let output = site.run(arguments);
        refused(&output, why);
        assert!(says(&output).contains("usage:"));
    }
    assert!(!Path::new("x").exists());
    // Nobody listens there.
    fine(&site.init());
    let metadata = site.path("metadata");
    let started = SystemTime::now();
    refused(&site.run(&["--metadata-dir", metadata.to_str().unwrap(), "--metadata-url", "http://127.0.0.1:9/", "refresh"]), "127.0.0.1:9");
    assert!(started.elapsed().unwrap() < Duration::from_secs(30));
}
