//! `leeway rollout`: bring a version out in stages, watch it, stop it.
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use leeway_controller::io::web::resource::rollout::{CreateRollout, Rollout, RolloutDevice, RolloutPlan, RolloutSummary};
use leeway_controller::io::web::resource::{ActionRequest, Level, Page};
use leeway_controller::io::web::words;
use leeway_protocol::ids::{Line, RolloutId, Version};

use crate::client::query;
use crate::context::Context;
use crate::failure::{During, Failure, Outcome};
use crate::output::{self, put, putln, table};

pub mod file;
mod plan;
mod tree;

/// Rollouts.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring a version out, by the line's default policy, by a policy file, or as a rollout's file says.
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
    /// Wave an alarm or an undecided check through for this stage. Proven failures and missing data cannot be.
    Dismiss(Dismiss),
    /// Every device of it: where it stands, and what ending the rollout now would mean for it.
    Devices {
        /// The rollout.
        rollout: RolloutId,
    },
    /// The JSON Schema of a rollout's file.
    Schema,
}

/// `leeway rollout create`.
#[derive(Debug, Args)]
pub struct Create {
    /// A rollout's file, YAML or JSON; `leeway rollout schema` describes it.
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with_all = ["line", "version", "id", "policy"])]
    pub file: Option<PathBuf>,
    /// The model line.
    #[arg(long, required_unless_present = "file")]
    pub line: Option<Line>,
    /// The version.
    #[arg(long, required_unless_present = "file")]
    pub version: Option<Version>,
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
    /// Only if the rollout is still at this revision, as `show` gives it.
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
}

/// `leeway rollout dismiss`.
#[derive(Debug, Args)]
pub struct Dismiss {
    #[command(flatten)]
    act: Act,
    /// Which check, such as `abort_overdue`; the only alarm that stands otherwise.
    #[arg(long)]
    pub check: Option<String>,
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
        Command::Pause(act) => send(context, act, "pause", None),
        Command::Resume(act) => send(context, act, "resume", None),
        Command::Promote(args) => send(context, &args.act, if args.full { "promote-all" } else { "promote" }, None),
        Command::Abort(act) => send(context, act, "abort", None),
        Command::Approve(act) => send(context, act, "approve", None),
        Command::Retry(act) => send(context, act, "retry", None),
        Command::Dismiss(args) => send(context, &args.act, "dismiss", args.check.clone()),
        Command::Devices { rollout } => devices(rollout, context),
        Command::Schema => output::json(&leeway_controller::rollout::file::schema()),
    }
}

fn read(context: &Context, id: &RolloutId) -> Outcome<Rollout> {
    context.client.read(&format!("/api/v1/rollouts/{id}"))
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

fn request(args: &Create) -> Outcome<CreateRollout> {
    if let Some(path) = &args.file {
        let mut found = file::read(path)?;
        let (Some(asked), true) = (found.pop(), found.is_empty()) else {
            let problem = format!("{}: `create` takes one rollout; `leeway apply -f` takes several", path.display());
            return Err(Failure::new(problem).code(2));
        };
        let reason = if args.reason.is_empty() { asked.reason.clone() } else { args.reason.clone() };
        return Ok(CreateRollout { reason, force: args.force, ..file::request(&asked)? });
    }
    Ok(CreateRollout {
        line: args.line.as_ref().map(ToString::to_string).unwrap_or_default(),
        version: args.version.as_ref().map(ToString::to_string).unwrap_or_default(),
        id: args.id.as_ref().map(ToString::to_string),
        policy: args.policy.as_ref().map(|path| policy(path)).transpose()?,
        reason: args.reason.clone(),
        force: args.force,
    })
}

fn devices(id: &RolloutId, context: &Context) -> Outcome {
    let (mut all, mut cursor): (Vec<RolloutDevice>, Option<String>) = (Vec::new(), None);
    loop {
        let after = cursor.as_ref().map(|at| format!("?{}", query(&[("cursor", at.clone())]))).unwrap_or_default();
        let page: Page<RolloutDevice> = context.client.read(&format!("/api/v1/rollouts/{id}/devices{after}"))?;
        all.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if context.json {
        return output::json(&all);
    }
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|d| vec![d.device.clone(), d.standing.clone(), d.attempts.to_string(), d.if_aborted.clone().unwrap_or_default()])
        .collect();
    put!("{}", table(&context.style, &["DEVICE", "STANDS", "TOLD", "IF ABORTED NOW"], &rows));
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

fn send(context: &Context, act: &Act, action: &str, check: Option<String>) -> Outcome {
    let request = ActionRequest { reason: act.reason.clone(), check };
    let path = format!("/api/v1/rollouts/{}/{action}", act.rollout);
    let rollout: Rollout = context.client.send_bound(&path, &request, act.if_revision)?;
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
