//! The dashboard: each page is a pure function from a resource of the API to HTML.
//!
//! Server-rendered with no build step: the same value that the API gives is what a person sees, every page reads without
//! scripts and every action is a plain form. Regions marked `data-live` are taken over by `live.js` when events come in.
pub mod devices;
pub mod drift;
pub mod episodes;
pub mod events;
pub mod fleet;
pub mod layout;
pub mod models;
pub mod rollout;
pub mod session;

mod charts;
mod parts;

#[cfg(test)]
mod tests;
