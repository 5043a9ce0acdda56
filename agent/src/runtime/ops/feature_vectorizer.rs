//! FeatureVectorizer: several inputs side by side as one row of floats, each cut or filled with zeros to its own length. Missing in
//! the engine; it joins the columns of a table exported with one input per column.
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::array::{Slice, TypedConcat};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{Attributes, Refused, refuse};

/// Features of a row.
const MAX_FEATURES: usize = 1 << 20;

/// The length of each input's part.
#[derive(Debug, Clone)]
pub(super) struct FeatureVectorizer(Vec<usize>);

impl FeatureVectorizer {
    pub(super) fn read(node: &impl Attributes) -> Result<Self, Refused> {
        let given = node.ints("inputdimensions").unwrap_or(&[]);
        let lengths = given.iter().map(|&n| usize::try_from(n).ok().filter(|n| (1..=MAX_FEATURES).contains(n))).collect();
        let Some(lengths): Option<Vec<usize>> = lengths else { return refuse("an input's length is not a positive number") };
        if lengths.is_empty() || lengths.iter().sum::<usize>() > MAX_FEATURES {
            return refuse(format!("its inputs have no length, or more than {MAX_FEATURES} features together"));
        }
        Ok(Self(lengths))
    }
}

pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    Ok((expand(FeatureVectorizer::read(node).map_err(|e| format_err!("FeatureVectorizer: {e}"))?), vec![]))
}

impl Expansion for FeatureVectorizer {
    fn name(&self) -> StaticName {
        "FeatureVectorizer".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, self.0.len())?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.given(&inputs[0].shape, move |s, shape| {
            let rows = if shape.len() == 1 { 1.to_dim() } else { shape.first().cloned().unwrap_or_else(|| 1.to_dim()) };
            s.equals(&outputs[0].shape, tvec!(rows, self.0.iter().sum::<usize>().to_dim()))
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let mut parts = TVec::new();
        for (at, (&input, &length)) in inputs.iter().zip(&self.0).enumerate() {
            let mut wire = model.wire_node(format!("{prefix}.{at}.cast"), cast(f32::datum_type()), &[input])?;
            if model.outlet_fact(wire[0])?.rank() == 1 {
                wire = model.wire_node(format!("{prefix}.{at}.row"), AxisOp::Add(0), &wire)?;
            }
            let shape = model.outlet_fact(wire[0])?.shape.clone();
            ensure!(shape.rank() == 2, "FeatureVectorizer takes rows of features, not a tensor of rank {}", shape.rank());
            let (rows, columns) = (shape[0].to_usize()?, shape[1].to_usize()?);
            if columns > length {
                wire = model.wire_node(format!("{prefix}.{at}.cut"), Slice::new(1, 0, length), &wire)?;
            }
            parts.push(wire[0]);
            if columns < length {
                parts.push(model.add_const(format!("{prefix}.{at}.zeros"), Tensor::zero::<f32>(&[rows, length - columns])?)?);
            }
        }
        model.wire_node(prefix, TypedConcat::new(1), &parts)
    }
}
