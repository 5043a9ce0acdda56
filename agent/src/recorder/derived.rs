//! Derived statistics of a row's tensors: one meter per view, so that ten figures of an image look at its pixels once.
use leeway_protocol::statistic::{Figure, Meter, Place, View};

use crate::recorder::row::Row;

/// The meters, and where each feature's figure is found.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    meters: Vec<(Place, Meter, bool)>,
    /// (meter, figure) per feature.
    figures: Vec<(usize, usize)>,
}

impl Derived {
    /// Watch a figure of a tensor; its place.
    pub(crate) fn add(&mut self, of: Place, view: &View, figure: Figure) -> usize {
        let known = self.meters.iter().position(|(place, meter, _)| *place == of && meter.is_for(view));
        let at = known.unwrap_or_else(|| {
            self.meters.push((of, Meter::new(view), false));
            self.meters.len() - 1
        });
        let place = self.meters.get_mut(at).map_or(0, |(_, meter, _)| meter.add(figure));
        self.figures.push((at, place));
        self.figures.len() - 1
    }

    /// Look at the tensors of a row. One with a missing value has no figures: filled holes are not what a camera sees.
    pub(crate) fn measure(&mut self, row: &Row<'_>) {
        for (of, meter, seen) in &mut self.meters {
            let elements = match *of {
                Place::Input(at) if row.nulls.iter().any(|(tensor, _)| *tensor == at) => None,
                Place::Input(at) => row.inputs.get(at),
                Place::Output(at) => row.outputs.get(at),
            };
            *seen = elements.is_some_and(|elements| meter.measure(elements));
        }
    }

    /// A figure of the present row.
    pub(crate) fn figure(&self, at: usize) -> Option<f64> {
        let (meter, figure) = self.figures.get(at)?;
        let (_, meter, seen) = self.meters.get(*meter)?;
        if *seen { meter.value(*figure) } else { None }
    }
}
