//! What is done to a row of scores at the end, the same for trees, linear models and support vectors, and as onnxruntime does
//! it: a softmax that leaves zeros alone, the normal quantile by an approximation.
use super::attributes::{Attributes, Refused, refuse};

/// What is done to the scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PostTransform {
    None,
    Softmax,
    SoftmaxZero,
    Logistic,
    Probit,
}

impl PostTransform {
    pub(super) fn read(node: &impl Attributes) -> Result<Self, Refused> {
        Ok(match node.text("post_transform").unwrap_or(b"NONE") {
            b"NONE" => Self::None,
            b"SOFTMAX" => Self::Softmax,
            b"SOFTMAX_ZERO" => Self::SoftmaxZero,
            b"LOGISTIC" => Self::Logistic,
            b"PROBIT" => Self::Probit,
            _ => return refuse("the post-transform is not one of the format's"),
        })
    }

    /// Of one score that stands for two classes and may be a probability already.
    pub(super) fn both_sides(self, score: f32) -> [f32; 2] {
        if self == Self::Logistic { [logistic(-score), logistic(score)] } else { [1.0 - score, score] }
    }

    /// To one row, in place.
    pub(super) fn apply(self, row: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => row.iter_mut().for_each(|x| *x = logistic(*x)),
            Self::Probit => row.iter_mut().for_each(|x| *x = probit(*x)),
            Self::Softmax => softmax(row, |_| true),
            // A score of 0 stays 0 and takes no part.
            Self::SoftmaxZero => softmax(row, |x| x.abs() > 1e-7),
        }
    }
}

fn softmax(row: &mut [f32], takes_part: impl Fn(f32) -> bool) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = if takes_part(*x) { (*x - most).exp() } else { 0.0 });
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

pub(super) fn logistic(x: f32) -> f32 {
    // Computed on the side where the exponential cannot overflow.
    let tail = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - tail } else { tail }
}

/// The normal distribution's quantile, by Winitzki's approximation of the inverse error function, as onnxruntime has it.
pub(super) fn probit(p: f32) -> f32 {
    const A: f32 = 0.147;
    let x = 2.0 * p - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * A) + 0.5 * log;
    let inverse = (-v + (v * v - log / A).sqrt()).sqrt();
    std::f32::consts::SQRT_2 * if x < 0.0 { -inverse } else { inverse }
}

/// The first place of the largest value; onnxruntime's comparison, in which a NaN is never larger.
pub(super) fn largest(values: impl IntoIterator<Item = f32>) -> usize {
    let mut best = (0, f32::NAN);
    for (at, value) in values.into_iter().enumerate() {
        if at == 0 || value > best.1 {
            best = (at, value);
        }
    }
    best.0
}

/// Products summed in eight lanes: vectorised, and nearer to the exact sum than one after the other.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a8, a1), (b8, b1)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + a1.iter().zip(b1).map(|(a, b)| a * b).sum::<f32>()
}
