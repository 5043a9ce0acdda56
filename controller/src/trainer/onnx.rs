//! Writing a fitted model as plain ONNX: only operators and types that every engine has, opset 13.
//!
//! The messages below are the few parts of the format that are written; field numbers are those of onnx.proto.
use leeway_protocol::tensor::TensorSpec;
use prost::Message;

use super::TrainError;
use super::fit::Model;

const OPSET: i64 = 13;
const IR_VERSION: i64 = 8;
/// TensorProto.DataType.FLOAT.
const FLOAT: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetId>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSetId {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    i: i64,
    /// AttributeProto.AttributeType; INT is 2.
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
struct TypeProto {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, tag = "1")]
    value: i64,
}

/// The bytes of the model with the given input and output names.
pub fn write(model: &Model, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Vec<u8>, TrainError> {
    let ([x], [y]) = (inputs, outputs) else { return Err(TrainError::Shape("one input and one output are needed".to_owned())) };
    let (width, pairs) = (model.low.len(), model.pairs.len());
    if x.elements() != Some(width) || y.elements() != Some(1) {
        return Err(TrainError::Shape(format!("the input needs {width} elements and the output 1")));
    }
    // z = (c - mean) / sd as one Gemm with a diagonal; the left and right factors of every product as two more.
    let scale = |f: usize| 1.0 / model.sd.get(f).copied().unwrap_or(1.0);
    let shift = |f: usize| -model.mean.get(f).copied().unwrap_or(0.0) * scale(f);
    let select = |chosen: &[usize]| -> (Vec<f32>, Vec<f32>) {
        let mut matrix = vec![0.0; width * chosen.len()];
        for (column, &feature) in chosen.iter().enumerate() {
            if let Some(cell) = matrix.get_mut(feature * chosen.len() + column) {
                *cell = scale(feature) as f32;
            }
        }
        (matrix, chosen.iter().map(|&f| shift(f) as f32).collect())
    };
    let (z, z0) = select(&(0..width).collect::<Vec<_>>());
    let (left, left0) = select(&model.pairs.iter().map(|p| p.0).collect::<Vec<_>>());
    let (right, right0) = select(&model.pairs.iter().map(|p| p.1).collect::<Vec<_>>());
    let initializer = vec![
        tensor("low", &[1, width], &model.low),
        tensor("high", &[1, width], &model.high),
        tensor("scale", &[width, width], &z),
        tensor("shift", &[width], &z0),
        tensor("left", &[width, pairs], &left),
        tensor("left_shift", &[pairs], &left0),
        tensor("right", &[width, pairs], &right),
        tensor("right_shift", &[pairs], &right0),
        tensor("weights", &[width + pairs, 1], &model.weights),
        tensor("bias", &[1], &[model.bias]),
    ];
    let node = vec![
        op("Max", &[&x.name, "low"], "from_below"),
        op("Min", &["from_below", "high"], "clipped"),
        op("Gemm", &["clipped", "scale", "shift"], "z"),
        op("Gemm", &["clipped", "left", "left_shift"], "z_left"),
        op("Gemm", &["clipped", "right", "right_shift"], "z_right"),
        op("Mul", &["z_left", "z_right"], "products"),
        NodeProto { attribute: vec![Attribute { name: "axis".to_owned(), i: 1, kind: 2 }], ..op("Concat", &["z", "products"], "expanded") },
        op("Gemm", &["expanded", "weights", "bias"], "logit"),
        op("Sigmoid", &["logit"], &y.name),
    ];
    let graph = GraphProto { node, name: "logistic".to_owned(), initializer, input: vec![value(x)], output: vec![value(y)] };
    let opset_import = vec![OperatorSetId { domain: String::new(), version: OPSET }];
    let producer_version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(ModelProto { ir_version: IR_VERSION, producer_name: "leeway".to_owned(), producer_version, graph: Some(graph), opset_import }
        .encode_to_vec())
}

fn op(op_type: &str, input: &[&str], output: &str) -> NodeProto {
    let input = input.iter().map(|name| (*name).to_owned()).collect();
    NodeProto { input, output: vec![output.to_owned()], name: format!("make_{output}"), op_type: op_type.to_owned(), attribute: Vec::new() }
}

fn tensor(name: &str, dims: &[usize], values: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn value(spec: &TensorSpec) -> ValueInfo {
    let dim = spec.shape.iter().map(|&size| Dimension { value: size as i64 }).collect();
    let tensor = TensorType { element: FLOAT, shape: Some(Shape { dim }) };
    ValueInfo { name: spec.name.clone(), kind: Some(TypeProto { tensor: Some(tensor) }) }
}
