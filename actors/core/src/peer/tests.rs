//! The peer part under a hand-driven shell, alone and as a pair.

mod alone;
mod pair;

use super::*;
use crate::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use crate::part::Instant;
use mendblock_net::wire::message::Message;
use mendblock_storage::format::layout::MetaIndex;

fn configuration(node_id: u8) -> VolumeConfiguration {
    VolumeConfiguration {
        volume: "data".to_owned(),
        node_id,
        node_name: format!("node{node_id}"),
        peer_id: 1 - node_id,
        peer_name: format!("node{}", 1 - node_id),
        process_id: 100 + u64::from(node_id),
        meta_index: MetaIndex::Internal,
        on_io_error: OnIoError::Detach,
        on_no_data: OnNoData::IoError,
        al_extents: 1237,
        max_epoch_size: 2048,
        peer_window: 1 << 20,
        detach_step_timeout: 10_000,
        helper_timeout: 10_000,
        reconnect_grace: 10_000,
        disk_timeout: 0,
        peer_timeout: 6_000,
        ping_interval: 10_000,
        ping_timeout: 500,
        connect_interval: 10_000,
        resync: ResyncRate {
            resync_rate: 102_400,
            plan_ahead: 20,
            delay_target: 10,
            fill_target: 8192,
            max_rate: 4 << 20,
            min_rate: 250,
        },
    }
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
