//! What the device says: the outbox, birth and will, receipts; and that nothing of it is lost or said twice differently.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::WindowId;
use leeway_protocol::report::{Errors, LATENCY_BUCKETS, Labelled, WindowReport};
use leeway_protocol::reported::Status;
use leeway_protocol::trust::envelope::Kind;

use super::repo::{Repo, start};
use super::world::World;
use crate::action::Dir;
use crate::confinement::Reached;
use crate::control::RunnerNotice;
use crate::event::Event;

fn world() -> World {
    World::settled(Repo::new())
}

fn window() -> WindowReport {
    WindowReport {
        manifest: Digest::of(b"manifest"),
        model: Digest::of(b"model"),
        window: WindowId(0),
        opened_at: start(),
        closed_at: start(),
        inferences: 0,
        recorded: 0,
        errors: Errors::default(),
        latency: vec![0; LATENCY_BUCKETS],
        features: vec![],
        rho_percent: vec![],
        confidence: [0; 10],
        classes: vec![],
        labelled: [Labelled::default(); 10],
        data_time: None,
        user: Default::default(),
    }
}

fn close_windows(world: &mut World, count: usize) {
    for _ in 0..count {
        let run = world.serving_run();
        world.notice(run, RunnerNotice::Window(Box::new(window())));
    }
    world.run_for(1);
}

fn windows(world: &World) -> Vec<u64> {
    let opened = world.opened.iter().filter(|o| o.kind == Kind::Window);
    let mut ids: Vec<u64> = opened.map(|o| WindowReport::parse(&o.body).unwrap().window.0).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn windows_wait_for_the_network_over_restarts_and_arrive_once_each() {
    let mut world = world();
    world.broker = false;
    world.run_for(1);
    close_windows(&mut world, 30);
    world.power_cycle();
    world.run_for(1);
    close_windows(&mut world, 30);
    assert_eq!((windows(&world).len(), world.disk.paths(Dir::Outbox).len()), (0, 60));
    assert_eq!(world.state().outbox, 60);
    world.broker = true;
    world.run_for(5);
    let ids = windows(&world);
    assert_eq!(ids.len(), 60, "every window has its own number");
    assert!(ids[29] < ids[30], "numbers rise over restarts");
    world.check_rest();
    assert_eq!(world.state().dropped, 0);
}

#[test]
fn without_receipts_messages_stay_and_are_sent_again() {
    let mut world = world();
    world.receipts = false;
    close_windows(&mut world, 1);
    let sent = |w: &World| w.opened.iter().filter(|o| o.kind == Kind::Window).count();
    assert_eq!(sent(&world), 1);
    world.run_for(65);
    assert_eq!(sent(&world), 2, "again after a minute");
    world.run_for(65);
    assert_eq!(sent(&world), 2, "patience doubles");
    let pair = world.opened.iter().rev().find(|o| o.kind == Kind::Window).map(|o| (o.boot.0, o.counter)).unwrap();
    // Forged, for another device, or rubbish: nothing is deleted.
    let mut forged = world.receipt(&[pair]);
    *forged.last_mut().unwrap() ^= 1;
    for rubbish in [forged, vec![], vec![1; 300]] {
        world.feed(Event::Receipt(rubbish));
        assert_eq!(world.disk.paths(Dir::Outbox).len(), 1);
    }
    let genuine = world.receipt(&[pair]);
    world.feed(Event::Receipt(genuine));
    assert_eq!(world.disk.paths(Dir::Outbox).len(), 0);
}

#[test]
fn the_bounds_of_the_outbox_hold_and_what_is_given_up_is_counted() {
    let mut world = world();
    world.settings.outbox.max_messages = 10;
    world.power_cycle();
    world.run_for(2);
    world.broker = false;
    world.run_for(1);
    close_windows(&mut world, 25);
    assert_eq!((world.disk.paths(Dir::Outbox).len(), world.state().dropped), (10, 15));
    world.settings.outbox.max_age_ms = 60_000;
    world.power_cycle();
    world.run_for(61);
    assert_eq!(world.disk.paths(Dir::Outbox).len(), 0);
    assert!(world.state().dropped >= 10);
    world.broker = true;
    world.run_for(2);
    assert!(world.last_reported().conditions.iter().any(|c| c.kind == "TelemetryFlowing" && !c.holds));
}

#[test]
fn birth_comes_before_will_and_a_late_will_is_older_than_the_next_birth() {
    let mut world = world();
    world.broker = false;
    world.run_for(1);
    world.broker = true;
    world.run_for(1);
    let births: Vec<(u64, u64, Status)> = world
        .opened
        .iter()
        .filter(|o| o.kind == Kind::Status)
        .map(|o| (o.boot.0, o.counter, serde_json::from_slice(&o.body).unwrap()))
        .collect();
    assert_eq!(births.len(), 2);
    let [(_, first, one), (_, second, two)] = &births[..] else { panic!() };
    assert!(one.online && two.online && one.session < two.session);
    assert!(second > &(first + 1), "the will of the first connection lies between the two births");
    world.feed(Event::Stop);
    let last = world.opened.iter().rev().find(|o| o.kind == Kind::Status).unwrap();
    assert!(!serde_json::from_slice::<Status>(&last.body).unwrap().online);
}

#[test]
fn an_event_before_the_start_is_ignored() {
    let mut world = World::new(Repo::new());
    world.dead = false;
    world.feed(Event::Tick);
    world.feed(Event::Desired(vec![1]));
    assert!(world.logged("before the start"));
}

#[test]
fn how_far_the_runner_is_confined_is_reported_in_a_sentence() {
    let mut world = world();
    let confined = |world: &World| world.state().conditions.into_iter().find(|c| c.kind == "ModelConfined");
    let told = confined(&world).unwrap();
    assert!(told.holds && told.message.starts_with("the model runs confined: no files but its own"), "{told:?}");
    world.confinement.seccomp = Reached::None("not in this kernel".to_owned());
    world.kill_runner();
    world.run_for(10);
    let told = confined(&world).unwrap();
    assert!(!told.holds && told.message.contains("it could open connections and start programs (not in this kernel)"), "{told:?}");
}
