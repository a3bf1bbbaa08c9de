//! Requests of clients: admission, the start of their parts, confirmation of answers.

use super::part::{Known, MAX_OPEN, VolumePart};
use super::path::{self, ReadPath};
use super::request::{Local, Net, Origin, Proof, Request, Stage, Work};
use super::{ClientRequest, ClientRequestKind, VolumeEffect};
use crate::disk::DataKind;
use crate::identity::{ClientId, ErrorNumber, Sequence};
use crate::part::Outbox;
use crate::planted::{Fault, is_planted};
use crate::snapshot::Admission;
use crate::volume::state::DiskState;
use mendblock_net::wire::message::Message;
use mendblock_storage::units::SectorRange;

impl VolumePart {
    /// Takes a client's request, unless it is known (a replay, R15): then its answer is given again, or it goes on.
    pub(super) fn admit(&mut self, client: ClientId, request: ClientRequest, out: &mut Outbox<VolumeEffect>) {
        let known = self.clients.entry(client).or_default();
        match known.get(&request.sequence) {
            Some(Known::Answered(answer)) => {
                let answer = answer.clone();
                self.batch.answers.entry(client).or_default().push(answer);
                return;
            }
            Some(Known::Open) => return,
            None => {}
        }
        known.insert(request.sequence, Known::Open);
        let work = match request.kind {
            ClientRequestKind::Read { range } => Work::Read { range },
            ClientRequestKind::Write { range, buffer, fua } => Work::Write { range, buffer, fua },
            ClientRequestKind::WriteZeroes {
                range,
                may_unmap,
                fua,
            } => Work::Zeroes {
                range,
                may_unmap,
                fua,
            },
            ClientRequestKind::Flush => Work::Flush,
        };
        self.insert(
            Request::new(
                Origin::Client {
                    client,
                    sequence: request.sequence,
                },
                work,
            ),
            out,
        );
    }

    /// The port has these answers: they need not be kept, and their locks go (R18, R19).
    pub(super) fn confirmed(&mut self, client: ClientId, sequences: &[Sequence]) {
        for &sequence in sequences {
            if let Some(known) = self.clients.get_mut(&client)
                && matches!(known.get(&sequence), Some(Known::Answered(_)))
            {
                known.remove(&sequence);
            }
            if let Some(place) = self.confirming.remove(&(client, sequence)) {
                self.unlock(place);
            }
        }
    }

    pub(super) fn client_gone(&mut self, client: ClientId) {
        self.clients.remove(&client);
        self.last_batch.remove(&client);
        self.recovery.client_gone(client);
        let places: Vec<(ClientId, Sequence)> = self
            .confirming
            .keys()
            .filter(|(of, _)| *of == client)
            .copied()
            .collect();
        for key in places {
            if let Some(place) = self.confirming.remove(&key) {
                self.unlock(place);
            }
        }
    }

    /// Starts a waiting request if nothing stands in its way.
    pub(super) fn try_start(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self
            .requests
            .get(&id)
            .filter(|request| request.stage == Stage::Waiting)
        else {
            self.waiting.remove(&id);
            return;
        };
        if self.recovery.is_collecting() {
            return;
        }
        if self.link_is_lost() && matches!(request.origin, Origin::Client { .. } | Origin::Fetch { .. }) {
            return;
        }
        if request.not_before.is_some_and(|at| at > self.now) {
            return;
        }
        let (origin, range) = (request.origin, request.range());
        let served = matches!(origin, Origin::Served { .. });
        let ordered = request.work.writes() || served;
        if let (true, Some(range)) = (ordered, range) {
            let free = if served {
                self.may_be_read(id, range)
            } else {
                self.locks.may_run(id, range)
            };
            if !free || self.adopted_overlap(range) {
                return;
            }
        }
        match origin {
            Origin::Client { .. } => self.start_client(id, out),
            Origin::Received { .. } => self.start_received(id),
            Origin::Served { .. } => self.start_served(id),
            Origin::Barrier { .. } => self.start_barrier(id),
            Origin::Fetch { .. } => self.start_fetch(id),
            Origin::Localise => self.start_probe(id),
        }
    }

    /// Q11: the peer's read waits for the own client's writes only while they are on the own disk. Their acknowledgement may wait
    /// behind this very read: a target locks the block until the data of its fetch have come. A proof asks nobody but the own disk and
    /// the own list; while it is open the block is still listed, and the target would be told that it is lost.
    fn may_be_read(&self, id: u64, range: SectorRange) -> bool {
        self.locks.before(id, range).all(|other| {
            self.requests.get(&other).is_none_or(|write| {
                write.is_client() && write.local != Local::Pending && !self.proof_is_open(write)
            })
        })
    }

    /// A write that the kernel still holds for a predecessor must not land on a newer one (R14).
    fn adopted_overlap(&self, range: SectorRange) -> bool {
        self.adopted
            .values()
            .any(|(other, writes)| *writes && other.is_some_and(|other| other.overlaps(range)))
    }

    fn start_client(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let admission = if request.is_read() {
            snapshot.reads
        } else {
            snapshot.writes
        };
        if admission != Admission::Open || self.requests.len() - self.waiting.len() > MAX_OPEN {
            return;
        }
        match request.work {
            Work::Read { range } => self.start_read(id, range, out),
            Work::Flush => self.start_flush(id, out),
            _ => self.start_write(id, out),
        }
    }

    fn start_read(&mut self, id: u64, range: SectorRange, out: &mut Outbox<VolumeEffect>) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let tried = (request.no_local.is_some(), request.no_peer);
        let unseen = request.is_ahead_of(&snapshot);
        match path::read(&snapshot, &self.bad, &self.configuration, range, tried, self.now) {
            ReadPath::Local => {
                self.running(id);
                self.submit(id, DataKind::Read { range });
            }
            ReadPath::Peer(connection) => {
                self.running(id);
                if let Some(request) = self.requests.get_mut(&id) {
                    request.net = Net::Pending(connection);
                }
                self.frame(Message::Read { request: id, range }, None);
            }
            ReadPath::Wait(_) => {}
            ReadPath::Nowhere(_) if snapshot.vector.suspended.any() => {}
            // The state has not heard of the failed read yet: whether the peer has the block is for its next snapshot to say.
            ReadPath::Nowhere(_) if unseen => {}
            // Of a larger read that failed, most blocks may be good.
            ReadPath::Nowhere(_) if self.localisation.is_open(range) => {}
            ReadPath::Nowhere(why) => self.fail_unless_there_is_news(id, 5, why, out),
        }
    }

    pub(super) fn running(&mut self, id: u64) {
        self.waiting.remove(&id);
        if let Some(request) = self.requests.get_mut(&id) {
            request.stage = Stage::Running;
        }
    }

    fn start_write(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let Some(range) = self.requests.get(&id).and_then(Request::range) else {
            return;
        };
        let failed = self.requests.get(&id).and_then(|request| match request.local {
            Local::Failed(number, errno) => Some((number, errno)),
            _ => None,
        });
        let way = match path::write(&snapshot, &self.configuration, failed.is_some(), self.now) {
            Ok(way) => way,
            Err(ReadPath::Wait(_)) => return,
            Err(_) if snapshot.vector.suspended.any() => return,
            Err(_)
                if self
                    .requests
                    .get(&id)
                    .is_some_and(|request| request.is_ahead_of(&snapshot)) =>
            {
                return;
            }
            Err(ReadPath::Nowhere(why)) => {
                return self.fail_unless_there_is_news(
                    id,
                    no_space_or_eio(failed.map(|(_, errno)| errno)),
                    why,
                    out,
                );
            }
            Err(_) => return self.fail_unless_there_is_news(id, 5, "no way", out),
        };
        if way.local && !self.covered(id, range) {
            return;
        }
        if way.peer.is_some() && self.window <= 0 {
            return;
        }
        self.running(id);
        if way.local && way.peer.is_none() {
            // Marked before it is written: a connection that comes up meanwhile exchanges bitmaps, and a bit set only at the answer
            // would be one that the target never hears of.
            let mark = self.mark_lacking(range.touched_blocks());
            if let Some(request) = self.requests.get_mut(&id) {
                request.lacking = mark;
                request.marked_lacking = true;
            }
        }
        if let Some(connection) = way.peer {
            self.mirror(id, connection, snapshot.vector.connection.is_resync());
        }
        if way.local {
            self.write_locally(id);
        }
        self.ended_parts(id);
    }

    /// All extents of the write are hot and held; else they are asked for.
    pub(super) fn covered(&mut self, id: u64, range: SectorRange) -> bool {
        if !self.extents.ready(range.extents()) {
            let ask = self.extents.want(range.extents());
            self.batch.activate.extend(ask);
            return false;
        }
        let life = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.disk.as_ref())
            .map(|disk| disk.attach_id.0);
        if let Some(request) = self
            .requests
            .get_mut(&id)
            .filter(|request| request.in_log.is_none())
        {
            request.in_log = life;
            self.extents.take(range.extents());
        }
        true
    }

    fn mirror(&mut self, id: u64, connection: crate::identity::ConnectionNumber, in_resync: bool) {
        let epoch = self.epochs.join(self.now);
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        request.epoch = epoch;
        request.net = if is_planted(Fault::AnswerBeforePeer) {
            Net::Done(connection)
        } else {
            Net::Pending(connection)
        };
        // Lost again, it is marked again: the resync of this connection may have cleared the first mark.
        request.marked_lacking = false;
        request.lacking = None;
        let (message, payload) = match &request.work {
            Work::Write { range, buffer, fua } => {
                let message = Message::Write {
                    request: id,
                    epoch,
                    range: *range,
                    fua: *fua,
                    may_set_in_sync: in_resync,
                };
                (message, Some(buffer.clone()))
            }
            Work::Zeroes {
                range,
                may_unmap,
                fua,
            } => {
                let (range, may_unmap, fua) = (*range, *may_unmap, *fua);
                (
                    Message::WriteZeroes {
                        request: id,
                        epoch,
                        range,
                        may_unmap,
                        fua,
                        may_set_in_sync: in_resync,
                    },
                    None,
                )
            }
            _ => return,
        };
        self.frame(message, payload);
    }

    pub(super) fn write_locally(&mut self, id: u64) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let kind = match &request.work {
            Work::Write { range, buffer, fua } => DataKind::Write {
                range: *range,
                buffer: buffer.clone(),
                fua: *fua,
            },
            Work::Zeroes {
                range,
                may_unmap,
                fua,
            } => DataKind::WriteZeroes {
                range: *range,
                may_unmap: *may_unmap,
                fua: *fua,
            },
            _ => return,
        };
        if let Some(range) = request.range() {
            self.unflushed.extend(range.extents());
        }
        self.submit(id, kind);
    }

    /// Everything answered before is stable on every up-to-date replica: the local flush and the barrier's acknowledgement.
    fn start_flush(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        if !self.recovery.is_settled() {
            // R17: which answered writes the predecessor had not retired is not known yet.
            return;
        }
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        // The same copies that would make a write good make it stable.
        let way = match path::write(&snapshot, &self.configuration, false, self.now) {
            Ok(way) => way,
            Err(ReadPath::Nowhere(why)) if !snapshot.vector.suspended.any() => {
                return self.fail_unless_there_is_news(id, 5, why, out);
            }
            Err(_) => return,
        };
        self.running(id);
        if let Some(connection) = way.peer {
            self.close_epoch();
            let epoch = self.epochs.last_closed();
            let stable = self.epochs.is_stable(epoch);
            if let Some(request) = self.requests.get_mut(&id) {
                request.epoch = epoch;
                request.net = if stable {
                    Net::Done(connection)
                } else {
                    Net::Pending(connection)
                };
            }
        }
        if way.local {
            let taken = std::mem::take(&mut self.unflushed).into_iter().collect();
            if let Some(request) = self.requests.get_mut(&id) {
                request.flushing = taken;
            }
            self.submit(id, DataKind::Flush);
        }
        self.ended_parts(id);
    }

    /// Goes on to the answer if both parts have ended.
    pub(super) fn ended_parts(&mut self, id: u64) {
        if self
            .requests
            .get(&id)
            .is_some_and(|request| request.stage == Stage::Running && request.parts_ended())
        {
            self.begin_settling_of(id);
        }
    }

    /// The request is done anew, by another way.
    pub(super) fn restart(&mut self, id: u64) {
        self.settling.remove(&id);
        // What it becomes on its new way is looked at in this step: nothing else may ever come.
        self.freed = true;
        if let Some(request) = self.requests.get_mut(&id) {
            request.stage = Stage::Waiting;
            // A write that failed here is not tried here again (replication 8), and T1 needs its number, or the mark of what was
            // read back. Without either the disk part had no disk: the next one takes it.
            let failed = match (request.local, request.proof) {
                (Local::Failed(..), Proof::Failed(_)) => true,
                (Local::Failed(number, _), _) => number != ErrorNumber(0),
                _ => false,
            };
            if !(request.work.writes() && failed) {
                request.local = Local::None;
                request.proof = Proof::None;
            }
            request.net = Net::None;
            request.data = None;
            request.asked = None;
            self.waiting.insert(id);
        }
    }

    /// Whether the own disk may answer for a write now (T5).
    pub(super) fn disk_is_current(&self) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.vector.disk == DiskState::UpToDate && snapshot.disk.is_some())
    }
}

/// The errno for the client of a write that found no way; `failed`: errno of the own disk.
fn no_space_or_eio(failed: Option<i32>) -> i32 {
    if failed == Some(28) { 28 } else { 5 }
}
