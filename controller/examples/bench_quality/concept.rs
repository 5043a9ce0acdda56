//! Concept detectors on streams of right and wrong: false alarms, and the delay until a rise is found.
use leeway_controller::quality::QualityPolicy;
use leeway_controller::quality::classic::adwin::{Adwin, Change};
use leeway_controller::quality::classic::{Classic, PageHinkley};
use leeway_controller::sequential::detector::Budget;
use leeway_protocol::manifest::Calibration;
use leeway_protocol::report::Labelled;
use leeway_protocol::time::Timestamp;

use super::{Bins, Chance, Watch, median};

/// Errors at training time, and in a stream where nothing happens.
const BASE: f64 = 0.10;
/// Rows of such a stream.
const QUIET: usize = 10_000;
/// Rows before a rise, and after it.
const BEFORE: usize = 3_000;
const AFTER: usize = 4_000;
const BLOCK_MS: i64 = 1_000;

/// What takes rows and says when it alarms. It begins anew after an alarm.
enum Detector {
    Evidence(Box<Watch>, Vec<bool>, i64, Terms),
    Adwin(Adwin),
    PageHinkley(PageHinkley),
    /// Both as fed here: counts of so many rows, and which of the two is asked.
    Fed(Box<Classic>, Vec<bool>, usize, usize),
}

/// How the e-detector is asked.
#[derive(Clone, Copy)]
struct Terms {
    /// c, in blocks.
    threshold: f64,
    /// Rise that is none.
    tolerance: f64,
    /// Labels in a block.
    block: usize,
}

impl Detector {
    fn evidence(terms: Terms) -> Self {
        let budget = Budget { false_alarms: 1.0, period_ms: (terms.threshold * BLOCK_MS as f64) as i64 };
        let (tolerance, recent_ms) = (terms.tolerance, BLOCK_MS);
        let policy = QualityPolicy {
            block_ms: BLOCK_MS,
            recent_ms,
            late_blocks: 0,
            tolerance,
            budget,
            rho: 0.0,
            sharing: 0.0,
            ..QualityPolicy::default()
        };
        let edges = (0..=10).map(|i| f64::from(i) / 10.0).collect();
        let calibration = Calibration { edges, accuracy: vec![1.0 - BASE; 10], rows: vec![1_000; 10] };
        Self::Evidence(Box::new(Watch::new(policy, calibration)), Vec::new(), 0, terms)
    }

    fn add(&mut self, wrong: bool) -> bool {
        match self {
            Self::Evidence(watch, rows, block, terms) => {
                rows.push(wrong);
                if rows.len() < terms.block {
                    return false;
                }
                let mut bins = Bins::default();
                bins[0].1 = Labelled { rows: rows.len() as u64, correct: rows.iter().filter(|w| !**w).count() as u64 };
                rows.clear();
                watch.observe(Timestamp::from_millis(*block * BLOCK_MS), &bins);
                *block += 1;
                let alarm = watch.quality.verdict(&watch.policy, 1).concept_drift;
                if alarm {
                    *self = Self::evidence(*terms);
                }
                alarm
            }
            Self::Adwin(adwin) => adwin.add(wrong) == Some(Change::Rise),
            Self::PageHinkley(page) => page.add(wrong),
            Self::Fed(classic, rows, size, which) => {
                rows.push(wrong);
                if rows.len() < *size {
                    return false;
                }
                let rises = |c: &Classic| c.opinions()[*which].rises;
                let before = rises(classic);
                classic.feed(Timestamp::default(), rows.iter().filter(|w| **w).count() as u64, rows.len() as u64);
                rows.clear();
                rises(classic) > before
            }
        }
    }
}

type Make = Box<dyn Fn() -> Detector>;

fn detectors() -> Vec<(&'static str, Make)> {
    let evidence = |threshold, tolerance, block| -> Make { Box::new(move || Detector::evidence(Terms { threshold, tolerance, block })) };
    vec![
        ("e-detector, no tolerance, every label, c = 10⁴", evidence(1e4, 0.0, 1)),
        ("the same, a fleet's budget, c = 3·10⁷", evidence(3e7, 0.0, 1)),
        ("e-detector as it runs, tolerance 0.02, blocks of 10, c = 10⁴", evidence(1e4, 0.02, 10)),
        ("the same, a fleet's budget, c = 3·10⁷", evidence(3e7, 0.02, 10)),
        ("ADWIN, row by row", Box::new(|| Detector::Adwin(Adwin::default()))),
        ("ADWIN, as fed here, blocks of 100", Box::new(|| Detector::Fed(Box::default(), Vec::new(), 100, 0))),
        ("Page–Hinkley, row by row", Box::new(|| Detector::PageHinkley(PageHinkley::default()))),
        ("Page–Hinkley, as fed here, blocks of 100", Box::new(|| Detector::Fed(Box::default(), Vec::new(), 100, 1))),
    ]
}

pub fn table(runs: u64) {
    println!("## Concept drift: labels right or wrong, {BASE:.2} wrong at training, {runs} streams each\n");
    println!(
        "The bound is the expected number of false alarms in 100,000 labels, whatever the errors are as long as they stay within the tolerance; here they are at {BASE:.2}. Share found within {AFTER} labels, and the median delay in labels.\n"
    );
    println!("| detector (defaults) | false alarms / 100k | bound | .10 → .15 | .10 → .20 | .10 → .30 |\n|---|---|---|---|---|---|");
    for (name, make) in detectors() {
        let mut alarms = 0;
        for run in 0..runs {
            let (mut chance, mut detector) = (Chance::new(1_000 + run), make());
            alarms += (0..QUIET).filter(|_| detector.add(chance.hit(BASE))).count();
        }
        let found: Vec<String> = [0.15, 0.20, 0.30].iter().map(|&after| delays(runs, after, make.as_ref())).collect();
        let bound = match make() {
            Detector::Evidence(.., terms) => format!("{:.4}", 1e5 / terms.block as f64 / terms.threshold),
            _ => "none".to_owned(),
        };
        println!("| {name} | {:.2} | {bound} | {} |", alarms as f64 * 1e5 / (runs as f64 * QUIET as f64), found.join(" | "));
    }
    println!();
}

fn delays(runs: u64, after: f64, make: &dyn Fn() -> Detector) -> String {
    let delay = |run: u64| {
        let (mut chance, mut detector) = (Chance::new(50_000 + run), make());
        // A false alarm before the rise is no detection.
        (0..BEFORE).for_each(|_| _ = detector.add(chance.hit(BASE)));
        (1..=AFTER).find(|_| detector.add(chance.hit(after)))
    };
    let mut found: Vec<usize> = (0..runs).filter_map(delay).collect();
    let share = found.len() as f64 / runs as f64;
    median(&mut found).map_or_else(|| "0".to_owned(), |m| format!("{share:.2} / {m}"))
}
