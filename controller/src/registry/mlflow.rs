//! The registry as MLflow's clients see it: its shapes, its search language, its words for errors. Pure; [`crate::io::web`] serves it.
//!
//! Why MLflow's protocol: it is what notebooks, pipelines and other registries already speak. What differs is said and not hidden.
//! A *registered model* is a line, a *model version* is a signed version or a candidate that nobody signed, and is known by a number,
//! because MLflow's clients take nothing else (its name here is the tag `leeway.version`). MLflow's *stages* do not exist (MLflow itself gave them up for aliases), and what the controller knows beyond MLflow's fields comes as tags that begin with
//! `leeway.`. What stays true: no request in this protocol changes what a device is told to run.
pub mod entry;
pub mod filter;
pub mod page;
pub mod refusal;
pub mod source;

pub use entry::{ModelVersion, RegisteredModel};
pub use filter::{Filter, FilterError};
pub use refusal::{Code, Refusal};
pub use source::Source;
