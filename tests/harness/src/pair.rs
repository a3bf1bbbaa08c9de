//! Two nodes with file disks that keep one volume.

use crate::admin::Admin;
use crate::disks;
use crate::history::History;
use crate::link::Link;
use crate::node::{Node, Settings};
use mendblock::admin::schema::VolumeStatus;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use tempfile::TempDir;

/// What differs between tests.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of both lower disks.
    pub disk_bytes: u64,
    /// More keys of `[[volume]]` for both nodes, a line each.
    pub volume_keys: String,
    /// Handlers of both nodes.
    pub handlers: String,
    /// The nodes talk over a [`Link`].
    pub link: bool,
    /// The processes do not hear a Ctrl-C in the terminal: who started them ends them.
    pub is_apart: bool,
    /// Panics leave a backtrace in the nodes' logs.
    pub backtraces: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            disk_bytes: 64 << 20,
            volume_keys: String::new(),
            handlers: String::new(),
            link: false,
            is_apart: false,
            backtraces: true,
        }
    }
}

/// Two nodes; `alice` becomes Primary.
pub struct Pair {
    pub alice: Node,
    pub bob: Node,
    /// The line between them, where the options asked for one.
    pub link: Option<Link>,
    /// Lower disks and logs; below the target directory, since not every temporary file system can do direct I/O.
    pub disks: TempDir,
    // Sockets: a short path, for it must fit into an address of 108 bytes.
    run: TempDir,
}

impl Pair {
    /// Two nodes with fresh meta-data, not started.
    pub fn new(options: &Options) -> Self {
        let pair = Self::bare(options);
        for node in [&pair.alice, &pair.bob] {
            node.offline(&["create-md"]).expect_code(0);
        }
        pair
    }

    /// Two nodes without meta-data, not started.
    pub fn bare(options: &Options) -> Self {
        let disks = TempDir::with_prefix_in("pair-", crate::program::disks()).unwrap();
        let run = TempDir::with_prefix("mendblock-").unwrap();
        let (alice, bob) = (loopback(), loopback());
        let (link, [to_alice, to_bob]) = if options.link {
            let (link, addresses) = Link::between([alice, bob].map(crate::node::peer_port));
            (Some(link), addresses)
        } else {
            (None, [alice, bob])
        };
        let settings = |name, id, address, peer| Settings {
            name,
            id,
            address,
            peer: Some(peer),
            disk_bytes: options.disk_bytes,
            volume_keys: options.volume_keys.clone(),
            handlers: options.handlers.clone(),
            is_apart: options.is_apart,
            backtraces: options.backtraces,
        };
        Self {
            alice: Node::new(
                settings("alice", 0, alice, ("bob", 1, to_bob)),
                disks.path(),
                run.path(),
            ),
            bob: Node::new(
                settings("bob", 1, bob, ("alice", 0, to_alice)),
                disks.path(),
                run.path(),
            ),
            link,
            disks,
            run,
        }
    }

    /// Two running nodes, in sync, `alice` Primary.
    #[track_caller]
    pub fn running(options: &Options) -> Self {
        let mut pair = Self::new(options);
        pair.bring_up();
        pair
    }

    /// Starts both nodes with their fresh disks, makes `alice` Primary and waits for the first resync.
    #[track_caller]
    pub fn bring_up(&mut self) {
        self.alice.start();
        self.bob.start();
        for node in [&self.alice, &self.bob] {
            node.admin.wait_for("connected for the first time", 20, |volume| {
                connection(volume) == "Connected" && volume.disk.state == "Inconsistent"
            });
        }
        self.alice.admin.order(&["primary", "--force"]).expect_code(0);
        self.wait_in_sync(60);
    }

    /// Keeps the directories after the end; where they are.
    pub fn keep(&mut self) -> [PathBuf; 2] {
        for directory in [&mut self.disks, &mut self.run] {
            directory.disable_cleanup(true);
        }
        [self.disks.path().into(), self.run.path().into()]
    }

    /// Waits until both disks are UpToDate, connected and without a set bit.
    #[track_caller]
    pub fn wait_in_sync(&self, seconds: u64) {
        for node in [&self.alice, &self.bob] {
            wait_in_sync(&node.admin, seconds);
        }
    }

    /// Ends both nodes orderly and compares their data areas byte for byte.
    #[track_caller]
    pub fn stop_and_compare(&mut self) {
        self.wait_in_sync(60);
        self.alice.stop();
        self.bob.stop();
        disks::assert_equal(&self.alice, &self.bob);
    }

    /// As [`stop_and_compare`](Self::stop_and_compare); and each disk holds what clients were told that it holds.
    #[track_caller]
    pub fn stop_and_check(&mut self, history: &History) {
        self.stop_and_compare();
        for node in [&self.alice, &self.bob] {
            disks::assert_holds(node, history);
        }
    }
}

/// Waits until this node says that everything is well.
#[track_caller]
pub fn wait_in_sync(admin: &Admin, seconds: u64) {
    admin.wait_for("both disks UpToDate and connected", seconds, is_in_sync);
}

pub fn is_in_sync(volume: &VolumeStatus) -> bool {
    connection(volume) == "Connected"
        && volume.disk.state == "UpToDate"
        && peer_disk(volume) == "UpToDate"
        && volume.out_of_sync_bytes == 0
}

/// Connection state; empty before the first one is known.
pub fn connection(volume: &VolumeStatus) -> &str {
    volume
        .connections
        .first()
        .map_or("", |connection| &connection.state)
}

/// The peer's disk state.
pub fn peer_disk(volume: &VolumeStatus) -> &str {
    volume
        .connections
        .first()
        .map_or("", |connection| &connection.peer_disk)
}

/// A loopback address that nobody else has: not in this process, and hardly in another one.
pub fn loopback() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let own = NEXT.fetch_add(1, Ordering::Relaxed);
    IpAddr::V4(Ipv4Addr::new(127, 64 + high % 128, low, own))
}
