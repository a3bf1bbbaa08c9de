//! Grants: the right to write to a hot extent, and how it comes back.

use super::{Entry, Hold, HotSet};

/// The right to write to the blocks of one hot extent, until it is released. Made only by [`HotSet::grant`], not
/// `Clone`, consumed by [`HotSet::release`].
#[derive(PartialEq, Eq, Hash, Debug)]
#[must_use = "a grant that is not kept has to be released"]
pub struct Grant {
    extent: u32,
    holder: u64,
    number: u64,
}

impl Grant {
    /// The extent.
    pub fn extent(&self) -> u32 {
        self.extent
    }

    /// Generation of the holder that asked for it.
    pub fn holder(&self) -> u64 {
        self.holder
    }
}

/// The question for a grant: the holder is to drain its writes to the extent and give the grant back; a holder that has
/// none (a successor) says so under the revoke's number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Revoke {
    /// The extent.
    pub extent: u32,
    /// Number of this revoke: an answer to one that was given up must not end a later grant.
    pub number: u64,
}

/// Why an extent is not granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum GrantError {
    /// Begin a transaction for it first.
    #[error("extent {0} is not in the activity log; a transaction has to make it hot first")]
    NotHot(u32),
    /// The holder has it already, or a newer generation of the holder has.
    #[error("extent {extent} is already granted to generation {holder}; use or release that grant")]
    Granted {
        /// The extent.
        extent: u32,
        /// Generation that holds it.
        holder: u64,
    },
}

impl HotSet {
    /// Grants a hot extent to the holder of generation `holder` and makes it the most recently used one. An open
    /// revoke of it is given up.
    ///
    /// A grant of an older generation, or one that is only presumed, is replaced: its holder is gone.
    pub fn grant(&mut self, extent: u32, holder: u64) -> Result<Grant, GrantError> {
        let slot = self
            .index
            .get(&extent)
            .copied()
            .ok_or(GrantError::NotHot(extent))?;
        match self.entry(slot).hold {
            Hold::Planned => return Err(GrantError::NotHot(extent)),
            Hold::Granted { holder: present, .. } if present >= holder => {
                let holder = present;
                return Err(GrantError::Granted { extent, holder });
            }
            Hold::Granted { .. } | Hold::Idle | Hold::Unknown => {}
        }
        let number = self.next_number();
        self.entry_mut(slot).revoke = None;
        self.set_hold(slot, Hold::Granted { holder, number });
        self.touch_slot(slot);
        Ok(Grant {
            extent,
            holder,
            number,
        })
    }

    /// Takes a grant back: its writes are retired. Returns whether the extent may be evicted now; a grant that was
    /// replaced by a later one ends nothing.
    pub fn release(&mut self, grant: Grant) -> bool {
        let Some(slot) = self.index.get(&grant.extent).copied() else {
            return false;
        };
        let present = matches!(self.entry(slot).hold, Hold::Granted { number, .. } if number == grant.number);
        if present {
            self.free(slot);
        }
        present
    }

    /// The holder, settled, has no grant for the extent of this revoke. Returns whether the extent may be evicted now;
    /// the answer to a revoke that was given up ends nothing.
    pub fn not_held(&mut self, revoke: Revoke) -> bool {
        let Some(slot) = self.index.get(&revoke.extent).copied() else {
            return false;
        };
        let open = self.entry(slot).revoke == Some(revoke.number);
        if open {
            self.free(slot);
        }
        open
    }

    /// Asks for grants back, the least recently used first, never those of the extents in `keep`, so that `count`
    /// revokes are open. Returns the new ones.
    pub fn revoke(&mut self, count: usize, keep: &[u32]) -> Vec<Revoke> {
        let candidates: Vec<(u16, bool)> = self
            .held
            .values()
            .map(|slot| (*slot, self.entry(*slot)))
            .filter(|(_, entry)| entry.extent.is_some_and(|extent| !keep.contains(&extent)))
            .map(|(slot, entry)| (slot, entry.revoke.is_some()))
            .collect();
        let open = candidates.iter().filter(|(_, open)| *open).count();
        let fresh = candidates
            .iter()
            .filter(|(_, open)| !*open)
            .map(|(slot, _)| *slot);
        let chosen: Vec<u16> = fresh.take(count.saturating_sub(open)).collect();
        chosen
            .into_iter()
            .filter_map(|slot| {
                let number = self.next_number();
                self.entry_mut(slot).revoke = Some(number);
                open_revoke(self.entry(slot))
            })
            .collect()
    }

    /// The open revokes, least recently used extent first: what a new generation of the holder has to be told again.
    pub fn open_revokes(&self) -> impl Iterator<Item = Revoke> + '_ {
        self.held
            .values()
            .filter_map(|slot| open_revoke(self.entry(*slot)))
    }

    /// The holder has a new generation: what older ones held is only presumed to be held, until the new one has answered
    /// a revoke (or got a grant of its own).
    pub fn holder_restarted(&mut self, generation: u64) {
        for entry in &mut self.slots {
            if matches!(entry.hold, Hold::Granted { holder, .. } if holder < generation) {
                entry.hold = Hold::Unknown;
            }
        }
    }

    fn free(&mut self, slot: u16) {
        self.entry_mut(slot).revoke = None;
        self.set_hold(slot, Hold::Idle);
    }
}

fn open_revoke(entry: &Entry) -> Option<Revoke> {
    let (extent, number) = (entry.extent?, entry.revoke?);
    Some(Revoke { extent, number })
}
