//! Judges the bytes of an ONNX file before the engine sees them.
//!
//! The engine was written for files its user trusts: of 4,032 damaged files 41 made it panic, one hang and one eat all
//! memory, and crafted tree models write outside its heap. A signature says who made a file, not that it is harmless here. So
//! everything that is known to hurt, and everything this runtime does not run, is refused first, by name and with a remedy.
//! What cannot be judged without running (a chain of operators that grows) is left to the limits of the runner process.
//!
//! What stays true: a [`Scanned`] exists only for bytes that passed, and scanning never panics and never allocates more than
//! a small multiple of the file.
use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use leeway_protocol::digest::Digest;
use leeway_protocol::manifest::MAX_MODEL_BYTES;
use leeway_protocol::reason::{Code, Reason};

use super::onnx::{Graph, Model, Node, OperatorSet, Tensor, ValueInfo, element};
use super::ops::attributes::{Attributes as _, Refused};
use super::ops::trees::TreeError;
use super::ops::trees::ensemble::{Ensemble, Kind};
use super::{allow, ops};

mod attributes;
mod tensors;
#[cfg(test)]
mod tests;
mod wire;

/// Bounds of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the file.
    pub bytes: u64,
    /// Nodes over all graphs: the largest edge models have some thousands.
    pub nodes: u64,
    /// Everything that is a name (counts 1) or a message (counts 8) of its own; some 100 MB once decoded. A forest of a
    /// million nodes takes a quarter of it.
    pub parts: u64,
    /// Graphs within graphs; `If` within `If` within `Scan` is three.
    pub depth: u64,
    /// Integers in attributes: sizes, axes, counts.
    pub integer: u64,
    /// Pads, strides and dilations; pads of 65,536 ate all memory and of 2^32 never came back.
    pub pads: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: MAX_MODEL_BYTES, nodes: 20_000, parts: 1 << 22, depth: 4, integer: 1 << 20, pads: 1024 }
    }
}

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrescanError {
    /// Not the format.
    #[error("the file is not an ONNX model, or is cut off: publish the file as the exporter wrote it")]
    Malformed,
    /// Something is too large.
    #[error("{what}: {found} is more than the bound of {most}; simplify the model or export it with fixed sizes")]
    Bound {
        /// What is too large.
        what: String,
        /// How large.
        found: u64,
        /// How large it may be.
        most: u64,
    },
    /// A feature of the format that is never run.
    #[error("the model uses {0}")]
    NotAllowed(String),
    /// An operator this runtime does not run.
    #[error("operator {op} of domain {domain:?} ({node}) does not run on devices: export with other operators, or without it")]
    Operator {
        /// Its domain.
        domain: String,
        /// Its name.
        op: String,
        /// Where.
        node: String,
    },
    /// An operator set this runtime does not read.
    #[error("operator set {domain:?} version {version} is not read by this runtime ({reads}): export with another opset version")]
    Opset {
        /// Its domain.
        domain: String,
        /// Its version.
        version: i64,
        /// What is read.
        reads: String,
    },
    /// A constant that does not fit itself.
    #[error("tensor {name:?} {problem}")]
    Tensor {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Trees that would run wild.
    #[error("{node}: {problem}")]
    Trees {
        /// Which operator.
        node: String,
        /// What is wrong.
        problem: TreeError,
    },
    /// Attributes that one of our own operators refuses.
    #[error("{node}: {problem}")]
    Attributes {
        /// Which operator.
        node: String,
        /// What is wrong, and what to do.
        problem: Refused,
    },
    /// Names that do not connect.
    #[error("the graph does not connect: {0}; export the model again")]
    Wiring(String),
}

impl PrescanError {
    fn bound(what: &str, found: u64, most: u64) -> Result<(), Self> {
        if found <= most { Ok(()) } else { Err(Self::Bound { what: what.chars().take(160).collect(), found, most }) }
    }

    /// The reason a device reports.
    pub fn reason(&self) -> Reason {
        Reason::new(Code::PrescanRefused, self)
    }
}

/// A model that passed, with what was seen on the way.
#[derive(Debug, Clone)]
pub struct Scanned {
    bytes: Vec<u8>,
    /// Digest of the bytes.
    pub digest: Digest,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Who wrote the file.
    pub producer: String,
    /// Inputs that are not weights.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// How often each operator is used, as `domain:Op` (no prefix for the standard domain).
    pub operators: BTreeMap<String, u64>,
    /// Nodes over all graphs.
    pub nodes: u64,
    /// Weights, as elements.
    pub parameters: u64,
}

/// An input or output as the file declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Number of the element type, 0 if none is given.
    pub element: i32,
    /// Sizes, if the rank is known; `None` for sizes that are named or unknown.
    pub shape: Option<Vec<Option<u64>>>,
}

impl Scanned {
    /// The bytes that passed.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Judge a file.
pub fn prescan(bytes: Vec<u8>, limits: &Limits) -> Result<Scanned, PrescanError> {
    PrescanError::bound("bytes of the file", bytes.len() as u64, limits.bytes)?;
    wire::walk(&bytes, limits)?;
    let model = Model::decode(bytes.as_slice()).map_err(|_| PrescanError::Malformed)?;
    let graph = model.graph.as_ref().ok_or(PrescanError::Malformed)?;
    let mut scan = Scan { limits, domains: check_opsets(&model.opset_import)?, operators: BTreeMap::new(), nodes: 0, parameters: 0 };
    scan.graph(graph, None)?;
    if graph.output.is_empty() {
        return Err(PrescanError::Wiring("it has no output".to_owned()));
    }
    let weights: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let opset = model.opset_import.iter().find(|set| allow::is_standard(&set.domain)).map_or(0, |set| set.version);
    Ok(Scanned {
        digest: Digest::of(&bytes),
        opset,
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().chars().take(80).collect(),
        inputs: graph.input.iter().filter(|i| !weights.contains(i.name.as_str())).map(port).collect(),
        outputs: graph.output.iter().map(|output| zipped(graph, output).unwrap_or_else(|| port(output))).collect(),
        operators: scan.operators,
        nodes: scan.nodes,
        parameters: scan.parameters,
        bytes,
    })
}

fn check_opsets(sets: &[OperatorSet]) -> Result<BTreeSet<String>, PrescanError> {
    let mut domains = BTreeSet::new();
    for set in sets {
        // Exporters list domains they do not use; a foreign one matters only when a node names it.
        let Some(versions) = allow::versions(&set.domain) else { continue };
        if !versions.contains(&set.version) {
            let reads = format!("reads {} to {}", versions.start(), versions.end());
            return Err(PrescanError::Opset { domain: set.domain.clone(), version: set.version, reads });
        }
        domains.insert(set.domain.clone());
    }
    Ok(domains)
}

fn port(info: &ValueInfo) -> Port {
    let tensor = info.kind.as_ref().and_then(|kind| kind.tensor.as_ref());
    let sizes = |shape: &super::onnx::Shape| shape.dim.iter().map(|d| u64::try_from(d.value).ok().filter(|&n| n > 0)).collect();
    Port { name: info.name.clone(), element: tensor.map_or(0, |t| t.elem_type), shape: tensor.and_then(|t| t.shape.as_ref()).map(sizes) }
}

/// A map for people, as exporters make it of probabilities: on a device the row itself is the output, one number per class.
fn zipped(graph: &Graph, output: &ValueInfo) -> Option<Port> {
    let node = graph.node.iter().find(|node| node.output.contains(&output.name)).filter(|node| node.op_type == "ZipMap")?;
    let classes = node.ints("classlabels_int64s").map(<[i64]>::len).or_else(|| node.texts("classlabels_strings").map(<[Vec<u8>]>::len))?;
    Some(Port { name: output.name.clone(), element: element::FLOAT, shape: Some(vec![None, Some(classes as u64)]) })
}

fn check_trees(node: &Node) -> Result<(), PrescanError> {
    let kind = match node.op_type.as_str() {
        "TreeEnsembleClassifier" => Kind::Classifier,
        "TreeEnsembleRegressor" => Kind::Regressor,
        _ => return Ok(()),
    };
    Ensemble::read(node, kind).map(drop).map_err(|problem| PrescanError::Trees { node: describe(node), problem })
}

/// A node as errors name it.
fn describe(node: &Node) -> String {
    let name = if node.name.is_empty() { node.output.first().map_or("", String::as_str) } else { &node.name };
    format!("node {} {:?}", node.op_type.chars().take(40).collect::<String>(), name.chars().take(60).collect::<String>())
}

/// Names a graph may read: its own so far, and those of the graphs around it.
struct Scope<'s, 'g> {
    names: &'s BTreeSet<&'g str>,
    outer: Option<&'s Scope<'s, 'g>>,
}

impl Scope<'_, '_> {
    fn knows(&self, name: &str) -> bool {
        self.names.contains(name) || self.outer.is_some_and(|outer| outer.knows(name))
    }
}

struct Scan<'a> {
    limits: &'a Limits,
    domains: BTreeSet<String>,
    operators: BTreeMap<String, u64>,
    nodes: u64,
    parameters: u64,
}

impl Scan<'_> {
    /// One graph, with the names the graphs around it have made so far.
    fn graph<'g>(&mut self, graph: &'g Graph, outer: Option<&Scope<'_, 'g>>) -> Result<(), PrescanError> {
        let mut made: BTreeSet<&str> = BTreeSet::new();
        let mut constants: BTreeMap<&str, &Tensor> = BTreeMap::new();
        for tensor in &graph.initializer {
            tensors::check(tensor, "weight without a name")?;
            self.parameters += tensors::elements(&tensor.dims).unwrap_or(0);
            constants.insert(&tensor.name, tensor);
            new_name(&mut made, &tensor.name, "weight")?;
        }
        let mut inputs: BTreeSet<&str> = BTreeSet::new();
        for input in &graph.input {
            new_name(&mut inputs, &input.name, "input")?;
            // Files of the old format list their weights among the inputs too.
            made.insert(&input.name);
        }
        for node in &graph.node {
            self.node(node, &mut made, outer, &mut constants)?;
        }
        let mut outputs: BTreeSet<&str> = BTreeSet::new();
        for output in &graph.output {
            new_name(&mut outputs, &output.name, "output")?;
            if !made.contains(output.name.as_str()) {
                return Err(PrescanError::Wiring(format!("nothing makes output {:?}", output.name)));
            }
        }
        Ok(())
    }

    fn node<'g>(
        &mut self,
        node: &'g Node,
        made: &mut BTreeSet<&'g str>,
        outer: Option<&Scope<'_, 'g>>,
        constants: &mut BTreeMap<&'g str, &'g Tensor>,
    ) -> Result<(), PrescanError> {
        self.operator(node)?;
        let scope = Scope { names: made, outer };
        for name in node.input.iter().filter(|name| !name.is_empty()) {
            if !scope.knows(name) {
                return Err(PrescanError::Wiring(format!("{} reads {name:?}, which nothing before it makes", describe(node))));
            }
        }
        for attribute in &node.attribute {
            attributes::check(node, attribute, self.limits)?;
            for body in attribute.g.iter().chain(&attribute.graphs) {
                self.graph(body, Some(&scope))?;
            }
        }
        attributes::check_sizes(node, constants, self.limits)?;
        check_trees(node)?;
        ops::check(&node.op_type, node).map_err(|problem| PrescanError::Attributes { node: describe(node), problem })?;
        if node.op_type == "Constant"
            && let (Some(name), Some(tensor)) = (node.output.first(), node.attribute.iter().find_map(|a| a.t.as_ref()))
        {
            constants.insert(name, tensor);
            self.parameters += tensors::elements(&tensor.dims).unwrap_or(0);
        }
        if node.output.iter().all(String::is_empty) {
            return Err(PrescanError::Wiring(format!("{} makes nothing", describe(node))));
        }
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            new_name(made, name, "value")?;
        }
        Ok(())
    }

    fn operator(&mut self, node: &Node) -> Result<(), PrescanError> {
        let known =
            self.domains.contains(&node.domain) || (allow::is_standard(&node.domain) && self.domains.iter().any(|d| allow::is_standard(d)));
        if !known || !allow::is_allowed(&node.domain, &node.op_type) {
            let cut = |text: &str| text.chars().take(60).collect();
            return Err(PrescanError::Operator { domain: cut(&node.domain), op: cut(&node.op_type), node: describe(node) });
        }
        self.nodes += 1;
        let name = if allow::is_standard(&node.domain) { node.op_type.clone() } else { format!("{}:{}", node.domain, node.op_type) };
        *self.operators.entry(name).or_default() += 1;
        Ok(())
    }
}

fn new_name<'g>(names: &mut BTreeSet<&'g str>, name: &'g str, what: &str) -> Result<(), PrescanError> {
    if name.is_empty() {
        return Err(PrescanError::Wiring(format!("{what} without a name")));
    }
    if !names.insert(name) {
        return Err(PrescanError::Wiring(format!("two {what}s are named {:?}", name.chars().take(80).collect::<String>())));
    }
    Ok(())
}
