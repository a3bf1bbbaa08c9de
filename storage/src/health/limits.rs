//! How much the list may hold.

use super::record::{BlockState, Record, Whose};

/// Most records of a health file's slot.
pub const MAX_RECORDS: usize = 4096;
/// Most ranges on the own list (`bad-list-max`).
pub const MAX_OWN_RANGES: usize = 1024;
/// Most blocks on the own list.
pub const MAX_OWN_BLOCKS: u64 = 16384;
/// Most ranges of suspect records about peers.
pub const MAX_SUSPECT_RANGES: usize = 1024;
/// Most tombstones: the room that the two lists leave.
pub const MAX_TOMBSTONES: usize = MAX_RECORDS - MAX_OWN_RANGES - MAX_SUSPECT_RANGES;

/// The list has no room for what would have to be recorded; nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ListFull {
    /// Too many bad ranges or blocks of the own disk: it counts as failed (cause `too_many_bad`).
    #[error(
        "the own disk has more bad blocks than the list holds ({MAX_OWN_RANGES} ranges, {MAX_OWN_BLOCKS} blocks); \
         replace the disk"
    )]
    Own,
    /// Too many suspect ranges about peers.
    #[error("more than {MAX_SUSPECT_RANGES} ranges of the peer's disk are suspect; replace the peer's disk")]
    Suspects,
    /// No room for a tombstone: the record stays until the peer has confirmed others.
    #[error(
        "no room for another tombstone ({MAX_TOMBSTONES}); connect the peer, which confirms and so removes them"
    )]
    Tombstones,
}

/// What a list holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Totals {
    pub own_ranges: usize,
    pub own_blocks: u64,
    pub lost_blocks: u64,
    pub suspect_ranges: usize,
    pub tombstones: usize,
}

impl Totals {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut totals = Self::default();
        for record in records {
            let blocks = u64::from(record.range.count());
            match (record.state, record.whose) {
                (BlockState::Tombstone, _) => totals.tombstones += 1,
                (_, Whose::Peer(_)) => totals.suspect_ranges += 1,
                (state, Whose::Own) => {
                    totals.own_ranges += 1;
                    totals.own_blocks += blocks;
                    totals.lost_blocks += if state == BlockState::Lost { blocks } else { 0 };
                }
            }
        }
        totals
    }

    /// These totals with the records `old` replaced by `new`.
    pub(super) fn replaced(self, old: Self, new: Self) -> Self {
        Self {
            own_ranges: self.own_ranges - old.own_ranges + new.own_ranges,
            own_blocks: self.own_blocks - old.own_blocks + new.own_blocks,
            lost_blocks: self.lost_blocks - old.lost_blocks + new.lost_blocks,
            suspect_ranges: self.suspect_ranges - old.suspect_ranges + new.suspect_ranges,
            tombstones: self.tombstones - old.tombstones + new.tombstones,
        }
    }

    /// Whether `next` exceeds a limit that it has not exceeded before by as much.
    pub(super) fn check(self, next: Self, own_ranges: usize, own_blocks: u64) -> Result<(), ListFull> {
        if next.own_ranges > own_ranges.max(self.own_ranges)
            || next.own_blocks > own_blocks.max(self.own_blocks)
        {
            return Err(ListFull::Own);
        }
        if next.suspect_ranges > MAX_SUSPECT_RANGES {
            return Err(ListFull::Suspects);
        }
        if next.tombstones > MAX_TOMBSTONES {
            return Err(ListFull::Tombstones);
        }
        Ok(())
    }
}
