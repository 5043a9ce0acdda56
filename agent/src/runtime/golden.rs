//! Proof of running right: the signed inputs must give the signed outputs on this very device.
//!
//! Signature and digest say that the file is the one the publisher meant; they say nothing about this engine on this
//! processor. The engine silently computed garbage for ordinary quantised models, so no model serves before this check, at
//! every start. Each vector starts from zero state.
//!
//! Values agree when |got - want| <= atol + rtol·|want|; a NaN agrees with a NaN, an infinity with the same infinity, integers
//! are compared as numbers. The digest is over the exact bytes computed, in order: equal digests mean equal machines.
use leeway_protocol::digest::{Digest, Hasher};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::tensor::Tensor;

use super::plan::Session;

/// Run every golden vector; the digest of what was computed, or why the model must not serve.
pub fn check(session: &mut Session, manifest: &Manifest) -> Result<Digest, Reason> {
    let mut hasher = Hasher::default();
    for (number, vector) in manifest.golden.vectors.iter().enumerate() {
        session.reset();
        let outputs = session.infer(&vector.inputs).map_err(|e| Reason::new(Code::LoadFailed, format!("golden vector {number}: {e}")))?;
        if outputs.len() != vector.outputs.len() {
            return Err(Reason::new(Code::GoldenMismatch, format!("golden vector {number}: another number of outputs")));
        }
        for (got, want) in outputs.iter().zip(&vector.outputs) {
            compare(got, want, manifest.golden.rtol, manifest.golden.atol)
                .map_err(|what| Reason::new(Code::GoldenMismatch, format!("golden vector {number}, output {:?}: {what}", want.name)))?;
            hasher.update(&got.data);
        }
    }
    session.reset();
    Ok(hasher.finish())
}

/// Whether one tensor is the other within tolerance; otherwise what is furthest off.
pub fn compare(got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<(), String> {
    if got.dtype != want.dtype || got.shape != want.shape {
        return Err(format!("is {:?} {:?} instead of {:?} {:?}", got.dtype, got.shape, want.dtype, want.shape));
    }
    let mut worst: Option<(usize, f64, f64, f64)> = None;
    for (at, (g, w)) in got.to_f64().into_iter().zip(want.to_f64()).enumerate() {
        if g == w || (g.is_nan() && w.is_nan()) {
            continue;
        }
        // How many tolerances apart; NaN and infinities, which no tolerance covers, are infinitely far.
        let apart = (g - w).abs() / (atol + rtol * w.abs()).max(f64::MIN_POSITIVE);
        let apart = if apart.is_nan() || !g.is_finite() || !w.is_finite() { f64::INFINITY } else { apart };
        if apart > 1.0 && worst.is_none_or(|(.., most)| apart > most) {
            worst = Some((at, g, w, apart));
        }
    }
    match worst {
        None => Ok(()),
        Some((at, g, w, _)) => Err(format!("element {at} is {g} instead of {w} (rtol {rtol}, atol {atol})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerances_nan_and_infinity() {
        let t = |v: f32| Tensor::f32("y", &[1], &[v]);
        let close = |g: f32, w: f32| compare(&t(g), &t(w), 1e-3, 1e-4).is_ok();
        assert!(
            close(1.0, 1.0) && close(1.001, 1.0) && close(0.0001, 0.0) && close(f32::NAN, f32::NAN) && close(f32::INFINITY, f32::INFINITY)
        );
        assert!(!close(1.002, 1.0) && !close(0.0002, 0.0) && !close(f32::NAN, 1.0) && !close(1.0, f32::NAN));
        assert!(!close(f32::INFINITY, f32::NEG_INFINITY) && !close(f32::INFINITY, 1.0) && !close(1.0, f32::INFINITY));
        assert!(compare(&t(9.0), &t(1.0), 0.0, 0.0).unwrap_err().contains("is 9 instead of 1"));
        let other = Tensor::f32("y", &[1, 1], &[1.0]);
        assert!(compare(&other, &t(1.0), 1.0, 1.0).is_err());
    }
}
