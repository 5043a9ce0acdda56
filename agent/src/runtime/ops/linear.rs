//! LinearClassifier and LinearRegressor.
//!
//! The engine has both, with another answer than onnxruntime where one score stands for two classes: onnxruntime (from 1.32 on; before it
//! forgot the logistic curve) shows the curve's two sides for LOGISTIC and [1 - s, s] otherwise, and decides at s > 0. A regressor's lone
//! value it leaves alone unless the post-transform is PROBIT.
use super::attributes::{Attributes, Refused, labels, refuse};
use super::rows::Kernel;
use super::scores::{PostTransform, dot, largest};

/// Classes or targets.
const MAX_TARGETS: usize = 4_096;

/// One line per target, and where it crosses zero.
#[derive(Debug)]
struct Lines {
    coefficients: Vec<f32>,
    intercepts: Vec<f32>,
    features: usize,
}

impl Lines {
    fn new(coefficients: &[f32], intercepts: Vec<f32>) -> Result<Self, Refused> {
        let targets = intercepts.len();
        if targets == 0 || targets > MAX_TARGETS || coefficients.is_empty() || !coefficients.len().is_multiple_of(targets) {
            return refuse(format!("{} coefficients do not make lines for {targets} targets", coefficients.len()));
        }
        Ok(Self { coefficients: coefficients.to_vec(), intercepts, features: coefficients.len() / targets })
    }

    fn scores(&self, row: &[f32], out: &mut Vec<f32>) {
        let lines = self.coefficients.chunks_exact(self.features).zip(&self.intercepts);
        out.extend(lines.map(|(line, intercept)| dot(row, line) + intercept));
    }
}

/// Scores and a label.
#[derive(Debug)]
pub(super) struct Classifier {
    lines: Lines,
    labels: Vec<i64>,
    post: PostTransform,
}

impl Kernel for Classifier {
    const NAME: &'static str = "LinearClassifier";
    const LABELS: bool = true;

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        let labels = labels(node, MAX_TARGETS)?;
        let Some(intercepts) = node.floats("intercepts") else { return refuse("intercepts are missing; write zeros if there are none") };
        let lines = Lines::new(node.floats("coefficients").unwrap_or(&[]), intercepts.to_vec())?;
        let (targets, post) = (lines.intercepts.len(), PostTransform::read(node)?);
        if labels.len() != targets.max(2) {
            return refuse(format!("{} class labels for {targets} lines", labels.len()));
        }
        if targets == 1 && post == PostTransform::Probit {
            return refuse("PROBIT of one score for two classes has no meaning; export with LOGISTIC");
        }
        Ok(Self { lines, labels, post })
    }

    fn columns(&self) -> Option<usize> {
        Some(self.lines.features)
    }

    fn width(&self) -> Option<usize> {
        Some(self.labels.len())
    }

    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused> {
        let start = out.len();
        self.lines.scores(row, out);
        let scores = out.get_mut(start..).unwrap_or_default();
        if let [score] = *scores {
            out.truncate(start);
            out.extend(self.post.both_sides(score));
            return Ok(self.labels.get(usize::from(score > 0.0)).copied().unwrap_or(0));
        }
        let class = largest(scores.iter().copied());
        self.post.apply(scores);
        Ok(self.labels.get(class).copied().unwrap_or(0))
    }
}

/// Values.
#[derive(Debug)]
pub(super) struct Regressor {
    lines: Lines,
    post: PostTransform,
}

impl Kernel for Regressor {
    const NAME: &'static str = "LinearRegressor";

    fn read(node: &impl Attributes) -> Result<Self, Refused> {
        let targets = usize::try_from(node.int("targets").unwrap_or(1)).ok().filter(|n| (1..=MAX_TARGETS).contains(n));
        let Some(targets) = targets else { return refuse(format!("targets are outside 1 to {MAX_TARGETS}")) };
        let intercepts = node.floats("intercepts").map_or_else(|| vec![0.0; targets], <[f32]>::to_vec);
        if intercepts.len() != targets {
            return refuse(format!("{} intercepts for {targets} targets", intercepts.len()));
        }
        Ok(Self { lines: Lines::new(node.floats("coefficients").unwrap_or(&[]), intercepts)?, post: PostTransform::read(node)? })
    }

    fn columns(&self) -> Option<usize> {
        Some(self.lines.features)
    }

    fn width(&self) -> Option<usize> {
        Some(self.lines.intercepts.len())
    }

    fn run(&self, row: &[f32], out: &mut Vec<f32>) -> Result<i64, Refused> {
        let start = out.len();
        self.lines.scores(row, out);
        let values = out.get_mut(start..).unwrap_or_default();
        if values.len() == 1 {
            lone(self.post, values)
        } else {
            self.post.apply(values)
        }
        Ok(0)
    }
}

/// One score with no other beside it: onnxruntime only knows PROBIT of it.
fn lone(post: PostTransform, scores: &mut [f32]) {
    if post == PostTransform::Probit {
        post.apply(scores);
    }
}
