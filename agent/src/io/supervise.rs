//! Runners as children: started, spoken to over their pipes, killed, and buried before the next one takes their port.
//!
//! What stays true: every start ends in exactly one `Exited` notice; a runner that does not read its pipe, or writes what is no
//! frame, is killed and not waited for; children die with the agent.
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::action::{Dir, RunId, RunnerPurpose};
use crate::config::RunnerConfig;
use crate::control::{Decoder, RunnerCommand, RunnerNotice, encode};
use crate::event::Event;

/// Commands that wait for a runner to read them; one that leaves more unread hangs.
const COMMANDS: usize = 64;
/// Bytes read from a runner at once.
const BUFFER: usize = 16 << 10;
/// A runner that was killed is dead within this time, or the machine is in deeper trouble.
const BURIAL: Duration = Duration::from_secs(10);

/// The runners of one agent.
#[derive(Debug)]
pub(super) struct Runners {
    program: PathBuf,
    prefix: Vec<String>,
    dir: PathBuf,
    sockets: Vec<String>,
    events: Sender<Event>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    run: RunId,
    purpose: RunnerPurpose,
    commands: Sender<RunnerCommand>,
    kill: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Runners {
    pub(super) fn new(config: &RunnerConfig, dir: &Path, events: Sender<Event>) -> anyhow::Result<Self> {
        let program = match &config.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()?.with_file_name("leeway-runner"),
        };
        let mut sockets = Vec::new();
        if let Some(tcp) = &config.tcp {
            sockets.extend(["--tcp".to_owned(), tcp.clone()]);
        }
        if let Some(unix) = &config.unix {
            sockets.extend(["--unix".to_owned(), unix.display().to_string()]);
        }
        Ok(Self { program, prefix: config.args.clone(), dir: dir.to_owned(), sockets, events, running: Vec::new() })
    }

    /// The program that is started.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn start(&mut self, run: RunId, purpose: RunnerPurpose) {
        let mut command = Command::new(&self.program);
        command.args(&self.prefix).arg("serve").arg("--dir").arg(&self.dir);
        // It reads nothing else of the data directory: not the device's key, not the outbox.
        command.args([Dir::Blobs, Dir::Factory].into_iter().flat_map(|dir| ["--models", dir.as_str()]));
        if purpose == RunnerPurpose::Serving {
            command.args(&self.sockets);
        } else {
            command.args(["--thrown-away", "yes"]);
        }
        // Only the agent speaks to the service manager: a model that could feed its watchdog would hide that the agent hangs.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        command.current_dir(&self.dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let (commands, queue) = channel(COMMANDS);
        let (kill, killed) = oneshot::channel();
        let events = self.events.clone();
        // Its predecessor must be dead before it asks for the same port.
        let predecessors: Vec<JoinHandle<()>> = self.take_finished_of(purpose);
        let task = tokio::spawn(async move {
            for predecessor in predecessors {
                drop(tokio::time::timeout(BURIAL, predecessor).await);
            }
            let (code, signal) = live(run, command, queue, killed, &events).await;
            tell(&events, run, RunnerNotice::Exited { code, signal }).await;
        });
        self.running.push(Running { run, purpose, commands, kill: Some(kill), task });
    }

    /// Runners of this purpose that were told to die, with their graves.
    fn take_finished_of(&mut self, purpose: RunnerPurpose) -> Vec<JoinHandle<()>> {
        let (gone, left) = std::mem::take(&mut self.running).into_iter().partition(|r| r.purpose == purpose);
        self.running = left;
        let gone: Vec<Running> = gone;
        let bury = |mut running: Running| {
            running.kill.take().map(|kill| kill.send(()));
            running.task
        };
        gone.into_iter().map(bury).collect()
    }

    pub(super) fn tell(&mut self, run: RunId, command: RunnerCommand) {
        let Some(running) = self.running.iter_mut().find(|r| r.run == run) else { return };
        if running.commands.try_send(command).is_err() {
            // It does not read: what it would do with a half of what it was told is anyone's guess.
            running.kill.take().map(|kill| kill.send(()));
        }
    }

    pub(super) fn kill(&mut self, run: RunId) {
        if let Some(running) = self.running.iter_mut().find(|r| r.run == run) {
            running.kill.take().map(|kill| kill.send(()));
        }
    }

    /// Whether any runner still lives.
    pub(super) fn any_alive(&self) -> bool {
        self.running.iter().any(|running| !running.task.is_finished())
    }
}

async fn tell(events: &Sender<Event>, run: RunId, notice: RunnerNotice) -> bool {
    events.send(Event::Runner { run, notice }).await.is_ok()
}

/// The whole life of a child.
async fn live(
    run: RunId,
    mut command: Command,
    queue: Receiver<RunnerCommand>,
    mut killed: oneshot::Receiver<()>,
    events: &Sender<Event>,
) -> (Option<i32>, Option<i32>) {
    if killed.try_recv().is_ok() {
        return (None, None);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = command.as_std().get_program().to_string_lossy().into_owned();
            tracing::error!("the runner {program} cannot be started: {error}; check runner.program in the configuration");
            return (None, None);
        }
    };
    if let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) {
        tokio::select! {
            _ = &mut killed => drop(child.start_kill()),
            () = listen(run, stdout, events) => {}
            () = speak(stdin, queue) => {}
        }
    }
    end(&mut child).await
}

/// Kill whatever is left and find out how it ended. A runner that ended by itself has ended already.
async fn end(child: &mut Child) -> (Option<i32>, Option<i32>) {
    use std::os::unix::process::ExitStatusExt as _;
    // It closed its pipe because it is ending, perhaps: give it the moment it needs to say with which status.
    let status = match tokio::time::timeout(Duration::from_millis(200), child.wait()).await {
        Ok(status) => status,
        Err(_) => {
            drop(child.start_kill());
            child.wait().await
        }
    };
    status.map_or((None, None), |status| (status.code(), status.signal()))
}

/// Until the child closes its stdout, or writes what is no frame.
async fn listen(run: RunId, mut stdout: ChildStdout, events: &Sender<Event>) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; BUFFER];
    loop {
        match stdout.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => decoder.push(buffer.get(..n).unwrap_or_default()),
        }
        loop {
            match decoder.take::<RunnerNotice>() {
                Ok(Some(RunnerNotice::Exited { .. })) => {}
                Ok(Some(notice)) => {
                    if !tell(events, run, notice).await {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!("runner {}: {error}", run.0);
                    return;
                }
            }
        }
    }
}

/// Until the child does not read any more. Ends never when there is nothing to say: then `listen` decides.
async fn speak(mut stdin: ChildStdin, mut queue: Receiver<RunnerCommand>) {
    while let Some(command) = queue.recv().await {
        let Ok(frame) = encode(&command) else { continue };
        if stdin.write_all(&frame).await.is_err() || stdin.flush().await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(script: &str) -> RunnerConfig {
        let args = vec!["-c".to_owned(), script.to_owned()];
        RunnerConfig { program: Some("/bin/sh".into()), args, tcp: None, unix: None }
    }

    /// Run a shell script as the runner and return how it ended.
    async fn fate(script: &str, kill: bool) -> (Option<i32>, Option<i32>) {
        let (events, mut inbox) = channel(16);
        let dir = tempfile::tempdir().unwrap();
        let mut runners = Runners::new(&config(script), dir.path(), events).unwrap();
        runners.start(RunId(1), RunnerPurpose::Serving);
        runners.tell(RunId(1), RunnerCommand::Stop);
        if kill {
            tokio::time::sleep(Duration::from_millis(100)).await;
            runners.kill(RunId(1));
        }
        match inbox.recv().await.unwrap() {
            Event::Runner { run: RunId(1), notice: RunnerNotice::Exited { code, signal } } => (code, signal),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn every_end_is_told_once_with_its_cause() {
        assert_eq!(fate("exit 3", false).await, (Some(3), None));
        assert_eq!(fate("kill -9 $$", false).await, (None, Some(9)));
        assert_eq!(fate("exec sleep 60", true).await, (None, Some(9)));
        assert_eq!(fate("printf 'this is no frame at all'; exec sleep 60", false).await, (None, Some(9)));
        let (events, mut inbox) = channel(16);
        let nothing = RunnerConfig { program: Some("/no/such/program".into()), args: vec![], tcp: None, unix: None };
        let mut runners = Runners::new(&nothing, Path::new("/"), events).unwrap();
        runners.start(RunId(7), RunnerPurpose::Candidate);
        let told = inbox.recv().await.unwrap();
        assert!(matches!(told, Event::Runner { run: RunId(7), notice: RunnerNotice::Exited { code: None, signal: None } }), "{told:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_successor_starts_only_after_its_predecessor_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = "if [ -f pid ] && kill -0 $(cat pid) 2>/dev/null; then exit 9; fi; echo $$ > new; mv new pid; exec sleep 30";
        let (events, mut inbox) = channel(64);
        let mut runners = Runners::new(&config(script), dir.path(), events).unwrap();
        runners.start(RunId(1), RunnerPurpose::Serving);
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let first = std::fs::read_to_string(&pid).unwrap();
        runners.start(RunId(2), RunnerPurpose::Serving);
        let told = inbox.recv().await.unwrap();
        assert!(matches!(told, Event::Runner { run: RunId(1), notice: RunnerNotice::Exited { signal: Some(9), .. } }), "{told:?}");
        while std::fs::read_to_string(&pid).unwrap() == first {
            assert!(inbox.try_recv().is_err(), "the successor found its predecessor alive");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        runners.kill(RunId(2));
        let told = inbox.recv().await.unwrap();
        assert!(matches!(told, Event::Runner { run: RunId(2), .. }), "{told:?}");
        while runners.any_alive() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
