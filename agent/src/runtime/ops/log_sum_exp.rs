//! ReduceLogSumExp without the engine's overflow: it exponentiates first, so scores past 88 become infinite and below -104
//! vanish, and naive Bayes models answer infinity for an ordinary row. The largest is taken out before and put back after.
use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::math::{add, exp, ln, sub};
use tract_onnx::tract_core::ops::nn::{Reduce, Reducer};
use tract_onnx::tract_hir::internal::*;

#[derive(Debug, Clone)]
struct LogSumExp {
    /// Axes given as an attribute, as before version 18.
    axes: Option<Vec<i64>>,
    /// Axes given as an input.
    has_axes: bool,
    keeps: bool,
    /// No axes means nothing is reduced, instead of everything.
    none_is_nothing: bool,
}

pub(super) fn build(_: &ParsingContext, node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let flag = |name, default| -> TractResult<bool> { Ok(node.get_attr_opt::<i64>(name)?.unwrap_or(default) != 0) };
    Ok((
        expand(LogSumExp {
            axes: node.get_attr_opt_vec("axes")?,
            has_axes: node.input.get(1).is_some_and(|name| !name.is_empty()),
            keeps: flag("keepdims", 1)?,
            none_is_nothing: flag("noop_with_empty_axes", 0)?,
        }),
        vec![],
    ))
}

impl LogSumExp {
    /// The axes of a tensor of this rank, ascending.
    fn axes(&self, given: Option<&Tensor>, rank: usize) -> TractResult<TVec<usize>> {
        let given = match (given, &self.axes) {
            (Some(given), _) => given.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec(),
            (None, attribute) => attribute.clone().unwrap_or_default(),
        };
        if given.is_empty() {
            return Ok(if self.none_is_nothing { tvec!() } else { (0..rank).collect() });
        }
        let place = |&axis: &i64| usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|&at| at < rank);
        let mut axes =
            given.iter().map(place).collect::<Option<TVec<usize>>>().context("ReduceLogSumExp: an axis is outside the tensor")?;
        axes.sort_unstable();
        axes.dedup();
        Ok(axes)
    }
}

impl Expansion for LogSumExp {
    fn name(&self) -> StaticName {
        "ReduceLogSumExp".into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 1 + usize::from(self.has_axes))?;
        check_output_arity(outputs, 1)?;
        s.equals(&inputs[0].datum_type, &outputs[0].datum_type)?;
        let shape = move |axes: TVec<usize>, shape: TVec<TDim>| -> TVec<TDim> {
            let kept = shape.into_iter().enumerate();
            let one = |(at, size): (usize, TDim)| if !axes.contains(&at) { Some(size) } else { self.keeps.then(|| 1.to_dim()) };
            kept.filter_map(one).collect()
        };
        if self.has_axes {
            s.given_2(&inputs[0].shape, &inputs[1].value, move |s, input, axes| {
                s.equals(&outputs[0].shape, shape(self.axes(Some(&axes), input.len())?, input))
            })
        } else {
            s.given(&inputs[0].shape, move |s, input| s.equals(&outputs[0].shape, shape(self.axes(None, input.len())?, input)))
        }
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?.clone();
        ensure!(fact.datum_type == f32::datum_type(), "ReduceLogSumExp takes 32-bit floats, not {:?}", fact.datum_type);
        let given = match inputs.get(1) {
            Some(axes) => Some(model.outlet_fact(*axes)?.konst.clone().context("ReduceLogSumExp: axes must be constants")?),
            None => None,
        };
        let axes = self.axes(given.as_deref(), fact.rank())?;
        if axes.is_empty() {
            return Ok(tvec!(inputs[0]));
        }
        let largest = Reduce { axes: axes.clone(), reducer: Reducer::Max };
        let mut largest = model.wire_node(format!("{prefix}.largest"), largest, &inputs[..1])?;
        // An infinite largest would make gaps of infinities; the nearest finite number does what it should.
        for (name, bound, op) in
            [("least", f32::MIN, tract_onnx::tract_core::ops::math::max()), ("most", f32::MAX, tract_onnx::tract_core::ops::math::min())]
        {
            let bound = model.add_const(format!("{prefix}.{name}"), tensor0(bound).broadcast_into_rank(fact.rank())?)?;
            largest = model.wire_node(format!("{prefix}.{name}-finite"), op, &[largest[0], bound])?;
        }
        let below = model.wire_node(format!("{prefix}.below"), sub(), &[inputs[0], largest[0]])?;
        let wire = model.wire_node(format!("{prefix}.exp"), exp(), &below)?;
        let wire = model.wire_node(format!("{prefix}.sum"), Reduce { axes: axes.clone(), reducer: Reducer::Sum }, &wire)?;
        let wire = model.wire_node(format!("{prefix}.ln"), ln(), &wire)?;
        let mut wire = model.wire_node(prefix, add(), &[wire[0], largest[0]])?;
        if !self.keeps {
            for axis in axes.into_iter().rev() {
                wire = model.wire_node(format!("{prefix}.without-{axis}"), AxisOp::Rm(axis), &wire)?;
            }
        }
        Ok(wire)
    }
}
