//! Every metric of a node in one table ([`table::METRICS`]), handles that are registered once ([`VolumeMetrics`],
//! [`PeerMetrics`], [`NodeMetrics`]), and the Prometheus text ([`Exporter`]).
//!
//! A handle costs an atomic operation per call. Code on the hot path counts in plain cells of its own and publishes
//! once per second.

pub mod exporter;
pub mod handles;
pub mod state;
pub mod table;

pub use exporter::{Exporter, ExporterError};
pub use handles::node::NodeMetrics;
pub use handles::peer::{PeerLabels, PeerMetrics};
pub use handles::volume::{
    ActorMetrics, DeathCause, DetachCause, ErrorKind, Operation, VolumeLabels, VolumeMetrics,
};
pub use state::StateGauge;
