//! Datasets outside of Leeway: pandas and DuckDB read every value of the files, and data that people bring is listed, compared and
//! exported by name, with its references to DVC and lakeFS.
use std::path::Path;
use std::process::Command;

use leeway_controller::dataset::frame::{Fact, Frame};
use leeway_protocol::digest::Digest;
use leeway_protocol::time::Timestamp;
use leeway_tests::harness::root;
use leeway_tests::python::environment;
use leeway_tests::site::{Site, Told};
use serde_json::Value;

const ROWS: usize = 70_000;

/// What Python says of a dataset's files; it ends badly if a single value differs.
fn python(parquet: &Path, csv: &Path) -> Value {
    let python = environment("data", &root().join("tests/interop/requirements-data.txt"));
    let mut command = Command::new(python);
    Told::by(command.arg(root().join("tests/interop/datasets.py")).arg(parquet).arg(csv)).ok().json()
}

/// Numbers that are easily bent on the way: the smallest, the largest, neighbours of one, thirds, and a zero with a sign.
fn awkward(i: usize) -> f32 {
    let special = [f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX, -f32::MAX, 1.0 + f32::EPSILON, -0.0, 16_777_217.0, 1.0 / 3.0];
    special.get(i % 64).copied().unwrap_or(i as f32 * 0.1 - 1_000.0)
}

#[test]
fn pandas_and_duckdb_read_every_value_of_a_dataset() {
    let fact = |i: usize| {
        let inclusion = if i.is_multiple_of(5) { 0.013 } else { 1.0 };
        Fact {
            label: (i % 2) as f32,
            weight: 1.0 / f64::from(inclusion),
            // From 1949 on, some before the epoch, with odd milliseconds.
            at: Timestamp::from_millis(-662_688_000_000 + i as i64 * 25_000_003),
            device: format!("station-{}", i % 11),
            cohort: if i.is_multiple_of(3) { "coast" } else { "hills" }.to_owned(),
            inclusion,
            request: if i == 7 { u64::MAX } else { (i as u64) << 20 },
            served_by: Digest::of(&[(i / 40_000) as u8]).to_string(),
        }
    };
    let values = vec![(0..ROWS).map(awkward).collect(), (0..ROWS).map(|i| (i % 4) as f32).collect()];
    let frame = Frame { features: vec!["air pressure".into(), "wind.max".into()], values, facts: (0..ROWS).map(fact).collect() };
    let dir = tempfile::tempdir().expect("a folder");
    let (parquet, csv) = (dir.path().join("rows.parquet"), dir.path().join("rows.csv"));
    std::fs::write(&parquet, frame.to_parquet().expect("it is written")).expect("written");
    std::fs::write(&csv, frame.to_csv()).expect("written");

    let told = python(&parquet, &csv);
    println!("{told}");
    assert_eq!(
        (told["rows"].as_u64(), told["counted"].as_u64(), told["devices"].as_u64()),
        (Some(ROWS as u64), Some(ROWS as u64), Some(11))
    );
    assert_eq!((told["created_by"].as_str(), told["compression"].as_str()), (Some("leeway"), Some("ZSTD")));
    assert_eq!(told["row_groups"], 2, "a reader that wants a part need not read all");
    let weight: f64 = frame.facts.iter().map(|f| f.weight).sum();
    assert!((told["weight"].as_f64().expect("a sum") / weight - 1.0).abs() < 1e-12, "{told}");
    for (column, pandas, duckdb) in [
        ("air pressure", "float32", "FLOAT"),
        ("weight", "float64", "DOUBLE"),
        ("at", "datetime64[ms, UTC]", "TIMESTAMP WITH TIME ZONE"),
        ("request", "uint64", "UBIGINT"),
    ] {
        assert_eq!((told["pandas"][column].as_str(), told["duckdb"][column].as_str()), (Some(pandas), Some(duckdb)), "{column}: {told}");
    }
    assert_eq!(told["duckdb"]["device"], "VARCHAR");
}

#[test]
fn data_that_people_bring_is_listed_compared_and_exported_by_name() {
    let site = Site::started("rain");
    site.configure();
    let write = |name: &str, text: &str| std::fs::write(site.path(name), text).expect("written");
    let table = |shift: f64, rows: usize| {
        let mut text = "day,wind,rain\n".to_owned();
        for i in 0..rows {
            text += &format!("1949-01-{:02},{},{}\n", i % 28 + 1, (i * 7919 % rows) as f64 / rows as f64 + shift, i % 2);
        }
        text
    };
    let (first, second) = (table(0.0, 1000), table(0.3, 1200));
    write("first.csv", &first);
    write("second.csv", &second);
    write(
        "first.csv.dvc",
        &format!("outs:\n- md5: a304afb96060aad90176268345e10355\n  size: {}\n  hash: md5\n  path: first.csv\n", first.len()),
    );
    write("other.csv.dvc", "outs:\n- md5: a304afb96060aad90176268345e10355\n  size: 1\n  hash: md5\n  path: first.csv\n");
    let path = |name: &str| site.path(name).display().to_string();
    let import = |file: &str, more: &[&str]| {
        let file = path(file);
        site.leeway(&[&["data", "import", &file, "--line", "rain", "--label-column", "rain", "--json"], more].concat())
    };
    // Tracked as something else, an address that can move, a line that is not there.
    let wrong = import("first.csv", &["--dvc", &path("other.csv.dvc")]);
    assert!(wrong.code == 2 && wrong.err.contains("another version"), "{wrong:?}");
    let moves = import("first.csv", &["--lakefs", "lakefs://weather/main/first.csv"]);
    assert!(moves.code == 2 && moves.err.contains("names no commit"), "{moves:?}");

    let one = import("first.csv", &["--dvc", &path("first.csv.dvc"), "--lakefs", "lakefs://weather/7b1fe18e4d2d/first.csv"]).ok().json();
    let two = import("second.csv", &["--title", "later"]).ok().json();
    let name = one["dataset"].as_str().expect("a name");
    assert!(
        one["sentence"].as_str().is_some_and(|s| s.contains("1000 rows with 1 features") && s.contains("dvc:first.csv at md5:")),
        "{one}"
    );
    let listed = site.leeway(&["data", "list", "--line", "rain", "--json"]).ok().json();
    assert_eq!((&listed[0]["dataset"], &listed[1]["dataset"]), (&two["dataset"], &one["dataset"]), "newest first");
    assert!(site.leeway(&["data", "list"]).ok().out.contains("later"));

    let shown = site.leeway(&["data", "show", &name[7..15], "--json"]).ok().json();
    assert_eq!(shown["manifest"]["external"][1]["revision"], "7b1fe18e4d2d", "{shown}");
    assert_eq!(shown["manifest"]["labels"]["classes"]["1"], 500, "{shown}");
    let child = site.leeway(&["data", "show", "later", "--json"]).ok().json();
    assert_eq!(child["manifest"]["parents"][0]["digest"], one["dataset"], "{child}");
    // The name is the digest of the very manifest that is served.
    let manifest = site.api().read::<Value>(&format!("/api/v1/datasets/{name}")).expect("the dataset");
    assert_eq!(manifest["manifest"], shown["manifest"]);

    let made = site.leeway(&["data", "diff", "first.csv", "later", "--json"]).ok().json();
    assert_eq!(made["features"][0]["feature"], "wind", "{made}");
    let (psi, gap) = (made["features"][0]["psi"].as_f64().expect("a number"), made["features"][0]["gap"].as_f64().expect("a number"));
    assert!(psi > 0.2 && (gap - 0.3).abs() < 0.05, "{made}");
    // Lines are wrapped for people.
    let said = site.leeway(&["data", "diff", "first.csv", "later"]).ok().out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("1 of 1 features moved by more than chance, most of all wind"), "{said}");

    let out = path("out.csv");
    let _ = site.leeway(&["data", "export", "later", "--file", "data", "--out", &out]).ok();
    assert_eq!(std::fs::read_to_string(&out).expect("exported"), second, "imported data stays byte for byte");
    let missing = site.leeway(&["data", "export", "later", "--out", &out]);
    assert!(missing.code == 5 && missing.err.contains("--file is one of data"), "{missing:?}");
    let unknown = site.leeway(&["data", "show", "nothing-like-it"]);
    assert!(unknown.code == 5 && unknown.err.contains("leeway data list"), "{unknown:?}");
    site.assert_chain();
    site.assert_calm();
}
