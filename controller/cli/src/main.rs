//! The operator's binary: arguments → command → exit code.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leeway_protocol::time::Timestamp;

mod client;
mod failure;
mod keys;
mod release;

/// Keeps the models of a fleet of edge devices on course.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keys and offline documents: files in, files out, no network.
    #[command(subcommand)]
    Keys(keys::Keys),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Keys(command) => keys::run(&command, now()),
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
