//! Models that go bad only once they answer for real: one floods the application with answers that are no numbers, one stops
//! answering. Real agent, real runner, real signatures: the agent lives on, the child pays, and repeated it costs the model its slot.
//!
//! Crashes and memory bombs are in `agent/tests/confined`; files that a scan refuses are in `agent/src/runtime/prescan`.
use leeway_agent::runtime::onnx::{
    Dimension, Graph, Model as Onnx, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo, element,
};
use leeway_protocol::manifest::{Blob, Golden, GoldenVector};
use leeway_protocol::tensor::Tensor as Wire;
use leeway_tests::application::Application;
use leeway_tests::device::Device;
use leeway_tests::harness::wait_for;
use leeway_tests::lesson::{Lesson, teach};
use leeway_tests::site::{Site, quick_policy};
use prost::Message as _;
use serde_json::json;

/// Standardised readings are never so far out: above it the model answers well, below it never.
const FAR_OUT: f32 = 100.0;

/// `probability = ln(x0 - 100)`: as signed at its golden input, not a number at every reading there is. (A sigmoid behind it would
/// hide that: the engine's clamps what it is given.)
fn flood(like: &Lesson) -> Lesson {
    let text = str::to_owned;
    let node = |op: &str, inputs: &[&str], output: &str| Node {
        op_type: text(op),
        input: inputs.iter().map(|name| text(name)).collect(),
        output: vec![text(output)],
        ..Node::default()
    };
    let value = |name: &str, width: i64| {
        let dim = [1, width].map(|value| Dimension { value, param: String::new() }).to_vec();
        let tensor = TensorType { elem_type: element::FLOAT, shape: Some(Shape { dim }) };
        ValueInfo { name: text(name), kind: Some(Type { tensor: Some(tensor) }) }
    };
    let floats = |name: &str, dims: &[i64], values: &[f32]| Tensor {
        name: text(name),
        dims: dims.to_vec(),
        data_type: element::FLOAT,
        float_data: values.to_vec(),
        ..Tensor::default()
    };
    let mut weights = [0.0; 8];
    weights[0] = 1.0;
    let graph = Graph {
        node: vec![node("Gemm", &["x", "w", "b"], "z"), node("Log", &["z"], "probability")],
        initializer: vec![floats("w", &[8, 1], &weights), floats("b", &[1], &[-FAR_OUT])],
        input: vec![value("x", 8)],
        output: vec![value("probability", 1)],
    };
    let opset_import = vec![OperatorSet { domain: String::new(), version: 13 }];
    let model = Onnx { ir_version: 8, opset_import, graph: Some(graph), ..Onnx::default() }.encode_to_vec();
    let mut manifest = like.manifest.clone();
    manifest.model = Blob::of(&model);
    weights[0] = FAR_OUT + 1.0;
    let (input, output) = (Wire::f32("x", &[1, 8], &weights), Wire::f32("probability", &[1, 1], &[0.0]));
    manifest.golden = Golden { rtol: 1e-3, atol: 1e-4, vectors: vec![GoldenVector { inputs: vec![input], outputs: vec![output] }] };
    Lesson { model, manifest, ..like.clone() }
}

/// A site, a device on a good first version, and an application that asks it all the time.
fn served(timing: &str) -> (Site, Device, Application) {
    let site = Site::started("rain");
    site.configure();
    site.publish(&teach("rain", "1.0.0", 0..1_500, "the first model"));
    let mut device = Device::enrolled(&site, "porch", &site.enrolment_token(1));
    device.sections.insert("timing", timing.to_owned());
    device.start();
    let application = Application::start(device.tcp(), "rain", 7, 2_000);
    let first = site.roll_out("1.0.0");
    assert_eq!(site.until_over(&first), "completed");
    (site, device, application)
}

fn until_answered_by(application: &Application, version: &str) {
    let before = application.answers(version);
    wait_for(&format!("the application is answered by {version}"), || {
        let now = application.answers(version);
        if now > before + 5 { Ok(()) } else { Err(format!("{:?}", application.seen())) }
    });
}

#[test]
fn a_flood_of_answers_that_are_no_numbers_costs_the_model_its_slot_and_nobody_else_anything() {
    let (site, mut device, application) = served("");
    let agent = device.agent_id();
    site.publish(&flood(&teach("rain", "2.0.0", 0..1_500, "looks good where it was tried")));
    // Straight to the trial: what the shadow run would have seen is not what is tried here.
    let mut policy = quick_policy();
    policy["settings"]["shadow"]["min_inferences"] = 0.into();
    let body = json!({ "line": "rain", "version": "2.0.0", "id": "flood", "policy": policy, "reason": "a story of the tests" });
    let _ = site.api().post("/api/v1/rollouts", &body).and_then(leeway_tests::api::Answer::ok).expect("a rollout");
    assert_eq!(site.until_over("flood"), "rolled_back");

    let seen = site.until_runs("porch", "1.0.0");
    let why = site.leeway(&["events", "--subject", "rollouts/flood", "--json"]).ok().out;
    assert!(device.log().contains("output-not-finite"), "{}\n{seen}\n{why}", device.log());
    until_answered_by(&application, "1.0.0");
    assert_eq!(application.answers("2.0.0"), 0, "not one such answer reached the application as a good one");
    assert!(device.is_running() && device.agent_id() == agent, "the agent never ended:\n{}", device.log());
    drop(application);
    site.assert_calm();
}

#[test]
fn a_model_that_hangs_costs_one_restart_and_repeated_its_slot() {
    let (site, mut device, application) = served("hang_ms = 3000\ncrash_limit = 2\n");
    site.publish(&teach("rain", "2.0.0", 1_000..2_500, "the second model"));
    let second = site.roll_out("2.0.0");
    site.until_runs("porch", "2.0.0");
    // One device has nobody to be compared with, so a person decides.
    for _ in 0..2 {
        let _ = site.leeway(&["rollout", "promote", &second, "--reason", "it is the only device"]).ok();
    }
    assert_eq!(site.until_over(&second), "completed");
    until_answered_by(&application, "2.0.0");
    let agent = device.agent_id();

    assert_eq!(device.stop_runners_in_their_tracks(), 1);
    wait_for("the hang is noticed", || match device.log() {
        log if log.contains("no sign of life") && log.contains("it is started again") => Ok(()),
        log => Err(log),
    });
    until_answered_by(&application, "2.0.0");

    assert_eq!(device.stop_runners_in_their_tracks(), 1);
    device.until_serves("1.0.0");
    until_answered_by(&application, "1.0.0");
    assert!(device.log().contains("the active release failed: hung"), "{}", device.log());
    assert!(device.is_running() && device.agent_id() == agent, "the agent never ended:\n{}", device.log());
    drop(application);
}
