//! Counts of one volume: plain cells on its Arbiter's path, read by `status` and by the metrics.

use crate::clock::Clock;
use crate::facts::Happened;
use mendblock_core::fact::Fact;
use mendblock_core::resync::{Marks, Progress};
use mendblock_core::volume::state::DetachCause;
use mendblock_metrics::{DetachCause as Cause, ErrorKind, Operation, PeerMetrics, VolumeMetrics};
use mendblock_net::wire::message::Message;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counts since the start of the process.
pub struct Counters {
    /// Data read from the lower disk, for whomever: clients, the peer, a resync.
    pub read_bytes: AtomicU64,
    /// Data written to it, zeroes and trims included, by whomever.
    pub written_bytes: AtomicU64,
    /// Activity-log transactions.
    pub al_writes: AtomicU64,
    /// Bitmap pages written.
    pub bm_writes: AtomicU64,
    /// Requests of clients that are open.
    pub upper_pending: AtomicU64,
    /// Operations on the lower disk that are open.
    pub lower_pending: AtomicU64,
    /// Failed reads.
    pub read_errors: AtomicU64,
    /// Failed writes and flushes.
    pub write_errors: AtomicU64,
    /// Failed meta-data operations.
    pub meta_errors: AtomicU64,
    out_of_sync_blocks: AtomicU64,
    /// Traffic with the peer.
    pub peer: PeerCounters,
    disk_since: AtomicU64,
    connection_since: AtomicU64,
    source: Mutex<Option<SourceRun>>,
    clock: Clock,
    metrics: Arc<VolumeMetrics>,
}

/// A resync whose source this node is: the target plans it, but the bits that are left are known here as well.
struct SourceRun {
    total: u64,
    marks: Marks,
}

/// Traffic with the peer since the start of the process.
#[derive(Default)]
pub struct PeerCounters {
    /// Bytes of data sent, application and resync.
    pub sent_bytes: AtomicU64,
    /// Bytes of data received.
    pub received_bytes: AtomicU64,
    /// Requests sent whose answer is outstanding.
    pub pending: AtomicU64,
    /// Requests received and not answered.
    pub unacknowledged: AtomicU64,
    /// Barriers sent.
    pub barriers: AtomicU64,
    /// Connections that broke.
    pub losses: AtomicU64,
    /// None: the volume has no peer.
    metrics: Option<PeerMetrics>,
}

impl PeerCounters {
    fn new(metrics: Option<PeerMetrics>) -> Self {
        Self {
            metrics,
            ..Self::default()
        }
    }

    /// A frame was put into the queue of a socket.
    pub fn sent(&self, message: &Message, payload: u64) {
        if matches!(message, Message::Barrier { .. }) {
            self.barriers.fetch_add(1, Ordering::Relaxed);
            if let Some(metrics) = &self.metrics {
                metrics.barriers.increment(1);
            }
        } else if payload > 0 && is_data(message) {
            self.sent_bytes.fetch_add(payload, Ordering::Relaxed);
            if let Some(metrics) = &self.metrics {
                metrics.sent_bytes.increment(payload);
            }
        }
    }

    /// A frame arrived whole.
    pub fn received(&self, message: &Message, payload: u64) {
        if payload > 0 && is_data(message) {
            self.received_bytes.fetch_add(payload, Ordering::Relaxed);
            if let Some(metrics) = &self.metrics {
                metrics.received_bytes.increment(payload);
            }
        }
    }

    /// So many requests of both sides are open; so long took writes that were acknowledged, ns.
    pub fn measured(&self, pending: u64, unacknowledged: u64, writes: &[u64]) {
        self.pending.store(pending, Ordering::Relaxed);
        self.unacknowledged.store(unacknowledged, Ordering::Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.pending.set(pending as f64);
            metrics.unacknowledged.set(unacknowledged as f64);
            for nanoseconds in writes {
                metrics.write_duration.record(*nanoseconds as f64 / 1e9);
            }
        }
    }

    fn lost(&self) {
        self.losses.fetch_add(1, Ordering::Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.losses.increment(1);
        }
    }

    fn resync_failed(&self, blocks: u64) {
        if let Some(metrics) = &self.metrics {
            metrics.resync_failed_bytes.increment(blocks * 4096);
        }
    }
}

/// Whether the payload is data of the volume: the bitmap's pages are not.
fn is_data(message: &Message) -> bool {
    matches!(
        message,
        Message::Write { .. } | Message::ReadData { .. } | Message::ResyncData { .. }
    )
}

impl Counters {
    /// All zero.
    pub fn new(metrics: Arc<VolumeMetrics>, peer: Option<PeerMetrics>, clock: Clock) -> Self {
        let now = AtomicU64::new(wall_millis());
        Self {
            read_bytes: AtomicU64::default(),
            written_bytes: AtomicU64::default(),
            al_writes: AtomicU64::default(),
            bm_writes: AtomicU64::default(),
            upper_pending: AtomicU64::default(),
            lower_pending: AtomicU64::default(),
            read_errors: AtomicU64::default(),
            write_errors: AtomicU64::default(),
            meta_errors: AtomicU64::default(),
            out_of_sync_blocks: AtomicU64::default(),
            peer: PeerCounters::new(peer),
            disk_since: AtomicU64::new(now.load(Ordering::Relaxed)),
            connection_since: now,
            source: Mutex::default(),
            clock,
            metrics,
        }
    }

    /// The metrics of the volume.
    pub fn metrics(&self) -> &VolumeMetrics {
        &self.metrics
    }

    /// Since when the disk is in its state, seconds since 1970.
    pub fn disk_since(&self) -> f64 {
        self.disk_since.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Since when the connection is in its state, seconds since 1970.
    pub fn connection_since(&self) -> f64 {
        self.connection_since.load(Ordering::Relaxed) as f64 / 1000.0
    }

    /// Bits set in the bitmap.
    pub fn out_of_sync_blocks(&self) -> u64 {
        self.out_of_sync_blocks.load(Ordering::Relaxed)
    }

    /// So many bits are set in the bitmap now.
    pub fn set_out_of_sync(&self, blocks: u64) {
        self.out_of_sync_blocks.store(blocks, Ordering::Relaxed);
        if let Some(run) = self.source().as_mut() {
            run.total = run.total.max(blocks);
            run.marks.note(self.clock.now(), blocks);
        }
    }

    /// How far the resync is whose source this node is; a paused one has no speed.
    pub fn source_progress(&self, paused: bool) -> Option<Progress> {
        let left = self.out_of_sync_blocks();
        let mut source = self.source();
        let run = source.as_mut()?;
        let rate = if paused {
            run.marks.restart();
            0
        } else {
            run.marks.note(self.clock.now(), left)
        };
        Some(Progress {
            total: run.total.max(left),
            left,
            failed: 0,
            rate,
        })
    }

    fn source(&self) -> std::sync::MutexGuard<'_, Option<SourceRun>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resync_started(&self, source: bool, bits: u64) {
        let mut marks = Marks::default();
        marks.note(self.clock.now(), bits);
        *self.source() = source.then_some(SourceRun { total: bits, marks });
    }

    /// A client's request was answered.
    pub fn client_answered(&self, operation: Operation, bytes: u64, ok: bool, took: Duration) {
        self.upper_pending.fetch_sub(1, Ordering::Relaxed);
        if !ok {
            self.metrics.client_failed(operation, 1);
            return;
        }
        self.metrics.client_answered(operation, 1, bytes);
        self.metrics.client_duration(operation, took.as_secs_f64());
    }

    /// An operation on the lower disk ended well.
    pub fn disk_ended(&self, operation: Operation, bytes: u64, took: Duration) {
        self.metrics.disk_ended(operation, 1, bytes);
        self.metrics.disk_duration(operation, took.as_secs_f64());
    }

    /// It was one on data, not on meta-data.
    pub fn data_moved(&self, operation: Operation, bytes: u64) {
        match operation {
            Operation::Read => self.read_bytes.fetch_add(bytes, Ordering::Relaxed),
            Operation::Write | Operation::WriteZeroes | Operation::Trim => {
                self.written_bytes.fetch_add(bytes, Ordering::Relaxed)
            }
            Operation::Flush => 0,
        };
    }

    /// A fact of one of the volume's parts.
    pub fn observe(&self, happened: &Happened) {
        match &happened.fact {
            Fact::StateChanged { old, new, .. } => {
                if old.disk != new.disk {
                    self.disk_since.store(wall_millis(), Ordering::Relaxed);
                }
                if old.connection != new.connection {
                    self.connection_since.store(wall_millis(), Ordering::Relaxed);
                }
            }
            Fact::IoError { kind, .. } => self.io_error(kind),
            Fact::BitmapWritten { pages } => {
                self.bm_writes.fetch_add(u64::from(*pages), Ordering::Relaxed);
                self.metrics.bitmap_page_writes.increment(u64::from(*pages));
            }
            Fact::ActivityTransaction { .. } => {
                self.al_writes.fetch_add(1, Ordering::Relaxed);
                self.metrics.al_transactions.increment(1);
            }
            Fact::DiskTimeout { .. } => self.metrics.disk_error(ErrorKind::Timeout),
            Fact::DiskGivenUp { cause } => self.metrics.detached(cause_word(*cause)),
            Fact::LinkDown { .. } => self.peer.lost(),
            Fact::ResyncEnded { failed, .. } => {
                *self.source() = None;
                self.peer.resync_failed(*failed);
            }
            Fact::BadBlocks {
                range,
                change: "healed",
                ..
            } => self.metrics.blocks_mended.increment(u64::from(range.count())),
            Fact::ResyncStarted { source, bits } => self.resync_started(*source, *bits),
            _ => {}
        }
    }

    fn io_error(&self, kind: &str) {
        let (counter, kind) = match kind {
            "read" => (&self.read_errors, ErrorKind::Read),
            "write" => (&self.write_errors, ErrorKind::Write),
            "flush" => (&self.write_errors, ErrorKind::Flush),
            _ => (&self.meta_errors, ErrorKind::Meta),
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.metrics.disk_error(kind);
    }
}

fn cause_word(cause: DetachCause) -> Cause {
    match cause {
        DetachCause::Admin => Cause::Admin,
        DetachCause::ReadError => Cause::ReadError,
        DetachCause::WriteError => Cause::WriteError,
        DetachCause::FlushError => Cause::FlushError,
        DetachCause::MetaData(_) => Cause::MetaData,
        DetachCause::DeviceGone => Cause::DeviceGone,
        DetachCause::NoSpace => Cause::NoSpace,
        DetachCause::ReadOnly => Cause::ReadOnly,
        DetachCause::Alignment => Cause::Alignment,
        DetachCause::Shrunk => Cause::Shrunk,
        DetachCause::Timeout { .. } => Cause::Timeout,
        DetachCause::TooManyBad => Cause::TooManyBad,
        DetachCause::HealFailed => Cause::HealFailed,
        DetachCause::HealBudgetHour | DetachCause::HealBudgetTotal => Cause::HealBudget,
        DetachCause::HealDoesNotHold => Cause::HealDoesNotHold,
        DetachCause::Attach => Cause::Attach,
        DetachCause::NegotiationRefused => Cause::NegotiationRefused,
        DetachCause::DriverFailed => Cause::DriverFailed,
    }
}

fn wall_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
