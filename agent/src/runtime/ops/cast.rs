//! Cast to 64-bit integers without the engine's losses: it makes a missing value 0, which is a category, and takes every number
//! through 32 bits on the way, which wraps times and identifiers.
//!
//! The format leaves open what a float without an integer becomes. onnxruntime gives the least integer on most processors, which
//! is no category of anybody's, and so a row of zeros where categories never seen are ignored. Other casts are the engine's.
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use super::one_hot::whole;

#[derive(Debug, Clone)]
struct Cast {
    to: DatumType,
}

pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let to = node.get_attr::<DatumType>("to")?;
    ensure!(to != DatumType::String, "Cast to text: a device's tensors hold no text");
    // The engine counts sizes in a type of its own, and turns every cast to 64-bit integers into one to it, so that shapes can
    // be computed; what follows takes either.
    Ok((expand(Cast { to: if to == i64::datum_type() { TDim::datum_type() } else { to } }), vec![]))
}

impl Expansion for Cast {
    fn name(&self) -> StaticName {
        "Cast".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.to)?;
        s.equals(&outputs[0].rank, &inputs[0].rank)?;
        s.equals(&outputs[0].shape, &inputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let from = model.outlet_fact(inputs[0])?.datum_type;
        if self.to.is_tdim() && (from.is_float() || from.is_integer()) {
            return model.wire_node(prefix, Whole, inputs);
        }
        model.wire_node(prefix, cast(self.to), inputs)
    }
}

/// Numbers to the engine's sizes, which are 64-bit integers here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole;

impl Op for Whole {
    fn name(&self) -> StaticName {
        "Whole".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Whole {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let values: Vec<TDim> = if input.datum_type().is_float() {
            input.cast_to::<f64>()?.try_as_plain_ram()?.as_slice::<f64>()?.iter().map(|&x| TDim::Val(whole(x))).collect()
        } else {
            input.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.iter().map(|&x| TDim::Val(x)).collect()
        };
        Ok(tvec!(tensor1(&values).into_shape(input.shape())?.into_tvalue()))
    }
}

impl TypedOp for Whole {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(TDim::datum_type().fact(inputs[0].shape.clone())))
    }

    as_op!();
}
