//! One node of the model: its disk, which survives a crash, and what it keeps in memory.

use super::pair::BLOCKS;
use mendblock_core::volume::generations::exposed::*;
use mendblock_core::volume::generations::promotion::KnownDisk;
use mendblock_core::volume::generations::*;
use std::collections::BTreeSet;

/// What survives a crash of the node.
#[derive(Clone, Debug)]
pub struct Disk {
    pub slots: Identifiers,
    pub source_open: Option<Generation>,
    pub made_for: Option<(u64, Generation)>,
    pub primary_since: bool,
    /// The stored Primary indicator, or the mark "crashed Primary".
    pub was_primary: bool,
    pub inconsistent: bool,
    /// Has been about to become target: not to be used alone.
    pub outdated: bool,
    pub bits: u8,
    pub data: [u32; BLOCKS],
    /// Acknowledged writes that this copy has, or had before they were overwritten.
    pub has: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub disk: Disk,
    pub attach: u64,
    pub up: bool,
    pub attached: bool,
    pub primary: bool,
    pub exposed: Generation,
    /// Acknowledged writes that the application on this Primary has seen.
    pub seen: BTreeSet<u32>,
    /// The peer's slots as last received and corrected.
    pub picture: Identifiers,
}

impl Node {
    pub fn fresh() -> Self {
        let disk = Disk {
            slots: Identifiers::FRESH,
            source_open: None,
            made_for: None,
            primary_since: false,
            was_primary: false,
            inconsistent: true,
            outdated: false,
            bits: 0,
            data: [0; BLOCKS],
            has: BTreeSet::new(),
        };
        Self {
            disk,
            attach: 1,
            up: true,
            attached: true,
            primary: false,
            exposed: Generation::NONE,
            seen: BTreeSet::new(),
            picture: Identifiers::default(),
        }
    }

    pub fn up_to_date(&self) -> bool {
        self.has_disk() && self.negotiated() == NegotiatedDisk::UpToDate
    }

    pub fn has_disk(&self) -> bool {
        self.up && self.attached
    }

    pub fn set_slots(&mut self, slots: Identifiers) {
        if slots.current != self.disk.slots.current {
            self.exposed = slots.current;
        }
        self.disk.slots = slots;
    }

    pub fn advance(&mut self, random: u64) {
        self.set_slots(
            self.disk
                .slots
                .advance(self.primary, random, self.disk.source_open),
        );
    }

    pub fn made_for_you(&self) -> Option<MadeForYou> {
        let (attach, current) = self.disk.made_for?;
        let primary_since = self.disk.primary_since;
        current.same(self.disk.slots.current).then_some(MadeForYou {
            attach,
            primary_since,
        })
    }

    pub fn known_disk(&self) -> KnownDisk {
        if self.attached {
            KnownDisk::Attached(self.disk.slots)
        } else {
            KnownDisk::NotAttached(self.disk.slots)
        }
    }

    pub fn negotiated(&self) -> NegotiatedDisk {
        match (self.disk.inconsistent, self.disk.outdated) {
            (true, _) => NegotiatedDisk::Inconsistent,
            (false, true) => NegotiatedDisk::Outdated,
            (false, false) => NegotiatedDisk::UpToDate,
        }
    }

    pub fn arrival(&self, peer: &Self, connected: bool, peer_attaches: bool) -> Arrival {
        Arrival {
            exposed: self.exposed,
            own: self.attached.then_some(self.disk.slots),
            own_attach: self.attach,
            primary: self.primary,
            connected,
            peer_attaches,
            named_before: None,
            protocol: 101,
            peer: peer.disk.slots,
            skip_initial_sync: false,
            made_for_you: peer.made_for_you(),
        }
    }
}
