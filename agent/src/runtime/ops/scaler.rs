//! Scaler: (x - offset) · scale per feature, what a standard scaler before a model is exported as. Missing in the engine.
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::{mul, sub};
use tract_onnx::tract_hir::internal::*;

#[derive(Debug, Clone)]
struct Scaler {
    offset: Vec<f32>,
    scale: Vec<f32>,
}

pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let offset = node.get_attr_opt_vec::<f32>("offset")?.unwrap_or_default();
    let scale = node.get_attr_opt_vec::<f32>("scale")?.unwrap_or_default();
    Ok((expand(Scaler { offset, scale }), vec![]))
}

impl Expansion for Scaler {
    fn name(&self) -> StaticName {
        "Scaler".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?;
        let (rank, last) = (fact.rank(), fact.shape.last().and_then(|d| d.as_i64()).unwrap_or(-1));
        let mut wire = model.wire_node(format!("{prefix}.cast"), cast(f32::datum_type()), inputs)?;
        for (step, values, op) in [("offset", &self.offset, sub()), ("scale", &self.scale, mul())] {
            if values.is_empty() {
                continue;
            }
            ensure!(values.len() == 1 || values.len() as i64 == last, "Scaler: {} {step}s for {last} features", values.len());
            let mut shape: TVec<usize> = tvec!(1; rank);
            if let Some(axis) = shape.last_mut() {
                *axis = values.len();
            }
            let values = model.add_const(format!("{prefix}.{step}"), tensor1(values).into_shape(&shape)?)?;
            let name = if step == "scale" { prefix.to_owned() } else { format!("{prefix}.sub") };
            wire = model.wire_node(name, op, &[wire[0], values])?;
        }
        Ok(wire)
    }
}
