//! Counts of one volume: plain cells on its Arbiter's path, read by `status` and by the metrics.

use crate::facts::Happened;
use mendblock_core::fact::Fact;
use mendblock_metrics::{ErrorKind, Operation, VolumeMetrics};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Counts since the start of the process.
pub struct Counters {
    /// Bytes that clients read.
    pub read_bytes: AtomicU64,
    /// Bytes that clients wrote.
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
    /// Bits set in the bitmap.
    pub out_of_sync_blocks: AtomicU64,
    /// Bits set when the present (or last) resync began.
    pub resync_total_blocks: AtomicU64,
    disk_since: AtomicU64,
    connection_since: AtomicU64,
    metrics: Arc<VolumeMetrics>,
}

impl Counters {
    /// All zero.
    pub fn new(metrics: Arc<VolumeMetrics>) -> Self {
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
            resync_total_blocks: AtomicU64::default(),
            disk_since: AtomicU64::new(now.load(Ordering::Relaxed)),
            connection_since: now,
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

    /// A client's request was answered.
    pub fn client_answered(&self, operation: Operation, bytes: u64, ok: bool, took: Duration) {
        self.upper_pending.fetch_sub(1, Ordering::Relaxed);
        if !ok {
            self.metrics.client_failed(operation, 1);
            return;
        }
        match operation {
            Operation::Read => self.read_bytes.fetch_add(bytes, Ordering::Relaxed),
            Operation::Write | Operation::WriteZeroes | Operation::Trim => {
                self.written_bytes.fetch_add(bytes, Ordering::Relaxed)
            }
            Operation::Flush => 0,
        };
        self.metrics.client_answered(operation, 1, bytes);
        self.metrics.client_duration(operation, took.as_secs_f64());
    }

    /// An operation on the lower disk ended well.
    pub fn disk_ended(&self, operation: Operation, bytes: u64, took: Duration) {
        self.metrics.disk_ended(operation, 1, bytes);
        self.metrics.disk_duration(operation, took.as_secs_f64());
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
            Fact::HelperEnded { handler, .. } => self.metrics.handler_ran(handler),
            Fact::BadBlocks {
                range,
                change: "healed",
                ..
            } => self.metrics.blocks_mended.increment(u64::from(range.count())),
            Fact::ResyncStarted { bits, .. } => self.resync_total_blocks.store(*bits, Ordering::Relaxed),
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

fn wall_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
