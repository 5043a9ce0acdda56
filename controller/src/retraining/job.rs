//! A request for a better model, and the job it becomes.
//!
//! The planner makes the request (cause and evidence in sentences, so that one traceable episode leads from alarm to
//! rollout); a worker that holds the trainer's key does the work; the controller only keeps the job's state. One open job
//! per line. What stays true: a job that is over stays over.
use leeway_protocol::digest::Digest;
use leeway_protocol::ids::{Cohort, Line, Version};
use leeway_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Why a model is retrained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", tag = "cause")]
pub enum Trigger {
    /// The world moved, and it hurts.
    Drift {
        /// Features that moved, by name.
        features: Vec<String>,
    },
    /// A person asked.
    Asked {
        /// Who.
        by: String,
    },
    /// It was time.
    Scheduled {
        /// Milliseconds between two, by the line's policy.
        every_ms: i64,
    },
    /// Another system called.
    Called {
        /// Owner of the token it called with.
        by: String,
        /// What it calls itself.
        source: String,
        /// Its own key for this call: the same key again is the same call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
    },
}

impl Trigger {
    /// One word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Drift { .. } => "drift",
            Self::Asked { .. } => "asked",
            Self::Scheduled { .. } => "scheduled",
            Self::Called { .. } => "called",
        }
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrainRequest {
    /// The job's name; made of line and time, so that asking twice at one instant is asking once.
    pub id: String,
    /// The line.
    pub line: Line,
    /// The version it starts from: the champion.
    pub parent: Version,
    /// Why.
    pub trigger: Trigger,
    /// Cohorts whose data speaks for it.
    pub cohorts: Vec<Cohort>,
    /// Why, in a sentence.
    pub reason: String,
    /// What was measured, in sentences.
    pub evidence: Vec<String>,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// What the line's policy declared a run to cost when it was asked for; counted against the budget whatever comes of it.
    #[serde(default)]
    pub cost: u64,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum JobState {
    /// Waits for data and a worker.
    Queued,
    /// A worker trains.
    Running {
        /// Which worker.
        worker: String,
        /// Since when.
        since: Timestamp,
    },
    /// A candidate is here; preflight and comparison run.
    Evaluating {
        /// The candidate's manifest.
        candidate: Digest,
    },
    /// It won; waits for the trainer's signature.
    Approved {
        /// The candidate's manifest.
        candidate: Digest,
        /// What was measured, in a sentence.
        sentence: String,
    },
    /// Signed and registered.
    Published {
        /// The version it became.
        version: Version,
    },
    /// It did not win.
    Lost {
        /// What was measured, in a sentence.
        sentence: String,
    },
    /// Not enough labels to say.
    Undecided {
        /// How many more are needed, in a sentence.
        sentence: String,
    },
    /// It broke.
    Failed {
        /// Why, in a sentence.
        sentence: String,
    },
}

/// Changes kept with a job: a job that is taken up five times and judged makes a dozen.
pub const MAX_MOVES: usize = 32;

/// One change of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// When.
    pub at: Timestamp,
    /// Its state from then on, in one word.
    pub state: String,
    /// The same in a sentence.
    pub sentence: String,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingJob {
    /// What was asked for.
    pub request: RetrainRequest,
    /// Where it is.
    pub state: JobState,
    /// When that last changed.
    pub updated_at: Timestamp,
    /// What happened to it, the latest last, at most [`MAX_MOVES`]: the first ones go when there are more.
    #[serde(default)]
    pub moves: Vec<Moved>,
}

impl TrainingJob {
    /// A job that waits.
    pub fn new(request: RetrainRequest) -> Self {
        let updated_at = request.asked_at;
        let mut job = Self { request, state: JobState::Queued, updated_at, moves: Vec::new() };
        job.note();
        job
    }

    /// It is in another state from `at` on.
    pub fn move_to(&mut self, state: JobState, at: Timestamp) {
        (self.state, self.updated_at) = (state, at);
        self.note();
    }

    fn note(&mut self) {
        if self.moves.len() >= MAX_MOVES {
            self.moves.remove(0);
        }
        self.moves.push(Moved { at: self.updated_at, state: self.state.as_str().to_owned(), sentence: self.sentence() });
    }

    /// When it came into this state last.
    pub fn moved_to(&self, state: &str) -> Option<&Moved> {
        self.moves.iter().rev().find(|moved| moved.state == state)
    }

    /// Where it is, in a sentence.
    pub fn sentence(&self) -> String {
        let (id, line) = (&self.request.id, &self.request.line);
        match &self.state {
            JobState::Queued => format!("Training job {id} waits for a worker."),
            JobState::Running { worker, .. } => format!("Worker {worker} trains a new model for {line} ({id})."),
            JobState::Evaluating { candidate } => {
                format!("A candidate of {id} is here ({}); it is tried out and compared with the champion.", candidate.short())
            }
            JobState::Approved { sentence, .. } => {
                format!("The candidate of {id} won: {sentence} It waits for the trainer's signature.")
            }
            JobState::Published { version } => format!("Training job {id} became version {version}."),
            JobState::Lost { sentence } => format!("The candidate of {id} did not win: {sentence}"),
            JobState::Undecided { sentence } => format!("The candidate of {id} could not be judged: {sentence}"),
            JobState::Failed { sentence } => format!("Training job {id} failed: {sentence}"),
        }
    }
}

impl JobState {
    /// One word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running { .. } => "running",
            Self::Evaluating { .. } => "evaluating",
            Self::Approved { .. } => "approved",
            Self::Published { .. } => "published",
            Self::Lost { .. } => "lost",
            Self::Undecided { .. } => "undecided",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether more will happen.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Queued | Self::Running { .. } | Self::Evaluating { .. } | Self::Approved { .. })
    }
}

#[cfg(test)]
impl RetrainRequest {
    /// One that a person made of line `rain`; for tests.
    pub(crate) fn of_a_test(id: &str, parent: &str, asked_at: Timestamp) -> Self {
        let (line, parent) = ("rain".parse().unwrap(), parent.parse().unwrap());
        let (trigger, reason) = (Trigger::Asked { by: "alice".to_owned() }, "The season has changed.".to_owned());
        Self { id: id.to_owned(), line, parent, trigger, cohorts: Vec::new(), reason, evidence: Vec::new(), asked_at, cost: 0 }
    }
}
