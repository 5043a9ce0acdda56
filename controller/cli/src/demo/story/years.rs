//! Years pass: the circle closes by itself, and one broken instrument is told apart from the weather.
use std::collections::BTreeSet;

use super::*;

/// Days until an order has surely reached a station, at any speed of the replay.
const ORDER_DAYS: usize = 120;
/// Where the undisturbed part of the story ends.
const PEACE_UNTIL: i64 = 1974;

impl Story {
    /// From the first model to the first attack, without a person.
    pub(super) async fn years_pass(&mut self) -> Outcome {
        self.tale.chapter("Years pass, and nobody touches anything");
        self.watch.new_chapter();
        self.live_until(self.weather.first_of(BREAK_YEAR)).await?;
        self.an_instrument_breaks().await?;
        self.live_until(self.weather.first_of(PEACE_UNTIL)).await?;
        self.until_quiet().await?;
        let features: BTreeSet<String> =
            self.watch.of("drift.world", "").filter_map(|e| e.data.get("feature")?.as_str().map(str::to_owned)).collect();
        self.tale.claim(
            !features.is_empty(),
            &format!("the detector named what moved: {}", features.iter().cloned().collect::<Vec<_>>().join(", ")),
        );
        let innocent = self.accused().into_iter().filter(|a| *a != self.broken_station()).count();
        self.tale.claim(innocent == 0, &format!("sound stations whose instruments were accused in all these years: {innocent}"));
        Ok(())
    }

    fn broken_station(&self) -> String {
        setup::station_name(setup::BROKEN % self.stations.len())
    }

    /// It breaks when all stations run one model for long enough to know how each differs from the others; and then it is to be
    /// found soon. One that breaks while the base is learned anew would be part of that base.
    async fn an_instrument_breaks(&mut self) -> Outcome {
        let latest = self.weather.first_of(LATEST_BREAK);
        while (self.is_busy()? || self.fleet.day() < self.calm_since + setup::BASE_DAYS) && self.fleet.day() < latest {
            self.live_until(self.fleet.day() + setup::WINDOW as usize).await?;
        }
        let number = setup::BROKEN % self.stations.len();
        let broken = setup::breakage(self.fleet.views().iter().map(|v| v.day).max().unwrap_or_default() + ORDER_DAYS)?;
        let Some(station) = self.stations.get_mut(number) else { return Ok(()) };
        station.broken = Some(broken);
        let id = station.id.clone();
        self.fleet.break_instrument(&id, broken).await;
        self.tale.tell(&format!(
            "{}: the {} of {id} breaks and reads too much from now on. Nobody is told.",
            Weather::year(broken.from_day),
            setup::BROKEN_FEATURE
        ));
        while !self.accused().contains(id.as_str()) && self.fleet.day() < broken.from_day + FOUND_WITHIN {
            self.live_until(self.fleet.day() + setup::WINDOW as usize).await?;
        }
        self.the_broken_instrument(self.fleet.day().saturating_sub(broken.from_day));
        Ok(())
    }

    /// Stations that were said to have a broken instrument.
    fn accused(&self) -> BTreeSet<String> {
        self.watch.of("drift.instrument", "").filter_map(|e| e.data.get("device")?.as_str().map(str::to_owned)).collect()
    }

    /// One device's alarm, not the fleet's: a technician's job, not a trainer's.
    fn the_broken_instrument(&mut self, days: usize) {
        let station = self.broken_station();
        let found = self.accused().contains(&station);
        let feature = setup::BROKEN_FEATURE;
        self.tale.claim(found, &format!("the broken {feature} of {station} was told apart from the weather within {days} days"));
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
        self.live(day, ROLLOUT_SPEED).await
    }

    /// Let days pass up to `day`, at `busy_speed` while something is under way.
    pub(super) async fn live(&mut self, day: usize, busy_speed: f64) -> Outcome {
        self.fleet.aim_for(day);
        let mut last = (self.fleet.day(), Instant::now());
        while self.fleet.day() < day {
            let speed = if self.is_busy()? { busy_speed } else { self.speed };
            self.fleet.set_speed(speed);
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
