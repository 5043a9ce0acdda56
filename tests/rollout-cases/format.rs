//! The cases as they are written. Unknown words are refused: a misspelt expectation would be one that never fails.
use std::collections::BTreeMap;

use serde::Deserialize;

/// Traps that existing engines fall into; each has at least one case.
pub const TRAPS: [&str; 14] = [
    "complete-group-bypass",
    "resume-skips-the-failed-stage",
    "silence-dilutes",
    "no-data-passes",
    "not-judged-while-paused",
    "joiners-bypass-the-rate",
    "queued-never-times-out",
    "stuck-forever",
    "rejoining-resets-retries",
    "abort-leaves-devices-behind",
    "revert-keeps-the-success",
    "installed-is-not-running",
    "author-approves",
    "widening-removes-devices",
];

/// One story.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, unique in the suite.
    pub case: String,
    /// What it is about, in a sentence.
    #[serde(rename = "about")]
    pub _about: String,
    /// The trap it guards against, one of [`TRAPS`].
    pub trap: Option<String>,
    /// Cohorts and how many devices each has; all connected, all on version 1.
    #[serde(default = "twenty")]
    pub fleet: BTreeMap<String, usize>,
    /// No version runs yet.
    #[serde(default)]
    pub first_version: bool,
    /// How version 2 is brought out (version 1, if it is the first).
    #[serde(default)]
    pub policy: Policy,
    /// Rules of the line besides the rollout's own.
    pub hold_back: Option<f64>,
    /// The rollout cannot even be asked for; words of the refusal.
    pub refused: Option<String>,
    /// What happens.
    #[serde(default)]
    pub steps: Vec<Step>,
}

fn twenty() -> BTreeMap<String, usize> {
    BTreeMap::from([("north".to_owned(), 20)])
}

/// How a version is brought out; absent parts are as in the README's table of defaults.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub stages: Option<Vec<Stage>>,
    pub control: Option<f64>,
    pub per_minute: Option<u32>,
    pub ramp: Option<Ramp>,
    pub in_flight: Option<u32>,
    pub timers: Option<Timers>,
    pub abort: Option<Vec<Abort>>,
    pub retries: Option<Retries>,
    pub approval: Option<bool>,
    pub proof_inferences: Option<u32>,
    pub hold_back: Option<f64>,
    pub balance_by: Option<String>,
    pub slice_by: Option<Vec<String>>,
    pub max_failed: Option<u32>,
    pub max_errors: Option<f64>,
    pub user_metrics: Option<Vec<UserMetric>>,
    pub min_devices: Option<u32>,
    pub min_inferences: Option<u64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    pub name: String,
    pub share: f64,
    pub cohorts: Option<Vec<String>>,
    pub labels: Option<String>,
    pub soak: Option<String>,
    pub deadline: Option<String>,
    pub success_share: Option<f64>,
    pub on_success: Option<String>,
    pub approval: Option<bool>,
    pub membership: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    pub base: u32,
    pub factor: f64,
    pub every: BTreeMap<String, u32>,
    pub max: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timers {
    pub offline: Option<String>,
    pub unseen: Option<String>,
    pub stuck: Option<String>,
    pub silent: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    pub failure: String,
    pub share: f64,
    pub min: u32,
    pub action: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserMetric {
    pub name: String,
    /// `higher`, `lower`; not said, it cannot be judged.
    pub better: Option<String>,
    /// `always`, `if_seen`, `observe`.
    pub need: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    pub max: u32,
    pub after: String,
}

/// One event (or none), then what must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Step {
    /// Devices do what they are told, second by second, and serve.
    pub pass: Option<String>,
    /// Time passes, and no device does anything.
    pub wait: Option<String>,
    /// Time passes at once: the engine looks again only at its end.
    pub skip: Option<String>,
    /// Devices report something.
    pub report: Option<Report>,
    /// How devices take to it while time passes.
    pub behave: Option<Behave>,
    /// Devices disconnect.
    pub offline: Option<String>,
    /// Devices connect.
    pub online: Option<String>,
    /// What both sides measure while time passes.
    pub serve: Option<Serve>,
    /// Devices are enrolled.
    pub join: Option<Join>,
    /// Devices change their cohort.
    pub relabel: Option<Relabel>,
    /// A person does something.
    pub person: Option<Person>,
    /// The file in Git says something else now.
    pub amend: Option<Amend>,
    /// A person yanks the version.
    pub yank: Option<bool>,
    /// The engine is killed and reads its state again.
    pub restart: Option<bool>,
    /// What must hold then.
    pub expect: Option<Expect>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub who: String,
    /// `seen`, `fetching`, `trial`, `committed`, `refused`, `reverted`, `waits-for-window`, `waits-for-clock`.
    pub state: String,
    pub reason: Option<String>,
    pub inferences: Option<u64>,
    pub golden: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behave {
    pub who: String,
    /// `well`, `refuses`, `reverts`, `hangs`, `deaf`, `waits-for-window`, `unproven`, `mute`.
    #[serde(rename = "as")]
    pub how: String,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    pub canary: Option<Side>,
    pub control: Option<Side>,
    /// Where canaries serve otherwise.
    pub canary_with: Option<SideWith>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Side {
    pub errors: f64,
    /// What applications tell of every inference, as a mean.
    pub user: BTreeMap<String, f64>,
}

/// Devices with `hw` of this value.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideWith {
    pub hw: char,
    pub errors: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub cohort: String,
    pub count: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relabel {
    pub who: String,
    /// A cohort, or `nowhere`.
    pub to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// `approve`, `pause`, `resume`, `promote`, `promote-all`, `abort`, `retry`, `dismiss`.
    pub does: String,
    #[serde(default = "bob")]
    pub name: String,
    /// `current`, or `old`: the one before.
    pub revision: Option<String>,
    pub check: Option<String>,
}

fn bob() -> String {
    "bob".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amend {
    pub policy: Policy,
    #[serde(default = "bob")]
    pub by: String,
}

/// What must hold; only what is named is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    pub phase: Option<String>,
    /// From 1.
    pub stage: Option<usize>,
    pub soaking: Option<bool>,
    /// Devices that were ever told the version.
    pub told: Option<usize>,
    /// Assignments of the version that this step brought, retries included.
    pub told_now: Option<usize>,
    /// Never more assignments of the version within any minute so far.
    pub most_per_minute: Option<usize>,
    /// Devices whose latest assignment takes them back.
    pub sent_back: Option<usize>,
    pub controls: Option<usize>,
    /// Devices by place.
    pub devices: BTreeMap<String, usize>,
    /// Devices that say they run the version.
    pub on_version: Option<usize>,
    pub gate: Option<String>,
    pub checks: BTreeMap<String, String>,
    pub champion: Option<String>,
    pub version_is: Option<String>,
    /// Words of the refusal of what a person asked for.
    pub refused: Option<String>,
    /// Words that some sentence has.
    pub says: Vec<String>,
    /// Words that no sentence has.
    pub says_not: Vec<String>,
}
