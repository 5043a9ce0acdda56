//! The documents that go with a release, in other people's hands: the reference tool of OpenSSF Model Signing reads ours and writes
//! what we read, in-toto's own types read our provenance, and the bill of materials is what CycloneDX's schema says.
use std::path::{Path, PathBuf};
use std::process::Command;

use leeway_tests::api::Answer;
use leeway_tests::harness::root;
use leeway_tests::lesson::teach;
use leeway_tests::python::environment;
use leeway_tests::site::{Site, Told};
use serde_json::Value;

fn python() -> PathBuf {
    environment("supply", &root().join("tests/interop/requirements-supply.txt"))
}

fn script(words: &[&str]) -> Told {
    let mut command = Command::new(python());
    command.arg(root().join("tests/interop/supply_chain.py"));
    Told::by(command.args(words))
}

/// The reference tool.
fn model_signing(words: &[&str]) -> Told {
    Told::by(Command::new(python()).args(["-m", "model_signing"]).args(words))
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}

/// A copy of a file with one bit changed in its middle.
fn flipped(from: &Path, to: &Path) {
    let mut bytes = std::fs::read(from).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(to, &bytes);
}

#[test]
fn model_signatures_are_read_both_ways_and_one_flipped_bit_is_refused_on_both_sides() {
    let site = Site::new("rain");
    let _ = script(&["keys", &site.path("").display().to_string()]).ok();
    let text = |name: &str| site.path(name).display().to_string();
    for folder in ["model", "damaged"] {
        write(&site.path(&format!("{folder}/rain.onnx")), &[7; 5_000]);
        write(&site.path(&format!("{folder}/more/labels.txt")), b"dry\nrain\n");
        write(&site.path(&format!("{folder}/.git/HEAD")), b"ref");
    }
    flipped(&site.path("model/more/labels.txt"), &site.path("damaged/more/labels.txt"));
    flipped(&site.path("model/rain.onnx"), &site.path("damaged.onnx"));
    // Model, bundle, key, and whether that is right.
    let mut cases = Vec::new();
    for (number, (model, damaged)) in [("model/rain.onnx", "damaged.onnx"), ("model", "damaged")].into_iter().enumerate() {
        let (model, damaged) = (text(model), text(damaged));
        let (ours, theirs) = (text(&format!("ours-{number}")), text(&format!("theirs-{number}")));
        let _ = site.leeway(&["model", "sign-bundle", &model, "--key", &text("sec1.pem"), "--out", &ours]).ok();
        let _ = model_signing(&["sign", "key", &model, "--private_key", &text("pkcs8.pem"), "--signature", &theirs]).ok();
        for bundle in [ours, theirs] {
            let torn = format!("{bundle}-torn");
            flipped(Path::new(&bundle), Path::new(&torn));
            cases.push([model.clone(), bundle.clone(), text("public.pem"), "right".to_owned()]);
            cases.push([model.clone(), bundle.clone(), text("stranger.pem"), "another's key".to_owned()]);
            cases.push([damaged.clone(), bundle, text("public.pem"), "a damaged model".to_owned()]);
            cases.push([model.clone(), torn, text("public.pem"), "a damaged bundle".to_owned()]);
        }
    }
    let plan: Vec<&[String]> = cases.iter().map(|case| &case[..3]).collect();
    write(&site.path("plan.json"), &serde_json::to_vec(&plan).expect("JSON"));
    let theirs = script(&["verify", &text("plan.json")]).ok().json();
    assert_eq!(theirs.as_array().map(Vec::len), Some(16));
    for (number, [model, bundle, key, what]) in cases.iter().enumerate() {
        let ours = site.leeway(&["model", "verify-bundle", model, "--bundle", bundle, "--public-key", key]);
        let both = (theirs[number].is_null(), ours.code == 0);
        assert_eq!(both, (what == "right", what == "right"), "{what}: {model} {bundle}\n{}\n{}", theirs[number], ours.err);
    }
}

#[test]
fn what_goes_with_a_release_is_read_by_the_tools_it_is_for() {
    let site = Site::started("rain");
    let _ = script(&["keys", &site.path("").display().to_string()]).ok();
    let text = |name: &str| site.path(name).display().to_string();
    let lesson = teach("rain", "1.0.0", 0..900, "the first model");
    write(&site.path("rain.onnx"), &lesson.model);
    write(&site.path("rows.csv"), lesson.csv.as_bytes());
    let (model, rows, key) = (text("rain.onnx"), text("rows.csv"), site.key_path("release/rain").display().to_string());
    let publish = |version: &str, more: &[&str]| {
        let base = ["model", "publish", &model, "--line", "rain", "--version", version, "--key", &key, "--reference", &rows];
        let about =
            ["--label-column", "rain", "--code", "https://example.org/weather", "--code-revision", "8edd093", "--reason", "a story"];
        site.leeway(&[&base[..], &about, more].concat())
    };
    // A bundle of another file, or by another key, stops everything before anything is uploaded.
    let theirs = text("theirs.sig");
    let sign = |model: &str| model_signing(&["sign", "key", model, "--private_key", &text("sec1.pem"), "--signature", &theirs]).ok();
    let _ = sign(&rows);
    let refused = publish("1.0.0", &["--oms-bundle", &theirs, "--oms-public-key", &text("public.pem")]);
    assert!(refused.code != 0 && refused.err.contains("not of this model"), "{}", refused.err);
    let _ = sign(&model);
    let refused = publish("1.0.0", &["--oms-bundle", &theirs, "--oms-public-key", &text("stranger.pem")]);
    assert!(refused.code != 0 && refused.err.contains("another key"), "{}", refused.err);
    assert_eq!(site.leeway(&["model", "show", "rain", "1.0.0"]).code, 5, "nothing was published");
    let _ = publish("1.0.0", &["--oms-bundle", &theirs, "--oms-public-key", &text("public.pem"), "--parameter", "l2=0.1"]).ok();
    let _ = publish("1.1.0", &["--oms-key", &text("pkcs8.pem"), "--parent", "1.0.0"]).ok();

    let fetch = |what: &str, version: &str| {
        let out = site.leeway(&["model", what, "rain", version]).ok().out;
        let file = site.path(&format!("{what}-{version}"));
        write(&file, out.as_bytes());
        (out, file.display().to_string())
    };
    assert_eq!(fetch("bundle", "1.0.0").0.as_bytes(), std::fs::read(&theirs).expect("the bundle"), "as it came");
    let made = fetch("bundle", "1.1.0").1;
    let _ = model_signing(&["verify", "key", &model, "--signature", &made, "--public_key", &text("public.pem")]).ok();
    read_by_in_toto(&site, ["1.0.0", "1.1.0"].map(|version| (version, fetch("provenance", version).1)));
    read_by_cyclonedx(&site, &["1.0.0", "1.1.0"].map(|version| fetch("bom", version).1));
    let (first, second) = (fetch("bom", "1.0.0").0, fetch("bom", "1.1.0").0);
    assert!(first == fetch("bom", "1.0.0").0 && !first.contains("ancestors") && second.contains("ancestors"), "{second}");
    let shown = site.leeway(&["model", "show", "rain", "1.1.0"]).ok().out;
    assert!(shown.contains("SLSA provenance v1, signed with the key of role rain: made from 1 dataset"), "{shown}");
    site.assert_chain();
    site.assert_calm();
}

/// Statement and predicate are what their specifications say, and about this release.
fn read_by_in_toto(site: &Site, files: [(&str, String); 2]) {
    let read = |key: &str| {
        let (key, [(_, first), (_, second)]) = (site.key(key).public().hex(), &files);
        script(&["provenance", &key, first, second]).ok().json()
    };
    assert_eq!(read("offline/root-1"), serde_json::json!([null, null]), "a stranger's key");
    let read = read("release/rain");
    for (number, (version, file)) in files.iter().enumerate() {
        let (said, shown) = (&read[number], site.leeway(&["model", "show", "rain", version, "--json"]).ok().json());
        let model = shown["summary"]["model"].as_str().and_then(|d| d.strip_prefix("sha256:")).expect("a digest");
        assert_eq!(said["subject"][0]["digest"]["sha256"], model);
        let parameters = &said["predicate"]["buildDefinition"]["externalParameters"];
        assert_eq!(parameters["parameters"]["l2"], if *version == "1.0.0" { "0.1".into() } else { Value::Null });
        // The digest is signed into the target, so anybody who walks the metadata finds the document.
        let digest = shown["provenance"]["digest"].as_str().expect("provenance");
        let seq = shown["summary"]["seq"].as_u64().expect("a number");
        let role = site.api().get(&format!("/tuf/{seq}.rain.json")).and_then(Answer::ok).expect("the role").json();
        let custom = &role["signed"]["targets"][format!("models/rain/release/{version}.onnx")]["custom"];
        assert_eq!(custom["provenance"]["digest"], digest, "{custom}");
        let blob = site.api().get(&format!("/blobs/{}", digest.trim_start_matches("sha256:"))).and_then(Answer::ok).expect("the blob");
        assert_eq!(blob.body, std::fs::read(file).expect("the same"));
    }
}

/// The schema takes them, and is a schema that would not take anything.
fn read_by_cyclonedx(site: &Site, [first, second]: &[String; 2]) {
    let (wrong, bom) = (site.path("wrong-bom"), std::fs::read_to_string(first).expect("a file"));
    write(&wrong, bom.replace("machine-learning-model", "oracle").as_bytes());
    let read = script(&["bom", first, second, &wrong.display().to_string()]).ok().json();
    assert!(read[0].is_null() && read[1].is_null() && read[2].as_str().is_some_and(|why| why.contains("oracle")), "{read}");
}
