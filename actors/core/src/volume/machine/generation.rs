//! New generations: when one is due, and what waits until it is durable. Generation first, then answers: a write that only
//! this node has is answered only when the superblock names a generation of which the peer knows nothing.

use super::StateEffect;
use super::part::StatePart;
use super::store::{Then, identifiers_of};
use crate::bitmap::HeaderChange;
use crate::fact::Fact;
use crate::part::{Context, Outbox};
use crate::planted::{Fault, is_planted};
use crate::volume::generations::identifiers::Generation;
use crate::volume::state::{ConnectionState, DiskState, Role};

impl StatePart {
    fn source_open(&self) -> Option<Generation> {
        self.health.source_open.map(Generation)
    }

    /// The connection ends. As long as the sync id was not sent, a node that is to be the target has not finished, so it cannot hold
    /// `current`: RENAME need not push it, and after a few connections that end early the base would be pushed out of the history.
    pub(super) fn source_was_not_opened(&mut self) {
        if self.vector().connection == ConnectionState::WFBitMapS {
            self.health.source_open = None;
        }
    }

    /// NEW, or RENAME where `bm` is in use. What must wait for its durability is stored by the caller.
    pub(super) fn advance_generation(
        &mut self,
        cause: &str,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let primary = self.vector().role == Role::Primary;
        let operation = if self.current.identifiers.bitmap.is_none() {
            "new"
        } else {
            "rename"
        };
        self.current.identifiers = self
            .current
            .identifiers
            .advance(primary, cx.fresh(), self.source_open());
        out.fact(Fact::Generation {
            operation,
            current: self.current.identifiers.current.0,
            cause: cause.to_owned(),
        });
        self.current.alone_settled = false;
        self.store(Then::GenerationMade);
    }

    /// Some new generation is not durable yet.
    pub(super) fn generation_pending(&self) -> bool {
        !self.current.alone_settled
    }

    pub(super) fn generation_made(&mut self, ok: bool, out: &mut Outbox<StateEffect>) {
        // On failure the disk is being given up (a meta-data error): nothing may be answered on its account, and without
        // this disk `alone_settled` decides nothing.
        self.current.alone_settled = true;
        if !ok {
            out.fact(Fact::Alert {
                what:
                    "a new generation could not be written: writes that only this disk has are not answered"
                        .to_owned(),
            });
            return;
        }
        // Not before: else a failed write leaves an exposed generation that no disk has, and no peer would fit ever again.
        if self.vector().disk.is_usable() {
            self.exposed = self.current.identifiers.current;
        }
        if let Some(connection) = self
            .link
            .as_ref()
            .filter(|link| link.state_may_be_sent())
            .map(|link| link.connection)
        {
            self.send_generations(connection, out);
        }
    }

    /// The link is lost: a Primary that is UpToDate goes on under a new name, at once (S50.9); a source that is Primary
    /// RENAMEs ("source open").
    pub(super) fn lost_peer_data(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        if vector.role != Role::Primary || vector.disk != DiskState::UpToDate || self.detach.is_some() {
            return;
        }
        if is_planted(Fault::KeepGenerationOnLoss) {
            return;
        }
        let clean = self.current.identifiers.bitmap.is_none();
        let open = self
            .source_open()
            .is_some_and(|mark| mark.same(self.current.identifiers.current));
        if clean || open {
            self.advance_generation("the connection was lost while this node is Primary", cx, out);
        }
    }

    /// The peer, or its disk, may have left while the Primary indicator was being written: nobody was Primary then, so no
    /// generation was made for that loss.
    pub(super) fn promoted(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        if !vector.connection.is_connected_or_better() {
            return self.lost_peer_data(cx, out);
        }
        let sole = vector.disk == DiskState::UpToDate && vector.peer_disk < DiskState::Inconsistent;
        if sole && self.detach.is_none() && self.current.identifiers.bitmap.is_none() {
            self.advance_generation("the peer's disk left during the promotion", cx, out);
        }
    }

    /// The peer's disk left while the link is up (its state says so).
    pub(super) fn peer_lost_its_disk(
        &mut self,
        old: DiskState,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let vector = *self.vector();
        let had = matches!(
            old,
            DiskState::Inconsistent | DiskState::Consistent | DiskState::UpToDate
        );
        let gone = vector.peer_disk < DiskState::Inconsistent
            && vector.peer_disk != DiskState::Negotiating
            && vector.peer_disk != DiskState::Attaching;
        let in_use = vector.role == Role::Primary || vector.peer_role == Role::Primary;
        if had
            && gone
            && in_use
            && vector.disk == DiskState::UpToDate
            && self.current.identifiers.bitmap.is_none()
        {
            self.advance_generation("the peer's disk is gone", cx, out);
        }
    }

    /// The peer is Primary and has no disk: this disk is its only one, and needs a name that the peer's own disk does not have.
    pub(super) fn serve_diskless_primary(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        let diskless = vector.connection.is_connected_or_better()
            && vector.peer_disk == DiskState::Diskless
            && vector.peer_role == Role::Primary;
        if !diskless || vector.disk != DiskState::UpToDate || self.detach.is_some() {
            self.sync.served_generation = None;
            return;
        }
        if self.sync.served_generation.is_some() {
            return;
        }
        let info = self.link.as_ref().and_then(|link| link.generations);
        // A target whose disk failed at the end of its resync may hold this generation already, and waits for another one; nobody
        // has heard of that end.
        let unattached = info
            .filter(|info| !info.attached)
            .map(|info| Generation(info.current))
            .or(self.source_open());
        let next =
            self.current
                .identifiers
                .for_diskless_primary(false, cx.fresh(), self.source_open(), unattached);
        if let Some(identifiers) = next {
            self.current.identifiers = identifiers;
            out.fact(Fact::Generation {
                operation: "new",
                current: identifiers.current.0,
                cause: "the peer is Primary without a disk".to_owned(),
            });
            self.current.alone_settled = false;
            // Should the link break before the peer hears of it: it has seen the base of this generation alone, and would refuse
            // this disk for ever.
            if let Some(lost) = info.filter(|info| !info.attached && info.attach_id != 0) {
                self.mark_loss_first((lost.attach_id, identifiers.current.without_role().0), out);
            }
            self.store(Then::GenerationMade);
        } else if let Some(connection) = self.link.as_ref().map(|link| link.connection) {
            self.send_generations(connection, out);
        }
        self.sync.served_generation = Some(self.current.identifiers.current);
    }

    /// Health facts of the volume's last disk, read when the part starts: its slots serve the promotion check.
    pub(super) fn startup_health(
        &mut self,
        query: crate::identity::Query,
        header: Option<&crate::bitmap::HealthHeader>,
    ) -> bool {
        if self.sync.startup_health != Some(query) {
            return false;
        }
        self.sync.startup_health = None;
        if let Some(header) = header {
            self.health = header.clone();
            if self.disk.is_none() {
                self.current.identifiers = identifiers_of(header.slots);
            }
        }
        true
    }

    pub(super) fn health_written(
        &mut self,
        query: crate::identity::Query,
        durable: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let _ = self.slots_written(query, cx, out)
            || self.loss_marked(query)
            || self.detach_health_written(query, durable, out)
            || self.error_recorded(query)
            || self.outdated_noted(query, out)
            || self.source_open_written(query, cx);
    }

    /// Clears "outdated since": by force (`primary --force`), or because a resync has made the disk UpToDate.
    pub(super) fn clear_outdated(&mut self, out: &mut Outbox<StateEffect>) {
        if self.health.outdated_since.is_some() {
            self.set_header(
                HeaderChange {
                    outdated_since: Some(None),
                    ..HeaderChange::default()
                },
                out,
            );
        }
    }
}
