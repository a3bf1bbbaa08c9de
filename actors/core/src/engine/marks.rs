//! Marks on their way to the bitmap part: numbered, kept until acknowledged (rule 5: nothing lives in one head only).

use crate::bitmap::{Mark, MarkReason};
use crate::identity::MarkNumber;
use mendblock_storage::units::{BlockRange, EXTENT_BLOCKS};
use std::collections::BTreeMap;

/// Marks that are not acknowledged, and blocks that are known to be marked.
pub(super) struct Marks {
    last: MarkNumber,
    /// The last one that this generation sent; 0: none (those of its predecessors are with the bitmap part already).
    sent: MarkNumber,
    open: BTreeMap<MarkNumber, Mark>,
    /// Blocks whose lack at the peer is durably marked since the link was lost: a bit per block, by extent. Alone, a write to
    /// such a block needs no new mark.
    known: BTreeMap<u64, Box<[u64; 16]>>,
    /// The last mark of the time in which bits were cleared: that it is durable says nothing about its bits.
    before: MarkNumber,
}

impl Marks {
    /// Numbers of one generation, above those of its predecessors.
    pub fn new(generation: u64) -> Self {
        Self {
            last: MarkNumber(generation << 40),
            sent: MarkNumber(0),
            open: BTreeMap::new(),
            known: BTreeMap::new(),
            before: MarkNumber(0),
        }
    }

    /// A new mark.
    pub fn add(&mut self, ranges: Vec<BlockRange>, reason: MarkReason) -> Mark {
        self.last = self.last.next();
        self.sent = self.last;
        let mark = Mark {
            number: self.last,
            ranges,
            reason,
        };
        self.open.insert(mark.number, mark.clone());
        mark
    }

    /// A mark ended; what it was.
    pub fn end(&mut self, number: MarkNumber) -> Option<Mark> {
        self.open.remove(&number)
    }

    /// The last mark that was sent.
    pub fn last_sent(&self) -> MarkNumber {
        self.sent
    }

    /// Not acknowledged yet.
    pub fn is_open(&self, number: MarkNumber) -> bool {
        self.open.contains_key(&number)
    }

    /// Blocks on their way to the own bad-block list: the picture of it may not have them yet.
    pub fn listing(&self) -> impl Iterator<Item = BlockRange> {
        let enters = |mark: &&Mark| {
            matches!(
                mark.reason,
                MarkReason::ReadError { .. } | MarkReason::WriteError { .. } | MarkReason::MissedWrite
            )
        };
        self.open
            .values()
            .filter(enters)
            .flat_map(|mark| mark.ranges.iter().copied())
    }

    /// All that are not acknowledged, in order.
    pub fn open(&self) -> Vec<Mark> {
        self.open.values().cloned().collect()
    }

    /// The blocks of this mark are durably marked as lacking at the peer.
    pub fn remember(&mut self, mark: &Mark) {
        if mark.number > self.before {
            mark.ranges.iter().for_each(|&range| self.know(range));
        }
    }

    fn know(&mut self, range: BlockRange) {
        for block in range.iter() {
            let words = self
                .known
                .entry(block / EXTENT_BLOCKS)
                .or_insert_with(|| Box::new([0; 16]));
            let bit = (block % EXTENT_BLOCKS) as usize;
            words[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether all of these are.
    pub fn knows(&self, range: BlockRange) -> bool {
        range.iter().all(|block| {
            let bit = (block % EXTENT_BLOCKS) as usize;
            self.known
                .get(&(block / EXTENT_BLOCKS))
                .is_some_and(|words| words[bit / 64] >> (bit % 64) & 1 == 1)
        })
    }

    /// A connection came up, or was lost: bits are cleared from now on, or were until now.
    pub fn forget_known(&mut self) {
        self.before = self.last;
        self.known.clear();
    }
}
