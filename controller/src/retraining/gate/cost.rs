//! What a challenger costs the devices: time and memory on each class of hardware, before any device is told.
//!
//! Both models are timed side by side by the same runner that devices use, here. How fast a class of devices is, the champion has
//! shown there: the p95 of each device's latency, kept apart by label in the rollout that brought it out. What the challenger will need
//! on a class is the champion's latency *there* times what the challenger needs more *here*. That is an estimate, and is called so: two
//! models may scale differently from one processor to another. Where no device was heard, the class is not known, and only the bound on
//! both models here remains. What stays true: measured and estimated are told apart; a model is refused for its own limits in the
//! manifest, or for being dearer than the champion by more than the policy allows.
use serde::{Deserialize, Serialize};

/// What a challenger may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostPolicy {
    /// So many times the champion's time, at most; below [`NOISE_US`] it is never too slow.
    pub max_slower: f64,
    /// So many times the champion's memory, at most.
    pub max_larger: f64,
}

impl Default for CostPolicy {
    fn default() -> Self {
        Self { max_slower: 5.0, max_larger: 3.0 }
    }
}

/// Inferences faster than this are not told apart by speed: a scheduler's hiccup is larger.
pub const NOISE_US: u64 = 500;

/// A model on a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Median of one inference, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

/// What a class of devices showed of the champion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Which, such as `hw=rev-b`.
    pub name: String,
    /// Devices that were heard.
    pub devices: u64,
    /// The median device's p95, microseconds.
    pub p95_us: f64,
}

/// What the champion needs on a class, and what the challenger will.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OnClass {
    /// Measured by devices.
    pub class: Class,
    /// Estimated for the challenger, microseconds.
    pub estimated_us: f64,
}

/// Bounds of the challenger's own manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// 99th percentile of one inference, microseconds.
    pub p99_us: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

/// What it costs, with its sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The champion here.
    pub champion: Run,
    /// The challenger here.
    pub challenger: Run,
    /// Each class of devices that was heard.
    pub classes: Vec<OnClass>,
    /// Why it is too much, if it is.
    pub too_much: Option<String>,
    /// All of it in a sentence.
    pub sentence: String,
}

impl Cost {
    /// Put together and judge.
    pub fn of(policy: &CostPolicy, champion: Run, challenger: Run, classes: Vec<Class>, bounds: Bounds) -> Self {
        let ratio = challenger.p50_us.max(1) as f64 / champion.p50_us.max(1) as f64;
        let classes: Vec<OnClass> = classes.into_iter().map(|class| OnClass { estimated_us: class.p95_us * ratio, class }).collect();
        let too_much = too_much(policy, (champion, challenger), &classes, bounds);
        let mut sentence = format!(
            "Here it takes {} and {} of memory, the champion {} and {}",
            micros(challenger.p50_us as f64),
            mib(challenger.rss_bytes),
            micros(champion.p50_us as f64),
            mib(champion.rss_bytes)
        );
        match classes.iter().max_by(|a, b| a.estimated_us.total_cmp(&b.estimated_us)) {
            Some(OnClass { class, estimated_us }) => sentence.push_str(&format!(
                "; on {}, the slowest of {} classes of devices that were heard, about {} instead of {}.",
                class.name,
                classes.len(),
                micros(*estimated_us),
                micros(class.p95_us)
            )),
            None => sentence.push_str("; what it takes on the devices is not known before they try."),
        }
        Self { champion, challenger, classes, too_much, sentence }
    }
}

fn too_much(policy: &CostPolicy, (old, new): (Run, Run), classes: &[OnClass], bounds: Bounds) -> Option<String> {
    let limit = bounds.p99_us as f64;
    if let Some(OnClass { class, estimated_us }) = classes.iter().find(|on| on.estimated_us > limit && on.class.p95_us <= limit) {
        let (took, may) = (micros(*estimated_us), micros(limit));
        return Some(format!("on {} it would take about {took}, and its manifest allows {may}", class.name));
    }
    if new.p50_us > NOISE_US && new.p50_us as f64 > policy.max_slower * old.p50_us.max(1) as f64 {
        return Some(format!(
            "it takes {} where the champion takes {}, more than {} times as long",
            micros(new.p50_us as f64),
            micros(old.p50_us as f64),
            policy.max_slower
        ));
    }
    let larger = old.rss_bytes > 0 && new.rss_bytes as f64 > policy.max_larger * old.rss_bytes as f64;
    larger.then(|| {
        format!("it needs {} of memory, more than {} times the champion's {}", mib(new.rss_bytes), policy.max_larger, mib(old.rss_bytes))
    })
}

fn micros(us: f64) -> String {
    if us >= 1000.0 { format!("{:.1} ms", us / 1000.0) } else { format!("{us:.0} µs") }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(p50_us: u64, mib: u64) -> Run {
        Run { p50_us, p99_us: 2 * p50_us, rss_bytes: mib << 20 }
    }

    #[test]
    fn a_class_of_devices_is_held_against_the_manifest_and_both_models_against_each_other() {
        let class = |name: &str, p95_us: f64| Class { name: name.to_owned(), devices: 9, p95_us };
        let classes = || vec![class("hw=rev-a", 2_000.0), class("hw=rev-b", 9_000.0)];
        let bounds = Bounds { p99_us: 20_000, rss_bytes: 256 << 20 };
        let cases: [(Run, Run, Vec<Class>, Option<&str>); 6] = [
            (run(800, 20), run(1_000, 22), classes(), None),
            (run(800, 20), run(2_400, 22), classes(), Some("on hw=rev-b it would take about 27.0 ms, and its manifest allows 20.0 ms")),
            (run(800, 20), run(2_400, 22), vec![], None),
            (run(200, 20), run(1_200, 22), vec![], Some("more than 5 times as long")),
            (run(4, 20), run(400, 22), vec![], None),
            (run(800, 20), run(800, 90), classes(), Some("it needs 90.0 MiB of memory, more than 3 times the champion's 20.0 MiB")),
        ];
        for (old, new, classes, wanted) in cases {
            let cost = Cost::of(&CostPolicy::default(), old, new, classes, bounds);
            match wanted {
                Some(words) => assert!(cost.too_much.as_ref().is_some_and(|why| why.contains(words)), "{cost:?}"),
                None => assert_eq!(cost.too_much, None),
            }
        }
        let cost = Cost::of(&CostPolicy::default(), run(800, 20), run(1_000, 22), classes(), bounds);
        assert_eq!(
            cost.sentence,
            "Here it takes 1.0 ms and 22.0 MiB of memory, the champion 800 µs and 20.0 MiB; on hw=rev-b, the slowest of 2 classes of devices that were heard, about 11.2 ms instead of 9.0 ms."
        );
    }
}
