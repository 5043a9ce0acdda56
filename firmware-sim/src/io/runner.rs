//! The runner organ of a live station: the real model host, in process, on the station's own disk.
//!
//! In process and not as a child, because hundreds of stations share one machine; what a child adds (a crash or a hang costs
//! only the child) is shown by the shipped device program, not here. Every station loads and proves every release itself:
//! golden vectors are per device, so nothing is shared between stations.
use std::time::Instant;

use leeway_agent::confinement::Confinement;
use leeway_agent::control::{PROTOCOL, RunnerCommand, RunnerNotice};
use leeway_agent::runtime::host::{Host, Request};
use leeway_agent::runtime::release::Organs;
use leeway_protocol::tensor::{DType, Tensor};
use leeway_protocol::time::Timestamp;

use crate::disk::Disk;
use crate::sensor::Reading;

/// What a station got from its model on one day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answer {
    /// Number of the request; the label names it.
    pub(super) request: u64,
    /// What the model decided.
    pub(super) rain: bool,
}

/// A runner.
#[derive(Debug)]
pub(super) struct Runner {
    host: Host,
    since: Instant,
}

/// The station's files and the machine's clock.
struct Bench<'a> {
    disk: Option<&'a Disk>,
    since: Instant,
}

impl Organs for Bench<'_> {
    fn read(&mut self, path: &str, most: u64) -> Result<Vec<u8>, String> {
        match self.disk.and_then(|disk| disk.read(path)) {
            None => Err(format!("{path} is not on the disk")),
            Some(bytes) if bytes.len() as u64 > most => Err(format!("{path} has {} bytes, the bound is {most}", bytes.len())),
            Some(bytes) => Ok(bytes.to_vec()),
        }
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The process holds hundreds of stations: what it uses says nothing about one model.
    fn resident_bytes(&self) -> u64 {
        0
    }
}

impl Runner {
    /// A runner and its first words.
    pub(super) fn start() -> (Self, Vec<RunnerNotice>) {
        let ready = RunnerNotice::Ready {
            protocol: PROTOCOL,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listens: Vec::new(),
            confinement: Confinement::in_process(),
        };
        (Self { host: Host::new(), since: Instant::now() }, vec![ready])
    }

    pub(super) fn command(&mut self, now: Timestamp, command: RunnerCommand, disk: &Disk) -> Vec<RunnerNotice> {
        let ends = command == RunnerCommand::Stop;
        let mut bench = Bench { disk: Some(disk), since: self.since };
        let mut notices = self.host.handle(now, &mut bench, command);
        if ends {
            notices.push(RunnerNotice::Exited { code: Some(0), signal: None });
        }
        notices
    }

    /// Ask the active model about a day; none if there is no model, or none that takes these features.
    pub(super) fn infer(&mut self, now: Timestamp, request: u64, reading: &Reading) -> Option<Answer> {
        let serving = self.host.serving()?;
        let mut free = serving.manifest.free_inputs();
        let (_, spec) = free.next()?;
        if free.next().is_some() || spec.dtype != DType::F32 || spec.elements() != Some(reading.features.len()) {
            return None;
        }
        let inputs = [Tensor::f32(&spec.name, &spec.shape, &reading.features)];
        let silent = reading.features.iter().enumerate().filter(|(_, value)| value.is_nan());
        let nulls: Vec<(usize, usize)> = silent.map(|(element, _)| (0, element)).collect();
        let asked = Request { id: request, inputs: &inputs, nulls: &nulls, data_time: Some(reading.at) };
        let bench = Bench { disk: None, since: self.since };
        let answer = self.host.infer(now, &bench, &asked).ok();
        self.host.follow_up(&bench);
        answer?.decided.map(|decided| Answer { request, rain: decided.class == 1 })
    }

    /// The truth about an earlier day.
    pub(super) fn label(&mut self, now: Timestamp, request: u64, rain: bool) {
        self.host.label(now, request, f32::from(u8::from(rain)));
    }

    /// Whatever there is to say: closed windows, captured rows, signs of life.
    pub(super) fn beat(&mut self, now: Timestamp) -> Vec<RunnerNotice> {
        let nanos = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.host.tick(now, nanos)
    }
}
