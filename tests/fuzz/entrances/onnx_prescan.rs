//! The bytes of a model, before the engine sees them.
use leeway_agent::runtime::{Limits, prescan};

/// What passes is what came, within every bound.
pub fn enter(bytes: &[u8]) {
    let limits = Limits::default();
    if let Ok(scanned) = prescan(bytes.to_vec(), &limits) {
        assert_eq!(scanned.bytes(), bytes);
        assert!(scanned.nodes <= limits.nodes);
    }
}

/// A small model with most of what the format has, field by field: a constant, a product, a pad, a choice with two graphs.
pub fn honest() -> Vec<(String, Vec<u8>)> {
    let floats: Vec<u8> = [0.5f32, -1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let weights = [number(1, 2), number(1, 1), number(2, 1), text(8, "w"), bytes(9, &floats)].concat();
    let value = |name: &str, sizes: &[u64]| {
        let shape: Vec<u8> = sizes.iter().flat_map(|n| bytes(1, &number(1, *n))).collect();
        let tensor = [number(1, 1), bytes(2, &shape)].concat();
        [text(1, name), bytes(2, &bytes(1, &tensor))].concat()
    };
    let node = |op: &str, domain: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]| {
        let inputs: Vec<u8> = inputs.iter().flat_map(|name| text(1, name)).collect();
        let attributes: Vec<u8> = attributes.iter().flat_map(|attribute| bytes(5, attribute)).collect();
        [inputs, text(2, output), text(3, op), text(4, op), attributes, text(7, domain)].concat()
    };
    let graph = |nodes: &[Vec<u8>], constants: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>]| {
        let many = |tag: u64, parts: &[Vec<u8>]| parts.iter().flat_map(|part| bytes(tag, part)).collect::<Vec<u8>>();
        [many(1, nodes), text(2, "graph"), many(5, constants), many(11, inputs), many(12, outputs)].concat()
    };
    let model = |graph: &[u8]| {
        let opset = |domain: &str, version: u64| bytes(8, &[text(1, domain), number(2, version)].concat());
        [number(1, 8), text(2, "leeway"), bytes(7, graph), opset("", 17), opset("ai.onnx.ml", 3)].concat()
    };
    let ints = |name: &str, values: &[u64]| {
        let packed: Vec<u8> = values.iter().flat_map(|n| varint(*n)).collect();
        [text(1, name), bytes(8, &packed), number(20, 7)].concat()
    };
    let branch = |name: &str| graph(&[node("Identity", "", &["x"], name, &[])], &[], &[], &[value(name, &[1, 2])]);
    let attribute = |name: &str, graph: &[u8]| [text(1, name), bytes(6, graph), number(20, 5)].concat();
    let io = |output: &str| (vec![value("x", &[1, 2])], vec![value(output, &[1, 1])]);
    let (x, y) = io("y");
    let product = graph(&[node("MatMul", "", &["x", "w"], "y", &[])], std::slice::from_ref(&weights), &x, &y);
    let pool = graph(&[node("MaxPool", "", &["x"], "y", &[ints("kernel_shape", &[2, 2]), ints("pads", &[0, 0, 1, 1])])], &[], &x, &y);
    let choice = [attribute("then_branch", &branch("t")), attribute("else_branch", &branch("e"))];
    let choice = graph(&[node("If", "", &["c"], "y", &choice)], &[weights], &x, &y);
    let scaler = graph(&[node("Scaler", "ai.onnx.ml", &["x"], "y", &[])], &[], &x, &y);
    let parts = [("product", product), ("pool", pool), ("choice", choice), ("scaler", scaler)];
    parts.into_iter().map(|(name, graph)| (format!("{name}.onnx"), model(&graph))).collect()
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n > 127 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn number(tag: u64, n: u64) -> Vec<u8> {
    [varint(tag << 3), varint(n)].concat()
}

fn bytes(tag: u64, content: &[u8]) -> Vec<u8> {
    [varint(tag << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn text(tag: u64, content: &str) -> Vec<u8> {
    bytes(tag, content.as_bytes())
}
