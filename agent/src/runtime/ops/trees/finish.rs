//! From joined contributions to scores and a label: base values, the two-class cases, post-transforms.
//!
//! A class or target no tree contributed to shows 0, even beside a base value: onnxruntime has it so. The format does not say what two classes with contributions to only one of them mean; onnxruntime does, and exporters rely
//! on it: the other class gets 1 - s if all contributions are positive (they are probabilities), -s otherwise (they are
//! logits), and the label is decided at 0.5 or at 0.
use super::ensemble::{Aggregate, Ensemble, Kind, Score};
use crate::runtime::ops::scores::{PostTransform, logistic, probit};

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
    let start = out.len();
    out.extend(scores.iter().map(|s| s.shown()));
    post.apply(out.get_mut(start..).unwrap_or_default());
}
