//! Telling the peer about the own disk's errors (D5, T), and answering the peer's tells (a new generation, T).

use super::StateEffect;
use super::part::StatePart;
use super::store::Then;
use crate::bitmap::{BitmapIn, without};
use crate::identity::{ConnectionNumber, TellNumber};
use crate::part::{Outbox, To};
use crate::peer::PeerIn;
use crate::volume::state::{DiskState, Role};
use mendblock_net::wire::message::{Message, PeerState, WireRecord};
use mendblock_storage::units::BlockRange;
use std::collections::BTreeMap;

/// Tells to the peer, and from it.
#[derive(Clone, Default, Hash)]
pub(super) struct Tells {
    last: TellNumber,
    sent: TellNumber,
    outstanding: BTreeMap<TellNumber, ()>,
    /// Records of the own disk's errors that the next tell carries (found before the link or the helper allowed one).
    unsent: Vec<WireRecord>,
    /// The peer's tells whose records are being written: number → (attach id, failed).
    recording: BTreeMap<u64, (u64, bool)>,
}

impl Tells {
    pub fn last_sent(&self) -> TellNumber {
        self.sent
    }

    pub fn remember(&mut self, records: Vec<WireRecord>) {
        self.unsent.extend(records);
    }

    /// These blocks are good again. Told of them on the next connection, the peer would hold them for bad when their tombstones are
    /// gone, and would bring them back to the own list.
    pub fn forget(&mut self, ranges: &[BlockRange]) {
        let records = std::mem::take(&mut self.unsent);
        let parts = records.into_iter().flat_map(|record| {
            let left = without(vec![record.range], ranges);
            left.into_iter().map(move |range| WireRecord { range, ..record })
        });
        self.unsent = parts.collect();
    }

    pub fn all_answered(&self) -> bool {
        self.outstanding.is_empty() && self.unsent.is_empty()
    }

    /// A tell is out and the peer may still answer it.
    pub fn awaits_answer(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Ranges that no tell has carried yet.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub fn is_recording(&self) -> bool {
        !self.recording.is_empty()
    }

    /// The link is gone: no answer will come on it.
    pub fn link_lost(&mut self) {
        // Nothing on the next connection may wait for it.
        self.sent = TellNumber(0);
        self.outstanding.clear();
        self.recording.clear();
    }

    pub fn disk_closed(&mut self) {
        self.unsent.clear();
    }
}

impl StatePart {
    pub(super) fn peer_state(&self) -> PeerState {
        let vector = self.vector();
        // A disk that is not yet offered (A13 is being written) is still being attached, for the peer.
        let offered = self
            .attach
            .as_ref()
            .is_some_and(super::attach::Attaching::is_negotiating);
        let disk = if vector.disk == DiskState::Negotiating && !offered {
            DiskState::Attaching
        } else {
            vector.disk
        };
        // Nothing is told while the handler runs (T2): it may power this node off on purpose.
        let silent = self
            .detach
            .as_ref()
            .is_some_and(super::detach::DetachRun::holds_writes);
        let told = self.told_disk().filter(|_| silent && disk == DiskState::Failed);
        PeerState {
            number: self.current.number.0,
            role: vector.role.number(),
            connection: vector.connection.number(),
            disk: told.unwrap_or(disk.number()),
            peer_disk: vector.peer_disk.number(),
            suspended: vector.suspended.any(),
            paused: vector.paused.own(),
        }
    }

    /// Sends a tell now if the link is up (and no helper forbids it); true if it was sent.
    pub(super) fn tell(
        &mut self,
        attach_id: u64,
        failed: bool,
        records: Vec<WireRecord>,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        self.tells.remember(records);
        let held = self
            .detach
            .as_ref()
            .is_some_and(super::detach::DetachRun::holds_tell);
        let connected = self.vector().connection.is_connected_or_better();
        let Some(connection) = self
            .link
            .as_ref()
            .map(|link| link.connection)
            .filter(|_| connected && !held)
        else {
            return false;
        };
        self.tells.last = self.tells.last.next();
        let number = self.tells.last;
        self.tells.sent = number;
        self.tells.outstanding.insert(number, ());
        let records = std::mem::take(&mut self.tells.unsent);
        self.send_peer(
            connection,
            Message::Tell {
                number: number.0,
                attach_id,
                failed,
                records,
            },
            out,
        );
        true
    }

    /// The peer answered a tell: its bits, records and, if one was due, generation are durable.
    pub(super) fn told(
        &mut self,
        number: u64,
        current: u64,
        new_generation: bool,
        out: &mut Outbox<StateEffect>,
    ) {
        self.tells.outstanding.remove(&TellNumber(number));
        if self.tells.outstanding.is_empty() {
            self.errors_told();
        }
        self.detach_told(current, new_generation, out);
    }

    /// The peer tells us of its disk: bits and suspect records first, durably.
    pub(super) fn tell_received(
        &mut self,
        connection: ConnectionNumber,
        number: u64,
        attach_id: u64,
        failed: bool,
        records: Vec<WireRecord>,
        out: &mut Outbox<StateEffect>,
    ) {
        self.tells.recording.insert(number, (attach_id, failed));
        out.send(To::Bitmap(BitmapIn::RecordTell {
            connection,
            number,
            records,
        }));
        if failed {
            // T4: from here on a write that only this node has waits for *marked*.
            self.current.peer_loss_settled = false;
            self.fact("the peer's disk failed", out, |v| {
                if v.connection.is_connected_or_better() && v.peer_disk != DiskState::Diskless {
                    v.peer_disk = DiskState::Failed;
                }
            });
        }
    }

    pub(super) fn tell_recorded(
        &mut self,
        number: u64,
        connection: ConnectionNumber,
        cx: &mut crate::part::Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let Some((attach_id, failed)) = self.tells.recording.remove(&number) else {
            return;
        };
        if !self.is_on(connection) {
            return;
        }
        let vector = *self.vector();
        let in_use = vector.role == Role::Primary || vector.peer_role == Role::Primary;
        // At most one generation for one life of the peer's disk (I26); void when `current` is another by now.
        let made =
            self.health.loss_of == Some((attach_id, self.current.identifiers.current.without_role().0));
        let due = failed
            && in_use
            && vector.disk == DiskState::UpToDate
            && self.current.identifiers.bitmap.is_none()
            && !made;
        if due {
            self.advance_for_lost_disk(attach_id, "the peer's disk failed", cx, out);
            self.store(Then::TellAnswered {
                connection,
                number,
                new_generation: true,
            });
        } else {
            // Made for this loss before (a repeated tell): the receiver must name it all the same.
            self.answer_tell(connection, number, made, out);
        }
    }

    pub(super) fn answer_tell(
        &mut self,
        connection: ConnectionNumber,
        number: u64,
        new_generation: bool,
        out: &mut Outbox<StateEffect>,
    ) {
        let current = self.current.identifiers.current.0;
        self.send_peer(
            connection,
            Message::Told {
                number,
                current,
                new_generation,
            },
            out,
        );
    }

    /// Sends one message without payload on a connection.
    pub(super) fn send_peer(
        &self,
        connection: ConnectionNumber,
        message: Message,
        out: &mut Outbox<StateEffect>,
    ) {
        let frame = crate::peer::PeerFrame {
            message,
            payload: None,
        };
        out.send(To::Peer(PeerIn::Send {
            connection,
            frames: vec![frame],
            after: TellNumber(0),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_list_is_not_told_any_more() {
        let block = |first, count| BlockRange::new(first, count).unwrap();
        let record = |range| WireRecord {
            range,
            state: 0,
            cause: 0,
            good_at: 2,
            generation: 1,
        };
        let mut tells = Tells::default();
        tells.remember(vec![record(block(10, 6)), record(block(40, 1))]);
        tells.forget(&[block(10, 1), block(12, 2), block(40, 1)]);
        assert_eq!(tells.unsent, [record(block(11, 1)), record(block(14, 2))]);
    }
}
