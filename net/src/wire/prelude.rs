//! The fixed 24 bytes in front of every frame. All numbers are little endian.
//!
//! | offset | bytes | field | value |
//! |---|---|---|---|
//! | 0 | 4 | magic | `4D 44 42 4B`, "MDBK" |
//! | 4 | 2 | framing version | 1; the version of this table, not of the messages |
//! | 6 | 2 | kind | number of the message kind ([`crate::wire::kind::Kind`]) |
//! | 8 | 4 | header length | 1..=65536, bytes of the MessagePack header behind the prelude |
//! | 12 | 4 | payload length | 0..=1048576, raw bytes behind the header |
//! | 16 | 4 | payload CRC | CRC-32C (Castagnoli) of the payload, 0 when there is none |
//! | 20 | 4 | header CRC | CRC-32C of the bytes 0..20 of the prelude and the header after it |
//!
//! The lengths are checked before anything is allocated or waited for.

use crc_fast::{CrcAlgorithm, Digest};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::frame::DecodeError;

/// First four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MDBK";
/// Version of the framing; a change of it needs another listener, for no hello can be read across it.
pub const FRAMING_VERSION: u16 = 1;
/// Bytes of the prelude.
pub const PRELUDE_BYTES: usize = 24;
/// Longest header in bytes. Holds the longest lists that [`MAX_RECORDS`], [`MAX_RANGES`] and [`MAX_ACKS`] allow,
/// and bounds what a damaged length can make the receiver wait for.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// Longest payload in bytes: requests are cut at 1 MiB on admission, the largest class of the buffer pool.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
/// Longest frame in bytes.
pub const MAX_FRAME_BYTES: usize = PRELUDE_BYTES + MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES;

/// Most bad-block records in one message (all its lists together); a longer list is cut by the sender.
pub const MAX_RECORDS: usize = 1024;
/// Most block ranges in one message.
pub const MAX_RANGES: usize = 2048;
/// Most request numbers in one batch of acks.
pub const MAX_ACKS: usize = 4096;
/// Longest text for people in a message, in bytes; a longer one is cut by the sender ([`cut_text`]).
pub const MAX_TEXT_BYTES: usize = 2048;
/// Longest name of a volume or node in bytes, as in the configuration (DRBD: a resource name is shorter than 128).
pub const MAX_NAME_BYTES: usize = 127;
/// Most bitmap pages in one message.
pub const MAX_BITMAP_PAGES: u32 = 64;
/// Bytes of a bitmap page.
pub const BITMAP_PAGE_BYTES: usize = 4096;

/// As much of a text for people as a message may carry.
pub fn cut_text(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

/// Bytes of the prelude that the header CRC covers.
const CHECKED_BYTES: usize = 20;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Layout {
    magic: [u8; 4],
    framing: U16,
    kind: U16,
    header_length: U32,
    payload_length: U32,
    payload_crc: U32,
    header_crc: U32,
}

const _: () = assert!(size_of::<Layout>() == PRELUDE_BYTES);

/// A prelude whose magic, framing version and lengths are good. Its CRC is checked with the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prelude {
    /// Number of the message kind.
    pub kind: u16,
    /// Bytes of the header.
    pub header_length: usize,
    /// Bytes of the payload.
    pub payload_length: usize,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
    header_crc: u32,
}

impl Prelude {
    /// Reads a prelude from the start of `bytes`; `None` when there are fewer than 24.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Ok((layout, _)) = Layout::ref_from_prefix(bytes) else {
            return Ok(None);
        };
        if layout.magic != MAGIC {
            return Err(DecodeError::Magic { found: layout.magic });
        }
        if layout.framing.get() != FRAMING_VERSION {
            return Err(DecodeError::Framing {
                found: layout.framing.get(),
            });
        }
        let header_length = layout.header_length.get();
        if header_length == 0 || header_length as usize > MAX_HEADER_BYTES {
            return Err(DecodeError::HeaderLength { found: header_length });
        }
        let payload_length = layout.payload_length.get();
        if payload_length as usize > MAX_PAYLOAD_BYTES {
            return Err(DecodeError::PayloadLength {
                found: payload_length,
            });
        }
        Ok(Some(Self {
            kind: layout.kind.get(),
            header_length: header_length as usize,
            payload_length: payload_length as usize,
            payload_crc: layout.payload_crc.get(),
            header_crc: layout.header_crc.get(),
        }))
    }

    /// Checks the header CRC; `bytes` begins with this prelude and holds the whole header.
    pub(super) fn check_crc(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        let header = &bytes[PRELUDE_BYTES..PRELUDE_BYTES + self.header_length];
        let computed = header_crc(&bytes[..CHECKED_BYTES], header);
        if computed != self.header_crc {
            return Err(DecodeError::HeaderCrc {
                found: self.header_crc,
                computed,
            });
        }
        Ok(())
    }

    /// Writes the prelude of a frame into the first 24 bytes of `frame`, which holds its header behind them. The
    /// caller has checked the lengths.
    pub(super) fn fill(frame: &mut [u8], kind: u16, payload_length: usize, payload_crc: u32) {
        let (prelude, header) = frame.split_at_mut(PRELUDE_BYTES);
        let mut layout = Layout {
            magic: MAGIC,
            framing: U16::new(FRAMING_VERSION),
            kind: U16::new(kind),
            header_length: U32::new(header.len() as u32),
            payload_length: U32::new(payload_length as u32),
            payload_crc: U32::new(payload_crc),
            header_crc: U32::new(0),
        };
        layout.header_crc = U32::new(header_crc(&layout.as_bytes()[..CHECKED_BYTES], header));
        prelude.copy_from_slice(layout.as_bytes());
    }
}

/// CRC-32C of a payload; 0 for an empty one.
pub fn payload_crc(payload: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, payload) as u32
}

fn header_crc(prelude: &[u8], header: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(prelude);
    digest.update(header);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut frame = vec![0; PRELUDE_BYTES];
        frame.extend_from_slice(b"header");
        Prelude::fill(&mut frame, 7, 4096, 0x1234_5678);
        frame
    }

    #[test]
    fn crc_is_castagnoli() {
        assert_eq!(payload_crc(b"123456789"), 0xe306_9283);
        assert_eq!(payload_crc(b""), 0);
    }

    #[test]
    fn fields_lie_where_the_table_says() {
        let frame = sample();
        assert_eq!(&frame[..4], b"MDBK");
        assert_eq!(frame[4..8], [1, 0, 7, 0]);
        assert_eq!(frame[8..16], [6, 0, 0, 0, 0, 16, 0, 0]);
        assert_eq!(frame[16..20], [0x78, 0x56, 0x34, 0x12]);
        let mut covered = frame[..20].to_vec();
        covered.extend_from_slice(b"header");
        assert_eq!(frame[20..24], payload_crc(&covered).to_le_bytes());
    }

    #[test]
    fn lengths_are_checked_before_the_header_is_there() {
        let mut frame = sample();
        frame.truncate(PRELUDE_BYTES);
        assert!(Prelude::parse(&frame[..23]).unwrap().is_none());
        let good = Prelude::parse(&frame).unwrap().unwrap();
        assert_eq!((good.header_length, good.payload_length), (6, 4096));

        let mut long = frame.clone();
        long[8..12].copy_from_slice(&65_537u32.to_le_bytes());
        assert!(matches!(
            Prelude::parse(&long),
            Err(DecodeError::HeaderLength { found: 65_537 })
        ));
        long[8..12].copy_from_slice(&0u32.to_le_bytes());
        assert!(matches!(
            Prelude::parse(&long),
            Err(DecodeError::HeaderLength { found: 0 })
        ));
        frame[12..16].copy_from_slice(&0x10_0001u32.to_le_bytes());
        assert!(matches!(
            Prelude::parse(&frame),
            Err(DecodeError::PayloadLength { found: 0x10_0001 })
        ));
    }
}
