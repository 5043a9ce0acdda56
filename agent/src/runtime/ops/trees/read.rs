//! From attributes to a checked ensemble; also what the pre-scan asks of a tree node before the engine sees the file.
use std::collections::HashMap;

use super::ensemble::{Aggregate, Ensemble, Kind, LEAF, Mode, Node};
use crate::runtime::ops::attributes::Attributes;
use crate::runtime::ops::scores::PostTransform;

/// Nodes over all trees of one operator: a forest of a thousand trees with four thousand nodes each, 64 MB.
const MAX_NODES: usize = 1 << 22;
/// Features a tree may look at.
const MAX_FEATURE: i64 = 1 << 20;
/// Classes or targets.
const MAX_WIDTH: usize = 4_096;

/// Trees that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trees: {0}")]
pub struct TreeError(String);

fn fail<T>(what: impl Into<String>) -> Result<T, TreeError> {
    Err(TreeError(what.into()))
}

/// The columns that describe nodes, all of one length.
struct Columns<'a> {
    trees: &'a [i64],
    ids: &'a [i64],
    features: &'a [i64],
    values: &'a [f32],
    yes: &'a [i64],
    no: &'a [i64],
    modes: Vec<Option<Mode>>,
    missing: Option<&'a [i64]>,
}

impl Ensemble {
    /// Read and check the attributes of a tree operator.
    pub fn read(node: &impl Attributes, kind: Kind) -> Result<Self, TreeError> {
        for doubles in ["nodes_values_as_tensor", "base_values_as_tensor", "class_weights_as_tensor", "target_weights_as_tensor"] {
            if node.has(doubles) {
                return fail(format!("{doubles} holds doubles: export with 32-bit floats"));
            }
        }
        let columns = columns(node)?;
        let (width, labels) = width(node, kind)?;
        let prefix = if kind == Kind::Classifier { "class" } else { "target" };
        let leaves = contributions(node, prefix, width)?;
        let base = node.floats("base_values").unwrap_or(&[]).to_vec();
        if !base.is_empty() && base.len() != width && !(kind == Kind::Classifier && width == 2 && base.len() == 1) {
            return fail(format!("{} base values for {width} outputs", base.len()));
        }
        let mut planted = plant(&columns, &leaves)?;
        let mut targets = leaves.all.iter().map(|(_, target, _)| *target);
        let first = targets.next();
        let single = if targets.all(|t| Some(t) == first) { first } else { None };
        if planted.modes.windows(2).all(|w| w[0] == w[1]) {
            planted.mode = planted.modes.first().copied().unwrap_or(Mode::Leq);
            planted.modes = Vec::new();
        }
        if !planted.missing.contains(&true) {
            planted.missing = Vec::new();
        }
        Ok(Self {
            kind,
            nodes: planted.nodes,
            roots: planted.roots,
            modes: planted.modes,
            mode: planted.mode,
            missing: planted.missing,
            weights: planted.weights,
            width,
            features: columns.used_features(),
            base,
            aggregate: aggregate(node, kind)?,
            post: PostTransform::read(node).map_err(|e| TreeError(e.0))?,
            labels,
            single,
            all_positive: leaves.all.iter().all(|(.., weight)| *weight >= 0.0),
        })
    }
}

fn columns(node: &impl Attributes) -> Result<Columns<'_>, TreeError> {
    let ids = node.ints("nodes_nodeids").unwrap_or(&[]);
    let n = ids.len();
    if n == 0 || n > MAX_NODES {
        return fail(format!("{n} nodes are outside 1 to {MAX_NODES}"));
    }
    let ints = |name: &str| node.ints(name).filter(|v| v.len() == n).ok_or_else(|| TreeError(format!("{name} must have {n} entries")));
    let modes =
        node.texts("nodes_modes").filter(|v| v.len() == n).ok_or_else(|| TreeError(format!("nodes_modes must have {n} entries")))?;
    let features = ints("nodes_featureids")?;
    if let Some(bad) = features.iter().find(|f| !(0..MAX_FEATURE).contains(*f)) {
        return fail(format!("feature {bad} is outside 0 to {MAX_FEATURE}"));
    }
    let missing = node.ints("nodes_missing_value_tracks_true");
    if missing.is_some_and(|m| m.len() != n) {
        return fail(format!("nodes_missing_value_tracks_true must have {n} entries or none"));
    }
    Ok(Columns {
        trees: ints("nodes_treeids")?,
        ids,
        features,
        values: node
            .floats("nodes_values")
            .filter(|v| v.len() == n)
            .ok_or_else(|| TreeError(format!("nodes_values must have {n} entries")))?,
        yes: ints("nodes_truenodeids")?,
        no: ints("nodes_falsenodeids")?,
        modes: modes.iter().map(|text| mode(text)).collect::<Result<_, _>>()?,
        missing,
    })
}

fn mode(text: &[u8]) -> Result<Option<Mode>, TreeError> {
    Ok(Some(match text {
        b"LEAF" => return Ok(None),
        b"BRANCH_LEQ" => Mode::Leq,
        b"BRANCH_LT" => Mode::Lt,
        b"BRANCH_GTE" => Mode::Gte,
        b"BRANCH_GT" => Mode::Gt,
        b"BRANCH_EQ" => Mode::Eq,
        b"BRANCH_NEQ" => Mode::Neq,
        other => {
            return fail(format!("a node of mode {:?} is not known", String::from_utf8_lossy(other).chars().take(40).collect::<String>()));
        }
    }))
}

impl Columns<'_> {
    fn key(&self, i: usize) -> Option<(i64, i64)> {
        Some((*self.trees.get(i)?, *self.ids.get(i)?))
    }

    fn is_leaf(&self, i: usize) -> bool {
        matches!(self.modes.get(i), Some(None) | None)
    }

    /// One more than the largest feature a branch looks at.
    fn used_features(&self) -> usize {
        let used = self.features.iter().zip(&self.modes).filter(|(_, mode)| mode.is_some()).map(|(f, _)| *f as usize + 1);
        used.max().unwrap_or(0)
    }
}

fn width(node: &impl Attributes, kind: Kind) -> Result<(usize, Vec<i64>), TreeError> {
    let (width, labels) = match kind {
        Kind::Regressor => (usize::try_from(node.int("n_targets").unwrap_or(1)).unwrap_or(0), Vec::new()),
        Kind::Classifier => match (node.ints("classlabels_int64s"), node.texts("classlabels_strings")) {
            (Some(labels), None) => (labels.len(), labels.to_vec()),
            // Texts have no place in a tensor a device serves; the label's place among them does.
            (None, Some(texts)) => (texts.len(), (0..texts.len() as i64).collect()),
            _ => return fail("class labels must be given either as integers or as texts"),
        },
    };
    let least = if kind == Kind::Classifier { 2 } else { 1 };
    if width < least || width > MAX_WIDTH {
        return fail(format!("{width} classes or targets are outside {least} to {MAX_WIDTH}"));
    }
    Ok((width, labels))
}

/// Contributions of the leaves.
struct Leaves {
    /// By (tree, node): positions in `all`.
    by_node: HashMap<(i64, i64), Vec<usize>>,
    /// ((tree, node), class or target, weight).
    all: Vec<((i64, i64), u32, f32)>,
}

fn contributions(node: &impl Attributes, prefix: &str, width: usize) -> Result<Leaves, TreeError> {
    let ids = node.ints(&format!("{prefix}_ids")).unwrap_or(&[]);
    let n = ids.len();
    let ints = |what: &str| {
        let name = format!("{prefix}_{what}");
        node.ints(&name).filter(|v| v.len() == n).ok_or_else(|| TreeError(format!("{name} must have {n} entries")))
    };
    if n == 0 || n > MAX_NODES {
        return fail(format!("{n} entries in {prefix}_ids are outside 1 to {MAX_NODES}"));
    }
    let (trees, nodes) = (ints("treeids")?, ints("nodeids")?);
    let name = format!("{prefix}_weights");
    let weights = node.floats(&name).filter(|v| v.len() == n).ok_or_else(|| TreeError(format!("{name} must have {n} entries")))?;
    let mut leaves = Leaves { by_node: HashMap::new(), all: Vec::with_capacity(n) };
    for (((&id, &tree), &leaf), &weight) in ids.iter().zip(trees).zip(nodes).zip(weights) {
        let target = u32::try_from(id).ok().filter(|&t| (t as usize) < width);
        let Some(target) = target else { return fail(format!("{prefix} id {id} is outside the {width} there are")) };
        leaves.by_node.entry((tree, leaf)).or_default().push(leaves.all.len());
        leaves.all.push(((tree, leaf), target, weight));
    }
    Ok(leaves)
}

#[derive(Default)]
struct Planted {
    nodes: Vec<Node>,
    roots: Vec<u32>,
    modes: Vec<Mode>,
    mode: Mode,
    missing: Vec<bool>,
    weights: Vec<(u32, f32)>,
}

/// Put the trees into walking order; every node must be reached exactly once.
fn plant(columns: &Columns<'_>, leaves: &Leaves) -> Result<Planted, TreeError> {
    let n = columns.ids.len();
    let mut places: HashMap<(i64, i64), usize> = HashMap::with_capacity(n);
    for (i, key) in (0..n).filter_map(|i| Some((i, columns.key(i)?))) {
        if places.insert(key, i).is_some() {
            return fail(format!("tree {} has two nodes {}", key.0, key.1));
        }
    }
    let children = children(columns, &places)?;
    let mut has_parent = vec![false; n];
    for child in children.iter().flatten().flatten() {
        match has_parent.get_mut(*child) {
            Some(taken) if !*taken => *taken = true,
            _ => return fail("a node has two parents"),
        }
    }
    let mut planted = Planted::default();
    let mut trees: HashMap<i64, ()> = HashMap::new();
    for root in (0..n).filter(|&i| has_parent.get(i) == Some(&false)) {
        let tree = columns.trees.get(root).copied().unwrap_or(0);
        if trees.insert(tree, ()).is_some() {
            return fail(format!("tree {tree} has two roots"));
        }
        grow(&mut planted, columns, leaves, &children, root)?;
    }
    // With one parent each, a node that no root reaches sits in a cycle.
    if planted.nodes.len() != n {
        return fail("a tree runs in a circle");
    }
    Ok(planted)
}

/// The children of each branch, as places.
fn children(columns: &Columns<'_>, places: &HashMap<(i64, i64), usize>) -> Result<Vec<Option<[usize; 2]>>, TreeError> {
    let mut children = Vec::with_capacity(columns.ids.len());
    for i in 0..columns.ids.len() {
        if columns.is_leaf(i) {
            children.push(None);
            continue;
        }
        let child = |ids: &[i64]| {
            let key = (columns.trees.get(i).copied()?, ids.get(i).copied()?);
            places.get(&key).copied()
        };
        match (child(columns.yes), child(columns.no)) {
            (Some(yes), Some(no)) => children.push(Some([yes, no])),
            _ => return fail(format!("node {:?} names a child that is not in its tree", columns.key(i))),
        }
    }
    Ok(children)
}

/// Append one tree, true branches first. Bounded: every node is appended at most once.
fn grow(
    planted: &mut Planted,
    columns: &Columns<'_>,
    leaves: &Leaves,
    children: &[Option<[usize; 2]>],
    root: usize,
) -> Result<(), TreeError> {
    planted.roots.push(planted.nodes.len() as u32);
    // What to append, and which branch of which node waits for its place.
    let mut waiting: Vec<(usize, Option<(usize, usize)>)> = vec![(root, None)];
    while let Some((i, parent)) = waiting.pop() {
        let at = planted.nodes.len();
        if let Some((parent, branch)) = parent
            && let Some(next) = planted.nodes.get_mut(parent).and_then(|node| node.next.get_mut(branch))
        {
            *next = at as u32;
        }
        planted.modes.push(columns.modes.get(i).copied().flatten().or(planted.modes.last().copied()).unwrap_or_default());
        planted.missing.push(columns.missing.is_some_and(|m| m.get(i).copied().unwrap_or(0) != 0));
        match children.get(i).copied().flatten() {
            Some([yes, no]) => {
                let feature = columns.features.get(i).map_or(0, |&f| f as u32);
                planted.nodes.push(Node { feature, value: columns.values.get(i).copied().unwrap_or(0.0), next: [0, 0] });
                waiting.push((no, Some((at, 1))));
                waiting.push((yes, Some((at, 0))));
            }
            None => {
                let start = planted.weights.len() as u32;
                let own = columns.key(i).and_then(|key| leaves.by_node.get(&key));
                for (_, target, weight) in own.into_iter().flatten().filter_map(|&w| leaves.all.get(w)) {
                    planted.weights.push((*target, *weight));
                }
                planted.nodes.push(Node { feature: LEAF, value: 0.0, next: [start, planted.weights.len() as u32] });
            }
        }
    }
    Ok(())
}

fn aggregate(node: &impl Attributes, kind: Kind) -> Result<Aggregate, TreeError> {
    match node.text("aggregate_function").unwrap_or(b"SUM") {
        _ if kind == Kind::Classifier => Ok(Aggregate::Sum),
        b"SUM" => Ok(Aggregate::Sum),
        b"AVERAGE" => Ok(Aggregate::Average),
        b"MIN" => Ok(Aggregate::Min),
        b"MAX" => Ok(Aggregate::Max),
        _ => fail("the aggregate function is not SUM, AVERAGE, MIN or MAX"),
    }
}
