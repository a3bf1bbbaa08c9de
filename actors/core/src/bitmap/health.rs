//! The health file: one write at a time, coalesced; who waits for it is told when the version with his change is durable.

use super::part::BitmapPart;
use super::rounds::Lists;
use super::{BitmapEffect, HeaderChange, HealthHeader};
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, Query};
use crate::part::{Outbox, To};
use crate::volume::machine::StateIn;
use crate::volume::state::DetachCause;
use mendblock_net::wire::message::Message;
use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
use mendblock_storage::health::{DetachCause as FileCause, GenerationSlots, Health, LastDetach, LossMark};
use mendblock_storage::units::BlockRange;
use std::collections::BTreeMap;

/// Who waits for a version of the file.
#[derive(Clone, Debug)]
enum Waiter {
    Query(Query),
    /// The peer's lists are merged on this connection.
    Merged(ConnectionNumber, Lists),
    /// The peer is told that its tombstones may go (6.4): not before its blocks are dropped durably here.
    Confirm(ConnectionNumber, Vec<BlockRange>),
    /// The peer is told that blocks are healed (6.4): not before the tombstones are durable, or cannot be.
    TellHealed(Vec<BlockRange>),
}

/// The writer and what it writes.
#[derive(Default)]
pub(super) struct HealthWriter {
    /// The file of the disk that was attached last.
    pub content: Option<Health>,
    archives: BTreeMap<u64, Health>,
    /// Counts changes; a write carries the version that it began with.
    pub version: u64,
    durable: u64,
    writing: Option<(u64, u64, Anchor)>,
    /// For the next superblock (9.3): what is durable, or what there would be if it could be written.
    anchor: Option<Anchor>,
    /// The version with blocks that were lost: no answer to the resync part before it is durable (9.5).
    lost: u64,
    /// The list was lost (9.3) and there is no file of this disk yet that the set bits, these, could be entered into.
    pub lost_list: Option<Vec<BlockRange>>,
    /// The own list is full, and the state part was told.
    pub too_many_bad: bool,
    waiters: Vec<(u64, Waiter)>,
    /// A random number for the id of a new file.
    pub id_source: Option<u64>,
    failed: bool,
}

impl HealthWriter {
    /// The content changed; the version that holds the change.
    pub fn changed(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Blocks were lost: see [`Self::lost_is_durable`].
    pub fn lost(&mut self) {
        self.lost = self.changed();
    }

    /// Every lost block is in the file, or cannot be written there.
    pub fn lost_is_durable(&self) -> bool {
        self.durable >= self.lost
    }
}

impl BitmapPart {
    pub(super) fn health_read(&mut self, files: Vec<(u64, Vec<u8>)>) {
        let mut contents = files
            .into_iter()
            .filter_map(|(_, bytes)| Health::parse(&bytes).ok());
        self.health.content = contents.next();
        self.health.anchor = self.health.content.as_ref().map(anchor_of);
        // A predecessor's write may still be on its way, and its end comes here: no two generations use the same number. (One
        // write at a time: theirs is at most one above what was read, plus what they skipped.)
        if self.generation.0 > 1
            && let Some(health) = self.health.content.as_mut()
        {
            health.sequence += self.generation.0;
        }
        self.health.archives = contents.map(|health| (health.device_id, health)).collect();
        self.lists_changed();
    }

    pub(super) fn load_health(
        &mut self,
        query: Query,
        device_id: Option<u64>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        let last_device = self.health.content.as_ref().map(|health| health.device_id);
        let wanted = device_id.or(last_device);
        if let Some(device) = wanted
            && last_device != Some(device)
            && let Some(archived) = self.health.archives.remove(&device)
        {
            // The disk of an archive comes back: its list counts again.
            self.health.anchor = Some(anchor_of(&archived));
            if let Some(present) = self.health.content.replace(archived) {
                self.health.archives.insert(present.device_id, present);
            }
        }
        let health = self
            .health
            .content
            .as_ref()
            .filter(|health| Some(health.device_id) == wanted);
        let header = health.map(|health| Box::new(header_of(health, self.health.anchor)));
        let bad_blocks = health.map_or(0, |health| health.records.own_blocks());
        out.send(To::State(StateIn::HealthLoaded {
            query,
            header,
            bad_blocks,
            last_device,
        }));
    }

    pub(super) fn set_header(&mut self, query: Query, change: HeaderChange, out: &mut Outbox<BitmapEffect>) {
        let (now, generation) = (self.now_wall, self.current_generation());
        if let Some((device_id, attach_id)) = change.attached {
            self.attached(device_id, attach_id);
            self.lost_list_is_suspect(out);
        }
        let Some(health) = self.health.content.as_mut() else {
            // No disk was ever attached: there is nothing that could be outdated.
            return out.send(To::State(StateIn::HealthWritten {
                query,
                durable: false,
            }));
        };
        health.generation = generation;
        if let Some([current, bitmap, younger, older]) = change.slots {
            health.set_ids(GenerationSlots {
                current,
                bitmap,
                history: [younger, older],
            });
        }
        if let Some(outdated) = change.outdated_since {
            health.outdated_mark = outdated;
        }
        if let Some(open) = change.source_open {
            health.source_open_mark = open;
        }
        if let Some(loss) = change.loss_of {
            health.loss_mark = loss.map(|(peer_attach_id, current)| LossMark {
                peer_attach_id,
                current,
            });
        }
        if let Some(cause) = change.last_detach {
            health.last_detach = Some(LastDetach {
                cause: file_cause(cause),
                at: now,
            });
        }
        self.persist(query, out);
    }

    /// A disk was attached: its file becomes the volume's.
    fn attached(&mut self, device_id: u64, attach_id: u64) {
        let same = self
            .health
            .content
            .as_ref()
            .is_some_and(|health| health.device_id == device_id);
        if !same {
            if let Some(present) = self.health.content.take() {
                self.health.archives.insert(present.device_id, present);
            }
            let id = self.health.id_source.take().unwrap_or(device_id);
            let fresh = || Health::new(id, &self.configuration.volume, device_id);
            let archived = self.health.archives.remove(&device_id);
            self.health.anchor = archived.as_ref().map(anchor_of);
            self.health.content = Some(archived.unwrap_or_else(fresh));
        }
        if let Some(health) = self.health.content.as_mut() {
            health.attach_id = attach_id;
        }
        self.health.too_many_bad = false;
        self.lists_changed();
    }

    pub(super) fn persist(&mut self, query: Query, out: &mut Outbox<BitmapEffect>) {
        if self.health.content.is_none() {
            return out.send(To::State(StateIn::HealthWritten {
                query,
                durable: false,
            }));
        }
        let version = self.health.changed();
        self.health.waiters.push((version, Waiter::Query(query)));
    }

    /// The peer's lists are in the records: the handshake may go on when they are durable.
    pub(super) fn persist_merge(
        &mut self,
        connection: ConnectionNumber,
        lists: Lists,
        out: &mut Outbox<BitmapEffect>,
    ) {
        if self.health.content.is_none() {
            return self.merged(connection, lists, out);
        }
        let version = self.health.changed();
        self.health
            .waiters
            .push((version, Waiter::Merged(connection, lists)));
    }

    /// Confirms to the peer, once it is durable, that its blocks are dropped here. Without a file nothing can come back.
    pub(super) fn confirm(
        &mut self,
        connection: ConnectionNumber,
        ranges: Vec<BlockRange>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        if self.health.content.is_none() {
            return self.send_on(connection, Message::ClearedAck { ranges }, None, out);
        }
        let version = self.health.changed();
        self.health
            .waiters
            .push((version, Waiter::Confirm(connection, ranges)));
    }

    pub(super) fn tell_healed(&mut self, ranges: Vec<BlockRange>) {
        let version = self.health.changed();
        self.health.waiters.push((version, Waiter::TellHealed(ranges)));
    }

    pub(super) fn write_health(&mut self, out: &mut Outbox<BitmapEffect>) {
        if self.health.writing.is_some() || self.health.durable >= self.health.version {
            return;
        }
        let Some(health) = self.health.content.as_mut() else {
            return;
        };
        health.sequence += 1;
        let (sequence, device_id) = (health.sequence, health.device_id);
        let bytes = health.encode();
        self.health.writing = Some((sequence, self.health.version, anchor_of(health)));
        out.effect(BitmapEffect::WriteHealth {
            device_id,
            slot: (sequence & 1) as u8,
            sequence,
            bytes,
        });
    }

    pub(super) fn health_written(
        &mut self,
        sequence: u64,
        result: Result<(), i32>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        let Some((_, version, anchor)) = self.health.writing.filter(|(writing, ..)| *writing == sequence)
        else {
            return;
        };
        self.health.writing = None;
        // A failed write is not tried again by itself: the next change does. What waited learns that it is not durable.
        self.health.durable = version;
        if let (Err(errno), false) = (result, self.health.failed) {
            out.fact(Fact::Alert { what: format!("the health file cannot be written (errno {errno}): check the node's state-dir; bad blocks are known to the bitmap and the peer alone") });
        }
        self.health.failed = result.is_err();
        let same = |health: &Health| health.health_id == anchor.health_id;
        let named = self.health.anchor.map_or(0, |named| named.record_count);
        if self.health.content.as_ref().is_some_and(same) {
            let stored = StoredAnchor::Present(anchor);
            if result.is_ok() {
                self.health.anchor = Some(anchor);
                out.send(To::State(StateIn::Anchor(stored)));
            } else if anchor.record_count > 0 || named > 0 {
                // A list that is nowhere but in memory: a crash now, and a drive that has remapped its bad block would serve zeroes for
                // it. The superblock says that there was a list (9.3), so that each bit set there counts as bad then; or that it
                // is empty again.
                self.health.anchor = Some(anchor);
                out.send(To::State(StateIn::ListUnwritten(stored)));
            }
        }
        let (done, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.health.waiters)
            .into_iter()
            .partition(|(of, _)| *of <= version);
        self.health.waiters = rest;
        for (_, waiter) in done {
            match waiter {
                Waiter::Query(query) => out.send(To::State(StateIn::HealthWritten {
                    query,
                    durable: result.is_ok(),
                })),
                Waiter::Merged(connection, lists) => self.merged(connection, lists, out),
                // Not confirmed, the peer keeps its tombstones: only too long.
                Waiter::Confirm(..) if result.is_err() => {}
                Waiter::Confirm(connection, ranges) => {
                    self.send_on(connection, Message::ClearedAck { ranges }, None, out);
                }
                // Also when the tombstones could not be written: else a crash would bring the blocks back from the peer's records, to
                // the list of a node that may be the source then. An old file of its own only lists them too long.
                Waiter::TellHealed(ranges) => self.send(Message::Cleared { ranges }, out),
            }
        }
        for waiting in self
            .pages
            .waiting
            .iter_mut()
            .filter(|waiting| waiting.record.is_some_and(|of| of <= version))
        {
            waiting.record = None;
            waiting.record_lost |= result.is_err();
        }
    }
}

/// The anchor that names this content. Its count is that of the own list: what is lost with the file is lost for good.
fn anchor_of(health: &Health) -> Anchor {
    Anchor {
        health_id: health.health_id,
        sequence: health.sequence,
        record_count: u32::try_from(health.records.own_ranges()).unwrap_or(u32::MAX),
    }
}

fn header_of(health: &Health, anchor: Option<Anchor>) -> HealthHeader {
    let ids = health.ids;
    HealthHeader {
        device_id: health.device_id,
        sequence: anchor.map_or(0, |anchor| anchor.sequence),
        anchor: anchor.map_or(StoredAnchor::Absent, StoredAnchor::Present),
        attach_id: health.attach_id,
        slots: [ids.current, ids.bitmap, ids.history[0], ids.history[1]],
        outdated_since: health.outdated_since(),
        source_open: health.source_open().then_some(health.source_open_mark).flatten(),
        loss_of: health.loss_mark.map(|loss| (loss.peer_attach_id, loss.current)),
        last_detach: health.last_detach.map(|detach| format!("{:?}", detach.cause)),
    }
}

fn file_cause(cause: DetachCause) -> FileCause {
    match cause {
        DetachCause::Admin | DetachCause::NegotiationRefused | DetachCause::DriverFailed => FileCause::Admin,
        DetachCause::ReadError => FileCause::Read,
        DetachCause::WriteError => FileCause::Write,
        DetachCause::FlushError => FileCause::Flush,
        DetachCause::MetaData(_) => FileCause::Meta,
        DetachCause::DeviceGone => FileCause::DeviceGone,
        DetachCause::NoSpace => FileCause::NoSpace,
        DetachCause::ReadOnly => FileCause::ReadOnly,
        DetachCause::Alignment => FileCause::Alignment,
        DetachCause::Shrunk => FileCause::Shrunk,
        DetachCause::Timeout { .. } => FileCause::Timeout,
        DetachCause::TooManyBad => FileCause::TooManyBad,
        DetachCause::HealFailed => FileCause::HealFailed,
        DetachCause::HealBudgetHour => FileCause::HealBudgetHour,
        DetachCause::HealBudgetTotal => FileCause::HealBudgetTotal,
        DetachCause::HealDoesNotHold => FileCause::HealDoesNotHold,
        DetachCause::Attach => FileCause::Attach,
    }
}
