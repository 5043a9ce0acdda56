//! A device's record, and what it answers at each moment of it.
use leeway_protocol::reason::Code;

use super::*;

const HOUR: i64 = 3600;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_secs(1_000_000 + hours * HOUR)
}

fn digest(version: &str) -> Digest {
    Digest::of(version.as_bytes())
}

fn active(version: &str, since: Timestamp) -> Active {
    let (line, name) = ("rain".parse().unwrap(), version.parse().unwrap());
    Active { line, version: name, manifest: digest(version), model: digest(version), since, proven: true }
}

fn said(version: &str, since: Timestamp, generation: u64, phase: Phase) -> Said {
    Said {
        device_at: since,
        boot: BootId(1),
        generation: Generation(generation),
        phase,
        active: Some(active(version, since)),
        last_known_good: None,
        reason: None,
        away_since: None,
    }
}

fn told(version: &str, generation: u64) -> Row {
    let (line, version, manifest) = ("rain".parse().ok(), version.parse().ok(), Some(digest(version)));
    let (rollout, stage, reason) = ("r".parse().ok(), Some(0), format!("Install {generation}."));
    Row::Told(Told { generation: Generation(generation), intent: Intent::Install, line, version, manifest, rollout, stage, reason })
}

fn kept(rows: Vec<(i64, Row)>) -> Vec<Kept> {
    rows.into_iter().zip(1..).map(|((hour, row), n)| Kept { n, at: at(hour), event: Some(100 + n), row }).collect()
}

/// Told 1 at hour 1, runs it from 2; told 2 at 10, runs it from 11, heard at 14 after it was away since 10; goes back at 20.
fn record() -> Vec<Kept> {
    let late = Said { device_at: at(14), away_since: Some(at(10)), ..said("2", at(11), 2, Phase::Probation) };
    let back = Said { reason: Some(Reason::new(Code::Crashed, "three times")), ..said("1", at(20), 2, Phase::Reverted) };
    kept(vec![
        (1, told("1", 1)),
        (2, Row::Said(said("1", at(2), 1, Phase::Committed))),
        (10, told("2", 2)),
        (14, Row::Said(late)),
        (20, Row::Said(back)),
    ])
}

fn seen() -> Seen {
    Seen { online: false, last_seen: None, enrolled_at: None, now: at(100) }
}

#[test]
fn each_moment_has_its_answer_and_says_what_is_not_known() {
    use Knowledge::{Assigned, Reported, Unknown};
    let rows = record();
    // Hour, how it is known, version, event of its assignment, what stands pending, a word of the gap.
    let table = [
        (0, Unknown, None, None, None, Some("first report")),
        (1, Assigned, None, None, Some(1), Some("first report")),
        (2, Reported, Some("1"), Some(101), None, None),
        (9, Reported, Some("1"), Some(101), None, None),
        (10, Reported, Some("1"), Some(101), Some(2), None),
        (11, Reported, Some("2"), Some(103), None, None),
        (13, Reported, Some("2"), Some(103), None, None),
        (19, Reported, Some("2"), Some(103), None, None),
        (20, Reported, Some("1"), Some(101), Some(2), None),
        (30, Reported, Some("1"), Some(101), Some(2), Some("nothing was heard")),
    ];
    for (hour, knowledge, version, event, pending, gap) in table {
        let answer = answer(&rows, at(hour), &seen());
        assert_eq!(answer.knowledge, knowledge, "hour {hour}");
        let runs = answer.span.as_ref().and_then(|s| s.said.active.as_ref()).map(|a| a.version.as_str());
        assert_eq!(runs, version, "hour {hour}");
        assert_eq!(answer.span.as_ref().and_then(|s| s.told).and_then(|t| t.1), event, "hour {hour}");
        assert_eq!(answer.pending.map(|p| p.0.generation.0), pending, "hour {hour}");
        match gap {
            Some(word) => assert!(answer.gaps.iter().any(|g| g.contains(word)), "hour {hour}: {:?}", answer.gaps),
            None => assert_eq!(answer.gaps, Vec::<String>::new(), "hour {hour}"),
        }
    }
}

#[test]
fn a_device_that_was_away_is_believed_about_the_time_it_names_and_the_gap_before_is_said() {
    let rows = record();
    let spans = spans(&rows);
    let times: Vec<_> = spans.iter().map(|s| (s.from, s.until, s.heard_at)).collect();
    assert_eq!(times, [(at(2), Some(at(11)), at(2)), (at(11), Some(at(20)), at(14)), (at(20), None, at(20))]);
    // Its last word before it was away was at 10, and by its own clock it changed at 11.
    let between = answer(&rows, Timestamp::from_secs(1_000_000 + 10 * HOUR + 1800), &seen());
    assert!(between.gaps.iter().any(|gap| gap.contains("away")), "{:?}", between.gaps);
    assert_eq!(between.confirmed_until, Some(at(10)));
    assert!(spans[2].why().contains("went back") && spans[2].why().contains("three times"), "{}", spans[2].why());
    assert_eq!(spans[0].why(), "Install 1.");
}

#[test]
fn a_wrong_clock_is_said_and_a_clock_that_was_set_is_not_believed() {
    let ahead = Said { device_at: at(5 + 48), ..said("1", at(4 + 48), 1, Phase::Committed) };
    let rows = kept(vec![(5, Row::Said(ahead))]);
    let one = &spans(&rows)[0];
    assert_eq!((one.from, one.clock_ms), (at(4), 48 * HOUR * 1000), "its hour is believed, its day is not");
    assert!(one.how().contains("2 d 0 h ahead"), "{}", one.how());
    // The clock was set between the change and the report: its word would lie before its own earlier report.
    let set = Said { device_at: at(8), ..said("2", at(1), 2, Phase::Committed) };
    let rows = kept(vec![(5, Row::Said(said("1", at(5), 1, Phase::Committed))), (8, Row::Said(set))]);
    assert_eq!(spans(&rows)[1].from, at(8), "the moment of hearing counts");
    // A clock that was never set at all.
    let unset = Said { device_at: Timestamp::from_secs(60), ..said("1", Timestamp::from_secs(30), 1, Phase::Committed) };
    let rows = kept(vec![(5, Row::Said(unset))]);
    assert_eq!(spans(&rows)[0].from, at(5).plus_secs(-30));
    assert!(spans(&rows)[0].how().contains("behind"));
}

#[test]
fn what_retention_dropped_is_a_gap_and_online_devices_have_none() {
    let mut rows = record();
    rows.drain(..2);
    let early = answer(&rows, at(5), &Seen { enrolled_at: Some(at(6)), ..seen() });
    assert_eq!(early.knowledge, Knowledge::Unknown);
    for word in ["2 older rows", "enrolled", "first report"] {
        assert!(early.gaps.iter().any(|gap| gap.contains(word)), "{word}: {:?}", early.gaps);
    }
    let now = answer(&rows, at(30), &Seen { online: true, ..seen() });
    assert_eq!((now.gaps, now.confirmed_until), (Vec::new(), Some(at(30))));
    let future = answer(&rows, at(101), &Seen { online: true, ..seen() });
    assert!(future.gaps[0].contains("has not come yet"));
    let nothing = answer(&[], at(1), &seen());
    assert_eq!((nothing.knowledge, nothing.span), (Knowledge::Unknown, None));
}

#[test]
fn rows_are_read_as_they_were_written() {
    for kept in record() {
        let text = serde_json::to_vec(&kept.row).unwrap();
        assert!(text.len() < 700, "a row takes {} bytes", text.len());
        assert_eq!(serde_json::from_slice::<Row>(&text).unwrap(), kept.row);
    }
}
