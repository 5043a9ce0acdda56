//! What the offline targets keys say about a model line as a whole: the floor, the revoked releases, the trainer's grant.
//!
//! It lives in `signed.custom.lines` of the top-level targets, so no online key and no release key can change it. A policy
//! that cannot be read makes the whole document unreadable: a device never goes on with half a policy.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{MetadataError, rule};
use crate::digest::Digest;
use crate::ids::Line;
use crate::trust::repository::trainer_role;

/// Revoked releases one line may list; beyond this the floor is the right tool.
pub const MAX_REVOKED: usize = 256;

/// The policy of every line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// By line.
    #[serde(default)]
    pub lines: BTreeMap<Line, LinePolicy>,
}

/// The policy of one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinePolicy {
    /// Releases with a lower `seq` are refused.
    #[serde(default)]
    pub min_seq: u64,
    /// Digests of models or manifests that must not run, not even where they already do.
    #[serde(default)]
    pub revoked: BTreeSet<Digest>,
    /// The trainer that may release for this line without a person, if any.
    #[serde(default)]
    pub trainer: Option<TrainerGrant>,
}

/// A trainer's grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainerGrant {
    /// Its delegated role, `<line>-auto`.
    pub role: String,
    /// `Manifest::io_digest` of the models it may release: same inputs and outputs as the line has.
    pub io: Digest,
}

impl LinePolicy {
    /// Is this digest, of a model or of a manifest, revoked?
    pub fn is_revoked(&self, digest: &Digest) -> bool {
        self.revoked.contains(digest)
    }
}

impl Policy {
    /// From a targets document's `custom`; no `lines` is no policy, rubbish is an error.
    pub(super) fn read(custom: Option<&Value>) -> Result<Self, MetadataError> {
        let Some(lines) = custom.and_then(|custom| custom.get("lines")) else { return Ok(Self::default()) };
        let lines = BTreeMap::<Line, LinePolicy>::deserialize(lines)
            .map_err(|e| MetadataError::Rule(format!("the line policy cannot be read: {e}")))?;
        // One role name for two purposes would let one key speak for the other's paths.
        if let Some(line) = lines.keys().find(|line| lines.keys().any(|other| other.as_str() == trainer_role(line))) {
            return rule(format!("the trainer role of line {line} has the name of another line: rename that one"));
        }
        match lines.iter().find(|(_, policy)| policy.revoked.len() > MAX_REVOKED) {
            Some((line, _)) => rule(format!("line {line} revokes more than {MAX_REVOKED} releases: raise min_seq instead")),
            None => Ok(Self { lines }),
        }
    }

    /// `custom` with this policy in it and everything else as it was.
    pub fn write_into(&self, custom: Option<Value>) -> Value {
        let mut fields = match custom {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        // A policy is strings, whole numbers and maps of them: it always has a JSON form.
        fields.insert("lines".to_owned(), serde_json::to_value(&self.lines).unwrap_or_default());
        Value::Object(fields)
    }
}
