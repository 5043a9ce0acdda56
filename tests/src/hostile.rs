//! Models that look good where they were tried and go bad in the field: made in code, signed like any other.
use leeway_agent::runtime::onnx::{Graph, Model as Onnx, Node, Tensor, element};
use leeway_firmware_sim::weather::FEATURES;
use leeway_protocol::manifest::{Blob, Golden, GoldenVector};
use leeway_protocol::tensor::Tensor as Wire;
use prost::Message as _;

use crate::lesson::Lesson;

/// Standardised readings are never so far out.
const FAR_OUT: f32 = 100.0;
/// Standardised wind never falls so low: there is no less than none of it.
const LESS_THAN_NO_WIND: f32 = -3.0;
/// The feature that [`fails_without_wind`] needs.
pub const WIND: usize = 4;

fn node(op: &str, inputs: &[&str], output: &str) -> Node {
    let input = inputs.iter().map(|&name| name.to_owned()).collect();
    Node { op_type: op.to_owned(), input, output: vec![output.to_owned()], ..Node::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    Tensor { name: name.to_owned(), dims: dims.to_vec(), data_type: element::FLOAT, float_data: values.to_vec(), ..Tensor::default() }
}

/// One feature alone.
fn only(feature: usize, value: f32) -> [f32; FEATURES.len()] {
    std::array::from_fn(|f| if f == feature { value } else { 0.0 })
}

/// The same lesson with another graph, given what the lesson's own was.
fn with_graph(like: &Lesson, change: impl FnOnce(&mut Graph)) -> Lesson {
    let mut onnx = Onnx::decode(like.model.as_slice()).expect("the trainer writes ONNX");
    change(onnx.graph.as_mut().expect("a graph"));
    let mut lesson = like.clone();
    lesson.model = onnx.encode_to_vec();
    lesson.manifest.model = Blob::of(&lesson.model);
    lesson
}

/// `probability = ln(x0 - 100)`: as signed at its golden input, not a number at every reading there is. (A sigmoid behind it would
/// hide that: the engine's clamps what it is given.)
pub fn flood(like: &Lesson) -> Lesson {
    let mut lesson = with_graph(like, |graph| {
        graph.node = vec![node("Gemm", &["x", "w", "b"], "z"), node("Log", &["z"], "probability")];
        graph.initializer = vec![floats("w", &[8, 1], &only(0, 1.0)), floats("b", &[1], &[-FAR_OUT])];
    });
    let (input, output) = (Wire::f32("x", &[1, 8], &only(0, FAR_OUT + 1.0)), Wire::f32("probability", &[1, 1], &[0.0]));
    lesson.manifest.golden = Golden { rtol: 1e-3, atol: 1e-4, vectors: vec![GoldenVector { inputs: vec![input], outputs: vec![output] }] };
    lesson
}

/// As good as `like` wherever the wind gauge is sound; not a number where it reads less than no wind, for the square root in it.
pub fn fails_without_wind(like: &Lesson) -> Lesson {
    with_graph(like, |graph| {
        for node in &mut graph.node {
            node.output.iter_mut().filter(|name| *name == "probability").for_each(|name| "sound".clone_into(name));
        }
        graph.node.extend([
            node("Gemm", &["x", "gauge", "least"], "wind"),
            node("Sqrt", &["wind"], "gusts"),
            node("Mul", &["gusts", "little"], "trifle"),
            node("Add", &["sound", "trifle"], "probability"),
        ]);
        graph.initializer.extend([
            floats("gauge", &[8, 1], &only(WIND, 1.0)),
            floats("least", &[1], &[-LESS_THAN_NO_WIND]),
            floats("little", &[1], &[1e-12]),
        ]);
    })
}
