//! One node: directory, configuration file, process, log.

use crate::admin::{Admin, Answer, VOLUME, mendblock, text};
use crate::nbd::Session;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Lines of the log that a failed test shows.
const LOG_TAIL: usize = 80;
/// Longest wait for the end of a process.
const END_LIMIT: Duration = Duration::from_secs(30);

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: &'static str,
    pub id: u8,
    /// Its own loopback address.
    pub address: IpAddr,
    pub peer: Option<(&'static str, u8, IpAddr)>,
    pub disk_bytes: u64,
    /// More keys of `[[volume]]`, a line each.
    pub volume_keys: String,
    /// Lines of `[volume.handlers]`.
    pub handlers: String,
    /// The process does not hear the Ctrl-C that ends the program which started it.
    pub is_apart: bool,
    /// Panics leave a backtrace in the log. The first one reads all debug information, which takes time and memory.
    pub backtraces: bool,
}

/// A node and its process.
pub struct Node {
    pub settings: Settings,
    pub admin: Admin,
    pub disk: PathBuf,
    pub configuration: PathBuf,
    pub log: PathBuf,
    run: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node whose disk lies in `disks` and whose sockets lie in `run`; not started.
    pub fn new(settings: Settings, disks: &Path, run: &Path) -> Self {
        let run = run.join(settings.name);
        fs::create_dir_all(&run).unwrap();
        let disk = disks.join(format!("{}.img", settings.name));
        File::create(&disk).unwrap().set_len(settings.disk_bytes).unwrap();
        let node = Self {
            admin: Admin {
                socket: run.join("admin.sock"),
            },
            disk,
            configuration: run.join("node.toml"),
            log: disks.join(format!("{}.log", settings.name)),
            run,
            child: None,
            settings,
        };
        node.configure();
        node
    }

    /// Writes the configuration file.
    pub fn configure(&self) {
        fs::write(&self.configuration, self.configuration_text()).unwrap();
    }

    fn configuration_text(&self) -> String {
        let Settings {
            name,
            id,
            volume_keys,
            handlers,
            ..
        } = &self.settings;
        let run = self.run.display();
        let mut file = format!(
            "[node]\nname = \"{name}\"\nid = {id}\nlisten = \"{}\"\nstate-dir = \"{run}/state\"\n\
             admin-socket = \"{run}/admin.sock\"\nmetrics-listen = \"{}\"\nnbd-unix = \"{run}/nbd.sock\"\n\
             nbd-tcp = \"{}\"\nlog = \"info\"\n\n[[volume]]\nname = \"{VOLUME}\"\ndisk = \"{}\"\n{volume_keys}\n",
            self.peer_port(),
            self.metrics_port(),
            self.nbd_port(),
            self.disk.display()
        );
        if let Some((peer, peer_id, address)) = self.settings.peer {
            file += &format!(
                "[volume.peer]\nnode-id = {peer_id}\nname = \"{peer}\"\naddress = \"{}\"\nconnect-int = 2\n\
                 ping-int = 2\ntimeout = 19\nping-timeout = 15\n",
                peer_port(address)
            );
        }
        if !handlers.is_empty() {
            file += &format!("[volume.handlers]\n{handlers}\n");
        }
        file
    }

    /// Where peers connect to.
    pub fn peer_port(&self) -> SocketAddr {
        peer_port(self.settings.address)
    }

    pub fn metrics_port(&self) -> SocketAddr {
        SocketAddr::new(self.settings.address, 9942)
    }

    pub fn nbd_port(&self) -> SocketAddr {
        SocketAddr::new(self.settings.address, 10809)
    }

    pub fn nbd_socket(&self) -> PathBuf {
        self.run.join("nbd.sock")
    }

    /// URI of the volume for NBD tools.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{VOLUME}?socket={}", self.nbd_socket().display())
    }

    /// A file beside the node's sockets.
    pub fn file(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// Starts the process, and waits until the admin API answers.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        let deadline = Instant::now() + END_LIMIT;
        while self.admin.status().is_err() {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{} ended at its start: {ended:?}",
                self.settings.name
            );
            assert!(
                Instant::now() < deadline,
                "{} does not answer",
                self.settings.name
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.settings.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(crate::program::path());
        if self.settings.is_apart {
            command.process_group(0);
        }
        let child = command
            .args(["node", "--allow-kill", "--config", text(&self.configuration)])
            .env("RUST_BACKTRACE", if self.settings.backtraces { "1" } else { "0" })
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    /// SIGKILL: the process is gone at once.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Number of the process, while it is started.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started, and not ended by the test.
    pub fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// SIGTERM and a wait for the orderly end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended();
        assert!(status.success(), "{}: {status}", self.settings.name);
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            if let Some(status) = self.child.as_mut().expect("it runs").try_wait().unwrap() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < deadline, "{} does not end", self.settings.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How the process ended, if it was started and ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// The same process as before still runs.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        let ended = self.child.as_mut().expect("it was started").try_wait().unwrap();
        assert!(ended.is_none(), "{} ended: {ended:?}", self.settings.name);
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// An off-line command on this node's volume.
    pub fn offline(&self, arguments: &[&str]) -> Answer {
        let (first, rest) = arguments.split_first().unwrap();
        let file = text(&self.configuration);
        mendblock(&[&[*first, VOLUME, "--config", file], rest].concat())
    }

    /// An NBD session on the volume.
    #[track_caller]
    pub fn session(&self) -> Session {
        Session::connect(&self.nbd_socket(), VOLUME).unwrap()
    }

    /// Makes the node Secondary, once it has noticed that its clients are gone.
    #[track_caller]
    pub fn demote(&self) {
        self.admin.wait_for("demoted", 10, |volume| {
            volume.open == 0 && self.admin.order(&["secondary"]).code == Some(0)
        });
    }

    /// Takes the disk away, and waits until nobody uses it.
    #[track_caller]
    pub fn order_detach(&self) {
        self.admin.order(&["detach"]).expect_code(0);
        self.admin
            .wait_for("detached", 20, |volume| volume.disk.state == "Diskless");
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Port of the replication link; every node has an address of its own.
const PEER_PORT: u16 = 7789;

/// Where the node with this address is reached by peers.
pub fn peer_port(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, PEER_PORT)
}

/// The lines of a log, without what was said three times before: that hides what led to it.
fn without_repetitions(log: &str) -> Vec<&str> {
    let mut said = HashMap::new();
    let mut lines = Vec::new();
    for line in log.lines() {
        let text = line.split_once(' ').map_or(line, |(_, text)| text);
        let times = said.entry(text).or_insert(0);
        *times += 1;
        if *times <= 3 {
            lines.push(line);
        }
    }
    lines
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log_text();
            let lines = without_repetitions(&log);
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL)..];
            eprintln!("--- log of {}:\n{}", self.settings.name, tail.join("\n"));
        }
        if let Some(child) = &mut self.child {
            // What does not run any more is gone as wished.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
