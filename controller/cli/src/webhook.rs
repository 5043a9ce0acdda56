//! `leeway webhook`: who is told over HTTP of what happens.
use clap::Subcommand;
use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::resource::webhook::{MadeWebhook, WebhookRow};
use leeway_controller::io::web::words;
use leeway_controller::webhook::Try;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, put, putln, table};

/// Webhooks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a webhook. Its secret is shown once; its receiver checks deliveries with it (Standard Webhooks).
    Create {
        /// What it is called.
        #[arg(long)]
        name: String,
        /// Where it goes, such as https://hooks.example/leeway.
        #[arg(long, value_name = "URL")]
        to: String,
        /// Only entries of kinds that begin so, such as rollout or device.alarm. May be given several times.
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
        /// Begin after this entry of the log; with what happens from now on if absent.
        #[arg(long, value_name = "SEQ")]
        since: Option<u64>,
    },
    /// Which webhooks there are, and how they stand.
    List,
    /// One webhook with its latest tries.
    Show {
        /// Its name.
        name: String,
    },
    /// End a webhook.
    Remove {
        /// Its name.
        name: String,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: String,
    },
    /// Let a webhook that is paused go on, at once.
    Resume {
        /// Its name.
        name: String,
        /// Leave out the entry that was not taken.
        #[arg(long)]
        skip: bool,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: String,
    },
    /// Offer one entry again, or a test; once, and now.
    Offer {
        /// Its name.
        name: String,
        /// The entry's number; a test if absent.
        #[arg(long)]
        seq: Option<u64>,
    },
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Create { name, to, kinds, since } => {
            let body = json!({ "name": name, "url": to, "kinds": kinds, "since": since });
            let made: MadeWebhook = context.client.send("/api/v1/webhooks", &body)?;
            if context.json {
                return output::json(&made);
            }
            putln!("{}", made.secret);
            eprintln!("help: the receiver checks `webhook-signature` with it; it is not shown again");
            eprintln!("help: `leeway webhook offer {name}` sends a test");
            Ok(())
        }
        Command::List => {
            let rows: Vec<WebhookRow> = context.client.read("/api/v1/webhooks")?;
            if context.json {
                return output::json(&rows);
            }
            if rows.is_empty() {
                eprintln!("no webhook");
                eprintln!("help: `leeway webhook create --name chat --to https://hooks.example/leeway --kind rollout` makes one");
                return Ok(());
            }
            let cells = rows.iter().map(|w| vec![w.name.clone(), state(context, w), w.behind.to_string(), w.url.clone()]);
            put!("{}", table(&context.style, &["WEBHOOK", "STATE", "BEHIND", "GOES TO"], &cells.collect::<Vec<_>>()));
            Ok(())
        }
        Command::Show { name } => {
            let row: WebhookRow = context.client.read(&path(name, ""))?;
            show(context, &row)
        }
        Command::Remove { name, reason } => {
            let _: Option<Value> = context.client.send(&path(name, "/remove"), &json!({ "reason": reason }))?;
            putln!("removed {name}");
            Ok(())
        }
        Command::Resume { name, skip, reason } => {
            let row: WebhookRow = context.client.send(&path(name, "/resume"), &json!({ "reason": reason, "skip": skip }))?;
            if context.json {
                return output::json(&row);
            }
            putln!("{}", row.sentence);
            Ok(())
        }
        Command::Offer { name, seq } => {
            let tried: Try = context.client.send(&path(name, "/offer"), &json!({ "seq": seq }))?;
            if context.json {
                output::json(&tried)?;
            } else {
                putln!("{} ({} ms)", tried.sentence, tried.took_ms);
            }
            if tried.ok { Ok(()) } else { Err(Failure::new(format!("{name} did not take it: {}", tried.sentence))) }
        }
    }
}

/// A name goes into the path as it is; the controller knows none with other letters.
fn path(name: &str, rest: &str) -> String {
    format!("/api/v1/webhooks/{}{rest}", name.replace(['/', '?', '#', '%', ' '], "_"))
}

fn state(context: &Context, row: &WebhookRow) -> String {
    let (level, word) = match (row.paused, row.retry_at) {
        (true, _) => (Level::Bad, "paused"),
        (false, Some(_)) => (Level::Warn, "retrying"),
        (false, None) => (Level::Ok, "good"),
    };
    context.style.state(level, word)
}

fn show(context: &Context, row: &WebhookRow) -> Outcome {
    if context.json {
        return output::json(row);
    }
    putln!("{} goes to {}", row.name, row.url);
    putln!("{}", row.sentence);
    let now = output::now();
    let cells = row.tries.iter().rev().map(|t| {
        let entry = if t.seq == 0 { "test".to_owned() } else { t.seq.to_string() };
        vec![entry, t.kind.clone(), words::ago(now, t.at), format!("{} ms", t.took_ms), t.sentence.clone()]
    });
    let cells: Vec<_> = cells.collect();
    if !cells.is_empty() {
        put!("{}", table(&context.style, &["ENTRY", "KIND", "WHEN", "TOOK", "WHAT CAME OF IT"], &cells));
    }
    Ok(())
}
