//! Series of the node.

use crate::table;
use metrics::Gauge;

/// Handles of the node's series.
#[derive(Clone)]
pub struct NodeMetrics {
    /// Configured volumes.
    pub volumes: Gauge,
}

impl NodeMetrics {
    /// Registers them. `started`: seconds since 1970.
    pub fn new(node: &str, node_id: u8, version: &str, started: f64) -> Self {
        table::NODE_INFO
            .gauge(&[node, &node_id.to_string(), version])
            .set(1.0);
        table::NODE_START_TIME.gauge(&[]).set(started);
        Self {
            volumes: table::NODE_VOLUMES.gauge(&[]),
        }
    }
}
