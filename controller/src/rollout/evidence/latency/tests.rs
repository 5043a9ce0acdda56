//! What stands for a device, what is said about two groups of them, and that evidence from before there were latencies is read.
use super::*;
use crate::sequential::tests::Chance;

/// A window of `n` lognormal latencies.
fn window(chance: &mut Chance, n: usize, median_ms: f64, spread: f64) -> Vec<u32> {
    let mut buckets = vec![0; leeway_protocol::report::LATENCY_BUCKETS];
    for _ in 0..n {
        let nanos = median_ms * 1e6 * (spread * chance.normal()).exp();
        buckets[leeway_protocol::report::latency_bucket(nanos as u64)] += 1;
    }
    buckets
}

fn value(windows: &[Vec<u32>]) -> Option<f64> {
    let mut timing = Timing::default();
    windows.iter().for_each(|window| timing.add(window));
    timing.value()
}

#[test]
fn a_device_stands_for_its_p95_once_it_has_a_hundred() {
    let mut chance = Chance::new(51);
    let short = window(&mut chance, 60, 8.0, 0.3);
    assert_eq!(value(std::slice::from_ref(&short)), None);
    assert!(value(&[short.clone(), short]).is_some());
    // Where latencies spread over some buckets, the p95 is read off to some tenth.
    for median in [5.0, 6.0, 7.0, 8.0, 9.0] {
        let read = value(&[window(&mut chance, 20_000, median, 0.35)]).unwrap().exp2() / 1e6;
        let truth = median * (0.35 * 1.645f64).exp();
        assert!((read / truth - 1.0).abs() < 0.15, "{median}: {read:.2}, truly {truth:.2}");
    }
    // Where all lie in one, it is somewhere in it; and twice as slow is one octave more, exactly.
    let tight = [vec![0; 22], vec![200], vec![0; 17]].concat();
    let twice = [vec![0; 23], vec![200], vec![0; 16]].concat();
    let (one, two) = (value(&[tight]).unwrap(), value(&[twice]).unwrap());
    assert!((22.0..23.0).contains(&one) && (two - one - 1.0).abs() < 1e-12, "{one} {two}");
}

#[test]
fn slower_inferences_never_make_a_device_look_faster() {
    let mut chance = Chance::new(52);
    for _ in 0..50 {
        let median = 3.0 + 6.0 * chance.uniform();
        let mut buckets = window(&mut chance, 120, median, 0.6);
        let before = value(&[buckets.clone()]).unwrap();
        let from = (0..39).filter(|&i| buckets[i] > 0).nth((chance.uniform() * 2.0) as usize).unwrap();
        (buckets[from], buckets[from + 1]) = (buckets[from] - 1, buckets[from + 1] + 1);
        assert!(value(&[buckets]).unwrap() >= before - 1e-12);
    }
}

fn paces(canary: (f64, usize), control: (f64, usize)) -> Paces {
    let group = |(ms, n): (f64, usize)| {
        (0..n).fold(Ladder::default(), |mut ladder, i| {
            ladder.add((ms * 1e6).log2() + 0.3 * ((i * 7 % 11) as f64 / 11.0 - 0.5));
            ladder
        })
    };
    Paces { canary: group(canary), control: group(control) }
}

#[test]
fn slower_than_tolerated_fails_and_the_sentence_speaks_in_milliseconds() {
    let twice = Limits { margin: 1.0, ..Limits::default() };
    let harm = judge(&paces((24.0, 30), (8.0, 120)), &twice);
    assert_eq!(harm.outcome, Outcome::Fail, "{}", harm.sentence);
    assert!(
        harm.sentence.starts_with("Median device's p95 latency: canary 24.") && harm.sentence.contains("% slower"),
        "{}",
        harm.sentence
    );
    assert!(harm.sentence.ends_with("more than 100 % slower is proven: fail."), "{}", harm.sentence);
    assert!((harm.estimate.unwrap() - 2.0).abs() < 0.2 && harm.lower.unwrap() > 1.0 && harm.upper.unwrap() < 4.0, "{harm:?}");
    // As slow as tolerated is no harm, and twice as slow is more than half as slow again.
    assert_eq!(judge(&paces((16.0, 100), (8.0, 400)), &twice).outcome, Outcome::Inconclusive);
    let half = Limits { margin: 0.5, ..twice };
    assert_eq!(judge(&paces((16.0, 100), (8.0, 400)), &half).outcome, Outcome::Fail);
    assert_eq!(judge(&paces((24.0, 30), (8.0, 120)), &Limits { min_devices: 40, ..twice }).outcome, Outcome::Inconclusive);
    let safe = judge(&paces((8.0, 60), (8.0, 200)), &twice);
    assert_eq!(safe.outcome, Outcome::Pass, "{}", safe.sentence);
    assert!(safe.sentence.ends_with("within the 100 % allowed: pass."), "{}", safe.sentence);
    let few = judge(&paces((8.0, 3), (8.0, 200)), &twice);
    assert!(few.outcome == Outcome::Inconclusive && few.sentence.contains("(too few to bound it) on 3 devices"), "{}", few.sentence);
    let none = judge(&paces((8.0, 0), (8.0, 200)), &twice);
    assert!(none.outcome == Outcome::Inconclusive && none.estimate.is_none() && none.sentence.contains("no canary has had 100 timed"));
}

#[test]
fn evidence_from_before_there_were_latencies_is_read() {
    let stored = r#"{"arms":{"slow_ratio":{"canary":{"devices":1,"n":9.0,"x":1.0,"n2":81.0,"x2":1.0,"nx":9.0},
        "control":{"devices":0,"n":0.0,"x":0.0,"n2":0.0,"x2":0.0,"nx":0.0}}},"slices":{"hw=rev-b":{}},
        "inferences":9,"errors":0,"devices":1,"last_at":null,"manifest":null}"#;
    let read: Evidence = serde_json::from_str(stored).unwrap();
    assert_eq!((read.latency.clone(), read.arms[&Metric::SlowRatio].canary.devices), (Paces::default(), 1));
    let mut evidence = Evidence { latency: paces((8.0, 3), (7.0, 9)), ..read };
    evidence.arms.entry(Metric::Latency).or_default().canary.replace(Totals::default(), Totals { n: 1.0, x: 0.0 });
    let again: Evidence = serde_json::from_value(serde_json::to_value(&evidence).unwrap()).unwrap();
    assert_eq!(again, evidence);
    // Names and, for whatever is packed, numbers of metrics are those of earlier versions.
    let names: Vec<String> = Metric::ALL.iter().map(|m| serde_json::to_string(m).unwrap()).collect();
    assert_eq!(
        names[..6].join(" "),
        r#""error_ratio" "slow_ratio" "labelled_accuracy" "estimated_accuracy" "device_failures" "output_shift""#
    );
    let packed: Vec<Vec<u8>> = Metric::ALL.iter().map(|m| postcard::to_stdvec(m).unwrap()).collect();
    assert_eq!(packed[..7], [[0], [1], [2], [3], [4], [5], [6]]);
}
