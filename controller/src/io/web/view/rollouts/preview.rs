//! What a rollout would do, before it is one: checked like the real one, and changing nothing.
use super::{Look, target_words};
use crate::io::web::resource::rollout::{PlannedStage, RolloutPlan};
use crate::io::web::view::Facts;
use crate::io::web::words;
use crate::rollout::possible;

/// A rollout that was asked for cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::io::web) enum Refusal {
    /// Line or version does not exist.
    Missing(String),
    /// It does not add up.
    Invalid(String),
}

impl Facts<'_> {
    /// What a rollout would do, checked like the real one.
    pub(in crate::io::web) fn plan(&self, new: &crate::io::control::NewRollout) -> Result<RolloutPlan, Refusal> {
        let line = self.snapshot.lines.get(&new.line).ok_or_else(|| Refusal::Missing(format!("there is no model line {}", new.line)))?;
        let version = self.snapshot.version(&new.line, &new.version);
        let version =
            version.ok_or_else(|| Refusal::Missing(format!("line {} has no version {}: publish it first", new.line, new.version)))?;
        if !version.is_assignable() {
            return Err(Refusal::Invalid(format!(
                "version {} is {}: {}",
                new.version,
                version.status.as_str(),
                version.status.reason().unwrap_or_default()
            )));
        }
        let policy = new.policy.as_ref().unwrap_or(&line.rollout);
        policy.check().map_err(|e| Refusal::Invalid(e.to_string()))?;
        let baseline = line.champion().filter(|c| **c != new.version).cloned();
        let compares = baseline.is_some();
        if let Some(why) = possible::never(policy, compares) {
            return Err(Refusal::Invalid(why));
        }
        let spec = crate::rollout::RolloutSpec { line: new.line.clone(), version: new.version.clone(), baseline, policy: policy.clone() };
        let id = new.id.clone().or_else(|| "planned".parse().ok()).ok_or_else(|| Refusal::Invalid("give the rollout a name".to_owned()))?;
        let rollout = crate::rollout::Rollout::new(id, spec, new.reason.clone(), crate::rollout::Actor::Controller, self.now);
        let look = Look::new(self, &rollout);
        let stages: Vec<PlannedStage> = policy
            .stages
            .iter()
            .enumerate()
            .map(|(i, s)| PlannedStage { name: s.name.clone(), target: target_words(s), devices: look.stage_target(i), soak_ms: s.soak_ms })
            .collect();
        let reach = stages.iter().map(|s| s.devices).max().unwrap_or(0);
        let total = self.snapshot.fleet.len() as u64;
        let away = self.snapshot.fleet.iter().filter(|d| !d.presence.online).count() as u64;
        let mut left_out = Vec::new();
        if total > look.scope(None) as u64 {
            left_out.push(format!("{} in no cohort of line {}.", devices_are(total - look.scope(None) as u64), new.line));
        }
        if away > 0 {
            left_out.push(format!("{} offline now and would be told when back.", devices_are(away)));
        }
        let members: Vec<usize> = policy.stages.iter().map(|stage| look.scope(Some(stage))).collect();
        let bytes = reach * (version.model.length + version.manifest.length);
        let stages_word = words::plural(stages.len() as u64, "stage");
        Ok(RolloutPlan {
            sentence: format!(
                "{} {} would reach {} in {stages_word}, moving at most {}.",
                new.line,
                new.version,
                words::plural(reach, "device"),
                words::bytes(bytes)
            ),
            stages,
            left_out,
            warnings: possible::not_yet(policy, compares, &members),
            bytes,
            forecast: None,
        })
    }
}

fn devices_are(n: u64) -> String {
    if n == 1 { "1 device is".to_owned() } else { format!("{} devices are", words::count(n)) }
}
