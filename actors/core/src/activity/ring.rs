//! Reading the whole ring, and making it an empty log.

use super::ActivityEffect;
use super::operations::Operations;
use crate::disk::{MetaCompletion, MetaKind};
use crate::part::Outbox;
use crate::planted::{Fault, is_planted};
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::activity_log::{FREE_EXTENT, LogBlock, initialized_block, parse};
use mendblock_storage::format::layout::{LogGeometry, MetadataLayout};
use mendblock_storage::format::replay::{Completeness, Replay, replay};
use mendblock_storage::format::{META_BLOCK_BYTES, MetaBlock};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Blocks that are read at the same time.
const READS_AT_ONCE: u32 = 64;
/// Blocks of one write of a reset: 256 KiB.
const BLOCKS_PER_WRITE: u32 = 64;

/// The ring while it is read: block by block, so that a bad sector costs one transaction.
#[derive(Debug)]
pub(super) struct Reading {
    layout: MetadataLayout,
    blocks: Vec<Option<MetaBlock>>,
    next: u32,
    running: BTreeMap<u64, u32>,
}

impl Reading {
    /// Begins. A ring that is larger than what `drbdmeta` accepts is not read: it would take gigabytes.
    pub fn begin(
        layout: MetadataLayout,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) -> Result<Self, String> {
        let blocks = layout.log().blocks();
        if blocks > LogGeometry::MAX_BLOCKS_OFFLINE {
            let most = LogGeometry::MAX_BLOCKS_OFFLINE;
            return Err(format!(
                "the activity log has {blocks} blocks of 4 KiB, at most {most} can be replayed"
            ));
        }
        let mut reading = Self {
            layout,
            blocks: vec![None; blocks as usize],
            next: 0,
            running: BTreeMap::new(),
        };
        reading.read_on(operations, out);
        Ok(reading)
    }

    fn read_on(&mut self, operations: &mut Operations, out: &mut Outbox<ActivityEffect>) {
        let end = self
            .layout
            .log()
            .blocks()
            .min(self.next.saturating_add(READS_AT_ONCE));
        let blocks: Vec<u32> = (self.next..end).collect();
        self.next = end;
        let length = META_BLOCK_BYTES as u32;
        let kinds = blocks.iter().map(|block| MetaKind::Read {
            offset: offset_of(&self.layout, *block),
            length,
        });
        let first = operations.submit(kinds.collect(), out);
        self.running = (first..).zip(blocks).collect();
    }

    /// A block came in. True when the ring is complete.
    pub fn completed(
        &mut self,
        completion: MetaCompletion,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) -> bool {
        let Some(block) = self.running.remove(&completion.number) else {
            return false;
        };
        let bytes = completion.result.ok().flatten();
        self.blocks[block as usize] = bytes.and_then(|bytes| MetaBlock::try_from(&bytes[..]).ok());
        if self.running.is_empty() && self.next < self.layout.log().blocks() {
            self.read_on(operations, out);
        }
        self.running.is_empty()
    }

    pub fn layout(&self) -> MetadataLayout {
        self.layout
    }

    /// What the ring says, if it can be trusted to name every hot extent.
    pub fn replay(&self) -> Result<Replay, String> {
        let mut replay = replay(self.layout.log(), &self.blocks).map_err(|error| error.to_string())?;
        if is_planted(Fault::ReplayInWrongOrder) {
            replay.slots = newest_first(&self.blocks);
        }
        match replay.completeness {
            Completeness::Whole | Completeness::NewestTorn => Ok(replay),
            Completeness::ExtentMayBeMissing => {
                Err("a lost transaction may have named extents that no other one repeats".to_owned())
            }
        }
    }
}

/// The slots as a replay in the wrong order has them (planted).
fn newest_first(blocks: &[Option<MetaBlock>]) -> BTreeMap<u16, u32> {
    let mut transactions: Vec<_> = blocks
        .iter()
        .flatten()
        .filter_map(|block| match parse(block) {
            Ok(LogBlock::Transaction(transaction)) => Some(transaction),
            _ => None,
        })
        .collect();
    transactions.sort_by_key(|transaction| Reverse(transaction.number()));
    let mut slots = BTreeMap::new();
    for update in transactions.iter().flat_map(|transaction| transaction.entries()) {
        match update.extent {
            FREE_EXTENT => slots.remove(&update.slot),
            extent => slots.insert(update.slot, extent),
        };
    }
    slots
}

/// The ring while it becomes an empty log: as new meta-data has it, piece after piece.
#[derive(Debug)]
pub(super) struct Resetting {
    layout: MetadataLayout,
    next: u32,
    running: u64,
}

impl Resetting {
    pub fn begin(
        layout: MetadataLayout,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) -> Self {
        let mut resetting = Self {
            layout,
            next: 0,
            running: 0,
        };
        resetting.write_on(operations, out);
        resetting
    }

    fn write_on(&mut self, operations: &mut Operations, out: &mut Outbox<ActivityEffect>) {
        let end = self
            .layout
            .log()
            .blocks()
            .min(self.next.saturating_add(BLOCKS_PER_WRITE));
        let bytes = initialized_block().repeat((end - self.next) as usize);
        let kind = MetaKind::Write {
            offset: offset_of(&self.layout, self.next),
            buffer: Buffer::from_vec(bytes),
            flush_before: false,
        };
        self.next = end;
        self.running = operations.submit(vec![kind], out);
    }

    /// A piece was written. Some when the reset has ended.
    pub fn completed(
        &mut self,
        completion: &MetaCompletion,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) -> Option<Result<(), i32>> {
        if completion.number != self.running {
            return None;
        }
        if let Err(errno) = completion.result {
            return Some(Err(errno));
        }
        if self.next < self.layout.log().blocks() {
            self.write_on(operations, out);
            return None;
        }
        Some(Ok(()))
    }

    pub fn layout(&self) -> MetadataLayout {
        self.layout
    }
}

fn offset_of(layout: &MetadataLayout, block: u32) -> u64 {
    layout.log_byte() + u64::from(block) * META_BLOCK_BYTES as u64
}
