//! Loading, running, state, and every disagreement between a manifest and its model.
use std::sync::Arc;

use leeway_protocol::manifest::{GoldenVector, Manifest};
use leeway_protocol::reason::Code;
use leeway_protocol::tensor::{DType, Tensor as Wire};
use prost::Message as _;

use super::onnx::{Graph, Tensor, element};
use super::samples::{counter, floats, logistic, manifest, ml, model, node, spec, value, weights};
use super::{Limits, LoadError, Plan, golden, prescan};

fn load(bytes: &[u8], manifest: &Manifest) -> Result<Arc<Plan>, LoadError> {
    Plan::load(&prescan(bytes.to_vec(), &Limits::default()).unwrap(), manifest).map(Arc::new)
}

#[test]
fn a_symbolic_batch_is_fixed_by_the_manifest_and_golden_vectors_match() {
    let (bytes, manifest) = logistic([1.5, -0.5], 0.25);
    let mut session = load(&bytes, &manifest).unwrap().spawn().unwrap();
    let first = golden::check(&mut session, &manifest).unwrap();
    assert_eq!(golden::check(&mut session, &manifest), Ok(first), "the same again");
    let (other_bytes, other) = logistic([1.5, -0.4], 0.25);
    let mut sabotaged = load(&other_bytes, &other).unwrap().spawn().unwrap();
    let reason = golden::check(&mut sabotaged, &manifest).unwrap_err();
    assert_eq!(reason.code, Code::GoldenMismatch);
    assert!(reason.detail.contains("golden vector 1, output \"p\": element 0 is"), "{}", reason.detail);
}

#[test]
fn state_is_carried_and_reset_and_constants_are_weights() {
    let (bytes, manifest) = counter();
    let plan = load(&bytes, &manifest).unwrap();
    let (mut one, mut two) = (plan.spawn().unwrap(), plan.spawn().unwrap());
    let x = [Wire::f32("x", &[1, 1], &[2.0])];
    let y = |session: &mut super::Session| session.infer(&x).unwrap()[0].to_f64()[0];
    assert_eq!([y(&mut one), y(&mut one), y(&mut one)], [6.0, 9.0, 10.5]);
    assert_eq!(y(&mut two), 6.0, "streams do not share state");
    one.reset();
    assert_eq!(y(&mut one), 6.0);
    assert!(golden::check(&mut two, &manifest).is_ok());
    assert_eq!(y(&mut two), 6.0, "the check leaves no state behind");
}

#[test]
fn wrong_inputs_are_refused_by_name_and_the_next_inference_works() {
    let (bytes, manifest) = logistic([1.0, 1.0], 0.0);
    let mut session = load(&bytes, &manifest).unwrap().spawn().unwrap();
    let table = [
        (vec![], "takes 1 inputs, 0 were given"),
        (vec![Wire::f32("x", &[1, 3], &[0.0; 3])], "input \"x\" must be FP32 [1, 2], it is FP32 [1, 3]"),
        (vec![Wire::i64("x", &[1, 2], &[0; 2])], "it is INT64 [1, 2]"),
        (vec![Wire { data: vec![0; 7], ..Wire::f32("x", &[1, 2], &[0.0; 2]) }], "has 7 bytes"),
    ];
    for (inputs, want) in table {
        let error = session.infer(&inputs).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(session.infer(&[Wire::f32("x", &[1, 2], &[0.0; 2])]).unwrap()[0].to_f64(), [0.5]);
}

#[test]
fn a_manifest_that_does_not_fit_its_model_is_refused() {
    let (bytes, good) = logistic([1.0, 1.0], 0.0);
    type Spoil = fn(&mut Manifest);
    let table: [(&str, Spoil); 6] = [
        ("digest differs", |m| m.model.digest = leeway_protocol::digest::Digest::of(b"other")),
        ("no input \"q\"", |m| m.inputs[0].name = "q".into()),
        ("no output \"q\"", |m| m.outputs[0].name = "q".into()),
        ("output \"p\" is FP32 [1, 1], the manifest says INT64", |m| m.outputs[0].dtype = DType::I64),
        ("output \"p\" is FP32 [1, 1], the manifest says FP32 [1, 2]", |m| m.outputs[0].shape = vec![1, 2]),
        ("is a weight", |m| m.inputs[0].name = "w".into()),
    ];
    for (want, spoil) in table {
        let mut manifest = good.clone();
        spoil(&mut manifest);
        let error = load(&bytes, &manifest).expect_err(want).to_string();
        assert!(error.contains(want) || (want == "is a weight" && error.contains("no input")), "{want}: {error}");
    }
    let mut wide = good;
    wide.inputs[0].shape = vec![1, 3];
    assert!(matches!(load(&bytes, &wide), Err(LoadError::Engine(_))));
}

#[test]
fn softmax_between_quantised_tensors_is_right() {
    let scalar = |name: &str, v: f32| weights(name, &[], &[v]);
    let zero = |name: &str| Tensor { name: name.into(), data_type: element::INT8, int32_data: vec![0], ..Tensor::default() };
    let graph = Graph {
        node: vec![
            node("QuantizeLinear", &["x", "s", "z"], &["q"]),
            node("DequantizeLinear", &["q", "s", "z"], &["d"]),
            node("Softmax", &["d"], &["soft"]),
            node("QuantizeLinear", &["soft", "t", "z"], &["q2"]),
            node("DequantizeLinear", &["q2", "t", "z"], &["y"]),
        ],
        initializer: vec![scalar("s", 0.05), scalar("t", 1.0 / 127.0), zero("z")],
        input: vec![value("x", element::FLOAT, &[1, 3])],
        output: vec![value("y", element::FLOAT, &[1, 3])],
    };
    let bytes = model(graph).encode_to_vec();
    let x = [1.0f32, 2.0, 0.5];
    let sum: f32 = x.iter().map(|v| v.exp()).sum();
    let y: Vec<f32> = x.iter().map(|v| (v.exp() / sum * 127.0).round() / 127.0).collect();
    let vector = GoldenVector { inputs: vec![Wire::f32("x", &[1, 3], &x)], outputs: vec![Wire::f32("y", &[1, 3], &y)] };
    let mut manifest = manifest(&bytes, vec![spec("x", &[1, 3])], vec![spec("y", &[1, 3])], vec![vector]);
    manifest.golden.atol = 0.009;
    let mut session = load(&bytes, &manifest).unwrap().spawn().unwrap();
    golden::check(&mut session, &manifest).unwrap();
}

#[test]
fn per_axis_dequantisation_and_the_scaler_compute_what_they_should() {
    let bytes_of = |values: &[i8]| values.iter().map(|v| v.cast_unsigned()).collect::<Vec<u8>>();
    let i8s = |name: &str, dims: &[i64], values: &[i8]| Tensor {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: element::INT8,
        raw_data: bytes_of(values),
        ..Tensor::default()
    };
    let scaler = super::samples::with(ml(node("Scaler", &["x"], &["n"])), floats("offset", &[1.0, 2.0]));
    let graph = Graph {
        node: vec![
            super::samples::with(scaler, floats("scale", &[10.0, 100.0])),
            node("DequantizeLinear", &["wq", "ws", "wz"], &["w"]),
            node("MatMul", &["n", "w"], &["y"]),
        ],
        initializer: vec![i8s("wq", &[2, 2], &[1, 2, 3, 4]), weights("ws", &[2], &[0.5, 2.0]), i8s("wz", &[2], &[0, 1])],
        input: vec![value("x", element::FLOAT, &[1, 2])],
        output: vec![value("y", element::FLOAT, &[1, 2])],
    };
    let bytes = model(graph).encode_to_vec();
    // n = [10, 100]; w = [[0.5, 2], [1.5, 6]] along axis 1.
    let vector =
        GoldenVector { inputs: vec![Wire::f32("x", &[1, 2], &[2.0, 3.0])], outputs: vec![Wire::f32("y", &[1, 2], &[155.0, 620.0])] };
    let manifest = manifest(&bytes, vec![spec("x", &[1, 2])], vec![spec("y", &[1, 2])], vec![vector]);
    let mut session = load(&bytes, &manifest).unwrap().spawn().unwrap();
    golden::check(&mut session, &manifest).unwrap();
}

#[test]
fn every_served_type_goes_in_and_out() {
    type Case = (DType, i32, &'static str, Vec<u8>, Vec<u8>);
    let table: [Case; 5] = [
        (DType::I8, element::INT8, "Add", vec![255, 3], vec![254, 6]),
        (DType::U8, element::UINT8, "Add", vec![100, 3], vec![200, 6]),
        (
            DType::I32,
            element::INT32,
            "Add",
            [1i32, -70_000].iter().flat_map(|v| v.to_le_bytes()).collect(),
            [2i32, -140_000].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        (
            DType::I64,
            element::INT64,
            "Add",
            [1i64, -(1 << 40)].iter().flat_map(|v| v.to_le_bytes()).collect(),
            [2i64, -(1 << 41)].iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        (DType::Bool, element::BOOL, "Xor", vec![1, 0], vec![0, 0]),
    ];
    for (dtype, number, op, input, want) in table {
        let graph = Graph {
            node: vec![node(op, &["x", "x"], &["y"])],
            input: vec![value("x", number, &[1, 2])],
            output: vec![value("y", number, &[1, 2])],
            ..Graph::default()
        };
        let bytes = model(graph).encode_to_vec();
        let tensor = |name: &str, data: Vec<u8>| Wire { name: name.into(), dtype, shape: vec![1, 2], data };
        let vector = GoldenVector { inputs: vec![tensor("x", input)], outputs: vec![tensor("y", want)] };
        let specs = (vector.inputs[0].spec(), vector.outputs[0].spec());
        let manifest = manifest(&bytes, vec![specs.0], vec![specs.1], vec![vector]);
        let mut session = load(&bytes, &manifest).unwrap_or_else(|e| panic!("{dtype:?}: {e}")).spawn().unwrap();
        golden::check(&mut session, &manifest).unwrap_or_else(|e| panic!("{dtype:?}: {e}"));
    }
}

#[test]
fn what_the_engine_panics_on_is_an_error() {
    let (bytes, manifest) = logistic([1.0, 1.0], 0.0);
    let mut seed = 11u64;
    let mut loaded = 0;
    for _ in 0..300 {
        let mut damaged = bytes.clone();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (seed >> 33) as usize % damaged.len();
        damaged[at] ^= 1 << (seed >> 60 & 7);
        let Ok(scanned) = prescan(damaged, &Limits::default()) else { continue };
        let manifest = Manifest { model: leeway_protocol::manifest::Blob::of(scanned.bytes()), ..manifest.clone() };
        loaded += u32::from(Plan::load(&scanned, &manifest).is_ok());
    }
    assert!(loaded > 0);
}
