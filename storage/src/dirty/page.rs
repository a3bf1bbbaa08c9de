//! One page of the map: 32768 bits, word-wise. Words are little endian on disk, and only here.

use bitvec::prelude::{BitArray, Lsb0};
use std::ops::Range;

/// Bits of a page.
pub const PAGE_BITS: u64 = 32768;
/// Bytes of a page on disk.
pub const PAGE_BYTES: usize = 4096;

const WORDS: usize = 512;

/// The bits of a page.
pub(super) type Page = BitArray<[u64; WORDS], Lsb0>;

/// A page whose first `bits` bits are ones.
pub(super) fn ones(bits: u64) -> Page {
    let mut page = Page::ZERO;
    fill(&mut page, 0..bits as u32, true);
    page
}

/// Sets the bits of the range to `value`.
pub(super) fn fill(page: &mut Page, bits: Range<u32>, value: bool) {
    page[bits.start as usize..bits.end as usize].fill(value);
}

/// Number of ones in the range.
pub(super) fn count(page: &Page, bits: Range<u32>) -> u32 {
    if u64::from(bits.end - bits.start) == PAGE_BITS {
        return page.as_raw_slice().iter().map(|word| word.count_ones()).sum();
    }
    page[bits.start as usize..bits.end as usize].count_ones() as u32
}

/// Number of ones in the OR of two pages.
pub(super) fn count_union(a: &Page, b: &Page) -> u32 {
    let words = a.as_raw_slice().iter().zip(b.as_raw_slice());
    words.map(|(a, b)| (a | b).count_ones()).sum()
}

/// ORs `theirs` into `ours`.
pub(super) fn merge(ours: &mut Page, theirs: &Page) {
    for (ours, theirs) in ours.as_raw_mut_slice().iter_mut().zip(theirs.as_raw_slice()) {
        *ours |= theirs;
    }
}

/// The page with everything behind its first `bits` bits cleared.
pub(super) fn cut(page: &Page, bits: u32) -> Page {
    let mut page = *page;
    if u64::from(bits) < PAGE_BITS {
        fill(&mut page, bits..PAGE_BITS as u32, false);
    }
    page
}

/// The first bit equal to `value` at or after `from`.
pub(super) fn next(page: &Page, from: u32, value: bool) -> Option<u32> {
    let flip = if value { 0 } else { u64::MAX };
    let first = (from / 64) as usize;
    let words = page.as_raw_slice();
    let mut mask = u64::MAX << (from % 64);
    for (index, word) in words.iter().enumerate().skip(first) {
        let found = (word ^ flip) & mask;
        if found != 0 {
            return Some(index as u32 * 64 + found.trailing_zeros());
        }
        mask = u64::MAX;
    }
    None
}

/// The page as on disk.
pub(super) fn to_bytes(page: &Page) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(page.as_raw_slice()) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The page of at most 4096 bytes from disk; what is missing is zero.
pub(super) fn from_bytes(bytes: &[u8]) -> Page {
    let mut page = Page::ZERO;
    for (word, chunk) in page.as_raw_mut_slice().iter_mut().zip(bytes.chunks(8)) {
        let mut full = [0; 8];
        full[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(full);
    }
    page
}
