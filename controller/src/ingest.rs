//! Accept or refuse one uplink, with a reason and a sentence.
//!
//! Two steps, because they cost differently: [`open`] checks who says it (topic, envelope, signature; needs the device's key
//! only, so it can run beside everything else), [`Desk::judge`] checks whether it counts (order, bounds, known manifest,
//! duplicates; needs the state). [`Desk::note`] takes in what was accepted, after it is stored and not before, so that a crash
//! between the two counts nothing twice. What stays true: judging and noting the same message again changes nothing; a report
//! never counts for a model other than its own.
//!
//! What is verified and will never count (a window of a manifest nobody registered, say) is refused *with* a receipt: the device
//! would repeat it until its outbox is full of it. What cannot be verified gets no answer at all.
use std::collections::BTreeMap;

use leeway_protocol::capture::CaptureBatch;
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{BootId, DeviceId, Generation, Tenant};
use leeway_protocol::manifest::{Decision, Manifest};
use leeway_protocol::report::WindowReport;
use leeway_protocol::reported::{DeviceEvent, Reported, Status};
use leeway_protocol::tensor::TensorSpec;
use leeway_protocol::topic::Topic;
use leeway_protocol::trust::envelope::{self, Kind};
use leeway_protocol::trust::keyring::PublicKey;
use serde::{Deserialize, Serialize};

pub mod ledger;
pub mod lives;
pub mod seen;

pub use ledger::Ledger;
use lives::Lives;
use seen::{Recent, Windows};

/// What a device said, verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who.
    pub device: DeviceId,
    /// Start of its agent.
    pub boot: BootId,
    /// Its order within that start.
    pub counter: u64,
    /// A mark of the very bytes, to tell apart what was said under one number.
    pub mark: u32,
    /// What.
    pub body: Body,
}

/// The bodies an uplink may have.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Birth or will.
    Status(Status),
    /// Reported state.
    Reported(Box<Reported>),
    /// A closed window.
    Window(Box<WindowReport>),
    /// Captured rows.
    Capture(CaptureBatch),
    /// Something that happened.
    Event(DeviceEvent),
}

/// Why an uplink does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// Not a topic that devices write.
    Topic,
    /// Nobody enrolled under that name.
    UnknownDevice,
    /// Not an envelope, or signed by somebody else.
    Envelope,
    /// Signed, but its body cannot be read or does not add up.
    Body,
    /// Older than what is known.
    Replayed,
    /// About a model that is not registered.
    UnknownManifest,
    /// Does not fit the manifest it names.
    Shape,
    /// The device waits to be let in, or was put out.
    NotAdmitted,
}

impl Why {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::UnknownDevice => "unknown-device",
            Self::Envelope => "envelope",
            Self::Body => "body",
            Self::Replayed => "replayed",
            Self::UnknownManifest => "unknown-manifest",
            Self::Shape => "shape",
            Self::NotAdmitted => "not-admitted",
        }
    }
}

/// An uplink that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub why: Why,
    /// In a sentence, with what was seen.
    pub sentence: String,
    /// The device, if its signature was good; then it is told to forget the message.
    pub sender: Option<(DeviceId, BootId, u64)>,
}

/// The longest sentence that is kept of a stranger's making.
const MAX_SENTENCE: usize = 400;

impl Refusal {
    pub(crate) fn unverified(why: Why, sentence: impl std::fmt::Display) -> Self {
        Self { why, sentence: sentence.to_string().chars().take(MAX_SENTENCE).collect(), sender: None }
    }

    fn of(message: &Message, why: Why, sentence: impl std::fmt::Display) -> Self {
        let sender = Some((message.device.clone(), message.boot, message.counter));
        Self { sender, ..Self::unverified(why, sentence) }
    }
}

/// Whether an accepted message says anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Store it, take it in, send a receipt.
    New,
    /// Send the receipt again.
    Duplicate,
}

/// Check who says it.
pub fn open(topic: &str, bytes: &[u8], tenant: &Tenant, key_of: impl FnOnce(&DeviceId) -> Option<PublicKey>) -> Result<Message, Refusal> {
    let no_topic = || Refusal::unverified(Why::Topic, format!("{:?} is not a topic that devices write", cut(topic)));
    let topic: Topic = topic.parse().map_err(|_| no_topic())?;
    let kind = Kind::of(topic.channel).filter(|_| topic.channel.is_uplink() && topic.tenant == *tenant).ok_or_else(no_topic)?;
    let device = topic.device;
    let key = key_of(&device)
        .ok_or_else(|| Refusal::unverified(Why::UnknownDevice, format!("{device} is not enrolled: enrol it before it connects")))?;
    let opened = envelope::open(bytes, &device, kind, &key).map_err(|e| Refusal::unverified(Why::Envelope, e))?.into_inner();
    let sender = Some((device.clone(), opened.boot, opened.counter));
    let mark = lives::mark(&opened.body);
    let body = read(kind, &opened.body).map_err(|e| Refusal { sender, ..Refusal::unverified(Why::Body, e) })?;
    Ok(Message { device, boot: opened.boot, counter: opened.counter, mark, body })
}

fn read(kind: Kind, body: &[u8]) -> Result<Body, String> {
    let json = |e: serde_json::Error| format!("the message cannot be read: {e}");
    let form =
        |v: u32| if v == 1 { Ok(()) } else { Err(format!("the message has form {v}, this program reads form 1: update the controller")) };
    Ok(match kind {
        Kind::Status => {
            let status: Status = serde_json::from_slice(body).map_err(json)?;
            form(status.v)?;
            Body::Status(status)
        }
        Kind::Reported => {
            let reported: Reported = serde_json::from_slice(body).map_err(json)?;
            form(reported.v)?;
            Body::Reported(Box::new(reported))
        }
        Kind::Event => {
            let event: DeviceEvent = serde_json::from_slice(body).map_err(json)?;
            form(event.v)?;
            Body::Event(event)
        }
        Kind::Window => Body::Window(Box::new(WindowReport::parse(body).map_err(|e| e.to_string())?)),
        Kind::Capture => Body::Capture(CaptureBatch::parse(body).map_err(|e| e.to_string())?),
        Kind::Receipt => return Err("receipts go down, not up".to_owned()),
    })
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

/// What reports about one manifest must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    model: Digest,
    bins: Vec<usize>,
    classes: Option<usize>,
    inputs: usize,
}

impl Shape {
    /// The shape that a manifest asks for.
    pub fn of(manifest: &Manifest) -> Self {
        let classes = match &manifest.decision {
            Decision::Binary { .. } => Some(2),
            Decision::Classes { output } => {
                manifest.outputs.get(*output).and_then(|o| o.shape.last()).and_then(|&n| usize::try_from(n).ok())
            }
            Decision::None => None,
        };
        Self {
            model: manifest.model.digest,
            bins: manifest.reference.features.iter().map(|f| f.bins()).collect(),
            classes,
            inputs: manifest.free_inputs().filter_map(|(_, spec): (_, &TensorSpec)| spec.elements()).sum(),
        }
    }

    fn fits_window(&self, window: &WindowReport) -> Result<(), String> {
        if window.model != self.model {
            return Err(format!("the window names model {}, its manifest has {}", window.model.short(), self.model.short()));
        }
        let bins: Vec<usize> = window.features.iter().map(|counts| counts.0.len()).collect();
        if bins != self.bins {
            return Err(format!(
                "the window counts {} features, its manifest describes {}, or their bins differ",
                bins.len(),
                self.bins.len()
            ));
        }
        match self.classes {
            Some(classes) if !window.classes.is_empty() && window.classes.len() != classes => {
                Err(format!("the window counts {} classes, its manifest has {classes}", window.classes.len()))
            }
            _ => Ok(()),
        }
    }

    fn fits_capture(&self, batch: &CaptureBatch) -> Result<(), String> {
        match batch.rows.iter().find(|row| row.inputs.len() != self.inputs) {
            Some(row) => Err(format!("a captured row has {} values, its manifest has {} inputs", row.inputs.len(), self.inputs)),
            None => Ok(()),
        }
    }
}

/// What is remembered of one device's uplinks; a document of the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Uplink {
    /// Order of the newest birth or will.
    #[serde(default)]
    pub status: Option<(BootId, u64)>,
    /// Order of the newest reported state.
    #[serde(default)]
    pub reported: Option<(BootId, u64)>,
    /// Windows that were stored, by model.
    #[serde(default)]
    pub windows: Windows,
    /// Batches of captured rows that were stored, by manifest.
    #[serde(default)]
    pub captures: Windows,
    /// Events that were stored.
    #[serde(default)]
    pub events: Recent,
    /// What was said under which number, to notice two devices with one key.
    #[serde(default)]
    pub lives: Lives,
}

/// Where messages are judged.
#[derive(Debug, Clone, Default)]
pub struct Desk {
    shapes: BTreeMap<Digest, Shape>,
    uplinks: BTreeMap<DeviceId, Uplink>,
}

impl Desk {
    /// Reports about this manifest count from now on.
    pub fn know(&mut self, digest: Digest, manifest: &Manifest) {
        self.shapes.insert(digest, Shape::of(manifest));
    }

    /// What is remembered of a device.
    pub fn uplink(&self, device: &DeviceId) -> Option<&Uplink> {
        self.uplinks.get(device)
    }

    /// Put back what the store remembers of a device.
    pub fn restore(&mut self, device: DeviceId, uplink: Uplink) {
        self.uplinks.insert(device, uplink);
    }

    /// Forget a device that left the fleet.
    pub fn forget(&mut self, device: &DeviceId) {
        self.uplinks.remove(device);
    }

    /// Check whether it counts. Changes nothing.
    pub fn judge(&self, message: &Message) -> Result<Standing, Refusal> {
        let unknown = Uplink::default();
        let uplink = self.uplinks.get(&message.device).unwrap_or(&unknown);
        let order = (message.boot, message.counter);
        let rises = |last: Option<(BootId, u64)>| match last {
            Some(last) if order <= last => {
                let (boot, counter) = (last.0.0, last.1);
                let sentence = format!("the message ({}, {}) is not newer than ({boot}, {counter}), already known", order.0.0, order.1);
                Err(Refusal::of(message, Why::Replayed, sentence))
            }
            _ => Ok(Standing::New),
        };
        let standing = |seen: bool| if seen { Standing::Duplicate } else { Standing::New };
        match &message.body {
            Body::Status(_) => rises(uplink.status),
            Body::Reported(_) => rises(uplink.reported),
            Body::Event(_) => Ok(standing(uplink.events.has(order))),
            Body::Window(window) => {
                let shape = self.shape(message, window.manifest)?;
                shape.fits_window(window).map_err(|e| Refusal::of(message, Why::Shape, e))?;
                Ok(standing(uplink.windows.has(window.model, window.window.0)))
            }
            Body::Capture(batch) => {
                let shape = self.shape(message, batch.manifest)?;
                shape.fits_capture(batch).map_err(|e| Refusal::of(message, Why::Shape, e))?;
                Ok(standing(uplink.captures.has(batch.manifest, batch.batch)))
            }
        }
    }

    /// Remember a message that was stored; whether it was new.
    pub fn note(&mut self, message: &Message) -> bool {
        let uplink = match self.uplinks.get_mut(&message.device) {
            Some(uplink) => uplink,
            None => self.uplinks.entry(message.device.clone()).or_default(),
        };
        let order = (message.boot, message.counter);
        let raise = |last: &mut Option<(BootId, u64)>| {
            let rises = last.is_none_or(|last| order > last);
            if rises {
                *last = Some(order);
            }
            rises
        };
        match &message.body {
            Body::Status(_) => raise(&mut uplink.status),
            Body::Reported(_) => raise(&mut uplink.reported),
            Body::Event(_) => uplink.events.insert(order),
            Body::Window(window) => uplink.windows.insert(window.model, window.window.0),
            Body::Capture(batch) => uplink.captures.insert(batch.manifest, batch.batch),
        }
    }

    /// Look whether this message and those before it come from one life. `given` is what the device was told last.
    pub fn compare(&mut self, message: &Message, given: Option<Generation>) -> Option<String> {
        let uplink = match self.uplinks.get_mut(&message.device) {
            Some(uplink) => uplink,
            None => self.uplinks.entry(message.device.clone()).or_default(),
        };
        uplink.lives.compare(message, given)
    }

    /// Remember an event that is in the event log.
    pub fn note_event(&mut self, device: &DeviceId, order: (BootId, u64)) {
        if let Some(uplink) = self.uplinks.get_mut(device) {
            uplink.events.insert(order);
        }
    }

    fn shape(&self, message: &Message, manifest: Digest) -> Result<&Shape, Refusal> {
        let sentence = || format!("the report is about manifest {}, which is not registered here", manifest.short());
        self.shapes.get(&manifest).ok_or_else(|| Refusal::of(message, Why::UnknownManifest, sentence()))
    }
}

impl Message {
    /// What makes this message itself and no other, for telling twins within one batch apart.
    pub fn identity(&self) -> (DeviceId, u8, Digest, u64, u64) {
        let none = Digest::from_bytes([0; 32]);
        let (kind, about, n, m) = match &self.body {
            Body::Status(_) => (0, none, self.boot.0, self.counter),
            Body::Reported(_) => (1, none, self.boot.0, self.counter),
            Body::Event(_) => (2, none, self.boot.0, self.counter),
            Body::Window(window) => (3, window.model, window.window.0, 0),
            Body::Capture(batch) => (4, batch.manifest, batch.batch, 0),
        };
        (self.device.clone(), kind, about, n, m)
    }
}

#[cfg(test)]
pub(crate) mod tests;
