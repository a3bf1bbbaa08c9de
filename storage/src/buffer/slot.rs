//! Raw memory of buffers: the one place where bytes are reached through pointers.
#![allow(
    unsafe_code,
    reason = "page-aligned memory that several handles divide among them is beyond Vec and Box"
)]

use super::BUFFER_ALIGNMENT;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

/// Page-aligned memory, zeroed, freed when the last [`Slot`] in it is gone.
pub(super) struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Pages` itself reads and writes nothing after `allocate`; access goes through `Slot`s, which divide it.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Allocates `length` bytes, rounded up to whole pages, at least one.
    pub(super) fn allocate(length: usize) -> Arc<Self> {
        let rounded = length.max(1).next_multiple_of(BUFFER_ALIGNMENT);
        let layout = Layout::from_size_align(rounded, BUFFER_ALIGNMENT)
            .expect("a length in memory, rounded up to a page, is below isize::MAX");
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else {
            handle_alloc_error(layout)
        };
        Arc::new(Self { base, layout })
    }

    /// Writes once to every page, so that no request pays for a page fault.
    pub(super) fn prefault(&self) {
        for offset in (0..self.layout.size()).step_by(BUFFER_ALIGNMENT) {
            // SAFETY: the offset lies inside the allocation. Called before any slot exists. Volatile, because the
            // compiler knows that zero is there already.
            unsafe { self.base.add(offset).write_volatile(0) };
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `allocate` with this layout, and no slot is left, as each holds an `Arc`.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// A part of [`Pages`] that belongs to one buffer alone.
pub(super) struct Slot {
    pages: Arc<Pages>,
    offset: usize,
    capacity: usize,
}

impl Slot {
    /// A slot with memory of its own.
    pub(super) fn heap(capacity: usize) -> Self {
        Self {
            pages: Pages::allocate(capacity),
            offset: 0,
            capacity,
        }
    }

    /// A slot of shared pages.
    ///
    /// # Safety
    /// `offset + capacity` lies inside the pages, and until this slot is dropped nobody makes another one that
    /// overlaps it.
    pub(super) unsafe fn part(pages: &Arc<Pages>, offset: usize, capacity: usize) -> Self {
        debug_assert!(offset + capacity <= pages.layout.size());
        Self {
            pages: Arc::clone(pages),
            offset,
            capacity,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: inside the pages, initialised (zeroed at first), and by the promise of `part` reached by this slot
        // alone, whose borrow covers the result.
        unsafe { std::slice::from_raw_parts(self.pages.base.add(self.offset).as_ptr(), self.capacity) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; the unique borrow of the only slot over these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.pages.base.add(self.offset).as_ptr(), self.capacity) }
    }
}
