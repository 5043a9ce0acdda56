//! Ordering and paging of what a search found.
//!
//! A page token is a place in the answer to one question, and carries a mark of that question, so that a token that is used with
//! another question is refused instead of skipping answers. Between two pages the registry may change; then an entry can be met
//! twice or missed, as with MLflow's own server.
use std::cmp::Ordering;
use std::ops::Range;

use leeway_protocol::digest::Digest;

use super::entry::{ModelVersion, RegisteredModel};
use super::refusal::Refusal;

/// Entries of one answer at most; a client asks on with the token.
pub const MAX_PAGE: usize = 1_000;
/// Orderings of one question.
const MAX_ORDERS: usize = 8;

/// What entries are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Name,
    Number,
    Created,
    Updated,
}

/// An ordering: keys, and whether each rises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order(Vec<(Key, bool)>);

/// What can be ordered.
pub trait Ordered {
    /// Name, number, created, updated.
    fn keys(&self) -> (&str, u64, i64, i64);
}

impl Ordered for RegisteredModel {
    fn keys(&self) -> (&str, u64, i64, i64) {
        (&self.name, 0, self.creation_timestamp, self.last_updated_timestamp)
    }
}

impl Ordered for ModelVersion {
    fn keys(&self) -> (&str, u64, i64, i64) {
        (&self.name, self.number, self.creation_timestamp, self.last_updated_timestamp)
    }
}

impl Order {
    /// For registered models: by name, unless asked otherwise.
    pub fn of_models(clauses: &[String]) -> Result<Self, Refusal> {
        Self::parse(clauses, &[], "name, creation_timestamp or last_updated_timestamp", |key| key != Key::Number)
    }

    /// For versions: what changed last comes first, unless asked otherwise.
    pub fn of_versions(clauses: &[String]) -> Result<Self, Refusal> {
        let default = [(Key::Updated, false)];
        Self::parse(clauses, &default, "name, version_number, creation_timestamp or last_updated_timestamp", |_| true)
    }

    fn parse(clauses: &[String], default: &[(Key, bool)], keys: &str, takes: impl Fn(Key) -> bool) -> Result<Self, Refusal> {
        if clauses.len() > MAX_ORDERS {
            return Err(Refusal::invalid(format!("order_by has {} clauses, the bound is {MAX_ORDERS}", clauses.len())));
        }
        let mut order = Vec::new();
        for clause in clauses {
            let bad = || {
                let shown: String = clause.chars().take(80).collect();
                Refusal::invalid(format!("order_by clause {shown:?} cannot be read: write {keys}, then ASC or DESC"))
            };
            let mut words = clause.split_whitespace();
            let word = words.next().ok_or_else(bad)?;
            let bare = word.trim_matches(['`', '"']);
            let key = match bare.strip_prefix("attribute.").or_else(|| bare.strip_prefix("attributes.")).unwrap_or(bare) {
                "name" => Key::Name,
                "version_number" | "version" => Key::Number,
                "creation_timestamp" | "timestamp" => Key::Created,
                "last_updated_timestamp" => Key::Updated,
                _ => return Err(bad()),
            };
            let rises = match words.next().map(str::to_ascii_uppercase).as_deref() {
                None | Some("ASC") => true,
                Some("DESC") => false,
                Some(_) => return Err(bad()),
            };
            if words.next().is_some() || !takes(key) {
                return Err(bad());
            }
            order.push((key, rises));
        }
        if order.is_empty() {
            order.extend_from_slice(default);
        }
        // What is equal has a place too, or pages could overlap.
        order.extend([(Key::Name, true), (Key::Number, false)]);
        Ok(Self(order))
    }

    /// Put entries into this order.
    pub fn sort<T: Ordered>(&self, entries: &mut [T]) {
        entries.sort_by(|a, b| {
            let (a, b) = (a.keys(), b.keys());
            self.0.iter().fold(Ordering::Equal, |so_far, (key, rises)| {
                so_far.then_with(|| {
                    let order = match key {
                        Key::Name => a.0.cmp(b.0),
                        Key::Number => a.1.cmp(&b.1),
                        Key::Created => a.2.cmp(&b.2),
                        Key::Updated => a.3.cmp(&b.3),
                    };
                    if *rises { order } else { order.reverse() }
                })
            })
        });
    }
}

/// Which part of an answer is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// How many at most.
    pub max_results: usize,
    /// Where the page before ended; empty for the first.
    pub token: String,
    /// A mark of the question.
    pub mark: String,
}

impl Wanted {
    /// Of a question.
    pub fn new(max_results: usize, token: &str, filter: &str, order: &[String]) -> Self {
        let question = (filter, order);
        let mark = Digest::of(&serde_json::to_vec(&question).unwrap_or_default()).hex().chars().take(12).collect();
        Self { max_results, token: token.to_owned(), mark }
    }

    /// The part of `found` entries that is answered, and the token of the next page; empty after the last.
    pub fn part(&self, found: usize) -> Result<(Range<usize>, String), Refusal> {
        let foreign = || Refusal::invalid("page_token is not one of an answer to this question: ask again without one");
        let begin = match self.token.as_str() {
            "" => 0,
            token => {
                let (place, mark) = token.split_once('-').ok_or_else(foreign)?;
                let place: usize = place.parse().map_err(|_| foreign())?;
                if mark != self.mark {
                    return Err(foreign());
                }
                place.min(found)
            }
        };
        let end = begin.saturating_add(self.max_results.clamp(1, MAX_PAGE)).min(found);
        let next = if end < found { format!("{end}-{}", self.mark) } else { String::new() };
        Ok((begin..end, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(&'static str, u64, i64);

    impl Ordered for Entry {
        fn keys(&self) -> (&str, u64, i64, i64) {
            (self.0, self.1, self.2, self.2)
        }
    }

    fn sorted(order: &Order) -> String {
        let mut entries = [Entry("a", 1, 30), Entry("b", 1, 10), Entry("a", 2, 20)];
        order.sort(&mut entries);
        entries.map(|e| format!("{}{}", e.0, e.1)).join(" ")
    }

    #[test]
    fn orders_of_mlflows_clients() {
        let of = |clauses: &[&str]| Order::of_versions(&clauses.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        for (clauses, expected) in [
            (&[][..], "a1 a2 b1"),
            (&["name"][..], "a2 a1 b1"),
            (&["name DESC", "version_number ASC"][..], "b1 a1 a2"),
            (&["`creation_timestamp` asc"][..], "b1 a2 a1"),
            (&["attribute.version_number DESC"][..], "a2 a1 b1"),
        ] {
            assert_eq!(sorted(&of(clauses).unwrap()), expected, "{clauses:?}");
        }
        for bad in ["", "colour", "name UP", "name ASC DESC", "tags.k ASC"] {
            assert!(of(&[bad]).is_err(), "{bad}");
        }
        assert!(of(&["name"; MAX_ORDERS + 1]).is_err());
        assert!(Order::of_models(&["version_number ASC".to_owned()]).is_err());
    }

    #[test]
    fn pages_follow_each_other_and_belong_to_one_question() {
        let first = Wanted::new(2, "", "name = 'a'", &[]);
        let (part, token) = first.part(5).unwrap();
        assert_eq!(part, 0..2);
        let (part, token) = Wanted::new(2, &token, "name = 'a'", &[]).part(5).unwrap();
        assert_eq!(part, 2..4);
        assert!(Wanted::new(2, &token, "name = 'b'", &[]).part(5).is_err(), "another question");
        let last = Wanted::new(2, &token, "name = 'a'", &[]);
        assert_eq!(last.part(5).unwrap(), (4..5, String::new()));
        assert_eq!(last.part(1).unwrap(), (1..1, String::new()), "it has become shorter");
        for bad in ["x", "1", "-1-abc", "99999999999999999999999-x"] {
            assert!(Wanted::new(2, bad, "", &[]).part(5).is_err(), "{bad}");
        }
        assert_eq!(Wanted::new(usize::MAX, "", "", &[]).part(5_000).unwrap().0, 0..MAX_PAGE);
    }
}
