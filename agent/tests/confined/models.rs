//! Two models made in code: an honest one, and one of a few hundred bytes that wants gigabytes.
use leeway_agent::runtime::onnx::{
    Dimension, Graph, Model as Onnx, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo, element,
};
use leeway_protocol::manifest::{Blob, Calibration, Decision, Golden, GoldenVector, Limits, Lineage, Manifest};
use leeway_protocol::profile::Reference;
use leeway_protocol::tensor::{DType, Tensor as Wire, TensorSpec};
use leeway_protocol::time::Timestamp;
use prost::Message as _;

pub struct Model {
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
}

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    let input = inputs.iter().map(|&name| name.to_owned()).collect();
    Node { op_type: op.to_owned(), input, output: vec![output.to_owned()], ..Node::default() }
}

fn value(name: &str, shape: &[i64]) -> ValueInfo {
    let dim = shape.iter().map(|&value| Dimension { value, param: String::new() }).collect();
    let tensor = TensorType { elem_type: element::FLOAT, shape: Some(Shape { dim }) };
    ValueInfo { name: name.to_owned(), kind: Some(Type { tensor: Some(tensor) }) }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    Tensor { name: name.to_owned(), dims: dims.to_vec(), data_type: element::FLOAT, float_data: values.to_vec(), ..Tensor::default() }
}

fn ints(name: &str, values: &[i64]) -> Tensor {
    let raw_data = values.iter().flat_map(|n| n.to_le_bytes()).collect();
    Tensor { name: name.to_owned(), dims: vec![values.len() as i64], data_type: element::INT64, raw_data, ..Tensor::default() }
}

fn model(graph: Graph, input: (&str, &[u64], &[f32]), output: (&str, &[u64], &[f32])) -> Model {
    let opset = OperatorSet { domain: String::new(), version: 17 };
    let bytes = Onnx { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..Onnx::default() }.encode_to_vec();
    let spec = |(name, shape, _): (&str, &[u64], &[f32])| TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec() };
    let wire = |(name, shape, values): (&str, &[u64], &[f32])| Wire::f32(name, shape, values);
    let vectors = vec![GoldenVector { inputs: vec![wire(input)], outputs: vec![wire(output)] }];
    let manifest = Manifest {
        v: 1,
        line: "rain".parse().unwrap(),
        version: "1".parse().unwrap(),
        seq: 1,
        model: Blob::of(&bytes),
        inputs: vec![spec(input)],
        outputs: vec![spec(output)],
        state: vec![],
        constants: vec![],
        redact: Default::default(),
        decision: Decision::None,
        reference: Reference::default(),
        calibration: Calibration::default(),
        golden: Golden { rtol: 1e-3, atol: 1e-4, vectors },
        limits: Limits { rss_bytes: 128 << 20, ..Limits::default() },
        lineage: Lineage::default(),
        created_at: Timestamp::from_secs(1_000),
    };
    Model { bytes, manifest }
}

/// p = sigmoid(x0).
pub fn logistic() -> Model {
    let graph = Graph {
        node: vec![node("Gemm", &["x", "w", "b"], "z"), node("Sigmoid", &["z"], "p")],
        initializer: vec![floats("w", &[2, 1], &[1.0, 0.0]), floats("b", &[1], &[0.0])],
        input: vec![value("x", &[1, 2])],
        output: vec![value("p", &[1, 1])],
    };
    model(graph, ("x", &[1, 2], &[0.0, 5.0]), ("p", &[1, 1], &[0.5]))
}

/// y = sum of x repeated 2^30 times: 4 GB on the way, each step small enough for every check of the file.
pub fn bomb() -> Model {
    let mut nodes = Vec::new();
    let mut last = "x".to_owned();
    for step in 0..6 {
        let next = format!("t{step}");
        nodes.push(node("Tile", &[&last, "times"], &next));
        last = next;
    }
    nodes.push(node("ReduceSum", &[&last, "axes"], "y"));
    let graph = Graph {
        node: nodes,
        initializer: vec![ints("times", &[1, 32]), ints("axes", &[1])],
        input: vec![value("x", &[1, 1])],
        output: vec![value("y", &[1, 1])],
    };
    model(graph, ("x", &[1, 1], &[0.0]), ("y", &[1, 1], &[0.0]))
}
