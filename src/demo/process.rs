//! The two node processes: their configuration, their start, and their end whatever happens.

use super::directory::NodeFiles;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Name of the volume and of its NBD export.
pub const VOLUME: &str = "r0";
/// Environment variable that ties a node to the process which started it: the number of that process.
const PARENT: &str = "MENDBLOCK_DEMO_PARENT";
/// How long a node may take for an orderly end before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const STOP_POLL: Duration = Duration::from_millis(20);

/// Addresses of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For the peer.
    pub listen: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
}

/// Free loopback addresses for two nodes. They are held together, so that none is given twice.
///
/// # Errors
/// There is none.
pub fn free_addresses() -> io::Result<[Addresses; 2]> {
    let listeners: Vec<TcpListener> = (0..4)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<io::Result<_>>()?;
    let address = |index: usize| listeners[index].local_addr();
    Ok([
        Addresses {
            listen: address(0)?,
            metrics: address(1)?,
        },
        Addresses {
            listen: address(2)?,
            metrics: address(3)?,
        },
    ])
}

/// A node's configuration file: everything that is not said is the default.
pub fn configuration(own: (&NodeFiles, u8, Addresses), peer: (&NodeFiles, u8, Addresses)) -> String {
    let (files, id, addresses) = own;
    let (peer_files, peer_id, peer_addresses) = peer;
    // A TOML string has the escapes of a debug string that paths need; other control characters are not in paths that
    // people use, and would be refused by the reader.
    format!(
        "# One node of the demo's pair; pair-alice.toml in the project's configs explains every key.\n\
         [node]\nname = {:?}\nid = {id}\nlisten = \"{}\"\nstate-dir = {:?}\nadmin-socket = {:?}\n\
         metrics-listen = \"{}\"\nnbd-unix = {:?}\n\n\
         [[volume]]\nname = \"{VOLUME}\"\ndisk = {:?}\nmeta-disk = \"internal\"\n\
         # A resync that can be watched; without these two it takes what disks and network give.\n\
         resync-rate = \"32M\"\nc-max-rate = \"32M\"\n\n\
         [volume.peer]\nnode-id = {peer_id}\nname = {:?}\naddress = \"{}\"\n",
        files.name,
        addresses.listen,
        files.state_dir,
        files.admin_socket,
        addresses.metrics,
        files.nbd_socket,
        files.disk,
        peer_files.name,
        peer_addresses.listen,
    )
}

/// A node process. Dropping it ends the process.
#[derive(Debug)]
pub struct NodeProcess {
    child: Child,
}

impl NodeProcess {
    /// Starts this program as a node; what it says goes to its log.
    ///
    /// # Errors
    /// The program or the log cannot be opened.
    pub fn start(files: &NodeFiles) -> io::Result<Self> {
        let log = File::create(&files.log)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["node", "--config"])
            .arg(&files.configuration)
            .env(PARENT, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo alone, which ends its nodes in order.
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the process to end, and waits for nothing.
    pub fn terminate(&mut self) {
        // A child that was not waited for keeps its number, so that nobody else is hit.
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.terminate();
        let deadline = Instant::now() + STOP_LIMIT;
        while self.ended().is_none() && Instant::now() < deadline {
            sleep(STOP_POLL);
        }
        // Both are without effect on a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In a node that a demo started: end it when the demo dies, even if that is killed.
pub fn end_with_parent() {
    let parent = std::env::var(PARENT).ok();
    let Some(parent) = parent.and_then(|parent| parent.parse::<i32>().ok()) else {
        return;
    };
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    let is_orphan = rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent);
    // It died before the system was asked to tell: nobody needs this node.
    if asked.is_ok() && is_orphan {
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration;
    use crate::demo::directory::DemoDirectory;

    #[test]
    fn the_configurations_are_valid_and_fit_together() {
        let parent = tempfile::tempdir().unwrap();
        let directory = DemoDirectory::prepare(&parent.path().join("a \"quoted\\ name")).unwrap();
        let [alice, bob] = free_addresses().unwrap();
        let (alice, bob) = ((&directory.alice, 0, alice), (&directory.bob, 1, bob));
        for (own, peer) in [(alice, bob), (bob, alice)] {
            let text = configuration(own, peer);
            let parsed = Configuration::parse(&text, &own.0.configuration).unwrap();
            assert_eq!(parsed.node.admin_socket, own.0.admin_socket);
            let there = parsed.volumes[0].peer.as_ref().unwrap();
            assert_eq!((there.address, there.node_id), (peer.2.listen, peer.1));
        }
    }
}
