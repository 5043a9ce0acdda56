//! Figures as people read them: the same in pages and on the command line.
//!
//! Pure: `now` is handed in. What stays true: a number that is shown has at most four significant digits, and a thing that
//! is not known is a dash, never a zero.
use leeway_protocol::time::Timestamp;

/// What stands where nothing is known.
pub const UNKNOWN: &str = "–";

/// `12345` as `12 345`, with narrow no-break spaces so that it stays one word.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(c);
    }
    text
}

/// `1 device`, `2 devices`.
pub fn plural(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {one}s", count(n)) }
}

/// A share as a percentage with one decimal.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}\u{202f}%", share * 100.0) } else { UNKNOWN.to_owned() }
}

/// A share as a whole percentage.
pub fn whole_percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}\u{202f}%", share * 100.0) } else { UNKNOWN.to_owned() }
}

/// Text for a value that may be absent.
pub fn or_unknown<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), text)
}

/// Microseconds in the unit that needs the fewest digits.
pub fn micros(us: f64) -> String {
    match us {
        us if !us.is_finite() => UNKNOWN.to_owned(),
        us if us < 1_000.0 => format!("{us:.0}\u{202f}µs"),
        us if us < 1_000_000.0 => format!("{:.1}\u{202f}ms", us / 1e3),
        us => format!("{:.1}\u{202f}s", us / 1e6),
    }
}

/// Bytes in powers of 1,000.
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n < 1e3 => format!("{n:.0}\u{202f}B"),
        n if n < 1e6 => format!("{:.1}\u{202f}kB", n / 1e3),
        n if n < 1e9 => format!("{:.1}\u{202f}MB", n / 1e6),
        n => format!("{:.1}\u{202f}GB", n / 1e9),
    }
}

/// A length of time in its one or two largest units: `45 s`, `3 m 20 s`, `2 h`, `5 d`.
pub fn duration(ms: u64) -> String {
    let secs = ms / 1000;
    let two = |big: u64, unit: &str, small: u64, sub: &str| {
        if small == 0 { format!("{big}\u{202f}{unit}") } else { format!("{big}\u{202f}{unit} {small}\u{202f}{sub}") }
    };
    match secs {
        0 if ms > 0 => format!("{ms}\u{202f}ms"),
        0..60 => format!("{secs}\u{202f}s"),
        60..3_600 => two(secs / 60, "m", secs % 60, "s"),
        3_600..86_400 => two(secs / 3_600, "h", secs % 3_600 / 60, "m"),
        _ => format!("{}\u{202f}d", secs / 86_400),
    }
}

/// How long ago `at` was, in one unit; `now` for the last second and for clocks that run ahead. What is years away (application
/// time often is) is a date.
pub fn ago(now: Timestamp, at: Timestamp) -> String {
    let ms = u64::try_from(now.millis_since(at)).unwrap_or(0);
    match ms / 1000 {
        s if s > FAR_SECS => date(at),
        0 => "now".to_owned(),
        s @ 1..60 => format!("{s}\u{202f}s ago"),
        s @ 60..3_600 => format!("{}\u{202f}m ago", s / 60),
        s @ 3_600..86_400 => format!("{}\u{202f}h ago", s / 3_600),
        s => format!("{}\u{202f}d ago", s / 86_400),
    }
}

/// Longer ago than this is said as a date.
const FAR_SECS: u64 = 400 * 86_400;

/// The day of a moment.
pub fn date(at: Timestamp) -> String {
    at.to_string().chars().take(10).collect()
}

/// The year of a moment, for axes over data time.
pub fn year(at: Timestamp) -> String {
    at.to_string().chars().take(4).collect()
}

/// The time of day, for axes over the clock.
pub fn clock(at: Timestamp) -> String {
    at.to_string().chars().skip(11).take(8).collect()
}

/// A plain number with as many digits as it needs, at most four significant ones.
pub fn number(x: f64) -> String {
    if !x.is_finite() {
        return UNKNOWN.to_owned();
    }
    let digits = match x.abs() {
        a if a >= 100.0 || x == 0.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{x:.digits$}");
    text.replace('-', "\u{2212}")
}

/// A number with its sign, for differences.
pub fn signed(x: f64) -> String {
    if x > 0.0 { format!("+{}", number(x)) } else { number(x) }
}

/// A feature's or metric's name as words: `max_wind_speed` as `max wind speed`.
pub fn plain(name: &str) -> String {
    name.replace('_', " ")
}

/// With a capital first letter.
pub fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `TelemetryArriving` as `Telemetry arriving`.
pub fn spaced(camel: &str) -> String {
    let mut text = String::with_capacity(camel.len() + 4);
    for (i, c) in camel.chars().enumerate() {
        if i > 0 && c.is_ascii_uppercase() {
            text.push(' ');
            text.push(c.to_ascii_lowercase());
        } else {
            text.push(c);
        }
    }
    text
}

/// Names in a row: `a`, `a and b`, `a, b and c`; more than four end in how many others there are.
pub fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] if names.len() <= 4 => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} others", names[..3].join(", "), names.len() - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(count(1_234_567).replace('\u{202f}', " "), "1 234 567");
        assert_eq!((count(0).as_str(), count(999).as_str()), ("0", "999"));
        assert_eq!(percent(f64::NAN), UNKNOWN);
        assert_eq!(percent(0.8512).replace('\u{202f}', " "), "85.1 %");
        let table =
            [(0, "0 s"), (7, "7 ms"), (59_000, "59 s"), (60_000, "1 m"), (200_000, "3 m 20 s"), (7_200_000, "2 h"), (900_000_000, "10 d")];
        for (ms, text) in table {
            assert_eq!(duration(ms).replace('\u{202f}', " "), text);
        }
        let now = Timestamp::from_secs(1_000_000);
        assert_eq!(ago(now, now.plus_secs(60)), "now");
        assert_eq!(ago("2026-01-01T00:00:00Z".parse().unwrap(), "1957-01-24T00:00:00Z".parse().unwrap()), "1957-01-24");
        assert_eq!(ago(now, now.plus_secs(-90)).replace('\u{202f}', " "), "1 m ago");
        assert_eq!(
            (number(0.0).as_str(), number(-0.0421).as_str(), number(12.34).as_str(), number(1234.5).as_str()),
            ("0", "\u{2212}0.042", "12.3", "1234")
        );
        assert_eq!(spaced("TelemetryArriving"), "Telemetry arriving");
        let names: Vec<String> = ["a", "b", "c", "d", "e"].map(Into::into).to_vec();
        assert_eq!((list(&names[..2]).as_str(), list(&names).as_str()), ("a and b", "a, b, c and 2 others"));
        assert_eq!(year("1994-07-01T00:00:00Z".parse().unwrap()), "1994");
        assert_eq!(micros(1_500.0).replace('\u{202f}', " "), "1.5 ms");
    }
}
