//! A disk in memory, for tests and demonstrations.

use super::{Completion, Device, DeviceError, Operation, OperationKind};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const PAGE_BYTES: u64 = 4096;

/// The content of a memory disk. It outlives the devices over it, as a platter outlives a process; clones are handles of
/// the same content. Pages that were never written take no memory and read as zeros.
#[derive(Clone, Default)]
pub struct MemoryMedium {
    pages: Arc<Mutex<BTreeMap<u64, Box<[u8]>>>>,
}

impl MemoryMedium {
    /// Reads behind the back of any device.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for_each_piece(offset, into.len(), |page, inside, piece| match pages.get(&page) {
            Some(bytes) => into[piece].copy_from_slice(&bytes[inside]),
            None => into[piece].fill(0),
        });
    }

    /// Writes behind the back of any device.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for_each_piece(offset, bytes.len(), |page, inside, piece| {
            let target = pages
                .entry(page)
                .or_insert_with(|| vec![0; PAGE_BYTES as usize].into());
            target[inside].copy_from_slice(&bytes[piece]);
        });
    }

    fn zero(&self, offset: u64, length: u64) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + length;
        let touched: Vec<u64> = pages
            .range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES))
            .map(|(page, _)| *page)
            .collect();
        for page in touched {
            let first = offset.saturating_sub(page * PAGE_BYTES) as usize;
            let last = (end - page * PAGE_BYTES).min(PAGE_BYTES) as usize;
            if (first, last) == (0, PAGE_BYTES as usize) {
                pages.remove(&page);
            } else if let Some(bytes) = pages.get_mut(&page) {
                bytes[first..last].fill(0);
            }
        }
    }
}

/// Calls `each(page, range in the page, range in the buffer)` for the pieces of a transfer.
fn for_each_piece(
    offset: u64,
    length: usize,
    mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>),
) {
    let mut done = 0;
    while done < length {
        let position = offset + done as u64;
        let inside = (position % PAGE_BYTES) as usize;
        let count = (PAGE_BYTES as usize - inside).min(length - done);
        each(position / PAGE_BYTES, inside..inside + count, done..done + count);
        done += count;
    }
}

/// A device over a [`MemoryMedium`]. Operations are executed by `kick`, in order of submission; latencies are zero.
pub struct MemoryDevice {
    medium: MemoryMedium,
    size: u64,
    logical_block: u32,
    submitted: Vec<Operation>,
    completed: Vec<Completion>,
}

impl MemoryDevice {
    /// A new disk of `size` bytes of zeros, rounded down to sectors of 512 bytes.
    pub fn new(size: u64) -> Self {
        Self::over(MemoryMedium::default(), size, 512)
    }

    /// A device over existing content. `size` is rounded down to logical blocks.
    pub fn over(medium: MemoryMedium, size: u64, logical_block: u32) -> Self {
        Self {
            medium,
            size: size - size % u64::from(logical_block),
            logical_block,
            submitted: Vec::new(),
            completed: Vec::new(),
        }
    }

    /// The content, to look at or to open again.
    pub fn medium(&self) -> MemoryMedium {
        self.medium.clone()
    }

    fn execute(&self, operation: Operation) -> Completion {
        let summary = operation.kind.summary();
        let result = operation.kind.check(self.size, self.logical_block);
        let buffer = self.transfer(operation.kind, result);
        Completion {
            token: operation.token,
            result,
            buffer,
            summary,
            transferred: if result.is_ok() { summary.length } else { 0 },
            latency: Duration::ZERO,
        }
    }

    fn transfer(
        &self,
        kind: OperationKind,
        checked: Result<(), DeviceError>,
    ) -> Option<crate::buffer::BufferMut> {
        match kind {
            OperationKind::Read { offset, mut buffer } => {
                if checked.is_ok() {
                    self.medium.read(offset, &mut buffer);
                }
                return Some(buffer);
            }
            _ if checked.is_err() => {}
            OperationKind::Write { offset, buffer, .. } => self.medium.write(offset, &buffer),
            OperationKind::WriteZeroes { offset, length, .. } | OperationKind::Discard { offset, length } => {
                self.medium.zero(offset, length);
            }
            OperationKind::Flush => {}
        }
        None
    }
}

impl Device for MemoryDevice {
    fn submit(&mut self, operation: Operation) {
        self.submitted.push(operation);
    }

    fn kick(&mut self) {
        for operation in std::mem::take(&mut self.submitted) {
            let completion = self.execute(operation);
            self.completed.push(completion);
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        out.append(&mut self.completed);
    }

    fn in_flight(&self) -> usize {
        self.submitted.len() + self.completed.len()
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn logical_block(&self) -> u32 {
        self.logical_block
    }

    fn backend(&self) -> &'static str {
        "memory"
    }
}
