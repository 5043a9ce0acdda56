//! Fifty years of real daily weather from one place, as every simulated station knows it before its own instrument errors.
//!
//! The bytes are in the binary, so the demo needs nothing but itself. Origin, licence and the script that makes them again are
//! in `data/README.md`. What stays true: values are the measured ones to 1/2000 of a standard deviation; nothing is invented.
use leeway_protocol::time::Timestamp;

/// The names of the features, in column order.
pub const FEATURES: [&str; 8] =
    ["temperature", "dew_point", "sea_level_pressure", "visibility", "wind_speed", "max_wind_speed", "min_temperature", "max_temperature"];

/// Value units per standard deviation.
const UNITS: f32 = 2000.0;
/// 1949-01-01T00:00:00Z, the day of the first row (the source has an order, no dates).
const FIRST_DAY_SECS: i64 = -662_688_000;
const DAY_SECS: i64 = 86_400;
static BYTES: &[u8] = include_bytes!("../data/bellevue.bin");

/// One day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Day {
    /// The features, standardised.
    pub features: [f32; FEATURES.len()],
    /// Whether it rained.
    pub rain: bool,
}

/// The series.
#[derive(Debug, Clone)]
pub struct Weather {
    days: Vec<Day>,
}

/// The embedded bytes are not the form `data/derive.py` writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the embedded weather series is not in the form that data/derive.py writes: derive it again")]
pub struct WeatherError;

impl Weather {
    /// Decode the embedded series.
    pub fn bellevue() -> Result<Self, WeatherError> {
        decode(BYTES).ok_or(WeatherError)
    }

    /// The days in order.
    pub fn days(&self) -> &[Day] {
        &self.days
    }

    /// The date of row `index`.
    pub fn date(index: usize) -> Timestamp {
        Timestamp::from_secs(FIRST_DAY_SECS + DAY_SECS * index as i64)
    }

    /// The calendar year of row `index`.
    pub fn year(index: usize) -> i64 {
        // Years since 1949 on the proleptic calendar: exact for 1901–2099, where every fourth year is a leap year.
        let day = index as i64;
        let (cycle, rest) = (day / 1461, day % 1461);
        // A cycle from 1949 on is 365, 365, 365, 366 days.
        1949 + cycle * 4 + (rest / 365).min(3)
    }

    /// The index of the first day of `year`, or the number of days if the series ends before.
    pub fn first_of(&self, year: i64) -> usize {
        (0..self.days.len()).find(|&i| Self::year(i) >= year).unwrap_or(self.days.len())
    }
}

fn decode(bytes: &[u8]) -> Option<Weather> {
    let body = bytes.strip_prefix(b"LWWX1\0")?;
    let columns = usize::from(u16::from_le_bytes(body.get(..2)?.try_into().ok()?));
    let rows = u32::from_le_bytes(body.get(2..6)?.try_into().ok()?) as usize;
    if columns != FEATURES.len() {
        return None;
    }
    let values = body.get(6..6 + columns * rows * 2)?;
    let labels = body.get(6 + columns * rows * 2..)?;
    let mut days = Vec::with_capacity(rows);
    for r in 0..rows {
        let mut features = [0.0; FEATURES.len()];
        for (c, feature) in features.iter_mut().enumerate() {
            let at = (c * rows + r) * 2;
            *feature = f32::from(i16::from_le_bytes(values.get(at..at + 2)?.try_into().ok()?)) / UNITS;
        }
        days.push(Day { features, rain: labels.get(r / 8)? >> (r % 8) & 1 == 1 });
    }
    let tail = labels.get(rows.div_ceil(8)..)?;
    for outlier in tail.get(4..)?.chunks_exact(10) {
        let row = u32::from_le_bytes(outlier[..4].try_into().ok()?) as usize;
        let column = usize::from(u16::from_le_bytes(outlier[4..6].try_into().ok()?));
        let value = f32::from_le_bytes(outlier[6..].try_into().ok()?);
        *days.get_mut(row)?.features.get_mut(column)? = value;
    }
    Some(Weather { days })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_is_the_measured_one() {
        let weather = Weather::bellevue().unwrap();
        let days = weather.days();
        assert_eq!(days.len(), 18_159);
        assert!((days[0].features[0] + 1.475_684).abs() < 3e-4 && !days[0].rain && days[3].rain);
        let rain = days.iter().filter(|d| d.rain).count();
        assert_eq!(rain, 5_698);
        assert!(days.iter().any(|d| d.features[2] > 90.0), "the pressure outlier is kept, it is what was recorded");
    }

    #[test]
    fn years_follow_the_calendar() {
        for (index, year) in [(0, 1949), (364, 1949), (365, 1950), (1094, 1951), (1095, 1952), (1460, 1952), (1461, 1953)] {
            assert_eq!(Weather::year(index), year, "{index}");
            assert!(Weather::date(index).to_string().starts_with(&year.to_string()), "{index}");
        }
        let weather = Weather::bellevue().unwrap();
        assert_eq!(Weather::date(weather.first_of(1960)).to_string(), "1960-01-01T00:00:00Z");
    }

    #[test]
    fn cut_off_bytes_are_refused() {
        for length in [0, 5, 11, 1000, BYTES.len() - 2000] {
            assert!(decode(&BYTES[..length]).is_none(), "{length}");
        }
    }
}
