//! Episodes as the API shows them: one walk over a job, its data and its rollout, each step made once.
use super::Facts;
use crate::io::training::JobData;
use crate::io::web::resource::Level;
use crate::io::web::resource::episode::{Episode, EpisodeList, EpisodeStep, EpisodeSummary, Link, WithheldCause};
use crate::io::web::words;
use crate::planner::retrain::rollout_of;
use crate::registry::ModelLine;
use crate::retraining::job::{JobState, TrainingJob, Trigger};
use crate::retraining::trigger::Withheld;
use crate::rollout::{Rollout, RolloutState, Transition};
use leeway_protocol::ids::Version;
use leeway_protocol::time::Timestamp;

/// Steps of an episode, in order.
const STEPS: [&str; 8] = ["cause", "data", "run", "candidate", "evaluation", "shadow", "canary", "outcome"];
/// Changes of a rollout that are told of a step.
const MAX_DETAILS: usize = 12;

impl Facts<'_> {
    /// Every episode, and every cause that began none, newest first.
    pub(in crate::io::web) fn episodes(&self) -> EpisodeList {
        let mut episodes: Vec<EpisodeSummary> = self.snapshot.jobs.values().map(|job| self.episode_summary(job)).collect();
        episodes.sort_by(|a, b| b.began_at.cmp(&a.began_at).then_with(|| b.id.cmp(&a.id)));
        let mut withheld: Vec<WithheldCause> =
            self.snapshot.lines.values().flat_map(|line| line.withheld.iter().map(|w| withheld_cause(line, w))).collect();
        withheld.sort_by_key(|w| std::cmp::Reverse(w.at));
        EpisodeList { episodes, withheld }
    }

    fn episode_summary(&self, job: &TrainingJob) -> EpisodeSummary {
        let rollout = self.brought_out(job);
        let (step, level, sentence) = headline(job, rollout);
        EpisodeSummary {
            id: job.request.id.clone(),
            line: job.request.line.to_string(),
            cause: job.request.trigger.as_str().to_owned(),
            step: step.to_owned(),
            level,
            sentence,
            reason: job.request.reason.clone(),
            began_at: job.request.asked_at,
            updated_at: rollout.map_or(job.updated_at, |rollout| rollout.updated_at.max(job.updated_at)),
        }
    }

    fn brought_out(&self, job: &TrainingJob) -> Option<&Rollout> {
        let JobState::Published { version } = &job.state else { return None };
        rollout_of(self.snapshot, &job.request.line, version)
    }

    /// One episode.
    pub(in crate::io::web) fn episode(&self, id: &str, data: &JobData) -> Option<Episode> {
        let job = self.snapshot.jobs.get(id)?;
        let rollout = self.brought_out(job);
        let summary = self.episode_summary(job);
        let walk = Walk { job, data, rollout, version: self.version_of(job), why: self.why_not_out(job) };
        let mut steps: Vec<EpisodeStep> = STEPS.into_iter().map(|name| walk.step(name)).collect();
        settle(&mut steps, &summary, walk.is_over());
        let before = self.snapshot.jobs.values().filter(|other| other.request.line == job.request.line);
        let before = before.map(|other| other.request.asked_at).filter(|at| *at < job.request.asked_at).max();
        let within = |w: &&Withheld| w.at <= job.request.asked_at && before.is_none_or(|before| w.at > before);
        let line = self.snapshot.lines.get(&job.request.line);
        let withheld = line.map(|line| line.withheld.iter().rev().filter(within).map(|w| withheld_cause(line, w)).collect());
        Some(Episode { summary, steps, withheld: withheld.unwrap_or_default() })
    }

    fn version_of(&self, job: &TrainingJob) -> Option<(Version, Timestamp)> {
        let JobState::Published { version } = &job.state else { return None };
        let at = self.snapshot.version(&job.request.line, version).map_or(job.updated_at, |v| v.published_at);
        Some((version.clone(), at))
    }

    /// What the planner says of a version that no rollout has brought out.
    fn why_not_out(&self, job: &TrainingJob) -> Option<String> {
        let JobState::Published { version } = &job.state else { return None };
        let about = format!("Version {version} ");
        self.report.lines.get(&job.request.line)?.why.iter().find(|why| why.starts_with(&about)).cloned()
    }
}

fn withheld_cause(line: &ModelLine, withheld: &Withheld) -> WithheldCause {
    let limits = withheld.limits.iter().filter_map(|limit| serde_json::to_value(limit).ok()?.as_str().map(ToOwned::to_owned));
    WithheldCause {
        line: line.line.to_string(),
        at: withheld.at,
        cause: withheld.trigger.as_str().to_owned(),
        limits: limits.collect(),
        sentence: withheld.sentence.clone(),
    }
}

/// The step an episode is at or ended at, and how that is to be read.
fn headline(job: &TrainingJob, rollout: Option<&Rollout>) -> (&'static str, Level, String) {
    let sentence = || job.sentence();
    match (&job.state, rollout) {
        (JobState::Queued, _) => ("data", Level::Busy, sentence()),
        (JobState::Running { .. }, _) => ("run", Level::Busy, sentence()),
        (JobState::Evaluating { .. }, _) => ("evaluation", Level::Busy, sentence()),
        (JobState::Approved { .. }, _) => ("evaluation", Level::Busy, sentence()),
        (JobState::Lost { .. }, _) => ("evaluation", Level::Idle, sentence()),
        (JobState::Undecided { .. }, _) => ("evaluation", Level::Warn, sentence()),
        (JobState::Failed { .. }, _) => (if job.moved_to("evaluating").is_some() { "evaluation" } else { "run" }, Level::Bad, sentence()),
        (JobState::Published { .. }, None) => ("shadow", Level::Warn, sentence()),
        (JobState::Published { version }, Some(rollout)) => match &rollout.state {
            RolloutState::Planned => ("shadow", Level::Busy, format!("Version {version} waits for its rollout to begin.")),
            RolloutState::Running { stage, .. } | RolloutState::Paused { stage, .. } => {
                let name = rollout.spec.policy.stages.get(*stage).map_or("", |stage| stage.name.as_str());
                let paused = matches!(rollout.state, RolloutState::Paused { .. });
                let does = if paused { "is paused" } else { "is under way" };
                let level = if paused { Level::Warn } else { Level::Busy };
                let step = if *stage == 0 { "canary" } else { "outcome" };
                (step, level, format!("The rollout of version {version} {does}, in stage {name}."))
            }
            RolloutState::Completed { .. } => ("outcome", Level::Ok, format!("Version {version} is the champion of {}.", job.request.line)),
            RolloutState::RollingBack { reason, .. } | RolloutState::RolledBack { reason, .. } => {
                ("outcome", Level::Bad, format!("Version {version} was taken back: {reason}"))
            }
            RolloutState::Aborted { reason, .. } => {
                ("outcome", Level::Idle, format!("The rollout of version {version} was aborted: {reason}"))
            }
        },
    }
}

/// Steps before the one it is at are done, the ones after it are ahead, or not done where it is over.
fn settle(steps: &mut [EpisodeStep], summary: &EpisodeSummary, over: bool) {
    let at = STEPS.iter().position(|name| *name == summary.step).unwrap_or(0);
    for (i, step) in steps.iter_mut().enumerate() {
        (step.state, step.level) = match i.cmp(&at) {
            std::cmp::Ordering::Less => ("done".to_owned(), Level::Ok),
            std::cmp::Ordering::Equal if over => ("done".to_owned(), summary.level),
            std::cmp::Ordering::Equal => ("now".to_owned(), summary.level),
            std::cmp::Ordering::Greater if over => ("not-done".to_owned(), Level::Idle),
            std::cmp::Ordering::Greater => ("ahead".to_owned(), Level::Idle),
        };
        if step.sentence.is_empty() {
            step.sentence = match step.state.as_str() {
                "not-done" => format!("Not done: the episode ended with its {}.", summary.step),
                _ => "Not yet.".to_owned(),
            };
        }
    }
}

struct Walk<'a> {
    job: &'a TrainingJob,
    data: &'a JobData,
    rollout: Option<&'a Rollout>,
    version: Option<(Version, Timestamp)>,
    why: Option<String>,
}

impl Walk<'_> {
    fn is_over(&self) -> bool {
        match (&self.job.state, self.rollout) {
            (JobState::Published { .. }, Some(rollout)) => rollout.state.is_over(),
            (JobState::Published { .. }, None) => false,
            (state, _) => !state.is_open(),
        }
    }

    fn step(&self, name: &str) -> EpisodeStep {
        let (at, sentence, details, links) = match name {
            "cause" => self.cause(),
            "data" => self.made_of(),
            "run" => self.run(),
            "candidate" => self.candidate(),
            "evaluation" => self.evaluation(),
            "shadow" => self.shadow(),
            "canary" => self.canary(),
            _ => self.outcome(),
        };
        let (name, state, level) = (name.to_owned(), String::new(), Level::Idle);
        EpisodeStep { name, state, level, at, sentence, details, links }
    }

    fn cause(&self) -> Told {
        let request = &self.job.request;
        let line = &request.line;
        let mut details = request.evidence.clone();
        match &request.trigger {
            Trigger::Drift { .. } => {}
            Trigger::Asked { by } => details.push(format!("{by} asked for it.")),
            Trigger::Scheduled { .. } => details.push("The line's schedule asked for it.".to_owned()),
            Trigger::Called { by, source, key } => {
                let key = key.as_ref().map(|key| format!(" under the key {key}")).unwrap_or_default();
                details.push(format!("{source} called for it{key}, with a token of {by}."));
            }
        }
        if request.cost > 0 {
            details.push(format!("A run of this line is declared to cost {}.", request.cost));
        }
        let mut links = vec![link("Drift", format!("/drift?line={line}"))];
        links.extend(
            request.cohorts.iter().take(4).map(|cohort| link(&format!("Drift at {cohort}"), format!("/drift?line={line}&cohort={cohort}"))),
        );
        links.push(link(&format!("Champion then: {}", request.parent), format!("/models/{line}/versions/{}", request.parent)));
        links.push(link("Rows of the log", "/events?kind=retraining".to_owned()));
        (Some(request.asked_at), request.reason.clone(), details, links)
    }

    fn made_of(&self) -> Told {
        let at = self.job.moves.iter().find(|moved| moved.state == "running").map(|moved| moved.at);
        let Some(info) = &self.data.dataset else {
            let waits = matches!(self.job.state, JobState::Queued);
            let sentence = if waits { "The dataset is made when a worker takes the job up.".to_owned() } else { String::new() };
            return (None, sentence, Vec::new(), Vec::new());
        };
        let details = vec![
            format!("Training rows: {} ({}).", info.train_rows, info.train.digest),
            format!("Held-out rows: {} ({}).", info.holdout_rows, info.holdout.digest),
        ];
        (at, info.sentence.clone(), details, Vec::new())
    }

    fn run(&self) -> Told {
        let taken: Vec<_> = self.job.moves.iter().filter(|moved| moved.state == "running").collect();
        let mut details: Vec<String> =
            taken.iter().skip(1).map(|moved| format!("{}: taken up again. {}", moved.at, moved.sentence)).collect();
        if let Some(run) = &self.data.run {
            let url = run.url.as_ref().map(|url| format!(" It is shown at {url}.")).unwrap_or_default();
            details.push(format!("Done by {} as run {} ({}).{url}", run.executor, run.run, run.state));
        }
        let over = self.job.moved_to("evaluating").is_none();
        if let JobState::Failed { sentence } = &self.job.state
            && over
        {
            return (Some(self.job.updated_at), sentence.clone(), details, Vec::new());
        }
        let Some(first) = taken.first() else { return Told::default() };
        (Some(first.at), first.sentence.clone(), details, Vec::new())
    }

    fn candidate(&self) -> Told {
        let Some(candidate) = &self.data.candidate else { return Told::default() };
        let line = &self.job.request.line;
        let links = self.version.iter().map(|(v, _)| link(&format!("Version {v}"), format!("/models/{line}/versions/{v}")));
        let sentence = format!("The worker brought model {} with manifest {}.", candidate.model.short(), candidate.manifest.digest.short());
        (self.job.moved_to("evaluating").map(|moved| moved.at), sentence, Vec::new(), links.collect())
    }

    fn evaluation(&self) -> Told {
        let Some(comparison) = &self.data.comparison else {
            let sentence = match &self.job.state {
                JobState::Evaluating { .. } => "It is tried out, and champion and challenger answer the same held-out rows.".to_owned(),
                JobState::Failed { sentence } if self.job.moved_to("evaluating").is_some() => sentence.clone(),
                _ => String::new(),
            };
            return (None, sentence, Vec::new(), Vec::new());
        };
        let judged = self.job.moves.iter().rev().find(|moved| matches!(moved.state.as_str(), "approved" | "lost" | "undecided"));
        let points = |x: f64| format!("{:+.1}", x * 100.0);
        let mut details: Vec<String> = comparison
            .slices
            .iter()
            .map(|(name, (mean, low, high))| {
                let small = comparison.small.get(name).map(|days| format!("; {days} days are too few to judge it")).unwrap_or_default();
                format!("{}: {} points ({} to {}){small}.", words::capital(name), points(*mean), points(*low), points(*high))
            })
            .collect();
        let classes = comparison.cost.iter().flat_map(|cost| &cost.classes);
        details.extend(classes.map(|on| {
            let (now, then) = (words::micros(on.class.p95_us), words::micros(on.estimated_us));
            format!("{}: about {then} instead of {now} ({} devices heard).", on.class.name, on.class.devices)
        }));
        if let JobState::Failed { sentence } = &self.job.state {
            details.push(sentence.clone());
        }
        if let Some((version, at)) = &self.version {
            details.push(format!("Signed by the trainer as version {version} at {at}."));
        }
        (judged.map(|moved| moved.at), comparison.sentence.clone(), details, Vec::new())
    }

    fn shadow(&self) -> Told {
        let Some(rollout) = self.rollout else {
            return (None, self.why.clone().unwrap_or_default(), Vec::new(), Vec::new());
        };
        let shadow = rollout.spec.policy.settings.shadow;
        let sentence = match shadow.min_inferences {
            0 => "Skipped: the line's policy asks for no shadow run.".to_owned(),
            n => format!(
                "Each device runs it beside the champion for {n} inferences first, for {} at most, and answers with the champion.",
                words::duration(shadow.max_ms)
            ),
        };
        (did(rollout, "start").map(|t| t.at), sentence, Vec::new(), vec![rollout_link(rollout)])
    }

    fn canary(&self) -> Told {
        let Some(rollout) = self.rollout else { return Told::default() };
        let Some(begun) = did(rollout, "start") else { return (None, String::new(), Vec::new(), vec![rollout_link(rollout)]) };
        let ends = ["advance", "complete", "promote", "promote-all", "roll back", "abort"];
        let passed = rollout.transitions.iter().find(|t| ends.contains(&t.did.as_str()));
        let name = rollout.spec.policy.stages.first().map_or("", |stage| stage.name.as_str());
        let sentence = passed.map_or_else(|| format!("Stage {name} runs: {}", begun.sentence), |t| t.sentence.clone());
        (Some(passed.map_or(begun.at, |t| t.at)), sentence, Vec::new(), vec![rollout_link(rollout)])
    }

    fn outcome(&self) -> Told {
        let Some(rollout) = self.rollout else { return Told::default() };
        let all = &rollout.transitions;
        let details = all.iter().skip(all.len().saturating_sub(MAX_DETAILS)).map(told).collect();
        let (at, sentence) = match &rollout.state {
            RolloutState::Completed { at, .. } => {
                (*at, format!("Version {} is the champion of {}.", rollout.spec.version, rollout.spec.line))
            }
            RolloutState::RollingBack { at, reason, .. } | RolloutState::RolledBack { at, reason } => {
                (*at, format!("Taken back: {reason}"))
            }
            RolloutState::Aborted { at, reason } => (*at, format!("Aborted: {reason}")),
            _ => return (None, String::new(), details, vec![rollout_link(rollout)]),
        };
        (Some(at), sentence, details, vec![rollout_link(rollout)])
    }
}

/// When, in a sentence, more of it, and where it is shown.
type Told = (Option<Timestamp>, String, Vec<String>, Vec<Link>);

fn did<'a>(rollout: &'a Rollout, what: &str) -> Option<&'a Transition> {
    rollout.transitions.iter().find(|t| t.did == what)
}

fn told(t: &Transition) -> String {
    format!("{}: {} by {}. {}", t.at, t.did, t.by.name(), t.sentence)
}

fn link(title: &str, href: String) -> Link {
    Link { title: title.to_owned(), href }
}

fn rollout_link(rollout: &Rollout) -> Link {
    link(&format!("Rollout {}", rollout.id), format!("/rollouts/{}", rollout.id))
}
