//! Manifests of datasets, their bounds, and what people call a dataset.
use super::*;

fn record(title: &str, at: i64, salt: &[u8]) -> DatasetRecord {
    DatasetRecord {
        manifest: Blob::of(salt),
        title: title.to_owned(),
        line: "rain".parse().unwrap(),
        origin: "captured".to_owned(),
        files: BTreeMap::from([("train".to_owned(), Digest::of(&[salt, b"train"].concat()))]),
        rows: 1,
        devices: 1,
        made_at: Timestamp::from_secs(at),
        made_by: "training job x".to_owned(),
        sentence: "One row.".to_owned(),
    }
}

fn manifest() -> DatasetManifest {
    use crate::retraining::dataset::snapshot;
    use leeway_protocol::capture::CapturedRow;
    let policy = DatasetPolicy::default();
    let one = |day: i64, device: usize| Sample {
        device: format!("d-{device}").parse().unwrap(),
        cohort: if device == 0 { "coast" } else { "hills" }.parse().unwrap(),
        manifest: Digest::of(if day < 60 { b"first" } else { b"later" }),
        row: CapturedRow {
            request: day as u64,
            at: Timestamp::from_secs(day * 86_400),
            inputs: vec![day as f32, device as f32],
            decided: 1.0,
            confidence: 0.7,
            label: Some(f32::from(day % 4 == 0)),
            inclusion: 0.5,
        },
    };
    let samples: Vec<Sample> = (0..200).flat_map(|day| (0..3).map(move |device| one(day, device))).collect();
    let made = snapshot(&policy, &["wind".to_owned(), "air".to_owned()], &samples, "rain-7").unwrap();
    let versions = BTreeMap::from([(Digest::of(b"later"), "2.0".parse().unwrap())]);
    let parents = vec![Parent { how: "previous".to_owned(), digest: Digest::of(b"before") }];
    let line = "rain".parse().unwrap();
    DatasetManifest::captured(&policy, &made.info, &made.facts, Provenance { title: "rain-7", line: &line, versions: &versions, parents })
}

#[test]
fn a_manifest_says_where_its_rows_come_from_and_reads_back() {
    let made = manifest();
    assert_eq!(DatasetManifest::parse(&made.to_bytes()).unwrap(), made);
    assert_eq!(Digest::of(&made.to_bytes()), Digest::of(&manifest().to_bytes()), "no clock, no chance");
    assert_eq!((made.device_count, made.rows), (3, made.files.iter().map(|f| f.rows).sum()));
    assert_eq!(made.labels.labelled, made.rows);
    assert_eq!(made.labels.classes.values().sum::<u64>(), made.rows);
    assert_eq!(made.cohorts["hills"], 2 * made.cohorts["coast"]);
    let [a, b] = &made.sources[..] else { panic!("two versions served: {:?}", made.sources) };
    let later = if a.version.is_some() { a } else { b };
    assert_eq!(later.version.as_ref().unwrap().as_str(), "2.0");
    assert!(later.first >= Timestamp::from_secs(60 * 86_400) && later.devices == 3);
    assert_eq!(a.rows + b.rows, made.rows, "embargoed rows are in no file and in no source");
    assert_eq!(made.selection.as_ref().unwrap().seed, "rain-7");
    let names: Vec<&str> = made.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["wind", "air", "label", "weight", "at", "device", "cohort", "inclusion", "request", "served_by"]);
    assert!(made.sentence.contains("% class 0"), "{}", made.sentence);
}

#[test]
fn a_manifest_past_its_bounds_is_refused() {
    let good = manifest();
    let many = vec![Parent { how: "previous".to_owned(), digest: Digest::of(b"x") }; MAX_LINKS + 1];
    let bad = [
        DatasetManifest { v: 2, ..good.clone() },
        DatasetManifest { files: Vec::new(), ..good.clone() },
        DatasetManifest { parents: many, ..good.clone() },
    ];
    for bad in bad {
        assert!(matches!(DatasetManifest::parse(&bad.to_bytes()), Err(ManifestError::Form)));
    }
    let padded = [good.to_bytes(), vec![b' '; MAX_MANIFEST_BYTES as usize]].concat();
    assert!(matches!(DatasetManifest::parse(&padded), Err(ManifestError::Form)));
    assert!(matches!(DatasetManifest::parse(b"{}"), Err(ManifestError::Json(_))));
}

#[test]
fn a_dataset_is_found_by_what_people_have_at_hand() {
    let records = [record("rain-1", 1, b"a"), record("rain-2", 2, b"b"), record("rain-2", 3, b"c")];
    let hex = records[0].manifest.digest.hex();
    let train = records[1].files["train"].to_string();
    let cases = [
        (records[0].manifest.digest.to_string(), 0),
        (hex.clone(), 0),
        (hex[..8].to_owned(), 0),
        (format!("sha256:{}", &hex[..8]), 0),
        (train, 1),
        ("rain-2".to_owned(), 2),
    ];
    for (asked, place) in cases {
        assert_eq!(find(&records, &asked), Ok(&records[place]), "{asked}");
    }
    for asked in ["", "rain-3", &hex[..3], "ffffffffffff"] {
        assert!(find(&records, asked).unwrap_err().contains("no dataset"), "{asked}");
    }
}

#[test]
fn labels_are_classes_while_they_are_few_whole_numbers() {
    let classes = Labels::of([Some(0.0), Some(1.0), None, Some(1.0), Some(f64::NAN)].into_iter());
    assert_eq!((classes.labelled, classes.words().as_str()), (3, "33.3 % class 0, 66.7 % class 1"));
    let values = Labels::of((0..100).map(|i| Some(f64::from(i) / 7.0)));
    assert_eq!((values.labelled, values.classes.len(), values.words().as_str()), (100, 0, "100 labels"));
    let many = Labels::of((0..100).map(|i| Some(f64::from(i))));
    assert_eq!((many.labelled, many.classes.len()), (100, 0));
}
