//! The bytes of a slot: a 4 KiB header and 4096 records (table in `storage/HEALTH.md`).

use super::header::Health;
use super::layout::{CRC_OFFSET, Header};
use super::limits::MAX_RECORDS;
use super::record::{self, RECORD_BYTES, RecordError};
use super::set::{RecordSet, SetError};
use zerocopy::byteorder::big_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes that one checksum covers.
const CHECKED_BYTES: usize = 4096;
const HEADER_BYTES: usize = CHECKED_BYTES;
/// Checked blocks that hold the records.
pub(super) const RECORD_BLOCKS: usize = MAX_RECORDS * RECORD_BYTES / CHECKED_BYTES;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = HEADER_BYTES + RECORD_BLOCKS * CHECKED_BYTES;
/// Bytes of a health file: two slots.
pub const FILE_BYTES: usize = 2 * SLOT_BYTES;
/// Version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

pub(super) const MAGIC: [u8; 8] = *b"MENDHLTH";

/// One of the two slots of a health file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    /// At byte 0.
    First,
    /// At byte [`SLOT_BYTES`].
    Second,
}

impl Slot {
    /// The slot to write when this one holds the newest content.
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Where the slot begins in the file.
    pub fn offset(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Second => SLOT_BYTES as u64,
        }
    }
}

/// Why a slot holds no content.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SlotError {
    /// Never written.
    #[error("empty")]
    Empty,
    /// Shorter or longer than a slot.
    #[error("{0} bytes instead of {SLOT_BYTES}")]
    Length(usize),
    /// No health file.
    #[error("no health file (wrong magic)")]
    Magic,
    /// Written by another version of the program.
    #[error("format version {0}, this program knows {FORMAT_VERSION}; use the program that wrote it")]
    Version(u32),
    /// A checksum does not match: the write was torn, or the bytes changed afterwards.
    #[error("checksum of bytes {0} to {end} does not match", end = .0 + CHECKED_BYTES - 1)]
    Checksum(usize),
    /// A header field has an impossible value.
    #[error("header field {0} is not valid")]
    Field(&'static str),
    /// A record is not valid.
    #[error("record {index}: {error}")]
    Record {
        /// Index of the record.
        index: usize,
        /// What is wrong.
        error: RecordError,
    },
    /// The records are no list.
    #[error(transparent)]
    Set(#[from] SetError),
}

/// No slot of a health file can be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no valid slot in the health file: first slot: {first}; second slot: {second}")]
pub struct NoValidSlot {
    /// About the first slot.
    pub first: SlotError,
    /// About the second slot.
    pub second: SlotError,
}

/// The newest content of a health file and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The content.
    pub health: Health,
    /// Its slot; the next write goes to the other one.
    pub slot: Slot,
}

impl Health {
    /// The bytes of a slot. A volume name longer than [`super::VOLUME_NAME_MAX`] bytes is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SLOT_BYTES];
        let (head, body) = bytes.split_at_mut(HEADER_BYTES);
        for (room, entry) in body.chunks_exact_mut(RECORD_BYTES).zip(self.records.records()) {
            room.copy_from_slice(&record::encode(entry));
        }
        let mut header = Header::of(self);
        for (crc, block) in header
            .record_crcs
            .iter_mut()
            .zip(body.chunks_exact(CHECKED_BYTES))
        {
            *crc = U32::new(crc32c(block));
        }
        head[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        let crc = crc32c(head);
        head[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads one slot.
    pub fn parse(bytes: &[u8]) -> Result<Self, SlotError> {
        if bytes.len() != SLOT_BYTES {
            return Err(SlotError::Length(bytes.len()));
        }
        let (head, body) = bytes.split_at(HEADER_BYTES);
        if head.iter().all(|byte| *byte == 0) {
            return Err(SlotError::Empty);
        }
        let (header, _) = Header::read_from_prefix(head).map_err(|_| SlotError::Length(bytes.len()))?;
        if header.magic != MAGIC {
            return Err(SlotError::Magic);
        }
        let mut unsealed = head.to_vec();
        unsealed[CRC_OFFSET..CRC_OFFSET + 4].fill(0);
        if crc32c(&unsealed) != header.crc.get() {
            return Err(SlotError::Checksum(0));
        }
        if header.version.get() != FORMAT_VERSION {
            return Err(SlotError::Version(header.version.get()));
        }
        for (index, (crc, block)) in header
            .record_crcs
            .iter()
            .zip(body.chunks_exact(CHECKED_BYTES))
            .enumerate()
        {
            if crc32c(block) != crc.get() {
                return Err(SlotError::Checksum(HEADER_BYTES + index * CHECKED_BYTES));
            }
        }
        let records = parse_records(body, header.record_count.get())?;
        header.health(records)
    }

    /// The newest valid one of the two slots of a file.
    pub fn newest(first: &[u8], second: &[u8]) -> Result<Loaded, NoValidSlot> {
        let loaded = |health, slot| Ok(Loaded { health, slot });
        match (Self::parse(first), Self::parse(second)) {
            (Ok(first), Ok(second)) if second.sequence > first.sequence => loaded(second, Slot::Second),
            (Ok(first), _) => loaded(first, Slot::First),
            (Err(_), Ok(second)) => loaded(second, Slot::Second),
            (Err(first), Err(second)) => Err(NoValidSlot { first, second }),
        }
    }
}

fn parse_records(body: &[u8], count: u32) -> Result<RecordSet, SlotError> {
    if count as usize > MAX_RECORDS {
        return Err(SlotError::Field("record_count"));
    }
    let (entries, _) = body.as_chunks::<RECORD_BYTES>();
    let entries = entries.iter().take(count as usize).enumerate();
    let records: Result<Vec<_>, _> = entries
        .map(|(index, entry)| record::decode(entry).map_err(|error| SlotError::Record { index, error }))
        .collect();
    Ok(RecordSet::from_records(records?)?)
}

/// CRC-32C in its usual form (iSCSI: initial value and final XOR all ones).
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}
