//! `leeway demo`: the whole circle on one machine, on real weather, told while it happens.
//!
//! Nothing here is the product: it starts the real controller and the real trainer as processes, enrols a fleet of real agents,
//! and does what people would do: publish, look, pull cables. Every claim at the end is checked against what the controller
//! recorded and what the stations lived, and `--exit` turns a claim that did not hold into a failure.
use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::failure::{During, Failure, Outcome};

mod children;
mod lessons;
mod setup;
mod story;
mod table;
mod tale;
mod watch;
mod workshop;

/// `leeway demo`.
#[derive(Debug, Clone, ClapArgs)]
pub struct Demo {
    /// End when the story is told: status 0 only if every claim held. Without it, the dashboard stays up until Ctrl-C.
    #[arg(long)]
    pub exit: bool,
    /// Keep everything in this new folder instead of a temporary one.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// Stations, in three cohorts; fewer than 20 do not live enough days to retrain on.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(20..=400))]
    pub stations: u16,
    /// Port of the dashboard; a free one if not given.
    #[arg(long)]
    pub port: Option<u16>,
    /// Days of weather per second.
    #[arg(long, default_value_t = 200.0)]
    pub speed: f64,
}

/// Run it.
pub fn run(args: &Demo) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().during("starting")?;
    let held = runtime.block_on(story::tell(args))?;
    if held { Ok(()) } else { Err(Failure::new("not every claim of the demo held; the lines marked ✖ say which").code(3)) }
}
