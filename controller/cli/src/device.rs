//! `leeway device`: what each device runs, and why it is unhappy.
use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use leeway_controller::io::web::resource::device::{Device, DeviceSummary};
use leeway_controller::io::web::resource::{Level, Page};
use leeway_controller::io::web::words;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::time::Timestamp;
use serde_json::json;

mod history;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, Style, facts, put, putln, table};

/// Devices.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Which devices there are and what they run.
    List(List),
    /// One device: what it runs, what it was told, what holds, what ran when.
    Show {
        /// The device.
        device: DeviceId,
    },
    /// What ran on a device at a moment, since when, why, and how that is known; without a moment, its whole record.
    #[command(after_help = "\
Examples:
  leeway device history coast-07
  leeway device history coast-07 --at 2026-11-20T14:00:00Z --json")]
    History {
        /// The device.
        device: DeviceId,
        /// The moment, by the controller's clock.
        #[arg(long)]
        at: Option<Timestamp>,
    },
    /// Make a token that lets devices enrol. It is shown once.
    Token {
        /// What it is for, for the audit trail.
        #[arg(long)]
        name: String,
        /// How often it may be used.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// Hours it is good for.
        #[arg(long, default_value_t = 24)]
        hours: u32,
        /// Devices that bring it need nobody to accept them.
        #[arg(long)]
        accept: bool,
    },
    /// Let a device in that waits for it.
    Accept {
        /// The device.
        device: DeviceId,
        /// Why, for the audit trail.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Do not let a device in that waits for it.
    Refuse {
        /// The device.
        device: DeviceId,
        /// Why: the device is told, and it stays in the audit trail.
        #[arg(long)]
        reason: String,
    },
    /// Put a device out for good: its key and its certificates count no more, and its connection ends now.
    Revoke {
        /// The device.
        device: DeviceId,
        /// Why: the device is told, and it stays in the audit trail.
        #[arg(long)]
        reason: String,
    },
    /// Replace a device's labels; it may move to another cohort by that.
    Label {
        /// The device.
        device: DeviceId,
        /// Labels, such as `region=coast hw=b2`; those left out are taken away.
        #[arg(value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// Forget a device: its key and its secret count no more.
    Remove {
        /// The device.
        device: DeviceId,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: String,
    },
}

/// `leeway device list`.
#[derive(Debug, Args)]
pub struct List {
    /// Only this cohort.
    #[arg(long)]
    pub cohort: Option<String>,
    /// Only these: online, offline or failing.
    #[arg(long, value_parser = ["online", "offline", "failing"])]
    pub state: Option<String>,
    /// Only devices with these labels, such as `region=coast,hw in (a,b)`.
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
}

/// Pages fetched at most: 100,000 devices.
const MAX_PAGES: usize = 1000;

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::List(list) => {
            let devices = all(context, list)?;
            if context.json {
                return output::json(&devices);
            }
            if devices.is_empty() {
                eprintln!("no device fits");
                eprintln!("help: a device joins with the enrolment token that `leeway serve` printed");
                return Ok(());
            }
            put!("{}", render_list(&context.style, output::now(), &devices));
            Ok(())
        }
        Command::Show { device } => {
            let device: Device = context.client.read(&format!("/api/v1/devices/{device}"))?;
            if context.json {
                return output::json(&device);
            }
            put!("{}", render(&context.style, output::now(), &device));
            Ok(())
        }
        Command::History { device, at } => history::run(context, device, *at),
        Command::Accept { device, reason } => decide(context, device, "accept", reason),
        Command::Refuse { device, reason } => decide(context, device, "refuse", reason),
        Command::Revoke { device, reason } => decide(context, device, "revoke", reason),
        Command::Token { name, uses, hours, accept } => {
            let body = json!({ "name": name, "uses": uses, "ttl_ms": i64::from(*hours) * 3_600_000, "accept": accept });
            let answer: serde_json::Value = context.client.send("/api/v1/enrolment-tokens", &body)?;
            if context.json {
                return output::json(&answer);
            }
            putln!("{}", answer.get("token").and_then(serde_json::Value::as_str).unwrap_or_default());
            eprintln!("help: hand it to the devices; it is good for {uses} enrolments and {hours} hours, and is not shown again");
            Ok(())
        }
        Command::Label { device, labels } => {
            let labels: BTreeMap<&String, &String> = labels.iter().map(|(k, v)| (k, v)).collect();
            let device: Device = context.client.put(&format!("/api/v1/devices/{device}/labels"), &json!({ "labels": labels }))?;
            if context.json {
                return output::json(&device);
            }
            putln!("{} is in cohort {}", device.summary.id, device.summary.cohort);
            Ok(())
        }
        Command::Remove { device, reason } => {
            let _: Option<serde_json::Value> =
                context.client.send(&format!("/api/v1/devices/{device}/remove"), &json!({ "reason": reason }))?;
            putln!("removed {device}");
            Ok(())
        }
    }
}

fn decide(context: &Context, device: &DeviceId, what: &str, reason: &str) -> Outcome {
    let device: Device = context.client.send(&format!("/api/v1/devices/{device}/{what}"), &json!({ "reason": reason }))?;
    if context.json {
        return output::json(&device);
    }
    putln!("{} is {}: {}", device.summary.id, device.summary.phase, device.summary.sentence);
    Ok(())
}

fn label(text: &str) -> Result<(String, String), String> {
    text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).ok_or_else(|| format!("{text:?} is not a label of the form key=value"))
}

fn all(context: &Context, list: &List) -> Outcome<Vec<DeviceSummary>> {
    let mut query = vec![("limit", "100".to_owned())];
    query.extend(list.cohort.clone().map(|c| ("cohort", c)));
    query.extend(list.state.clone().map(|s| ("state", s)));
    query.extend(list.selector.clone().map(|s| ("selector", s)));
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let mut asked = query.clone();
        asked.extend(cursor.take().map(|c| ("cursor", c)));
        let page: Page<DeviceSummary> = context.client.read(&format!("/api/v1/devices?{}", crate::client::query(&asked)))?;
        found.extend(page.items);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    Ok(found)
}

fn render_list(style: &Style, now: Timestamp, devices: &[DeviceSummary]) -> String {
    let rows: Vec<Vec<String>> = devices
        .iter()
        .map(|d| {
            let runs = match (&d.line, &d.version) {
                (Some(line), Some(version)) => format!("{line} {version}"),
                _ => words::UNKNOWN.to_owned(),
            };
            let target = d.target_version.as_ref().map(|v| format!(" → {v}")).unwrap_or_default();
            // Whether it is in at all comes before whether it is there.
            let state = if d.online || !d.admitted { d.phase.as_str() } else { "offline" };
            vec![
                d.id.clone(),
                style.state(d.level, state),
                d.cohort.clone(),
                runs + &target,
                d.last_seen.map_or_else(|| "never".to_owned(), |at| words::ago(now, at)),
            ]
        })
        .collect();
    table(style, &["DEVICE", "STATE", "COHORT", "RUNS", "SEEN"], &rows)
}

/// One device as text.
pub fn render(style: &Style, now: Timestamp, d: &Device) -> String {
    let s = &d.summary;
    let labels: Vec<String> = s.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let running = d
        .running
        .as_ref()
        .map(|r| format!("{} {} since {}, {} inferences", r.line, r.version, words::ago(now, r.since), words::count(r.inferences)));
    let told = d.desired.as_ref().map(|w| {
        let version = w.version.as_ref().map(|v| format!(" {v}")).unwrap_or_default();
        format!("{}{version} (generation {}, accepted {}): {}", w.intent, w.generation, d.generation, w.reason)
    });
    let mut text = facts(
        style,
        &[
            ("Device", style.bold(&s.id)),
            ("State", format!("{}  {}", style.state(s.level, &s.phase), if s.online { "online" } else { "offline" })),
            ("Why", d.reason.clone().unwrap_or_else(|| s.sentence.clone())),
            ("Cohort", format!("{}  {}", s.cohort, labels.join(" "))),
            ("Runs", running.unwrap_or_else(|| words::UNKNOWN.to_owned())),
            ("Told", told.unwrap_or_default()),
            ("Seen", s.last_seen.map_or_else(|| "never".to_owned(), |at| words::ago(now, at))),
            ("Outbox", format!("{} waiting, {} given up", d.outbox, d.dropped)),
            ("Agent", d.agent.clone()),
        ],
    );
    for c in &d.conditions {
        let level = if c.holds == Some(false) { Level::Warn } else { Level::Ok };
        text +=
            &format!("  {} {}  {}\n", style.tint(level, style.sign(level)), words::spaced(&c.kind), style.plain(&style.dim(&c.message)));
    }
    for f in &d.drift {
        text += &format!("  {} {}\n", style.tint(Level::Warn, style.sign(Level::Warn)), style.plain(&f.sentence));
    }
    if !d.timeline.is_empty() {
        let rows: Vec<Vec<String>> = d
            .timeline
            .iter()
            .rev()
            .map(|t| vec![words::ago(now, t.from), t.lane.clone(), style.state(t.level, &t.label), t.sentence.clone()])
            .collect();
        text.push('\n');
        text += &table(style, &["SINCE", "LANE", "WHAT", "WHY"], &rows);
    }
    text
}
