//! Models to publish: trained on the real weather by the built-in trainer, with everything a manifest says about them.
use std::fmt::Write as _;
use std::ops::Range;

use leeway_controller::trainer::fit::Model;
use leeway_controller::trainer::{Rows, TrainSpec, draft, tabular_io, train};
use leeway_firmware_sim::sensor::Sensor;
use leeway_firmware_sim::weather::{FEATURES, Weather};
use leeway_protocol::manifest::Manifest;

use crate::site::now;

/// Stations whose readings a model learns from.
const STATIONS: u64 = 3;
/// Every so manieth day is held out.
const HELD_OUT: usize = 5;

/// A model that is not signed yet.
#[derive(Debug, Clone)]
pub struct Lesson {
    /// The ONNX file.
    pub model: Vec<u8>,
    /// What is said about it.
    pub manifest: Manifest,
    /// The formula inside the file.
    pub formula: Model,
    /// The rows it learned from: features, then `rain`.
    pub csv: String,
}

/// Teach a model for `line` what `days` were like.
pub fn teach(line: &str, version: &str, days: Range<usize>, reason: &str) -> Lesson {
    learn(line, version, days, reason, false)
}

/// Teach a model the opposite of what `days` were like.
pub fn teach_wrongly(line: &str, version: &str, days: Range<usize>) -> Lesson {
    learn(line, version, days, "somebody swapped the labels", true)
}

fn learn(line: &str, version: &str, days: Range<usize>, reason: &str, swapped: bool) -> Lesson {
    let (mut learn, mut held, mut csv) = (Rows::default(), Rows::default(), format!("{},rain\n", FEATURES.join(",")));
    let weather = Weather::bellevue().expect("the series is in the binary");
    for station in 0..STATIONS {
        let sensor = Sensor::new(0x1949 + station, None);
        for day in days.clone() {
            let Some(reading) = sensor.read(&weather, day) else { break };
            let rows = if day % HELD_OUT == 0 { &mut held } else { &mut learn };
            rows.inputs.push(reading.features.to_vec());
            rows.labels.push(reading.rain != swapped);
            rows.weights.push(1.0);
            let values: Vec<String> = reading.features.iter().map(ToString::to_string).collect();
            let _ = writeln!(csv, "{},{}", values.join(","), u8::from(reading.rain));
        }
    }
    let (inputs, outputs) = tabular_io(FEATURES.len());
    let spec = TrainSpec {
        v: 1,
        job: format!("by-hand-{version}"),
        line: line.parse().expect("a line's name"),
        parent: None,
        reason: reason.to_owned(),
        features: FEATURES.map(str::to_owned).to_vec(),
        label: "rain".to_owned(),
        weight: None,
        inputs,
        outputs,
        datasets: Vec::new(),
    };
    let (artifacts, formula) = train(&spec, &learn, &held).expect("the weather can be learned");
    let of = |rows: &Rows| rows.inputs.iter().map(|x| formula.probability(x)).collect::<Vec<f64>>();
    let version = version.parse().expect("a version's name");
    let manifest = draft::manifest(&spec, version, &artifacts, (&learn, &of(&learn)), (&held, &of(&held)), now()).expect("a manifest");
    Lesson { model: artifacts.model, manifest, formula, csv }
}
