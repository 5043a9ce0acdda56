//! ADWIN and Page–Hinkley on the labels' errors, for those who expect them. **Nothing is decided by them.**
//!
//! Neither has a budget. ADWIN's δ bounds the chance of a false cut at *one* look at *one* stream (and its implementations, this
//! one too, look at every 32nd row and at the cuts between buckets only); Page–Hinkley's threshold is a number of errors, so it
//! means something else for every base rate. In a fleet both raise as many false alarms as there are streams and months. What
//! Leeway acts on is the e-detector of [`super::labels`], whose threshold follows from the fleet's stated budget; these stand
//! beside it, with river's defaults, so that somebody who knows them can see what they would have said.
//!
//! **Fed by counts.** Both are written for single rows; what arrives are blocks of counts. Within a block its errors are taken to
//! be spread evenly: row i of n with k errors is wrong if ⌊i·k/n⌋ rises there. So no cut is ever found *inside* a block by the
//! order of its rows, which nobody knows; a change shows when the block after it is fed. Rows count in full, not tempered: that
//! is what these methods do elsewhere. Only a rise is told: errors that became fewer are no concern.
//!
//! State is bounded: ADWIN keeps six counts for each power of two of its window, Page–Hinkley five numbers.
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

pub mod adwin;
pub mod page_hinkley;

pub use adwin::Adwin;
pub use page_hinkley::PageHinkley;

/// Rows fed of one block at most; a larger one counts as so many with its share of errors. Half a millisecond of work.
const MAX_FED: u64 = 16_384;

/// Both detectors on one stream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Classic {
    adwin: Adwin,
    page_hinkley: PageHinkley,
    /// Starts of the blocks at whose rows each last saw a rise.
    adwin_rose: Option<Timestamp>,
    page_hinkley_rose: Option<Timestamp>,
    /// Rises seen by each.
    rises: (u32, u32),
}

/// What one of them says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// `ADWIN` or `Page–Hinkley`.
    pub method: String,
    /// Its parameters, in words.
    pub parameters: String,
    /// Rises it saw, ever.
    pub rises: u32,
    /// The block in which it last saw one.
    pub last: Option<Timestamp>,
}

impl Classic {
    /// Feed a block of `rows` labels of which `errors` were wrong.
    pub fn feed(&mut self, at: Timestamp, errors: u64, rows: u64) {
        let errors = errors.min(rows);
        for wrong in spread(errors, rows) {
            if self.adwin.add(wrong) == Some(adwin::Change::Rise) {
                self.adwin_rose = Some(at);
                self.rises.0 = self.rises.0.saturating_add(1);
            }
            if self.page_hinkley.add(wrong) {
                self.page_hinkley_rose = Some(at);
                self.rises.1 = self.rises.1.saturating_add(1);
            }
        }
    }

    /// What both say.
    pub fn opinions(&self) -> Vec<Opinion> {
        let opinion = |method: &str, parameters: String, rises, last| Opinion { method: method.to_owned(), parameters, rises, last };
        vec![
            opinion("ADWIN", adwin::parameters(), self.rises.0, self.adwin_rose),
            opinion("Page–Hinkley", page_hinkley::parameters(), self.rises.1, self.page_hinkley_rose),
        ]
    }
}

impl Opinion {
    /// In a few words, for the end of a sentence.
    pub fn words(&self) -> String {
        match self.last {
            Some(at) => format!("{} a rise on {}", self.method, at.to_string().chars().take(10).collect::<String>()),
            None => format!("{} none", self.method),
        }
    }
}

/// `rows` rows of which `errors` are wrong, evenly spread.
pub fn spread(errors: u64, rows: u64) -> impl Iterator<Item = bool> {
    // A block past the bound keeps its share.
    let fed = rows.min(MAX_FED);
    let errors = if rows > fed { (u128::from(errors) * u128::from(fed) / u128::from(rows)) as u64 } else { errors };
    (1..=fed).map(move |i| i * errors / fed != (i - 1) * errors / fed)
}

#[cfg(test)]
mod tests;
