//! Small models made in code, with manifests whose golden vectors come from plain arithmetic: what the tests here run on.
use leeway_protocol::manifest::{Blob, Decision, Golden, GoldenVector, Manifest, StateLink};
use leeway_protocol::profile::{Cuts, Source};
use leeway_protocol::tensor::{DType, Tensor as Wire, TensorSpec};
use prost::Message as _;

use super::onnx::{Attribute, Dimension, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo, element, kind};
use crate::recorder::tests::manifest_with;

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    Node { op_type: op.into(), input: names(inputs), output: names(outputs), ..Node::default() }
}

pub(crate) fn ml(mut node: Node) -> Node {
    node.domain = "ai.onnx.ml".into();
    node
}

pub(crate) fn with(mut node: Node, attribute: Attribute) -> Node {
    node.attribute.push(attribute);
    node
}

pub(crate) fn int(name: &str, i: i64) -> Attribute {
    Attribute { name: name.into(), kind: kind::INT, i, ..Attribute::default() }
}

pub(crate) fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute { name: name.into(), kind: kind::INTS, ints: ints.to_vec(), ..Attribute::default() }
}

pub(crate) fn floats(name: &str, floats: &[f32]) -> Attribute {
    Attribute { name: name.into(), kind: kind::FLOATS, floats: floats.to_vec(), ..Attribute::default() }
}

pub(crate) fn float(name: &str, f: f32) -> Attribute {
    Attribute { name: name.into(), kind: kind::FLOAT, f, ..Attribute::default() }
}

pub(crate) fn text(name: &str, s: &str) -> Attribute {
    Attribute { name: name.into(), kind: kind::STRING, s: s.as_bytes().to_vec(), ..Attribute::default() }
}

pub(crate) fn texts(name: &str, texts: &[&str]) -> Attribute {
    Attribute {
        name: name.into(),
        kind: kind::STRINGS,
        strings: texts.iter().map(|t| t.as_bytes().to_vec()).collect(),
        ..Attribute::default()
    }
}

pub(crate) fn value(name: &str, element: i32, shape: &[i64]) -> ValueInfo {
    let dim = shape.iter().map(|&value| Dimension { value, param: String::new() }).collect();
    ValueInfo { name: name.into(), kind: Some(Type { tensor: Some(TensorType { elem_type: element, shape: Some(Shape { dim }) }) }) }
}

pub(crate) fn weights(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    Tensor { name: name.into(), dims: dims.to_vec(), data_type: element::FLOAT, float_data: values.to_vec(), ..Tensor::default() }
}

pub(crate) fn model(graph: Graph) -> Model {
    let set = |domain: &str, version| OperatorSet { domain: domain.into(), version };
    Model {
        ir_version: 8,
        producer_name: "leeway tests".into(),
        opset_import: vec![set("", 17), set("ai.onnx.ml", 3)],
        graph: Some(graph),
        ..Model::default()
    }
}

pub(crate) fn spec(name: &str, shape: &[u64]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype: DType::F32, shape: shape.to_vec() }
}

/// Bind a manifest to a model's bytes; golden vectors from the given pairs of inputs and outputs.
pub(crate) fn manifest(bytes: &[u8], inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, vectors: Vec<GoldenVector>) -> Manifest {
    let cuts = Cuts::Numeric { edges: vec![-1.0, 0.0, 1.0] };
    let mut manifest = manifest_with(vec![(Source::Input { tensor: 0, index: 0 }, cuts)]);
    manifest.model = Blob::of(bytes);
    manifest.inputs = inputs;
    manifest.outputs = outputs;
    manifest.golden = Golden { rtol: 1e-3, atol: 1e-4, vectors };
    manifest
}

/// p = sigmoid(w·x + b) over two inputs, as a Gemm and a Sigmoid.
pub(crate) fn logistic(w: [f32; 2], b: f32) -> (Vec<u8>, Manifest) {
    let graph = Graph {
        node: vec![node("Gemm", &["x", "w", "b"], &["z"]), node("Sigmoid", &["z"], &["p"])],
        initializer: vec![weights("w", &[2, 1], &w), weights("b", &[1], &[b])],
        input: vec![value("x", element::FLOAT, &[0, 2])],
        output: vec![value("p", element::FLOAT, &[0, 1])],
    };
    let bytes = model(graph).encode_to_vec();
    let want = |x: [f32; 2]| 1.0 / (1.0 + (-(w[0] * x[0] + w[1] * x[1] + b)).exp());
    let vectors = [[0.0, 0.0], [1.0, -2.0], [0.25, 3.0]];
    let vector =
        |x: [f32; 2]| GoldenVector { inputs: vec![Wire::f32("x", &[1, 2], &x)], outputs: vec![Wire::f32("p", &[1, 1], &[want(x)])] };
    let manifest = manifest(&bytes, vec![spec("x", &[1, 2])], vec![spec("p", &[1, 1])], vectors.map(vector).to_vec());
    (bytes, manifest)
}

/// A leaky counter: h' = 0.5·h + x·gain, y = h'; `gain` is an input that never changes.
pub(crate) fn counter() -> (Vec<u8>, Manifest) {
    let graph = Graph {
        node: vec![
            node("Mul", &["h", "half"], &["decayed"]),
            node("Mul", &["x", "gain"], &["gained"]),
            node("Add", &["decayed", "gained"], &["h2"]),
            node("Identity", &["h2"], &["y"]),
        ],
        initializer: vec![weights("half", &[1], &[0.5])],
        input: vec![value("x", element::FLOAT, &[1, 1]), value("gain", element::FLOAT, &[1]), value("h", element::FLOAT, &[1, 1])],
        output: vec![value("y", element::FLOAT, &[1, 1]), value("h2", element::FLOAT, &[1, 1])],
    };
    let bytes = model(graph).encode_to_vec();
    let out = |name: &str, v: f32| Wire::f32(name, &[1, 1], &[v]);
    let vector = GoldenVector { inputs: vec![out("x", 2.0)], outputs: vec![out("y", 6.0), out("h2", 6.0)] };
    let inputs = vec![spec("x", &[1, 1]), spec("gain", &[1]), spec("h", &[1, 1])];
    let mut manifest = manifest(&bytes, inputs, vec![spec("y", &[1, 1]), spec("h2", &[1, 1])], vec![vector]);
    manifest.constants = vec![Wire::f32("gain", &[1], &[3.0])];
    manifest.state = vec![StateLink { input: "h".into(), output: "h2".into() }];
    manifest.decision = Decision::None;
    (bytes, manifest)
}
