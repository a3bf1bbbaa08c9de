//! Bad blocks that must not be forgotten. A drive may give up a bad sector: from then on it reads well, and holds zeroes. A node
//! that has reported the block, and has given its disk up in order, must have noted it where the next attach finds it: it never
//! trusts that block again before it was written.

use crate::world::World;
use mendblock_core::volume::state::DiskState;
use std::collections::BTreeSet;

/// What a node owes to a disk.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Blocks of reads that failed in this life of the disk; its node has heard of them.
    reported: BTreeSet<u64>,
    /// Blocks that are noted for good.
    owed: BTreeSet<u64>,
    /// In this life of the disk nothing may have become durable that says what is bad.
    mute: bool,
}

impl Ledger {
    /// A read failed, and its node hears of it.
    pub(crate) fn report(&mut self, blocks: impl Iterator<Item = u64>) {
        self.reported.extend(blocks);
    }

    /// A flush, the superblock or the whole disk failed: the promise is off for this life.
    pub(crate) fn silence(&mut self) {
        self.mute = true;
    }

    /// The disk is opened, or its process ended before it gave the disk up.
    pub(crate) fn new_life(&mut self) {
        self.reported.clear();
        self.mute = false;
    }

    /// The disk was given up in order: "Diskless" means that all of it is noted.
    pub(crate) fn given_up(&mut self) {
        if !self.mute {
            self.owed.append(&mut self.reported);
        }
    }
}

impl World {
    /// The state of a node's disk has changed.
    pub(crate) fn disk_state_changed(&mut self, node: usize, before: DiskState, after: DiskState) {
        if before == DiskState::Failed && after == DiskState::Diskless {
            self.nodes[node].ledger.given_up();
        }
    }

    /// A block goes bad. What its node knew of it while it was bad before does not count.
    pub fn goes_bad(&mut self, node: usize, block: u64) {
        let here = &mut self.nodes[node];
        if here.device.faults.unreadable.insert(block) {
            here.ledger.owed.remove(&block);
            here.ledger.reported.remove(&block);
        }
    }

    /// The drive remaps the bad blocks that its node must know of: they read as zeroes. The others stay unreadable.
    pub fn remap(&mut self, node: usize) {
        let here = &mut self.nodes[node];
        let owed = std::mem::take(&mut here.ledger.owed);
        for block in owed {
            here.device.remap(block);
        }
    }
}
