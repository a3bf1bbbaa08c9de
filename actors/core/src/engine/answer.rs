//! When a request may be answered: rules T1 and T3 to T5. Every place here is one where an acknowledged write could be lost;
//! the comment says why it is not.

use super::part::{Known, Unretired, VolumePart};
use super::path;
use super::request::{Local, Net, Origin, Proof, Request, Work};
use super::{ClientAnswer, VolumeEffect};
use crate::bitmap::{ClearReason, MarkReason};
use crate::fact::Fact;
use crate::identity::{ClientId, ErrorNumber, Sequence};
use crate::part::Outbox;
use crate::planted::{Fault, is_planted};
use crate::snapshot::Snapshot;
use crate::volume::state::DiskState;
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::units::BlockRange;

/// What the conditions say.
enum Verdict {
    Ok,
    Wait,
    /// By another way, if there is one.
    Again,
    Fail(i32, &'static str),
}

impl VolumePart {
    /// Answers a request whose parts have ended, if its conditions are met.
    pub(super) fn try_answer(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.requests.get(&id).filter(|request| request.parts_ended()) else {
            self.settling.remove(&id);
            return;
        };
        match request.origin {
            Origin::Client { .. } => self.answer_client(id, out),
            Origin::Received { .. } => self.answer_received(id),
            Origin::Served { .. } => self.answer_served(id),
            Origin::Barrier { .. } => self.answer_barrier(id),
            Origin::Fetch { .. } => self.answer_fetch(id, out),
            Origin::Localise => self.answer_probe(id, out),
        }
    }

    fn answer_client(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let verdict = match request.work {
            Work::Read { .. } => read_verdict(request),
            Work::Flush => self.flush_verdict(request, &snapshot),
            _ => self.write_verdict(request, &snapshot),
        };
        match verdict {
            Verdict::Ok => self.succeed(id, out),
            Verdict::Wait => self.nack_needs_record(id),
            Verdict::Again => {
                self.restart(id);
                self.try_start(id, out);
            }
            Verdict::Fail(errno, why) => self.fail_unless_there_is_news(id, errno, why, out),
        }
    }

    fn write_verdict(&self, request: &Request, snapshot: &Snapshot) -> Verdict {
        if self.proof_is_open(request) {
            return Verdict::Wait;
        }
        let current = self.disk_is_current();
        match (request.local, request.net) {
            // On both. On a SyncTarget's disk it counts because the peer, which is UpToDate, has it too (T5).
            (Local::Done, Net::Done(_)) => Verdict::Ok,
            (Local::Done, Net::None | Net::Lost(_)) if is_planted(Fault::AnswerBeforeGeneration) => {
                Verdict::Ok
            }
            // The peer failed it: answered when this node's suspect record and bit are durable (T3). Else a demotion or crash
            // now would leave equal generations and two different copies.
            (Local::Done, Net::Failed(_)) if current => match request.mark {
                Some(mark) if !self.marks.is_open(mark) => Verdict::Ok,
                _ => Verdict::Wait,
            },
            // Only here. The generation that names this must be durable (else the peer, promoted, passes for newer or equal),
            // under a snapshot that shows the loss; and while the peer's disk is going it must have said "marked" (T4).
            (Local::Done, Net::None | Net::Lost(_)) if current => {
                let loss_seen = !matches!(request.net, Net::Lost(lost) if snapshot.connection == Some(lost) && snapshot.mirror);
                let settled = snapshot.alone_settled
                    && loss_seen
                    && (snapshot.connection.is_none() || snapshot.peer_loss_settled);
                if settled { Verdict::Ok } else { Verdict::Wait }
            }
            // Only there. T1: the peer knows that this disk is behind, and this node has marked it, both durably: otherwise a
            // crash right after the answer would bring this node back as a Primary of the same generation.
            (Local::Failed(..) | Local::None | Local::Abandoned, Net::Done(_)) => {
                self.only_there(request, snapshot)
            }
            // The state does not know of the failure yet, so nor does this snapshot know what the pair is like since.
            _ if request.is_ahead_of(snapshot) => Verdict::Wait,
            // Nowhere for sure: once more, if the link comes back in time (R12) or I/O is suspended; else an error.
            (local, net) => {
                let errno = if let Local::Failed(_, 28) = local { 28 } else { 5 };
                // A peer that failed it is not asked again (replication 7).
                let peer_may = !matches!(net, Net::Failed(_));
                self.again_or(
                    snapshot,
                    peer_may,
                    errno,
                    "the write failed on every copy that was reachable",
                )
            }
        }
    }

    /// The peer has it, this node's disk failed it or was not asked (T1).
    fn only_there(&self, request: &Request, snapshot: &Snapshot) -> Verdict {
        if is_planted(Fault::NoOutdatedNote) {
            return Verdict::Ok;
        }
        match (request.local, request.proof) {
            // The durable entry of the own list is enough: the block is not read here, and no resync takes it from here.
            (_, Proof::Failed(_)) => return Verdict::Ok,
            // The disk part had no disk for it, and the state may not know that yet: no error has a number to wait for.
            (Local::Failed(ErrorNumber(0), _), _) if request.is_ahead_of(snapshot) => return Verdict::Wait,
            (Local::Failed(number, _), _) if number != ErrorNumber(0) => {
                let told = snapshot.errors_settled >= number;
                let settled = told || (gone(snapshot) && snapshot.own_loss_settled);
                return if settled { Verdict::Ok } else { Verdict::Wait };
            }
            _ => {}
        }
        match gone(snapshot) {
            true if snapshot.own_loss_settled => Verdict::Ok,
            // Its disk left too, and nothing durable says that this node's is behind.
            true if snapshot.vector.peer_disk < DiskState::Inconsistent => self.again_or(
                snapshot,
                true,
                5,
                "the peer's disk left before the write was safe",
            ),
            true => Verdict::Wait,
            // There is a disk again that lacks it, and the peer's may be gone: its loss is settled, but not with this write.
            false if path::disk_usable(snapshot) => Verdict::Again,
            false => Verdict::Wait,
        }
    }

    fn again_or(&self, snapshot: &Snapshot, peer_may: bool, errno: i32, why: &'static str) -> Verdict {
        let until = snapshot
            .link_lost_at
            .map(|lost| lost.after_ms(self.configuration.reconnect_grace));
        let may_wait = snapshot.connection.is_none() && until.is_some_and(|until| until > self.now);
        let other_way =
            peer_may && snapshot.connection.is_some() && snapshot.vector.peer_disk == DiskState::UpToDate;
        if may_wait || other_way || snapshot.vector.suspended.any() {
            Verdict::Again
        } else {
            Verdict::Fail(errno, why)
        }
    }

    fn flush_verdict(&self, request: &Request, snapshot: &Snapshot) -> Verdict {
        let current = self.disk_is_current();
        match (request.local, request.net) {
            (Local::Done, Net::Done(_)) => Verdict::Ok,
            // The peer is lost: it is not an up-to-date replica any more once the new generation is durable.
            (Local::Done, Net::None | Net::Lost(_) | Net::Failed(_)) if current => {
                let settled =
                    snapshot.alone_settled && (snapshot.connection.is_none() || snapshot.peer_loss_settled);
                if settled { Verdict::Ok } else { Verdict::Wait }
            }
            (Local::Failed(..) | Local::None | Local::Abandoned, Net::Done(_)) => {
                self.only_there(request, snapshot)
            }
            _ if request.is_ahead_of(snapshot) => Verdict::Wait,
            (Local::None, Net::None) if !current => {
                self.again_or(snapshot, true, 5, "no up-to-date copy is reachable")
            }
            _ => self.again_or(
                snapshot,
                true,
                5,
                "the flush failed on every copy that was reachable",
            ),
        }
    }

    /// T3: a nacked write needs a suspect record about the peer before it is answered.
    fn nack_needs_record(&mut self, id: u64) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let needed =
            matches!((request.local, request.net), (Local::Done, Net::Failed(_))) && request.mark.is_none();
        if let (true, Some(range)) = (needed, request.range()) {
            let mark = self.mark(vec![range.touched_blocks()], MarkReason::PeerFailed);
            if let Some(request) = self.requests.get_mut(&id) {
                request.mark = Some(mark);
            }
        }
    }

    fn succeed(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.remove(id) else { return };
        let Origin::Client { client, sequence } = request.origin else {
            return;
        };
        if request.no_local.is_some()
            && request.is_read()
            && let Some(range) = request.range()
        {
            out.fact(Fact::ReadServedByPeer { range });
        }
        self.flush_ended(&request);
        let data = request.data.clone();
        if let (Local::Done, Net::Done(connection)) = (request.local, request.net) {
            self.proven_on_both(request.proof, Some(connection));
        }
        self.after_answer(id, &request);
        self.answer(client, sequence, Ok(data), id, request.work.writes());
    }

    pub(super) fn fail(&mut self, id: u64, errno: i32, why: &'static str, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.remove(id) else { return };
        let Origin::Client { client, sequence } = request.origin else {
            return;
        };
        out.fact(Fact::ClientError {
            client,
            range: request.range(),
            errno,
            why,
        });
        if let (Net::Failed(_), Some(range), true) = (request.net, request.range(), request.work.writes()) {
            // Its "missed write" becomes a "failed write" there: the client was told.
            self.frame(Message::WriteAnsweredWithError { range }, None);
        }
        self.flush_ended(&request);
        self.after_answer(id, &request);
        self.answer(client, sequence, Err(errno), id, request.work.writes());
    }

    /// What a flush took over is stable, or is owed again.
    fn flush_ended(&mut self, request: &Request) {
        if !matches!(request.work, Work::Flush) || request.local == Local::Done {
            return;
        }
        self.unflushed.extend(request.flushing.iter().copied());
    }

    fn answer(
        &mut self,
        client: ClientId,
        sequence: Sequence,
        result: Result<Option<Buffer>, i32>,
        id: u64,
        write: bool,
    ) {
        let answer = ClientAnswer { sequence, result };
        match self.clients.get_mut(&client) {
            Some(known) => {
                known.insert(sequence, Known::Answered(answer.clone()));
                self.batch.answers.entry(client).or_default().push(answer);
                if write {
                    // The lock goes with the confirmation (R19).
                    self.confirming.insert((client, sequence), id);
                }
            }
            // The client has gone: nobody waits for the answer, and nobody will replay.
            None => self.unlock(id),
        }
    }

    /// An answered write stays until it is retired.
    fn after_answer(&mut self, id: u64, request: &Request) {
        let (Some(range), true) = (request.range(), request.work.writes()) else {
            return;
        };
        let local_ok = request.local == Local::Done;
        if let (Net::Done(_), true, true) = (request.net, local_ok, self.in_resync())
            && let Some(blocks) = range.covered_blocks(self.sectors())
        {
            self.batch.cleared.push((blocks, ClearReason::WrittenOnBoth));
        }
        let epoch = matches!(request.net, Net::Done(_)).then_some(request.epoch);
        // What the peer lacks was marked when it was cut off, or before it was written.
        let mark = request.lacking.or(request.mark);
        self.unretired.insert(
            id,
            Unretired {
                range,
                epoch,
                mark,
                in_log: request.in_log,
                local_ok,
            },
        );
    }

    /// Marks blocks that the peer lacks, unless they are known to be marked.
    pub(super) fn mark_lacking(&mut self, blocks: BlockRange) -> Option<crate::identity::MarkNumber> {
        (!self.marks.knows(blocks)).then(|| self.mark(vec![blocks], MarkReason::PeerLacks))
    }

    pub(super) fn in_resync(&self) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.vector.connection.is_resync())
    }

    pub(super) fn sectors(&self) -> u64 {
        self.snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.volume_sectors)
    }

    /// Retires what a barrier or a durable mark has made superfluous; gives back extents that are drained.
    pub(super) fn retire_all(&mut self, out: &mut Outbox<VolumeEffect>) {
        let retired: Vec<u64> = self
            .unretired
            .iter()
            .filter(|(_, write)| {
                let marked = write.mark.is_none_or(|mark| !self.marks.is_open(mark));
                let stable = write.epoch.is_none_or(|epoch| self.epochs.is_stable(epoch));
                marked && stable
            })
            .map(|(&id, _)| id)
            .collect();
        let life = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.disk.as_ref())
            .map(|disk| disk.attach_id.0);
        for id in retired {
            if let Some(write) = self.unretired.remove(&id)
                && write.in_log.is_some()
                && write.in_log == life
            {
                self.extents.give_back(write.range.extents());
            }
        }
        self.return_extents(out);
    }
}

/// The disk is gone or going.
fn gone(snapshot: &Snapshot) -> bool {
    snapshot.disk.is_none() || snapshot.vector.disk <= DiskState::Failed
}

fn read_verdict(request: &Request) -> Verdict {
    if request.data.is_some() {
        Verdict::Ok
    } else {
        Verdict::Again
    }
}
