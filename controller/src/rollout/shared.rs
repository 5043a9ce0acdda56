//! What do the failing devices share? One table for each label value: how many of the failing have it, how many of the healthy.
//!
//! **Null**: which devices failed has nothing to do with the label. **Method**: the one-sided exact test of Fisher (1935) on the
//! two-by-two table, as the upper tail of the hypergeometric distribution, times the number of values looked at (Bonferroni), so
//! the chance that anything at all is named "no accident" without cause is at most [`ACCIDENT`] at one look. It ranks what a person
//! looks at first; it does not decide by itself, and it is not corrected for being read again and again, which is why a rollout
//! that leaves out a part of the fleet needs the rest to be good as well.
//!
//! What stays true: a value that every device has says nothing and is not listed; order does not depend on the devices' order.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fleet::Device;
use crate::registry::Slice;
use crate::registry::slice::COHORT;

/// At most this adjusted chance for a trait to count as more than an accident.
pub const ACCIDENT: f64 = 0.05;
/// Traits listed.
pub const MAX_TRAITS: usize = 10;
/// Values looked at; a label with a value of its own on each device (a serial number) would bury the others.
const MAX_VALUES: usize = 4096;

/// A label value among failing and healthy devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Trait {
    /// Which.
    #[schema(value_type = String)]
    pub slice: Slice,
    /// Failing devices that have it.
    pub failing_with: usize,
    /// Failing devices.
    pub failing: usize,
    /// Healthy devices that have it.
    pub healthy_with: usize,
    /// Healthy devices.
    pub healthy: usize,
    /// Adjusted chance of so strong a link by accident, 0 to 1.
    pub chance: f64,
    /// The same for people.
    pub sentence: String,
}

impl Trait {
    /// Whether it is more than an accident.
    pub fn is_telling(&self) -> bool {
        self.chance <= ACCIDENT
    }
}

/// Everything a device is that it may share with others: its labels and its cohort.
pub fn slices_of<'a>(device: &'a Device, cohort: Option<&'a str>) -> impl Iterator<Item = Slice> + 'a {
    let labels = device.labels.iter().map(|(key, value)| Slice::new(key, value));
    labels.chain(cohort.map(|name| Slice::new(COHORT, name)))
}

/// Traits of failing devices, the most telling first. Each device is the list of what it is: labels, cohort, agent.
pub fn shared(failing: impl IntoIterator<Item = Vec<Slice>>, healthy: impl IntoIterator<Item = Vec<Slice>>) -> Vec<Trait> {
    let mut counts: BTreeMap<Slice, (usize, usize)> = BTreeMap::new();
    let (mut sick, mut well) = (0, 0);
    for slices in failing {
        sick += 1;
        for slice in slices {
            if counts.len() < MAX_VALUES || counts.contains_key(&slice) {
                counts.entry(slice).or_default().0 += 1;
            }
        }
    }
    for slices in healthy {
        well += 1;
        for slice in slices {
            if counts.len() < MAX_VALUES || counts.contains_key(&slice) {
                counts.entry(slice).or_default().1 += 1;
            }
        }
    }
    let looked_at = counts.values().filter(|(a, b)| a + b < sick + well).count().max(1) as f64;
    let mut traits: Vec<Trait> = counts
        .into_iter()
        .filter(|(_, (a, b))| *a > 0 && a + b < sick + well)
        .map(|(slice, (with, well_with))| {
            let chance = (upper_tail(with, sick, well_with, well) * looked_at).min(1.0);
            let sentence = sentence(&slice, with, sick, well_with, well, chance);
            Trait { slice, failing_with: with, failing: sick, healthy_with: well_with, healthy: well, chance, sentence }
        })
        .collect();
    traits.sort_by(|a, b| a.chance.total_cmp(&b.chance).then(b.failing_with.cmp(&a.failing_with)).then_with(|| a.slice.cmp(&b.slice)));
    traits.truncate(MAX_TRAITS);
    traits
}

fn sentence(slice: &Slice, with: usize, sick: usize, well_with: usize, well: usize, chance: f64) -> String {
    let link = match chance {
        c if c < 1e-4 => "no accident".to_owned(),
        c if c <= ACCIDENT => format!("hardly an accident ({:.2} %)", c * 100.0),
        _ => "may be an accident".to_owned(),
    };
    format!("{with} of {sick} failing devices have {slice}, and {well_with} of {well} healthy ones: {link}.")
}

/// Chance of at least `with` marked ones among `sick` drawn from all, with `with + well_with` marked in all.
fn upper_tail(with: usize, sick: usize, well_with: usize, well: usize) -> f64 {
    let (all, marked) = (sick + well, with + well_with);
    let most = marked.min(sick);
    let whole = ln_choose(all, sick);
    (with..=most).map(|k| (ln_choose(marked, k) + ln_choose(all - marked, sick - k) - whole).exp()).sum::<f64>().min(1.0)
}

/// ln of n over k; minus infinity where there is no way.
fn ln_choose(n: usize, k: usize) -> f64 {
    if k > n {
        return f64::NEG_INFINITY;
    }
    // 1/B(k+1, n-k+1) is (n+1) times n over k.
    -crate::sequential::ln_beta(k as f64 + 1.0, (n - k) as f64 + 1.0) - ((n + 1) as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(of: &[(&str, usize)]) -> Vec<Vec<Slice>> {
        of.iter().flat_map(|(labels, n)| std::iter::repeat_n(labels.split(',').map(|l| l.parse().unwrap()).collect(), *n)).collect()
    }

    #[test]
    fn the_tail_is_the_hypergeometric_one() {
        // (with, sick, well_with, well) and the chance by counting: the lady who tasted tea, and small tables by hand.
        let table = [(4, 4, 0, 4, 1.0 / 70.0), (3, 4, 1, 4, 17.0 / 70.0), (3, 3, 0, 12, 1.0 / 455.0), (0, 3, 2, 3, 1.0), (1, 1, 0, 1, 0.5)];
        for (with, sick, well_with, well, chance) in table {
            let got = upper_tail(with, sick, well_with, well);
            assert!((got - chance).abs() < 1e-9, "{with}/{sick} {well_with}/{well}: {got}, not {chance}");
        }
    }

    #[test]
    fn what_all_failing_devices_share_comes_first_and_what_everybody_has_is_left_out() {
        let found = shared(
            devices(&[("hw=b,site=x,os=1", 6), ("hw=b,site=y,os=1", 3)]),
            devices(&[("hw=a,site=x,os=1", 20), ("hw=a,site=y,os=1", 20)]),
        );
        assert_eq!(found[0].slice.to_string(), "hw=b");
        assert!(found[0].is_telling(), "{:?}", found[0]);
        assert_eq!(found[0].sentence, "9 of 9 failing devices have hw=b, and 0 of 40 healthy ones: no accident.");
        assert!(found[1..].iter().all(|t| !t.is_telling()), "{found:?}");
        assert!(found.iter().all(|t| t.slice.to_string() != "os=1"), "{found:?}");
    }

    #[test]
    fn nothing_is_shared_by_nobody() {
        assert_eq!(shared(devices(&[]), devices(&[("hw=a", 3)])), vec![]);
        assert_eq!(shared(devices(&[("hw=a", 1)]), devices(&[])), vec![], "with no healthy device there is nothing to compare with");
    }

    #[test]
    fn without_a_cause_something_is_named_about_as_rarely_as_stated() {
        use rand_chacha::ChaCha8Rng;
        use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let mut below = |n: u32| rng.next_u32() % n;
        let (mut named, worlds) = (0, 1_000);
        for _ in 0..worlds {
            let mut device = || {
                vec![
                    Slice::new("hw", &below(5).to_string()),
                    Slice::new("site", &below(8).to_string()),
                    Slice::new("os", &below(3).to_string()),
                ]
            };
            let (sick, well): (Vec<_>, Vec<_>) = ((0..12).map(|_| device()).collect(), (0..60).map(|_| device()).collect());
            named += usize::from(shared(sick, well).first().is_some_and(Trait::is_telling));
        }
        // 50 expected at most; three standard deviations above is 71.
        assert!(named <= 71, "{named} of {worlds} worlds without a cause named one");
    }
}
