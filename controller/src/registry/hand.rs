//! What a hand may do to the aliases that decide what devices run: hardly anything, and it is told what to do instead.
//!
//! Other registries let anybody with write access point `champion` to any version, and whatever reads it runs that. Here it would
//! send a version to every cohort at once, past its stages and gates. So `challenger` belongs to the rollout that tries it, and
//! `champion` may be moved by hand only where that changes what no device is told: after rollouts cohort by cohort, none of which
//! covered the whole line. What stays true: no alias that is moved by hand changes a desired state.
use leeway_protocol::ids::{Line, Version};

use super::alias::Alias;
use crate::snapshot::Snapshot;

/// A move that is not made, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotByHand(String);

/// Whether `alias` of `line` may be pointed `to` a version, or to none, by hand.
pub fn check(state: &Snapshot, line: &Line, alias: Alias, to: Option<&Version>) -> Result<(), NotByHand> {
    let refuse = |why: String| Err(NotByHand(why));
    let name = alias.as_str();
    if let Some(rollout) = state.rollouts.values().find(|r| r.spec.line == *line && !r.state.is_over()) {
        return refuse(format!(
            "{name} of {line} is moved by rollout {id} while that goes on: see it with `leeway rollout show {id}`, \
             then promote or abort it",
            id = rollout.id
        ));
    }
    let bring_out = |version: &Version| format!("bring it out with `leeway rollout create --line {line} --version {version}`");
    if alias == Alias::Challenger {
        let instead = to.map_or_else(|| "it is taken away when that rollout is over".to_owned(), bring_out);
        return refuse(format!("challenger is the version that a rollout tries, so no hand moves it: {instead}"));
    }
    let Some(to) = to else {
        return refuse(format!("champion of {line} is what its devices run, so it is not taken away: point it to another version"));
    };
    if state.assignable(line, to).is_none() {
        return refuse(format!("version {to} of {line} may not be assigned to devices, so it cannot be champion: choose another"));
    }
    let cohorts: Vec<_> = state.cohorts.values().filter(|c| c.line == *line).collect();
    let other = cohorts.iter().find(|cohort| state.target_of(cohort).is_none_or(|target| target.version != *to));
    match other {
        _ if cohorts.is_empty() => refuse(format!("no cohort runs version {to} of {line} yet: {}", bring_out(to))),
        Some(cohort) => refuse(format!(
            "champion decides what devices run, and cohort {} does not run version {to} of {line}: {}",
            cohort.name,
            bring_out(to)
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::tests::world::{World, line, name, quick};

    fn said(world: &World, alias: Alias, to: Option<&str>) -> String {
        let to = to.map(name::<Version>);
        check(&world.state, &line(), alias, to.as_ref()).err().map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn champion_moves_by_hand_only_where_that_tells_no_device_anything() {
        let mut world = World::new();
        assert!(said(&world, Alias::Champion, Some("2")).contains("leeway rollout create --line rain --version 2"));
        for cohort in ["coast", "hills"] {
            world.edit_cohort(cohort, |c| c.last_known_good = Some(name("2")));
        }
        assert!(said(&world, Alias::Champion, Some("2")).contains("cohort plain does not run version 2"));
        world.edit_cohort("plain", |c| c.last_known_good = Some(name("2")));
        world.settle();
        assert_eq!(said(&world, Alias::Champion, Some("2")), "");
        let told = world.told();
        world.edit_line(|line| {
            line.aliases.move_by_hand(Alias::Champion, Some(name("2")), leeway_protocol::time::Timestamp::from_secs(9), "ann", "all of it");
        });
        world.settle();
        assert_eq!(world.told(), told);
        assert!(said(&world, Alias::Champion, None).contains("not taken away"));
        assert!(said(&world, Alias::Champion, Some("9")).contains("may not be assigned"));
        assert!(said(&World::bare(&[], 0), Alias::Champion, Some("1")).contains("no cohort runs"));
    }

    #[test]
    fn what_a_rollout_owns_is_refused_by_its_name() {
        let mut world = World::new();
        assert!(said(&world, Alias::Challenger, Some("2")).contains("leeway rollout create --line rain --version 2"));
        assert!(said(&world, Alias::Challenger, None).contains("when that rollout is over"));
        world.roll_out("2", quick());
        let id = world.state.rollouts.keys().next().unwrap().to_string();
        for alias in [Alias::Champion, Alias::Challenger] {
            for to in [Some("1"), Some("2"), None] {
                assert!(said(&world, alias, to).contains(&format!("leeway rollout show {id}")), "{alias:?} {to:?}");
            }
        }
    }
}
