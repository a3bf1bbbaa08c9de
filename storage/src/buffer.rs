//! Payload buffers: page-aligned, so that O_DIRECT takes them, and counted, so that memory is bounded.
//!
//! [`BufferMut`] has one owner and can be written (a read fills it, a socket is read into it); [`BufferMut::freeze`]
//! makes a [`Buffer`], which is cheap to clone and can go to the disk, the peer and the client at once. The memory goes
//! back to its [`BufferPool`] when the last handle is dropped, from whichever thread.

mod pool;
mod slot;

pub use pool::{BufferPool, PoolError, PoolSizes, Share, ShareUsage};

use slot::Slot;
use std::fmt;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::sync::Arc;

/// Alignment in bytes of the start of every buffer.
pub const BUFFER_ALIGNMENT: usize = 4096;
/// The longest buffer that a pool gives, in bytes. Requests are cut at this length on admission.
pub const MAX_BUFFER_BYTES: usize = 1 << 20;

/// A buffer with one owner.
pub struct BufferMut {
    slot: Slot,
    length: usize,
    /// Where the memory goes back to; `None`: it is this buffer's own.
    home: Option<pool::Home>,
}

impl BufferMut {
    /// An aligned buffer of `length` zero bytes outside any pool, for tests, simulation and rare large tasks.
    pub fn zeroed(length: usize) -> Self {
        Self {
            slot: Slot::heap(length),
            length,
            home: None,
        }
    }

    fn pooled(slot: Slot, length: usize, home: pool::Home) -> Self {
        Self {
            slot,
            length,
            home: Some(home),
        }
    }

    /// Ends writing: the bytes can be shared from now on.
    pub fn freeze(self) -> Buffer {
        let length = self.length;
        Buffer {
            whole: Arc::new(self),
            start: 0,
            length,
        }
    }

    /// Shortens the buffer to its first `length` bytes; does nothing when it is not longer.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Drop for BufferMut {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.give_back();
        }
    }
}

impl Deref for BufferMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.slot.bytes()[..self.length]
    }
}

impl DerefMut for BufferMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.slot.bytes_mut()[..self.length]
    }
}

impl PartialEq for BufferMut {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for BufferMut {}

impl fmt::Debug for BufferMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMut({} bytes)", self.length)
    }
}

/// Bytes that no longer change. A clone or a slice shares the memory.
#[derive(Clone)]
pub struct Buffer {
    whole: Arc<BufferMut>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Copies `bytes` into an aligned buffer outside any pool.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let mut buffer = BufferMut::zeroed(bytes.len());
        buffer.copy_from_slice(&bytes);
        buffer.freeze()
    }

    /// A part of this buffer, sharing its memory.
    ///
    /// # Panics
    /// When the range does not lie inside the buffer, as indexing a slice does.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => self.length,
        };
        assert!(
            start <= end && end <= self.length,
            "range {start}..{end} of a buffer of {} bytes",
            self.length
        );
        Self {
            whole: Arc::clone(&self.whole),
            start: self.start + start,
            length: end - start,
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.whole[self.start..self.start + self.length]
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_the_memory_and_compare_by_bytes() {
        let buffer = Buffer::from_vec((0..100).collect());
        let part = buffer.slice(10..20).slice(2..=4);
        assert_eq!(&part[..], &[12, 13, 14]);
        assert_eq!(part.as_ptr(), buffer[12..].as_ptr());
        assert_eq!(part, Buffer::from_vec(vec![12, 13, 14]));
        assert_ne!(part, buffer);
        assert_eq!(buffer.slice(100..).len(), 0);
        assert_eq!(format!("{part:?}"), "Buffer(3 bytes)");
    }

    #[test]
    #[should_panic(expected = "range 5..101 of a buffer of 100 bytes")]
    fn a_slice_outside_is_refused() {
        let _ = Buffer::from_vec(vec![0; 100]).slice(5..101);
    }

    #[test]
    fn buffers_are_aligned_and_empty_ones_work() {
        for length in [0, 1, 4096, 5000] {
            let buffer = BufferMut::zeroed(length);
            assert_eq!(buffer.len(), length);
            assert_eq!(buffer.as_ptr() as usize % BUFFER_ALIGNMENT, 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn truncate_only_shortens() {
        let mut buffer = BufferMut::zeroed(10);
        buffer.truncate(20);
        assert_eq!(buffer.len(), 10);
        buffer.truncate(3);
        assert_eq!(buffer.freeze().len(), 3);
    }

    #[test]
    fn handles_travel_between_threads() {
        fn travels<T: Send + Sync + 'static>() {}
        travels::<Buffer>();
        travels::<BufferMut>();
        travels::<BufferPool>();
    }
}
