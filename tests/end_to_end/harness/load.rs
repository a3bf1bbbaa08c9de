//! Clients that write and read at random on several connections until they are told to stop; everything they do stands
//! in a [`History`].

use super::admin::VOLUME;
use super::disks::BLOCK;
use super::history::{History, content};
use super::nbd::{NbdError, NbdResult, Session};
use super::node::Node;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most blocks of one request.
const MOST_BLOCKS: u64 = 4;

/// A running load.
pub struct Load {
    pub history: Arc<History>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    socket: PathBuf,
    /// Blocks that it uses.
    area: Range<u64>,
    stop: AtomicBool,
    done: AtomicU64,
    errors: std::sync::Mutex<Vec<String>>,
}

/// How a load ended.
pub struct Ended {
    /// What went wrong: I/O errors, broken connections, wrong data.
    pub errors: Vec<String>,
    pub requests: u64,
}

impl Load {
    /// Starts `connections` clients on the blocks `area`.
    pub fn start(node: &Node, history: Arc<History>, area: Range<u64>, connections: u64) -> Self {
        let shared = Arc::new(Shared {
            socket: node.nbd_socket(),
            area,
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            errors: std::sync::Mutex::default(),
        });
        let threads = (0..connections)
            .map(|number| {
                let (shared, history) = (Arc::clone(&shared), Arc::clone(&history));
                std::thread::spawn(move || client(&shared, &history, number))
            })
            .collect();
        Self {
            history,
            shared,
            threads,
        }
    }

    /// Waits until `count` more requests were answered well.
    #[track_caller]
    pub fn progress(&self, count: u64, seconds: u64) {
        let wanted = self.shared.done.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while self.shared.done.load(Ordering::Relaxed) < wanted {
            let errors = self.shared.errors.lock().unwrap();
            assert!(errors.is_empty(), "clients see errors: {errors:#?}");
            drop(errors);
            let done = self.shared.done.load(Ordering::Relaxed);
            assert!(
                Instant::now() < deadline,
                "the clients come to a stop at {done} of {wanted}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the clients after the request that each is at.
    pub fn stop(self) -> Ended {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let errors = std::mem::take(&mut *self.shared.errors.lock().unwrap());
        Ended {
            errors,
            requests: self.shared.done.load(Ordering::Relaxed),
        }
    }
}

impl Ended {
    /// No client saw an error.
    #[track_caller]
    pub fn expect_no_error(&self) {
        assert!(self.errors.is_empty(), "clients saw errors: {:#?}", self.errors);
        assert!(self.requests > 0, "nothing was done");
    }

    /// Clients saw their connection break, but nothing worse.
    #[track_caller]
    pub fn expect_only_broken(&self) {
        let worse: Vec<_> = self
            .errors
            .iter()
            .filter(|error| !error.starts_with("broken:"))
            .collect();
        assert!(worse.is_empty(), "{worse:#?}");
    }
}

fn client(shared: &Shared, history: &History, number: u64) {
    if let Err(error) = run(shared, history, number) {
        shared.errors.lock().unwrap().push(error);
    }
}

fn run(shared: &Shared, history: &History, number: u64) -> Result<(), String> {
    let mut session =
        Session::connect(&shared.socket, VOLUME).map_err(|error| format!("connect: {error}"))?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xff51_afd7_ed55_8ccd));
    while !shared.stop.load(Ordering::Relaxed) {
        let first = shared.area.start + random.below(shared.area.end - shared.area.start);
        let count = (1 + random.below(MOST_BLOCKS)).min(shared.area.end - first);
        match random.below(10) {
            0 => told(session.flush())?,
            1..=4 => {
                let started = history.begin_read();
                let bytes = told(session.read(first * BLOCK, (count * BLOCK) as u32))?;
                history.read(started, first, &bytes)?;
            }
            choice => {
                let blocks = first..first + count;
                let value = history.begin_write(blocks.clone());
                let bytes = content(blocks.clone(), value);
                told(if choice == 5 {
                    session.write_fua(first * BLOCK, &bytes)
                } else {
                    session.write(first * BLOCK, &bytes)
                })?;
                history.acknowledged(blocks, value);
            }
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn told<T>(result: NbdResult<T>) -> Result<T, String> {
    result.map_err(|error| match error {
        NbdError::Refused(error) => format!("a client got error {error}"),
        NbdError::Broken(error) => format!("broken: {error}"),
    })
}

/// Reads every block that the history knows, through the volume, and checks it.
#[track_caller]
pub fn check_all(socket: &Path, history: &History) {
    let mut session = Session::connect(socket, VOLUME).unwrap();
    for block in history.blocks() {
        let started = history.begin_read();
        let bytes = session.read(block * BLOCK, BLOCK as u32).unwrap();
        history.read(started, block, &bytes).unwrap();
    }
}

/// Numbers without a pattern, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
