//! The registry: model lines, their versions, who is champion, and where each version comes from.
//!
//! The registry never decides what a device may run; the offline-signed image repository does. It remembers what was
//! published there, and what the controller has learnt about it since (poisoned, deprecated), which is why statuses live here
//! and not in signed metadata; and what people and other tools write about lines and versions (names, tags, candidates), which
//! decides nothing. What stays true: a version, once registered, keeps its digest; alias history only grows.
pub mod alias;
pub mod book;
pub mod hand;
pub mod lineage;
pub mod mlflow;
pub mod model;
pub mod names;
pub mod slice;
pub mod tags;
pub mod version;

pub use alias::{Alias, AliasChange, AliasError, Aliases};
pub use book::{Book, Candidate, NewCandidate, Note};
pub use lineage::{LineageEdge, LineageGraph, LineageNode};
pub use model::{ModelLine, RetrainPolicy};
pub use names::{AliasName, NameChange, Names};
pub use slice::{Poisoned, Slice, SliceError};
pub use tags::{TagChanges, Tags};
pub use version::{ModelVersion, RegisterError, Role, VersionStatus};
