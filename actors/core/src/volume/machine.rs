//! The state part: the only one that changes state. Facts come in, a pure transition decides, effects go out as
//! messages, every change is broadcast as a numbered [`Snapshot`].

mod attach;
mod behaviour;
mod command;
mod consent;
mod demotion;
mod detach;
mod errors;
mod generation;
mod helper;
mod link;
mod part;
mod parting;
mod restart;
mod sizes;
mod store;
mod sync;
mod tell;
#[cfg(test)]
mod tests;
mod uncompared;
mod waits;

pub use part::StatePart;

use crate::identity::{ConnectionNumber, ErrorNumber, MarkNumber, PartGeneration, Query, SnapshotNumber};
use crate::part::PartName;
use crate::snapshot::Snapshot;
use mendblock_net::wire::message::Message;
use mendblock_storage::units::{BlockRange, SectorRange};
use std::sync::Arc;

/// What failed on the lower disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A read of data.
    Read,
    /// A write of data.
    Write,
    /// A flush of the data device.
    Flush,
    /// Meta-data: superblock, activity log or bitmap.
    Meta,
}

/// An administrator's order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Become Primary; `force`: take the own disk for good.
    Primary {
        /// See above.
        force: bool,
    },
    /// Become Secondary.
    Secondary,
    /// Attach the configured disk.
    Attach {
        /// Accept a disk with another device id.
        new_disk: bool,
    },
    /// Give up the disk.
    Detach {
        /// At once, abandoning I/O in flight; also the last copy.
        force: bool,
    },
    /// Connect to the peer.
    Connect {
        /// The own data loses in a split brain.
        discard_my_data: bool,
    },
    /// Go StandAlone.
    Disconnect {
        /// Without asking the peer.
        force: bool,
    },
    /// The own disk's content is void: full resync from the peer.
    Invalidate,
}

/// Answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAnswer {
    /// DRBD's SS number (1 and above: done) or configuration error number (above 100).
    pub code: i32,
    /// Text for people; DRBD's where DRBD has one.
    pub text: String,
    /// What to do next.
    pub hint: Option<String>,
    /// Process exit code of the command.
    pub exit_code: u8,
}

impl CommandAnswer {
    /// DRBD's SS_CONCURRENT_ST_CHG: another command is running; the same one later may be done.
    pub const BUSY: i32 = -19;

    fn busy(running: &str, waits_for: &str) -> Self {
        Self {
            code: Self::BUSY,
            text: format!("another command is running: {running} waits for {waits_for}"),
            hint: None,
            exit_code: 11,
        }
    }
}

/// What is wanted of the connection, seen by `PeerActor`: its facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFact {
    /// A connection has exchanged hellos. `resolver`: this node accepted it (it resolves conflicts).
    Up {
        /// Its number.
        connection: ConnectionNumber,
        /// This node accepted it.
        resolver: bool,
        /// Agreed features.
        features: u64,
        /// The peer's process life.
        peer_process: u64,
    },
    /// It was lost, or never came to be.
    Down {
        /// Its number.
        connection: ConnectionNumber,
        /// Why.
        reason: crate::volume::state::DownReason,
        /// For people.
        text: String,
    },
    /// The peer refused us, or we the peer, for good: StandAlone.
    Refused {
        /// For people.
        text: String,
    },
    /// One node refused the other, but not for good: the next attempt may succeed.
    NotNow {
        /// For people.
        text: String,
    },
}

/// Messages of the state part.
#[derive(Debug)]
pub enum StateIn {
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// From `VolumeActor`: before it gives a client an error it wants to have all that is known by now. Passed on to `BitmapActor`
    /// behind the snapshot of this step, which answers with `VolumeIn::News`; asked again when one of the two is in a new
    /// generation.
    AskNews {
        /// Named by the answer.
        query: Query,
    },
    /// An administrator's order; answered by [`StateEffect::Answer`] with the same id.
    Command {
        /// Its id.
        id: u64,
        /// The order.
        command: Command,
    },
    /// A client opened (`+`) or closed the export.
    Openers {
        /// How many have it open now.
        count: u32,
    },

    /// From `DiskActor`: the device was opened, or not.
    DiskOpened {
        /// From [`crate::disk::DiskIn::Open`].
        query: Query,
        /// What was opened, or why not.
        result: Result<crate::disk::OpenedDevice, crate::disk::OpenFailure>,
    },
    /// From `DiskActor`: the device is closed.
    DiskClosed,
    /// From `DiskActor`: an operation failed. Repeated until the snapshot shows it taken
    /// ([`crate::disk::DiskIn::ErrorTaken`]).
    IoError {
        /// Its number.
        number: ErrorNumber,
        /// What failed.
        kind: ErrorKind,
        /// Where (data), none for flush and meta-data.
        range: Option<SectorRange>,
        /// Linux errno.
        errno: i32,
    },
    /// From `DiskActor`: an own meta-data operation ended (superblock).
    Meta(crate::disk::MetaCompletion),
    /// From `DiskActor` (R9).
    Table(crate::disk::TableAnswer),
    /// From `DiskActor`: the oldest operation in the kernel is older than `disk-timeout`.
    DiskTimeout {
        /// `read`, `write`, `flush`, `meta`.
        operation: &'static str,
        /// Its age, ms.
        age: u64,
    },

    /// From `VolumeActor`: the drain that this snapshot ordered has ended; all its marks up to `mark` must be in the
    /// bitmap before it is written out.
    Drained {
        /// The snapshot that ordered it.
        snapshot: SnapshotNumber,
        /// The last mark.
        mark: MarkNumber,
        /// Everything ended in the kernel; false: abandoned.
        complete: bool,
    },
    /// From `VolumeActor`: every write cut off by the loss of this connection is durably marked, and nothing of the
    /// peer is in flight here (R11).
    LossRetired {
        /// The connection.
        connection: ConnectionNumber,
    },
    /// From `VolumeActor`: answer to `VolumeIn::Fence`.
    Fenced {
        /// From the question.
        query: Query,
        /// The last mark that was sent.
        mark: MarkNumber,
    },
    /// From `VolumeActor`: answer to `VolumeIn::Quiesce`: every write is retired, or its mark is durable.
    Quiesced {
        /// From the question.
        query: Query,
        /// The last mark.
        mark: MarkNumber,
    },

    /// From `ActivityLogActor`: the log was read (A9).
    LogLoaded {
        /// From [`crate::activity::ActivityIn::Load`].
        query: Query,
        /// Extents in the log, or why it cannot be used.
        result: Result<Vec<u32>, String>,
    },
    /// From `ActivityLogActor`: the ring was reset (A11).
    LogReset {
        /// From [`crate::activity::ActivityIn::Reset`].
        query: Query,
        /// Linux errno on failure.
        result: Result<(), i32>,
    },

    /// From `BitmapActor`: the health file was read (A6).
    HealthLoaded {
        /// From [`crate::bitmap::BitmapIn::LoadHealth`].
        query: Query,
        /// Its header facts; none: no usable file.
        header: Option<Box<crate::bitmap::HealthHeader>>,
        /// Blocks in the own bad-block list.
        bad_blocks: u64,
        /// Device id of the disk that was attached last (any file of the volume), if there was one.
        last_device: Option<u64>,
    },
    /// From `BitmapActor`: the bitmap was loaded, merged and written (A10, A11).
    BitmapLoaded {
        /// From [`crate::bitmap::BitmapIn::Load`].
        query: Query,
        /// Set bits, or errno of the meta-data write that failed.
        result: Result<u64, i32>,
    },
    /// From `BitmapActor`: changed pages were written, or not.
    WrittenOut {
        /// From [`crate::bitmap::BitmapIn::WriteOut`].
        query: Query,
        /// Linux errno on failure.
        result: Result<(), i32>,
        /// Some bit that is not on disk is not covered by a hot extent (`uncovered_bits`).
        uncovered: bool,
    },
    /// From `BitmapActor`: a health file write ended.
    HealthWritten {
        /// From [`crate::bitmap::BitmapIn::PersistHealth`] or [`crate::bitmap::BitmapIn::SetHeader`].
        query: Query,
        /// It is durable.
        durable: bool,
    },
    /// From `BitmapActor`: another content of the health file is durable; the anchor for the next superblock (9.3).
    Anchor(mendblock_storage::format::anchor::StoredAnchor),
    /// From `BitmapActor`: the health file could not be written and there are blocks on the list; the anchor that says so is
    /// wanted in the superblock now.
    ListUnwritten(mendblock_storage::format::anchor::StoredAnchor),
    /// From `BitmapActor`: these blocks left the own bad-block list.
    LeftList {
        /// The blocks.
        ranges: Vec<BlockRange>,
    },
    /// From `BitmapActor`: the own bad-block list is full (9.5), once per attach.
    TooManyBad,
    /// From `BitmapActor`: the peer's `Tell` is in bitmap and suspect records, durably.
    TellRecorded {
        /// The peer's number.
        number: u64,
        /// On which connection.
        connection: ConnectionNumber,
    },
    /// From `BitmapActor`: the own list was sent on this connection and the peer's is merged (the handshake may run): once for each
    /// `BitmapIn::SendRecords`. The counts are those of the lists that were exchanged, so that the peer decides by the same.
    PeerRecordsMerged {
        /// Which connection.
        connection: ConnectionNumber,
        /// Blocks that are bad here (with either count above 0, "no resync" is not "nothing to do").
        own_bad: u64,
        /// Blocks that are bad at the peer.
        peer_bad: u64,
    },
    /// From `BitmapActor`: the bitmaps are exchanged and both sides have the union.
    BitmapExchanged {
        /// Which connection.
        connection: ConnectionNumber,
        /// Set bits.
        set_bits: u64,
    },
    /// From `BitmapActor`: all bits are set and durable, or not.
    AllSet {
        /// From [`crate::bitmap::BitmapIn::SetAll`].
        query: Query,
        /// Linux errno on failure.
        result: Result<(), i32>,
    },
    /// From `BitmapActor`: number of set bits, whenever it became 0 or stopped being 0, and at each resync end.
    SetBits {
        /// How many.
        count: u64,
    },

    /// From `PeerActor`.
    Link(LinkFact),
    /// From `PeerActor`: a message of the peer that concerns state (sizes, generations, state, change request and
    /// answer, sync id, tell, told, marked).
    Peer {
        /// On which connection.
        connection: ConnectionNumber,
        /// The message.
        message: Message,
    },

    /// From `ResyncActor` (target): every block is done.
    ResyncFinished {
        /// Blocks that could not be copied and are now lost here too.
        lost: u64,
    },

    /// From the supervisor: this part dies again and again and is given up (its budget is spent).
    DriverFailed {
        /// Which.
        part: PartName,
    },
    /// From `HelperActor`.
    HelperEnded {
        /// From [`crate::helper::HelperIn::Run`].
        query: Query,
        /// Exit code; none: not configured (counts as 0), could not be started, or over its time limit.
        exit_code: Option<i32>,
        /// For people.
        outcome: String,
    },
}

/// What the state part asks its shell to do.
#[derive(Debug)]
pub enum StateEffect {
    /// Keep this snapshot (it outlives the actor) and hand it to every neighbour.
    Publish(Arc<Snapshot>),
    /// Answer a command.
    Answer {
        /// Its id.
        id: u64,
        /// The answer.
        answer: CommandAnswer,
    },
}
