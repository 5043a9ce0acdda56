//! What a data directory says about its device, whether the agent runs or not. Changes nothing there.
use std::path::Path;

use super::disk::stored_in;
use super::run::identity;
use crate::agent::Agent;

/// Lines for people.
pub fn status(dir: &Path) -> anyhow::Result<Vec<String>> {
    let identity = identity(dir)?;
    let mut lines = vec![
        format!("device       {} of {}", identity.device, identity.tenant),
        format!("key          {}", identity.key.public()),
        format!("broker       {}:{}", identity.broker.host, identity.broker.port),
        format!("artifacts    {}", identity.artifacts),
    ];
    lines.extend(Agent::describe(&stored_in(dir)?));
    Ok(lines)
}
