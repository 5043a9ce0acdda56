//! Normalizer: rows divided by a norm of theirs.
//!
//! The engine has one that differs from onnxruntime's where rows are special: onnxruntime's MAX is the largest value and not
//! the largest magnitude, a row of zeros stays as it is, and squares that overflow or vanish are not saved.
use super::attributes::{Attributes, Refused, refuse};
use super::rows::Kernel;

#[derive(Debug, Clone, Copy)]
pub(super) enum Normalizer {
    Max,
    L1,
    L2,
}

impl Kernel for Normalizer {
    const NAME: &'static str = "Normalizer";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        Ok(match node.text("norm").unwrap_or(b"MAX") {
            b"MAX" => Self::Max,
            b"L1" => Self::L1,
            b"L2" => Self::L2,
            _ => return refuse("the norm is not MAX, L1 or L2"),
        })
    }

    fn columns(&self) -> Option<usize> {
        None
    }

    fn width(&self) -> Option<usize> {
        None
    }

    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused> {
        // f32::max passes over gaps, as the comparison of onnxruntime does.
        let norm = match self {
            Self::Max => row.iter().copied().fold(f32::MIN, f32::max),
            Self::L1 => row.iter().map(|x| x.abs()).sum(),
            Self::L2 => row.iter().map(|x| x * x).sum(),
        };
        match self {
            _ if norm == 0.0 => out.extend(row),
            Self::Max | Self::L1 => out.extend(row.iter().map(|x| x / norm)),
            Self::L2 => out.extend(row.iter().map(|x| (x * x / norm).sqrt() * if *x < 0.0 { -1.0 } else { 1.0 })),
        }
        Ok(0)
    }
}
