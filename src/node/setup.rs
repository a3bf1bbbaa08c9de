//! From the configuration file to what the actors are made of.

use crate::configuration::{
    Configuration, IoBackend, MetaDisk, OnIoError, OnNoDataAccessible, PeerConfiguration, VolumeConfiguration,
};
use mendblock_actors::ports::disk::DiskConfiguration;
use mendblock_actors::ports::helper::HandlerConfiguration;
use mendblock_actors::volume::VolumeSetup;
use mendblock_core::configuration as core;
use mendblock_net::transport::TcpOptions;
use mendblock_storage::device::fault::FaultHandle;
use mendblock_storage::device::{Backend, Options};
use mendblock_storage::format::layout::MetaIndex;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the buffer pool of a volume.
const POOL_BYTES: usize = 64 << 20;

/// Setup of one volume.
pub fn volume(
    configuration: &Configuration,
    volume: &VolumeConfiguration,
    file: &Path,
    allow_kill: bool,
) -> VolumeSetup {
    let peer = volume.peer.as_ref();
    let faults = FaultHandle::new();
    for rule in &volume.faults {
        super::faults::add(&faults, rule);
    }
    VolumeSetup {
        configuration: Arc::new(parts(configuration, volume)),
        disk: DiskConfiguration {
            data: volume.disk.clone(),
            meta: match &volume.meta_disk {
                MetaDisk::Internal => None,
                MetaDisk::External(path) => Some(path.clone()),
            },
            options: Options {
                backend: match volume.io_backend {
                    IoBackend::Auto => Backend::Auto,
                    IoBackend::IoUring => Backend::IoUring,
                    IoBackend::Threads => Backend::Threads,
                },
                read_only: false,
            },
        },
        faults,
        handlers: Arc::new(handlers(configuration, volume, file)),
        state_dir: configuration.node.state_dir.clone(),
        peer: peer.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), |peer| peer.address),
        tcp: TcpOptions::default(),
        pool_bytes: POOL_BYTES,
        allow_kill,
    }
}

fn parts(configuration: &Configuration, volume: &VolumeConfiguration) -> core::VolumeConfiguration {
    let peer = volume.peer.as_ref();
    let rate = &volume.resync_rate;
    core::VolumeConfiguration {
        volume: volume.name.clone(),
        node_id: configuration.node.id,
        node_name: configuration.node.name.clone(),
        peer_id: peer.map_or(31, |peer| peer.node_id),
        peer_name: peer.map_or_else(|| "no peer".to_owned(), |peer| peer.name.clone()),
        process_id: mendblock_actors::clock::random(),
        meta_index: match volume.meta_disk {
            MetaDisk::Internal => MetaIndex::Internal,
            MetaDisk::External(_) => MetaIndex::FlexExternal,
        },
        on_io_error: match volume.on_io_error {
            OnIoError::PassOn => core::OnIoError::PassOn,
            OnIoError::CallLocalIoError => core::OnIoError::CallLocalIoError,
            OnIoError::Detach => core::OnIoError::Detach,
        },
        on_no_data: match volume.on_no_data_accessible {
            OnNoDataAccessible::IoError => core::OnNoData::IoError,
            OnNoDataAccessible::SuspendIo => core::OnNoData::SuspendIo,
        },
        al_extents: volume.al_extents,
        max_epoch_size: peer.map_or(2048, |peer| peer.max_epoch_size),
        peer_window: peer.map_or(8 << 20, |peer| u64::from(peer.max_buffers) * 4096),
        detach_step_timeout: millis(volume.detach_step_timeout),
        helper_timeout: millis(volume.helper_timeout),
        reconnect_grace: millis(volume.reconnect_grace),
        disk_timeout: volume.disk_timeout.map_or(0, millis),
        peer_timeout: peer.map_or(0, peer_timeout),
        ping_interval: peer.map_or(10_000, |peer| millis(peer.ping_interval)),
        ping_timeout: peer.map_or(500, |peer| millis(peer.ping_timeout)),
        connect_interval: peer.map_or(10_000, |peer| millis(peer.connect_interval)),
        resync: core::ResyncRate {
            resync_rate: clamp(rate.initial / 1024),
            plan_ahead: tenths(rate.plan_ahead),
            delay_target: tenths(rate.delay_target),
            fill_target: clamp(rate.fill_target / 512),
            max_rate: clamp(rate.max / 1024),
            min_rate: clamp(rate.min / 1024),
        },
    }
}

/// DRBD's `timeout` × `ko-count`; without `ko-count` never.
fn peer_timeout(peer: &PeerConfiguration) -> u64 {
    peer.ko_count
        .map_or(0, |count| millis(peer.timeout) * u64::from(count))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn tenths(duration: Duration) -> u32 {
    clamp(millis(duration) / 100)
}

fn clamp(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Handlers and the environment that DRBD's get.
fn handlers(
    configuration: &Configuration,
    volume: &VolumeConfiguration,
    file: &Path,
) -> HandlerConfiguration {
    let mut environment = vec![
        ("DRBD_RESOURCE".to_owned(), volume.name.clone()),
        ("DRBD_MINOR".to_owned(), volume.minor.to_string()),
        ("DRBD_VOLUME".to_owned(), "0".to_owned()),
        ("DRBD_LL_DISK".to_owned(), volume.disk.display().to_string()),
        ("DRBD_CONF".to_owned(), file.display().to_string()),
        ("DRBD_MY_NODE_ID".to_owned(), configuration.node.id.to_string()),
    ];
    if let Some(peer) = volume.peer.as_ref() {
        let family = if peer.address.is_ipv4() { "ipv4" } else { "ipv6" };
        environment.extend([
            ("DRBD_PEER".to_owned(), peer.name.clone()),
            ("DRBD_PEERS".to_owned(), peer.name.clone()),
            ("DRBD_PEER_AF".to_owned(), family.to_owned()),
            ("DRBD_PEER_ADDRESS".to_owned(), peer.address.ip().to_string()),
            ("DRBD_PEER_NODE_ID".to_owned(), peer.node_id.to_string()),
        ]);
    }
    HandlerConfiguration {
        lines: volume
            .handlers
            .iter()
            .map(|(name, line)| ((*name).to_owned(), line.clone()))
            .collect(),
        environment,
    }
}
