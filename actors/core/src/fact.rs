//! What happened: typed events. Log lines, `events`, metrics and `why` are rendered from them, and tests assert on
//! them. A fact names range, errno and cause; resource and peer are added by the shell that renders it.

use crate::identity::{ClientId, ConnectionNumber, ErrorNumber};
use crate::part::PartName;
use crate::volume::state::{DetachCause, StateVector};
use mendblock_storage::units::{BlockRange, SectorRange};

/// One fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The state vector changed.
    StateChanged {
        /// Before.
        old: StateVector,
        /// After.
        new: StateVector,
        /// Why, for people.
        cause: String,
    },
    /// A lower-disk operation failed.
    IoError {
        /// Its number.
        number: ErrorNumber,
        /// `read`, `write`, `flush` or `meta`.
        kind: &'static str,
        /// Where; none for a flush and for meta-data.
        range: Option<SectorRange>,
        /// Linux errno.
        errno: i32,
    },
    /// A lower-disk operation did not end in time.
    DiskTimeout {
        /// `read`, `write`, `flush` or `meta`.
        operation: &'static str,
        /// How old it is.
        milliseconds: u64,
    },
    /// The own disk was given up: it is Diskless.
    DiskGivenUp {
        /// Why.
        cause: DetachCause,
    },
    /// A read that failed here was answered with the peer's data.
    ReadServedByPeer {
        /// Where.
        range: SectorRange,
    },
    /// A client's request was answered with an error.
    ClientError {
        /// Which client.
        client: ClientId,
        /// Where.
        range: Option<SectorRange>,
        /// Linux errno.
        errno: i32,
        /// Why no path was left.
        why: &'static str,
    },
    /// A step of a detach or attach ended (`D1`..`D13`, `A1`..`A14`).
    Step {
        /// Its name.
        step: &'static str,
        /// How it ended, for people.
        outcome: String,
    },
    /// A handler ended.
    HelperEnded {
        /// Its name.
        handler: &'static str,
        /// Exit code; none: not configured, could not be started, or over its time limit.
        exit_code: Option<i32>,
        /// What happened, for people.
        outcome: String,
        /// How long it ran.
        milliseconds: u64,
    },
    /// Changed bitmap pages were written.
    BitmapWritten {
        /// How many.
        pages: u32,
    },
    /// An activity-log transaction is durable.
    ActivityTransaction {
        /// Extents that became hot.
        activated: u32,
        /// Extents that left the log.
        evicted: u32,
    },
    /// Blocks entered or left the bad-block list.
    BadBlocks {
        /// Which.
        range: BlockRange,
        /// `marked`, `healed`, `lost`, `dismissed`.
        change: &'static str,
        /// Why.
        cause: String,
    },
    /// Bits were cleared in bulk (audit).
    BulkClear {
        /// How many.
        bits: u64,
        /// By which command or event.
        reason: String,
    },
    /// A resync began.
    ResyncStarted {
        /// This node is the source.
        source: bool,
        /// Bits set.
        bits: u64,
    },
    /// A resync ended.
    ResyncEnded {
        /// This node is the source.
        source: bool,
        /// Blocks written.
        blocks: u64,
        /// Blocks that could not be copied.
        failed: u64,
        /// It was broken off: by what.
        aborted: Option<String>,
    },
    /// A generation was made or taken over.
    Generation {
        /// What happened (`new`, `rename`, `start-source`, …).
        operation: &'static str,
        /// Current generation afterwards.
        current: u64,
        /// Why.
        cause: String,
    },
    /// The comparison at a handshake.
    Handshake {
        /// Rule number.
        rule: u16,
        /// What follows, for people.
        decision: String,
    },
    /// A connection came up.
    LinkUp {
        /// Which.
        connection: ConnectionNumber,
        /// The peer's address or name.
        peer: String,
    },
    /// A connection was lost.
    LinkDown {
        /// Which.
        connection: ConnectionNumber,
        /// Why.
        cause: String,
    },
    /// A neighbour was restarted and this part took it up.
    Recovered {
        /// Who was restarted.
        part: PartName,
        /// What was done.
        what: String,
    },
    /// Something that should not happen and was survived: a programming error or a surprising peer.
    Surprise {
        /// What.
        what: String,
    },
    /// Something that an operator should read.
    Alert {
        /// What, and what to do.
        what: String,
    },
}
