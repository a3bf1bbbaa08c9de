//! States as gauges: one series per possible state.

use crate::table::Metric;
use metrics::Gauge;

/// DRBD's roles.
pub const ROLES: &[&str] = &["Unknown", "Primary", "Secondary"];

/// DRBD's disk states, worst first.
pub const DISK_STATES: &[&str] = &[
    "Diskless",
    "Attaching",
    "Failed",
    "Negotiating",
    "Inconsistent",
    "Outdated",
    "DUnknown",
    "Consistent",
    "UpToDate",
];

/// DRBD 8.4's connection states, by rising number.
pub const CONNECTION_STATES: &[&str] = &[
    "StandAlone",
    "Disconnecting",
    "Unconnected",
    "Timeout",
    "BrokenPipe",
    "NetworkFailure",
    "ProtocolError",
    "TearDown",
    "WFConnection",
    "WFReportParams",
    "Connected",
    "StartingSyncS",
    "StartingSyncT",
    "WFBitMapS",
    "WFBitMapT",
    "WFSyncUUID",
    "SyncSource",
    "SyncTarget",
    "VerifyS",
    "VerifyT",
    "PausedSyncS",
    "PausedSyncT",
    "Ahead",
    "Behind",
];

/// How many of [`CONNECTION_STATES`] are connection states in DRBD 9 too; the rest is its `Connected`.
const BELOW_CONNECTED: usize = 10;

/// DRBD 9's connection states: 8.4's below `Connected` with `Connecting` for `WFConnection`.
pub const DRBD9_CONNECTION_STATES: &[&str] = &[
    "StandAlone",
    "Disconnecting",
    "Unconnected",
    "Timeout",
    "BrokenPipe",
    "NetworkFailure",
    "ProtocolError",
    "TearDown",
    "Connecting",
    "Connected",
];

/// The DRBD 9 word of an 8.4 connection state.
pub fn drbd9_connection_state(state: &str) -> &str {
    match CONNECTION_STATES.iter().position(|known| *known == state) {
        Some(8) => "Connecting",
        // WFReportParams is a connection on which the peer's state is awaited: connected without replication.
        Some(index) if index + 1 >= BELOW_CONNECTED => "Connected",
        _ => state,
    }
}

/// A state as one gauge per possible state: 1 for the present one, 0 for the others; all 0 before the first
/// [`set`](Self::set).
#[derive(Clone)]
pub struct StateGauge {
    states: &'static [&'static str],
    gauges: Vec<Gauge>,
}

impl StateGauge {
    /// Registers the series. `values` are those of all labels but the last, which takes the state.
    pub(crate) fn new(metric: &Metric, values: &[&str], states: &'static [&'static str]) -> Self {
        let gauges = states.iter().map(|state| {
            let values: Vec<&str> = values.iter().copied().chain([*state]).collect();
            let gauge = metric.gauge(&values);
            gauge.set(0.0);
            gauge
        });
        Self {
            states,
            gauges: gauges.collect(),
        }
    }

    /// The state is `state` now. An unknown word leaves all series at 0.
    pub fn set(&self, state: &str) {
        for (known, gauge) in self.states.iter().zip(&self.gauges) {
            gauge.set(if *known == state { 1.0 } else { 0.0 });
        }
    }
}
