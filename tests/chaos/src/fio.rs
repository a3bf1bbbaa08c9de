//! `fio` as a second, independent checker: on its own part of the volume it writes all blocks, and verifies them in a run
//! of its own, again and again. What it was answered has to be there, whoever serves it by then.

use mendblock_harness::tool::{is_installed, text};
use serde::Serialize;
use std::io;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Longest pass: longer than any wait of the run.
const LIMIT: Duration = Duration::from_secs(90);
/// How long it may take to notice that its connection broke.
const AFTER_A_CRASH: Duration = Duration::from_secs(1);
/// Requests a second: it is a witness, the load comes from elsewhere.
const RATE: &str = "--rate_iops=400";

/// What it did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Passes {
    /// Whether it took part.
    pub is_installed: bool,
    /// Passes that wrote all blocks.
    pub written: u64,
    /// Passes that found all blocks as they were written.
    pub verified: u64,
    /// Passes that ended because the Primary's process was killed.
    pub interrupted: u64,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It read what it has not written.
    WrongData(String),
    /// It got an error, or no answer.
    Error(String),
}

struct Shared {
    uri: Mutex<String>,
    /// Odd while nobody serves.
    epoch: AtomicU64,
    stop: AtomicBool,
    pause: AtomicBool,
    is_idle: AtomicBool,
    passes: Mutex<Passes>,
    failure: Mutex<Option<Failure>>,
    area: Range<u64>,
    seed: u64,
}

/// A running witness.
pub struct Fio {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How a pass ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Good,
    Interrupted,
    Failed(Failure),
}

impl Fio {
    /// Starts it on the blocks `area` of the volume behind `uri`; idle for ever if there are none, or
    /// if it is not installed.
    pub fn start(uri: String, area: Range<u64>, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            uri: Mutex::new(uri),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            pause: AtomicBool::new(false),
            is_idle: AtomicBool::new(true),
            passes: Mutex::default(),
            failure: Mutex::default(),
            area,
            seed,
        });
        let installed = !shared.area.is_empty() && is_installed("fio");
        shared.passes.lock().unwrap().is_installed = installed;
        let thread = installed.then(|| {
            shared.is_idle.store(false, Ordering::SeqCst);
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.witness())
        });
        Self { shared, thread }
    }

    /// The Primary's process is about to be killed.
    pub fn lost(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The volume is served there from now on.
    pub fn moves_to(&self, uri: String) {
        *self.shared.uri.lock().unwrap() = uri;
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until nothing is under way, and starts nothing until [`go_on`](Self::go_on).
    #[track_caller]
    pub fn pause(&self, seconds: u64) {
        self.shared.pause.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !self.shared.is_idle.load(Ordering::SeqCst) {
            assert!(Instant::now() < deadline, "fio does not end within {seconds} s");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends a pause.
    pub fn go_on(&self) {
        if self.thread.is_some() {
            self.shared.is_idle.store(false, Ordering::SeqCst);
        }
        self.shared.pause.store(false, Ordering::SeqCst);
    }

    /// What went wrong until now.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.failure.lock().unwrap().clone()
    }

    /// What it did until now.
    pub fn passes(&self) -> Passes {
        self.shared.passes.lock().unwrap().clone()
    }

    /// Ends it after the pass that it is at.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn witness(&self) {
        for round in 0.. {
            let seed = (self.seed ^ round) % 1_000_000 + 1;
            if !self.until_it_ends(seed, "--do_verify=0") {
                break;
            }
            self.passes.lock().unwrap().written += 1;
            if !self.until_it_ends(seed, "--verify_only=1") {
                break;
            }
            self.passes.lock().unwrap().verified += 1;
        }
        self.is_idle.store(true, Ordering::SeqCst);
    }

    /// A pass, and again if the Primary died meanwhile. Whether to go on.
    fn until_it_ends(&self, seed: u64, what: &str) -> bool {
        loop {
            if !self.is_called() {
                return false;
            }
            match self.pass(seed, what) {
                End::Good => return true,
                End::Interrupted => self.passes.lock().unwrap().interrupted += 1,
                End::Failed(failure) => {
                    *self.failure.lock().unwrap() = Some(failure);
                    return false;
                }
            }
        }
    }

    /// Waits for the end of a pause, and until somebody serves. False: it is told to stop.
    fn is_called(&self) -> bool {
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            let is_paused = self.pause.load(Ordering::SeqCst);
            self.is_idle.store(is_paused, Ordering::SeqCst);
            if !is_paused && self.epoch.load(Ordering::SeqCst).is_multiple_of(2) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pass(&self, seed: u64, what: &str) -> End {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let output = self
            .command(seed, what)
            .spawn()
            .and_then(|child| self.end_of(child, epoch));
        let is_same = epoch.is_multiple_of(2) && epoch == self.epoch.load(Ordering::SeqCst);
        match output {
            Ok(output) => judge(&output, is_same),
            Err(error) => End::Failed(Failure::Error(error.to_string())),
        }
    }

    /// Waits for its end. Where its connection broke, fio may spin for ever instead: then it is killed.
    fn end_of(&self, mut child: Child, epoch: u64) -> io::Result<Output> {
        let mut deadline = Instant::now() + LIMIT;
        while child.try_wait()?.is_none() {
            if epoch != self.epoch.load(Ordering::SeqCst) {
                deadline = deadline.min(Instant::now() + AFTER_A_CRASH);
            }
            if Instant::now() > deadline {
                child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output()
    }

    fn command(&self, seed: u64, what: &str) -> Command {
        let uri = self.uri.lock().unwrap().clone();
        let mut command = Command::new("fio");
        command
            .args([
                "--thread",
                "--name=witness",
                "--ioengine=nbd",
                "--rw=randwrite",
                "--bs=4k",
            ])
            .args([
                "--iodepth=4",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--end_fsync=1",
                RATE,
                what,
            ])
            .arg(format!("--uri={uri}"))
            .arg(format!("--offset={}", self.area.start * BLOCK))
            .arg(format!("--size={}", (self.area.end - self.area.start) * BLOCK))
            .arg(format!("--randseed={seed}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C is for the run, which ends it in order.
            .process_group(0);
        command
    }
}

/// What a pass says: errors while the Primary died are no failure, wrong data always is.
fn judge(output: &Output, is_same_primary: bool) -> End {
    let text = text(output);
    if text.contains("verify failed") || text.contains("verify: bad") {
        End::Failed(Failure::WrongData(text))
    } else if output.status.success() {
        End::Good
    } else if is_same_primary {
        End::Failed(Failure::Error(format!("{}: {text}", output.status)))
    } else {
        End::Interrupted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn output(code: i32, text: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: Vec::new(),
            stderr: text.into(),
        }
    }

    #[test]
    fn an_error_is_excused_by_a_crash_and_wrong_data_by_nothing() {
        assert_eq!(judge(&output(0, ""), true), End::Good);
        let broken = output(1, "fio: io_u error: Transport endpoint is not connected");
        assert_eq!(judge(&broken, false), End::Interrupted);
        assert!(matches!(judge(&broken, true), End::Failed(Failure::Error(_))));
        for text in [
            "crc32c: verify failed at file 0",
            "verify: bad header rand_seed 1, wanted 2",
        ] {
            for is_same in [true, false] {
                let judged = judge(&output(1, text), is_same);
                assert!(matches!(judged, End::Failed(Failure::WrongData(_))), "{judged:?}");
            }
        }
    }
}
