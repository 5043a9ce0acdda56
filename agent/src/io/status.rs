//! What a data directory says about its device, whether the agent runs or not. Changes nothing there.
use std::path::Path;

use super::clock::now;
use super::disk::stored_in;
use super::renew::Certificates;
use super::run::identity;
use crate::agent::Agent;

/// Lines for people.
pub fn status(dir: &Path) -> anyhow::Result<Vec<String>> {
    let identity = identity(dir)?;
    let certificates = identity.tls.as_ref().map(|tls| Certificates::look(dir, tls)).transpose()?;
    let way = certificates.as_ref().and_then(Certificates::way);
    let (broker, artifacts) = way.unwrap_or((&identity.broker, &identity.artifacts));
    let mut lines = vec![
        format!("device       {} of {}", identity.device, identity.tenant),
        format!("key          {}", identity.key.public()),
        format!("broker       {}:{}{}", broker.host, broker.port, if broker.tls { " over TLS" } else { "" }),
        format!("artifacts    {artifacts}"),
    ];
    lines.extend(certificates.iter().map(|certificates| format!("certificate  {}", certificates.sentence(now()))));
    lines.extend(Agent::describe(&stored_in(dir)?));
    Ok(lines)
}
