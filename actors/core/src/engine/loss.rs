//! Loss of a connection (R11) and the end of mirroring: every write that was cut off is marked as lacking at the peer, durably,
//! before the loss counts as retired.

use super::VolumeEffect;
use super::part::VolumePart;
use super::request::{Local, Net, Origin};
use crate::bitmap::MarkReason;
use crate::identity::{ConnectionNumber, MarkNumber};
use crate::part::{Outbox, To};
use crate::peer::PeerIn;
use crate::planted::{Fault, is_planted};
use crate::volume::machine::StateIn;
use mendblock_storage::units::BlockRange;

/// Losses whose marks are not durable yet.
#[derive(Default)]
pub(super) struct Losing {
    connection: Option<ConnectionNumber>,
    marks: Vec<MarkNumber>,
    retired: Option<ConnectionNumber>,
    /// The newest connection that is known to be lost; a snapshot may still name it.
    lost: Option<ConnectionNumber>,
}

impl VolumePart {
    pub(super) fn lost(&mut self, connection: ConnectionNumber, out: &mut Outbox<VolumeEffect>) {
        if self.losing.retired == Some(connection) {
            return self.report_retired(connection, out);
        }
        if self.losing.connection == Some(connection) {
            return;
        }
        self.connection_ended(connection);
        self.losing.connection = Some(connection);
        if !self.recovery.is_settled() {
            // What the predecessor had sent is not known: everything that its log covers is owed (R16).
            self.recovery.loss_before_settled();
        }
    }

    /// The connection is lost: by the peer part's word, or by a snapshot that overtook it (R1).
    pub(super) fn connection_ended(&mut self, connection: ConnectionNumber) {
        if self.losing.lost >= Some(connection) {
            return;
        }
        self.losing.lost = Some(connection);
        self.drop_parked(connection);
        self.marks.forget_known();
        self.cut_off(Some(connection));
        let marks = self.owe_unretired(false);
        self.losing.marks.extend(marks);
    }

    /// The connection that the snapshot names is lost already, and the state does not know it yet: what is sent on it is dropped, no
    /// second loss would tell, and what starts now would be answered by the rules of a connected pair.
    pub(super) fn link_is_lost(&self) -> bool {
        self.connection()
            .is_some_and(|named| self.losing.lost >= Some(named))
    }

    /// Requests that waited for the peer go on without it.
    fn cut_off(&mut self, connection: Option<ConnectionNumber>) {
        let waiting: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| match request.net {
                Net::Pending(of) => connection.is_none_or(|lost| of <= lost),
                // Acked but not stable: the peer may not keep it (section 9 of replication: also in protocol C).
                Net::Done(of) => {
                    request.work.writes() && request.is_client() && connection.is_none_or(|lost| of <= lost)
                }
                _ => false,
            })
            .map(|(&id, _)| id)
            .collect();
        for id in waiting {
            self.cut_off_one(id);
        }
        self.epochs.reset();
    }

    fn cut_off_one(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let (Net::Pending(of) | Net::Done(of)) = request.net else {
            return;
        };
        request.net = Net::Lost(of);
        if request.is_read() && request.is_client() {
            self.restart(id);
        } else {
            self.ended_parts(id);
        }
    }

    /// Marks every write that no barrier has retired, also those that are still under way.
    /// `pending`: also those that the peer may still acknowledge, though it will never make them stable.
    fn owe_unretired(&mut self, pending: bool) -> Vec<MarkNumber> {
        let mut ranges: Vec<BlockRange> = Vec::new();
        for write in self.unretired.values_mut() {
            if write.epoch.take().is_some() {
                ranges.push(write.range.touched_blocks());
            }
        }
        for request in self.requests.values_mut() {
            let lost = match request.net {
                Net::Lost(_) => true,
                Net::Pending(_) | Net::Done(_) => pending,
                Net::None | Net::Failed(_) => false,
            };
            let cut = lost && request.work.writes() && request.is_client() && !request.marked_lacking;
            if let (true, Some(range)) = (cut, request.range()) {
                request.marked_lacking = true;
                ranges.push(range.touched_blocks());
            }
        }
        if ranges.is_empty() || is_planted(Fault::ForgetUnretired) {
            return Vec::new();
        }
        let mark = self.mark(ranges, MarkReason::PeerLacks);
        for write in self
            .unretired
            .values_mut()
            .filter(|write| write.epoch.is_none() && write.mark.is_none())
        {
            write.mark = Some(mark);
        }
        for request in self
            .requests
            .values_mut()
            .filter(|request| request.marked_lacking && request.lacking.is_none())
        {
            request.lacking = Some(mark);
        }
        vec![mark]
    }

    /// The peer's disk left while the link is up: what is not stable there never will be.
    pub(super) fn mirroring_stopped(&mut self) {
        let flushes: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| {
                matches!(request.work, super::request::Work::Flush) && matches!(request.net, Net::Pending(_))
            })
            .map(|(&id, _)| id)
            .collect();
        for id in flushes {
            self.cut_off_one(id);
        }
        self.epochs.reset();
        self.owe_unretired(true);
    }

    /// The loss is retired when its marks are durable and nothing of the peer is under way here.
    pub(super) fn advance_losing(&mut self, out: &mut Outbox<VolumeEffect>) {
        let Some(connection) = self.losing.connection else {
            return;
        };
        let marked = self.losing.marks.iter().all(|&mark| !self.marks.is_open(mark));
        let served = self.requests.values().any(|request| match request.origin {
            Origin::Received { connection: of, .. }
            | Origin::Served { connection: of, .. }
            | Origin::Barrier { connection: of, .. } => of <= connection && request.local == Local::Pending,
            _ => false,
        });
        if marked && !served && self.recovery.loss_is_marked() {
            self.drop_received(connection);
            self.losing.connection = None;
            self.losing.marks.clear();
            self.losing.retired = Some(connection);
            self.report_retired(connection, out);
        }
    }

    /// What the peer had asked for and nobody executes any more.
    fn drop_received(&mut self, connection: ConnectionNumber) {
        let stale: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| match request.origin {
                Origin::Served { connection: of, .. }
                | Origin::Barrier { connection: of, .. }
                | Origin::Received { connection: of, .. } => {
                    of <= connection && request.local != Local::Pending
                }
                _ => false,
            })
            .map(|(&id, _)| id)
            .collect();
        for id in stale {
            self.remove(id);
            self.unlock(id);
        }
    }

    pub(super) fn report_retired(&self, connection: ConnectionNumber, out: &mut Outbox<VolumeEffect>) {
        out.send(To::Peer(PeerIn::LossRetired { connection }));
        out.send(To::State(StateIn::LossRetired { connection }));
    }

    /// What a new state part may have missed.
    pub(super) fn repeat_retired(&self, out: &mut Outbox<VolumeEffect>) {
        if let Some(connection) = self.losing.retired {
            out.send(To::State(StateIn::LossRetired { connection }));
        }
    }
}
