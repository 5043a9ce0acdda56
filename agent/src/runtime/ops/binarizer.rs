//! Binarizer: 1 above a threshold, else 0. Missing in the engine. A gap has no answer, here as in onnxruntime.
use super::attributes::{Attributes, Refused, refuse};
use super::rows::Kernel;

#[derive(Debug)]
pub(super) struct Binarizer {
    threshold: f32,
}

impl Kernel for Binarizer {
    const NAME: &'static str = "Binarizer";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        // The format's default is 0; onnxruntime is given it when the model is loaded.
        Ok(Self { threshold: node.float("threshold").unwrap_or(0.0) })
    }

    fn columns(&self) -> Option<usize> {
        None
    }

    fn width(&self) -> Option<usize> {
        None
    }

    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused> {
        if row.iter().any(|x| x.is_nan()) {
            return refuse("a value is missing; put an imputer before it");
        }
        out.extend(row.iter().map(|&x| if x > self.threshold { 1.0 } else { 0.0 }));
        Ok(0)
    }
}
