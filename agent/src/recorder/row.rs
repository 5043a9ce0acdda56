//! What one inference looked like, borrowed from whoever ran it: the recorder neither knows the engine nor copies a tensor.
use leeway_protocol::manifest::{Decision, Manifest};
pub use leeway_protocol::tensor::Elements;

/// Inputs and outputs of one inference, in the manifest's order.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// One per input of the manifest; [`Elements::Absent`] for constants and state.
    pub inputs: &'a [Elements<'a>],
    /// One per output.
    pub outputs: &'a [Elements<'a>],
    /// Elements of inputs for which the application gave no value: (input, element).
    pub nulls: &'a [(usize, usize)],
}

/// A decision as the manifest says to read it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decided {
    /// The class.
    pub class: usize,
    /// The probability the model gives to that class.
    pub confidence: f64,
}

/// Reads decisions as a manifest says, without looking at the manifest again: what follows every inference must touch little
/// memory, since a model of some size has just pushed everything out of the caches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Decider {
    /// The model decides nothing.
    None,
    /// Probability of class 1 in one element.
    Binary {
        /// Which output.
        output: usize,
        /// Which element.
        index: usize,
        /// From here up it is class 1.
        threshold: f64,
    },
    /// Probabilities of so many classes in the first row of an output.
    Classes {
        /// Which output.
        output: usize,
        /// How many.
        classes: usize,
    },
}

impl Decider {
    /// For a manifest.
    pub fn new(manifest: &Manifest) -> Self {
        match &manifest.decision {
            Decision::None => Self::None,
            Decision::Binary { output, index, threshold } => Self::Binary { output: *output, index: *index, threshold: *threshold },
            Decision::Classes { output } => {
                let last = manifest.outputs.get(*output).and_then(|spec| spec.shape.last()).copied().unwrap_or(0);
                Self::Classes { output: *output, classes: usize::try_from(last).unwrap_or(0) }
            }
        }
    }

    /// The decision in these outputs; `None` for models without one and for probabilities that are not numbers. Of several
    /// rows in a batch the first one is read: devices serve one row at a time.
    #[inline]
    pub fn decide(&self, outputs: &[Elements<'_>]) -> Option<Decided> {
        match *self {
            Self::None => None,
            Self::Binary { output, index, threshold } => {
                let p = outputs.get(output)?.at(index).filter(|p| p.is_finite())?;
                let class = usize::from(p >= threshold);
                Some(Decided { class, confidence: if class == 1 { p } else { 1.0 - p } })
            }
            Self::Classes { output, classes } => largest(outputs.get(output)?, classes),
        }
    }
}

impl Decider {
    /// Lead of the decision over its nearest rival: the distance from the threshold by the most there can be, or the probability of
    /// the best class less that of the second; 0 to 1. `None` without a decision.
    pub fn margin(&self, outputs: &[Elements<'_>]) -> Option<f64> {
        match *self {
            Self::None => None,
            Self::Binary { output, index, threshold } => {
                let p = outputs.get(output)?.at(index).filter(|p| p.is_finite())?;
                Some(((p - threshold).abs() / threshold.max(1.0 - threshold)).min(1.0))
            }
            Self::Classes { output, classes } => {
                let scores = outputs.get(output)?;
                let (mut best, mut second) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
                for p in (0..classes).filter_map(|class| scores.at(class)) {
                    (best, second) = if p > best { (p, best) } else { (best, second.max(p)) };
                }
                Some((best - second).clamp(0.0, 1.0)).filter(|margin| !margin.is_nan())
            }
        }
    }
}

fn largest(scores: &Elements<'_>, classes: usize) -> Option<Decided> {
    if let Elements::F32(scores) = scores {
        let scores = scores.get(..classes).filter(|s| Elements::F32(s).all_finite())?;
        let (mut class, mut most) = (0, f32::NEG_INFINITY);
        for (at, &p) in scores.iter().enumerate() {
            (class, most) = if p > most { (at, p) } else { (class, most) };
        }
        return Some(Decided { class, confidence: f64::from(most) }).filter(|_| classes > 0);
    }
    let mut best = Decided { class: 0, confidence: f64::NEG_INFINITY };
    for class in 0..classes {
        let p = scores.at(class)?;
        if p.is_nan() {
            return None;
        }
        if p > best.confidence {
            best = Decided { class, confidence: p };
        }
    }
    best.confidence.is_finite().then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorder::tests::manifest_with;

    #[test]
    fn margins_are_leads_over_the_nearest_rival() {
        let binary = Decider::Binary { output: 0, index: 0, threshold: 0.8 };
        let of = |decider: Decider, p: &[f32]| decider.margin(&[Elements::F32(p)]);
        assert!((of(binary, &[0.4]).unwrap() - 0.5).abs() < 1e-6 && of(binary, &[0.8]).unwrap() < 1e-6);
        assert_eq!(of(binary, &[f32::NAN]), None);
        let classes = Decider::Classes { output: 0, classes: 3 };
        assert_eq!((of(classes, &[0.25, 0.5, 0.25]), of(classes, &[0.5, 0.5, 0.0])), (Some(0.25), Some(0.0)));
        assert_eq!(of(Decider::None, &[0.5]), None);
    }

    #[test]
    fn decisions_follow_the_manifest() {
        let decider = |decision: Decision, shape: Vec<u64>| {
            let mut manifest = manifest_with(vec![]);
            manifest.decision = decision;
            manifest.outputs[0].shape = shape;
            Decider::new(&manifest)
        };
        let binary = decider(Decision::Binary { output: 0, index: 1, threshold: 0.3 }, vec![1, 2]);
        type Case = (&'static [f32], Option<(usize, f64)>);
        let table: [Case; 3] = [(&[0.5, 0.5], Some((1, 0.5))), (&[0.75, 0.25], Some((0, 0.75))), (&[0.0, f32::NAN], None)];
        for (p, want) in table {
            assert_eq!(binary.decide(&[Elements::F32(p)]).map(|d| (d.class, d.confidence)), want, "{p:?}");
        }
        let classes = decider(Decision::Classes { output: 0 }, vec![1, 3]);
        assert_eq!(classes.decide(&[Elements::F32(&[0.125, 0.5, 0.375])]), Some(Decided { class: 1, confidence: 0.5 }));
        assert_eq!(classes.decide(&[Elements::I8(&[1, 3, 2])]), Some(Decided { class: 1, confidence: 3.0 }));
        assert_eq!(classes.decide(&[Elements::F32(&[0.1])]), None);
        assert_eq!(classes.decide(&[Elements::F32(&[0.1, f32::NAN, 0.2])]), None);
        assert_eq!(decider(Decision::None, vec![1]).decide(&[Elements::F32(&[0.1])]), None);
    }
}
