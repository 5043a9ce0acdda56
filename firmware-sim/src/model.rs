//! A model as the virtual simulator knows it: a file that says how it behaves, and a manifest as real as any.
//!
//! The agent never looks into a model, so a model made of a word is enough for it; what loads and serves it in the simulator
//! is the runner organ, which does what the word says. The manifest, its digest and its signatures are the real ones: what is
//! simulated is only what happens inside the runner.
use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{
    Blob, CONFIDENCE_BINS, Calibration, Decision, Golden, GoldenVector, Limits, Lineage, Manifest, TargetCustom,
};
use leeway_protocol::profile::{Cuts, FeatureReference, Reference, SPECIALS, Source};
use leeway_protocol::tensor::{DType, Tensor, TensorSpec};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// First bytes of a simulated model.
const MAGIC: &[u8] = b"simulated model\n";

/// What a model does to the runner that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "does")]
pub enum Behaviour {
    /// Serves, and is right this often (percent), whatever its golden vectors say.
    Serves {
        /// Right decisions, percent.
        accuracy: u8,
    },
    /// Takes the runner down while loading.
    CrashesOnLoad,
    /// Never finishes loading.
    HangsOnLoad,
    /// Passes its self-test and takes the runner down after so many seconds of serving.
    CrashesServing {
        /// Seconds.
        after_secs: u32,
    },
    /// Passes its self-test and stops answering after so many seconds of serving.
    HangsServing {
        /// Seconds.
        after_secs: u32,
    },
    /// Slower than its signed limit.
    IsSlow,
    /// Passes its self-test and answers NaN when it serves.
    AnswersNan,
    /// Computes something else on this device than its golden vectors say.
    MissesGolden,
}

impl Behaviour {
    /// Whether a device that does its duty keeps it.
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Serves { .. })
    }
}

/// The bytes of a model with this behaviour; `salt` makes two of them differ.
pub fn to_bytes(behaviour: Behaviour, salt: u64, padding: usize) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    // Two small numbers in an enum: always has a JSON form.
    bytes.extend(serde_json::to_vec(&(behaviour, salt)).unwrap_or_default());
    bytes.push(b'\n');
    bytes.resize(bytes.len() + padding, b'.');
    bytes
}

/// What the bytes do; `None` for bytes that are no simulated model.
pub fn parse(bytes: &[u8]) -> Option<Behaviour> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let line = rest.split(|&b| b == b'\n').next()?;
    serde_json::from_slice::<(Behaviour, u64)>(line).ok().map(|(behaviour, _)| behaviour)
}

/// A model, its manifest and what the signed target says about them.
#[derive(Debug, Clone)]
pub struct Made {
    /// The model's bytes.
    pub model: Vec<u8>,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The target's custom part.
    pub custom: TargetCustom,
}

/// Make a release.
pub fn make(line: &Line, version: &Version, seq: u64, behaviour: Behaviour, padding: usize) -> Made {
    let model = to_bytes(behaviour, seq, padding);
    let manifest = manifest(line, version, seq, &model);
    let custom = TargetCustom::of(&manifest);
    Made { model, manifest: manifest.to_bytes(), custom }
}

/// The smallest manifest that adds up: one feature in, two probabilities out.
fn manifest(line: &Line, version: &Version, seq: u64, model: &[u8]) -> Manifest {
    let spec = |name: &str, size| TensorSpec { name: name.to_owned(), dtype: DType::F32, shape: vec![1, size] };
    let mut masses = vec![0.0; SPECIALS];
    masses.extend([0.5, 0.5]);
    let feature = FeatureReference {
        name: "level".to_owned(),
        source: Source::Input { tensor: 0, index: 0 },
        cuts: Cuts::Numeric { edges: vec![-1.0, 0.0, 1.0] },
        masses,
        importance: None,
        worth: None,
    };
    let vector = GoldenVector { inputs: vec![Tensor::f32("x", &[1, 1], &[0.5])], outputs: vec![Tensor::f32("p", &[1, 2], &[0.2, 0.8])] };
    Manifest {
        v: 1,
        line: line.clone(),
        version: version.clone(),
        seq,
        model: Blob::of(model),
        inputs: vec![spec("x", 1)],
        outputs: vec![spec("p", 2)],
        state: Vec::new(),
        constants: Vec::new(),
        redact: Default::default(),
        decision: Decision::Binary { output: 0, index: 1, threshold: 0.5 },
        reference: Reference { rows: 1000, features: vec![feature] },
        calibration: Calibration {
            edges: (0..=CONFIDENCE_BINS).map(|i| 0.5 + 0.05 * i as f64).collect(),
            accuracy: vec![0.9; CONFIDENCE_BINS],
            rows: vec![100; CONFIDENCE_BINS],
        },
        golden: Golden { rtol: 1e-4, atol: 1e-6, vectors: vec![vector] },
        limits: Limits { rss_bytes: 64 << 20, load_ms: 5_000, p99_us: 4_000 },
        lineage: Lineage::default(),
        created_at: Timestamp::from_secs(1_795_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_release_adds_up_and_says_what_it_does() {
        let (line, version) = ("rain".parse().unwrap(), "1.0.0".parse().unwrap());
        let made = make(&line, &version, 1, Behaviour::CrashesServing { after_secs: 9 }, 100);
        let manifest = Manifest::parse(&made.manifest).unwrap();
        assert_eq!((manifest.model, made.custom.manifest), (Blob::of(&made.model), Blob::of(&made.manifest)));
        assert_eq!(parse(&made.model), Some(Behaviour::CrashesServing { after_secs: 9 }));
        assert_eq!(parse(b"ONNX"), None);
        assert_ne!(made.model, make(&line, &version, 2, Behaviour::CrashesServing { after_secs: 9 }, 100).model);
    }
}
