//! Who may say what, and how a receiver knows: keys, TUF 1.0 metadata, per-device assignments, signed uplinks.
//!
//! Two questions are kept apart, as in Uptane. *Which models may run at all* is answered by the image repository: TUF 1.0
//! JSON, signed by offline keys, one delegated role per model line and one for that line's trainer ([`tuf`], [`repository`]).
//! *Which of them this device runs now* is answered by the director: one document per device, signed online ([`director`]).
//! A stolen controller can therefore choose among approved models, or be silent, and nothing else.
//!
//! Received bytes become values in exactly three ways, each a type that only its check can make: [`tuf::VerifiedTarget`],
//! [`director::ApprovedTarget`] and [`envelope::Verified`]. Own client rather than a library: see `tuf` for the reasons.
//!
//! What stays true: nothing here does I/O, reads a clock or draws a random number; seeds, keys and `now` are handed in.
pub mod canonical;
pub mod director;
pub mod envelope;
pub mod keyring;
pub mod metadata;
pub mod repository;
pub mod tuf;

#[cfg(test)]
mod fixture;
