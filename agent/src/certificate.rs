//! A device's certificate as its core sees it: from when until when it is good, and when it is time for the next one.
//!
//! Only the dates are read here, by a reader of forty lines: the chain itself is judged by the TLS library at both ends, and a
//! whole X.509 parser would be a large thing to carry to every device for two dates. What stays true: bytes from outside never
//! panic, and a certificate whose dates cannot be read is none.
use leeway_protocol::time::Timestamp;

/// From when until when a certificate is good, and since when the device has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its last moment.
    pub not_after: Timestamp,
    /// When the device got it, by its own reading of the time.
    pub obtained: Timestamp,
}

impl Certificate {
    /// Read the dates of a certificate (DER).
    pub fn from_der(der: &[u8], obtained: Timestamp) -> Option<Self> {
        let (certificate, _) = element(der, SEQUENCE)?;
        let (mut fields, _) = element(certificate, SEQUENCE)?;
        if let Some((_, rest)) = element(fields, VERSION) {
            fields = rest;
        }
        // Serial number, signature algorithm, issuer.
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            fields = element(fields, tag)?.1;
        }
        let (dates, _) = element(fields, SEQUENCE)?;
        let (not_before, dates) = date(dates)?;
        let (not_after, _) = date(dates)?;
        (not_before < not_after).then_some(Self { not_before, not_after, obtained })
    }

    /// A certificate that is over: for a device that has lost its own and must ask for another.
    pub fn ended(at: Timestamp) -> Self {
        Self { not_before: at.plus_millis(-1), not_after: at, obtained: at }
    }

    /// When its life began: when the device got it, or, if its clock cannot have been right then, the certificate's own beginning.
    pub fn begin(&self) -> Timestamp {
        let fresh = self.not_before.plus_millis(MAX_BACK_MS).min(self.not_after);
        if (self.not_before..fresh).contains(&self.obtained) { self.obtained } else { self.not_before }
    }

    /// By how many milliseconds the device's clock was ahead when it got a certificate that had just been made.
    pub fn clock_lead_ms(&self) -> i64 {
        self.obtained.millis_since(self.begin()).max(0)
    }

    /// Milliseconds from [`Self::begin`] to its end.
    pub fn life_ms(&self) -> u64 {
        self.not_after.millis_since(self.begin()).max(0).unsigned_abs()
    }
}

/// Certificates begin some minutes before they are made, so that clocks that are a little behind bear them; a device that reads a
/// later moment than this when it gets a new one has a clock that is ahead.
const MAX_BACK_MS: i64 = 3_600_000;
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The most bytes a length is written in; certificates have far less than 16 MiB.
const MAX_LENGTH_BYTES: usize = 3;

/// The content of the element in front, if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first != tag {
        return None;
    }
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match usize::from(short) {
        short @ 0..0x80 => (short, rest),
        long => {
            let count = long & 0x7f;
            if count == 0 || count > MAX_LENGTH_BYTES {
                return None;
            }
            let (digits, rest) = rest.split_at_checked(count)?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
    };
    rest.split_at_checked(length)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, as RFC 5280 wants them, and what follows.
fn date(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (text, rest, two_digits) = match element(bytes, UTC_TIME) {
        Some((text, rest)) => (text, rest, true),
        None => element(bytes, GENERALIZED_TIME).map(|(text, rest)| (text, rest, false))?,
    };
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let digits = if two_digits { format!("{}{text}", if text < "50" { "20" } else { "19" }) } else { text.to_owned() };
    if digits.len() != 14 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let text = format!("{year}-{month}-{day}T{}:{}:{}Z", part(8, 10)?, part(10, 12)?, part(12, 14)?);
    // "No end" is written as the last second of the year 9999, which is a day past the last moment we can name.
    let at = if year == "9999" { Timestamp::from_millis(i64::MAX) } else { text.parse().ok()? };
    Some((at, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match u8::try_from(content.len()) {
            Ok(short) if short < 0x80 => out.push(short),
            _ => out.extend([0x82, u8::try_from(content.len() >> 8).unwrap(), u8::try_from(content.len() & 0xff).unwrap()]),
        }
        out.extend(content);
        out
    }

    fn with_dates(from: (u8, &str), to: (u8, &str)) -> Vec<u8> {
        let dates = [wrap(from.0, from.1.as_bytes()), wrap(to.0, to.1.as_bytes())].concat();
        let name = wrap(SEQUENCE, &[b'x'; 200]);
        let fields = [wrap(VERSION, &[2, 1, 2]), wrap(INTEGER, &[7]), wrap(SEQUENCE, &[]), name, wrap(SEQUENCE, &dates)].concat();
        wrap(SEQUENCE, &wrap(SEQUENCE, &fields))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn dates_are_read_in_both_spellings_and_nothing_else_is() {
        let got = |text: &str| at(text);
        let good = with_dates((UTC_TIME, "261123050000Z"), (GENERALIZED_TIME, "20500101000000Z"));
        let read = Certificate::from_der(&good, got("2026-11-24T00:00:00Z")).unwrap();
        assert_eq!((read.not_before, read.not_after), (at("2026-11-23T05:00:00Z"), at("2050-01-01T00:00:00Z")));
        let old = with_dates((UTC_TIME, "500101000000Z"), (GENERALIZED_TIME, "99991231235959Z"));
        assert_eq!(Certificate::from_der(&old, got("2026-11-24T00:00:00Z")).unwrap().not_before, at("1950-01-01T00:00:00Z"));
        for (from, to) in [
            ((UTC_TIME, "261123050000"), (UTC_TIME, "270101000000Z")),
            ((UTC_TIME, "2611230500Z"), (UTC_TIME, "270101000000Z")),
            ((UTC_TIME, "26112305000xZ"), (UTC_TIME, "270101000000Z")),
            ((UTC_TIME, "261323050000Z"), (UTC_TIME, "270101000000Z")),
            ((INTEGER, "261123050000Z"), (UTC_TIME, "270101000000Z")),
            ((UTC_TIME, "270101000000Z"), (UTC_TIME, "261123050000Z")),
        ] {
            assert_eq!(Certificate::from_der(&with_dates(from, to), at("2026-11-24T00:00:00Z")), None, "{from:?} {to:?}");
        }
        for cut in 0..good.len() {
            assert_eq!(Certificate::from_der(&good[..cut], at("2026-11-24T00:00:00Z")), None, "{cut}");
        }
        for flipped in 0..good.len() {
            let mut bytes = good.clone();
            bytes[flipped] ^= 0xff;
            // Whatever it says, it says it without a panic.
            let _ = Certificate::from_der(&bytes, at("2026-11-24T00:00:00Z"));
        }
    }

    #[test]
    fn a_life_begins_when_the_device_got_it_unless_its_clock_was_wrong() {
        let of = |obtained: &str| Certificate {
            not_before: at("2026-11-23T05:00:00Z"),
            not_after: at("2026-12-23T05:05:00Z"),
            obtained: at(obtained),
        };
        for (obtained, begin) in [
            ("2026-11-23T05:05:00Z", "2026-11-23T05:05:00Z"),
            ("1970-01-01T00:00:00Z", "2026-11-23T05:00:00Z"),
            ("2026-12-22T05:05:00Z", "2026-11-23T05:00:00Z"),
            ("2099-01-01T00:00:00Z", "2026-11-23T05:00:00Z"),
        ] {
            assert_eq!(of(obtained).begin(), at(begin), "{obtained}");
        }
        assert_eq!(of("2026-11-25T05:00:00Z").clock_lead_ms(), 2 * 86_400_000);
        assert_eq!((of("2026-11-23T05:05:00Z").clock_lead_ms(), of("1970-01-01T00:00:00Z").clock_lead_ms()), (0, 0));
        assert_eq!(of("2026-11-23T05:05:00Z").life_ms(), 30 * 86_400_000);
    }
}
