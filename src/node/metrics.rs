//! Metrics of a running node: gauges follow the snapshots once a second, counters count where things happen.

use crate::configuration::Configuration;
use mendblock_actors::volume::{ActorStatus, VolumeHandle};
use mendblock_core::part::PartName;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::state::{DetachCause, DisklessReason};
use mendblock_metrics::{
    ActorMetrics, DeathCause, DetachCause as Cause, Exporter, ExporterError, NodeMetrics, PeerLabels,
    PeerMetrics, VolumeLabels, VolumeMetrics,
};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known from the last round, to count differences.
#[derive(Default)]
struct Seen {
    actors: BTreeMap<PartName, ActorStatus>,
    diskless: Option<DisklessReason>,
    connected: bool,
}

struct VolumeSet {
    volume: Arc<VolumeMetrics>,
    peer: Option<PeerMetrics>,
    actors: BTreeMap<PartName, ActorMetrics>,
    seen: Mutex<Seen>,
}

/// All metrics of the node.
pub struct NodeMetricsSet {
    exporter: Exporter,
    node: NodeMetrics,
    volumes: Vec<VolumeSet>,
}

impl NodeMetricsSet {
    /// Registers everything.
    pub fn new(configuration: &Configuration, started: f64) -> Result<Self, ExporterError> {
        let exporter = Exporter::install()?;
        let node = NodeMetrics::new(
            &configuration.node.name,
            configuration.node.id,
            env!("CARGO_PKG_VERSION"),
            started,
        );
        let volumes = configuration
            .volumes
            .iter()
            .map(|volume| VolumeSet {
                volume: Arc::new(VolumeMetrics::new(VolumeLabels {
                    volume: &volume.name,
                    minor: volume.minor,
                })),
                peer: volume.peer.as_ref().map(|peer| {
                    PeerMetrics::new(PeerLabels {
                        volume: &volume.name,
                        peer: &peer.name,
                        node_id: peer.node_id,
                    })
                }),
                actors: PartName::ALL
                    .into_iter()
                    .map(|part| (part, ActorMetrics::new(&volume.name, part.as_str())))
                    .collect(),
                seen: Mutex::default(),
            })
            .collect();
        Ok(Self {
            exporter,
            node,
            volumes,
        })
    }

    /// Handles of each volume, in the configuration's order.
    pub fn volumes(&self) -> Vec<Arc<VolumeMetrics>> {
        self.volumes.iter().map(|set| Arc::clone(&set.volume)).collect()
    }

    /// Brings the gauges up to date and lets the recorder tidy up.
    pub fn tick(&self, volumes: &[VolumeHandle]) {
        self.node.volumes.set(volumes.len() as f64);
        for (set, handle) in self.volumes.iter().zip(volumes) {
            set.tick(handle);
        }
        self.exporter.run_upkeep();
    }

    /// The Prometheus text.
    pub fn render(&self) -> String {
        self.exporter.render()
    }
}

impl VolumeSet {
    fn tick(&self, handle: &VolumeHandle) {
        let counters = &handle.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let out_of_sync = load(&counters.out_of_sync_blocks) * 4096.0;
        self.volume.out_of_sync_bytes.set(out_of_sync);
        self.volume.requests_pending.set(load(&counters.upper_pending));
        self.volume.disk_pending.set(load(&counters.lower_pending));
        self.volume.nbd_sessions.set(load(&handle.sessions));
        let bad: u64 = handle
            .bad_blocks
            .borrow()
            .own
            .iter()
            .map(|range| u64::from(range.count()))
            .sum();
        self.volume.bad_blocks.set(bad as f64);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.actors(handle, &mut seen);
        if let Some(snapshot) = handle.last() {
            self.snapshot(&snapshot, &mut seen);
            if let Some(peer) = self.peer.as_ref() {
                peer.out_of_sync_bytes.set(out_of_sync);
                let progress = handle.progress.borrow().unwrap_or_default();
                let running = snapshot.vector.connection.is_resync();
                peer.resync_size_bytes.set(if running {
                    progress.total as f64 * 4096.0
                } else {
                    0.0
                });
                peer.resync_left_bytes.set(if running {
                    progress.left as f64 * 4096.0
                } else {
                    0.0
                });
            }
        }
    }

    fn actors(&self, handle: &VolumeHandle, seen: &mut Seen) {
        for status in handle.actors.list() {
            let Some(metrics) = self.actors.get(&status.part) else {
                continue;
            };
            let before = seen.actors.insert(status.part, status);
            let before = before.unwrap_or(ActorStatus {
                panicked: 0,
                stopped: 0,
                hung: 0,
                ..status
            });
            for (cause, now, then) in [
                (DeathCause::Panicked, status.panicked, before.panicked),
                (DeathCause::Stopped, status.stopped, before.stopped),
                (DeathCause::Hung, status.hung, before.hung),
            ] {
                for _ in then..now {
                    metrics.died(cause);
                    metrics.restarts.increment(1);
                }
            }
        }
    }

    fn snapshot(&self, snapshot: &Snapshot, seen: &mut Seen) {
        let vector = snapshot.vector;
        self.volume.size_bytes.set(snapshot.volume_sectors as f64 * 512.0);
        self.volume.set_role(&vector.role.to_string());
        self.volume.set_disk_state(&vector.disk.to_string());
        let suspended = vector.suspended.to_string();
        let reasons: Vec<&str> = suspended.split(',').filter(|reason| *reason != "no").collect();
        self.volume.set_suspended(&reasons);
        if let Some(peer) = self.peer.as_ref() {
            peer.set_state(&vector.connection.to_string());
            peer.set_role(&vector.peer_role.to_string());
            peer.set_disk_state(&vector.peer_disk.to_string());
            let connected = vector.connection.is_connected_or_better();
            if seen.connected && !connected {
                peer.losses.increment(1);
            }
            seen.connected = connected;
        }
        let diskless = snapshot.reasons.diskless;
        if diskless != seen.diskless
            && let Some(DisklessReason::Detached { cause, .. }) = diskless
        {
            self.volume.detached(cause_word(cause));
        }
        seen.diskless = diskless;
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
