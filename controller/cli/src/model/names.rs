//! `leeway model aliases|alias|tag|mark`: what people write about versions, and what may still be done with one.
use clap::{Args, ValueEnum};
use leeway_controller::io::web::resource::model::{Model, VersionDetail};
use leeway_controller::io::web::resource::names::{Aliases, Tagged};
use leeway_controller::io::web::words;
use leeway_protocol::ids::{Line, Version};
use serde_json::{Map, Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, Style, put, putln, table};

/// `leeway model aliases`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  leeway model aliases rain\n  leeway model aliases rain --history --json")]
pub struct Show {
    /// The model line.
    pub line: Line,
    /// How they moved: when, who, from where to where, why. Oldest first.
    #[arg(long)]
    pub history: bool,
}

/// `leeway model alias`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  leeway model alias rain staging 1.4.2 --reason \"for the test bench\"\n  leeway model alias rain staging --remove --reason \"bench is gone\"\n\nchampion and challenger decide what devices run: rollouts move them."
)]
pub struct Point {
    /// The model line.
    pub line: Line,
    /// The alias.
    pub alias: String,
    /// The version it is to point to.
    #[arg(required_unless_present = "remove", conflicts_with = "remove")]
    pub version: Option<Version>,
    /// Take it away.
    #[arg(long)]
    pub remove: bool,
    /// Why, in a sentence; it is kept.
    #[arg(long)]
    pub reason: String,
}

/// `leeway model tag`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  leeway model tag rain team=vision\n  leeway model tag rain --version 1.4.2 ticket=A-7 --remove draft\n  leeway model tag rain"
)]
pub struct Tag {
    /// The model line.
    pub line: Line,
    /// Tags to set. With nothing to change, those that are there are shown.
    #[arg(value_name = "KEY=VALUE", value_parser = super::publish::pair)]
    pub set: Vec<(String, String)>,
    /// Of this version, or of a candidate that nobody signed; of the line if absent.
    #[arg(long)]
    pub version: Option<Version>,
    /// A tag to remove.
    #[arg(long, value_name = "KEY")]
    pub remove: Vec<String>,
}

/// `leeway model mark`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  leeway model mark rain 1.4.2 yanked --reason \"trained on the wrong labels\"")]
pub struct Mark {
    /// The model line.
    pub line: Line,
    /// The version.
    pub version: Version,
    /// What it is from now on.
    #[arg(value_enum)]
    pub status: Status,
    /// Why, in a sentence; it is kept.
    #[arg(long)]
    pub reason: String,
}

/// What a person may make of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Status {
    /// It may be rolled out.
    Published,
    /// It goes on where it runs; no new rollout.
    Deprecated,
    /// Devices that run it go back.
    Yanked,
}

/// Show aliases.
pub fn show(args: &Show, context: &Context) -> Outcome {
    let aliases: Aliases = context.client.read(&format!("/api/v1/models/{}/aliases", args.line))?;
    if context.json {
        return output::json(&aliases);
    }
    put!("{}", if args.history { history(&context.style, &aliases) } else { current(&context.style, &aliases) });
    if args.history && aliases.older > 0 {
        eprintln!("note: {} older moves are in the event log: `leeway events --kind alias`", words::count(aliases.older));
    }
    Ok(())
}

fn current(style: &Style, aliases: &Aliases) -> String {
    let decides = |decides: bool| if decides { "decides what devices run; rollouts move it" } else { "" }.to_owned();
    let rows: Vec<Vec<String>> = aliases.aliases.iter().map(|a| vec![a.alias.clone(), a.version.clone(), decides(a.decides)]).collect();
    table(style, &["ALIAS", "VERSION", ""], &rows)
}

fn history(style: &Style, aliases: &Aliases) -> String {
    let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "-".to_owned());
    let row = |m: &leeway_controller::io::web::resource::names::AliasMove| {
        vec![m.at.to_string(), m.alias.clone(), text(&m.from), text(&m.to), m.by.clone(), m.reason.clone()]
    };
    let rows: Vec<Vec<String>> = aliases.history.iter().map(row).collect();
    table(style, &["WHEN", "ALIAS", "FROM", "TO", "BY", "WHY"], &rows)
}

/// Move an alias.
pub fn point(args: &Point, context: &Context) -> Outcome {
    let body = json!({ "version": args.version, "reason": args.reason });
    let aliases: Aliases = context.client.put(&format!("/api/v1/models/{}/aliases/{}", args.line, escaped(&args.alias)?), &body)?;
    if context.json {
        return output::json(&aliases);
    }
    match &args.version {
        Some(version) => putln!("{} of {} points to {version}", args.alias, args.line),
        None => putln!("{} of {} was taken away", args.alias, args.line),
    }
    Ok(())
}

/// A name that goes into an address.
fn escaped(alias: &str) -> Outcome<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    match !alias.is_empty() && alias.bytes().all(plain) {
        true => Ok(alias),
        false => Err(Failure::new(format!("{alias:?} is no alias: use letters, digits, '-' and '_'")).code(2)),
    }
}

/// Change or show tags.
pub fn tag(args: &Tag, context: &Context) -> Outcome {
    let mut changes: Map<String, Value> = args.set.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    changes.extend(args.remove.iter().map(|key| (key.clone(), Value::Null)));
    let part = args.version.as_ref().map(|version| format!("/versions/{version}")).unwrap_or_default();
    let tagged = if changes.is_empty() {
        shown(args, context)?
    } else {
        context.client.send(&format!("/api/v1/models/{}{part}/tags", args.line), &json!({ "tags": changes }))?
    };
    if context.json {
        return output::json(&tagged);
    }
    let rows: Vec<Vec<String>> = tagged.tags.iter().map(|(key, value)| vec![key.clone(), value.clone()]).collect();
    put!("{}", table(&context.style, &["TAG", "VALUE"], &rows));
    Ok(())
}

fn shown(args: &Tag, context: &Context) -> Outcome<Tagged> {
    let model: Model = context.client.read(&format!("/api/v1/models/{}", args.line))?;
    let tags = match &args.version {
        None => model.tags,
        Some(wanted) => {
            let signed = model.versions.into_iter().map(|v| (v.version, v.tags));
            let mut all = signed.chain(model.candidates.into_iter().map(|c| (c.version, c.tags)));
            let missing = || Failure::new(format!("line {} has no version {wanted}", args.line)).code(5);
            all.find(|(version, _)| version == wanted.as_str()).ok_or_else(missing)?.1
        }
    };
    Ok(Tagged { line: args.line.to_string(), version: args.version.as_ref().map(Version::to_string), tags })
}

/// Deprecate or yank a version, or take that back.
pub fn mark(args: &Mark, context: &Context) -> Outcome {
    let status = match args.status {
        Status::Published => "published",
        Status::Deprecated => "deprecated",
        Status::Yanked => "yanked",
    };
    let path = format!("/api/v1/models/{}/versions/{}/mark", args.line, args.version);
    let detail: VersionDetail = context.client.send(&path, &json!({ "status": status, "reason": args.reason }))?;
    if context.json {
        return output::json(&detail);
    }
    putln!("{} {} is {status}", args.line, args.version);
    Ok(())
}
