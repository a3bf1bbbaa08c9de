//! What `status` shows, from the last snapshot of each volume.

use super::Node;
use crate::admin::schema::{
    ActorStatus, ConnectionStatus, DetachProgress, DiskStatus, Generations, IoCounters, NodeStatus,
    ReplicationCounters, ResyncProgress, Status, VolumeStatus, Wait,
};
use crate::configuration::VolumeConfiguration;
use mendblock_actors::volume::VolumeHandle;
use mendblock_core::part::Instant;
use mendblock_core::resync::Progress;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::state::{PauseFlags, SuspendReasons};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Status of the node.
pub fn status(node: &Node) -> Status {
    let now = SystemTime::now();
    Status {
        node: NodeStatus {
            name: node.configuration.node.name.clone(),
            id: node.configuration.node.id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now
                .duration_since(node.started)
                .map_or(0.0, |up| up.as_secs_f64()),
            now: seconds(now),
        },
        volumes: node
            .volumes
            .iter()
            .zip(&node.configuration.volumes)
            .map(|(handle, configuration)| volume(handle, configuration, seconds(now)))
            .collect(),
    }
}

/// Wall clock of a monotonic moment.
fn wall(handle: &VolumeHandle, now: f64, at: Instant) -> f64 {
    let current = handle.clock.now();
    now + (at.0 as f64 - current.0 as f64) / 1e9
}

/// Status of one volume.
pub fn volume(handle: &VolumeHandle, configuration: &VolumeConfiguration, now: f64) -> VolumeStatus {
    let mut status = VolumeStatus {
        name: configuration.name.clone(),
        minor: configuration.minor,
        faults: super::faults::list(&handle.setup.faults),
        actors: actors(handle),
        io: io(handle),
        open: u32::try_from(handle.sessions.load(Ordering::Relaxed)).unwrap_or(u32::MAX),
        bad_blocks: handle.own_bad_blocks(),
        ..VolumeStatus::default()
    };
    let Some(snapshot) = handle.last() else {
        return status;
    };
    let vector = snapshot.vector;
    status.role = vector.role.to_string();
    status.suspended = suspended(vector.suspended);
    status.size_bytes = snapshot.volume_sectors * 512;
    status.out_of_sync_bytes = handle.counters.out_of_sync_blocks() * 4096;
    status.disk = disk(handle, configuration, &snapshot, now);
    status.generations = generations(&snapshot);
    status.waits = snapshot
        .waits
        .iter()
        .map(|wait| Wait {
            who: wait.who.to_owned(),
            what: wait.what.clone(),
            since: wall(handle, now, wait.since),
            until: wait
                .until
                .filter(|at| at.0 != u64::MAX)
                .map(|at| wall(handle, now, at)),
        })
        .collect();
    status.why = super::why::why(&configuration.name, &snapshot, status.bad_blocks);
    status.connections = configuration
        .peer
        .iter()
        .map(|peer| connection(handle, &peer.name, peer.node_id, &snapshot))
        .collect();
    status
}

fn suspended(reasons: SuspendReasons) -> Vec<String> {
    [
        (reasons.user, "user"),
        (reasons.no_data, "no-data"),
        (reasons.fencing, "fencing"),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .map(|(_, name)| name.to_owned())
    .collect()
}

fn paused(flags: PauseFlags) -> Vec<String> {
    [
        (flags.user, "user"),
        (flags.peer, "peer"),
        (flags.dependency, "dependency"),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .map(|(_, name)| name.to_owned())
    .collect()
}

fn disk(
    handle: &VolumeHandle,
    configuration: &VolumeConfiguration,
    snapshot: &Snapshot,
    now: f64,
) -> DiskStatus {
    DiskStatus {
        state: snapshot.vector.disk.to_string(),
        reason: super::why::disk_reason(snapshot).unwrap_or_default(),
        since: handle.counters.disk_since(),
        path: configuration.disk.display().to_string(),
        meta_path: handle
            .setup
            .disk
            .meta
            .as_ref()
            .map_or_else(|| "internal".to_owned(), |path| path.display().to_string()),
        backend: snapshot.disk.as_ref().map_or("", |disk| disk.backend).to_owned(),
        detach: snapshot.reasons.detaching.map(|detaching| DetachProgress {
            step: detaching.step.label().to_owned(),
            text: detaching.step.text().to_owned(),
            until: snapshot
                .waits
                .iter()
                .find(|wait| wait.who == detaching.step.label())
                .and_then(|wait| wait.until)
                .filter(|at| at.0 != u64::MAX)
                .map(|at| wall(handle, now, at)),
        }),
    }
}

fn generations(snapshot: &Snapshot) -> Generations {
    let ids = snapshot.identifiers;
    let flags = snapshot
        .disk
        .as_ref()
        .map(|disk| disk.superblock.flags.names().map(str::to_owned).collect());
    Generations {
        current: ids.current.to_string(),
        bitmap: ids.bitmap.to_string(),
        history: ids.history.iter().map(ToString::to_string).collect(),
        flags: flags.unwrap_or_default(),
    }
}

fn connection(handle: &VolumeHandle, name: &str, node_id: u8, snapshot: &Snapshot) -> ConnectionStatus {
    let vector = snapshot.vector;
    let reasons = &snapshot.reasons;
    let reason = reasons
        .disconnected
        .map(|reason| reason.to_string())
        .or_else(|| reasons.turned_away.clone())
        .or_else(|| reasons.down.map(|reason| reason.to_string()));
    ConnectionStatus {
        name: name.to_owned(),
        node_id,
        state: vector.connection.to_string(),
        reason: reason
            .filter(|_| !vector.connection.is_connected_or_better())
            .unwrap_or_default(),
        since: handle.counters.connection_since(),
        role: vector.peer_role.to_string(),
        peer_disk: vector.peer_disk.to_string(),
        resync_suspended: paused(vector.paused),
        resync: progress(handle, snapshot).map(resync),
        replication: replication(handle),
    }
}

/// Progress of the resync that runs. The target plans it; the source tells it from its bits.
pub fn progress(handle: &VolumeHandle, snapshot: &Snapshot) -> Option<Progress> {
    let vector = snapshot.vector;
    if !vector.connection.is_resync() {
        return None;
    }
    let bits = handle.counters.out_of_sync_blocks();
    let paused = vector.paused.any();
    let unknown = Progress {
        total: bits,
        left: bits,
        ..Progress::default()
    };
    let planned = *handle.progress.borrow();
    let progress = planned
        .or_else(|| handle.counters.source_progress(paused))
        .unwrap_or(unknown);
    Some(Progress {
        total: progress.total.max(progress.left),
        // The planner tells what it knew at its last look; the bits tell what is done.
        left: progress.left.min(bits),
        ..progress
    })
}

fn resync(progress: Progress) -> ResyncProgress {
    let Progress {
        total,
        left,
        failed,
        rate,
    } = progress;
    let rate = rate * 1024;
    ResyncProgress {
        done_percent: 100.0 * (total - left) as f64 / total.max(1) as f64,
        total_bytes: total * 4096,
        left_bytes: left * 4096,
        failed_bytes: failed * 4096,
        rate_bytes_per_second: rate,
        eta_seconds: (rate > 0).then(|| (left * 4096) as f64 / rate as f64),
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn replication(handle: &VolumeHandle) -> ReplicationCounters {
    let counters = &handle.counters.peer;
    ReplicationCounters {
        sent_bytes: load(&counters.sent_bytes),
        received_bytes: load(&counters.received_bytes),
        pending: load(&counters.pending),
        unacknowledged: load(&counters.unacknowledged),
        barriers: load(&counters.barriers),
        connection_losses: load(&counters.losses),
    }
}

fn actors(handle: &VolumeHandle) -> Vec<ActorStatus> {
    handle
        .actors
        .list()
        .into_iter()
        .map(|actor| ActorStatus {
            name: actor.part.as_str().to_owned(),
            generation: actor.generation.0,
            restarts: actor.deaths(),
        })
        .collect()
}

fn io(handle: &VolumeHandle) -> IoCounters {
    let counters = &handle.counters;
    IoCounters {
        read_bytes: load(&counters.read_bytes),
        written_bytes: load(&counters.written_bytes),
        al_writes: load(&counters.al_writes),
        bm_writes: load(&counters.bm_writes),
        upper_pending: load(&counters.upper_pending),
        lower_pending: load(&counters.lower_pending),
        read_errors: load(&counters.read_errors),
        write_errors: load(&counters.write_errors),
        meta_errors: load(&counters.meta_errors),
    }
}
