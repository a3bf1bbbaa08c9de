//! Extents of the activity log that this part holds: a write to a held extent asks nobody. An extent is given back when every
//! write that used it is retired, and, where retirement marked blocks, when the mark is durable (R3).

use mendblock_storage::hot::Grant;
use std::collections::{BTreeMap, BTreeSet};

struct Held {
    grant: Grant,
    users: u32,
    revoke: Option<u64>,
}

/// Held, wanted and revoked extents.
#[derive(Default)]
pub(super) struct Extents {
    held: BTreeMap<u32, Held>,
    wanted: BTreeSet<u32>,
    touched: BTreeSet<u32>,
    /// Revokes: number → what was already given back for it.
    returning: BTreeMap<u64, Returning>,
}

/// What goes back for one revoke.
#[derive(Default)]
struct Returning {
    open: BTreeSet<u32>,
    grants: Vec<Grant>,
    not_held: Vec<u32>,
}

impl Extents {
    /// All these extents are held and not being revoked.
    pub fn ready(&self, extents: impl IntoIterator<Item = u32>) -> bool {
        extents
            .into_iter()
            .all(|extent| self.held.get(&extent).is_some_and(|held| held.revoke.is_none()))
    }

    /// Extents of these that must be asked for (each is asked for once; one that is being revoked is asked for when it
    /// is gone).
    pub fn want(&mut self, extents: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut ask = Vec::new();
        for extent in extents {
            if !self.held.contains_key(&extent) && self.wanted.insert(extent) {
                ask.push(extent);
            }
        }
        ask
    }

    /// Extents that were asked for and not granted yet (repeated to a new activity-log part).
    pub fn wanted(&self) -> Vec<u32> {
        self.wanted.iter().copied().collect()
    }

    pub fn granted(&mut self, grant: Grant) {
        let extent = grant.extent();
        self.wanted.remove(&extent);
        match self.held.get_mut(&extent) {
            // Granted once more by a new activity-log part: who uses the extent, and that it is wanted back, stays.
            Some(held) => held.grant = grant,
            None => {
                self.held.insert(
                    extent,
                    Held {
                        grant,
                        users: 0,
                        revoke: None,
                    },
                );
            }
        }
    }

    /// A write uses these extents until it is retired.
    pub fn take(&mut self, extents: impl IntoIterator<Item = u32>) {
        for extent in extents {
            if let Some(held) = self.held.get_mut(&extent) {
                held.users += 1;
                self.touched.insert(extent);
            }
        }
    }

    /// A write that used them is retired.
    pub fn give_back(&mut self, extents: impl IntoIterator<Item = u32>) {
        for extent in extents {
            if let Some(held) = self.held.get_mut(&extent) {
                held.users = held.users.saturating_sub(1);
            }
        }
    }

    /// Extents are wanted back.
    pub fn revoke(&mut self, number: u64, extents: &[u32]) {
        for &extent in extents {
            let before = self.held.get_mut(&extent).map(|held| held.revoke.replace(number));
            // A new activity-log part asks under its own number: the old one is answered by nobody.
            if let Some(old) = before
                .flatten()
                .filter(|old| *old != number)
                .and_then(|old| self.returning.get_mut(&old))
            {
                old.open.remove(&extent);
            }
            let returning = self.returning.entry(number).or_default();
            match before {
                Some(_) => {
                    returning.open.insert(extent);
                }
                None => returning.not_held.push(extent),
            }
        }
    }

    /// Some revoke waits for writes.
    pub fn is_revoking(&self) -> bool {
        !self.returning.is_empty()
    }

    /// What can be given back now; what is not held goes back at once (R8), the rest of a revoke when its writes are retired.
    pub fn returned(&mut self) -> Vec<(u64, Vec<Grant>, Vec<u32>)> {
        let drained: Vec<u32> = self
            .held
            .iter()
            .filter(|(_, held)| held.revoke.is_some() && held.users == 0)
            .map(|(&extent, _)| extent)
            .collect();
        for extent in drained {
            if let Some(held) = self.held.remove(&extent)
                && let Some(returning) = held.revoke.and_then(|number| self.returning.get_mut(&number))
            {
                returning.open.remove(&extent);
                returning.grants.push(held.grant);
            }
        }
        let mut back = Vec::new();
        for (&number, returning) in &mut self.returning {
            let (grants, not_held) = (
                std::mem::take(&mut returning.grants),
                std::mem::take(&mut returning.not_held),
            );
            if !grants.is_empty() || !not_held.is_empty() {
                back.push((number, grants, not_held));
            }
        }
        self.returning.retain(|_, returning| !returning.open.is_empty());
        back
    }

    /// Extents used since the last call.
    pub fn take_touched(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    /// The disk is gone: every grant is void.
    pub fn void(&mut self) {
        *self = Self::default();
    }
}
