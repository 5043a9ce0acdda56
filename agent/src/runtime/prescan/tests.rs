//! Every refusal by name, and no damage to a file that makes the scan panic.
use prost::Message as _;

use super::*;
use crate::runtime::onnx::{Attribute, Graph, Segment, Tensor, element};
use crate::runtime::samples::{int, ints, logistic, model, node, value, weights, with};

fn scan(graph: Graph) -> Result<Scanned, PrescanError> {
    prescan(model(graph).encode_to_vec(), &Limits::default())
}

fn good() -> Graph {
    Graph {
        node: vec![node("Relu", &["x"], &["h"]), node("Add", &["h", "w"], &["y"])],
        initializer: vec![weights("w", &[2], &[1.0, 2.0])],
        input: vec![value("x", element::FLOAT, &[1, 2])],
        output: vec![value("y", element::FLOAT, &[1, 2])],
    }
}

#[test]
fn a_good_model_is_described() {
    let scanned = scan(good()).unwrap();
    assert_eq!((scanned.opset, scanned.nodes, scanned.parameters), (17, 2, 2));
    assert_eq!(scanned.inputs, [Port { name: "x".into(), element: element::FLOAT, shape: Some(vec![Some(1), Some(2)]) }]);
    assert_eq!(scanned.operators, [("Add".to_owned(), 1), ("Relu".to_owned(), 1)].into());
    assert_eq!(scanned.digest, Digest::of(scanned.bytes()));
}

#[test]
fn whatever_is_known_to_hurt_is_refused_by_name() {
    let op = |replacement: Node| move |g: &mut Graph| g.node[0] = replacement.clone();
    let relu = || node("Relu", &["x"], &["h"]);
    let body = |depth: u64| {
        let mut inner = good();
        for _ in 0..depth {
            let attribute = Attribute { name: "then_branch".into(), kind: 5, g: Some(inner), ..Attribute::default() };
            inner = Graph { node: vec![with(node("If", &["x"], &["y"]), attribute)], ..good() };
        }
        inner.node
    };
    let tensor = |t: Tensor| move |g: &mut Graph| g.initializer[0] = Tensor { name: "w".into(), ..t.clone() };
    type Spoil = Box<dyn Fn(&mut Graph)>;
    let table: Vec<(&str, Spoil)> = vec![
        ("operator Loop", Box::new(op(node("Loop", &["x"], &["h"])))),
        ("operator RandomNormal", Box::new(op(node("RandomNormal", &[], &["h"])))),
        ("domain \"evil\"", Box::new(op(Node { domain: "evil".into(), ..relu() }))),
        ("domain \"ai.onnx.ml\"", Box::new(op(Node { domain: "ai.onnx.ml".into(), ..relu() }))),
        ("pads of node Conv", Box::new(op(with(node("Conv", &["x", "w"], &["h"]), ints("pads", &[0, 1 << 32]))))),
        ("group of node Conv", Box::new(op(with(node("Conv", &["x", "w"], &["h"]), int("group", 1 << 21))))),
        ("kernel_shape", Box::new(op(with(node("MaxPool", &["x"], &["h"]), ints("kernel_shape", &[4096, 4096]))))),
        ("which nothing before it makes", Box::new(op(node("Relu", &["later"], &["h"])))),
        ("which nothing before it makes", Box::new(|g: &mut Graph| g.node.swap(0, 1))),
        ("two values are named \"x\"", Box::new(op(node("Relu", &["x"], &["x"])))),
        ("makes nothing", Box::new(op(node("Relu", &["x"], &[""])))),
        ("input without a name", Box::new(|g: &mut Graph| g.input[0].name.clear())),
        ("nothing makes output \"z\"", Box::new(|g: &mut Graph| g.output[0].name = "z".into())),
        ("it has no output", Box::new(|g: &mut Graph| g.output.clear())),
        ("levels of nested graphs", Box::new(move |g: &mut Graph| g.node = body(6))),
        ("parts", Box::new(|g: &mut Graph| g.node[0].input = vec![String::new(); 4_300_000])),
        ("nodes", Box::new(|g: &mut Graph| g.node = vec![Node::default(); 30_000])),
        ("outside the file", Box::new(tensor(Tensor { data_location: 1, ..weights("w", &[2], &[]) }))),
        ("is a segment", Box::new(tensor(Tensor { segment: Some(Segment::default()), ..weights("w", &[2], &[1.0, 2.0]) }))),
        ("lists 1 values, its sizes need 2", Box::new(tensor(weights("w", &[2], &[1.0])))),
        ("has 5 bytes, its sizes and type need 8", Box::new(tensor(Tensor { raw_data: vec![0; 5], ..weights("w", &[2], &[]) }))),
        ("negative size", Box::new(tensor(weights("w", &[-1], &[1.0])))),
        ("negative size or more", Box::new(tensor(weights("w", &[1 << 40, 1 << 40], &[])))),
        ("element type 17", Box::new(tensor(Tensor { data_type: 17, ..weights("w", &[2], &[1.0, 2.0]) }))),
    ];
    for (want, spoil) in table {
        let mut graph = good();
        spoil(&mut graph);
        let error = scan(graph).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

#[test]
fn constant_shapes_that_ask_for_too_much_are_refused() {
    let shape = |values: &[i64]| Tensor {
        name: "s".into(),
        dims: vec![values.len() as i64],
        data_type: element::INT64,
        int64_data: values.to_vec(),
        ..Tensor::default()
    };
    let table: [(&str, &[&str], &[i64]); 3] =
        [("ConstantOfShape", &["s"], &[1 << 20, 1 << 20]), ("Expand", &["x", "s"], &[1 << 30]), ("Pad", &["x", "s"], &[0, 0, 0, 2_000])];
    for (op, inputs, values) in table {
        let mut graph = good();
        graph.initializer.push(shape(values));
        graph.node[0] = node(op, inputs, &["h"]);
        assert!(scan(graph.clone()).unwrap_err().to_string().contains("is more than the bound"), "{op}");
        // The same through a Constant node instead of a weight.
        let constant = Attribute { name: "value".into(), kind: 4, t: graph.initializer.pop(), ..Attribute::default() };
        graph.node.insert(0, with(node("Constant", &[], &["s"]), constant));
        assert!(scan(graph).unwrap_err().to_string().contains("is more than the bound"), "{op} by Constant");
    }
}

#[test]
fn opsets_outside_the_range_are_refused_and_unused_domains_are_not() {
    let with_set = |domain: &str, version| {
        let mut model = model(good());
        model.opset_import = vec![OperatorSet { domain: String::new(), version: 17 }];
        model.opset_import.push(OperatorSet { domain: domain.into(), version });
        prescan(model.encode_to_vec(), &Limits::default())
    };
    assert!(with_set("", 99).unwrap_err().to_string().contains("reads 7 to 22"));
    assert!(with_set("never.used", 99).is_ok());
}

#[test]
fn sparse_training_functions_and_external_data_are_refused_before_decoding() {
    // Field numbers of parts our own messages do not have, appended as raw protobuf.
    let field = |number: u32, inside: &[u8]| {
        let key = number << 3 | 2;
        let mut bytes = if key < 128 { vec![key as u8] } else { vec![key as u8 | 0x80, (key >> 7) as u8] };
        bytes.push(inside.len() as u8);
        bytes.extend_from_slice(inside);
        bytes
    };
    let good = model(good()).encode_to_vec();
    let table = [
        ("training graph", field(20, &[])),
        ("functions", field(25, &[])),
        ("sparse", field(7, &field(15, &[]))),
        ("no external data", field(7, &field(5, &field(13, &[])))),
        ("sparse", field(7, &field(1, &field(5, &field(22, &[]))))),
    ];
    for (want, extra) in table {
        let bytes = [good.clone(), extra].concat();
        let error = prescan(bytes, &Limits::default()).expect_err(want).to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

#[test]
fn damage_never_panics() {
    let (bytes, _) = logistic([1.0, 2.0], 0.5);
    for end in 0..bytes.len() {
        let _ = prescan(bytes[..end].to_vec(), &Limits::default());
    }
    // A fixed sequence of flips, so that a failure can be repeated.
    let mut seed = 7u64;
    for _ in 0..20_000 {
        let mut damaged = bytes.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % damaged.len();
            damaged[at] = (seed >> 24) as u8;
        }
        let _ = prescan(damaged, &Limits::default());
    }
    assert!(prescan(bytes, &Limits::default()).is_ok());
    assert_eq!(prescan(vec![], &Limits::default()).unwrap_err(), PrescanError::Malformed);
    assert!(prescan(vec![0; 100], &Limits { bytes: 10, ..Limits::default() }).unwrap_err().to_string().contains("bytes of the file"));
}
