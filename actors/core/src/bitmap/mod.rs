//! The bitmap part: out-of-sync bits, bad-block list, suspect records about the peer, and the health file in which
//! the lists lie. It knows which pages changed and when they are durable.

mod exchange;
mod health;
mod lists;
mod load;
mod pages;
mod part;
mod records;
mod rounds;
#[cfg(test)]
mod tests;

pub use part::BitmapPart;
pub(crate) use records::without;

use crate::disk::MetaCompletion;
use crate::identity::{
    AttachId, ConnectionNumber, ErrorNumber, MarkNumber, PartGeneration, Query, SnapshotNumber,
};
use crate::part::PartName;
use crate::peer::PeerFrame;
use crate::snapshot::Snapshot;
use mendblock_net::wire::message::WireRecord;
use mendblock_storage::format::anchor::StoredAnchor;
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::units::BlockRange;
use std::sync::Arc;

/// Why `VolumeActor` marks blocks; decides what is recorded besides the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkReason {
    /// A local read failed (or the peer's read, served here): bit and own bad-block record.
    ReadError {
        /// Number of the failed completion.
        error: ErrorNumber,
    },
    /// A local write failed: bit and own record (cause write).
    WriteError {
        /// Number of the failed completion.
        error: ErrorNumber,
    },
    /// A local flush failed: bits for all that was not flushed, no record (3.5).
    FlushError {
        /// Number of the failed completion.
        error: ErrorNumber,
    },
    /// The peer lacks these blocks (retired without its acknowledgement): bits only.
    PeerLacks,
    /// The peer failed to write these blocks (nack, T3): bit and suspect record about the peer.
    PeerFailed,
    /// This node nacked a mirrored write (Failed, or its own write failed): bit and "missed write" record.
    MissedWrite,
    /// The Primary answered such a write with an error: "missed" becomes "failed write".
    FailedWrite,
    /// Written here, not known to be stable, and this disk goes: bits only. The peer has it, or its lack is marked by itself.
    Unflushed,
    /// The sender of a mirrored write has no disk: bits, this disk is the only one that has it.
    OnlyCopy,
    /// Not a mark but its end: a client overwrote blocks of the own list whole, and they were flushed and read back equal. They leave
    /// the list, and the write is answered once that is durable. Their bits stay.
    ReadBack {
        /// The disk that this was seen on: it says nothing about the list of another one.
        attach: AttachId,
    },
}

/// A mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub number: MarkNumber,
    /// The blocks.
    pub ranges: Vec<BlockRange>,
    /// Why.
    pub reason: MarkReason,
}

/// How a mark ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkOutcome {
    /// Bits (and records, if the reason has some) are on stable storage.
    Durable,
    /// Bits are on disk, the health file could not be written.
    RecordLost,
    /// There is no disk to write bits to (or its bitmap write failed: the disk fails); records are durable where
    /// `record` says so. The bits live in memory; the peer has them as well.
    InMemory {
        /// The records are durable in the health file (or the reason has none).
        record: bool,
    },
}

/// Why a bit may be cleared (P6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClearReason {
    /// The target wrote (and, for a bad block, read back) the block from the source, in this connection.
    ResyncWritten,
    /// A mirrored write is on both disks and the sender allowed it.
    WrittenOnBoth,
    /// A client overwrote blocks that were on the own list, both nodes have the write, and they were read back here
    /// ([`MarkReason::ReadBack`]).
    Overwritten,
    /// The peer wrote the blocks and, where they were bad there, read them back: it has what this node has. That says nothing about
    /// blocks of the own list.
    PeerWrote,
    /// No bit goes: a block of a larger failed read was read twice, and the same. It leaves the list, its bit stays.
    ReadTwice,
}

/// Facts in the header of the health file (`io-errors` 9.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthHeader {
    /// Device id that the file belongs to; 0: no file.
    pub device_id: u64,
    /// Sequence number of the file.
    pub sequence: u64,
    /// Anchor for the next superblock (9.3): kept up to date by `BitmapIn`'s answers.
    pub anchor: StoredAnchor,
    /// Own attach id at the last attach.
    pub attach_id: u64,
    /// The four id slots of the own disk: current, bitmap, history.
    pub slots: [u64; 4],
    /// "Outdated since" this generation of the peer.
    pub outdated_since: Option<u64>,
    /// "Source open": the value of `current` that the mark stands for.
    pub source_open: Option<u64>,
    /// The peer's attach id for whose loss `current` was made, and that `current`.
    pub loss_of: Option<(u64, u64)>,
    /// Cause of the last detach, for `why`.
    pub last_detach: Option<String>,
}

impl Default for HealthHeader {
    /// No file yet.
    fn default() -> Self {
        Self {
            device_id: 0,
            sequence: 0,
            anchor: StoredAnchor::Absent,
            attach_id: 0,
            slots: [0; 4],
            outdated_since: None,
            source_open: None,
            loss_of: None,
            last_detach: None,
        }
    }
}

/// A change of header facts; `None` leaves a fact as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// New attach: device id and attach id (archives the file of another device).
    pub attached: Option<(u64, u64)>,
    /// Id slots.
    pub slots: Option<[u64; 4]>,
    /// "Outdated since": set or cleared.
    pub outdated_since: Option<Option<u64>>,
    /// "Source open": set or cleared.
    pub source_open: Option<Option<u64>>,
    /// See [`HealthHeader::loss_of`].
    pub loss_of: Option<Option<(u64, u64)>>,
    /// Cause of a detach.
    pub last_detach: Option<crate::volume::state::DetachCause>,
}

impl HeaderChange {
    /// Sets "outdated since" this generation of the peer.
    pub fn outdated_since(generation: u64) -> Self {
        Self {
            outdated_since: Some(Some(generation)),
            ..Self::default()
        }
    }
}

/// Blocks that must not be read on this node, or not from the peer: an immutable picture for `VolumeActor`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadBlocks {
    /// Own bad-block list: never read locally, never a resync source (P2). Sorted, disjoint.
    pub own: Vec<BlockRange>,
    /// Blocks whose copy at the peer must not be used: suspect records, and blocks whose last write the peer lacks
    /// while it is UpToDate. Sorted, disjoint.
    pub peer: Vec<BlockRange>,
}

/// How the bitmap is to be loaded (A10, A11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// Where it lies.
    pub layout: MetadataLayout,
    /// Size of the volume in sectors.
    pub volume_sectors: u64,
    /// Size that the disk was used with last, by its meta-data: what the volume has behind it was never in sync, whatever
    /// the bitmap says there. 0: it was never in use.
    pub agreed_sectors: u64,
    /// All bits are to be set and written (full-sync mark, or an unusable log).
    pub set_all: bool,
    /// Extents of the activity log whose bits are to be set (crashed Primary).
    pub extents: Vec<u32>,
    /// The anchor says that a list was lost: every set bit counts as own-bad (9.3).
    pub list_lost: bool,
}

/// Messages of the bitmap part.
#[derive(Debug)]
pub enum BitmapIn {
    /// The state changed.
    Snapshot(Arc<Snapshot>),
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// From the shell, once at the start: the newest valid health files of this volume (all device ids), parsed.
    HealthRead {
        /// Encoded slots as read: (device id in the file name, slot bytes); empty: none.
        files: Vec<(u64, Vec<u8>)>,
    },
    /// State: report the header for this device id (A6). Answered by `StateIn::HealthLoaded`. `device_id` none: the
    /// file of the disk that was attached last.
    LoadHealth {
        /// Echoed.
        query: Query,
        /// Which disk.
        device_id: Option<u64>,
    },
    /// State: read the bitmap, merge, write (A10, A11).
    Load {
        /// Echoed.
        query: Query,
        /// How.
        plan: Box<LoadPlan>,
    },
    /// State: the disk is gone; what is in memory stays until the next [`BitmapIn::Load`].
    Unload,
    /// Volume: marks.
    Mark(Vec<Mark>),
    /// Volume: its replay of marks to this generation has ended (R5).
    MarksUpTo {
        /// Every mark up to this one was sent to you or was acknowledged before.
        number: MarkNumber,
        /// Generation of the bitmap part that this answers.
        generation: PartGeneration,
    },
    /// Volume: clear bits by proof.
    Clear {
        /// The blocks.
        ranges: Vec<BlockRange>,
        /// The proof.
        reason: ClearReason,
    },
    /// State or activity log: write changed pages, once marks up to `after` are applied, then flush.
    WriteOut {
        /// Who asks.
        requester: PartName,
        /// Echoed.
        query: Query,
        /// Marks that must be applied first.
        after: MarkNumber,
        /// Only the pages of these extents (eviction), or all.
        extents: Option<Vec<u32>>,
    },
    /// State: set all bits, durably (full sync; keeps the bad-block list).
    SetAll {
        /// Echoed.
        query: Query,
        /// For the audit event.
        reason: String,
    },
    /// State: clear all bits but those of bad blocks (end of resync after both sides agree, skip of the initial sync).
    ClearAll {
        /// For the audit event.
        reason: String,
    },
    /// State: change header facts and write the health file.
    SetHeader {
        /// Echoed in `StateIn::HealthWritten`.
        query: Query,
        /// The change.
        change: Box<HeaderChange>,
    },
    /// State: write the health file as it is (D7).
    PersistHealth {
        /// Echoed in `StateIn::HealthWritten`.
        query: Query,
    },
    /// State: the peer's tell: set the bits, record its blocks as suspect, durably; answered by `StateIn::TellRecorded`.
    RecordTell {
        /// On which connection.
        connection: ConnectionNumber,
        /// The peer's number.
        number: u64,
        /// The blocks.
        records: Vec<WireRecord>,
    },
    /// State: send the own lists on this connection (`BadBlocks` messages, through the peer part), before the generations.
    SendRecords {
        /// On which connection.
        connection: ConnectionNumber,
    },
    /// State: answer the volume part with `VolumeIn::News`, behind the picture of bad blocks under this snapshot.
    AskNews {
        /// Named by the volume part.
        query: Query,
        /// The last snapshot that was published.
        snapshot: SnapshotNumber,
    },
    /// State: exchange bitmaps on this connection. The source sends first; the target merges and answers.
    Exchange {
        /// On which connection.
        connection: ConnectionNumber,
        /// This node is the source.
        source: bool,
        /// Marks that must be applied first.
        after: MarkNumber,
    },
    /// Peer: a frame of the peer that concerns bits and lists (`BadBlocks`, `OutOfSync`, `BitmapPages`, `BitmapEnd`,
    /// `Cleared`, `ClearedAck`).
    Peer {
        /// On which connection.
        connection: ConnectionNumber,
        /// The frame.
        frame: PeerFrame,
    },
    /// Resync: next set bits at or after a block, skipping blocks of the lists that cannot be fetched.
    NextRun {
        /// Echoed.
        query: Query,
        /// From here.
        from: u64,
        /// At most so many blocks in a run.
        max_blocks: u32,
        /// At most so many runs.
        max_runs: u32,
    },
    /// Volume: blocks that this node as target could not get: the source cannot read them (they become lost here too), durably
    /// before the resync ends.
    Lost {
        /// The blocks.
        ranges: Vec<BlockRange>,
    },
    /// From the disk part: meta-data operations that ended.
    Meta(Vec<MetaCompletion>),
    /// From the disk part (R9).
    Table(crate::disk::TableAnswer),
    /// From the shell: a health file write ended.
    HealthWritten {
        /// Sequence number of the file written.
        sequence: u64,
        /// Linux errno on failure.
        result: Result<(), i32>,
    },
}

/// What the bitmap part asks its shell to do.
#[derive(Debug)]
pub enum BitmapEffect {
    /// Write one slot of the health file of this device id, durably; answered by [`BitmapIn::HealthWritten`].
    WriteHealth {
        /// Which file.
        device_id: u64,
        /// Which slot, 0 or 1.
        slot: u8,
        /// Sequence number inside.
        sequence: u64,
        /// The whole slot.
        bytes: Vec<u8>,
    },
    /// Number of set bits, whenever it changed (for `status` and metrics).
    SetBits(u64),
    /// A new picture of the bad blocks (also sent to `VolumeActor`; kept by the port for `status`).
    Publish(Arc<BadBlocks>),
}
