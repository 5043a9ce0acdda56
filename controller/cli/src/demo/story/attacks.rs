//! What must not get through: sabotaged weights, a flipped byte, a stranger's signature. And a controller that dies in between.
use leeway_protocol::time::Timestamp;

use super::*;

/// The sabotaged release.
const BAD: &str = "2.0.0";
/// The honest release after it.
const GOOD: &str = "2.1.0";
/// Years of readings that the honest release learns from.
const LESSON_YEARS: i64 = 6;

impl Story {
    /// A release that passes its own self-test and decides the opposite.
    pub(super) async fn a_sabotaged_release(&mut self) -> Outcome {
        self.tale.chapter("A sabotaged release, properly signed");
        self.watch.new_chapter();
        let honest = self.teach_latest(BAD, "a release from a build machine that somebody else controls").await?;
        let bad = sabotage(&honest, BAD)?;
        publish(&self.shop, &bad)?;
        let id = self.roll_out(BAD, "looks like any other release").await?;
        self.fleet.aim_for(usize::MAX);
        let cap = (self.stations.len() as f64 * 0.05).floor().max(1.0) as usize;
        let touched = self.fleet.wait_until(PATIENCE, |views| views.iter().any(|v| runs(v, BAD))).await;
        let first_exposed = now();
        // Watched at the stations themselves, not at the controller.
        let restored = self.fleet.wait_until(PATIENCE, |views| !views.iter().any(|v| runs(v, BAD))).await;
        let last_restored = now();
        let verdict = self.until_over(&id).await? == "rolled_back";
        let decided = self.watch.of("rollout.moved", &id).find(|e| e.data.to_string().contains("regress")).map_or(last_restored, |e| e.at);
        let secs = |from: Timestamp, to: Timestamp| to.millis_since(from).max(0) as f64 / 1000.0;
        let (to_verdict, to_restored) = (secs(first_exposed, decided), secs(decided, last_restored));
        let ever = exposed(&self.fleet.views(), BAD);
        self.tale.claim(touched && verdict, &format!("the canary caught it {to_verdict:.1} s after the first station ran it"));
        self.tale.claim(restored, &format!("{to_restored:.1} s from the verdict until the last station was back on its last known good"));
        self.tale.claim(
            ever >= 1 && ever <= cap,
            &format!("{ever} of {} stations were ever exposed to it; the canary's share is {cap}", self.stations.len()),
        );
        Ok(())
    }

    /// An honest release meets a corrupting mirror, a stranger, and a controller that is killed on the way.
    pub(super) async fn attacks_and_a_crash(&mut self) -> Outcome {
        self.tale.chapter("A flipped byte, a stranger, and a killed controller");
        self.watch.new_chapter();
        let good = self.teach_latest(GOOD, "an honest release by a person, from the latest years").await?;
        publish(&self.shop, &good)?;
        self.a_strangers_upload(&good);
        let (mirrored, courted) = self.two_stations()?;
        self.fleet.flip_downloads(&mirrored, true);
        let id = self.roll_out(GOOD, "an honest release").await?;
        self.fleet.aim_for(usize::MAX);
        self.a_strangers_assignment(&courted).await?;
        self.kill_in_the_middle(&id).await?;
        let end = Instant::now() + PATIENCE;
        while !refused(&self.fleet, &mirrored, &Code::DigestMismatch) && Instant::now() < end {
            self.pass_time().await?;
        }
        let said = sentence(&self.fleet, &mirrored, &Code::DigestMismatch);
        self.tale
            .claim(said.is_some(), &format!("{mirrored} got one flipped byte from its mirror and refused: {}", said.unwrap_or_default()));
        self.fleet.flip_downloads(&mirrored, false);
        let ended = self.until_over(&id).await?;
        self.tale.claim(
            ended == "completed",
            &format!("the rollout of {GOOD} that the dead controller left behind ended {ended} after its restart"),
        );
        Ok(())
    }

    /// A role signed by a key nobody listed: the controller takes it no more than a device would.
    fn a_strangers_upload(&mut self, good: &Lesson) {
        let stranger = SigningKey::from_seed(&[7; 32]);
        let mut forged = good.clone();
        forged.manifest.version = "6.6.6".parse().unwrap_or_else(|_| good.manifest.version.clone());
        let shop = &self.shop;
        let sent = tokio::task::block_in_place(|| {
            release::publish(&shop.client, &shop.keys.image_root, &stranger, &Release::of(&forged.model), &forged.manifest, now())
        });
        let said = sent.err().map(|e| e.to_string());
        self.tale.claim(said.is_some(), &format!("the controller refused a release signed by a stranger: {}", said.unwrap_or_default()));
    }

    /// An assignment signed by a stranger, as a hostile broker would deliver it.
    async fn a_strangers_assignment(&mut self, station: &DeviceId) -> Outcome {
        use leeway_protocol::assignment::{AssignedRelease, Assignment, Intent, target_path};
        use leeway_protocol::ids::Generation;
        use leeway_protocol::trust::director::{DirectedTarget, sign};
        let manifest = &self.first.manifest;
        let path = target_path(&manifest.line, false, &manifest.version);
        let generation = Generation(1_000_000);
        let assignment = Assignment {
            v: 1,
            device: station.clone(),
            generation,
            intent: Intent::Install,
            release: Some(AssignedRelease { path: path.clone(), line: manifest.line.clone(), version: manifest.version.clone() }),
            rollout: None,
            reason: "because a stranger says so".to_owned(),
            issued_at: now(),
            spread_ms: 0,
            window: None,
            shadow: leeway_protocol::assignment::Shadow::default(),
            probation: leeway_protocol::assignment::Probation::default(),
            windows: leeway_protocol::assignment::Windows::default(),
            capture: leeway_protocol::assignment::CapturePolicy::default(),
            avoid: Vec::new(),
        };
        let target = DirectedTarget { path, sha256: manifest.model.digest, length: manifest.model.length };
        let stranger = SigningKey::from_seed(&[9; 32]);
        let document =
            sign(station, generation, &assignment, Some(&target), now().plus_secs(3600), &stranger).during("forging an assignment")?;
        self.fleet.show_desired(station, document).await;
        let said = |fleet: &FleetHandle| {
            let view = fleet.view(station)?;
            let logged = view.sentences.iter().find(|s| s.contains("sign")).cloned();
            view.refusals.iter().find(|r| r.reason.code == Code::SignatureInvalid).map(|r| r.reason.to_string()).or(logged)
        };
        let end = Instant::now() + PATIENCE;
        while said(&self.fleet).is_none() && Instant::now() < end {
            self.pass_time().await?;
        }
        let said = said(&self.fleet);
        self.tale.claim(
            said.is_some(),
            &format!("{station} was shown an assignment signed by a stranger and refused: {}", said.unwrap_or_default()),
        );
        Ok(())
    }

    /// kill -9 while some stations have the new release and others do not.
    async fn kill_in_the_middle(&mut self, id: &str) -> Outcome {
        let total = self.stations.len();
        self.fleet.wait_until(PATIENCE, |views| (1..total).contains(&exposed(views, GOOD))).await;
        let before = exposed(&self.fleet.views(), GOOD);
        self.shop.kill_controller();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let started = Instant::now();
        tokio::task::block_in_place(|| self.shop.start_controller())?;
        let rollout: Rollout = self.shop.look(&format!("/api/v1/rollouts/{id}"))?;
        let phase = rollout.summary.phase;
        self.tale.claim(
            phase == "running" || phase == "completed",
            &format!(
                "the controller was killed with {before} of {total} stations on {GOOD}; back after {:.1} s, the rollout is {phase}",
                started.elapsed().as_secs_f64()
            ),
        );
        Ok(())
    }

    /// An honest model from the years just lived, as a person would train it.
    async fn teach_latest(&mut self, version: &str, reason: &str) -> Outcome<Lesson> {
        self.until_quiet().await?;
        let today = self.fleet.day();
        let from = self.weather.first_of(Weather::year(today) - LESSON_YEARS);
        let subject = Subject { line: &self.shop.line, version, days: from..today, parent: None, reason };
        let dir = tempfile::tempdir().during("making a temporary folder")?;
        teach(&self.shop.runner, dir.path(), &self.weather, &subject, now()).await
    }

    /// Two sound stations of the fleet: one for the mirror, one for the stranger.
    fn two_stations(&self) -> Outcome<(DeviceId, DeviceId)> {
        let mut ids = self.stations.iter().filter(|s| s.broken.is_none()).map(|s| s.id.clone());
        let few = || Failure::new("the fleet is too small");
        Ok((ids.next().ok_or_else(few)?, ids.next().ok_or_else(few)?))
    }
}

fn refused(fleet: &FleetHandle, station: &DeviceId, code: &Code) -> bool {
    sentence(fleet, station, code).is_some()
}

fn sentence(fleet: &FleetHandle, station: &DeviceId, code: &Code) -> Option<String> {
    let view = fleet.view(station)?;
    view.refusals.iter().find(|r| r.reason.code == *code).map(|r| r.reason.code.sentence().to_owned())
}
