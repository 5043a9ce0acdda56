//! SVMClassifier and SVMRegressor. Missing in the engine.
//!
//! The format says little about them; onnxruntime says the rest, and this follows it: which pair's coefficients lie where, that
//! a classifier without probabilities shows one score per pair of classes (two for two classes), that the label is the pairs'
//! vote even where probabilities would say another, and that a file without support vectors is a linear one.
use super::attributes::{Attributes, Refused, labels, refuse};
use super::rows;
use super::scores::{PostTransform, dot, largest};

mod couple;
#[cfg(test)]
mod tests;

/// Classes; there are half their square of pairs, and probabilities are found by iterating over all of them.
const MAX_CLASSES: usize = 256;

/// How near a row is to a support vector.
#[derive(Debug, Clone, Copy)]
enum Nearness {
    Linear,
    Poly { gamma: f32, coef0: f32, degree: f32 },
    Rbf { gamma: f32 },
    Sigmoid { gamma: f32, coef0: f32 },
}

impl Nearness {
    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        let (gamma, coef0, degree) = match node.floats("kernel_params") {
            None => (0.0, 0.0, 0.0),
            Some(&[gamma, coef0, degree]) => (gamma, coef0, degree),
            Some(_) => return refuse("kernel_params must be gamma, coef0 and degree"),
        };
        Ok(match node.text("kernel_type").unwrap_or(b"LINEAR") {
            b"LINEAR" => Self::Linear,
            b"POLY" => Self::Poly { gamma, coef0, degree },
            b"RBF" => Self::Rbf { gamma },
            b"SIGMOID" => Self::Sigmoid { gamma, coef0 },
            _ => return refuse("the kernel is not LINEAR, POLY, RBF or SIGMOID"),
        })
    }

    fn of(self, row: &[f32], vector: &[f32]) -> f32 {
        match self {
            Self::Linear => dot(row, vector),
            Self::Poly { gamma, coef0, degree } => (gamma * dot(row, vector) + coef0).powf(degree),
            Self::Rbf { gamma } => (-gamma * row.iter().zip(vector).map(|(x, v)| (x - v) * (x - v)).sum::<f32>()).exp(),
            Self::Sigmoid { gamma, coef0 } => (gamma * dot(row, vector) + coef0).tanh(),
        }
    }
}

/// The support vectors, or lines where there are none.
#[derive(Debug)]
struct Vectors {
    nearness: Nearness,
    values: Vec<f32>,
    features: usize,
}

impl Vectors {
    fn new(nearness: Nearness, values: &[f32], count: usize) -> Result<Self, Refused> {
        if count == 0 || values.is_empty() || !values.len().is_multiple_of(count) {
            return refuse(format!("{} values do not make {count} vectors", values.len()));
        }
        Ok(Self { nearness, values: values.to_vec(), features: values.len() / count })
    }

    fn nearness(&self, row: &[f32]) -> impl Iterator<Item = f32> {
        self.values.chunks_exact(self.features).map(|vector| self.nearness.of(row, vector))
    }
}

/// What decides between the classes.
#[derive(Debug)]
enum Mode {
    /// Pairs of classes over support vectors.
    Pairs {
        /// For each class, where its vectors begin and end.
        ranges: Vec<(usize, usize)>,
        /// (classes - 1) × vectors.
        coefficients: Vec<f32>,
        /// One per pair.
        rho: Vec<f32>,
        /// Slope and offset of each pair's probability; empty if there are none.
        platt: Vec<(f32, f32)>,
    },
    /// One line per class.
    Lines {
        /// Added to each score.
        rho: f32,
        /// Decided by the largest probability, not by the score's sign.
        probable: bool,
        /// No coefficient is negative: scores are taken for probabilities.
        all_positive: bool,
    },
}

/// Scores and a label.
#[derive(Debug)]
pub(super) struct Classifier {
    vectors: Vectors,
    mode: Mode,
    labels: Vec<i64>,
    post: PostTransform,
}

impl rows::Kernel for Classifier {
    const NAME: &'static str = "SVMClassifier";
    const LABELS: bool = true;

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        let labels = labels(node, MAX_CLASSES)?;
        if labels.len() < 2 {
            return refuse("it has fewer than two classes");
        }
        let Some(coefficients) = node.floats("coefficients") else { return refuse("coefficients are missing") };
        let Some(rho) = node.floats("rho") else { return refuse("rho is missing") };
        let (a, b) = (node.floats("prob_a").unwrap_or(&[]), node.floats("prob_b").unwrap_or(&[]));
        let (post, nearness) = (PostTransform::read(node)?, Nearness::read(node)?);
        let per_class = node.ints("vectors_per_class").unwrap_or(&[]);
        let ranges = ranges(per_class)?;
        let Some(count) = ranges.last().map(|(_, end)| *end).filter(|&n| n > 0) else {
            let all_positive = coefficients.iter().all(|&c| c >= 0.0);
            let mode = Mode::Lines { rho: rho.first().copied().unwrap_or(0.0), probable: !a.is_empty(), all_positive };
            return Ok(Self { vectors: Vectors::new(Nearness::Linear, coefficients, labels.len())?, mode, labels, post });
        };
        let pairs = labels.len() * (labels.len() - 1) / 2;
        let fits = [
            ("vectors_per_class", per_class.len(), labels.len()),
            ("coefficients", coefficients.len(), count.saturating_mul(labels.len() - 1)),
            ("rho", rho.len(), pairs),
            ("prob_a", a.len(), if a.is_empty() { 0 } else { pairs }),
            ("prob_b", b.len(), a.len()),
        ];
        if let Some((name, found, need)) = fits.into_iter().find(|(_, found, need)| found != need) {
            return refuse(format!("{name} has {found} entries, {need} are needed"));
        }
        if a.is_empty() && labels.len() == 2 && post == PostTransform::Probit {
            return refuse("PROBIT of one score for two classes has no meaning; export with NONE");
        }
        let vectors = Vectors::new(nearness, node.floats("support_vectors").unwrap_or(&[]), count)?;
        let platt = a.iter().copied().zip(b.iter().copied()).collect();
        Ok(Self { vectors, mode: Mode::Pairs { ranges, coefficients: coefficients.to_vec(), rho: rho.to_vec(), platt }, labels, post })
    }

    fn columns(&self) -> Option<usize> {
        Some(self.vectors.features)
    }

    fn width(&self) -> Option<usize> {
        let classes = self.labels.len();
        Some(match &self.mode {
            Mode::Pairs { rho, platt, .. } if platt.is_empty() && classes > 2 => rho.len(),
            _ => classes,
        })
    }

    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused> {
        let (start, classes) = (out.len(), self.labels.len());
        let label = |class: usize| self.labels.get(class).copied().unwrap_or(0);
        match &self.mode {
            Mode::Lines { rho, probable, all_positive } => {
                out.extend(self.vectors.nearness(row).map(|x| x + rho));
                let scores = out.get_mut(start..).unwrap_or_default();
                let class = largest(scores.iter().copied());
                let most = scores.get(class).copied().unwrap_or(0.0);
                let second = classes == 2 && !probable && if *all_positive { most >= 0.5 } else { most > 0.0 };
                self.post.apply(scores);
                Ok(label(if second { 1 } else { class }))
            }
            Mode::Pairs { ranges, coefficients, rho, platt } => {
                let near: Vec<f32> = self.vectors.nearness(row).collect();
                let (scores, winner) = vote(ranges, coefficients, rho, &near);
                match *scores.as_slice() {
                    _ if !platt.is_empty() => {
                        couple::probabilities(&scores, platt, classes, out);
                        self.post.apply(out.get_mut(start..).unwrap_or_default());
                    }
                    [score] if self.post == PostTransform::None => out.extend([-score, score]),
                    [score] => out.extend(self.post.both_sides(score)),
                    _ => {
                        out.extend(&scores);
                        self.post.apply(out.get_mut(start..).unwrap_or_default());
                    }
                }
                Ok(label(winner))
            }
        }
    }
}

/// Where each class's vectors begin and end.
fn ranges(per_class: &[i64]) -> Result<Vec<(usize, usize)>, Refused> {
    let mut end = 0usize;
    let mut ranges = Vec::with_capacity(per_class.len().min(MAX_CLASSES));
    for &count in per_class {
        let next = usize::try_from(count).ok().and_then(|n| end.checked_add(n));
        let Some(next) = next else { return refuse(format!("a class has {count} support vectors")) };
        ranges.push((end, next));
        end = next;
    }
    Ok(ranges)
}

/// The score of every pair of classes, and the class most pairs are for (the first of several).
fn vote(ranges: &[(usize, usize)], coefficients: &[f32], rho: &[f32], near: &[f32]) -> (Vec<f32>, usize) {
    let mut votes = vec![0f32; ranges.len()];
    let mut scores = Vec::with_capacity(rho.len());
    // Row `of` of the coefficients over the vectors of one class.
    let part = |of: usize, &(from, to): &(usize, usize)| -> f64 {
        let start = of * near.len();
        let weights = coefficients.get(start + from..start + to).unwrap_or(&[]);
        let near = near.get(from..to).unwrap_or(&[]);
        weights.iter().zip(near).map(|(w, n)| f64::from(w * n)).sum()
    };
    let mut rho = rho.iter();
    for (i, a) in ranges.iter().enumerate() {
        for (j, b) in ranges.iter().enumerate().skip(i + 1) {
            // A class has no coefficients against itself, so those against later classes lie one row up.
            let score = part(j - 1, a) + part(i, b) + f64::from(rho.next().copied().unwrap_or(0.0));
            scores.push(score as f32);
            if let Some(vote) = votes.get_mut(if score > 0.0 { i } else { j }) {
                *vote += 1.0;
            }
        }
    }
    let winner = largest(votes);
    (scores, winner)
}

/// One value.
#[derive(Debug)]
pub(super) struct Regressor {
    vectors: Vectors,
    /// One per support vector; a line has a single 1.
    coefficients: Vec<f32>,
    rho: f32,
    /// Only the side of zero is shown.
    one_class: bool,
}

impl rows::Kernel for Regressor {
    const NAME: &'static str = "SVMRegressor";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        let Some(coefficients) = node.floats("coefficients") else { return refuse("coefficients are missing") };
        let Some(&[rho, ..]) = node.floats("rho") else { return refuse("rho is missing") };
        if PostTransform::read(node)? != PostTransform::None {
            return refuse("its post-transform must be NONE: onnxruntime ignores others");
        }
        let Ok(count) = usize::try_from(node.int("n_supports").unwrap_or(0)) else { return refuse("n_supports is negative") };
        let one_class = node.int("one_class").unwrap_or(0) != 0;
        if count == 0 {
            return Ok(Self { vectors: Vectors::new(Nearness::Linear, coefficients, 1)?, coefficients: vec![1.0], rho, one_class });
        }
        if coefficients.len() != count {
            return refuse(format!("coefficients has {} entries, {count} are needed", coefficients.len()));
        }
        let vectors = Vectors::new(Nearness::read(node)?, node.floats("support_vectors").unwrap_or(&[]), count)?;
        Ok(Self { vectors, coefficients: coefficients.to_vec(), rho, one_class })
    }

    fn columns(&self) -> Option<usize> {
        Some(self.vectors.features)
    }

    fn width(&self) -> Option<usize> {
        Some(1)
    }

    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused> {
        let near = self.vectors.nearness(row).zip(&self.coefficients);
        let value = near.map(|(n, c)| f64::from(n * c)).sum::<f64>() as f32 + self.rho;
        out.push(match self.one_class {
            true if value > 0.0 => 1.0,
            true => -1.0,
            false => value,
        });
        Ok(0)
    }
}
