//! What a node's process holds, seen in quiet moments: nothing under way, both nodes in sync. It must not grow.

use serde::Serialize;
use std::fs;
use std::io;

/// What a process holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Holds {
    /// Resident memory of its own, KiB: without mapped files, such as the debug information that a backtrace reads.
    pub resident_kib: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Threads, without the kernel's own workers.
    pub threads: u64,
}

/// Most growth between the first quiet moment of a process and any later one. The first one comes early, before buffers,
/// allocator arenas and thread pools have their usual size: that much is allowed for.
pub const BOUNDS: Holds = Holds {
    resident_kib: 16 << 10,
    descriptors: 6,
    threads: 4,
};

impl Holds {
    /// What a process holds now.
    ///
    /// # Errors
    /// It is gone, or belongs to somebody else.
    pub fn of(process: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
        Ok(Self {
            resident_kib: kib.ok_or_else(|| io::Error::other("no RssAnon: the process has ended"))?,
            descriptors: fs::read_dir(format!("/proc/{process}/fd"))?.count() as u64,
            threads: threads(process)?,
        })
    }

    fn above(self, first: Self) -> Self {
        Self {
            resident_kib: self.resident_kib.saturating_sub(first.resident_kib),
            descriptors: self.descriptors.saturating_sub(first.descriptors),
            threads: self.threads.saturating_sub(first.threads),
        }
    }

    fn is_within(self, bounds: Self) -> bool {
        self.resident_kib <= bounds.resident_kib
            && self.descriptors <= bounds.descriptors
            && self.threads <= bounds.threads
    }

    fn largest(self, other: Self) -> Self {
        Self {
            resident_kib: self.resident_kib.max(other.resident_kib),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }
}

/// Threads that io_uring makes and ends as it likes are the kernel's.
fn threads(process: u32) -> io::Result<u64> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let name = fs::read_to_string(entry?.path().join("comm")).unwrap_or_default();
        count += u64::from(!name.starts_with("iou-"));
    }
    Ok(count)
}

/// A process of a node, from its first quiet moment to its last.
#[derive(Clone, Debug, Serialize)]
pub struct Life {
    /// Whose.
    pub node: String,
    /// Its number.
    pub process: u32,
    /// Quiet moments.
    pub moments: u64,
    /// Seconds between the first and the last.
    pub seconds: f64,
    /// Deaths of its actors between them.
    pub deaths: u64,
    /// At the first one.
    pub first: Holds,
    /// At the last one.
    pub last: Holds,
    /// The largest growth since the first one.
    pub growth: Holds,
    #[serde(skip)]
    began: f64,
    #[serde(skip)]
    deaths_before: u64,
}

/// All processes of a run.
#[derive(Debug, Default)]
pub struct Watch {
    lives: Vec<Life>,
}

impl Watch {
    /// Whether this is within the bounds for that process.
    pub fn is_good(&self, process: u32, holds: Holds) -> bool {
        let life = self.lives.iter().find(|life| life.process == process);
        life.is_none_or(|life| holds.above(life.first).is_within(BOUNDS))
    }

    /// A quiet moment, `seconds` into the run, after `deaths` deaths of this node's actors; what is wrong.
    pub fn look(
        &mut self,
        node: &str,
        process: u32,
        holds: Holds,
        (seconds, deaths): (f64, u64),
    ) -> Option<String> {
        let good = self.is_good(process, holds);
        let known = self.lives.iter_mut().find(|life| life.process == process);
        let Some(life) = known else {
            self.lives.push(Life {
                node: node.into(),
                process,
                moments: 1,
                seconds: 0.0,
                deaths: 0,
                first: holds,
                last: holds,
                growth: Holds::default(),
                began: seconds,
                deaths_before: deaths,
            });
            return None;
        };
        life.moments += 1;
        life.seconds = seconds - life.began;
        life.deaths = deaths - life.deaths_before;
        life.last = holds;
        life.growth = life.growth.largest(holds.above(life.first));
        (!good).then(|| {
            format!(
                "{node} (process {process}) holds {holds:?} after {:.0} s and {} deaths, at first {:?}; more than {BOUNDS:?} \
                 are not allowed",
                life.seconds, life.deaths, life.first
            )
        })
    }

    /// All lives.
    pub fn lives(&self) -> &[Life] {
        &self.lives
    }
}
