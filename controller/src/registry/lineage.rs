//! Descent: which version came from which, from what data, by which run, as nodes and edges.
//!
//! Nodes and edges instead of a tree of trees: a dataset has many children, a recursive document has no bound, and a page
//! draws a graph anyway. Parents are named by manifest digest, so a parent that was never registered still shows as a node.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::digest::Digest;
use serde::{Deserialize, Serialize};

use super::version::{ModelVersion, VersionStatus};

/// Generations of ancestors that are followed: enough for years of retraining, and a bound against a forged circle.
pub const MAX_DEPTH: usize = 64;

/// One thing in the graph.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageNode {
    /// Unique within the graph.
    pub id: String,
    /// `version`, `dataset`, `run` or `code`.
    pub kind: String,
    /// What people call it.
    pub title: String,
}

/// One step of descent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageEdge {
    /// Where it comes from.
    pub from: String,
    /// What came of it.
    pub to: String,
    /// How: `parent`, `train`, `holdout`, `reference`, `made-by`, `code`.
    pub how: String,
}

/// A version's ancestors and their data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LineageGraph {
    /// The nodes.
    pub nodes: BTreeSet<LineageNode>,
    /// The edges.
    pub edges: BTreeSet<LineageEdge>,
}

/// `version`, its ancestors, their data, runs and code.
pub fn graph<'a>(version: &'a ModelVersion, by_manifest: &BTreeMap<Digest, &'a ModelVersion>) -> LineageGraph {
    let mut graph = LineageGraph::default();
    for ancestor in std::iter::once(version).chain(ancestors(version, by_manifest)) {
        add(&mut graph, ancestor);
        if let Some(parent) = ancestor.lineage.parent {
            let title = by_manifest.get(&parent).map_or_else(|| format!("manifest {}", parent.short()), |p| title(p));
            graph.nodes.insert(LineageNode { id: parent.to_string(), kind: "version".to_owned(), title });
        }
    }
    graph
}

/// The registered ancestors of a version, nearest first, at most [`MAX_DEPTH`].
pub fn ancestors<'a>(version: &'a ModelVersion, by_manifest: &BTreeMap<Digest, &'a ModelVersion>) -> Vec<&'a ModelVersion> {
    let mut seen = BTreeSet::from([version.manifest.digest]);
    let mut line = Vec::new();
    let mut next = version.lineage.parent;
    while let Some(parent) = next.and_then(|digest| by_manifest.get(&digest)) {
        if line.len() == MAX_DEPTH || !seen.insert(parent.manifest.digest) {
            break;
        }
        line.push(*parent);
        next = parent.lineage.parent;
    }
    line
}

/// The nearest ancestor that failed in the fleet. A model retrained from one inherits its parent's data and weights, so it is
/// not rolled out by itself; a person may still do so.
pub fn poisoned_ancestor<'a>(version: &'a ModelVersion, by_manifest: &BTreeMap<Digest, &'a ModelVersion>) -> Option<&'a ModelVersion> {
    ancestors(version, by_manifest).into_iter().find(|v| matches!(v.status, VersionStatus::Poisoned { .. }))
}

fn title(version: &ModelVersion) -> String {
    format!("{} {}", version.line, version.version)
}

/// A dataset that is named by the digest of its manifest, by the beginning of it.
fn called(name: &str) -> String {
    name.parse::<Digest>().map_or_else(|_| name.to_owned(), |digest| format!("dataset {}", digest.short()))
}

fn add(graph: &mut LineageGraph, version: &ModelVersion) {
    let me = version.manifest.digest.to_string();
    let node = |id: &str, kind: &str, title: String| LineageNode { id: id.to_owned(), kind: kind.to_owned(), title };
    graph.nodes.insert(node(&me, "version", title(version)));
    let mut edge = |from: &str, how: &str| {
        graph.edges.insert(LineageEdge { from: from.to_owned(), to: me.clone(), how: how.to_owned() });
    };
    let lineage = &version.lineage;
    if let Some(parent) = lineage.parent {
        edge(&parent.to_string(), "parent");
    }
    for dataset in &lineage.datasets {
        edge(&dataset.digest.to_string(), &dataset.role);
    }
    if let Some(run) = &lineage.training_run {
        edge(&format!("run:{run}"), "made-by");
    }
    let code = format!("code:{}@{}", lineage.code, lineage.code_revision);
    if !lineage.code.is_empty() {
        edge(&code, "code");
        graph.nodes.insert(node(&code, "code", format!("{} at {}", lineage.code, lineage.code_revision)));
    }
    for dataset in &lineage.datasets {
        graph.nodes.insert(node(&dataset.digest.to_string(), "dataset", format!("{} ({} rows)", called(&dataset.name), dataset.rows)));
    }
    if let Some(run) = &lineage.training_run {
        graph.nodes.insert(node(&format!("run:{run}"), "run", format!("training run {run}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::version;

    #[test]
    fn a_bad_ancestor_is_found_and_circles_end() {
        let mut versions = [version("1", 1, None), version("2", 2, Some("1")), version("3", 3, Some("2")), version("4", 4, Some("gone"))];
        let by = |versions: &[ModelVersion], f: &dyn Fn(&BTreeMap<Digest, &ModelVersion>)| {
            f(&versions.iter().map(|v| (v.manifest.digest, v)).collect())
        };
        by(&versions, &|m| {
            let names: Vec<_> = ancestors(&versions[2], m).iter().map(|v| v.version.as_str()).collect();
            assert_eq!(names, ["2", "1"]);
            assert!(poisoned_ancestor(&versions[2], m).is_none() && ancestors(&versions[3], m).is_empty());
            let titles: Vec<_> = graph(&versions[3], m).nodes.into_iter().map(|n| n.title).collect();
            assert!(titles.iter().any(|t| t.starts_with("manifest ")), "an unregistered parent still shows: {titles:?}");
        });
        versions[0].status = VersionStatus::Poisoned { reason: "bad".into() };
        by(&versions, &|m| assert_eq!(poisoned_ancestor(&versions[2], m).unwrap().version.as_str(), "1"));
        versions[0].lineage.parent = Some(versions[2].manifest.digest);
        by(&versions, &|m| assert_eq!(ancestors(&versions[2], m).len(), 2, "a forged circle ends"));
    }
}
