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
mod tests {
    use super::*;

    const GEOMETRY: Geometry = Geometry {
        size: 64 << 20,
        logical_block: 512,
        read_only: false,
        direct: true,
    };

    fn job(kind: OperationKind, lacks: &Lacks) -> Job {
        let (job, next) = Job::new(Operation { token: 1, kind }, &GEOMETRY, lacks, Instant::now());
        assert_eq!(next, Next::Step);
        job
    }

    fn read(length: usize) -> Job {
        let kind = OperationKind::Read {
            offset: 4096,
            buffer: BufferMut::zeroed(length),
        };
        job(kind, &Lacks::default())
    }

    fn write(fua: bool) -> Job {
        let kind = OperationKind::Write {
            offset: 0,
            buffer: Buffer::from_vec(vec![7; 4096]),
            fua,
        };
        job(kind, &Lacks::default())
    }

    fn failure(errno: i32) -> Next {
        Next::Done(Err(DeviceError::new(errno)))
    }

    #[test]
    fn short_transfers_go_on_at_a_block() {
        let (mut job, mut lacks) = (read(4096), Lacks::default());
        assert_eq!(job.advance(Ok(1000), &GEOMETRY, &mut lacks), Next::Step);
        assert_eq!(
            job.step(),
            Step::Read {
                offset: 4096 + 512,
                start: 512
            }
        );
        assert_eq!(job.advance(Ok(3584), &GEOMETRY, &mut lacks), Next::Done(Ok(())));
        assert_eq!(job.complete(Ok(()), Instant::now()).transferred, 4096);
    }

    #[test]
    fn no_progress_twice_and_the_end_are_errors() {
        let (mut job, mut lacks) = (read(4096), Lacks::default());
        assert_eq!(job.advance(Ok(100), &GEOMETRY, &mut lacks), Next::Step);
        assert_eq!(job.advance(Ok(100), &GEOMETRY, &mut lacks), failure(errno::EIO));

        let mut job = read(4096);
        assert_eq!(job.advance(Ok(1024), &GEOMETRY, &mut lacks), Next::Step);
        let shrunk = DeviceError {
            errno: errno::EIO,
            shrunk: true,
        };
        assert_eq!(job.advance(Ok(0), &GEOMETRY, &mut lacks), Next::Done(Err(shrunk)));
        assert_eq!(job.complete(Err(shrunk), Instant::now()).transferred, 1024);
    }

    #[test]
    fn transient_errors_wait_longer_each_time_and_end_as_eio() {
        let (mut job, mut lacks) = (read(512), Lacks::default());
        let mut waits = Vec::new();
        let end = loop {
            match job.advance(Err(errno::EAGAIN), &GEOMETRY, &mut lacks) {
                Next::StepAfter(wait) => waits.push(wait.as_millis()),
                next => break next,
            }
        };
        assert_eq!(end, failure(errno::EIO));
        assert_eq!(waits[..9], [1, 2, 4, 8, 16, 32, 64, 128, 256]);
        let total: u128 = waits.iter().sum();
        assert!((4744..=5000).contains(&total), "{total}");
    }

    #[test]
    fn fua_falls_back_to_write_and_flush_and_remembers() {
        let (mut job, mut lacks) = (write(true), Lacks::default());
        assert_eq!(
            job.advance(Err(errno::EOPNOTSUPP), &GEOMETRY, &mut lacks),
            Next::Step
        );
        assert!(lacks.fua);
        let plain = Step::Write {
            offset: 0,
            start: 0,
            fua: false,
        };
        assert_eq!(job.step(), plain);
        assert_eq!(job.advance(Ok(4096), &GEOMETRY, &mut lacks), Next::Step);
        assert_eq!(job.step(), Step::Sync);
        assert_eq!(job.advance(Ok(0), &GEOMETRY, &mut lacks), Next::Done(Ok(())));
    }

    #[test]
    fn a_flush_that_stands_for_fua_fails_the_write() {
        let (mut job, mut lacks) = (write(true), Lacks::default());
        job.advance(Err(errno::EINVAL), &GEOMETRY, &mut lacks);
        assert!(!lacks.fua, "EINVAL may have been about this one write");
        job.advance(Ok(4096), &GEOMETRY, &mut lacks);
        assert_eq!(
            job.advance(Err(errno::EIO), &GEOMETRY, &mut lacks),
            failure(errno::EIO)
        );
    }

    #[test]
    fn zeroing_falls_back_step_by_step() {
        let mut lacks = Lacks::default();
        let discard = || OperationKind::Discard {
            offset: 0,
            length: 3 << 20,
        };
        let mut first = job(discard(), &lacks);
        assert!(matches!(first.step(), Step::PunchHole { .. }));
        assert_eq!(
            first.advance(Err(errno::EOPNOTSUPP), &GEOMETRY, &mut lacks),
            Next::Step
        );
        assert!(matches!(first.step(), Step::ZeroRange { .. }));
        assert_eq!(first.advance(Err(errno::EIO), &GEOMETRY, &mut lacks), Next::Step);
        for offset in [0, 1 << 20, 2 << 20] {
            let length = 1 << 20;
            assert_eq!(first.step(), Step::WriteZeros { offset, length });
            let next = first.advance(Ok(length as u64), &GEOMETRY, &mut lacks);
            assert_eq!(next == Next::Done(Ok(())), offset == 2 << 20);
        }
        assert!(lacks.punch && !lacks.zero_range);
        assert!(matches!(job(discard(), &lacks).step(), Step::ZeroRange { .. }));
    }

    #[test]
    fn writes_to_a_read_only_device_are_refused() {
        let geometry = Geometry {
            read_only: true,
            ..GEOMETRY
        };
        let kind = OperationKind::WriteZeroes {
            offset: 0,
            length: 512,
            may_unmap: false,
        };
        let operation = Operation { token: 1, kind };
        let (_, next) = Job::new(operation, &geometry, &Lacks::default(), Instant::now());
        assert_eq!(next, failure(errno::EROFS));
    }
}
