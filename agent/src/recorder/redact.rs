//! Values that may not leave in captured rows: taken out, or coarsened to their bin, before a row is put anywhere.
//!
//! Declared with the features in the signed manifest, so that nobody who only runs the fleet can lift it. A whole input that is dropped
//! (an image) leaves its place: rows keep their width. What stays true: no redacted value is ever held, written or sent.
use leeway_protocol::manifest::{Manifest, Redact};
use leeway_protocol::profile::{Cuts, SPECIALS, Source};

/// What is done to the values of a captured row, by place.
#[derive(Debug, Default)]
pub(crate) struct Redaction {
    dropped: Vec<std::ops::Range<usize>>,
    coarsened: Vec<(usize, Cuts)>,
}

impl Redaction {
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let mut redaction = Self::default();
        let mut first = 0;
        for (tensor, spec) in manifest.free_inputs() {
            let elements = spec.elements().unwrap_or(0);
            if manifest.redact.get(&spec.name) == Some(&Redact::Drop) {
                redaction.dropped.push(first..first + elements);
            }
            for feature in &manifest.reference.features {
                let Source::Input { tensor: of, index } = feature.source else { continue };
                let place = first + index;
                match manifest.redact.get(&feature.name).filter(|_| of == tensor && index < elements) {
                    Some(Redact::Drop) => redaction.dropped.push(place..place + 1),
                    Some(Redact::Coarsen) => redaction.coarsened.push((place, feature.cuts.clone())),
                    None => {}
                }
            }
            first += elements;
        }
        redaction
    }

    /// In place. A dropped value is not a number: a made-up one would be learnt from.
    pub(crate) fn apply(&self, row: &mut [f32]) {
        for (place, cuts) in &self.coarsened {
            if let Some(value) = row.get_mut(*place) {
                *value = coarse(cuts, *value);
            }
        }
        for dropped in &self.dropped {
            row.get_mut(dropped.clone()).into_iter().flatten().for_each(|value| *value = f32::NAN);
        }
    }
}

/// The middle of the value's bin; the reference's end for a value beyond it. A category stays: it is its bin.
fn coarse(cuts: &Cuts, value: f32) -> f32 {
    match cuts {
        Cuts::Numeric { edges } if value.is_finite() => {
            let (low, high) = (edges.first().copied().unwrap_or(0.0), edges.last().copied().unwrap_or(0.0));
            let x = f64::from(value);
            let middle = |bin: usize| Some((edges.get(bin)? + edges.get(bin + 1)?) / 2.0);
            let coarse = cuts.bin(Some(x)).checked_sub(SPECIALS).and_then(middle);
            coarse.unwrap_or(if x < low { low } else { high }) as f32
        }
        Cuts::Numeric { .. } => f32::NAN,
        Cuts::Categorical { values } => match values.binary_search(&(f64::from(value).round() as i64)) {
            Ok(_) if value.is_finite() => value.round(),
            _ => f32::NAN,
        },
    }
}
