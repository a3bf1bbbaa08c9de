//! The out-of-sync map: one bit for each 4 KiB block of a volume, 1 = "this block may differ between the nodes".
//!
//! The map is a table of pages. A page holds 32768 bits and is exactly one 4 KiB block of the on-disk bitmap
//! (bit `n` of the volume is bit `n % 8`, least significant first, of byte `n / 8`). A page without a set bit takes no
//! memory, all full pages share one page of ones, and clones share pages until one side changes them.
//!
//! Two rules are kept by types: a bit is cleared only with a [`Proof`], and a page stays *changed* until a write that
//! carried its newest content was reported ([`DirtyMap::mark_written`] with the [`PageVersion`] that was written).

mod exchange;
mod page;
mod proof;
mod scan;

pub use exchange::PageError;
pub use page::{PAGE_BITS, PAGE_BYTES};
pub use proof::{BulkReason, Proof, ProofReason};
pub use scan::Runs;

use crate::units::BlockRange;
use page::Page;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The state of a changed page at the moment it was read for writing; never used twice by one map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PageVersion(u64);

/// The out-of-sync bits of a volume towards one peer.
///
/// Ranges that reach behind the end of the volume are cut there: the map never has a bit behind its end.
#[derive(Clone)]
pub struct DirtyMap {
    bits: u64,
    set_bits: u64,
    pages: Vec<Option<Arc<Page>>>,
    counts: Vec<u16>,
    ones: Arc<Page>,
    changed: BTreeMap<u32, u64>,
    last_version: u64,
}

impl DirtyMap {
    /// A map of `bits` blocks (at most 2^47, the largest volume that 32-bit page numbers can name), all in sync.
    pub fn new(bits: u64) -> Self {
        let pages = usize::try_from(bits.div_ceil(PAGE_BITS)).expect("a 64-bit address space");
        assert!(
            u32::try_from(pages).is_ok(),
            "a volume of {bits} blocks has more pages than page numbers"
        );
        Self {
            bits,
            set_bits: 0,
            pages: vec![None; pages],
            counts: vec![0; pages],
            ones: Arc::new(page::ones(PAGE_BITS)),
            changed: BTreeMap::new(),
            last_version: 0,
        }
    }

    /// Number of blocks of the volume.
    pub fn bits(&self) -> u64 {
        self.bits
    }

    /// Number of pages, each one 4 KiB block on disk.
    pub fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Number of set bits.
    pub fn count(&self) -> u64 {
        self.set_bits
    }

    /// Number of set bits of one page.
    pub fn count_of_page(&self, page: u32) -> u32 {
        self.counts
            .get(page as usize)
            .map_or(0, |count| u32::from(*count))
    }

    /// Number of set bits in the range.
    pub fn count_in(&self, range: BlockRange) -> u64 {
        self.pieces(range)
            .map(|(page, bits)| match &self.pages[page as usize] {
                None => 0,
                Some(words) => u64::from(page::count(words, bits)),
            })
            .sum()
    }

    /// Whether a bit of the range is set.
    pub fn any_in(&self, range: BlockRange) -> bool {
        self.next_set(range.first())
            .is_some_and(|block| block < range.end())
    }

    /// Whether the bit of the block is set.
    pub fn is_set(&self, block: u64) -> bool {
        self.any_in(BlockRange::single(block))
    }

    /// Sets the bits of the range; returns how many were clear before.
    pub fn set(&mut self, range: BlockRange) -> u64 {
        let mut newly_set = 0;
        for (page, bits) in self.pieces(range) {
            let index = page as usize;
            let room = self.bits_of_page(page) - u32::from(self.counts[index]);
            let added = match &mut self.pages[index] {
                _ if room == 0 => 0,
                Some(words) => {
                    let clear = bits.end - bits.start - page::count(words, bits.clone());
                    if clear > 0 {
                        page::fill(Arc::make_mut(words), bits, true);
                    }
                    clear
                }
                empty => {
                    let added = bits.end - bits.start;
                    *empty = Some(if u64::from(added) == PAGE_BITS {
                        Arc::clone(&self.ones)
                    } else {
                        let mut words = page::ones(0);
                        page::fill(&mut words, bits, true);
                        Arc::new(words)
                    });
                    added
                }
            };
            self.recount(page, i64::from(added));
            newly_set += u64::from(added);
        }
        newly_set
    }

    /// Clears the bits of the range, for which `proof` says why the copies are equal; returns how many were set before.
    pub fn clear(&mut self, range: BlockRange, _proof: Proof) -> u64 {
        self.pieces(range)
            .map(|(page, bits)| self.clear_piece(page, bits))
            .sum()
    }

    /// Clears every bit; returns how many were set before.
    pub fn clear_all(&mut self, _proof: Proof) -> u64 {
        (0..self.page_count())
            .map(|page| self.clear_piece(page, 0..self.bits_of_page(page)))
            .sum()
    }

    /// Sets every bit; returns how many were clear before.
    pub fn set_all(&mut self) -> u64 {
        let newly_set = self.bits - self.set_bits;
        for page in 0..self.page_count() {
            let bits = self.bits_of_page(page);
            let room = bits - u32::from(self.counts[page as usize]);
            if room == 0 {
                continue;
            }
            self.pages[page as usize] = Some(if u64::from(bits) == PAGE_BITS {
                Arc::clone(&self.ones)
            } else {
                Arc::new(page::ones(u64::from(bits)))
            });
            self.recount(page, i64::from(room));
        }
        newly_set
    }

    /// Makes the map that of a volume of `bits` blocks: what is behind the new end is gone and counts no longer, and what
    /// is new is set, whatever stood there: nobody kept it in sync.
    pub fn resize(&mut self, bits: u64) {
        let (old, kept) = (self.bits, bits.div_ceil(PAGE_BITS));
        if bits < old {
            let tail = (bits % PAGE_BITS) as u32;
            if tail > 0 {
                let page = (bits / PAGE_BITS) as u32;
                self.clear_piece(page, tail..self.bits_of_page(page));
            }
            for page in kept as u32..self.page_count() {
                self.set_bits -= u64::from(self.count_of_page(page));
                self.changed.remove(&page);
            }
        }
        self.pages.resize(kept as usize, None);
        self.counts.resize(kept as usize, 0);
        self.bits = bits;
        let mut first = old;
        while first < bits {
            let count = (bits - first).min(PAGE_BITS) as u32;
            first += u64::from(count);
            if let Some(range) = BlockRange::new(first - u64::from(count), count) {
                self.set(range);
            }
        }
    }

    /// The first set bit at or after `from`.
    pub fn next_set(&self, from: u64) -> Option<u64> {
        scan::next_set(self, from)
    }

    /// The first run of set bits at or after `from`, cut to `max_blocks` (at least 1).
    pub fn next_run(&self, from: u64, max_blocks: u32) -> Option<BlockRange> {
        scan::next_run(self, from, max_blocks)
    }

    /// All runs of set bits, in order; a run longer than a [`BlockRange`] can hold comes in parts.
    pub fn runs(&self) -> Runs<'_> {
        Runs::new(self)
    }

    /// Pages changed since they were last written, in order, with the version to pass to [`Self::mark_written`].
    pub fn changed_pages(&self) -> impl Iterator<Item = (u32, PageVersion)> + '_ {
        self.changed
            .iter()
            .map(|(page, version)| (*page, PageVersion(*version)))
    }

    /// Number of changed pages.
    pub fn changed_count(&self) -> usize {
        self.changed.len()
    }

    /// The version of the page when it is changed, `None` when what is on disk equals it.
    pub fn changed_version(&self, page: u32) -> Option<PageVersion> {
        self.changed.get(&page).copied().map(PageVersion)
    }

    /// A write of the page's content at `version` is durable. Returns whether the page is now unchanged: it stays
    /// changed when it was changed again while that write was in flight.
    pub fn mark_written(&mut self, page: u32, version: PageVersion) -> bool {
        if self.changed.get(&page) == Some(&version.0) {
            self.changed.remove(&page);
        }
        !self.changed.contains_key(&page)
    }

    /// Marks every page as changed, so that the whole bitmap is written (new or moved meta-data).
    pub fn mark_all_changed(&mut self) {
        for page in 0..self.page_count() {
            self.touch(page);
        }
    }

    /// Number of bits that the page holds: 32768, fewer in the last one.
    fn bits_of_page(&self, page: u32) -> u32 {
        (self.bits - u64::from(page) * PAGE_BITS).min(PAGE_BITS) as u32
    }

    /// The range, cut at the end of the volume, page by page as bit numbers inside the page.
    fn pieces(&self, range: BlockRange) -> impl Iterator<Item = (u32, Range<u32>)> + use<> {
        let end = range.end().min(self.bits);
        let mut first = range.first();
        std::iter::from_fn(move || {
            if first >= end {
                return None;
            }
            let page = first / PAGE_BITS;
            let stop = end.min((page + 1) * PAGE_BITS);
            let base = page * PAGE_BITS;
            let piece = (page as u32, (first - base) as u32..(stop - base) as u32);
            first = stop;
            Some(piece)
        })
    }

    fn clear_piece(&mut self, page: u32, bits: Range<u32>) -> u64 {
        let slot = &mut self.pages[page as usize];
        let Some(words) = slot else { return 0 };
        let removed = page::count(words, bits.clone());
        if removed == 0 {
            return 0;
        }
        if removed == u32::from(self.counts[page as usize]) {
            *slot = None;
        } else {
            page::fill(Arc::make_mut(words), bits, false);
        }
        self.recount(page, -i64::from(removed));
        u64::from(removed)
    }

    /// Books `difference` set bits on a page and marks it changed, when there is a difference.
    fn recount(&mut self, page: u32, difference: i64) {
        if difference == 0 {
            return;
        }
        let count = &mut self.counts[page as usize];
        *count = (i64::from(*count) + difference) as u16;
        self.set_bits = self.set_bits.wrapping_add_signed(difference);
        if u64::from(*count) == PAGE_BITS {
            self.pages[page as usize] = Some(Arc::clone(&self.ones));
        }
        self.touch(page);
    }

    fn touch(&mut self, page: u32) {
        self.last_version += 1;
        self.changed.insert(page, self.last_version);
    }
}

impl std::fmt::Debug for DirtyMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DirtyMap {{ {} of {} bits set, {} pages changed }}",
            self.set_bits,
            self.bits,
            self.changed.len()
        )
    }
}

#[cfg(test)]
mod tests;
