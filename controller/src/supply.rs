//! Where a model comes from, in forms that other people's tools read: a model signature, provenance, a bill of materials.
//!
//! Three documents, three questions. *Whose bytes are these?* An OpenSSF Model Signing bundle ([`oms`]), for those who do not
//! read TUF. *What were they made from?* SLSA provenance in an in-toto statement ([`provenance`]), signed by the key that signs
//! the release. *What is in them?* A CycloneDX bill of materials ([`bom`]), made from what the controller knows and therefore
//! never stored. Devices read none of them: what they trust is the signed target, which names the digests of the first two.
//!
//! What stays true: everything here is pure, and a document is made from the same values into the same bytes.
pub mod bom;
pub mod dsse;
pub mod oms;
pub mod provenance;

/// The longest bundle or envelope that is read: a bundle lists every file of a model, provenance every dataset.
pub const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// The payload type of every in-toto statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The statement form that is read and written.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
