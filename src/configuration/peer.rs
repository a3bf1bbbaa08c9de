//! `[volume.peer]`: the other node of a volume, and the options of the connection (DRBD's `net` section).

use super::reader::Reader;
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;

/// Replication protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// A write is answered when both nodes have it.
    #[default]
    C,
}

/// The peer and its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfiguration {
    /// The peer's node id, 0..=31.
    pub node_id: u8,
    /// The peer's name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Replication protocol.
    pub protocol: Protocol,
    /// How long the peer may take for an answer.
    pub timeout: Duration,
    /// So many timeouts without taking data end the connection; `None` = off.
    pub ko_count: Option<u32>,
    /// Pause between two attempts to connect (jittered by the connector).
    pub connect_interval: Duration,
    /// Idle time before a keep-alive.
    pub ping_interval: Duration,
    /// Limit for the answer to a keep-alive.
    pub ping_timeout: Duration,
    /// Memory for the peer's data, pages of 4 KiB.
    pub max_buffers: u32,
    /// Writes between two barriers at most.
    pub max_epoch_size: u32,
}

impl PeerConfiguration {
    pub(super) fn read(reader: &mut Reader<'_, '_>) -> Self {
        reader.refuse_unknown_keys();
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = reader.address("address").unwrap_or(unset);
        if address != unset && address.ip().is_unspecified() {
            reader.refuse_plainly(
                "address",
                "is the address of no particular host: write the one where the peer can be reached",
            );
        }
        let peer = Self {
            node_id: reader.integer("node-id").unwrap_or(0) as u8,
            name: reader.name("name"),
            address,
            protocol: reader.choice("protocol").unwrap_or_default(),
            timeout: reader.tenths("timeout"),
            ko_count: reader
                .integer("ko-count")
                .filter(|&count| count > 0)
                .map(|count| count as u32),
            connect_interval: reader.seconds("connect-int"),
            ping_interval: reader.seconds("ping-int"),
            ping_timeout: reader.tenths("ping-timeout"),
            max_buffers: reader.integer("max-buffers").unwrap_or(0) as u32,
            max_epoch_size: reader.integer("max-epoch-size").unwrap_or(0) as u32,
        };
        for (name, interval) in [
            ("connect-int", peer.connect_interval),
            ("ping-int", peer.ping_interval),
        ] {
            if peer.timeout >= interval {
                let interval = interval.as_secs();
                reader.refuse_plainly(
                    "timeout",
                    format!(
                        "must be less than {name}, which is {interval} s (timeout counts 0.1 s: at most {})",
                        interval * 10 - 1
                    ),
                );
            }
        }
        peer
    }
}
