//! What a release is: the exact model, how to run it, what its world looked like, how to prove it runs right, where it comes from.
//!
//! The manifest is one JSON document, addressed by its digest; that digest is in the signed target. So everything here is
//! covered by the release signature, and a device needs nothing else to judge a model.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{Line, Version};
use crate::profile::{Reference, ReferenceError, Source};
use crate::statistic::{Place, StatisticError};
use crate::tensor::{Tensor, TensorError, TensorSpec};
use crate::time::Timestamp;

/// The largest manifest a device reads: golden vectors of an image model are the big part.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// The largest model.
pub const MAX_MODEL_BYTES: u64 = 512 << 20;
/// Inputs, and outputs, a model may have.
pub const MAX_TENSORS: usize = 64;
/// Golden vectors a manifest must have at least; fewer than this tell too little.
pub const MIN_GOLDEN: usize = 1;
/// Forms that are read.
const FORMS: std::ops::RangeInclusive<u32> = 1..=2;
/// Confidence bins of the calibration table.
pub const CONFIDENCE_BINS: usize = 10;

/// A release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this document's form: 1, or 2 where `redact` says something: a program that does not know of it must not capture.
    pub v: u32,
    /// The model line.
    pub line: Line,
    /// The version's name.
    pub version: Version,
    /// Rises with every release of the line; what a signed floor refers to.
    pub seq: u64,
    /// The ONNX file.
    pub model: Blob,
    /// Inputs with concrete shapes, in the graph's order; state and constant inputs included.
    pub inputs: Vec<TensorSpec>,
    /// Outputs likewise.
    pub outputs: Vec<TensorSpec>,
    /// Recurrent state: which output feeds which input of the next inference.
    #[serde(default)]
    pub state: Vec<StateLink>,
    /// Inputs that never change (sample rates, axes): given to the optimiser as constants.
    #[serde(default)]
    pub constants: Vec<Tensor>,
    /// How to read a decision and a confidence from the outputs.
    pub decision: Decision,
    /// The world at training time.
    pub reference: Reference,
    /// Accuracy by confidence, from held-out data.
    pub calibration: Calibration,
    /// What captured rows may not hold: a feature of one input element, or (dropped only) a whole input, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub redact: BTreeMap<String, Redact>,
    /// Proof of running right.
    pub golden: Golden,
    /// What the model may use.
    pub limits: Limits,
    /// Where it comes from.
    pub lineage: Lineage,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What becomes of a value before a captured row is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Redact {
    /// It is left out: not a number stands in its place.
    Drop,
    /// It becomes the middle of its bin.
    Coarsen,
}

/// A content-addressed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blob {
    /// Digest of the exact bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub length: u64,
}

impl Blob {
    /// The address of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), length: bytes.len() as u64 }
    }
}

/// One state tensor of a recurrent model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateLink {
    /// Name of the input; starts as zeros.
    pub input: String,
    /// Name of the output that becomes the next input.
    pub output: String,
}

/// How to read a decision from the outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Decision {
    /// Element `index` of output `output` is the probability of class 1; class 1 from `threshold` up.
    Binary {
        /// Output tensor.
        output: usize,
        /// Element.
        index: usize,
        /// Decision threshold, 0 to 1.
        threshold: f64,
    },
    /// Output `output` holds class probabilities in its last axis; the largest wins and is the confidence.
    Classes {
        /// Output tensor.
        output: usize,
    },
    /// No decision: a regression or an embedding. No confidence is counted.
    None,
}

/// Accuracy by confidence on held-out data: ten bins, so that a device can report counts and the controller can estimate
/// accuracy without labels (CBPE from binned confidence). Blind to concept drift by construction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Eleven rising edges over confidence; empty for models without a decision.
    pub edges: Vec<f64>,
    /// Accuracy in each of the ten bins.
    pub accuracy: Vec<f64>,
    /// Held-out rows in each bin.
    pub rows: Vec<u64>,
}

impl Calibration {
    /// The bin of a confidence; clamped into the first and last bin.
    #[inline]
    pub fn bin(&self, confidence: f64) -> usize {
        let inner = self.edges.get(1..self.edges.len().saturating_sub(1)).unwrap_or(&[]);
        inner.iter().map(|&edge| usize::from(confidence >= edge)).sum()
    }
}

/// Inputs and the outputs a right runtime must give for them, made by the training framework or a reference engine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Relative tolerance.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    /// The vectors.
    pub vectors: Vec<GoldenVector>,
}

/// One golden vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoldenVector {
    /// One tensor per input that is neither constant nor state (state starts at zero).
    pub inputs: Vec<Tensor>,
    /// One tensor per output.
    pub outputs: Vec<Tensor>,
}

/// What a model may use on a device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Resident memory of the runner, bytes.
    pub rss_bytes: u64,
    /// Time to load and optimise, milliseconds.
    pub load_ms: u64,
    /// 99th percentile of one inference, microseconds.
    pub p99_us: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rss_bytes: 256 << 20, load_ms: 30_000, p99_us: 1_000_000 }
    }
}

/// Where a release comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Repository or name of the training code.
    pub code: String,
    /// Its revision.
    pub code_revision: String,
    /// The data it was trained and evaluated on.
    pub datasets: Vec<Dataset>,
    /// Digest of the parent's manifest, if it was retrained from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// The training run that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_run: Option<String>,
    /// Offline metrics by name.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Why it was made, in a sentence.
    pub reason: String,
}

/// A dataset by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// What it was used for: `train`, `holdout`, `reference`.
    pub role: String,
    /// What people call it.
    pub name: String,
    /// Digest of its exact bytes.
    pub digest: Digest,
    /// Rows.
    pub rows: u64,
}

/// A manifest that no device could run.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the document it should be.
    #[error("the manifest cannot be read: it is not the JSON form of version 1 or 2")]
    Parse(#[source] serde_json::Error),
    /// A word that only a newer program knows, such as another kind of statistic.
    #[error("the manifest says something this program does not know ({0}): update it")]
    Unknown(String),
    /// A statistic that cannot be computed from its tensor.
    #[error("reference profile, feature {0:?}")]
    Statistic(String, #[source] StatisticError),
    /// A version this code does not know.
    #[error("the manifest has form {0}, this program reads forms 1 and 2: update it")]
    Form(u32),
    /// A reference profile that cannot be counted against.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A tensor that does not fit its shape.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// Anything else that does not add up.
    #[error("the manifest does not add up: {0}")]
    Inconsistent(String),
}

impl Manifest {
    /// Read and check a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| match error.to_string() {
            unknown if unknown.starts_with("unknown variant") => ManifestError::Unknown(unknown),
            _ => ManifestError::Parse(error),
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The exact bytes that are signed and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The address of the exact bytes.
    pub fn blob(&self) -> Blob {
        Blob::of(&self.to_bytes())
    }

    /// Digest over names, types and shapes of inputs and outputs, state and constants' names: what an application relies on.
    /// A trainer's own role may only release models with the signature it was granted for.
    pub fn io_digest(&self) -> Digest {
        let constants: Vec<&str> = self.constants.iter().map(|t| t.name.as_str()).collect();
        let io = (&self.inputs, &self.outputs, &self.state, constants);
        Digest::of(&serde_json::to_vec(&io).unwrap_or_default())
    }

    /// The inputs an application gives: neither state nor constant.
    pub fn free_inputs(&self) -> impl Iterator<Item = (usize, &TensorSpec)> {
        self.inputs.iter().enumerate().filter(|(_, spec)| {
            !self.state.iter().any(|link| link.input == spec.name) && !self.constants.iter().any(|t| t.name == spec.name)
        })
    }

    fn check(&self) -> Result<(), ManifestError> {
        let fail = |what: String| Err(ManifestError::Inconsistent(what));
        if !FORMS.contains(&self.v) {
            return Err(ManifestError::Form(self.v));
        }
        if self.v < 2 && !self.redact.is_empty() {
            return fail(
                "redact needs form 2 of the manifest, so that no program that does not know of it captures unredacted rows".to_owned(),
            );
        }
        if self.model.length > MAX_MODEL_BYTES {
            return fail(format!("the model has {} bytes, the bound is {MAX_MODEL_BYTES}", self.model.length));
        }
        if self.inputs.is_empty() || self.outputs.is_empty() || self.inputs.len() > MAX_TENSORS || self.outputs.len() > MAX_TENSORS {
            return fail(format!("between 1 and {MAX_TENSORS} inputs and outputs are needed"));
        }
        for spec in self.inputs.iter().chain(&self.outputs) {
            if spec.elements().is_none() {
                return Err(TensorError::Shape(spec.name.clone()).into());
            }
        }
        self.reference.check()?;
        self.check_statistics()?;
        self.check_redaction()?;
        self.check_decision()?;
        for link in &self.state {
            let input = self.inputs.iter().find(|s| s.name == link.input);
            let output = self.outputs.iter().find(|s| s.name == link.output);
            match (input, output) {
                (Some(i), Some(o)) if i.shape == o.shape && i.dtype == o.dtype => {}
                _ => return fail(format!("state link {} -> {} does not join an output to an input of one shape", link.output, link.input)),
            }
        }
        for constant in &self.constants {
            constant.check()?;
            if !self.inputs.iter().any(|s| *s == constant.spec()) {
                return fail(format!("constant {:?} is not an input with that type and shape", constant.name));
            }
        }
        self.check_golden()
    }

    fn check_statistics(&self) -> Result<(), ManifestError> {
        for feature in &self.reference.features {
            let Source::Derived { of, view, figure } = &feature.source else { continue };
            let spec = match *of {
                Place::Input(at) => self.inputs.get(at),
                Place::Output(at) => self.outputs.get(at),
            };
            let elements = spec.and_then(TensorSpec::elements).unwrap_or(0);
            let checked = view.check(elements).and_then(|()| view.check_figure(*figure));
            checked.map_err(|error| ManifestError::Statistic(feature.name.clone(), error))?;
        }
        Ok(())
    }

    /// A name that nothing has is a slip of the pen that would send what was to be kept back.
    fn check_redaction(&self) -> Result<(), ManifestError> {
        for (name, how) in &self.redact {
            let is_feature = self.reference.features.iter().any(|f| f.name == *name && matches!(f.source, Source::Input { .. }));
            let is_dropped_input = *how == Redact::Drop && self.free_inputs().any(|(_, spec)| spec.name == *name);
            if !is_feature && !is_dropped_input {
                let what = format!("redact names {name:?}: name a feature of one input element, or an input that is dropped whole");
                return Err(ManifestError::Inconsistent(what));
            }
        }
        Ok(())
    }

    fn check_decision(&self) -> Result<(), ManifestError> {
        let fail = |what: &str| Err(ManifestError::Inconsistent(what.to_owned()));
        let elements = |output: usize| self.outputs.get(output).and_then(TensorSpec::elements);
        match &self.decision {
            Decision::Binary { output, index, threshold } => {
                if elements(*output).is_none_or(|n| *index >= n) || !(0.0..=1.0).contains(threshold) {
                    return fail("the decision names an output element that does not exist, or a threshold outside 0..1");
                }
            }
            Decision::Classes { output } => {
                if elements(*output).is_none() {
                    return fail("the decision names an output that does not exist");
                }
            }
            Decision::None => return Ok(()),
        }
        let c = &self.calibration;
        let sizes = c.edges.len() == CONFIDENCE_BINS + 1 && c.accuracy.len() == CONFIDENCE_BINS && c.rows.len() == CONFIDENCE_BINS;
        if !sizes || c.edges.windows(2).any(|w| w[0].partial_cmp(&w[1]) != Some(std::cmp::Ordering::Less)) {
            return fail("a model with a decision needs ten calibration bins with rising edges");
        }
        Ok(())
    }

    fn check_golden(&self) -> Result<(), ManifestError> {
        if self.golden.vectors.len() < MIN_GOLDEN {
            return Err(ManifestError::Inconsistent("at least one golden vector is needed".to_owned()));
        }
        let free: Vec<&TensorSpec> = self.free_inputs().map(|(_, spec)| spec).collect();
        for vector in &self.golden.vectors {
            for tensor in vector.inputs.iter().chain(&vector.outputs) {
                tensor.check()?;
            }
            let inputs_fit = vector.inputs.len() == free.len() && vector.inputs.iter().zip(&free).all(|(t, s)| t.spec() == **s);
            let outputs_fit =
                vector.outputs.len() == self.outputs.len() && vector.outputs.iter().zip(&self.outputs).all(|(t, s)| t.spec() == *s);
            if !inputs_fit || !outputs_fit {
                return Err(ManifestError::Inconsistent("a golden vector does not fit the inputs and outputs".to_owned()));
            }
        }
        Ok(())
    }
}

/// What a signed target says about a model file: its place in the line and the manifest that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCustom {
    /// Form: 1.
    pub v: u32,
    /// The model line.
    pub line: Line,
    /// The version's name.
    pub version: Version,
    /// Rising number within the line.
    pub seq: u64,
    /// The manifest.
    pub manifest: Blob,
    /// [`Manifest::io_digest`].
    pub io: Digest,
    /// Where it comes from, as SLSA provenance; devices do not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Blob>,
    /// Its OpenSSF Model Signing bundle; devices do not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Blob>,
}

impl TargetCustom {
    /// What the target of `manifest`'s model says, with nothing attached.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            v: 1,
            line: manifest.line.clone(),
            version: manifest.version.clone(),
            seq: manifest.seq,
            manifest: manifest.blob(),
            io: manifest.io_digest(),
            provenance: None,
            bundle: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As releases were listed before anything was attached to them.
    const BARE: &str = r#"{"v":1,"line":"rain","version":"1","seq":4,"manifest":{"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","length":5},"io":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}"#;

    #[test]
    fn releases_from_before_there_was_provenance_are_read_and_written_as_they_were() {
        let old: TargetCustom = serde_json::from_str(BARE).unwrap();
        assert_eq!((old.provenance, old.bundle), (None, None));
        assert_eq!(serde_json::to_string(&old).unwrap(), BARE);
        let new = TargetCustom { provenance: Some(Blob::of(b"p")), bundle: Some(Blob::of(b"b")), ..old };
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(serde_json::from_str::<TargetCustom>(&text).unwrap(), new);
        // What a device of before reads: the same release, and two parts that it passes over.
        #[derive(Deserialize)]
        struct Before {
            seq: u64,
            manifest: Blob,
        }
        let before: Before = serde_json::from_str(&text).unwrap();
        assert_eq!((before.seq, before.manifest), (4, Blob::of(b"hello")));
    }
}
