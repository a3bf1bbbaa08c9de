//! The anchor: 32 bytes in the superblock's padding that say whether a health file must exist, and what its absence
//! or age means. Kernel DRBD and `drbdmeta` write zeros there.

use super::header::Health;
use super::slot::crc32c;
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an anchor.
pub const ANCHOR_BYTES: usize = 32;
/// Where the anchor stands in the superblock: the end of its first 512-byte sector.
pub const ANCHOR_OFFSET: usize = 480;

const MAGIC: [u8; 8] = *b"MENDBLK1";

/// What a superblock remembers of its health file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Anchor {
    /// Identifier of the health file.
    pub health_id: u64,
    /// Sequence number of its content when the superblock was written.
    pub sequence: u64,
    /// Number of records on its own bad-block list.
    pub records: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 8],
    health_id: U64,
    sequence: U64,
    records: U32,
    crc: U32,
}

const _: () = assert!(size_of::<Layout>() == ANCHOR_BYTES);

impl Anchor {
    /// The anchor for the content of a health file.
    pub fn of(health: &Health) -> Self {
        Self {
            health_id: health.health_id,
            sequence: health.sequence,
            records: health.records.own_ranges() as u32,
        }
    }

    /// The anchor's bytes.
    pub fn encode(&self) -> [u8; ANCHOR_BYTES] {
        let mut layout = Layout {
            magic: MAGIC,
            health_id: U64::new(self.health_id),
            sequence: U64::new(self.sequence),
            records: U32::new(self.records),
            crc: U32::ZERO,
        };
        layout.crc = U32::new(crc32c(&layout.as_bytes()[..ANCHOR_BYTES - 4]));
        zerocopy::transmute!(layout)
    }

    /// The anchor of its bytes; `None` for zeros and anything else that is no whole anchor.
    pub fn parse(bytes: &[u8; ANCHOR_BYTES]) -> Option<Self> {
        let layout: Layout = zerocopy::transmute!(*bytes);
        let whole = layout.magic == MAGIC && layout.crc.get() == crc32c(&bytes[..ANCHOR_BYTES - 4]);
        whole.then(|| Self {
            health_id: layout.health_id.get(),
            sequence: layout.sequence.get(),
            records: layout.records.get(),
        })
    }
}

/// What a superblock and a health file say together, when a disk is attached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AnchorVerdict {
    /// The disk never had a health file, or had one without a bad block: begin with an empty list.
    Fresh,
    /// The file is as new as the anchor, or newer (the anchor is written lazily): apply it.
    Normal,
    /// A list with this many ranges existed and is gone, or only an older one is there. Every set bit counts as
    /// own-bad; the own disk is Outdated unless connected; whether the peer's copy is good is unknown where this disk
    /// is the newer one. Records of an older file are applied all the same.
    ListLost {
        /// Ranges of the lost list.
        records: u32,
    },
    /// Kernel DRBD or `drbdmeta` wrote the superblock since: apply the file (stale records cost only a read-back), but
    /// whether the peer's copy is good is unknown where this disk is the newer one.
    ForeignWriter,
    /// The file belongs to another disk: archive it, do not apply it, begin with an empty list.
    OtherDisk,
}

/// Judges the anchor of the superblock of disk `device_id` against the volume's health file. A file of another disk is
/// never applied and is to be archived, whatever the verdict.
pub fn judge_anchor(device_id: u64, anchor: Option<&Anchor>, file: Option<&Health>) -> AnchorVerdict {
    let own = file.filter(|file| file.device_id == device_id);
    match (anchor, own) {
        (None, Some(_)) => AnchorVerdict::ForeignWriter,
        (Some(anchor), Some(file))
            if file.health_id == anchor.health_id && file.sequence >= anchor.sequence =>
        {
            AnchorVerdict::Normal
        }
        (Some(anchor), _) if anchor.records > 0 => AnchorVerdict::ListLost {
            records: anchor.records,
        },
        // An older or another file of this disk, and nothing was listed when the superblock was written: its records
        // are at most too many.
        (Some(_), Some(_)) => AnchorVerdict::Normal,
        (_, None) if file.is_some() => AnchorVerdict::OtherDisk,
        (_, None) => AnchorVerdict::Fresh,
    }
}
