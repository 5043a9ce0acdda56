//! When the device asks for its next certificate, and what is known about the present one.
//!
//! At two thirds of its life, spread by a share that is the device's own, so that a fleet enrolled in one hour does not come back
//! in one hour. Asking is the same door as enrolment and needs no certificate, so a device that was off until its certificate
//! ended comes in again the same way. The time is the trusted one and never the raw clock; and a certificate tells the time too:
//! when it came it had just been made, so the device knows by how much its clock was ahead, or that it was behind.
//!
//! What stays true: nothing here stops the model, the outbox or a connection that stands; there is one question at a time, and
//! pauses between failed ones double up to a named bound.
use leeway_protocol::time::Timestamp;

use super::Agent;
use crate::action::{Action, FetchId, Level};
use crate::certificate::Certificate;
use crate::event::{CertificateNews, RenewalFailure};

/// First pause after a failed try, unless the certificate's life is short.
const FIRST_MS: u64 = 60_000;
/// The longest pause between tries, unless the certificate's life is short.
const MAX_MS: u64 = 6 * 3_600_000;
/// A short life shortens both: at least so many tries fit into it.
const FIRST_PART: u64 = 20;
const MAX_PART: u64 = 6;
/// No pause is shorter, however short the life.
const MIN_MS: u64 = 1_000;
/// The life of [`Certificate::ended`].
const LOST_MS: u64 = 1;
/// The beginning of renewal is spread over this part of the life, after its two thirds.
const SPREAD_PART: u64 = 20;
/// A device that was revoked, or refused, asks once in so long: often enough to come back by itself if people change their mind.
const REVOKED_MS: u64 = 12 * 3_600_000;
/// A device that waits for a person asks at most and at least so often, whatever the controller names.
const PENDING_MIN_MS: u64 = 10_000;
const PENDING_MAX_MS: u64 = 3_600_000;
/// A question that got no answer in this time counts as failed: the executor has a limit of a minute for each step.
const ASK_MS: u64 = 5 * 60_000;
/// Failures in a row that are nobody's business yet.
const QUIET_FAILURES: u32 = 2;

/// What is known about the device's certificate.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    /// None without TLS.
    certificate: Option<Certificate>,
    anchor: Anchor,
    /// When it was renewed, if it was in this start.
    renewed: Option<Timestamp>,
    /// The question that is out, and when it was asked, on the steady clock.
    asked: Option<(FetchId, u64)>,
    /// Tries in a row without a certificate that worked.
    tries: u32,
    /// No question before this moment, on the steady clock.
    due: Option<u64>,
    /// Why the peer did not accept the certificate, if it did not.
    unaccepted: Option<String>,
    /// Since when and why renewal fails, if it does.
    failing: Option<(Timestamp, String)>,
    /// What the controller said to a device that it does not let in any more.
    revoked: Option<String>,
    /// What the controller said to a device that must wait for a person.
    pending: Option<String>,
}

/// A moment that the certificate itself names, and how long ago that was.
#[derive(Debug, Default)]
struct Anchor {
    at: Timestamp,
    steady: u64,
}

impl Agent {
    /// What the device has when it starts.
    pub(super) fn load_certificate(&mut self) {
        let Some(certificate) = self.settings.certificate else { return };
        self.renewal.certificate = Some(certificate);
        self.renewal.anchor = Anchor { at: certificate.begin(), steady: self.clock.steady() };
        // A fleet that was off together does not ask together.
        let spread = self.jitter("renew-start", self.state.boot.0, first_ms(&certificate));
        self.renewal.due = Some(self.clock.steady().saturating_add(spread));
    }

    /// The time by which the certificate is judged: at least what has passed since it began, as far as this start knows, and the
    /// trusted time, less what that was ahead when the certificate had just been made.
    fn certificate_time(&self) -> Timestamp {
        let Anchor { at, steady } = self.renewal.anchor;
        let since = self.clock.steady().saturating_sub(steady);
        let bridged = at.plus_millis(i64::try_from(since).unwrap_or(i64::MAX));
        let lead = self.renewal.certificate.map_or(0, |certificate| certificate.clock_lead_ms());
        bridged.max(self.clock.trusted().plus_millis(-lead))
    }

    /// Two thirds of its life, and this device's share of the spread.
    fn renew_at(&self, certificate: &Certificate) -> Timestamp {
        let life = certificate.life_ms();
        let number = certificate.not_after.as_millis().unsigned_abs();
        let share = self.share("renew", number, life / SPREAD_PART);
        certificate.begin().plus_millis(i64::try_from((life / 3 * 2).saturating_add(share)).unwrap_or(i64::MAX))
    }

    fn wants_renewal(&self) -> bool {
        let Some(certificate) = &self.renewal.certificate else { return false };
        let trouble = self.renewal.unaccepted.is_some() || self.renewal.revoked.is_some();
        trouble || self.certificate_time() >= self.renew_at(certificate)
    }

    pub(super) fn renew_when_due(&mut self) {
        let now = self.clock.steady();
        if let Some((ask, _)) = self.renewal.asked.filter(|(_, at)| now.saturating_sub(*at) >= ASK_MS) {
            self.not_renewed(ask, RenewalFailure::Failed("no answer came".to_owned()));
        }
        let waits = self.renewal.asked.is_some() || self.renewal.due.is_some_and(|due| due > now);
        if waits || self.stopping || !self.wants_renewal() {
            return;
        }
        let ask = self.next_fetch();
        self.renewal.asked = Some((ask, now));
        self.out.push(Action::RenewCertificate { ask });
    }

    /// When [`Self::renew_when_due`] has something to do.
    pub(super) fn renewal_due(&self) -> Option<u64> {
        let certificate = self.renewal.certificate.as_ref().filter(|_| !self.stopping)?;
        if let Some((_, at)) = self.renewal.asked {
            return Some(at.saturating_add(ASK_MS));
        }
        let now = self.clock.steady();
        let left = self.renew_at(certificate).millis_since(self.certificate_time()).max(0).unsigned_abs();
        let wanted = if self.wants_renewal() { now } else { now.saturating_add(left) };
        Some(wanted.max(self.renewal.due.unwrap_or(0)))
    }

    pub(super) fn certificate_news(&mut self, news: CertificateNews) {
        if self.renewal.certificate.is_none() {
            return;
        }
        match news {
            CertificateNews::Renewed { ask, certificate } => self.renewed(ask, certificate),
            CertificateNews::NotRenewed { ask, failure } => self.not_renewed(ask, failure),
            CertificateNews::Worked => {
                self.renewal.unaccepted = None;
                if self.renewal.failing.is_none() {
                    self.renewal.tries = 0;
                }
            }
            CertificateNews::Unaccepted { why, back_to } => self.unaccepted(why, back_to),
        }
    }

    fn is_answer(&self, ask: FetchId) -> bool {
        self.renewal.asked.is_some_and(|(asked, _)| asked == ask)
    }

    fn renewed(&mut self, ask: FetchId, certificate: Certificate) {
        if !self.is_answer(ask) {
            return;
        }
        let renewal = &mut self.renewal;
        renewal.asked = None;
        renewal.anchor = Anchor { at: certificate.begin(), steady: self.clock.steady() };
        renewal.certificate = Some(certificate);
        renewal.renewed = Some(certificate.begin());
        (renewal.unaccepted, renewal.failing, renewal.revoked, renewal.pending) = (None, None, None, None);
        // Counted until it has worked: a peer that accepts none of them is not asked for one after the other.
        renewal.tries = renewal.tries.saturating_add(1);
        self.pause_renewal();
        self.link.report_due = true;
        self.log(Level::Info, format!("the device's certificate was renewed; it is good until {}", certificate.not_after));
    }

    fn not_renewed(&mut self, ask: FetchId, failure: RenewalFailure) {
        if !self.is_answer(ask) {
            return;
        }
        let since = self.renewal.failing.as_ref().map_or(self.clock.trusted(), |(since, _)| *since);
        self.renewal.asked = None;
        self.renewal.tries = self.renewal.tries.saturating_add(1);
        let tries = u64::from(self.renewal.tries);
        let (why, known) = match failure {
            RenewalFailure::Revoked(sentence) => {
                let pause = self.jitter("revoked", tries, REVOKED_MS);
                self.renewal.due = Some(self.clock.steady().saturating_add(pause));
                self.renewal.pending = None;
                let known = self.renewal.revoked.replace(sentence.clone()).is_some();
                (format!("the controller does not let this device in: {sentence}; its model goes on"), known)
            }
            RenewalFailure::Pending { sentence, retry_secs } => {
                let pause = retry_secs.saturating_mul(1000).clamp(PENDING_MIN_MS, PENDING_MAX_MS);
                let pause = pause.saturating_add(self.share("pending", tries, pause / 2));
                self.renewal.due = Some(self.clock.steady().saturating_add(pause));
                self.renewal.revoked = None;
                let known = self.renewal.pending.replace(sentence.clone()).is_some();
                (format!("the controller has yet to let this device in: {sentence}"), known)
            }
            RenewalFailure::Failed(why) => {
                self.pause_renewal();
                (why, self.renewal.tries > QUIET_FAILURES)
            }
        };
        if !known || self.renewal.tries == QUIET_FAILURES {
            self.link.report_due = true;
        }
        let level = if known { Level::Info } else { Level::Warn };
        self.log(level, format!("the device's certificate was not renewed: {why}"));
        self.renewal.failing = Some((since, why));
    }

    fn unaccepted(&mut self, why: String, back_to: Option<Certificate>) {
        if let Some(old) = back_to {
            self.renewal.certificate = Some(old);
            self.renewal.anchor = Anchor { at: old.begin(), steady: self.clock.steady() };
        }
        if self.renewal.unaccepted.replace(why.clone()).is_none() {
            self.log(Level::Warn, format!("the device's certificate was not accepted: {why}; another one is asked for"));
            if self.renewal.due.is_none_or(|due| due <= self.clock.steady()) {
                self.pause_renewal();
            }
        }
    }

    /// No question before a pause that doubles with the tries.
    fn pause_renewal(&mut self) {
        let Some(certificate) = &self.renewal.certificate else { return };
        let (first, longest) = (first_ms(certificate), longest_ms(certificate));
        let tries = self.renewal.tries;
        let span = first.saturating_mul(1 << tries.saturating_sub(1).min(30)).min(longest);
        let pause = self.jitter("renew-again", u64::from(tries), span);
        self.renewal.due = Some(self.clock.steady().saturating_add(pause));
    }

    /// Whether the controller said that it does not let this device in: then it is not knocked at.
    pub(super) fn is_revoked(&self) -> bool {
        self.renewal.revoked.is_some()
    }

    /// Whether all is well with the certificate, and a sentence about it; none without TLS.
    pub(super) fn certificate_condition(&self) -> Option<(bool, String)> {
        let Renewal { certificate, renewed, tries, unaccepted, failing, revoked, .. } = &self.renewal;
        let certificate = certificate.as_ref()?;
        let over = self.certificate_time() >= certificate.not_after;
        let mut text = format!("certificate until {}", certificate.not_after);
        if over {
            text.push_str(", which is over");
        }
        match renewed {
            Some(at) => text.push_str(&format!("; renewed {at}")),
            None => text.push_str(&format!("; obtained {}", certificate.begin())),
        }
        if let Some(why) = unaccepted {
            text.push_str(&format!("; it is not accepted: {why}"));
        }
        if let Some((since, why)) = failing {
            text.push_str(&format!("; renewal fails since {since} because {why}"));
        }
        let troubled = over || revoked.is_some() || unaccepted.is_some() || (failing.is_some() && *tries >= QUIET_FAILURES);
        Some((!troubled, text))
    }
}

fn first_ms(certificate: &Certificate) -> u64 {
    let life = certificate.life_ms();
    // One that was lost has no life to go by.
    if life <= LOST_MS { FIRST_MS } else { FIRST_MS.min(life / FIRST_PART).max(MIN_MS) }
}

fn longest_ms(certificate: &Certificate) -> u64 {
    let life = certificate.life_ms();
    if life <= LOST_MS { MAX_MS } else { MAX_MS.min(life / MAX_PART).max(first_ms(certificate)) }
}
