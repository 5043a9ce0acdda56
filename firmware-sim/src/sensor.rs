//! A weather station's instruments: the one real series, seen through a small seeded offset and noise, and perhaps broken.
//!
//! The weather is measured, the stations are not: there is one real series, and each simulated station reads it with its own
//! error. What a station reads on a day depends only on its seed and the day, never on what was asked before, so a replay
//! after a restart reads the same values.
use leeway_protocol::time::Timestamp;

use crate::rng::Rng;
use crate::weather::{FEATURES, Weather};

/// Spread of the stations' constant errors, in standard deviations of the feature: well-kept instruments of one network.
const OFFSET_SD: f64 = 0.05;
/// Spread of the error of one reading, likewise.
const NOISE_SD: f64 = 0.05;

/// How an instrument breaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Shows the value of the day it broke for ever.
    Stuck,
    /// Shows so many standard deviations too much.
    Offset(f32),
    /// Shows so many times the true deviation from the mean.
    Scale(f32),
    /// Shows nothing (NaN).
    Silent,
}

/// One broken instrument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Break {
    /// Index of the feature, see [`FEATURES`].
    pub feature: usize,
    /// Index of the first broken day.
    pub from_day: usize,
    /// How.
    pub fault: Fault,
}

/// What a station reads on one day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// The features as this station sees them.
    pub features: [f32; FEATURES.len()],
    /// Whether it rained; known to the station only later.
    pub rain: bool,
    /// The day.
    pub at: Timestamp,
}

/// One station's instruments.
#[derive(Debug, Clone)]
pub struct Sensor {
    noise: Rng,
    offsets: [f32; FEATURES.len()],
    broken: Option<Break>,
}

impl Sensor {
    /// The instruments that belong to `seed`.
    pub fn new(seed: u64, broken: Option<Break>) -> Self {
        let rng = Rng::new(seed);
        let mut offset = rng.fork("sensor-offset", 0);
        let offsets = std::array::from_fn(|_| (offset.normal() * OFFSET_SD) as f32);
        Self { noise: rng.fork("sensor-noise", 0), offsets, broken }
    }

    /// From `broken.from_day` on, an instrument reads wrongly; one at a time.
    pub fn breaks(&mut self, broken: Break) {
        self.broken = Some(broken);
    }

    /// What is read on day `index`, if the series has that day.
    pub fn read(&self, weather: &Weather, index: usize) -> Option<Reading> {
        let day = weather.days().get(index)?;
        let mut noise = self.noise.fork("day", index as u64);
        let features = std::array::from_fn(|f| {
            let honest = day.features[f] + self.offsets[f] + (noise.normal() * NOISE_SD) as f32;
            match self.broken {
                Some(broken) if broken.feature == f && index >= broken.from_day => self.misread(broken, honest, weather),
                _ => honest,
            }
        });
        Some(Reading { features, rain: day.rain, at: Weather::date(index) })
    }

    fn misread(&self, broken: Break, honest: f32, weather: &Weather) -> f32 {
        match broken.fault {
            Fault::Stuck => {
                weather.days().get(broken.from_day).map_or(0.0, |day| day.features[broken.feature] + self.offsets[broken.feature])
            }
            Fault::Offset(by) => honest + by,
            Fault::Scale(by) => honest * by,
            Fault::Silent => f32::NAN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_reads_the_real_weather_with_its_own_small_error() {
        let weather = Weather::bellevue().unwrap();
        let (a, b) = (Sensor::new(1, None), Sensor::new(2, None));
        for day in [0, 100, 9_000] {
            let (x, y) = (a.read(&weather, day).unwrap(), b.read(&weather, day).unwrap());
            assert_ne!(x.features, y.features);
            assert_eq!(x, a.read(&weather, day).unwrap(), "asking again changes nothing");
            assert_eq!(x.rain, weather.days()[day].rain);
            for f in 0..FEATURES.len() {
                assert!((x.features[f] - weather.days()[day].features[f]).abs() < 0.5, "day {day} feature {f}");
            }
        }
        assert!(a.read(&weather, weather.days().len()).is_none());
    }

    #[test]
    fn only_the_broken_instrument_misreads_and_only_from_its_day() {
        let weather = Weather::bellevue().unwrap();
        let sound = Sensor::new(1, None);
        let table: [(Fault, fn(f32, f32) -> bool); 4] = [
            (Fault::Stuck, |_, _| true),
            (Fault::Offset(3.0), |sound, broken| (broken - sound - 3.0).abs() < 1e-5),
            (Fault::Scale(2.0), |sound, broken| (broken - sound * 2.0).abs() < 1e-5),
            (Fault::Silent, |_, broken| broken.is_nan()),
        ];
        for (fault, expected) in table {
            let broken = Sensor::new(1, Some(Break { feature: 2, from_day: 50, fault }));
            assert_eq!(broken.read(&weather, 49), sound.read(&weather, 49));
            let mut stuck = std::collections::BTreeSet::new();
            for day in [50, 51, 5_000] {
                let (x, y) = (sound.read(&weather, day).unwrap(), broken.read(&weather, day).unwrap());
                assert!(expected(x.features[2], y.features[2]), "{fault:?} day {day}");
                assert_eq!((x.features[0], x.features[7]), (y.features[0], y.features[7]));
                stuck.insert(y.features[2].to_bits());
            }
            assert!(fault != Fault::Stuck || stuck.len() == 1);
        }
    }
}
