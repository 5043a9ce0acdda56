//! The label budget: which devices to ask for how many labels today, and why.
//!
//! A label costs somebody's time, so a line has so many a day. A *floor* of them is spread over all decisions alike: the honest
//! part, which finds what nobody expected. The rest goes by need (Neyman's allocation, stratified by cohort and version): to
//! strata with many decisions, whose answers vary (confidence is low), and where least is known: no labels lately, an interval
//! wider than wanted, an estimate outside what labels show, an estimate that fell since training.
//!
//! **Every decision's probability of being asked is known** before anybody looks at it, above zero, and part of the plan; so the
//! labels can be weighed back ([`super::powered`]) however unevenly they were asked for. Within a stratum all decisions have the same
//! probability. Devices are asked in visits of several labels, because going to one costs more than one label there: visits are drawn by
//! systematic sampling over all devices in a salted order, with chances in proportion to their decisions. What stays true: the
//! same line and day give the same plan, the number of visits differs from the budget's by less than one, and no answer, nor anything
//! learned today, changes a probability.
use std::collections::BTreeMap;

use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId, Line};
use serde::{Deserialize, Serialize};

use crate::fleet::bucket::bucket;
use crate::sequential::interval::Interval;

/// How many labels a line asks for, and how they are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelPolicy {
    /// Labels a day, over a whole line. 0 asks for none.
    pub per_day: u64,
    /// Share of them that is spread over all decisions alike, 0.05 to 1.
    pub floor: f64,
    /// Labels asked of a device at once.
    pub per_visit: u64,
    /// Half of the interval of measured accuracy that is narrow enough.
    pub half_width: f64,
}

impl Default for LabelPolicy {
    fn default() -> Self {
        Self { per_day: 100, floor: 0.3, per_visit: 10, half_width: 0.03 }
    }
}

/// Labels a day at most: more is no sample any more, and the plan names a device for each visit.
const MAX_PER_DAY: u64 = 100_000;
/// The least floor: without one there are decisions that nobody ever looks at.
const MIN_FLOOR: f64 = 0.05;
/// The standard deviation of being right is taken as at least this, so that what is thought to be perfect is looked at too.
const MIN_SD: f64 = 0.1;
/// A fall of the estimate since training that counts as much as an unlabelled stratum's half.
const FALL: f64 = 0.05;

/// One version in one cohort, with what is known about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The cohort.
    pub cohort: Cohort,
    /// The version's name.
    pub version: String,
    /// Its manifest.
    pub manifest: Digest,
    /// Decisions a day of each device, where there are any.
    pub devices: BTreeMap<DeviceId, f64>,
    /// Accuracy on held-out data at training time.
    pub expected: Option<f64>,
    /// Estimated from confidence, lately.
    pub estimated: Option<f64>,
    /// Measured with labels, lately.
    pub measured: Option<Interval>,
}

/// What one device is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Whom.
    pub device: DeviceId,
    /// Labels, of a random sample of today's decisions.
    pub labels: u64,
    /// Decisions it makes a day.
    pub decisions_per_day: f64,
    /// Probability with which each of its decisions was to be asked, before the draw.
    pub inclusion: f64,
}

/// What one version in one cohort gets of the budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The cohort.
    pub cohort: Cohort,
    /// The version's name.
    pub version: String,
    /// Its manifest.
    pub manifest: Digest,
    /// Decisions a day.
    pub decisions_per_day: f64,
    /// Labels a day on average.
    pub labels_per_day: f64,
    /// Of these, by the floor.
    pub uniform: f64,
    /// Probability that a decision is asked for its label.
    pub inclusion: f64,
    /// Why it gets as much, in a sentence.
    pub reason: String,
    /// The devices that were drawn for the day.
    pub devices: Vec<Ask>,
}

/// The plan of one line for one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelPlan {
    /// Days since 1970, UTC.
    pub day: i64,
    /// Labels asked for.
    pub labels: u64,
    /// By stratum, most labels first.
    pub shares: Vec<Share>,
    /// All of it in a sentence.
    pub sentence: String,
}

/// Why a place gets more than its size, and how much more.
fn urgency(place: &Place, policy: &LabelPolicy) -> (f64, Vec<String>) {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let (mut factor, mut why) = (1.0, Vec::new());
    match place.measured {
        None => {
            factor += 2.0;
            why.push("there are no labels lately".to_owned());
        }
        Some(m) => {
            let half = 0.5 * (m.upper - m.lower);
            let wanted = policy.half_width.max(1e-3);
            if half > wanted {
                factor += (half / wanted - 1.0).min(2.0);
                why.push(format!("measured accuracy is known to ± {} and ± {} is wanted", percent(half), percent(wanted)));
            }
            if let Some(estimated) = place.estimated.filter(|e| *e < m.lower || *e > m.upper) {
                factor += 2.0;
                why.push(format!(
                    "the estimate of {} lies outside what labels show ({} to {})",
                    percent(estimated),
                    percent(m.lower),
                    percent(m.upper)
                ));
            }
        }
    }
    if let (Some(expected), Some(estimated)) = (place.expected, place.estimated)
        && expected - estimated > 0.2 * FALL
    {
        factor += ((expected - estimated) / FALL).min(2.0);
        why.push(format!("confidence is low: it stands for {} where {} was measured at training", percent(estimated), percent(expected)));
    }
    (factor, why)
}

/// The standard deviation of being right.
fn sd(place: &Place) -> f64 {
    let share = place.measured.map(|m| m.estimate).or(place.estimated).or(place.expected).unwrap_or(0.5).clamp(0.0, 1.0);
    (share * (1.0 - share)).sqrt().max(MIN_SD)
}

/// Labels a day of each place, and how much of that is the floor's: no place gets more than it has decisions, and what that leaves
/// goes to the others.
fn spread(sizes: &[f64], needs: &[f64], budget: f64, floor: f64) -> Vec<(f64, f64)> {
    let (all, need) = (sizes.iter().sum::<f64>().max(1e-9), needs.iter().sum::<f64>().max(1e-9));
    let uniform: Vec<f64> = sizes.iter().map(|n| (budget * floor * n / all).min(*n)).collect();
    let wanted: Vec<f64> = uniform.iter().zip(needs).map(|(u, x)| u + budget * (1.0 - floor) * x / need).collect();
    let mut factor = 1.0;
    let given = |factor: f64| wanted.iter().zip(sizes).map(|(w, n)| (w * factor).min(*n)).collect::<Vec<f64>>();
    // Each round fills at least one place; what is full stays full.
    for _ in 0..=sizes.len() {
        let now: f64 = given(factor).iter().sum();
        let open: f64 = wanted.iter().zip(sizes).filter(|(w, n)| *w * factor < **n).map(|(w, _)| w * factor).sum();
        let left = budget.min(all) - now;
        if left <= 1e-9 * budget || open <= 0.0 {
            break;
        }
        factor *= 1.0 + left / open;
    }
    given(factor).into_iter().zip(uniform).collect()
}

/// The plan of `line` for the day `day`.
pub fn plan(policy: &LabelPolicy, line: &Line, day: i64, places: &[Place]) -> LabelPlan {
    let places: Vec<&Place> = places.iter().filter(|p| p.devices.values().any(|n| *n > 0.0)).collect();
    let sizes: Vec<f64> = places.iter().map(|p| p.devices.values().map(|n| n.max(0.0)).sum()).collect();
    let urgent: Vec<(f64, Vec<String>)> = places.iter().map(|p| urgency(p, policy)).collect();
    let needs: Vec<f64> = places.iter().zip(&sizes).zip(&urgent).map(|((p, n), (u, _))| n * sd(p) * u).collect();
    let budget = policy.per_day.min(MAX_PER_DAY) as f64;
    let spread = spread(&sizes, &needs, budget, policy.floor.clamp(MIN_FLOOR, 1.0));
    let visit = policy.per_visit.clamp(1, MAX_PER_DAY) as f64;
    let salt = format!("labels/{line}/{day}");
    let mut draw = Draw { at: bucket(&salt, "") as f64 / 18_446_744_073_709_551_616.0, visit };
    let mut shares: Vec<Share> = Vec::with_capacity(places.len());
    for (((place, &size), (labels, uniform)), (_, why)) in places.iter().zip(&sizes).zip(spread).zip(urgent) {
        let inclusion = labels / size;
        let mut order: Vec<(u64, &DeviceId, f64)> =
            place.devices.iter().filter(|(_, n)| **n > 0.0).map(|(d, &n)| (bucket(&salt, d.as_str()), d, n)).collect();
        order.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let devices = order.into_iter().filter_map(|(_, device, n)| draw.ask(device, n, inclusion)).collect();
        shares.push(Share {
            cohort: place.cohort.clone(),
            version: place.version.clone(),
            manifest: place.manifest,
            decisions_per_day: size,
            labels_per_day: labels,
            uniform,
            inclusion,
            reason: reason(&why),
            devices,
        });
    }
    shares
        .sort_by(|a, b| b.labels_per_day.total_cmp(&a.labels_per_day).then_with(|| (&a.cohort, &a.version).cmp(&(&b.cohort, &b.version))));
    let asked: u64 = shares.iter().flat_map(|s| &s.devices).map(|ask| ask.labels).sum();
    let sentence = sentence(policy, &shares, asked);
    LabelPlan { day, labels: asked, shares, sentence }
}

/// Systematic sampling: visits fall where the running sum passes a whole number, from a start that chance gave.
struct Draw {
    at: f64,
    visit: f64,
}

impl Draw {
    /// What a device with `decisions` a day is asked for, if each of them is to be asked with probability `inclusion`.
    fn ask(&mut self, device: &DeviceId, decisions: f64, inclusion: f64) -> Option<Ask> {
        let expected = decisions * inclusion / self.visit;
        let before = self.at.floor();
        self.at += expected;
        let visits = self.at.floor() - before;
        // A device cannot be asked for more than it decides; its true probability is a little lower then, and known all the same.
        let asked = |visits: f64| (visits * self.visit).min(decisions);
        let (whole, part) = (expected.floor(), expected.fract());
        let inclusion = ((1.0 - part) * asked(whole) + part * asked(whole + 1.0)) / decisions;
        let labels = asked(visits).round() as u64;
        (labels > 0).then(|| Ask { device: device.clone(), labels, decisions_per_day: decisions, inclusion: inclusion.min(1.0) })
    }
}

fn reason(why: &[String]) -> String {
    if why.is_empty() {
        return "By its size: what labels show is known well enough and agrees with the estimate.".to_owned();
    }
    let text = why.join("; ");
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

fn sentence(policy: &LabelPolicy, shares: &[Share], asked: u64) -> String {
    if policy.per_day == 0 {
        return "No labels are asked for: quality.labels.per_day is 0.".to_owned();
    }
    if shares.is_empty() {
        return "There is nobody to ask: no device of this line has reported decisions lately.".to_owned();
    }
    let devices: usize = shares.iter().map(|s| s.devices.len()).sum();
    format!(
        "{asked} labels are asked of {devices} devices today, {:.0} % of the budget of {} over all decisions alike and the rest where least is known.",
        policy.floor.clamp(MIN_FLOOR, 1.0) * 100.0,
        policy.per_day
    )
}

#[cfg(test)]
mod tests;
