//! OneHotEncoder: one column per category, 1 in the row's own. Missing in the engine (its OneHot is another operator).
//!
//! A category that was not there in training gives zeros only, or no answer at all if the model was exported so.
use std::collections::HashMap;

use leeway_protocol::tensor::MAX_ELEMENTS;
use tract_onnx::tract_hir::internal::*;

use super::attributes::{Attributes, Refused, TEXTS, refuse};
use super::elements::Kernel;

#[derive(Debug)]
pub(super) struct OneHotEncoder {
    columns: HashMap<i64, usize>,
    zeros: bool,
}

/// A float's whole part; the least integer for a gap and for what has none, which onnxruntime does on most processors and which is
/// no category of anybody's.
pub(super) fn whole(x: f64) -> i64 {
    /// 2^63: the first float past the integers.
    const PAST: f64 = 9_223_372_036_854_775_808.0;
    if (-PAST..PAST).contains(&x) { x as i64 } else { i64::MIN }
}

impl Kernel for OneHotEncoder {
    const NAME: &'static str = "OneHotEncoder";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        if node.has("cats_strings") {
            return refuse(format!("its categories are texts; {TEXTS}"));
        }
        let Some(categories) = node.ints("cats_int64s") else { return refuse("it has no categories") };
        let columns: HashMap<i64, usize> = categories.iter().enumerate().map(|(column, &category)| (category, column)).collect();
        if columns.len() != categories.len() {
            return refuse("a category is listed twice");
        }
        Ok(Self { columns, zeros: node.int("zeros").unwrap_or(1) != 0 })
    }

    fn takes(&self) -> Option<DatumType> {
        None
    }

    fn makes(&self) -> DatumType {
        f32::datum_type()
    }

    fn shape<D: DimLike>(&self, input: &[D]) -> TractResult<TVec<D>> {
        let mut shape: TVec<D> = input.into();
        shape.push(D::from(self.columns.len()));
        let elements = shape.iter().filter_map(|d| d.to_usize().ok()).try_fold(1usize, usize::checked_mul);
        ensure!(elements.is_some_and(|n| n as u64 <= MAX_ELEMENTS), "OneHotEncoder makes more than {MAX_ELEMENTS} elements");
        Ok(shape)
    }

    fn run(&self, input: &Tensor) -> TractResult<Tensor> {
        let keys: Vec<i64> = match input.datum_type() {
            DatumType::F32 => input.try_as_plain_ram()?.as_slice::<f32>()?.iter().map(|&x| whole(f64::from(x))).collect(),
            DatumType::F64 => input.try_as_plain_ram()?.as_slice::<f64>()?.iter().map(|&x| whole(x)).collect(),
            _ => input.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec(),
        };
        let mut output = Tensor::zero::<f32>(&self.shape(input.shape())?)?;
        let mut plain = output.try_as_plain_ram_mut()?;
        for (row, key) in plain.as_slice_mut::<f32>()?.chunks_exact_mut(self.columns.len()).zip(keys) {
            match self.columns.get(&key).and_then(|&column| row.get_mut(column)) {
                Some(own) => *own = 1.0,
                None => ensure!(self.zeros, "OneHotEncoder: {key} is not among its categories; export with handle_unknown='ignore'"),
            }
        }
        Ok(output)
    }
}
