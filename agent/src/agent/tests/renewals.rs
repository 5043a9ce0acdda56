//! When a device asks for its next certificate: with every kind of clock, and with every kind of answer.
use std::collections::VecDeque;

use leeway_protocol::ids::DeviceId;
use leeway_protocol::reported::Condition;
use leeway_protocol::time::Timestamp;

use super::disk::Disk;
use super::repo::start;
use super::world::device_key;
use crate::action::{Action, FetchId};
use crate::agent::{Agent, Settings};
use crate::certificate::Certificate;
use crate::event::{CertificateNews, Event, RenewalFailure};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
/// What the controller takes off the beginning of a certificate.
const BACK: i64 = 300;

/// How the controller's door answers.
#[derive(Debug, Clone, Copy)]
enum Door {
    Lets,
    Silent,
    Revoked,
    Pending(u64),
    Never,
}

/// A device with a certificate, its clock, and the true time.
struct Device {
    agent: Agent,
    disk: Disk,
    settings: Settings,
    /// The true time; the device's own is off by this.
    truth: Timestamp,
    off: i64,
    door: Door,
    life: i64,
    /// When it asked, in seconds of true time since the beginning.
    asks: Vec<i64>,
    connects: u32,
    inbox: VecDeque<Event>,
}

impl Device {
    fn new(off: i64, life: i64) -> Self {
        Self::named("device-1", off, life)
    }

    fn named(name: &str, off: i64, life: i64) -> Self {
        let name: DeviceId = name.parse().unwrap();
        let mut settings = Settings::new("test".parse().unwrap(), name, device_key());
        settings.built_at = start().plus_secs(-100 * DAY);
        let clock = start().plus_secs(off).max(settings.built_at);
        settings.certificate =
            Some(Certificate { not_before: start().plus_secs(-BACK), not_after: start().plus_secs(life), obtained: clock });
        let mut device = Self {
            agent: Agent::new(settings.clone()),
            disk: Disk::default(),
            settings,
            truth: start(),
            off,
            door: Door::Lets,
            life,
            asks: Vec::new(),
            connects: 0,
            inbox: VecDeque::new(),
        };
        device.boot();
        device
    }

    fn boot(&mut self) {
        self.agent = Agent::new(self.settings.clone());
        self.inbox.clear();
        self.feed(Event::Start(self.disk.stored()));
    }

    fn clock(&self) -> Timestamp {
        Timestamp::from_millis(self.truth.plus_secs(self.off).as_millis().max(0))
    }

    fn feed(&mut self, event: Event) {
        self.inbox.push_back(event);
        while let Some(event) = self.inbox.pop_front() {
            for action in self.agent.handle(self.clock(), event) {
                match action {
                    Action::Disk(op) => self.disk.perform(&op).unwrap(),
                    Action::Connect { .. } => self.connects += 1,
                    Action::RenewCertificate { ask } => self.asked(ask),
                    _ => {}
                }
            }
        }
    }

    fn asked(&mut self, ask: FetchId) {
        self.asks.push(self.truth.millis_since(start()) / 1000);
        let failure = match self.door {
            Door::Lets => {
                let (not_before, not_after) = (self.truth.plus_secs(-BACK), self.truth.plus_secs(self.life));
                let certificate = Certificate { not_before, not_after, obtained: self.agent.trusted_time() };
                self.settings.certificate = Some(certificate);
                return self.inbox.push_back(Event::Certificate(CertificateNews::Renewed { ask, certificate }));
            }
            Door::Silent => RenewalFailure::Failed("the controller does not answer".to_owned()),
            Door::Revoked => RenewalFailure::Revoked("device-1 was revoked: stolen".to_owned()),
            Door::Pending(retry_secs) => RenewalFailure::Pending { sentence: "wait for Ann".to_owned(), retry_secs },
            Door::Never => return,
        };
        self.inbox.push_back(Event::Certificate(CertificateNews::NotRenewed { ask, failure }));
    }

    /// The true time goes on.
    fn pass(&mut self, secs: i64) {
        const STEP: i64 = 30;
        for _ in 0..secs / STEP {
            self.truth = self.truth.plus_secs(STEP);
            self.feed(Event::Tick);
        }
    }

    fn news(&mut self, news: CertificateNews) {
        self.feed(Event::Certificate(news));
    }

    fn condition(&self) -> Condition {
        self.agent.state().conditions.into_iter().find(|c| c.kind == "CertificateGood").unwrap()
    }

    /// Questions in the last so many seconds.
    fn asked_within(&self, secs: i64) -> usize {
        let from = self.truth.millis_since(start()) / 1000 - secs;
        self.asks.iter().filter(|at| **at >= from).count()
    }
}

#[test]
fn renewal_begins_at_two_thirds_of_life_whatever_the_clock_says() {
    // Life 30 days. In which hours the questions of 45 days come, with a restart in between.
    let expected = [(20 * 24 - 1, 20 * 24 + 37), (40 * 24 - 1, 42 * 24 + 3)];
    let table = [
        ("right", 0),
        ("a day behind", -DAY),
        ("1970", -50 * YEAR),
        ("ten days ahead", 10 * DAY),
        ("29 days ahead", 29 * DAY),
        ("two hundred days ahead", 200 * DAY),
        ("2099", 73 * YEAR),
    ];
    for (name, off) in table {
        let mut device = Device::new(off, 30 * DAY);
        device.pass(22 * DAY);
        device.boot();
        device.pass(23 * DAY);
        let hours: Vec<i64> = device.asks.iter().map(|at| at / HOUR).collect();
        let fit = hours.iter().zip(expected).all(|(hour, (from, to))| (from..=to).contains(hour));
        assert!(hours.len() == expected.len() && fit, "{name}: {hours:?}");
        assert!(device.condition().holds, "{name}: {:?}", device.condition());
    }
}

#[test]
fn a_clock_that_jumps_costs_one_question_and_no_storm() {
    let mut device = Device::new(0, 30 * DAY);
    device.pass(5 * DAY);
    device.off = 73 * YEAR;
    device.pass(DAY);
    assert_eq!(device.asks.len(), 1, "2099: {:?}", device.asks);
    device.off = -50 * YEAR;
    device.pass(DAY);
    device.off = 0;
    device.pass(DAY);
    assert_eq!(device.asks.len(), 1, "and back: {:?}", device.asks);
    device.pass(19 * DAY);
    assert_eq!(device.asks.len(), 2, "the next one two thirds into its life: {:?}", device.asks);
    // A device without a clock that starts again and again knows at least when its certificate began.
    let mut device = Device::new(-50 * YEAR, 30 * DAY);
    for _ in 0..100 {
        device.boot();
        device.pass(HOUR);
    }
    assert_eq!(device.asks, [] as [i64; 0]);
}

#[test]
fn a_fleet_that_was_enrolled_in_one_moment_does_not_come_back_in_one() {
    let mut seconds = std::collections::BTreeSet::new();
    for number in 0..100 {
        let mut device = Device::named(&format!("device-{number}"), 0, DAY);
        device.pass(DAY * 3 / 4);
        assert_eq!(device.asks.len(), 1, "{number}: {:?}", device.asks);
        let two_thirds = DAY * 2 / 3;
        assert!((two_thirds..two_thirds + DAY / 19).contains(&device.asks[0]), "{number}: {:?}", device.asks);
        seconds.insert(device.asks[0]);
    }
    assert!(seconds.len() > 60, "{} different half minutes", seconds.len());
}

#[test]
fn failed_renewals_are_spaced_out_said_and_end_when_the_controller_is_back() {
    let mut device = Device::new(0, 30 * DAY);
    device.door = Door::Silent;
    device.pass(22 * DAY);
    let condition = device.condition();
    assert!(!condition.holds && condition.message.starts_with("certificate until 20"), "{condition:?}");
    assert!(
        condition.message.contains("; renewal fails since 20") && condition.message.ends_with("because the controller does not answer")
    );
    assert!(!condition.message.contains("over"), "{condition:?}");
    assert!(device.asked_within(DAY) <= 8 && device.asked_within(DAY) >= 4, "{:?}", device.asks);
    let first: Vec<i64> = device.asks.windows(2).take(6).map(|pair| pair[1] - pair[0]).collect();
    assert!(first.windows(2).all(|pair| pair[0] <= pair[1] + 30), "pauses grow: {first:?}");
    // Months without the controller: it goes on asking, at the same pace, and connects as ever.
    device.pass(60 * DAY);
    assert!(device.condition().message.contains("which is over"), "{:?}", device.condition());
    assert!(device.asked_within(DAY) >= 4 && device.asked_within(DAY) <= 8);
    let connects = device.connects;
    device.feed(Event::Connecting);
    assert_eq!(device.connects, connects + 1);
    device.door = Door::Lets;
    device.pass(6 * HOUR);
    device.news(CertificateNews::Worked);
    let condition = device.condition();
    assert!(condition.holds && condition.message.contains("; renewed 20") && !condition.message.contains("fails"), "{condition:?}");
    let asks = device.asks.len();
    device.pass(DAY);
    assert_eq!(device.asks.len(), asks);
}

#[test]
fn a_device_that_was_off_until_its_certificate_ended_asks_soon_after_it_starts() {
    let mut device = Device::new(0, 30 * DAY);
    device.truth = device.truth.plus_secs(90 * DAY);
    device.boot();
    assert!(!device.condition().holds && device.asks.is_empty());
    device.pass(120);
    assert_eq!(device.asks.len(), 1, "{:?}", device.asks);
    assert!(device.condition().holds, "{:?}", device.condition());
}

#[test]
fn a_revoked_device_says_so_stops_knocking_and_comes_back_when_people_change_their_mind() {
    let mut device = Device::new(0, 30 * DAY);
    device.feed(Event::Connecting);
    assert_eq!(device.connects, 1);
    device.door = Door::Revoked;
    device.news(CertificateNews::Unaccepted { why: "the server does not accept it".to_owned(), back_to: None });
    device.pass(10 * 60);
    assert_eq!(device.asks.len(), 1, "{:?}", device.asks);
    assert!(device.condition().message.contains("does not let this device in: device-1 was revoked: stolen"), "{:?}", device.condition());
    for _ in 0..100 {
        device.feed(Event::Connecting);
        device.pass(HOUR);
    }
    assert_eq!(device.connects, 1, "the broker is left alone");
    assert!((8..=20).contains(&device.asks.len()), "twice to four times a day: {:?}", device.asks);
    device.door = Door::Lets;
    device.pass(12 * HOUR);
    device.feed(Event::Connecting);
    assert_eq!((device.connects, device.condition().holds), (2, true), "{:?}", device.condition());
}

#[test]
fn one_that_must_wait_asks_when_it_was_told_to_within_bounds() {
    for (named, at_least, at_most) in [(0, 200, 361), (60, 40, 61), (600, 4, 7), (u64::MAX, 1, 2)] {
        let mut device = Device::new(0, 30 * DAY);
        device.pass(22 * DAY);
        device.asks.clear();
        device.door = Door::Pending(named);
        device.news(CertificateNews::Unaccepted { why: "not yet".to_owned(), back_to: None });
        device.pass(2 * HOUR);
        let hour = device.asked_within(HOUR);
        // Ticks come every 30 seconds here, so nothing shorter is seen.
        assert!((at_least.min(60)..=at_most).contains(&hour), "{named}: {hour} {:?}", device.asks);
        assert!(device.condition().message.contains("wait for Ann"));
    }
}

#[test]
fn a_question_without_an_answer_is_given_up_and_its_late_answer_is_not_heard() {
    let mut device = Device::new(0, 30 * DAY);
    device.door = Door::Never;
    device.pass(22 * DAY);
    let asked = device.asks.len();
    assert!(asked > 3, "it asks again: {asked}");
    assert!(device.condition().message.contains("because no answer came"), "{:?}", device.condition());
    let (not_before, not_after) = (start(), start().plus_secs(900 * DAY));
    let certificate = Certificate { not_before, not_after, obtained: start() };
    device.news(CertificateNews::Renewed { ask: FetchId(0), certificate });
    assert!(!device.condition().message.contains("renewed"), "{:?}", device.condition());
}

#[test]
fn a_peer_that_accepts_no_certificate_gets_no_storm_of_new_ones() {
    let mut device = Device::new(0, 30 * DAY);
    for _ in 0..10 * 24 * 60 {
        device.pass(60);
        let old = device.settings.certificate;
        device.news(CertificateNews::Unaccepted { why: "the broker says no".to_owned(), back_to: old });
    }
    assert!(device.asked_within(DAY) <= 8 && !device.asks.is_empty(), "{:?}", device.asks);
    assert!(device.condition().message.contains("it is not accepted: the broker says no"));
    device.news(CertificateNews::Worked);
    assert!(device.condition().holds, "{:?}", device.condition());
}

#[test]
fn a_certificate_that_was_lost_is_asked_for_and_short_lives_are_renewed_in_time() {
    let mut device = Device::new(0, 30 * DAY);
    device.settings.certificate = Some(Certificate::ended(device.settings.built_at));
    device.door = Door::Silent;
    device.boot();
    device.pass(DAY);
    assert!((5..=16).contains(&device.asks.len()), "{:?}", device.asks);
    // Ten minutes: five a hour and then some, each before the last one is over, none at once.
    let mut device = Device::new(0, 600);
    device.pass(6 * HOUR);
    let pauses: Vec<i64> = device.asks.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() > 40 && pauses.iter().all(|pause| (390..600).contains(pause)), "{pauses:?}");
}

#[test]
fn without_tls_nothing_is_asked_and_nothing_is_said() {
    let mut device = Device::new(0, 30 * DAY);
    device.settings.certificate = None;
    device.boot();
    device.news(CertificateNews::Unaccepted { why: "?".to_owned(), back_to: None });
    device.pass(40 * DAY);
    assert!(device.asks.is_empty());
    assert!(device.agent.state().conditions.iter().all(|c| c.kind != "CertificateGood"));
}
