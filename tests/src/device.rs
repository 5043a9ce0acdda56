//! A device as it is in the field: `leeway-agent` as a process, with the `leeway-runner` it starts, in a folder of its own.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::application::Socket;
use crate::harness::{Running, free_port, program, wait_for};
use crate::site::{Site, Told};

/// Patience in milliseconds instead of minutes; nothing else differs from a device in the field.
const TIMING: &str = "retry_first_ms = 100\nretry_max_ms = 1000\nrestart_ms = 100\nreport_ms = 1000\nreceipt_ms = 1000\n";

/// One device.
#[derive(Debug)]
pub struct Device {
    /// Its id.
    pub id: String,
    /// Everything it keeps.
    pub data: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// What `[runner]`, `[network]` and other sections say besides the usual.
    pub sections: BTreeMap<&'static str, String>,
    /// More arguments of `leeway-agent enrol`.
    pub enrol_args: Vec<String>,
    log: PathBuf,
    tcp: u16,
    unix: PathBuf,
    agent: Option<Running>,
}

impl Device {
    /// A device that has not enrolled yet.
    pub fn new(site: &Site, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            data: site.path(&format!("{id}.data")),
            config: site.path(&format!("{id}.toml")),
            sections: BTreeMap::new(),
            enrol_args: Vec::new(),
            log: site.path(&format!("{id}.log")),
            tcp: free_port(),
            unix: site.path(&format!("{id}.sock")),
            agent: None,
        }
    }

    /// One that has enrolled with this token.
    pub fn enrolled(site: &Site, id: &str, token: &str) -> Self {
        let device = Self::new(site, id);
        let _ = device.enrol(site, token).ok();
        device
    }

    /// `leeway-agent enrol`.
    pub fn enrol(&self, site: &Site, token: &str) -> Told {
        let mut command = Command::new(program("leeway-agent"));
        command.args(["enrol", "--url", site.api().base(), "--token", token, "--device", &self.id]);
        Told::by(command.args(&self.enrol_args).arg("--dir").arg(&self.data))
    }

    /// `leeway-agent run` with a configuration written now.
    pub fn command(&self) -> Command {
        let section = |name: &str| self.sections.get(name).cloned().unwrap_or_default();
        let text = format!(
            "data_dir = {:?}\nlog = \"info\"\n[runner]\ntcp = \"127.0.0.1:{}\"\nunix = {:?}\n{}\n[timing]\n{TIMING}\n{}\n[network]\n{}\n",
            self.data.display().to_string(),
            self.tcp,
            self.unix.display().to_string(),
            section("runner"),
            section("timing"),
            section("network"),
        );
        std::fs::write(&self.config, text).expect("the configuration can be written");
        let mut command = Command::new(program("leeway-agent"));
        command.arg("run").arg("--config").arg(&self.config);
        command
    }

    /// Start it, or start it again.
    pub fn start(&mut self) {
        self.start_as(|run| run);
    }

    /// Start it inside of something else; its process id.
    pub fn start_as(&mut self, wrap: impl FnOnce(Command) -> Command) -> u32 {
        let started = Running::start(&mut wrap(self.command()), &self.log).expect("leeway-agent starts");
        self.agent.insert(started).id()
    }

    /// SIGKILL to the agent; its runner ends by itself when the pipe is closed.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// SIGTERM, and wait: open windows are written down.
    pub fn stop_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let status = agent.stop();
            assert!(status.success(), "leeway-agent did not end well: {status}\n{}", self.log());
        }
    }

    /// SIGKILL to every runner it has at this moment; how many there were.
    pub fn kill_runners(&self) -> usize {
        self.signal_runners("-KILL")
    }

    /// SIGSTOP to every runner it has at this moment, so that it hangs with all its threads; how many there were.
    pub fn stop_runners_in_their_tracks(&self) -> usize {
        self.signal_runners("-STOP")
    }

    fn signal_runners(&self, signal: &str) -> usize {
        let Some(agent) = &self.agent else { return 0 };
        let children = children(agent.id());
        for pid in &children {
            let _ = Command::new("kill").args([signal, &pid.to_string()]).stderr(std::process::Stdio::null()).status();
        }
        children.len()
    }

    /// The agent's process id, if it was started.
    pub fn agent_id(&self) -> Option<u32> {
        self.agent.as_ref().map(Running::id)
    }

    /// How the agent ended, if it was started and has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.agent.as_mut().and_then(Running::ended)
    }

    /// Whether the agent runs.
    pub fn is_running(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| agent.ended().is_none())
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The port of the application's TCP socket.
    pub fn tcp_port(&self) -> u16 {
        self.tcp
    }

    /// Where the application asks.
    pub fn tcp(&self) -> Socket {
        Socket::Tcp(self.tcp)
    }

    /// The same over the Unix socket.
    pub fn unix(&self) -> Socket {
        Socket::unix(&self.unix)
    }

    /// Wait until the runner answers with `version`, without asking it for an inference.
    pub fn until_serves(&self, version: &str) {
        wait_for(&format!("the runner of {} serves {version}", self.id), || {
            let status = self.tcp().request("GET", "/leeway/v1/status", b"")?.json();
            if status["serving"]["version"] == version { Ok(()) } else { Err(status.to_string()) }
        });
    }
}

/// The children of a process, from the kernel's own list.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}
