//! `leeway rollout`: bring a version out in stages, watch it, stop it.
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use leeway_controller::io::web::resource::rollout::{CreateRollout, Rollout, RolloutPlan, RolloutSummary};
use leeway_controller::io::web::resource::{ActionRequest, Level};
use leeway_controller::io::web::words;
use leeway_protocol::ids::{Line, RolloutId, Version};

use crate::context::Context;
use crate::failure::{During, Failure, Outcome};
use crate::output::{self, put, putln, table};

mod plan;
mod tree;

/// Rollouts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a version out, by the line's default policy or by a policy file.
    Create(Create),
    /// What would become of it: how long it takes, whom a bad version reaches, how often a good one is stopped. Changes nothing.
    /// Exit code 3 if that is more than the policy's own risk budget.
    Plan(plan::Plan),
    /// Every rollout, newest first.
    List,
    /// One rollout, as it is now.
    Show {
        /// The rollout.
        rollout: RolloutId,
    },
    /// One rollout, until it is over. Exit code 3 if it did not end well.
    Watch {
        /// The rollout.
        rollout: RolloutId,
    },
    /// Exit code 0 if it completed, 3 if it was rolled back, aborted or (with --timeout) paused.
    Status(Status),
    /// No further device is told; those that run it go on.
    Pause(Act),
    /// Go on with the stage that was paused.
    Resume(Act),
    /// On to the next stage, without waiting for the gate.
    Promote(Promote),
    /// End it: every device that has the version goes back.
    Abort(Act),
    /// Let the next stage begin; somebody other than the author must.
    Approve(Act),
    /// Tell the failed devices to try again.
    Retry(Act),
}

/// `leeway rollout create`.
#[derive(Debug, Args)]
pub struct Create {
    /// The model line.
    #[arg(long)]
    pub line: Line,
    /// The version.
    #[arg(long)]
    pub version: Version,
    /// A name for it; made from line and version otherwise.
    #[arg(long)]
    pub id: Option<RolloutId>,
    /// A policy: stages, gate, rates. TOML or JSON.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Why, for the audit trail.
    #[arg(long, default_value = "")]
    pub reason: String,
    /// Only show what would happen.
    #[arg(long)]
    pub dry_run: bool,
    /// Begin it even against its own risk budget; --reason says why.
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// Then watch it.
    #[arg(long)]
    pub watch: bool,
}

/// An action with its reason.
#[derive(Debug, Args)]
pub struct Act {
    /// The rollout.
    pub rollout: RolloutId,
    /// Why, for the audit trail.
    #[arg(long)]
    pub reason: String,
}

/// `leeway rollout promote`.
#[derive(Debug, Args)]
pub struct Promote {
    #[command(flatten)]
    act: Act,
    /// To the last stage at once.
    #[arg(long)]
    pub full: bool,
}

/// `leeway rollout status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The rollout.
    pub rollout: RolloutId,
    /// Wait for its end so long, such as `30m`; exit code 124 if it is still under way then.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Between two looks at a rollout.
const LOOK: Duration = Duration::from_secs(1);
/// Failed looks in a row before giving up: five minutes of a restarting controller.
const MAX_FAILED_LOOKS: u32 = 300;

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Create(args) => create(args, context),
        Command::Plan(args) => plan::plan(args, context),
        Command::List => list(context),
        Command::Show { rollout } => {
            let rollout = read(context, rollout)?;
            if context.json {
                return output::json(&rollout);
            }
            put!("{}", tree::render(&context.style, output::now(), &rollout));
            Ok(())
        }
        Command::Watch { rollout } => watch(rollout, context),
        Command::Status(args) => status(args, context),
        Command::Pause(act) => send(context, act, "pause"),
        Command::Resume(act) => send(context, act, "resume"),
        Command::Promote(args) => send(context, &args.act, if args.full { "promote-all" } else { "promote" }),
        Command::Abort(act) => send(context, act, "abort"),
        Command::Approve(act) => send(context, act, "approve"),
        Command::Retry(act) => send(context, act, "retry"),
    }
}

fn read(context: &Context, id: &RolloutId) -> Outcome<Rollout> {
    context.client.read(&format!("/api/v1/rollouts/{id}"))
}

/// What the arguments ask for.
fn request(args: &Create) -> Outcome<CreateRollout> {
    Ok(CreateRollout {
        line: args.line.to_string(),
        version: args.version.to_string(),
        id: args.id.as_ref().map(ToString::to_string),
        policy: args.policy.as_ref().map(|path| policy(path)).transpose()?,
        reason: args.reason.clone(),
        force: args.force,
    })
}

fn create(args: &Create, context: &Context) -> Outcome {
    let request = request(args)?;
    if args.dry_run {
        let plan: RolloutPlan = context.client.send("/api/v1/rollouts?dry_run=true", &request)?;
        if context.json {
            return output::json(&plan);
        }
        put!("{}", plan::stages(&context.style, &plan));
        return Ok(());
    }
    let made: Rollout = context.client.send("/api/v1/rollouts", &request)?;
    let id = made.summary.id.parse().during("reading the new rollout's name")?;
    if args.watch {
        return watch(&id, context);
    }
    if context.json {
        return output::json(&made);
    }
    putln!("{}", context.style.plain(&format!("created rollout {}: {}", made.summary.id, made.summary.sentence)));
    eprintln!("help: watch it with `leeway rollout watch {id}`");
    Ok(())
}

fn policy(path: &std::path::Path) -> Outcome<serde_json::Value> {
    let text = std::fs::read_to_string(path).during(format!("reading {}", path.display()))?;
    let json = path.extension().is_some_and(|e| e == "json");
    let value =
        if json { serde_json::from_str(&text).map_err(|e| e.to_string()) } else { toml::from_str(&text).map_err(|e| e.to_string()) };
    value.map_err(|e| Failure::new(format!("{}: {}", path.display(), e.trim_end())).code(2))
}

fn list(context: &Context) -> Outcome {
    let all: Vec<RolloutSummary> = context.client.read("/api/v1/rollouts")?;
    if context.json {
        return output::json(&all);
    }
    if all.is_empty() {
        eprintln!("no rollout yet");
        eprintln!("help: `leeway rollout create --line LINE --version VERSION` makes one");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|r| {
            let versions = format!("{} {} → {}", r.line, r.from_version.as_deref().unwrap_or("none"), r.to_version);
            vec![
                r.id.clone(),
                context.style.state(r.level, &r.phase),
                versions,
                format!("{}/{}", r.stage, r.stages),
                format!("{}/{}", r.actual_devices, r.target_devices),
                words::count(r.exposed),
                words::ago(output::now(), r.updated_at),
            ]
        })
        .collect();
    put!("{}", table(&context.style, &["ROLLOUT", "STATE", "VERSIONS", "STAGE", "DEVICES", "EXPOSED", "CHANGED"], &rows));
    Ok(())
}

fn send(context: &Context, act: &Act, action: &str) -> Outcome {
    let request = ActionRequest { reason: act.reason.clone(), check: None };
    let rollout: Rollout = context.client.send(&format!("/api/v1/rollouts/{}/{action}", act.rollout), &request)?;
    if context.json {
        return output::json(&rollout);
    }
    putln!("{} {}", context.style.state(rollout.summary.level, &rollout.summary.phase), context.style.plain(&rollout.summary.sentence));
    Ok(())
}

/// Whether it is over, and well.
fn ended(r: &RolloutSummary) -> Option<bool> {
    match r.phase.as_str() {
        "completed" => Some(true),
        "rolled_back" | "aborted" => Some(false),
        _ => None,
    }
}

fn watch(id: &RolloutId, context: &Context) -> Outcome {
    let mut lines = 0;
    let mut said = String::new();
    let mut failed = 0;
    loop {
        let rollout = match read(context, id) {
            Ok(rollout) => rollout,
            Err(failure) if failure.is_final() => return Err(failure),
            Err(failure) if failed >= MAX_FAILED_LOOKS => return Err(failure),
            Err(_) => {
                failed += 1;
                std::thread::sleep(LOOK);
                continue;
            }
        };
        failed = 0;
        let over = ended(&rollout.summary);
        draw(context, &rollout, &mut lines, &mut said, over.is_some())?;
        match over {
            Some(true) => return Ok(()),
            Some(false) => return Err(Failure::new(format!("rollout {id} did not end well: {}", rollout.summary.sentence)).code(3)),
            None => std::thread::sleep(LOOK),
        }
    }
}

/// On a terminal the tree is drawn over itself; elsewhere a line is printed when something changed.
fn draw(context: &Context, rollout: &Rollout, lines: &mut usize, said: &mut String, last: bool) -> Outcome {
    let s = &rollout.summary;
    let news = format!("{} {} {}/{} {}", s.phase, s.stage, s.actual_devices, s.target_devices, s.sentence);
    let changed = *said != news;
    *said = news;
    if context.json {
        return if changed { output::json_line(rollout) } else { Ok(()) };
    }
    let text = tree::render(&context.style, output::now(), rollout);
    if context.style.terminal {
        let up = if *lines > 0 { format!("\x1b[{lines}A\x1b[J") } else { String::new() };
        put!("{up}{text}");
        std::io::Write::flush(&mut std::io::stdout())?;
        *lines = text.lines().count();
    } else if last {
        put!("{text}");
    } else if changed {
        putln!("{}", tree::headline(&context.style, rollout));
    }
    Ok(())
}

fn status(args: &Status, context: &Context) -> Outcome {
    let begun = Instant::now();
    loop {
        let rollout = read(context, &args.rollout)?;
        let s = &rollout.summary;
        let waits = args.timeout.is_some_and(|limit| begun.elapsed() < limit);
        let over = ended(s);
        if over.is_some() || !waits {
            if context.json {
                output::json(&rollout)?;
            } else {
                putln!("{}", tree::headline(&context.style, &rollout));
            }
        }
        match (over, args.timeout) {
            (Some(true), _) => return Ok(()),
            (Some(false), _) => return Err(Failure::new(format!("rollout {} did not end well", args.rollout)).code(3)),
            (None, Some(_)) if waits => std::thread::sleep(LOOK),
            (None, Some(_)) if s.level == Level::Warn => {
                return Err(Failure::new(format!("rollout {} waits for a person", args.rollout)).code(3));
            }
            (None, Some(_)) => return Err(Failure::new(format!("rollout {} is still under way", args.rollout)).code(124)),
            (None, None) => return Ok(()),
        }
    }
}

/// `90s`, `30m`, `2h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a time such as 90s, 30m or 2h"))?;
    let unit = match text.get(digits.len()..) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => return Err(format!("{text:?} needs a unit: 90s, 30m or 2h")),
    };
    Ok(Duration::from_secs(number.saturating_mul(unit).min(7 * 86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "5", "m", "1.5h", "5d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
