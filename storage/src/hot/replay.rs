//! The set of a new generation of the activity log, from what is on disk.

use super::{Hold, HotSet, SLOTS_MAX};

/// The table read from disk does not fit the log's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the activity log on disk uses slot {slot}, but the log has {slots} slots; attach the disk anew, which applies and \
     resets the log"
)]
pub struct ReplayError {
    /// Slot found on disk.
    pub slot: u16,
    /// Slots of the set.
    pub slots: u16,
}

impl HotSet {
    /// The set of a log whose ring was read back while the volume goes on: every extent is hot, in the slot that the
    /// disk says (a later transaction changes slots by number), and presumed to be granted.
    ///
    /// `table` gives slots with their extents, least recently used first where that is known. An extent in two slots
    /// (only a damaged ring has that) keeps the first; the other slot counts as never used.
    pub fn from_replay(slots: u16, table: impl IntoIterator<Item = (u16, u32)>) -> Result<Self, ReplayError> {
        let mut set = Self::new(slots.min(SLOTS_MAX));
        let slots = set.slots();
        for (slot, extent) in table {
            if slot >= slots {
                return Err(ReplayError { slot, slots });
            }
            if set.index.contains_key(&extent) {
                continue;
            }
            set.unlink(slot);
            if let Some(old) = set.entry_mut(slot).extent.replace(extent) {
                set.index.remove(&old);
            }
            set.index.insert(extent, slot);
            set.entry_mut(slot).hold = Hold::Unknown;
            set.clock += 1;
            set.entry_mut(slot).used = set.clock;
            set.link(slot);
        }
        Ok(set)
    }
}
