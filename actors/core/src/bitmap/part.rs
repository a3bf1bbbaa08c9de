//! The bitmap part's value, its dispatch, and what every step ends with.

use super::exchange::Exchange;
use super::health::HealthWriter;
use super::load::Loading;
use super::pages::PageWriter;
use super::records::without;
use super::rounds::Rounds;
use super::{BadBlocks, BitmapEffect, BitmapIn};
use crate::configuration::VolumeConfiguration;
use crate::disk::{DiskIn, MetaCompletion, MetaKind, MetaOperation, TableAnswer};
use crate::engine::VolumeIn;
use crate::identity::{ConnectionNumber, MarkNumber, PartGeneration, Query, SnapshotNumber};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::planted::{Fault, is_planted};
use crate::resync::ResyncIn;
use crate::snapshot::Snapshot;
use crate::volume::machine::StateIn;
use crate::volume::state::DiskState;
use mendblock_storage::dirty::DirtyMap;
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::health::RecordSet;
use mendblock_storage::units::BlockRange;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pause before the table is asked again while a predecessor's write is in the kernel (R4), ms.
const TABLE_PAUSE: u64 = 20;

/// The bitmap of the attached disk.
pub(super) struct Loaded {
    pub map: DirtyMap,
    pub layout: MetadataLayout,
}

/// The bitmap part.
pub struct BitmapPart {
    pub(super) configuration: Arc<VolumeConfiguration>,
    pub(super) generation: PartGeneration,
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) loaded: Option<Loaded>,
    pub(super) loading: Option<Loading>,
    pub(super) pages: PageWriter,
    pub(super) health: HealthWriter,
    pub(super) exchange: Exchange,
    pub(super) rounds: Rounds,
    pub(super) last_mark: MarkNumber,
    /// No mark below `last_mark` is still to be replayed to this generation (R5).
    replayed: bool,
    pub(super) now_wall: u64,
    /// Meta-data operations that were sent and have not come back (repeated to a new disk part).
    outstanding: BTreeMap<u64, MetaKind>,
    /// The table that a new disk part is asked for; until its answer nothing is submitted (R9).
    asked: Option<Query>,
    next: u64,
    /// None: this generation has published nothing yet, its predecessor may have.
    pub(super) published: Option<Arc<BadBlocks>>,
    pub(super) publish: bool,
    bits: u64,
    /// A new generation reads the bitmap again before it does anything else; messages wait meanwhile.
    recovering: Option<Recovering>,
    deferred: Vec<BitmapIn>,
    questions: Vec<RunQuestion>,
    /// Questions of the volume part that the state part passed on.
    news_asked: Vec<(Query, SnapshotNumber)>,
}

/// A question of the resync part.
struct RunQuestion {
    query: Query,
    from: u64,
    max_blocks: u32,
    max_runs: u32,
}

enum Recovering {
    /// The snapshot is awaited.
    Snapshot,
    /// The table is awaited (R4).
    Table(Query),
    /// A predecessor's write is in the kernel: the table is asked again then.
    Pause(Instant),
    /// Pages are being read.
    Reading,
}

impl BitmapPart {
    /// A part of this generation.
    pub fn new(configuration: Arc<VolumeConfiguration>, generation: PartGeneration) -> Self {
        Self {
            configuration,
            generation,
            snapshot: None,
            loaded: None,
            loading: None,
            pages: PageWriter::default(),
            health: HealthWriter::default(),
            exchange: Exchange::default(),
            rounds: Rounds::default(),
            last_mark: MarkNumber(0),
            replayed: generation.0 <= 1,
            now_wall: 0,
            outstanding: BTreeMap::new(),
            asked: None,
            next: generation.0 << 32,
            published: None,
            publish: false,
            bits: 0,
            recovering: (generation.0 > 1).then_some(Recovering::Snapshot),
            deferred: Vec::new(),
            questions: Vec::new(),
            news_asked: Vec::new(),
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Sends a meta-data operation; its completion names the number.
    pub(super) fn submit(&mut self, kind: MetaKind, out: &mut Outbox<BitmapEffect>) -> u64 {
        let number = self.number();
        self.outstanding.insert(number, kind.clone());
        if self.asked.is_none() {
            let operation = MetaOperation {
                holder: PartName::Bitmap,
                generation: self.generation,
                number,
                kind,
            };
            out.send(To::Disk(DiskIn::Meta(vec![operation])));
        }
        number
    }

    /// Every mark up to this one is in the bitmap.
    pub(super) fn marks_arrived(&self, after: MarkNumber) -> bool {
        after.0 == 0 || (self.replayed && after <= self.last_mark)
    }

    pub(super) fn current_generation(&self) -> u64 {
        self.snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.identifiers.current.0)
    }

    pub(super) fn connection(&self) -> Option<ConnectionNumber> {
        self.snapshot.as_ref().and_then(|snapshot| snapshot.connection)
    }

    /// Pages may be written for marks: the disk is in use. (While it is Failed only the detach's order writes them.)
    pub(super) fn in_use(&self) -> bool {
        self.loaded.is_some()
            && self
                .snapshot
                .as_ref()
                .is_some_and(|snapshot| snapshot.vector.disk >= DiskState::Negotiating)
    }

    pub(super) fn set_bits(&mut self, range: BlockRange) -> u64 {
        self.loaded.as_mut().map_or(0, |loaded| loaded.map.set(range))
    }

    pub(super) fn records(&self) -> Option<&RecordSet> {
        self.health.content.as_ref().map(|health| &health.records)
    }

    /// The lists changed.
    pub(super) fn lists_changed(&mut self) {
        self.publish = true;
    }

    fn handle(&mut self, message: BitmapIn, out: &mut Outbox<BitmapEffect>) {
        match message {
            BitmapIn::Snapshot(snapshot) => self.snapshot_arrived(snapshot, out),
            BitmapIn::Restarted { part, generation } => self.neighbour_restarted(part, generation, out),
            BitmapIn::HealthRead { files } => self.health_read(files),
            BitmapIn::LoadHealth { query, device_id } => self.load_health(query, device_id, out),
            BitmapIn::Load { query, plan } => self.begin_load(query, *plan, out),
            BitmapIn::Unload => self.unload(out),
            BitmapIn::Mark(marks) => {
                for mark in marks {
                    self.mark(mark, out);
                }
            }
            BitmapIn::MarksUpTo { number, generation } => {
                if generation == self.generation {
                    self.last_mark = self.last_mark.max(number);
                    self.replayed = true;
                }
            }
            BitmapIn::Clear { ranges, reason } => {
                for range in ranges {
                    self.clear(range, reason, out);
                }
            }
            BitmapIn::WriteOut {
                requester,
                query,
                after,
                ..
            } => {
                if requester == PartName::State && is_planted(Fault::SkipBitmapOnDetach) {
                    return out.send(To::State(StateIn::WrittenOut {
                        query,
                        result: Ok(()),
                        uncovered: false,
                    }));
                }
                self.pages.want(requester, query, after);
            }
            BitmapIn::SetAll { query, reason } => self.set_all(query, &reason, out),
            BitmapIn::ClearAll { reason } => self.clear_all(&reason, out),
            BitmapIn::SetHeader { query, change } => self.set_header(query, *change, out),
            BitmapIn::PersistHealth { query } => self.persist(query, out),
            BitmapIn::RecordTell {
                connection,
                number,
                records,
            } => self.record_tell(connection, number, &records, out),
            BitmapIn::SendRecords { connection } => self.send_records(connection, out),
            BitmapIn::Exchange {
                connection,
                source,
                after,
            } => self.order_exchange(connection, source, after),
            BitmapIn::Peer { connection, .. }
                if self.connection().is_some_and(|latest| connection < latest) => {}
            BitmapIn::Peer { connection, frame } => self.peer_frame(connection, frame, out),
            BitmapIn::NextRun {
                query,
                from,
                max_blocks,
                max_runs,
            } => self.questions.push(RunQuestion {
                query,
                from,
                max_blocks,
                max_runs,
            }),
            BitmapIn::AskNews { query, snapshot } => self.news_asked.push((query, snapshot)),
            BitmapIn::Lost { ranges } => self.lost(&ranges, out),
            BitmapIn::Meta(completions) => {
                for completion in completions {
                    self.meta(completion, out);
                }
            }
            BitmapIn::Table(answer) => self.table(&answer, out),
            BitmapIn::HealthWritten { sequence, result } => self.health_written(sequence, result, out),
        }
    }

    /// What a new generation must not do before it has the bitmap again.
    fn must_wait(&self, message: &BitmapIn) -> bool {
        self.recovering.is_some()
            && matches!(
                message,
                BitmapIn::Mark(_)
                    | BitmapIn::Restarted {
                        part: PartName::Volume,
                        ..
                    }
                    | BitmapIn::Load { .. }
                    | BitmapIn::ClearAll { .. }
                    | BitmapIn::MarksUpTo { .. }
                    | BitmapIn::Clear { .. }
                    | BitmapIn::WriteOut { .. }
                    | BitmapIn::SetAll { .. }
                    | BitmapIn::RecordTell { .. }
                    | BitmapIn::Exchange { .. }
                    | BitmapIn::NextRun { .. }
                    | BitmapIn::AskNews { .. }
                    | BitmapIn::Lost { .. }
                    | BitmapIn::Peer { .. }
                    | BitmapIn::SendRecords { .. }
            )
    }

    fn snapshot_arrived(&mut self, snapshot: Arc<Snapshot>, out: &mut Outbox<BitmapEffect>) {
        let gone = snapshot.vector.disk == DiskState::Diskless;
        self.snapshot = Some(Arc::clone(&snapshot));
        if let Some(Recovering::Snapshot) = self.recovering {
            if gone || snapshot.disk.is_none() {
                self.recovered(out);
            } else {
                self.ask_table(out);
            }
        }
        self.publish = true;
    }

    fn ask_table(&mut self, out: &mut Outbox<BitmapEffect>) {
        let query = self.query_table(out);
        self.recovering = Some(Recovering::Table(query));
    }

    fn query_table(&mut self, out: &mut Outbox<BitmapEffect>) -> Query {
        let query = Query(self.number());
        out.send(To::Disk(DiskIn::QueryTable {
            asker: PartName::Bitmap,
            generation: self.generation,
            query,
        }));
        query
    }

    fn table(&mut self, answer: &TableAnswer, out: &mut Outbox<BitmapEffect>) {
        if answer.asker != self.generation {
            return;
        }
        if let Some(Recovering::Table(query)) = self.recovering {
            if query != answer.query {
                return;
            }
            if answer
                .meta
                .iter()
                .any(|(generation, _)| *generation != self.generation)
            {
                // An old page that lands later would erase newer marks.
                self.recovering = Some(Recovering::Pause(Instant(0)));
                return;
            }
            self.recovering = Some(Recovering::Reading);
            self.reload(out);
            return;
        }
        if self.asked.take_if(|asked| *asked == answer.query).is_none() {
            return;
        }
        // The disk part was restarted: what its table does not name is done again (R9).
        let named: Vec<u64> = answer
            .meta
            .iter()
            .filter(|(generation, _)| *generation == self.generation)
            .map(|(_, number)| *number)
            .collect();
        let again: Vec<MetaOperation> = self
            .outstanding
            .iter()
            .filter(|(number, _)| !named.contains(number))
            .map(|(&number, kind)| MetaOperation {
                holder: PartName::Bitmap,
                generation: self.generation,
                number,
                kind: kind.clone(),
            })
            .collect();
        if !again.is_empty() {
            out.send(To::Disk(DiskIn::Meta(again)));
        }
    }

    /// The bitmap is here again: what waited is done.
    pub(super) fn recovered(&mut self, out: &mut Outbox<BitmapEffect>) {
        self.recovering = None;
        for message in std::mem::take(&mut self.deferred) {
            self.handle(message, out);
        }
    }

    pub(super) fn is_recovering(&self) -> bool {
        self.recovering.is_some()
    }

    fn neighbour_restarted(
        &mut self,
        part: PartName,
        generation: PartGeneration,
        out: &mut Outbox<BitmapEffect>,
    ) {
        match part {
            PartName::Disk => match self.recovering {
                Some(Recovering::Table(_)) => self.ask_table(out),
                // Nothing was submitted yet, and the table is asked for later in any case.
                Some(Recovering::Snapshot | Recovering::Pause(_)) => {}
                Some(Recovering::Reading) | None => self.asked = Some(self.query_table(out)),
            },
            PartName::Volume => {
                // The picture comes first: no read may go to the peer before the successor has it (R16).
                self.published = None;
                self.publish_picture(out);
                // What its predecessor still owed died with it: there is no replay to wait for.
                self.replayed = true;
                out.send(To::Volume(VolumeIn::BitmapIs {
                    generation,
                    last: self.last_mark,
                }));
            }
            _ => {}
        }
    }

    fn meta(&mut self, completion: MetaCompletion, out: &mut Outbox<BitmapEffect>) {
        if completion.generation != self.generation || self.outstanding.remove(&completion.number).is_none() {
            return;
        }
        if !self.load_completed(&completion, out) {
            self.page_completed(completion.number, completion.result.map(|_| ()), out);
        }
    }

    fn unload(&mut self, out: &mut Outbox<BitmapEffect>) {
        if self.is_recovering() {
            // There is nothing left to read: what waited came before and must not wait for ever.
            self.recovered(out);
        }
        self.loaded = None;
        self.loading = None;
        self.asked = None;
        self.outstanding.clear();
        self.abandon_pages(out);
        self.publish = true;
    }

    fn finish(&mut self, out: &mut Outbox<BitmapEffect>) {
        self.follow_size();
        self.begin_ordered_exchange(out);
        // The end of a resync is written out: else the next crash would bring all its bits back.
        let bits = self.loaded.as_ref().map(|loaded| loaded.map.count());
        self.pages.lazily |= self.bits > 0 && bits == Some(0);
        self.write_pages(out);
        self.write_health(out);
        self.acknowledge(out);
        self.answer_questions(out);
        // Without the bitmap the picture would lack what the peer lacks: the one of the predecessor holds until then.
        if self.publish && !self.is_recovering() {
            self.publish = false;
            self.publish_picture(out);
        }
        for (query, snapshot) in std::mem::take(&mut self.news_asked) {
            out.send(To::Volume(VolumeIn::News { query, snapshot }));
        }
        let bits = self
            .loaded
            .as_ref()
            .map_or(self.bits, |loaded| loaded.map.count());
        if bits != self.bits {
            let crossed = (bits == 0) != (self.bits == 0);
            self.bits = bits;
            out.effect(BitmapEffect::SetBits(bits));
            if crossed {
                out.send(To::State(StateIn::SetBits { count: bits }));
            }
        }
    }

    fn publish_picture(&mut self, out: &mut Outbox<BitmapEffect>) {
        let picture = self.picture();
        if self.published.as_deref() != Some(&picture) {
            let shared = Arc::new(picture);
            self.published = Some(Arc::clone(&shared));
            out.send(To::Volume(VolumeIn::BadBlocks(Arc::clone(&shared))));
            out.effect(BitmapEffect::Publish(shared));
        }
    }

    /// Answers the resync part; blocks that were lost are durable first (9.5).
    fn answer_questions(&mut self, out: &mut Outbox<BitmapEffect>) {
        if self.is_recovering() || !self.health.lost_is_durable() {
            return;
        }
        for question in std::mem::take(&mut self.questions) {
            self.next_run(&question, out);
        }
    }

    fn next_run(&self, question: &RunQuestion, out: &mut Outbox<BitmapEffect>) {
        let (mut runs, mut unfetchable, mut set_bits) = (Vec::new(), 0, 0);
        if let Some(loaded) = self.loaded.as_ref() {
            set_bits = loaded.map.count();
            let skipped = self.unfetchable();
            unfetchable = skipped.iter().map(|&range| loaded.map.count_in(range)).sum();
            let mut at = question.from;
            while runs.len() < question.max_runs as usize {
                let Some(run) = loaded.map.next_run(at, question.max_blocks) else {
                    break;
                };
                at = run.end();
                runs.extend(without(vec![run], &skipped));
            }
        }
        out.send(To::Resync(ResyncIn::Runs {
            query: question.query,
            runs,
            set_bits,
            unfetchable,
        }));
    }
}

impl Part for BitmapPart {
    type In = BitmapIn;
    type Effect = BitmapEffect;
    const NAME: PartName = PartName::Bitmap;

    fn on(&mut self, cx: &mut Context<'_>, message: BitmapIn, out: &mut Outbox<BitmapEffect>) {
        self.now_wall = cx.wall;
        if self.health.id_source.is_none() {
            self.health.id_source = Some(cx.fresh());
        }
        if self.must_wait(&message) {
            self.deferred.push(message);
        } else {
            self.handle(message, out);
        }
        if let Some(Recovering::Pause(at)) = self.recovering.as_mut()
            && at.0 == 0
        {
            *at = cx.now.after_ms(TABLE_PAUSE);
        }
        self.finish(out);
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Outbox<BitmapEffect>) {
        if let Some(Recovering::Pause(at)) = self.recovering
            && at <= cx.now
        {
            self.ask_table(out);
        }
        self.finish(out);
    }

    fn wake_at(&self) -> Option<Instant> {
        match self.recovering {
            Some(Recovering::Pause(at)) => Some(at),
            _ => None,
        }
    }
}
