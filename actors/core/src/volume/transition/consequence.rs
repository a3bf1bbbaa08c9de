//! What follows from a state, or from the step from one state to the next.

use crate::volume::state::{ConnectionState, DiskState, Role, StateVector};
use serde::{Deserialize, Serialize};

/// The flags of the superblock that are a function of the state. AL_CLEAN is cleared with them; CRASHED_PRIMARY is
/// a fact of its own; FULL_SYNC and AL_DISABLED are not touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SuperblockFlags {
    /// CONSISTENT: disk better than Inconsistent.
    pub consistent: bool,
    /// WAS_UP_TO_DATE: disk better than Outdated.
    pub was_up_to_date: bool,
    /// PEER_OUT_DATED: the peer's disk is known to be Inconsistent or Outdated.
    pub peer_outdated: bool,
    /// PRIMARY_IND: this node is Primary, or holds the only disk of a Primary.
    pub primary_indicator: bool,
    /// CONNECTED_IND: connected to the peer.
    pub connected_indicator: bool,
}

/// The superblock flags of a state (S49); `None` without a usable disk: it keeps the flags of its last usable state.
pub fn superblock_flags(state: &StateVector) -> Option<SuperblockFlags> {
    state.disk.is_usable().then(|| SuperblockFlags {
        consistent: state.disk > DiskState::Inconsistent,
        was_up_to_date: state.disk > DiskState::Outdated,
        peer_outdated: matches!(state.peer_disk, DiskState::Inconsistent | DiskState::Outdated),
        primary_indicator: state.role == Role::Primary
            || state.peer_disk < DiskState::Inconsistent && state.peer_role == Role::Primary,
        connected_indicator: state.connection > ConnectionState::WFReportParams,
    })
}

/// Whether the change takes PRIMARY_IND off a disk that stays usable. Then the changed bitmap pages are written
/// *first* and the flag after them: a crash in between must leave either the log's replay or the bits.
pub fn clears_primary_indicator(old: &StateVector, new: &StateVector) -> bool {
    let indicated = |state| superblock_flags(state).map(|flags| flags.primary_indicator);
    indicated(old) == Some(true) && indicated(new) == Some(false)
}

/// Whether writes are sent to the peer. A change of this closes the epoch.
pub fn mirrors_writes(state: &StateVector) -> bool {
    state.peer_disk == DiskState::UpToDate
        || state.peer_disk.is_usable()
            && (ConnectionState::WFBitMapT..ConnectionState::Ahead).contains(&state.connection)
}

/// Whether the peer is only told which blocks a write put out of sync.
pub fn notes_out_of_sync(state: &StateVector) -> bool {
    matches!(
        state.connection,
        ConnectionState::Ahead | ConnectionState::WFBitMapS
    )
}

/// Whether the change loses contact to the peer's data (S51): the reason for a new current generation.
pub fn lost_contact(old: &StateVector, new: &StateVector) -> bool {
    use DiskState::*;
    let (from, to) = (old.peer_disk, new.peer_disk);
    matches!(from, Inconsistent | Consistent | UpToDate)
        && matches!(
            to,
            Diskless | Attaching | Failed | Negotiating | DUnknown | Outdated
        )
        || from == DUnknown && matches!(to, Diskless | Failed | Outdated)
}

/// Whether a request for this change asks the peer first (S42). Facts ask nobody.
pub fn is_cluster_wide(old: &StateVector, new: &StateVector) -> bool {
    use ConnectionState::{Connected, Disconnecting, StartingSyncS, StartingSyncT, VerifyS, WFReportParams};
    let (from, to) = (old.connection, new.connection);
    if !from.is_connected_or_better() {
        return false;
    }
    let starts = |state| to == state && from != state;
    let agreed = to.is_connected_or_better()
        && (old.role != Role::Primary && new.role == Role::Primary
            || starts(StartingSyncT)
            || starts(StartingSyncS)
            || old.disk != DiskState::Failed && new.disk == DiskState::Failed);
    agreed || to == Disconnecting || from == Connected && matches!(to, VerifyS | WFReportParams)
}
