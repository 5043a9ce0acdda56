//! Years pass: the circle closes by itself, and one broken instrument is told apart from the weather.
use std::collections::BTreeSet;

use super::*;

/// Where the undisturbed part of the story ends.
const PEACE_UNTIL: i64 = 1974;

impl Story {
    /// From the first model to the first attack, without a person.
    pub(super) async fn years_pass(&mut self) -> Outcome {
        self.tale.chapter("Years pass, and nobody touches anything");
        self.watch.new_chapter();
        let until = self.weather.first_of(PEACE_UNTIL);
        self.live_until(until).await?;
        self.until_quiet().await?;
        let features: BTreeSet<String> =
            self.watch.of("drift.world", "").filter_map(|e| e.data.get("feature")?.as_str().map(str::to_owned)).collect();
        self.tale.claim(
            !features.is_empty(),
            &format!("the detector named what moved: {}", features.iter().cloned().collect::<Vec<_>>().join(", ")),
        );
        self.the_broken_instrument();
        Ok(())
    }

    /// One device's alarm, not the fleet's: a technician's job, not a trainer's.
    fn the_broken_instrument(&mut self) {
        let station = setup::station_name(setup::BROKEN % self.stations.len());
        let accused: BTreeSet<String> =
            self.watch.of("drift.instrument", "").filter_map(|e| e.data.get("device")?.as_str().map(str::to_owned)).collect();
        let right = accused.contains(&station);
        let others: Vec<&String> = accused.iter().filter(|a| **a != station).collect();
        self.tale.claim(
            right && others.is_empty(),
            &format!(
                "the broken {} of {station} was told apart from the weather; other stations accused: {}",
                setup::BROKEN_FEATURE,
                others.len()
            ),
        );
    }

    /// The circle closed without a person: what the trainer signed is what the fleet runs.
    pub(super) fn better_models(&mut self) -> Outcome {
        let jobs: Vec<Value> = self.shop.look("/api/v1/training/jobs")?;
        let published = jobs.iter().filter(|j| j.get("state").and_then(Value::as_str) == Some("published")).count();
        let views = self.fleet.views();
        let on_auto = views.iter().filter(|v| v.version().is_some_and(|v| v.as_str().starts_with("auto-"))).count();
        let total = views.len();
        self.tale.claim(
            published > 0,
            &format!(
                "{published} retrained models beat the champion on held-out days and were signed by the trainer ({} jobs asked for)",
                jobs.len()
            ),
        );
        self.tale.claim(on_auto == total, &format!("{on_auto} of {total} stations end on a retrained model that no person published"));
        Ok(())
    }

    /// Let days pass up to `day`, slower while a rollout needs to see what it does.
    pub(super) async fn live_until(&mut self, day: usize) -> Outcome {
        self.fleet.aim_for(day);
        let mut last = (self.fleet.day(), Instant::now());
        while self.fleet.day() < day {
            self.fleet.set_speed(if self.is_busy()? { ROLLOUT_SPEED } else { self.speed });
            self.pass_time().await?;
            let now = self.fleet.day();
            if now > last.0 {
                last = (now, Instant::now());
            }
            if last.1.elapsed() > PATIENCE {
                return Err(Failure::new("the days stood still for a minute"));
            }
        }
        Ok(())
    }
}
