//! How many connections each address holds at one time, for every listener.
//!
//! Connections of this machine are not counted: a proxy, or a thousand simulated devices, all come from there. What stays true: an
//! address that holds none takes no memory.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::access::allowance::Client;

/// How many connections each address holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests(Arc<Mutex<BTreeMap<Client, usize>>>);

/// One counted connection.
#[derive(Debug)]
pub(super) struct Guest(Guests, Client);

impl Guests {
    /// Count one more, unless that is one too many.
    pub(super) fn enter(&self, ip: IpAddr, most: usize) -> Option<Guest> {
        let client = Client::from(ip);
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = guests.entry(client).or_default();
        if *held >= most && !ip.to_canonical().is_loopback() {
            return None;
        }
        *held += 1;
        Some(Guest(self.clone(), client))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = guests.get_mut(&self.1) {
            *held -= 1;
            if *held == 0 {
                guests.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_count_and_this_machine_none() {
        let guests = Guests::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let held: Vec<_> = (0..2).map(|_| guests.enter(ip("10.0.0.1"), 2).unwrap()).collect();
        assert!(guests.enter(ip("10.0.0.1"), 2).is_none());
        assert!(guests.enter(ip("10.0.0.2"), 2).is_some());
        let local: Vec<_> = (0..9).filter_map(|_| guests.enter(ip("127.0.0.1"), 2)).collect();
        assert_eq!(local.len(), 9);
        drop((held, local));
        assert!(guests.0.lock().unwrap().is_empty());
    }
}
