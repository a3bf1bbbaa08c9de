//! The states that can exist.

use crate::volume::state::{ConnectionState, DiskState, Role, StateVector};

/// Whether connection, disk and peer's disk can occur together, steady or in passing. What a change yields always
/// does. Nothing is known of a peer that is not connected, and a resync is Paused exactly while a flag says so.
///
/// Other than in DRBD, Connected goes with an Outdated or Consistent disk (nobody could confirm its data), and the
/// target of a resync may stay Outdated in the eyes of its source.
///
/// | connection | disk | peer's disk |
/// |---|---|---|
/// | below Connected | any but Negotiating | Inconsistent, Outdated, DUnknown |
/// | Connected | any | any known |
/// | StartingSyncT, WFBitMapT, WFSyncUUID, PausedSyncT, Behind | Inconsistent, Outdated | UpToDate |
/// | SyncTarget | Inconsistent | UpToDate |
/// | StartingSyncS, WFBitMapS, PausedSyncS, Ahead | UpToDate | Inconsistent, Outdated, Consistent |
/// | SyncSource | UpToDate | Inconsistent |
/// | VerifyS, VerifyT | UpToDate | UpToDate |
pub fn is_legal(state: &StateVector) -> bool {
    use ConnectionState as C;
    use DiskState::*;
    let (disk, peer_disk) = (state.disk, state.peer_disk);
    let triple = match state.connection {
        C::Connected => peer_disk != DUnknown,
        C::StartingSyncT | C::WFBitMapT | C::WFSyncUUID | C::PausedSyncT | C::Behind => {
            matches!(disk, Inconsistent | Outdated) && peer_disk == UpToDate
        }
        C::SyncTarget => disk == Inconsistent && peer_disk == UpToDate,
        C::StartingSyncS | C::WFBitMapS | C::PausedSyncS | C::Ahead => {
            disk == UpToDate && matches!(peer_disk, Inconsistent | Outdated | Consistent)
        }
        C::SyncSource => disk == UpToDate && peer_disk == Inconsistent,
        C::VerifyS | C::VerifyT => disk == UpToDate && peer_disk == UpToDate,
        _ => disk != Negotiating && matches!(peer_disk, Inconsistent | Outdated | DUnknown),
    };
    let peer_known = state.connection.is_connected_or_better();
    let paused_as_flagged = match state.connection {
        C::SyncSource | C::SyncTarget => !state.paused.any(),
        C::PausedSyncS | C::PausedSyncT => state.paused.any(),
        _ => true,
    };
    triple
        && paused_as_flagged
        && state.role != Role::Unknown
        && disk != DUnknown
        && (peer_known || state.peer_role == Role::Unknown && !state.paused.peer)
}
