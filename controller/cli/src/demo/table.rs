//! The table at the end: what the fleet decided year by year, with and without updates.
use std::collections::BTreeMap;

use leeway_controller::trainer::fit::Model;
use leeway_firmware_sim::io::fleet::StationConfig;
use leeway_firmware_sim::io::view::{StationView, Year};
use leeway_firmware_sim::sensor::Sensor;
use leeway_firmware_sim::weather::Weather;

/// Right decisions of all decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Decisions.
    pub rows: u64,
    /// Right ones.
    pub correct: u64,
}

impl Score {
    /// The share of right decisions.
    pub fn accuracy(self) -> f64 {
        self.correct as f64 / self.rows.max(1) as f64
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.correct += other.correct;
    }
}

/// One year.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Row {
    /// What the first model would have decided on the same readings.
    pub without: Score,
    /// What the stations really decided.
    pub with: Score,
}

/// Every year that the stations lived, from `first_day` on.
pub fn years(weather: &Weather, stations: &[StationConfig], views: &[StationView], first: &Model, first_day: usize) -> BTreeMap<i64, Row> {
    let mut rows: BTreeMap<i64, Row> = BTreeMap::new();
    for (year, lived) in views.iter().flat_map(|v| &v.years) {
        let Year { inferences, correct, .. } = *lived;
        rows.entry(*year).or_default().with.add(Score { rows: inferences, correct });
    }
    let end = views.iter().map(|v| v.day).min().unwrap_or(first_day);
    for station in stations {
        let sensor = Sensor::new(station.seed, station.broken);
        for day in first_day..end {
            let Some(reading) = sensor.read(weather, day) else { break };
            let right = (first.probability(&reading.features) >= 0.5) == reading.rain;
            rows.entry(Weather::year(day)).or_default().without.add(Score { rows: 1, correct: u64::from(right) });
        }
    }
    rows
}

/// The sum of some years.
pub fn sum<'a>(rows: impl Iterator<Item = &'a Row>) -> Row {
    rows.fold(Row::default(), |mut sum, row| {
        sum.without.add(row.without);
        sum.with.add(row.with);
        sum
    })
}

/// Print it, three years on a line.
pub fn print(rows: &BTreeMap<i64, Row>) {
    println!("\n  accuracy per year: without updates → with Leeway");
    let cells: Vec<String> =
        rows.iter().map(|(year, row)| format!("{year}  {:.3} → {:.3}", row.without.accuracy(), row.with.accuracy())).collect();
    let lines = cells.len().div_ceil(3);
    for line in 0..lines {
        let cell = |column: usize| cells.get(column * lines + line).map_or("", String::as_str);
        println!("    {:<26}{:<26}{}", cell(0), cell(1), cell(2));
    }
    let all = sum(rows.values());
    println!("    all years  {:.3} → {:.3}  ({} decisions)", all.without.accuracy(), all.with.accuracy(), all.with.rows);
}
