//! The state vector of one volume of a two-node pair (DRBD 8.4).
//!
//! The vector itself is a plain value that both nodes understand. Why a disk or a connection is in its state
//! stands beside it, in the types of [`reason`]: they belong to this node and live exactly as long as the state
//! that they explain.
//!
//! Numbers and spellings are an interface (`/proc/drbd`, `drbdsetup`, the state word on the wire) and never change.

pub mod names;
pub mod reason;

pub use names::{ConnectionState, DiskState, Role, UnknownName};
pub use reason::{
    AttachFailure, DetachCause, DetachStep, Detaching, DisconnectReason, DisklessReason, DownReason,
    InconsistentReason, MetaDataKind, TimedOperation,
};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why application I/O waits. Any of the three suspends it; shared by all volumes of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SuspendReasons {
    /// The operator asked for it (`suspend-io`; DRBD `susp`).
    pub user: bool,
    /// No UpToDate data can be reached (DRBD `susp_nod`).
    pub no_data: bool,
    /// The peer is being fenced (DRBD `susp_fen`).
    pub fencing: bool,
}

impl SuspendReasons {
    /// No reason: I/O runs.
    pub const NONE: Self = Self {
        user: false,
        no_data: false,
        fencing: false,
    };

    /// Whether I/O waits for any reason.
    pub fn any(self) -> bool {
        self.user || self.no_data || self.fencing
    }
}

/// `no`, or the reasons as `drbdsetup` lists them: `user,no-data,fencing`.
impl fmt::Display for SuspendReasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        comma_list(
            f,
            &[
                (self.user, "user"),
                (self.no_data, "no-data"),
                (self.fencing, "fencing"),
            ],
        )
    }
}

/// Why a resync pauses. Any of the three pauses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PauseFlags {
    /// The operator paused it here (`pause-sync`; DRBD `user_isp`).
    pub user: bool,
    /// The peer has its user or dependency flag set (DRBD `peer_isp`).
    pub peer: bool,
    /// The volume named in `resync-after` resyncs first (DRBD `aftr_isp`).
    pub dependency: bool,
}

impl PauseFlags {
    /// No reason: a resync may run.
    pub const NONE: Self = Self {
        user: false,
        peer: false,
        dependency: false,
    };

    /// Whether a resync pauses for any reason.
    pub fn any(self) -> bool {
        self.user || self.peer || self.dependency
    }

    /// Whether this node itself holds the resync back: what the peer sees as its `peer` flag.
    pub fn own(self) -> bool {
        self.user || self.dependency
    }
}

/// `no`, or the reasons as `drbdsetup` lists them: `user,peer,dependency`.
impl fmt::Display for PauseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        comma_list(
            f,
            &[
                (self.user, "user"),
                (self.peer, "peer"),
                (self.dependency, "dependency"),
            ],
        )
    }
}

fn comma_list(f: &mut fmt::Formatter<'_>, items: &[(bool, &str)]) -> fmt::Result {
    let mut separator = "";
    for (_, name) in items.iter().filter(|(set, _)| *set) {
        write!(f, "{separator}{name}")?;
        separator = ",";
    }
    if separator.is_empty() {
        f.write_str("no")
    } else {
        Ok(())
    }
}

/// The state of one volume as one node sees it: own side, peer's side, and what lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StateVector {
    /// Own role; never [`Role::Unknown`].
    pub role: Role,
    /// The peer's role; Unknown while not Connected or better.
    pub peer_role: Role,
    /// Connection and, from 10 on, replication state.
    pub connection: ConnectionState,
    /// Own disk; never [`DiskState::DUnknown`].
    pub disk: DiskState,
    /// The peer's disk as this node knows it.
    pub peer_disk: DiskState,
    /// Why application I/O waits.
    pub suspended: SuspendReasons,
    /// Why a resync pauses.
    pub paused: PauseFlags,
}

impl StateVector {
    /// The state of a volume that was just made: Secondary, StandAlone, Diskless, nothing known of a peer.
    pub const START: Self = Self {
        role: Role::Secondary,
        peer_role: Role::Unknown,
        connection: ConnectionState::StandAlone,
        disk: DiskState::Diskless,
        peer_disk: DiskState::DUnknown,
        suspended: SuspendReasons::NONE,
        paused: PauseFlags::NONE,
    };

    /// Whether UpToDate data can be reached, here or at the peer.
    pub fn has_up_to_date_data(&self) -> bool {
        self.disk == DiskState::UpToDate || self.peer_disk == DiskState::UpToDate
    }

    /// The fields that differ on the way to `new`, in the form of DRBD's log line:
    /// `role( Secondary -> Primary ) disk( Consistent -> UpToDate )`.
    pub fn difference<'a>(&'a self, new: &'a Self) -> Difference<'a> {
        Difference { old: self, new }
    }
}

impl Default for StateVector {
    fn default() -> Self {
        Self::START
    }
}

/// `cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate`, as in `/proc/drbd`; then what suspends or pauses.
impl fmt::Display for StateVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cs:{} ro:{}/{} ds:{}/{}",
            self.connection, self.role, self.peer_role, self.disk, self.peer_disk
        )?;
        if self.suspended.any() {
            write!(f, " suspended:{}", self.suspended)?;
        }
        if self.paused.any() {
            write!(f, " resync-suspended:{}", self.paused)?;
        }
        Ok(())
    }
}

/// See [`StateVector::difference`]. Empty text when nothing differs.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    old: &'a StateVector,
    new: &'a StateVector,
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (self.old, self.new);
        let fields = [
            ("role", old.role.name(), new.role.name()),
            ("peer", old.peer_role.name(), new.peer_role.name()),
            ("conn", old.connection.name(), new.connection.name()),
            ("disk", old.disk.name(), new.disk.name()),
            ("pdsk", old.peer_disk.name(), new.peer_disk.name()),
            ("susp", digit(old.suspended.any()), digit(new.suspended.any())),
            (
                "aftr_isp",
                digit(old.paused.dependency),
                digit(new.paused.dependency),
            ),
            ("peer_isp", digit(old.paused.peer), digit(new.paused.peer)),
            ("user_isp", digit(old.paused.user), digit(new.paused.user)),
        ];
        let mut separator = "";
        for (name, from, to) in fields.into_iter().filter(|(_, from, to)| from != to) {
            write!(f, "{separator}{name}( {from} -> {to} )")?;
            separator = " ";
        }
        Ok(())
    }
}

fn digit(flag: bool) -> &'static str {
    if flag { "1" } else { "0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_value_reads_as_drbd_prints_it() {
        assert_eq!(
            StateVector::default().to_string(),
            "cs:StandAlone ro:Secondary/Unknown ds:Diskless/DUnknown"
        );
    }

    #[test]
    fn suspension_and_pause_are_listed_by_reason() {
        let mut state = StateVector::START;
        state.suspended = SuspendReasons {
            user: true,
            no_data: false,
            fencing: true,
        };
        state.paused.dependency = true;
        assert!(state.suspended.any() && state.paused.own());
        assert!(
            state
                .to_string()
                .ends_with(" suspended:user,fencing resync-suspended:dependency"),
            "{state}"
        );
        assert_eq!(SuspendReasons::NONE.to_string(), "no");
    }

    #[test]
    fn difference_shows_only_changed_fields() {
        let old = StateVector::START;
        let mut new = old;
        assert_eq!(old.difference(&new).to_string(), "");
        new.connection = ConnectionState::Unconnected;
        new.suspended.no_data = true;
        assert_eq!(
            old.difference(&new).to_string(),
            "conn( StandAlone -> Unconnected ) susp( 0 -> 1 )"
        );
    }

    #[test]
    fn serialised_with_drbds_spellings() {
        let text = serde_json::to_string(&StateVector::START).unwrap();
        assert!(
            text.contains(r#""connection":"StandAlone","disk":"Diskless","peer_disk":"DUnknown""#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<StateVector>(&text).unwrap(),
            StateVector::START
        );
    }
}
