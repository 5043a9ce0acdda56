//! The operator's binary: arguments → command → exit code.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leeway_protocol::time::Timestamp;

mod client;
mod demo;
mod failure;
mod keys;
mod release;
mod worker;

/// Keeps the models of a fleet of edge devices on course.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole circle on one machine, on real weather.
    Demo(demo::Demo),
    /// Keys and offline documents: files in, files out, no network.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Run the model runner's tools.
    #[command(hide = true, disable_help_flag = true)]
    Runner {
        /// What it is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(args) => demo::run(&args),
        Command::Keys(command) => keys::run(&command, now()),
        Command::Runner { args } => return leeway_agent::io::runner::main(args.into_iter()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
