//! Decisions remembered until their label arrives: a fixed number of places, no allocation per inference.
//!
//! Sets of four places chosen by the request's hash, the oldest of a set gives way: a label finds its decision with near
//! certainty among the last few thousand requests and with falling luck up to [`REMEMBERED`]. A map and a queue would keep
//! exactly the last N, at several times the cost on the path of every inference. The newest few are kept apart and moved to
//! their sets together: one visit to cold memory in so many inferences, with the misses overlapping, instead of one in each.
//! A labelled decision stays until its place is wanted, so that the application can still tell what else became of it.
/// Decisions remembered per model: at one a second more than four hours, in 256 KB.
pub const REMEMBERED: usize = 16_384;
/// Places at the start; doubled as decisions come, so that a device that decides rarely holds little.
const AT_FIRST: usize = 256;
const WAYS: usize = 4;
/// Decisions moved to their sets at once.
const RECENT: usize = 64;

/// What was decided for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Remembered {
    request: u64,
    /// Order of arrival; 0 is an empty place.
    turn: u32,
    pub(crate) class: u16,
    /// Its confidence bin.
    pub(crate) bin: u8,
    /// Its label has come; a second one counts for nothing.
    labelled: bool,
}

const EMPTY: Remembered = Remembered { request: 0, turn: 0, class: 0, bin: 0, labelled: false };

#[derive(Debug)]
pub(crate) struct Memory {
    sets: Vec<[Remembered; WAYS]>,
    recent: Vec<Remembered>,
    turn: u32,
}

impl Memory {
    pub(crate) fn new() -> Self {
        Self { sets: vec![[EMPTY; WAYS]; AT_FIRST / WAYS], recent: Vec::with_capacity(RECENT), turn: 0 }
    }

    #[inline]
    pub(crate) fn remember(&mut self, request: u64, class: usize, bin: usize) {
        // Wraps after four thousand million decisions; then a few old places live a little longer than they should.
        self.turn = self.turn.wrapping_add(1).max(1);
        // A class past the 4,096 a window counts apart cannot be labelled either; no label equals this one.
        let class = u16::try_from(class).unwrap_or(u16::MAX);
        self.recent.push(Remembered { request, turn: self.turn, class, bin: bin as u8, labelled: false });
        if self.recent.len() >= RECENT {
            self.settle();
        }
    }

    fn settle(&mut self) {
        // A quarter full at most, so that hardly any set overflows before the places have reached their bound.
        if self.turn as usize * 4 > self.sets.len() * WAYS && self.sets.len() * WAYS < REMEMBERED {
            let doubled = vec![[EMPTY; WAYS]; self.sets.len() * 2];
            let old = std::mem::replace(&mut self.sets, doubled);
            old.into_iter().flatten().filter(|p| p.turn > 0).for_each(|p| self.place(p));
        }
        let mut recent = std::mem::take(&mut self.recent);
        recent.drain(..).for_each(|new| self.place(new));
        self.recent = recent;
    }

    fn place(&mut self, new: Remembered) {
        let place = self.set(new.request).iter_mut().min_by_key(|p| if p.request == new.request || p.labelled { 0 } else { p.turn });
        if let Some(place) = place {
            *place = new;
        }
    }

    /// The decision, once: a second label for the same request finds nothing.
    pub(crate) fn recall(&mut self, request: u64) -> Option<Remembered> {
        let label = |place: &mut Remembered| {
            let open = !place.labelled;
            place.labelled = true;
            open.then_some(*place)
        };
        let settled = self.set(request).iter_mut().find(|p| p.turn > 0 && p.request == request).and_then(label);
        // All of them: an earlier one under the same number is not there to be labelled instead.
        let mut latest = None;
        for place in self.recent.iter_mut().filter(|p| p.request == request) {
            latest = label(place).or(latest);
        }
        latest.or(settled)
    }

    /// Whether a decision of this request is remembered, labelled or not.
    pub(crate) fn knows(&mut self, request: u64) -> bool {
        self.recent.iter().any(|p| p.request == request) || self.set(request).iter().any(|p| p.turn > 0 && p.request == request)
    }

    #[inline]
    fn set(&mut self, request: u64) -> &mut [Remembered] {
        let at = hash(request) as usize % self.sets.len();
        self.sets.get_mut(at).map_or(&mut [], |set| set)
    }
}

/// Spreads consecutive request numbers over all 64 bits, the same on every machine and for ever: what is sampled by it can
/// be checked afterwards.
#[inline]
pub(crate) fn hash(request: u64) -> u64 {
    let x = request.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// A number in 0..1 from a hash.
#[inline]
pub(crate) fn share(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_find_their_decisions_once() {
        let mut memory = Memory::new();
        memory.remember(7, 1, 3);
        memory.remember(7, 2, 4);
        assert_eq!(memory.recall(7).map(|r| (r.class, r.bin)), Some((2, 4)));
        assert_eq!(memory.recall(7), None);
        assert_eq!(memory.recall(0), None);
        assert!(memory.knows(7) && !memory.knows(0), "what was labelled is still known");
        memory.settle();
        assert_eq!((memory.recall(7), memory.knows(7)), (None, true), "also in its place");
        memory.remember(7, 3, 5);
        assert_eq!(memory.recall(7).map(|r| (r.class, r.bin)), Some((3, 5)), "the number was used again");
        for request in 0..1_000 {
            memory.remember(request, 1, 3);
        }
        let found = (0..1_000).filter(|&r| memory.recall(r).is_some()).count();
        assert!(found > 990, "{found} of a thousand while the places grow");
    }

    #[test]
    fn recent_decisions_are_found_and_old_ones_fade() {
        let mut memory = Memory::new();
        for request in 0..100_000 {
            memory.remember(request, 0, 5);
        }
        assert_eq!(memory.sets.len() * WAYS, REMEMBERED);
        assert_eq!(std::mem::size_of::<Remembered>(), 16);
        let mut found = |range: std::ops::Range<u64>| {
            let n = range.end - range.start;
            range.filter(|&r| memory.recall(r).is_some()).count() as f64 / n as f64
        };
        assert!(found(96_000..100_000) > 0.98);
        assert!(found(92_000..96_000) > 0.8);
        assert_eq!(found(0..30_000), 0.0);
    }

    #[test]
    fn shares_are_spread_evenly() {
        let low = (0..10_000).filter(|&r| share(hash(r)) < 0.25).count();
        assert!((2_300..2_700).contains(&low), "{low}");
    }
}
