//! Loads of `fio`, and what it says of them.

use mendblock_harness::tool::{limited, text};
use serde_json::Value;
use std::fs;

/// Clock ticks in a second, of the times in `/proc`: Linux has told programs this number since ever.
const TICKS: f64 = 100.0;

/// A load, as `fio` knows it.
#[derive(Debug)]
pub struct Load {
    /// For people.
    pub name: &'static str,
    mode: &'static str,
    block: &'static str,
    depth: &'static str,
}

/// What is measured.
pub const LOADS: [Load; 5] = [
    Load {
        name: "sequential read, 1 MiB, depth 8",
        mode: "read",
        block: "1M",
        depth: "8",
    },
    Load {
        name: "sequential write, 1 MiB, depth 8",
        mode: "write",
        block: "1M",
        depth: "8",
    },
    Load {
        name: "random read, 4 KiB, depth 32",
        mode: "randread",
        block: "4k",
        depth: "32",
    },
    Load {
        name: "random write, 4 KiB, depth 32",
        mode: "randwrite",
        block: "4k",
        depth: "32",
    },
    Load {
        name: "random write, 4 KiB, depth 1",
        mode: "randwrite",
        block: "4k",
        depth: "1",
    },
];

/// One run of a load on one server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Requests a second.
    pub rate: f64,
    /// Median of the time that a request took, microseconds.
    pub median: f64,
    /// Processor time of the server's processes for each request, microseconds.
    pub processor: f64,
}

impl Load {
    /// Runs the load on the server behind `uri`, which `processes` make up.
    ///
    /// # Panics
    /// `fio` sees an error.
    pub fn run(&self, uri: &str, seconds: u32, processes: &[u32]) -> Measured {
        let before = processor_seconds(processes);
        let runtime = format!("--runtime={seconds}");
        let said = fio(
            uri,
            &[
                &format!("--rw={}", self.mode),
                &format!("--bs={}", self.block),
                &format!("--iodepth={}", self.depth),
                "--time_based",
                &runtime,
            ],
        );
        let used = processor_seconds(processes) - before;
        let job = Job::of(&said, self.mode.ends_with("write"));
        Measured {
            rate: job.rate,
            median: job.median,
            processor: used * 1e6 / job.requests.max(1.0),
        }
    }
}

/// Writes every block once.
pub fn fill(uri: &str) {
    fio(uri, &["--rw=write", "--bs=1M", "--iodepth=8"]);
}

fn fio(uri: &str, arguments: &[&str]) -> Value {
    let uri = format!("--uri={uri}");
    let first = [
        "--name=load",
        "--ioengine=nbd",
        &uri,
        "--randseed=7",
        "--output-format=json",
    ];
    let output = limited("fio", &[&first, arguments].concat()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let out = String::from_utf8_lossy(&output.stdout);
    // Warnings may stand before the document.
    let json = &out[out.find('{').unwrap_or(0)..];
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// What `fio` says of its job.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Job {
    rate: f64,
    requests: f64,
    median: f64,
}

impl Job {
    fn of(said: &Value, writes: bool) -> Self {
        let job = &said["jobs"][0];
        assert_eq!(job["error"], 0, "{job:#}");
        let side = &job[if writes { "write" } else { "read" }];
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {side:#}"));
        Self {
            rate: number(&side["iops"]),
            requests: number(&side["total_ios"]),
            median: number(&side["clat_ns"]["percentile"]["50.000000"]) / 1000.0,
        }
    }
}

/// Processor time that these processes have used.
fn processor_seconds(processes: &[u32]) -> f64 {
    processes
        .iter()
        .map(|process| fs::read_to_string(format!("/proc/{process}/stat")).unwrap())
        .map(|stat| ticks(&stat) / TICKS)
        .sum()
}

/// User and system time in a line of `/proc/PID/stat`; the name in brackets may hold spaces.
fn ticks(stat: &str) -> f64 {
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let mut times = fields.split_whitespace().skip(11).take(2);
    let mut next = || -> f64 { times.next().unwrap().parse().unwrap() };
    next() + next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_that_worked_is_read() {
        let side = |iops: f64| {
            serde_json::json!({
                "iops": iops, "total_ios": 10, "clat_ns": { "percentile": { "50.000000": 2000 } }
            })
        };
        let said = serde_json::json!({ "jobs": [{ "error": 0, "read": side(1.0), "write": side(5.5) }] });
        let job = Job {
            rate: 5.5,
            requests: 10.0,
            median: 2.0,
        };
        assert_eq!(Job::of(&said, true), job);
        assert_eq!(Job::of(&said, false).rate, 1.0);
    }

    #[test]
    fn processor_time_is_user_and_system() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 8 20 0 1 0 5 6 7";
        assert_eq!(ticks(stat), 300.0);
        let own = std::process::id();
        assert!(processor_seconds(&[own, own]) >= 0.0);
    }
}
