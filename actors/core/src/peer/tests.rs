//! The peer part under a hand-driven shell, alone and as a pair.

mod alone;
mod pair;

use super::*;
use crate::configuration::VolumeConfiguration;
use crate::part::Instant;
use mendblock_net::wire::message::Message;

fn configuration(node_id: u8) -> VolumeConfiguration {
    VolumeConfiguration::sample(node_id)
}

fn bare(message: Message) -> PeerFrame {
    PeerFrame {
        message,
        payload: None,
    }
}

fn at(ms: u64) -> Instant {
    Instant(0).after_ms(ms)
}
