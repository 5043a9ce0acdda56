//! Operators that turn one row of features into one row of numbers, and a label if they classify: everything about them but
//! the arithmetic.
//!
//! Inputs of any number type become f32 first, as in onnxruntime; a vector is one row. What stays true: a kernel is only asked
//! for rows of the length it said, and its answer has the length it said.
use std::fmt::Debug;
use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use super::attributes::Refused;

/// The arithmetic of one row.
pub(super) trait Kernel: Debug + Send + Sync + Sized + 'static {
    /// The operator.
    const NAME: &'static str;
    /// Whether labels come first.
    const LABELS: bool = false;

    /// Read and check the attributes.
    fn read(node: &impl super::attributes::Attributes) -> Result<Self, Refused>;

    /// Features a row must have; any number if `None`.
    fn columns(&self) -> Option<usize>;

    /// Numbers per row; `None` for an output of the input's shape.
    fn width(&self) -> Option<usize>;

    /// Append the numbers of one row; the label, or 0. An error is an inference without an answer.
    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused>;
}

/// Build the operator from the engine's node.
pub(super) fn build<K: Kernel>(node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let kernel = K::read(node).map_err(|e| format_err!("{}: {e}", K::NAME))?;
    Ok((expand(Rows(Arc::new(kernel))), vec![]))
}

#[derive(Debug)]
struct Rows<K>(Arc<K>);

impl<K> Clone for Rows<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> PartialEq for Rows<K> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<K> Eq for Rows<K> {}

impl<K: Kernel> Rows<K> {
    fn outputs() -> usize {
        1 + usize::from(K::LABELS)
    }

    /// Rows of an input of this shape, and the shape of the numbers.
    fn shapes<D: DimLike>(&self, input: &[D]) -> TractResult<(D, TVec<D>)> {
        let rows = match input {
            [_] => D::one(),
            [rows, _] => rows.clone(),
            _ => bail!("{} takes rows of features, not a tensor of rank {}", K::NAME, input.len()),
        };
        let numbers = self.0.width().map_or_else(|| input.into(), |width| tvec!(rows.clone(), D::from(width)));
        Ok((rows, numbers))
    }
}

impl<K: Kernel> Expansion for Rows<K> {
    fn name(&self) -> StaticName {
        K::NAME.into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(Self::outputs())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, Self::outputs())?;
        s.equals(&outputs[Self::outputs() - 1].datum_type, f32::datum_type())?;
        if K::LABELS {
            s.equals(&outputs[0].datum_type, i64::datum_type())?;
        }
        s.given(&inputs[0].shape, move |s, shape| {
            let (rows, numbers) = self.shapes(&shape)?;
            if K::LABELS {
                s.equals(&outputs[0].shape, tvec!(rows))?;
            }
            s.equals(&outputs[Self::outputs() - 1].shape, numbers)
        })
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?;
        self.shapes(&fact.shape)?;
        if let Some(need) = self.0.columns() {
            let columns = fact.shape.last().and_then(|d| d.as_i64()).unwrap_or(-1);
            ensure!(columns == need as i64, "{} takes {need} features a row, the input has {columns}", K::NAME);
        }
        let input = model.wire_node(format!("{prefix}.cast"), cast(f32::datum_type()), inputs)?;
        model.wire_node(prefix, self.clone(), &input)
    }
}

impl<K: Kernel> Op for Rows<K> {
    fn name(&self) -> StaticName {
        K::NAME.into()
    }

    op_as_typed_op!();
}

impl<K: Kernel> EvalOp for Rows<K> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let (rows, shape) = self.shapes(input.shape())?;
        let columns = input.shape().last().copied().unwrap_or(0);
        if let Some(need) = self.0.columns() {
            ensure!(columns == need, "{} takes {need} features a row, the input has {columns}", K::NAME);
        }
        let plain = input.try_as_plain_ram()?;
        let mut numbers = Vec::with_capacity(shape.iter().product());
        let mut labels = Vec::with_capacity(rows);
        for row in plain.as_slice::<f32>()?.chunks_exact(columns.max(1)) {
            labels.push(self.0.run(row, &mut numbers).map_err(|e| format_err!("{}: {e}", K::NAME))?);
        }
        let numbers = Tensor::from_shape(&shape, &numbers)?.into_tvalue();
        Ok(if K::LABELS { tvec!(tensor1(&labels).into_tvalue(), numbers) } else { tvec!(numbers) })
    }
}

impl<K: Kernel> TypedOp for Rows<K> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let (rows, numbers) = self.shapes(&inputs[0].shape)?;
        let numbers = f32::fact(&*numbers);
        Ok(if K::LABELS { tvec!(i64::fact([rows]), numbers) } else { tvec!(numbers) })
    }

    as_op!();
}
