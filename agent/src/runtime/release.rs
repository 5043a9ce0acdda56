//! From two files to a release that may serve: read, digests, pre-scan, load, golden vectors, timing. In that order, each step
//! trusting only what the one before has proved.
use std::sync::Arc;

use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::{MAX_MANIFEST_BYTES, MAX_MODEL_BYTES, Manifest};
use leeway_protocol::reason::{Code, Reason};
use leeway_protocol::tensor::Tensor;

use super::plan::{Plan, Session};
use super::prescan::{Limits, prescan};
use super::{golden, opinion};
use crate::control::{Proof, Role};

/// Runs before timing: the first ones choose kernels and cost up to twenty times the median.
const WARM_UPS: usize = 3;
/// Timed runs.
const TIMED: usize = 50;
/// Timing of a slow model stops after so long ...
const TIMED_NANOS: u64 = 2_000_000_000;
/// ... but not before so many runs.
const TIMED_AT_LEAST: usize = 5;

/// What the runtime asks of the world around it. Two kinds exist: the runner's, and that of programs which run many
/// devices or link the library.
pub trait Organs {
    /// The bytes of a file of at most `most` bytes, or what is wrong with it, in a sentence that names it.
    fn read(&mut self, path: &str, most: u64) -> Result<Vec<u8>, String>;
    /// A clock that only goes forward, nanoseconds from any start.
    fn nanos(&self) -> u64;
    /// Resident memory of the process that runs the model; 0 if the process does more than that, which turns the limit off.
    fn resident_bytes(&self) -> u64;
    /// This release is about to be loaded: bound what the process may use by what was signed, where the process is there for that.
    fn admit(&mut self, _manifest: &Manifest) {}
}

/// A model that has proved itself on this device.
#[derive(Debug)]
pub struct Release {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// What the proof was.
    pub proof: Proof,
    /// A session to serve with, warm.
    pub session: Session,
    /// Whether missing values are part of its proof: one of its golden vectors holds a NaN or an infinity. Without that proof
    /// such a request is refused, because the engine swallows NaN in places and would answer something plausible.
    pub takes_missing: bool,
}

/// The two files of a release.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The ONNX file.
    pub model: &'a str,
    /// The manifest's exact bytes.
    pub manifest: &'a str,
    /// The digest the manifest must have; `None` at the publisher, who is about to sign it.
    pub digest: Option<Digest>,
}

impl Release {
    /// Load it for a role. The signed limits are judged for a candidate only: a device that starts under load must not
    /// refuse the model it served with yesterday.
    pub fn load(organs: &mut dyn Organs, files: Files<'_>, role: Role) -> Result<Self, Reason> {
        let started = organs.nanos();
        let bytes = organs.read(files.manifest, MAX_MANIFEST_BYTES).map_err(|e| Reason::new(Code::DiskFailed, e))?;
        let digest = Digest::of(&bytes);
        if files.digest.is_some_and(|wanted| wanted != digest) {
            return Err(Reason::new(Code::DigestMismatch, format!("the manifest {}", files.manifest)));
        }
        let manifest = Manifest::parse(&bytes).map_err(|e| Reason::new(Code::ManifestInvalid, causes(&e)))?;
        drop(bytes);
        organs.admit(&manifest);
        let model = organs.read(files.model, MAX_MODEL_BYTES).map_err(|e| Reason::new(Code::DiskFailed, e))?;
        if model.len() as u64 != manifest.model.length {
            let found = format!("the model {} has {} bytes instead of {}", files.model, model.len(), manifest.model.length);
            return Err(Reason::new(Code::LengthMismatch, found));
        }
        // Before anything judges what is in it: bytes that rotted are fetched again, a model that is at fault is not.
        if Digest::of(&model) != manifest.model.digest {
            return Err(Reason::new(Code::DigestMismatch, format!("the model {}", files.model)));
        }
        let scanned = prescan(model, &Limits::default()).map_err(|e| e.reason())?;
        let plan = Plan::load(&scanned, &manifest).map_err(|e| e.reason())?;
        let mut session = Arc::new(plan).spawn().map_err(|e| Reason::new(Code::LoadFailed, e))?;
        let golden = golden::check(&mut session, &manifest)?;
        // A publisher's golden vectors may be the engine's own; on a device they are signed, and this was done before.
        if files.digest.is_none() {
            opinion::check(&scanned, &mut session, &manifest)?;
        }
        drop(scanned);
        let (p50, p99) = time(organs, &mut session, &manifest, started)?;
        let proof = Proof {
            manifest: digest,
            model: manifest.model.digest,
            golden,
            load_ms: p50.loaded_ms,
            p50_us: p50.micros,
            p99_us: p99,
            rss_bytes: organs.resident_bytes(),
        };
        if role == Role::Candidate {
            judge(&proof, &manifest)?;
        }
        let inputs = manifest.golden.vectors.iter().flat_map(|v| &v.inputs);
        let takes_missing = inputs.flat_map(Tensor::to_f64).any(|x| !x.is_finite());
        Ok(Self { manifest: Arc::new(manifest), proof, session, takes_missing })
    }
}

struct Median {
    loaded_ms: u64,
    micros: u64,
}

/// Warm up, then time runs on the golden inputs: median, and 99th percentile in microseconds, rounded up.
fn time(organs: &dyn Organs, session: &mut Session, manifest: &Manifest, started: u64) -> Result<(Median, u64), Reason> {
    let failed = |e: &dyn std::fmt::Display| Reason::new(Code::LoadFailed, format!("timed run: {e}"));
    let mut inputs = Vec::new();
    for vector in &manifest.golden.vectors {
        inputs.push(session.natives(&vector.inputs).map_err(|e| failed(&e))?);
    }
    let mut cycle = inputs.iter().cycle();
    for input in cycle.by_ref().take(WARM_UPS) {
        session.run(input).map_err(|e| failed(&e))?;
    }
    let begun = organs.nanos();
    let loaded_ms = begun.saturating_sub(started) / 1_000_000;
    let mut taken = Vec::with_capacity(TIMED);
    for input in cycle.take(TIMED) {
        let before = organs.nanos();
        session.run(input).map_err(|e| failed(&e))?;
        let after = organs.nanos();
        taken.push(after.saturating_sub(before));
        if taken.len() >= TIMED_AT_LEAST && after.saturating_sub(begun) > TIMED_NANOS {
            break;
        }
    }
    session.reset();
    taken.sort_unstable();
    let at = |share: usize| taken.get((taken.len() * share / 100).min(taken.len().saturating_sub(1))).map_or(0, |n| n.div_ceil(1_000));
    Ok((Median { loaded_ms, micros: at(50) }, at(99)))
}

fn judge(proof: &Proof, manifest: &Manifest) -> Result<(), Reason> {
    let limits = &manifest.limits;
    if proof.load_ms > limits.load_ms {
        return Err(Reason::new(Code::TooSlow, format!("loading took {} ms, the limit is {} ms", proof.load_ms, limits.load_ms)));
    }
    if proof.p99_us > limits.p99_us {
        return Err(Reason::new(Code::TooSlow, format!("99th percentile {} us, the limit is {} us", proof.p99_us, limits.p99_us)));
    }
    if proof.rss_bytes > limits.rss_bytes {
        let detail = format!("{} bytes resident, the limit is {}", proof.rss_bytes, limits.rss_bytes);
        return Err(Reason::new(Code::TooMuchMemory, detail));
    }
    Ok(())
}

/// An error with its causes in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
