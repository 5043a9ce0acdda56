//! The engine looks at the machine before it is confined.
//!
//! It reads the processor's features and the sizes of its caches from the system's files when it first multiplies, and would
//! choose slower kernels where it may not. A model of our own, one product long, makes it look while it may.
use prost::Message as _;
use tract_onnx::prelude::{Framework as _, InferenceModelExt as _, IntoRunnable as _, IntoTValue as _, Tensor as Native, tvec};

use super::onnx::{Dimension, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo, element};

/// Rows and columns: large enough for the kernels of matrices.
const SIZE: i64 = 64;

/// Make the engine look at the machine; whether it multiplied. What it cannot find out costs speed, never a right answer.
pub fn warm() -> bool {
    let ran = std::panic::catch_unwind(|| {
        let mut bytes = std::io::Cursor::new(product());
        let plan = tract_onnx::onnx().model_for_read(&mut bytes)?.into_optimized()?.into_runnable()?;
        let input = Native::zero::<f32>(&[1, SIZE as usize])?.into_tvalue();
        plan.run(tvec![input]).map(drop)
    });
    matches!(ran, Ok(Ok(())))
}

/// y = x · w.
fn product() -> Vec<u8> {
    let value = |name: &str| {
        let dim = [1, SIZE].map(|value| Dimension { value, param: String::new() }).to_vec();
        let tensor = TensorType { elem_type: element::FLOAT, shape: Some(Shape { dim }) };
        ValueInfo { name: name.to_owned(), kind: Some(Type { tensor: Some(tensor) }) }
    };
    let weights = Tensor {
        name: "w".to_owned(),
        dims: vec![SIZE; 2],
        data_type: element::FLOAT,
        raw_data: vec![0; (SIZE * SIZE * 4) as usize],
        ..Tensor::default()
    };
    let node = Node { op_type: "MatMul".to_owned(), input: vec!["x".into(), "w".into()], output: vec!["y".into()], ..Node::default() };
    let graph = Graph { node: vec![node], initializer: vec![weights], input: vec![value("x")], output: vec![value("y")] };
    let opset_import = vec![OperatorSet { domain: String::new(), version: 17 }];
    Model { ir_version: 8, opset_import, graph: Some(graph), ..Model::default() }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_engine_runs_our_own_model() {
        assert!(super::warm());
    }
}
