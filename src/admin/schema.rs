//! What the admin API says, both directions. Field names are the JSON's; states, roles and connection states are
//! DRBD's spellings (`UpToDate`, `Primary`, `WFConnection`). Times are seconds since 1970 with fraction, durations
//! seconds, sizes bytes.
//!
//! A reader ignores fields that it does not know and takes the default for one that is missing, so that commands and
//! nodes of different releases understand each other.

use crate::configuration::FaultEntry;
use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: NodeStatus,
    /// Its volumes, in the order of the configuration.
    pub volumes: Vec<VolumeStatus>,
}

/// The node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Name.
    pub name: String,
    /// Node id.
    pub id: u8,
    /// Release of the program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// The node's clock when this was written: what `since` and `until` are to be compared with.
    pub now: f64,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    /// Name.
    pub name: String,
    /// Minor number.
    pub minor: u32,
    /// `Primary` or `Secondary`.
    pub role: String,
    /// Why I/O is suspended: `user`, `no-data`, `fencing`. Empty: it is not.
    pub suspended: Vec<String>,
    /// Size for clients; 0 while it is not known.
    pub size_bytes: u64,
    /// Client sessions.
    pub open: u32,
    /// The own disk.
    pub disk: DiskStatus,
    /// Generation identifiers.
    pub generations: Generations,
    /// Bytes whose bit is set.
    pub out_of_sync_bytes: u64,
    /// Blocks of 4 KiB on the own bad-block list.
    pub bad_blocks: u64,
    /// Connections, one for each peer.
    pub connections: Vec<ConnectionStatus>,
    /// Who waits for what.
    pub waits: Vec<Wait>,
    /// Actors.
    pub actors: Vec<ActorStatus>,
    /// Why the volume is not as it should be, the gravest first; empty when all is well.
    pub why: Vec<Explanation>,
    /// Counters since the start of the node.
    pub io: IoCounters,
    /// Fault rules in force.
    pub faults: Vec<FaultEntry>,
}

/// The own disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStatus {
    /// DRBD's disk state.
    pub state: String,
    /// Why it is in this state, for people: `read error at sector 800`. Empty where there is nothing to say.
    pub reason: String,
    /// Since when.
    pub since: f64,
    /// Lower disk.
    pub path: String,
    /// Meta-data disk; `internal`, or its path.
    pub meta_path: String,
    /// How it is driven: `io_uring`, `threads`; empty without a disk.
    pub backend: String,
    /// The step of a detach that is under way.
    pub detach: Option<DetachProgress>,
}

/// Where a detach stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DetachProgress {
    /// Name of the step, `D1` to `D13`.
    pub step: String,
    /// What it does.
    pub text: String,
    /// When it is given up; `None`: when it stops making progress.
    pub until: Option<f64>,
}

/// Generation identifiers, DRBD's UUIDs: 16 hexadecimal digits each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Generations {
    /// Current.
    pub current: String,
    /// Bitmap base.
    pub bitmap: String,
    /// Younger and older history.
    pub history: Vec<String>,
    /// Meta-data flags by DRBD's names: `Consistent`, `WasUpToDate`, `PrimaryInd`, `CrashedPrimary`, ...
    pub flags: Vec<String>,
}

/// A connection with its replication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionStatus {
    /// The peer's name.
    pub name: String,
    /// The peer's node id.
    pub node_id: u8,
    /// DRBD 8.4's connection state; from `Connected` on it is the replication state as well.
    pub state: String,
    /// Why it is in this state. Empty where there is nothing to say.
    pub reason: String,
    /// Since when.
    pub since: f64,
    /// The peer's role.
    pub role: String,
    /// The peer's disk state.
    pub peer_disk: String,
    /// Why a resync pauses: `user`, `peer`, `dependency`. Empty: it does not.
    pub resync_suspended: Vec<String>,
    /// The running resync or verify.
    pub resync: Option<ResyncProgress>,
    /// Counters.
    pub replication: ReplicationCounters,
}

/// How far a resync is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResyncProgress {
    /// 0 to 100.
    pub done_percent: f64,
    /// Bytes to do when it began.
    pub total_bytes: u64,
    /// Bytes left.
    pub left_bytes: u64,
    /// Bytes of blocks that failed.
    pub failed_bytes: u64,
    /// Bytes per second now.
    pub rate_bytes_per_second: u64,
    /// Seconds left; `None`: stalled or not yet known.
    pub eta_seconds: Option<f64>,
}

/// Traffic with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicationCounters {
    /// Bytes of data sent, application and resync.
    pub sent_bytes: u64,
    /// Bytes of data received.
    pub received_bytes: u64,
    /// Requests sent whose answer is outstanding.
    pub pending: u64,
    /// Requests received and not answered yet.
    pub unacknowledged: u64,
    /// Barriers sent.
    pub barriers: u64,
    /// Connections lost.
    pub connection_losses: u64,
}

/// Someone waits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wait {
    /// Who: an actor, a client, a command.
    pub who: String,
    /// For what.
    pub what: String,
    /// Since when.
    pub since: f64,
    /// Until when at most; `None` only for what an operator has suspended.
    pub until: Option<f64>,
}

/// An actor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActorStatus {
    /// Name, as the kill switch takes it: `disk`, `bitmap`, ...
    pub name: String,
    /// Generation, from 1.
    pub generation: u64,
    /// Deaths that were followed by a new generation.
    pub restarts: u64,
}

/// Why something is as it is, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// A stable word: `diskless-read-error`.
    pub code: String,
    /// Cause, for people.
    pub text: String,
    /// What to do; empty: nothing, it mends itself.
    pub remedy: String,
}

/// Counters of a volume's I/O.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoCounters {
    /// Bytes of data read from the own disk: for clients, for the peer, by a resync. Meta-data are not counted.
    pub read_bytes: u64,
    /// Bytes of data written to it, zeroes and trims included: by clients, by the peer, by a resync. Meta-data are not counted.
    pub written_bytes: u64,
    /// Activity-log transactions.
    pub al_writes: u64,
    /// Bitmap pages written.
    pub bm_writes: u64,
    /// Client requests admitted and not answered.
    pub upper_pending: u64,
    /// Operations of the own disk under way.
    pub lower_pending: u64,
    /// Errors of the own disk on reads.
    pub read_errors: u64,
    /// On writes and flushes.
    pub write_errors: u64,
    /// On meta-data.
    pub meta_errors: u64,
}

/// Body of `primary`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrimaryRequest {
    /// Take the own Inconsistent or Outdated data as good.
    pub force: bool,
}

/// Body of `detach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetachRequest {
    /// Do not wait for I/O that hangs.
    pub force: bool,
}

/// Body of `connect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectRequest {
    /// After a split brain: the own changes are to be thrown away.
    pub discard_my_data: bool,
}

/// Body of `disconnect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DisconnectRequest {
    /// Do not ask the peer.
    pub force: bool,
}

/// Body of the kill switch (only of a node that was started with `--allow-kill`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// How the actor ends.
    pub how: Kill,
}

/// How an actor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kill {
    /// It panics.
    Panic,
    /// It is stopped.
    Stop,
    /// It does nothing any more.
    Hang,
}

/// Body of every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// DRBD's number: negative for a refused state change, above 100 for a refused request.
    pub code: i32,
    /// What is refused and why; for DRBD's state changes its text, which scripts match.
    pub text: String,
    /// What to do.
    #[serde(default)]
    pub hint: String,
    /// Exit code of the command.
    pub exit_code: u8,
}

/// Kind of an event, as in `drbdsetup events2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Part of the dump at the beginning. The dump ends with an event of this kind on object `-`.
    Exists,
    /// Something came to be.
    Create,
    /// Something changed.
    Change,
    /// Something is gone.
    Destroy,
    /// A handler is called.
    Call,
    /// A handler has ended.
    Response,
}

/// A line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Number, rising by one; a gap: events were dropped because the reader was too slow.
    pub number: u64,
    /// When.
    pub at: f64,
    /// What happened.
    pub kind: EventKind,
    /// To what: `resource`, `device`, `connection`, `peer-device`, `helper`; ours: `fact`; `-` ends the dump.
    pub object: String,
    /// Keys and values in order, the identifying ones first; on a change only what changed.
    pub fields: Vec<(String, String)>,
}
