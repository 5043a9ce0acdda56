//! A named part of the fleet: who belongs to it, which line serves it, and what it goes back to.
//!
//! A device belongs to exactly one cohort, the first (by rank, then name) whose selector matches. Overlapping membership
//! would make "this cohort's last known good" ambiguous, and count one device's drift twice.
use std::collections::BTreeMap;
use std::sync::Arc;

use leeway_protocol::ids::{Cohort, Line, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::device::Device;
use super::selector::Selector;

/// A cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CohortDoc {
    /// Its name.
    pub name: Cohort,
    /// The model line that serves it.
    pub line: Line,
    /// Who belongs to it.
    pub selector: Selector,
    /// Lower ranks are asked first; equal ranks by name.
    #[serde(default)]
    pub rank: u32,
    /// What its devices go back to, and new devices start with. Moves when a rollout completes.
    pub last_known_good: Option<Version>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// The cohort a device belongs to; none as long as it is not in the fleet.
pub fn cohort_of<'a>(device: &Device, cohorts: &'a BTreeMap<Cohort, Arc<CohortDoc>>) -> Option<&'a Arc<CohortDoc>> {
    // The map's order is by name, and `min_by_key` keeps the first of equals.
    let fits = |cohort: &&Arc<CohortDoc>| device.admission.is_in() && cohort.selector.matches(&device.labels);
    cohorts.values().filter(fits).min_by_key(|cohort| cohort.rank)
}

/// The cohorts as far as membership depends on them, each with a number: its place by name.
#[derive(Debug, Clone, Default)]
pub struct Homes {
    cohorts: Vec<Arc<CohortDoc>>,
    /// Numbers in the order in which they are asked.
    asked: Vec<u32>,
}

impl Homes {
    /// The number of devices that are in the fleet and match no cohort.
    pub const NOWHERE: u32 = u32::MAX;

    /// All cohorts there are.
    pub fn new(cohorts: &BTreeMap<Cohort, Arc<CohortDoc>>) -> Self {
        let cohorts: Vec<_> = cohorts.values().cloned().collect();
        let mut asked: Vec<(u32, u32)> = cohorts.iter().zip(0..).map(|(cohort, n)| (cohort.rank, n)).collect();
        asked.sort_unstable();
        Self { cohorts, asked: asked.into_iter().map(|(_, n)| n).collect() }
    }

    /// The number of the cohort a device belongs to, as [`cohort_of`] has it; `None` if it is not in the fleet.
    pub fn of(&self, device: &Device) -> Option<u32> {
        let fits = |n: &&u32| self.cohorts.get(**n as usize).is_some_and(|cohort| cohort.selector.matches(&device.labels));
        device.admission.is_in().then(|| self.asked.iter().find(fits).copied().unwrap_or(Self::NOWHERE))
    }

    /// The number of a cohort.
    pub fn number(&self, cohort: &Cohort) -> Option<u32> {
        self.cohorts.binary_search_by(|known| known.name.cmp(cohort)).ok().and_then(|n| u32::try_from(n).ok())
    }

    /// The name of the cohort with this number.
    pub fn name(&self, number: u32) -> Option<&Cohort> {
        self.cohorts.get(number as usize).map(|cohort| &cohort.name)
    }

    /// The numbers of the cohorts of a line.
    pub fn of_line<'a>(&'a self, line: &'a Line) -> impl Iterator<Item = u32> + 'a {
        self.cohorts.iter().zip(0..).filter(|(cohort, _)| cohort.line == *line).map(|(_, n)| n)
    }

    /// What membership depends on.
    pub fn terms(&self) -> Vec<(&Cohort, &Line, &Selector, u32)> {
        self.cohorts.iter().map(|c| (&c.name, &c.line, &c.selector, c.rank)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::name;

    #[test]
    fn a_device_has_one_cohort_by_rank_then_name() {
        let doc = |cohort: &str, selector: &str, rank| {
            let (name, line, selector) = (name(cohort), name("rain"), name(selector));
            (
                self::name_of(cohort),
                Arc::new(CohortDoc { name, line, selector, rank, last_known_good: None, created_at: Timestamp::default() }),
            )
        };
        let cohorts: BTreeMap<Cohort, Arc<CohortDoc>> =
            [doc("all", "region", 9), doc("north", "region=north", 1), doc("beta", "beta", 1)].into();
        let of = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let device = Device::new(name("d"), String::new(), labels, Timestamp::default());
            let found = cohort_of(&device, &cohorts).map(|c| c.name.to_string());
            let number = Homes::new(&cohorts).of(&device).unwrap();
            assert_eq!(found, cohorts.keys().nth(number as usize).map(ToString::to_string), "by number too");
            found
        };
        assert_eq!(of(&[("region", "south")]).as_deref(), Some("all"));
        assert_eq!(of(&[("region", "north")]).as_deref(), Some("north"));
        assert_eq!(of(&[("region", "north"), ("beta", "1")]).as_deref(), Some("beta"), "equal ranks by name");
        assert_eq!(of(&[]), None);
        let labels = [("region".to_owned(), "north".to_owned())].into();
        let mut pending = Device::new(name("d"), String::new(), labels, Timestamp::default());
        assert!(cohort_of(&pending, &cohorts).is_some());
        pending.admission = crate::fleet::Admission::Pending;
        assert!(cohort_of(&pending, &cohorts).is_none() && Homes::new(&cohorts).of(&pending).is_none(), "who is not in belongs nowhere");
    }

    fn name_of(cohort: &str) -> Cohort {
        name(cohort)
    }
}
