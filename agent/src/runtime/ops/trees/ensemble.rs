//! A validated ensemble and the walk through it.
//!
//! Nodes of one tree lie in the order of a walk that takes the true branch first, sixteen bytes each, a leaf being a node with
//! a mark; a step is one load, one comparison and one pick. Most exporters use one comparison throughout, which then costs
//! nothing per node. What stays true: children lie inside the array and behind their parent, so every walk ends.
use super::finish;
use crate::runtime::ops::scores::PostTransform;

/// What the trees are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Scores per class, and a label.
    Classifier,
    /// Values.
    Regressor,
}

/// How a node compares the feature with its value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Leq,
    Lt,
    Gte,
    Gt,
    Eq,
    Neq,
}

/// How the trees' contributions are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

/// The feature of a leaf.
pub(super) const LEAF: u32 = u32::MAX;

/// A branch, or a leaf with its contributions as a range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) feature: u32,
    pub(super) value: f32,
    /// Where to go if the comparison is true, and if not; for a leaf the range of its contributions.
    pub(super) next: [u32; 2],
}

/// Trees, checked.
#[derive(Debug)]
pub struct Ensemble {
    pub(super) kind: Kind,
    pub(super) nodes: Vec<Node>,
    pub(super) roots: Vec<u32>,
    /// One per node if they differ; else empty and `mode` holds.
    pub(super) modes: Vec<Mode>,
    pub(super) mode: Mode,
    /// Whether a missing value takes the true branch, per node; empty if it never does.
    pub(super) missing: Vec<bool>,
    /// (class or target, contribution).
    pub(super) weights: Vec<(u32, f32)>,
    pub(super) width: usize,
    pub(super) features: usize,
    pub(super) base: Vec<f32>,
    pub(super) aggregate: Aggregate,
    pub(super) post: PostTransform,
    /// Labels of the classes; their places where the labels are texts.
    pub(super) labels: Vec<i64>,
    /// The one class that gets scores, if there is only one.
    pub(super) single: Option<u32>,
    pub(super) all_positive: bool,
}

/// A score that may never have been touched, which is another thing than 0.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Score {
    pub(super) value: f32,
    pub(super) seen: bool,
}

impl Score {
    pub(super) fn shown(self) -> f32 {
        if self.seen { self.value } else { 0.0 }
    }
}

/// Classes kept on the stack; more take one allocation per row.
const FEW: usize = 16;

impl Ensemble {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Scores per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Features a row must have at least.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Append one row's scores; its label for a classifier, 0 for a regressor.
    pub fn run(&self, row: &[f32], out: &mut Vec<f32>) -> i64 {
        let mut few = [Score::default(); FEW];
        let mut many = Vec::new();
        let scores = if let Some(few) = few.get_mut(..self.width) {
            few
        } else {
            many.resize(self.width, Score::default());
            many.as_mut_slice()
        };
        if !self.modes.is_empty() || !self.missing.is_empty() {
            self.walk_mixed(row, scores);
        } else {
            match self.mode {
                Mode::Leq => self.walk(row, scores, |x, v| x <= v),
                Mode::Lt => self.walk(row, scores, |x, v| x < v),
                Mode::Gte => self.walk(row, scores, |x, v| x >= v),
                Mode::Gt => self.walk(row, scores, |x, v| x > v),
                Mode::Eq => self.walk(row, scores, |x, v| x == v),
                Mode::Neq => self.walk(row, scores, |x, v| x != v),
            }
        }
        finish::scores(self, scores, out)
    }

    /// One comparison throughout.
    #[inline]
    fn walk(&self, row: &[f32], scores: &mut [Score], test: impl Fn(f32, f32) -> bool) {
        for &root in &self.roots {
            let mut at = root;
            while let Some(node) = self.nodes.get(at as usize) {
                let Some(&x) = row.get(node.feature as usize) else {
                    self.contribute(node, scores);
                    break;
                };
                let [yes, no] = node.next;
                at = if test(x, node.value) { yes } else { no };
            }
        }
    }

    fn walk_mixed(&self, row: &[f32], scores: &mut [Score]) {
        for &root in &self.roots {
            let mut at = root;
            while let Some(node) = self.nodes.get(at as usize) {
                let Some(&x) = row.get(node.feature as usize) else {
                    self.contribute(node, scores);
                    break;
                };
                let missing = x.is_nan() && self.missing.get(at as usize).copied().unwrap_or(false);
                let mode = self.modes.get(at as usize).copied().unwrap_or(self.mode);
                let [yes, no] = node.next;
                at = if missing || mode.test(x, node.value) { yes } else { no };
            }
        }
    }

    #[inline]
    fn contribute(&self, leaf: &Node, scores: &mut [Score]) {
        let [start, end] = leaf.next;
        for &(target, weight) in self.weights.get(start as usize..end as usize).unwrap_or(&[]) {
            let Some(score) = scores.get_mut(target as usize) else { continue };
            score.value = match self.aggregate {
                Aggregate::Sum | Aggregate::Average => score.value + weight,
                Aggregate::Min if score.seen => score.value.min(weight),
                Aggregate::Max if score.seen => score.value.max(weight),
                Aggregate::Min | Aggregate::Max => weight,
            };
            score.seen = true;
        }
    }
}

impl Mode {
    fn test(self, x: f32, value: f32) -> bool {
        match self {
            Self::Leq => x <= value,
            Self::Lt => x < value,
            Self::Gte => x >= value,
            Self::Gt => x > value,
            Self::Eq => x == value,
            Self::Neq => x != value,
        }
    }
}
