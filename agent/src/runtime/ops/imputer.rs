//! Imputer: one value of a feature, usually "missing", becomes another. Missing in the engine.
use tract_onnx::tract_hir::internal::*;

use super::attributes::{Attributes, Refused, refuse};
use super::elements::Kernel;

/// What is replaced, and by what: one value per feature, or one for all.
#[derive(Debug)]
pub(super) enum Imputer {
    Floats(f32, Vec<f32>),
    Integers(i64, Vec<i64>),
}

impl Imputer {
    fn fillings(&self) -> usize {
        match self {
            Self::Floats(_, by) => by.len(),
            Self::Integers(_, by) => by.len(),
        }
    }
}

impl Kernel for Imputer {
    const NAME: &'static str = "Imputer";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        match (node.floats("imputed_value_floats"), node.ints("imputed_value_int64s")) {
            (Some(by), None) => Ok(Self::Floats(node.float("replaced_value_float").unwrap_or(0.0), by.to_vec())),
            (None, Some(by)) => Ok(Self::Integers(node.int("replaced_value_int64").unwrap_or(0), by.to_vec())),
            _ => refuse("the values to fill in must be given either as floats or as integers"),
        }
    }

    fn takes(&self) -> Option<DatumType> {
        Some(self.makes())
    }

    fn makes(&self) -> DatumType {
        match self {
            Self::Floats(..) => f32::datum_type(),
            Self::Integers(..) => i64::datum_type(),
        }
    }

    fn shape<D: DimLike>(&self, input: &[D]) -> TractResult<TVec<D>> {
        ensure!(matches!(input.len(), 1 | 2), "Imputer takes rows of features, not a tensor of rank {}", input.len());
        let (fillings, features) = (self.fillings(), input.last().and_then(|d| d.to_usize().ok()).unwrap_or(0));
        // onnxruntime would fill every feature with the first value.
        ensure!(fillings == 1 || fillings == features, "Imputer has {fillings} values for {features} features");
        Ok(input.into())
    }

    fn run(&self, input: &Tensor) -> TractResult<Tensor> {
        fn fill<T: Datum + Copy>(input: &Tensor, by: &[T], is_replaced: impl Fn(T) -> bool) -> TractResult<Tensor> {
            let plain = input.try_as_plain_ram()?;
            let filled = plain.as_slice::<T>()?.iter().zip(by.iter().cycle());
            let filled: Vec<T> = filled.map(|(&x, &by)| if is_replaced(x) { by } else { x }).collect();
            Tensor::from_shape(input.shape(), &filled)
        }
        match self {
            Self::Floats(replaced, by) => fill(input, by, |x: f32| x == *replaced || (x.is_nan() && replaced.is_nan())),
            Self::Integers(replaced, by) => fill(input, by, |x: i64| x == *replaced),
        }
    }
}
