//! Drift as the API shows it: verdicts of the detectors, with the bins behind them.
use leeway_protocol::ids::Line;
use leeway_protocol::profile::Reference;

use crate::drift::magnitude::bin_labels;
use crate::drift::verdict::Verdict;
use crate::io::web::resource::Level;
use crate::io::web::resource::drift::{BinShare, DeviceDrift, Drift, FeatureDrift};
use crate::io::web::words;

/// What the detectors say about one line.
#[derive(Debug, Clone, Copy)]
pub(in crate::io::web) struct Findings<'a> {
    /// The line.
    pub line: &'a Line,
    /// The version whose reference is compared against.
    pub version: &'a str,
    /// Its reference.
    pub reference: &'a Reference,
    /// Cohorts with a monitor.
    pub cohorts: &'a [String],
    /// The cohort asked for.
    pub cohort: Option<&'a str>,
    /// Verdicts about the world, of one or of all cohorts.
    pub world: &'a [Verdict],
    /// Verdicts about instruments.
    pub instruments: &'a [Verdict],
    /// Windows that came too late for their block.
    pub late: u64,
    /// The promise behind the thresholds, in words.
    pub budget: &'a str,
}

/// The resource.
pub(in crate::io::web) fn drift(f: &Findings<'_>) -> Drift {
    let mut features: Vec<FeatureDrift> = f.world.iter().map(|v| feature(v, f.reference)).collect();
    let cost = |f: &FeatureDrift| f.cost.filter(|_| f.moved).map_or(0.0, |c| c.accuracy.max(0.0));
    features.sort_by(|a, b| b.moved.cmp(&a.moved).then_with(|| cost(b).total_cmp(&cost(a))).then_with(|| b.psi.total_cmp(&a.psi)));
    let rows: f64 = f.world.iter().map(|v| v.rows).fold(0.0, f64::max);
    let (level, sentence) = headline(f, &features);
    Drift {
        line: f.line.to_string(),
        version: f.version.to_owned(),
        cohort: f.cohort.map(ToOwned::to_owned),
        cohorts: f.cohorts.to_vec(),
        level,
        sentence,
        reference: format!("training data of {}, {} rows", f.version, words::count(f.reference.rows)),
        current: if rows > 0.0 { format!("now, {} rows", words::count(rows as u64)) } else { "now, nothing counted yet".to_owned() },
        late_windows: f.late,
        method: format!(
            "Exact counts of each feature are compared with the reference in whole blocks of time, by likelihood ratios that may be looked at after every block. {} How far a feature moved (PSI, CDF gap) is shown apart from how sure that is (evidence).{}",
            f.budget,
            left_out(f.late)
        ),
        features,
        devices: f.instruments.iter().filter_map(device).collect(),
    }
}

/// What is said of windows that no block waited for; nothing if there are none.
fn left_out(late: u64) -> String {
    match late {
        0 => String::new(),
        1 => " One window came after its block was judged and was left out; with many of those, raise drift.late_blocks.".to_owned(),
        _ => format!(
            " {} windows came after their block was judged and were left out; if they grow with every block, raise drift.late_blocks.",
            words::count(late)
        ),
    }
}

fn headline(f: &Findings<'_>, features: &[FeatureDrift]) -> (Level, String) {
    if features.iter().all(|x| x.n == 0) {
        return (Level::Idle, format!("Nothing has been counted yet for {} {}.", f.line, f.version));
    }
    let names: std::collections::BTreeSet<&str> = features.iter().map(|x| x.name.as_str()).collect();
    let mut moved: Vec<String> = Vec::new();
    for x in features.iter().filter(|x| x.moved && !moved.contains(&x.name)).collect::<Vec<_>>() {
        if !moved.contains(&x.name) {
            moved.push(x.name.clone());
        }
    }
    let where_ = f.cohort.map_or_else(|| "any cohort".to_owned(), |c| format!("cohort {c}"));
    if moved.is_empty() {
        return (Level::Ok, format!("None of {} features has moved since training in {where_}.", names.len()));
    }
    let verb = if moved.len() == 1 { "has" } else { "have" };
    let named = words::list(&moved.iter().map(|name| words::plain(name)).collect::<Vec<_>>());
    let shouted = features.iter().filter(|x| x.moved && !x.harmless).map(|x| x.name.as_str()).collect::<std::collections::BTreeSet<_>>();
    let (level, harm) = match shouted.len() {
        0 => (Level::Busy, " As far as each alone goes, that costs next to nothing.".to_owned()),
        n if n < moved.len() => (Level::Warn, format!(" {} of them may cost accuracy, the most harmful first.", n)),
        _ => (Level::Warn, String::new()),
    };
    (level, format!("{} of {} features {verb} moved since training: {named}.{harm}", moved.len(), names.len()))
}

fn feature(v: &Verdict, reference: &Reference) -> FeatureDrift {
    let total: f64 = v.observed.iter().sum();
    let share = |n: Option<&f64>| if total > 0.0 { n.copied().unwrap_or(0.0) / total } else { 0.0 };
    let labels = reference.features.get(v.index).map(bin_labels).unwrap_or_default();
    let bins: Vec<BinShare> = labels
        .into_iter()
        .enumerate()
        .map(|(i, (label, special))| BinShare {
            label,
            special,
            reference: v.expected.get(i).copied().unwrap_or(0.0),
            current: share(v.observed.get(i)),
        })
        .collect();
    let special = |from: usize, to: usize| bins.iter().take(to).skip(from).map(|b| b.current).sum::<f64>();
    FeatureDrift {
        name: v.feature.clone(),
        cohort: Some(v.cohort.to_string()),
        moved: v.moved,
        level: match (v.moved, total > 0.0) {
            (true, _) if v.harmless => Level::Busy,
            (true, _) => Level::Warn,
            (false, true) => Level::Ok,
            (false, false) => Level::Idle,
        },
        log_evidence: v.log_evidence,
        threshold: v.log_threshold,
        psi: v.magnitude.psi,
        sup_cdf: v.magnitude.sup_cdf,
        direction: v.magnitude.direction.as_str().to_owned(),
        importance: v.importance,
        cost: v.cost,
        harmless: v.harmless,
        release: v.release,
        n: total as u64,
        missing: special(0, 2),
        outside: special(2, 5),
        since: v.alarmed_at.or(v.since).filter(|_| v.moved),
        sentence: v.sentence.clone(),
        bins,
    }
}

/// A verdict about an instrument.
pub(in crate::io::web) fn device(v: &Verdict) -> Option<DeviceDrift> {
    Some(DeviceDrift {
        device: v.device.as_ref()?.to_string(),
        cohort: v.cohort.to_string(),
        feature: v.feature.clone(),
        log_evidence: v.log_evidence,
        threshold: v.log_threshold,
        cost: v.cost,
        since: v.alarmed_at.or(v.since),
        sentence: v.sentence.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_were_left_out_are_told_and_nothing_is_told_of_none() {
        assert_eq!(left_out(0), "");
        for (late, want) in [(1, "One window came after its block was judged"), (1_200, "1 200 windows came after their block was judged")]
        {
            let told = left_out(late).replace(['\u{202f}', '\u{a0}', '\u{2009}'], " ");
            assert!(told.contains(want) && told.contains("drift.late_blocks"), "{told}");
        }
    }
}
