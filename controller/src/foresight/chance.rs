//! Chance with a seed: the same question has the same answer, today and on another machine.
//!
//! SplitMix64 (Steele, Lea and Flood 2014) is enough here: nobody gains by guessing it, and runs differ by their stream's number.
use crate::fleet::bucket::bucket;

/// A seeded source.
#[derive(Debug, Clone)]
pub struct Chance(u64);

/// Below this many expected hits (or misses) they are counted one by one; above it, the normal curve is within a hit or so.
const COUNTED: f64 = 12.0;

impl Chance {
    /// One stream of many under a seed.
    pub fn new(seed: u64, stream: &str) -> Self {
        Self(bucket(&seed.to_string(), stream))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Anything from 0 up to 1, 1 excluded.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// Anything from 0 up to `below` milliseconds.
    pub fn millis(&mut self, below: i64) -> i64 {
        (self.share() * below.max(0) as f64) as i64
    }

    /// One of `many`.
    pub fn pick<'a, T>(&mut self, many: &'a [T]) -> Option<&'a T> {
        many.get((self.share() * many.len() as f64) as usize)
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.share()).cos()
    }

    /// How many of `trials` hit, each with this probability.
    pub fn hits(&mut self, trials: f64, probability: f64) -> f64 {
        let (trials, p) = (trials.max(0.0).floor(), probability.clamp(0.0, 1.0));
        if p > 0.5 {
            return trials - self.hits(trials, 1.0 - p);
        }
        let expected = trials * p;
        if expected > COUNTED {
            return (expected + self.normal() * (expected * (1.0 - p)).sqrt()).round().clamp(0.0, trials);
        }
        // Jumps from hit to hit: the gaps are geometric.
        let (mut hits, mut at) = (0.0, 0.0);
        let scale = (-p).ln_1p();
        while p > 0.0 && hits < trials {
            at += ((1.0 - self.share()).ln() / scale).floor() + 1.0;
            if at > trials {
                break;
            }
            hits += 1.0;
        }
        hits
    }

    /// A device's own share where shares have this mean and variance: a Beta draw by moments.
    pub fn around(&mut self, mean: f64, variance: f64) -> f64 {
        let noise = mean * (1.0 - mean);
        if variance <= 0.0 || noise <= 0.0 {
            return mean.clamp(0.0, 1.0);
        }
        let weight = (noise / variance - 1.0).max(0.05);
        let (hit, miss) = (self.gamma(mean * weight), self.gamma((1.0 - mean) * weight));
        if hit + miss > 0.0 { hit / (hit + miss) } else { mean }
    }

    /// A Gamma draw (Marsaglia and Tsang 2000; small shapes by the power of a uniform draw).
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let lift = (1.0 - self.share()).powf(1.0 / shape.max(1e-9));
            return self.gamma(shape + 1.0) * lift;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        for _ in 0..MAX_REJECTIONS {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.share()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
        shape
    }
}

/// At most one draw in twenty is rejected, so this is never reached.
const MAX_REJECTIONS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_moments_they_are_asked_for() {
        let mut chance = Chance::new(7, "moments");
        for (trials, p) in [(10.0, 0.02), (40.0, 0.4), (1000.0, 0.3), (1000.0, 0.999), (500.0, 0.0), (3.0, 1.0)] {
            let draws: Vec<f64> = (0..4000).map(|_| chance.hits(trials, p)).collect();
            let mean = draws.iter().sum::<f64>() / 4000.0;
            let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4000.0;
            let error = (trials * p * (1.0 - p) / 4000.0).sqrt();
            assert!((mean - trials * p).abs() <= 4.0 * error, "{trials} {p}: {mean}");
            assert!((variance - trials * p * (1.0 - p)).abs() <= 0.15 * trials * p * (1.0 - p) + 1e-9, "{trials} {p}: {variance}");
        }
        let draws: Vec<f64> = (0..4000).map(|_| chance.around(0.1, 0.004)).collect();
        let mean = draws.iter().sum::<f64>() / 4000.0;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4000.0;
        assert!((mean - 0.1).abs() < 0.005 && (variance - 0.004).abs() < 0.0006, "{mean} {variance}");
        assert!((chance.around(0.3, 0.0) - 0.3).abs() < 1e-12);
    }

    #[test]
    fn a_stream_repeats_and_differs_from_its_neighbour() {
        let take = |seed, stream| Chance::new(seed, stream).share();
        assert!((take(1, "a") - take(1, "a")).abs() < f64::EPSILON);
        assert!((take(1, "a") - take(1, "b")).abs() > f64::EPSILON && (take(1, "a") - take(2, "a")).abs() > f64::EPSILON);
    }
}
