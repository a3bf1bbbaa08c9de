//! What a neighbour's death means for what the state part was waiting for, and what a new state part does first (R13).

use super::StateEffect;
use super::part::StatePart;
use super::store::Then;
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::disk::DiskIn;
use crate::fact::Fact;
use crate::part::{Context, Outbox, PartName, To};
use crate::peer::PeerIn;
use crate::snapshot::Snapshot;
use crate::volume::state::{
    AttachFailure, ConnectionState, DetachCause, DetachStep, DisconnectReason, DiskState, DisklessReason,
};
use std::sync::Arc;

impl StatePart {
    /// First step of a generation: the first one asks for the health file; a later one takes up what the snapshot says.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        self.sync.startup_health = Some(query);
        out.send(To::Bitmap(BitmapIn::LoadHealth {
            query,
            device_id: None,
        }));
        if self.generation.0 > 1 {
            self.resume_from_snapshot(cx, out);
        }
    }

    /// What the predecessor knew beside the snapshot is gone: the layout of the disk, the parameters of the connection. The
    /// connection is made again (a loss like any other, every write of it is marked); the disk is read again, in place.
    fn resume_from_snapshot(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let last = Arc::clone(self.snapshot());
        out.fact(Fact::Recovered {
            part: PartName::State,
            what: format!("goes on from snapshot {}", last.number),
        });
        self.resume_connection(&last, cx, out);
        self.resume_disk(&last, cx, out);
        if !last.alone_settled {
            self.store(Then::GenerationMade);
        }
        self.hand_out(&last, out);
    }

    fn resume_connection(&mut self, last: &Snapshot, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if last.vector.connection >= ConnectionState::WFReportParams {
            if let Some(connection) = last.connection {
                out.send(To::Peer(PeerIn::Drop {
                    connection,
                    text: "the state actor was restarted".to_owned(),
                }));
            }
            self.source_was_not_opened();
            self.fact("the state actor was restarted", out, |v| {
                v.connection = ConnectionState::NetworkFailure
            });
            self.fact("reconnecting", out, |v| {
                v.connection = ConnectionState::Unconnected
            });
            self.fact("waiting for the peer", out, |v| {
                v.connection = ConnectionState::WFConnection
            });
            self.current.link_lost_at = Some(cx.now);
            // A loss like any other: the generation is named before a write that only this node has is answered.
            self.lost_peer_data(cx, out);
        }
    }

    /// A disk in use stays; a detach is done again from D5 (each step is idempotent, the peer makes no second generation for the
    /// same attach id); an attach that had not come to its end is undone.
    fn resume_disk(&mut self, last: &Snapshot, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.store_resumed(out);
        match last.vector.disk {
            DiskState::Failed => {
                let detaching = last.reasons.detaching;
                let cause = detaching.map_or(DetachCause::DriverFailed, |detaching| detaching.cause);
                self.begin_detach(
                    cause,
                    detaching.is_some_and(|detaching| detaching.forced),
                    cx,
                    out,
                );
                let helper_began = detaching.is_some_and(|detaching| detaching.step >= DetachStep::Helper);
                self.detach_resumed(detaching, helper_began);
            }
            DiskState::Attaching | DiskState::Negotiating => {
                self.fact("the state actor was restarted during an attach", out, |v| {
                    v.disk = DiskState::Diskless
                });
                self.current.reasons.diskless =
                    Some(DisklessReason::AttachFailed(AttachFailure::Interrupted));
                self.release_disk(out);
                out.send(To::Disk(DiskIn::Close));
            }
            DiskState::Diskless if last.disk.is_some() => {
                // D12 was under way.
                self.release_disk(out);
                out.send(To::Disk(DiskIn::Close));
            }
            disk if disk.is_usable() => self.errors_resumed(out),
            _ => {}
        }
    }

    /// Questions whose answers died with a neighbour.
    pub(super) fn repeat_queries(
        &mut self,
        part: PartName,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.attach.as_ref().is_some_and(|attach| !attach.is_committing()) {
            let text =
                format!("the {part} actor was restarted while the disk was being attached; attach again");
            self.attach_failed(AttachFailure::Interrupted, text, out);
            return;
        }
        self.repeat_store(part, out);
        self.repeat_detach(part, out);
        if part == PartName::Bitmap {
            self.repeat_records(cx, out);
        }
    }

    /// Records and bulk changes that the bitmap part was asked for.
    fn repeat_records(&mut self, _cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        for query in self.errors.recording() {
            out.send(To::Bitmap(BitmapIn::PersistHealth { query }));
        }
        if let Some((query, generation)) = self.sync.outdated_note {
            let change = Box::new(HeaderChange::outdated_since(generation));
            out.send(To::Bitmap(BitmapIn::SetHeader { query, change }));
        }
        // An exchange, a tell or a merge of lists in the dead part has no other owner: the connection is made again.
        let exchanging = self.vector().connection.is_resync_setup();
        let establishing = self.link.as_ref().is_some_and(super::link::Link::is_establishing);
        if exchanging || establishing || self.tells.is_recording() {
            self.drop_link("the bitmap actor was restarted", out);
        }
    }

    /// The supervisor gave a part up: its disk is given up with it.
    pub(super) fn driver_failed(
        &mut self,
        part: PartName,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        out.fact(Fact::Alert {
            what: format!("the {part} actor dies again and again: what it drives is given up"),
        });
        if part == PartName::Peer {
            return self.become_stand_alone(DisconnectReason::DriverFailed, cx, out);
        }
        if self.vector().disk.is_usable() {
            self.begin_detach(DetachCause::DriverFailed, false, cx, out);
        } else if self.vector().disk != DiskState::Diskless {
            let cause = DetachCause::DriverFailed;
            self.current.reasons.diskless = Some(DisklessReason::Detached {
                cause,
                second_cause: None,
            });
            out.fact(Fact::DiskGivenUp { cause });
        }
    }

    /// The helper part was restarted: what it ran is started again only if its query was never started (it keeps that).
    pub(super) fn helper_restarted(&mut self, out: &mut Outbox<StateEffect>) {
        if let Some(query) = self.sync.helper.take() {
            out.fact(Fact::Recovered {
                part: PartName::Helper,
                what: format!("handler of query {query} counts as not configured"),
            });
            if self.vector().connection == ConnectionState::WFBitMapS {
                self.start_source(out)
            } else {
                self.start_target(out)
            }
        }
        self.detach_helper_lost();
    }
}
