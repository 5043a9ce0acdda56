//! TreeEnsembleClassifier and TreeEnsembleRegressor, validated when loaded.
//!
//! The engine's own classifier is a hundred to two thousand times slower than onnxruntime's, takes BRANCH_GTE nodes for leaves,
//! writes outside its memory when a class id is too large and follows a cycle for ever; a regressor it has none. Ours refuses
//! such files, runs at about onnxruntime's speed, and follows onnxruntime where the format is vague (two classes with one
//! score): publishers compare with that.
use std::sync::Arc;

use tract_onnx::model::ParsingContext;
use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

pub mod ensemble;
mod finish;
mod read;
#[cfg(test)]
mod tests;

use ensemble::{Ensemble, Kind};
pub use read::TreeError;

type Built = TractResult<(Box<dyn InferenceOp>, Vec<String>)>;

pub(super) fn classifier(_: &ParsingContext, node: &NodeProto) -> Built {
    build(node, Kind::Classifier)
}

pub(super) fn regressor(_: &ParsingContext, node: &NodeProto) -> Built {
    build(node, Kind::Regressor)
}

fn build(node: &NodeProto, kind: Kind) -> Built {
    let ensemble = Ensemble::read(node, kind).map_err(|e| format_err!("{e}"))?;
    Ok((expand(Trees(Arc::new(ensemble))), vec![]))
}

#[derive(Debug, Clone)]
struct Trees(Arc<Ensemble>);

impl PartialEq for Trees {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Trees {}

impl Trees {
    /// Label and scores, or the targets alone.
    fn outputs(&self) -> usize {
        match self.0.kind() {
            Kind::Classifier => 2,
            Kind::Regressor => 1,
        }
    }
}

impl Expansion for Trees {
    fn name(&self) -> StaticName {
        "Trees".into()
    }

    fn nboutputs(&self) -> TractResult<usize> {
        Ok(self.outputs())
    }

    fn rules<'r, 'p: 'r, 's: 'r>(&'s self, s: &mut Solver<'r>, inputs: &'p [TensorProxy], outputs: &'p [TensorProxy]) -> InferenceResult {
        check_input_arity(inputs, 1)?;
        check_output_arity(outputs, self.outputs())?;
        let scores = &outputs[self.outputs() - 1];
        s.equals(&scores.datum_type, f32::datum_type())?;
        s.equals(&scores.rank, 2)?;
        s.equals(&scores.shape[0], &inputs[0].shape[0])?;
        s.equals(&scores.shape[1], self.0.width().to_dim())?;
        if self.outputs() == 2 {
            s.equals(&outputs[0].datum_type, i64::datum_type())?;
            s.equals(&outputs[0].rank, 1)?;
            s.equals(&outputs[0].shape[0], &inputs[0].shape[0])?;
        }
        Ok(())
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let fact = model.outlet_fact(inputs[0])?;
        let columns = fact.shape.last().and_then(|d| d.as_i64()).unwrap_or(0);
        ensure!(fact.rank() == 2, "trees take rows of features, not a tensor of rank {}", fact.rank());
        let need = self.0.features() as i64;
        ensure!(columns >= need, "the trees look at {need} features, the input has {columns}");
        let input = tract_onnx::tract_core::ops::cast::cast(f32::datum_type());
        let input = model.wire_node(format!("{prefix}.cast"), input, inputs)?;
        model.wire_node(prefix, self.clone(), &input)
    }
}

impl Op for Trees {
    fn name(&self) -> StaticName {
        "Trees".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Trees {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let input = args_1!(inputs);
        let plain = input.try_as_plain_ram()?;
        let values = plain.as_slice::<f32>()?;
        let &[rows, columns] = input.shape() else { bail!("trees take rows of features") };
        ensure!(columns >= self.0.features(), "the trees look at {} features, the input has {columns}", self.0.features());
        let mut scores = Vec::with_capacity(rows * self.0.width());
        let mut labels = Vec::with_capacity(rows);
        for row in values.chunks_exact(columns.max(1)) {
            labels.push(self.0.run(row, &mut scores));
        }
        let scores = Tensor::from_shape(&[rows, self.0.width()], &scores)?.into_tvalue();
        match self.0.kind() {
            Kind::Classifier => Ok(tvec!(tensor1(&labels).into_tvalue(), scores)),
            Kind::Regressor => Ok(tvec!(scores)),
        }
    }
}

impl TypedOp for Trees {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let rows = inputs[0].shape[0].clone();
        let scores = f32::fact([rows.clone(), self.0.width().to_dim()]);
        match self.0.kind() {
            Kind::Classifier => Ok(tvec!(i64::fact([rows]), scores)),
            Kind::Regressor => Ok(tvec!(scores)),
        }
    }

    as_op!();
}
