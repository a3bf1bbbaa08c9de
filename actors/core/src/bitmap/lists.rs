//! The lists of both nodes, exchanged on every connection, before the generations.

use super::BitmapEffect;
use super::part::BitmapPart;
use super::rounds::Lists;
use crate::fact::Fact;
use crate::identity::ConnectionNumber;
use crate::part::{Outbox, To};
use crate::peer::PeerFrame;
use crate::volume::machine::StateIn;
use mendblock_net::wire::message::{Message, WireRecord};
use mendblock_net::wire::prelude::MAX_RECORDS;
use mendblock_storage::health::{BlockState, Cause, Change, GoodAt, Record, Whose};
use mendblock_storage::units::BlockRange;

impl BitmapPart {
    /// Sends the own list, what is known of the peer's blocks, and the tombstones.
    pub(super) fn send_records(&mut self, connection: ConnectionNumber, out: &mut Outbox<BitmapEffect>) {
        let records = self.records();
        let listed = |record: &&Record| record.is_listed();
        let own: Vec<WireRecord> = records
            .map(|records| records.own().filter(listed).map(to_wire).collect())
            .unwrap_or_default();
        let suspect: Vec<WireRecord> = records
            .map(|records| {
                records
                    .suspects(self.configuration.peer_id)
                    .filter(listed)
                    .map(to_wire)
                    .collect()
            })
            .unwrap_or_default();
        let tombstones: Vec<BlockRange> = records
            .map(|records| records.tombstones().map(|record| record.range).collect())
            .unwrap_or_default();
        let lists = lists(&own, &suspect, &tombstones);
        self.rounds.sent(connection, lists);
        self.report_rounds(out);
        let (mut own, mut suspect, mut tombstones) = (&own[..], &suspect[..], &tombstones[..]);
        loop {
            let mut room = MAX_RECORDS;
            let message = Message::BadBlocks {
                own: take(&mut own, &mut room),
                suspect: take(&mut suspect, &mut room),
                tombstones: take(&mut tombstones, &mut room),
                last: own.is_empty() && suspect.is_empty() && tombstones.is_empty(),
            };
            self.send_on(connection, message, None, out);
            if own.is_empty() && suspect.is_empty() && tombstones.is_empty() {
                return;
            }
        }
    }

    pub(super) fn peer_frame(
        &mut self,
        connection: ConnectionNumber,
        frame: PeerFrame,
        out: &mut Outbox<BitmapEffect>,
    ) {
        match frame.message {
            Message::BadBlocks {
                own,
                suspect,
                tombstones,
                last,
            } => {
                self.begin_round(connection);
                self.merge_lists(connection, &own, &suspect, &tombstones, out);
                let part = lists(&own, &suspect, &tombstones);
                if let Some(lists) = self.rounds.arrived(connection, part, last) {
                    self.persist_merge(connection, lists, out);
                }
            }
            Message::OutOfSync { ranges } => {
                for range in ranges {
                    self.set_bits(range);
                }
                self.pages.lazily = true;
                self.pages.uncovered = true;
            }
            Message::Cleared { ranges } => self.peer_cleared(connection, ranges, out),
            Message::ClearedAck { ranges } => {
                if let Some(health) = self.health.content.as_mut() {
                    for range in ranges {
                        // A list that is full refuses a cut: the tombstone stays, which refuses nothing.
                        let _ = health.records.drop_tombstones(range);
                    }
                }
                self.health.changed();
            }
            Message::BitmapPages { .. } | Message::BitmapEnd { .. } => {
                self.exchange_frame(connection, frame, out)
            }
            other => out.fact(Fact::Surprise {
                what: format!("frame not for the bitmap part: {:?}", other.kind()),
            }),
        }
    }

    /// Tombstones first: an old suspect record of the peer must not bring back a block that was healed since.
    fn merge_lists(
        &mut self,
        connection: ConnectionNumber,
        own: &[WireRecord],
        suspect: &[WireRecord],
        tombstones: &[BlockRange],
        out: &mut Outbox<BitmapEffect>,
    ) {
        let (me, peer, now) = (
            self.configuration.node_id,
            self.configuration.peer_id,
            self.now_wall as u32,
        );
        let mut theirs: Vec<Record> = tombstones.iter().map(|&range| tombstone(range, now)).collect();
        theirs.extend(own.iter().map(|record| from_wire(record, Whose::Own, now)));
        theirs.extend(
            suspect
                .iter()
                .map(|record| from_wire(record, Whose::Peer(me), now)),
        );
        if let Some(health) = self.health.content.as_mut() {
            let union = health.records.union(peer, me, &theirs, now);
            if let Some(full) = union.full {
                out.fact(Fact::Alert {
                    what: format!("the peer's bad blocks do not fit into the list ({full})"),
                });
            }
        }
        self.bits_of_lists();
        self.pages.lazily = true;
        self.lists_changed();
        if !tombstones.is_empty() {
            self.confirm(connection, tombstones.to_vec(), out);
        }
    }

    /// The peer healed blocks: they are no longer suspect, and what is lost here can be had there (9.4). Its tombstones may
    /// go when this is durable (6.4): an old suspect record that came back would let its healed block be overwritten.
    fn peer_cleared(
        &mut self,
        connection: ConnectionNumber,
        ranges: Vec<BlockRange>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        let peer = self.configuration.peer_id;
        if let Some(health) = self.health.content.as_mut() {
            for &range in &ranges {
                let _ = health.records.drop_suspects(peer, range);
                let _ = health.records.update(Whose::Own, range, Change::Found);
            }
        }
        self.lists_changed();
        self.confirm(connection, ranges, out);
    }

    /// The peer's list is in the records, durably.
    pub(super) fn merged(
        &mut self,
        connection: ConnectionNumber,
        lists: Lists,
        out: &mut Outbox<BitmapEffect>,
    ) {
        self.rounds.merged(connection, lists);
        self.report_rounds(out);
    }

    fn report_rounds(&mut self, out: &mut Outbox<BitmapEffect>) {
        while let Some((connection, own_bad, peer_bad)) = self.rounds.next() {
            out.send(To::State(StateIn::PeerRecordsMerged {
                connection,
                own_bad,
                peer_bad,
            }));
        }
    }
}

fn lists(own: &[WireRecord], suspect: &[WireRecord], healed: &[BlockRange]) -> Lists {
    let ranges = |records: &[WireRecord]| records.iter().map(|record| record.range).collect();
    Lists {
        own: ranges(own),
        suspect: ranges(suspect),
        healed: healed.to_vec(),
    }
}

/// The next entries of a list that have room in a message.
fn take<T: Clone>(from: &mut &[T], room: &mut usize) -> Vec<T> {
    let (now, later) = from.split_at(from.len().min(*room));
    *from = later;
    *room -= now.len();
    now.to_vec()
}

fn to_wire(record: &Record) -> WireRecord {
    WireRecord {
        range: record.range,
        state: match record.state {
            BlockState::Suspect => 0,
            BlockState::Bad => 1,
            BlockState::Lost => 2,
            BlockState::Tombstone => 3,
        },
        cause: u8::from(!record.cause.is_read()),
        good_at: match record.good_at {
            GoodAt::No => 0,
            GoodAt::Yes => 1,
            GoodAt::Unknown => 2,
        },
        generation: record.generation,
    }
}

fn from_wire(record: &WireRecord, whose: Whose, now: u32) -> Record {
    Record {
        range: record.range,
        whose,
        state: match record.state {
            1 => BlockState::Bad,
            2 => BlockState::Lost,
            _ => BlockState::Suspect,
        },
        cause: if record.cause == 0 {
            Cause::Read
        } else {
            Cause::MissedWrite
        },
        good_at: match record.good_at {
            0 => GoodAt::No,
            1 => GoodAt::Yes,
            _ => GoodAt::Unknown,
        },
        errors: 1,
        first_seen: now,
        last_seen: now,
        generation: record.generation,
    }
}

fn tombstone(range: BlockRange, now: u32) -> Record {
    Record {
        range,
        whose: Whose::Own,
        state: BlockState::Tombstone,
        cause: Cause::Read,
        good_at: GoodAt::Yes,
        errors: 0,
        first_seen: now,
        last_seen: now,
        generation: 0,
    }
}
