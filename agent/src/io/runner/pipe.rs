//! The supervisor's side of the child: commands from stdin, notices to stdout, each on a thread of its own.
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::{error, warn};

use super::engine::Job;
use crate::control::{Decoder, RunnerCommand, RunnerNotice, encode};

/// Notices waiting for a supervisor that does not read: some minutes of signs of life. Then the newest are dropped; the
/// serving loop never waits for its supervisor.
const WAITING_NOTICES: usize = 1_024;

/// Bytes read from stdin at once.
const READ_BYTES: usize = 64 << 10;

/// An engine that does not end after stdin closed is left this long, then the process ends under it.
const GRACE: Duration = Duration::from_secs(2);

/// Read commands until the supervisor is gone, which is the order to end.
pub(super) fn read_commands(jobs: SyncSender<Job>) {
    std::thread::spawn(move || {
        if let Err(error) = commands(&mut std::io::stdin().lock(), &jobs) {
            error!("commands can no longer be read, the runner ends: {error:#}");
        }
        drop(jobs.try_send(Job::Ended));
        std::thread::sleep(GRACE);
        // The engine hangs in a model: ending the process is the only way out, and nobody waits for its last words.
        std::process::exit(0);
    });
}

fn commands(from: &mut impl Read, jobs: &SyncSender<Job>) -> anyhow::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        decoder.push(bytes);
        while let Some(command) = decoder.take::<RunnerCommand>()? {
            // Waits when the queue is full: commands are few and must not be lost.
            jobs.send(Job::Command(command)).map_err(|_| anyhow::anyhow!("the engine has ended"))?;
        }
    }
}

/// Where the engine puts notices.
#[derive(Debug, Clone)]
pub(super) struct Notices(SyncSender<RunnerNotice>);

impl Notices {
    pub(super) fn new(to: SyncSender<RunnerNotice>) -> Self {
        Self(to)
    }

    pub(super) fn tell(&self, notice: RunnerNotice) {
        if let Err(TrySendError::Full(notice)) = self.0.try_send(notice)
            && matches!(notice, RunnerNotice::Window(_) | RunnerNotice::Captured(_))
        {
            warn!("the supervisor does not read: a window or a batch of samples is lost");
        }
    }
}

/// Write notices; the thread ends when every [`Notices`] is gone, with all of them written.
pub(super) fn write_notices() -> (Notices, JoinHandle<()>) {
    let (to, from) = sync_channel(WAITING_NOTICES);
    (Notices::new(to), std::thread::spawn(move || write_all(&from, &mut std::io::stdout().lock())))
}

fn write_all(from: &Receiver<RunnerNotice>, to: &mut impl Write) {
    for notice in from {
        let written = match encode(&notice) {
            Ok(frame) => to.write_all(&frame).and_then(|()| to.flush()),
            Err(error) => {
                error!("a notice is dropped: {error}");
                continue;
            }
        };
        // The supervisor is gone; stdin closes too and ends the runner.
        if written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_in_order_and_rubbish_ends_the_conversation() {
        let (to, from) = sync_channel(8);
        let stream = [encode(&RunnerCommand::CloseWindows).unwrap(), encode(&RunnerCommand::Stop).unwrap(), vec![1, 0, 0, 0, 99]].concat();
        assert!(commands(&mut stream.as_slice(), &to).is_err());
        drop(to);
        let seen: Vec<Job> = from.iter().collect();
        assert!(matches!(seen.as_slice(), [Job::Command(RunnerCommand::CloseWindows), Job::Command(RunnerCommand::Stop)]));
    }

    #[test]
    fn notices_are_frames() {
        let (to, from) = sync_channel(8);
        let notice = RunnerNotice::Activated { slot: crate::control::Slot::A };
        to.send(notice.clone()).unwrap();
        drop(to);
        let mut bytes = Vec::new();
        write_all(&from, &mut bytes);
        let mut decoder = Decoder::default();
        decoder.push(&bytes);
        assert_eq!(decoder.take(), Ok(Some(notice)));
    }
}
