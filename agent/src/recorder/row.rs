//! What one inference looked like, borrowed from whoever ran it: the recorder neither knows the engine nor copies a tensor.
use leeway_protocol::manifest::Decision;
use leeway_protocol::tensor::TensorSpec;

/// The elements of one tensor, row-major.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Elements<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// Signed bytes.
    I8(&'a [i8]),
    /// Unsigned bytes.
    U8(&'a [u8]),
    /// 32-bit integers.
    I32(&'a [i32]),
    /// 64-bit integers.
    I64(&'a [i64]),
    /// Truth values.
    Bool(&'a [bool]),
    /// Not given: constants and recurrent state.
    Absent,
}

impl Elements<'_> {
    /// One element as a double.
    #[inline]
    pub fn at(&self, index: usize) -> Option<f64> {
        match self {
            Self::F32(v) => v.get(index).map(|&x| f64::from(x)),
            Self::I8(v) => v.get(index).map(|&x| f64::from(x)),
            Self::U8(v) => v.get(index).map(|&x| f64::from(x)),
            Self::I32(v) => v.get(index).map(|&x| f64::from(x)),
            Self::I64(v) => v.get(index).map(|&x| x as f64),
            Self::Bool(v) => v.get(index).map(|&x| f64::from(u8::from(x))),
            Self::Absent => None,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U8(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Absent => 0,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether every element is a finite number; integers always are.
    #[inline]
    pub fn all_finite(&self) -> bool {
        // A sum of x·0 is NaN as soon as one x is NaN or infinite, and vectorises where a short-circuit does not.
        match self {
            Self::F32(v) => !v.chunks(4096).any(|part| part.iter().map(|x| x * 0.0).sum::<f32>().is_nan()),
            _ => true,
        }
    }
}

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

/// Read the decision from the outputs; `None` for models without one and for probabilities that are not numbers.
/// Of several rows in a batch the first one is read: devices serve one row at a time.
pub fn decide(decision: &Decision, specs: &[TensorSpec], outputs: &[Elements<'_>]) -> Option<Decided> {
    match decision {
        Decision::None => None,
        Decision::Binary { output, index, threshold } => {
            let p = outputs.get(*output)?.at(*index).filter(|p| p.is_finite())?;
            let class = usize::from(p >= *threshold);
            Some(Decided { class, confidence: if class == 1 { p } else { 1.0 - p } })
        }
        Decision::Classes { output } => {
            let classes = specs.get(*output).and_then(|s| s.shape.last()).and_then(|&n| usize::try_from(n).ok())?;
            largest(outputs.get(*output)?, classes)
        }
    }
}

fn largest(scores: &Elements<'_>, classes: usize) -> Option<Decided> {
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
    use leeway_protocol::tensor::DType;

    use super::*;

    #[test]
    fn decisions_follow_the_manifest() {
        let spec = |shape: Vec<u64>| vec![TensorSpec { name: "p".into(), dtype: DType::F32, shape }];
        let binary = Decision::Binary { output: 0, index: 1, threshold: 0.3 };
        let table: [(&[f32], Option<(usize, f64)>); 3] =
            [(&[0.5, 0.5], Some((1, 0.5))), (&[0.75, 0.25], Some((0, 0.75))), (&[0.0, f32::NAN], None)];
        for (p, want) in table {
            let got = decide(&binary, &spec(vec![1, 2]), &[Elements::F32(p)]);
            assert_eq!(got.map(|d| (d.class, d.confidence)), want, "{p:?}");
        }
        let classes = Decision::Classes { output: 0 };
        let got = decide(&classes, &spec(vec![1, 3]), &[Elements::F32(&[0.125, 0.5, 0.375])]);
        assert_eq!(got, Some(Decided { class: 1, confidence: 0.5 }));
        assert_eq!(decide(&classes, &spec(vec![1, 3]), &[Elements::F32(&[0.1])]), None);
        assert_eq!(decide(&Decision::None, &spec(vec![1]), &[Elements::F32(&[0.1])]), None);
    }

    #[test]
    fn one_value_that_is_no_number_is_found() {
        let mut values = vec![1.5f32; 10_000];
        assert!(Elements::F32(&values).all_finite());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            values[7_777] = bad;
            assert!(!Elements::F32(&values).all_finite());
        }
        assert!(Elements::F32(&[f32::MAX, f32::MIN, f32::MIN_POSITIVE]).all_finite());
        assert!(Elements::I8(&[-1]).all_finite());
    }
}
