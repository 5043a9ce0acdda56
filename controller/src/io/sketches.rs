//! Quantile sketches (KLL of f32, as Apache DataSketches writes them) of what was captured, for references made elsewhere.
//!
//! Devices count in exact bins, and everything here is judged by those: p-values out of sketches are wrong as soon as the sketch's
//! error reaches 1/√n. A sketch is for what bins cannot do: cutting *new* bins where the world has moved out of the old ones, in
//! whatever tool makes the next reference. Three things a reader must know, so each answer says them. A sketch holds its minimum,
//! maximum and many raw values, so it is no anonymous summary. It has no checksum, so it comes with a digest of its bytes, and a
//! re-encoded one has other bytes. And capture prefers unusual rows: rows are thinned by the probability that they were kept with,
//! until each stands for the same number of inferences, because a sketch knows no weights.
//!
//! It lives in `io` because building one draws chance: two sketches of the same rows differ within their error.
use datasketches::common::SearchCriteria;
use datasketches::kll::{KllFloat, KllSketch};
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::Line;

use super::control::publish::read_manifest;
use super::control::{ControlError, Controller};
use super::training::{features, samples};
use crate::retraining::dataset::Sample;

/// Accuracy: a rank is within 1.3 % nearly always, in 2.4 KB.
pub const K: u16 = 200;
/// Features of one answer: an image has as many inputs as pixels, and is not told by them.
const MAX_FEATURES: usize = 512;
/// The largest sketch that is read: this k needs 3 KB, the largest k there is some 800.
const MAX_BYTES: usize = 1 << 20;
/// Ranks at which a sketch is told in numbers.
pub const RANKS: [f64; 7] = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];

type Kll = KllSketch<KllFloat<f32>>;

/// The sketch of one column of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSketch {
    /// What people call the column.
    pub name: String,
    /// Numbers in it.
    pub n: u64,
    /// Values that are no numbers; a sketch does not count them.
    pub missing: u64,
    /// How far a rank may be off, nearly always.
    pub rank_error: f64,
    /// Values at [`RANKS`]; empty if there is none.
    pub quantiles: Vec<f32>,
    /// The sketch, as DataSketches writes it.
    pub bytes: Vec<u8>,
}

/// A sketch that cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SketchError(String);

impl From<datasketches::error::Error> for SketchError {
    fn from(error: datasketches::error::Error) -> Self {
        Self(format!("this is no KLL sketch of 32-bit floats that can be read: {error}"))
    }
}

/// Sketches of a line's captured rows.
#[derive(Debug, Clone, PartialEq)]
pub struct LineSketches {
    /// Captured rows that were read.
    pub read: u64,
    /// Rows left after thinning; each stands for the same number of inferences.
    pub used: u64,
    /// One for each input.
    pub columns: Vec<ColumnSketch>,
}

impl ColumnSketch {
    /// Of these values.
    pub fn of(name: &str, values: impl Iterator<Item = Option<f32>>) -> Result<Self, SketchError> {
        let mut sketch = Kll::new(K)?;
        let mut missing = 0;
        for value in values {
            // What is no finite number is no quantile either.
            match value.filter(|v| v.is_finite()).map(KllFloat::<f32>::new) {
                Some(Ok(value)) => sketch.update(value),
                _ => missing += 1,
            }
        }
        let bytes = sketch.serialize();
        Ok(Self { missing, ..Self::told(name, &sketch, bytes)? })
    }

    /// One that somebody else may have made.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, SketchError> {
        if bytes.len() > MAX_BYTES {
            return Err(SketchError(format!("{} bytes are more than a sketch has ({MAX_BYTES})", bytes.len())));
        }
        Self::told(name, &Kll::deserialize(bytes)?, bytes.to_vec())
    }

    /// The address of the exact bytes: a sketch has no checksum of its own.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    fn told(name: &str, sketch: &Kll, bytes: Vec<u8>) -> Result<Self, SketchError> {
        let quantiles = sketch.quantiles(&RANKS, SearchCriteria::Inclusive)?.unwrap_or_default();
        Ok(Self {
            name: name.to_owned(),
            n: sketch.n(),
            missing: 0,
            rank_error: sketch.normalized_rank_error(),
            quantiles: quantiles.into_iter().map(KllFloat::into_inner).collect(),
            bytes,
        })
    }
}

impl Controller {
    /// Sketches of every input of a line, out of what its devices captured.
    pub async fn sketches(&self, line: &Line) -> Result<LineSketches, ControlError> {
        let release = {
            let snapshot = self.snapshot();
            let found = snapshot.lines.get(line).ok_or_else(|| ControlError::NotFound(format!("there is no model line {line}")))?;
            let newest = || snapshot.versions.values().filter(|v| v.line == *line).max_by_key(|v| v.seq);
            let release = found.champion().and_then(|v| snapshot.version(line, v)).or_else(newest).cloned();
            release.ok_or_else(|| ControlError::Conflict(format!("line {line} has no version whose inputs could be named")))?
        };
        let manifest = read_manifest(&self.inner, release.manifest).await.map_err(ControlError::Unavailable)?;
        let (inner, names, line) = (std::sync::Arc::clone(&self.inner), features(&manifest), line.clone());
        let made = tokio::task::spawn_blocking(move || Ok::<_, ControlError>(sketched(&names, &samples(&inner, &line)?)));
        let made = made.await.map_err(|e| ControlError::Unavailable(e.to_string()))??;
        made.map_err(|e| ControlError::Unavailable(e.to_string()))
    }
}

fn sketched(names: &[String], samples: &[Sample]) -> Result<LineSketches, SketchError> {
    let kept = even(samples.iter().filter(|sample| sample.row.inputs.len() == names.len()).collect());
    let column = |(at, name): (usize, &String)| ColumnSketch::of(name, kept.iter().map(|sample| sample.row.inputs.get(at).copied()));
    let columns = names.iter().enumerate().take(MAX_FEATURES).map(column).collect::<Result<_, _>>()?;
    Ok(LineSketches { read: samples.len() as u64, used: kept.len() as u64, columns })
}

/// Rows as if all had been captured with the smallest probability among them. Which stay is decided by a hash of who sent them, so
/// the same rows give the same choice.
fn even(samples: Vec<&Sample>) -> Vec<&Sample> {
    let inclusion = |sample: &Sample| f64::from(sample.row.inclusion).clamp(f64::from(f32::MIN_POSITIVE), 1.0);
    let least = samples.iter().map(|sample| inclusion(sample)).fold(1.0, f64::min);
    let stays = |sample: &&Sample| draw(sample) < least / inclusion(sample);
    samples.into_iter().filter(stays).collect()
}

/// A number from 0 up to 1, fixed for each row.
fn draw(sample: &Sample) -> f64 {
    let hash = Digest::of(format!("{}/{}/{}", sample.device, sample.manifest, sample.row.request).as_bytes()).hex();
    let bits = hash.get(..13).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    bits as f64 / (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use leeway_protocol::capture::CapturedRow;
    use leeway_protocol::time::Timestamp;

    use super::*;

    fn sample(request: u64, value: f32, inclusion: f32) -> Sample {
        let row = CapturedRow {
            request,
            at: Timestamp::from_secs(1),
            inputs: vec![value, f32::NAN],
            decided: 0.0,
            confidence: 0.5,
            label: None,
            inclusion,
        };
        Sample { device: "d-1".parse().unwrap(), cohort: "coast".parse().unwrap(), manifest: Digest::of(b"m"), row }
    }

    #[test]
    fn a_sketch_is_read_as_it_was_written_and_its_quantiles_are_near() {
        let made = ColumnSketch::of("x", (0..20_000).map(|i| Some((i * 7_919 % 20_000) as f32))).unwrap();
        assert_eq!((made.n, made.missing, made.quantiles[0], made.quantiles[6]), (20_000, 0, 0.0, 19_999.0));
        for (rank, value) in RANKS.iter().zip(&made.quantiles) {
            assert!((f64::from(*value) / 20_000.0 - rank).abs() < 3.0 * made.rank_error, "{rank}: {value}");
        }
        assert!(made.bytes.len() < 3_000, "{} bytes", made.bytes.len());
        let read = ColumnSketch::read("x", &made.bytes).unwrap();
        assert_eq!((&read, read.digest()), (&made, Digest::of(&made.bytes)));
        let odd = [None, Some(f32::NAN), Some(f32::INFINITY), Some(3.0)];
        let odd = ColumnSketch::of("y", odd.into_iter()).unwrap();
        assert_eq!((odd.n, odd.missing, odd.quantiles), (1, 3, vec![3.0; 7]));
        assert!(ColumnSketch::of("z", std::iter::empty()).unwrap().quantiles.is_empty());
    }

    #[test]
    fn damaged_sketches_are_refused_or_read_and_never_panic() {
        let whole = ColumnSketch::of("x", (0..5_000).map(|i| Some(i as f32))).unwrap().bytes;
        for cut in 0..whole.len() {
            assert!(ColumnSketch::read("x", &whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0xff;
            let _ = ColumnSketch::read("x", &bad);
        }
        assert!(ColumnSketch::read("x", &vec![0; MAX_BYTES + 1]).is_err());
    }

    #[test]
    fn rows_that_capture_prefers_do_not_bend_the_sketch() {
        // One inference in ten is odd (value 1), and kept always; of the others one in ten is kept.
        let odd = (0..1_000).map(|i| sample(i, 1.0, 1.0));
        let usual = (1_000..1_900).map(|i| sample(i, 0.0, 0.1));
        let all: Vec<Sample> = odd.chain(usual).collect();
        let made = sketched(&["a".to_owned(), "b".to_owned()], &all).unwrap();
        assert_eq!(made.read, 1_900);
        let ones = made.used - 900;
        assert!((60..140).contains(&ones), "{ones} of 1,000 odd rows stay, 100 are expected");
        assert_eq!((made.columns[0].n, made.columns[1].n, made.columns[1].missing), (made.used, 0, made.used));
        assert_eq!(made.columns[0].quantiles[3], 0.0, "the median is of the usual ones");
        assert_eq!(sketched(&["a".to_owned()], &all).unwrap().used, 0, "rows of another shape do not count");
    }
}
