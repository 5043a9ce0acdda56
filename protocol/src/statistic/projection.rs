//! Embeddings: their parts along random directions, since single elements mean nothing and hundreds of features cost hundreds of tests.
//!
//! A direction is a row of signs ±1 (D. Achlioptas, *Database-friendly random projections*, JCSS 66, 2003), drawn by a hash of seed,
//! direction and element, so that device and publisher agree without a table. The part is Σ sᵢxᵢ / √n. Over the draw of
//! signs its square has the mean Σxᵢ²/n, so parts are on the scale of the elements whatever the width; and if the mean embedding
//! moves by a vector Δ, the squared move of a part has the mean |Δ|²/n: k directions estimate the length of the move
//! with a relative error of √(2/k), and all miss it with a chance that falls with every one. If nothing moved, a part has exactly
//! the distribution it had on the reference, whatever the signs are: that is the null, and it needs no theory of embeddings.
use super::{Elements, Figure};

/// Elements whose signs come from one hash.
const WORD: usize = 64;

#[derive(Debug)]
pub(super) struct Projections {
    seed: u64,
    /// Directions asked for.
    directions: usize,
    parts: Vec<f64>,
    squares: f64,
    n: f64,
    block: Vec<f32>,
    /// Sign words of the directions, one direction after the other, for vectors of `words` words.
    signs: Vec<u64>,
    words: usize,
}

impl Projections {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, directions: 0, parts: Vec::new(), squares: 0.0, n: 0.0, block: vec![0.0; WORD], signs: Vec::new(), words: 0 }
    }

    pub(super) fn want(&mut self, figure: Figure) {
        if let Figure::Projection { direction } = figure {
            self.directions = self.directions.max(direction.min(super::MAX_DIRECTIONS) as usize + 1);
            self.words = 0;
        }
    }

    pub(super) fn project(&mut self, row: &Elements<'_>) -> bool {
        let n = row.len();
        if n == 0 {
            return false;
        }
        self.draw(n.div_ceil(WORD));
        self.parts.fill(0.0);
        (self.squares, self.n) = (0.0, n as f64);
        for word in 0..self.words {
            let start = word * WORD;
            self.block.fill(0.0);
            let Some(block) = self.block.get_mut(..WORD.min(n - start)) else { return false };
            row.copy_to(start, 1, block);
            self.squares += block.iter().map(|x| f64::from(x * x)).sum::<f64>();
            for (direction, part) in self.parts.iter_mut().enumerate() {
                let signs = self.signs.get(direction * self.words + word).copied().unwrap_or(0);
                // The sign bit flipped where the hash says so: no branch, no multiplication.
                let signed = |(i, x): (usize, &f32)| f32::from_bits(x.to_bits() ^ ((((signs >> i) & 1) as u32) << 31));
                *part += f64::from(self.block.iter().enumerate().map(signed).sum::<f32>());
            }
        }
        true
    }

    /// Draw the signs for vectors of so many words, once.
    fn draw(&mut self, words: usize) {
        if self.words == words {
            return;
        }
        let seed = self.seed;
        let of = |direction: usize| (0..words).map(move |word| mix(mix(seed ^ ((direction as u64) << 32)) ^ word as u64));
        self.signs = (0..self.directions).flat_map(of).collect();
        self.parts = vec![0.0; self.directions];
        self.words = words;
    }

    pub(super) fn figure(&self, figure: Figure) -> f64 {
        if !self.squares.is_finite() {
            return f64::NAN;
        }
        match figure {
            Figure::Projection { direction } => self.parts.get(direction as usize).copied().unwrap_or(f64::NAN) / self.n.sqrt(),
            Figure::Norm => (self.squares / self.n).sqrt(),
            _ => f64::NAN,
        }
    }
}

/// SplitMix64's finaliser after its increment; part of what a manifest means, so it never changes.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
