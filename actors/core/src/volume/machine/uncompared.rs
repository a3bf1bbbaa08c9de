//! A connection of which one side has no disk: nothing is compared, and old data must not pass for current all the same.

use super::StateEffect;
use super::part::StatePart;
use super::parting::refused_state;
use crate::part::{Context, Outbox};
use crate::planted::{Fault, is_planted};
use crate::volume::generations::handshake::{self, NegotiatedDisk, Next};
use crate::volume::generations::identifiers::Generation;
use crate::volume::state::{ConnectionState, DisconnectReason, DiskState, Role};
use crate::volume::transition::{Confirmed, Kind};

impl StatePart {
    /// One side has no disk: nothing to compare.
    pub(super) fn connected_without_comparison(
        &mut self,
        peer_disk: DiskState,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        // Its own disk may have failed since the peer's generation came: what a disk of one's own would have settled by a
        // resync is old data for a Primary without one.
        let info = self.link.as_ref().and_then(|link| link.generations);
        if !self.vector().disk.is_usable()
            && !is_planted(Fault::TrustUncompared)
            && info.is_some_and(|info| info.attached && !self.takes_generations(&info, None, cx, out))
        {
            return;
        }
        let peer_role = self.peer_role();
        let mut confirmed = self.confirmed_by_exposed_id(peer_disk, peer_role);
        let raise = confirmed == Confirmed::ByExposedId;
        let behind = self.is_behind_failed_disk(peer_disk) && !is_planted(Fault::TrustUncompared);
        if behind {
            confirmed = Confirmed::ByHandshake;
        }
        let offered = self.attach.as_ref().filter(|attach| attach.is_negotiating());
        let decided = offered.and_then(super::attach::Attaching::decided);
        let changed = self.change(Kind::Soft, confirmed, "connected", out, |v| {
            v.connection = ConnectionState::Connected;
            v.peer_disk = peer_disk;
            v.peer_role = peer_role;
            if behind {
                v.disk = v.disk.min(DiskState::Outdated);
            }
            // There is no disk to compare with: the offered one has the state of its meta-data.
            if let (DiskState::Negotiating, Some(decided)) = (v.disk, decided) {
                v.disk = decided.disk;
            }
            if raise && matches!(v.disk, DiskState::Outdated | DiskState::Consistent) {
                v.disk = DiskState::UpToDate;
            }
        });
        if let Err(refusal) = changed {
            return self.refuse_handshake(DisconnectReason::StateRefused, &refused_state(refusal), cx, out);
        }
        if decided.is_some() {
            self.attach_ended(out);
            if self.vector().role == Role::Primary {
                self.only_disk_of_a_primary(cx, out);
            }
        }
        self.connected(cx, out);
    }

    /// The peer's disk was newer than this one and failed before the two were compared: this copy must not be served as current
    /// to its application.
    fn is_behind_failed_disk(&self, peer_disk: DiskState) -> bool {
        let info = self.link.as_ref().and_then(|link| link.generations);
        let failed = peer_disk < DiskState::Negotiating && info.is_some_and(|info| info.attached);
        self.own_negotiated()
            .filter(|_| failed)
            .and_then(|own| self.handshake(own, NegotiatedDisk::Consistent))
            .is_some_and(|handshake| handshake::decide(&handshake).next == Next::WFBitMapT)
    }

    /// A Primary without a disk that works with exactly our generation proves that our disk is current.
    fn confirmed_by_exposed_id(&self, peer_disk: DiskState, peer_role: Role) -> Confirmed {
        let exposed = self
            .link
            .as_ref()
            .and_then(|link| link.generations)
            .map_or(Generation::NONE, |info| Generation(info.exposed));
        let proof = peer_disk < DiskState::Negotiating
            && peer_role == Role::Primary
            && !exposed.is_none()
            && exposed.same(self.current.identifiers.current);
        if proof {
            Confirmed::ByExposedId
        } else {
            Confirmed::Nothing
        }
    }
}
