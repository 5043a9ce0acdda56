//! Two groups of devices, each device one positive number: is one group slower than the other by more than a factor, anywhere?
//!
//! **Null**: for every x, the share of the first group at x·factor or above is not larger than the share of the second at x or
//! above (the first, divided by the factor, is stochastically not larger). **Guarantee**: the chance that [`slower`] ever reaches
//! ln(1/α) is at most α, looked at after every device, exact at any size, whatever the two distributions are.
//!
//! **Method**: at one x this is a comparison of two shares, for which [`super::bets::excess`] has an e-process (betting, Waudby-Smith
//! and Ramdas, JRSS B 2024). Values are put on a ladder of [`STEPS`] rungs to the octave, and the e-processes of all its rungs are
//! *averaged*: a mean of e-processes is one, whatever they have to do with each other. So the whole distribution is watched at a
//! price of ln(rungs) at most, and less as neighbouring rungs gain together.
//!
//! **Why not the confidence bands** that Netflix's canaries are judged with (Lindon, Sanden and Shirikian, KDD 2022): two bands that
//! hold for all x and all t at once (Howard and Ramdas, Bernoulli 2022, Theorem 2: radius 0.85·√((ln ln(e·t) + 0.8·ln(1612/α))/t))
//! must come apart. They are made for millions of requests. With 20 devices the radius is 0.65 and nothing can be proven; with 100
//! canaries and 400 controls that are of three kinds of hardware, four times as slow is found in 54 % of rollouts, and the ladder
//! finds it in all, after 16 canaries in the median. A bet on the mean of the logarithms finds it in 83 %, after 90. `bench_gate` prints the table.
//!
//! **The median** and its interval are shown beside: a fixed quantile's confidence sequence (Howard and Ramdas, Theorem 1's kind),
//! the values that bets on "half of the devices lie above" do not refute.
//!
//! What stays true: nothing here is random; the same devices in any order give the same evidence.
use serde::{Deserialize, Serialize};

use super::bets::{Values, excess};
use super::log_mean;

/// Rungs in an octave: a rung is 9 % of a value.
pub const STEPS: f64 = 8.0;
/// Octaves above 1 at which the ladder begins and ends: a microsecond to a minute, in nanoseconds. What lies outside counts as its end.
const ENDS: (f64, f64) = (10.0, 36.0);
/// Rungs.
const RUNGS: f64 = (ENDS.1 - ENDS.0) * STEPS;
/// Shares of the wealth that are bet on "more than half lie above".
const BETS: [f64; 7] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9];

/// The values of one group of devices.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// Devices.
    pub devices: u64,
    /// Devices on each rung that holds any: (rung, devices), in order.
    rungs: Vec<(u16, u64)>,
}

/// A group's median with the confidence sequence of it, as logarithms to base 2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Median {
    /// Of what was seen.
    pub value: f64,
    /// Lower end; `None` while too few were seen.
    pub lower: Option<f64>,
    /// Upper end.
    pub upper: Option<f64>,
}

/// Where the first group is slower most surely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// Logarithm to base 2 of the second group's value.
    pub at: f64,
    /// Share of the first group at `at` and the factor, or above.
    pub high: f64,
    /// Share of the second at `at` or above.
    pub low: f64,
}

impl Ladder {
    /// Take in a device whose value has this logarithm to base 2.
    pub fn add(&mut self, octaves: f64) {
        let rung = ((octaves.clamp(ENDS.0, ENDS.1) - ENDS.0) * STEPS).floor().min(RUNGS - 1.0) as u16;
        self.devices += 1;
        match self.rungs.binary_search_by_key(&rung, |r| r.0) {
            Ok(i) => self.rungs.iter_mut().skip(i).take(1).for_each(|r| r.1 += 1),
            Err(i) => self.rungs.insert(i, (rung, 1)),
        }
    }

    /// The same without some of its devices.
    pub fn without(&self, some: &Self) -> Self {
        let taken = |rung: u16| some.rungs.iter().find(|r| r.0 == rung).map_or(0, |r| r.1);
        let rungs: Vec<(u16, u64)> =
            self.rungs.iter().map(|&(rung, n)| (rung, n.saturating_sub(taken(rung)))).filter(|r| r.1 > 0).collect();
        Self { devices: rungs.iter().map(|r| r.1).sum(), rungs }
    }

    /// Devices on a rung or above.
    fn from(&self, rung: i32) -> u64 {
        self.rungs.iter().rev().take_while(|r| i32::from(r.0) >= rung).map(|r| r.1).sum()
    }

    /// The rung of the n-th device from below, from 1, and how far into the rung's devices that is.
    fn nth(&self, n: f64) -> Option<(u16, f64)> {
        let mut below = 0.0;
        for &(rung, devices) in &self.rungs {
            let devices = devices as f64;
            if below + devices >= n {
                return Some((rung, ((n - below) / devices).clamp(0.0, 1.0)));
            }
            below += devices;
        }
        None
    }

    /// The median, and where it surely lies at level 1 − `alpha` at all times at once.
    pub fn median(&self, alpha: f64) -> Option<Median> {
        let n = self.devices;
        let octaves = |rung: f64| ENDS.0 + rung / STEPS;
        let (rung, into) = self.nth(0.5 * n as f64)?;
        let nats = (2.0 / alpha.clamp(1e-12, 1.0)).ln();
        // So many on one side are refuted as half of all.
        let refuted = |k: u64| log_mean(BETS.map(|bet| k as f64 * (1.0 + bet).ln() + (n - k) as f64 * (1.0 - bet).ln())) >= nats;
        let enough = (n.div_ceil(2)..=n).find(|&k| refuted(k));
        let end = |n: u64| self.nth(n as f64).map(|(rung, _)| f64::from(rung));
        let lower = enough.and_then(|k| end(n - k + 1)).map(octaves);
        let upper = enough.and_then(end).map(|rung| octaves(rung + 1.0));
        Some(Median { value: octaves(f64::from(rung) + into), lower, upper })
    }
}

/// ln of the evidence that `high` is slower than `low` by more than `factor` somewhere, and where; exact from `enough` on, and below
/// that an upper bound, found faster. A factor between two rungs counts as the next rung's.
pub fn slower(high: &Ladder, low: &Ladder, factor: f64, enough: f64) -> (f64, Option<Gap>) {
    if high.devices == 0 || low.devices == 0 {
        return (f64::NEG_INFINITY, None);
    }
    let shift = (factor.max(1e-3).log2() * STEPS - 1e-9).ceil() as i32;
    // Shares change at these rungs only; between two of them every rung says the same.
    let mut edges: Vec<i32> = low.rungs.iter().map(|r| i32::from(r.0) + 1).collect();
    edges.extend(high.rungs.iter().map(|r| i32::from(r.0) - shift + 1));
    edges.sort_unstable();
    edges.dedup();
    let share = |hits: u64, of: u64| hits as f64 / of as f64;
    let shares = |counts: (u64, u64)| (share(counts.0, high.devices), share(counts.1, low.devices));
    let mut cells: Vec<(i32, f64, (u64, u64))> = Vec::new();
    for pair in edges.windows(2) {
        let (Some(&from), Some(&to)) = (pair.first(), pair.last()) else { continue };
        let (from, to) = (from.clamp(0, RUNGS as i32), to.clamp(0, RUNGS as i32));
        let counts = (high.from(from + shift), low.from(from));
        let (a, b) = shares(counts);
        if to > from && a > b {
            cells.push((from, f64::from(to - from), counts));
        }
    }
    let value = |of: u64, hits: u64| Values::counted(hits, of);
    let evidence = |floor: f64| {
        let of =
            |&(_, width, (a, b)): &(i32, f64, (u64, u64))| width.ln() + excess(&value(high.devices, a), &value(low.devices, b), 0.0, floor);
        cells.iter().map(of).collect::<Vec<f64>>()
    };
    let total = |logs: &[f64]| logs.iter().fold(f64::NEG_INFINITY, |sum, x| super::log_add(sum, *x)) - RUNGS.ln();
    // Bounds first: most looks end with them.
    let mut found = evidence(f64::INFINITY);
    if total(&found) >= enough {
        found = evidence(f64::NEG_INFINITY);
    }
    let most = found.iter().zip(&cells).max_by(|a, b| a.0.total_cmp(b.0)).map(|(_, &(rung, _, counts))| {
        let (high, low) = shares(counts);
        Gap { at: ENDS.0 + f64::from(rung) / STEPS, high, low }
    });
    (total(&found), most)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Chance;
    use super::*;

    fn ladder(of: &[f64]) -> Ladder {
        of.iter().fold(Ladder::default(), |mut ladder, &octaves| {
            ladder.add(octaves);
            ladder
        })
    }

    #[test]
    fn wealth_has_mean_one_at_most_under_the_null_by_enumeration() {
        // Two canaries and two controls on three rungs an octave apart: every outcome, weighted, for several laws.
        for law in [[0.9, 0.08, 0.02], [0.2, 0.3, 0.5], [0.5, 0.5, 0.0], [0.02, 0.0, 0.98]] {
            for factor in [1.0, 2.0] {
                let mut mean = 0.0;
                for outcome in 0..81usize {
                    let pick = |i: u32| outcome / 3usize.pow(i) % 3;
                    let weight: f64 = (0..4).map(|i| law[pick(i)]).product();
                    let value = |i: u32| 20.0 + pick(i) as f64;
                    // A canary is slower by exactly the factor.
                    let a = ladder(&[value(0) + f64::log2(factor), value(1) + f64::log2(factor)]);
                    let (evidence, _) = slower(&a, &ladder(&[value(2), value(3)]), factor, f64::NEG_INFINITY);
                    mean += weight * evidence.exp();
                }
                assert!(mean <= 1.0 + 1e-9, "{law:?} {factor}: {mean}");
            }
        }
    }

    #[test]
    fn what_is_slower_anywhere_is_found_and_what_is_not_is_left() {
        let mut chance = Chance::new(61);
        let kinds = [21.3, 23.1, 25.0];
        let mut rollout = |octaves: f64, factor: f64| {
            let (mut high, mut low) = (Ladder::default(), Ladder::default());
            let mut own = |more: f64| kinds[(chance.uniform() * 3.0) as usize] + 0.25 * chance.normal() + more;
            (1..=100).find(|_| {
                high.add(own(octaves));
                (0..4).for_each(|_| low.add(own(0.0)));
                slower(&high, &low, factor, 20f64.ln()).0 >= 20f64.ln()
            })
        };
        // At most 5 %: more than 4 of 40 has a chance below 2 % even there.
        let wrong = (0..40).filter(|i| rollout([0.0, 1.0][i % 2], [1.0, 2.0][i % 2]).is_some()).count();
        assert!(wrong <= 4, "{wrong} of 40");
        let mut found: Vec<usize> = (0..21).map(|_| rollout(2.0, 2.0).unwrap_or(101)).collect();
        found.sort_unstable();
        assert!(found[10] <= 50 && found[20] <= 90, "{found:?}");
    }

    #[test]
    fn the_median_is_covered_at_all_times_at_once() {
        let mut chance = Chance::new(62);
        let missed = (0..200)
            .filter(|_| {
                let mut ladder = Ladder::default();
                (0..150).any(|_| {
                    ladder.add(20.0 + chance.normal());
                    let found = ladder.median(0.1).unwrap();
                    found.lower.is_some_and(|low| low > 20.0) || found.upper.is_some_and(|high| high < 20.0)
                })
            })
            .count();
        assert!((1..=20).contains(&missed), "{missed} of 200 at a stated 10 %");
        let found = ladder(&(0..100).map(|i| 20.0 + f64::from(i) / 100.0).collect::<Vec<_>>()).median(0.05).unwrap();
        assert!((found.value - 20.5).abs() < 0.01 && found.lower.unwrap() >= 20.25 && found.upper.unwrap() <= 20.75, "{found:?}");
        assert_eq!(ladder(&[20.0, 21.0]).median(0.05).unwrap().lower, None);
        assert_eq!(Ladder::default().median(0.05), None);
    }

    #[test]
    fn devices_are_taken_out_again() {
        let (all, some) = (ladder(&[20.0, 20.0, 23.0, 70.0, 1.0]), ladder(&[20.0, 70.0]));
        assert_eq!(all.without(&some), ladder(&[20.0, 23.0, 1.0]));
        assert_eq!(some.without(&all), Ladder::default());
    }
}
