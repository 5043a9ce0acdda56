//! The tree against a plain map, and what its nodes remember against counting anew.
use std::collections::BTreeMap;

use leeway_protocol::time::Timestamp;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::*;
use crate::planner::tests::world::name;

fn device(n: u32, color: u32) -> Device {
    let labels = BTreeMap::from([("color".to_owned(), color.to_string())]);
    Device::new(name(&format!("d-{n:05}")), String::new(), labels, Timestamp::from_secs(i64::from(n)))
}

/// Devices by colour, and how many are older than a minute.
fn count(fleet: &Fleet, about: Option<About>, now: Timestamp) -> Vec<(u32, usize)> {
    let look = |device: &Device, found: &mut ByCohort<usize>| {
        *found.entry(device.labels.get("color").map_or(0, |color| color.parse().unwrap())) += 1;
        let old_at = device.enrolled_at.plus_millis(60_000);
        *found.entry(99) += usize::from(old_at <= now);
        (old_at > now).then_some(old_at)
    };
    Census::new(fleet, about, now, look).total().iter().map(|(n, count)| (n, *count)).collect()
}

#[test]
fn the_tree_is_a_map_and_remembers_nothing_wrong() {
    let mut chance = ChaCha12Rng::seed_from_u64(7);
    let mut roll = |sides: u32| chance.next_u32() % sides;
    let (mut fleet, mut plain) = (Fleet::default(), BTreeMap::new());
    let mut copies: Vec<(Fleet, Vec<(u32, usize)>, Timestamp)> = Vec::new();
    for step in 0..6_000_u32 {
        let (n, color) = (roll(5_000), roll(4));
        let id = device(n, 0).id;
        match roll(10) {
            0..6 => {
                fleet.insert(device(n, color));
                plain.insert(id, color);
            }
            6 => assert_eq!(fleet.remove(&id).map(|d| d.id.clone()), plain.remove(&id).map(|_| id)),
            _ => {
                if let Some(found) = fleet.device_mut(&id) {
                    found.labels.insert("color".to_owned(), color.to_string());
                    plain.insert(id, color);
                }
            }
        }
        let now = Timestamp::from_secs(i64::from(roll(6_000)));
        if step % 20 == 0 {
            let (known, anew) = (count(&fleet, About::new("colour", "", &()), now), count(&fleet, None, now));
            assert_eq!(known, anew, "step {step}");
            copies.push((fleet.clone(), anew, now));
        }
    }
    let by_name: Vec<_> = fleet.sorted().into_iter().map(|d| (d.id.clone(), d.labels["color"].parse().unwrap())).collect();
    assert_eq!(by_name, plain.into_iter().collect::<Vec<(DeviceId, u32)>>());
    assert_eq!((fleet.len(), fleet.iter().count()), (by_name.len(), by_name.len()));
    for (copy, before, now) in copies {
        assert_eq!(count(&copy, About::new("colour", "", &()), now), before, "a copy is what it was");
    }
}

#[test]
fn the_order_depends_on_the_names_and_every_device_is_found() {
    let (mut rising, mut falling) = (Fleet::default(), Fleet::default());
    (0..40_000).for_each(|n| rising.insert(device(n, 0)));
    (0..40_000).rev().for_each(|n| falling.insert(device(n, 0)));
    assert!(rising == falling);
    for group in rising.groups.iter() {
        let devices: usize = group.leaves.iter().map(|leaf| leaf.devices.len()).sum();
        assert_eq!(group.leaves.len(), devices.div_ceil(MAX_LEAF), "filled in order, leaves are full");
    }
    assert!(falling.groups.iter().flat_map(|g| &g.leaves).all(|leaf| (1..=MAX_LEAF).contains(&leaf.devices.len())));
    assert!((0..40_000).all(|n| rising.device(&device(n, 0).id).is_some() && falling.device_mut(&device(n, 0).id).is_some()));
    assert!(
        rising.device(&name("stranger")).is_none()
            && rising.device_mut(&name("stranger")).is_none()
            && rising.remove(&name("stranger")).is_none()
    );
}

#[test]
fn what_was_found_is_looked_for_again_only_where_something_changed() {
    let mut fleet = Fleet::default();
    (0..2_000).for_each(|n| fleet.insert(device(n, n % 4)));
    let looks = std::cell::Cell::new(0);
    let ask = |fleet: &Fleet, terms: u32, secs| {
        looks.set(0);
        let look = |device: &Device, found: &mut usize| {
            looks.set(looks.get() + 1);
            *found += 1;
            (device.enrolled_at == Timestamp::from_secs(77)).then(|| Timestamp::from_secs(900))
        };
        let total = Census::new(fleet, About::new("all", "", &terms), Timestamp::from_secs(secs), look).total();
        (total, looks.get())
    };
    assert_eq!(ask(&fleet, 1, 800), (2_000, 2_000));
    assert_eq!(ask(&fleet, 1, 800), (2_000, 0));
    assert_eq!(ask(&fleet.clone(), 1, 899), (2_000, 0), "time alone changes nothing before it is due");
    let (_, due) = ask(&fleet, 1, 900);
    assert!((1..=MAX_LEAF).contains(&due), "{due}");
    assert!(ask(&fleet, 1, 800).1 > 0, "a clock that went back is not answered from a later note");
    assert_eq!(ask(&fleet, 2, 800).1, 2_000, "other terms, another answer");
    fleet.device_mut(&name("d-00123")).unwrap().retry = true;
    let (_, changed) = ask(&fleet, 2, 800);
    assert!((1..=MAX_LEAF).contains(&changed), "{changed}");
}
