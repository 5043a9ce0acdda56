//! Champion against challenger on the same held-out rows: won, lost, or not enough labels to say.
//!
//! "Promote if it is more accurate" promotes an equal model 45–49 % of the time. Here the pairs decide: rows on which exactly one
//! of the two is right. But stations under one sky are right and wrong on the same days, so rows are not pairs to count; a *cluster*
//! (one day over all stations) is. Each cluster votes for the model that was right more often on it, and the votes are
//! tested by the exact sign test (McNemar's test on clusters). **Null**: the champion is at least as good; chance of a wrong
//! promotion at most `alpha`, for clusters that do not depend on each other. Beside it stands an e-value (betting on the mean difference of a
//! cluster, bounded by ±1), which stays valid when the same rows are evaluated again after more labels.
//!
//! The winner must also not be worse on any slice (cohort) by more than a margin, at the lower end of an interval: a better average
//! can hide a cohort that loses. What stays true: without enough clusters the answer is a number of labels, never a guess.
use std::collections::BTreeMap;

use leeway_protocol::ids::Cohort;
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sequential::{log_mean, sign_test};

/// When a challenger wins.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatePolicy {
    /// Chance of promoting a challenger that is not better.
    pub alpha: f64,
    /// Gain in accuracy worth a rollout; a challenger that surely gains less has lost.
    pub min_gain: f64,
    /// How much worse a slice may be.
    pub slice_margin: f64,
    /// Clusters a slice needs to be judged.
    pub min_slice: u64,
    /// Rows of so many milliseconds form one cluster.
    pub cluster_ms: i64,
}

impl Default for GatePolicy {
    fn default() -> Self {
        Self { alpha: 0.05, min_gain: 0.01, slice_margin: 0.03, min_slice: 20, cluster_ms: 86_400_000 }
    }
}

/// Both models on one held-out row.
#[derive(Debug, Clone, PartialEq)]
pub struct Paired {
    /// Its slice.
    pub slice: Option<Cohort>,
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
    /// All of it in a sentence.
    pub sentence: String,
}

/// Bets on a cluster's mean difference; averaged, so that none need be right.
const BETS: [f64; 4] = [0.1, 0.25, 0.5, 0.9];
/// Normal quantile of the one-sided 95 % interval.
const Z_INTERVAL: f64 = 1.645;
/// Normal quantile of the power that "needed" aims at, 80 %.
const Z_POWER: f64 = 0.842;
/// "Needed" is capped: beyond it no amount of labels tells the two apart.
const MAX_NEEDED: u64 = 10_000_000;

/// Compare on held-out rows.
pub fn compare(policy: &GatePolicy, rows: &[Paired]) -> Comparison {
    let all = Differences::of(policy, rows.iter());
    let (better, worse) = all.votes();
    let p_value = if better + worse == 0 { 1.0 } else { sign_test(better, better + worse) };
    let log_evidence = log_mean(BETS.iter().map(|bet| all.clusters.values().map(|c| (1.0 + bet * c.mean()).ln()).sum::<f64>()));
    let mut names: Vec<&Cohort> = rows.iter().filter_map(|r| r.slice.as_ref()).collect();
    names.sort();
    names.dedup();
    let slices: BTreeMap<String, (Differences, u64)> = names
        .into_iter()
        .map(|name| {
            let part = Differences::of(policy, rows.iter().filter(|r| r.slice.as_ref() == Some(name)));
            let size = part.clusters.len() as u64;
            (name.to_string(), (part, size))
        })
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
        slices: slices.iter().map(|(name, (part, _))| (name.clone(), (part.mean(), part.interval().0, part.interval().1))).collect(),
        sentence: String::new(),
    };
    comparison.sentence = comparison.words(policy);
    comparison
}

fn judge(policy: &GatePolicy, all: &Differences, p_value: f64, rows: u64, slices: &BTreeMap<String, (Differences, u64)>) -> Outcome {
    let (low, high) = all.interval();
    let judged = || slices.values().filter(|(_, size)| *size >= policy.min_slice);
    let sure = all.clusters.len() as u64 >= policy.min_slice;
    if sure && (high < policy.min_gain || judged().any(|(part, _)| part.interval().1 < -policy.slice_margin)) {
        return Outcome::Lost;
    }
    let safe = slices.is_empty() || (judged().count() > 0 && judged().all(|(part, _)| part.interval().0 > -policy.slice_margin));
    if sure && p_value <= policy.alpha && low > 0.0 && safe {
        return Outcome::Won;
    }
    Outcome::NotEnoughLabels { needed: needed(policy, all, rows, slices) }
}

/// Rows that would show the observed gain (at least the smallest worth having), overall and in the slice that needs most.
fn needed(policy: &GatePolicy, all: &Differences, rows: u64, slices: &BTreeMap<String, (Differences, u64)>) -> u64 {
    let clusters = |part: &Differences, distance: f64| {
        // With few clusters the variance is not known; a quarter (disagreement on half of them) is then assumed.
        let variance = if part.clusters.len() >= 5 { part.variance() } else { 0.25 };
        ((Z_INTERVAL + Z_POWER) / distance.max(1e-3)).powi(2) * variance
    };
    let overall = clusters(all, all.mean().max(policy.min_gain)).max(policy.min_slice as f64);
    let hardest =
        slices.values().map(|(part, _)| clusters(part, (part.mean() + policy.slice_margin).max(policy.min_gain))).fold(overall, f64::max);
    let per_cluster = if all.clusters.is_empty() { 1.0 } else { rows as f64 / all.clusters.len() as f64 };
    ((hardest * per_cluster).ceil() as u64).clamp(rows + 1, MAX_NEEDED.max(rows + 1))
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
        // One pseudo-cluster of each sign keeps a handful of equal clusters from looking certain.
        let n = self.clusters.len() as f64 + 2.0;
        let variance = (self.variance() * (n - 2.0) + 2.0) / n;
        let half = Z_INTERVAL * (variance / n).sqrt();
        ((self.mean() - half).max(-1.0), (self.mean() + half).min(1.0))
    }
}

impl Comparison {
    fn words(&self, policy: &GatePolicy) -> String {
        let (old, new) = (self.champion * 100.0, self.challenger * 100.0);
        let head = format!(
            "On {} held-out rows of {} days the challenger is right on {new:.1} %, the champion on {old:.1} %; {} days speak for it, {} against (p = {:.2})",
            self.rows, self.clusters, self.better, self.worse, self.p_value
        );
        let head = if self.p_value < 0.005 { head.replace("p = 0.00", "p < 0.005") } else { head };
        let worst = self.slices.iter().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        match self.outcome {
            Outcome::Won => match worst {
                Some((name, (mean, low, _))) => {
                    format!(
                        "{head}. In its weakest cohort, {name}, it gains {:.1} points (at worst {:.1}). It won.",
                        mean * 100.0,
                        low * 100.0
                    )
                }
                None => format!("{head}. It won."),
            },
            Outcome::Lost => match self.slices.iter().find(|(_, s)| s.2 < -policy.slice_margin) {
                Some((name, (mean, _, _))) => format!("{head}. At {name} it is {:.1} points worse, so it lost.", -mean * 100.0),
                None => format!("{head}. It surely gains less than {:.1} points, so it lost.", policy.min_gain * 100.0),
            },
            Outcome::NotEnoughLabels { needed } if needed >= MAX_NEEDED => {
                format!("{head}. The two are too alike to tell apart with labels.")
            }
            Outcome::NotEnoughLabels { needed } => {
                format!("{head}. That is not enough to decide: about {needed} labelled rows are needed, {} are there.", self.rows)
            }
        }
    }
}

#[cfg(test)]
mod tests;
