//! Debian's Mosquitto, run by a test with the configuration that `deploy/brokers` ships: only ports, paths and logs differ.
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Running, free_port, root, wait_for};
use crate::site::Told;

/// Where Debian puts it; not on every user's PATH.
const PROGRAM: &str = "/usr/sbin/mosquitto";

/// A running broker.
#[derive(Debug)]
pub struct Mosquitto {
    /// Where it listens.
    pub port: u16,
    folder: PathBuf,
    running: Option<Running>,
}

impl Mosquitto {
    /// Start it with its files in the new folder `folder`, its log beside.
    ///
    /// # Panics
    /// With a sentence when it is not installed.
    pub fn start(folder: &Path) -> Self {
        std::fs::create_dir(folder).expect("a folder for the broker");
        let (passwords, acl, port) = (folder.join("leeway.passwd"), folder.join("leeway.acl"), free_port());
        let substitutes = [
            ("listener 1883 127.0.0.1", format!("listener {port} 127.0.0.1")),
            ("/etc/mosquitto/leeway.passwd", passwords.display().to_string()),
            ("/etc/mosquitto/leeway.acl", acl.display().to_string()),
        ];
        private(&passwords, "");
        Self::with("mosquitto.conf", folder, port, &substitutes)
    }

    /// The same with mutual TLS: `folder` holds what `leeway keys broker` made, and `revoked` is the controller's list.
    ///
    /// # Panics
    /// With a sentence when it is not installed.
    pub fn secured(folder: &Path, revoked: &Path) -> Self {
        let port = free_port();
        let substitutes = [
            ("listener 8883", format!("listener {port} 127.0.0.1")),
            ("/etc/mosquitto/leeway/revoked.pem", revoked.display().to_string()),
            ("/etc/mosquitto/leeway/", format!("{}/", folder.display())),
            ("/etc/mosquitto/leeway.acl", folder.join("leeway.acl").display().to_string()),
        ];
        Self::with("mosquitto-tls.conf", folder, port, &substitutes)
    }

    fn with(name: &str, folder: &Path, port: u16, substitutes: &[(&str, String)]) -> Self {
        let install = "Mosquitto is not installed: apt-get install mosquitto (.ci/run does that)";
        assert!(Path::new(PROGRAM).exists(), "{install}");
        let shipped = |name: &str| std::fs::read_to_string(root().join("deploy/brokers").join(name)).expect("deploy/brokers is there");
        let text = substitutes.iter().fold(shipped(name), |text, (from, to)| {
            assert!(text.contains(from), "deploy/brokers/{name} says {from} no more: adapt this test");
            text.replace(from, to)
        });
        // It drops its rights to the user mosquitto when root starts it, and then could not write here.
        let ours = format!("persistence_location {}/\nuser root\nlog_dest stderr\n", folder.display());
        std::fs::write(folder.join("mosquitto.conf"), text + &ours).expect("its configuration");
        private(&folder.join("leeway.acl"), &shipped("mosquitto.acl"));
        Self { port, folder: folder.to_path_buf(), running: None }
    }

    /// Let a user in, as its operator does; with the next [`Mosquitto::run`] or [`Mosquitto::reload`].
    pub fn admit(&self, user: &str, secret: &str) {
        let mut command = Command::new("mosquitto_passwd");
        let _ = Told::by(command.arg("-b").arg(self.folder.join("leeway.passwd")).args([user, secret])).ok();
    }

    /// Let a user in who may read and write everything: none that an operator would have, but a test must see what is delivered.
    pub fn observe(&self, user: &str, secret: &str) {
        self.admit(user, secret);
        self.show(user);
    }

    /// The same for a user who has a certificate.
    pub fn show(&self, user: &str) {
        let path = self.folder.join("leeway.acl");
        let text = std::fs::read_to_string(&path).expect("the ACL");
        std::fs::write(&path, format!("user {user}\ntopic readwrite #\n\n{text}")).expect("the ACL");
    }

    /// Run it, and wait until it answers.
    pub fn run(&mut self) {
        let mut command = Command::new(PROGRAM);
        command.arg("-c").arg(self.folder.join("mosquitto.conf"));
        let mut running = Running::start(&mut command, &self.folder.with_extension("log")).expect("mosquitto starts");
        wait_for("mosquitto listens", || {
            assert!(running.ended().is_none(), "mosquitto ended:\n{}", running.log());
            std::net::TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())
        });
        self.running = Some(running);
    }

    /// Read passwords, or the list of revoked certificates, again.
    pub fn reload(&self) {
        let id = self.running.as_ref().expect("it runs").id();
        let _ = Told::by(Command::new("kill").args(["-HUP", &id.to_string()])).ok();
    }
}

/// A file for nobody else.
fn private(path: &Path, text: &str) {
    std::fs::write(path, text).expect("its files");
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("its files");
}
