//! The operator's side: HTTP API, live stream, dashboard.
pub mod error;
pub mod pages;
pub mod resource;
pub mod words;

mod assets;
mod range;
mod view;
