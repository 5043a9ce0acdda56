//! `leeway token`: tokens for people and programs.
use clap::Subcommand;
use leeway_controller::access::Scope;
use leeway_controller::io::web::resource::Level;
use leeway_controller::io::web::resource::token::{IssuedToken, TokenRow, WhoAmI};
use leeway_controller::io::web::words;
use serde_json::json;

use crate::context::Context;
use crate::failure::Outcome;
use crate::output::{self, put, putln, table};

/// Tokens.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token. It is shown once; the controller keeps only its hash.
    Create {
        /// What it is called.
        #[arg(long)]
        name: String,
        /// Whom it stands for in the audit trail; the name if absent. Whoever asks for a rollout cannot approve it, whatever tokens they hold.
        #[arg(long)]
        owner: Option<String>,
        /// What it may do: viewer, operator, publisher, approver, caller or admin.
        #[arg(long)]
        scope: Scope,
        /// How long it is good, such as 12h, 30d or 52w; at most 366 days.
        #[arg(long, default_value = "90d", value_parser = life)]
        ttl: i64,
    },
    /// Which tokens there are, and when each was used last.
    List,
    /// End a token, at once.
    Revoke {
        /// Its name.
        name: String,
        /// Why, for the audit trail.
        #[arg(long)]
        reason: String,
    },
    /// Whose token this is, and what it may do.
    Whoami,
}

/// Run it.
pub fn run(command: &Command, context: &Context) -> Outcome {
    match command {
        Command::Create { name, owner, scope, ttl } => {
            let body = json!({ "name": name, "owner": owner, "scope": scope, "ttl_ms": ttl });
            let made: IssuedToken = context.client.send("/api/v1/tokens", &body)?;
            if context.json {
                return output::json(&made);
            }
            putln!("{}", made.token);
            let TokenRow { owner, scope, expires_at, .. } = made.row;
            eprintln!("help: it lets {owner} act as {scope} until {expires_at}, with --token or LEEWAY_TOKEN, and is not shown again");
            Ok(())
        }
        Command::List => {
            let rows: Vec<TokenRow> = context.client.read("/api/v1/tokens")?;
            if context.json {
                return output::json(&rows);
            }
            if rows.is_empty() {
                eprintln!("no token but the controller's own");
                eprintln!("help: `leeway token create --name ann --scope operator` makes one");
                return Ok(());
            }
            let now = output::now();
            let cells = rows.iter().map(|t| {
                let (level, state) = if t.valid { (Level::Ok, "good") } else { (Level::Idle, "over") };
                let used = t.last_used.map_or_else(|| "never".to_owned(), |at| words::ago(now, at));
                vec![
                    t.name.clone(),
                    t.owner.clone(),
                    t.scope.to_string(),
                    context.style.state(level, state),
                    t.expires_at.to_string(),
                    used,
                ]
            });
            put!("{}", table(&context.style, &["TOKEN", "OWNER", "SCOPE", "STATE", "UNTIL", "USED"], &cells.collect::<Vec<_>>()));
            Ok(())
        }
        Command::Revoke { name, reason } => {
            // A name goes into the path as it is; the controller knows none with other letters.
            let path = format!("/api/v1/tokens/{}/revoke", name.replace(['/', '?', '#', '%', ' '], "_"));
            let _: Option<serde_json::Value> = context.client.send(&path, &json!({ "reason": reason }))?;
            putln!("revoked {name}");
            Ok(())
        }
        Command::Whoami => {
            let who: WhoAmI = context.client.read("/api/v1/whoami")?;
            if context.json {
                return output::json(&who);
            }
            putln!("{}, {}", who.name.as_deref().unwrap_or("nobody in particular"), who.scope);
            Ok(())
        }
    }
}

/// Milliseconds of `12h`, `30d` or `52w`.
fn life(text: &str) -> Result<i64, String> {
    const HOUR_MS: i64 = 3_600_000;
    let bad = || format!("{text:?} is not a time to live: use hours, days or weeks, such as 12h, 30d or 52w");
    let (unit, number) = match text.char_indices().last() {
        Some((at, 'h')) => (HOUR_MS, text.get(..at)),
        Some((at, 'd')) => (24 * HOUR_MS, text.get(..at)),
        Some((at, 'w')) => (7 * 24 * HOUR_MS, text.get(..at)),
        _ => return Err(bad()),
    };
    let number: u16 = number.and_then(|n| n.parse().ok()).filter(|n| *n > 0).ok_or_else(bad)?;
    Ok(i64::from(number) * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_read() {
        for (text, hours) in [("1h", 1), ("30d", 720), ("52w", 52 * 168)] {
            assert_eq!(life(text), Ok(hours * 3_600_000), "{text}");
        }
        for bad in ["", "h", "0d", "-1d", "30", "30 d", "1.5h", "99999h", "1y", "ü"] {
            assert!(life(bad).is_err(), "{bad}");
        }
    }
}
