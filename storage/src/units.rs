//! The units of a volume: 512-byte sectors, 4 KiB blocks (one bitmap bit), 4 MiB activity-log extents.
//!
//! A client's request is a [`SectorRange`]; bits, bad-block records and resync count [`BlockRange`]s.
//! A failed request is rounded *outwards* to blocks ([`SectorRange::touched_blocks`]): every block of which a
//! byte may be bad. Proof of good data is rounded *inwards* ([`SectorRange::covered_blocks`]): only blocks of which
//! every byte is known.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes of a sector, the unit of offsets in requests and on the wire.
pub const SECTOR_BYTES: u64 = 512;
/// Bytes of a block: one bit of the bitmap (DRBD `BM_BLOCK_SIZE`).
pub const BLOCK_BYTES: u64 = 4096;
/// Sectors of a block.
pub const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;
/// Bytes of an activity-log extent (DRBD `AL_EXTENT_SIZE`).
pub const EXTENT_BYTES: u64 = 4 << 20;
/// Blocks of an activity-log extent.
pub const EXTENT_BLOCKS: u64 = EXTENT_BYTES / BLOCK_BYTES;
/// Sectors of an activity-log extent.
pub const EXTENT_SECTORS: u64 = EXTENT_BYTES / SECTOR_BYTES;

/// A non-empty run of sectors.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SectorRange {
    first: u64,
    count: u32,
}

impl SectorRange {
    /// `count` sectors from `first`; `None` when empty or when the end would overflow.
    pub fn new(first: u64, count: u32) -> Option<Self> {
        (count > 0 && first.checked_add(u64::from(count)).is_some()).then_some(Self { first, count })
    }

    /// The range of a byte offset and length; `None` unless both are multiples of a sector and the length is in 1 sector..=2 TiB.
    pub fn from_bytes(offset: u64, length: u64) -> Option<Self> {
        if !offset.is_multiple_of(SECTOR_BYTES) || !length.is_multiple_of(SECTOR_BYTES) {
            return None;
        }
        Self::new(offset / SECTOR_BYTES, u32::try_from(length / SECTOR_BYTES).ok()?)
    }

    /// First sector.
    pub fn first(self) -> u64 {
        self.first
    }

    /// Number of sectors, at least 1.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The sector behind the last one.
    pub fn end(self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Offset of the first byte.
    pub fn byte_offset(self) -> u64 {
        self.first * SECTOR_BYTES
    }

    /// Length in bytes.
    pub fn byte_length(self) -> u64 {
        u64::from(self.count) * SECTOR_BYTES
    }

    /// Whether the two ranges share a sector.
    pub fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    /// All blocks of which at least one sector is in the range (rounds outwards).
    pub fn touched_blocks(self) -> BlockRange {
        let first = self.first / BLOCK_SECTORS;
        let end = self.end().div_ceil(BLOCK_SECTORS);
        BlockRange {
            first,
            count: (end - first) as u32,
        }
    }

    /// All blocks that lie wholly in the range (rounds inwards). `volume_sectors`: the last block of a volume whose
    /// size is no multiple of a block counts as whole when all its existing sectors are in the range.
    pub fn covered_blocks(self, volume_sectors: u64) -> Option<BlockRange> {
        let first = self.first.div_ceil(BLOCK_SECTORS);
        let end = if self.end() >= volume_sectors {
            self.end().div_ceil(BLOCK_SECTORS)
        } else {
            self.end() / BLOCK_SECTORS
        };
        (end > first).then(|| BlockRange {
            first,
            count: (end - first) as u32,
        })
    }

    /// Numbers of the activity-log extents that the range touches.
    pub fn extents(self) -> std::ops::RangeInclusive<u32> {
        (self.first / EXTENT_SECTORS) as u32..=((self.end() - 1) / EXTENT_SECTORS) as u32
    }
}

impl fmt::Debug for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors {}+{}", self.first, self.count)
    }
}

impl fmt::Display for SectorRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}

/// A non-empty run of 4 KiB blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockRange {
    first: u64,
    count: u32,
}

impl BlockRange {
    /// `count` blocks from `first`; `None` when empty or when its end in sectors would overflow.
    pub fn new(first: u64, count: u32) -> Option<Self> {
        let end = first.checked_add(u64::from(count))?;
        (count > 0 && end.checked_mul(BLOCK_SECTORS).is_some()).then_some(Self { first, count })
    }

    /// One block.
    pub fn single(block: u64) -> Self {
        Self {
            first: block,
            count: 1,
        }
    }

    /// First block.
    pub fn first(self) -> u64 {
        self.first
    }

    /// Number of blocks, at least 1.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The block behind the last one.
    pub fn end(self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// The blocks, one by one.
    pub fn iter(self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    /// Whether the block is in the range.
    pub fn contains(self, block: u64) -> bool {
        self.first <= block && block < self.end()
    }

    /// Whether the two ranges share a block.
    pub fn overlaps(self, other: Self) -> bool {
        self.first < other.end() && other.first < self.end()
    }

    /// The sectors of the range, cut at the end of the volume; `None` when it lies wholly behind it.
    pub fn sectors(self, volume_sectors: u64) -> Option<SectorRange> {
        let first = self.first * BLOCK_SECTORS;
        let end = (self.end() * BLOCK_SECTORS).min(volume_sectors);
        (end > first).then(|| SectorRange {
            first,
            count: (end - first) as u32,
        })
    }
}

impl fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blocks {}+{}", self.first, self.count)
    }
}

impl fmt::Display for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}

/// Number of blocks (bits) of a volume of `sectors` sectors; a last partial block counts.
pub fn blocks_of(sectors: u64) -> u64 {
    sectors.div_ceil(BLOCK_SECTORS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_outwards_and_inwards() {
        let range = SectorRange::new(7, 10).unwrap();
        assert_eq!(range.touched_blocks(), BlockRange::new(0, 3).unwrap());
        assert_eq!(range.covered_blocks(1 << 20), BlockRange::new(1, 1));
        assert_eq!(SectorRange::new(7, 5).unwrap().covered_blocks(1 << 20), None);
    }

    #[test]
    fn last_partial_block_counts_as_whole() {
        let range = SectorRange::new(8, 4).unwrap();
        assert_eq!(range.covered_blocks(12), BlockRange::new(1, 1));
        assert_eq!(range.covered_blocks(16), None);
    }

    #[test]
    fn extents_of_a_border() {
        let range = SectorRange::new(EXTENT_SECTORS - 1, 2).unwrap();
        assert_eq!(range.extents().collect::<Vec<_>>(), vec![0, 1]);
    }

    #[test]
    fn refuses_unaligned_and_empty() {
        assert_eq!(SectorRange::from_bytes(1, 512), None);
        assert_eq!(SectorRange::from_bytes(512, 0), None);
        assert_eq!(SectorRange::new(u64::MAX, 1), None);
    }
}
