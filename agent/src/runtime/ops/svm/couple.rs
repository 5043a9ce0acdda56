//! From the scores of pairs of classes to one probability per class.
//!
//! Each pair's score becomes the probability of its first class by a logistic curve (Platt); those are joined into
//! probabilities of classes by the second method of Wu, Lin and Weng, "Probability estimates for multi-class classification by
//! pairwise coupling" (2004): the p that minimises the sum over pairs of (r_ji p_i - r_ij p_j)², by a fixed-point iteration.
//! Precision, order and stop are onnxruntime's (f32, 0.005 per class, a hundred rounds), because where it stops shows in the digits.
use crate::runtime::ops::scores::logistic;

/// A hundred rounds; it nearly always takes fewer than ten.
const ROUNDS: usize = 100;
/// Pair probabilities keep this far from 0 and 1.
const EDGE: f32 = 1e-7;

/// Append one probability per class. `scores` and `platt` have one entry per pair, in the order (0,1), (0,2), …, (1,2), ….
pub(super) fn probabilities(scores: &[f32], platt: &[(f32, f32)], classes: usize, out: &mut Vec<f32>) {
    // r[i][j]: the probability of i, if it is either i or j.
    let mut r = vec![vec![0f32; classes]; classes];
    let mut pairs = scores.iter().zip(platt);
    for i in 0..classes {
        for j in i + 1..classes {
            let Some((score, (slope, offset))) = pairs.next() else { break };
            // A score that is no number stays none: max and min would hide it.
            let p = 1.0 - logistic(score * slope + offset);
            let p = if p.is_nan() { EDGE } else { p.clamp(EDGE, 1.0 - EDGE) };
            put(&mut r, i, j, p);
            put(&mut r, j, i, 1.0 - p);
        }
    }
    let q = quadratic(&r);
    out.extend(minimum(&q));
}

fn put(matrix: &mut [Vec<f32>], i: usize, j: usize, value: f32) {
    if let Some(cell) = matrix.get_mut(i).and_then(|row| row.get_mut(j)) {
        *cell = value;
    }
}

fn at(matrix: &[Vec<f32>], i: usize, j: usize) -> f32 {
    matrix.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0.0)
}

/// The matrix of the quadratic form.
fn quadratic(r: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let n = r.len();
    let mut q = vec![vec![0f32; n]; n];
    for i in 0..n {
        let own = (0..n).filter(|&j| j != i).map(|j| at(r, j, i) * at(r, j, i)).sum();
        put(&mut q, i, i, own);
        for j in (0..n).filter(|&j| j != i) {
            put(&mut q, i, j, -at(r, j, i) * at(r, i, j));
        }
    }
    q
}

/// The point of the simplex where the form is least.
fn minimum(q: &[Vec<f32>]) -> Vec<f32> {
    let n = q.len();
    let mut p = vec![1.0 / n as f32; n];
    for _ in 0..ROUNDS {
        let mut qp: Vec<f32> = q.iter().map(|row| row.iter().zip(&p).fold(0.0, |sum, (q, p)| sum + q * p)).collect();
        let mut pqp = p.iter().zip(&qp).fold(0.0, |sum, (p, q)| sum + p * q);
        let worst = qp.iter().map(|x| (x - pqp).abs()).fold(0.0, f32::max);
        if worst < 0.005 / n as f32 {
            break;
        }
        for (i, row) in q.iter().enumerate() {
            let (Some(&own), Some(&here)) = (row.get(i), qp.get(i)) else { continue };
            let step = (pqp - here) / own;
            if let Some(p) = p.get_mut(i) {
                *p += step;
            }
            let whole = 1.0 + step;
            pqp = (pqp + step * (step * own + 2.0 * here)) / whole / whole;
            for ((qp, q), p) in qp.iter_mut().zip(row).zip(&mut p) {
                *qp = (*qp + step * q) / whole;
                *p /= whole;
            }
        }
    }
    p
}
