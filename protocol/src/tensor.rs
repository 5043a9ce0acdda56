//! Tensors as they travel: in golden vectors, in constant inputs, in requests. Bytes are little-endian and row-major.
use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod elements;

pub use elements::Elements;

/// The element types the runtime serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Signed byte.
    I8,
    /// Unsigned byte.
    U8,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// Truth value, one byte.
    Bool,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The name the Open Inference Protocol uses.
    pub fn oip(self) -> &'static str {
        match self {
            Self::F32 => "FP32",
            Self::I8 => "INT8",
            Self::U8 => "UINT8",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::Bool => "BOOL",
        }
    }
}

/// Name, element type and concrete shape of one input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name inside the graph.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Concrete sizes, batch included; every size is at least 1.
    pub shape: Vec<u64>,
}

/// The most elements one tensor may have: 64 Mi, so that no shape can ask for more memory than a device has.
pub const MAX_ELEMENTS: u64 = 64 << 20;

impl TensorSpec {
    /// The number of elements, or `None` if a size is 0 or the product is past [`MAX_ELEMENTS`].
    pub fn elements(&self) -> Option<usize> {
        let product = self.shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size).filter(|&n| n <= MAX_ELEMENTS && n > 0))?;
        usize::try_from(product).ok()
    }
}

/// Values with their type and shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// The input or output it belongs to.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Concrete sizes.
    pub shape: Vec<u64>,
    /// Little-endian, row-major; base64 in JSON.
    #[serde(with = "bytes")]
    pub data: Vec<u8>,
}

/// A tensor whose bytes do not fit its shape, or whose type is another than asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Length of the bytes against shape × type.
    #[error("tensor {name:?} has {got} bytes, its shape and type need {need}")]
    Length {
        /// Which tensor.
        name: String,
        /// Bytes found.
        got: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Zero-sized or too large.
    #[error("tensor {0:?} has a size of 0 or more than {MAX_ELEMENTS} elements")]
    Shape(String),
}

impl Tensor {
    /// A float tensor.
    pub fn f32(name: &str, shape: &[u64], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec(), data }
    }

    /// A 64-bit integer tensor.
    pub fn i64(name: &str, shape: &[u64], values: &[i64]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: DType::I64, shape: shape.to_vec(), data }
    }

    /// Its name, type and shape.
    pub fn spec(&self) -> TensorSpec {
        TensorSpec { name: self.name.clone(), dtype: self.dtype, shape: self.shape.clone() }
    }

    /// Refuse bytes that do not fit the shape.
    pub fn check(&self) -> Result<usize, TensorError> {
        let count = self.spec().elements().ok_or_else(|| TensorError::Shape(self.name.clone()))?;
        let need = count * self.dtype.size();
        if self.data.len() == need { Ok(count) } else { Err(TensorError::Length { name: self.name.clone(), got: self.data.len(), need }) }
    }

    /// Every element as a double, whatever its type; what profiles and comparisons work on.
    pub fn to_f64(&self) -> Vec<f64> {
        self.data.chunks_exact(self.dtype.size()).map(|bytes| element(self.dtype, bytes)).collect()
    }
}

fn element(dtype: DType, bytes: &[u8]) -> f64 {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let low = [wide[0], wide[1], wide[2], wide[3]];
    match dtype {
        DType::F32 => f64::from(f32::from_le_bytes(low)),
        DType::I8 => f64::from(wide[0].cast_signed()),
        DType::U8 => f64::from(wide[0]),
        DType::I32 => f64::from(i32::from_le_bytes(low)),
        DType::I64 => i64::from_le_bytes(wide) as f64,
        DType::Bool => f64::from(u8::from(wide[0] != 0)),
    }
}

mod bytes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(data: &[u8], to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.serialize_str(&base64::engine::general_purpose::STANDARD.encode(data)) } else { data.serialize(to) }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        if !from.is_human_readable() {
            return Vec::deserialize(from);
        }
        let text = String::deserialize(from)?;
        base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_and_wrong_lengths_are_refused() {
        let tensor = Tensor::f32("x", &[1, 3], &[1.5, f32::NAN, -2.0]);
        let json = serde_json::to_string(&tensor).unwrap();
        let back: Tensor = serde_json::from_str(&json).unwrap();
        assert_eq!(back.data, tensor.data);
        assert_eq!(back.check(), Ok(3));
        assert!(back.to_f64()[1].is_nan());
        let short = Tensor { data: vec![0; 11], ..tensor.clone() };
        assert!(short.check().unwrap_err().to_string().contains("need 12"));
        let huge = Tensor { shape: vec![u64::MAX, 2], ..tensor };
        assert!(huge.check().is_err());
        let int = Tensor { name: "i".into(), dtype: DType::I8, shape: vec![2], data: vec![255, 1] };
        assert_eq!(int.to_f64(), [-1.0, 1.0]);
    }
}
