//! Who a selector would take, before anything is changed: how many, which, and from whom.
//!
//! A device belongs to one cohort, the first by rank whose selector matches. So "matches" and "would belong" are two figures, and
//! what people get wrong is the difference: a wide selector of a late rank matches the fleet and takes nobody.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leeway_protocol::ids::Cohort;
use serde::{Deserialize, Serialize};

use super::{CohortDoc, Fleet, Selector, cohort_of};

/// Devices named as examples.
pub const MAX_EXAMPLES: usize = 10;

/// What a selector would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preview {
    /// The selector in its normal form.
    pub selector: String,
    /// Devices that match it.
    pub matching: u64,
    /// Of these, connected.
    pub online: u64,
    /// Of these, devices that would belong to the cohort: no cohort that is asked earlier takes them.
    pub belonging: u64,
    /// Devices of the cohort now that would not belong to it any more.
    pub leaving: u64,
    /// Some that match, in order of their names.
    pub examples: Vec<String>,
    /// Matching devices by the cohort they are in now.
    pub overlaps: Vec<Overlap>,
    /// The same in a sentence.
    pub sentence: String,
}

/// Matching devices that are in another cohort now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Overlap {
    /// The cohort; absent for devices in none.
    pub cohort: Option<String>,
    /// How many match.
    pub devices: u64,
    /// Whether they would move.
    pub moves: bool,
}

/// What the cohort `name` would take with this selector and rank.
pub fn preview(fleet: &Fleet, cohorts: &BTreeMap<Cohort, Arc<CohortDoc>>, selector: &Selector, rank: u32, name: &Cohort) -> Preview {
    let (mut online, mut belonging, mut leaving, mut matching) = (0, 0, 0, 0);
    let mut examples = BTreeSet::new();
    let mut by_cohort: BTreeMap<Option<&Cohort>, u64> = BTreeMap::new();
    let earlier = |other: &CohortDoc| (other.rank, &other.name) < (rank, name);
    // Its present form does not stand in its own way.
    let others: BTreeMap<Cohort, Arc<CohortDoc>> =
        cohorts.iter().filter(|(other, _)| *other != name).map(|(name, doc)| (name.clone(), doc.clone())).collect();
    for device in fleet.iter().filter(|device| device.admission.is_in()) {
        let matches = selector.matches(&device.labels);
        let joins = matches && !cohort_of(&device, &others).is_some_and(|other| earlier(other));
        let now = cohort_of(&device, cohorts).map(|cohort| &cohort.name);
        leaving += u64::from(!joins && now == Some(name));
        if !matches {
            continue;
        }
        matching += 1;
        online += u64::from(device.presence.online);
        belonging += u64::from(joins);
        *by_cohort.entry(now).or_default() += 1;
        examples.insert(device.id.to_string());
        if examples.len() > MAX_EXAMPLES {
            examples.pop_last();
        }
    }
    let moves = |cohort: &Option<&Cohort>| cohort.is_none_or(|c| c != name && cohorts.get(c).is_some_and(|doc| !earlier(doc)));
    let overlaps: Vec<Overlap> = by_cohort
        .iter()
        .map(|(cohort, devices)| Overlap { cohort: cohort.map(ToString::to_string), devices: *devices, moves: moves(cohort) })
        .collect();
    let sentence =
        format!("{matching} of {} devices match, {belonging} would belong to cohort {name}, and {leaving} would leave it.", fleet.len());
    let examples = examples.into_iter().collect();
    Preview { selector: selector.to_string(), matching, online, belonging, leaving, examples, overlaps, sentence }
}

#[cfg(test)]
mod tests {
    use leeway_protocol::time::Timestamp;

    use super::*;
    use crate::fleet::Device;

    #[test]
    fn matching_belonging_and_leaving_are_three_things() {
        let mut fleet = Fleet::default();
        for (n, labels) in ["region=coast", "region=coast,beta=1", "region=hills", "region=hills,beta=1", "x=1"].iter().enumerate() {
            let labels = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            fleet.insert(Device::new(format!("d-{n}").parse().unwrap(), String::new(), labels, Timestamp::default()));
        }
        let doc = |name: &str, selector: &str, rank| {
            let (line, selector, created_at) = ("rain".parse().unwrap(), selector.parse().unwrap(), Timestamp::default());
            let name: Cohort = name.parse().unwrap();
            (name.clone(), Arc::new(CohortDoc { name, line, selector, rank, last_known_good: None, created_at }))
        };
        let cohorts: BTreeMap<_, _> = [doc("coast", "region=coast", 1), doc("hills", "region=hills", 5)].into();
        let ask = |selector: &str, rank, name: &str| preview(&fleet, &cohorts, &selector.parse().unwrap(), rank, &name.parse().unwrap());
        let beta = ask("beta", 3, "beta");
        assert_eq!((beta.matching, beta.belonging, beta.leaving), (2, 1, 0), "coast is asked earlier, hills later");
        assert_eq!(beta.examples, ["d-1", "d-3"]);
        let moves: Vec<_> = beta.overlaps.iter().map(|o| (o.cohort.as_deref(), o.devices, o.moves)).collect();
        assert_eq!(moves, [(Some("coast"), 1, false), (Some("hills"), 1, true)]);
        let narrower = ask("region=coast,!beta", 1, "coast");
        assert_eq!((narrower.matching, narrower.belonging, narrower.leaving), (1, 1, 1));
        let all = ask("", 9, "rest");
        assert_eq!((all.matching, all.belonging), (5, 1), "a wide selector of a late rank takes whom nobody else does");
    }
}
