//! The operator's binary: arguments → command → exit code.
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use leeway_protocol::time::Timestamp;

mod apply;
mod audit;
mod client;
mod cohort;
mod context;
mod data;
mod delivery;
mod demo;
mod device;
mod drift;
mod episode;
mod events;
mod failure;
mod keys;
mod model;
mod output;
mod quality;
mod release;
mod replay;
mod rollout;
mod serve;
mod sim;
mod token;
mod training;
mod webhook;
mod worker;

use context::{Context, Global};
use failure::Outcome;

/// What every exit code means; shown by `leeway --help`.
const EXIT_CODES: &str = "\
Exit codes: 0 done · 1 failed · 2 called wrongly · 3 ended unhealthy · 4 sign in first · 5 not found · 6 conflict or out of date ·
7 controller not reachable · 124 timed out

Examples:
  leeway demo                                        the whole circle on one machine
  leeway keys init --out keys --line rain            every key of a fleet, offline
  leeway serve --data data --keys keys/controller        run the controller
  leeway model publish model.onnx --line rain --version 1.0.0 --key keys/release/rain.key --reference train.csv --label-column rain
  leeway rollout create --line rain --version 1.0.0 --watch";

/// Keeps the models of a fleet of edge devices on course.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole circle on one machine, on real weather.
    Demo(demo::Demo),
    /// Run the controller until Ctrl-C.
    Serve(Box<serve::Serve>),
    /// Keys and offline documents: files in, files out, no network.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Models: publish a release, see what there is.
    #[command(subcommand)]
    Model(model::Command),
    /// Rollouts: bring a version out in stages, watch it, stop it.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Devices: what each runs, and why it is unhappy.
    #[command(subcommand)]
    Device(device::Command),
    /// Make rollouts what their files say: created, changed where they have not been yet, or left as they are.
    Apply(apply::Apply),
    /// Cohorts: parts of the fleet.
    #[command(subcommand)]
    Cohort(cohort::Command),
    /// Drift: which features moved, and whether it matters.
    #[command(subcommand)]
    Drift(drift::Command),
    /// Quality: accuracy measured and estimated, and whom to ask for labels.
    #[command(subcommand)]
    Quality(quality::Command),
    /// Datasets: what models were trained on, and where a version comes from.
    #[command(subcommand)]
    Data(data::Command),
    /// The audit trail, and the same live.
    Events(events::Events),
    /// Check that the audit trail is what was written, or write it out.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Compute every alarm and every decision again from what is stored, and compare bit for bit.
    Replay(replay::Replay),
    /// Training: ask for a better model, see the jobs, work on them.
    #[command(subcommand, alias = "training")]
    Trainer(training::Command),
    /// Tokens for people and programs: who may look, run, publish, approve.
    #[command(subcommand)]
    Token(token::Command),
    /// Webhooks: who is told over HTTP of what happens.
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Simulated devices that run the real agent.
    #[command(subcommand)]
    Sim(sim::Sim),
    /// Run the model runner's tools.
    #[command(hide = true, disable_help_flag = true)]
    Runner {
        /// What it is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Runner { args } => return leeway_agent::io::runner::main(args.into_iter()),
        command => run(&command, &cli.global),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

fn run(command: &Command, global: &Global) -> Outcome {
    let context = || Context::new(global);
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Keys(command) => keys::run(command, now()),
        Command::Sim(command) => sim::run(command),
        Command::Model(command) => model::run(command, &context()?),
        Command::Rollout(command) => rollout::run(command, &context()?),
        Command::Device(command) => device::run(command, &context()?),
        Command::Apply(args) => apply::run(args, context),
        Command::Cohort(command) => cohort::run(command, &context()?),
        Command::Drift(command) => drift::run(command, &context()?),
        Command::Quality(command) => quality::run(command, &context()?),
        Command::Data(command) => data::run(command, &context()?),
        Command::Events(args) => events::run(args, &context()?),
        Command::Audit(command) => audit::run(command, context),
        Command::Replay(args) => replay::run(args, global.json),
        Command::Trainer(command) => training::run(command, &context()?),
        Command::Token(command) => token::run(command, &context()?),
        Command::Webhook(command) => webhook::run(command, &context()?),
        Command::Runner { .. } => Ok(()),
    }
}

fn now() -> Timestamp {
    leeway_controller::io::clock::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// One that did would be read as the controller's address or token, and clap does not complain.
    #[test]
    fn no_command_has_an_argument_called_like_a_global_one() {
        fn shadows(command: &clap::Command, global: &[String], found: &mut Vec<String>) {
            for below in command.get_subcommands() {
                let own = below.get_arguments().map(|arg| arg.get_id().to_string()).filter(|id| global.contains(id));
                found.extend(own.map(|id| format!("{} --{id}", below.get_name())));
                shadows(below, global, found);
            }
        }
        let cli = Cli::command();
        let global: Vec<String> = cli.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().to_string()).collect();
        assert!(global.len() >= 5, "{global:?}");
        let mut found = Vec::new();
        shadows(&cli, &global, &mut found);
        // These ask no controller by way of the global ones, or mean the same by them.
        let known = ["broker --ca", "drill --json", "run --json", "live --url", "live --token", "live --json"];
        found.retain(|shadow| !known.contains(&shadow.as_str()));
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn the_arguments_make_sense() {
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        for word in ["demo", "serve", "rollout", "Exit codes"] {
            assert!(help.contains(word), "{word}");
        }
        assert!(!help.contains("runner "), "the runner's tools are not for people");
        assert!(Cli::try_parse_from(["leeway", "rollout", "abort", "rain-1"]).is_err(), "an action needs a reason");
        assert!(Cli::try_parse_from(["leeway", "rollout", "show", "UP"]).unwrap_err().to_string().contains("a-z, 0-9"));
        assert!(Cli::try_parse_from(["leeway", "device", "list", "--state", "odd"]).is_err());
        let scope = Cli::try_parse_from(["leeway", "token", "create", "--name", "x", "--scope", "root"]).unwrap_err().to_string();
        assert!(scope.contains("publisher"), "{scope}");
        assert!(Cli::try_parse_from(["leeway", "token", "create", "--name", "x", "--scope", "viewer", "--ttl", "30d"]).is_ok());
        let publish = |more: &[&str]| {
            let base = ["leeway", "model", "publish", "m", "--line", "rain", "--version", "1", "--key", "k", "--reference", "r"];
            Cli::try_parse_from([&base[..], more].concat())
        };
        assert!(publish(&["--oms-bundle", "b"]).is_err(), "a bundle that nobody checks is worth nothing");
        assert!(publish(&["--oms-bundle", "b", "--oms-public-key", "p", "--oms-key", "k"]).is_err(), "made or checked, not both");
        assert!(publish(&["--oms-bundle", "b", "--oms-public-key", "p", "--oms-dir", "d", "--parameter", "l2=0.1"]).is_ok());
        assert!(publish(&["--parameter", "l2"]).is_err());
        let export = |more: &[&str]| Cli::try_parse_from([&["leeway", "data", "export", "4f2a"], more].concat());
        assert!(export(&["--format", "csv", "--file", "holdout", "--out", "x.csv"]).is_ok() && export(&["--format", "xlsx"]).is_err());
        let import = |more: &[&str]| Cli::try_parse_from([&["leeway", "data", "import", "x.csv", "--line", "rain"], more].concat());
        assert!(import(&["--dvc", "x.csv.dvc", "--lakefs", "lakefs://w/7b1fe18e4d2d/x.csv"]).is_ok());
        assert!(Cli::try_parse_from(["leeway", "sim", "live", "--devices", "3", "--url", "http://x"]).is_ok());
        assert!(Cli::try_parse_from(["leeway", "device", "list", "--json", "--url", "http://x:1"]).is_ok());
    }
}
