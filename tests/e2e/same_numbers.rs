//! Public models, one recurrent and one convolutional, served by the runner over the Open Inference Protocol: the numbers are
//! those of onnxruntime.
//!
//! `tests/interop/onnxruntime.py` has many more cases; these two are what everyone can check against packages that anyone can get.
use std::process::Command;

use leeway_tests::harness::{program, root};
use leeway_tests::python::{environment, target};
use leeway_tests::site::Told;

/// Recurrent (its state is fed back over 200 chunks of sound), convolutional (images), and a made one with a GRU.
const CASES: [&str; 3] = ["voice-lstm", "text-direction", "gru"];

#[test]
fn a_recurrent_and_a_convolutional_public_model_give_onnxruntimes_numbers() {
    let python = environment("interop", &root().join("tests/interop/requirements.txt"));
    let results = tempfile::tempdir().expect("a temporary folder");
    let json = results.path().join("results.json");
    let mut command = Command::new(python);
    command.arg(root().join("tests/interop/onnxruntime.py")).arg("--runner").arg(program("leeway-runner"));
    command.arg("--only").args(CASES).arg("--cache").arg(target().join("interop")).arg("--json").arg(&json);
    let told = Told::by(&mut command).ok();
    println!("{}", told.out);
    let text = std::fs::read(&json).expect("the results");
    let results: serde_json::Value = serde_json::from_slice(&text).expect("results");
    for case in CASES {
        let result = &results[case];
        assert_eq!(result["ok"], true, "{case}: {result}");
        assert!(result["compared"].as_u64().is_some_and(|n| n > 0), "{case} compared nothing: {result}");
    }
}
