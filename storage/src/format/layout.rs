//! Where the meta-data lie. The only file that computes offsets.
//!
//! ```text
//! internal:       data ............ | bitmap | activity log | superblock | at most 7 unused sectors
//! flex-external:  superblock | activity log | bitmap ..................... (a whole device)
//! indexed:        superblock | activity log | bitmap ..................... (slot i of 128 MiB each)
//! ```
use super::{META_BLOCK_BYTES, MetaBlock};
use crate::units::{BLOCK_BYTES, BLOCK_SECTORS, SECTOR_BYTES};
use serde::Serialize;
use std::fmt;

/// Sectors of the superblock.
const SUPERBLOCK_SECTORS: u64 = BLOCK_SECTORS;
/// Data sectors that one 4 KiB page of the bitmap describes (128 MiB).
const DATA_SECTORS_OF_PAGE: u64 = BLOCK_BYTES * 8 * BLOCK_SECTORS;
/// Sectors of a slot of indexed meta-data (128 MiB).
const SLOT_SECTORS: u64 = 262_144;
/// The largest volume of the format: 1 PiB.
const MAX_DATA_SECTORS: u64 = 1 << 41;
/// The smallest device that can carry internal or flex-external meta-data for use (1 MiB).
const MIN_META_SECTORS: u64 = 2048;
/// The smallest device for which `drbdmeta` finds or creates meta-data (68 KiB).
const MIN_DEVICE_BYTES: u64 = 68 << 10;
/// Transaction entries that the format can number.
const MAX_SLOTS: u32 = 65_534;

/// Which of the three layouts, and where: DRBD's "meta-disk index".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetaIndex {
    /// At the end of the data device.
    Internal,
    /// A device of its own.
    FlexExternal,
    /// Slot `n` of 128 MiB on a device that several volumes share.
    Indexed(u8),
}

impl fmt::Display for MetaIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Internal => f.write_str("internal"),
            Self::FlexExternal => f.write_str("flex-external"),
            Self::Indexed(slot) => write!(f, "index {slot}"),
        }
    }
}

/// Sizes of the devices below a volume, in bytes. With internal meta-data both are the same device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct DeviceSizes {
    /// The device that carries the data.
    pub data_bytes: u64,
    /// The device that carries the meta-data.
    pub meta_bytes: u64,
}

impl DeviceSizes {
    /// One device for both.
    pub fn internal(bytes: u64) -> Self {
        Self {
            data_bytes: bytes,
            meta_bytes: bytes,
        }
    }
}

/// Size and striping of the activity log, within the limits of the format (8..=4194304 blocks).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LogGeometry {
    stripes: u32,
    stripe_blocks: u32,
}

impl Default for LogGeometry {
    fn default() -> Self {
        Self {
            stripes: 1,
            stripe_blocks: 8,
        }
    }
}

impl LogGeometry {
    /// Fewest blocks of a log (32 KiB).
    pub const MIN_BLOCKS: u32 = 8;
    /// Most blocks of a log (16 GiB).
    pub const MAX_BLOCKS: u32 = 4_194_304;
    /// Most blocks that `drbdmeta` accepts (32 MiB).
    pub const MAX_BLOCKS_OFFLINE: u32 = 8192;

    /// `stripes` stripes of `stripe_blocks` 4 KiB blocks each. Both zero is what old meta-data say and means 1 x 8.
    pub fn new(stripes: u32, stripe_blocks: u32) -> Result<Self, LayoutError> {
        if stripes == 0 && stripe_blocks == 0 {
            return Ok(Self::default());
        }
        match stripes.checked_mul(stripe_blocks) {
            Some(Self::MIN_BLOCKS..=Self::MAX_BLOCKS) => Ok(Self {
                stripes,
                stripe_blocks,
            }),
            _ => Err(LayoutError::LogSize {
                stripes,
                stripe_blocks,
            }),
        }
    }

    /// Number of stripes.
    pub fn stripes(self) -> u32 {
        self.stripes
    }

    /// 4 KiB blocks of one stripe.
    pub fn stripe_blocks(self) -> u32 {
        self.stripe_blocks
    }

    /// Blocks, that is transactions, in the ring.
    pub fn blocks(self) -> u32 {
        self.stripes * self.stripe_blocks
    }

    /// Block of the ring in which a transaction lies.
    pub fn block_of_transaction(self, number: u32) -> u32 {
        let place = number % self.blocks();
        (place % self.stripes) * self.stripe_blocks + place / self.stripes
    }

    /// Most slots for which the ring always holds the full context although one block may be torn: the upper limit
    /// of `al-extents`.
    pub fn max_slots(self) -> u16 {
        let whole = u32::from(super::activity_log::CONTEXT_ENTRIES);
        ((self.blocks() - 1).saturating_mul(whole)).min(MAX_SLOTS) as u16
    }

    fn sectors(self) -> u64 {
        u64::from(self.blocks()) * BLOCK_SECTORS
    }
}

/// What a superblock says about its surroundings, in sectors; the offsets count from the superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct StoredLayout {
    /// `md_size_sect`: size of the whole meta-data.
    pub meta_sectors: u32,
    /// `al_offset`.
    pub al_offset: i32,
    /// `bm_offset`.
    pub bm_offset: i32,
    /// Size and striping of the activity log.
    pub log: LogGeometry,
}

/// Where the parts of one volume's meta-data lie. All offsets are multiples of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct MetadataLayout {
    index: MetaIndex,
    superblock_byte: u64,
    stored: StoredLayout,
    bitmap_bytes: u64,
    usable_sectors: u64,
}

impl MetadataLayout {
    /// The layout that new meta-data on these devices get.
    pub fn compute(index: MetaIndex, sizes: DeviceSizes, log: LogGeometry) -> Result<Self, LayoutError> {
        superblock_byte(index, sizes.meta_bytes)?;
        let meta_device_sectors = sizes.meta_bytes / SECTOR_BYTES;
        let stored = match index {
            MetaIndex::Internal => {
                let bitmap = BLOCK_SECTORS * meta_device_sectors.div_ceil(DATA_SECTORS_OF_PAGE);
                let behind_data = bitmap + log.sectors();
                StoredLayout {
                    meta_sectors: (behind_data + SUPERBLOCK_SECTORS) as u32,
                    al_offset: -(log.sectors() as i32),
                    bm_offset: -(behind_data as i32),
                    log,
                }
            }
            MetaIndex::FlexExternal => external(meta_device_sectors.min(u64::from(u32::MAX)), log),
            MetaIndex::Indexed(_) if log != LogGeometry::default() => return Err(LayoutError::IndexedLog),
            MetaIndex::Indexed(_) => external(SLOT_SECTORS, log),
        };
        Self::from_stored(index, sizes, stored)
    }

    /// The layout that a superblock describes, if it can be true on these devices: internal and indexed meta-data have
    /// just one; flex-external ones may have been made when their device was smaller.
    pub fn from_stored(
        index: MetaIndex,
        sizes: DeviceSizes,
        stored: StoredLayout,
    ) -> Result<Self, LayoutError> {
        let superblock_byte = superblock_byte(index, sizes.meta_bytes)?;
        let bitmap_sectors = match index {
            MetaIndex::Internal => i64::from(stored.al_offset) - i64::from(stored.bm_offset),
            _ => i64::from(stored.meta_sectors) - i64::from(stored.bm_offset),
        };
        let too_small = LayoutError::TooSmall {
            index,
            bytes: sizes.meta_bytes,
        };
        let bitmap_pages = u64::try_from(bitmap_sectors).map_err(|_| too_small.clone())? / BLOCK_SECTORS;
        let room = bitmap_pages
            .saturating_mul(DATA_SECTORS_OF_PAGE)
            .min(MAX_DATA_SECTORS);
        let usable_sectors = match index {
            MetaIndex::Internal => {
                let behind_data = u64::from(stored.bm_offset.unsigned_abs());
                let end = (superblock_byte / SECTOR_BYTES)
                    .checked_sub(behind_data)
                    .ok_or(too_small)?;
                room.min(end)
            }
            _ => room.min(sizes.data_bytes / SECTOR_BYTES),
        };
        Ok(Self {
            index,
            superblock_byte,
            stored,
            bitmap_bytes: bitmap_pages * BLOCK_BYTES,
            usable_sectors,
        })
    }

    /// Checks what a superblock says about its surroundings against the devices at hand.
    pub fn verify(index: MetaIndex, sizes: DeviceSizes, stored: StoredLayout) -> Result<Self, LayoutError> {
        let mut expected = Self::compute(index, sizes, stored.log)?.stored;
        if index == MetaIndex::FlexExternal && stored.meta_sectors < expected.meta_sectors {
            expected.meta_sectors = stored.meta_sectors;
        }
        let differs = |field, found: i64, expected: i64| {
            if found == expected {
                Ok(())
            } else {
                Err(LayoutError::Mismatch {
                    field,
                    found,
                    expected,
                    sizes,
                })
            }
        };
        differs("al_offset", stored.al_offset.into(), expected.al_offset.into())?;
        differs("bm_offset", stored.bm_offset.into(), expected.bm_offset.into())?;
        differs(
            "md_size_sect",
            stored.meta_sectors.into(),
            expected.meta_sectors.into(),
        )?;
        Self::from_stored(index, sizes, stored)
    }

    /// Which layout.
    pub fn index(&self) -> MetaIndex {
        self.index
    }

    /// Offset of the superblock on the meta-data device.
    pub fn superblock_byte(&self) -> u64 {
        self.superblock_byte
    }

    /// What the superblock says about this layout.
    pub fn stored(&self) -> StoredLayout {
        self.stored
    }

    /// Size and striping of the activity log.
    pub fn log(&self) -> LogGeometry {
        self.stored.log
    }

    /// Offset of the activity log's first block on the meta-data device.
    pub fn log_byte(&self) -> u64 {
        self.behind_superblock(self.stored.al_offset)
    }

    /// Offset of the block in which a transaction of the activity log lies.
    pub fn transaction_byte(&self, number: u32) -> u64 {
        self.log_byte() + u64::from(self.log().block_of_transaction(number)) * BLOCK_BYTES
    }

    /// Offset of the bitmap on the meta-data device.
    pub fn bitmap_byte(&self) -> u64 {
        self.behind_superblock(self.stored.bm_offset)
    }

    /// Room for the bitmap in bytes: whole 4 KiB pages.
    pub fn bitmap_bytes(&self) -> u64 {
        self.bitmap_bytes
    }

    /// Offset of a 4 KiB page of the bitmap on the meta-data device.
    pub fn bitmap_page_byte(&self, page: u64) -> u64 {
        self.bitmap_byte() + page * BLOCK_BYTES
    }

    /// Data sectors that a volume with these meta-data can have at most.
    pub fn usable_sectors(&self) -> u64 {
        self.usable_sectors
    }

    /// Size of the whole meta-data (`md_size_sect`), in bytes.
    pub fn meta_bytes(&self) -> u64 {
        u64::from(self.stored.meta_sectors) * SECTOR_BYTES
    }

    /// Offset of the first byte of the meta-data on their device.
    pub fn first_meta_byte(&self) -> u64 {
        match self.index {
            MetaIndex::Internal => self.bitmap_byte(),
            _ => self.superblock_byte,
        }
    }

    /// Whether the meta-data device is large enough for use (1 MiB; for indexed ones the whole slot).
    pub fn check_minimum(index: MetaIndex, meta_bytes: u64) -> Result<(), LayoutError> {
        let least = match index {
            MetaIndex::Indexed(slot) => SLOT_SECTORS * (u64::from(slot) + 1),
            _ => MIN_META_SECTORS,
        } * SECTOR_BYTES;
        if meta_bytes < least {
            return Err(LayoutError::BelowMinimum {
                index,
                bytes: meta_bytes,
                least,
            });
        }
        Ok(())
    }

    fn behind_superblock(&self, sectors: i32) -> u64 {
        self.superblock_byte
            .wrapping_add_signed(i64::from(sectors) * SECTOR_BYTES as i64)
    }
}

/// Offset of the superblock on a meta-data device of `meta_bytes`; what has to be known before anything is read.
pub fn superblock_byte(index: MetaIndex, meta_bytes: u64) -> Result<u64, LayoutError> {
    let too_small = || LayoutError::TooSmall {
        index,
        bytes: meta_bytes,
    };
    if meta_bytes < MIN_DEVICE_BYTES {
        return Err(too_small());
    }
    if meta_bytes / SECTOR_BYTES > MAX_DATA_SECTORS {
        return Err(LayoutError::TooLarge { bytes: meta_bytes });
    }
    match index {
        MetaIndex::Internal => Ok(meta_bytes / BLOCK_BYTES * BLOCK_BYTES - META_BLOCK_BYTES as u64),
        MetaIndex::FlexExternal => Ok(0),
        MetaIndex::Indexed(slot) => {
            let start = SLOT_SECTORS * u64::from(slot);
            let end = (start + SLOT_SECTORS) * SECTOR_BYTES;
            if end > meta_bytes {
                Err(too_small())
            } else {
                Ok(start * SECTOR_BYTES)
            }
        }
    }
}

fn external(meta_sectors: u64, log: LogGeometry) -> StoredLayout {
    StoredLayout {
        meta_sectors: meta_sectors as u32,
        al_offset: SUPERBLOCK_SECTORS as i32,
        bm_offset: (SUPERBLOCK_SECTORS + log.sectors()) as i32,
        log,
    }
}

/// Why no meta-data can lie where they should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The device has no room.
    #[error(
        "{index} meta-data do not fit on a device of {bytes} bytes: use a larger device or a smaller activity log"
    )]
    TooSmall {
        /// Layout asked for.
        index: MetaIndex,
        /// Size of the meta-data device.
        bytes: u64,
    },
    /// The device is below the minimum for use.
    #[error("{index} meta-data need a device of at least {least} bytes, this one has {bytes}")]
    BelowMinimum {
        /// Layout asked for.
        index: MetaIndex,
        /// Size of the meta-data device.
        bytes: u64,
        /// Size that it should have.
        least: u64,
    },
    /// The format ends at 1 PiB.
    #[error("a device of {bytes} bytes is too large: the format v08 ends at 1 PiB")]
    TooLarge {
        /// Size of the device.
        bytes: u64,
    },
    /// Impossible striping of the activity log.
    #[error(
        "an activity log of {stripes} stripe(s) of {stripe_blocks} blocks is impossible: the product must be 8 to 4194304"
    )]
    LogSize {
        /// `al_stripes`.
        stripes: u32,
        /// `al_stripe_size_4k`.
        stripe_blocks: u32,
    },
    /// Indexed meta-data have a fixed log.
    #[error(
        "indexed meta-data have an activity log of 1 stripe of 32 KiB: use flex-external meta-data for another"
    )]
    IndexedLog,
    /// A stored number contradicts the device.
    #[error(
        "{field} is {found}, but {expected} is right for devices of {} (data) and {} (meta-data) bytes: was a device \
         resized or exchanged?", sizes.data_bytes, sizes.meta_bytes
    )]
    Mismatch {
        /// Field of the superblock.
        field: &'static str,
        /// Its value.
        found: i64,
        /// The value that belongs to these devices.
        expected: i64,
        /// The devices.
        sizes: DeviceSizes,
    },
}

const _: () = assert!(size_of::<MetaBlock>() as u64 == BLOCK_BYTES);
