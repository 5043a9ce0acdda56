//! Attribute values: small integers, bounded pads and kernels, and shapes that do not ask for more memory than a device has.
//!
//! One pad of 2^32 makes the optimiser walk every patch for ever, one of 65,536 eats the memory: both are a few bytes in a
//! file whose signature may be perfectly good.
use std::collections::BTreeMap;

use leeway_protocol::tensor::MAX_ELEMENTS;

use super::{Limits, PrescanError, tensors};
use crate::runtime::onnx::{Attribute, Node, Tensor};

/// Attributes whose integers are values or labels, not sizes: any integer is harmless in them.
const VALUES: &[&str] = &[
    "value_int",
    "value_ints",
    "classlabels_int64s",
    "classlabels_ints",
    "cats_int64s",
    "keys_int64s",
    "values_int64s",
    "default_int64",
    "imputed_value_int64s",
    "replaced_value_int64",
    "starts",
    "ends",
];

/// Attributes that make an operator walk that many steps per element.
const REACHES: &[&str] = &["pads", "output_padding", "dilations", "strides"];

/// Elements a window may cover: a 64 × 64 × 64 kernel, or a second of audio.
const MAX_KERNEL: u64 = 1 << 18;

pub(super) fn check(node: &Node, attribute: &Attribute, limits: &Limits) -> Result<(), PrescanError> {
    let place = || format!("{} of {}", attribute.name, super::describe(node));
    if !attribute.ref_attr_name.is_empty() {
        return Err(PrescanError::NotAllowed(format!("{} refers to a function's attribute: export with functions inlined", place())));
    }
    let integers = || attribute.ints.iter().chain(std::iter::once(&attribute.i)).map(|i| i.unsigned_abs());
    if !VALUES.contains(&attribute.name.as_str()) {
        PrescanError::bound(&place(), integers().max().unwrap_or(0), limits.integer)?;
    }
    if REACHES.contains(&attribute.name.as_str()) {
        PrescanError::bound(&place(), integers().max().unwrap_or(0), limits.pads)?;
    }
    if attribute.name == "kernel_shape" {
        let product = attribute.ints.iter().try_fold(1u64, |n, i| n.checked_mul(i.unsigned_abs()));
        PrescanError::bound(&place(), product.unwrap_or(u64::MAX), MAX_KERNEL)?;
    }
    for tensor in attribute.t.iter().chain(&attribute.tensors) {
        tensors::check(tensor, &place())?;
    }
    Ok(())
}

/// Sizes given as constant inputs: which input of which operator, and how to read it.
const SIZES: &[(&str, usize, Size)] = &[
    ("ConstantOfShape", 0, Size::Product),
    ("Expand", 1, Size::Product),
    ("Pad", 1, Size::Pads),
    ("Resize", 3, Size::Product),
    ("Tile", 1, Size::Product),
];

#[derive(Debug, Clone, Copy)]
enum Size {
    Product,
    Pads,
}

/// Refuse constant shapes past the bounds. A shape computed at run time cannot be judged here; the memory limit is for those.
pub(super) fn check_sizes(node: &Node, constants: &BTreeMap<&str, &Tensor>, limits: &Limits) -> Result<(), PrescanError> {
    for (_, input, size) in SIZES.iter().filter(|(op, ..)| *op == node.op_type) {
        let Some(values) = node.input.get(*input).and_then(|name| constants.get(name.as_str())).and_then(|t| tensors::integers(t)) else {
            continue;
        };
        let what = format!("size in input {input} of {}", super::describe(node));
        let sizes = values.iter().map(|i| i.unsigned_abs());
        match size {
            Size::Product => {
                let product = sizes.filter(|&n| n > 0).try_fold(1u64, |n, size| n.checked_mul(size));
                PrescanError::bound(&what, product.unwrap_or(u64::MAX), MAX_ELEMENTS)?;
            }
            Size::Pads => PrescanError::bound(&what, sizes.max().unwrap_or(0), limits.pads)?,
        }
    }
    Ok(())
}
