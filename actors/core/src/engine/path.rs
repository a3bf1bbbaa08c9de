//! Which way a request goes: a pure decision from the snapshot and the bad blocks.

use crate::bitmap::BadBlocks;
use crate::configuration::VolumeConfiguration;
use crate::identity::ConnectionNumber;
use crate::part::Instant;
use crate::planted::{Fault, is_planted};
use crate::snapshot::Snapshot;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_storage::units::{BLOCK_SECTORS, BlockRange, SectorRange};

/// The way of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPath {
    /// From the own disk.
    Local,
    /// From the peer.
    Peer(ConnectionNumber),
    /// No way now; there may be one until then.
    Wait(Instant),
    /// No way.
    Nowhere(&'static str),
}

/// The way of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WritePath {
    /// To the own disk.
    pub local: bool,
    /// To the peer.
    pub peer: Option<ConnectionNumber>,
}

/// Whether the own disk takes data operations.
pub(super) fn disk_usable(snapshot: &Snapshot) -> bool {
    snapshot.disk.is_some() && snapshot.vector.disk.is_usable()
}

/// The first entry of a sorted list that touches the range.
fn first_touched(list: &[BlockRange], range: SectorRange) -> Option<BlockRange> {
    let blocks = range.touched_blocks();
    let from = list.partition_point(|bad| bad.end() <= blocks.first());
    list.get(from).copied().filter(|bad| bad.overlaps(blocks))
}

/// Whether the own copy of some block of the range must not be trusted (P2).
pub(super) fn own_bad(bad: &BadBlocks, range: SectorRange) -> bool {
    first_touched(&bad.own, range).is_some() && !is_planted(Fault::ReadBadBlock)
}

/// The first part of the range whose own copy must not be trusted.
pub(super) fn first_own_bad(bad: &BadBlocks, range: SectorRange) -> Option<SectorRange> {
    let first = first_touched(&bad.own, range)?;
    let begin = first.first().saturating_mul(BLOCK_SECTORS).max(range.first());
    let end = first.end().saturating_mul(BLOCK_SECTORS).min(range.end());
    SectorRange::new(begin, u32::try_from(end.checked_sub(begin)?).ok()?)
}

/// How long a request without a way may wait for the link (R12).
fn grace(snapshot: &Snapshot, configuration: &VolumeConfiguration, now: Instant) -> Option<Instant> {
    let until = snapshot.link_lost_at?.after_ms(configuration.reconnect_grace);
    (until > now && snapshot.connection.is_none()).then_some(until)
}

/// The way of a client's read. `no_local`: its local read failed; `no_peer`: the peer could not read it.
pub(super) fn read(
    snapshot: &Snapshot,
    bad: &BadBlocks,
    configuration: &VolumeConfiguration,
    range: SectorRange,
    (no_local, no_peer): (bool, bool),
    now: Instant,
) -> ReadPath {
    let readable = snapshot.vector.disk == DiskState::UpToDate
        || (disk_usable(snapshot) && is_planted(Fault::ReadInconsistent));
    let local = readable && snapshot.disk.is_some() && !no_local && !own_bad(bad, range);
    if local {
        return ReadPath::Local;
    }
    // A block whose last write the peer lacks, or that is bad there, has no way to the peer though it is UpToDate.
    let peer = snapshot
        .connection
        .filter(|_| snapshot.vector.peer_disk == DiskState::UpToDate && !no_peer);
    match peer {
        Some(connection) if first_touched(&bad.peer, range).is_none() => ReadPath::Peer(connection),
        Some(_) => ReadPath::Nowhere("the block is bad here, and its copy at the peer is not current"),
        None => match grace(snapshot, configuration, now) {
            Some(until) => ReadPath::Wait(until),
            None => ReadPath::Nowhere("no good copy of the block is reachable"),
        },
    }
}

/// The way of a client's write; an error waits or fails. `no_local`: it failed on the own disk already.
pub(super) fn write(
    snapshot: &Snapshot,
    configuration: &VolumeConfiguration,
    no_local: bool,
    now: Instant,
) -> Result<WritePath, ReadPath> {
    let peer = snapshot.connection.filter(|_| snapshot.mirror);
    let local = disk_usable(snapshot) && !no_local;
    let up_to_date = snapshot.vector.disk == DiskState::UpToDate && local;
    // T5: success on a disk that is not UpToDate is no success without the peer.
    if up_to_date || (peer.is_some() && (local || snapshot.vector.peer_disk == DiskState::UpToDate)) {
        return Ok(WritePath { local, peer });
    }
    Err(match grace(snapshot, configuration, now) {
        Some(until) => ReadPath::Wait(until),
        None => ReadPath::Nowhere("no up-to-date copy is reachable"),
    })
}

/// Whether a resync runs (or is paused) of which this node is the source.
pub(super) fn copies_to_peer(snapshot: &Snapshot) -> bool {
    matches!(
        snapshot.vector.connection,
        ConnectionState::SyncSource | ConnectionState::PausedSyncS
    )
}

/// Whether mirrored writes may be executed: a target whose START-TARGET is not durable yet parks them.
pub(super) fn executes_received(snapshot: &Snapshot) -> bool {
    matches!(
        snapshot.vector.connection,
        ConnectionState::Connected
            | ConnectionState::SyncSource
            | ConnectionState::SyncTarget
            | ConnectionState::PausedSyncS
            | ConnectionState::PausedSyncT
            | ConnectionState::WFBitMapS
            | ConnectionState::VerifyS
            | ConnectionState::VerifyT
    )
}
