//! The built-in trainer, in a thread of its own so that a worker can go on polling.
use std::collections::BTreeMap;
use std::thread::JoinHandle;

use super::{Progress, Trainer, TrainerError};
use crate::trainer::{self, Artifacts, Rows, TrainError, TrainSpec};

/// Fits logistic regressions; see [`crate::trainer`].
#[derive(Debug, Default)]
pub struct Builtin {
    jobs: BTreeMap<String, Job>,
}

#[derive(Debug)]
enum Job {
    Running(JoinHandle<Result<Artifacts, TrainError>>),
    Done(Box<Artifacts>),
    Failed(String),
}

impl Trainer for Builtin {
    fn submit(&mut self, spec: &TrainSpec, train: &[u8], holdout: &[u8]) -> Result<(), TrainerError> {
        if self.jobs.contains_key(&spec.job) {
            return Ok(());
        }
        let (train, holdout) = (Rows::parse(train, spec)?, Rows::parse(holdout, spec)?);
        let asked = spec.clone();
        let fit = std::thread::spawn(move || trainer::train(&asked, &train, &holdout).map(|(artifacts, _)| artifacts));
        self.jobs.insert(spec.job.clone(), Job::Running(fit));
        Ok(())
    }

    fn poll(&mut self, job: &str) -> Result<Progress, TrainerError> {
        let found = self.jobs.remove(job).ok_or_else(|| TrainerError::UnknownJob(job.to_owned()))?;
        let found = match found {
            Job::Running(fit) if fit.is_finished() => match fit.join() {
                Ok(Ok(artifacts)) => Job::Done(Box::new(artifacts)),
                Ok(Err(e)) => Job::Failed(e.to_string()),
                Err(_) => Job::Failed("the fit ended in a panic: report it with the dataset's digest".to_owned()),
            },
            other => other,
        };
        let progress = match &found {
            Job::Running(_) => Progress::Running,
            Job::Done(_) => Progress::Done,
            Job::Failed(why) => Progress::Failed(why.clone()),
        };
        self.jobs.insert(job.to_owned(), found);
        Ok(progress)
    }

    fn collect(&mut self, job: &str) -> Result<Artifacts, TrainerError> {
        match self.jobs.get(job) {
            Some(Job::Done(artifacts)) => Ok(artifacts.as_ref().clone()),
            Some(_) => Err(TrainerError::NotDone(job.to_owned())),
            None => Err(TrainerError::UnknownJob(job.to_owned())),
        }
    }
}
