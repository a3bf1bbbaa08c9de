//! The anchor: 32 bytes in the superblock's padding that name the health file of the disk.
//!
//! | offset in the superblock | bytes | field |
//! |---|---|---|
//! | 480 | 8 | magic `MENDBLK1` |
//! | 488 | 8 | identifier of the health file |
//! | 496 | 8 | its sequence number |
//! | 504 | 4 | number of its records |
//! | 508 | 4 | CRC-32C of the 28 bytes before |
//!
//! It lies in the same 512-byte sector as the flags, so it is never torn against them. Kernel DRBD and `drbdmeta`
//! write zeros over it, so its absence says that one of them wrote the superblock last.
use super::checksum::crc32c;
use serde::Serialize;
use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const MAGIC: [u8; 8] = *b"MENDBLK1";

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawAnchor {
    magic: [u8; 8],
    health_id: U64,
    sequence: U64,
    record_count: U32,
    crc32c: U32,
}

/// Names a version of a health file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Anchor {
    /// Identifier of the health file.
    pub health_id: u64,
    /// Sequence number of the version that was durable when the superblock was composed.
    pub sequence: u64,
    /// Number of records in that version.
    pub record_count: u32,
}

impl Anchor {
    /// Bytes of an anchor.
    pub const BYTES: usize = 32;
}

/// What stands in the anchor's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredAnchor {
    /// No anchor: none was ever written, or DRBD wrote the superblock last.
    Absent,
    /// The magic of an anchor with a wrong checksum; kept as it is, because it says that there was an anchor.
    Damaged([u8; Anchor::BYTES]),
    /// An anchor.
    Present(Anchor),
}

impl StoredAnchor {
    /// Reads the anchor's place. Anything without its magic is padding, which is ignored.
    pub fn parse(bytes: &[u8; Anchor::BYTES]) -> Self {
        let raw: RawAnchor = zerocopy::transmute!(*bytes);
        if raw.magic != MAGIC {
            return Self::Absent;
        }
        if raw.crc32c.get() != checksum(bytes) {
            return Self::Damaged(*bytes);
        }
        Self::Present(Anchor {
            health_id: raw.health_id.get(),
            sequence: raw.sequence.get(),
            record_count: raw.record_count.get(),
        })
    }

    /// The anchor's place: zeros if absent.
    pub fn encode(&self) -> [u8; Anchor::BYTES] {
        let anchor = match self {
            Self::Absent => return [0; Anchor::BYTES],
            Self::Damaged(bytes) => return *bytes,
            Self::Present(anchor) => anchor,
        };
        let mut raw = RawAnchor {
            magic: MAGIC,
            health_id: anchor.health_id.into(),
            sequence: anchor.sequence.into(),
            record_count: anchor.record_count.into(),
            crc32c: U32::ZERO,
        };
        raw.crc32c = checksum(&zerocopy::transmute!(raw)).into();
        zerocopy::transmute!(raw)
    }
}

fn checksum(bytes: &[u8; Anchor::BYTES]) -> u32 {
    crc32c(&bytes[..Anchor::BYTES - size_of::<U32>()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let anchor = Anchor {
            health_id: 0x0102_0304_0506_0708,
            sequence: 9,
            record_count: 3,
        };
        let bytes = StoredAnchor::Present(anchor).encode();
        assert_eq!(
            &bytes[..28],
            b"MENDBLK1\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0\0\0\0\x09\0\0\0\x03"
        );
        assert_eq!(StoredAnchor::parse(&bytes), StoredAnchor::Present(anchor));
        assert_eq!(StoredAnchor::parse(&[0; 32]), StoredAnchor::Absent);
    }

    proptest! {
        #[test]
        fn every_damaged_byte_is_seen(health_id: u64, sequence: u64, record_count: u32, at in 0..32usize, with in 1..=255u8) {
            let stored = StoredAnchor::Present(Anchor { health_id, sequence, record_count });
            let mut bytes = stored.encode();
            prop_assert_eq!(StoredAnchor::parse(&bytes), stored);
            bytes[at] ^= with;
            let expected = if at < 8 { StoredAnchor::Absent } else { StoredAnchor::Damaged(bytes) };
            prop_assert_eq!(StoredAnchor::parse(&bytes), expected);
            if at >= 8 {
                prop_assert_eq!(expected.encode(), bytes);
            }
        }
    }
}
