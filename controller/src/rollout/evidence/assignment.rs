//! Whether the draw itself is broken: too few or too many canaries for the share that was asked for.
//!
//! **Null**: each of `eligible` devices is a canary with chance `share`, on its own. **Guarantee**: the alarm is false with
//! chance `alpha` at most, looked at after every device: the likelihood under a Jeffreys mixture over that under the null is a
//! martingale of mean 1 (Ville). A draw that fills a quota varies less than that, so it is safer still. Known from web
//! experiments as the sample-ratio mismatch (Lindon and Malek 2020). While it stands no comparison of the arms can be trusted.
use crate::sequential::ln_beta;

/// What the sizes of the arms say about the draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleRatio {
    /// Evidence against the draw: ln of an e-value.
    pub log_evidence: f64,
    /// What it must reach: ln(1 / alpha).
    pub threshold: f64,
    /// Whether it does.
    pub broken: bool,
    /// The same for people.
    pub sentence: String,
}

/// Look at the sizes: `canaries` of `eligible` devices (those that the draw had to decide about, offline ones left out of both
/// numbers alike), where `share` was asked for.
pub fn sample_ratio(canaries: u64, eligible: u64, share: f64, alpha: f64) -> SampleRatio {
    let (hits, rows) = (canaries.min(eligible) as f64, eligible as f64);
    let mixture = ln_beta(hits + 0.5, rows - hits + 0.5) - ln_beta(0.5, 0.5);
    let p = share.clamp(1e-6, 1.0 - 1e-6);
    let log_evidence = mixture - (hits * p.ln() + (rows - hits) * (1.0 - p).ln());
    let threshold = -alpha.clamp(1e-12, 1.0).ln();
    let broken = log_evidence >= threshold;
    let end = if broken {
        "the draw is broken (a lost cohort, a stuck bucket), and no comparison of the two groups can be trusted"
    } else {
        "as a fair draw may turn out"
    };
    let of = if rows > 0.0 { hits / rows * 100.0 } else { 0.0 };
    let sentence = format!("{canaries} of {eligible} eligible devices are canaries ({of:.1} %, asked for {:.1} %): {end}.", share * 100.0);
    SampleRatio { log_evidence, threshold, broken, sentence }
}
