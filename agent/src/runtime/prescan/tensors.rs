//! Constant tensors: their sizes must be the sizes of what they hold, in the one form the engine reads.
use leeway_protocol::tensor::MAX_ELEMENTS;

use super::PrescanError;
use crate::runtime::onnx::{Tensor, element};

/// Refuse a tensor that the engine would read wrongly, panic on, or fetch from elsewhere.
pub(super) fn check(tensor: &Tensor, owner: &str) -> Result<(), PrescanError> {
    let name = if tensor.name.is_empty() { owner } else { &tensor.name };
    let fail = |problem: String| Err(PrescanError::Tensor { name: name.chars().take(80).collect(), problem });
    if tensor.data_location != 0 {
        return fail("lies outside the file: export a single file (no external data)".to_owned());
    }
    if tensor.segment.is_some() {
        return fail("is a segment of a larger one: export whole tensors".to_owned());
    }
    let Some(count) = elements(&tensor.dims) else {
        return fail(format!("has a negative size or more than {MAX_ELEMENTS} elements"));
    };
    let Some((size, listed)) = payload(tensor) else {
        return fail(format!(
            "has element type {}, which this runtime does not read: convert the model to float or int8",
            tensor.data_type
        ));
    };
    if !tensor.raw_data.is_empty() {
        if tensor.data_type == element::STRING {
            return fail("holds text as raw bytes".to_owned());
        }
        let need = count * size;
        if tensor.raw_data.len() as u64 != need {
            return fail(format!("has {} bytes, its sizes and type need {need}", tensor.raw_data.len()));
        }
        return Ok(());
    }
    if listed as u64 != count {
        return fail(format!("lists {listed} values, its sizes need {count}"));
    }
    Ok(())
}

/// The number of elements; 0 for an empty tensor.
pub(super) fn elements(dims: &[i64]) -> Option<u64> {
    let mut sizes = Vec::with_capacity(dims.len());
    for &dim in dims {
        sizes.push(u64::try_from(dim).ok()?);
    }
    if sizes.contains(&0) {
        return Some(0);
    }
    sizes.iter().try_fold(1u64, |n, &size| n.checked_mul(size).filter(|&n| n <= MAX_ELEMENTS))
}

/// Bytes per element, and the number of values in the field the engine reads for this type.
fn payload(tensor: &Tensor) -> Option<(u64, usize)> {
    Some(match tensor.data_type {
        element::FLOAT => (4, tensor.float_data.len()),
        element::DOUBLE => (8, tensor.double_data.len()),
        element::INT64 | element::UINT64 => (8, tensor.int64_data.len()),
        element::INT32 | element::UINT32 => (4, tensor.int32_data.len()),
        element::INT16 | element::UINT16 | element::FLOAT16 => (2, tensor.int32_data.len()),
        element::INT8 | element::UINT8 | element::BOOL => (1, tensor.int32_data.len()),
        element::STRING => (0, tensor.string_data.len()),
        _ => return None,
    })
}

/// The integers a constant holds, if it is a small list of 64- or 32-bit integers.
pub(super) fn integers(tensor: &Tensor) -> Option<Vec<i64>> {
    /// Shapes, axes and pads are this short.
    const MOST: usize = 64;
    let count = usize::try_from(elements(&tensor.dims)?).ok().filter(|&n| n <= MOST)?;
    let values: Vec<i64> = match (tensor.data_type, tensor.raw_data.is_empty()) {
        (element::INT64, false) => tensor.raw_data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        (element::INT32, false) => tensor.raw_data.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        (element::INT64, true) => tensor.int64_data.clone(),
        (element::INT32, true) => tensor.int32_data.iter().map(|&i| i64::from(i)).collect(),
        _ => return None,
    };
    (values.len() == count).then_some(values)
}
