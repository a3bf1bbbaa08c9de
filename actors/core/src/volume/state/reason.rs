//! Why a disk or a connection is in its state.
//!
//! A reason is part of the state that it explains and dies with it: nothing is left standing from an earlier
//! attempt. All are plain values; the texts are for humans, the serialised names are stable.

use super::ConnectionState;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which meta-data access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetaDataKind {
    /// Write of the superblock.
    Superblock,
    /// Write of an activity-log transaction.
    ActivityLog,
    /// Write of a bitmap page.
    Bitmap,
    /// Flush of the meta-data device.
    Flush,
}

impl fmt::Display for MetaDataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Superblock => "superblock write",
            Self::ActivityLog => "activity-log write",
            Self::Bitmap => "bitmap write",
            Self::Flush => "meta-data flush",
        })
    }
}

/// Which operation took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimedOperation {
    /// Read of data.
    Read,
    /// Write, discard or write-zeroes of data.
    Write,
    /// Flush of the data device.
    Flush,
    /// Any meta-data access.
    MetaData,
}

impl fmt::Display for TimedOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::MetaData => "meta-data access",
        })
    }
}

/// Why the own disk is, or was, given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetachCause {
    /// The operator detached it.
    Admin,
    /// A read failed (application, served, resync, verify, scrub).
    ReadError,
    /// A write failed.
    WriteError,
    /// A flush or FUA write failed: unflushed writes may be lost.
    FlushError,
    /// Meta-data could not be written; detaches under every policy.
    MetaData(MetaDataKind),
    /// The device is no longer there.
    DeviceGone,
    /// The device (thin pool, sparse file) has no space left.
    NoSpace,
    /// The device became write-protected.
    ReadOnly,
    /// The device refused the alignment of our I/O three times.
    Alignment,
    /// The device became smaller.
    Shrunk,
    /// An operation was older than `disk-timeout`.
    Timeout {
        /// What was waited for.
        operation: TimedOperation,
        /// Its age when it was given up, in milliseconds.
        age_ms: u64,
    },
    /// More bad blocks than the bad-block list holds.
    TooManyBad,
    /// The rewrite of a bad block failed.
    HealFailed,
    /// More heal episodes than `heal-per-hour` allows.
    HealBudgetHour,
    /// More healed blocks than `heal-total` allows.
    HealBudgetTotal,
    /// A healed block went bad again.
    HealDoesNotHold,
    /// The last write of an attach failed.
    Attach,
    /// The handshake refused the data of this disk; the connection stays.
    NegotiationRefused,
    /// The disk's driver failed too often within this process.
    DriverFailed,
}

impl DetachCause {
    /// Whether the disk itself misbehaved under I/O: only then the handler `local-io-error` may run.
    pub fn is_io_error(self) -> bool {
        !matches!(
            self,
            Self::Admin | Self::Attach | Self::NegotiationRefused | Self::DriverFailed
        )
    }

    /// Whether nothing on the disk can be reached any more, so that no step may try to write to it.
    pub fn is_device_gone(self) -> bool {
        self == Self::DeviceGone
    }
}

impl fmt::Display for DetachCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "detached by the operator",
            Self::ReadError => "a read failed",
            Self::WriteError => "a write failed",
            Self::FlushError => "a flush failed",
            Self::MetaData(kind) => return write!(f, "a {kind} failed"),
            Self::DeviceGone => "the device is gone",
            Self::NoSpace => "the device has no space left",
            Self::ReadOnly => "the device is write-protected",
            Self::Alignment => "the device refuses the alignment of the I/O",
            Self::Shrunk => "the device became smaller",
            Self::Timeout { operation, age_ms } => {
                return write!(
                    f,
                    "a {operation} did not end within {}.{:03} s",
                    age_ms / 1000,
                    age_ms % 1000
                );
            }
            Self::TooManyBad => "the device has more bad blocks than can be recorded",
            Self::HealFailed => "a bad block could not be rewritten",
            Self::HealBudgetHour => "too many bad blocks within an hour",
            Self::HealBudgetTotal => "too many bad blocks since this disk is in use",
            Self::HealDoesNotHold => "a rewritten block went bad again",
            Self::Attach => "the last write of the attach failed",
            Self::NegotiationRefused => "the handshake with the peer refused the data of this disk",
            Self::DriverFailed => "the disk's driver failed repeatedly",
        })
    }
}

/// The steps of giving up a disk, in their order. The step stands in every snapshot, so that a restarted state
/// part goes on where its predecessor stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetachStep {
    /// D1: set the bits of the failed range, restart the read towards the peer.
    Note,
    /// D2: policy, last copy; the detach may end here.
    Decide,
    /// D3: disk Failed; no new local I/O.
    Failed,
    /// D4: handler `local-io-error`; nothing is told, nothing written to the disk before it ended.
    Helper,
    /// D5: tell the peer; it records the ranges and makes its new generation durable.
    TellPeer,
    /// D6: wait until no local I/O is in flight.
    Drain,
    /// D7: write the health file.
    HealthFile,
    /// D8: write the changed bitmap pages.
    Bitmap,
    /// D9: write the superblock if something must be said in it.
    Superblock,
    /// D10: answer every request that still refers to the disk.
    Settle,
    /// D11: disk Diskless.
    Diskless,
    /// D12: close the devices.
    Close,
    /// D13: event, metrics, handler `pri-on-incon-degr`.
    Report,
}

impl DetachStep {
    /// The name of the step in `status` and logs: `D1` to `D13`.
    pub fn label(self) -> &'static str {
        const LABELS: [&str; 13] = [
            "D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "D10", "D11", "D12", "D13",
        ];
        LABELS[self as usize]
    }

    /// What happens in the step, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Note => "note the failed range",
            Self::Decide => "decide",
            Self::Failed => "disk failed",
            Self::Helper => "handler local-io-error",
            Self::TellPeer => "tell the peer",
            Self::Drain => "wait for local I/O",
            Self::HealthFile => "write the health file",
            Self::Bitmap => "write the bitmap",
            Self::Superblock => "write the superblock",
            Self::Settle => "answer waiting requests",
            Self::Diskless => "diskless",
            Self::Close => "close the devices",
            Self::Report => "report",
        }
    }
}

impl fmt::Display for DetachStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.label(), self.text())
    }
}

/// A disk on its way from Failed to Diskless. Shown as Failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Detaching {
    /// What began it.
    pub cause: DetachCause,
    /// The first different cause that came while it ran.
    pub second_cause: Option<DetachCause>,
    /// Local I/O in flight is abandoned instead of awaited.
    pub forced: bool,
    /// A read failed, before or since: its block must not be forgotten (full-sync mark if the bitmap write fails).
    pub read_error_seen: bool,
    /// Some set bit is neither on disk nor inside an extent of the on-disk activity log.
    pub uncovered_bits: bool,
    /// Where the sequence stands.
    pub step: DetachStep,
}

impl Detaching {
    /// The beginning: the disk was just declared Failed because of `cause`.
    pub fn begin(cause: DetachCause, forced: bool) -> Self {
        let read_error_seen = cause == DetachCause::ReadError;
        Self {
            cause,
            second_cause: None,
            forced,
            read_error_seen,
            uncovered_bits: read_error_seen,
            step: DetachStep::Failed,
        }
    }

    /// Takes note of another failure while the sequence runs.
    pub fn note(&mut self, cause: DetachCause) {
        if cause != self.cause && self.second_cause.is_none() {
            self.second_cause = Some(cause);
        }
        if cause == DetachCause::ReadError {
            self.read_error_seen = true;
            self.uncovered_bits = true;
        }
    }
}

impl fmt::Display for Detaching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if let Some(second) = self.second_cause {
            write!(f, "; meanwhile {second}")?;
        }
        write!(
            f,
            " (step {}{})",
            self.step,
            if self.forced { ", forced" } else { "" }
        )
    }
}

/// Why an attach did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachFailure {
    /// Requests of an earlier life of this disk are still in the kernel.
    Busy,
    /// The device could not be opened.
    Open,
    /// Another program holds the device.
    InUse,
    /// Reading or writing the meta-data failed.
    MetaDataIo,
    /// There is no valid meta-data.
    NoMetaData,
    /// The activity log has DRBD's old format.
    OldActivityLog,
    /// The disk is not the one that was used last.
    OtherDisk,
    /// The disk is smaller than agreed with the peer.
    TooSmall,
    /// The data is not what the Primary works with.
    DataNotCurrent,
    /// The new state was refused.
    StateRefused,
    /// A step took too long.
    TimedOut,
    /// A part of the node was restarted meanwhile, or the connection was lost.
    Interrupted,
}

impl fmt::Display for AttachFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "requests of its earlier use are still in the kernel; wait for them",
            Self::Open => "the device could not be opened; check its path and permissions",
            Self::InUse => "another program holds the device; stop it first",
            Self::MetaDataIo => "the meta-data could not be read or written; check the device",
            Self::NoMetaData => "there is no valid meta-data; write it with create-md",
            Self::OldActivityLog => "its activity log has the old format; apply it with drbdmeta first",
            Self::OtherDisk => "it is not the disk that was used last; attach --new-disk accepts it",
            Self::TooSmall => "it is smaller than the size agreed with the peer; enlarge it",
            Self::DataNotCurrent => "its data is not what the Primary works with; connect to the peer first",
            Self::StateRefused => "the resulting state was refused",
            Self::TimedOut => "a step took too long; check the device",
            Self::Interrupted => "interrupted; attach again",
        })
    }
}

/// Why there is no own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisklessReason {
    /// None was attached since this node started.
    NeverAttached,
    /// It was detached; the causes of the detach.
    Detached {
        /// What began the detach.
        cause: DetachCause,
        /// The first different cause that came while it ran.
        second_cause: Option<DetachCause>,
    },
    /// The last attach failed.
    AttachFailed(AttachFailure),
    /// The connection broke before the handshake had decided about this disk.
    ConnectionLostWhileNegotiating,
    /// The handshake did not decide in time; the connection stays.
    NegotiationTimedOut,
}

impl From<&Detaching> for DisklessReason {
    fn from(detaching: &Detaching) -> Self {
        Self::Detached {
            cause: detaching.cause,
            second_cause: detaching.second_cause,
        }
    }
}

impl fmt::Display for DisklessReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverAttached => f.write_str("no disk was attached since the node started"),
            Self::Detached {
                cause,
                second_cause: None,
            } => write!(f, "{cause}"),
            Self::Detached {
                cause,
                second_cause: Some(second),
            } => write!(f, "{cause}; meanwhile {second}"),
            Self::AttachFailed(failure) => write!(f, "attach failed: {failure}"),
            Self::ConnectionLostWhileNegotiating => {
                f.write_str("connection lost while the disk was negotiated with the peer; attach again")
            }
            Self::NegotiationTimedOut => {
                f.write_str("the peer did not decide about the disk in time; attach again")
            }
        }
    }
}

/// Why the own disk is Inconsistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InconsistentReason {
    /// Its meta-data said so when it was attached: never synced, or a resync was interrupted.
    FoundAtAttach,
    /// It is the target of a resync.
    ResyncTarget,
    /// The operator invalidated it.
    Invalidated,
    /// A read failed under `on-io-error pass_on`.
    ReadError,
    /// A write failed under `on-io-error pass_on`.
    WriteError,
    /// A flush failed under `on-io-error pass_on`.
    FlushError,
}

impl InconsistentReason {
    /// Whether a failed request of the own disk is the reason (`pass_on`).
    pub fn is_io_error(self) -> bool {
        matches!(self, Self::ReadError | Self::WriteError | Self::FlushError)
    }
}

impl fmt::Display for InconsistentReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FoundAtAttach => "the disk never had, or has not yet got back, a complete copy of the data",
            Self::ResyncTarget => "a resync from the peer is not finished",
            Self::Invalidated => "invalidated by the operator; a full resync is needed",
            Self::ReadError => "a read failed; the block is taken from the peer",
            Self::WriteError => "a write failed; the block must be resynced from the peer",
            Self::FlushError => "a flush failed; unflushed blocks must be resynced from the peer",
        })
    }
}

/// How a connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownReason {
    /// The peer did not take or acknowledge data in time.
    Timeout,
    /// The socket was closed, or sending failed.
    BrokenPipe,
    /// No answer to a ping, or another network error.
    NetworkFailure,
    /// The peer sent what it must not send.
    ProtocolError,
    /// The peer asked to disconnect.
    TearDown,
}

impl DownReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::Timeout,
        Self::BrokenPipe,
        Self::NetworkFailure,
        Self::ProtocolError,
        Self::TearDown,
    ];

    /// The reason behind a connection state from 3 to 7.
    pub fn of(connection: ConnectionState) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.state() == connection)
    }

    /// The connection state that shows this reason.
    pub fn state(self) -> ConnectionState {
        match self {
            Self::Timeout => ConnectionState::Timeout,
            Self::BrokenPipe => ConnectionState::BrokenPipe,
            Self::NetworkFailure => ConnectionState::NetworkFailure,
            Self::ProtocolError => ConnectionState::ProtocolError,
            Self::TearDown => ConnectionState::TearDown,
        }
    }
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout => "the peer was too slow",
            Self::BrokenPipe => "the connection was closed",
            Self::NetworkFailure => "the peer did not answer, or the network failed",
            Self::ProtocolError => "the peer sent what it must not send",
            Self::TearDown => "the peer disconnected",
        })
    }
}

/// Why this node goes, or went, to StandAlone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectReason {
    /// The operator disconnected.
    Admin,
    /// The operator disconnected by force.
    AdminForced,
    /// One node refused the other's hello for good: another node, another volume, an id that is used twice.
    HandshakeRefused,
    /// The two disks have no common history.
    UnrelatedData,
    /// Both disks went on alone, and no policy says which one wins.
    SplitBrain,
    /// The peer's data is not the data that this diskless Primary works with.
    DataNotCurrent,
    /// The peer's disk is too small.
    TooSmall,
    /// The handler before the resync refused it.
    HandlerVeto,
    /// The state after the handshake was refused (for example two Primaries).
    StateRefused,
    /// No disk has data from which the other could be resynced.
    NoSource,
    /// A Primary would have to be resynced under its application.
    TargetIsPrimary,
    /// The two nodes came to different decisions.
    AnswersDiffer,
    /// One node does not know the rule by which the two disks would have to be compared.
    RuleUnknown,
    /// This node's own part that drives the connection died again and again.
    DriverFailed,
}

impl DisconnectReason {
    /// Those that the peer is told, at the place of their number on the wire less one.
    const TOLD: [Self; 11] = [
        Self::HandshakeRefused,
        Self::UnrelatedData,
        Self::SplitBrain,
        Self::DataNotCurrent,
        Self::TooSmall,
        Self::HandlerVeto,
        Self::StateRefused,
        Self::NoSource,
        Self::TargetIsPrimary,
        Self::AnswersDiffer,
        Self::RuleUnknown,
    ];

    /// Its number in a `Parting`; none for what concerns this node alone.
    pub fn number(self) -> Option<u8> {
        Self::TOLD
            .iter()
            .position(|told| *told == self)
            .and_then(|at| u8::try_from(at + 1).ok())
    }

    /// The reason with this number; one of a newer release counts as [`Self::StateRefused`].
    pub fn from_number(number: u8) -> Self {
        let told = usize::from(number)
            .checked_sub(1)
            .and_then(|at| Self::TOLD.get(at));
        told.copied().unwrap_or(Self::StateRefused)
    }

    /// Whether this node parted because the two do not fit together, not because somebody wanted it so.
    pub fn is_parting(self) -> bool {
        self.number().is_some()
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "disconnected by the operator",
            Self::AdminForced => "disconnected by force",
            Self::HandshakeRefused => "the two nodes are not configured for each other",
            Self::UnrelatedData => "the two disks have no common history",
            Self::SplitBrain => "split brain: both disks went on alone",
            Self::DataNotCurrent => "the data is not what the Primary without a disk works with",
            Self::TooSmall => "a disk is too small",
            Self::HandlerVeto => "the handler before the resync refused it",
            Self::StateRefused => "the state after the handshake is not allowed",
            Self::NoSource => "no disk has data to resync from",
            Self::TargetIsPrimary => "a Primary would be overwritten under its application",
            Self::AnswersDiffer => "the two nodes disagree about whose data is newer",
            Self::RuleUnknown => "one node is too old to compare the two disks",
            Self::DriverFailed => "the part that drives the connection failed repeatedly",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_error_is_remembered_whenever_it_comes() {
        let mut detaching = Detaching::begin(DetachCause::Admin, false);
        assert!(!detaching.read_error_seen);
        detaching.note(DetachCause::ReadError);
        detaching.note(DetachCause::WriteError);
        assert!(detaching.read_error_seen && detaching.uncovered_bits);
        assert_eq!(
            DisklessReason::from(&detaching).to_string(),
            "detached by the operator; meanwhile a read failed"
        );
        assert!(Detaching::begin(DetachCause::ReadError, false).read_error_seen);
        assert!(!Detaching::begin(DetachCause::WriteError, true).read_error_seen);
    }

    #[test]
    fn texts_say_cause_and_step() {
        let cause = DetachCause::Timeout {
            operation: TimedOperation::Write,
            age_ms: 60_042,
        };
        assert_eq!(
            Detaching::begin(cause, true).to_string(),
            "a write did not end within 60.042 s (step D3 disk failed, forced)"
        );
        assert_eq!(DetachStep::Report.label(), "D13");
        assert_eq!(
            DetachCause::MetaData(MetaDataKind::Bitmap).to_string(),
            "a bitmap write failed"
        );
    }

    #[test]
    fn serialised_names_are_stable() {
        let json = |cause: DetachCause| serde_json::to_string(&cause).unwrap();
        assert_eq!(json(DetachCause::DeviceGone), r#""device_gone""#);
        assert_eq!(
            json(DetachCause::MetaData(MetaDataKind::ActivityLog)),
            r#"{"meta_data":"activity_log"}"#
        );
        let detaching = Detaching::begin(DetachCause::TooManyBad, false);
        let text = serde_json::to_string(&detaching).unwrap();
        assert_eq!(serde_json::from_str::<Detaching>(&text).unwrap(), detaching);
    }

    #[test]
    fn down_reasons_are_the_states_three_to_seven() {
        for state in ConnectionState::ALL {
            assert_eq!(DownReason::of(*state).is_some(), state.is_down(), "{state}");
            if let Some(reason) = DownReason::of(*state) {
                assert_eq!(reason.state(), *state);
            }
        }
    }

    #[test]
    fn partings_have_numbers_that_lead_back() {
        for number in 1..=11 {
            assert_eq!(DisconnectReason::from_number(number).number(), Some(number));
        }
        assert_eq!(DisconnectReason::SplitBrain.number(), Some(3));
        assert_eq!(DisconnectReason::Admin.number(), None);
        for unknown in [0, 12, 255] {
            assert_eq!(
                DisconnectReason::from_number(unknown),
                DisconnectReason::StateRefused
            );
        }
    }

    #[test]
    fn only_misbehaviour_of_the_disk_runs_the_handler() {
        assert!(DetachCause::ReadError.is_io_error());
        assert!(DetachCause::MetaData(MetaDataKind::Superblock).is_io_error());
        assert!(!DetachCause::Admin.is_io_error() && !DetachCause::Attach.is_io_error());
    }
}
