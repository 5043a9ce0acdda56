//! How the demo tells its story: one plain line for each thing that happened, a progress line in between, claims at the end.
//!
//! A line is printed after the thing was seen, never before: every figure in it was read back from the controller or counted at
//! the stations. What stays true: `holds` decides the exit status, and nothing can be claimed without a condition.
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// The story so far.
#[derive(Debug)]
pub struct Tale {
    start: Instant,
    live: bool,
    shown: bool,
    claims: Vec<(bool, String)>,
}

impl Tale {
    /// The beginning.
    pub fn begin() -> Self {
        Self { start: Instant::now(), live: std::io::stdout().is_terminal(), shown: false, claims: Vec::new() }
    }

    /// Seconds since the beginning.
    pub fn secs(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// A new chapter.
    pub fn chapter(&mut self, title: &str) {
        self.clear();
        println!("\n{title}");
    }

    /// Something happened.
    pub fn tell(&mut self, line: &str) {
        self.clear();
        println!("  {:>6.1} s  {line}", self.secs());
    }

    /// Something is under way; only on a terminal, and replaced by what comes next.
    pub fn progress(&mut self, line: &str) {
        if self.live {
            let short: String = line.chars().take(100).collect();
            print!("\r\x1b[2K  {:>6.1} s  {short}", self.secs());
            let _ = std::io::stdout().flush();
            self.shown = true;
        }
    }

    /// State that `claim` held or did not, and say so.
    pub fn claim(&mut self, held: bool, claim: &str) {
        self.clear();
        println!("  {:>6.1} s  {} {claim}", self.secs(), if held { "✔" } else { "✖ NOT HELD:" });
        self.claims.push((held, claim.to_owned()));
    }

    /// Whether every claim held.
    pub fn holds(&self) -> bool {
        self.claims.iter().all(|(held, _)| *held)
    }

    /// The claims at the end.
    pub fn conclude(&mut self) {
        self.clear();
        let kept = self.claims.iter().filter(|(held, _)| *held).count();
        println!("\n{kept} of {} claims held, in {:.0} s.", self.claims.len(), self.secs());
        for (_, claim) in self.claims.iter().filter(|(held, _)| !*held) {
            println!("  ✖ {claim}");
        }
    }

    fn clear(&mut self) {
        if self.shown {
            print!("\r\x1b[2K");
            self.shown = false;
        }
    }
}
