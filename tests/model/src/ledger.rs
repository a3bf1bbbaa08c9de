//! What clients were told, beside the nodes: the check of P1 and P2. A version of a block is made by one write; it stands for
//! the versions on top of which it was made.

use std::hash::{Hash, Hasher};

/// Blocks of the volume.
pub const BLOCKS: usize = 2;

/// The versions that a set holds, one bit each; bit 0 is what was there at first.
pub type Versions = u32;

/// One write of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Made {
    block: u8,
    /// Itself and everything that it stands for.
    covers: Versions,
    /// The node that the client was at.
    origin: u8,
    acknowledged: bool,
    /// Both disks had it when it was answered.
    on_both: bool,
    /// Lost for a reason that the administrator or the medium has to answer for.
    excused: bool,
}

/// All writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    made: Vec<Made>,
}

/// What one disk holds.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Versions of the blocks.
    pub data: [u8; BLOCKS],
    /// Blocks that cannot be read.
    pub bad: u8,
}

impl Ledger {
    /// Writes so far.
    pub fn writes(&self) -> usize {
        self.made.len()
    }

    /// A client at `origin` writes a block whose content there is `base`.
    pub fn write(&mut self, block: usize, base: u8, origin: usize) -> u8 {
        let version = self.made.len() as u8 + 1;
        let covers = self.covers(base) | 1 << version;
        self.made.push(Made {
            block: block as u8,
            covers,
            origin: origin as u8,
            acknowledged: false,
            on_both: false,
            excused: false,
        });
        version
    }

    /// The client was told that this version is safe.
    pub fn acknowledge(&mut self, version: u8, on_both: bool) {
        if let Some(made) = self.made.get_mut(usize::from(version) - 1) {
            made.acknowledged = true;
            made.on_both = on_both;
        }
    }

    /// As it is when `first` is called the first node.
    pub fn fingerprint(&self, first: usize, hasher: &mut impl Hasher) {
        for made in &self.made {
            let seen = Made {
                origin: made.origin ^ first as u8,
                ..*made
            };
            seen.hash(hasher);
        }
    }

    fn covers(&self, version: u8) -> Versions {
        match version {
            0 => 1,
            version => self.made[usize::from(version) - 1].covers,
        }
    }

    fn held(&self, disk: &Held, block: usize) -> Versions {
        if disk.bad & 1 << block != 0 {
            0
        } else {
            self.covers(disk.data[block])
        }
    }

    /// Acknowledged, and not written over by another one that was acknowledged too.
    fn promised(&self) -> impl Iterator<Item = (u8, &Made)> {
        let all = (1_u8..).zip(&self.made);
        all.filter(|(version, made)| {
            let mut later = (1_u8..).zip(&self.made);
            made.acknowledged
                && !made.excused
                && !later.any(|(other, over)| {
                    other != *version && over.acknowledged && over.covers & 1 << version != 0
                })
        })
    }

    /// What only `disk` holds may be lost from now on.
    pub fn excuse(&mut self, disk: &Held, other: &Held, blocks: u8) {
        for version in 1..=self.made.len() as u8 {
            let block = usize::from(self.made[usize::from(version) - 1].block);
            let only_here =
                self.held(disk, block) & 1 << version != 0 && self.held(other, block) & 1 << version == 0;
            if only_here && blocks & 1 << block != 0 {
                self.made[usize::from(version) - 1].excused = true;
            }
        }
    }

    /// An acknowledged version that is on neither disk.
    pub fn lost(&self, disks: [Held; 2]) -> Option<u8> {
        self.promised()
            .find(|(version, made)| {
                let block = usize::from(made.block);
                disks
                    .iter()
                    .all(|disk| self.held(disk, block) & 1 << version == 0)
            })
            .map(|(version, _)| version)
    }

    /// An acknowledged version that a node which calls its disk UpToDate lacks. What the other node's clients wrote while the
    /// two could not talk it cannot know.
    pub fn missing(&self, node: usize, disk: &Held, talks: bool) -> Option<u8> {
        self.promised()
            .find(|(version, made)| {
                let block = usize::from(made.block);
                let unknown = usize::from(made.origin) != node && !made.on_both && !talks;
                let readable = disk.bad & 1 << block == 0;
                readable && !unknown && self.held(disk, block) & 1 << version == 0
            })
            .map(|(version, _)| version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(version: u8) -> Held {
        Held {
            data: [version, 0],
            bad: 0,
        }
    }

    #[test]
    fn a_later_version_stands_for_those_below_it() {
        let mut ledger = Ledger::default();
        let first = ledger.write(0, 0, 0);
        ledger.acknowledge(first, true);
        let second = ledger.write(0, first, 0);
        assert_eq!(ledger.lost([held(second), held(0)]), None);
        assert_eq!(ledger.lost([held(0), held(0)]), Some(first));
        assert_eq!(ledger.missing(1, &held(0), false), Some(first), "both had it");
    }

    #[test]
    fn what_the_other_node_wrote_alone_is_missed_only_by_a_node_that_talks() {
        let mut ledger = Ledger::default();
        let alone = ledger.write(0, 0, 0);
        ledger.acknowledge(alone, false);
        assert_eq!(ledger.missing(1, &held(0), false), None);
        assert_eq!(ledger.missing(1, &held(0), true), Some(alone));
        assert_eq!(ledger.missing(0, &held(0), false), Some(alone));
        assert_eq!(ledger.missing(0, &held(alone), true), None);
    }

    #[test]
    fn two_branches_are_both_promised() {
        let mut ledger = Ledger::default();
        let (left, right) = (ledger.write(0, 0, 0), ledger.write(0, 0, 1));
        ledger.acknowledge(left, false);
        ledger.acknowledge(right, false);
        assert_eq!(ledger.lost([held(left), held(right)]), None);
        assert_eq!(ledger.lost([held(left), held(left)]), Some(right));
        ledger.excuse(&held(right), &held(left), 1);
        assert_eq!(ledger.lost([held(left), held(left)]), None);
    }
}
