//! Operations through io_uring: one ring per device, one system call per batch.
#![allow(
    unsafe_code,
    reason = "the kernel gets raw pointers to buffers, which this module keeps alive until it gives them back"
)]

use super::job::{Geometry, Job, Lacks, Next, Step, ZEROS_BYTES};
use super::{Completion, Device, Operation, errno};
use crate::buffer::{Buffer, BufferMut};
use crate::lock::LockedFile;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use rustix::fs::FallocateFlags;
use rustix::io::ReadWriteFlags;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Operations that the kernel has at the same time; more wait in a queue here.
const ENTRIES: u32 = 256;
/// When to offer a batch again that the kernel had no room for.
const SUBMIT_AGAIN: Duration = Duration::from_millis(1);

/// A device whose operations go through io_uring.
pub(super) struct RingDevice {
    core: ManuallyDrop<Core>,
}

/// Everything that the kernel may still use when the device is dropped.
struct Core {
    ring: IoUring,
    file: LockedFile,
    geometry: Geometry,
    lacks: Lacks,
    zeros: Buffer,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots whose next step is to be handed to the kernel.
    waiting: VecDeque<u32>,
    /// Slots that try again later.
    delayed: BTreeSet<(Instant, u32)>,
    in_kernel: u32,
    /// Entries lie in the submission queue, and the kernel did not take them.
    submit_at: Option<Instant>,
    completed: Vec<Completion>,
}

/// A place in the table of operations in flight. The kernel's user data is index and generation.
struct Slot {
    generation: u32,
    job: Option<Job>,
}

impl RingDevice {
    /// Sets a ring up; fails where the kernel or a container refuses it.
    pub(super) fn new(file: LockedFile, geometry: Geometry) -> Result<Self, (io::Error, LockedFile)> {
        let ring = match set_up() {
            Ok(ring) => ring,
            Err(error) => return Err((error, file)),
        };
        Ok(Self {
            core: ManuallyDrop::new(Core {
                ring,
                file,
                geometry,
                lacks: Lacks::default(),
                zeros: BufferMut::zeroed(ZEROS_BYTES as usize).freeze(),
                slots: Vec::new(),
                free: Vec::new(),
                waiting: VecDeque::new(),
                delayed: BTreeSet::new(),
                in_kernel: 0,
                submit_at: None,
                completed: Vec::new(),
            }),
        })
    }
}

fn set_up() -> io::Result<IoUring> {
    // No DEFER_TASKRUN: with it, waiting for the ring's descriptor to become readable hangs.
    let ring = IoUring::new(ENTRIES)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
    ];
    if needed.iter().all(|code| probe.is_supported(*code)) {
        Ok(ring)
    } else {
        Err(io::Error::from_raw_os_error(errno::ENOSYS))
    }
}

impl Core {
    fn submit(&mut self, operation: Operation) {
        let now = Instant::now();
        let (job, next) = Job::new(operation, &self.geometry, &self.lacks, now);
        if let Next::Done(result) = next {
            self.completed.push(job.complete(result, now));
            return;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                job: None,
            });
            self.slots.len() as u32 - 1
        });
        self.slots[index as usize].job = Some(job);
        self.waiting.push_back(index);
    }

    fn kick(&mut self) {
        if !self.delayed.is_empty() {
            let later = self.delayed.split_off(&(Instant::now(), u32::MAX));
            let due = std::mem::replace(&mut self.delayed, later);
            self.waiting.extend(due.into_iter().map(|(_, index)| index));
        }
        let mut pushed = self.submit_at.take().is_some();
        while self.in_kernel < ENTRIES {
            let Some(index) = self.waiting.pop_front() else {
                break;
            };
            if !self.push(index) {
                self.waiting.push_front(index);
                break;
            }
            self.in_kernel += 1;
            pushed = true;
        }
        if pushed {
            self.enter();
        }
    }

    fn enter(&mut self) {
        loop {
            match self.ring.submit() {
                // An entry that fails at once ends a batch early: the rest goes in with the next call.
                Ok(taken) if taken > 0 && !self.ring.submission().is_empty() => {}
                Ok(_) => {
                    if !self.ring.submission().is_empty() {
                        self.submit_at = Some(Instant::now() + SUBMIT_AGAIN);
                    }
                    return;
                }
                Err(error) if error.raw_os_error() == Some(errno::EINTR) => {}
                Err(error) => {
                    tracing::debug!(%error, "the kernel did not take a batch of disk operations; trying again");
                    self.submit_at = Some(Instant::now() + SUBMIT_AGAIN);
                    return;
                }
            }
        }
    }

    /// Puts the next step of a slot into the submission queue; false: no room.
    fn push(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        let job = slot.job.as_mut().expect("a slot that waits has a job");
        let user_data = u64::from(slot.generation) << 32 | u64::from(index);
        let entry = entry(&self.file, job, &self.zeros).user_data(user_data);
        // SAFETY: the entry's pointers lead into buffers that the job in this slot, or this struct, owns. They stay until
        // the completion of this entry was reaped: a slot has at most one entry in the kernel, its job leaves it in
        // `finished` only, and the drop of the device waits for all completions.
        unsafe { self.ring.submission().push(&entry) }.is_ok()
    }

    fn reap(&mut self) {
        loop {
            let mut any = false;
            while let Some((user_data, result)) = self.next_completion() {
                any = true;
                self.finished(user_data, result);
            }
            let to_start = !self.waiting.is_empty() && self.in_kernel < ENTRIES;
            if to_start || self.next_wake().is_some_and(|wake| wake <= Instant::now()) {
                self.kick();
            } else if !any {
                return;
            }
        }
    }

    fn next_completion(&mut self) -> Option<(u64, i32)> {
        let entry = self.ring.completion().next()?;
        Some((entry.user_data(), entry.result()))
    }

    fn finished(&mut self, user_data: u64, result: i32) {
        self.in_kernel -= 1;
        let index = user_data as u32;
        let slot = &mut self.slots[index as usize];
        assert_eq!(
            slot.generation,
            (user_data >> 32) as u32,
            "the kernel completes each entry once"
        );
        let job = slot.job.as_mut().expect("a slot in the kernel has a job");
        let outcome = u64::try_from(result).map_err(|_| -result);
        match job.advance(outcome, &self.geometry, &mut self.lacks) {
            Next::Step => self.waiting.push_back(index),
            Next::StepAfter(wait) => {
                self.delayed.insert((Instant::now() + wait, index));
            }
            Next::Done(result) => {
                slot.generation = slot.generation.wrapping_add(1);
                let job = slot.job.take().expect("seen above");
                self.free.push(index);
                self.completed.push(job.complete(result, Instant::now()));
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let delayed = self.delayed.first().map(|(due, _)| *due);
        [delayed, self.submit_at].into_iter().flatten().min()
    }

    /// Waits until the kernel has given back everything. What it had not got yet is dropped.
    fn drain(&mut self) {
        while self.in_kernel > 0 {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.raw_os_error() != Some(errno::EINTR)
            {
                std::thread::sleep(SUBMIT_AGAIN);
            }
            let reaped = self.ring.completion().count() as u32;
            self.in_kernel -= reaped;
        }
    }
}

fn entry(file: &LockedFile, job: &mut Job, zeros: &Buffer) -> squeue::Entry {
    let fd = types::Fd(file.as_raw_fd());
    let allocate = |offset, length, mode: FallocateFlags| {
        let mode = (mode | FallocateFlags::KEEP_SIZE).bits() as i32;
        opcode::Fallocate::new(fd, length)
            .offset(offset)
            .mode(mode)
            .build()
    };
    match job.step() {
        Step::Read { offset, start } => {
            let buffer = &mut job.read_buffer().expect("a read has a buffer")[start..];
            opcode::Read::new(fd, buffer.as_mut_ptr(), buffer.len() as u32)
                .offset(offset)
                .build()
        }
        Step::Write { offset, start, fua } => {
            let buffer = &job.write_buffer().expect("a write has a buffer")[start..];
            let flags = if fua {
                ReadWriteFlags::DSYNC.bits() as i32
            } else {
                0
            };
            opcode::Write::new(fd, buffer.as_ptr(), buffer.len() as u32)
                .offset(offset)
                .rw_flags(flags)
                .build()
        }
        Step::WriteZeros { offset, length } => {
            opcode::Write::new(fd, zeros[..length].as_ptr(), length as u32)
                .offset(offset)
                .build()
        }
        Step::PunchHole { offset, length } => allocate(offset, length, FallocateFlags::PUNCH_HOLE),
        Step::ZeroRange { offset, length } => allocate(offset, length, FallocateFlags::ZERO_RANGE),
        Step::Sync => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
    }
}

impl Device for RingDevice {
    fn submit(&mut self, operation: Operation) {
        self.core.submit(operation);
    }

    fn kick(&mut self) {
        self.core.kick();
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        self.core.reap();
        out.append(&mut self.core.completed);
    }

    fn in_flight(&self) -> usize {
        self.core.slots.len() - self.core.free.len() + self.core.completed.len()
    }

    fn size(&self) -> u64 {
        self.core.geometry.size
    }

    fn logical_block(&self) -> u32 {
        self.core.geometry.logical_block
    }

    fn backend(&self) -> &'static str {
        if self.core.geometry.direct {
            "io_uring"
        } else {
            "io_uring, buffered"
        }
    }

    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring is open as long as this device, whose borrow the result holds.
        Some(unsafe { BorrowedFd::borrow_raw(self.core.ring.as_raw_fd()) })
    }

    fn next_wake(&self) -> Option<Instant> {
        self.core.next_wake()
    }
}

impl Drop for RingDevice {
    fn drop(&mut self) {
        // SAFETY: nothing uses `core` after this.
        let core = unsafe { ManuallyDrop::take(&mut self.core) };
        if core.in_kernel == 0 {
            return;
        }
        // While this stays in its ManuallyDrop it is never freed: if no thread can be had, buffers, file and lock stay
        // for the life of the process, rather than be used by the kernel and by somebody else.
        let kept = ManuallyDrop::new(core);
        let spawned = std::thread::Builder::new()
            .name("device-drain".into())
            .spawn(move || {
                let mut kept = kept;
                kept.drain();
                drop(ManuallyDrop::into_inner(kept));
            });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to wait for the last disk operations: the disk stays locked until exit");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::OperationKind;

    #[test]
    fn a_transient_error_is_tried_again_when_its_time_comes() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let geometry = Geometry {
            size: 4096,
            logical_block: 512,
            read_only: false,
            direct: false,
        };
        let Ok(mut device) = RingDevice::new(LockedFile::lock(file, false).unwrap(), geometry) else {
            eprintln!("io_uring is refused on this machine: not tested");
            return;
        };
        let buffer = BufferMut::zeroed(512);
        let kind = OperationKind::Read { offset: 0, buffer };
        device.submit(Operation { token: 1, kind });
        // As if the kernel had taken it and answered EAGAIN.
        let index = device.core.waiting.pop_front().unwrap();
        device.core.in_kernel += 1;
        device.core.finished(u64::from(index), -errno::EAGAIN);
        let due = device.next_wake().unwrap();
        let mut completions = Vec::new();
        while completions.is_empty() {
            device.kick();
            device.reap(&mut completions);
        }
        assert!(Instant::now() >= due);
        assert_eq!(completions[0].result, Ok(()));
        assert_eq!((device.next_wake(), device.in_flight()), (None, 0));
    }
}
