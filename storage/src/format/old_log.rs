//! The activity log of DRBD 8.3 and older: 512-byte sectors. Only read, to convert it.
//!
//! | offset in the sector | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic 0x83740267 |
//! | 4 | 4 | transaction number |
//! | 8 | 62 x 8 | slot and extent (4 bytes each): the first pair is the update, the others are context |
//! | 504 | 4 | exclusive or of the 62 extents |
//! | 508 | 4 | not used |
use super::activity_log::{FREE_EXTENT, has_magic};
use super::layout::LogGeometry;
use super::superblock::{LogState, Superblock};
use super::{META_BLOCK_BYTES, MetaBlock};
use std::collections::{BTreeMap, BTreeSet};
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

const MAGIC: u32 = 0x8374_0267;
const PAIRS: usize = 62;
/// Context entries of one sector: one slot is the update's.
const CONTEXT_PAIRS: u32 = PAIRS as u32 - 1;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSector {
    magic: U32,
    number: U32,
    pairs: [[U32; 2]; PAIRS],
    xor: U32,
    unused: U32,
}

/// Whether the log of these meta-data is of the old form: neither of the first two blocks looks new, nothing in the
/// superblock does, and it is not marked as clean. A log with unreadable blocks never counts as old.
pub fn is_old(superblock: &Superblock, ring: &[Option<MetaBlock>]) -> bool {
    let looks_new = ring.iter().take(2).flatten().any(has_magic) || ring.contains(&None);
    superblock.log_state == LogState::Clean
        && superblock.layout.log == LogGeometry::default()
        && !superblock.log_is_clean()
        && !looks_new
}

/// The hot extents of an old log; `None` when not one sector is valid. `slots` is `al_nr_extents` of the superblock:
/// it says how many sectors the ring has.
pub fn hot_extents(ring: &[Option<MetaBlock>], slots: u32) -> Option<BTreeSet<u32>> {
    let sectors = ring.iter().flat_map(|block| {
        let bytes = block.as_ref().map_or(&[0; META_BLOCK_BYTES], |block| block);
        bytes
            .chunks_exact(size_of::<RawSector>())
            .map(|sector| RawSector::ref_from_bytes(sector).ok())
    });
    let used = 1 + slots.div_ceil(CONTEXT_PAIRS) as usize;
    let sectors: Vec<Option<&RawSector>> = sectors
        .take(used)
        .map(|sector| sector.filter(|sector| sector.is_valid()))
        .collect();
    let valid = || {
        sectors
            .iter()
            .enumerate()
            .filter_map(|(at, sector)| Some((at, sector.as_ref()?.number.get())))
    };
    let older = |a: u32, b: u32| (a.wrapping_sub(b) as i32).cmp(&0);
    let (oldest, _) = valid().min_by(|a, b| older(a.1, b.1))?;
    let (newest, _) = valid().max_by(|a, b| older(a.1, b.1))?;
    let steps = (newest + sectors.len() - oldest) % sectors.len();
    let mut table = BTreeMap::new();
    for sector in (0..=steps).filter_map(|step| sectors[(oldest + step) % sectors.len()]) {
        // Backwards: the context may hold an older extent of the slot that the first pair updates.
        for [slot, extent] in sector
            .pairs
            .iter()
            .rev()
            .filter(|[_, extent]| extent.get() != FREE_EXTENT)
        {
            table.insert(slot.get(), extent.get());
        }
    }
    Some(table.into_values().collect())
}

impl RawSector {
    fn is_valid(&self) -> bool {
        let xor = self.pairs.iter().fold(0, |xor, [_, extent]| xor ^ extent.get());
        self.magic.get() == MAGIC && self.xor.get() == xor
    }
}
