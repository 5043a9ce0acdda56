//! Lines and versions as the API shows them.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::ids::{Line, Version};
use leeway_protocol::manifest::{Decision, Manifest};
use leeway_protocol::tensor::TensorSpec;

use super::Facts;
use super::names::candidates;
use crate::io::control::Attached;
use crate::io::web::resource::Level;
use crate::io::web::resource::model::{
    CalibrationBin, Document, Lineage, LineageEdge, LineageNode, Model, TensorInfo, VersionDetail, VersionSummary,
};
use crate::io::web::words;
use crate::registry::mlflow::entry::pointers;
use crate::registry::{ModelLine, ModelVersion, Role, VersionStatus, lineage};

impl Facts<'_> {
    /// Every line. `signature` gives a line's inputs and outputs in words, if a manifest is at hand.
    pub(in crate::io::web) fn models(&self, signature: impl Fn(&ModelVersion) -> String) -> Vec<Model> {
        let counts = self.serving();
        self.snapshot.lines.values().map(|line| self.model(line, &counts, &signature)).collect()
    }

    fn model(&self, line: &ModelLine, counts: &Serving, signature: &impl Fn(&ModelVersion) -> String) -> Model {
        let mut versions: Vec<&ModelVersion> = self.snapshot.versions.values().map(AsRef::as_ref).filter(|v| v.line == line.line).collect();
        versions.sort_by_key(|v| std::cmp::Reverse(v.seq));
        let shown: Vec<VersionSummary> = versions.iter().map(|v| self.version_summary(v, counts)).collect();
        Model {
            line: line.line.to_string(),
            sentence: self.line_sentence(line, &shown),
            aliases: pointers(line).into_iter().map(|(alias, version)| (alias, version.to_string())).collect(),
            signature: versions.first().map(|v| signature(v)).unwrap_or_default(),
            versions: shown,
            tags: line.book.tags.to_map(),
            candidates: candidates(line),
        }
    }

    fn line_sentence(&self, line: &ModelLine, versions: &[VersionSummary]) -> String {
        let serving: Vec<String> =
            versions.iter().filter(|v| v.devices > 0).map(|v| format!("{} on {}", v.version, words::plural(v.devices, "device"))).collect();
        let runs = if serving.is_empty() { "No device runs it yet.".to_owned() } else { format!("Running: {}.", words::list(&serving)) };
        let why = self.report.lines.get(&line.line).and_then(|r| r.why.first()).map(|w| format!(" {w}")).unwrap_or_default();
        let task = if line.task.is_empty() { String::new() } else { format!("{} ", line.task) };
        format!("{task}{runs}{why}")
    }

    /// One version in a list.
    pub(in crate::io::web) fn version_summary(&self, v: &ModelVersion, counts: &Serving) -> VersionSummary {
        let devices = counts.get(&(v.line.clone(), v.version.clone())).copied().unwrap_or(0);
        let line = self.snapshot.lines.get(&v.line);
        let named = line.map(|line| pointers(line)).unwrap_or_default();
        let note = line.and_then(|line| line.book.note(&v.version));
        let (level, state) = match &v.status {
            VersionStatus::Published if devices > 0 => (Level::Ok, "serving"),
            VersionStatus::Published => (Level::Idle, "available"),
            VersionStatus::Deprecated { .. } => (Level::Idle, "deprecated"),
            VersionStatus::Yanked { .. } => (Level::Bad, "yanked"),
            VersionStatus::Poisoned { .. } => (Level::Bad, "rolled back"),
        };
        VersionSummary {
            line: v.line.to_string(),
            version: v.version.to_string(),
            seq: v.seq,
            origin: if v.role == Role::Auto { "auto" } else { "release" }.to_owned(),
            signer: v.signer.clone(),
            registered_at: v.published_at,
            manifest: v.manifest.digest.to_string(),
            model: v.model.digest.to_string(),
            bytes: v.model.length,
            metrics: v.lineage.metrics.clone(),
            aliases: named.into_iter().filter(|(_, to)| *to == v.version).map(|(alias, _)| alias).collect(),
            devices,
            level,
            state: state.to_owned(),
            reason: v.status.reason().map_or_else(|| v.lineage.reason.clone(), ToOwned::to_owned),
            tags: note.map(|note| note.tags.to_map()).unwrap_or_default(),
        }
    }

    /// One version, whole.
    pub(in crate::io::web) fn version_detail(&self, line: &Line, version: &Version, manifest: &Manifest) -> Option<VersionDetail> {
        let v = self.snapshot.version(line, version)?;
        let rollouts = self.rollouts().into_iter().filter(|r| r.line == line.as_str() && r.to_version == version.as_str()).collect();
        Some(VersionDetail {
            summary: self.version_summary(v, &self.serving()),
            inputs: manifest.inputs.iter().map(|spec| tensor(spec, manifest)).collect(),
            outputs: manifest.outputs.iter().map(|spec| tensor(spec, manifest)).collect(),
            io: v.io.to_string(),
            decision: decision(manifest),
            reference_rows: manifest.reference.rows,
            features: manifest.reference.features.iter().map(|f| f.name.clone()).collect(),
            golden: format!(
                "{}, within {} relative and {} absolute",
                words::plural(manifest.golden.vectors.len() as u64, "vector"),
                manifest.golden.rtol,
                manifest.golden.atol
            ),
            limits: format!(
                "at most {} and {} (p99) on a device",
                words::bytes(manifest.limits.rss_bytes),
                words::micros(manifest.limits.p99_us as f64)
            ),
            calibration: calibration(manifest),
            created_at: manifest.created_at,
            lineage: self.lineage(v),
            provenance: attached(v, Attached::Provenance),
            bundle: attached(v, Attached::Bundle),
            bom: format!("{}/bom", address(v)),
            rollouts,
        })
    }

    /// Descent of a version, and what was made from it.
    pub(in crate::io::web) fn lineage(&self, version: &ModelVersion) -> Lineage {
        let manifests = self.snapshot.manifests();
        let mut graph = lineage::graph(version, &manifests);
        let own = version.manifest.digest;
        for child in self.snapshot.versions.values().filter(|v| v.lineage.parent == Some(own)) {
            let one = lineage::graph(child, &BTreeMap::from([(own, version)]));
            let id = child.manifest.digest.to_string();
            graph.nodes.extend(one.nodes.into_iter().filter(|n| n.id == id));
            graph.edges.extend(one.edges.into_iter().filter(|e| e.how == "parent" && e.to == id));
        }
        let known: BTreeMap<String, &ModelVersion> = manifests.iter().map(|(digest, v)| (digest.to_string(), *v)).collect();
        let ids: BTreeSet<&String> = graph.nodes.iter().map(|n| &n.id).collect();
        let edges = graph.edges.iter().filter(|e| ids.contains(&e.from) && ids.contains(&e.to));
        Lineage {
            edges: edges.map(|e| LineageEdge { from: e.from.clone(), to: e.to.clone(), kind: e.how.clone() }).collect(),
            nodes: graph.nodes.iter().map(|n| node(n, known.get(&n.id).copied())).collect(),
        }
    }

    /// How many devices run each version.
    pub(in crate::io::web) fn serving(&self) -> Serving {
        let mut counts = Serving::new();
        for device in self.snapshot.fleet.iter() {
            let Some(running) = device.active() else { continue };
            *counts.entry((running.line.clone(), running.version.clone())).or_default() += 1;
        }
        counts
    }
}

fn address(v: &ModelVersion) -> String {
    format!("/api/v1/models/{}/versions/{}", v.line, v.version)
}

/// A document that came with a version.
fn attached(v: &ModelVersion, which: Attached) -> Option<Document> {
    let blob = which.of(v)?;
    let (part, sentence) = match which {
        Attached::Provenance => ("provenance", made_from(v)),
        Attached::Bundle => {
            ("bundle", "OpenSSF Model Signing bundle; `leeway model verify-bundle` checks it with the signer's public key".to_owned())
        }
    };
    let href = format!("{}/{part}", address(v));
    Some(Document { digest: blob.digest.to_string(), length: blob.length, href, sentence })
}

/// What the provenance says, as it was compared with the manifest.
fn made_from(v: &ModelVersion) -> String {
    let sets = words::plural(v.lineage.datasets.len() as u64, "dataset");
    let code = if v.lineage.code.is_empty() { String::new() } else { format!(", {} at {}", v.lineage.code, v.lineage.code_revision) };
    let parent = if v.lineage.parent.is_some() { ", a parent" } else { "" };
    format!("SLSA provenance v1, signed with the key of role {}: made from {sets}{code}{parent}", v.signer)
}

/// Devices by what they run.
pub(in crate::io::web) type Serving = BTreeMap<(Line, Version), u64>;

fn node(n: &lineage::LineageNode, version: Option<&ModelVersion>) -> LineageNode {
    let detail = match version {
        Some(v) if v.provenance.is_some() => format!("{}, provenance signed by {}", v.manifest.digest.short(), v.signer),
        Some(v) => v.manifest.digest.short(),
        None if n.id.starts_with("sha256:") => n.id.chars().skip(7).take(12).collect(),
        None => String::new(),
    };
    LineageNode {
        id: n.id.clone(),
        kind: n.kind.clone(),
        label: n.title.clone(),
        detail,
        href: version.map(|v| format!("/models/{}/versions/{}", v.line, v.version)),
    }
}

fn tensor(spec: &TensorSpec, manifest: &Manifest) -> TensorInfo {
    let role = match () {
        () if manifest.state.iter().any(|s| s.input == spec.name || s.output == spec.name) => "state",
        () if manifest.constants.iter().any(|c| c.name == spec.name) => "constant",
        () => "free",
    };
    TensorInfo { name: spec.name.clone(), dtype: dtype(spec), shape: spec.shape.clone(), role: role.to_owned() }
}

fn dtype(spec: &TensorSpec) -> String {
    format!("{:?}", spec.dtype).to_lowercase()
}

/// `x: f32[1,8] → p: f32[1,1]`.
pub(in crate::io::web) fn signature(manifest: &Manifest) -> String {
    let one = |spec: &TensorSpec| {
        format!("{}: {}[{}]", spec.name, dtype(spec), spec.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
    };
    let inputs: Vec<String> = manifest.free_inputs().map(|(_, spec)| one(spec)).collect();
    let outputs: Vec<String> = manifest.outputs.iter().map(one).collect();
    format!("{} → {}", inputs.join(", "), outputs.join(", "))
}

fn decision(manifest: &Manifest) -> String {
    let name = |output: usize| manifest.outputs.get(output).map_or("?", |o| o.name.as_str());
    match &manifest.decision {
        Decision::Binary { output, index, threshold } => {
            format!("class 1 from a probability of {threshold} up (output {}, element {index})", name(*output))
        }
        Decision::Classes { output } => format!("the class with the highest probability (output {})", name(*output)),
        Decision::None => "no decision: a regression or an embedding".to_owned(),
    }
}

fn calibration(manifest: &Manifest) -> Vec<CalibrationBin> {
    let c = &manifest.calibration;
    let edges = c.edges.iter().zip(c.edges.iter().skip(1));
    edges
        .zip(c.accuracy.iter().zip(&c.rows))
        .map(|((from, to), (accuracy, rows))| CalibrationBin { from: *from, to: *to, accuracy: *accuracy, rows: *rows })
        .collect()
}
