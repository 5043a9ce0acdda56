//! Tensors as the wire knows them, to the engine and back. Safe code only: elements are converted, never reinterpreted.
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use tract_onnx::prelude::tract_ndarray::{ArrayD, IxDyn};
use tract_onnx::prelude::{Datum, DatumType, IntoTensor, TVec, Tensor as Native};

use crate::recorder::row::Elements;

/// A tensor that cannot be given to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// Another number of inputs.
    #[error("the model takes {need} inputs, {got} were given")]
    Count {
        /// Inputs the model takes.
        need: usize,
        /// Inputs given.
        got: usize,
    },
    /// Another type or shape.
    #[error("input {name:?} must be {need}, it is {got}")]
    Spec {
        /// Which input.
        name: String,
        /// Type and shape it must have.
        need: String,
        /// Type and shape it has.
        got: String,
    },
    /// Bytes that do not fit the shape.
    #[error(transparent)]
    Bytes(#[from] leeway_protocol::tensor::TensorError),
}

/// Type and shape for people: `FP32 [1, 8]`.
pub fn spec_text(dtype: DType, shape: &[u64]) -> String {
    format!("{} {shape:?}", dtype.oip())
}

/// The engine's name of an element type.
pub fn datum_type(dtype: DType) -> DatumType {
    match dtype {
        DType::F32 => f32::datum_type(),
        DType::I8 => i8::datum_type(),
        DType::U8 => u8::datum_type(),
        DType::I32 => i32::datum_type(),
        DType::I64 => i64::datum_type(),
        DType::Bool => bool::datum_type(),
    }
}

/// The engine's tensor for a checked one.
pub fn to_native(tensor: &Tensor, spec: &TensorSpec) -> Result<Native, InputError> {
    if tensor.dtype != spec.dtype || tensor.shape != spec.shape {
        let (need, got) = (spec_text(spec.dtype, &spec.shape), spec_text(tensor.dtype, &tensor.shape));
        return Err(InputError::Spec { name: spec.name.clone(), need, got });
    }
    tensor.check()?;
    let (shape, data) = (sizes(&spec.shape), tensor.data.as_slice());
    Ok(match spec.dtype {
        DType::F32 => native(&shape, data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        DType::I32 => native(&shape, data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect()),
        DType::I64 => native(&shape, data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
        DType::I8 => native(&shape, data.iter().map(|b| b.cast_signed()).collect()),
        DType::U8 => native(&shape, data.to_vec()),
        DType::Bool => native(&shape, data.iter().map(|b| *b != 0).collect()),
    })
}

/// Zeros: what recurrent state starts with.
pub fn zeros(spec: &TensorSpec) -> Native {
    let (shape, n) = (sizes(&spec.shape), spec.elements().unwrap_or(0));
    match spec.dtype {
        DType::F32 => native(&shape, vec![0f32; n]),
        DType::I32 => native(&shape, vec![0i32; n]),
        DType::I64 => native(&shape, vec![0i64; n]),
        DType::I8 => native(&shape, vec![0i8; n]),
        DType::U8 => native(&shape, vec![0u8; n]),
        DType::Bool => native(&shape, vec![false; n]),
    }
}

/// The engine's tensor as the wire knows it; `None` for a type the wire does not have.
pub fn from_native(native: &Native, name: &str) -> Option<Tensor> {
    let data = match elements(native) {
        Elements::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Elements::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Elements::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Elements::I8(v) => v.iter().map(|x| x.cast_unsigned()).collect(),
        Elements::U8(v) => v.to_vec(),
        Elements::Bool(v) => v.iter().map(|x| u8::from(*x)).collect(),
        Elements::Absent => return None,
    };
    let shape = native.shape().iter().map(|&n| n as u64).collect();
    Some(Tensor { name: name.to_owned(), dtype: dtype(native.datum_type())?, shape, data })
}

/// The wire's name of the engine's element type. Quantised types are their integers.
pub fn dtype(datum: DatumType) -> Option<DType> {
    Some(match datum.unquantized() {
        DatumType::F32 => DType::F32,
        DatumType::I8 => DType::I8,
        DatumType::U8 => DType::U8,
        DatumType::I32 => DType::I32,
        DatumType::I64 => DType::I64,
        DatumType::Bool => DType::Bool,
        _ => return None,
    })
}

/// The elements, borrowed; absent for types the wire does not have.
#[inline]
pub fn elements(native: &Native) -> Elements<'_> {
    fn slice<D: Datum>(native: &Native) -> Option<&[D]> {
        native.try_as_plain_ram().ok()?.as_slice::<D>().ok()
    }
    let found = match native.datum_type() {
        DatumType::F32 => slice(native).map(Elements::F32),
        DatumType::I8 => slice(native).map(Elements::I8),
        DatumType::U8 => slice(native).map(Elements::U8),
        DatumType::I32 => slice(native).map(Elements::I32),
        DatumType::I64 => slice(native).map(Elements::I64),
        DatumType::Bool => slice(native).map(Elements::Bool),
        _ => None,
    };
    found.unwrap_or(Elements::Absent)
}

/// A shape as the engine counts it.
pub fn sizes(shape: &[u64]) -> TVec<usize> {
    shape.iter().map(|&n| n as usize).collect()
}

/// `values` always has as many elements as `shape`, by [`Tensor::check`] or by construction; else an empty tensor.
fn native<D: Datum>(shape: &[usize], values: Vec<D>) -> Native {
    ArrayD::from_shape_vec(IxDyn(shape), values).map_or_else(|_| Native::default(), IntoTensor::into_tensor)
}
