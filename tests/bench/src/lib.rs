//! The pair beside `qemu-nbd` on one raw file, under the same loads of `fio`, in turns in the same run. Machines and their
//! other users differ from run to run, so only the ratio of the two says anything.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a check of the harness fails; a measurement that fails is none"
)]

pub mod load;
pub mod reference;
pub mod report;

use load::{LOADS, Load, Measured};
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair};
use reference::Reference;
use report::{Report, Row};

/// What is to be measured.
#[derive(Clone, Copy, Debug)]
pub struct Orders {
    /// Bytes of each lower disk, and of the raw file.
    pub disk_bytes: u64,
    /// Seconds of each load on each server.
    pub seconds: u32,
    /// How often the two take turns.
    pub rounds: u32,
}

/// One of the two servers.
struct Server {
    uri: String,
    processes: Vec<u32>,
}

/// Measures all loads. Both servers run all the time; one is idle while the other works.
///
/// # Panics
/// A server or `fio` fails, or the two disks of the pair are not equal in the end.
pub fn measure(orders: Orders, tells: impl Fn(&str)) -> Report {
    let mut pair = Pair::running(&Options {
        disk_bytes: orders.disk_bytes,
        backtraces: false,
        ..Options::default()
    });
    let size = pair.alice.session().size;
    let reference = Reference::start(&pair.disks.path().join("reference.raw"), size);
    let process = |node: &Node| node.process().unwrap();
    let servers = [
        Server {
            uri: pair.alice.uri(),
            processes: vec![process(&pair.alice), process(&pair.bob)],
        },
        Server {
            uri: reference.uri(),
            processes: vec![reference.process()],
        },
    ];
    // A file with holes is another disk than one without.
    for server in &servers {
        load::fill(&server.uri);
    }
    let rows = LOADS
        .iter()
        .map(|load| row(load, &servers, orders, &tells))
        .collect();
    pair.stop_and_compare();
    Report { rows }
}

fn row(load: &'static Load, servers: &[Server; 2], orders: Orders, tells: &impl Fn(&str)) -> Row {
    let mut rounds = Vec::new();
    for round in 0..orders.rounds {
        let measured =
            |server: &Server| -> Measured { load.run(&server.uri, orders.seconds, &server.processes) };
        let [ours, theirs] = servers;
        // Who begins may find a colder disk: in turns.
        let pair = if round % 2 == 0 {
            let ours = measured(ours);
            (ours, measured(theirs))
        } else {
            let theirs = measured(theirs);
            (measured(ours), theirs)
        };
        tells(&format!(
            "{}: {} and {} requests/s",
            load.name,
            pair.0.rate.round(),
            pair.1.rate.round()
        ));
        rounds.push(pair);
    }
    Row { load, rounds }
}
