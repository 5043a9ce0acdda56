//! The story, chapter by chapter. Each chapter does one thing, waits for its condition, and claims what it then saw.
use std::time::{Duration, Instant};

use leeway_controller::io::web::resource::event::EventList;
use leeway_controller::io::web::resource::rollout::Rollout;
use leeway_firmware_sim::io::enrol::Roots;
use leeway_firmware_sim::io::fleet::{FleetConfig, FleetHandle, StationConfig, start};
use leeway_firmware_sim::io::view::StationView;
use leeway_firmware_sim::weather::Weather;
use leeway_protocol::ids::DeviceId;
use leeway_protocol::reason::Code;
use leeway_protocol::trust::keyring::SigningKey;
use serde_json::{Value, json};

use super::lessons::{Lesson, Subject, sabotage, teach};
use super::tale::Tale;
use super::watch::Watch;
use super::workshop::Workshop;
use super::{Demo, setup, table};
use crate::failure::{During, Failure, Outcome};
use crate::release::Release;
use crate::{keys, now, release};

mod attacks;
mod years;

/// The first model learns from the years before this one; the stations start in it.
const FIRST_YEAR: i64 = 1954;
/// The year from which on an instrument breaks, at a moment when every station knows how it differs from the others.
const BREAK_YEAR: i64 = 1961;
/// If there was no such moment before this year, it breaks anyway.
const LATEST_BREAK: i64 = 1974;
/// Within so many days the broken instrument is to be found.
const FOUND_WITHIN: usize = 2 * 365;
/// From here to the end of the archive no better model is asked for, so that what is under way can end.
const LAST_DAYS: usize = 3 * 365;
/// Speed while a rollout is under way: its evidence comes from these days.
const ROLLOUT_SPEED: f64 = 60.0;
/// How long any single thing may take before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the world is looked at.
const LOOK: Duration = Duration::from_millis(150);

/// Everything the chapters share.
struct Story {
    tale: Tale,
    watch: Watch,
    shop: Workshop,
    weather: Weather,
    stations: Vec<StationConfig>,
    fleet: FleetHandle,
    first: Lesson,
    speed: f64,
    /// The last day on which a rollout was under way.
    calm_since: usize,
}

/// Tell the story; whether every claim held.
pub async fn tell(args: &Demo) -> Outcome<bool> {
    let mut story = prologue(args).await?;
    let first_day = story.weather.first_of(FIRST_YEAR);
    story.first_model_reaches_the_fleet().await?;
    story.years_pass().await?;
    story.a_sabotaged_release().await?;
    story.attacks_and_a_crash().await?;
    story.the_world_changes().await?;
    story.reckoning(first_day)?;
    story.tale.conclude();
    let held = story.tale.holds();
    if !args.exit {
        println!("\nThe dashboard is at {}/ until Ctrl-C.", story.shop.client.base());
        let _ = tokio::signal::ctrl_c().await;
    }
    story.fleet.shutdown().await;
    Ok(held)
}

/// Keys, the controller, the first model, the stations.
async fn prologue(args: &Demo) -> Outcome<Story> {
    let mut tale = Tale::begin();
    tale.chapter("Keys, a controller, a first model");
    let weather = Weather::bellevue().during("reading the weather")?;
    let mut shop = Workshop::open(args.data.as_deref(), args.port)?;
    tale.tell(&format!(
        "{} keys made: root and targets 2-of-3 offline, a release key, a trainer's key; the controller gets 3 online ones",
        shop.keys.keys.len()
    ));
    shop.start_controller()?;
    setup::configure(&shop)?;
    tale.tell(&format!("controller up: dashboard at {}/", shop.client.base()));
    let days = 0..weather.first_of(FIRST_YEAR);
    let reason = "the first model, from the archive of 1949 to 1953";
    let subject = Subject { line: &shop.line, version: "1.0.0", days, parent: None, reason };
    let dir = tempfile::tempdir().during("making a temporary folder")?;
    let first = teach(&shop.runner, dir.path(), &weather, &subject, now()).await?;
    grant_trainer(&shop, &first)?;
    publish(&shop, &first)?;
    let accuracy = first.manifest.lineage.metrics.get("holdout_accuracy").copied().unwrap_or_default();
    tale.tell(&format!(
        "rain 1.0.0 trained on {} days, accuracy {accuracy:.3} on held-out days, signed and published",
        weather.first_of(FIRST_YEAR)
    ));
    shop.start_trainer()?;
    tale.chapter("A fleet of weather stations");
    let stations = setup::stations(args.stations)?;
    let token: Value = shop.ask("/api/v1/enrolment-tokens", &json!({ "name": "demo fleet", "uses": args.stations, "ttl_ms": 600_000 }))?;
    let config = FleetConfig {
        stations: stations.clone(),
        controller_url: shop.client.base().to_owned(),
        broker: Some(("127.0.0.1".to_owned(), shop.mqtt())),
        enrol_token: token.get("token").and_then(Value::as_str).map(str::to_owned),
        roots: Some(Roots { image: shop.keys.image_root.clone(), director: shop.keys.director_root.clone() }),
        first_day: weather.first_of(FIRST_YEAR),
        days_per_second: ROLLOUT_SPEED,
        label_delay_days: 3,
        timing: setup::timing(),
    };
    let fleet = start(config).await.during("starting the stations")?;
    let online = fleet.wait_until(PATIENCE, |views| views.iter().all(|v| v.online)).await;
    tale.claim(
        online,
        &format!("{} stations in {} cohorts made their own keys, enrolled and came online", stations.len(), setup::COHORTS.len()),
    );
    let calm_since = weather.first_of(FIRST_YEAR);
    Ok(Story { tale, watch: Watch::default(), shop, weather, stations, fleet, first, speed: args.speed, calm_since })
}

/// The people's half of the circle closing by itself: the trainer may release models with these inputs and outputs.
fn grant_trainer(shop: &Workshop, first: &Lesson) -> Outcome {
    let signers = [shop.key("targets-1")?, shop.key("targets-2")?];
    let bytes = keys::next_targets(&shop.keys.image_targets, &signers, now(), |t| t.grant_trainer(&shop.line, first.manifest.io_digest()))?;
    tokio::task::block_in_place(|| shop.client.send_bytes("/api/v1/tuf/targets", "application/json", &bytes)).map(drop)
}

fn publish(shop: &Workshop, lesson: &Lesson) -> Outcome {
    let key = shop.key(shop.line.as_str())?;
    let sent = || release::publish(&shop.client, &shop.keys.image_root, key, &Release::of(&lesson.model), &lesson.manifest, now());
    tokio::task::block_in_place(sent).map(drop)
}

impl Story {
    /// Model 1 goes out: canary first, as every release.
    async fn first_model_reaches_the_fleet(&mut self) -> Outcome {
        self.tale.chapter("Model 1 goes out");
        let id = self.roll_out("1.0.0", "the first model").await?;
        self.fleet.aim_for(usize::MAX);
        let ended = self.until_over(&id).await?;
        self.calm_since = self.fleet.day();
        let all = self.fleet.wait_until(PATIENCE, |views| views.iter().all(|v| runs(v, "1.0.0"))).await;
        self.tale.claim(
            ended == "completed" && all,
            &format!("canary, a quarter, all: {} stations run rain 1.0.0, verified on each", self.stations.len()),
        );
        Ok(())
    }

    /// Begin a rollout by hand, once nothing else is under way.
    async fn roll_out(&mut self, version: &str, reason: &str) -> Outcome<String> {
        self.until_quiet().await?;
        let body = json!({ "line": self.shop.line, "version": version, "reason": reason });
        let made: Rollout = serde_json::from_value(self.shop.ask("/api/v1/rollouts", &body)?).during("reading the new rollout")?;
        self.fleet.set_speed(ROLLOUT_SPEED);
        Ok(made.summary.id)
    }

    /// Wait until no rollout and no training is under way.
    async fn until_quiet(&mut self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while self.is_busy()? {
            if Instant::now() > end {
                return Err(Failure::new("the controller did not come to rest within a minute"));
            }
            self.pass_time().await?;
        }
        Ok(())
    }

    fn is_busy(&mut self) -> Outcome<bool> {
        let rollouts: Vec<Value> = self.shop.look("/api/v1/rollouts")?;
        let jobs: Vec<Value> = self.shop.look("/api/v1/training/jobs")?;
        let word = |v: &Value, field: &str| v.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let open_rollout = rollouts.iter().any(|r| ["planned", "running", "paused", "rolling_back"].contains(&word(r, "phase").as_str()));
        let open_job = jobs.iter().any(|j| ["queued", "running", "evaluating", "approved"].contains(&word(j, "state").as_str()));
        if open_rollout {
            self.calm_since = self.fleet.day();
        }
        Ok(open_rollout || open_job)
    }

    /// Wait until a rollout has ended, one way or the other; its last phase.
    async fn until_over(&mut self, id: &str) -> Outcome<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let rollout: Rollout = self.shop.look(&format!("/api/v1/rollouts/{id}"))?;
            let phase = rollout.summary.phase;
            if ["completed", "rolled_back", "aborted"].contains(&phase.as_str()) || Instant::now() > end {
                self.watch.look(&self.shop, &mut self.tale)?;
                return Ok(phase);
            }
            self.pass_time().await?;
        }
    }

    /// A moment passes; news is told.
    async fn pass_time(&mut self) -> Outcome {
        tokio::time::sleep(LOOK).await;
        self.shop.check()?;
        self.watch.look(&self.shop, &mut self.tale)?;
        let views = self.fleet.views();
        let (year, share) = (Weather::year(self.fleet.day()), accuracy_now(&views));
        self.tale
            .progress(&format!("{year} · {} stations online · accuracy this year {share:.3}", views.iter().filter(|v| v.online).count()));
        Ok(())
    }

    /// The years to 1998: the instruments of the whole place change in 1982, and the circle closes without a person.
    async fn the_world_changes(&mut self) -> Outcome {
        self.tale.chapter("The world changes, and the circle closes by itself");
        self.watch.new_chapter();
        let end = self.weather.days().len();
        self.live_until(end.saturating_sub(LAST_DAYS)).await?;
        setup::describe(&self.shop, false)?;
        self.tale.tell("The archive is nearly read: no better model is asked for any more, and what is under way ends.");
        // Slower than before, so that the days outlast whatever is still being rolled out: without days there is no evidence.
        self.live(end, ROLLOUT_SPEED / 2.0).await?;
        self.until_quiet().await?;
        self.better_models()
    }

    fn reckoning(&mut self, first_day: usize) -> Outcome {
        self.tale.chapter("What it came to");
        let views = self.fleet.views();
        let rows = table::years(&self.weather, &self.stations, &views, &self.first.formula, first_day);
        table::print(&rows);
        let late = table::sum(rows.range(1980..).map(|(_, row)| row));
        let (without, with) = (late.without.accuracy(), late.with.accuracy());
        self.tale.claim(with > without + 0.05, &format!("from 1980 on the fleet decides {with:.3} right, {without:.3} without updates"));
        let (low_year, low) =
            rows.range(1980..1990).map(|(year, row)| (*year, row.with.accuracy())).fold((0, 1.0), |a, b| if b.1 < a.1 { b } else { a });
        let after = table::sum(rows.range(low_year + 2..).map(|(_, row)| row)).with.accuracy();
        self.tale.claim(
            after > low + 0.03,
            &format!("accuracy fell to {low:.3} in {low_year} and recovered to {after:.3} over the years after"),
        );
        let log: EventList = self.shop.look("/api/v1/events?limit=1")?;
        self.tale.claim(log.chain.verified, &log.chain.sentence);
        Ok(())
    }
}

/// Whether a station's active model is this version, by its own proof of running.
fn runs(view: &StationView, version: &str) -> bool {
    view.version().is_some_and(|v| v.as_str() == version)
}

/// Stations on which a version ever answered the application.
fn exposed(views: &[StationView], version: &str) -> usize {
    views.iter().filter(|v| v.ever_ran.iter().any(|ran| ran.as_str() == version)).count()
}

/// Right decisions of all in the year that most stations are in.
fn accuracy_now(views: &[StationView]) -> f64 {
    let year = views.iter().map(|v| Weather::year(v.day)).min().unwrap_or_default();
    let lived = views.iter().filter_map(|v| v.years.get(&year));
    let (rows, correct) = lived.fold((0, 0), |(rows, correct), y| (rows + y.inferences, correct + y.correct));
    correct as f64 / rows.max(1) as f64
}
