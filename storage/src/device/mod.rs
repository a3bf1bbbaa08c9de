//! Lower disks: one trait of operations and completions, without async functions.
//!
//! A user submits operations, kicks once per batch, and reaps completions. It reaps
//! * after every [`Device::kick`] (some operations are complete at once),
//! * when [`Device::ready_fd`] is readable (in tokio: `Readiness`, of the feature `devices`; wherever waiting is
//!   edge-triggered: clear the readiness first, then reap; one reap takes everything there is),
//! * and when the clock reaches [`Device::next_wake`] (retries, injected delays).
//!
//! What every device keeps to:
//! * It holds the buffer of an operation until the kernel has given it back. Dropping the device while the kernel still
//!   works leaves buffers, file and lock with a background thread until the last completion.
//! * Every operation completes exactly once; reads hand their buffer back, with success or error.
//! * Operations in flight have no order among each other. Whoever submits keeps overlapping ones apart.
//! * [`OperationKind::Flush`] covers the writes whose completions were *reaped* before it was submitted, and nothing else.
//!   Whoever needs it to cover a write waits for that write first.
//! * Short transfers are continued, and transient errors retried with a back-off (1, 2, 4 … 256 ms, 5 s in total): what
//!   arrives as an error is final. `transferred` says how much came through before it.

use crate::buffer::{Buffer, BufferMut};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

#[cfg(test)]
mod conformance;
mod error;
pub mod fault;
#[cfg(feature = "devices")]
mod job;
pub mod memory;
#[cfg(feature = "devices")]
mod open;
#[cfg(feature = "devices")]
mod readiness;
#[cfg(feature = "devices")]
mod ring;
pub mod table;
#[cfg(feature = "devices")]
mod threads;

pub use error::{DeviceError, ErrorClass, errno};
#[cfg(feature = "devices")]
pub use open::{Backend, OpenError, Options, open};
#[cfg(feature = "devices")]
pub use readiness::Readiness;

/// What the submitter asks of a device.
#[derive(Debug)]
pub struct Operation {
    /// The submitter's name for it; comes back in the completion. The device does not interpret it.
    pub token: u64,
    /// What to do.
    pub kind: OperationKind,
}

/// Kinds of operations. Offsets and lengths count in bytes and are multiples of [`Device::logical_block`], buffers start
/// at a multiple of it in memory; everything else, and what exceeds [`Device::size`], completes with EINVAL.
#[derive(Debug)]
pub enum OperationKind {
    /// Fills the buffer.
    Read {
        /// First byte.
        offset: u64,
        /// Where to; comes back in the completion.
        buffer: BufferMut,
    },
    /// Writes the buffer.
    Write {
        /// First byte.
        offset: u64,
        /// What.
        buffer: Buffer,
        /// Complete only when the data is on stable storage.
        fua: bool,
    },
    /// Brings all writes that were reaped before to stable storage.
    Flush,
    /// Makes the range read as zeros; explicit zeros are written where the disk has no better way.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Whether the disk may give the space back.
        may_unmap: bool,
    },
    /// Gives the space back. Reads as zeros afterwards in any case: explicit zeros are written where the disk does not
    /// promise that, because two copies must read equal.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

impl OperationKind {
    /// What it is, without its buffer.
    pub fn summary(&self) -> Summary {
        let (action, offset, length) = match self {
            Self::Read { offset, buffer } => (Action::Read, *offset, buffer.len() as u64),
            Self::Write { offset, buffer, .. } => (Action::Write, *offset, buffer.len() as u64),
            Self::Flush => (Action::Flush, 0, 0),
            Self::WriteZeroes { offset, length, .. } => (Action::WriteZeroes, *offset, *length),
            Self::Discard { offset, length } => (Action::Discard, *offset, *length),
        };
        Summary {
            action,
            offset,
            length,
        }
    }

    /// Whether the operation fits a device of this size and block; `Err` holds what it has to complete with.
    pub fn check(&self, size: u64, logical_block: u32) -> Result<(), DeviceError> {
        let Summary { offset, length, .. } = self.summary();
        let block = u64::from(logical_block);
        let address = match self {
            Self::Read { buffer, .. } => buffer.as_ptr() as u64,
            Self::Write { buffer, .. } => buffer.as_ptr() as u64,
            _ => 0,
        };
        let aligned = [offset, length, address]
            .iter()
            .all(|number| number.is_multiple_of(block));
        if aligned && offset.checked_add(length).is_some_and(|end| end <= size) {
            Ok(())
        } else {
            Err(DeviceError::new(errno::EINVAL))
        }
    }
}

/// Name of an operation's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// [`OperationKind::Read`]
    Read,
    /// [`OperationKind::Write`]
    Write,
    /// [`OperationKind::Flush`]
    Flush,
    /// [`OperationKind::WriteZeroes`]
    WriteZeroes,
    /// [`OperationKind::Discard`]
    Discard,
}

/// What an operation is about, without its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Summary {
    /// Kind.
    pub action: Action,
    /// First byte; 0 for a flush.
    pub offset: u64,
    /// Bytes; 0 for a flush.
    pub length: u64,
}

/// The end of an operation.
#[derive(Debug)]
pub struct Completion {
    /// From the operation.
    pub token: u64,
    /// Success of the whole operation, or its final error.
    pub result: Result<(), DeviceError>,
    /// The buffer of a read. After an error only the first `transferred` bytes are valid.
    pub buffer: Option<BufferMut>,
    /// What the operation was.
    pub summary: Summary,
    /// Bytes from the start of the range that came through; the whole length on success.
    pub transferred: u64,
    /// From submission to completion.
    pub latency: Duration,
}

/// A lower disk. The module's text says when to reap and what every device keeps to.
pub trait Device {
    /// Takes an operation. It may start at once or with the next [`Device::kick`].
    fn submit(&mut self, operation: Operation);

    /// Starts everything that was submitted; call it once per batch.
    fn kick(&mut self);

    /// Appends every completion there is; never waits.
    fn reap(&mut self, out: &mut Vec<Completion>);

    /// Operations submitted and not yet reaped.
    fn in_flight(&self) -> usize;

    /// Bytes, a multiple of [`Device::logical_block`]; as at open.
    fn size(&self) -> u64;

    /// Smallest unit of offsets and lengths in bytes: 512 or 4096.
    fn logical_block(&self) -> u32;

    /// Name of the way in which operations reach the kernel, for logs and `status`.
    fn backend(&self) -> &'static str;

    /// Becomes readable when there are completions to reap. Duplicate it to wait in another place. `None`: everything is
    /// complete after [`Device::kick`] or at [`Device::next_wake`].
    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// When to kick and reap although nothing became readable; a time that has passed means now.
    fn next_wake(&self) -> Option<Instant> {
        None
    }
}

impl<D: Device + ?Sized> Device for Box<D> {
    fn submit(&mut self, operation: Operation) {
        (**self).submit(operation);
    }
    fn kick(&mut self) {
        (**self).kick();
    }
    fn reap(&mut self, out: &mut Vec<Completion>) {
        (**self).reap(out);
    }
    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn logical_block(&self) -> u32 {
        (**self).logical_block()
    }
    fn backend(&self) -> &'static str {
        (**self).backend()
    }
    fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).ready_fd()
    }
    fn next_wake(&self) -> Option<Instant> {
        (**self).next_wake()
    }
}
