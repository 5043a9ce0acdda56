//! LabelEncoder: a table from one number to another, with a value for everything that is not in it. Missing in the engine.
use std::collections::HashMap;

use tract_onnx::tract_hir::internal::*;

use super::attributes::{Attributes, Refused, TEXTS, refuse};
use super::elements::Kernel;

/// Entries of a table.
const MAX_KEYS: usize = 1 << 20;

#[derive(Debug)]
enum Values {
    Floats(Vec<f32>, f32),
    Integers(Vec<i64>, i64),
}

#[derive(Debug)]
pub(super) struct LabelEncoder {
    /// Places among the values, by the key or, for a float, by its bits.
    places: HashMap<i64, usize>,
    is_float: bool,
    values: Values,
}

/// Equal floats have equal bits but for the two zeros.
fn bits(x: f32) -> i64 {
    i64::from((x + 0.0).to_bits())
}

impl Kernel for LabelEncoder {
    const NAME: &'static str = "LabelEncoder";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        if ["classes_strings", "keys_strings", "values_strings"].iter().any(|name| node.has(name)) {
            return refuse(format!("it encodes texts; {TEXTS}"));
        }
        if ["keys_tensor", "values_tensor"].iter().any(|name| node.has(name)) {
            return refuse("its table is a tensor: export with version 3 of operator set ai.onnx.ml, which writes lists");
        }
        let (keys, is_float) = match (node.ints("keys_int64s"), node.floats("keys_floats")) {
            (Some(keys), None) => (keys.to_vec(), false),
            (None, Some(keys)) if keys.iter().any(|x| x.is_nan()) => {
                return refuse("one of its keys is not a number, which versions of onnxruntime take differently; fill gaps before it");
            }
            (None, Some(keys)) => (keys.iter().map(|&x| bits(x)).collect(), true),
            _ => return refuse("its keys must be given either as integers or as floats"),
        };
        let values = match (node.ints("values_int64s"), node.floats("values_floats")) {
            (Some(values), None) => Values::Integers(values.to_vec(), node.int("default_int64").unwrap_or(-1)),
            (None, Some(values)) => Values::Floats(values.to_vec(), node.float("default_float").unwrap_or(-0.0)),
            _ => return refuse("its values must be given either as integers or as floats"),
        };
        let count = match &values {
            Values::Floats(values, _) => values.len(),
            Values::Integers(values, _) => values.len(),
        };
        if count != keys.len() || count > MAX_KEYS {
            return refuse(format!("{} keys do not fit {count} values, or are more than {MAX_KEYS}", keys.len()));
        }
        let mut places = HashMap::with_capacity(count);
        for (place, key) in keys.into_iter().enumerate() {
            // Of two equal keys the first counts.
            places.entry(key).or_insert(place);
        }
        Ok(Self { places, is_float, values })
    }

    fn takes(&self) -> Option<DatumType> {
        Some(if self.is_float { f32::datum_type() } else { i64::datum_type() })
    }

    fn makes(&self) -> DatumType {
        match self.values {
            Values::Floats(..) => f32::datum_type(),
            Values::Integers(..) => i64::datum_type(),
        }
    }

    fn run(&self, input: &Tensor) -> TractResult<Tensor> {
        let plain = input.try_as_plain_ram()?;
        let place = |key: i64| self.places.get(&key).copied();
        let places: Vec<Option<usize>> = if self.is_float {
            plain.as_slice::<f32>()?.iter().map(|&x| place(bits(x))).collect()
        } else {
            plain.as_slice::<i64>()?.iter().map(|&x| place(x)).collect()
        };
        fn pick<T: Datum + Copy>(places: &[Option<usize>], values: &[T], other: T, shape: &[usize]) -> TractResult<Tensor> {
            let picked: Vec<T> = places.iter().map(|at| at.and_then(|at| values.get(at)).copied().unwrap_or(other)).collect();
            Tensor::from_shape(shape, &picked)
        }
        match &self.values {
            Values::Floats(values, other) => pick(&places, values, *other, input.shape()),
            Values::Integers(values, other) => pick(&places, values, *other, input.shape()),
        }
    }
}
