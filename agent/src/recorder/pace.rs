//! How much of a day's budget is left, and by what factor probabilities shrink so that it lasts.
//!
//! A budget that is simply used up leaves the evening uncovered, and no weight makes up for rows that had no chance. So room for rows
//! comes in steadily, and the factor is in proportion to the room: under a steady load it settles where what is kept is what
//! comes in, and it is never 0, so every row keeps a chance that is known when it is decided on. That makes the stored
//! probability true: given everything before, a row is kept with exactly that probability (a martingale argument; it needs no
//! forecast to be right). Planned is a little less than the budget, so that chance exceeds it on less than one day in a thousand;
//! then the bound holds, and the probabilities of that day's last rows are a little too large.
use leeway_protocol::time::Timestamp;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Of a day's plan, so much may be used at once; the rest comes in over the day.
const BURST: f64 = 0.25;
/// Square roots of a Poisson count have a standard deviation of a half: 1.55 is 3.1 of them.
const MARGIN: f64 = 1.55;

#[derive(Debug, Clone)]
pub(super) struct Pace {
    budget: u64,
    /// Rows that may be kept now, at most [`BURST`] of the plan.
    room: f64,
    at: Option<Timestamp>,
    day: i64,
    kept_today: u64,
}

impl Pace {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, room: burst(budget), at: None, day: 0, kept_today: 0 }
    }

    /// Another budget from now on; what was used today stays used.
    pub(super) fn set_budget(&mut self, budget: u64) {
        if budget != self.budget {
            let filled = if burst(self.budget) > 0.0 { self.room / burst(self.budget) } else { 1.0 };
            (self.budget, self.room) = (budget, filled * burst(budget));
        }
    }

    /// By what probabilities are to be multiplied at this moment.
    pub(super) fn factor(&mut self, now: Timestamp) -> f64 {
        let burst = burst(self.budget);
        let passed = self.at.map_or(0, |at| now.millis_since(at).clamp(0, DAY_MS));
        self.at = Some(now);
        let comes_in = (1.0 - BURST) * plan(self.budget) * passed as f64 / DAY_MS as f64;
        self.room = (self.room + comes_in).min(burst);
        if burst > 0.0 { (2.0 * self.room / burst).min(1.0) } else { 0.0 }
    }

    /// Charge what a row was expected to take: its probability, over the probability that it was looked at.
    pub(super) fn charge(&mut self, expected: f64) {
        // With a budget of a handful of rows one could take all the room; the factor must never be 0.
        self.room = (self.room - expected).max(self.room / 2.0);
    }

    /// Whether the bound of the day leaves room for a row that was chosen.
    pub(super) fn keep(&mut self, now: Timestamp) -> bool {
        let day = now.as_millis().div_euclid(DAY_MS);
        if day != self.day {
            (self.day, self.kept_today) = (day, 0);
        }
        let kept = self.kept_today < self.budget;
        self.kept_today += u64::from(kept);
        kept
    }
}

/// Rows to expect in a day, so that hardly ever more come than the budget.
fn plan(budget: u64) -> f64 {
    (((budget as f64) + 1.0).sqrt() - MARGIN).max(0.0).powi(2)
}

fn burst(budget: u64) -> f64 {
    BURST * plan(budget)
}
