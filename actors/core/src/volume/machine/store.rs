//! The superblock: composed here and nowhere else, written one at a time, and what must follow its durability.
//!
//! A change of the id slots also goes to their copy in the health file, at the same time; what follows waits for both
//! (a health file that cannot be written does not stop it).

use super::StateEffect;
use super::part::StatePart;
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::disk::{DiskIn, MetaCompletion, MetaKind, MetaOperation, TableAnswer};
use crate::identity::{ConnectionNumber, MarkNumber, Query};
use crate::part::{Context, Instant, Outbox, PartName, To};
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::state::DiskState;
use crate::volume::transition;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::superblock::{Flags, GenerationIds, LogState, Superblock};

/// What follows when a superblock that says so is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Then {
    /// A13: the attach is committed.
    AttachCommitted,
    /// A new generation is durable: answers may go out, the peer is told.
    GenerationMade,
    /// A new generation, made for the loss of the peer's disk, is durable: the tell is answered.
    TellAnswered {
        connection: ConnectionNumber,
        number: u64,
        new_generation: bool,
    },
    /// START-SOURCE of this resync is durable: the sync id is sent.
    SourceStarted { round: Query, id: Generation },
    /// START-TARGET of this resync is durable: its writes may begin.
    TargetStarted { round: Query },
    /// FINISH-TARGET of this resync is durable: the disk is UpToDate.
    TargetFinished { round: Query },
    /// FINISH-SOURCE is durable: the mark "source open" may go.
    SourceFinished,
    /// The full-sync mark is durable: all bits are set next.
    FullSyncMarked { round: Query },
    /// PRIMARY_IND and bit 0 are durable: the role changes.
    PromotionStored,
    /// PRIMARY_IND is cleared, durably: the demotion is answered.
    DemotionStored,
    /// The target is Outdated on disk: the bitmaps may be exchanged. Without it a sync id that gets lost would leave a disk
    /// that passes for current.
    TargetOutdated { round: Query },
    /// The disk is known to be UpToDate again: "outdated since" may go (superblock first).
    OutdatedVoid,
}

#[derive(Clone, Hash)]
struct Write {
    number: u64,
    thens: Vec<Then>,
    disk: Option<bool>,
    health: Option<Query>,
}

/// Whether a write of a dead predecessor may still land (R4): over a newer superblock it would take an acknowledged generation back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Predecessor {
    /// No.
    #[default]
    Settled,
    /// The disk part is asked.
    Table(Query),
    /// It may; the table is asked for again then.
    Pause(Instant),
}

/// The table is asked for again after this time, ms.
const PREDECESSOR_PAUSE: u64 = 20;

/// Writes of the superblock: at most one under way, one wanted.
#[derive(Clone, Default, Hash)]
pub(super) struct Store {
    wanted: bool,
    thens: Vec<Then>,
    running: Option<Write>,
    /// Changed bitmap pages go first when the Primary indicator is cleared (V17).
    pages_first: Option<Query>,
    pages_written: bool,
    /// The mark that a generation is made for the loss of the peer's disk goes first: without it a crash leaves a generation that
    /// nobody can explain, and the peer, still Primary, refuses it for ever.
    mark_first: Option<Query>,
    /// Flags of the last superblock that was handed to the disk, and its slots.
    written_flags: Flags,
    written_slots: Option<[u64; 4]>,
    /// A write that was under way when the disk was given up: it may still land.
    left_behind: Option<u64>,
    predecessor: Predecessor,
}

impl Store {
    /// The disk was attached with these flags.
    pub fn attached(&mut self, flags: Flags) {
        *self = Self {
            written_flags: flags,
            ..Self::default()
        };
    }

    /// The disk is being given up: nothing more is written from here; what waited fails.
    pub fn abandon(&mut self) -> Vec<Then> {
        let mut thens = std::mem::take(&mut self.thens);
        let mut left_behind = self.left_behind;
        if let Some(write) = self.running.take() {
            left_behind = left_behind.or(write.disk.is_none().then_some(write.number));
            thens.extend(write.thens);
        }
        *self = Self {
            written_flags: self.written_flags,
            written_slots: self.written_slots,
            left_behind,
            predecessor: self.predecessor,
            ..Self::default()
        };
        thens
    }

    /// Wants the present state in the superblock, with nobody waiting for it.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// The superblock says all that it is to say.
    pub fn is_idle(&self) -> bool {
        !self.wanted && self.running.is_none()
    }

    /// The last superblock that was handed to the disk has other slots.
    pub fn names_others(&self, identifiers: &Identifiers) -> bool {
        self.written_slots
            .is_some_and(|written| written != slots(identifiers))
    }

    /// A superblock write may still land.
    pub fn writes_superblock(&self) -> bool {
        self.left_behind.is_some() || self.predecessor != Predecessor::Settled
    }

    /// When the table is asked for again.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.predecessor {
            Predecessor::Pause(at) => Some(at),
            Predecessor::Settled | Predecessor::Table(_) => None,
        }
    }

    /// The operations that a new disk part knows: what it does not name has ended, or never began.
    pub fn left_behind_if(&mut self, named: impl Fn(u64) -> bool) {
        self.left_behind = self.left_behind.filter(|&number| named(number));
    }
}

impl StatePart {
    /// Wants the present state in the superblock; `then` follows when it is durable.
    pub(super) fn store(&mut self, then: Then) {
        self.store.wanted = true;
        self.store.thens.push(then);
    }

    /// Wants the present flags in the superblock if they differ from what it says.
    pub(super) fn note_flags(&mut self) {
        let vector = self.current.vector;
        let crashed = self.current.crashed_primary;
        let Some(wanted) = transition::superblock_flags(&vector) else {
            return;
        };
        // What is being written as durable before the vector shows it must not be taken back by another change.
        let (promoting, finishing) = (self.promotion_pending(), self.sync.is_finishing());
        let Some(disk) = self.disk.as_mut().filter(|_| vector.disk.is_usable()) else {
            return;
        };
        let mut flags = disk.superblock.flags;
        flags.set(Flags::CONSISTENT, wanted.consistent || finishing);
        flags.set(Flags::WAS_UP_TO_DATE, wanted.was_up_to_date || finishing);
        flags.set(Flags::PEER_OUT_DATED, wanted.peer_outdated);
        flags.set(Flags::PRIMARY_IND, wanted.primary_indicator || promoting);
        flags.set(Flags::CONNECTED_IND, wanted.connected_indicator);
        flags.set(Flags::CRASHED_PRIMARY, crashed);
        flags.set(Flags::AL_CLEAN, false);
        disk.superblock.flags = flags;
        self.store.wanted |= flags != self.store.written_flags;
    }

    /// Sets or clears the full-sync mark for the next superblock.
    pub(super) fn set_full_sync(&mut self, value: bool) {
        if let Some(disk) = self.disk.as_mut() {
            disk.superblock.flags.set(Flags::FULL_SYNC, value);
            self.store.wanted = true;
        }
    }

    pub(super) fn compose(&mut self) -> Option<Superblock> {
        let identifiers = self.current.identifiers;
        let sectors = self.current.volume_sectors;
        let disk = self.disk.as_mut()?;
        disk.superblock.generations = ids_on_disk(&identifiers);
        disk.superblock.effective_sectors = sectors;
        disk.superblock.log_state = LogState::Unclean;
        disk.superblock.flags.set(Flags::AL_CLEAN, false);
        disk.superblock.anchor = self.health.anchor;
        Some(disk.superblock)
    }

    /// Starts the wanted write unless one is under way. Without a usable disk only the health file is written.
    pub(super) fn store_start(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let usable =
            self.current.vector.disk.is_usable() || self.current.vector.disk == DiskState::Negotiating;
        let busy = self.store.running.is_some()
            || self.store.pages_first.is_some()
            || self.store.mark_first.is_some()
            || self.store.predecessor != Predecessor::Settled;
        if !self.store.wanted || busy {
            return;
        }
        let attaching = self
            .attach
            .as_ref()
            .is_some_and(super::attach::Attaching::is_committing);
        let on_disk = self.disk.is_some() && (usable || attaching);
        if on_disk && self.pages_go_first(out) {
            return;
        }
        self.store.wanted = false;
        self.store.pages_written = false;
        let number = self.query().0;
        let slots = slots(&self.current.identifiers);
        let health = (self.health.slots != slots && (on_disk || self.health.device_id != 0)).then(|| {
            let query = self.query();
            self.health.slots = slots;
            let change = HeaderChange {
                slots: Some(slots),
                ..HeaderChange::default()
            };
            out.send(To::Bitmap(BitmapIn::SetHeader {
                query,
                change: Box::new(change),
            }));
            query
        });
        let thens = std::mem::take(&mut self.store.thens);
        let mut write = Write {
            number,
            thens,
            disk: Some(true),
            health,
        };
        if let Some(superblock) = on_disk.then(|| self.compose()).flatten() {
            self.store.written_flags = superblock.flags;
            self.store.written_slots = Some(slots);
            write.disk = None;
            self.write_superblock(number, &superblock, out);
        }
        self.store.running = Some(write);
        self.store_ended(cx, out);
    }

    /// V17: a superblock that clears the Primary indicator goes out only behind the changed bitmap pages, else a crash
    /// between them leaves a log that is not replayed and bits that are nowhere.
    fn pages_go_first(&mut self, out: &mut Outbox<StateEffect>) -> bool {
        let clears = self.disk.as_ref().is_some_and(|disk| {
            self.store.written_flags.contains(Flags::PRIMARY_IND)
                && !disk.superblock.flags.contains(Flags::PRIMARY_IND)
        });
        if !clears || self.store.pages_written {
            return false;
        }
        let query = self.query();
        self.store.pages_first = Some(query);
        out.send(To::Bitmap(BitmapIn::WriteOut {
            requester: PartName::State,
            query,
            after: MarkNumber(0),
            extents: None,
        }));
        true
    }

    /// The pages that had to go before a superblock are written, or not. True if the answer was for the store.
    pub(super) fn pages_written(&mut self, query: Query, result: Result<(), i32>) -> bool {
        if self.store.pages_first != Some(query) {
            return false;
        }
        self.store.pages_first = None;
        // A failure is a meta-data error, which the disk part has reported as well: the disk is given up.
        self.store.pages_written = result.is_ok();
        true
    }

    /// The generation in memory was made for this loss (attach id of the peer's disk, generation): durable before any superblock
    /// that names it.
    pub(super) fn mark_loss_first(&mut self, loss: (u64, u64), out: &mut Outbox<StateEffect>) {
        let change = HeaderChange {
            loss_of: Some(Some(loss)),
            ..HeaderChange::default()
        };
        self.store.mark_first = Some(self.set_header(change, out));
    }

    /// The mark that had to go before a superblock is in the health file, or could not be written there: either way it stops
    /// nothing more. True if the answer was for the store.
    pub(super) fn loss_marked(&mut self, query: Query) -> bool {
        let is_it = self.store.mark_first == Some(query);
        if is_it {
            self.store.mark_first = None;
        }
        is_it
    }

    pub(super) fn write_superblock(
        &self,
        number: u64,
        superblock: &Superblock,
        out: &mut Outbox<StateEffect>,
    ) {
        let Some(disk) = self.disk.as_ref() else { return };
        out.send(To::Disk(DiskIn::Meta(vec![MetaOperation {
            holder: PartName::State,
            generation: self.generation,
            number,
            kind: MetaKind::Write {
                offset: disk.layout.superblock_byte(),
                buffer: Buffer::from_vec(superblock.encode().to_vec()),
                flush_before: true,
            },
        }])));
    }

    pub(super) fn meta_completed(
        &mut self,
        completion: MetaCompletion,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if completion.generation != self.generation {
            return;
        }
        self.store.left_behind_if(|number| number != completion.number);
        if let Some(write) = self
            .store
            .running
            .as_mut()
            .filter(|write| write.number == completion.number)
        {
            write.disk = Some(completion.result.is_ok());
            self.store_ended(cx, out);
        } else if !self.attach_meta(&completion, cx, out) {
            self.detach_meta(&completion, out);
        }
    }

    /// The slots' copy is in the health file, or could not be written there: either way it stops nothing.
    pub(super) fn slots_written(
        &mut self,
        query: Query,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        let Some(write) = self
            .store
            .running
            .as_mut()
            .filter(|write| write.health == Some(query))
        else {
            return false;
        };
        write.health = None;
        self.store_ended(cx, out);
        true
    }

    fn store_ended(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let done = self
            .store
            .running
            .as_ref()
            .is_some_and(|write| write.disk.is_some() && write.health.is_none());
        let Some(write) = done.then(|| self.store.running.take()).flatten() else {
            return;
        };
        let ok = write.disk == Some(true);
        for then in write.thens {
            self.stored(then, ok, cx, out);
        }
    }

    /// Questions of the store whose answers died with a neighbour.
    pub(super) fn repeat_store(&mut self, part: PartName, out: &mut Outbox<StateEffect>) {
        if part == PartName::Bitmap {
            if let Some(query) = self.store.pages_first {
                out.send(To::Bitmap(BitmapIn::WriteOut {
                    requester: PartName::State,
                    query,
                    after: MarkNumber(0),
                    extents: None,
                }));
            }
            if let Some(query) = self.store.mark_first {
                let change = HeaderChange {
                    loss_of: Some(self.health.loss_of),
                    ..HeaderChange::default()
                };
                out.send(To::Bitmap(BitmapIn::SetHeader {
                    query,
                    change: Box::new(change),
                }));
            }
            if let Some(query) = self.store.running.as_ref().and_then(|write| write.health) {
                let change = HeaderChange {
                    slots: Some(self.health.slots),
                    ..HeaderChange::default()
                };
                out.send(To::Bitmap(BitmapIn::SetHeader {
                    query,
                    change: Box::new(change),
                }));
            }
        }
        if part == PartName::Disk && self.disk.is_some() {
            let query = self.query_table(out);
            if self.store.predecessor != Predecessor::Settled {
                self.store.predecessor = Predecessor::Table(query);
            }
        }
    }

    fn query_table(&mut self, out: &mut Outbox<StateEffect>) -> Query {
        let query = self.query();
        out.send(To::Disk(DiskIn::QueryTable {
            asker: PartName::State,
            generation: self.generation,
            query,
        }));
        query
    }

    /// Asks again whether a predecessor's write is still in the kernel.
    pub(super) fn store_deadline(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.store.wake_at().is_some_and(|at| at <= cx.now) {
            self.store.predecessor = Predecessor::Table(self.query_table(out));
        }
    }

    fn predecessor_named(&mut self, answer: &TableAnswer, cx: &Context<'_>) {
        if self.store.predecessor != Predecessor::Table(answer.query) {
            return;
        }
        let in_kernel = answer
            .meta
            .iter()
            .any(|(generation, _)| *generation != self.generation);
        self.store.predecessor = if in_kernel {
            Predecessor::Pause(cx.now.after_ms(PREDECESSOR_PAUSE))
        } else {
            Predecessor::Settled
        };
    }

    /// R9: what the device's table does not name is submitted again, under its number.
    pub(super) fn table(&mut self, answer: &TableAnswer, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        if answer.asker != self.generation {
            return;
        }
        self.predecessor_named(answer, cx);
        let in_kernel: Vec<u64> = answer
            .meta
            .iter()
            .filter(|(generation, _)| *generation == self.generation)
            .map(|(_, number)| *number)
            .collect();
        self.store.left_behind_if(|number| in_kernel.contains(&number));
        let waiting = self
            .store
            .running
            .as_ref()
            .filter(|write| write.disk.is_none())
            .map(|write| write.number);
        if let Some(number) = waiting.filter(|number| !in_kernel.contains(number))
            && let Some(superblock) = self.compose()
        {
            self.write_superblock(number, &superblock, out);
        }
        self.repeat_last_superblock(&in_kernel, out);
    }

    /// A new state part: the last superblock on disk is not known for sure, so the present one is written.
    pub(super) fn store_resumed(&mut self, out: &mut Outbox<StateEffect>) {
        if let Some(disk) = self.disk.as_ref() {
            self.store.written_flags = disk.superblock.flags;
            self.store.wanted = true;
            self.store.predecessor = Predecessor::Table(self.query_table(out));
        }
    }

    /// What follows a superblock write. A failed one has been reported as a meta-data error too, so the disk is being given
    /// up already or will be with the next message.
    pub(super) fn stored(
        &mut self,
        then: Then,
        ok: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        match then {
            Then::AttachCommitted => self.attach_committed(ok, cx, out),
            Then::GenerationMade => self.generation_made(ok, out),
            Then::TellAnswered {
                connection,
                number,
                new_generation,
            } => {
                self.answer_tell(connection, number, new_generation && ok, out);
            }
            Then::SourceStarted { round, id } => self.source_started(round, id, ok, out),
            Then::TargetStarted { round } => self.target_started(round, ok, out),
            Then::TargetFinished { round } => self.target_finished(round, ok, cx, out),
            Then::SourceFinished => self.source_finished(ok, out),
            Then::FullSyncMarked { round } => self.full_sync_marked(round, ok, out),
            Then::PromotionStored => self.promotion_stored(ok, cx, out),
            Then::DemotionStored => self.demotion_stored(ok, out),
            Then::TargetOutdated { round } => self.target_outdated(round, ok, out),
            Then::OutdatedVoid => self.outdated_void(ok, out),
        }
    }

    /// Changes header facts of the health file; the cached copy at once.
    pub(super) fn set_header(&mut self, change: HeaderChange, out: &mut Outbox<StateEffect>) -> Query {
        if let Some(outdated) = change.outdated_since {
            self.health.outdated_since = outdated;
        }
        if let Some(open) = change.source_open {
            self.health.source_open = open;
        }
        if let Some(loss) = change.loss_of {
            self.health.loss_of = loss;
        }
        if let Some((device_id, attach_id)) = change.attached {
            self.health.device_id = device_id;
            self.health.attach_id = attach_id;
        }
        if let Some(slots) = change.slots {
            self.health.slots = slots;
        }
        let query = self.query();
        out.send(To::Bitmap(BitmapIn::SetHeader {
            query,
            change: Box::new(change),
        }));
        query
    }
}

pub(super) fn slots(identifiers: &Identifiers) -> [u64; 4] {
    [
        identifiers.current.0,
        identifiers.bitmap.0,
        identifiers.history[0].0,
        identifiers.history[1].0,
    ]
}

fn ids_on_disk(identifiers: &Identifiers) -> GenerationIds {
    GenerationIds::from_slots(slots(identifiers))
}

pub(super) fn identifiers_of(slots: [u64; 4]) -> Identifiers {
    Identifiers {
        current: Generation(slots[0]),
        bitmap: Generation(slots[1]),
        history: [Generation(slots[2]), Generation(slots[3])],
    }
}
