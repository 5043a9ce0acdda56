//! From a seed to a story: how many devices, what is released when, what goes wrong when.
//!
//! A story is a value, so that it can be printed, replayed and made shorter. It has a storm, in which anything may happen, and
//! a calm after it, in which the fleet must come to rest; times are milliseconds from the beginning.
use leeway_protocol::assignment::{CapturePolicy, Probation, Shadow, Windows};

use crate::fault::{self, Fault};
use crate::model::Behaviour;
use crate::rng::Rng;

/// When the first release is there.
pub const FIRST_RELEASE_MS: u64 = 2_000;
/// Length of the storm in a story of single devices.
const STORM_MS: u64 = 240_000;

/// What the people and the controller do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A release is made, signed and published.
    Release(Behaviour),
    /// The `release`-th release is assigned to this share of the devices, percent.
    Assign {
        /// Which, from 0.
        release: usize,
        /// To how many.
        percent: u8,
        /// As a rollback.
        rollback: bool,
    },
    /// The `release`-th release is revoked by the offline keys.
    Revoke(usize),
    /// Everything older than the `release`-th release is below the floor.
    Floor(usize),
    /// The controller signs freshness anew.
    Refresh,
    /// The controller is killed and started again.
    Restart,
}

/// A story.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Where all further chance comes from.
    pub seed: u64,
    /// Devices.
    pub devices: usize,
    /// How long the storm lasts.
    pub storm_ms: u64,
    /// Whether they leave the factory with a model.
    pub factory: bool,
    /// Whether the adversary holds the controller's director key.
    pub stolen_director: bool,
    /// Bytes a model has beyond its word; long ones are downloaded in pieces.
    pub padding: usize,
    /// What is done when.
    pub acts: Vec<(u64, Act)>,
    /// What goes wrong when, and where.
    pub faults: Vec<Fault>,
}

impl Scenario {
    /// The story of a seed.
    pub fn of(seed: u64, devices: usize) -> Self {
        let rng = Rng::new(seed).fork("scenario", 0);
        let mut choice = rng.fork("choices", 0);
        let factory = choice.chance(0.5);
        let stolen_director = choice.chance(0.25);
        let padding = [0, 0, 700, 3_000][choice.index(4)];
        let acts = acts(&mut rng.fork("acts", 0));
        let faults = fault::draw(&mut rng.fork("faults", 0), devices, STORM_MS, factory);
        Self { seed, devices, storm_ms: STORM_MS, factory, stolen_director, padding, acts, faults }
    }

    /// Releases the story makes.
    pub fn releases(&self) -> usize {
        self.acts.iter().filter(|(_, act)| matches!(act, Act::Release(_))).count()
    }
}

/// A good first release for everyone, then one to three more of any kind, some taken back, revoked or walled off.
fn acts(rng: &mut Rng) -> Vec<(u64, Act)> {
    let mut acts = vec![
        (FIRST_RELEASE_MS, Act::Release(Behaviour::Serves { accuracy: 90 })),
        (FIRST_RELEASE_MS + 1_000, Act::Assign { release: 0, percent: 100, rollback: false }),
    ];
    let (mut at, mut newest_good) = (FIRST_RELEASE_MS + 1_000, 0);
    for release in 1..=rng.between(1, 2) as usize {
        at += rng.between(20_000, 70_000);
        let behaviour = behaviour(rng);
        acts.push((at, Act::Release(behaviour)));
        let percent = [100, 100, 50, 25][rng.index(4)];
        acts.push((at + rng.between(0, 2_000), Act::Assign { release, percent, rollback: false }));
        let after = at + rng.between(10_000, 60_000);
        if behaviour.is_kept() && rng.chance(0.7) {
            newest_good = release;
            acts.push((after, Act::Assign { release, percent: 100, rollback: false }));
            if rng.chance(0.5) {
                acts.push((after + 1_000, Act::Floor(release)));
            }
        } else {
            acts.push((after, Act::Assign { release: newest_good, percent: 100, rollback: true }));
            if rng.chance(0.4) {
                acts.push((after + rng.between(0, 20_000), Act::Revoke(release)));
            }
        }
        at = after;
    }
    if rng.chance(0.3) {
        acts.push((rng.between(10_000, STORM_MS), Act::Refresh));
    }
    if rng.chance(0.4) {
        acts.push((rng.between(5_000, STORM_MS), Act::Restart));
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

fn behaviour(rng: &mut Rng) -> Behaviour {
    let after_secs = rng.between(0, 30) as u32;
    match rng.below(14) {
        0 => Behaviour::CrashesOnLoad,
        1 => Behaviour::HangsOnLoad,
        2 => Behaviour::CrashesServing { after_secs },
        3 => Behaviour::HangsServing { after_secs },
        4 => Behaviour::IsSlow,
        5 => Behaviour::AnswersNan,
        6 => Behaviour::MissesGolden,
        n => Behaviour::Serves { accuracy: 60 + 5 * (n as u8 - 7) },
    }
}

/// How devices in a story install: as in production, only faster.
pub fn policies() -> (Shadow, Probation, Windows, CapturePolicy) {
    let shadow = Shadow { min_inferences: 20, max_ms: 20_000, max_disagreement: 1.0 };
    let probation = Probation { min_ms: 10_000, min_inferences: 50, boots: 3, max_error_ratio: 0.02 };
    let windows = Windows { max_inferences: 1_000, max_ms: 30_000 };
    (shadow, probation, windows, CapturePolicy::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_differ_and_every_kind_of_trouble_occurs() {
        let stories: Vec<Scenario> = (0..300).map(|seed| Scenario::of(seed, 4)).collect();
        assert_eq!(stories[7], Scenario::of(7, 4));
        assert_ne!(stories[7].acts, stories[8].acts);
        let any = |found: fn(&Act) -> bool| stories.iter().any(|s| s.acts.iter().any(|(_, act)| found(act)));
        assert!(any(|act| matches!(act, Act::Revoke(_))) && any(|act| matches!(act, Act::Floor(_))));
        assert!(any(|act| matches!(act, Act::Restart)) && any(|act| matches!(act, Act::Refresh)));
        assert!(any(|act| matches!(act, Act::Assign { rollback: true, .. })));
        for story in &stories {
            assert!(story.acts.windows(2).all(|w| w[0].0 <= w[1].0));
            assert!(story.acts.iter().all(|(_, act)| !matches!(act, Act::Assign { release, .. } if *release >= story.releases())));
        }
    }
}
