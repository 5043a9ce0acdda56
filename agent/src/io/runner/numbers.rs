//! The `data` of an inference request: flat or nested arrays of numbers, read straight into one list.
//!
//! No intermediate JSON tree: an image is some hundred thousand numbers, and a tree takes tens of bytes for each.
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

/// One value as JSON has it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Number {
    Int(i64),
    Float(f64),
    Bool(bool),
    Null,
}

/// All values in row-major order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Numbers(Vec<Number>);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut all = Self::default();
        from.deserialize_seq(Into { all: &mut all.0 })?;
        Ok(all)
    }
}

/// Puts one value, or all values of an array, at the end of the list. Nesting is bounded by the JSON reader.
struct Into<'a> {
    all: &'a mut Vec<Number>,
}

impl<'de> serde::de::DeserializeSeed<'de> for Into<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Into<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a number, a truth value, null, or an array of these")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<(), A::Error> {
        while from.next_element_seed(Into { all: &mut *self.all })?.is_some() {}
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.all.push(Number::Int(value));
        Ok(())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        let number = i64::try_from(value).map_or(Number::Float(value as f64), Number::Int);
        self.all.push(number);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.all.push(Number::Float(value));
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.all.push(Number::Bool(value));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.all.push(Number::Null);
        Ok(())
    }
}

impl Numbers {
    /// The tensor an input takes, and the elements that were null (NaN in floats, 0 in integers). Values that the type
    /// cannot hold are refused, never rounded or wrapped.
    pub(super) fn tensor(self, spec: &TensorSpec) -> Result<(Tensor, Vec<usize>), String> {
        let need = spec.elements().unwrap_or(0);
        if self.0.len() != need {
            return Err(format!("input {:?} holds {} values, its shape {:?} needs {need}", spec.name, self.0.len(), spec.shape));
        }
        let mut data = Vec::with_capacity(need * spec.dtype.size());
        let mut nulls = Vec::new();
        for (at, number) in self.0.into_iter().enumerate() {
            if number == Number::Null {
                nulls.push(at);
            }
            if !push(&mut data, spec.dtype, number) {
                return Err(format!("input {:?}, element {at}: {} is not a value of {}", spec.name, text(number), spec.dtype.oip()));
            }
        }
        Ok((Tensor { name: spec.name.clone(), dtype: spec.dtype, shape: spec.shape.clone(), data }, nulls))
    }
}

fn text(number: Number) -> String {
    match number {
        Number::Int(i) => i.to_string(),
        Number::Float(x) => x.to_string(),
        Number::Bool(b) => b.to_string(),
        Number::Null => "null".to_owned(),
    }
}

/// Append a value in the type's form; whether it fits.
fn push(data: &mut Vec<u8>, dtype: DType, number: Number) -> bool {
    if dtype == DType::F32 {
        let value = match number {
            Number::Int(i) => i as f32,
            Number::Float(x) => x as f32,
            Number::Null => f32::NAN,
            Number::Bool(_) => return false,
        };
        data.extend_from_slice(&value.to_le_bytes());
        // 1e39 is a finite number that becomes an infinite float.
        return value.is_finite() || number == Number::Null;
    }
    let whole = match number {
        Number::Int(i) => i,
        Number::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => x as i64,
        Number::Null => 0,
        Number::Bool(b) if dtype == DType::Bool => i64::from(b),
        _ => return false,
    };
    match dtype {
        DType::I64 => data.extend_from_slice(&whole.to_le_bytes()),
        DType::I32 => return i32::try_from(whole).map(|v| data.extend_from_slice(&v.to_le_bytes())).is_ok(),
        DType::I8 => return i8::try_from(whole).map(|v| data.push(v.cast_unsigned())).is_ok(),
        DType::U8 => return u8::try_from(whole).map(|v| data.push(v)).is_ok(),
        DType::Bool => return u8::try_from(whole).map(|v| data.push(v)).is_ok_and(|()| (0..=1).contains(&whole)),
        DType::F32 => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dtype: DType, shape: &[u64], json: &str) -> Result<(Tensor, Vec<usize>), String> {
        let numbers: Numbers = serde_json::from_str(json).map_err(|e| e.to_string())?;
        numbers.tensor(&TensorSpec { name: "x".into(), dtype, shape: shape.to_vec() })
    }

    #[test]
    fn flat_and_nested_arrays_are_the_same_and_nulls_are_noted() {
        let (flat, none) = read(DType::F32, &[2, 2], "[1, 2.5, -3, 4e0]").unwrap();
        assert_eq!((flat.to_f64(), none), (vec![1.0, 2.5, -3.0, 4.0], vec![]));
        let (nested, nulls) = read(DType::F32, &[2, 2], "[[1, 2.5], [null, 4]]").unwrap();
        assert_eq!(nulls, [2]);
        assert!(nested.to_f64()[2].is_nan());
        assert_eq!(read(DType::I64, &[1], "[9007199254740993]").unwrap().0.to_f64().len(), 1);
        assert_eq!(read(DType::I64, &[1], "[9007199254740993]").unwrap().0.data, 9_007_199_254_740_993i64.to_le_bytes());
        assert_eq!(read(DType::Bool, &[3], "[true, 0, 1]").unwrap().0.data, [1, 0, 1]);
        assert_eq!(read(DType::I8, &[2], "[-128, 127.0]").unwrap().0.data, [128, 127]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let table = [
            (DType::F32, "[1]", "holds 1 values, its shape [2] needs 2"),
            (DType::F32, "[1, 1e39]", "element 1: 1000000"),
            (DType::F32, "[1, true]", "element 1: true is not a value of FP32"),
            (DType::U8, "[1, -1]", "element 1: -1 is not a value of UINT8"),
            (DType::I32, "[1, 0.5]", "0.5 is not a value of INT32"),
            (DType::Bool, "[0, 2]", "2 is not a value of BOOL"),
            (DType::F32, "[1, \"2\"]", "expected a number"),
            (DType::F32, "3", "invalid type"),
            (DType::F32, "[1, NaN]", "expected value"),
        ];
        for (dtype, json, want) in table {
            let error = read(dtype, &[2], json).expect_err(json);
            assert!(error.contains(want), "{json}: {error}");
        }
        let deep = "[".repeat(100_000);
        assert!(read(DType::F32, &[2], &deep).is_err());
    }
}
