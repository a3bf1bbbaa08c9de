//! Searching the map: sparse maps skip absent pages, dense pages go word by word.

use super::{DirtyMap, PAGE_BITS, page};
use crate::units::BlockRange;

/// The first set bit at or after `from`.
pub(super) fn next_set(map: &DirtyMap, from: u64) -> Option<u64> {
    if from >= map.bits {
        return None;
    }
    let mut offset = (from % PAGE_BITS) as u32;
    for (index, words) in map.pages.iter().enumerate().skip((from / PAGE_BITS) as usize) {
        if let Some(words) = words
            && let Some(bit) = page::next(words, offset, true)
        {
            return Some(index as u64 * PAGE_BITS + u64::from(bit));
        }
        offset = 0;
    }
    None
}

/// The first run of set bits at or after `from`, at most `max_blocks` long.
pub(super) fn next_run(map: &DirtyMap, from: u64, max_blocks: u32) -> Option<BlockRange> {
    let first = next_set(map, from)?;
    let limit = first.saturating_add(u64::from(max_blocks.max(1))).min(map.bits);
    let end = next_clear(map, first, limit);
    BlockRange::new(first, (end - first) as u32)
}

/// The first clear bit at or after `from`, at most `limit`.
fn next_clear(map: &DirtyMap, from: u64, limit: u64) -> u64 {
    let mut at = from;
    while at < limit {
        let index = at / PAGE_BITS;
        let Some(words) = &map.pages[index as usize] else {
            return at;
        };
        if let Some(bit) = page::next(words, (at % PAGE_BITS) as u32, false) {
            return (index * PAGE_BITS + u64::from(bit)).min(limit);
        }
        at = (index + 1) * PAGE_BITS;
    }
    limit
}

/// Iterator over the runs of set bits of a map.
pub struct Runs<'a> {
    map: &'a DirtyMap,
    at: u64,
}

impl<'a> Runs<'a> {
    pub(super) fn new(map: &'a DirtyMap) -> Self {
        Self { map, at: 0 }
    }
}

impl Iterator for Runs<'_> {
    type Item = BlockRange;

    fn next(&mut self) -> Option<BlockRange> {
        let run = next_run(self.map, self.at, u32::MAX)?;
        self.at = run.end();
        Some(run)
    }
}
