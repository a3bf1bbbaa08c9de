//! Interval locks: overlapping writes run one after the other, in the order in which they were admitted; reads for the peer
//! wait for the overlapping writes before them (Q11).

use mendblock_storage::units::SectorRange;
use std::collections::BTreeMap;

/// The locks that are held or waited for, by order of admission.
#[derive(Default)]
pub(super) struct Locks {
    held: BTreeMap<u64, SectorRange>,
}

impl Locks {
    /// A write takes its place in the order. `place`: its number of admission.
    pub fn enter(&mut self, place: u64, range: SectorRange) {
        self.held.insert(place, range);
    }

    /// The write has ended.
    pub fn leave(&mut self, place: u64) -> bool {
        self.held.remove(&place).is_some()
    }

    /// Places before this one that overlap.
    pub fn before(&self, place: u64, range: SectorRange) -> impl Iterator<Item = u64> {
        let earlier = self.held.range(..place);
        earlier
            .filter(move |(_, other)| other.overlaps(range))
            .map(|(&other, _)| other)
    }

    /// Nothing before this place overlaps.
    pub fn may_run(&self, place: u64, range: SectorRange) -> bool {
        self.before(place, range).next().is_none()
    }
}
