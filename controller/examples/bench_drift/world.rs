//! A simulated fleet: values of twenty features on many devices, counted into bins window by window.
//!
//! Rows are drawn (a latent AR(1) series per device and feature), but never turned into values: the edges of the bins are carried back
//! through the marginal, the season, the device's offset and the fault to the latent scale, once per window, so that a row costs
//! a multiplication, an addition and a dozen comparisons. What stays true: the counts are those that an agent would make of the values.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::WindowId;
use leeway_protocol::manifest::CONFIDENCE_BINS;
use leeway_protocol::profile::{Counts, Cuts, FeatureReference, Reference, SPECIALS, Source, Special};
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, WindowReport};
use leeway_protocol::time::Timestamp;

/// An hour, the length of a window.
pub const HOUR: i64 = 3_600_000;
/// Features of a device.
pub const FEATURES: usize = 20;
/// Rows a reference is made from.
const REFERENCE_ROWS: usize = 50_000;
/// Cuts of a feature on the latent scale, padded with infinity.
const ROOM: usize = 12;
/// Devices' own offsets and the daily season, in standard deviations of the feature.
const OFFSET: f64 = 0.2;
const SEASON: f64 = 0.5;
/// Days of the real weather in the series, and its columns.
const WEATHER_DAYS: usize = 18_159;
const WEATHER: [&str; 8] = ["temperature", "dew_point", "pressure", "visibility", "wind", "max_wind", "min_temperature", "max_temperature"];
static BELLEVUE: &[u8] = include_bytes!("../../../firmware-sim/data/bellevue.bin");

/// Fast seeded chance for rows: xorshift64*, normals from the quantiles of 4,096 equal slices.
pub struct Chance {
    state: u64,
    normals: Vec<f32>,
}

impl Chance {
    pub fn new(seed: u64) -> Self {
        let quantile = |i: usize| normal_quantile((i as f64 + 0.5) / 4096.0);
        let variance = (0..4096).map(|i| quantile(i).powi(2)).sum::<f64>() / 4096.0;
        let normals = (0..4096).map(|i| (quantile(i) / variance.sqrt()) as f32).collect();
        let mut chance = Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03, normals };
        (0..8).for_each(|_| _ = chance.next());
        chance
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        let slice = (self.next() >> 52) as usize;
        f64::from(self.normals[slice])
    }
}

/// How a feature's values are distributed.
#[derive(Clone, PartialEq)]
enum Shape {
    Normal,
    /// Log-normal.
    Skewed,
    /// Hyperbolic sine of a normal.
    HeavyTailed,
    /// Two thirds are exactly zero.
    ZeroInflated,
    /// Five values in uneven shares.
    Categorical,
    /// An instrument that shows steps of a third of a standard deviation.
    Rounded,
    /// A column of the real weather, by its quantiles.
    Weather(Vec<f64>),
}

const CATEGORIES: [f64; 4] = [-0.5, 0.3, 1.0, 1.8];

impl Shape {
    /// Whether season and offset act before the shape (they cannot make rain negative) or are added to the value.
    fn is_latent(&self) -> bool {
        matches!(self, Self::ZeroInflated | Self::Categorical | Self::Rounded)
    }

    fn value(&self, z: f64) -> f64 {
        match self {
            Self::Normal => z,
            Self::Skewed => z.exp(),
            Self::HeavyTailed => (1.2 * z).sinh(),
            Self::ZeroInflated => (z - 0.43).max(0.0),
            Self::Categorical => CATEGORIES.iter().filter(|&&c| z >= c).count() as f64,
            Self::Rounded => (z * 3.0).round() / 3.0,
            Self::Weather(sorted) => sorted[((normal_share(z) * sorted.len() as f64) as usize).min(sorted.len() - 1)],
        }
    }

    /// The smallest latent value that shows at least `x`.
    fn latent(&self, x: f64) -> f64 {
        match self {
            Self::Normal => x,
            Self::Skewed => x.max(0.0).ln(),
            Self::HeavyTailed => x.asinh() / 1.2,
            Self::ZeroInflated if x <= 0.0 => f64::NEG_INFINITY,
            Self::ZeroInflated => x + 0.43,
            Self::Categorical if x <= 0.0 => f64::NEG_INFINITY,
            Self::Categorical => CATEGORIES.get(x.ceil() as usize - 1).copied().unwrap_or(f64::INFINITY),
            Self::Rounded => ((x * 3.0 - 1e-6).ceil() - 0.5) / 3.0,
            Self::Weather(sorted) => match sorted.partition_point(|&v| v < x) {
                0 => f64::NEG_INFINITY,
                n if n == sorted.len() => f64::INFINITY,
                n => normal_quantile(n as f64 / sorted.len() as f64),
            },
        }
    }
}

/// The inverse of P(Z < z), Acklam's rational approximation (shortened: good to six digits).
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [-39.696_830, 220.946_10, -275.928_51, 138.357_75, -30.664_80, 2.506_628_3];
    const B: [f64; 5] = [-54.476_099, 161.585_84, -155.698_98, 66.801_312, -13.280_682];
    const C: [f64; 6] = [-0.007_784_894, -0.322_396_46, -2.400_758_3, -2.549_732_5, 4.374_664_1, 2.938_164];
    const D: [f64; 4] = [0.007_784_695_7, 0.322_467_13, 2.445_134_1, 3.754_408_7];
    let poly = |terms: &[f64], x: f64| terms.iter().fold(0.0, |sum, c| sum * x + c);
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    if p < 0.024_25 {
        let q = (-2.0 * p.ln()).sqrt();
        return poly(&C, q) / (poly(&D, q) * q + 1.0);
    }
    let (q, r) = (p - 0.5, (p - 0.5) * (p - 0.5));
    poly(&A, r) * q / (poly(&B, r) * r + 1.0)
}

/// P(Z < z), Abramowitz and Stegun 7.1.26 (error below 2e-7).
fn normal_share(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t * (0.254_829_592 + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    let tail = 0.5 * poly * (-x * x).exp();
    if z > 0.0 { 1.0 - tail } else { tail }
}

/// What happens to a feature.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Higher by so many standard deviations.
    Shift(f64),
    /// Wider around the mean.
    Scale(f64),
    /// One value for ever.
    Stuck,
    /// So large a share of the values is missing.
    Nulls(f64),
}

/// One feature of every device.
struct Feature {
    shape: Shape,
    rho: f64,
    nulls: f64,
    mean: f64,
    sd: f64,
}

impl Feature {
    /// The value shown for a latent one, with what the device and the hour add.
    fn show(&self, z: f64, add: f64, fault: Fault) -> f64 {
        let (scale, shift) = match fault {
            Fault::Shift(by) => (1.0, by),
            Fault::Scale(by) => (by, 0.0),
            _ => (1.0, 0.0),
        };
        if self.shape.is_latent() {
            self.shape.value((z + add) * scale + shift)
        } else {
            (self.shape.value(z) + self.sd * add - self.mean) * scale + self.mean + shift * self.sd
        }
    }
}

/// What is switched on.
#[derive(Clone, Copy)]
pub struct Setup {
    pub name: &'static str,
    /// Autocorrelation from 0 to this over the features; devices differ by a little.
    pub rho: f64,
    pub offset: bool,
    pub season: bool,
    /// Weather that all devices share, in standard deviations, changing within days: outside what the promise covers.
    pub weather: f64,
    /// Devices in a cohort.
    pub cohort: usize,
}

impl Setup {
    pub const ALL: Self =
        Self { name: "autocorrelation 0–0.95, season, offsets", rho: 0.95, offset: true, season: true, weather: 0.0, cohort: 200 };
    pub const PLAIN: Self =
        Self { name: "independent rows, no season, no offsets", rho: 0.0, offset: false, season: false, weather: 0.0, cohort: 200 };
}

/// A fleet, ready to draw windows from.
pub struct World {
    pub setup: Setup,
    pub reference: Reference,
    features: Vec<Feature>,
    offsets: Vec<f64>,
    /// Latent values, by device and feature.
    last: Vec<f32>,
    /// Autocorrelation in percent as the agent reports it, by feature and kind of device.
    reported: Vec<[u8; 3]>,
    weather: Vec<f64>,
    chance: Chance,
}

/// Devices are of three kinds, by how their rows depend on each other.
fn device_rho(rho: f64, device: usize) -> f64 {
    match device % 3 {
        0 => rho,
        1 => rho * 0.9,
        _ => rho + 0.3 * (0.95 - rho).min(rho),
    }
}

impl World {
    pub fn new(setup: Setup, devices: usize, seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let features: Vec<Feature> = (0..FEATURES).map(|i| feature(i, setup, &mut chance)).collect();
        let mut world = Self {
            setup,
            reference: Reference::default(),
            features,
            offsets: (0..devices * FEATURES).map(|_| if setup.offset { OFFSET * chance.normal() } else { 0.0 }).collect(),
            last: (0..devices * FEATURES).map(|_| chance.normal() as f32).collect(),
            reported: Vec::new(),
            weather: vec![0.0; FEATURES],
            chance,
        };
        world.reference = Reference { rows: REFERENCE_ROWS as u64, features: (0..FEATURES).map(|i| world.cut(i)).collect() };
        world.reported = (0..FEATURES).map(|i| std::array::from_fn(|kind| world.measured_rho(i, kind))).collect();
        world
    }

    fn season(&self, hour: i64) -> f64 {
        if self.setup.season { SEASON * (std::f64::consts::TAU * hour as f64 / 24.0).sin() } else { 0.0 }
    }

    /// A training set of independent rows over devices and hours, cut at its deciles.
    fn cut(&mut self, index: usize) -> FeatureReference {
        let mut values = Vec::with_capacity(REFERENCE_ROWS);
        let mut missing = 0.0;
        for row in 0..REFERENCE_ROWS {
            let offset = if self.setup.offset { OFFSET * self.chance.normal() } else { 0.0 };
            let add = offset + self.season(row as i64 % 24);
            let f = &self.features[index];
            if self.chance.uniform() < f.nulls {
                missing += 1.0;
                continue;
            }
            let z = self.chance.normal();
            values.push(f.show(z, add, Fault::None));
        }
        values.sort_by(f64::total_cmp);
        let cuts = if self.features[index].shape == Shape::Categorical {
            Cuts::Categorical { values: (0..=CATEGORIES.len() as i64).collect() }
        } else {
            let mut edges: Vec<f64> = (0..=10).map(|q| values[(values.len() - 1) * q / 10]).collect();
            edges.dedup();
            Cuts::Numeric { edges }
        };
        let mut masses = vec![0.0; SPECIALS + cuts.bins()];
        masses[Special::Null as usize] = missing / REFERENCE_ROWS as f64;
        values.iter().for_each(|&x| masses[cuts.bin(Some(x))] += 1.0 / REFERENCE_ROWS as f64);
        let name = match &self.features[index].shape {
            Shape::Weather(_) => WEATHER[index % WEATHER.len()].to_owned(),
            _ => format!("feature_{index}"),
        };
        FeatureReference { name, source: Source::Input { tensor: 0, index }, cuts, masses, importance: None, worth: None }
    }

    /// The bins' cuts on the latent scale, for one device in one hour; a latent value at or above the n-th lies in the n+1-th bin.
    fn thresholds(&self, index: usize, add: f64, fault: Fault) -> [f32; ROOM] {
        let f = &self.features[index];
        let (scale, shift) = match fault {
            Fault::Shift(by) => (1.0, by),
            Fault::Scale(by) => (by, 0.0),
            _ => (1.0, 0.0),
        };
        let at = |edge: f64| {
            if f.shape.is_latent() {
                (f.shape.latent(edge) - shift) / scale - add
            } else {
                f.shape.latent((edge - shift * f.sd - f.mean) / scale + f.mean - f.sd * add)
            }
        };
        let mut cuts = [f32::INFINITY; ROOM];
        match &self.reference.features[index].cuts {
            Cuts::Categorical { .. } => (1..=CATEGORIES.len()).for_each(|c| cuts[c - 1] = at(c as f64) as f32),
            Cuts::Numeric { edges } => {
                let (last, inner) = edges.split_last().expect("a reference has edges");
                inner.iter().enumerate().for_each(|(i, &e)| cuts[i] = at(e) as f32);
                cuts[inner.len()] = at(last + 1e-9 * last.abs().max(1.0)) as f32;
            }
        }
        cuts
    }

    /// The bin of the reference that the n-th slot of the latent scale is.
    fn bin(cuts: &Cuts, slot: usize) -> usize {
        match cuts {
            Cuts::Categorical { .. } => SPECIALS + slot,
            Cuts::Numeric { .. } if slot == 0 => Special::Below as usize,
            Cuts::Numeric { edges } if slot == edges.len() => Special::Above as usize,
            Cuts::Numeric { .. } => SPECIALS + slot - 1,
        }
    }

    /// Weather goes on by one window.
    pub fn step(&mut self) {
        if self.setup.weather > 0.0 {
            for i in 0..FEATURES {
                self.weather[i] = 0.98 * self.weather[i] + self.setup.weather * (1.0 - 0.98f64 * 0.98).sqrt() * self.chance.normal();
            }
        }
    }

    /// One feature's counts of `rows` rows on a device in an hour.
    pub fn counts(&mut self, device: usize, index: usize, hour: i64, rows: usize, fault: Fault) -> Vec<u32> {
        let place = device * FEATURES + index;
        let add = self.offsets[place] + self.season(hour.rem_euclid(24)) + self.weather[index];
        let cuts = self.thresholds(index, add, fault);
        let rho = device_rho(self.features[index].rho, device) as f32;
        let fresh = (1.0 - rho * rho).sqrt();
        let nulls = if let Fault::Nulls(share) = fault { self.features[index].nulls.max(share) } else { self.features[index].nulls };
        let mut slots = [0u32; ROOM + 1];
        let mut z = self.last[place];
        let mut missing = 0;
        let mut bits = 0u64;
        for row in 0..rows {
            if row % 5 == 0 {
                bits = self.chance.next();
            }
            z = rho * z + fresh * self.chance.normals[(bits >> 52) as usize];
            bits <<= 12;
            if nulls > 0.0 && self.chance.uniform() < nulls {
                missing += 1;
                continue;
            }
            let slot: u32 = cuts.iter().map(|&cut| u32::from(z >= cut)).sum();
            slots[slot as usize] += 1;
        }
        self.last[place] = z;
        let cuts = &self.reference.features[index].cuts;
        let mut counts = vec![0; SPECIALS + cuts.bins()];
        counts[Special::Null as usize] = missing;
        if fault == Fault::Stuck {
            counts[SPECIALS + cuts.bins() / 2] = rows as u32 - missing;
            return counts;
        }
        for (slot, &n) in slots.iter().enumerate().filter(|&(_, &n)| n > 0) {
            counts[Self::bin(cuts, slot)] += n;
        }
        counts
    }

    /// The raw values behind such a window, for tools that want values; NaN where one is missing.
    pub fn values(&mut self, device: usize, index: usize, hour: i64, rows: usize, fault: Fault) -> Vec<f64> {
        let place = device * FEATURES + index;
        let add = self.offsets[place] + self.season(hour.rem_euclid(24)) + self.weather[index];
        let rho = device_rho(self.features[index].rho, device);
        let mut z = f64::from(self.last[place]);
        let mut values = Vec::with_capacity(rows);
        for _ in 0..rows {
            z = rho * z + (1.0 - rho * rho).sqrt() * self.chance.normal();
            let is_missing = self.chance.uniform() < self.features[index].nulls;
            values.push(if is_missing { f64::NAN } else { self.features[index].show(z, add, fault) });
        }
        self.last[place] = z as f32;
        values
    }

    /// Values of a training set, as many as asked for, over devices and hours.
    pub fn training_values(&mut self, index: usize, rows: usize) -> Vec<f64> {
        let value = |row: usize| {
            let offset = if self.setup.offset { OFFSET * self.chance.normal() } else { 0.0 };
            let add = offset + self.season(row as i64 % 24);
            let z = self.chance.normal();
            let f = &self.features[index];
            if self.chance.uniform() < f.nulls { f64::NAN } else { f.show(z, add, Fault::None) }
        };
        (0..rows).map(value).collect()
    }

    /// The window of a device that gave these values, by feature.
    pub fn window_of(&self, device: usize, block: i64, values: &[Vec<f64>]) -> WindowReport {
        let count = |(reference, values): (&FeatureReference, &Vec<f64>)| {
            let mut counts = vec![0; SPECIALS + reference.cuts.bins()];
            values.iter().for_each(|&x| counts[reference.cuts.bin(Some(x).filter(|x| !x.is_nan()))] += 1);
            Counts(counts)
        };
        let features = self.reference.features.iter().zip(values).map(count).collect();
        self.report(device, block, values.first().map_or(0, Vec::len), features)
    }

    /// The estimate the agent's recorder arrives at: the largest lag-1 autocorrelation of a bin's indicator, over its history.
    fn measured_rho(&mut self, index: usize, kind: usize) -> u8 {
        let rho = device_rho(self.features[index].rho, kind);
        let cuts: Vec<[f32; ROOM]> = (0..24).map(|hour| self.thresholds(index, self.season(hour), Fault::None)).collect();
        let mut tally = [(0u64, 0u64); ROOM + 1];
        let (mut z, mut last) = (self.chance.normal(), usize::MAX);
        let rows = 12_000;
        for row in 0..rows {
            z = rho * z + (1.0 - rho * rho).sqrt() * self.chance.normal();
            let slot = cuts[row / 100 % 24].iter().filter(|&&cut| z as f32 >= cut).count();
            tally[slot].0 += 1;
            tally[slot].1 += u64::from(slot == last);
            last = slot;
        }
        let n = rows as f64;
        let of = |&(count, stays): &(u64, u64)| {
            let p = count as f64 / n;
            let variance = p * (1.0 - p);
            if variance * n < 5.0 { 0.0 } else { (stays as f64 / (n - 1.0) - p * p) / variance }
        };
        (tally.iter().map(of).fold(0.0, f64::max).min(0.99) * 100.0).round() as u8
    }

    /// A device's window.
    pub fn window(&mut self, device: usize, block: i64, rows: usize, fault: impl Fn(usize) -> Fault) -> WindowReport {
        let features: Vec<Counts> = (0..FEATURES).map(|i| Counts(self.counts(device, i, block, rows, fault(i)))).collect();
        self.report(device, block, rows, features)
    }

    fn report(&self, device: usize, block: i64, rows: usize, features: Vec<Counts>) -> WindowReport {
        let at = Timestamp::from_millis(block * HOUR + HOUR / 2);
        WindowReport {
            manifest: manifest(),
            model: manifest(),
            window: WindowId(block as u64),
            opened_at: at,
            closed_at: at,
            inferences: rows as u64,
            recorded: rows as u64,
            errors: Errors::default(),
            latency: vec![0; LATENCY_BUCKETS],
            rho_percent: self.reported.iter().map(|kinds| kinds[device % 3]).collect(),
            features,
            confidence: [0; CONFIDENCE_BINS],
            classes: vec![],
            labelled: [Labelled::default(); CONFIDENCE_BINS],
            data_time: Some((at, at)),
            user: Default::default(),
        }
    }
}

/// The manifest all windows are about.
pub fn manifest() -> Digest {
    Digest::of(b"bench")
}

fn feature(index: usize, setup: Setup, chance: &mut Chance) -> Feature {
    let shape = match index {
        0..8 => Shape::Weather(column(index)),
        8..11 => Shape::Normal,
        11..13 => Shape::Skewed,
        13..15 => Shape::HeavyTailed,
        15..17 => Shape::ZeroInflated,
        17..19 => Shape::Categorical,
        _ => Shape::Rounded,
    };
    let sample: Vec<f64> = (0..20_000).map(|_| shape.value(chance.normal())).collect();
    let mean = sample.iter().sum::<f64>() / 20_000.0;
    let sd = (sample.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
    // Every shape meets little and much autocorrelation: 7 and 20 have no common factor.
    let rho = setup.rho * (index * 7 % FEATURES) as f64 / (FEATURES - 1) as f64;
    let nulls = if index % 5 == 3 { 0.004 } else { 0.0 };
    Feature { shape, rho, nulls, mean, sd }
}

fn column(index: usize) -> Vec<f64> {
    let day = |row: usize| {
        let at = 12 + (index * WEATHER_DAYS + row) * 2;
        f64::from(i16::from_le_bytes([BELLEVUE[at], BELLEVUE[at + 1]])) / 2000.0
    };
    let mut values: Vec<f64> = (0..WEATHER_DAYS).map(day).collect();
    values.sort_by(f64::total_cmp);
    values
}
