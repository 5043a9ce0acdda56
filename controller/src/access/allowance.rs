//! How often one client may do something: a bucket of tries per address that refills with time.
//!
//! A client is an address; of IPv6 the first 64 bits, because whoever has one of those addresses has them all. A bucket that is
//! full again is forgotten, so memory follows those who are at it now. What stays true: never more than [`MAX_CLIENTS`] buckets;
//! past that the one that was touched longest ago makes room, which gives that client a full bucket and nobody an empty one.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use leeway_protocol::time::Timestamp;

/// Clients that are remembered at one time.
pub const MAX_CLIENTS: usize = 10_000;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tries at once.
    pub burst: u32,
    /// Milliseconds until one more.
    pub refill_ms: u32,
}

/// One client, as far as limits go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V6(ip) => Self(IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << 64)))),
            v4 => Self(v4),
        }
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V6(ip) if !ip.is_loopback() => write!(f, "{ip}/64"),
            ip => write!(f, "{ip}"),
        }
    }
}

/// Tries left, counted in refills so that no fraction is lost.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Milliseconds' worth of refill that are missing from a full bucket.
    missing_ms: u64,
    at: Timestamp,
}

/// A try too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany {
    /// Seconds until the next try is allowed, at least 1.
    pub wait_secs: u64,
    /// Whether this is the first one after an allowed one: worth a line in the log.
    pub first: bool,
}

/// The buckets of all clients for one kind of try.
#[derive(Debug)]
pub struct Allowance {
    rate: Rate,
    clients: BTreeMap<Client, (Bucket, bool)>,
}

impl Allowance {
    /// Full buckets for everyone.
    pub fn new(rate: Rate) -> Self {
        Self { rate, clients: BTreeMap::new() }
    }

    /// Take one try, or say how long to wait. A refused try costs nothing.
    pub fn take(&mut self, client: Client, now: Timestamp) -> Result<(), TooMany> {
        let cost = u64::from(self.rate.refill_ms.max(1));
        let room = cost * u64::from(self.rate.burst.max(1));
        if !self.clients.contains_key(&client) && self.clients.len() >= MAX_CLIENTS {
            self.make_room(now);
        }
        let (bucket, told) = self.clients.entry(client).or_insert((Bucket { missing_ms: 0, at: now }, false));
        bucket.missing_ms = bucket.missing_ms.saturating_sub(passed(bucket.at, now));
        bucket.at = now;
        if bucket.missing_ms + cost > room {
            let wait_ms = bucket.missing_ms + cost - room;
            return Err(TooMany { wait_secs: wait_ms.div_ceil(1_000).max(1), first: !std::mem::replace(told, true) });
        }
        bucket.missing_ms += cost;
        *told = false;
        Ok(())
    }

    fn make_room(&mut self, now: Timestamp) {
        self.clients.retain(|_, (bucket, _)| bucket.missing_ms > passed(bucket.at, now));
        if self.clients.len() >= MAX_CLIENTS {
            let oldest = self.clients.iter().min_by_key(|(_, (bucket, _))| bucket.at).map(|(client, _)| *client);
            oldest.map(|client| self.clients.remove(&client));
        }
    }
}

/// Milliseconds from `then` to `now`; a clock that was set back counts as standing still.
fn passed(then: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.as_millis().saturating_sub(then.as_millis())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Client {
        text.parse::<IpAddr>().unwrap().into()
    }

    const RATE: Rate = Rate { burst: 3, refill_ms: 2_000 };

    #[test]
    fn a_burst_then_one_at_a_time_and_each_client_for_itself() {
        let mut allowance = Allowance::new(RATE);
        let (a, b) = (client("10.0.0.1"), client("10.0.0.2"));
        // (milliseconds, whether it is allowed, seconds to wait, whether it is told)
        let table = [
            (0, Ok(())),
            (0, Ok(())),
            (0, Ok(())),
            (0, Err((2, true))),
            (500, Err((2, false))),
            (1_999, Err((1, false))),
            (2_000, Ok(())),
            (2_000, Err((2, true))),
            (1_000, Err((2, false))),
            (60_000, Ok(())),
            (60_000, Ok(())),
            (60_000, Ok(())),
            (60_000, Err((2, true))),
        ];
        for (at, expected) in table {
            let got = allowance.take(a, Timestamp::from_millis(1_000_000 + at)).map_err(|e| (e.wait_secs, e.first));
            assert_eq!(got, expected, "at {at}");
        }
        assert_eq!(allowance.take(b, Timestamp::from_millis(1_060_000)), Ok(()), "another client has its own");
    }

    #[test]
    fn a_client_of_the_sixth_kind_is_its_network() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("::ffff:10.0.0.1"), client("10.0.0.1"));
    }

    #[test]
    fn memory_has_a_bound_and_the_one_touched_last_stays() {
        let mut allowance = Allowance::new(RATE);
        let of = |n: usize| Client::from(IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()));
        let at = |n: usize| Timestamp::from_millis(i64::try_from(n / 100).unwrap());
        for n in 0..MAX_CLIENTS + 500 {
            allowance.take(of(n), at(n)).unwrap();
        }
        assert!(allowance.clients.len() <= MAX_CLIENTS);
        assert!(allowance.clients.contains_key(&of(MAX_CLIENTS + 499)) && !allowance.clients.contains_key(&of(0)));
        allowance.take(of(1), Timestamp::from_millis(10_000_000)).unwrap();
        assert_eq!(allowance.clients.len(), 1, "whoever is full again is forgotten");
    }
}
