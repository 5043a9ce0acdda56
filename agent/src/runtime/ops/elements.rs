//! Operators that change a tensor element by element, perhaps into another type or with one more axis: everything about them
//! but the arithmetic.
use std::fmt::Debug;
use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{Attributes, Refused};

/// The arithmetic.
pub(super) trait Kernel: Debug + Send + Sync + Sized + 'static {
    /// The operator.
    const NAME: &'static str;

    /// Read and check the attributes.
    fn read(node: &impl Attributes) -> Result<Self, Refused>;

    /// The type it takes; any if `None`.
    fn takes(&self) -> Option<DatumType>;

    /// The type it makes.
    fn makes(&self) -> DatumType;

    /// The shape it makes.
    fn shape<D: DimLike>(&self, input: &[D]) -> TractResult<TVec<D>> {
        Ok(input.into())
    }

    /// All elements, in order.
    fn run(&self, input: &Tensor) -> TractResult<Tensor>;
}

/// Build the operator from the engine's node.
pub(super) fn build<K: Kernel>(node: &NodeProto) -> TractResult<(Box<dyn InferenceOp>, Vec<String>)> {
    let kernel = K::read(node).map_err(|e| format_err!("{}: {e}", K::NAME))?;
    Ok((expand(Elements(Arc::new(kernel))), vec![]))
}

#[derive(Debug)]
struct Elements<K>(Arc<K>);

impl<K> Clone for Elements<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> PartialEq for Elements<K> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<K> Eq for Elements<K> {}

impl<K: Kernel> Expansion for Elements<K> {
    fn name(&self) -> StaticName {
        K::NAME.into()
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, 1)?;
        s.equals(&outputs[0].datum_type, self.0.makes())?;
        s.given(&inputs[0].shape, move |s, shape| s.equals(&outputs[0].shape, self.0.shape(&shape)?))
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?;
        self.0.shape(&fact.shape)?;
        let Some(takes) = self.0.takes() else { return model.wire_node(prefix, self.clone(), inputs) };
        let found = fact.datum_type;
        // Texts and the like, and numbers that would lose their fraction, are another model's.
        let fits = found == takes || found.is_tdim() || (found.is_integer() && takes.is_integer());
        ensure!(fits, "{} takes {takes:?}, the input is {found:?}", K::NAME);
        let input = model.wire_node(format!("{prefix}.cast"), cast(takes), inputs)?;
        model.wire_node(prefix, self.clone(), &input)
    }
}

impl<K: Kernel> Op for Elements<K> {
    fn name(&self) -> StaticName {
        K::NAME.into()
    }

    op_as_typed_op!();
}

impl<K: Kernel> EvalOp for Elements<K> {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        Ok(tvec!(self.0.run(&input)?.into_tvalue()))
    }
}

impl<K: Kernel> TypedOp for Elements<K> {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.0.makes().fact(&*self.0.shape(&inputs[0].shape)?)))
    }

    as_op!();
}
