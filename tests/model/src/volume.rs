//! The volume part in small: one write at a time, written at once, answered by the rules T1 and T3 to T5 of the real one.

use crate::ledger::BLOCKS;
use crate::node::{Net, Pending};
use crate::planted::Planted;
use crate::world::{Queue, Wire, World};
use mendblock_core::identity::{ConnectionNumber, MarkNumber};
use mendblock_core::snapshot::{Admission, Drain, Snapshot};
use mendblock_core::volume::machine::StateIn;
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};
use std::sync::Arc;

/// What becomes of a write.
enum Verdict {
    Answer,
    Wait,
    Again,
    Fail,
}

fn executes_received(connection: ConnectionState) -> bool {
    matches!(
        connection,
        ConnectionState::Connected
            | ConnectionState::SyncSource
            | ConnectionState::SyncTarget
            | ConnectionState::WFBitMapS
    )
}

impl World {
    /// A new snapshot.
    pub(crate) fn volume_sees(&mut self, node: usize, new: Arc<Snapshot>, queue: &mut Queue) {
        let old = std::mem::replace(&mut self.nodes[node].seen, Arc::clone(&new));
        if new.vector.role != old.vector.role {
            let primary = new.vector.role == Role::Primary;
            self.nodes[node].promoted_apart = primary && new.connection.is_none();
        }
        if old.mirror && !new.mirror {
            self.owe(node);
        }
        self.sender_has_disk_again(node, &old, &new);
        self.drained(node, &new, queue);
        if new.vector.connection == ConnectionState::SyncTarget {
            let it = &mut self.nodes[node];
            if it.copying.is_none() && old.vector.connection != ConnectionState::SyncTarget {
                it.copying = Some(it.bits.unwrap_or(0));
                it.lost = 0;
            }
        } else {
            self.nodes[node].copying = None;
        }
        self.take_parked(node, queue);
        self.volume_goes_on(node, queue);
    }

    /// What the peer has not acknowledged it may never have.
    fn owe(&mut self, node: usize) {
        if let Some(pending) = self.nodes[node].volume.pending
            && matches!(pending.net, Net::Pending(_))
        {
            self.nodes[node].mark(pending.block);
        }
    }

    fn sender_has_disk_again(&mut self, node: usize, old: &Snapshot, new: &Snapshot) {
        let source = |snapshot: &Snapshot| snapshot.vector.connection == ConnectionState::SyncSource;
        let needs_none = new.vector.connection == ConnectionState::Connected
            && new.vector.peer_disk == DiskState::UpToDate
            && old.vector.peer_disk < DiskState::UpToDate;
        if needs_none || source(new) && !source(old) {
            self.nodes[node].volume.sender_diskless = false;
        }
    }

    fn drained(&mut self, node: usize, new: &Snapshot, queue: &mut Queue) {
        let life = new.disk.as_ref().map(|disk| disk.attach_id.0);
        let (Some(drain), Some(life)) = (new.drain, life) else {
            return;
        };
        if self.nodes[node].volume.drained.replace(life) != Some(life) {
            queue.push_back(StateIn::Drained {
                snapshot: new.number,
                mark: MarkNumber(0),
                complete: drain == Drain::Wait,
            });
        }
    }

    // Clients.

    /// The way of a write: to the own disk, to the peer.
    fn way(&self, node: usize) -> Option<(bool, Option<ConnectionNumber>)> {
        let it = &self.nodes[node];
        let peer = it.seen.connection.filter(|_| it.seen.mirror);
        let local = it.disk_usable();
        let alone = it.up_to_date() && local;
        let with_peer = peer.is_some() && (local || it.vector().peer_disk == DiskState::UpToDate);
        (alone || with_peer).then_some((local, peer))
    }

    /// A client may write here.
    pub fn may_write(&self, node: usize) -> bool {
        let it = &self.nodes[node];
        let served = it.vector().role == Role::Primary && it.seen.writes == Admission::Open;
        served && it.volume.pending.is_none() && self.way(node).is_some()
    }

    /// What a client's write goes on top of, whether it can be read or not.
    fn base(&self, node: usize, block: usize) -> u8 {
        let it = &self.nodes[node];
        let disk = if it.up_to_date() && it.disk_usable() {
            node
        } else {
            1 - node
        };
        self.nodes[disk].platters.data[block]
    }

    /// A client writes a block.
    pub fn write(&mut self, node: usize, block: usize) {
        let base = self.base(node, block);
        let version = self.ledger.write(block, base, node);
        let mut queue = Queue::new();
        self.start_write(node, block, version, &mut queue);
        for message in queue {
            self.feed(node, message);
        }
    }

    fn start_write(&mut self, node: usize, block: usize, version: u8, queue: &mut Queue) {
        let Some((local, peer)) = self.way(node) else {
            return;
        };
        let it = &mut self.nodes[node];
        if local {
            it.platters.log |= 1 << block;
            it.platters.data[block] = version;
            it.platters.bad &= !(1 << block);
            if peer.is_none() {
                it.mark(block);
            }
        }
        it.volume.pending = Some(Pending {
            block,
            version,
            local,
            net: peer.map_or(Net::None, Net::Pending),
        });
        if peer.is_some() {
            self.send(node, Wire::Data(block, version));
        }
        self.volume_goes_on(node, queue);
    }

    /// The peer's answer to a mirrored write.
    pub(crate) fn write_answered(&mut self, node: usize, version: u8, ok: bool, queue: &mut Queue) {
        let it = &mut self.nodes[node];
        let Some(pending) = it
            .volume
            .pending
            .as_mut()
            .filter(|pending| pending.version == version)
        else {
            return;
        };
        pending.net = if ok { Net::Done } else { Net::Failed };
        let block = pending.block;
        if !ok {
            it.platters.suspect |= 1 << block;
            it.mark_durably(1 << block);
        }
        self.volume_goes_on(node, queue);
    }

    /// Answers what may be answered.
    pub(crate) fn volume_goes_on(&mut self, node: usize, queue: &mut Queue) {
        if let Some(pending) = self.nodes[node].volume.pending {
            match self.verdict(node, &pending) {
                Verdict::Wait => {}
                Verdict::Answer => {
                    self.nodes[node].volume.pending = None;
                    let on_both = pending.local && pending.net == Net::Done;
                    self.ledger.acknowledge(pending.version, on_both);
                }
                Verdict::Again => return self.start_write(node, pending.block, pending.version, queue),
                Verdict::Fail => self.nodes[node].volume.pending = None,
            }
        }
        let it = &mut self.nodes[node];
        if it.volume.pending.is_none() {
            for query in std::mem::take(&mut it.volume.quiesce) {
                queue.push_back(StateIn::Quiesced {
                    query,
                    mark: MarkNumber(0),
                });
            }
        }
    }

    fn verdict(&self, node: usize, pending: &Pending) -> Verdict {
        let it = &self.nodes[node];
        let seen = &it.seen;
        // The state does not know yet that the connection is lost: what starts now would go nowhere.
        let lost_unseen = seen.connection.is_some() && !self.ends[node];
        match (pending.local, pending.net) {
            (_, Net::Pending(_)) => Verdict::Wait,
            (true, Net::Done) => Verdict::Answer,
            (true, Net::Failed) if it.up_to_date() => Verdict::Answer,
            (true, Net::None | Net::Lost(_)) if it.up_to_date() => {
                let loss_seen =
                    !matches!(pending.net, Net::Lost(lost) if seen.connection == Some(lost) && seen.mirror);
                let settled =
                    seen.alone_settled && loss_seen && (seen.connection.is_none() || seen.peer_loss_settled);
                if settled { Verdict::Answer } else { Verdict::Wait }
            }
            (false, Net::Done) if seen.own_loss_settled => Verdict::Answer,
            (false, Net::Done) => Verdict::Wait,
            _ if lost_unseen => Verdict::Wait,
            (_, net) => {
                let there = seen.connection.is_some() && seen.vector.peer_disk == DiskState::UpToDate;
                if net != Net::Failed && there && self.way(node).is_some() {
                    Verdict::Again
                } else {
                    Verdict::Fail
                }
            }
        }
    }

    // The peer's writes.

    /// A write of the peer.
    pub(crate) fn data_arrived(&mut self, node: usize, block: usize, version: u8, queue: &mut Queue) {
        self.nodes[node].volume.parked.push_back((block, version));
        self.take_parked(node, queue);
    }

    fn take_parked(&mut self, node: usize, _queue: &mut Queue) {
        let connected = self.nodes[node].seen.connection.is_some();
        while connected && executes_received(self.nodes[node].vector().connection) {
            let Some((block, version)) = self.nodes[node].volume.parked.pop_front() else {
                return;
            };
            let usable = self.nodes[node].disk_usable();
            let it = &mut self.nodes[node];
            if !usable {
                it.mark_durably(1 << block);
                self.send(node, Wire::Nack(version));
                continue;
            }
            let sole = it.volume.sender_diskless || it.vector().peer_disk < DiskState::Inconsistent;
            it.platters.data[block] = version;
            it.platters.bad &= !(1 << block);
            if sole {
                it.platters.log |= 1 << block;
                it.mark_durably(1 << block);
            }
            self.send(node, Wire::Ack(version));
        }
    }

    /// The connection is lost: what was cut off is marked, then goes on without it.
    pub(crate) fn volume_lost_connection(&mut self, node: usize, queue: &mut Queue) {
        let it = &mut self.nodes[node];
        it.volume.parked.clear();
        it.volume.sender_diskless = false;
        if let Some(pending) = it.volume.pending.as_mut()
            && let Net::Pending(connection) = pending.net
        {
            pending.net = Net::Lost(connection);
            let block = pending.block;
            it.mark_durably(1 << block);
        }
        // Under a snapshot that still names the connection nothing is decided: the next one is on its way.
        if self.nodes[node].seen.connection.is_none() {
            self.volume_goes_on(node, queue);
        }
    }

    // Resync.

    /// The block that the target would copy next; none: it has all. Outer none: it cannot copy now.
    pub fn may_copy(&self) -> Option<(usize, Option<usize>)> {
        let target = (0..2).find(|node| self.nodes[*node].copying.is_some())?;
        let (to, from) = (&self.nodes[target], &self.nodes[1 - target]);
        let todo = to.copying.unwrap_or(0);
        let Some(block) = (0..BLOCKS).find(|block| todo & 1 << block != 0) else {
            return Some((target, None));
        };
        let on_its_way = |what: &Wire| matches!(what, Wire::Data(of, _) if *of == block);
        let source = from.vector().connection == ConnectionState::SyncSource && from.disk_usable();
        let locked = self.nodes.iter().any(|node| {
            node.volume.pending.is_some_and(|pending| pending.block == block)
                || node.volume.parked.iter().any(|(of, _)| *of == block)
        }) || self.channels.iter().flatten().any(on_its_way);
        let closed = |node: usize| matches!(self.channels[node].back(), Some(Wire::Closed));
        let talks = self.ends == [true; 2] && !closed(0) && !closed(1);
        (source && talks && !locked && to.disk_usable()).then_some((target, Some(block)))
    }

    /// The target copies a block, or says that it has all.
    pub fn copy(&mut self) {
        let Some((target, block)) = self.may_copy() else {
            return;
        };
        let Some(block) = block else {
            self.nodes[target].copying = None;
            let lost = u64::from(self.nodes[target].lost);
            return self.feed(target, StateIn::ResyncFinished { lost });
        };
        let mask = 1 << block;
        let from = self.nodes[1 - target].platters.clone();
        if from.bad & mask != 0 {
            // What the two lists of bad blocks make of it is not modelled: the target's copy counts as lost.
            self.excuse(target, mask);
        }
        let to = &mut self.nodes[target];
        to.copying = to.copying.map(|todo| todo & !mask);
        if from.bad & mask != 0 {
            // The source cannot read it: it is lost here too.
            to.platters.bad |= mask;
            to.lost += 1;
            return;
        }
        if self.planted != Planted::ClearWithoutProof {
            to.platters.data[block] = from.data[block];
        }
        to.platters.bad &= !mask;
        to.bits = to.bits.map(|bits| bits & !mask);
        self.send(target, Wire::Cleared(mask));
    }
}
