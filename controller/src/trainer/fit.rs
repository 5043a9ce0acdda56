//! Fitting: standardise, clip, multiply, and let linfa's logistic regression find the weights.
//!
//! One recorded value in the weather series is 94 standard deviations out; squared, such a value would decide the fit alone and
//! the model's answer whenever it comes back. So every feature is clipped to what most of the training data showed.
use std::collections::BTreeMap;

use linfa::prelude::{Dataset, Fit as _};
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};

use super::{Rows, TrainError};

/// Features are clipped at so many standard deviations.
const CLIP_SD: f64 = 5.0;
/// Weight of the L2 penalty.
const L2: f64 = 1.0;
/// The most optimiser steps.
const MAX_STEPS: u64 = 300;
/// The fit has converged below this.
const GRADIENT_TOLERANCE: f64 = 1e-3;
/// The most rows fitted on; more are thinned evenly. Bounds time and memory on the trainer.
const MAX_FIT_ROWS: usize = 20_000;

/// A fitted model: probability = sigmoid(bias + Σ linear·z + Σ product·z_i·z_j), z = (clip(x) − mean) / sd.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Lower clip by feature.
    pub low: Vec<f32>,
    /// Upper clip by feature.
    pub high: Vec<f32>,
    /// Mean by feature.
    pub mean: Vec<f64>,
    /// Standard deviation by feature.
    pub sd: Vec<f64>,
    /// Pairs (i, j), i <= j, whose product is a feature.
    pub pairs: Vec<(usize, usize)>,
    /// Weights: features first, then pairs.
    pub weights: Vec<f32>,
    /// Intercept.
    pub bias: f32,
}

impl Model {
    /// The probability of class 1 for one row.
    pub fn probability(&self, x: &[f32]) -> f64 {
        let expanded = expand(&self.standardised(x), &self.pairs);
        let sum: f64 = expanded.iter().zip(&self.weights).map(|(x, w)| x * f64::from(*w)).sum::<f64>() + f64::from(self.bias);
        1.0 / (1.0 + (-sum).exp())
    }

    fn standardised(&self, x: &[f32]) -> Vec<f64> {
        let column = |(f, x): (usize, &f32)| {
            let (low, high) = (self.low.get(f).copied().unwrap_or(f32::MIN), self.high.get(f).copied().unwrap_or(f32::MAX));
            (f64::from(x.clamp(low, high)) - self.mean.get(f).copied().unwrap_or(0.0)) / self.sd.get(f).copied().unwrap_or(1.0)
        };
        x.iter().enumerate().map(column).collect()
    }
}

fn expand(z: &[f64], pairs: &[(usize, usize)]) -> Vec<f64> {
    let product = |&(i, j): &(usize, usize)| z.get(i).copied().unwrap_or(0.0) * z.get(j).copied().unwrap_or(0.0);
    z.iter().copied().chain(pairs.iter().map(product)).collect()
}

/// What a fit is told, by name.
pub fn parameters() -> BTreeMap<String, String> {
    let all: [(&str, String); 5] = [
        ("clip_sd", CLIP_SD.to_string()),
        ("l2", L2.to_string()),
        ("max_steps", MAX_STEPS.to_string()),
        ("gradient_tolerance", GRADIENT_TOLERANCE.to_string()),
        ("max_fit_rows", MAX_FIT_ROWS.to_string()),
    ];
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Fit on `rows`, which are complete and of both classes.
pub fn fit(rows: &Rows) -> Result<Model, TrainError> {
    let width = rows.inputs.first().map_or(0, Vec::len);
    let mut model = Model {
        low: Vec::new(),
        high: Vec::new(),
        mean: Vec::new(),
        sd: Vec::new(),
        pairs: (0..width).flat_map(|i| (i..width).map(move |j| (i, j))).collect(),
        weights: Vec::new(),
        bias: 0.0,
    };
    for f in 0..width {
        let values: Vec<f64> = rows.inputs.iter().filter_map(|x| x.get(f)).map(|v| f64::from(*v)).collect();
        let (mean, sd) = trimmed_moments(values);
        model.low.push((mean - CLIP_SD * sd) as f32);
        model.high.push((mean + CLIP_SD * sd) as f32);
        model.mean.push(mean);
        model.sd.push(sd);
    }
    let chosen = resample(&rows.weights);
    let columns = width + model.pairs.len();
    let mut flat = Vec::with_capacity(chosen.len() * columns);
    for &row in &chosen {
        flat.extend(expand(&model.standardised(rows.inputs.get(row).map_or(&[], Vec::as_slice)), &model.pairs));
    }
    let failed = |e: String| TrainError::Fit(e);
    let records = Array2::from_shape_vec((chosen.len(), columns), flat).map_err(|e| failed(e.to_string()))?;
    let targets: Array1<usize> = chosen.iter().map(|&row| usize::from(rows.labels.get(row).copied().unwrap_or(false))).collect();
    let fitted = LogisticRegression::default()
        .alpha(L2)
        .max_iterations(MAX_STEPS)
        .gradient_tolerance(GRADIENT_TOLERANCE)
        .fit(&Dataset::new(records, targets))
        .map_err(|e| failed(e.to_string()))?;
    // linfa names the positive class by what it met; class 1 must be ours.
    let sign = if fitted.labels().pos.class == 1 { 1.0 } else { -1.0 };
    model.weights = fitted.params().iter().map(|w| (w * sign) as f32).collect();
    model.bias = (fitted.intercept() * sign) as f32;
    if model.weights.iter().chain([&model.bias]).any(|w| !w.is_finite()) {
        return Err(failed("a weight is not a finite number".to_owned()));
    }
    Ok(model)
}

/// Mean and standard deviation without the outermost thousandth on each side.
fn trimmed_moments(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let cut = values.len() / 1000 + usize::from(values.len() > 100);
    let kept = values.get(cut..values.len().saturating_sub(cut)).filter(|k| !k.is_empty()).unwrap_or(&values);
    let n = kept.len().max(1) as f64;
    let mean = kept.iter().sum::<f64>() / n;
    let variance = kept.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, if variance > 1e-12 { variance.sqrt() } else { 1.0 })
}

/// Rows by systematic sampling in proportion to their weights (no chance involved): equal weights give every row once, up to the bound.
fn resample(weights: &[f64]) -> Vec<usize> {
    let total: f64 = weights.iter().sum();
    let wanted = weights.len().min(MAX_FIT_ROWS);
    let step = total / wanted.max(1) as f64;
    let (mut chosen, mut sum) = (Vec::with_capacity(wanted), 0.0);
    for (row, weight) in weights.iter().enumerate() {
        sum += weight;
        while chosen.len() < wanted && sum > (chosen.len() as f64 + 0.5) * step {
            chosen.push(row);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_decide_how_often_a_row_is_used() {
        assert_eq!(resample(&[1.0; 5]), [0, 1, 2, 3, 4]);
        assert_eq!(resample(&[2.0, 0.1, 0.1, 2.0]), [0, 0, 3, 3]);
        assert_eq!(resample(&[]), Vec::<usize>::new());
        let many = resample(&vec![1.0; MAX_FIT_ROWS * 2]);
        assert!(many.len() == MAX_FIT_ROWS && many.windows(2).all(|w| w[1] - w[0] == 2));
    }

    #[test]
    fn outliers_do_not_move_the_scale() {
        let mut values: Vec<f64> = (0..1000).map(|i| f64::from(i % 10)).collect();
        values.push(1e9);
        let (mean, sd) = trimmed_moments(values);
        assert!((mean - 4.5).abs() < 0.1 && (sd - 2.87).abs() < 0.1, "{mean} {sd}");
    }
}
