//! Counts what a piece of code allocates: the peak of one call on its own thread.
#![allow(
    unsafe_code,
    reason = "a global allocator is an unsafe trait; this one only counts and hands on"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has allocated and not freed since the measurement began.
    static HELD: Cell<i64> = const { Cell::new(0) };
    /// The highest value of [`HELD`].
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator with a count for each thread.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn grow(bytes: usize) {
    HELD.with(|held| {
        let now = held.get() + bytes as i64;
        held.set(now);
        PEAK.with(|peak| peak.set(peak.get().max(now)));
    });
}

fn shrink(bytes: usize) {
    HELD.with(|held| held.set(held.get() - bytes as i64));
}

// SAFETY: every call goes to `System` unchanged; the counters are plain cells that neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // While a block moves, both places are held.
        grow(bytes);
        shrink(layout.size());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `work` and gives the most bytes that it held at one time, beyond what its thread held before.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let held = HELD.with(Cell::get);
    PEAK.with(|peak| peak.set(held));
    let result = work();
    let peak = PEAK.with(Cell::get) - held;
    (result, usize::try_from(peak).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_what_was_freed_again() {
        let (length, peak) = peak_of(|| {
            drop(vec![1u8; 100_000]);
            vec![1u8; 10].len()
        });
        assert_eq!(length, 10);
        assert!((100_000..101_000).contains(&peak), "{peak}");
    }

    #[test]
    fn what_was_held_before_does_not_count() {
        let held = vec![0u8; 1 << 20];
        let ((), peak) = peak_of(|| drop(held));
        assert_eq!(peak, 0);
    }
}
