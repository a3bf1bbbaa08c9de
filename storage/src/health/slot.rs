//! The bytes of a slot: a 4 KiB header and 4096 records (table in `storage/HEALTH.md`).

use super::header::{
    DetachCause, GenerationSlots, HealCounters, Health, LastDetach, LossMark, ScrubProgress, VOLUME_NAME_MAX,
};
use super::limits::MAX_RECORDS;
use super::record::{self, RECORD_BYTES, RecordError};
use super::set::{RecordSet, SetError};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes that one checksum covers.
const CHECKED_BYTES: usize = 4096;
const HEADER_BYTES: usize = CHECKED_BYTES;
const RECORD_BLOCKS: usize = MAX_RECORDS * RECORD_BYTES / CHECKED_BYTES;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = HEADER_BYTES + RECORD_BLOCKS * CHECKED_BYTES;
/// Bytes of a health file: two slots.
pub const FILE_BYTES: usize = 2 * SLOT_BYTES;
/// Version of the format that this code reads and writes.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"MENDHLTH";

const OUTDATED: u32 = 1;
const SOURCE_OPEN: u32 = 2;
const LOSS: u32 = 4;
const DETACHED: u32 = 8;

const CAUSES: [DetachCause; 18] = [
    DetachCause::Admin,
    DetachCause::Read,
    DetachCause::Write,
    DetachCause::Flush,
    DetachCause::Meta,
    DetachCause::Timeout,
    DetachCause::DeviceGone,
    DetachCause::HealFailed,
    DetachCause::HealBudgetHour,
    DetachCause::HealBudgetTotal,
    DetachCause::HealDoesNotHold,
    DetachCause::TooManyBad,
    DetachCause::NoSpace,
    DetachCause::ReadOnly,
    DetachCause::Shrunk,
    DetachCause::Alignment,
    DetachCause::Attach,
    DetachCause::Quarantine,
];

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

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    crc: U32,
    health_id: U64,
    sequence: U64,
    device_id: U64,
    attach_id: U64,
    generation: U64,
    current: U64,
    bitmap: U64,
    history: [U64; 2],
    outdated_since: U64,
    source_open: U64,
    loss_attach_id: U64,
    loss_current: U64,
    detached_at: U64,
    flags: U32,
    detach_cause: u8,
    reserved: [u8; 3],
    heal_total: U32,
    heal_episodes: U32,
    heal_last: U64,
    scrub_cursor: U64,
    scrub_errors: U32,
    record_count: U32,
    scrub_complete: U64,
    volume_length: U16,
    volume: [u8; VOLUME_NAME_MAX],
    reserved_end: [u8; 6],
    record_crcs: [U32; RECORD_BLOCKS],
}

const CRC_OFFSET: usize = 12;
const _: () = assert!(size_of::<Header>() == 472 && SLOT_BYTES == 167_936);

impl Health {
    /// The bytes of a slot. A volume name longer than [`VOLUME_NAME_MAX`] bytes is cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SLOT_BYTES];
        let (head, body) = bytes.split_at_mut(HEADER_BYTES);
        for (room, entry) in body.chunks_exact_mut(RECORD_BYTES).zip(self.records.records()) {
            room.copy_from_slice(&record::encode(entry));
        }
        let mut header = self.header();
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

    fn header(&self) -> Header {
        let marks = [
            (self.outdated_mark.is_some(), OUTDATED),
            (self.source_open_mark.is_some(), SOURCE_OPEN),
            (self.loss_mark.is_some(), LOSS),
            (self.last_detach.is_some(), DETACHED),
        ];
        let flags = marks.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        let name = &self.volume.as_bytes()[..self.volume.floor_char_boundary(VOLUME_NAME_MAX)];
        let mut volume = [0; VOLUME_NAME_MAX];
        volume[..name.len()].copy_from_slice(name);
        let cause = self
            .last_detach
            .map(|detach| record::encode_code(&CAUSES, &detach.cause));
        Header {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            crc: U32::ZERO,
            health_id: U64::new(self.health_id),
            sequence: U64::new(self.sequence),
            device_id: U64::new(self.device_id),
            attach_id: U64::new(self.attach_id),
            generation: U64::new(self.generation),
            current: U64::new(self.ids.current),
            bitmap: U64::new(self.ids.bitmap),
            history: self.ids.history.map(U64::new),
            outdated_since: U64::new(self.outdated_mark.unwrap_or(0)),
            source_open: U64::new(self.source_open_mark.unwrap_or(0)),
            loss_attach_id: U64::new(self.loss_mark.map_or(0, |mark| mark.peer_attach_id)),
            loss_current: U64::new(self.loss_mark.map_or(0, |mark| mark.current)),
            detached_at: U64::new(self.last_detach.map_or(0, |detach| detach.at)),
            flags: U32::new(flags),
            detach_cause: cause.unwrap_or(0),
            reserved: [0; 3],
            heal_total: U32::new(self.heal.total_blocks),
            heal_episodes: U32::new(self.heal.episodes),
            heal_last: U64::new(self.heal.last_episode),
            scrub_cursor: U64::new(self.scrub.cursor),
            scrub_errors: U32::new(self.scrub.errors),
            record_count: U32::new(self.records.records().len() as u32),
            scrub_complete: U64::new(self.scrub.last_complete),
            volume_length: U16::new(name.len() as u16),
            volume,
            reserved_end: [0; 6],
            record_crcs: [U32::ZERO; RECORD_BLOCKS],
        }
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

impl Header {
    fn health(&self, records: RecordSet) -> Result<Health, SlotError> {
        let flag = |flag: u32| self.flags.get() & flag != 0;
        let name = self.volume.get(..usize::from(self.volume_length.get()));
        let volume = name
            .and_then(|name| std::str::from_utf8(name).ok())
            .ok_or(SlotError::Field("volume"))?;
        let last_detach = if flag(DETACHED) {
            let cause = record::decode_code("detach_cause", &CAUSES, self.detach_cause);
            Some(LastDetach {
                cause: cause.map_err(|_| SlotError::Field("detach_cause"))?,
                at: self.detached_at.get(),
            })
        } else {
            None
        };
        Ok(Health {
            health_id: self.health_id.get(),
            sequence: self.sequence.get(),
            volume: volume.to_owned(),
            device_id: self.device_id.get(),
            attach_id: self.attach_id.get(),
            generation: self.generation.get(),
            last_detach,
            ids: GenerationSlots {
                current: self.current.get(),
                bitmap: self.bitmap.get(),
                history: self.history.map(U64::get),
            },
            outdated_mark: flag(OUTDATED).then(|| self.outdated_since.get()),
            source_open_mark: flag(SOURCE_OPEN).then(|| self.source_open.get()),
            loss_mark: flag(LOSS).then(|| LossMark {
                peer_attach_id: self.loss_attach_id.get(),
                current: self.loss_current.get(),
            }),
            heal: HealCounters {
                total_blocks: self.heal_total.get(),
                episodes: self.heal_episodes.get(),
                last_episode: self.heal_last.get(),
            },
            scrub: ScrubProgress {
                cursor: self.scrub_cursor.get(),
                errors: self.scrub_errors.get(),
                last_complete: self.scrub_complete.get(),
            },
            records,
        })
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
