//! One transaction of the log: choosing slots, and what follows its write.

use super::{Hold, HotSet};
use std::collections::BTreeSet;

/// Most slot changes of one transaction.
pub const TRANSACTION_UPDATES: usize = 64;

/// One change of a transaction: the slot gets the extent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SlotUpdate {
    /// Slot number.
    pub slot: u16,
    /// Its new extent.
    pub extent: u32,
}

/// A transaction to be written. Not `Clone`: [`HotSet::commit`] or [`HotSet::abort`] consumes it.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "an open plan blocks every other until it is committed or aborted"]
pub struct Plan {
    number: u64,
    updates: Vec<SlotUpdate>,
    evicted: Vec<u32>,
}

impl Plan {
    /// The slot changes, 1 to 64.
    pub fn updates(&self) -> &[SlotUpdate] {
        &self.updates
    }

    /// The extents that leave the log: their changed bitmap pages must be durable before the transaction is written.
    pub fn evicted(&self) -> &[u32] {
        &self.evicted
    }
}

/// What [`HotSet::begin`] found.
#[derive(PartialEq, Eq, Debug)]
pub enum Begin {
    /// All wanted extents are hot: nothing to write.
    Hot,
    /// This transaction makes all of them hot.
    Plan(Plan),
    /// So many slots are missing, because granted extents hold them: revoke, and begin again.
    Full {
        /// Slots missing.
        missing: usize,
    },
    /// Another plan is open: begin again when it has ended.
    Busy,
    /// One transaction can never hold so many: ask for fewer.
    TooMany {
        /// Most extents of one call.
        limit: usize,
    },
}

impl HotSet {
    /// Plans the transaction that makes all `wanted` extents hot: never used slots first, then those whose extents are
    /// not granted, the least recently used first, but none of the wanted ones. Nothing is hot before the commit.
    pub fn begin(&mut self, wanted: &[u32]) -> Begin {
        if self.open_plan.is_some() {
            return Begin::Busy;
        }
        let wanted: BTreeSet<u32> = wanted.iter().copied().collect();
        let limit = TRANSACTION_UPDATES.min(self.slots.len());
        let cold: Vec<u32> = wanted
            .iter()
            .copied()
            .filter(|extent| !self.is_hot(*extent))
            .collect();
        if cold.is_empty() {
            return Begin::Hot;
        }
        if cold.len() > limit || wanted.len() > self.slots.len() {
            return Begin::TooMany { limit };
        }
        let never_used = self.empty.iter().copied();
        let evictable = self.idle.values().copied().filter(|slot| {
            let extent = self.entry(*slot).extent;
            extent.is_some_and(|extent| !wanted.contains(&extent))
        });
        let chosen: Vec<u16> = never_used.chain(evictable).take(cold.len()).collect();
        if chosen.len() < cold.len() {
            let missing = cold.len() - chosen.len();
            return Begin::Full { missing };
        }
        for extent in &wanted {
            self.touch(*extent);
        }
        Begin::Plan(self.plan(&chosen, &cold))
    }

    fn plan(&mut self, chosen: &[u16], cold: &[u32]) -> Plan {
        let number = self.next_number();
        self.open_plan = Some(number);
        let mut plan = Plan {
            number,
            updates: Vec::with_capacity(cold.len()),
            evicted: Vec::new(),
        };
        for (slot, extent) in chosen.iter().copied().zip(cold.iter().copied()) {
            plan.evicted.extend(self.entry(slot).extent);
            plan.updates.push(SlotUpdate { slot, extent });
            self.set_hold(slot, Hold::Planned);
        }
        plan
    }

    /// The transaction is durable: its extents are hot, as the most recently used ones, the evicted ones are not.
    /// Ignored for a plan of another set.
    pub fn commit(&mut self, plan: Plan) {
        if !self.close(&plan) {
            return;
        }
        for SlotUpdate { slot, extent } in plan.updates {
            if let Some(old) = self.entry_mut(slot).extent.replace(extent) {
                self.index.remove(&old);
            }
            self.index.insert(extent, slot);
            self.clock += 1;
            self.entry_mut(slot).used = self.clock;
            self.set_hold(slot, Hold::Idle);
        }
    }

    /// The transaction was not written: the set is as before it. After a *failed* write the log on disk may say either,
    /// and the disk is to be given up.
    pub fn abort(&mut self, plan: Plan) {
        if self.close(&plan) {
            for update in plan.updates {
                self.set_hold(update.slot, Hold::Idle);
            }
        }
    }

    fn close(&mut self, plan: &Plan) -> bool {
        let is_open = self.open_plan == Some(plan.number);
        if is_open {
            self.open_plan = None;
        }
        is_open
    }
}
