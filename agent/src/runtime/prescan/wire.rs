//! A first walk over the raw protobuf that allocates nothing: how many parts would decoding make, and how deep?
//!
//! An empty node takes two bytes in a file and hundreds in memory, so a small file could ask for gigabytes before any check
//! of the decoded graph. Parts that are never allowed (functions, training graphs, sparse weights, data outside the file) are
//! refused right here.
use super::{Limits, PrescanError};

/// What a message counts against a name: about their memory once decoded, in units of 24 bytes or so.
const MESSAGE: u64 = 8;

/// Which message the walk is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    TensorType,
    Shape,
    /// Counted, not entered.
    Leaf,
}

impl Level {
    /// What a length-delimited field of this message holds; `None` for fields that cost no more memory than file.
    fn child(self, field: u64) -> Result<Option<Level>, &'static str> {
        Ok(Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => return Err("a training graph: export the model for inference"),
            (Self::Model, 25) => return Err("functions: export with functions inlined"),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => return Err("sparse tensors: export dense weights"),
            (Self::Attribute, 14 | 15) => return Err("type attributes: export without sequence and optional types"),
            (Self::Tensor, 13) => return Err("weights outside the file: export a single file (no external data)"),
            (Self::Graph, 1) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) => Self::Tensor,
            (Self::Graph, 11..=13) => Self::Value,
            (Self::Node, 5) => Self::Attribute,
            (Self::Value, 2) => Self::Type,
            (Self::Type, 1) => Self::TensorType,
            (Self::TensorType, 2) => Self::Shape,
            (Self::Model, 8 | 14) | (Self::Graph, 14) | (Self::Node, 1 | 2) => Self::Leaf,
            (Self::Attribute, 9) | (Self::Tensor, 6) | (Self::Shape, 1) => Self::Leaf,
            _ => return Ok(None),
        }))
    }
}

/// Walk the bytes of a model.
pub(super) fn walk(bytes: &[u8], limits: &Limits) -> Result<(), PrescanError> {
    let mut walk = Walk { limits, parts: 0, nodes: 0 };
    walk.message(bytes, Level::Model, 0)
}

struct Walk<'a> {
    limits: &'a Limits,
    parts: u64,
    nodes: u64,
}

impl Walk<'_> {
    /// Recursion is bounded: only graphs nest, and their depth is.
    fn message(&mut self, mut bytes: &[u8], level: Level, depth: u64) -> Result<(), PrescanError> {
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            match key & 7 {
                0 => drop(varint(&mut bytes)?),
                1 => drop(split(&mut bytes, 8)?),
                5 => drop(split(&mut bytes, 4)?),
                2 => {
                    let length = varint(&mut bytes)?;
                    let inside = split(&mut bytes, length)?;
                    let child = level.child(key >> 3).map_err(|what| PrescanError::NotAllowed(what.to_owned()))?;
                    if let Some(child) = child {
                        self.enter(inside, child, depth)?;
                    }
                }
                _ => return Err(PrescanError::Malformed),
            }
        }
        Ok(())
    }

    fn enter(&mut self, bytes: &[u8], level: Level, depth: u64) -> Result<(), PrescanError> {
        self.parts += if level == Level::Leaf { 1 } else { MESSAGE };
        PrescanError::bound("parts (names count 1, messages 8)", self.parts, self.limits.parts)?;
        let depth = depth + u64::from(level == Level::Graph);
        PrescanError::bound("levels of nested graphs", depth.saturating_sub(1), self.limits.depth)?;
        if level == Level::Node {
            self.nodes += 1;
            PrescanError::bound("nodes", self.nodes, self.limits.nodes)?;
        }
        if level == Level::Leaf { Ok(()) } else { self.message(bytes, level, depth) }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, PrescanError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(PrescanError::Malformed)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(PrescanError::Malformed)
}

fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], PrescanError> {
    let length = usize::try_from(length).map_err(|_| PrescanError::Malformed)?;
    let (inside, rest) = bytes.split_at_checked(length).ok_or(PrescanError::Malformed)?;
    *bytes = rest;
    Ok(inside)
}
