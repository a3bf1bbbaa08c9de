//! The peer's side: mirrored writes in order of arrival, barriers, reads that are served; and answers of the peer to what this
//! node sent.

use super::VolumeEffect;
use super::complete::is_of_the_medium;
use super::part::{Parked, VolumePart};
use super::path;
use super::request::{Local, Net, Origin, Request, Work};
use crate::bitmap::{ClearReason, MarkReason};
use crate::disk::DataKind;
use crate::fact::Fact;
use crate::identity::ConnectionNumber;
use crate::part::{Outbox, To};
use crate::peer::{PeerFrame, PeerIn};
use crate::snapshot::Snapshot;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::Message;
use mendblock_net::wire::prelude::MAX_RANGES;
use mendblock_storage::device::errno::{EAGAIN, EIO};
use mendblock_storage::units::{BlockRange, SectorRange};
use std::collections::BTreeMap;

/// A read that the peer could not answer yet is sent again after this time.
const ASK_AGAIN_MS: u64 = 50;

/// Frames that wait for a snapshot, and what is known of the sender.
#[derive(Default)]
pub(super) struct Incoming {
    parked: Parked,
    /// The sender told that its own disk failed: writes behind that are only here.
    pub sender_diskless: bool,
    /// The state knows it too, since: a later snapshot with a disk is about another life of it.
    loss_shown: bool,
    /// Epochs of the sender that no barrier has ended.
    epochs: BTreeMap<(ConnectionNumber, u64), Received>,
    /// The connection of the last barrier: the epochs behind it were counted here from their begin.
    counted: Option<ConnectionNumber>,
}

/// Writes of one epoch.
#[derive(Default)]
struct Received {
    /// All that came in.
    count: u32,
    /// Those that have not ended.
    open: u32,
}

impl VolumePart {
    pub(super) fn frames_arrived(
        &mut self,
        connection: ConnectionNumber,
        frames: Vec<PeerFrame>,
        out: &mut Outbox<VolumeEffect>,
    ) {
        for frame in frames {
            self.link.parked.push_back((connection, frame));
        }
        self.take_parked(out);
    }

    /// Takes parked frames in their order, as far as the state allows.
    pub(super) fn take_parked(&mut self, out: &mut Outbox<VolumeEffect>) {
        while let Some((connection, frame)) = self.link.parked.pop_front() {
            let present = self.connection();
            // A frame of a connection that no snapshot names yet waits; the connection that is lost takes its frames with it.
            let later = present.is_none_or(|present| connection > present);
            let waits = later
                || (is_order(&frame.message) && !self.executes())
                || (self.becomes_source() && matches!(frame.message, Message::ResyncRead { .. }))
                || self.recovery.is_collecting();
            if waits {
                self.link.parked.push_front((connection, frame));
                return;
            }
            if present == Some(connection) {
                self.frame_arrived(connection, frame, out);
            }
        }
    }

    fn executes(&self) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|snapshot| path::executes_received(snapshot))
    }

    /// The target may hear that the resync runs before this part does.
    fn becomes_source(&self) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.vector.connection == ConnectionState::WFBitMapS)
    }

    pub(super) fn drop_parked(&mut self, connection: ConnectionNumber) {
        self.link.parked.retain(|(of, _)| *of > connection);
        self.link.sender_diskless = false;
        self.link.loss_shown = false;
        self.link.epochs.retain(|(of, _), _| *of > connection);
    }

    /// The sender's disk is back: its writes are on both disks. Not before the resync runs: until then it holds its writes, and
    /// what it sent before holding them is here alone.
    pub(super) fn sender_has_disk_again(&mut self, old: &Snapshot, new: &Snapshot) {
        self.link.loss_shown |= self.link.sender_diskless && new.vector.peer_disk < DiskState::Inconsistent;
        let resyncs = path::copies_to_peer(new) && !path::copies_to_peer(old);
        // Also after a resync of which this node was the target.
        let has_all = new.vector.connection == ConnectionState::Connected
            && new.vector.peer_disk == DiskState::UpToDate;
        if self.link.loss_shown && (resyncs || has_all) {
            self.link.sender_diskless = false;
            self.link.loss_shown = false;
        }
    }

    fn frame_arrived(
        &mut self,
        connection: ConnectionNumber,
        frame: PeerFrame,
        out: &mut Outbox<VolumeEffect>,
    ) {
        match frame.message {
            Message::Write {
                request,
                epoch,
                range,
                fua,
                may_set_in_sync,
            } => {
                let Some(buffer) = frame.payload else {
                    return self.protocol_error("a write without data", out);
                };
                let work = Work::Write { range, buffer, fua };
                self.received(connection, request, epoch, may_set_in_sync, work, out);
            }
            Message::WriteZeroes {
                request,
                epoch,
                range,
                may_unmap,
                fua,
                may_set_in_sync,
            } => {
                self.received(
                    connection,
                    request,
                    epoch,
                    may_set_in_sync,
                    Work::Zeroes {
                        range,
                        may_unmap,
                        fua,
                    },
                    out,
                );
            }
            Message::Barrier { epoch, writes } => {
                let received = self.link.epochs.get(&(connection, epoch));
                // An epoch that a predecessor began was counted by two: each write of it was acknowledged, or the peer part dropped the
                // connection when the predecessor died.
                let began_here = self.link.counted == Some(connection) || !self.recovery.inherits(connection);
                self.link.counted = Some(connection);
                if began_here && received.map_or(0, |received| received.count) != writes {
                    // A write was lost on the way (with a predecessor's mailbox): acknowledged, the sender would forget it.
                    return self.protocol_error("a barrier counts other writes than have arrived", out);
                }
                self.insert(
                    Request::new(Origin::Barrier { connection, epoch }, Work::Flush),
                    out,
                );
            }
            Message::Read { request, range } => {
                self.served(connection, request, range, false, out);
            }
            Message::ResyncRead { request, range } => {
                self.served(connection, request, range, true, out);
            }
            Message::Tell { failed: true, .. } => {
                self.link.sender_diskless = true;
                self.link.loss_shown = false;
            }
            Message::Tell { .. } => {}
            Message::WriteAcks { requests } => {
                for id in requests {
                    self.net_ended(id, Net::Done(connection));
                }
            }
            Message::WriteNack { request, errno } => self.net_ended(request, Net::Failed(errno)),
            Message::BarrierAck { epoch } => self.barrier_acknowledged(connection, epoch),
            Message::ReadData { request } => self.read_served(connection, request, frame.payload),
            Message::ReadFailed { request, errno } => self.read_refused(request, errno, out),
            Message::ResyncData { request, .. } => self.fetch_arrived(request, frame.payload, out),
            Message::ResyncFailed { request, range } => self.fetch_refused(request, range, out),
            Message::ResyncWritten { ranges } if self.sender_takes_writes() && self.own_disk_is_sound() => {
                self.batch
                    .cleared
                    .extend(ranges.into_iter().map(|range| (range, ClearReason::PeerWrote)));
            }
            Message::ResyncWritten { .. } => {}
            Message::WriteAnsweredWithError { range } => {
                self.mark(vec![range.touched_blocks()], MarkReason::FailedWrite);
            }
            other => out.fact(Fact::Surprise {
                what: format!("frame not for the volume part: {:?}", other.kind()),
            }),
        }
    }

    /// The sender said that its disk is gone (or going), or the state knows it: what this node has is here alone.
    fn sender_has_no_disk(&self) -> bool {
        let peer_disk = self
            .snapshot
            .as_ref()
            .map_or(DiskState::DUnknown, |snapshot| snapshot.vector.peer_disk);
        self.link.sender_diskless || peer_disk < DiskState::Inconsistent
    }

    /// What the sender's disk still finishes while it goes (a detach drains it) is no proof: since it said so, this node writes
    /// alone, and a block that the late data are of may have been marked as lacking there. Its bit has to stay, or that write
    /// would be lost at the re-attach.
    fn sender_takes_writes(&self) -> bool {
        !self.sender_has_no_disk() && self.snapshot.as_ref().is_some_and(|snapshot| snapshot.mirror)
    }

    /// What the peer wrote before it heard of a failed flush here is no proof either: which of the own writes that flush lost is not
    /// known, and their bits are all that tells. The peer has heard when the error is settled; before that nothing new can come.
    fn own_disk_is_sound(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| {
            path::disk_usable(snapshot) && snapshot.errors_settled >= self.flush_error
        })
    }

    pub(super) fn protocol_error(&mut self, what: &str, out: &mut Outbox<VolumeEffect>) {
        if let Some(connection) = self.connection() {
            out.send(To::Peer(PeerIn::Drop {
                connection,
                text: what.to_owned(),
            }));
        }
    }

    fn received(
        &mut self,
        connection: ConnectionNumber,
        wire: u64,
        epoch: u64,
        in_sync: bool,
        work: Work,
        out: &mut Outbox<VolumeEffect>,
    ) {
        let inside = work
            .range()
            .is_some_and(|range| super::complete::inside(range, self.sectors()));
        if !inside {
            return self.protocol_error("a mirrored write behind the end of the volume", out);
        }
        let sole = self.sender_has_no_disk();
        let received = self.link.epochs.entry((connection, epoch)).or_default();
        received.count += 1;
        received.open += 1;
        let blocks = work.range().map(|range| range.touched_blocks());
        let id = self.insert(
            Request::new(
                Origin::Received {
                    connection,
                    wire,
                    epoch,
                    in_sync,
                    sole,
                },
                work,
            ),
            out,
        );
        let Some(blocks) = blocks.filter(|_| sole) else {
            return;
        };
        if self.waiting.contains(&id) {
            // It waits for the log or for an overlapping write. Bitmaps that are exchanged before its turn have to name its blocks
            // all the same: the sender's disk comes back without them.
            self.mark(vec![blocks], MarkReason::OnlyCopy);
        }
        // The sender's disk is back if it is a target by now: it had not decided yet when it sent this.
        self.tell_target(&[blocks]);
    }

    /// Blocks that were marked here, while the bitmap is being sent, or was sent, for a resync of which this node is the source. The
    /// target works off its own bitmap, which does not have them.
    pub(super) fn tell_target(&mut self, ranges: &[BlockRange]) {
        let is_source = self.snapshot.as_ref().is_some_and(|snapshot| {
            snapshot.vector.connection == ConnectionState::WFBitMapS || path::copies_to_peer(snapshot)
        });
        for ranges in ranges.chunks(MAX_RANGES).filter(|_| is_source) {
            let ranges = ranges.to_vec();
            self.frame(Message::OutOfSync { ranges }, None);
        }
    }

    /// A mirrored write whose turn has come.
    pub(super) fn start_received(&mut self, id: u64) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let (Origin::Received { sole, .. }, Some(range)) = (request.origin, request.range()) else {
            return;
        };
        if !path::disk_usable(&snapshot) {
            // T3: the nack follows the durable record of the missed write.
            self.running(id);
            return self.begin_settling_of(id);
        }
        if sole {
            // This copy is the only one: logged and marked here as by a Primary.
            if !self.covered(id, range) {
                return;
            }
            let mark = self.mark(vec![range.touched_blocks()], MarkReason::OnlyCopy);
            let in_log = self.requests.get(&id).and_then(|request| request.in_log);
            let unretired = super::part::Unretired {
                range,
                epoch: None,
                mark: Some(mark),
                in_log,
                local_ok: true,
            };
            self.unretired.insert(id, unretired);
        }
        self.running(id);
        self.write_locally(id);
    }

    pub(super) fn answer_received(&mut self, id: u64) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let (
            Origin::Received {
                connection,
                wire,
                epoch,
                in_sync,
                sole,
            },
            Some(range),
        ) = (request.origin, request.range())
        else {
            return;
        };
        if self.proof_is_open(request) {
            return;
        }
        if request.local == Local::Done {
            let proof = request.proof;
            self.proven_on_both(proof, (!sole).then_some(connection));
            if self.connection() == Some(connection) {
                self.batch.acks.push(wire);
            }
            if let (true, Some(blocks)) = (in_sync, range.covered_blocks(self.sectors())) {
                self.batch.cleared.push((blocks, ClearReason::WrittenOnBoth));
            }
            return self.received_ended(id, (connection, epoch));
        }
        match request.mark {
            None => {
                let mark = self.mark(vec![range.touched_blocks()], MarkReason::MissedWrite);
                if let Some(request) = self.requests.get_mut(&id) {
                    request.mark = Some(mark);
                }
            }
            Some(mark) if self.marks.is_open(mark) => {}
            Some(_) => {
                let errno = if let Local::Failed(_, errno) = request.local {
                    errno
                } else {
                    5
                };
                if self.connection() == Some(connection) {
                    self.frame(Message::WriteNack { request: wire, errno }, None);
                }
                self.received_ended(id, (connection, epoch));
            }
        }
    }

    fn received_ended(&mut self, id: u64, epoch: (ConnectionNumber, u64)) {
        self.remove(id);
        self.unlock(id);
        if let Some(received) = self.link.epochs.get_mut(&epoch) {
            received.open = received.open.saturating_sub(1);
        }
    }

    /// A barrier: when everything before it has ended, one flush makes it stable.
    pub(super) fn start_barrier(&mut self, id: u64) {
        let Some(Origin::Barrier { connection, epoch }) =
            self.requests.get(&id).map(|request| request.origin)
        else {
            return;
        };
        let mut before = self.link.epochs.range((connection, 0)..=(connection, epoch));
        if before.any(|(_, received)| received.open > 0) {
            return;
        }
        self.link
            .epochs
            .retain(|&(of, number), _| (of, number) > (connection, epoch) || of < connection);
        self.running(id);
        if self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| path::disk_usable(snapshot))
        {
            let taken = std::mem::take(&mut self.unflushed).into_iter().collect();
            if let Some(request) = self.requests.get_mut(&id) {
                request.flushing = taken;
            }
            self.submit(id, DataKind::Flush);
        } else {
            // No disk: nothing is stable here, and the sender does not wait for it once it knows.
            self.remove(id);
        }
    }

    pub(super) fn answer_barrier(&mut self, id: u64) {
        let Some(request) = self.remove(id) else { return };
        let Origin::Barrier { connection, epoch } = request.origin else {
            return;
        };
        // A failed flush gives no acknowledgement: the state that follows tells the sender instead (3.5).
        if request.local == Local::Done && self.connection() == Some(connection) {
            self.frame(Message::BarrierAck { epoch }, None);
        }
    }

    fn served(
        &mut self,
        connection: ConnectionNumber,
        wire: u64,
        range: SectorRange,
        resync: bool,
        out: &mut Outbox<VolumeEffect>,
    ) {
        if !super::complete::inside(range, self.sectors()) {
            return self.protocol_error("a read behind the end of the volume", out);
        }
        self.insert(
            Request::new(
                Origin::Served {
                    connection,
                    wire,
                    resync,
                },
                Work::Read { range },
            ),
            out,
        );
    }

    /// Served only from a disk that is UpToDate, never from a block of the own list (P2).
    pub(super) fn start_served(&mut self, id: u64) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let (Origin::Served { resync, .. }, Some(range)) = (request.origin, request.range()) else {
            return;
        };
        let may = snapshot.vector.disk == DiskState::UpToDate
            && snapshot.disk.is_some()
            && (!resync || path::copies_to_peer(&snapshot));
        self.running(id);
        if may && !path::own_bad(&self.bad, range) {
            self.submit(id, DataKind::Read { range });
        } else {
            self.begin_settling_of(id);
        }
    }

    pub(super) fn answer_served(&mut self, id: u64) {
        let Some(request) = self.remove(id) else { return };
        let (
            Origin::Served {
                connection,
                wire,
                resync,
            },
            Some(range),
        ) = (request.origin, request.range())
        else {
            return;
        };
        if self.connection() != Some(connection) {
            return;
        }
        let message = match (request.data.is_some(), resync) {
            (true, false) => Message::ReadData { request: wire },
            (true, true) => Message::ResyncData { request: wire, range },
            (false, _) => self.refusal(wire, range, resync, request.local),
        };
        self.frame(message, request.data);
    }

    /// Why a read of the peer gets no data: "unreadable" is said only of what is known to be, for a target gives it up as lost.
    fn refusal(&self, request: u64, range: SectorRange, resync: bool, local: Local) -> Message {
        let failed = |errno| Message::ReadFailed { request, errno };
        if self.localisation.is_open(range) {
            return failed(EAGAIN);
        }
        let bad = match local {
            Local::Failed(number, errno) if is_of_the_medium(number, errno) => Some(range),
            _ => path::first_own_bad(&self.bad, range),
        };
        // The peer may have heard that this disk is UpToDate before this part did.
        let in_use = self.snapshot.as_ref().is_some_and(|snapshot| {
            let disk = snapshot.vector.disk;
            disk.is_usable() && disk != DiskState::Failed
        });
        match bad {
            Some(range) if resync => Message::ResyncFailed { request, range },
            None if resync || in_use => failed(EAGAIN),
            _ => failed(EIO),
        }
    }

    /// The peer's answer to a mirrored write.
    fn net_ended(&mut self, id: u64, net: Net) {
        if let Some(request) = self
            .requests
            .get_mut(&id)
            .filter(|request| matches!(request.net, Net::Pending(_)))
        {
            request.net = net;
            self.ended_parts(id);
        }
    }

    fn barrier_acknowledged(&mut self, connection: ConnectionNumber, epoch: u64) {
        self.epochs.acknowledge(epoch);
        self.recovery.barrier(epoch);
        let flushes: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| {
                matches!(request.work, Work::Flush)
                    && matches!(request.net, Net::Pending(_))
                    && request.epoch <= epoch
            })
            .map(|(&id, _)| id)
            .collect();
        for id in flushes {
            self.net_ended(id, Net::Done(connection));
        }
    }

    fn read_served(
        &mut self,
        connection: ConnectionNumber,
        id: u64,
        payload: Option<mendblock_storage::buffer::Buffer>,
    ) {
        let Some(request) = self
            .requests
            .get_mut(&id)
            .filter(|request| matches!(request.net, Net::Pending(_)))
        else {
            return;
        };
        let expected = request.range().map(|range| range.byte_length() as usize);
        request.net = Net::Done(connection);
        request.data = payload.filter(|buffer| Some(buffer.len()) == expected);
        request.no_peer |= request.data.is_none();
        self.ended_parts(id);
    }

    fn read_refused(&mut self, id: u64, errno: i32, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self
            .requests
            .get_mut(&id)
            .filter(|request| matches!(request.net, Net::Pending(_)))
        else {
            return;
        };
        if !request.is_client() {
            // A fetch that the source cannot serve now: nothing is known of the blocks, the resync asks again.
            request.net = Net::None;
            return self.ended_parts(id);
        }
        if errno == EAGAIN {
            request.not_before = Some(self.now.after_ms(ASK_AGAIN_MS));
        } else {
            request.no_peer = true;
        }
        self.restart(id);
        self.try_start(id, out);
    }
}

/// Frames that are executed in their order, and wait where the state does not allow it.
fn is_order(message: &Message) -> bool {
    matches!(
        message,
        Message::Write { .. }
            | Message::WriteZeroes { .. }
            | Message::Barrier { .. }
            | Message::Tell { .. }
            | Message::ResyncRead { .. }
    )
}
