//! What the demo sees of the controller: its event log, read on from where it was, in the product's own sentences.
use std::collections::BTreeMap;

use leeway_controller::io::web::resource::event::{Event, EventList};

use super::tale::Tale;
use super::workshop::Workshop;
use crate::failure::Outcome;

/// Events read in one go.
const PAGE: u64 = 500;
/// Pages read at one look; the rest comes at the next.
const MAX_PAGES: usize = 20;
/// Kinds that are told, and how many of each between two chapters; more is noise.
const TOLD: [(&str, u32); 11] = [
    ("rollout.created", 20),
    ("rollout.moved", 60),
    ("drift.instrument", 2),
    ("drift.world", 8),
    ("drift.harmless", 4),
    ("drift.release", 4),
    ("drift.ended", 2),
    ("retraining", 12),
    ("training", 40),
    ("version.marked", 6),
    ("version.published", 12),
];

/// A reader of the event log.
#[derive(Debug, Default)]
pub struct Watch {
    since: u64,
    told: BTreeMap<&'static str, u32>,
    /// Every event so far.
    pub events: Vec<Event>,
}

impl Watch {
    /// Read what is new, and tell what people care about.
    pub fn look(&mut self, workshop: &Workshop, tale: &mut Tale) -> Outcome {
        for _ in 0..MAX_PAGES {
            let path = format!("/api/v1/events?since={}&limit={PAGE}", self.since);
            let list: EventList = tokio::task::block_in_place(|| workshop.client.read(&path))?;
            let full = list.items.len() as u64 == PAGE;
            for event in list.items {
                self.since = self.since.max(event.seq);
                self.tell(&event, tale);
                self.events.push(event);
            }
            if !full {
                break;
            }
        }
        Ok(())
    }

    /// Begin counting anew, so that a chapter has room for its own lines.
    pub fn new_chapter(&mut self) {
        self.told.clear();
    }

    /// Events of a kind (by its beginning) about a subject (by what it contains).
    pub fn of<'a>(&'a self, kind: &'a str, subject: &'a str) -> impl Iterator<Item = &'a Event> {
        self.events.iter().filter(move |e| e.kind.starts_with(kind) && e.subject.contains(subject))
    }

    fn tell(&mut self, event: &Event, tale: &mut Tale) {
        let Some((kind, most)) = TOLD.iter().find(|(kind, _)| event.kind.starts_with(kind)) else { return };
        let told = self.told.entry(kind).or_insert(0);
        *told += 1;
        if *told <= *most {
            tale.tell(&event.sentence);
        }
    }
}
