//! What may happen to a state vector.
//!
//! [`change`] is the one way from one vector to the next: silent corrections ([`sanitise`]), then the checks that
//! facts obey too ([`check_transition`]), then for requests the checks of the new state as a whole
//! ([`check_state`]) and of the way to it ([`check_request`]). The rules are DRBD's (their numbers S1 to S51 stand
//! at each), except where DRBD breaks the promise never to return wrong data or to explain itself:
//!
//! * a correction may only lower a disk. DRBD also "upgrades" disks that nobody repaired; here only a target whose
//!   disk is still Negotiating, and a source that stays UpToDate without its bad blocks, are raised, and an
//!   Outdated or Consistent disk becomes UpToDate only by a proof ([`Confirmed`]);
//! * what would need any other raise is refused, or, if it is a fact, ends the resync or verify;
//! * `outdate` while Connected and `invalidate` or `verify` without a disk are refused instead of answered
//!   "nothing to do";
//! * promotion waits only while a resync is being set up.

mod check;
mod consequence;
mod legal;
mod refusal;
mod sanitise;
mod wish;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod rules;

pub use check::{check_phase, check_request, check_state, check_transition};
pub use consequence::{
    SuperblockFlags, clears_primary_indicator, is_cluster_wide, lost_contact, mirrors_writes,
    notes_out_of_sync, superblock_flags,
};
pub use legal::is_legal;
pub use refusal::Refusal;
pub use sanitise::{Warning, sanitise};
pub use wish::Wish;

use super::state::{DiskState, StateVector};
use serde::{Deserialize, Serialize};

/// Whether a change is a fact or a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A fact: it has happened, and only the order of connection states and the absence of a disk can stand
    /// against it. I/O errors, the end of a detach, connection loss, forced commands, state packets of an
    /// established connection (S38).
    Hard,
    /// A request of the operator or the peer, an own step of a resync, the first state packet of a connection
    /// (S39).
    Soft,
}

/// What happens when the peer of a Primary cannot be reached (DRBD `fencing`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fencing {
    /// Nothing: go on alone.
    #[default]
    DontCare,
    /// The peer must be outdated before this node goes on or is promoted alone.
    ResourceOnly,
    /// As before, and I/O is suspended until then.
    ResourceAndStonith,
}

/// What proves, with this very change, that an Outdated or Consistent disk is current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Confirmed {
    /// Nothing does.
    #[default]
    Nothing,
    /// The generations of the two disks were compared.
    ByHandshake,
    /// A Primary without a disk works with exactly the generation of the other node's disk.
    ByExposedId,
}

/// The state that an attached disk shall have according to its meta-data, kept while the handshake decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decided {
    /// Of the own disk.
    pub disk: DiskState,
    /// Of the peer's disk.
    pub peer_disk: DiskState,
}

/// Options that the rules depend on, and what they must know beside the vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Fencing policy; not enforced while there is no usable own disk.
    pub fencing: Fencing,
    /// Both nodes may be Primary (`allow-two-primaries`).
    pub allow_two_primaries: bool,
    /// Suspend I/O when no UpToDate data can be reached, instead of failing it.
    pub suspend_without_data: bool,
    /// A verify algorithm is configured.
    pub verify_algorithm: bool,
    /// What is the case right now.
    pub facts: SideFacts,
}

/// Facts beside the vector, as they are at the moment of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SideFacts {
    /// There is a network configuration.
    pub network_configured: bool,
    /// The peer knows online verify.
    pub peer_can_verify: bool,
    /// The peer is Primary on another volume of the connection.
    pub other_volume_peer_primary: bool,
    /// A client holds the volume open.
    pub device_open: bool,
    /// The own state was sent for a connection that is being established (DRBD `STATE_SENT`).
    pub state_sent: bool,
    /// A disk that is not attached is known to be newer than the one that would be used, or split from it.
    pub newer_disk_unattached: bool,
    /// While the own disk is Negotiating, and only if its generation is the one that clients were shown: what its
    /// meta-data says. `None` when it must not be used without the peer.
    pub decided: Option<Decided>,
    /// What this change proves about an Outdated or Consistent disk.
    pub confirmed: Confirmed,
}

impl Default for SideFacts {
    /// Configured network, a peer that knows verify, nothing else.
    fn default() -> Self {
        Self {
            network_configured: true,
            peer_can_verify: true,
            other_volume_peer_primary: false,
            device_open: false,
            state_sent: false,
            newer_disk_unattached: false,
            decided: None,
            confirmed: Confirmed::Nothing,
        }
    }
}

/// An accepted change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Change {
    /// The new state; equal to the old one when there was nothing to do.
    pub new: StateVector,
    /// The last correction worth telling.
    pub warning: Option<Warning>,
}

/// Decides a change from `old` to `wanted`.
///
/// # Errors
/// The rule that stands against it. A hard change is only refused where [`check_transition`] refuses it.
pub fn change(
    old: &StateVector,
    wanted: &StateVector,
    kind: Kind,
    policy: &Policy,
) -> Result<Change, Refusal> {
    if kind == Kind::Soft {
        check::outdate_while_connected(old, wanted)?;
    }
    let (new, warning) = sanitise(old, wanted, kind, policy);
    if new == *old {
        return Ok(Change { new, warning: None });
    }
    check_transition(old, &new)?;
    if kind == Kind::Soft {
        check::sync_can_start(old, &new)?;
        let fencing = effective_fencing(old, policy);
        if let Err(refusal) = check_state(&new, fencing, policy) {
            // S16: what is already illegal may change in other respects, but enters no resync or verify by that.
            if check_state(old, fencing, policy) != Err(refusal) {
                return Err(refusal);
            }
            check_phase(&new)?;
        }
        check_request(old, &new, policy)?;
    }
    Ok(Change { new, warning })
}

/// Judges the result of a handshake: `wanted` with the connection state that it leads to. A refused result counts
/// like a handshake that failed; applied as a fact it would only end in Connected.
///
/// # Errors
/// Why the disks do not allow that resync: NO_UP_TO_DATE_DISK, NO_LOCAL_DISK or NO_REMOTE_DISK.
pub fn judge_handshake(old: &StateVector, wanted: &StateVector, policy: &Policy) -> Result<(), Refusal> {
    check_phase(&sanitise(old, wanted, Kind::Soft, policy).0)
}

/// The fencing policy that counts: without a usable disk nothing is fenced.
pub fn effective_fencing(old: &StateVector, policy: &Policy) -> Fencing {
    if old.disk.is_usable() {
        policy.fencing
    } else {
        Fencing::DontCare
    }
}
