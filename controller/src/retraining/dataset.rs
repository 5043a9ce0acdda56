//! From captured rows to the exact bytes a model is trained and judged on.
//!
//! The split is by blocks of application time, never by row or device: stations share their weather, so the same day at another
//! station is the answer to the question. Rows near a held-out block are left out of training too (`embargo_ms`), because
//! yesterday's weather is nearly today's. Every row keeps the inverse of the probability it was captured with (Horvitz–Thompson), so
//! that what the capture policy preferred does not bias what is learned.
//!
//! Bytes are a function of the rows alone: sorted, deduplicated by (device, request), the newest kept when there are too many. So
//! the digest names the data for good. What stays true: no held-out day is trained on, at any station.
use std::collections::{BTreeMap, BTreeSet};

use leeway_protocol::capture::CapturedRow;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, DeviceId};
use leeway_protocol::manifest::{Blob, Dataset};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dataset::Facts;
use crate::dataset::frame::{EXTRA_COLUMNS, Frame};

/// How rows become a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetPolicy {
    /// Share of the time blocks that is held out.
    pub holdout: f64,
    /// Blocks of so many milliseconds of application time.
    pub block_ms: i64,
    /// Rows within so many milliseconds of a held-out block are not trained on.
    pub embargo_ms: i64,
    /// Rows kept, newest first.
    pub max_rows: usize,
    /// Labelled rows needed.
    pub min_rows: usize,
    /// Only rows from then on, if set: after the drift began, the old world teaches the wrong thing.
    pub from: Option<Timestamp>,
    /// Only rows within so many milliseconds before the newest one, if set; on the weather, two years after a change beat seven.
    pub span_ms: Option<i64>,
}

impl Default for DatasetPolicy {
    fn default() -> Self {
        Self {
            holdout: 0.3,
            block_ms: 14 * 86_400_000,
            embargo_ms: 86_400_000,
            max_rows: 200_000,
            min_rows: 300,
            from: None,
            span_ms: None,
        }
    }
}

/// A captured row and where it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The device.
    pub device: DeviceId,
    /// Its cohort.
    pub cohort: Cohort,
    /// The manifest it ran.
    pub manifest: Digest,
    /// The row.
    pub row: CapturedRow,
}

/// What a dataset is made of, for the audit trail and the lineage of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// The training rows.
    pub train: Blob,
    /// The held-out rows.
    pub holdout: Blob,
    /// Training rows.
    pub train_rows: u64,
    /// Held-out rows.
    pub holdout_rows: u64,
    /// Time blocks trained on and held out.
    pub blocks: (u64, u64),
    /// Rows by device.
    pub devices: BTreeMap<DeviceId, u64>,
    /// Manifests under which they were captured.
    pub manifests: BTreeSet<Digest>,
    /// First row.
    pub first: Timestamp,
    /// Last row.
    pub last: Timestamp,
    /// Rows that came twice.
    pub duplicates: u64,
    /// Rows without a label, with values that are not finite, or of another width.
    pub unusable: u64,
    /// Rows left out because they are next to a held-out block.
    pub embargoed: u64,
    /// Rows the weights are worth, (Σw)²/Σw²: far below the number of rows when capture was very selective.
    pub effective_rows: f64,
    /// In a sentence.
    pub sentence: String,
    /// Digest of the dataset's manifest, which is its name; datasets of older controllers have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
}

impl DatasetInfo {
    /// As the manifest's lineage names it: by the dataset's digest, so that what is signed leads to the rows and where they come from.
    pub fn lineage(&self, name: &str) -> Vec<Dataset> {
        let one = |role: &str, blob: Blob, rows| Dataset { role: role.to_owned(), name: name.to_owned(), digest: blob.digest, rows };
        vec![one("train", self.train, self.train_rows), one("holdout", self.holdout, self.holdout_rows)]
    }
}

/// The bytes and what they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Parquet: see [`crate::dataset::frame`].
    pub train: Vec<u8>,
    /// The same columns.
    pub holdout: Vec<u8>,
    /// What they are.
    pub info: DatasetInfo,
    /// What a dataset's manifest says of them beside that.
    pub facts: Facts,
}

/// Why no dataset could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// Too few rows.
    #[error("{found} usable labelled rows are there, {needed} are needed: capture more, or wait for labels")]
    TooFewRows {
        /// Usable ones.
        found: usize,
        /// Needed ones.
        needed: usize,
    },
    /// Too little time.
    #[error("the rows span {found} blocks of time, {needed} are needed to hold some out: wait, or shorten block_ms")]
    TooShort {
        /// Blocks.
        found: usize,
        /// Needed.
        needed: usize,
    },
    /// A feature's name would break the table.
    #[error("feature name {0:?} cannot be a column: use letters, digits, spaces, '_' and '-', none of the reserved names, and none twice")]
    BadName(String),
    /// The encoder.
    #[error("the rows cannot be written as Parquet: {0}")]
    Encode(String),
}

/// Time blocks needed before some can be held out.
const MIN_BLOCKS: usize = 4;

/// Make the dataset. `salt` (the job's name) decides which blocks are held out.
pub fn snapshot(policy: &DatasetPolicy, features: &[String], samples: &[Sample], salt: &str) -> Result<Snapshot, DatasetError> {
    let twice = |n: &String| features.iter().filter(|other| *other == n).count() > 1;
    if let Some(bad) = features.iter().find(|n| !is_column(n) || twice(n)) {
        return Err(DatasetError::BadName(bad.clone()));
    }
    let newest = newest(samples);
    let from = policy.from.max(policy.span_ms.zip(newest).map(|(span, newest)| newest.plus_millis(-span)));
    let usable = |s: &&Sample| {
        let row = &s.row;
        let finite = row.inputs.len() == features.len() && row.inputs.iter().all(|v| v.is_finite());
        finite && row.label.is_some_and(f32::is_finite) && row.inclusion > 0.0 && from.is_none_or(|from| row.at >= from)
    };
    let mut unique: BTreeMap<(&DeviceId, u64), &Sample> = BTreeMap::new();
    let mut duplicates = 0;
    let mut kept = 0;
    for sample in samples.iter().filter(usable) {
        kept += 1;
        duplicates += u64::from(unique.insert((&sample.device, sample.row.request), sample).is_some());
    }
    let unusable = samples.len() as u64 - kept;
    let mut rows: Vec<&Sample> = unique.into_values().collect();
    // The newest first, ties by device and request, so that the cut at max_rows is a function of the rows.
    rows.sort_by(|a, b| b.row.at.cmp(&a.row.at).then_with(|| (&a.device, a.row.request).cmp(&(&b.device, b.row.request))));
    rows.truncate(policy.max_rows);
    if rows.len() < policy.min_rows.max(1) {
        return Err(DatasetError::TooFewRows { found: rows.len(), needed: policy.min_rows.max(1) });
    }
    rows.sort_by(|a, b| (a.row.at, &a.device, a.row.request).cmp(&(b.row.at, &b.device, b.row.request)));
    let held = held_out_blocks(policy, &rows, salt)?;
    let (mut train, mut holdout, mut embargoed) = (Vec::new(), Vec::new(), 0);
    for &sample in &rows {
        let at = sample.row.at.as_millis();
        if held.contains(&block(policy, at)) {
            holdout.push(sample);
        } else if held.contains(&block(policy, at + policy.embargo_ms)) || held.contains(&block(policy, at - policy.embargo_ms)) {
            embargoed += 1;
        } else {
            train.push(sample);
        }
    }
    assemble(policy, features, &rows, &train, &holdout, Dropped { duplicates, unusable, embargoed }, held.len())
}

/// Share of the rows that may lie after "the newest": a device with its clock in the future must not shut out everyone else.
const CLOCK_OUTLIERS: f64 = 0.01;

fn newest(samples: &[Sample]) -> Option<Timestamp> {
    let mut moments: Vec<Timestamp> = samples.iter().filter(|s| s.row.label.is_some()).map(|s| s.row.at).collect();
    moments.sort_unstable();
    moments.get(((moments.len() as f64 * (1.0 - CLOCK_OUTLIERS)) as usize).min(moments.len().saturating_sub(1))).copied()
}

struct Dropped {
    duplicates: u64,
    unusable: u64,
    embargoed: u64,
}

fn assemble(
    policy: &DatasetPolicy,
    features: &[String],
    rows: &[&Sample],
    train: &[&Sample],
    holdout: &[&Sample],
    dropped: Dropped,
    held: usize,
) -> Result<Snapshot, DatasetError> {
    let (train_rows, holdout_rows) = (Frame::of(features, train), Frame::of(features, holdout));
    let write = |frame: &Frame| frame.to_parquet().map_err(|e| DatasetError::Encode(e.to_string()));
    let (train_bytes, holdout_bytes) = (write(&train_rows)?, write(&holdout_rows)?);
    let blocks: BTreeSet<i64> = rows.iter().map(|s| block(policy, s.row.at.as_millis())).collect();
    let mut devices = BTreeMap::new();
    rows.iter().for_each(|s| *devices.entry(s.device.clone()).or_insert(0) += 1);
    let (sum, squares) = train.iter().map(|s| 1.0 / f64::from(s.row.inclusion)).fold((0.0, 0.0), |(a, b), w| (a + w, b + w * w));
    let effective_rows = if squares > 0.0 { sum * sum / squares } else { 0.0 };
    let at = |s: Option<&&Sample>| s.map_or_else(Timestamp::default, |s| s.row.at);
    let (first, last) = (at(rows.first()), at(rows.last()));
    let day = |t: Timestamp| t.to_string().chars().take(10).collect::<String>();
    let sentence = format!(
        "{} labelled rows of {} devices from {} to {}: {} to train on, {} held out in {held} of {} time blocks.",
        rows.len(),
        devices.len(),
        day(first),
        day(last),
        train.len(),
        holdout.len(),
        blocks.len()
    );
    let info = DatasetInfo {
        train: Blob::of(&train_bytes),
        holdout: Blob::of(&holdout_bytes),
        train_rows: train.len() as u64,
        holdout_rows: holdout.len() as u64,
        blocks: ((blocks.len() - held) as u64, held as u64),
        devices,
        manifests: rows.iter().map(|s| s.manifest).collect(),
        first,
        last,
        duplicates: dropped.duplicates,
        unusable: dropped.unusable,
        embargoed: dropped.embargoed,
        effective_rows,
        sentence,
        manifest: None,
    };
    let facts = Facts::of(&train_rows, &holdout_rows, rows);
    Ok(Snapshot { train: train_bytes, holdout: holdout_bytes, info, facts })
}

fn block(policy: &DatasetPolicy, at_ms: i64) -> i64 {
    at_ms.div_euclid(policy.block_ms.max(1))
}

/// The blocks with the smallest salted hashes: any person with the job's name can check the choice.
fn held_out_blocks(policy: &DatasetPolicy, rows: &[&Sample], salt: &str) -> Result<BTreeSet<i64>, DatasetError> {
    let all: BTreeSet<i64> = rows.iter().map(|s| block(policy, s.row.at.as_millis())).collect();
    if all.len() < MIN_BLOCKS {
        return Err(DatasetError::TooShort { found: all.len(), needed: MIN_BLOCKS });
    }
    let wanted = ((all.len() as f64 * policy.holdout.clamp(0.0, 0.9)).round() as usize).clamp(1, all.len() - 1);
    let mut ranked: Vec<(Digest, i64)> = all.into_iter().map(|b| (Digest::of(format!("{salt}/{b}").as_bytes()), b)).collect();
    ranked.sort();
    Ok(ranked.into_iter().take(wanted).map(|(_, b)| b).collect())
}

fn is_column(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || " _-.".contains(c);
    !name.is_empty() && name.chars().all(plain) && !EXTRA_COLUMNS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    fn samples(days: i64) -> Vec<Sample> {
        let one = |day: i64, device: usize| Sample {
            device: format!("d-{device}").parse().unwrap(),
            cohort: "coast".parse().unwrap(),
            manifest: Digest::of(b"m"),
            row: CapturedRow {
                request: day as u64,
                at: Timestamp::from_millis(-1000 * DAY + day * DAY + 5),
                inputs: vec![day as f32 + 0.1, device as f32],
                decided: 1.0,
                confidence: 0.7,
                label: Some(f32::from(day % 2 == 0)),
                inclusion: if device == 0 { 0.5 } else { 1.0 },
            },
        };
        (0..days).flat_map(|day| (0..3).map(move |device| one(day, device))).collect()
    }

    fn names() -> Vec<String> {
        vec!["wind".into(), "air pressure".into()]
    }

    fn rows(bytes: &[u8]) -> Frame {
        Frame::read(bytes::Bytes::copy_from_slice(bytes)).unwrap()
    }

    fn days(bytes: &[u8]) -> BTreeSet<String> {
        rows(bytes).facts.iter().map(|f| f.at.to_string()[..10].to_owned()).collect()
    }

    #[test]
    fn no_held_out_day_is_trained_on_and_neighbours_are_left_out() {
        let policy = DatasetPolicy::default();
        let snapshot = snapshot(&policy, &names(), &samples(200), "job-1").unwrap();
        let (train, holdout) = (days(&snapshot.train), days(&snapshot.holdout));
        assert!(train.is_disjoint(&holdout) && !holdout.is_empty());
        let info = &snapshot.info;
        assert!(info.embargoed > 0 && info.train_rows + info.holdout_rows + info.embargoed == 600);
        let share = info.holdout_rows as f64 / 600.0;
        assert!((0.2..0.4).contains(&share), "{share}");
        assert!(
            info.effective_rows < info.train_rows as f64 && info.sentence.contains("600 labelled rows of 3 devices"),
            "{}",
            info.sentence
        );
        assert_eq!(info.train, Blob::of(&snapshot.train));
        let frame = rows(&snapshot.train);
        assert_eq!(frame.features, names());
        let first = &frame.facts[0];
        assert_eq!((frame.values[0][0], first.label, first.weight, first.inclusion), (0.1, 1.0, 2.0, 0.5));
        assert_eq!(
            (first.at.to_string(), first.device.as_str(), first.cohort.as_str()),
            ("1967-04-07T00:00:00.005Z".to_owned(), "d-0", "coast")
        );
        assert_eq!(snapshot.facts.contents["train"], frame.content());
    }

    #[test]
    fn bytes_depend_on_the_rows_alone() {
        let policy = DatasetPolicy::default();
        let rows = samples(100);
        let mut shuffled: Vec<Sample> = rows.iter().rev().cloned().collect();
        shuffled.extend(rows.iter().take(7).cloned());
        let mut unlabelled = rows[0].clone();
        unlabelled.row.label = None;
        unlabelled.row.request = 9999;
        shuffled.push(unlabelled);
        let (a, b) = (snapshot(&policy, &names(), &rows, "x").unwrap(), snapshot(&policy, &names(), &shuffled, "x").unwrap());
        assert_eq!((a.train, a.holdout), (b.train, b.holdout));
        assert_eq!((b.info.duplicates, b.info.unusable), (7, 1));
        let newest = snapshot(&DatasetPolicy { max_rows: 300, ..policy.clone() }, &names(), &samples(200), "x").unwrap();
        assert_eq!(newest.info.first.as_millis(), (-900 * DAY) + 5);
        let lately = snapshot(&DatasetPolicy { span_ms: Some(120 * DAY), ..policy.clone() }, &names(), &samples(200), "x").unwrap();
        assert_eq!(lately.info.first.as_millis(), (-922 * DAY) + 5);
    }

    #[test]
    fn what_cannot_be_a_dataset_says_why() {
        let policy = DatasetPolicy::default();
        assert!(matches!(snapshot(&policy, &names(), &samples(20), "x"), Err(DatasetError::TooFewRows { found: 60, needed: 300 })));
        let short = DatasetPolicy { block_ms: 400 * DAY, ..policy.clone() };
        assert!(matches!(snapshot(&short, &names(), &samples(200), "x"), Err(DatasetError::TooShort { .. })));
        for bad in ["label", "a,b", "", "x\n"] {
            assert!(
                matches!(snapshot(&policy, &[bad.to_owned(), "w".to_owned()], &samples(200), "x"), Err(DatasetError::BadName(_))),
                "{bad:?}"
            );
        }
        let twice = ["w".to_owned(), "w".to_owned()];
        assert!(matches!(snapshot(&policy, &twice, &samples(200), "x"), Err(DatasetError::BadName(_))));
    }
}
