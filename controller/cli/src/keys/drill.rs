//! `leeway keys drill`: the table of stolen keys, played on simulated devices and told as a table.
//!
//! What devices have part in is played by [`leeway_firmware_sim::drill`]; a stolen device key concerns the controller alone, so
//! that row is judged by the controller's own intake. What stays true: every word about a thief is something that was seen in
//! this run, and the command fails if anything was not as it should be.
use std::collections::BTreeMap;

use clap::Args;
use leeway_controller::fleet::Device;
use leeway_controller::ingest::{self, Ledger, Message, Refusal, Standing};
use leeway_firmware_sim::drill::{Row, play};
use leeway_protocol::ids::{BootId, DeviceId, Tenant};
use leeway_protocol::reported::Status;
use leeway_protocol::time::Timestamp;
use leeway_protocol::topic::{Channel, Topic};
use leeway_protocol::trust::envelope::{Kind, seal};
use leeway_protocol::trust::keyring::SigningKey;
use serde_json::json;

use crate::failure::{During, Failure, Outcome};
use crate::output::{self, put, putln};

/// Columns of the table: what was stolen, what the thief could do, what recovered it, how long that took.
const WIDTHS: [usize; 4] = [20, 62, 34, 8];

/// `leeway keys drill`.
#[derive(Debug, Args)]
pub struct Drill {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: &Drill) -> Outcome {
    let rows = rows();
    let failed = rows.iter().filter(|row| !row.passed()).count();
    if args.json {
        let told = |row: &Row| {
            json!({
                "stolen": row.stolen, "meanwhile": row.meanwhile, "recovery": row.recovery, "recovered_ms": row.recovered_ms,
                "passed": row.passed(), "wrong": row.wrong,
            })
        };
        output::json(&rows.iter().map(told).collect::<Vec<_>>())?;
    } else {
        put!("{}", table(&rows));
        putln!(
            "{} of {} rows passed; times are virtual, from the first act of recovery until every device was well",
            rows.len() - failed,
            rows.len()
        );
    }
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(format!("{n} of {} rows did not end as they should", rows.len()))),
    }
}

/// Every row of the table.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = play();
    let mut row = Row { stolen: "a device's key", ..Row::default() };
    if let Err(failure) = device_key(&mut row) {
        row.wrong.push(failure.to_string());
    }
    rows.push(row);
    rows
}

/// A controller's intake with two devices, and somebody with the key of the first.
struct Intake {
    tenant: Tenant,
    ledger: Ledger,
    at: Timestamp,
}

impl Intake {
    fn enrol(&mut self, device: &DeviceId, key: &SigningKey) {
        self.ledger.enrol(Device::new(device.clone(), key.public().hex(), BTreeMap::new(), self.at));
    }

    /// A birth message of `device`, sealed with `key`; what the controller makes of it.
    fn hear(&mut self, device: &DeviceId, key: &SigningKey, boot: u64) -> Outcome<Result<Message, Refusal>> {
        let status = Status { v: 1, online: true, session: boot, agent: "drill".to_owned(), labels: BTreeMap::new(), report_form: 1 };
        let body = serde_json::to_vec(&status).during("writing a message")?;
        let bytes = seal(key, device, BootId(boot), 1, Kind::Status, &body).during("sealing a message")?;
        let topic = Topic::new(&self.tenant, device, Channel::Status).to_string();
        let opened = ingest::open(&topic, &bytes, &self.tenant, |device| self.ledger.key(device));
        let judged = opened.and_then(|message| match self.ledger.desk.judge(&message)? {
            Standing::New | Standing::Duplicate => Ok(message),
        });
        if let Ok(message) = &judged {
            self.ledger.take(message, self.at);
        }
        Ok(judged)
    }
}

fn device_key(row: &mut Row) -> Outcome {
    row.recovery = "the device is dismissed at the controller and enrolled again with a new key";
    let [stolen, other, fresh] = [1, 2, 3].map(|n| SigningKey::from_seed(&[n; 32]));
    let (victim, neighbour): (DeviceId, DeviceId) = ("device-1".parse()?, "device-2".parse()?);
    let mut intake = Intake { tenant: "drill".parse()?, ledger: Ledger::default(), at: Timestamp::from_secs(1_795_392_000) };
    intake.enrol(&victim, &stolen);
    intake.enrol(&neighbour, &other);

    let heard = intake.hear(&victim, &stolen, 7)?;
    row.saw(format!("spoke as that device: {}", said(&heard)));
    row.expect(heard.is_ok(), "the stolen key was refused before anybody knew of the theft, so this row shows nothing");
    let heard = intake.hear(&neighbour, &stolen, 8)?;
    row.saw(format!("spoke as another device: {}", said(&heard)));
    row.expect(heard.is_err(), "one device's key spoke for another");
    row.expect(intake.hear(&neighbour, &other, 1)?.is_ok(), "the other device was not heard any more");

    intake.ledger.dismiss(&victim);
    row.expect(intake.hear(&victim, &stolen, 9)?.is_err(), "the stolen key still counts after the device was dismissed");
    intake.enrol(&victim, &fresh);
    row.expect(intake.hear(&victim, &fresh, 1)?.is_ok(), "the device with its new key is not heard");
    row.expect(intake.hear(&victim, &stolen, 10)?.is_err(), "the stolen key counts again after the device was enrolled again");
    Ok(())
}

fn said(heard: &Result<Message, Refusal>) -> String {
    match heard {
        Ok(_) => "it was believed".to_owned(),
        Err(refusal) => format!("refused ({})", refusal.why.as_str()),
    }
}

/// The rows with wrapped cells, and below each row that failed what was wrong.
pub(super) fn table(rows: &[Row]) -> String {
    let head = ["STOLEN", "WHAT THE THIEF COULD DO", "WHAT RECOVERED IT", "TIME"].map(|cell| vec![cell.to_owned()]);
    let mut text = lines(&head, "RESULT");
    for row in rows {
        let [a, b, c, _] = WIDTHS;
        let meanwhile = row.meanwhile.iter().flat_map(|saw| wrapped(&format!("- {saw}"), b)).collect();
        let time = if row.recovered_ms == 0 { "at once".to_owned() } else { format!("{} s", row.recovered_ms.div_ceil(1000)) };
        let cells = [wrapped(row.stolen, a), meanwhile, wrapped(row.recovery, c), vec![time]];
        text += &lines(&cells, if row.passed() { "PASS" } else { "FAIL" });
        for wrong in &row.wrong {
            text += &format!("    wrong: {wrong}\n");
        }
    }
    text
}

fn lines(cells: &[Vec<String>; 4], result: &str) -> String {
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let mut text = String::new();
    for at in 0..height {
        for (cell, width) in cells.iter().zip(WIDTHS) {
            text += &output::pad(cell.get(at).map_or("", String::as_str), width);
            text += "  ";
        }
        text += if at == 0 { result } else { "" };
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    output::wrap(text, width, 0).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_passes_and_says_what_was_seen() {
        let rows = rows();
        for row in &rows {
            assert!(row.passed() && !row.meanwhile.is_empty(), "{}: {:#?}", row.stolen, row.wrong);
        }
        let text = table(&rows);
        assert_eq!((rows.len(), text.matches("PASS").count(), text.matches("FAIL").count()), (8, 8, 0), "{text}");
        assert!(text.contains("spoke as another device: refused (envelope)"), "{text}");
    }

    #[test]
    fn a_row_that_failed_says_why() {
        let row = Row { stolen: "a key", wrong: vec!["it came back".to_owned()], ..Row::default() };
        let text = table(&[row]);
        assert!(text.contains("FAIL") && text.contains("wrong: it came back"), "{text}");
    }
}
