//! Quantile sketches to and fro with PyPI datasketches: what `leeway model sketch` writes, Python reads and merges with the same
//! numbers; what Python writes, `leeway` reads.
use std::path::Path;
use std::process::Command;

use leeway_tests::harness::{program, root};
use leeway_tests::python::environment;
use leeway_tests::site::Told;
use serde_json::{Value, json};

fn python(what: &str, path: &Path) -> Value {
    let mut command = Command::new(environment("sketches", &root().join("tests/interop/requirements-sketches.txt")));
    Told::by(command.arg(root().join("tests/interop/sketches.py")).arg(what).arg(path)).ok().json()
}

fn leeway(args: &[&str]) -> Told {
    Told::by(Command::new(program("leeway")).arg("model").arg("sketch").args(args).args(["--json"]).env("NO_COLOR", "1"))
}

#[test]
fn sketches_go_to_python_and_come_from_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let rows: String =
        (0..5_000).map(|i| format!("{},{}\n", (i * 37) % 5_000, if i % 10 == 0 { String::new() } else { "2.5".to_owned() })).collect();
    std::fs::write(path("t.csv"), format!("a,odd name/..\n{rows}")).expect("a file");
    let made = leeway(&["--table", &text("t.csv"), "--out", &text("out")]).ok().json();
    let read = python("read", &path("out"));
    for one in made.as_array().expect("a list") {
        let same = &read[one["name"].as_str().expect("a name")];
        assert_eq!((&same["n"], &same["quantiles"]), (&one["n"], &one["quantiles"]), "{one} {read}");
    }
    assert_eq!((&made[0]["n"], &made[1]["n"], &made[1]["missing"]), (&json!(5_000), &json!(4_500), &json!(500)), "{made}");
    let median = made[0]["quantiles"][3].as_f64().expect("a number");
    assert!((median - 2_500.0).abs() < 250.0, "{median}");
    assert_eq!(python("merge", &path("out")), json!({ "n": 9_500 }));

    let theirs = python("write", &path("theirs.kll"));
    let ours = leeway(&["--read", &text("theirs.kll")]).ok().json();
    assert_eq!((&ours[0]["n"], &ours[0]["quantiles"]), (&theirs["n"], &theirs["quantiles"]), "{ours}");

    std::fs::write(path("broken.kll"), b"no sketch").expect("a file");
    let refused = leeway(&["--read", &text("broken.kll")]);
    assert!(refused.code == 2 && refused.err.contains("broken.kll"), "{} {}", refused.code, refused.err);
}
