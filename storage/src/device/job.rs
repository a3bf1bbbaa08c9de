//! An operation on its way through the kernel: which system call comes next, and what its result means.
//!
//! Shared by the ring and the threads, which only execute a [`Step`] and report its outcome. No I/O here.

use super::{Completion, DeviceError, Operation, OperationKind, Summary, errno};
use crate::buffer::{Buffer, BufferMut};
use std::time::{Duration, Instant};

/// Longest piece of explicit zeros written at once.
pub(super) const ZEROS_BYTES: u64 = 1 << 20;
const FIRST_BACK_OFF: Duration = Duration::from_millis(1);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(256);
const PATIENCE: Duration = Duration::from_secs(5);
/// A transfer that twice in a row moves less than a logical block is stuck.
const MAX_STALLS: u8 = 2;

/// What is fixed while a device is open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub(super) size: u64,
    pub(super) logical_block: u32,
    pub(super) read_only: bool,
    pub(super) direct: bool,
}

/// What the device turned out to lack; not tried again until it is opened again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lacks {
    pub(super) punch: bool,
    pub(super) zero_range: bool,
    pub(super) fua: bool,
}

/// The next system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read to the buffer's `start..`.
    Read { offset: u64, start: usize },
    /// Write the buffer's `start..`.
    Write { offset: u64, start: usize, fua: bool },
    /// Write `length` zeros, at most [`ZEROS_BYTES`].
    WriteZeros { offset: u64, length: usize },
    /// fallocate with PUNCH_HOLE, which both files and block devices execute only if the range reads as zeros afterwards.
    PunchHole { offset: u64, length: u64 },
    /// fallocate with ZERO_RANGE.
    ZeroRange { offset: u64, length: u64 },
    /// fdatasync.
    Sync,
}

/// What follows an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Execute [`Job::step`].
    Step,
    /// Execute [`Job::step`] after this time.
    StepAfter(Duration),
    /// [`Job::complete`].
    Done(Result<(), DeviceError>),
}

enum Work {
    Read(BufferMut),
    Write(Buffer),
    Zero(Zeroing),
    Flush,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Zeroing {
    Punch,
    ZeroRange,
    Explicit,
}

/// Keeps the buffer of an operation until the kernel has given it back.
pub(super) struct Job {
    token: u64,
    summary: Summary,
    work: Work,
    done: u64,
    fua: bool,
    /// FUA by a flush after the write, where the flag is not supported.
    sync_after: bool,
    stalls: u8,
    back_off: Duration,
    waited: Duration,
    submitted: Instant,
}

impl Job {
    /// Takes an operation; it may be done at once (refused, or nothing to do).
    pub(super) fn new(
        operation: Operation,
        geometry: &Geometry,
        lacks: &Lacks,
        now: Instant,
    ) -> (Self, Next) {
        let summary = operation.kind.summary();
        let checked = operation.kind.check(geometry.size, geometry.logical_block);
        let mut fua = false;
        let (work, writes) = match operation.kind {
            OperationKind::Read { buffer, .. } => (Work::Read(buffer), false),
            OperationKind::Write {
                buffer, fua: wanted, ..
            } => {
                fua = wanted;
                (Work::Write(buffer), true)
            }
            OperationKind::Flush => (Work::Flush, false),
            OperationKind::WriteZeroes { may_unmap: false, .. } => (Work::Zero(Zeroing::ZeroRange), true),
            OperationKind::WriteZeroes { .. } | OperationKind::Discard { .. } => {
                (Work::Zero(Zeroing::Punch), true)
            }
        };
        let mut job = Self {
            token: operation.token,
            summary,
            work,
            done: 0,
            fua: fua && !lacks.fua,
            sync_after: fua && lacks.fua,
            stalls: 0,
            back_off: FIRST_BACK_OFF,
            waited: Duration::ZERO,
            submitted: now,
        };
        job.choose_zeroing(lacks);
        let next = match (checked, writes && geometry.read_only) {
            (Err(error), _) => Next::Done(Err(error)),
            (_, true) => Next::Done(Err(DeviceError::new(errno::EROFS))),
            _ if summary.length == 0 && !matches!(job.work, Work::Flush) => Next::Done(Ok(())),
            _ => Next::Step,
        };
        (job, next)
    }

    /// The next system call.
    pub(super) fn step(&self) -> Step {
        let offset = self.summary.offset + self.done;
        let rest = self.summary.length - self.done;
        let start = self.done as usize;
        match &self.work {
            Work::Flush => Step::Sync,
            _ if rest == 0 => Step::Sync,
            Work::Read(_) => Step::Read { offset, start },
            Work::Write(_) => Step::Write {
                offset,
                start,
                fua: self.fua,
            },
            Work::Zero(Zeroing::Explicit) => Step::WriteZeros {
                offset,
                length: rest.min(ZEROS_BYTES) as usize,
            },
            Work::Zero(Zeroing::Punch) => Step::PunchHole { offset, length: rest },
            Work::Zero(Zeroing::ZeroRange) => Step::ZeroRange { offset, length: rest },
        }
    }

    /// The buffer of a read.
    pub(super) fn read_buffer(&mut self) -> Option<&mut BufferMut> {
        match &mut self.work {
            Work::Read(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// The buffer of a write.
    pub(super) fn write_buffer(&self) -> Option<&Buffer> {
        match &self.work {
            Work::Write(buffer) => Some(buffer),
            _ => None,
        }
    }

    /// Takes the outcome of the current step: bytes moved, or an error number.
    pub(super) fn advance(
        &mut self,
        outcome: Result<u64, i32>,
        geometry: &Geometry,
        lacks: &mut Lacks,
    ) -> Next {
        match outcome {
            Ok(moved) => self.moved(moved, geometry),
            Err(errno::EINTR | errno::EAGAIN | errno::ENOMEM | errno::ENOBUFS) => self.retry(),
            Err(number) => self.failed(number, lacks),
        }
    }

    fn moved(&mut self, moved: u64, geometry: &Geometry) -> Next {
        self.back_off = FIRST_BACK_OFF;
        self.waited = Duration::ZERO;
        match self.step() {
            Step::Sync => return Next::Done(Ok(())),
            Step::PunchHole { .. } | Step::ZeroRange { .. } => self.done = self.summary.length,
            step @ (Step::Read { .. } | Step::Write { .. } | Step::WriteZeros { .. }) => {
                if moved == 0 {
                    return Next::Done(Err(DeviceError {
                        errno: errno::EIO,
                        shrunk: matches!(step, Step::Read { .. }),
                    }));
                }
                // O_DIRECT takes up again only at a block's start.
                let whole = self.done + moved;
                let aligned = whole - whole % u64::from(geometry.logical_block);
                self.stalls = if aligned == self.done { self.stalls + 1 } else { 0 };
                self.done = aligned.min(self.summary.length);
                if self.stalls >= MAX_STALLS {
                    return Next::Done(Err(DeviceError::new(errno::EIO)));
                }
            }
        }
        if self.done < self.summary.length || self.sync_after {
            Next::Step
        } else {
            Next::Done(Ok(()))
        }
    }

    fn retry(&mut self) -> Next {
        if self.waited + self.back_off > PATIENCE {
            return Next::Done(Err(DeviceError::new(errno::EIO)));
        }
        let wait = self.back_off;
        self.waited += wait;
        self.back_off = (wait * 2).min(LONGEST_BACK_OFF);
        Next::StepAfter(wait)
    }

    fn failed(&mut self, number: i32, lacks: &mut Lacks) -> Next {
        let unsupported = matches!(number, errno::EOPNOTSUPP | errno::ENOTTY | errno::ENOSYS);
        match (self.step(), &mut self.work) {
            (Step::PunchHole { .. }, Work::Zero(zeroing)) => {
                lacks.punch |= unsupported;
                *zeroing = if unsupported {
                    Zeroing::ZeroRange
                } else {
                    Zeroing::Explicit
                };
                self.choose_zeroing(lacks);
                Next::Step
            }
            (Step::ZeroRange { .. }, Work::Zero(zeroing)) => {
                lacks.zero_range |= unsupported;
                *zeroing = Zeroing::Explicit;
                Next::Step
            }
            (Step::Write { fua: true, .. }, _) if unsupported || number == errno::EINVAL => {
                lacks.fua |= unsupported;
                self.fua = false;
                self.sync_after = true;
                Next::Step
            }
            _ => Next::Done(Err(DeviceError::new(number))),
        }
    }

    fn choose_zeroing(&mut self, lacks: &Lacks) {
        if let Work::Zero(zeroing) = &mut self.work {
            if *zeroing == Zeroing::Punch && lacks.punch {
                *zeroing = Zeroing::ZeroRange;
            }
            if *zeroing == Zeroing::ZeroRange && lacks.zero_range {
                *zeroing = Zeroing::Explicit;
            }
        }
    }

    /// Ends the job and hands its buffer back.
    pub(super) fn complete(self, result: Result<(), DeviceError>, now: Instant) -> Completion {
        Completion {
            token: self.token,
            transferred: if result.is_ok() {
                self.summary.length
            } else {
                self.done
            },
            result,
            buffer: match self.work {
                Work::Read(buffer) => Some(buffer),
                _ => None,
            },
            summary: self.summary,
            latency: now.saturating_duration_since(self.submitted),
        }
    }
}

#[cfg(test)]
mod tests;
