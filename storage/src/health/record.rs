//! One entry of the bad-block list and its 40 bytes on disk (table in `storage/HEALTH.md`).

use crate::units::BlockRange;
use serde::{Deserialize, Serialize};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a record on disk.
pub const RECORD_BYTES: usize = 40;

/// Whose copy of the blocks must not be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Whose {
    /// This node's own copy: the entry is on the bad-block list.
    Own,
    /// The copy of the peer with this number (0 to 254): the entry is a suspect record.
    Peer(u8),
}

/// What is known about the blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum BlockState {
    /// Something failed once, or somebody said so.
    Suspect,
    /// A second read, a rewrite or a read-back failed.
    Bad,
    /// No good copy exists anywhere: reads get an error on both nodes.
    Lost,
    /// No longer on the list, which the peer has not confirmed yet. Refuses nothing and needs no bit.
    Tombstone,
}

/// What put the blocks on the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Cause {
    /// A read of the application.
    Read,
    /// A read for the peer's application.
    Served,
    /// A read for a resync.
    Resync,
    /// A read of online verify.
    Verify,
    /// A read of the scrubber.
    Scrub,
    /// A read of the neighbours of a healed block.
    Probe,
    /// The medium returned other bytes than were written.
    Mismatch,
    /// The peer's suspect record about this node.
    PeerSaid,
    /// A write that this copy lacks although the client was told ok (or its answer is still open).
    MissedWrite,
    /// A write that failed and that the client knows to have failed.
    FailedWrite,
}

impl Cause {
    /// Whether a read of the medium failed or returned wrong bytes.
    pub fn is_read(self) -> bool {
        !matches!(self, Self::PeerSaid | Self::MissedWrite | Self::FailedWrite)
    }
}

/// Whether the other node has the current content of the blocks; decided when they are marked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum GoodAt {
    /// The bit was clear and the peer in sync.
    Yes,
    /// The peer lacks a write to the blocks.
    No,
    /// The bit was set for a reason that says nothing about the peer's copy.
    Unknown,
}

/// A run of blocks on the list about which the same is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The blocks.
    pub range: BlockRange,
    /// Whose copy is meant.
    pub whose: Whose,
    /// What is known.
    pub state: BlockState,
    /// What put them on the list.
    pub cause: Cause,
    /// Whether the other node's copy is current.
    pub good_at: GoodAt,
    /// Errors seen; stays at 65535.
    pub errors: u16,
    /// First error, Unix seconds.
    pub first_seen: u32,
    /// Last error, Unix seconds.
    pub last_seen: u32,
    /// Current generation when the blocks were marked.
    pub generation: u64,
}

impl Record {
    /// Whether the blocks must not be trusted: every state but the tombstone.
    pub fn is_listed(&self) -> bool {
        self.state != BlockState::Tombstone
    }

    /// Whether this record and `next`, which begins where it ends, may be one.
    pub(super) fn joins(&self, next: &Self) -> bool {
        let same = Self {
            range: self.range,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            ..*next
        };
        self.range.end() == next.range.first() && *self == same
    }
}

/// Why the bytes of a record are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Empty, or behind the last block that can be addressed.
    #[error("blocks {first}+{count} are no valid range")]
    Range {
        /// First block.
        first: u64,
        /// Number of blocks.
        count: u32,
    },
    /// A code that this version does not know.
    #[error("{field} has the unknown code {code}")]
    Code {
        /// Name of the field.
        field: &'static str,
        /// The code found.
        code: u8,
    },
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Layout {
    first: U64,
    count: U32,
    whose: u8,
    state: u8,
    cause: u8,
    good_at: u8,
    errors: U16,
    reserved: U16,
    first_seen: U32,
    last_seen: U32,
    generation: U64,
    padding: U32,
}

const _: () = assert!(size_of::<Layout>() == RECORD_BYTES);

const OWN: u8 = 0xFF;
const STATES: [BlockState; 4] = [
    BlockState::Suspect,
    BlockState::Bad,
    BlockState::Lost,
    BlockState::Tombstone,
];
const CAUSES: [Cause; 10] = [
    Cause::Read,
    Cause::Served,
    Cause::Resync,
    Cause::Verify,
    Cause::Scrub,
    Cause::Probe,
    Cause::Mismatch,
    Cause::PeerSaid,
    Cause::MissedWrite,
    Cause::FailedWrite,
];
const GOOD_AT: [GoodAt; 3] = [GoodAt::Yes, GoodAt::No, GoodAt::Unknown];

/// The code of a value is its place in its table, counted from 1, so that zeroed bytes are no record.
pub(super) fn encode_code<T: PartialEq>(table: &[T], value: &T) -> u8 {
    let place = table.iter().position(|entry| entry == value);
    place.expect("the table lists every variant") as u8 + 1
}

pub(super) fn decode_code<T: Copy>(field: &'static str, table: &[T], code: u8) -> Result<T, RecordError> {
    let place = usize::from(code).checked_sub(1);
    place
        .and_then(|place| table.get(place).copied())
        .ok_or(RecordError::Code { field, code })
}

/// The record's bytes.
pub(super) fn encode(record: &Record) -> [u8; RECORD_BYTES] {
    let layout = Layout {
        first: U64::new(record.range.first()),
        count: U32::new(record.range.count()),
        whose: match record.whose {
            Whose::Own => OWN,
            Whose::Peer(number) => number,
        },
        state: encode_code(&STATES, &record.state),
        cause: encode_code(&CAUSES, &record.cause),
        good_at: encode_code(&GOOD_AT, &record.good_at),
        errors: U16::new(record.errors),
        reserved: U16::ZERO,
        first_seen: U32::new(record.first_seen),
        last_seen: U32::new(record.last_seen),
        generation: U64::new(record.generation),
        padding: U32::ZERO,
    };
    zerocopy::transmute!(layout)
}

/// The record of its bytes.
pub(super) fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Record, RecordError> {
    let layout: Layout = zerocopy::transmute!(*bytes);
    let (first, count) = (layout.first.get(), layout.count.get());
    Ok(Record {
        range: BlockRange::new(first, count).ok_or(RecordError::Range { first, count })?,
        whose: match layout.whose {
            OWN => Whose::Own,
            number => Whose::Peer(number),
        },
        state: decode_code("state", &STATES, layout.state)?,
        cause: decode_code("cause", &CAUSES, layout.cause)?,
        good_at: decode_code("good_at", &GOOD_AT, layout.good_at)?,
        errors: layout.errors.get(),
        first_seen: layout.first_seen.get(),
        last_seen: layout.last_seen.get(),
        generation: layout.generation.get(),
    })
}
