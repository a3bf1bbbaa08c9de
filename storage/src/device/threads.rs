//! Operations through threads of our own, where io_uring is refused (containers, old kernels).

use super::job::{Geometry, Job, Lacks, Next, Step, ZEROS_BYTES};
use super::{Completion, Device, Operation};
use crate::buffer::{Buffer, BufferMut};
use crate::lock::LockedFile;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, fallocate, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, pread, pwrite, pwritev2};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

const THREADS: usize = 16;
const STACK_BYTES: usize = 128 << 10;

/// A device whose operations are executed by 16 threads, each with pread and pwrite.
pub(super) struct ThreadsDevice {
    shared: Arc<Shared>,
    geometry: Geometry,
    submitted: Vec<Job>,
    refused: Vec<Completion>,
    /// Handed to the threads and not reaped.
    running: usize,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    file: LockedFile,
    geometry: Geometry,
    zeros: Buffer,
    queue: Mutex<Queue>,
    work_came: Condvar,
    completed: Mutex<Vec<Completion>>,
    ready: OwnedFd,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    lacks: Lacks,
    /// Threads that execute a job.
    busy: usize,
    closed: bool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No change under these locks is left half-done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ThreadsDevice {
    /// Starts the threads. Fewer than wanted are enough to go on, none is an error.
    pub(super) fn new(file: LockedFile, geometry: Geometry) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            file,
            geometry,
            zeros: BufferMut::zeroed(ZEROS_BYTES as usize).freeze(),
            queue: Mutex::default(),
            work_came: Condvar::new(),
            completed: Mutex::default(),
            ready: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let mut device = Self {
            shared,
            geometry,
            submitted: Vec::new(),
            refused: Vec::new(),
            running: 0,
            threads: Vec::new(),
        };
        for started in 0..THREADS {
            let shared = Arc::clone(&device.shared);
            let thread = std::thread::Builder::new()
                .name(format!("device-{started}"))
                .stack_size(STACK_BYTES);
            match thread.spawn(move || shared.work()) {
                Ok(thread) => device.threads.push(thread),
                Err(error) if started == 0 => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, started, "fewer disk threads than wanted");
                    break;
                }
            }
        }
        Ok(device)
    }
}

impl Shared {
    fn work(&self) {
        while let Some((job, lacks)) = self.next_job() {
            let completion = self.run(job, lacks);
            let mut completed = locked(&self.completed);
            completed.push(completion);
            if completed.len() == 1 {
                // Fails only when the counter is full, and then the descriptor is readable anyway.
                let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
            }
        }
    }

    fn next_job(&self) -> Option<(Job, Lacks)> {
        let mut queue = locked(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some(job) = queue.jobs.pop_front() {
                queue.busy += 1;
                return Some((job, queue.lacks));
            }
            queue = self.work_came.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, mut job: Job, mut lacks: Lacks) -> Completion {
        let result = loop {
            let outcome = self.execute(&mut job).map_err(Errno::raw_os_error);
            match job.advance(outcome, &self.geometry, &mut lacks) {
                Next::Step => {}
                Next::StepAfter(wait) => std::thread::sleep(wait),
                Next::Done(result) => break result,
            }
        };
        let completion = job.complete(result, Instant::now());
        self.end_of_job(lacks);
        completion
    }

    fn end_of_job(&self, found: Lacks) {
        let queue = &mut *locked(&self.queue);
        queue.busy -= 1;
        queue.lacks.punch |= found.punch;
        queue.lacks.zero_range |= found.zero_range;
        queue.lacks.fua |= found.fua;
    }

    fn execute(&self, job: &mut Job) -> rustix::io::Result<u64> {
        let file = &self.file;
        let allocate = |offset, length, mode| {
            fallocate(file, mode | FallocateFlags::KEEP_SIZE, offset, length).map(|()| 0)
        };
        match job.step() {
            Step::Read { offset, start } => {
                let buffer = job.read_buffer().expect("a read has a buffer");
                pread(file, &mut buffer[start..], offset).map(|moved| moved as u64)
            }
            Step::Write { offset, start, fua } => {
                let buffer = &job.write_buffer().expect("a write has a buffer")[start..];
                let moved = if fua {
                    pwritev2(file, &[IoSlice::new(buffer)], offset, ReadWriteFlags::DSYNC)?
                } else {
                    pwrite(file, buffer, offset)?
                };
                Ok(moved as u64)
            }
            Step::WriteZeros { offset, length } => {
                pwrite(file, &self.zeros[..length], offset).map(|moved| moved as u64)
            }
            Step::PunchHole { offset, length } => allocate(offset, length, FallocateFlags::PUNCH_HOLE),
            Step::ZeroRange { offset, length } => allocate(offset, length, FallocateFlags::ZERO_RANGE),
            Step::Sync => fdatasync(file).map(|()| 0),
        }
    }
}

impl Device for ThreadsDevice {
    fn submit(&mut self, operation: Operation) {
        let now = Instant::now();
        let lacks = locked(&self.shared.queue).lacks;
        match Job::new(operation, &self.geometry, &lacks, now) {
            (job, Next::Done(result)) => self.refused.push(job.complete(result, now)),
            (job, _) => self.submitted.push(job),
        }
    }

    fn kick(&mut self) {
        let count = self.submitted.len();
        if count == 0 {
            return;
        }
        self.running += count;
        locked(&self.shared.queue).jobs.extend(self.submitted.drain(..));
        for _ in 0..count.min(THREADS) {
            self.shared.work_came.notify_one();
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.refused);
        // Before taking the completions, so that one which comes in between makes it readable again.
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.ready, &mut counter);
        let mut completed = locked(&self.shared.completed);
        self.running -= completed.len();
        out.append(&mut completed);
    }

    fn in_flight(&self) -> usize {
        self.submitted.len() + self.refused.len() + self.running
    }

    fn size(&self) -> u64 {
        self.geometry.size
    }

    fn logical_block(&self) -> u32 {
        self.geometry.logical_block
    }

    fn backend(&self) -> &'static str {
        if self.geometry.direct {
            "threads"
        } else {
            "threads, buffered"
        }
    }

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.ready.as_fd())
    }
}

impl Drop for ThreadsDevice {
    fn drop(&mut self) {
        let idle = {
            let mut queue = locked(&self.shared.queue);
            queue.closed = true;
            queue.jobs.clear();
            self.shared.work_came.notify_all();
            queue.busy == 0
        };
        // Threads that are in the kernel keep job, file and lock until they come back; without any, all is free at once.
        if idle {
            for thread in self.threads.drain(..) {
                if thread.join().is_err() {
                    tracing::error!("a disk thread had panicked");
                }
            }
        }
    }
}
