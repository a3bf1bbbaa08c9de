//! Series of a volume, its disk and its actors.

use crate::state::{DISK_STATES, ROLES, StateGauge};
use crate::table;
use metrics::{Counter, Gauge, Histogram};

/// What clients and the disk do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush.
    Flush,
    /// Trim (discard).
    Trim,
    /// Write-zeroes.
    WriteZeroes,
}

impl Operation {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Flush, "flush"),
        (Self::Trim, "trim"),
        (Self::WriteZeroes, "write_zeroes"),
    ];
}

/// What failed on the own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A read of data.
    Read,
    /// A write of data.
    Write,
    /// A flush.
    Flush,
    /// A read or write of meta-data.
    Meta,
    /// An operation that did not end in time.
    Timeout,
}

impl ErrorKind {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Read, "read"),
        (Self::Write, "write"),
        (Self::Flush, "flush"),
        (Self::Meta, "meta"),
        (Self::Timeout, "timeout"),
    ];
}

/// Why a disk was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DetachCause {
    /// The operator asked for it.
    Admin,
    /// A read error.
    ReadError,
    /// A write error.
    WriteError,
    /// A flush failed.
    FlushError,
    /// An error of the meta-data.
    MetaData,
    /// The device is no longer there.
    DeviceGone,
    /// The device has no space left.
    NoSpace,
    /// The device became write-protected.
    ReadOnly,
    /// The device refused the alignment of our I/O.
    Alignment,
    /// The device became smaller.
    Shrunk,
    /// An operation was too old.
    Timeout,
    /// More bad blocks than the list holds.
    TooManyBad,
    /// The rewrite of a bad block failed.
    HealFailed,
    /// The budget of healing is spent.
    HealBudget,
    /// A healed block went bad again.
    HealDoesNotHold,
    /// The last write of an attach failed.
    Attach,
    /// The handshake refused the data of this disk.
    NegotiationRefused,
    /// The disk's driver (its actor) failed too often.
    DriverFailed,
}

impl DetachCause {
    const ALL: [(Self, &'static str); 18] = [
        (Self::Admin, "admin"),
        (Self::ReadError, "read_error"),
        (Self::WriteError, "write_error"),
        (Self::FlushError, "flush_error"),
        (Self::MetaData, "meta_data"),
        (Self::DeviceGone, "device_gone"),
        (Self::NoSpace, "no_space"),
        (Self::ReadOnly, "read_only"),
        (Self::Alignment, "alignment"),
        (Self::Shrunk, "shrunk"),
        (Self::Timeout, "timeout"),
        (Self::TooManyBad, "too_many_bad"),
        (Self::HealFailed, "heal_failed"),
        (Self::HealBudget, "heal_budget"),
        (Self::HealDoesNotHold, "heal_does_not_hold"),
        (Self::Attach, "attach"),
        (Self::NegotiationRefused, "negotiation_refused"),
        (Self::DriverFailed, "driver_failed"),
    ];
}

/// How an actor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathCause {
    /// It panicked.
    Panicked,
    /// It was stopped.
    Stopped,
    /// It hung, and was aborted.
    Hung,
}

impl DeathCause {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Panicked, "panicked"),
        (Self::Stopped, "stopped"),
        (Self::Hung, "hung"),
    ];
}

/// Handlers of this release.
pub const HANDLERS: &[&str] = &[
    "local-io-error",
    "pri-on-incon-degr",
    "split-brain",
    "initial-split-brain",
    "before-resync-target",
    "before-resync-source",
    "after-resync-target",
];

/// Which volume.
#[derive(Clone, Copy, Debug)]
pub struct VolumeLabels<'a> {
    /// Name.
    pub volume: &'a str,
    /// Minor number.
    pub minor: u32,
}

/// Handles of the operations of clients, or of the disk.
#[derive(Clone)]
struct OperationMetrics {
    count: Counter,
    bytes: Counter,
    duration: Histogram,
}

/// Handles of a volume's series. Register once per volume.
#[derive(Clone)]
pub struct VolumeMetrics {
    role: StateGauge,
    disk_state: StateGauge,
    drbd_device_state: StateGauge,
    suspended: [(&'static str, Gauge); 3],
    client: Vec<OperationMetrics>,
    client_errors: Vec<Counter>,
    disk: Vec<OperationMetrics>,
    disk_errors: Vec<Counter>,
    detaches: Vec<Counter>,
    handler_runs: Vec<(&'static str, Counter)>,
    /// Size for clients, bytes.
    pub size_bytes: Gauge,
    /// Bytes whose bit is set.
    pub out_of_sync_bytes: Gauge,
    /// Blocks on the bad-block list.
    pub bad_blocks: Gauge,
    /// Client requests admitted and not answered.
    pub requests_pending: Gauge,
    /// Operations of the own disk under way.
    pub disk_pending: Gauge,
    /// NBD sessions open.
    pub nbd_sessions: Gauge,
    /// NBD sessions opened.
    pub nbd_sessions_opened: Counter,
    /// Bad blocks mended.
    pub blocks_mended: Counter,
    /// Activity-log transactions.
    pub al_transactions: Counter,
    /// Bitmap pages written.
    pub bitmap_page_writes: Counter,
}

impl VolumeMetrics {
    /// Registers them, all at 0.
    pub fn new(labels: VolumeLabels<'_>) -> Self {
        let name = labels.volume;
        let volume = &[name];
        let minor = labels.minor.to_string();
        Self {
            role: StateGauge::new(&table::VOLUME_ROLE, volume, ROLES),
            disk_state: StateGauge::new(&table::DISK_STATE, volume, DISK_STATES),
            // A volume of ours is a DRBD resource with the one volume 0.
            drbd_device_state: StateGauge::new(&table::DRBD_DEVICE_STATE, &[name, "0", &minor], DISK_STATES),
            suspended: ["user", "no-data", "fencing"]
                .map(|reason| (reason, table::VOLUME_SUSPENDED.gauge(&[name, reason]))),
            client: Operation::ALL
                .map(|(_, operation)| client_operation(name, operation))
                .into(),
            client_errors: Operation::ALL
                .map(|(_, operation)| table::REQUEST_ERRORS.counter(&[name, operation]))
                .into(),
            disk: Operation::ALL
                .map(|(_, operation)| disk_operation(name, operation))
                .into(),
            disk_errors: ErrorKind::ALL
                .map(|(_, kind)| table::DISK_ERRORS.counter(&[name, kind]))
                .into(),
            detaches: DetachCause::ALL
                .map(|(_, cause)| table::DETACHES.counter(&[name, cause]))
                .into(),
            handler_runs: HANDLERS
                .iter()
                .map(|handler| (*handler, table::HANDLER_RUNS.counter(&[name, handler])))
                .collect(),
            size_bytes: table::VOLUME_SIZE.gauge(volume),
            out_of_sync_bytes: table::OUT_OF_SYNC.gauge(volume),
            bad_blocks: table::BAD_BLOCKS.gauge(volume),
            requests_pending: table::REQUESTS_PENDING.gauge(volume),
            disk_pending: table::DISK_PENDING.gauge(volume),
            nbd_sessions: table::NBD_SESSIONS.gauge(volume),
            nbd_sessions_opened: table::NBD_SESSIONS_OPENED.counter(volume),
            blocks_mended: table::BLOCKS_MENDED.counter(volume),
            al_transactions: table::AL_TRANSACTIONS.counter(volume),
            bitmap_page_writes: table::BITMAP_PAGES.counter(volume),
        }
    }

    /// The role, in DRBD's spelling.
    pub fn set_role(&self, role: &str) {
        self.role.set(role);
    }

    /// The state of the own disk, in DRBD's spelling.
    pub fn set_disk_state(&self, state: &str) {
        self.disk_state.set(state);
        self.drbd_device_state.set(state);
    }

    /// For which reasons client I/O is suspended: `user`, `no-data`, `fencing`.
    pub fn set_suspended(&self, reasons: &[&str]) {
        for (reason, gauge) in &self.suspended {
            gauge.set(f64::from(u8::from(reasons.contains(reason))));
        }
    }

    /// `count` client requests were answered well, with `bytes` in all.
    pub fn client_answered(&self, operation: Operation, count: u64, bytes: u64) {
        let metrics = &self.client[operation as usize];
        metrics.count.increment(count);
        metrics.bytes.increment(bytes);
    }

    /// `count` client requests were answered with an error (they count as answered, too).
    pub fn client_failed(&self, operation: Operation, count: u64) {
        let metrics = &self.client[operation as usize];
        metrics.count.increment(count);
        self.client_errors[operation as usize].increment(count);
    }

    /// How long a client request took, seconds.
    pub fn client_duration(&self, operation: Operation, seconds: f64) {
        self.client[operation as usize].duration.record(seconds);
    }

    /// `count` disk operations ended, with `bytes` in all.
    pub fn disk_ended(&self, operation: Operation, count: u64, bytes: u64) {
        let metrics = &self.disk[operation as usize];
        metrics.count.increment(count);
        metrics.bytes.increment(bytes);
    }

    /// How long a disk operation took, seconds.
    pub fn disk_duration(&self, operation: Operation, seconds: f64) {
        self.disk[operation as usize].duration.record(seconds);
    }

    /// The own disk had an error.
    pub fn disk_error(&self, kind: ErrorKind) {
        self.disk_errors[kind as usize].increment(1);
    }

    /// A handler was run; one that is not of [`HANDLERS`] is not counted.
    pub fn handler_ran(&self, handler: &str) {
        if let Some((_, runs)) = self.handler_runs.iter().find(|(known, _)| *known == handler) {
            runs.increment(1);
        }
    }

    /// The own disk was given up.
    pub fn detached(&self, cause: DetachCause) {
        self.detaches[cause as usize].increment(1);
    }
}

fn client_operation(volume: &str, operation: &str) -> OperationMetrics {
    let values = &[volume, operation];
    OperationMetrics {
        count: table::REQUESTS.counter(values),
        bytes: table::REQUEST_BYTES.counter(values),
        duration: table::REQUEST_DURATION.histogram(values),
    }
}

fn disk_operation(volume: &str, operation: &str) -> OperationMetrics {
    let values = &[volume, operation];
    OperationMetrics {
        count: table::DISK_OPERATIONS.counter(values),
        bytes: table::DISK_BYTES.counter(values),
        duration: table::DISK_DURATION.histogram(values),
    }
}

/// Handles of an actor's series. Register once per actor; all generations share them.
#[derive(Clone)]
pub struct ActorMetrics {
    deaths: Vec<Counter>,
    /// Deaths that were followed by a new generation.
    pub restarts: Counter,
}

impl ActorMetrics {
    /// Registers them. `volume` is empty for an actor of the node.
    pub fn new(volume: &str, actor: &str) -> Self {
        Self {
            deaths: DeathCause::ALL
                .map(|(_, cause)| table::ACTOR_DEATHS.counter(&[volume, actor, cause]))
                .into(),
            restarts: table::ACTOR_RESTARTS.counter(&[volume, actor]),
        }
    }

    /// The actor died.
    pub fn died(&self, cause: DeathCause) {
        self.deaths[cause as usize].increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enumerations_index_their_lists() {
        assert!(
            Operation::ALL
                .iter()
                .enumerate()
                .all(|(index, (item, _))| *item as usize == index)
        );
        assert!(
            ErrorKind::ALL
                .iter()
                .enumerate()
                .all(|(index, (item, _))| *item as usize == index)
        );
        assert!(
            DetachCause::ALL
                .iter()
                .enumerate()
                .all(|(index, (item, _))| *item as usize == index)
        );
        assert!(
            DeathCause::ALL
                .iter()
                .enumerate()
                .all(|(index, (item, _))| *item as usize == index)
        );
    }
}
