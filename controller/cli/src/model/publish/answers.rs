//! Rows out to the runner, answers back.
use leeway_controller::reference::table::Table;
use leeway_controller::reference::worth::{Judged, Questions};
use leeway_protocol::manifest::Manifest;

use crate::failure::{Failure, Outcome};

/// Reference rows the model is asked about: more say no more about its reference, and cost minutes.
const MAX_ROWS: usize = 50_000;

/// One row's answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// Its row in the reference.
    pub row: usize,
    /// The class decided.
    pub decision: f64,
    /// Its confidence; NaN without one.
    pub confidence: f64,
    /// Every element of the outputs, as text of full precision read back.
    pub outputs: Vec<f64>,
}

/// Every answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answers {
    /// Answered rows, rising.
    pub rows: Vec<Answer>,
}

/// Rows that are asked about: all, or evenly spread ones.
pub(super) fn chosen(rows: usize) -> impl Iterator<Item = usize> {
    let step = rows.div_ceil(MAX_ROWS).max(1);
    (0..rows).step_by(step)
}

/// The rows as CSV with a header.
pub(super) fn csv(columns: &[String], table: &Table) -> Outcome<String> {
    let data = columns.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
    let mut text = columns.join(",");
    text.push('\n');
    for row in chosen(table.rows()) {
        let cells: Vec<String> =
            data.iter().map(|column| column.get(row).copied().flatten().map_or_else(String::new, |v| v.to_string())).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    Ok(text)
}

/// The rows of `questions` as CSV with a header: each judged row with one value from another.
pub(super) fn questions_csv(columns: &[String], table: &Table, judged: &[Judged], questions: &Questions) -> Outcome<String> {
    let data = columns.iter().map(|name| table.column(name)).collect::<Result<Vec<_>, _>>()?;
    let row = |at: usize| judged.get(at).map_or(0, |j| j.row);
    let mut text = columns.join(",");
    text.push('\n');
    for question in questions.iter() {
        let cell = |(feature, column): (usize, &&[Option<f64>])| {
            let from = if feature == question.feature { question.from } else { question.row };
            column.get(row(from)).copied().flatten().map_or_else(String::new, |v| v.to_string())
        };
        text.push_str(&data.iter().enumerate().map(cell).collect::<Vec<_>>().join(","));
        text.push('\n');
    }
    Ok(text)
}

/// The decisions in the runner's answers, line by line; `None` where it gave none.
pub(super) fn decisions(said: &[u8]) -> Vec<Option<f64>> {
    let first = |line: &str| line.split(',').next().and_then(|cell| cell.trim().parse().ok()).filter(|d: &f64| d.is_finite());
    String::from_utf8_lossy(said).lines().skip(1).map(first).collect()
}

/// Read the runner's answers; rows it could not answer (a missing value) are left out.
pub(super) fn parse(said: &[u8], manifest: &Manifest) -> Outcome<Answers> {
    let text = std::str::from_utf8(said).map_err(|_| Failure::new("the runner's answers are not text"))?;
    let mut rows = Vec::new();
    let elements: usize =
        manifest.outputs.iter().filter(|o| !manifest.state.iter().any(|s| s.output == o.name)).filter_map(|o| o.elements()).sum();
    let step = |at: usize, total: usize| chosen(total).nth(at);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let total = usize::try_from(manifest.reference.rows).unwrap_or(usize::MAX);
    for (at, line) in lines.iter().enumerate() {
        let numbers: Vec<f64> = line.split(',').map(|f| f.trim().parse().unwrap_or(f64::NAN)).collect();
        let [decision, confidence, outputs @ ..] = numbers.as_slice() else { continue };
        if outputs.len() != elements || outputs.iter().any(|v| v.is_nan()) {
            continue;
        }
        let row = step(at, total).unwrap_or(at);
        rows.push(Answer { row, decision: *decision, confidence: *confidence, outputs: outputs.to_vec() });
    }
    if rows.is_empty() {
        return Err(Failure::new("the model answered none of the reference's rows")
            .help("rows with missing values cannot be answered; check that the columns are the model's inputs, in their order"));
    }
    Ok(Answers { rows })
}
