//! `leeway sim`: the real agent by the thousand in virtual time, or by the hundred against a running controller.
//!
//! `run` lives seeded stories and checks the promises of every device; a story that breaks one is made as short as possible
//! and told. `live` is load and company for a controller: real connections, real models, the weather at any speed.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use leeway_agent::agent::Timing;
use leeway_firmware_sim::io::fleet::{self, FleetConfig, StationConfig};
use leeway_firmware_sim::io::view::StationView;
use leeway_firmware_sim::trial::{self, Failure as Broken, Outcome as Lived};
use leeway_firmware_sim::watch::Invariant;
use serde_json::json;

use crate::failure::{Failure, Outcome};

/// Simulated devices that run the real agent.
#[derive(Debug, Subcommand)]
pub enum Sim {
    /// Live seeded stories in virtual time and check what must always hold.
    Run(Run),
    /// Run devices against a controller over its broker.
    Live(Live),
}

/// `leeway sim run`.
#[derive(Debug, Args)]
pub struct Run {
    /// First seed.
    #[arg(long, env = "LEEWAY_SEED", default_value_t = 0)]
    pub seed: u64,
    /// Stories, one per seed.
    #[arg(long, default_value_t = 100)]
    pub seeds: u64,
    /// Devices in each story.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub devices: u16,
    /// Threads; as many as the machine has cores if not given.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `leeway sim live`.
#[derive(Debug, Args)]
pub struct Live {
    /// The controller.
    #[arg(long, env = "LEEWAY_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// Enrolment token; not needed where enrolment is open.
    #[arg(long, env = "LEEWAY_ENROL_TOKEN")]
    pub token: Option<String>,
    /// Devices.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub devices: u16,
    /// Days of weather per second.
    #[arg(long, default_value_t = 30.0)]
    pub rate: f64,
    /// How long, seconds.
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// What their names begin with.
    #[arg(long, default_value = "sim")]
    pub prefix: String,
    /// A label for cohorts and its values, which the devices take in turn: `region=coast,hills`. May be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE,…", default_value = "group=a,b,c", value_parser = label)]
    pub labels: Vec<Label>,
    /// First seed of their instruments and keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A label with the values that devices take in turn.
#[derive(Debug, Clone)]
pub struct Label {
    key: String,
    values: Vec<String>,
}

fn label(text: &str) -> Result<Label, String> {
    let (key, values) = text.split_once('=').ok_or("write it as key=value or key=one,two")?;
    let values: Vec<String> = values.split(',').map(str::to_owned).collect();
    if key.is_empty() || values.iter().any(String::is_empty) {
        return Err("write it as key=value or key=one,two".to_owned());
    }
    Ok(Label { key: key.to_owned(), values })
}

/// Carry out the command.
pub fn run(command: &Sim) -> Outcome {
    match command {
        Sim::Run(args) => run_stories(args),
        Sim::Live(args) => live(args),
    }
}

fn run_stories(args: &Run) -> Outcome {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).clamp(1, 64);
    let (next, end) = (AtomicU64::new(args.seed), args.seed.saturating_add(args.seeds));
    let started = Instant::now();
    let lives = |_| {
        let mut lived = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok(lived);
            }
            lived.push(trial::run(seed, usize::from(args.devices)).map_err(Failure::new)?);
        }
    };
    let results: Vec<Outcome<Vec<Lived>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|n| scope.spawn(move || lives(n))).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined
            .map(|result| {
                result.unwrap_or_else(|_| Err(Failure::new("a story ended in a panic, which is a mistake in the simulator or the agent")))
            })
            .collect()
    });
    let seconds = started.elapsed().as_secs_f64();
    let mut lived = Vec::new();
    for result in results {
        lived.extend(result?);
    }
    lived.sort_by_key(|outcome| outcome.seed);
    summary(args, &lived, threads, seconds)?;
    let Some(first) = lived.iter().find(|outcome| outcome.violation.is_some()) else { return Ok(()) };
    let broken = trial::shorten(first.seed, first.devices).map_err(Failure::new)?;
    if let Some(broken) = &broken {
        tell(first.seed, args.devices, broken);
    }
    let count = lived.iter().filter(|outcome| outcome.violation.is_some()).count();
    Err(Failure::new(format!("{count} of {} stories broke a promise; the first is seed {}", lived.len(), first.seed)))
}

fn summary(args: &Run, lived: &[Lived], threads: usize, seconds: f64) -> Outcome {
    let devices: usize = lived.iter().map(|outcome| outcome.devices).sum();
    let happenings: u64 = lived.iter().map(|outcome| outcome.happenings).sum();
    let virtual_secs: u64 = lived.iter().map(|outcome| outcome.virtual_ms).sum::<u64>() / 1000;
    let rate = devices as f64 / seconds / threads as f64;
    let broken: BTreeMap<Invariant, usize> = lived.iter().filter_map(|o| o.violation.as_ref()).fold(BTreeMap::new(), |mut counts, v| {
        *counts.entry(v.invariant).or_default() += 1;
        counts
    });
    if args.json {
        let invariants: Vec<_> = Invariant::OF_DEVICES
            .iter()
            .map(|i| json!({ "invariant": i.sentence(), "broken": broken.get(i).copied().unwrap_or(0) }))
            .collect();
        let summary = json!({
            "seed": args.seed, "seeds": lived.len(), "device_lives": devices, "threads": threads, "seconds": seconds,
            "device_lives_per_second_per_core": rate, "happenings": happenings, "virtual_seconds": virtual_secs, "invariants": invariants,
        });
        println!("{summary}");
        return Ok(());
    }
    for invariant in Invariant::OF_DEVICES {
        let word = match broken.get(&invariant) {
            Some(count) => format!("BROKEN in {count}"),
            None => "holds".to_owned(),
        };
        println!("{word:>12}  {}", invariant.sentence());
    }
    println!(
        "{} stories, {devices} device-lives in {seconds:.1} s on {threads} threads: {rate:.0} device-lives/s/core; {happenings} happenings, \
         {virtual_secs} virtual seconds",
        lived.len()
    );
    Ok(())
}

fn tell(seed: u64, devices: u16, broken: &Broken) {
    eprintln!("\nseed {seed} with {devices} devices breaks a promise; the shortest story that still does:");
    eprintln!(
        "  {} devices, factory model: {}, stolen director key: {}",
        broken.scenario.devices, broken.scenario.factory, broken.scenario.stolen_director
    );
    for sentence in &broken.story {
        eprintln!("  {sentence}");
    }
    eprintln!("  {}", broken.violation);
    eprintln!("again: leeway sim run --seed {seed} --seeds 1 --devices {devices}\n");
}

fn live(args: &Live) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(live_on(args))
}

async fn live_on(args: &Live) -> Outcome {
    let mut stations = Vec::new();
    for number in 0..u64::from(args.devices) {
        let id = format!("{}-{number:04}", args.prefix).parse().map_err(Failure::new)?;
        let value = |label: &Label| label.values.get(number as usize % label.values.len().max(1)).cloned().unwrap_or_default();
        let labels: BTreeMap<String, String> = args.labels.iter().map(|label| (label.key.clone(), value(label))).collect();
        stations.push(StationConfig { id, labels, seed: args.seed + number, broken: None });
    }
    let config = FleetConfig {
        stations,
        controller_url: args.url.clone(),
        broker: None,
        enrol_token: args.token.clone(),
        roots: None,
        first_day: 0,
        days_per_second: args.rate,
        label_delay_days: 30,
        timing: Timing::default(),
    };
    let before = Usage::now();
    let fleet = fleet::start(config).await.map_err(|error| Failure::new(causes(&error)).code(7))?;
    let up = |views: &[StationView]| views.iter().filter(|view| view.online).count();
    let patience = Duration::from_secs(60);
    let all = fleet.wait_until(patience, |views| up(views) == views.len()).await;
    if !all {
        eprintln!("only {} of {} devices are connected after {} s", up(&fleet.views()), args.devices, patience.as_secs());
    }
    let started = (Instant::now(), Usage::now(), Totals::of(&fleet.views()));
    fleet.aim_for(usize::MAX / 2);
    let mut told = started.2;
    for second in 1..=args.seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second % 5 == 0 || second == args.seconds {
            let views = fleet.views();
            let totals = Totals::of(&views);
            let windows = totals.windows - told.windows;
            eprintln!(
                "{second:>4} s  {} online, day {}, {} inferences, {windows} windows sent",
                up(&views),
                fleet.day(),
                totals.inferences - told.inferences
            );
            told = totals;
        }
    }
    let (seconds, used) = (started.0.elapsed().as_secs_f64(), Usage::now());
    let totals = Totals::of(&fleet.views());
    let windows = totals.windows - started.2.windows;
    let messages = totals.messages - started.2.messages;
    let inferences = totals.inferences - started.2.inferences;
    let cpu = used.cpu_secs - started.1.cpu_secs;
    let per = |total: f64, count: u64| if count == 0 { 0.0 } else { total / count as f64 };
    let kib_per_device = (used.resident_bytes.saturating_sub(before.resident_bytes)) as f64 / 1024.0 / f64::from(args.devices);
    let figures = json!({
        "devices": args.devices, "online": up(&fleet.views()), "seconds": seconds, "days": fleet.day(),
        "inferences": inferences, "windows": windows, "messages": messages,
        "messages_per_second": messages as f64 / seconds, "windows_per_second": windows as f64 / seconds,
        "cpu_seconds": cpu, "cpu_us_per_message": per(cpu * 1e6, messages), "cpu_us_per_inference": per(cpu * 1e6, inferences),
        "resident_kib_per_device": kib_per_device, "held_back": totals.held_back,
    });
    match args.json {
        true => println!("{figures}"),
        false => {
            for (name, value) in figures.as_object().into_iter().flatten() {
                println!("{name:>24}  {value}");
            }
        }
    }
    fleet.shutdown().await;
    Ok(())
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    inferences: u64,
    windows: u64,
    messages: u64,
    held_back: u64,
}

impl Totals {
    fn of(views: &[StationView]) -> Self {
        views.iter().fold(Self::default(), |sum, view| Self {
            inferences: sum.inferences + view.years.values().map(|year| year.inferences).sum::<u64>(),
            windows: sum.windows + view.windows,
            messages: sum.messages + view.messages,
            held_back: sum.held_back + view.held_back,
        })
    }
}

/// What this process has used, from `/proc`; zeros where there is none.
#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    cpu_secs: f64,
    resident_bytes: u64,
}

impl Usage {
    fn now() -> Self {
        /// Linux has reported in hundredths of a second on every architecture for decades.
        const TICKS_PER_SEC: f64 = 100.0;
        const PAGE: u64 = 4096;
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        // The name in parentheses may hold spaces: fields are counted from behind it.
        let stat = read("/proc/self/stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        let pages = read("/proc/self/statm").split_whitespace().nth(1).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Self { cpu_secs: (ticks(11) + ticks(12)) / TICKS_PER_SEC, resident_bytes: pages * PAGE }
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
