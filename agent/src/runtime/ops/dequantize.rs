//! DequantizeLinear without the engine's wrong shortcut.
//!
//! The engine replaces everything between a scalar DequantizeLinear and the next QuantizeLinear by a table of 256 entries if
//! it takes the operators in between for element-wise, and it takes Softmax for one: ordinary quantised models then compute
//! garbage without an error. The shortcut hangs on the engine's operator type; this one computes the same numbers and has
//! none. The gain it gives up is small: quantised models are not faster than float ones in this engine anyway.
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::math::{mul, sub};
use tract_onnx::tract_hir::internal::*;

#[derive(Debug, Clone)]
struct Dequantize {
    has_zero_point: bool,
    axis: i64,
}

pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let blocked = node.get_attr_opt::<i64>("block_size")?.unwrap_or(0);
    ensure!(blocked == 0, "DequantizeLinear: blocked quantisation is not supported");
    let axis = node.get_attr_opt("axis")?.unwrap_or(1);
    Ok((expand(Dequantize { has_zero_point: node.input.len() == 3, axis }), vec![]))
}

impl Expansion for Dequantize {
    fn name(&self) -> StaticName {
        "DequantizeLinear".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 2 + usize::from(self.has_zero_point))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[1].datum_type, f32::datum_type())?;
        s.equals(&outputs[0].datum_type, f32::datum_type())?;
        if self.has_zero_point {
            s.equals(&inputs[0].datum_type, &inputs[2].datum_type)?;
        }
        s.equals(&inputs[0].shape, &outputs[0].shape)
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let konst = |model: &TypedModel, at: usize| -> TractResult<Option<Arc<Tensor>>> {
            let Some(outlet) = inputs.get(at) else { return Ok(None) };
            let konst = model.outlet_fact(*outlet)?.konst.clone();
            Ok(Some(konst.context("DequantizeLinear: scale and zero point must be constants")?))
        };
        let scale = konst(model, 1)?.context("DequantizeLinear: no scale")?;
        let zero_point = konst(model, 2)?;
        let fact = model.outlet_fact(inputs[0])?.clone();
        if scale.len() == 1 && zero_point.as_ref().is_none_or(|z| z.len() == 1) {
            let zero_point = zero_point.map_or(Ok(0), |z| z.cast_to_scalar::<i32>())?;
            return model.wire_node(prefix, Scalar { scale: scale.cast_to_scalar()?, zero_point }, &[inputs[0]]);
        }
        let rank = fact.rank();
        let axis = if self.axis < 0 { self.axis + rank as i64 } else { self.axis };
        ensure!((0..rank as i64).contains(&axis), "DequantizeLinear: axis {axis} of a tensor of rank {rank}");
        let along = |values: &Tensor| -> TractResult<Tensor> {
            let mut shape: TVec<usize> = tvec!(1; rank);
            shape[axis as usize] = values.len();
            values.cast_to::<f32>()?.into_owned().into_shape(&shape)
        };
        let mut wire = model.wire_node(format!("{prefix}.cast"), cast(f32::datum_type()), &[inputs[0]])?;
        if let Some(zero_point) = zero_point {
            let zero_point = model.add_const(format!("{prefix}.zero_point"), along(&zero_point)?)?;
            wire = model.wire_node(format!("{prefix}.sub"), sub(), &[wire[0], zero_point])?;
        }
        let scale = model.add_const(format!("{prefix}.scale"), along(&scale)?)?;
        model.wire_node(prefix, mul(), &[wire[0], scale])
    }
}

/// One scale and zero point for the whole tensor, in one pass.
#[derive(Debug, Clone, PartialEq)]
struct Scalar {
    scale: f32,
    zero_point: i32,
}

// The engine compares operators; a scale that is not a number is refused by every golden vector.
impl Eq for Scalar {}

impl Op for Scalar {
    fn name(&self) -> StaticName {
        "Dequantize".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Scalar {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let mut output = Tensor::zero::<f32>(input.shape())?;
        let plain = input.try_as_plain_ram()?;
        let mut target = output.try_as_plain_ram_mut()?;
        let target = target.as_slice_mut::<f32>()?;
        let value = |x: i32| x.wrapping_sub(self.zero_point) as f32 * self.scale;
        match input.datum_type().unquantized() {
            DatumType::I8 => plain.as_slice::<i8>()?.iter().zip(target).for_each(|(&x, y)| *y = value(i32::from(x))),
            DatumType::U8 => plain.as_slice::<u8>()?.iter().zip(target).for_each(|(&x, y)| *y = value(i32::from(x))),
            DatumType::I32 => plain.as_slice::<i32>()?.iter().zip(target).for_each(|(&x, y)| *y = value(x)),
            other => bail!("DequantizeLinear of {other:?}"),
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

impl TypedOp for Scalar {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::datum_type().fact(inputs[0].shape.clone())))
    }

    fn axes_mapping(&self, inputs: &[&TypedFact], outputs: &[&TypedFact]) -> TractResult<AxesMapping> {
        AxesMapping::natural(inputs, outputs)
    }

    fn change_axes(&self, model: &TypedModel, node: &TypedNode, _: InOut, change: &AxisOp) -> TractResult<Option<AxisChangeConsequence>> {
        Ok(Some(AxisChangeConsequence::new(model, node, None, change)))
    }

    as_op!();
}
