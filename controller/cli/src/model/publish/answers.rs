//! Rows out to the runner, answers back.
use std::fmt::Write as _;

use leeway_controller::reference::table::Table;
use leeway_controller::reference::worth::{Judged, Questions};
use leeway_protocol::manifest::Manifest;
use leeway_protocol::tensor::TensorSpec;

use super::data::Data;
use crate::failure::{Failure, Outcome};

/// Reference rows the model is asked about: more say no more about its reference, and cost minutes.
const MAX_ROWS: usize = 50_000;
/// And values: some 300 MB of text, two hundred images of 3×224×224.
const MAX_VALUES: usize = 32 << 20;

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

/// Rows that are asked about: all, or evenly spread ones where there are many, or wide ones.
pub(super) fn chosen(rows: usize, width: usize) -> impl Iterator<Item = usize> {
    let most = (MAX_VALUES / width.max(1)).clamp(1, MAX_ROWS);
    (0..rows).step_by(rows.div_ceil(most).max(1))
}

/// The rows as CSV; with a header where columns have names.
pub(super) fn csv(data: &Data) -> String {
    let mut text = String::new();
    if let Data::Table(_, columns) = data {
        text += &columns.join(",");
        text.push('\n');
    }
    let width = if data.rows() == 0 { 0 } else { data.values(0).len() };
    for row in chosen(data.rows(), width) {
        for (at, value) in data.values(row).into_iter().enumerate() {
            text.push_str(if at > 0 { "," } else { "" });
            if let Some(value) = value {
                // Writing to a string cannot fail.
                write!(text, "{value}").ok();
            }
        }
        text.push('\n');
    }
    text
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
    let width = manifest.free_inputs().filter_map(|(_, spec): (_, &TensorSpec)| spec.elements()).sum();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let total = usize::try_from(manifest.reference.rows).unwrap_or(usize::MAX);
    let mut asked = chosen(total, width);
    for (at, line) in lines.iter().enumerate() {
        let row = asked.next().unwrap_or(at);
        let numbers: Vec<f64> = line.split(',').map(|f| f.trim().parse().unwrap_or(f64::NAN)).collect();
        let [decision, confidence, outputs @ ..] = numbers.as_slice() else { continue };
        if outputs.len() != elements || outputs.iter().any(|v| v.is_nan()) {
            continue;
        }
        rows.push(Answer { row, decision: *decision, confidence: *confidence, outputs: outputs.to_vec() });
    }
    if rows.is_empty() {
        return Err(Failure::new("the model answered none of the reference's rows")
            .help("rows with missing values cannot be answered; check that the columns are the model's inputs, in their order"));
    }
    Ok(Answers { rows })
}
