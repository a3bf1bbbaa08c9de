//! The volume part: the request table and its interval locks. All data I/O of the volume goes through it until it is
//! answered: of clients, mirrored by the peer, served to the peer, of a resync.

mod answer;
mod client;
mod complete;
mod drain;
mod epochs;
mod extents;
mod fetch;
mod localise;
mod locks;
mod loss;
mod marks;
mod news;
mod part;
mod path;
mod proof;
mod received;
mod recover;
mod request;
#[cfg(test)]
mod tests;

pub use part::VolumePart;

use crate::bitmap::{BadBlocks, MarkOutcome};
use crate::disk::{DataCompletion, TableAnswer};
use crate::identity::{
    Arrival, ClientId, ConnectionNumber, ErrorNumber, MarkNumber, PartGeneration, Query, Sequence,
    SnapshotNumber,
};
use crate::part::PartName;
use crate::peer::PeerFrame;
use crate::snapshot::Snapshot;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::hot::Grant;
use mendblock_storage::units::SectorRange;
use std::sync::Arc;

/// What a client wants.
#[derive(Clone, Debug)]
pub enum ClientRequestKind {
    /// Read.
    Read {
        /// Where.
        range: SectorRange,
    },
    /// Write.
    Write {
        /// Where.
        range: SectorRange,
        /// The bytes.
        buffer: Buffer,
        /// Stable on every up-to-date replica before the answer.
        fua: bool,
    },
    /// Write zeroes, or trim (`may_unmap`): reads back as zeroes either way, on both nodes alike.
    WriteZeroes {
        /// Where.
        range: SectorRange,
        /// May deallocate.
        may_unmap: bool,
        /// As for a write.
        fua: bool,
    },
    /// Everything answered before is stable on every up-to-date replica.
    Flush,
}

/// A request of a client, at most 1 MiB (sessions cut larger ones).
#[derive(Clone, Debug)]
pub struct ClientRequest {
    /// Number within the session.
    pub sequence: Sequence,
    /// Number of arrival at the volume (order of replay, R15).
    pub arrival: Arrival,
    /// What.
    pub kind: ClientRequestKind,
}

/// Answer to a client's request.
#[derive(Clone, Debug)]
pub struct ClientAnswer {
    /// From the request.
    pub sequence: Sequence,
    /// Data of a read, or the errno.
    pub result: Result<Option<Buffer>, i32>,
}

/// Messages of the volume part.
#[derive(Debug)]
pub enum VolumeIn {
    /// The state changed.
    Snapshot(Arc<Snapshot>),
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },

    /// Requests of one client session.
    Requests {
        /// Which session.
        client: ClientId,
        /// In order of arrival.
        requests: Vec<ClientRequest>,
    },
    /// The session has replayed all that its port holds unanswered to this generation of the volume part (R14).
    ReplayEnd {
        /// Which session.
        client: ClientId,
        /// Generation of the volume part that it answers.
        generation: PartGeneration,
    },
    /// The sessions that exist (sent by the shell to a new generation, so that it knows whose replay to await).
    Sessions(Vec<ClientId>),
    /// Answers that are safely in the port (R18).
    Confirm {
        /// Which session.
        client: ClientId,
        /// Which answers.
        sequences: Vec<Sequence>,
    },
    /// The session is closed: nobody awaits its answers any more.
    ClientGone {
        /// Which session.
        client: ClientId,
    },

    /// Disk: data operations that ended.
    Completed(Vec<DataCompletion>),
    /// Disk (R9).
    Table(TableAnswer),

    /// Peer: frames that concern data, in order of arrival: `Write`, `WriteZeroes`, `Barrier`, `Read`, `ResyncRead`,
    /// `WriteAcks`, `WriteNack`, `WriteAnsweredWithError`, `BarrierAck`, `ReadData`, `ReadFailed`, `ResyncData`,
    /// `ResyncFailed`, `ResyncWritten`; and, in its place among them, `Tell` (with `failed`: writes behind it come
    /// from a node without a disk).
    Peer {
        /// On which connection.
        connection: ConnectionNumber,
        /// The frames.
        frames: Vec<PeerFrame>,
    },
    /// Peer: this connection is lost; every write on it that has no barrier ack is owed. Held by the peer part until
    /// [`crate::peer::PeerIn::LossRetired`] (R11).
    Lost {
        /// Which.
        connection: ConnectionNumber,
    },
    /// Peer: answer to a new generation of the volume part: the connection that is up (none: none), after any unacknowledged
    /// loss.
    PeerIs {
        /// Generation of the volume part that it answers.
        generation: PartGeneration,
        /// The connection.
        connection: Option<ConnectionNumber>,
    },
    /// Peer: bytes queued towards the peer went below the window again; more may be sent.
    WindowOpen {
        /// Which connection.
        connection: ConnectionNumber,
        /// Bytes that may be queued.
        bytes: u64,
    },

    /// Activity log: extents are hot.
    Granted {
        /// The grants.
        grants: Vec<Grant>,
    },
    /// Activity log: drain these extents and give them back.
    Revoke {
        /// Named by the answer (R8).
        number: u64,
        /// The extents.
        extents: Vec<u32>,
    },

    /// Activity log: answer to `ActivityIn::ListHot`: every extent that is in the log.
    HotExtents {
        /// From the question.
        query: Query,
        /// The extents.
        extents: Vec<u32>,
    },

    /// Bitmap: how a mark ended.
    Marked {
        /// Which.
        number: MarkNumber,
        /// How.
        outcome: MarkOutcome,
    },
    /// Bitmap: blocks that must not be read here or at the peer.
    BadBlocks(Arc<BadBlocks>),
    /// Bitmap: answer to a new generation of the volume part (R16): the marks of its predecessor came before; numbers go on
    /// after `last`.
    BitmapIs {
        /// Generation of the volume part that it answers.
        generation: PartGeneration,
        /// Highest mark number ever seen.
        last: MarkNumber,
    },

    /// Resync (target): lock the range, fetch it from the source, write it, and say so. Answered by
    /// `ResyncIn::Done` with the same job.
    FetchBlocks {
        /// Echoed.
        job: u64,
        /// The blocks, cut at the end of the volume.
        range: SectorRange,
    },
    /// Bitmap: answer to `StateIn::AskNews`; its picture under this snapshot has arrived, the snapshot itself comes from the state part.
    News {
        /// Named by the question.
        query: Query,
        /// The last one that the state part had published.
        snapshot: SnapshotNumber,
    },
    /// State: answer with `StateIn::Fenced` at once: the snapshot before this message is taken up, and every mark so far was sent.
    Fence {
        /// Echoed.
        query: Query,
    },
    /// State: answer with `StateIn::Quiesced` when every write admitted so far is retired (barrier-acked, or marked durably):
    /// before a demotion, an administrator's detach or disconnect.
    Quiesce {
        /// Echoed.
        query: Query,
    },
    /// A local error's number was settled by the state part (also in the snapshot); wakes waiters at once.
    ErrorsSettled(ErrorNumber),
}

/// What the volume part asks its shell to do: nothing beyond messages.
#[derive(Debug)]
pub enum VolumeEffect {}
