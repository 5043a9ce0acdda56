//! Who comes first: a salted hash per device, ranked within each stratum.
//!
//! The database's order is not a sample (hawkBit's first group is whatever a page query gives), and a bare hash threshold is
//! lumpy at canary size: 5 % of 60 devices by threshold is anything from 0 to 7, maybe all on one coast. So devices are
//! ranked by hash *within* their stratum, and the strata are interleaved by relative rank: any prefix of the order is spread
//! over the strata in proportion. What stays true: the order depends on the salt and the names only; a longer prefix contains
//! every shorter one (widening removes nobody); canaries come from the front and controls from the back, so they never meet
//! as long as their counts add up to at most all.
use std::collections::BTreeMap;

use leeway_protocol::digest::Hasher;

/// A device's position in the rollout's draw.
pub fn bucket(salt: &str, device: &str) -> u64 {
    let mut hasher = Hasher::default();
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update(&(salt.len() as u64).to_le_bytes());
    hasher.update(salt.as_bytes());
    hasher.update(device.as_bytes());
    let digest = hasher.finish();
    digest.as_bytes().iter().take(8).fold(0, |n, byte| (n << 8) | u64::from(*byte))
}

/// Whether a line's permanent hold-back takes a device. By the device's own hash against the share, and not by its rank among others:
/// so it stays held back whoever comes and goes, and a larger share keeps everyone a smaller one held. The price is that a
/// stratum has its share only on average.
pub fn is_held_back(line: &str, device: &str, share: f64) -> bool {
    // 2^64 as a float; the cast saturates.
    share > 0.0 && bucket(&format!("hold-back/{line}"), device) < (share.min(1.0) * 18_446_744_073_709_551_616.0) as u64
}

/// Devices in the order in which a rollout takes them, given as (stratum, device).
pub fn order<'a>(salt: &str, devices: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<&'a str> {
    let mut strata: BTreeMap<&str, Vec<(u64, &str)>> = BTreeMap::new();
    for (stratum, device) in devices {
        strata.entry(stratum).or_default().push((bucket(salt, device), device));
    }
    let mut places = Vec::new();
    for members in strata.values_mut() {
        members.sort_unstable();
        let hashes: Vec<u64> = members.iter().map(|(hash, _)| *hash).collect();
        places.extend(members.iter().map(|&(hash, device)| Place::new(&hashes, hash, device)));
    }
    places.sort_unstable();
    places.into_iter().map(|place| place.device).collect()
}

/// A place in an order of strata that are interleaved by relative rank, as [`order`] has it: the relative rank (2i+1)/(2·size) as an exact
/// fraction, then the hash, then the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    rank: u64,
    size: u64,
    hash: u64,
    device: &'a str,
}

impl<'a> Place<'a> {
    /// The place of a device with this hash among the hashes of its whole stratum, which are in order.
    pub fn new(stratum: &[u64], hash: u64, device: &'a str) -> Self {
        let before = stratum.partition_point(|other| *other < hash) as u64;
        Self { rank: 2 * before + 1, size: 2 * (stratum.len() as u64).max(1), hash, device }
    }
}

impl Ord for Place<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let (one, two) = (u128::from(self.rank) * u128::from(other.size), u128::from(other.rank) * u128::from(self.size));
        one.cmp(&two).then_with(|| (self.hash, self.device).cmp(&(other.hash, other.device)))
    }
}

impl PartialOrd for Place<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// How many of `members` a share allows: rounded down, but at least one for any share above zero, because a canary of nobody
/// tells nothing.
pub fn quota(share: f64, members: usize) -> usize {
    if members == 0 || share.is_nan() || share <= 0.0 {
        return 0;
    }
    // The small term keeps 0.29 * 100 = 28.999999999999996 at 29.
    let floor = (share.min(1.0) * members as f64 + 1e-9).floor() as usize;
    floor.clamp(1, members)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn fleet(cohorts: &[(&str, usize)]) -> Vec<(String, String)> {
        let member = |cohort: &str, i: usize| (cohort.to_owned(), format!("{cohort}-{i}"));
        cohorts.iter().flat_map(|(cohort, n)| (0..*n).map(move |i| member(cohort, i))).collect()
    }

    fn ordered(salt: &str, fleet: &[(String, String)]) -> Vec<String> {
        order(salt, fleet.iter().map(|(s, d)| (s.as_str(), d.as_str()))).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn every_prefix_is_spread_over_the_strata() {
        let fleet = fleet(&[("a", 100), ("b", 50), ("c", 10), ("d", 1)]);
        for salt in ["one", "two", "three"] {
            let order = ordered(salt, &fleet);
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 161, "everyone once");
            for n in 1..=order.len() {
                for (stratum, size) in [("a", 100.0), ("b", 50.0), ("c", 10.0), ("d", 1.0)] {
                    let got = order[..n].iter().filter(|d| d.starts_with(stratum)).count() as f64;
                    let fair = size * n as f64 / 161.0;
                    assert!((got - fair).abs() <= 1.0, "{salt}: {got} of {stratum} among the first {n}, fair is {fair}");
                }
            }
        }
    }

    #[test]
    fn the_order_depends_on_the_salt_and_on_nothing_else() {
        let mut fleet = fleet(&[("a", 40), ("b", 40)]);
        let first = ordered("rollout-1", &fleet);
        fleet.reverse();
        assert_eq!(ordered("rollout-1", &fleet), first);
        let overlap = |salt: &str| ordered(salt, &fleet)[..20].iter().filter(|d| first[..20].contains(d)).count();
        let mean = (0..100).map(|i| overlap(&format!("other-{i}"))).sum::<usize>() as f64 / 100.0;
        assert!(
            (3.5..6.5).contains(&mean),
            "two draws of 20 from 80 share 5 on average, here {mean}: the same devices must not always go first"
        );
        assert_ne!(bucket("a", "bc"), bucket("ab", "c"));
    }

    #[test]
    fn a_wider_hold_back_keeps_whom_a_narrower_one_held() {
        let held = |share: f64| (0..2000).filter(|i| is_held_back("rain", &format!("d-{i}"), share)).collect::<Vec<_>>();
        let (none, narrow, wide) = (held(0.0), held(0.02), held(0.1));
        assert!(none.is_empty() && narrow.iter().all(|i| wide.contains(i)));
        assert!((20..70).contains(&narrow.len()) && (150..260).contains(&wide.len()), "{} and {}", narrow.len(), wide.len());
        assert!((0..2000).any(|i| is_held_back("hail", &format!("d-{i}"), 0.1) != wide.contains(&i)), "each line draws anew");
    }

    #[test]
    fn a_draw_looks_random() {
        // Chi-squared over 16 buckets of 16,000 names: 15 degrees of freedom, 37.7 is the 99.9 % point.
        let mut counts = [0f64; 16];
        (0..16_000).for_each(|i| counts[(bucket("salt", &format!("station-{i}")) >> 60) as usize] += 1.0);
        let chi2: f64 = counts.iter().map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi2 < 37.7, "{chi2}");
    }

    #[test]
    fn quotas_round_down_but_a_canary_is_somebody() {
        let table = [
            (0.05, 60, 3),
            (0.05, 59, 2),
            (0.05, 10, 1),
            (0.05, 1, 1),
            (0.05, 0, 0),
            (0.29, 100, 29),
            (1.0, 7, 7),
            (0.999, 7, 6),
            (0.0, 7, 0),
            (-1.0, 7, 0),
            (2.0, 7, 7),
            (f64::NAN, 7, 0),
        ];
        for (share, members, expected) in table {
            assert_eq!(quota(share, members), expected, "{share} of {members}");
        }
    }
}
