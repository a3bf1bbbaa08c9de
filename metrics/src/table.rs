//! The table of all metrics: name, kind, unit, labels, help. Code names a metric only through its constant here.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Unit};

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// One series per possible state, 1 for the state it is in and 0 for the others.
    State,
    /// Distribution over [`LATENCY_BUCKETS`](crate::exporter::LATENCY_BUCKETS).
    Histogram,
}

impl Kind {
    /// The type as Prometheus names it.
    pub fn prometheus(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge | Self::State => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, with the unit by Prometheus' rules.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Unit; `None`: a number of things.
    pub unit: Option<Unit>,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// Help text.
    pub help: &'static str,
}

const METADATA: Metadata<'static> = Metadata::new("mendblock", Level::INFO, None);

impl Metric {
    /// The key of one series. `values` are those of [`labels`](Self::labels), in order.
    ///
    /// # Panics
    /// There are more or fewer values than labels: a mistake in this package, which its tests find.
    fn key(&self, values: &[&str]) -> Key {
        assert_eq!(
            values.len(),
            self.labels.len(),
            "{} has the labels {:?}",
            self.name,
            self.labels
        );
        let labels = self
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, (*value).to_owned()));
        Key::from_parts(self.name, labels.collect::<Vec<_>>())
    }

    pub(crate) fn counter(&self, values: &[&str]) -> Counter {
        metrics::with_recorder(|recorder| recorder.register_counter(&self.key(values), &METADATA))
    }

    pub(crate) fn gauge(&self, values: &[&str]) -> Gauge {
        metrics::with_recorder(|recorder| recorder.register_gauge(&self.key(values), &METADATA))
    }

    pub(crate) fn histogram(&self, values: &[&str]) -> Histogram {
        metrics::with_recorder(|recorder| recorder.register_histogram(&self.key(values), &METADATA))
    }

    /// Tells the installed recorder the help text.
    pub(crate) fn describe(&self) {
        metrics::with_recorder(|recorder| match self.kind {
            Kind::Counter => recorder.describe_counter(self.name.into(), self.unit, self.help.into()),
            Kind::Gauge | Kind::State => {
                recorder.describe_gauge(self.name.into(), self.unit, self.help.into())
            }
            Kind::Histogram => recorder.describe_histogram(self.name.into(), self.unit, self.help.into()),
        });
    }
}

const BYTES: Option<Unit> = Some(Unit::Bytes);
const SECONDS: Option<Unit> = Some(Unit::Seconds);

macro_rules! metrics_table {
    ($($constant:ident = $kind:ident $name:literal $unit:expr, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help };
        )*

        /// All metrics.
        pub const METRICS: &[Metric] = &[$($constant),*];
    };
}

#[rustfmt::skip]
metrics_table! {
    NODE_INFO = Gauge "mendblock_node_info" None, ["node", "node_id", "version"], "Always 1; the labels say which node and release this is";
    NODE_START_TIME = Gauge "mendblock_node_start_time_seconds" SECONDS, [], "When the node started, seconds since 1970";
    NODE_VOLUMES = Gauge "mendblock_node_volumes" None, [], "Configured volumes";

    VOLUME_ROLE = State "mendblock_volume_role" None, ["volume", "role"], "Role of this node for the volume";
    VOLUME_SUSPENDED = Gauge "mendblock_volume_suspended" None, ["volume", "reason"], "1 while client I/O is suspended for this reason";
    VOLUME_SIZE = Gauge "mendblock_volume_size_bytes" BYTES, ["volume"], "Size for clients";
    DISK_STATE = State "mendblock_disk_state" None, ["volume", "state"], "State of the own disk";
    OUT_OF_SYNC = Gauge "mendblock_out_of_sync_bytes" BYTES, ["volume"], "Bytes whose out-of-sync bit is set";
    BAD_BLOCKS = Gauge "mendblock_bad_blocks" None, ["volume"], "Blocks of 4 KiB on the list of bad blocks of the own disk";
    REQUESTS_PENDING = Gauge "mendblock_client_requests_pending" None, ["volume"], "Client requests admitted and not answered";
    REQUESTS = Counter "mendblock_client_requests_total" None, ["volume", "operation"], "Client requests answered";
    REQUEST_BYTES = Counter "mendblock_client_bytes_total" BYTES, ["volume", "operation"], "Bytes of client requests answered";
    REQUEST_ERRORS = Counter "mendblock_client_errors_total" None, ["volume", "operation"], "Client requests answered with an error";
    REQUEST_DURATION = Histogram "mendblock_client_request_duration_seconds" SECONDS, ["volume", "operation"], "From the admission of a client request to its answer";
    NBD_SESSIONS = Gauge "mendblock_nbd_sessions" None, ["volume"], "NBD sessions open";
    NBD_SESSIONS_OPENED = Counter "mendblock_nbd_sessions_opened_total" None, ["volume"], "NBD sessions opened";
    DISK_OPERATIONS = Counter "mendblock_disk_operations_total" None, ["volume", "operation"], "Operations of the own disk that ended, meta-data included";
    DISK_BYTES = Counter "mendblock_disk_bytes_total" BYTES, ["volume", "operation"], "Bytes read from and written to the own disk";
    DISK_DURATION = Histogram "mendblock_disk_operation_duration_seconds" SECONDS, ["volume", "operation"], "From the submission of a disk operation to its completion";
    DISK_PENDING = Gauge "mendblock_disk_operations_pending" None, ["volume"], "Operations of the own disk under way";
    DISK_ERRORS = Counter "mendblock_disk_errors_total" None, ["volume", "kind"], "Errors of the own disk";
    DETACHES = Counter "mendblock_detaches_total" None, ["volume", "cause"], "Times that the own disk was given up";
    BLOCKS_MENDED = Counter "mendblock_blocks_mended_total" None, ["volume"], "Bad blocks that were rewritten from a good copy and read back";
    AL_TRANSACTIONS = Counter "mendblock_al_transactions_total" None, ["volume"], "Activity-log transactions written";
    BITMAP_PAGES = Counter "mendblock_bitmap_page_writes_total" None, ["volume"], "Bitmap pages written";
    ACTOR_DEATHS = Counter "mendblock_actor_deaths_total" None, ["volume", "actor", "cause"], "Deaths of actors";
    ACTOR_RESTARTS = Counter "mendblock_actor_restarts_total" None, ["volume", "actor"], "Deaths of actors that were followed by a new generation";
    HANDLER_RUNS = Counter "mendblock_handler_runs_total" None, ["volume", "handler"], "Handlers run";

    CONNECTION_STATE = State "mendblock_connection_state" None, ["volume", "peer", "state"], "State of the connection, and of the replication from Connected on";
    PEER_ROLE = State "mendblock_peer_role" None, ["volume", "peer", "role"], "Role of the peer";
    PEER_DISK_STATE = State "mendblock_peer_disk_state" None, ["volume", "peer", "state"], "State of the peer's disk";
    CONNECTION_LOSSES = Counter "mendblock_connection_losses_total" None, ["volume", "peer"], "Connections that broke";
    SENT = Counter "mendblock_peer_sent_bytes_total" BYTES, ["volume", "peer"], "Bytes of data sent to the peer, application and resync";
    RECEIVED = Counter "mendblock_peer_received_bytes_total" BYTES, ["volume", "peer"], "Bytes of data received from the peer";
    PEER_PENDING = Gauge "mendblock_peer_requests_pending" None, ["volume", "peer"], "Requests sent to the peer whose answer is outstanding";
    PEER_UNACKNOWLEDGED = Gauge "mendblock_peer_requests_unacknowledged" None, ["volume", "peer"], "Requests of the peer that are not answered yet";
    BARRIERS = Counter "mendblock_barriers_total" None, ["volume", "peer"], "Barriers sent to the peer";
    PEER_DURATION = Histogram "mendblock_peer_write_duration_seconds" SECONDS, ["volume", "peer"], "From the sending of a mirrored write to its acknowledgement";
    RESYNC_TOTAL = Gauge "mendblock_resync_size_bytes" BYTES, ["volume", "peer"], "Bytes to do when the running resync began; 0 = none runs";
    RESYNC_LEFT = Gauge "mendblock_resync_left_bytes" BYTES, ["volume", "peer"], "Bytes left of the running resync";
    RESYNC_FAILED = Counter "mendblock_resync_failed_bytes_total" BYTES, ["volume", "peer"], "Bytes of blocks that a resync could not copy";

    DRBD_DEVICE_STATE = State "drbd_device_state" None, ["name", "volume", "minor", "drbd_device_state"], "State of the own disk, as drbd-reactor exports it";
    DRBD_CONNECTION_STATE = State "drbd_connection_state" None, ["name", "conn_name", "peer_node_id", "drbd_connection_state"], "Connection state in DRBD 9's words, as drbd-reactor exports it";
    DRBD_OUT_OF_SYNC = Gauge "drbd_peerdevice_outofsync_bytes" BYTES, ["name", "conn_name", "peer_node_id", "volume"], "Bytes out of sync with the peer, as drbd-reactor exports it";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in METRICS
            .iter()
            .filter(|metric| metric.name.starts_with("mendblock_"))
        {
            let total = metric.name.ends_with("_total");
            assert_eq!(total, metric.kind == Kind::Counter, "{}", metric.name);
            let base = metric.name.trim_end_matches("_total");
            match metric.unit {
                Some(unit) => assert!(base.ends_with(&format!("_{}", unit.as_str())), "{}", metric.name),
                None => assert!(
                    !base.ends_with("_bytes") && !base.ends_with("_seconds"),
                    "{}",
                    metric.name
                ),
            }
            assert!(
                !metric.help.is_empty() && !metric.help.ends_with('.'),
                "{}",
                metric.name
            );
        }
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
