//! Training jobs as the API shows them.
use super::Facts;
use crate::io::web::resource::Level;
use crate::io::web::resource::training::TrainingJob;
use crate::retraining::job::JobState;

impl Facts<'_> {
    /// Every job, newest first.
    pub(in crate::io::web) fn jobs(&self) -> Vec<TrainingJob> {
        let mut jobs: Vec<_> = self.snapshot.jobs.values().map(|job| training_job(job)).collect();
        jobs.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        jobs
    }
}

/// One job.
pub(in crate::io::web) fn training_job(job: &crate::retraining::job::TrainingJob) -> TrainingJob {
    let (level, sentence, version) = match &job.state {
        JobState::Queued => (Level::Busy, "Waits for data and a worker: `leeway trainer work` takes it.".to_owned(), None),
        JobState::Running { worker, .. } => (Level::Busy, format!("Worker {worker} trains."), None),
        JobState::Evaluating { .. } => {
            (Level::Busy, "The candidate is tried and compared with the champion on held-out labels.".to_owned(), None)
        }
        JobState::Approved { sentence, .. } => {
            (Level::Busy, format!("The candidate won and waits for the trainer's signature. {sentence}"), None)
        }
        JobState::Published { version } => (Level::Ok, format!("The candidate won and is version {version}."), Some(version.to_string())),
        JobState::Lost { sentence } => (Level::Idle, format!("The champion stays. {sentence}"), None),
        JobState::Undecided { sentence } => (Level::Warn, format!("Too few labels to say. {sentence}"), None),
        JobState::Failed { sentence } => (Level::Bad, format!("Training failed: {sentence}"), None),
    };
    TrainingJob {
        id: job.request.id.clone(),
        line: job.request.line.to_string(),
        state: job.state.as_str().to_owned(),
        level,
        sentence,
        reason: job.request.reason.clone(),
        created_at: job.request.asked_at,
        updated_at: job.updated_at,
        dataset: None,
        version,
        spec: None,
    }
}
