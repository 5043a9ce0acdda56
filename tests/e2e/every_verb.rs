//! An operator's week: a rollout through every verb, beside it one that a person aborts, one that evidence stops, and one with an
//! alarm; and the controller is killed in each state that a rollout can be in.
//!
//! What the story holds on to: after each kill the rollout is where it was, at the same revision; nothing is told twice or lost;
//! in the end every device runs what it should. `LEEWAY_DEVICES=300` lives it with a larger fleet; `LEEWAY_SLOWLY=SECONDS` waits after
//! each step, for somebody who watches the page.
use std::process::Command;
use std::time::Duration;

use leeway_controller::io::web::resource::rollout::Rollout;
use leeway_controller::rollout::Action;
use leeway_firmware_sim::io::fleet::FleetHandle;
use leeway_firmware_sim::sensor::{Break, Fault};
use leeway_tests::api::Answer;
use leeway_tests::harness::{Running, program, wait_for};
use leeway_tests::hostile::{WIND, fails_without_wind, flood};
use leeway_tests::lesson::teach;
use leeway_tests::site::{Site, Told, quick_policy};
use leeway_tests::stations::{Station, stations_of};
use serde_json::{Value, json};

/// One station in so many has a wind gauge that reads too little.
const BROKEN_EVERY: u32 = 6;
/// Longer than any story: such a stage ends by a person's word only.
const LONG: &str = "1h";

struct Operator {
    site: Site,
    devices: u32,
    slowly: Duration,
    /// The second pair of eyes.
    approver: String,
    watching: Vec<(String, Running)>,
}

fn number(name: &str, otherwise: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

impl Operator {
    fn new() -> Self {
        let site = Site::started("rain");
        site.configure();
        let made = site.leeway(&["token", "create", "--name", "ann", "--owner", "ann", "--scope", "approver", "--json"]).ok().json();
        let approver = made["token"].as_str().expect("a token").to_owned();
        let slowly = Duration::from_secs(u64::from(number("LEEWAY_SLOWLY", 0)));
        eprintln!("the page: {} · the token: {}", site.api().base(), site.path("controller/admin.token").display());
        Self { site, devices: number("LEEWAY_DEVICES", 36), slowly, approver, watching: Vec::new() }
    }

    fn fleet(&self, runtime: &tokio::runtime::Runtime) -> FleetHandle {
        let one = |index: u32| {
            let gauge = Break { feature: WIND, from_day: 0, fault: Fault::Offset(-6.0) };
            let labels = [("hw", ["rev-a", "rev-b", "rev-c"][index as usize % 3]), ("site", ["river", "town"][index as usize % 2])];
            Station {
                labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                broken: index.is_multiple_of(BROKEN_EVERY).then_some(gauge),
            }
        };
        let fleet = runtime.block_on(stations_of(&self.site, (0..self.devices).map(one).collect(), 2_000));
        fleet.aim_for(usize::MAX);
        fleet
    }

    fn broken(&self) -> u32 {
        self.devices.div_ceil(BROKEN_EVERY)
    }

    /// A verb on the command line, as the administrator, who is the author of every rollout here.
    fn verb(&self, args: &[&str]) -> Told {
        let told = self.site.leeway(&[&["rollout"], args].concat());
        eprintln!("$ leeway rollout {}\n  [{}] {}{}", args.join(" "), told.code, told.out.trim(), told.err.trim());
        std::thread::sleep(self.slowly);
        told
    }

    fn verb_of_ann(&self, args: &[&str]) -> Told {
        let mut command = Command::new(program("leeway"));
        command.arg("rollout").args(args).env("LEEWAY_URL", self.site.api().base()).env("LEEWAY_TOKEN", &self.approver);
        Told::by(command.env("XDG_CONFIG_HOME", self.site.path("no-settings")).env("NO_COLOR", "1"))
    }

    fn file(&self, name: &str, spec: &Value) -> String {
        let file = self.site.path(&format!("{name}.json"));
        let document = json!({ "apiVersion": "leeway/v1", "kind": "Rollout", "metadata": { "name": name }, "spec": spec });
        std::fs::write(&file, document.to_string()).expect("a file");
        file.display().to_string()
    }

    fn see(&self, id: &str) -> Rollout {
        self.site.rollout(id).expect("the rollout")
    }

    fn until(&self, id: &str, what: &str, holds: impl Fn(&Rollout) -> bool) -> Rollout {
        wait_for(&format!("rollout {id}: {what}"), || {
            let seen = self.site.rollout(id)?;
            let now = || format!("{} stage {}: {} {}", seen.summary.phase, seen.summary.stage, seen.summary.sentence, seen.next);
            if holds(&seen) { Ok(seen) } else { Err(now()) }
        })
    }

    /// Kill the controller with the rollout as it is; it must be there again, and no verb be lost.
    fn killed_while(&mut self, id: &str, phase: &str) {
        let before = self.see(id);
        assert_eq!(before.summary.phase, phase, "{id}: {}", before.summary.sentence);
        self.shows_its_verbs(&before);
        self.site.kill();
        self.site.start();
        let after = self.see(id);
        assert!(after.revision >= before.revision, "{id} was at revision {} and is at {}", before.revision, after.revision);
        if after.revision == before.revision {
            assert_eq!((&after.summary.phase, after.summary.stage), (&before.summary.phase, before.summary.stage));
        }
        // One that is shown is written a few milliseconds later; a device says it again when it is connected again.
        self.until(id, "nobody is forgotten", |r| r.summary.exposed >= before.summary.exposed);
        eprintln!("killed while {phase} (revision {}), back as {} (revision {})", before.revision, after.summary.phase, after.revision);
        std::thread::sleep(self.slowly);
    }

    /// The page offers what the state allows, and nothing else.
    fn shows_its_verbs(&self, rollout: &Rollout) {
        let page = self.site.api().get(&format!("/rollouts/{}", rollout.summary.id)).and_then(Answer::ok).expect("its page").text();
        for verb in Action::ALL.map(Action::as_str) {
            let offered = page.contains(&format!("action=\"/rollouts/{}/{verb}\"", rollout.summary.id));
            let allowed = rollout.allowed_actions.iter().any(|action| action == verb);
            assert_eq!(offered, allowed, "{verb} on the page of a rollout that is {}", rollout.summary.phase);
        }
    }

    /// Follow it in a terminal, until it is over.
    fn watch(&mut self, id: &str) {
        let log = self.site.path(&format!("watch-{id}.log"));
        let mut command = Command::new(program("leeway"));
        command.args(["rollout", "watch", id]).env("LEEWAY_URL", self.site.api().base()).env("LEEWAY_TOKEN", self.site.api().token());
        self.watching.push((id.to_owned(), Running::start(command.env("NO_COLOR", "1"), &log).expect("it starts")));
    }

    /// What the terminal showed in the end.
    fn watched(&mut self, id: &str, code: i32) -> String {
        let place = self.watching.iter().position(|(watched, _)| watched == id).expect("it is watched");
        let (_, mut terminal) = self.watching.swap_remove(place);
        let ended = wait_for("the terminal has seen the end", || terminal.ended().ok_or_else(|| terminal.log()));
        assert_eq!(ended.code(), Some(code), "{}", terminal.log());
        eprintln!("--- leeway rollout watch {id}\n{}---", terminal.log());
        terminal.log()
    }

    fn until_all_run(&self, version: &str, count: u32) {
        wait_for(&format!("{count} devices run {version}"), || {
            let list = self.site.api().get("/api/v1/devices?limit=1000")?.ok()?.json();
            let running = list["items"].as_array().into_iter().flatten().filter(|d| d["version"] == version).count();
            if running == count as usize { Ok(()) } else { Err(format!("{running} do")) }
        });
    }
}

fn stage(name: &str, share: f64, soak: &str) -> Value {
    json!({ "name": name, "share": share, "soak": soak, "deadline": "2h" })
}

/// Four stages, of which only the last ends by itself, and that only once it is amended.
fn policy() -> Value {
    let mut policy = quick_policy();
    policy["stages"] = json!([stage("canary", 0.1, LONG), stage("half", 0.5, LONG), stage("most", 0.7, LONG), stage("all", 1.0, LONG)]);
    policy["stages"][1]["require_approval"] = true.into();
    policy["require_approval"] = true.into();
    policy["control_share"] = 0.2.into();
    policy["balance_by"] = "hw".into();
    // Stations with a broken gauge are right less often, and chance decides on which side there are more of them.
    policy["gate"]["guardrails"] = json!([{ "metric": "error_ratio" }, { "metric": "device_failures", "need": "if_seen" }]);
    policy
}

#[test]
fn every_verb_is_heard_and_every_state_survives_a_kill() {
    let mut op = Operator::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let fleet = op.fleet(&runtime);
    op.site.publish(&teach("rain", "1.0.0", 0..900, "the first model"));
    let first = op.site.roll_out("1.0.0");
    assert_eq!(op.site.until_over(&first), "completed");
    let second = teach("rain", "2.0.0", 0..1_500, "more data");
    op.site.publish(&second);
    through_every_verb(&mut op);

    op.site.publish(&teach("rain", "3.0.0", 0..1_600, "still more data"));
    aborted_by_a_person(&mut op);
    op.site.publish(&flood(&teach("rain", "4.0.0", 0..1_500, "goes bad in the field")));
    stopped_by_evidence(&mut op);
    op.site.publish(&fails_without_wind(&teach("rain", "5.0.0", 0..1_500, "needs a sound gauge")));
    alarmed_and_waved_through(&mut op);

    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), fleet.shutdown()).await }).expect("the stations end");
    op.site.assert_chain();
    op.site.assert_calm();
}

fn through_every_verb(op: &mut Operator) {
    let mut spec = json!({ "line": "rain", "version": "2.0.0", "reason": "a rollout by the book", "policy": policy() });
    let file = op.file("book", &spec);
    assert!(op.site.leeway(&["apply", "-f", &file]).ok().out.contains("created"));
    op.watch("book");
    assert_eq!(op.see("book").summary.exposed, 0);
    op.killed_while("book", "planned");
    assert_ne!(op.verb(&["approve", "book", "--reason", "my own idea"]).code, 0, "the author cannot approve");
    let _ = op.verb_of_ann(&["approve", "book", "--reason", "read and understood"]).ok();
    op.until("book", "running", |r| r.summary.phase == "running");
    op.killed_while("book", "running");
    op.until("book", "its canaries run it", |r| r.summary.exposed >= u64::from(op.devices) / 10);

    let before = op.see("book").revision;
    let _ = op.verb(&["pause", "book", "--reason", "a storm is coming", "--if-revision", &before.to_string()]).ok();
    assert_eq!(op.verb(&["resume", "book", "--reason", "looked away", "--if-revision", &before.to_string()]).code, 6, "out of date");
    op.killed_while("book", "paused");
    assert_eq!(op.verb(&["pause", "book", "--reason", "once more"]).code, 6, "it is paused already");
    let _ = op.verb(&["resume", "book", "--reason", "the storm is over"]).ok();
    op.killed_while("book", "running");

    assert_ne!(op.verb(&["promote", "book", "--reason", "in a hurry"]).code, 0, "the next stage is not approved");
    let _ = op.verb_of_ann(&["approve", "book", "--reason", "canaries look well"]).ok();
    let _ = op.verb(&["promote", "book", "--reason", "seen enough"]).ok();
    op.until("book", "half of the fleet runs it", |r| r.summary.stage == 2 && r.summary.exposed >= u64::from(op.devices) / 2);
    op.killed_while("book", "running");

    spec["policy"]["stages"][3] = stage("all", 1.0, "200ms");
    let file = op.file("book", &spec);
    let unseen = op.site.leeway(&["apply", "-f", &file]);
    assert!(unseen.code == 6 && unseen.err.contains("say that you looked"), "a running rollout is not changed blindly: {unseen:?}");
    let revision = op.see("book").revision.to_string();
    assert!(op.site.leeway(&["apply", "-f", &file, "--if-revision", &revision]).ok().out.contains("amended"));
    assert!(op.site.leeway(&["apply", "-f", &file]).ok().out.contains("unchanged"));
    let _ = op.verb(&["promote", "book", "--full", "--reason", "the rest at once"]).ok();
    op.until("book", "the last stage", |r| r.summary.stage == 4 || r.summary.phase == "completed");
    assert_eq!(op.site.until_over("book"), "completed");
    op.killed_while("book", "completed");
    op.until_all_run("2.0.0", op.devices);
    let seen = op.watched("book", 0);
    for (stage, end) in [("canary", "promoted"), ("half", "promoted"), ("most", "skipped"), ("all", "passed")] {
        let line = seen.lines().rfind(|line| line.contains("# stage ") && line.contains(stage)).unwrap_or_default();
        assert!(line.contains(end), "stage {stage} was {end}: {seen}");
    }
    let trail = op.site.leeway(&["events", "--subject", "rollouts/book", "--json"]).ok().out;
    let reasons =
        ["read and understood", "a storm is coming", "the storm is over", "canaries look well", "seen enough", "the rest at once"];
    reasons.iter().for_each(|reason| assert!(trail.contains(reason), "{reason} is not in the audit trail"));
}

/// By the line's own quick policy, but for a soak that does not end.
fn begin(op: &mut Operator, version: &str, id: &str, change: impl FnOnce(&mut Value)) {
    let mut policy = quick_policy();
    policy["control_share"] = 0.2.into();
    change(&mut policy);
    let spec = json!({ "line": "rain", "version": version, "reason": "another week", "policy": policy });
    let file = op.file(id, &spec);
    let _ = op.verb(&["create", "-f", &file]).ok();
    op.watch(id);
}

fn aborted_by_a_person(op: &mut Operator) {
    begin(op, "3.0.0", "regretted", |policy| policy["stages"][0] = stage("first", 0.34, LONG));
    op.until("regretted", "some run it", |r| r.summary.exposed >= u64::from(op.devices) / 4);
    let _ = op.verb(&["abort", "regretted", "--reason", "the wrong week"]).ok();
    let phase = op.see("regretted").summary.phase;
    assert!(["rolling_back", "aborted"].contains(&phase.as_str()), "{phase}");
    op.killed_while("regretted", &phase);
    assert_eq!(op.site.until_over("regretted"), "aborted");
    op.killed_while("regretted", "aborted");
    op.until_all_run("2.0.0", op.devices);
    let _ = op.watched("regretted", 3);
    let version = op.site.leeway(&["model", "show", "rain", "3.0.0", "--json"]).ok().out;
    assert!(!version.contains("poisoned\""), "a person's abort condemns no version: {version}");
}

fn stopped_by_evidence(op: &mut Operator) {
    begin(op, "4.0.0", "flooded", |_| ());
    let seen = op.until("flooded", "it goes back", |r| ["rolling_back", "rolled_back"].contains(&r.summary.phase.as_str()));
    let phase = op.see("flooded").summary.phase;
    op.killed_while("flooded", &phase);
    assert_eq!(op.site.until_over("flooded"), "rolled_back", "{}", seen.summary.sentence);
    op.killed_while("flooded", "rolled_back");
    op.until_all_run("2.0.0", op.devices);
    let _ = op.watched("flooded", 3);
    let again = op.verb(&["create", "--line", "rain", "--version", "4.0.0", "--id", "again"]);
    assert!(again.code != 0 && again.err.contains("4.0.0"), "a poisoned version is not brought out again: {again:?}");
}

fn alarmed_and_waved_through(op: &mut Operator) {
    begin(op, "5.0.0", "alarmed", |policy| {
        policy["gate"] = json!({ "min_inferences": 20, "lost_after": LONG, "max_failed": 100_000, "guardrails": [] });
        policy["abort"] = json!([{ "failure": "failed_by_model", "threshold_share": 0.01, "min_executed": 1, "action": "pause" }]);
        policy["slice_by"] = json!([]);
        policy["stages"] = json!([{ "name": "all", "share": 1.0, "soak": "200ms", "deadline": "2h", "success_share": 0.5 }]);
    });
    op.until("alarmed", "paused by its alarm", |r| r.summary.phase == "paused");
    op.killed_while("alarmed", "paused");
    assert_eq!(op.verb(&["dismiss", "alarmed", "--reason", "known", "--check", "devices"]).code, 6, "no data would be a pass");
    let told = |op: &Operator| op.site.events(0).iter().filter(|e| e.kind == "device.desired" && e.sentence.contains("alarmed")).count();
    let before = told(op);
    let _ = op.verb(&["retry", "alarmed", "--reason", "somebody swept the gauges"]).ok();
    let _ = op.verb(&["dismiss", "alarmed", "--reason", "these gauges are known", "--check", "abort_failed_by_model"]).ok();
    let _ = op.verb(&["resume", "alarmed", "--reason", "looked at them"]).ok();
    wait_for("a failed device is told again", || if told(op) > before { Ok(()) } else { Err(format!("{before} were told, no more")) });
    // A device that fails beside those that were waved through raises the alarm once more.
    let phase = wait_for("it is over", || {
        let seen = op.site.rollout("alarmed")?;
        if seen.summary.phase == "paused" {
            let _ = op.verb(&["dismiss", "alarmed", "--reason", "these too", "--check", "abort_failed_by_model"]);
            let _ = op.verb(&["resume", "alarmed", "--reason", "looked at them, too"]);
        }
        if seen.summary.phase == "completed" { Ok(seen.summary.phase) } else { Err(format!("{}: {}", seen.summary.phase, seen.next)) }
    });
    assert_eq!(phase, "completed");
    op.until_all_run("5.0.0", op.devices - op.broken());
    let _ = op.watched("alarmed", 0);
}
