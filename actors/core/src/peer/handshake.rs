//! A socket on which the hellos are not yet exchanged.

use super::{PeerEffect, PeerFrame};
use crate::configuration::VolumeConfiguration;
use crate::part::Instant;

use mendblock_net::wire::hello::{VERSION_MAX, VERSION_MIN};
use mendblock_net::wire::message::{Hello, Message, features};

/// How long the peer may take for its hello, ms.
pub(super) const HELLO_LIMIT: u64 = 2000;

/// The socket.
pub(super) struct Handshake {
    pub dialled: bool,
    pub address: String,
    pub until: Instant,
}

/// The own hello. Nothing here works without one of the features, so all are required.
pub(super) fn own_hello(configuration: &VolumeConfiguration, dialled: bool) -> Hello {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        features: features::ALL,
        required: features::ALL,
        volume: configuration.volume.clone(),
        node_id: configuration.node_id,
        peer_id: configuration.peer_id,
        node_name: configuration.node_name.clone(),
        process_id: configuration.process_id,
        dialled,
    }
}

/// One message without payload, before all that is queued.
pub(super) fn say(socket: u64, message: Message) -> PeerEffect {
    PeerEffect::Send {
        socket,
        frames: vec![PeerFrame {
            message,
            payload: None,
        }],
        urgent: true,
    }
}
