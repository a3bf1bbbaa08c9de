//! `[node]`: what is configured once per node.

use super::reader::Reader;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Unix socket of the admin API where neither configuration nor command line names one.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/mendblock/admin.sock";

/// The node itself. Each field is the key of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfiguration {
    /// Name that handlers, status and the peer show.
    pub name: String,
    /// Number, 0..=31.
    pub id: u8,
    /// Where peers connect to; there if any volume has a peer.
    pub listen: Option<SocketAddr>,
    /// Directory of the health files.
    pub state_dir: PathBuf,
    /// Unix socket of the admin API.
    pub admin_socket: PathBuf,
    /// Prometheus endpoint; `None` = off.
    pub metrics_listen: Option<SocketAddr>,
    /// Unix socket for NBD clients.
    pub nbd_unix: Option<PathBuf>,
    /// TCP address for NBD clients.
    pub nbd_tcp: Option<SocketAddr>,
    /// Filter of log lines, as `tracing_subscriber::EnvFilter` reads it.
    pub log: String,
}

impl NodeConfiguration {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        reader.refuse_unknown_keys();
        let log = reader.text("log").unwrap_or_default();
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&log) {
            reader.refuse("log", error.to_string());
        }
        Self {
            name: reader.name("name"),
            id: reader.integer("id").unwrap_or(0) as u8,
            listen: reader.address("listen"),
            state_dir: reader.path("state-dir").unwrap_or_default(),
            admin_socket: reader.path("admin-socket").unwrap_or_default(),
            metrics_listen: reader.address("metrics-listen"),
            nbd_unix: reader.path("nbd-unix"),
            nbd_tcp: reader.address("nbd-tcp"),
            log,
        }
    }
}
