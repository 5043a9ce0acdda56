//! Public models, one recurrent and one convolutional, what trainers export, and every operator of classical machine learning, served
//! by the runner: the numbers are those of onnxruntime, or the publisher is told what to do.
//!
//! `tests/interop/onnxruntime.py` has more cases; these can be checked against packages that anyone can get.
use std::collections::BTreeMap;
use std::process::Command;

use leeway_tests::harness::{program, root};
use leeway_tests::python::{environment, target};
use leeway_tests::site::Told;

/// Recurrent (its state is fed back over 200 chunks of sound), convolutional (images), a made one with a GRU, and one quantised
/// around a Softmax, which the engine alone gets wrong.
const PUBLIC: [&str; 4] = ["voice-lstm", "text-direction", "gru", "quantised"];
/// Estimators of scikit-learn, operators with all their choices, recurrent layers over windows, and what the engine gets wrong: groups, by
/// how names begin.
const EXPORTED: [(&str, usize); 4] = [("estimator", 150), ("operator", 135), ("window", 6), ("wrong", 1)];

#[test]
fn a_recurrent_and_a_convolutional_public_model_give_onnxruntimes_numbers() {
    let results = compare(&PUBLIC);
    for case in PUBLIC {
        agreed(case, &results[case]);
    }
}

#[test]
fn what_trainers_export_gives_onnxruntimes_numbers_or_is_refused_with_what_to_do() {
    let results = compare(&EXPORTED.map(|(group, _)| group));
    for (case, result) in &results {
        agreed(case, result);
    }
    for (group, least) in EXPORTED {
        let found = results.keys().filter(|case| case.starts_with(group)).count();
        assert!(found >= least, "{found} cases of {group}");
    }
}

fn agreed(case: &str, result: &serde_json::Value) {
    assert_eq!(result["ok"], true, "{case}: {result}");
    let compared = result["compared"].as_u64().is_some_and(|n| n > 0);
    assert!(compared || result["refused"] == true, "{case} compared nothing: {result}");
}

/// What became of the cases whose names begin so.
fn compare(only: &[&str]) -> BTreeMap<String, serde_json::Value> {
    let python = environment("interop", &root().join("tests/interop/requirements.txt"));
    let results = tempfile::tempdir().expect("a temporary folder");
    let json = results.path().join("results.json");
    let mut command = Command::new(python);
    command.arg("-W").arg("ignore").arg(root().join("tests/interop/onnxruntime.py"));
    command.arg("--runner").arg(program("leeway-runner")).arg("--publisher").arg(program("leeway"));
    command.arg("--only").args(only).arg("--cache").arg(target().join("interop")).arg("--json").arg(&json);
    let told = Told::by(&mut command).ok();
    println!("{}", told.out);
    let text = std::fs::read(&json).expect("the results");
    serde_json::from_slice(&text).expect("results")
}
