//! The checks: of a state as a whole, of the way to it, of requests.

use super::sanitise::disks_suffice;
use super::{Fencing, Policy, Refusal};
use crate::volume::state::{ConnectionState, DiskState, Role, StateVector};

/// Checks a state as a whole (S1 to S15 without S10); the first rule that is broken is the answer. Only requests are held to it.
///
/// # Errors
/// The rule that is broken.
pub fn check_state(state: &StateVector, fencing: Fencing, policy: &Policy) -> Result<(), Refusal> {
    check_role(state, fencing, policy)?;
    check_phase(state)?;
    let connection = state.connection;
    if connection.is_verify() && !policy.verify_algorithm {
        return Err(Refusal::NoVerifyAlg); // S11
    }
    if connection.is_verify() && !policy.facts.peer_can_verify {
        return Err(Refusal::NotSupported); // S12
    }
    if state.role == Role::Primary && !state.has_up_to_date_data() {
        return Err(Refusal::NoUpToDateDisk); // S13
    }
    Ok(())
}

/// S1 to S6: may a node have this role with these disks.
fn check_role(state: &StateVector, fencing: Fencing, policy: &Policy) -> Result<(), Refusal> {
    let facts = &policy.facts;
    let primary = state.role == Role::Primary;
    let alone = !state.connection.is_connected_or_better();
    if facts.network_configured && !policy.allow_two_primaries && primary {
        if state.peer_role == Role::Primary {
            return Err(Refusal::TwoPrimaries); // S1
        }
        if facts.other_volume_peer_primary {
            return Err(Refusal::OVolPeerPri); // S2
        }
    }
    if state.role == Role::Secondary && facts.device_open {
        return Err(Refusal::DeviceInUse); // S3
    }
    if primary && alone && state.disk < DiskState::UpToDate {
        return Err(Refusal::NoUpToDateDisk); // S4
    }
    if fencing >= Fencing::ResourceOnly && primary && alone && state.peer_disk >= DiskState::DUnknown {
        return Err(Refusal::PrimaryNop); // S5
    }
    if primary && state.disk <= DiskState::Inconsistent && state.peer_disk <= DiskState::Inconsistent {
        return Err(Refusal::NoUpToDateDisk); // S6
    }
    Ok(())
}

/// Checks that both disks are what a resync, a verify or Ahead/Behind needs (S7 to S9, S14), and that a connected
/// peer's disk is known (S15). DRBD raises the disks instead.
///
/// # Errors
/// NO_LOCAL_DISK, NO_REMOTE_DISK, NEED_CONNECTION, or NO_UP_TO_DATE_DISK when a disk is there but not good enough;
/// CONNECTED_OUTDATES for Connected with an unknown disk.
pub fn check_phase(state: &StateVector) -> Result<(), Refusal> {
    if !state.connection.in_sync_phase() {
        let unknown =
            state.connection == ConnectionState::Connected && state.peer_disk == DiskState::DUnknown;
        return if unknown {
            Err(Refusal::ConnectedOutdates)
        } else {
            Ok(())
        }; // S15
    }
    if !state.disk.is_usable() {
        return Err(Refusal::NoLocalDisk); // S7
    }
    if !state.peer_disk.is_usable() {
        return Err(Refusal::NoRemoteDisk); // S8
    }
    if state.peer_disk == DiskState::DUnknown {
        return Err(Refusal::NeedConnection); // S14
    }
    if disks_suffice(state) {
        Ok(())
    } else {
        Err(Refusal::NoUpToDateDisk)
    } // S9
}

/// Checks the way from `old` to `new` as far as facts must obey it too (S17 to S23).
///
/// # Errors
/// The rule that is broken.
pub fn check_transition(old: &StateVector, new: &StateVector) -> Result<(), Refusal> {
    use ConnectionState::{Connected, Disconnecting, StandAlone, Unconnected, WFReportParams};
    if old.disk == DiskState::Diskless && new.disk == DiskState::Failed {
        return Err(Refusal::IsDiskless); // S23, whatever the connection does
    }
    let (from, to) = (old.connection, new.connection);
    if from == to {
        return Ok(()); // S17
    }
    match from {
        StandAlone if to == Disconnecting => Err(Refusal::AlreadyStandalone), // S18
        StandAlone if to != Unconnected => Err(Refusal::NeedConnection),      // S19
        from if from < WFReportParams && to >= Connected => Err(Refusal::NeedConnection), // S20
        from if from.is_down() && !matches!(to, Unconnected | Disconnecting) => {
            Err(Refusal::InTransientState) // S21
        }
        Disconnecting if to != StandAlone => Err(Refusal::InTransientState), // S22
        _ => Ok(()),
    }
}

/// Checks the way from `old` to `new` for a request (S10, S24 to S34); of several broken rules the last one is the
/// answer.
///
/// # Errors
/// The rule that is broken.
pub fn check_request(old: &StateVector, new: &StateVector, policy: &Policy) -> Result<(), Refusal> {
    use ConnectionState as C;
    use Refusal::*;
    let (from, to) = (old.connection, new.connection);
    let starts_full_sync = matches!(to, C::StartingSyncS | C::StartingSyncT) && from != to;
    let starts_verify = to.is_verify() && from != to;
    let runs_resync = matches!(to, C::SyncSource | C::SyncTarget);
    let becomes_primary = old.role != Role::Primary && new.role == Role::Primary;
    let establishes = from == C::WFConnection && to == C::WFReportParams
        || from == C::WFReportParams && to.is_connected_or_better();
    let outdated = new.disk == DiskState::Outdated;
    let was_outdated_connected = old.disk == DiskState::Outdated && from.is_connected_or_better();
    let rules = [
        /* S10 */
        (
            // Two disks that meet compare their generations; whoever is old then becomes a target. It stays
            // Outdated in Connected only when that resync ends early.
            to == C::Connected && outdated && new.peer_disk.is_usable() && !was_outdated_connected,
            ConnectedOutdates,
        ),
        /* S24 */ (starts_full_sync && from.in_sync_phase(), ResyncRunning),
        /* S25 */ (to == C::Disconnecting && from == C::StandAlone, AlreadyStandalone),
        /* S26 */
        (
            new.disk > DiskState::Attaching && old.disk == DiskState::Diskless,
            IsDiskless,
        ),
        /* S27 */ (to == C::WFConnection && from < C::Unconnected, NoNetConfig),
        /* S28 */
        (
            outdated && old.disk < DiskState::Outdated && old.disk != DiskState::Attaching,
            LowerThanOutdated,
        ),
        /* S29 */ (to == C::Disconnecting && from == C::Unconnected, InTransientState),
        /* S30 */ (policy.facts.state_sent && !establishes, InTransientState),
        /* S31 */
        (
            // While a resync is being set up it is not yet decided which blocks are read from the peer.
            becomes_primary
                && new.peer_disk == DiskState::UpToDate
                && !matches!(new.disk, DiskState::UpToDate | DiskState::Diskless)
                && to.is_resync_setup(),
            InTransientState,
        ),
        /* S32 */ (to.is_verify() && !from.is_connected_or_better(), NeedConnection),
        (starts_verify && from.in_sync_phase(), ResyncRunning),
        /* S33 */ (starts_full_sync && !from.is_connected_or_better(), NeedConnection),
        (runs_resync && from < C::WFReportParams, NeedConnection),
        /* S34 */
        (
            to == C::Disconnecting
                && new.peer_disk == DiskState::Outdated
                && !from.is_connected_or_better()
                && old.peer_disk > DiskState::Outdated,
            OutdateWoConn,
        ),
        // A disk that is not attached but known to be newer: using the older one would lose acknowledged writes.
        (
            becomes_primary && policy.facts.newer_disk_unattached,
            NoUpToDateDisk,
        ),
    ];
    match rules.iter().rev().find(|(broken, _)| *broken) {
        Some((_, refusal)) => Err(*refusal),
        None => Ok(()),
    }
}

fn alone(state: &StateVector) -> bool {
    !state.connection.is_connected_or_better()
}

/// A full sync or verify without a connection, or beside another one, is refused for that (S24, S32, S33) and not
/// for what the disks are.
pub(super) fn sync_can_start(old: &StateVector, new: &StateVector) -> Result<(), Refusal> {
    let (from, to) = (old.connection, new.connection);
    let starts = to.is_verify()
        || matches!(
            to,
            ConnectionState::StartingSyncS | ConnectionState::StartingSyncT
        );
    match starts && from != to {
        true if alone(old) => Err(Refusal::NeedConnection),
        true if from.in_sync_phase() => Err(Refusal::ResyncRunning),
        _ => Ok(()),
    }
}

/// Judges the wish to be Outdated while Connected, before any correction could turn it into "nothing to do": a
/// fence script must not read "done" from it. A node that nobody works with may find that the disk which its peer
/// attaches is newer, and becomes its target.
pub(super) fn outdate_while_connected(old: &StateVector, wanted: &StateVector) -> Result<(), Refusal> {
    let asked = wanted.disk == DiskState::Outdated && old.disk != DiskState::Outdated;
    let in_use = [old.role, old.peer_role].contains(&Role::Primary);
    let becomes_target = wanted.connection == ConnectionState::WFBitMapT
        && old.connection == ConnectionState::Connected
        && old.disk > DiskState::Outdated
        && !in_use;
    if !asked || becomes_target || alone(old) || alone(wanted) {
        return Ok(());
    }
    match old.disk {
        DiskState::Diskless => Err(Refusal::IsDiskless),
        disk if disk < DiskState::Outdated => Err(Refusal::LowerThanOutdated),
        _ => Err(Refusal::ConnectedOutdates),
    }
}
