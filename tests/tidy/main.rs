//! The house rules as a test: what `architecture` promises and a script can see.
//!
//! Rules that the compiler or clippy can hold live there; this file holds the rest. Each rule names the file and line and says what
//! to do instead, so that a red test is also the review comment.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders with our own sources.
const CRATES: [&str; 5] = ["protocol", "agent", "controller", "firmware-sim", "tests"];
/// The only things that may stand at the top level (dotfiles apart).
const TOP: [&str; 14] = [
    "Cargo.toml",
    "Cargo.lock",
    "agent",
    "controller",
    "protocol",
    "firmware-sim",
    "tests",
    "deploy",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "CHANGELOG.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
];
/// A file past this many lines (tests apart) is split by what it knows.
const MAX_LINES: usize = 500;
/// What only the one folder that touches the world may name.
const WORLD: [&str; 14] = [
    "std::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::thread",
    "std::process",
    "std::env",
    "tokio::",
    "SystemTime::now",
    "Instant::now",
    "getrandom::",
    "thread_rng",
    "ureq::",
    "rumqttc::",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ has a parent").to_path_buf()
}

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for name in CRATES {
        collect(&root().join(name), &mut found);
    }
    assert!(found.len() > 50, "the walk found only {} files: it looks in the wrong place", found.len());
    found
}

fn collect(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("directory entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push((name, fs::read_to_string(&path).expect("source is UTF-8")));
        }
    }
}

/// The part of a file before its tests.
fn body(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

/// Whether a file holds tests only.
fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs") || name.ends_with("fixture.rs")
}

/// Whether a file may touch the world.
fn is_io(name: &str) -> bool {
    let parts: BTreeSet<&str> = name.split('/').collect();
    let file = name.rsplit('/').next().unwrap_or(name);
    let outside = ["io", "bin", "cli", "examples", "benches", "fuzz"];
    is_test(name) || outside.iter().any(|d| parts.contains(d)) || ["io.rs", "main.rs", "build.rs", "lib.rs"].contains(&file)
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

#[test]
fn every_file_says_what_it_owns() {
    let broken: Vec<String> = sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    report("open the file with //!: what it owns, why this way, what stays true", &broken);
}

#[test]
fn the_world_is_one_folder() {
    let mut broken = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_io(name)) {
        for (i, line) in body(text).lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = WORLD.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{name}:{}: {word}", i + 1));
            }
        }
    }
    report("outside io/ nothing does I/O, reads a clock, spawns a task or draws chance: hand the value in", &broken);
}

#[test]
fn files_stay_readable() {
    let long = |(name, text): (String, String)| {
        let lines = body(&text).lines().count();
        (lines > MAX_LINES && !is_test(&name)).then(|| format!("{name}: {lines} lines"))
    };
    report("split files past 500 lines by what they know", &sources().into_iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn there_are_no_drawers() {
    let drawers = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "mod"];
    let is_drawer = |name: &str| Path::new(name).iter().any(|part| drawers.contains(&part.to_string_lossy().trim_end_matches(".rs")));
    let broken: Vec<String> = sources().into_iter().map(|(name, _)| name).filter(|name| is_drawer(name)).collect();
    report("a function lives with its type; modules are foo.rs + foo/", &broken);
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "XXX", "dbg!(", "#[ignore", "#[allow("];
    let mut broken = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !name.starts_with("tests/tidy")) {
        for (i, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                broken.push(format!("{name}:{}: {word}", i + 1));
            }
        }
    }
    report("finish it, test it, or use #[expect(.., reason = ..)]", &broken);
}

#[test]
fn the_top_level_is_the_plan() {
    let entries = fs::read_dir(root()).expect("the repository's root");
    let names = entries.map(|e| e.expect("directory entry").file_name().to_string_lossy().into_owned());
    let broken: Vec<String> = names.filter(|n| !n.starts_with('.') && n != "target" && !TOP.contains(&n.as_str())).collect();
    report("nothing else stands at the top level", &broken);
}

#[test]
fn dependencies_point_one_way() {
    let allowed: [(&str, &[&str]); 6] = [
        ("protocol", &[]),
        ("agent", &["leeway-protocol"]),
        ("controller", &["leeway-protocol"]),
        ("firmware-sim", &["leeway-protocol", "leeway-agent"]),
        ("controller/cli", &["leeway-protocol", "leeway-agent", "leeway-controller", "leeway-firmware-sim"]),
        ("tests", &["leeway-protocol", "leeway-agent", "leeway-controller", "leeway-firmware-sim"]),
    ];
    let mut broken = Vec::new();
    for (package, may) in allowed {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).expect("manifest");
        let names = manifest.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|n| n.starts_with("leeway-"));
        broken.extend(names.filter(|n| !may.contains(n)).map(|n| format!("{package} -> {n}")));
    }
    report("tests -> firmware-sim -> agent -> protocol; controller -> protocol; only tests and the operator's binary join them", &broken);
}

#[test]
fn the_supervisor_names_no_model_runtime() {
    let broken: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| {
            name.starts_with("agent/") && !name.contains("runtime") && !name.contains("runner") && !name.contains("example")
        })
        .filter(|(_, text)| body(text).contains("tract_onnx"))
        .map(|(name, _)| name)
        .collect();
    report("tract is linked by the runner only", &broken);
}

#[test]
fn the_readme_names_every_invariant() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md").replace('\n', " ");
    let broken: Vec<String> = INVARIANTS.iter().filter(|i| !readme.contains(**i)).map(|i| (*i).to_owned()).collect();
    report("the README lists the invariants in these words", &broken);
}

/// The invariants, in the README's words; each has one function in `tests/sim`.
const INVARIANTS: [&str; 9] = [
    "A device never runs a manifest whose signatures it has not verified",
    "Generations never go down at a device",
    "Every device always has a last known good it can run without a network",
    "After a rollback is planned, no device commits the bad version",
    "The share of devices on a new version never exceeds what the current stage allows",
    "The same report twice changes nothing",
    "No data is never a pass",
    "State is on disk before any message that depends on it leaves",
    "Once faults stop, the fleet converges to the desired state",
];

#[test]
fn the_security_page_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let tests: String = sources().into_iter().map(|(_, text)| text).collect();
    let proofs = page.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.trim_end_matches(" |").rsplit(" | ").next());
    let named: Vec<&str> =
        proofs.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|name| name.matches('_').count() > 2).collect();
    assert!(named.len() > 40, "only {} tests are named", named.len());
    let missing: Vec<String> = named.into_iter().filter(|name| !tests.contains(&format!("fn {name}("))).map(str::to_owned).collect();
    report("name a test that exists", &missing);
}
