//! Silent corrections, made on every change before any check.

use super::{Confirmed, Fencing, Kind, Policy, effective_fencing};
use crate::volume::state::{ConnectionState, DiskState, Role, StateVector};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A correction worth telling, once the change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// A disk no longer allows the running verify.
    VerifyAborted,
    /// A disk no longer allows the running resync.
    ResyncAborted,
    /// The connection broke before the handshake had decided about the own disk, which is given up.
    ConnectionLostWhileNegotiating,
    /// The Negotiating disk becomes the target of a resync, and Inconsistent by that.
    NegotiatingBecameTarget,
    /// The source of a resync had an error on its disk and stays UpToDate, without its bad blocks.
    SourceStaysUpToDate,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VerifyAborted => "Online-verify aborted.",
            Self::ResyncAborted => "Resync aborted.",
            Self::ConnectionLostWhileNegotiating => "Connection lost while negotiating, no data!",
            Self::NegotiatingBecameTarget => {
                "Implicitly upgraded disk: target of a resync, Inconsistent until it ends."
            }
            Self::SourceStaysUpToDate => {
                "Implicitly upgraded disk: source of a resync, stays UpToDate without its bad blocks."
            }
        })
    }
}

/// Lowest and highest state of a disk.
pub(super) struct Bounds {
    pub(super) min: DiskState,
    pub(super) max: DiskState,
}

impl Bounds {
    const fn new(min: DiskState, max: DiskState) -> Self {
        Self { min, max }
    }
}

/// What a connection state allows for the own and for the peer's disk (the clamp table).
pub(super) fn bounds(connection: ConnectionState) -> (Bounds, Bounds) {
    use ConnectionState as C;
    use DiskState::{Consistent, DUnknown, Diskless, Inconsistent, Outdated, UpToDate};
    let any = Bounds::new(Diskless, UpToDate);
    let good = Bounds::new(UpToDate, UpToDate);
    match connection {
        C::Connected => (any, Bounds::new(Diskless, UpToDate)),
        C::StartingSyncT | C::WFBitMapT | C::WFSyncUUID | C::PausedSyncT | C::Behind => {
            (Bounds::new(Inconsistent, Outdated), good)
        }
        C::SyncTarget => (Bounds::new(Inconsistent, Inconsistent), good),
        C::StartingSyncS | C::WFBitMapS | C::PausedSyncS | C::Ahead => {
            (good, Bounds::new(Inconsistent, Consistent))
        }
        C::SyncSource => (good, Bounds::new(Inconsistent, Inconsistent)),
        C::VerifyS | C::VerifyT => (good, Bounds::new(UpToDate, UpToDate)),
        _ => (any, Bounds::new(Inconsistent, DUnknown)),
    }
}

/// Whether the disks are at least what a resync, verify or Ahead/Behind needs.
pub(super) fn disks_suffice(state: &StateVector) -> bool {
    let (disk, peer_disk) = bounds(state.connection);
    !state.connection.in_sync_phase()
        || state.disk >= disk.min
            && state.peer_disk >= peer_disk.min
            && state.peer_disk != DiskState::DUnknown
}

/// Corrects `wanted` into what can be: lowers disks to what the connection state allows, derives suspensions and
/// pauses, ends a resync or verify whose disks went away.
///
/// A soft change that *enters* a resync or verify without the disks for it is left as it is, for the checks to
/// refuse; so the result of a soft change may be illegal, the result of a hard one never is.
pub fn sanitise(
    old: &StateVector,
    wanted: &StateVector,
    kind: Kind,
    policy: &Policy,
) -> (StateVector, Option<Warning>) {
    let mut state = *wanted;
    let mut warning = None;
    if state.role == Role::Unknown {
        state.role = old.role;
    }
    forget_unreachable_peer(&mut state);
    end_negotiation(&mut state, policy, &mut warning);
    if state.disk == DiskState::DUnknown {
        state.disk = DiskState::Outdated;
    }
    if state.connection == ConnectionState::StandAlone
        && state.disk == DiskState::Diskless
        && state.role == Role::Secondary
    {
        state.paused.dependency = false;
    }
    confirm(&mut state, policy.facts.confirmed);
    pause_or_continue(&mut state);
    raise_by_name(old, &mut state, kind, &mut warning);
    abort_phase(old, &mut state, kind, &mut warning);
    lower(&mut state, kind);
    suspend(old, &mut state, policy);
    (state, warning)
}

/// Step 1: nothing is known of a peer that is not connected, except that its disk was no good.
fn forget_unreachable_peer(state: &mut StateVector) {
    if !state.connection.is_connected_or_better() {
        state.paused.peer = false;
        state.peer_role = Role::Unknown;
        if !matches!(state.peer_disk, DiskState::Inconsistent | DiskState::Outdated) {
            state.peer_disk = DiskState::DUnknown;
        }
    }
}

/// Step 4: the connection is gone before the handshake decided.
fn end_negotiation(state: &mut StateVector, policy: &Policy, warning: &mut Option<Warning>) {
    if state.connection.is_connected_or_better() || state.disk != DiskState::Negotiating {
        return;
    }
    match policy.facts.decided.filter(|decided| decided.disk.is_usable()) {
        Some(decided) => {
            state.disk = decided.disk;
            state.peer_disk = decided.peer_disk;
            forget_unreachable_peer(state);
        }
        None => {
            state.disk = DiskState::Diskless;
            state.peer_disk = DiskState::DUnknown;
            *warning = Some(Warning::ConnectionLostWhileNegotiating);
        }
    }
}

/// Step 5, but only by proof: an Outdated or Consistent disk is current after all.
fn confirm(state: &mut StateVector, confirmed: Confirmed) {
    use DiskState::{Consistent, Outdated, UpToDate};
    let connection = state.connection;
    let current = |disk: &mut DiskState| {
        if matches!(disk, Outdated | Consistent) {
            *disk = UpToDate;
        }
    };
    match confirmed {
        Confirmed::Nothing => {}
        Confirmed::ByHandshake if connection == ConnectionState::Connected => {
            if state.disk >= Outdated && state.peer_disk >= Outdated {
                current(&mut state.disk);
                current(&mut state.peer_disk);
            }
        }
        // The side that the handshake made the source has the newer data; an Outdated disk never becomes one.
        Confirmed::ByHandshake if connection.is_source() && state.disk == Consistent => state.disk = UpToDate,
        Confirmed::ByHandshake if connection.is_target() && state.peer_disk == Consistent => {
            state.peer_disk = UpToDate;
        }
        Confirmed::ByHandshake => {}
        Confirmed::ByExposedId if connection == ConnectionState::Connected => {
            if state.role == Role::Primary && state.disk == DiskState::Diskless {
                current(&mut state.peer_disk);
            }
            if state.peer_role == Role::Primary && state.peer_disk == DiskState::Diskless {
                current(&mut state.disk);
            }
        }
        Confirmed::ByExposedId => {}
    }
}

/// The two raises that are wanted: a Negotiating disk that becomes target, and a source with bad blocks. Only if
/// the resync goes on by it: a disk is never raised and then left alone.
fn raise_by_name(old: &StateVector, state: &mut StateVector, kind: Kind, warning: &mut Option<Warning>) {
    let stays_source = old.connection.is_source() && state.connection.is_source();
    let raised = match (old.disk, state.disk) {
        (_, DiskState::Negotiating) if state.connection == ConnectionState::WFBitMapT => {
            Some((DiskState::Inconsistent, Warning::NegotiatingBecameTarget))
        }
        (DiskState::UpToDate, DiskState::Inconsistent) if kind == Kind::Hard && stays_source => {
            Some((DiskState::UpToDate, Warning::SourceStaysUpToDate))
        }
        _ => None,
    };
    if let Some((disk, reason)) = raised
        && disks_suffice(&StateVector { disk, ..*state })
    {
        state.disk = disk;
        *warning = Some(reason);
    }
}

/// Step 3: a fact about a disk wins over the resync or verify that needs it; so does a request to give up a disk.
fn abort_phase(old: &StateVector, state: &mut StateVector, kind: Kind, warning: &mut Option<Warning>) {
    let gives_up_disk = old.connection == state.connection
        && (state.disk <= DiskState::Failed || state.peer_disk <= DiskState::Failed);
    if !disks_suffice(state) && (kind == Kind::Hard || gives_up_disk) {
        *warning = Some(if state.connection.is_verify() {
            Warning::VerifyAborted
        } else {
            Warning::ResyncAborted
        });
        state.connection = ConnectionState::Connected;
    }
}

/// Step 6: disks are lowered to what the connection state allows, never raised.
fn lower(state: &mut StateVector, kind: Kind) {
    let (disk, peer_disk) = bounds(state.connection);
    state.disk = state.disk.min(disk.max);
    state.peer_disk = state.peer_disk.min(peer_disk.max);
    if kind == Kind::Hard
        && state.connection.is_connected_or_better()
        && state.peer_disk == DiskState::DUnknown
    {
        // A peer that is there but does not say what disk it has is taken as having none.
        state.peer_disk = DiskState::Diskless;
    }
}

/// Steps 7 and 8: I/O is suspended on the way into a state that calls for it.
fn suspend(old: &StateVector, state: &mut StateVector, policy: &Policy) {
    let peer_unfenced = |state: &StateVector| {
        state.role == Role::Primary
            && !state.connection.is_connected_or_better()
            && state.peer_disk > DiskState::Outdated
    };
    if effective_fencing(old, policy) == Fencing::ResourceAndStonith
        && peer_unfenced(state)
        && !peer_unfenced(old)
    {
        state.suspended.fencing = true;
    }
    let no_data = |state: &StateVector| state.role == Role::Primary && !state.has_up_to_date_data();
    if policy.suspend_without_data && no_data(state) && !no_data(old) {
        state.suspended.no_data = true;
    }
}

/// S35, before the disks are lowered: a resync that starts to run has its target Inconsistent at once.
fn pause_or_continue(state: &mut StateVector) {
    use ConnectionState::{PausedSyncS, PausedSyncT, SyncSource, SyncTarget};
    state.connection = match (state.connection, state.paused.any()) {
        (SyncSource, true) => PausedSyncS,
        (SyncTarget, true) => PausedSyncT,
        (PausedSyncS, false) => SyncSource,
        (PausedSyncT, false) => SyncTarget,
        (other, _) => other,
    };
}
