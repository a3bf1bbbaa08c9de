//! A new generation of the volume part (R9, R14 to R17), and what a neighbour's death means here.

use super::part::{Known, VolumePart};
use super::request::Local;
use super::{ClientRequest, VolumeEffect};
use crate::activity::ActivityIn;
use crate::bitmap::{BitmapIn, MarkReason};
use crate::disk::{DataOperation, DiskIn, TableAnswer};
use crate::fact::Fact;
use crate::identity::{ClientId, ConnectionNumber, MarkNumber, OperationId, PartGeneration, Query, Sequence};
use crate::part::{Outbox, PartName, To};
use crate::peer::PeerIn;
use crate::volume::state::DiskState;
use mendblock_net::wire::message::Message;
use std::collections::BTreeSet;

/// What a new generation still waits for.
pub(super) struct Recovery {
    generation: PartGeneration,
    /// Sessions whose replay has not ended; none: the shell has not named them yet.
    sessions: Option<BTreeSet<ClientId>>,
    replays: Vec<(ClientId, ClientRequest)>,
    table: Option<Query>,
    peer: Option<Option<ConnectionNumber>>,
    bitmap: bool,
    collecting: bool,
    settled: bool,
    /// Barrier whose acknowledgement settles.
    barrier: Option<u64>,
    /// Extents that were hot when the predecessor died must be marked: asked for, then marked.
    owed: Owed,
    queries: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Nothing,
    Wanted,
    Asked(Query),
    Marked(MarkNumber),
}

impl Recovery {
    pub fn new(generation: PartGeneration) -> Self {
        let first = generation.0 <= 1;
        Self {
            generation,
            sessions: None,
            replays: Vec::new(),
            table: None,
            peer: first.then_some(None),
            bitmap: first,
            collecting: !first,
            settled: first,
            barrier: None,
            owed: Owed::Nothing,
            queries: generation.0 << 32,
        }
    }

    /// Requests are collected, none is started (R14).
    pub fn is_collecting(&self) -> bool {
        self.collecting
    }

    /// What the predecessor left is known and safe (R16).
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    pub fn awaits_table(&self) -> bool {
        self.table.is_some()
    }

    pub fn sessions(&mut self, clients: Vec<ClientId>) {
        self.sessions = Some(clients.into_iter().collect());
    }

    pub fn client_gone(&mut self, client: ClientId) {
        if let Some(sessions) = self.sessions.as_mut() {
            sessions.remove(&client);
        }
        self.replays.retain(|(of, _)| *of != client);
    }

    pub fn collect(&mut self, client: ClientId, requests: Vec<ClientRequest>) {
        self.replays
            .extend(requests.into_iter().map(|request| (client, request)));
    }

    pub fn peer_is(&mut self, generation: PartGeneration, connection: Option<ConnectionNumber>) {
        if generation == self.generation && self.peer.is_none() {
            self.peer = Some(connection);
        }
    }

    /// Whether a predecessor had received on this connection.
    pub fn inherits(&self, connection: ConnectionNumber) -> bool {
        self.peer == Some(Some(connection))
    }

    pub fn bitmap_is(&mut self, generation: PartGeneration, _last: MarkNumber) {
        self.bitmap |= generation == self.generation;
    }

    pub fn barrier(&mut self, epoch: u64) {
        // A loss in between makes a barrier on the new connection worthless for what was sent on the old one (R16).
        if self.barrier.is_some_and(|awaited| epoch >= awaited) && self.owed == Owed::Nothing {
            self.settled = true;
        }
    }

    pub fn loss_before_settled(&mut self) {
        self.barrier = None;
        if self.owed == Owed::Nothing {
            self.owed = Owed::Wanted;
        }
    }

    /// The marks of a loss include those of the predecessor's writes.
    pub fn loss_is_marked(&self) -> bool {
        self.owed == Owed::Nothing
    }

    fn query(&mut self) -> Query {
        self.queries += 1;
        Query(self.queries)
    }

    fn replay_ended(&mut self, client: ClientId) {
        if let Some(sessions) = self.sessions.as_mut() {
            sessions.remove(&client);
        }
    }

    fn has_everything(&self) -> bool {
        self.table.is_none()
            && self.peer.is_some()
            && self.bitmap
            && self.sessions.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

impl VolumePart {
    pub(super) fn begin_recovery(&mut self, out: &mut Outbox<VolumeEffect>) {
        if self.recovery.is_collecting() {
            out.fact(Fact::Recovered {
                part: PartName::Volume,
                what: format!("generation {} begins", self.generation),
            });
            self.query_table(out);
        }
    }

    fn query_table(&mut self, out: &mut Outbox<VolumeEffect>) {
        let query = self.recovery.query();
        self.recovery.table = Some(query);
        out.send(To::Disk(DiskIn::QueryTable {
            asker: PartName::Volume,
            generation: self.generation,
            query,
        }));
    }

    pub(super) fn replay_ended(&mut self, client: ClientId, generation: PartGeneration) {
        if generation != self.generation {
            return;
        }
        if self.recovery.is_collecting() {
            self.recovery.replay_ended(client);
        } else {
            self.confirmed_by_replay(client);
        }
    }

    /// Answers that a replay does not ask for again are in the port: their confirmation died with a session.
    fn confirmed_by_replay(&mut self, client: ClientId) {
        let Some(asked) = self.last_batch.remove(&client) else {
            return;
        };
        let delivered: Vec<Sequence> = self
            .clients
            .get(&client)
            .into_iter()
            .flatten()
            .filter(|(sequence, known)| matches!(known, Known::Answered(_)) && !asked.contains(sequence))
            .map(|(&sequence, _)| sequence)
            .collect();
        self.confirmed(client, &delivered);
    }

    /// The table: operations of predecessors become locks; own ones that it does not name are submitted again (R9).
    pub(super) fn table(&mut self, answer: &TableAnswer, out: &mut Outbox<VolumeEffect>) {
        if self.recovery.table != Some(answer.query) || answer.asker != self.generation {
            return;
        }
        self.recovery.table = None;
        let mut named: BTreeSet<OperationId> = BTreeSet::new();
        for &(id, range, writes) in &answer.data {
            named.insert(id);
            if id.generation != self.generation {
                self.adopted.insert(id, (range, writes));
            }
        }
        self.adopted.retain(|id, _| named.contains(id));
        self.let_go_if_abandoned();
        let generation = self.generation;
        let again: Vec<DataOperation> = self
            .operations
            .iter()
            .filter(|(number, submitted)| {
                let id = OperationId {
                    generation,
                    request: **number,
                };
                let wanted = self
                    .requests
                    .get(&submitted.request)
                    .is_some_and(|request| request.local == Local::Pending);
                wanted && !named.contains(&id)
            })
            .map(|(&number, submitted)| DataOperation {
                id: OperationId {
                    generation,
                    request: number,
                },
                kind: submitted.kind.clone(),
            })
            .collect();
        if !again.is_empty() {
            out.send(To::Disk(DiskIn::Data(again)));
        }
    }

    /// Starts when everything has arrived; settles when it may.
    pub(super) fn advance_recovery(&mut self, out: &mut Outbox<VolumeEffect>) {
        if self.recovery.is_collecting() {
            if self.snapshot.is_none() || !self.recovery.has_everything() {
                return;
            }
            self.recovery.collecting = false;
            self.freed = true;
            let mut replays = std::mem::take(&mut self.recovery.replays);
            // In the order in which they first arrived (R15).
            replays.sort_by_key(|(_, request)| request.arrival);
            for (client, request) in replays {
                self.admit(client, request, out);
            }
            self.take_parked(out);
            self.begin_settling(out);
        }
        if !self.recovery.is_settled() {
            self.settle(out);
        }
    }

    fn begin_settling(&mut self, out: &mut Outbox<VolumeEffect>) {
        let connected = self.connection().is_some() && self.recovery.peer == Some(self.connection());
        let mirrored = self.snapshot.as_ref().is_some_and(|snapshot| snapshot.mirror);
        if connected && mirrored && !self.link_is_lost() && self.recovery.owed == Owed::Nothing {
            // Everything that the predecessor sent lies before this barrier in the same order.
            let (epoch, writes) = self.epochs.close_always();
            self.recovery.barrier = Some(epoch);
            self.frame(Message::Barrier { epoch, writes }, None);
        } else {
            self.recovery.owed = Owed::Wanted;
        }
        self.settle(out);
    }

    fn settle(&mut self, out: &mut Outbox<VolumeEffect>) {
        // A disk that is being attached is not the predecessor's, and its log answers nothing yet; nor does the log of one that
        // went meanwhile.
        let has_disk = self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.disk.is_some() && snapshot.vector.disk > DiskState::Attaching);
        match self.recovery.owed {
            Owed::Wanted | Owed::Asked(_) if !has_disk => self.settled(),
            Owed::Wanted => {
                let query = self.recovery.query();
                self.recovery.owed = Owed::Asked(query);
                out.send(To::ActivityLog(ActivityIn::ListHot { query }));
            }
            Owed::Marked(mark) if !self.marks.is_open(mark) && self.adopted.is_empty() => self.settled(),
            _ => {}
        }
    }

    fn settled(&mut self) {
        self.recovery.owed = Owed::Nothing;
        self.recovery.settled = true;
        self.freed = true;
    }

    /// The extents that were hot: all their blocks are owed to the peer.
    pub(super) fn hot_extents(&mut self, query: Query, extents: &[u32]) {
        if self.recovery.owed != Owed::Asked(query) {
            return;
        }
        let sectors = self.sectors();
        let ranges: Vec<_> = extents
            .iter()
            .filter_map(|&extent| super::complete::extent_blocks(extent, sectors))
            .collect();
        if ranges.is_empty() {
            return self.settled();
        }
        self.tell_target(&ranges);
        let mark = self.mark(ranges, MarkReason::PeerLacks);
        self.recovery.owed = Owed::Marked(mark);
    }

    pub(super) fn revoked(&mut self, number: u64, extents: &[u32]) {
        self.extents.revoke(number, extents);
    }

    /// Gives drained extents back; not before it is known what the predecessor left in them (R17).
    pub(super) fn return_extents(&mut self, out: &mut Outbox<VolumeEffect>) {
        if !self.recovery.is_settled() {
            return;
        }
        for (number, grants, not_held) in self.extents.returned() {
            self.freed = true;
            out.send(To::ActivityLog(ActivityIn::Released {
                number,
                grants,
                not_held,
            }));
        }
    }

    pub(super) fn neighbour_restarted(
        &mut self,
        part: PartName,
        generation: PartGeneration,
        out: &mut Outbox<VolumeEffect>,
    ) {
        match part {
            PartName::Disk => self.query_table(out),
            PartName::Bitmap => {
                let open = self.marks.open();
                if !open.is_empty() {
                    out.send(To::Bitmap(BitmapIn::Mark(open)));
                }
                out.send(To::Bitmap(BitmapIn::MarksUpTo {
                    number: self.marks.last_sent(),
                    generation,
                }));
                self.ask_again(out);
                if !self.recovery.bitmap {
                    // The one that was told of this generation is dead: it does not answer any more.
                    out.send(To::Bitmap(BitmapIn::Restarted {
                        part: PartName::Volume,
                        generation: self.generation,
                    }));
                }
            }
            PartName::Peer if self.recovery.peer.is_none() => {
                out.send(To::Peer(PeerIn::Restarted {
                    part: PartName::Volume,
                    generation: self.generation,
                }));
            }
            PartName::ActivityLog => {
                let extents = self.extents.wanted();
                if !extents.is_empty() {
                    out.send(To::ActivityLog(ActivityIn::Activate {
                        extents,
                        holder: self.generation,
                    }));
                }
                if let Owed::Asked(_) = self.recovery.owed {
                    self.recovery.owed = Owed::Wanted;
                }
            }
            PartName::State => {
                self.ask_again(out);
                self.drained.repeat();
                self.repeat_retired(out);
            }
            PartName::Peer | PartName::Volume | PartName::Resync | PartName::Client | PartName::Helper => {}
        }
    }
}
