//! Metrics of a running node: gauges follow the snapshots once a second, counters count where things happen.

use crate::configuration::Configuration;
use mendblock_actors::volume::{ActorStatus, Meters, VolumeHandle};
use mendblock_core::part::PartName;
use mendblock_core::snapshot::Snapshot;
use mendblock_metrics::{
    ActorMetrics, DeathCause, Exporter, ExporterError, NodeMetrics, PeerLabels, PeerMetrics, VolumeLabels,
    VolumeMetrics,
};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// What is known from the last round, to count differences.
#[derive(Default)]
struct Seen {
    actors: BTreeMap<PartName, ActorStatus>,
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
    pub fn volumes(&self) -> Vec<Meters> {
        self.volumes
            .iter()
            .map(|set| Meters {
                volume: Arc::clone(&set.volume),
                peer: set.peer.clone(),
            })
            .collect()
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
        let out_of_sync = counters.out_of_sync_blocks() as f64 * 4096.0;
        self.volume.out_of_sync_bytes.set(out_of_sync);
        self.volume.requests_pending.set(load(&counters.upper_pending));
        self.volume.disk_pending.set(load(&counters.lower_pending));
        self.volume.nbd_sessions.set(load(&handle.sessions));
        self.volume.bad_blocks.set(handle.own_bad_blocks() as f64);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.actors(handle, &mut seen);
        if let Some(snapshot) = handle.last() {
            self.snapshot(&snapshot);
            if let Some(peer) = self.peer.as_ref() {
                peer.out_of_sync_bytes.set(out_of_sync);
                let progress = super::status::progress(handle, &snapshot);
                let (total, left) = progress.map_or((0, 0), |progress| (progress.total, progress.left));
                peer.resync_size_bytes.set(total as f64 * 4096.0);
                peer.resync_left_bytes.set(left as f64 * 4096.0);
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

    fn snapshot(&self, snapshot: &Snapshot) {
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
        }
    }
}
