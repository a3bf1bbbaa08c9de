//! The activity log's set in memory: which 4 MiB extents are hot, in which slot of the on-disk log each stands, and
//! which of them the volume actor holds.
//!
//! An extent is *hot* once the log transaction that names it is durable. The volume actor then gets a [`Grant`] for it
//! and writes without asking again. A hot extent leaves its slot only after its grant came back, and (the caller's
//! part) after the bitmap pages of its blocks are durable.
//!
//! A change of slots goes: [`HotSet::begin`] gives a [`Plan`]; the caller writes the bitmap pages of
//! [`Plan::evicted`], then the transaction; [`HotSet::commit`] or [`HotSet::abort`]; then [`HotSet::grant`]. While a plan
//! is open there is no other. When slots are missing, [`HotSet::revoke`] asks for grants back.

mod grant;
mod plan;
mod replay;

pub use grant::{Grant, GrantError, Revoke};
pub use plan::{Begin, Plan, SlotUpdate, TRANSACTION_UPDATES};
pub use replay::ReplayError;

use std::collections::{BTreeMap, BTreeSet};

/// Most slots of a log (DRBD `al-extents`); slot numbers have 16 bits, of which the highest two mean "none".
pub const SLOTS_MAX: u16 = 65_534;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Hold {
    /// Not granted: may be evicted.
    Idle,
    /// Granted to the holder of this generation, by the grant of this number.
    Granted { holder: u64, number: u64 },
    /// Perhaps granted: before the holder has answered a revoke, this is not known.
    Unknown,
    /// In the open plan: about to be evicted or filled.
    Planned,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Entry {
    /// The extent of the last committed transaction, also while a plan is open.
    extent: Option<u32>,
    /// When it was last granted or touched; unique among the occupied slots.
    used: u64,
    hold: Hold,
    /// Number of the open revoke.
    revoke: Option<u64>,
}

/// The slots of the activity log with least-recently-used order, grants and revokes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HotSet {
    slots: Vec<Entry>,
    /// Extent to slot, of all occupied slots.
    index: BTreeMap<u32, u16>,
    /// Slots never used, lowest first.
    empty: BTreeSet<u16>,
    /// Slots whose extent is not granted, by time of last use.
    idle: BTreeMap<u64, u16>,
    /// Slots whose extent is, or may be, granted, by time of last use.
    held: BTreeMap<u64, u16>,
    clock: u64,
    last_number: u64,
    open_plan: Option<u64>,
}

impl HotSet {
    /// A set of `slots` empty slots, cut to 1..=[`SLOTS_MAX`].
    pub fn new(slots: u16) -> Self {
        let slots = slots.clamp(1, SLOTS_MAX);
        let entry = Entry {
            extent: None,
            used: 0,
            hold: Hold::Idle,
            revoke: None,
        };
        Self {
            slots: vec![entry; usize::from(slots)],
            index: BTreeMap::new(),
            empty: (0..slots).collect(),
            idle: BTreeMap::new(),
            held: BTreeMap::new(),
            clock: 0,
            last_number: 0,
            open_plan: None,
        }
    }

    /// As this set, but numbers of grants and revokes go on after `number`: those of a predecessor's set, which may still come
    /// back, are told apart from its own.
    pub fn numbered_after(mut self, number: u64) -> Self {
        self.last_number = self.last_number.max(number);
        self
    }

    /// Number of slots.
    pub fn slots(&self) -> u16 {
        self.slots.len() as u16
    }

    /// Whether the extent is hot: in the durable log, and not about to be evicted.
    pub fn is_hot(&self, extent: u32) -> bool {
        self.index
            .get(&extent)
            .is_some_and(|slot| self.entry(*slot).hold != Hold::Planned)
    }

    /// All extents in the durable log, in order, those about to be evicted included.
    pub fn extents(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.keys().copied()
    }

    /// Number of extents that are, or may be, granted.
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// The extent of each slot from `first` on, as in the durable log: what the context window of a transaction shows
    /// (the updates of an open plan are not in it).
    pub fn context(&self, first: u16) -> impl Iterator<Item = Option<u32>> + '_ {
        self.slots
            .iter()
            .skip(usize::from(first))
            .map(|entry| entry.extent)
    }

    /// Makes a hot extent the most recently used one.
    pub fn touch(&mut self, extent: u32) {
        if let Some(slot) = self.index.get(&extent).copied() {
            self.touch_slot(slot);
        }
    }

    fn entry(&self, slot: u16) -> &Entry {
        &self.slots[usize::from(slot)]
    }

    fn entry_mut(&mut self, slot: u16) -> &mut Entry {
        &mut self.slots[usize::from(slot)]
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn touch_slot(&mut self, slot: u16) {
        self.unlink(slot);
        self.clock += 1;
        self.entry_mut(slot).used = self.clock;
        self.link(slot);
    }

    /// Changes what holds a slot and keeps the orders right.
    fn set_hold(&mut self, slot: u16, hold: Hold) {
        self.unlink(slot);
        self.entry_mut(slot).hold = hold;
        self.link(slot);
    }

    /// Takes a slot out of the order that its hold puts it in.
    fn unlink(&mut self, slot: u16) {
        let Entry {
            extent, used, hold, ..
        } = *self.entry(slot);
        match (hold, extent) {
            (Hold::Planned, _) => {}
            (Hold::Idle, None) => drop(self.empty.remove(&slot)),
            (Hold::Idle, Some(_)) => drop(self.idle.remove(&used)),
            (Hold::Granted { .. } | Hold::Unknown, _) => drop(self.held.remove(&used)),
        }
    }

    fn link(&mut self, slot: u16) {
        let Entry {
            extent, used, hold, ..
        } = *self.entry(slot);
        match (hold, extent) {
            (Hold::Planned, _) => {}
            (Hold::Idle, None) => drop(self.empty.insert(slot)),
            (Hold::Idle, Some(_)) => drop(self.idle.insert(used, slot)),
            (Hold::Granted { .. } | Hold::Unknown, _) => drop(self.held.insert(used, slot)),
        }
    }
}

#[cfg(test)]
mod tests;
