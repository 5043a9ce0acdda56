//! The thread that owns the models: one queue in, answers and notices out.
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use leeway_protocol::manifest::Manifest;
use leeway_protocol::reason::Reason;
use leeway_protocol::report::{UserMetric, UserValue};
use leeway_protocol::tensor::Tensor;
use leeway_protocol::time::Timestamp;
use tokio::sync::oneshot;

use super::files::FileOrgans;
use super::pipe::Notices;
use super::sandbox::Memory;
use crate::control::{Role, RunnerCommand, Slot};
use crate::runtime::host::{Answer, Host, Refusal, Request, Serving};
use crate::runtime::release::{Files, Organs as _, Release};

/// Jobs waiting for the engine; more are refused as busy. At a millisecond each, half a second of work.
pub(super) const WAITING_JOBS: usize = 512;

/// The loop turns at least this often, for windows that close by time and signs of life.
const TICK: Duration = Duration::from_millis(200);

/// Something for the engine to do.
#[derive(Debug)]
pub(super) enum Job {
    /// From the supervisor.
    Command(RunnerCommand),
    /// A load came to its end.
    Loaded { slot: Slot, role: Role, ticket: u64, loaded: Box<Result<Release, Reason>> },
    /// From the application.
    Infer { ask: Ask, reply: oneshot::Sender<Result<Answered, Refusal>> },
    /// The application sent something that is no request for this model.
    Reject,
    /// The truth about an earlier request.
    Label { request: u64, label: f32, reply: oneshot::Sender<bool> },
    /// What the application measured itself, about an earlier request or about what serves.
    Told { request: Option<u64>, values: Vec<(UserMetric, UserValue)>, reply: oneshot::Sender<Result<bool, Refusal>> },
    /// The supervisor is gone.
    Ended,
}

/// A request, owned.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) id: u64,
    pub(super) inputs: Vec<Tensor>,
    pub(super) nulls: Vec<(usize, usize)>,
    pub(super) data_time: Option<Timestamp>,
}

/// An answer and who gave it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Answer,
    pub(super) manifest: Arc<Manifest>,
}

/// What serves, as the web threads see it.
pub(super) type Board = Arc<RwLock<Option<Serving>>>;

pub(super) struct Engine {
    host: Host,
    organs: FileOrgans,
    /// What bounds this process; `None` where the engine runs inside another program.
    memory: Option<Memory>,
    jobs: SyncSender<Job>,
    notices: Notices,
    board: Board,
    /// The latest load of each slot; an older one that comes to its end is forgotten.
    loading: BTreeMap<Slot, u64>,
    tickets: u64,
}

impl Engine {
    pub(super) fn new(organs: FileOrgans, jobs: SyncSender<Job>, notices: Notices, board: Board) -> Self {
        Self { host: Host::new(), organs, memory: None, jobs, notices, board, loading: BTreeMap::new(), tickets: 0 }
    }

    /// The same, in a process whose memory is bounded by what is signed for the models it loads.
    pub(super) fn bounded_by(self, memory: Memory) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Until the supervisor says stop or is gone.
    pub(super) fn run(mut self, queue: &Receiver<Job>) {
        let mut ticked = self.organs.nanos();
        loop {
            match queue.recv_timeout(TICK) {
                Ok(Job::Ended) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(Job::Command(RunnerCommand::Stop)) => {
                    self.command(RunnerCommand::Stop);
                    break;
                }
                Ok(job) => self.work(job),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let nanos = self.organs.nanos();
            if nanos.saturating_sub(ticked) >= TICK.as_nanos() as u64 {
                ticked = nanos;
                let notices = self.host.tick(now(), nanos);
                self.publish();
                self.tell(notices);
            }
        }
    }

    pub(super) fn work(&mut self, job: Job) {
        match job {
            Job::Command(RunnerCommand::Load { slot, role, model_path, manifest_path, manifest }) => {
                self.tickets += 1;
                self.loading.insert(slot, self.tickets);
                let (ticket, jobs, mut organs) = (self.tickets, self.jobs.clone(), self.organs(slot));
                std::thread::spawn(move || {
                    let files = Files { model: &model_path, manifest: &manifest_path, digest: Some(manifest) };
                    let loaded = Box::new(Release::load(&mut organs, files, role));
                    // Fails only when the engine has ended, and then nobody waits.
                    drop(jobs.send(Job::Loaded { slot, role, ticket, loaded }));
                });
            }
            Job::Command(command) => {
                if let RunnerCommand::Drop { slot } = &command {
                    self.loading.remove(slot);
                }
                self.command(command);
            }
            Job::Loaded { slot, role, ticket, loaded } => {
                if self.loading.get(&slot) == Some(&ticket) {
                    self.loading.remove(&slot);
                    let notices = self.host.install(now(), slot, role, *loaded);
                    self.publish();
                    self.tell(notices);
                }
            }
            Job::Infer { ask, reply } => self.infer(&ask, reply),
            Job::Reject => self.host.reject(now()),
            Job::Label { request, label, reply } => {
                let found = self.host.label(now(), request, label);
                reply.send(found).ok();
            }
            Job::Told { request, values, reply } => drop(reply.send(self.host.told(now(), request, &values))),
            Job::Ended => {}
        }
    }

    fn organs(&self, slot: Slot) -> FileOrgans {
        let organs = self.organs.clone();
        match &self.memory {
            Some(memory) => organs.bounded(memory.clone(), slot),
            None => organs,
        }
    }

    fn command(&mut self, command: RunnerCommand) {
        let notices = self.host.handle(now(), &mut self.organs, command);
        self.publish();
        self.tell(notices);
    }

    fn infer(&mut self, ask: &Ask, reply: oneshot::Sender<Result<Answered, Refusal>>) {
        let request = Request { id: ask.id, inputs: &ask.inputs, nulls: &ask.nulls, data_time: ask.data_time };
        let answered = self.host.infer(now(), &self.organs, &request).and_then(|answer| {
            let manifest = self.host.serving().ok_or(Refusal::NoModel)?.manifest;
            Ok(Answered { answer, manifest })
        });
        // An application that has gone away does not want its answer.
        drop(reply.send(answered));
        self.host.follow_up(&self.organs);
        let notices = self.host.notices();
        self.tell(notices);
    }

    /// Show what serves to the web threads.
    fn publish(&self) {
        let serving = self.host.serving();
        *self.board.write().unwrap_or_else(std::sync::PoisonError::into_inner) = serving;
    }

    fn tell(&self, notices: Vec<crate::control::RunnerNotice>) {
        notices.into_iter().for_each(|notice| self.notices.tell(notice));
    }
}

/// The device's clock; before 1970 it is 1970.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
