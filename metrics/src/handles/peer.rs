//! Series of a volume's connection to a peer.

use crate::state::{
    CONNECTION_STATES, DISK_STATES, DRBD9_CONNECTION_STATES, ROLES, StateGauge, drbd9_connection_state,
};
use crate::table;
use metrics::{Counter, Gauge, Histogram};

/// Which connection.
#[derive(Clone, Copy, Debug)]
pub struct PeerLabels<'a> {
    /// Name of the volume.
    pub volume: &'a str,
    /// Name of the peer.
    pub peer: &'a str,
    /// Its node id.
    pub node_id: u8,
}

/// Handles of a connection's series. Register once per volume and peer.
#[derive(Clone)]
pub struct PeerMetrics {
    state: StateGauge,
    drbd_state: StateGauge,
    role: StateGauge,
    disk_state: StateGauge,
    /// Bytes out of sync with this peer.
    pub out_of_sync_bytes: Gauge,
    /// Connections that broke.
    pub losses: Counter,
    /// Bytes of data sent.
    pub sent_bytes: Counter,
    /// Bytes of data received.
    pub received_bytes: Counter,
    /// Requests sent whose answer is outstanding.
    pub pending: Gauge,
    /// Requests received and not answered.
    pub unacknowledged: Gauge,
    /// Barriers sent.
    pub barriers: Counter,
    /// From the sending of a mirrored write to its acknowledgement, seconds.
    pub write_duration: Histogram,
    /// Bytes to do when the running resync began; 0 = none runs.
    pub resync_size_bytes: Gauge,
    /// Bytes left of it.
    pub resync_left_bytes: Gauge,
    /// Bytes that a resync could not copy.
    pub resync_failed_bytes: Counter,
}

impl PeerMetrics {
    /// Registers them, all at 0.
    pub fn new(labels: PeerLabels<'_>) -> Self {
        let series = &[labels.volume, labels.peer];
        let id = labels.node_id.to_string();
        let drbd = &[labels.volume, labels.peer, &id];
        Self {
            state: StateGauge::new(&table::CONNECTION_STATE, series, CONNECTION_STATES),
            drbd_state: StateGauge::new(&table::DRBD_CONNECTION_STATE, drbd, DRBD9_CONNECTION_STATES),
            role: StateGauge::new(&table::PEER_ROLE, series, ROLES),
            disk_state: StateGauge::new(&table::PEER_DISK_STATE, series, DISK_STATES),
            out_of_sync_bytes: table::DRBD_OUT_OF_SYNC.gauge(&[labels.volume, labels.peer, &id, "0"]),
            losses: table::CONNECTION_LOSSES.counter(series),
            sent_bytes: table::SENT.counter(series),
            received_bytes: table::RECEIVED.counter(series),
            pending: table::PEER_PENDING.gauge(series),
            unacknowledged: table::PEER_UNACKNOWLEDGED.gauge(series),
            barriers: table::BARRIERS.counter(series),
            write_duration: table::PEER_DURATION.histogram(series),
            resync_size_bytes: table::RESYNC_TOTAL.gauge(series),
            resync_left_bytes: table::RESYNC_LEFT.gauge(series),
            resync_failed_bytes: table::RESYNC_FAILED.counter(series),
        }
    }

    /// The connection state, in DRBD 8.4's spelling.
    pub fn set_state(&self, state: &str) {
        self.state.set(state);
        self.drbd_state.set(drbd9_connection_state(state));
    }

    /// The peer's role, in DRBD's spelling.
    pub fn set_role(&self, role: &str) {
        self.role.set(role);
    }

    /// The state of the peer's disk, in DRBD's spelling.
    pub fn set_disk_state(&self, state: &str) {
        self.disk_state.set(state);
    }
}
