//! Who is asked follows from what is unknown; probabilities are what the plan says; the budget is kept.
use super::*;

fn place(cohort: &str, devices: usize, each: f64) -> Place {
    let name = |i: usize| format!("{cohort}-{i}").parse().unwrap();
    Place {
        cohort: cohort.parse().unwrap(),
        version: "1.0.0".to_owned(),
        manifest: Digest::of(b"m"),
        devices: (0..devices).map(|i| (name(i), each)).collect(),
        expected: Some(0.8),
        estimated: Some(0.8),
        measured: Some(Interval { estimate: 0.8, lower: 0.78, upper: 0.82 }),
    }
}

fn line() -> Line {
    "rain".parse().unwrap()
}

#[test]
fn labels_go_where_least_is_known_and_nobody_is_left_out() {
    let policy = LabelPolicy::default();
    let known = place("known", 40, 100.0);
    let table: [(&str, Place, f64); 5] = [
        ("no labels lately", Place { measured: None, ..place("other", 40, 100.0) }, 1.8),
        (
            "± 10.0 % and ± 3.0 % is wanted",
            Place { measured: Some(Interval { estimate: 0.8, lower: 0.7, upper: 0.9 }), ..place("other", 40, 100.0) },
            1.8,
        ),
        ("The estimate of 92.0 % lies outside", Place { estimated: Some(0.92), ..place("other", 40, 100.0) }, 1.8),
        (
            "confidence is low: it stands for 70.0 % where 80.0 %",
            Place { estimated: Some(0.7), measured: None, ..place("other", 40, 100.0) },
            2.2,
        ),
        ("By its size", place("other", 40, 200.0), 1.9),
    ];
    for (why, other, times) in table {
        let plan = plan(&policy, &line(), 20_000, &[known.clone(), other]);
        let share = |name: &str| plan.shares.iter().find(|s| s.cohort.as_str() == name).unwrap();
        let (other, known) = (share("other"), share("known"));
        assert!(other.reason.contains(why), "{}", other.reason);
        assert!(other.labels_per_day > times * known.labels_per_day, "{why}: {} {}", other.labels_per_day, known.labels_per_day);
        assert!((other.labels_per_day + known.labels_per_day - 100.0).abs() < 1e-6);
        let decisions = known.decisions_per_day + other.decisions_per_day;
        for share in &plan.shares {
            assert!(share.inclusion >= 0.3 * 100.0 / decisions - 1e-12 && share.uniform <= share.labels_per_day + 1e-9);
        }
        assert!(plan.labels.abs_diff(100) <= 10, "{}", plan.sentence);
    }
}

#[test]
fn each_decision_is_asked_as_often_as_the_plan_says() {
    // Devices of very different size, some smaller than a visit.
    let mut places = vec![place("a", 30, 40.0), Place { measured: None, ..place("b", 30, 25.0) }];
    for (i, n) in places[1].devices.values_mut().enumerate() {
        *n = [3.0, 8.0, 60.0, 400.0][i % 4];
    }
    let policy = LabelPolicy { per_day: 120, ..LabelPolicy::default() };
    let days = 3_000;
    let (mut asked, mut stated): (BTreeMap<DeviceId, f64>, BTreeMap<DeviceId, (f64, f64)>) = Default::default();
    let mut total = 0;
    for day in 0..days {
        let plan = plan(&policy, &line(), day, &places);
        total += plan.labels;
        for ask in plan.shares.iter().flat_map(|s| &s.devices) {
            *asked.entry(ask.device.clone()).or_default() += ask.labels as f64;
            stated.insert(ask.device.clone(), (ask.inclusion, ask.decisions_per_day));
        }
    }
    assert_eq!(stated.len(), 60, "everybody's turn comes");
    for (device, (inclusion, decisions)) in &stated {
        let share = asked[device] / (days as f64 * decisions);
        // Visits are yes or no: five standard deviations of a share of days, times what a visit asks of the device.
        let visits: f64 = (inclusion * decisions / 10f64.min(*decisions)).min(1.0);
        let error = 5.0 * (visits.max(0.001) / days as f64).sqrt() * 10f64.min(*decisions) / decisions;
        assert!((share - inclusion).abs() <= error, "{device}: {share} where {inclusion} was stated");
    }
    // Small devices cannot fill a visit, so a little less than the budget is asked.
    let mean = total as f64 / days as f64;
    assert!((100.0..=120.5).contains(&mean), "{mean}");
}

#[test]
fn plans_repeat_differ_by_day_and_have_bounds() {
    let places = [place("a", 200, 50.0)];
    let policy = LabelPolicy::default();
    let of = |day| plan(&policy, &line(), day, &places);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert_ne!(of(1).shares, plan(&policy, &"snow".parse().unwrap(), 1, &places).shares);
    // More labels than decisions: all are asked, the small cohort's first.
    let greedy = LabelPolicy { per_day: 1_000_000, per_visit: 1, ..policy };
    let all = plan(&greedy, &line(), 1, &[place("a", 3, 5.0), place("b", 2, 50.0)]);
    assert_eq!(all.labels, 115, "{all:?}");
    assert!(all.shares.iter().all(|s| (s.inclusion - 1.0).abs() < 1e-9));
    let some = plan(
        &LabelPolicy { per_day: 60, per_visit: 1, ..policy },
        &line(),
        1,
        &[Place { measured: None, ..place("a", 1, 5.0) }, place("b", 2, 50.0)],
    );
    assert!(some.labels.abs_diff(60) <= 1 && some.shares.iter().all(|s| s.inclusion <= 1.0 + 1e-9), "{some:?}");
    assert!(plan(&policy, &line(), 1, &[]).sentence.starts_with("There is nobody to ask"));
    let none = plan(&LabelPolicy { per_day: 0, ..policy }, &line(), 1, &places);
    assert!(none.labels == 0 && none.sentence.contains("per_day is 0"), "{}", none.sentence);
    assert!(serde_json::from_str::<LabelPolicy>(r#"{"per_dya": 3}"#).is_err());
}
