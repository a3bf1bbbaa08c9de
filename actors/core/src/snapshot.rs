//! The state of the volume as `StateActor` publishes it: a numbered, immutable picture. Every part acts on the latest
//! one that it has; the sender of the last one outlives the actor, so that a new `StateActor` goes on from it.

use crate::identity::{AttachId, ConnectionNumber, ErrorNumber, SnapshotNumber, TellNumber};
use crate::part::Instant;
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::state::{
    DetachCause, Detaching, DisconnectReason, DisklessReason, DownReason, InconsistentReason, StateVector,
};

use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::format::superblock::Superblock;
use mendblock_storage::units::SectorRange;

/// Whether new requests of clients may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// They may.
    Open,
    /// They wait at the volume's door.
    Held(HoldReason),
}

/// Why requests wait. Each hold has an owner and a deadline in [`Wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldReason {
    /// `local-io-error` runs: nothing may reach the peer before it ended (T2).
    Helper,
    /// Bitmaps are being exchanged, or the sync id is awaited, on the target.
    BitmapExchange,
    /// A disk is being attached.
    Attaching,
    /// An administrator's detach is being agreed.
    Detaching,
    /// A new generation must be durable first.
    Generation,
    /// Suspended (`on-no-data-accessible suspend-io`, fencing, the operator).
    Suspended,
}

/// Order to let the local I/O of a disk end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drain {
    /// Wait for what is in flight.
    Wait,
    /// Stop waiting: buffers stay with the device until the kernel returns them, requests go on without it.
    Abandon,
}

/// Who waits for what, since when, until when (P5, P8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wait {
    /// Who waits (`detach D6`, `promotion`, `attach A9`, …).
    pub who: &'static str,
    /// For what.
    pub what: String,
    /// Since when.
    pub since: Instant,
    /// Until when; none: a steady state that needs no clock, or an operator's suspension.
    pub until: Option<Instant>,
}

/// What is known of an attached disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DiskFacts {
    /// Its life.
    pub attach_id: AttachId,
    /// Usable sectors for data.
    pub data_sectors: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// Device id of the meta-data.
    pub device_id: u64,
    /// How I/O is done (`io_uring`, `threads`, …).
    pub backend: &'static str,
    /// Where data and meta-data lie.
    pub layout: MetadataLayout,
    /// The superblock as last composed: what a new `StateActor` goes on from.
    pub superblock: Superblock,
}

/// A request that the own disk failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FailedRequest {
    /// What its failure means.
    pub cause: DetachCause,
    /// Where; none for flushes and meta-data.
    pub range: Option<SectorRange>,
    /// Linux errno.
    pub errno: i32,
}

/// Why things are as they are (V1): beside the vector, alive exactly as long as the state that they explain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reasons {
    /// Why there is no disk.
    pub diskless: Option<DisklessReason>,
    /// The detach that runs.
    pub detaching: Option<Detaching>,
    /// Why the disk is Inconsistent.
    pub inconsistent: Option<InconsistentReason>,
    /// The request whose failure took the disk away, or made it Inconsistent.
    pub failed_request: Option<FailedRequest>,
    /// Why the last connection went down.
    pub down: Option<DownReason>,
    /// Why the volume is StandAlone.
    pub disconnected: Option<DisconnectReason>,
    /// Last comparison of generations: rule, both sides, decision, for `why`.
    pub handshake: Option<String>,
    /// A split brain was found: what to do.
    pub split_brain: Option<String>,
    /// Why the peer refuses the connection for now, while this node dials again and again.
    pub turned_away: Option<String>,
}

/// One picture of the volume's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// Its number, ascending.
    pub number: SnapshotNumber,
    /// The state vector.
    pub vector: StateVector,
    /// The attached disk; some from Attaching (once opened) until the device is closed (D12).
    pub disk: Option<DiskFacts>,
    /// Size of the volume in sectors; 0 while unknown.
    pub volume_sectors: u64,
    /// The connection over which data may flow: some exactly while the connection state is Connected or better.
    pub connection: Option<ConnectionNumber>,
    /// May new writes, flushes, trims start?
    pub writes: Admission,
    /// May new reads start?
    pub reads: Admission,
    /// A write that succeeded on the own UpToDate disk alone may be answered: no connection was lost whose new
    /// generation is not yet durable (order of `replication.md` §9: generation, then answers).
    pub alone_settled: bool,
    /// The own disk is gone (or going) and T and M are reached for that loss: a write that only the peer has may be
    /// answered (T1).
    pub own_loss_settled: bool,
    /// Highest error of the own disk that this state has taken into account.
    pub errors_seen: ErrorNumber,
    /// Highest n such that T and M are reached for every error up to n (T1 for a disk that stays attached).
    pub errors_settled: ErrorNumber,
    /// The peer's disk is gone and the peer said *marked*, or its disk was never lost in this connection: a write that only
    /// this node has may be answered (T4). False only between the loss of the peer's disk and *marked*.
    pub peer_loss_settled: bool,
    /// Last `Tell` that must be sent before any write that is admitted under this snapshot.
    pub tell: TellNumber,
    /// Local I/O of the disk must end: answered with `StateIn::Drained`.
    pub drain: Option<Drain>,
    /// The node may mirror to, or serve reads from, the peer (derived from the vector; kept for readers).
    pub mirror: bool,
    /// When the last connection was lost; for `reconnect-grace` (R12).
    pub link_lost_at: Option<Instant>,
    /// Own generation identifiers (of the attached disk, or of the health file without one).
    pub identifiers: Identifiers,
    /// The generation that the application has seen last (`generations.md` of DRBD: exposed id).
    pub exposed: Generation,
    /// The mark "source open" (a value of `current`): the peer may have finished a resync from here unheard.
    pub source_open: Option<u64>,
    /// Crashed-Primary fact.
    pub crashed_primary: bool,
    /// The reasons.
    pub reasons: Reasons,
    /// What is being waited for.
    pub waits: Vec<Wait>,
}
