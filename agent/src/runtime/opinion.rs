//! A second opinion at the publisher: the engine against itself, optimised and as the file has it.
//!
//! Golden vectors from the training framework say whether a model computes here what it computed there. Where the publisher has
//! none they come from this very engine, and then a fault of its optimiser would be signed along: it did turn ordinary quantised
//! models into garbage without an error. So their inputs are also run operator by operator, and answers that are far apart refuse
//! the model. Close ones are not told apart (integer kernels round elsewhere), gaps are left to golden vectors (some kernels of the
//! engine lose them, fused or alone), and a model that only runs optimised, or with state,
//! is judged by its golden vectors alone.
use std::sync::Arc;

use leeway_protocol::manifest::{GoldenVector, Manifest};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::tensor::{DType, Tensor};

use super::golden::compare;
use super::plan::{Plan, Session};
use super::prescan::Scanned;

/// Of the largest value of an output: some steps of eight-bit quantisation. What was seen to go wrong was off by several times it.
const FAR: f64 = 0.05;

/// Refuse a model whose answers change when it is optimised.
pub fn check(scanned: &Scanned, session: &mut Session, manifest: &Manifest) -> Result<(), Reason> {
    let Some(mut written) = Plan::load_as_written(scanned, manifest).ok().and_then(|plan| Arc::new(plan).spawn().ok()) else {
        return Ok(());
    };
    agree(session, &mut written, manifest)
}

fn agree(session: &mut Session, written: &mut Session, manifest: &Manifest) -> Result<(), Reason> {
    let whole = |vector: &GoldenVector| vector.inputs.iter().flat_map(Tensor::to_f64).all(f64::is_finite);
    for (number, vector) in manifest.golden.vectors.iter().enumerate().filter(|(_, vector)| whole(vector)) {
        session.reset();
        written.reset();
        let (Ok(got), Ok(want)) = (session.infer(&vector.inputs), written.infer(&vector.inputs)) else { break };
        // A label may change with a score's last digit; scores do not.
        for (got, want) in got.iter().zip(&want).filter(|(_, want)| want.dtype == DType::F32) {
            compare(got, want, FAR, FAR * largest(want)).map_err(|what| {
                let detail = format!(
                    "golden vector {number}, output {:?}: {what}, when the engine optimises the model; a quantised one is exported again \
                     without quantising Softmax (op_types_to_quantize), another with another opset or without the exporter's own optimiser",
                    want.name
                );
                Reason::new(Code::GoldenMismatch, detail)
            })?;
        }
    }
    session.reset();
    Ok(())
}

fn largest(tensor: &Tensor) -> f64 {
    tensor.to_f64().into_iter().filter(|x| x.is_finite()).fold(0.0, |most, x| most.max(x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::samples::logistic;
    use crate::runtime::{Limits, prescan};

    fn plan(w: [f32; 2]) -> (Scanned, Session, Manifest) {
        let (bytes, manifest) = logistic(w, 0.25);
        let scanned = prescan(bytes, &Limits::default()).unwrap();
        let session = Arc::new(Plan::load(&scanned, &manifest).unwrap()).spawn().unwrap();
        (scanned, session, manifest)
    }

    #[test]
    fn a_model_agrees_with_itself_and_not_with_another() {
        let (scanned, mut session, manifest) = plan([1.5, -0.5]);
        assert_eq!(check(&scanned, &mut session, &manifest), Ok(()));
        let (_, mut other, _) = plan([1.5, 0.5]);
        let reason = agree(&mut session, &mut other, &manifest).unwrap_err();
        assert_eq!(reason.code, Code::GoldenMismatch);
        assert!(reason.detail.contains("output \"p\"") && reason.detail.contains("op_types_to_quantize"), "{}", reason.detail);
        let (_, mut near, _) = plan([1.51, -0.5]);
        assert_eq!(agree(&mut session, &mut near, &manifest), Ok(()), "rounding is not a fault");
    }
}
