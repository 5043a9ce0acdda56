//! Champion against challenger on the same held-out rows: won, lost, or not enough labels to say.
//!
//! "Promote if it is more accurate" promotes an equal model 45–49 % of the time. Here the pairs decide: rows on which exactly one
//! of the two is right. But stations under one sky are right and wrong on the same days, so rows are not pairs to count; a *cluster*
//! (one day over all stations) is. Each cluster votes for the model that was right more often on it, and the votes are tested by the
//! exact binomial form of McNemar's test (McNemar 1947; on clusters it is the sign test).
//!
//! **Null**: a cluster on which they differ votes for the challenger with chance ½ or less. **Guarantee**: such a challenger wins with
//! chance `alpha` at most, at every number of clusters, for clusters that do not depend on each other; every other condition below is
//! asked *besides*, so it can only lower that. A candidate is judged once: another candidate is another test, and so many of them at
//! `alpha` each are what the cool-down and the quota are for. Beside it stands an e-value (betting on the mean difference of a cluster,
//! bounded by ±1), which stays valid when the same rows are evaluated again after more labels.
//!
//! The winner must also not be worse on any guard slice ([`guards`]: cohorts, seasons, hard cases) by more than a margin, at the lower
//! end of an interval: a better average can hide a cohort that loses. All slices must pass, so no slice's error adds to another's
//! (intersection–union, Berger 1982); to *lose* by a slice, the level is divided by their number. And it must not cost more than the
//! devices have ([`cost`]).
//!
//! Labels that are missing are computed from the discordance seen and the gain that is wanted (Connor 1987), never from the gain seen:
//! that would promise much after a lucky start. What stays true: without enough clusters the answer is a number, never a guess.
use std::collections::BTreeMap;

use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sequential::boundary::normal_quantile;
use crate::sequential::{log_mean, sign_test};

pub mod cost;
pub mod guards;

pub use cost::{Cost, CostPolicy};
pub use guards::Guards;

/// When a challenger wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatePolicy {
    /// Chance of promoting a challenger that is not better.
    pub alpha: f64,
    /// Gain in accuracy worth a rollout; a challenger that surely gains less has lost.
    pub min_gain: f64,
    /// Gain in accuracy that should be found with a chance of 80 %: the labels that are missing are computed for it.
    pub wanted_gain: f64,
    /// How much worse a slice may be.
    pub slice_margin: f64,
    /// Clusters a slice needs to be judged.
    pub min_slice: u64,
    /// Rows of so many milliseconds form one cluster.
    pub cluster_ms: i64,
    /// Slices on which it must not be worse.
    pub guards: Guards,
    /// What it may cost the devices.
    pub cost: CostPolicy,
}

impl Default for GatePolicy {
    fn default() -> Self {
        let (guards, cost) = Default::default();
        Self { alpha: 0.05, min_gain: 0.01, wanted_gain: 0.03, slice_margin: 0.03, min_slice: 20, cluster_ms: 86_400_000, guards, cost }
    }
}

/// Both models on one held-out row.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// The guard slices it belongs to, by name.
    pub slices: Vec<String>,
    /// When it was seen, on the application's axis.
    pub at: Timestamp,
    /// One over the probability it was kept with.
    pub weight: f64,
    /// Whether the champion was right.
    pub champion: bool,
    /// Whether the challenger was.
    pub challenger: bool,
}

/// What came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// Better, and nowhere worse.
    Won,
    /// Not better, or worse somewhere.
    Lost,
    /// Undecided.
    NotEnoughLabels {
        /// Labelled rows that would probably decide it, of the same kind.
        needed: u64,
    },
}

/// The comparison, with its sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What came out.
    pub outcome: Outcome,
    /// Rows compared.
    pub rows: u64,
    /// Clusters they form.
    pub clusters: u64,
    /// Champion's accuracy, weighted.
    pub champion: f64,
    /// Challenger's.
    pub challenger: f64,
    /// Interval of the difference, one-sided 95 % each way.
    pub gain: (f64, f64),
    /// Clusters that vote for the challenger.
    pub better: u64,
    /// Clusters that vote for the champion.
    pub worse: u64,
    /// The sign test's p-value.
    pub p_value: f64,
    /// ln of the e-value.
    pub log_evidence: f64,
    /// Difference and its interval per slice.
    pub slices: BTreeMap<String, (f64, f64, f64)>,
    /// Slices that are too small to be judged, each with its clusters.
    #[serde(default)]
    pub small: BTreeMap<String, u64>,
    /// What it costs the devices, where that was measured.
    #[serde(default)]
    pub cost: Option<Cost>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// Bets on a cluster's mean difference; averaged, so that none need be right.
const BETS: [f64; 4] = [0.1, 0.25, 0.5, 0.9];
/// Normal quantile of the one-sided 95 % interval.
const Z_INTERVAL: f64 = 1.645;
/// Clusters from which a variance is taken.
const KNOWN: usize = 5;
/// Normal quantile of the power that "needed" aims at, 80 %.
const Z_POWER: f64 = 0.842;
/// Closer than this, nothing is told apart.
const MIN_DISTANCE: f64 = 1e-3;
/// "Needed" is capped: beyond it no amount of labels tells the two apart.
const MAX_NEEDED: u64 = 10_000_000;

/// Compare on held-out rows.
pub fn compare(policy: &GatePolicy, rows: &[Paired]) -> Comparison {
    let all = Differences::of(policy, rows.iter());
    let (better, worse) = all.votes();
    let p_value = if better + worse == 0 { 1.0 } else { sign_test(better, better + worse) };
    let log_evidence = log_mean(BETS.iter().map(|bet| all.clusters.values().map(|c| (1.0 + bet * c.mean()).ln()).sum::<f64>()));
    let mut names: Vec<&str> = rows.iter().flat_map(|r| r.slices.iter().map(String::as_str)).collect();
    names.extend(policy.guards.hard.iter().map(|case| case.name.as_str()));
    names.sort_unstable();
    names.dedup();
    let slices: BTreeMap<String, Differences> = names
        .into_iter()
        .map(|name| (name.to_owned(), Differences::of(policy, rows.iter().filter(|r| r.slices.iter().any(|slice| slice == name)))))
        .collect();
    let gain = all.interval();
    let outcome = judge(policy, &all, p_value, rows.len() as u64, &slices);
    let mut comparison = Comparison {
        outcome,
        rows: rows.len() as u64,
        clusters: all.clusters.len() as u64,
        champion: accuracy(rows, |r| r.champion),
        challenger: accuracy(rows, |r| r.challenger),
        gain,
        better,
        worse,
        p_value,
        log_evidence,
        slices: slices.iter().map(|(name, part)| (name.clone(), (part.mean(), part.interval().0, part.interval().1))).collect(),
        small: slices.iter().filter(|(_, part)| part.size() < policy.min_slice).map(|(name, part)| (name.clone(), part.size())).collect(),
        cost: None,
        sentence: String::new(),
    };
    comparison.sentence = comparison.words(policy, worse_on(policy, &slices));
    comparison
}

fn judge(policy: &GatePolicy, all: &Differences, p_value: f64, rows: u64, slices: &BTreeMap<String, Differences>) -> Outcome {
    let (low, high) = all.interval();
    let judged: Vec<&Differences> = slices.values().filter(|part| part.size() >= policy.min_slice).collect();
    let sure = all.size() >= policy.min_slice;
    if sure && (high < policy.min_gain || worse_on(policy, slices).is_some()) {
        return Outcome::Lost;
    }
    // A cohort with a handful of rows may be left out of it; a hard case that was declared may not.
    let unseen = policy.guards.hard.iter().any(|case| slices.get(&case.name).is_none_or(|part| part.size() < policy.min_slice));
    let safe = !unseen && (slices.is_empty() || !judged.is_empty()) && judged.iter().all(|part| part.interval().0 > -policy.slice_margin);
    if sure && p_value <= policy.alpha && low > 0.0 && safe {
        return Outcome::Won;
    }
    Outcome::NotEnoughLabels { needed: needed(policy, all, rows, slices) }
}

/// The slice on which it is surely worse by more than the margin, and by how much.
fn worse_on<'a>(policy: &GatePolicy, slices: &'a BTreeMap<String, Differences>) -> Option<(&'a str, f64)> {
    let judged = || slices.iter().filter(|(_, part)| part.size() >= policy.min_slice);
    let z = normal_quantile(0.05 / judged().count().max(1) as f64);
    judged().find(|(_, part)| part.interval_at(z).1 < -policy.slice_margin).map(|(name, part)| (name.as_str(), -part.mean()))
}

/// Rows that would show the gain that is wanted, overall and in the slice that needs most; where so many are there already, the
/// smallest gain worth having.
fn needed(policy: &GatePolicy, all: &Differences, rows: u64, slices: &BTreeMap<String, Differences>) -> u64 {
    let per_cluster = if all.clusters.is_empty() { 1.0 } else { rows as f64 / all.clusters.len() as f64 };
    let of_gain = |gain: f64| {
        let overall = all.clusters_for(policy.alpha, gain).max(policy.min_slice as f64);
        let in_slice = |part: &Differences| {
            // Clusters that hold the slice come at the rate they came until now.
            let share = (part.size().max(1) as f64 / all.size().max(1) as f64).min(1.0);
            let distance = (part.mean().min(gain) + policy.slice_margin).max(policy.min_gain).max(MIN_DISTANCE);
            (((Z_INTERVAL + Z_POWER) / distance).powi(2) * part.known_variance()).max(policy.min_slice as f64) / share
        };
        let hardest = slices.values().map(in_slice).fold(overall, f64::max);
        ((hardest * per_cluster).ceil() as u64).min(MAX_NEEDED)
    };
    let wanted = of_gain(policy.wanted_gain.max(policy.min_gain));
    let needed = if wanted > rows { wanted } else { of_gain(policy.min_gain) };
    needed.clamp(rows + 1, MAX_NEEDED.max(rows + 1))
}

fn accuracy(rows: &[Paired], right: impl Fn(&Paired) -> bool) -> f64 {
    let (hits, sum) = rows.iter().fold((0.0, 0.0), |(h, s), r| (h + if right(r) { r.weight } else { 0.0 }, s + r.weight));
    if sum > 0.0 { hits / sum } else { 0.0 }
}

/// Weighted difference (challenger − champion) per cluster.
#[derive(Debug, Default)]
struct Differences {
    clusters: BTreeMap<i64, Cluster>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Cluster {
    weight: f64,
    net: f64,
}

impl Cluster {
    fn mean(&self) -> f64 {
        if self.weight > 0.0 { (self.net / self.weight).clamp(-1.0, 1.0) } else { 0.0 }
    }
}

impl Differences {
    fn of<'a>(policy: &GatePolicy, rows: impl Iterator<Item = &'a Paired>) -> Self {
        let mut clusters: BTreeMap<i64, Cluster> = BTreeMap::new();
        for row in rows.filter(|r| r.weight > 0.0 && r.weight.is_finite()) {
            let cluster = clusters.entry(row.at.as_millis().div_euclid(policy.cluster_ms.max(1))).or_default();
            cluster.weight += row.weight;
            cluster.net += row.weight * (f64::from(u8::from(row.challenger)) - f64::from(u8::from(row.champion)));
        }
        Self { clusters }
    }

    fn size(&self) -> u64 {
        self.clusters.len() as u64
    }

    /// Clusters with which the sign test at `alpha` finds a true gain of `gain` with a chance of 80 %: Connor's formula, n = (z_α√ψ +
    /// z_β√(ψ − δ²))² / δ², with ψ the share of clusters that vote and δ the share by which votes for the challenger outnumber the others.
    ///
    /// A gain in accuracy becomes one in votes by δ = gain · E|d| / E d² over the differences d of the clusters that vote: 1 for single
    /// rows, where a vote is a row; 0.8/σ for many rows that scatter normally with σ.
    fn clusters_for(&self, alpha: f64, gain: f64) -> f64 {
        let (z_alpha, gain) = (normal_quantile(alpha.clamp(1e-12, 0.5)), gain.max(MIN_DISTANCE));
        let by_mean = ((Z_INTERVAL + Z_POWER) / gain).powi(2) * self.known_variance();
        let voting: Vec<f64> = self.clusters.values().map(Cluster::mean).filter(|d| *d != 0.0).collect();
        if voting.len() < KNOWN {
            return by_mean;
        }
        let discordance = voting.len() as f64 / self.clusters.len() as f64;
        let (sum, squares) = voting.iter().fold((0.0, 0.0), |(s, q), d| (s + d.abs(), q + d * d));
        let delta = (gain * sum / squares).min(0.999 * discordance);
        let by_votes = (z_alpha * discordance.sqrt() + Z_POWER * (discordance - delta * delta).max(0.0).sqrt()) / delta;
        by_votes.powi(2).max(by_mean)
    }

    /// The variance, where enough clusters tell; else a quarter: disagreement on a quarter of all rows, one way or the other.
    fn known_variance(&self) -> f64 {
        if self.clusters.len() >= KNOWN { self.variance() } else { 0.25 }
    }

    fn votes(&self) -> (u64, u64) {
        self.clusters.values().fold((0, 0), |(up, down), c| (up + u64::from(c.net > 0.0), down + u64::from(c.net < 0.0)))
    }

    /// Mean over clusters, each as one: a day with many captured rows is still one day.
    fn mean(&self) -> f64 {
        let n = self.clusters.len().max(1) as f64;
        self.clusters.values().map(Cluster::mean).sum::<f64>() / n
    }

    fn variance(&self) -> f64 {
        let (n, mean) = (self.clusters.len() as f64, self.mean());
        if n < 2.0 { 1.0 } else { self.clusters.values().map(|c| (c.mean() - mean).powi(2)).sum::<f64>() / (n - 1.0) }
    }

    fn interval(&self) -> (f64, f64) {
        self.interval_at(Z_INTERVAL)
    }

    fn interval_at(&self, z: f64) -> (f64, f64) {
        // One pseudo-cluster of each sign keeps a handful of equal clusters from looking certain.
        let n = self.clusters.len() as f64 + 2.0;
        let variance = (self.variance() * (n - 2.0) + 2.0) / n;
        let half = z * (variance / n).sqrt();
        ((self.mean() - half).max(-1.0), (self.mean() + half).min(1.0))
    }
}

impl Comparison {
    /// Hold a winner against what the devices have; one that costs too much has lost, whatever it answers.
    pub fn with_cost(mut self, cost: Cost) -> Self {
        if let Some(why) = cost.too_much.as_ref().filter(|_| self.outcome == Outcome::Won) {
            self.outcome = Outcome::Lost;
            self.sentence = format!("{} But {why}, so it lost.", self.sentence);
        } else {
            self.sentence = format!("{} {}", self.sentence, cost.sentence);
        }
        self.cost = Some(cost);
        self
    }

    /// Labelled rows that are missing for a decision.
    pub fn missing(&self) -> Option<u64> {
        match self.outcome {
            Outcome::NotEnoughLabels { needed } => Some(needed.saturating_sub(self.rows)),
            Outcome::Won | Outcome::Lost => None,
        }
    }

    fn words(&self, policy: &GatePolicy, worse: Option<(&str, f64)>) -> String {
        let (old, new) = (self.champion * 100.0, self.challenger * 100.0);
        let head = format!(
            "On {} held-out rows of {} days the challenger is right on {new:.1} %, the champion on {old:.1} %; {} days speak for it, {} against (p = {:.2})",
            self.rows, self.clusters, self.better, self.worse, self.p_value
        );
        let head = if self.p_value < 0.005 { head.replace("p = 0.00", "p < 0.005") } else { head };
        let judged = || self.slices.iter().filter(|(name, _)| !self.small.contains_key(*name));
        let worst = judged().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let tail = match self.outcome {
            Outcome::Won => match worst {
                Some((name, (mean, low, _))) => {
                    format!("In its weakest slice, {name}, it gains {:.1} points (at worst {:.1}). It won.", mean * 100.0, low * 100.0)
                }
                None => "It won.".to_owned(),
            },
            Outcome::Lost => match worse {
                Some((name, loss)) => format!("At {name} it is {:.1} points worse, so it lost.", loss * 100.0),
                None => format!("It surely gains less than {:.1} points, so it lost.", policy.min_gain * 100.0),
            },
            Outcome::NotEnoughLabels { needed } if needed >= MAX_NEEDED => "The two are too alike to tell apart with labels.".to_owned(),
            Outcome::NotEnoughLabels { needed } => format!(
                "That is not enough to decide: about {} more labelled rows are needed, {needed} in all{}.",
                needed.saturating_sub(self.rows),
                self.wanting(policy)
            ),
        };
        format!("{head}. {tail}")
    }

    /// Which declared hard cases hold it up.
    fn wanting(&self, policy: &GatePolicy) -> String {
        let small: Vec<String> =
            policy.guards.hard.iter().filter_map(|c| Some(format!("{} ({} days)", c.name, self.small.get(&c.name)?))).collect();
        if small.is_empty() { String::new() } else { format!("; too few of them so far are of {}", small.join(", ")) }
    }
}

#[cfg(test)]
mod tests;
