//! The rules that are usual elsewhere, small and plain, each window of a device against the reference: what the figures beside ours are of.
//!
//! PSI above 0.2 (empty bins filled with 1e-4, the folklore), Pearson's chi² of two samples and Kolmogorov–Smirnov on the bins, both at
//! 0.05 per window, and ADWIN (delta 0.002) and Page–Hinkley (delta 0.005, threshold 50, at least 30 windows) on the windows' mean
//! ranks, as river sets them. None of them is used by the product.

/// How many rules there are.
pub const RULES: usize = 5;
/// Their names.
pub const NAMES: [&str; RULES] = ["PSI > 0.2", "chi² p < 0.05", "KS p < 0.05", "ADWIN on means", "Page–Hinkley on means"];

/// One device-feature under all rules.
pub struct Rules {
    adwin: Adwin,
    page_hinkley: PageHinkley,
}

impl Rules {
    pub fn new() -> Self {
        Self { adwin: Adwin::default(), page_hinkley: PageHinkley::default() }
    }

    /// Which rules fire on this window of counts, given the reference's masses made from `rows` rows.
    pub fn fire(&mut self, masses: &[f64], rows: f64, counts: &[u32]) -> [bool; RULES] {
        let n: f64 = counts.iter().map(|&c| f64::from(c)).sum();
        let live: Vec<(f64, f64)> = masses.iter().zip(counts).map(|(&p, &c)| (p, f64::from(c) / n)).filter(|x| x.0 + x.1 > 0.0).collect();
        let psi: f64 = live.iter().map(|&(p, q)| (p.max(1e-4), q.max(1e-4))).map(|(p, q)| (q - p) * (q / p).ln()).sum();
        let chi2: f64 = live.iter().map(|&(p, q)| n * rows * (p - q).powi(2) / (p * rows + q * n)).sum();
        let (mut sum, mut sup) = (0.0, 0f64);
        for &(p, q) in &live {
            sum += p - q;
            sup = sup.max(f64::abs(sum));
        }
        // The mean rank of the window in standard deviations of the reference's: both rules depend on the scale.
        let moment = |power: i32| masses.iter().enumerate().map(|(i, p)| (i as f64).powi(power) * p).sum::<f64>();
        let rank = counts.iter().enumerate().map(|(i, &c)| i as f64 * f64::from(c)).sum::<f64>() / n;
        let mean = (rank - moment(1)) / (moment(2) - moment(1).powi(2)).max(1e-9).sqrt();
        [
            psi > 0.2,
            chi2 > chi2_critical(live.len() - 1),
            sup * (n * rows / (n + rows)).sqrt() > 1.358,
            self.adwin.push(mean),
            self.page_hinkley.push(mean),
        ]
    }
}

/// The 0.95 quantile of chi² (Wilson and Hilferty).
fn chi2_critical(freedom: usize) -> f64 {
    let k = freedom.max(1) as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 1.644_854 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

/// ADWIN (Bifet and Gavaldà 2007) with exponential buckets, five of each size.
#[derive(Default)]
struct Adwin {
    /// Oldest first: how many values, their sum, their sum of squares.
    buckets: Vec<(u32, f64, f64)>,
}

impl Adwin {
    fn push(&mut self, x: f64) -> bool {
        self.buckets.push((1, x, x * x));
        let mut end = self.buckets.len();
        while end > 0 {
            let size = self.buckets[end - 1].0;
            let start = self.buckets[..end].iter().rposition(|b| b.0 != size).map_or(0, |i| i + 1);
            if end - start > 5 {
                let (a, b) = (self.buckets[start], self.buckets.remove(start + 1));
                self.buckets[start] = (a.0 + b.0, a.1 + b.1, a.2 + b.2);
            }
            end = start;
        }
        let mut fired = false;
        while self.cut() {
            self.buckets.remove(0);
            fired = true;
        }
        fired
    }

    fn cut(&self) -> bool {
        let sums = |b: &[(u32, f64, f64)]| b.iter().fold((0.0, 0.0, 0.0), |s, x| (s.0 + f64::from(x.0), s.1 + x.1, s.2 + x.2));
        let (n, sum, squares) = sums(&self.buckets);
        if n < 10.0 {
            return false;
        }
        let variance = (squares / n - (sum / n).powi(2)).max(0.0);
        let nats = (2.0 * n.ln() / 0.002).ln();
        let (mut n0, mut sum0) = (0.0, 0.0);
        self.buckets[..self.buckets.len() - 1].iter().any(|b| {
            (n0, sum0) = (n0 + f64::from(b.0), sum0 + b.1);
            let n1 = n - n0;
            let m = 1.0 / (1.0 / n0 + 1.0 / n1);
            let epsilon = (2.0 / m * variance * nats).sqrt() + 2.0 / (3.0 * m) * nats;
            n0 >= 5.0 && n1 >= 5.0 && (sum0 / n0 - (sum - sum0) / n1).abs() > epsilon
        })
    }
}

/// Page 1954, both directions; starts anew after it fired.
#[derive(Default)]
struct PageHinkley {
    n: f64,
    mean: f64,
    up: f64,
    down: f64,
}

impl PageHinkley {
    fn push(&mut self, x: f64) -> bool {
        self.n += 1.0;
        self.mean += (x - self.mean) / self.n;
        self.up = (0.9999 * self.up + x - self.mean - 0.005).max(0.0);
        self.down = (0.9999 * self.down + self.mean - x - 0.005).max(0.0);
        let fired = self.n >= 30.0 && self.up.max(self.down) > 50.0;
        if fired {
            *self = Self::default();
        }
        fired
    }
}
