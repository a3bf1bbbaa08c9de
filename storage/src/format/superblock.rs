//! The superblock: 4 KiB that say what a disk holds.
//!
//! | offset | bytes | field | here |
//! |---|---|---|---|
//! | 0 | 8 | `la_size_sect` | [`Superblock::effective_sectors`] |
//! | 8 | 32 | `uuid[0..4]` | [`GenerationIds`] |
//! | 40 | 8 | `device_uuid` | [`Superblock::device_id`] |
//! | 48 | 8 | reserved | zero |
//! | 56 | 4 | `flags` | [`Flags`] |
//! | 60 | 4 | `magic` | [`LogState`] |
//! | 64, 68, 76 | 4 each | `md_size_sect`, `al_offset`, `bm_offset` | [`StoredLayout`] |
//! | 72 | 4 | `al_nr_extents` | [`Superblock::log_slots`] |
//! | 80 | 4 | `bm_bytes_per_bit` | always 4096 |
//! | 84 | 4 | `la_peer_max_bio_size` | [`Superblock::peer_max_bio_bytes`] |
//! | 88, 92 | 4 each | `al_stripes`, `al_stripe_size_4k` | [`LogGeometry`] |
//! | 480 | 32 | (padding in DRBD) | [`Anchor`] |
//!
//! There is no checksum: the block must be written as one aligned 4 KiB write.
use super::anchor::{Anchor, StoredAnchor};
use super::layout::{DeviceSizes, LayoutError, LogGeometry, MetaIndex, MetadataLayout, StoredLayout};
use super::{META_BLOCK_BYTES, MetaBlock};
use crate::units::BLOCK_BYTES;
use serde::Serialize;
use std::fmt;
use zerocopy::big_endian::{I32, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC_07: u32 = 0x8374_026A;
const MAGIC_08: u32 = 0x8374_026B;
const MAGIC_84_UNCLEAN: u32 = 0x8374_026C;
const MAGIC_09: u32 = 0x8374_026D;

/// The current generation of meta-data that have never held data.
pub const JUST_CREATED: u64 = 4;
/// `al_nr_extents` of new meta-data; it means nothing until a node writes its own number.
const CREATED_LOG_SLOTS: u32 = 257;

/// The block as it lies on disk.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    la_size_sect: U64,
    uuid: [U64; 4],
    device_uuid: U64,
    reserved: U64,
    flags: U32,
    magic: U32,
    md_size_sect: U32,
    al_offset: I32,
    al_nr_extents: U32,
    bm_offset: I32,
    bm_bytes_per_bit: U32,
    la_peer_max_bio_size: U32,
    al_stripes: U32,
    al_stripe_size_4k: U32,
    padding: [u8; 384],
    anchor: [u8; Anchor::BYTES],
    padding_behind: [u8; 3584],
}

/// The `MDF_*` flags. Unknown bits are kept.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// The data are consistent (local disk state better than Inconsistent).
    pub const CONSISTENT: Self = Self(0x001);
    /// This node was Primary, or the only disk that a Primary wrote to.
    pub const PRIMARY_IND: Self = Self(0x002);
    /// The node was connected.
    pub const CONNECTED_IND: Self = Self(0x004);
    /// The whole bitmap counts as set, whatever it says.
    pub const FULL_SYNC: Self = Self(0x008);
    /// The local disk state was better than Outdated.
    pub const WAS_UP_TO_DATE: Self = Self(0x010);
    /// The peer's disk is Inconsistent or Outdated.
    pub const PEER_OUT_DATED: Self = Self(0x020);
    /// The node went down as Primary and has not resynced since.
    pub const CRASHED_PRIMARY: Self = Self(0x040);
    /// The activity log holds nothing to replay (with [`LogState::Clean`]).
    pub const AL_CLEAN: Self = Self(0x080);
    /// The node ran without an activity log.
    pub const AL_DISABLED: Self = Self(0x100);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::CONSISTENT, "CONSISTENT"),
        (Self::PRIMARY_IND, "PRIMARY_IND"),
        (Self::CONNECTED_IND, "CONNECTED_IND"),
        (Self::FULL_SYNC, "FULL_SYNC"),
        (Self::WAS_UP_TO_DATE, "WAS_UP_TO_DATE"),
        (Self::PEER_OUT_DATED, "PEER_OUT_DATED"),
        (Self::CRASHED_PRIMARY, "CRASHED_PRIMARY"),
        (Self::AL_CLEAN, "AL_CLEAN"),
        (Self::AL_DISABLED, "AL_DISABLED"),
    ];

    /// No flag.
    pub const fn none() -> Self {
        Self(0)
    }

    /// From the word on disk.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The word on disk.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the flags of `other` too.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without the flags of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Sets or clears the flags of `other`.
    pub const fn set(&mut self, other: Self, value: bool) {
        *self = if value {
            self.with(other)
        } else {
            self.without(other)
        };
    }

    /// Names of the known flags that are set, lowest bit first.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(flag, _)| self.contains(*flag))
            .map(|(_, name)| name)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)?;
        f.debug_list().entries(self.names()).finish()
    }
}

impl Serialize for Flags {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

/// The identifiers of data generations. Bit 0 of `current` is the "was Primary" mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GenerationIds {
    /// Generation of the data on this disk; [`JUST_CREATED`] when there is none yet.
    pub current: u64,
    /// Generation that the bitmap counts from; 0 = none.
    pub bitmap: u64,
    /// Older generations, the younger first.
    pub history: [u64; 2],
}

impl GenerationIds {
    /// In the order of the disk: current, bitmap, younger and older history.
    pub fn slots(&self) -> [u64; 4] {
        [self.current, self.bitmap, self.history[0], self.history[1]]
    }

    /// From the order of the disk.
    pub fn from_slots([current, bitmap, younger, older]: [u64; 4]) -> Self {
        Self {
            current,
            bitmap,
            history: [younger, older],
        }
    }
}

impl Serialize for GenerationIds {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.slots().map(|id| format!("{id:016X}")))
    }
}

/// What the magic says about the activity log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogState {
    /// Magic 08: clean if [`Flags::AL_CLEAN`] is set too.
    Clean,
    /// Magic 84-unclean, as a running node writes it: the log must be applied before the next attach.
    Unclean,
}

/// A superblock of format v08.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Superblock {
    /// Last agreed size of the volume in sectors; 0 = never agreed.
    pub effective_sectors: u64,
    /// Generations of the data.
    pub generations: GenerationIds,
    /// Identity of the meta-data; 0 until the first attach sets it.
    pub device_id: u64,
    /// Flags.
    pub flags: Flags,
    /// Which magic the block carries.
    pub log_state: LogState,
    /// Where the other parts lie.
    pub layout: StoredLayout,
    /// Slots of the activity log in use by the node that wrote the block.
    pub log_slots: u32,
    /// Largest bio that the peer last announced, in bytes; 0 = unknown.
    pub peer_max_bio_bytes: u32,
    /// Pointer to the health file.
    pub anchor: StoredAnchor,
}

impl Superblock {
    /// The superblock of new meta-data.
    pub fn create(layout: &MetadataLayout) -> Self {
        Self {
            effective_sectors: 0,
            generations: GenerationIds {
                current: JUST_CREATED,
                ..GenerationIds::default()
            },
            device_id: 0,
            flags: Flags::AL_CLEAN,
            log_state: LogState::Clean,
            layout: layout.stored(),
            log_slots: CREATED_LOG_SLOTS,
            peer_max_bio_bytes: 0,
            anchor: StoredAnchor::Absent,
        }
    }

    /// Whether the activity log needs no replay before an attach.
    pub fn log_is_clean(&self) -> bool {
        self.log_state == LogState::Clean && self.flags.contains(Flags::AL_CLEAN)
    }

    /// Checks the agreed size against the room and returns the size that can be used; a disk whose data are not
    /// consistent may be cut.
    pub fn check_size(&self, layout: &MetadataLayout) -> Result<u64, SuperblockError> {
        let usable = layout.usable_sectors();
        if self.effective_sectors > usable && self.flags.contains(Flags::CONSISTENT) {
            return Err(SuperblockError::Truncated {
                effective: self.effective_sectors,
                usable,
            });
        }
        Ok(self.effective_sectors.min(usable))
    }

    /// The block for the disk. Writes exactly what the fields say.
    pub fn encode(&self) -> MetaBlock {
        let raw = RawSuperblock {
            la_size_sect: self.effective_sectors.into(),
            uuid: self.generations.slots().map(U64::from),
            device_uuid: self.device_id.into(),
            reserved: U64::ZERO,
            flags: self.flags.bits().into(),
            magic: match self.log_state {
                LogState::Clean => MAGIC_08,
                LogState::Unclean => MAGIC_84_UNCLEAN,
            }
            .into(),
            md_size_sect: self.layout.meta_sectors.into(),
            al_offset: self.layout.al_offset.into(),
            al_nr_extents: self.log_slots.into(),
            bm_offset: self.layout.bm_offset.into(),
            bm_bytes_per_bit: (BLOCK_BYTES as u32).into(),
            la_peer_max_bio_size: self.peer_max_bio_bytes.into(),
            al_stripes: self.layout.log.stripes().into(),
            al_stripe_size_4k: self.layout.log.stripe_blocks().into(),
            padding: [0; 384],
            anchor: self.anchor.encode(),
            padding_behind: [0; 3584],
        };
        zerocopy::transmute!(raw)
    }
}

/// A block that was read as a superblock and of which nothing is known yet.
#[derive(Clone)]
pub struct UnverifiedSuperblock {
    raw: RawSuperblock,
}

/// A superblock that fits the devices, and where it says that the other parts lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The superblock.
    pub superblock: Superblock,
    /// The layout.
    pub layout: MetadataLayout,
}

impl UnverifiedSuperblock {
    /// Takes a block of 4096 bytes from the place that [`super::layout::superblock_byte`] names.
    pub fn parse(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let raw = RawSuperblock::read_from_bytes(bytes).map_err(|_| SuperblockError::Length(bytes.len()))?;
        Ok(Self { raw })
    }

    /// Whether the block carries a magic of any DRBD meta-data, of a version that can be read or not.
    pub fn claims_to_be_metadata(&self) -> bool {
        matches!(
            self.raw.magic.get(),
            MAGIC_07 | MAGIC_08 | MAGIC_84_UNCLEAN | MAGIC_09
        )
    }

    /// All checks that an attach makes before it trusts the block; an activity log that must be applied first is no
    /// error here (see [`Superblock::log_is_clean`]).
    pub fn verify(self, index: MetaIndex, sizes: DeviceSizes) -> Result<Verified, SuperblockError> {
        let verified = self.verify_structure(index, sizes)?;
        verified.superblock.check_size(&verified.layout)?;
        Ok(verified)
    }

    /// As [`Self::verify`], but accepts an agreed size for which the devices have no room: for tools that show what is
    /// there.
    pub fn verify_structure(self, index: MetaIndex, sizes: DeviceSizes) -> Result<Verified, SuperblockError> {
        let raw = &self.raw;
        let log_state = match raw.magic.get() {
            MAGIC_08 => LogState::Clean,
            MAGIC_84_UNCLEAN => LogState::Unclean,
            MAGIC_07 => return Err(SuperblockError::OtherVersion("0.7")),
            MAGIC_09 => return Err(SuperblockError::OtherVersion("v09 (DRBD 9)")),
            found => {
                let byte = super::layout::superblock_byte(index, sizes.meta_bytes)?;
                return Err(SuperblockError::NotFound {
                    index,
                    byte,
                    bytes: sizes.meta_bytes,
                    found,
                });
            }
        };
        if u64::from(raw.bm_bytes_per_bit.get()) != BLOCK_BYTES {
            return Err(SuperblockError::BytesPerBit(raw.bm_bytes_per_bit.get()));
        }
        let stored = StoredLayout {
            meta_sectors: raw.md_size_sect.get(),
            al_offset: raw.al_offset.get(),
            bm_offset: raw.bm_offset.get(),
            log: LogGeometry::new(raw.al_stripes.get(), raw.al_stripe_size_4k.get())?,
        };
        let layout = MetadataLayout::verify(index, sizes, stored)?;
        let superblock = Superblock {
            effective_sectors: raw.la_size_sect.get(),
            generations: GenerationIds::from_slots(raw.uuid.map(U64::get)),
            device_id: raw.device_uuid.get(),
            flags: Flags::from_bits(raw.flags.get()),
            log_state,
            layout: stored,
            log_slots: raw.al_nr_extents.get(),
            peer_max_bio_bytes: raw.la_peer_max_bio_size.get(),
            anchor: StoredAnchor::parse(&raw.anchor),
        };
        Ok(Verified { superblock, layout })
    }
}

impl fmt::Debug for UnverifiedSuperblock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnverifiedSuperblock(magic {:#010x})", self.raw.magic.get())
    }
}

/// Why a block is no superblock to trust. Nothing may be written then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// Not one block.
    #[error("a superblock has {META_BLOCK_BYTES} bytes, not {0}")]
    Length(usize),
    /// No magic.
    #[error(
        "no valid meta-data found: no magic ({found:#010x}) at byte {byte} of a device of {bytes} bytes ({index}): was the \
         device resized, or were meta-data never created there?"
    )]
    NotFound {
        /// Layout asked for.
        index: MetaIndex,
        /// Where the superblock should be.
        byte: u64,
        /// Size of the meta-data device.
        bytes: u64,
        /// What is there instead of a magic.
        found: u32,
    },
    /// Meta-data of another version of DRBD.
    #[error("meta-data of format {0} found: only v08 can be used; convert them with drbdmeta first")]
    OtherVersion(&'static str),
    /// Another granularity of the bitmap.
    #[error("no valid meta-data found: bm_bytes_per_bit is {0}, only 4096 can be used")]
    BytesPerBit(u32),
    /// The stored layout is impossible.
    #[error("no valid meta-data found: {0}")]
    Layout(#[from] LayoutError),
    /// The volume would be cut.
    #[error(
        "the device has room for {usable} sectors, but consistent data of {effective} sectors lie on it: refusing to \
         truncate them; restore the device's former size"
    )]
    Truncated {
        /// `la_size_sect`.
        effective: u64,
        /// Room.
        usable: u64,
    },
}
