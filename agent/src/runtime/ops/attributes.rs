//! Attributes by name, whoever decoded the file: the pre-scan's structs or the engine's. An operator reads and checks itself
//! once, from either, so that what the pre-scan lets pass is what runs.
use tract_onnx::pb;

use crate::runtime::onnx;

/// Why an operator of ours refuses its attributes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub(super) String);

pub(super) fn refuse<T>(what: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(what.into()))
}

/// What to do about texts, which have no place in the tensors of a device.
pub(super) const TEXTS: &str = "a device's tensors hold no text: encode them as integers before training";

/// Attributes by name. Empty lists count as absent, as exporters write them.
pub trait Attributes {
    /// Integers.
    fn ints(&self, name: &str) -> Option<&[i64]>;
    /// Floats.
    fn floats(&self, name: &str) -> Option<&[f32]>;
    /// Texts.
    fn texts(&self, name: &str) -> Option<&[Vec<u8>]>;
    /// One text.
    fn text(&self, name: &str) -> Option<&[u8]>;
    /// One integer.
    fn int(&self, name: &str) -> Option<i64>;
    /// One float.
    fn float(&self, name: &str) -> Option<f32>;
    /// Whether it is there at all.
    fn has(&self, name: &str) -> bool;
}

macro_rules! attributes {
    ($node:ty) => {
        impl Attributes for $node {
            fn ints(&self, name: &str) -> Option<&[i64]> {
                self.attribute.iter().find(|a| a.name == name).map(|a| a.ints.as_slice()).filter(|v| !v.is_empty())
            }
            fn floats(&self, name: &str) -> Option<&[f32]> {
                self.attribute.iter().find(|a| a.name == name).map(|a| a.floats.as_slice()).filter(|v| !v.is_empty())
            }
            fn texts(&self, name: &str) -> Option<&[Vec<u8>]> {
                self.attribute.iter().find(|a| a.name == name).map(|a| a.strings.as_slice()).filter(|v| !v.is_empty())
            }
            fn text(&self, name: &str) -> Option<&[u8]> {
                self.attribute.iter().find(|a| a.name == name).map(|a| a.s.as_slice())
            }
            fn int(&self, name: &str) -> Option<i64> {
                self.attribute.iter().find(|a| a.name == name).map(|a| a.i)
            }
            fn float(&self, name: &str) -> Option<f32> {
                self.attribute.iter().find(|a| a.name == name).map(|a| a.f)
            }
            fn has(&self, name: &str) -> bool {
                self.attribute.iter().any(|a| a.name == name)
            }
        }
    };
}

attributes!(onnx::Node);
attributes!(pb::NodeProto);

/// The labels of a classifier: integers, or places among texts.
///
/// The labels given as texts would be a tensor of texts; the place among them is what a device can say. The output is declared
/// as text in the file, so a publisher is told before that is ever seen.
pub(super) fn labels(node: &impl Attributes, most: usize) -> Result<Vec<i64>, Refused> {
    let labels = match (node.ints("classlabels_ints"), node.texts("classlabels_strings")) {
        (Some(labels), None) => labels.to_vec(),
        (None, Some(texts)) => (0..texts.len() as i64).collect(),
        _ => return refuse("class labels must be given either as integers or as texts"),
    };
    if labels.len() > most {
        return refuse(format!("{} class labels are more than {most}", labels.len()));
    }
    Ok(labels)
}
