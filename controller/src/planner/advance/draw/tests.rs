//! Draws against the sorted order they stand for.
use std::collections::BTreeMap;

use super::*;
use crate::fleet::bucket::order;
use crate::planner::tests::world::name;

const SIZE: usize = 3_000;

fn fleet(seed: u64) -> (Fleet, Vec<(u32, bool, bool)>) {
    let roll = |n: usize, what: &str, sides: u64| crate::fleet::bucket::bucket(&format!("{seed} {what}"), &n.to_string()) % sides;
    let mut fleet = Fleet::default();
    let seen = (0..SIZE).map(|n| {
        let labels = BTreeMap::from([("hw".to_owned(), format!("rev-{}", roll(n, "hw", 3)))]);
        fleet.insert(Device::new(name(&format!("d-{n}")), String::new(), labels, Timestamp::default()));
        (roll(n, "cohort", 4) as u32, roll(n, "free", 10) < 7, roll(n, "fit", 10) < 8)
    });
    let seen = seen.collect();
    (fleet, seen)
}

#[test]
fn a_draw_is_what_the_sorted_order_gives() {
    for seed in 0..6 {
        let (fleet, seen) = fleet(seed);
        let of = |id: &str| -> (u32, bool, bool) { seen[id[2..].parse::<usize>().unwrap()] };
        let rollout: RolloutId = name(&format!("r{seed}"));
        // Cohort 3 is out of scope.
        let ticket = |device: &Device| of(device.id.as_str());
        let look = |device: &Device, pool: &mut Pool| {
            let (cohort, free, fit) = ticket(device);
            let label = device.labels["hw"].as_str();
            pool.look(device, (cohort != 3).then_some(Ticket { cohort, label, free, fit }));
            None
        };
        let all: Vec<Arc<Device>> = fleet.iter().filter(|d| ticket(d).0 != 3).collect();
        let strata: Vec<(String, &str)> = all.iter().map(|d| (format!("{}/{}", ticket(d).0, d.labels["hw"]), d.id.as_str())).collect();
        let sorted = order(rollout.as_str(), strata.iter().map(|(stratum, id)| (stratum.as_str(), *id)));
        let free: Vec<&str> = sorted.iter().copied().filter(|id| of(id).1).collect();
        let about = About::new("pool", "", &seed);
        for about in [None, about, about] {
            let census = Census::new(&fleet, about, Timestamp::default(), look);
            let draw = Draw::new(&fleet, &census, &rollout, Timestamp::default());
            let ids = |drawn: Vec<Drawn<'_>>| draw.devices(&drawn).into_iter().map(|d| d.id.to_string()).collect::<Vec<_>>();
            let front = ids(draw.take(End::Front, Among::All, 100, |_| false));
            assert_eq!(front, free[..100], "seed {seed}");
            assert_eq!(ids(draw.take(End::Front, Among::All, SIZE, |_| false)), free, "all of them, and no more");
            let skipped = ids(draw.take(End::Front, Among::All, 50, |one| front[..20].iter().any(|known| known == one.name)));
            assert_eq!(skipped, free[20..70]);
            let from_back = |wanted: bool| free.iter().rev().copied().filter(move |id| of(id).2 == wanted);
            assert_eq!(ids(draw.take(End::Back, Among::Fit, 80, |_| false)), from_back(true).take(80).collect::<Vec<_>>());
            assert_eq!(ids(draw.take(End::Back, Among::Unfit, SIZE, |_| false)), from_back(false).collect::<Vec<_>>());
            let back = draw.take(End::Back, Among::Fit, 80, |_| false);
            let marks = draw.marks(&back);
            assert!(back.iter().all(|one| one.is_in(&marks)) && marks.iter().map(|mark| mark.count_ones()).sum::<u32>() == 80);
            let (some, all) = (ids(neighbours(back.clone(), 30)), ids(neighbours(back.clone(), 80)));
            let chosen: Vec<&String> = all.iter().filter(|id| some.contains(id)).collect();
            assert_eq!((some.len(), chosen), (30, some.iter().collect()), "some of them, in the order of all");
            let reversed: Vec<String> = ids(back).into_iter().rev().collect();
            assert_eq!(all, reversed, "the order of the draw");
        }
    }
}

#[test]
fn who_joins_is_in_the_next_draw() {
    let rollout: RolloutId = name("r");
    let mut fleet = Fleet::default();
    let draw = |fleet: &Fleet| {
        let look = |device: &Device, pool: &mut Pool| {
            pool.look(device, Some(Ticket { cohort: 0, label: "", free: true, fit: true }));
            None
        };
        let census = Census::new(fleet, About::new("pool", "", &()), Timestamp::default(), look);
        let all = Draw::new(fleet, &census, &rollout, Timestamp::default());
        let drawn = all.take(End::Front, Among::All, usize::MAX, |_| false);
        all.devices(&drawn).into_iter().map(|d| d.id.to_string()).collect::<Vec<_>>()
    };
    for n in 0..300 {
        fleet.insert(Device::new(name(&format!("d-{n}")), String::new(), BTreeMap::new(), Timestamp::default()));
        if n % 50 == 0 {
            let names: Vec<String> = fleet.iter().map(|d| d.id.to_string()).collect();
            assert_eq!(draw(&fleet), order("r", names.iter().map(|id| ("", id.as_str()))), "after {n}");
        }
    }
    fleet.remove(&name("d-7"));
    assert_eq!(draw(&fleet).len(), 299);
}
