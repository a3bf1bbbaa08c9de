//! Putting the activity log together after a crash: which extents were hot.
use super::MetaBlock;
use super::activity_log::{self, BlockDefect, FREE_EXTENT, LogBlock, SLOT_LIMIT, SlotUpdate, Transaction};
use super::layout::LogGeometry;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What a ring holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// Extent of every slot in use.
    pub slots: BTreeMap<u16, u32>,
    /// Number for the next transaction: newest plus one, 0 for an empty ring.
    pub next_number: u32,
    /// Block of the ring into which the next transaction goes.
    pub next_block: u32,
    /// Transactions that were put together; 0 = nothing was to be replayed.
    pub transactions: u32,
    /// Blocks of the ring that could not be used.
    pub unusable: Vec<UnusableBlock>,
    /// Entries with slot numbers that no log can have; they were skipped.
    pub skipped_entries: u32,
    /// Whether an extent may be missing from the hot set.
    pub completeness: Completeness,
}

impl Replay {
    /// The hot extents, ascending.
    pub fn extents(&self) -> BTreeSet<u32> {
        self.slots.values().copied().collect()
    }
}

/// A block of the ring that could not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct UnusableBlock {
    /// Block of the ring, counted on disk.
    pub block: u32,
    /// `true`: the device did not return it; `false`: magic or checksum are wrong.
    pub unreadable: bool,
}

/// Whether the hot set can be trusted to be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Completeness {
    /// Every extent that may hold unmirrored writes is in the set.
    Whole,
    /// As `Whole`: only the block behind the newest transaction is damaged. It was torn while it was written, so no
    /// write that depended on it was ever sent.
    NewestTorn,
    /// A lost transaction named slots that no later one repeats: an extent may be missing. The safe answer for a
    /// crashed Primary is a full resync.
    ExtentMayBeMissing,
}

/// Why a ring says nothing about the hot extents. For a crashed Primary every extent counts as hot then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The ring has another number of blocks than the geometry says.
    #[error("{found} blocks of the activity log were read, it has {expected}")]
    Length {
        /// Blocks passed.
        found: usize,
        /// Blocks of the geometry.
        expected: u32,
    },
    /// Not one block is valid.
    #[error("no usable activity log found: none of its {blocks} blocks is valid ({unreadable} unreadable)")]
    NoUsableBlock {
        /// Blocks of the ring.
        blocks: u32,
        /// Of these, unreadable.
        unreadable: u32,
    },
    /// No transaction, and so many damaged blocks that there may have been one.
    #[error("no usable activity log found: it holds no transaction, and {} of its blocks are damaged", unusable.len())]
    OnlyInitialized {
        /// The damaged blocks.
        unusable: Vec<UnusableBlock>,
    },
}

/// Replays a ring. `ring` holds its blocks in the order of the disk; `None` = the device did not return the block.
pub fn replay(geometry: LogGeometry, ring: &[Option<MetaBlock>]) -> Result<Replay, ReplayError> {
    if ring.len() != geometry.blocks() as usize {
        return Err(ReplayError::Length {
            found: ring.len(),
            expected: geometry.blocks(),
        });
    }
    let places = Places::read(geometry, ring);
    match places.span() {
        Some(span) => Ok(places.replay(span)),
        None => places.nothing_to_replay(),
    }
}

/// The blocks in the order of their transactions.
struct Places {
    geometry: LogGeometry,
    /// `Err(None)`: unreadable.
    blocks: Vec<Result<LogBlock, Option<BlockDefect>>>,
}

/// Where the oldest and the newest transaction are.
struct Span {
    oldest: usize,
    newest: usize,
    newest_number: u32,
}

impl Places {
    fn read(geometry: LogGeometry, ring: &[Option<MetaBlock>]) -> Self {
        let blocks = (0..geometry.blocks())
            .map(
                |place| match &ring[geometry.block_of_transaction(place) as usize] {
                    None => Err(None),
                    Some(block) => activity_log::parse(block).map_err(Some),
                },
            )
            .collect();
        Self { geometry, blocks }
    }

    fn transaction(&self, place: usize) -> Option<&Transaction> {
        match &self.blocks[place] {
            Ok(LogBlock::Transaction(transaction)) => Some(transaction),
            _ => None,
        }
    }

    fn span(&self) -> Option<Span> {
        let mut found: Option<(usize, u32, usize, u32)> = None;
        for place in 0..self.blocks.len() {
            let Some(number) = self.transaction(place).map(Transaction::number) else {
                continue;
            };
            let (oldest, oldest_number, newest, newest_number) =
                found.get_or_insert((place, number, place, number));
            // Numbers wrap: only the sign of their difference says which is older.
            if (number.wrapping_sub(*oldest_number) as i32) < 0 {
                (*oldest, *oldest_number) = (place, number);
            }
            if (number.wrapping_sub(*newest_number) as i32) > 0 {
                (*newest, *newest_number) = (place, number);
            }
        }
        found.map(|(oldest, _, newest, newest_number)| Span {
            oldest,
            newest,
            newest_number,
        })
    }

    /// A ring without a transaction: fresh, or the very first transaction was torn, or worthless.
    fn nothing_to_replay(&self) -> Result<Replay, ReplayError> {
        let unusable = self.unusable();
        if unusable.len() == self.blocks.len() {
            let unreadable = unusable.iter().filter(|block| block.unreadable).count() as u32;
            return Err(ReplayError::NoUsableBlock {
                blocks: self.geometry.blocks(),
                unreadable,
            });
        }
        let first_torn = unusable.len() == 1 && self.blocks[0].is_err();
        if !unusable.is_empty() && !first_torn {
            return Err(ReplayError::OnlyInitialized { unusable });
        }
        Ok(Replay {
            slots: BTreeMap::new(),
            next_number: 0,
            next_block: 0,
            transactions: 0,
            completeness: if first_torn {
                Completeness::NewestTorn
            } else {
                Completeness::Whole
            },
            unusable,
            skipped_entries: 0,
        })
    }

    fn replay(&self, span: Span) -> Replay {
        let length = self.blocks.len();
        let next = (span.newest + 1) % length;
        let steps = (span.newest + length - span.oldest) % length;
        let mut table = Table::default();
        let mut torn = false;
        for place in (1..length - steps).map(|behind| (span.newest + behind) % length) {
            match &self.blocks[place] {
                Ok(LogBlock::Initialized) => {}
                Err(Some(_)) if place == next => torn = true,
                Err(_) => table.never_whole = true,
                Ok(LogBlock::Transaction(_)) => table.lost(),
            }
        }
        for step in 0..=steps {
            let expected = span.newest_number.wrapping_sub((steps - step) as u32);
            match self.transaction((span.oldest + step) % length) {
                Some(transaction) => {
                    table.apply(transaction);
                    if transaction.number() != expected {
                        table.lost();
                    }
                }
                None => table.lost(),
            }
        }
        let next_number = span.newest_number.wrapping_add(1);
        Replay {
            completeness: match (table.is_whole(), torn) {
                (false, _) => Completeness::ExtentMayBeMissing,
                (true, true) => Completeness::NewestTorn,
                (true, false) => Completeness::Whole,
            },
            slots: table.slots,
            next_number,
            next_block: self.geometry.block_of_transaction(next_number),
            transactions: table.transactions,
            unusable: self.unusable(),
            skipped_entries: table.skipped_entries,
        }
    }

    fn unusable(&self) -> Vec<UnusableBlock> {
        let mut unusable: Vec<_> = (0..self.geometry.blocks())
            .zip(&self.blocks)
            .filter_map(|(place, block)| {
                let defect = block.as_ref().err()?;
                Some(UnusableBlock {
                    block: self.geometry.block_of_transaction(place),
                    unreadable: defect.is_none(),
                })
            })
            .collect();
        unusable.sort_by_key(|unusable| unusable.block);
        unusable
    }
}

/// Slots and their extents, while transactions are applied.
#[derive(Default)]
struct Table {
    slots: BTreeMap<u16, u32>,
    transactions: u32,
    skipped_entries: u32,
    /// After a lost transaction: the slots that later contexts have repeated.
    repeated: Option<Vec<Range<u32>>>,
    never_whole: bool,
}

impl Table {
    fn apply(&mut self, transaction: &Transaction) {
        for SlotUpdate { slot, extent } in transaction.entries() {
            if slot >= SLOT_LIMIT {
                self.skipped_entries += 1;
            } else if extent == FREE_EXTENT {
                self.slots.remove(&slot);
            } else {
                self.slots.insert(slot, extent);
            }
        }
        self.transactions += 1;
        if let Some(repeated) = &mut self.repeated {
            repeated.push(transaction.context_slots());
            if covers(repeated, u32::from(transaction.slots())) {
                self.repeated = None;
            }
        }
    }

    /// A transaction is missing here.
    fn lost(&mut self) {
        self.repeated = Some(Vec::new());
    }

    fn is_whole(&self) -> bool {
        self.repeated.is_none() && !self.never_whole
    }
}

/// Whether the ranges cover everything below `end`.
fn covers(ranges: &mut [Range<u32>], end: u32) -> bool {
    ranges.sort_by_key(|range| range.start);
    let reached = ranges.iter().fold(0, |reached, range| {
        if range.start <= reached {
            reached.max(range.end)
        } else {
            reached
        }
    });
    reached >= end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::activity_log::{TransactionSequence, initialized_block};

    /// A ring of 8 blocks of a log with two context windows; each transaction puts extent n into slot n.
    fn ring(first: u32, transactions: u16) -> Vec<Option<MetaBlock>> {
        let mut ring = vec![Some(initialized_block()); 8];
        let mut slots = vec![FREE_EXTENT; 1200];
        let mut sequence = TransactionSequence::starting_at(first);
        for slot in 0..transactions {
            let extent = u32::from(slot);
            let transaction = sequence
                .compose(&slots, vec![SlotUpdate { slot, extent }])
                .unwrap();
            ring[transaction.number() as usize % 8] = Some(transaction.encode());
            slots[usize::from(slot)] = extent;
            sequence.written();
        }
        ring
    }

    fn replayed(ring: &[Option<MetaBlock>]) -> (Vec<u32>, Completeness, u32) {
        let replay = replay(LogGeometry::default(), ring).unwrap();
        (
            replay.extents().into_iter().collect(),
            replay.completeness,
            replay.next_number,
        )
    }

    #[test]
    fn a_lost_first_transaction_may_hide_an_extent() {
        let mut ring = ring(0, 2);
        ring[0] = Some([0; 4096]);
        assert_eq!(replayed(&ring), (vec![1], Completeness::ExtentMayBeMissing, 2));
    }

    #[test]
    fn a_lost_transaction_that_later_contexts_repeat_hides_nothing() {
        let mut ring = ring(0, 5);
        ring[1] = None;
        assert_eq!(replayed(&ring), (vec![0, 1, 2, 3, 4], Completeness::Whole, 5));
    }

    #[test]
    fn a_torn_block_behind_the_newest_is_harmless_but_an_unreadable_one_is_not() {
        let mut ring = ring(u32::MAX - 3, 6);
        assert_eq!(replayed(&ring), (vec![0, 1, 2, 3, 4, 5], Completeness::Whole, 2));
        ring[2] = Some([7; 4096]);
        assert_eq!(replayed(&ring).1, Completeness::NewestTorn);
        ring[2] = None;
        assert_eq!(replayed(&ring).1, Completeness::ExtentMayBeMissing);
    }

    #[test]
    fn a_write_that_never_reached_the_disk_is_noticed() {
        let stale = ring(0, 6)[4];
        let mut ring = ring(0, 14);
        ring[4] = stale;
        let (extents, completeness, next) = replayed(&ring);
        assert_eq!((completeness, next), (Completeness::ExtentMayBeMissing, 14));
        assert!(!extents.contains(&12));
    }
}
