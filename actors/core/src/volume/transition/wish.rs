//! A wished change: some fields of the vector, the others as they are when it is applied.

use crate::volume::state::{ConnectionState, DiskState, Role, StateVector};
use serde::{Deserialize, Serialize};

/// What a request wants changed; `None` leaves a field alone. Kept while the peer is asked, and applied to the state
/// as it is when the answer comes. Travels to the peer as its sender sees it; the peer applies it [mirrored](Wish::mirrored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Wish {
    /// Own role.
    pub role: Option<Role>,
    /// The peer's role.
    pub peer_role: Option<Role>,
    /// Connection.
    pub connection: Option<ConnectionState>,
    /// Own disk.
    pub disk: Option<DiskState>,
    /// The peer's disk.
    pub peer_disk: Option<DiskState>,
}

impl Wish {
    /// The state that is wished for, starting from `now`.
    pub fn applied_to(&self, now: &StateVector) -> StateVector {
        StateVector {
            role: self.role.unwrap_or(now.role),
            peer_role: self.peer_role.unwrap_or(now.peer_role),
            connection: self.connection.unwrap_or(now.connection),
            disk: self.disk.unwrap_or(now.disk),
            peer_disk: self.peer_disk.unwrap_or(now.peer_disk),
            ..*now
        }
    }

    /// The same wish seen from the other node (S45); `None` if it names a connection state that no request may ask
    /// for.
    pub fn mirrored(&self) -> Option<Self> {
        use ConnectionState as C;
        let connection = match self.connection {
            None => None,
            Some(C::StartingSyncS) => Some(C::StartingSyncT),
            Some(C::StartingSyncT) => Some(C::StartingSyncS),
            Some(C::VerifyS) => Some(C::VerifyT),
            Some(C::Disconnecting) => Some(C::TearDown),
            Some(same @ (C::Connected | C::WFReportParams)) => Some(same),
            Some(_) => return None,
        };
        Some(Self {
            role: self.peer_role,
            peer_role: self.role,
            connection,
            disk: self.peer_disk,
            peer_disk: self.disk,
        })
    }

    /// Without the wish to outdate a disk that is lower than Outdated already: what the peer executes when it is
    /// asked to disconnect (S44).
    pub fn without_failing_outdate(self, now: &StateVector) -> Self {
        let fails = self.disk == Some(DiskState::Outdated) && now.disk < DiskState::Outdated;
        Self {
            disk: if fails { None } else { self.disk },
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s43_applies_only_what_was_asked_to_the_state_of_now() {
        let wish = Wish {
            role: Some(Role::Primary),
            ..Wish::default()
        };
        let now = StateVector {
            disk: DiskState::UpToDate,
            ..StateVector::START
        };
        let wanted = wish.applied_to(&now);
        assert_eq!(
            wanted,
            StateVector {
                role: Role::Primary,
                ..now
            }
        );
    }

    #[test]
    fn s45_mirrors_roles_disks_and_sync_sides() {
        let wish = Wish {
            role: Some(Role::Primary),
            connection: Some(ConnectionState::StartingSyncT),
            disk: Some(DiskState::Failed),
            ..Wish::default()
        };
        let mirrored = wish.mirrored().unwrap();
        assert_eq!((mirrored.role, mirrored.peer_role), (None, Some(Role::Primary)));
        assert_eq!(
            (mirrored.disk, mirrored.peer_disk),
            (None, Some(DiskState::Failed))
        );
        assert_eq!(mirrored.connection, Some(ConnectionState::StartingSyncS));
        let disconnect = Wish {
            connection: Some(ConnectionState::Disconnecting),
            ..Wish::default()
        };
        assert_eq!(
            disconnect.mirrored().unwrap().connection,
            Some(ConnectionState::TearDown)
        );
        let nonsense = Wish {
            connection: Some(ConnectionState::Ahead),
            ..Wish::default()
        };
        assert_eq!(nonsense.mirrored(), None);
    }

    #[test]
    fn s44_peer_drops_an_outdate_that_cannot_be() {
        let wish = Wish {
            disk: Some(DiskState::Outdated),
            ..Wish::default()
        };
        let with = |disk| StateVector {
            disk,
            ..StateVector::START
        };
        assert_eq!(
            wish.without_failing_outdate(&with(DiskState::Inconsistent)).disk,
            None
        );
        assert_eq!(wish.without_failing_outdate(&with(DiskState::UpToDate)), wish);
    }
}
