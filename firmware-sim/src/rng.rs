//! The only source of chance in a simulation: ChaCha8 from a seed, forked by name.
//!
//! Every organ draws from its own fork, so that one more draw in the network does not change what the disk does: a failing
//! seed stays the same story while the code around it is being repaired. A named generator rather than the standard library's
//! or an operating system's, because a printed seed must mean the same thing next year.
use leeway_protocol::digest::Hasher;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// A stream of chance.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: [u8; 32],
    stream: ChaCha8Rng,
}

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut wide = [0; 32];
        for (to, from) in wide.iter_mut().zip(seed.to_le_bytes()) {
            *to = from;
        }
        Self::from_seed(wide)
    }

    fn from_seed(seed: [u8; 32]) -> Self {
        Self { seed, stream: ChaCha8Rng::from_seed(seed) }
    }

    /// An independent stream with this name: the same whatever was drawn from `self` before.
    #[must_use]
    pub fn fork(&self, name: &str, number: u64) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(&self.seed);
        hasher.update(name.as_bytes());
        hasher.update(&number.to_le_bytes());
        Self::from_seed(*hasher.finish().as_bytes())
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.stream.next_u64()
    }

    /// 32 bytes, for a key or a salt.
    pub fn bytes32(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.stream.fill_bytes(&mut bytes);
        bytes
    }

    /// A number from 0 to `end - 1`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The bias of the multiplication is under 2^-32 for the small ranges used here.
        u64::try_from((u128::from(self.bits()) * u128::from(end)) >> 64).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// An index below `length`.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// A number from 0 up to, not including, 1.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }

    /// One of `items`, if there is one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }

    /// A draw from the standard normal distribution (Box–Muller; one of the pair is thrown away for simplicity).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.share()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.share()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_story_and_forks_do_not_depend_on_what_was_drawn() {
        let draws = |mut rng: Rng| (0..4).map(|_| rng.bits()).collect::<Vec<_>>();
        assert_eq!(draws(Rng::new(7)), draws(Rng::new(7)));
        assert_ne!(draws(Rng::new(7)), draws(Rng::new(8)));
        let fresh = Rng::new(7);
        let mut used = Rng::new(7);
        used.bits();
        assert_eq!(draws(fresh.fork("disk", 3)), draws(used.fork("disk", 3)));
        assert_ne!(draws(fresh.fork("disk", 3)), draws(fresh.fork("disk", 4)));
        assert_ne!(draws(fresh.fork("disk", 3)), draws(fresh.fork("network", 3)));
    }

    #[test]
    fn draws_stay_in_their_ranges_and_look_right() {
        let mut rng = Rng::new(1);
        for _ in 0..1000 {
            assert!(rng.below(3) < 3);
            assert!((5..=6).contains(&rng.between(5, 6)));
            assert!((0.0..1.0).contains(&rng.share()));
        }
        assert_eq!((rng.below(0), rng.between(4, 4), rng.pick::<u8>(&[])), (0, 4, None));
        let normals: Vec<f64> = (0..20_000).map(|_| rng.normal()).collect();
        let mean = normals.iter().sum::<f64>() / normals.len() as f64;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / normals.len() as f64;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    }
}
