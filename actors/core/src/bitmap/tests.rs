//! Tests of the bitmap part on a scripted disk: writes land when the test says so, and are stable after a flush.

mod durable;
mod lists;
mod properties;
mod recovery;
mod size;

use super::*;
use crate::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use crate::disk::{DiskIn, MetaKind, MetaOperation, TableAnswer};
use crate::engine::VolumeIn;
use crate::identity::{AttachId, ErrorNumber, SnapshotNumber, TellNumber};
use crate::part::{Context, Instant, Outbox, Part, To};
use crate::peer::PeerIn;
use crate::resync::ResyncIn;
use crate::snapshot::{Admission, DiskFacts, Reasons};
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, DiskState, StateVector};
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::dirty::{DirtyMap, PAGE_BITS, PAGE_BYTES};
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex};
use mendblock_storage::format::superblock::Superblock;
use mendblock_storage::health::{BlockState, Cause, GoodAt, Health};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const SECTORS: u64 = 8 * (3 * PAGE_BITS + 100);
const DEVICE: u64 = 0xD1;
const LINK: ConnectionNumber = ConnectionNumber(7);

fn range(first: u64, count: u32) -> BlockRange {
    BlockRange::new(first, count).unwrap()
}

fn configuration(node_id: u8) -> Arc<VolumeConfiguration> {
    Arc::new(VolumeConfiguration {
        volume: "data".to_owned(),
        node_id,
        node_name: "alice".to_owned(),
        peer_id: 1 - node_id,
        peer_name: "bob".to_owned(),
        process_id: 1,
        meta_index: MetaIndex::FlexExternal,
        on_io_error: OnIoError::Detach,
        on_no_data: OnNoData::IoError,
        al_extents: 257,
        max_epoch_size: 2048,
        peer_window: 1 << 20,
        detach_step_timeout: 10_000,
        helper_timeout: 30_000,
        reconnect_grace: 5000,
        disk_timeout: 0,
        peer_timeout: 42_000,
        ping_interval: 10_000,
        ping_timeout: 500,
        connect_interval: 10_000,
        resync: ResyncRate {
            resync_rate: 250,
            plan_ahead: 20,
            delay_target: 10,
            fill_target: 100,
            max_rate: 102_400,
            min_rate: 250,
        },
    })
}

fn layout() -> MetadataLayout {
    let sizes = DeviceSizes {
        data_bytes: SECTORS * 512,
        meta_bytes: 4 << 20,
    };
    MetadataLayout::compute(MetaIndex::FlexExternal, sizes, LogGeometry::new(1, 8).unwrap()).unwrap()
}

/// The state of a volume whose disk is being attached, without a connection.
fn attaching() -> Snapshot {
    let vector = StateVector {
        disk: DiskState::Attaching,
        ..StateVector::START
    };
    let disk = DiskFacts {
        attach_id: AttachId(5),
        data_sectors: SECTORS,
        logical_block: 512,
        device_id: DEVICE,
        backend: "test",
        layout: layout(),
        superblock: Superblock::create(&layout()),
    };
    Snapshot {
        number: SnapshotNumber(1),
        vector,
        disk: Some(disk),
        volume_sectors: SECTORS,
        connection: None,
        writes: Admission::Open,
        reads: Admission::Open,
        alone_settled: true,
        own_loss_settled: true,
        errors_seen: ErrorNumber(0),
        errors_settled: ErrorNumber(0),
        peer_loss_settled: true,
        tell: TellNumber(0),
        drain: None,
        mirror: false,
        link_lost_at: None,
        identifiers: Identifiers::FRESH,
        exposed: Generation::NONE,
        crashed_primary: false,
        source_open: None,
        reasons: Reasons::default(),
        waits: Vec::new(),
    }
}

/// One node: the part, its meta-data device, and what it said.
struct Node {
    part: BitmapPart,
    id: u8,
    snapshot: Snapshot,
    /// What a read returns, and what a power loss leaves.
    cache: Vec<u8>,
    stable: Vec<u8>,
    table: VecDeque<MetaOperation>,
    /// Answers about the table, made when they were asked for, not given yet.
    tables: VecDeque<TableAnswer>,
    hold_table: bool,
    files: Vec<(u64, Vec<u8>)>,
    health: [Vec<u8>; 2],
    hold_health: bool,
    failing_health: bool,
    failing: Option<i32>,
    /// Blocks whose bit was cleared, until a flush that was submitted later has ended.
    unflushed: BTreeSet<u64>,
    flushes: BTreeMap<u64, BTreeSet<u64>>,
    /// A cleared bit went to the disk before the data that clears it.
    too_early: bool,
    unreadable: Option<u64>,
    order: Vec<&'static str>,
    state: Vec<StateIn>,
    marked: Vec<(u64, MarkOutcome)>,
    settled: Vec<u64>,
    frames: VecDeque<PeerFrame>,
    drops: usize,
    runs: Vec<Vec<BlockRange>>,
    pictures: Vec<Arc<BadBlocks>>,
    /// Answers for the volume part, each with the number of pictures before it.
    news: Vec<(Query, SnapshotNumber, usize)>,
    /// How often a new volume part was answered.
    told_volume: usize,
    last_mark: u64,
}

impl Node {
    fn new(id: u8) -> Self {
        let bytes = vec![
            0;
            layout()
                .meta_bytes()
                .max(layout().bitmap_byte() + layout().bitmap_bytes()) as usize
        ];
        Self {
            part: BitmapPart::new(configuration(id), PartGeneration(1)),
            id,
            snapshot: attaching(),
            cache: bytes.clone(),
            stable: bytes,
            table: VecDeque::new(),
            tables: VecDeque::new(),
            hold_table: false,
            files: Vec::new(),
            health: [Vec::new(), Vec::new()],
            hold_health: false,
            failing_health: false,
            failing: None,
            unflushed: BTreeSet::new(),
            flushes: BTreeMap::new(),
            too_early: false,
            unreadable: None,
            order: Vec::new(),
            state: Vec::new(),
            marked: Vec::new(),
            settled: Vec::new(),
            frames: VecDeque::new(),
            drops: 0,
            runs: Vec::new(),
            pictures: Vec::new(),
            news: Vec::new(),
            told_volume: 0,
            last_mark: 0,
        }
    }

    fn attached(id: u8) -> Self {
        let mut node = Self::new(id);
        node.attach();
        node
    }

    /// Reads the bitmap, then takes the disk into use.
    fn attach(&mut self) {
        self.change(|_| {});
        self.load(false, Vec::new());
        self.run();
        self.commit();
    }

    fn commit(&mut self) {
        let change = HeaderChange {
            attached: Some((DEVICE, 5)),
            ..HeaderChange::default()
        };
        self.send(BitmapIn::SetHeader {
            query: Query(1),
            change: Box::new(change),
        });
        self.run();
        self.change(|snapshot| snapshot.vector.disk = DiskState::UpToDate);
    }

    /// Connected, and both disks are UpToDate.
    fn connect(&mut self) {
        self.change(|snapshot| {
            snapshot.connection = Some(LINK);
            snapshot.vector.connection = ConnectionState::Connected;
            snapshot.vector.peer_disk = DiskState::UpToDate;
        });
    }

    /// Publishes another state.
    fn change(&mut self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshot.number.0 += 1;
        change(&mut self.snapshot);
        self.send(BitmapIn::Snapshot(Arc::new(self.snapshot.clone())));
    }

    /// The volume part wants to have the picture of the last state.
    fn ask_news(&mut self) -> (Query, SnapshotNumber) {
        let (query, snapshot) = (Query(70), self.snapshot.number);
        self.send(BitmapIn::AskNews { query, snapshot });
        (query, snapshot)
    }

    fn load(&mut self, set_all: bool, extents: Vec<u32>) {
        let plan = LoadPlan {
            layout: layout(),
            volume_sectors: SECTORS,
            agreed_sectors: SECTORS,
            set_all,
            extents,
            list_lost: false,
        };
        self.send(BitmapIn::Load {
            query: Query(2),
            plan: Box::new(plan),
        });
    }

    fn send(&mut self, message: BitmapIn) {
        self.step(Some(message), 0);
    }

    fn step(&mut self, message: Option<BitmapIn>, now: u64) {
        let mut out = Outbox::default();
        let mut random = || 99;
        let mut cx = Context {
            now: Instant(now),
            wall: 1000,
            random: &mut random,
        };
        match message {
            Some(message) => self.part.on(&mut cx, message, &mut out),
            None => self.part.wake(&mut cx, &mut out),
        }
        let again = out.again;
        for effect in out.effects {
            if let BitmapEffect::WriteHealth { sequence, bytes, .. } = effect {
                self.files.push((sequence, bytes));
            }
        }
        for message in out.messages {
            match message {
                To::Disk(DiskIn::Meta(operations)) => {
                    for operation in operations {
                        if matches!(operation.kind, MetaKind::Flush) {
                            self.flushes.insert(operation.number, self.unflushed.clone());
                        }
                        self.table.push_back(operation);
                    }
                }
                To::Disk(DiskIn::QueryTable {
                    generation, query, ..
                }) => {
                    let meta = self.table.iter();
                    let meta = meta
                        .map(|operation| (operation.generation, operation.number))
                        .collect();
                    self.tables.push_back(TableAnswer {
                        query,
                        asker: generation,
                        data: Vec::new(),
                        meta,
                    });
                }
                To::Disk(DiskIn::ErrorMarked { number }) => self.settled.push(number.0),
                To::State(state) => self.state.push(state),
                To::Volume(VolumeIn::Marked { number, outcome }) => self.marked.push((number.0, outcome)),
                To::Volume(VolumeIn::BadBlocks(picture)) => self.pictures.push(picture),
                To::Volume(VolumeIn::News { query, snapshot }) => {
                    self.news.push((query, snapshot, self.pictures.len()));
                }
                To::Volume(VolumeIn::BitmapIs { .. }) => self.told_volume += 1,
                To::Peer(PeerIn::Send { frames, .. }) => self.frames.extend(frames),
                To::Peer(PeerIn::Drop { .. }) => self.drops += 1,
                To::Resync(ResyncIn::Runs { runs, .. }) => self.runs.push(runs),
                _ => {}
            }
        }
        while !self.hold_table
            && let Some(answer) = self.tables.pop_front()
        {
            self.step(Some(BitmapIn::Table(answer)), now);
        }
        if again {
            self.step(None, now);
        }
    }

    fn answer_tables(&mut self) {
        self.hold_table = false;
        while let Some(answer) = self.tables.pop_front() {
            self.send(BitmapIn::Table(answer));
        }
    }

    /// The oldest operation in the kernel ends.
    fn complete(&mut self) -> bool {
        let Some(operation) = self.table.pop_front() else {
            return false;
        };
        let result = self.perform(operation.number, &operation.kind);
        let MetaOperation {
            holder,
            generation,
            number,
            ..
        } = operation;
        self.send(BitmapIn::Meta(vec![MetaCompletion {
            holder,
            generation,
            number,
            result,
        }]));
        true
    }

    fn perform(&mut self, number: u64, kind: &MetaKind) -> Result<Option<Buffer>, i32> {
        match kind {
            MetaKind::Read { offset, length } => {
                let span = *offset..*offset + u64::from(*length);
                if self.unreadable.is_some_and(|bad| span.contains(&bad)) {
                    return Err(5);
                }
                Ok(Some(Buffer::from_vec(
                    self.cache[span.start as usize..span.end as usize].to_vec(),
                )))
            }
            _ if self.failing.is_some() => Err(self.failing.unwrap()),
            MetaKind::Write { offset, buffer, .. } | MetaKind::WriteLazy { offset, buffer } => {
                self.order.push("write");
                let first = (offset - layout().bitmap_byte()) * 8;
                let before = &self.cache[*offset as usize..*offset as usize + buffer.len()];
                let is_set = |bytes: &[u8], bit: u64| bytes[bit as usize / 8] & (1 << (bit % 8)) != 0;
                let clear = |block: &u64| {
                    let bit = block
                        .checked_sub(first)
                        .filter(|bit| *bit < buffer.len() as u64 * 8);
                    bit.is_some_and(|bit| is_set(before, bit) && !is_set(buffer, bit))
                };
                self.too_early |= self.unflushed.iter().any(clear);
                self.cache[*offset as usize..*offset as usize + buffer.len()].copy_from_slice(buffer);
                Ok(None)
            }
            MetaKind::Flush => {
                self.order.push("flush");
                for block in self.flushes.remove(&number).unwrap_or_default() {
                    self.unflushed.remove(&block);
                }
                self.stable.clone_from(&self.cache);
                Ok(None)
            }
        }
    }

    /// A write of the health file ends; as its store does, the older slot is written.
    fn write_health(&mut self) -> bool {
        if self.hold_health || self.files.is_empty() {
            return false;
        }
        let (sequence, bytes) = self.files.remove(0);
        let result = if self.failing_health {
            Err(5)
        } else {
            self.health.swap(0, 1);
            self.health[0] = bytes;
            Ok(())
        };
        self.send(BitmapIn::HealthWritten { sequence, result });
        true
    }

    fn run(&mut self) {
        for _ in 0..10_000 {
            if !self.complete() && !self.write_health() {
                return;
            }
        }
        panic!("the part never comes to rest");
    }

    fn mark(&mut self, block: u64, reason: MarkReason) {
        self.last_mark += 1;
        let number = MarkNumber(self.last_mark);
        self.send(BitmapIn::Mark(vec![Mark {
            number,
            ranges: vec![BlockRange::single(block)],
            reason,
        }]));
    }

    fn clear(&mut self, block: u64, reason: ClearReason) {
        let set = self.map().is_some_and(|map| map.is_set(block));
        // Before: its data was written before the part hears of it, and a flush of this very step covers it.
        let noted = set && self.unflushed.insert(block);
        self.send(BitmapIn::Clear {
            ranges: vec![BlockRange::single(block)],
            reason,
        });
        if noted && self.map().is_none_or(|map| map.is_set(block)) {
            self.unflushed.remove(&block);
        }
    }

    fn map(&self) -> Option<&DirtyMap> {
        self.part.loaded.as_ref().map(|loaded| &loaded.map)
    }

    fn write_out(&mut self, after: u64) {
        let after = MarkNumber(after);
        self.send(BitmapIn::WriteOut {
            requester: PartName::State,
            query: Query(9),
            after,
            extents: None,
        });
    }

    fn written_out(&self) -> Vec<(Result<(), i32>, bool)> {
        let only = |state: &StateIn| match state {
            StateIn::WrittenOut {
                result, uncovered, ..
            } => Some((*result, *uncovered)),
            _ => None,
        };
        self.state.iter().filter_map(only).collect()
    }

    fn loaded(&self) -> Vec<Result<u64, i32>> {
        let only = |state: &StateIn| match state {
            StateIn::BitmapLoaded { result, .. } => Some(*result),
            _ => None,
        };
        self.state.iter().filter_map(only).collect()
    }

    /// The bits that a power loss leaves.
    fn durable(&self) -> DirtyMap {
        let mut map = DirtyMap::new(SECTORS / 8);
        let first = layout().bitmap_byte() as usize;
        for page in 0..map.page_count() {
            let at = first + page as usize * PAGE_BYTES;
            map.load_page(page, &self.stable[at..at + PAGE_BYTES]).unwrap();
        }
        map
    }

    /// The part dies; its successor gets what every generation gets: the newest health file and the last snapshot.
    fn reborn(&mut self, generation: u64) {
        self.born(generation);
        if generation > 1 {
            self.change(|_| {});
        }
    }

    /// As [`Self::reborn`], but the snapshot is not there yet.
    fn born(&mut self, generation: u64) {
        self.part = BitmapPart::new(configuration(self.id), PartGeneration(generation));
        let files = Health::newest(&self.health[0], &self.health[1]).ok();
        let files = files
            .map(|loaded| (DEVICE, loaded.health.encode()))
            .into_iter()
            .collect();
        self.send(BitmapIn::HealthRead { files });
    }

    /// Power loss: what is stable remains.
    fn restart(&mut self) {
        self.cache.clone_from(&self.stable);
        self.table.clear();
        self.files.clear();
        self.flushes.clear();
        self.unflushed.clear();
        self.snapshot = attaching();
        self.reborn(1);
    }

    /// The end of the volume part's replay.
    fn replayed(&mut self, number: u64, generation: u64) {
        self.send(BitmapIn::MarksUpTo {
            number: MarkNumber(number),
            generation: PartGeneration(generation),
        });
    }

    fn newest(&self) -> Health {
        Health::newest(&self.health[0], &self.health[1]).unwrap().health
    }

    fn peer(&mut self, frame: PeerFrame) {
        self.send(BitmapIn::Peer {
            connection: LINK,
            frame,
        });
    }
}

fn message(message: Message) -> PeerFrame {
    PeerFrame {
        message,
        payload: None,
    }
}

fn record(block: u64) -> WireRecord {
    WireRecord {
        range: BlockRange::single(block),
        state: 0,
        cause: 0,
        good_at: 1,
        generation: 4,
    }
}

fn lists(own: Vec<WireRecord>, suspect: Vec<WireRecord>, tombstones: Vec<BlockRange>) -> PeerFrame {
    message(Message::BadBlocks {
        own,
        suspect,
        tombstones,
        last: true,
    })
}

/// Carries frames between two nodes until neither has something to say.
fn talk(a: &mut Node, b: &mut Node) {
    loop {
        a.run();
        b.run();
        let (from_a, from_b) = (a.frames.pop_front(), b.frames.pop_front());
        if from_a.is_none() && from_b.is_none() {
            return;
        }
        from_a.into_iter().for_each(|frame| b.peer(frame));
        from_b.into_iter().for_each(|frame| a.peer(frame));
    }
}
