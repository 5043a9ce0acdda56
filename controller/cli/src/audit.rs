//! `leeway audit`: whether the event log is what was written; from a controller, a data directory or a file.
//!
//! The chain shows what was changed, removed or put in later. It cannot show that somebody rewrote the whole log, or cut off its end:
//! for that, keep the head that `verify` prints somewhere else, and hand it in with `--expect`.
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use leeway_controller::audit::{self, AuditError, Event, Head};
use leeway_controller::io::offline::Stopped;
use leeway_controller::io::web::resource::event::EventList;
use leeway_protocol::digest::Digest;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{self, putln};

/// Entries asked for at a time.
const PAGE: usize = 1_000;

/// The audit trail as a whole.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Walk the hash chain from its beginning and print its head. Ends with 3 if a link is broken or the head is another one.
    #[command(after_help = "\
Examples:
  leeway audit verify                                     every entry of the running controller
  leeway audit verify --expect 4711:8f3c…                 and that entry 4711 is still the one whose hash was kept elsewhere
  leeway audit verify --data /var/lib/leeway              of a controller that is stopped
  leeway audit verify --file audit.jsonl                  of an export")]
    Verify {
        /// Where from.
        #[command(flatten)]
        from: Source,
        /// A head that was kept elsewhere, as `verify` printed it: entry 4711 must have this hash.
        #[arg(long, value_name = "SEQ:HASH", value_parser = head)]
        expect: Option<Head>,
    },
    /// Write every entry as a line of JSON, with its hash and the hash before it.
    Export {
        /// Where from.
        #[command(flatten)]
        from: Source,
        /// Where to; standard output without it.
        #[arg(short, long)]
        out: Option<PathBuf>,
    },
}

/// Where the log is read from: the controller unless said otherwise.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Source {
    /// The data directory of a controller that is stopped.
    #[arg(long)]
    data: Option<PathBuf>,
    /// An export.
    #[arg(long)]
    file: Option<PathBuf>,
}

fn head(text: &str) -> Result<Head, String> {
    let (seq, hash) = text.split_once(':').ok_or("a head is SEQ:HASH, as `leeway audit verify` prints it")?;
    let seq = seq.parse().map_err(|_| format!("{seq:?} is no entry's number"))?;
    let hash = hash.parse::<Digest>().or_else(|_| Digest::from_hex(hash)).map_err(|e| e.to_string())?;
    Ok(Head { seq, hash })
}

/// Run it.
pub fn run(command: &Command, context: impl FnOnce() -> Outcome<Context>) -> Outcome {
    let context = context()?;
    match command {
        Command::Verify { from, expect } => verify(&context, from, *expect),
        Command::Export { from, out } => export(&context, from, out.as_ref()),
    }
}

fn verify(context: &Context, from: &Source, expect: Option<Head>) -> Outcome {
    let mut walk = Walk { head: Head::default(), expect, met: None };
    let broken = each(context, from, |page| walk.take(page))?;
    let Walk { head, met, .. } = walk;
    if let Some(error) = broken {
        if context.json {
            output::json(&json!({ "verified": false, "seq": head.seq, "hash": head.hash, "broken": error.to_string() }))?;
        }
        return Err(Failure::new(&error).code(3).help(format!("entries up to {} are as they were written; {}", head.seq, meaning(&error))));
    }
    if let Some(expected) = expect.filter(|expected| met != Some(expected.hash)) {
        let found = met.map_or_else(|| format!("the log ends at entry {}", head.seq), |hash| format!("it is {hash}"));
        if context.json {
            output::json(&json!({ "verified": false, "seq": head.seq, "hash": head.hash, "broken": found }))?;
        }
        return Err(Failure::new(format!("entry {} does not have the hash {} that was expected: {found}", expected.seq, expected.hash))
            .code(3)
            .help("each link fits, so the log was rewritten as a whole, cut off, or is another controller's: compare it with an export or a backup"));
    }
    if context.json {
        return output::json(
            &json!({ "verified": true, "seq": head.seq, "hash": head.hash, "head": format!("{}:{}", head.seq, head.hash.hex()) }),
        );
    }
    putln!("{}:{}", head.seq, head.hash.hex());
    let expected = expect.map(|e| format!(", and entry {} is the one that was expected", e.seq)).unwrap_or_default();
    eprintln!("every link of {} entries fits{expected}; keep this head elsewhere, and hand it in later with --expect", head.seq);
    Ok(())
}

/// The chain so far.
struct Walk {
    head: Head,
    expect: Option<Head>,
    /// The hash of the entry that is expected to have a certain one.
    met: Option<Digest>,
}

impl Walk {
    fn take(&mut self, page: &[Event]) -> Result<(), AuditError> {
        for event in page {
            self.head = audit::verify(self.head, [event])?;
            if self.expect.is_some_and(|expect| expect.seq == event.seq) {
                self.met = Some(event.hash);
            }
        }
        Ok(())
    }
}

/// What a break means.
fn meaning(error: &AuditError) -> &'static str {
    match error {
        AuditError::Order { .. } => "entries were removed or put in there",
        AuditError::Chain(_) => "the entry or the one before was replaced by another one",
        AuditError::Content(_) => "somebody changed that entry after it was written",
    }
}

fn export(context: &Context, from: &Source, out: Option<&PathBuf>) -> Outcome {
    let mut to: Box<dyn std::io::Write> = match out {
        Some(path) => Box::new(BufWriter::new(File::create(path)?)),
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let (mut head, mut failed) = (Head::default(), None);
    let broken = each(context, from, |page| {
        for event in page {
            head = audit::verify(head, [event])?;
            let written = serde_json::to_writer(&mut to, event).map_err(std::io::Error::from).and_then(|()| to.write_all(b"\n"));
            failed = failed.take().or(written.err());
        }
        Ok(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    to.flush()?;
    if let Some(error) = broken {
        return Err(Failure::new(&error).code(3).help(format!("entries up to {} were written out; {}", head.seq, meaning(&error))));
    }
    eprintln!("{} entries, head {}:{}", head.seq, head.seq, head.hash.hex());
    Ok(())
}

/// Hand every entry over in order, page by page; what broke the chain, if something did.
fn each(context: &Context, from: &Source, mut take: impl FnMut(&[Event]) -> Result<(), AuditError>) -> Outcome<Option<AuditError>> {
    if let Some(path) = &from.file {
        let file = File::open(path).map_err(|e| Failure::new(format!("{}: {e}", path.display())))?;
        for (n, line) in BufReader::new(file).lines().enumerate() {
            let event: Event = serde_json::from_str(&line?)
                .map_err(|e| Failure::new(format!("line {} of {} is no entry: {e}", n + 1, path.display())).code(3))?;
            if let Err(error) = take(&[event]) {
                return Ok(Some(error));
            }
        }
        return Ok(None);
    }
    let stopped = from.data.as_ref().map(|data| Stopped::open(data)).transpose()?;
    let mut last = (0, Event::genesis());
    loop {
        let page = match &stopped {
            Some(stopped) => stopped.events(last.0)?,
            None => asked(context, last)?,
        };
        let Some(end) = page.last() else { return Ok(None) };
        last = (end.seq, end.hash);
        if let Err(error) = take(&page) {
            return Ok(Some(error));
        }
    }
}

/// A page of the controller's log. The API leaves out what each entry says of the one before it: the hash covers that too, so it is put in
/// from the entry before, and a link that does not fit shows in the hash.
fn asked(context: &Context, (after, mut prev): (u64, Digest)) -> Outcome<Vec<Event>> {
    let query = [("since", after.to_string()), ("limit", PAGE.to_string())];
    let list: EventList = context.client.read(&format!("/api/v1/events?{}", crate::client::query(&query)))?;
    let mut page = Vec::with_capacity(list.items.len());
    for e in list.items {
        let hash: Digest = e.hash.parse().map_err(|_| Failure::new(format!("entry {} has no hash that can be read", e.seq)).code(3))?;
        let (seq, at, actor, kind, subject, sentence, data) = (e.seq, e.at, e.actor, e.kind, e.subject, e.sentence, e.data);
        page.push(Event { seq, at, actor, kind, subject, sentence, data, prev, hash });
        prev = hash;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use leeway_controller::audit::Draft;
    use leeway_protocol::time::Timestamp;

    use super::*;

    fn rows() -> Vec<Event> {
        let mut prev = Event::genesis();
        let row = |n: u64| Draft {
            at: Timestamp::from_secs(n as i64),
            actor: "ann".into(),
            kind: "line.changed".into(),
            subject: "models/rain".into(),
            sentence: format!("Row {n}."),
            data: json!({ "share": 0.1 }),
        };
        (1..=4)
            .map(|n| {
                let event = row(n).seal(n, prev);
                prev = event.hash;
                event
            })
            .collect()
    }

    #[test]
    fn a_tampered_export_is_named_and_a_kept_head_finds_a_rewritten_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let written = |rows: &[Event]| {
            let lines: Vec<String> = rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect();
            std::fs::write(&path, lines.join("\n")).unwrap();
        };
        let context = Context::new(&crate::context::Global { url: None, ca: None, token: None, json: false, no_color: true }).unwrap();
        let from = Source { data: None, file: Some(path.clone()) };
        let good = rows();
        let kept = Head { seq: 3, hash: good[2].hash };
        written(&good);
        verify(&context, &from, Some(kept)).unwrap();
        let spoilt: [(fn(&mut Vec<Event>), &str); 4] = [
            (|rows| rows[1].sentence.push('!'), "broken at row 2: its content was changed"),
            (|rows| drop(rows.remove(1)), "broken at row 3: row 2 was expected"),
            (|rows| rows.truncate(2), "the log ends at entry 2"),
            (
                |rows| {
                    // All of it anew: each link fits, and only a head that was kept elsewhere tells.
                    let mut prev = Event::genesis();
                    for row in rows.iter_mut() {
                        let Event { seq, at, actor, kind, subject, data, .. } = row.clone();
                        *row = Draft { at, actor, kind, subject, sentence: "Nothing.".into(), data }.seal(seq, prev);
                        prev = row.hash;
                    }
                },
                "does not have the hash",
            ),
        ];
        for (spoil, what) in spoilt {
            let mut rows = good.clone();
            spoil(&mut rows);
            written(&rows);
            let error = verify(&context, &from, Some(kept)).unwrap_err();
            assert!(error.whole().contains(what), "{}", error.whole());
        }
    }

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let hash = Digest::of(b"x");
        assert_eq!(head(&format!("7:{}", hash.hex())), Ok(Head { seq: 7, hash }));
        assert_eq!(head(&format!("7:{hash}")), Ok(Head { seq: 7, hash }));
        assert!(head("7").is_err() && head("x:y").is_err());
    }
}
