//! From joined contributions to scores and a label: base values, the two-class cases, post-transforms.
//!
//! A class or target no tree contributed to shows 0, even beside a base value: onnxruntime has it so. The format does not say what two classes with contributions to only one of them mean; onnxruntime does, and exporters rely
//! on it: the other class gets 1 - s if all contributions are positive (they are probabilities), -s otherwise (they are
//! logits), and the label is decided at 0.5 or at 0.
use super::ensemble::{Aggregate, Ensemble, Kind, PostTransform, Score};

/// Append the scores of one row; the label for a classifier.
pub(super) fn scores(ensemble: &Ensemble, scores: &mut [Score], out: &mut Vec<f32>) -> i64 {
    match ensemble.kind {
        Kind::Regressor => {
            let trees = ensemble.roots.len().max(1) as f32;
            for (i, score) in scores.iter_mut().enumerate() {
                if ensemble.aggregate == Aggregate::Average {
                    score.value /= trees;
                }
                score.value += ensemble.base.get(i).copied().unwrap_or(0.0);
            }
            append(scores, ensemble.post, out);
            0
        }
        Kind::Classifier if ensemble.width > 2 => many(ensemble, scores, out),
        Kind::Classifier => two(ensemble, scores, out),
    }
}

fn many(ensemble: &Ensemble, scores: &mut [Score], out: &mut Vec<f32>) -> i64 {
    for (score, base) in scores.iter_mut().zip(&ensemble.base) {
        *score = Score { value: score.value + base, seen: true };
    }
    let mut best: Option<(usize, f32)> = None;
    for (class, score) in scores.iter().enumerate().filter(|(_, score)| score.seen) {
        if best.is_none_or(|(_, most)| score.value > most) {
            best = Some((class, score.value));
        }
    }
    append(scores, ensemble.post, out);
    label(ensemble, best.map_or(0, |(class, _)| class))
}

fn two(ensemble: &Ensemble, scores: &mut [Score], out: &mut Vec<f32>) -> i64 {
    let [first, second] = scores else { return 0 };
    match *ensemble.base.as_slice() {
        [_, base] if second.seen => {
            // Contributions to the second class, or to both: the first base value is taken to be the second's negative.
            second.value = base + first.value;
            first.value = -second.value;
        }
        [zero, one] => {
            second.value += one;
            first.value += zero;
        }
        [base] => first.value += base,
        _ => {}
    }
    let both = second.seen || ensemble.base.len() == 2;
    let positive = if second.seen { second.value } else { first.value };
    let bound = if ensemble.single.is_some() && ensemble.all_positive { 0.5 } else { 0.0 };
    let class = usize::from(positive > bound);
    if both {
        append(scores, ensemble.post, out);
        return label(ensemble, class);
    }
    let s = first.value;
    if ensemble.post == PostTransform::Logistic {
        out.extend([logistic(-s), logistic(s)]);
    } else if ensemble.single.is_some() && ensemble.all_positive {
        out.extend([1.0 - s, s]);
    } else if ensemble.post == PostTransform::Probit {
        out.extend([probit(s), probit(s)]);
    } else {
        out.extend([-s, s]);
    }
    label(ensemble, class)
}

fn label(ensemble: &Ensemble, class: usize) -> i64 {
    ensemble.labels.get(class).copied().unwrap_or(0)
}

fn append(scores: &[Score], post: PostTransform, out: &mut Vec<f32>) {
    let values = scores.iter().map(|s| s.shown());
    match post {
        PostTransform::None => out.extend(values),
        PostTransform::Logistic => out.extend(values.map(logistic)),
        PostTransform::Probit => out.extend(values.map(probit)),
        PostTransform::Softmax => softmax(scores, |_| true, out),
        // A score of 0 stays 0 and takes no part.
        PostTransform::SoftmaxZero => softmax(scores, |x| x.abs() > 1e-7, out),
    }
}

fn softmax(scores: &[Score], takes_part: impl Fn(f32) -> bool, out: &mut Vec<f32>) {
    let most = scores.iter().map(|s| s.shown()).fold(f32::NEG_INFINITY, f32::max);
    let start = out.len();
    out.extend(scores.iter().map(|s| if takes_part(s.shown()) { (s.shown() - most).exp() } else { 0.0 }));
    let Some(row) = out.get_mut(start..) else { return };
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|x| *x /= sum);
}

fn logistic(x: f32) -> f32 {
    // Computed on the side where the exponential cannot overflow.
    let tail = 1.0 / (1.0 + (-x.abs()).exp());
    if x < 0.0 { 1.0 - tail } else { tail }
}

/// The normal distribution's quantile, by Winitzki's approximation of the inverse error function, as onnxruntime has it.
fn probit(p: f32) -> f32 {
    const A: f32 = 0.147;
    let x = 2.0 * p - 1.0;
    let log = ((1.0 - x) * (1.0 + x)).ln();
    let v = 2.0 / (std::f32::consts::PI * A) + 0.5 * log;
    let inverse = (-v + (v * v - log / A).sqrt()).sqrt();
    std::f32::consts::SQRT_2 * if x < 0.0 { -inverse } else { inverse }
}
