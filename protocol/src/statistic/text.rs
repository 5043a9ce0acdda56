//! Text as a model takes it, bytes or tokens: what another language, an encoding gone wrong, truncation or emptiness changes.
use super::{Elements, Figure, View};

/// Elements from here up are no ASCII.
const ASCII: i64 = 128;
/// Values an element's lowest byte can have.
const BYTES: usize = 256;

#[derive(Debug)]
pub(super) struct Text {
    length: u64,
    foreign: u64,
    unknown: u64,
    counts: [u32; BYTES],
}

impl Default for Text {
    fn default() -> Self {
        Self { length: 0, foreign: 0, unknown: 0, counts: [0; BYTES] }
    }
}

impl Text {
    pub(super) fn read(&mut self, view: &View, row: &Elements<'_>) -> bool {
        let View::Text { padding, unknown } = view else { return false };
        *self = Self::default();
        match row {
            Elements::U8(v) => self.count(v, |x| i64::from(*x), *padding, *unknown),
            Elements::I8(v) => self.count(v, |x| i64::from(*x), *padding, *unknown),
            Elements::I32(v) => self.count(v, |x| i64::from(*x), *padding, *unknown),
            Elements::I64(v) => self.count(v, |x| *x, *padding, *unknown),
            Elements::Bool(v) => self.count(v, |x| i64::from(*x), *padding, *unknown),
            Elements::F32(v) => self.count(v, |x| *x as i64, *padding, *unknown),
            Elements::Absent => return false,
        }
        true
    }

    fn count<T>(&mut self, elements: &[T], value: impl Fn(&T) -> i64, padding: Option<i64>, unknown: Option<i64>) {
        let end = match padding {
            Some(padding) => elements.iter().rposition(|x| value(x) != padding).map_or(0, |last| last + 1),
            None => elements.len(),
        };
        for x in elements.get(..end).unwrap_or(&[]).iter().map(value) {
            self.foreign += u64::from(!(0..ASCII).contains(&x));
            self.unknown += u64::from(Some(x) == unknown);
            self.counts[(x & 0xff) as usize] += 1;
        }
        self.length = end as u64;
    }

    pub(super) fn figure(&self, figure: Figure) -> f64 {
        let share = |n: u64| if self.length == 0 { 0.0 } else { n as f64 / self.length as f64 };
        match figure {
            Figure::Length => self.length as f64,
            Figure::Empty => f64::from(u8::from(self.length == 0)),
            Figure::NonAscii => share(self.foreign),
            Figure::Unknown => share(self.unknown),
            Figure::Entropy => {
                let p = self.counts.iter().filter(|n| **n > 0).map(|&n| f64::from(n) / self.length.max(1) as f64);
                -p.map(|p| p * p.log2()).sum::<f64>()
            }
            _ => f64::NAN,
        }
    }
}
