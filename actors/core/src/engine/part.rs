//! The volume part's value, its dispatch, and the batch that one step collects for each neighbour.

use super::epochs::Epochs;
use super::extents::Extents;
use super::locks::Locks;
use super::marks::Marks;
use super::recover::Recovery;
use super::request::{Local, Request, Stage};
use super::{ClientAnswer, ClientRequest, VolumeEffect, VolumeIn};
use crate::activity::ActivityIn;
use crate::bitmap::{BadBlocks, BitmapIn, ClearReason, Mark, MarkReason};
use crate::client::ClientIn;
use crate::configuration::VolumeConfiguration;
use crate::disk::{DataKind, DataOperation, DiskIn};
use crate::identity::{
    ClientId, ConnectionNumber, ErrorNumber, MarkNumber, OperationId, PartGeneration, Query, Sequence,
    TellNumber,
};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::peer::{PeerFrame, PeerIn};
use crate::snapshot::Snapshot;
use crate::volume::machine::StateIn;
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::units::{BlockRange, SectorRange};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Open client requests of a volume at the most; more wait in their ports.
pub(super) const MAX_OPEN: usize = 4096;

/// What a client's request has come to (R18).
pub(super) enum Known {
    Open,
    Answered(ClientAnswer),
}

/// A write that is answered but not retired: its extents stay hot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unretired {
    pub range: SectorRange,
    /// Epoch whose barrier acknowledgement retires it; none: a mark does.
    pub epoch: Option<u64>,
    pub mark: Option<MarkNumber>,
    /// Life of the disk whose extents it uses.
    pub in_log: Option<u64>,
    pub local_ok: bool,
}

/// An operation that was submitted to the disk.
pub(super) struct Submitted {
    pub request: u64,
    pub kind: DataKind,
}

/// What one step collects for each neighbour.
#[derive(Default)]
pub(super) struct Batch {
    pub operations: Vec<DataOperation>,
    pub frames: Vec<PeerFrame>,
    pub acks: Vec<u64>,
    pub answers: BTreeMap<ClientId, Vec<ClientAnswer>>,
    pub marks: Vec<Mark>,
    pub cleared: Vec<(BlockRange, ClearReason)>,
    pub activate: Vec<u32>,
}

/// The volume part.
pub struct VolumePart {
    pub(super) configuration: Arc<VolumeConfiguration>,
    pub(super) generation: PartGeneration,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) waiting: BTreeSet<u64>,
    pub(super) settling: BTreeSet<u64>,
    pub(super) unretired: BTreeMap<u64, Unretired>,
    pub(super) operations: BTreeMap<u64, Submitted>,
    /// Operations of predecessors that the kernel still holds (R14): range, and whether they write.
    pub(super) adopted: BTreeMap<OperationId, (Option<SectorRange>, bool)>,
    /// Those whose disk was given up meanwhile: nobody waits for them, but one that failed names blocks to be marked.
    pub(super) given_up: BTreeMap<OperationId, (Option<SectorRange>, bool)>,
    pub(super) locks: Locks,
    pub(super) extents: Extents,
    pub(super) marks: Marks,
    pub(super) epochs: Epochs,
    pub(super) clients: BTreeMap<ClientId, BTreeMap<Sequence, Known>>,
    /// Locks of answered writes, until the session has the answer (R19): (client, sequence) → place.
    pub(super) confirming: BTreeMap<(ClientId, Sequence), u64>,
    /// The last requests of each client: at the end of a replay these are what its port holds.
    pub(super) last_batch: BTreeMap<ClientId, Vec<Sequence>>,
    pub(super) bad: Arc<BadBlocks>,
    pub(super) unflushed: BTreeSet<u32>,
    /// The last flush of the own disk that failed.
    pub(super) flush_error: ErrorNumber,
    /// The connection whose frames are taken; frames of a newer one wait until a snapshot names it.
    pub(super) link: super::received::Incoming,
    pub(super) losing: super::loss::Losing,
    pub(super) window: i64,
    pub(super) drained: super::drain::Drained,
    /// Questions, and the writes that each still waits for.
    pub(super) quiescing: Vec<(Query, BTreeSet<u64>)>,
    pub(super) fences: Vec<Query>,
    pub(super) news: super::news::News,
    pub(super) recovery: Recovery,
    pub(super) localisation: super::localise::Localisation,
    pub(super) batch: Batch,
    pub(super) now: Instant,
    /// Something ended in this step for which another request may have waited.
    pub(super) freed: bool,
    next: u64,
    touched_at: Instant,
}

impl VolumePart {
    /// A part of this generation.
    pub fn new(configuration: Arc<VolumeConfiguration>, generation: PartGeneration) -> Self {
        Self {
            configuration,
            generation,
            snapshot: None,
            requests: BTreeMap::new(),
            waiting: BTreeSet::new(),
            settling: BTreeSet::new(),
            unretired: BTreeMap::new(),
            operations: BTreeMap::new(),
            adopted: BTreeMap::new(),
            given_up: BTreeMap::new(),
            locks: Locks::default(),
            extents: Extents::default(),
            marks: Marks::new(generation.0),
            epochs: Epochs::new(generation.0),
            clients: BTreeMap::new(),
            confirming: BTreeMap::new(),
            last_batch: BTreeMap::new(),
            bad: Arc::default(),
            unflushed: BTreeSet::new(),
            flush_error: ErrorNumber(0),
            link: super::received::Incoming::default(),
            losing: super::loss::Losing::default(),
            window: i64::MAX,
            drained: super::drain::Drained::default(),
            quiescing: Vec::new(),
            fences: Vec::new(),
            news: super::news::News::default(),
            recovery: Recovery::new(generation),
            localisation: super::localise::Localisation::default(),
            batch: Batch::default(),
            now: Instant(0),
            // Numbers of requests go over the wire: unique over all generations.
            next: generation.0 << 40,
            freed: false,
            touched_at: Instant(0),
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes a request into the table; it starts when nothing stands in its way.
    pub(super) fn insert(&mut self, request: Request, out: &mut Outbox<VolumeEffect>) -> u64 {
        let id = self.number();
        if let (true, Some(range)) = (request.work.writes(), request.range()) {
            self.locks.enter(id, range);
        }
        self.requests.insert(id, request);
        self.waiting.insert(id);
        self.try_start(id, out);
        id
    }

    /// Removes a request; its lock goes with it.
    pub(super) fn remove(&mut self, id: u64) -> Option<Request> {
        self.waiting.remove(&id);
        self.settling.remove(&id);
        let removed = self.requests.remove(&id);
        self.freed |= removed.is_some();
        removed
    }

    pub(super) fn unlock(&mut self, id: u64) {
        self.freed |= self.locks.leave(id);
    }

    /// Sends an operation to the disk part.
    pub(super) fn submit(&mut self, request: u64, kind: DataKind) {
        let number = self.number();
        let id = OperationId {
            generation: self.generation,
            request: number,
        };
        if let Some(entry) = self.requests.get_mut(&request) {
            entry.local = Local::Pending;
            entry.tried_under = self.snapshot.as_ref().map(|snapshot| snapshot.number);
        }
        self.operations.insert(
            number,
            Submitted {
                request,
                kind: kind.clone(),
            },
        );
        self.batch.operations.push(DataOperation { id, kind });
    }

    pub(super) fn frame(&mut self, message: Message, payload: Option<Buffer>) {
        if let Some(buffer) = payload.as_ref() {
            self.window = self
                .window
                .saturating_sub(i64::try_from(buffer.len()).unwrap_or(i64::MAX));
        }
        self.batch.frames.push(PeerFrame { message, payload });
    }

    pub(super) fn mark(&mut self, ranges: Vec<BlockRange>, reason: MarkReason) -> MarkNumber {
        let mark = self.marks.add(ranges, reason);
        let number = mark.number;
        self.batch.marks.push(mark);
        number
    }

    pub(super) fn connection(&self) -> Option<ConnectionNumber> {
        self.snapshot.as_ref().and_then(|snapshot| snapshot.connection)
    }

    pub(super) fn begin_settling_of(&mut self, id: u64) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.stage = Stage::Settling;
            self.settling.insert(id);
        }
    }

    fn requests_arrived(
        &mut self,
        client: ClientId,
        requests: Vec<ClientRequest>,
        out: &mut Outbox<VolumeEffect>,
    ) {
        if self.recovery.is_collecting() {
            self.recovery.collect(client, requests);
            return;
        }
        self.last_batch
            .insert(client, requests.iter().map(|request| request.sequence).collect());
        for request in requests {
            self.admit(client, request, out);
        }
    }

    /// What a step ends with: everything that has become possible starts, in this step (there may be no next one), then the
    /// batches go out.
    fn finish(&mut self, out: &mut Outbox<VolumeEffect>) {
        loop {
            self.freed = false;
            self.start_waiting(out);
            self.settle_all(out);
            self.retire_all(out);
            self.close_under_pressure();
            self.advance_recovery(out);
            self.advance_drain(out);
            self.advance_losing(out);
            self.advance_quiescing(out);
            self.advance_localisation(out);
            // What ended may have stood in the way of what waits, and nothing else may ever come to wake it.
            if !self.freed {
                break;
            }
        }
        self.flush_batch(out);
    }

    fn start_waiting(&mut self, out: &mut Outbox<VolumeEffect>) {
        for id in self.waiting.clone() {
            self.try_start(id, out);
        }
    }

    fn settle_all(&mut self, out: &mut Outbox<VolumeEffect>) {
        for id in self.settling.clone() {
            self.try_answer(id, out);
        }
    }

    /// Activity-log pressure, quiescing and full epochs close the present epoch at once.
    fn close_under_pressure(&mut self) {
        let pressure = self.extents.is_revoking() || !self.quiescing.is_empty() || self.drained.is_wanted();
        let full = self.epochs.writes() >= self.configuration.max_epoch_size.max(1);
        if (pressure || full) && self.connection().is_some() && self.epochs.writes() > 0 {
            self.close_epoch();
        }
    }

    pub(super) fn close_epoch(&mut self) {
        if let Some((epoch, writes)) = self.epochs.close() {
            self.frame(Message::Barrier { epoch, writes }, None);
        }
    }

    fn flush_batch(&mut self, out: &mut Outbox<VolumeEffect>) {
        let batch = std::mem::take(&mut self.batch);
        if !batch.acks.is_empty() {
            self.batch.frames.push(PeerFrame {
                message: Message::WriteAcks { requests: batch.acks },
                payload: None,
            });
        }
        let mut frames = batch.frames;
        frames.append(&mut self.batch.frames);
        // The peer part before the disk part: replication and the local write run side by side.
        if let (false, Some(connection)) = (frames.is_empty(), self.connection()) {
            let after = self
                .snapshot
                .as_ref()
                .map_or(TellNumber(0), |snapshot| snapshot.tell);
            out.send(To::Peer(PeerIn::Send {
                connection,
                frames,
                after,
            }));
        }
        if !batch.marks.is_empty() {
            out.send(To::Bitmap(BitmapIn::Mark(batch.marks)));
        }
        if !batch.operations.is_empty() {
            self.send_operations(batch.operations, out);
        }
        if !batch.activate.is_empty() {
            out.send(To::ActivityLog(ActivityIn::Activate {
                extents: batch.activate,
                holder: self.generation,
            }));
        }
        for (reason, ranges) in by_reason(batch.cleared) {
            out.send(To::Bitmap(BitmapIn::Clear { ranges, reason }));
        }
        // Behind the marks of this step.
        for query in std::mem::take(&mut self.fences) {
            out.send(To::State(StateIn::Fenced {
                query,
                mark: self.marks.last_sent(),
            }));
        }
        for (client, answers) in batch.answers {
            out.send(To::Client(client, ClientIn::Answers(answers)));
        }
    }

    fn send_operations(&mut self, operations: Vec<DataOperation>, out: &mut Outbox<VolumeEffect>) {
        // While the disk part's table is awaited nothing is submitted: the answer tells what is repeated (R9).
        if !self.recovery.awaits_table() {
            out.send(To::Disk(DiskIn::Data(operations)));
        }
    }

    fn snapshot_arrived(&mut self, snapshot: Arc<Snapshot>, out: &mut Outbox<VolumeEffect>) {
        let old = self.snapshot.replace(Arc::clone(&snapshot));
        if old.as_ref().is_some_and(|old| old.number >= snapshot.number) {
            self.snapshot = old;
            return;
        }
        let mirrored = old.as_ref().is_some_and(|old| old.mirror);
        let same_link = old.as_ref().and_then(|old| old.connection) == snapshot.connection;
        if mirrored && same_link && !snapshot.mirror && snapshot.connection.is_some() {
            self.mirroring_stopped();
        }
        if let Some(ended) = old.as_ref().and_then(|old| old.connection).filter(|_| !same_link) {
            // Before the epochs begin anew: what no barrier retired is owed, not stable (R1, R11).
            self.connection_ended(ended);
        }
        if !same_link && snapshot.connection.is_some() {
            self.marks.forget_known();
            self.epochs.reset();
            self.window = i64::MAX;
        }
        if snapshot.disk.is_none() {
            self.disk_gone();
        }
        if let Some(old) = old.as_ref().filter(|_| same_link) {
            self.sender_has_disk_again(old, &snapshot);
        }
        self.snapshot_drain(&snapshot, out);
        self.take_parked(out);
    }

    fn wake_deadline(&self) -> Option<Instant> {
        let grace = self.snapshot.as_ref().and_then(|snapshot| snapshot.link_lost_at);
        let waiting =
            !self.waiting.is_empty() || self.settling.iter().any(|id| self.requests.contains_key(id));
        let grace = grace
            .map(|lost| lost.after_ms(self.configuration.reconnect_grace))
            .filter(|&at| waiting && at > self.now);
        let epoch = self.epochs.close_at().filter(|_| self.connection().is_some());
        let again = self
            .waiting
            .iter()
            .filter_map(|id| self.requests.get(id)?.not_before);
        let again = again.filter(|&at| at > self.now).min();
        [grace, epoch, again, self.localisation.wake_at()]
            .into_iter()
            .flatten()
            .min()
    }
}

fn by_reason(cleared: Vec<(BlockRange, ClearReason)>) -> Vec<(ClearReason, Vec<BlockRange>)> {
    let mut sorted: Vec<(ClearReason, Vec<BlockRange>)> = Vec::new();
    for (range, reason) in cleared {
        match sorted.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ranges)) => ranges.push(range),
            None => sorted.push((reason, vec![range])),
        }
    }
    sorted
}

/// Frames of one connection, parked until a snapshot names it.
pub(super) type Parked = VecDeque<(ConnectionNumber, PeerFrame)>;

impl Part for VolumePart {
    type In = VolumeIn;
    type Effect = VolumeEffect;
    const NAME: PartName = PartName::Volume;

    fn start(&mut self, cx: &mut Context<'_>, out: &mut Outbox<VolumeEffect>) {
        self.now = cx.now;
        self.begin_recovery(out);
    }

    fn on(&mut self, cx: &mut Context<'_>, message: VolumeIn, out: &mut Outbox<VolumeEffect>) {
        self.now = cx.now;
        match message {
            VolumeIn::Snapshot(snapshot) => self.snapshot_arrived(snapshot, out),
            VolumeIn::Restarted { part, generation } => self.neighbour_restarted(part, generation, out),
            VolumeIn::Requests { client, requests } => self.requests_arrived(client, requests, out),
            VolumeIn::ReplayEnd { client, generation } => self.replay_ended(client, generation),
            VolumeIn::Sessions(clients) => self.recovery.sessions(clients),
            VolumeIn::Confirm { client, sequences } => self.confirmed(client, &sequences),
            VolumeIn::ClientGone { client } => self.client_gone(client),
            VolumeIn::Completed(completions) => {
                for completion in completions {
                    self.completed(completion, out);
                }
            }
            VolumeIn::Table(answer) => self.table(&answer, out),
            VolumeIn::Peer { connection, frames } => self.frames_arrived(connection, frames, out),
            VolumeIn::Lost { connection } => self.lost(connection, out),
            VolumeIn::PeerIs {
                generation,
                connection,
            } => self.recovery.peer_is(generation, connection),
            VolumeIn::WindowOpen { connection, bytes } => {
                if self.connection() == Some(connection) || self.connection().is_none() {
                    self.window = i64::try_from(bytes).unwrap_or(i64::MAX);
                }
            }
            VolumeIn::Granted { grants } => {
                for grant in grants {
                    self.extents.granted(grant);
                }
            }
            VolumeIn::Revoke { number, extents } => self.revoked(number, &extents),
            VolumeIn::Marked { number, outcome } => self.mark_ended(number, outcome, out),
            VolumeIn::BadBlocks(bad) => self.bad = bad,
            VolumeIn::BitmapIs { generation, last } => self.recovery.bitmap_is(generation, last),
            VolumeIn::FetchBlocks { job, range } => self.fetch(job, range, out),
            VolumeIn::ErrorsSettled(_) => {}
            VolumeIn::HotExtents { query, extents } => self.hot_extents(query, &extents),
            VolumeIn::News { query, snapshot } => self.news.arrived(query, snapshot),
            VolumeIn::Fence { query } => self.fences.push(query),
            VolumeIn::Quiesce { query } => self.begin_quiescing(query),
        }
        self.finish(out);
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Outbox<VolumeEffect>) {
        self.now = cx.now;
        if self.epochs.close_at().is_some_and(|at| at <= cx.now) && self.connection().is_some() {
            self.close_epoch();
        }
        if cx.now.ms_since(self.touched_at) >= 1000 {
            self.touched_at = cx.now;
            let touched = self.extents.take_touched();
            if !touched.is_empty() {
                out.send(To::ActivityLog(ActivityIn::Touched(touched)));
            }
        }
        self.finish(out);
    }

    fn wake_at(&self) -> Option<Instant> {
        self.wake_deadline()
    }
}
