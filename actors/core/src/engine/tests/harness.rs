//! One volume part and, by hand, its neighbours.

use crate::activity::ActivityIn;
use crate::bitmap::{BadBlocks, BitmapIn, Mark, MarkOutcome, MarkReason};
use crate::client::ClientIn;
use crate::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use crate::disk::{DataCompletion, DataKind, DataOperation, DiskIn};
use crate::engine::{ClientAnswer, ClientRequest, ClientRequestKind, VolumeIn, VolumePart};
use crate::identity::{
    Arrival, AttachId, ClientId, ConnectionNumber, ErrorNumber, MarkNumber, OperationId, PartGeneration,
    Query, Sequence, SnapshotNumber, TellNumber,
};
use crate::part::{Context, Instant, Outbox, Part, To};
use crate::peer::{PeerFrame, PeerIn};
use crate::resync::{JobEnd, ResyncIn};
use crate::snapshot::{Admission, DiskFacts, Reasons, Snapshot};
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, DiskState, Role, StateVector};
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::Superblock;
use mendblock_storage::hot::{Begin, HotSet};
use mendblock_storage::units::{BlockRange, SectorRange};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const LINK: ConnectionNumber = ConnectionNumber(1);
pub const CLIENT: ClientId = ClientId(1);

pub fn sectors(first: u64, count: u32) -> SectorRange {
    SectorRange::new(first, count).unwrap()
}

pub fn blocks(first: u64, count: u32) -> BlockRange {
    BlockRange::new(first, count).unwrap()
}

pub fn bytes(range: SectorRange, fill: u8) -> Buffer {
    Buffer::from_vec(vec![fill; range.byte_length() as usize])
}

pub fn configuration() -> VolumeConfiguration {
    VolumeConfiguration {
        volume: "v".into(),
        node_id: 0,
        node_name: "alice".into(),
        peer_id: 1,
        peer_name: "bob".into(),
        process_id: 1,
        meta_index: MetaIndex::Internal,
        on_io_error: OnIoError::Detach,
        on_no_data: OnNoData::IoError,
        al_extents: 7,
        max_epoch_size: 100,
        peer_window: 1 << 20,
        detach_step_timeout: 10_000,
        helper_timeout: 30_000,
        reconnect_grace: 5000,
        disk_timeout: 0,
        peer_timeout: 0,
        ping_interval: 10_000,
        ping_timeout: 500,
        connect_interval: 10_000,
        resync: ResyncRate {
            resync_rate: 0,
            plan_ahead: 0,
            delay_target: 0,
            fill_target: 0,
            max_rate: 0,
            min_rate: 0,
        },
    }
}

/// An attached disk.
pub fn disk() -> DiskFacts {
    let sizes = DeviceSizes::internal(1 << 30);
    let layout = MetadataLayout::compute(MetaIndex::Internal, sizes, LogGeometry::default()).unwrap();
    DiskFacts {
        attach_id: AttachId(1),
        data_sectors: layout.usable_sectors(),
        logical_block: 512,
        device_id: 1,
        backend: "test",
        superblock: Superblock::create(&layout),
        layout,
    }
}

/// Primary with an UpToDate disk, no peer.
pub fn alone() -> Snapshot {
    Snapshot {
        number: SnapshotNumber(1),
        vector: StateVector {
            role: Role::Primary,
            connection: ConnectionState::WFConnection,
            disk: DiskState::UpToDate,
            peer_disk: DiskState::DUnknown,
            ..StateVector::START
        },
        disk: Some(disk()),
        volume_sectors: 1 << 20,
        connection: None,
        writes: Admission::Open,
        reads: Admission::Open,
        alone_settled: true,
        own_loss_settled: true,
        errors_seen: ErrorNumber(u64::MAX),
        errors_settled: ErrorNumber(0),
        peer_loss_settled: true,
        tell: TellNumber(0),
        drain: None,
        mirror: false,
        link_lost_at: None,
        identifiers: Identifiers::default(),
        exposed: Generation::default(),
        source_open: None,
        crashed_primary: false,
        reasons: Reasons::default(),
        waits: Vec::new(),
    }
}

/// Primary, connected, both UpToDate.
pub fn connected() -> Snapshot {
    let mut snapshot = alone();
    snapshot.vector.connection = ConnectionState::Connected;
    snapshot.vector.peer_disk = DiskState::UpToDate;
    snapshot.vector.peer_role = Role::Secondary;
    snapshot.connection = Some(LINK);
    snapshot.mirror = true;
    snapshot
}

pub struct Harness {
    pub part: VolumePart,
    pub snapshot: Snapshot,
    pub now: Instant,
    hot: HotSet,
    /// Extents are granted as soon as they are asked for.
    pub grant_at_once: bool,
    pub asked: Vec<u32>,
    pub operations: BTreeMap<OperationId, DataKind>,
    pub frames: Vec<PeerFrame>,
    pub afters: Vec<TellNumber>,
    pub marks: BTreeMap<MarkNumber, Mark>,
    pub marked: Vec<Mark>,
    pub bitmap: Vec<BitmapIn>,
    pub answers: Vec<(ClientId, ClientAnswer)>,
    /// Number of the revoke, extents given back, extents not held.
    pub released: Vec<(u64, Vec<u32>, Vec<u32>)>,
    pub state: Vec<StateIn>,
    pub disk: Vec<DiskIn>,
    pub peer: Vec<PeerIn>,
    pub jobs: Vec<(u64, JobEnd)>,
    /// Questions for the extents that are in the log.
    pub hot_queries: Vec<Query>,
    /// Questions for news of the state part; answered at once unless they are held.
    pub questions: Vec<Query>,
    pub hold_news: bool,
    errors: u64,
    arrivals: u64,
}

impl Harness {
    pub fn new(snapshot: Snapshot) -> Self {
        Self::of_generation(1, Some(snapshot))
    }

    pub fn of_generation(generation: u64, snapshot: Option<Snapshot>) -> Self {
        let part = VolumePart::new(Arc::new(configuration()), PartGeneration(generation));
        let mut harness = Self {
            part,
            snapshot: snapshot.clone().unwrap_or_else(alone),
            now: Instant(0),
            hot: HotSet::new(1024),
            grant_at_once: true,
            asked: Vec::new(),
            operations: BTreeMap::new(),
            frames: Vec::new(),
            afters: Vec::new(),
            marks: BTreeMap::new(),
            marked: Vec::new(),
            bitmap: Vec::new(),
            answers: Vec::new(),
            released: Vec::new(),
            state: Vec::new(),
            disk: Vec::new(),
            peer: Vec::new(),
            jobs: Vec::new(),
            hot_queries: Vec::new(),
            questions: Vec::new(),
            hold_news: false,
            errors: 0,
            arrivals: 0,
        };
        if snapshot.is_some() {
            harness.publish(|_| {});
        }
        harness
    }

    pub fn send(&mut self, message: VolumeIn) {
        let mut out = Outbox::default();
        let mut random = || 1;
        let mut cx = Context {
            now: self.now,
            wall: 0,
            random: &mut random,
        };
        self.part.on(&mut cx, message, &mut out);
        self.take(out);
    }

    /// The first step of the generation.
    pub fn start(&mut self) {
        let mut out = Outbox::default();
        let mut random = || 1;
        let mut cx = Context {
            now: self.now,
            wall: 0,
            random: &mut random,
        };
        self.part.start(&mut cx, &mut out);
        self.take(out);
    }

    /// The state part and the bitmap part have no later snapshot than the last one that was published.
    pub fn answer_news(&mut self, query: Query) {
        let snapshot = self.snapshot.number;
        self.send(VolumeIn::News { query, snapshot });
    }

    pub fn wake(&mut self, now: Instant) {
        self.now = now;
        let mut out = Outbox::default();
        let mut random = || 1;
        let mut cx = Context {
            now,
            wall: 0,
            random: &mut random,
        };
        self.part.wake(&mut cx, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Outbox<crate::engine::VolumeEffect>) {
        let mut asked = Vec::new();
        for message in out.messages {
            match message {
                To::State(StateIn::AskNews { query }) => self.questions.push(query),
                To::Bitmap(BitmapIn::Mark(marks)) => {
                    for mark in marks {
                        self.marked.push(mark.clone());
                        self.marks.insert(mark.number, mark);
                    }
                }
                To::Bitmap(other) => self.bitmap.push(other),
                To::Peer(PeerIn::Send { frames, after, .. }) => {
                    self.frames.extend(frames);
                    self.afters.push(after);
                }
                To::Peer(other) => self.peer.push(other),
                To::Disk(DiskIn::Data(operations)) => {
                    for DataOperation { id, kind } in operations {
                        assert!(self.operations.insert(id, kind).is_none(), "submitted twice");
                    }
                }
                To::Disk(other) => self.disk.push(other),
                To::ActivityLog(ActivityIn::Activate { extents, .. }) => asked.extend(extents),
                To::ActivityLog(ActivityIn::Released {
                    number,
                    grants,
                    not_held,
                }) => {
                    self.released.push((
                        number,
                        grants.iter().map(|grant| grant.extent()).collect(),
                        not_held,
                    ));
                    for grant in grants {
                        assert!(self.hot.release(grant));
                    }
                }
                To::ActivityLog(ActivityIn::ListHot { query }) => self.hot_queries.push(query),
                To::ActivityLog(ActivityIn::Touched(_)) => {}
                To::Client(client, ClientIn::Answers(answers)) => {
                    self.answers
                        .extend(answers.into_iter().map(|answer| (client, answer)));
                }
                To::State(message) => self.state.push(message),
                To::Resync(ResyncIn::Done { job, end }) => self.jobs.push((job, end)),
                other => panic!("unexpected {other:?}"),
            }
        }
        if !self.hold_news {
            for query in std::mem::take(&mut self.questions) {
                self.answer_news(query);
            }
        }
        if self.grant_at_once && !asked.is_empty() {
            self.grant(&asked);
        } else {
            self.asked.extend(asked);
        }
    }

    pub fn grant(&mut self, extents: &[u32]) {
        if let Begin::Plan(plan) = self.hot.begin(extents) {
            self.hot.commit(plan);
        }
        let grants = extents
            .iter()
            .map(|extent| self.hot.grant(*extent, 1).expect("hot and free"))
            .collect();
        self.send(VolumeIn::Granted { grants });
    }

    pub fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        let number = self.snapshot.number.next();
        change(&mut self.snapshot);
        self.snapshot.number = number;
        if self.snapshot.disk.is_none() {
            // Its log went with it.
            self.hot = HotSet::new(1024);
        }
        let snapshot = Arc::new(self.snapshot.clone());
        self.send(VolumeIn::Snapshot(snapshot));
    }

    pub fn request(&mut self, sequence: u64, kind: ClientRequestKind) {
        self.arrivals += 1;
        let arrival = Arrival(self.arrivals);
        let requests = vec![ClientRequest {
            sequence: Sequence(sequence),
            arrival,
            kind,
        }];
        self.send(VolumeIn::Requests {
            client: CLIENT,
            requests,
        });
    }

    pub fn write(&mut self, sequence: u64, range: SectorRange) {
        let buffer = bytes(range, sequence as u8);
        self.request(
            sequence,
            ClientRequestKind::Write {
                range,
                buffer,
                fua: false,
            },
        );
    }

    pub fn read(&mut self, sequence: u64, range: SectorRange) {
        self.request(sequence, ClientRequestKind::Read { range });
    }

    pub fn flush(&mut self, sequence: u64) {
        self.request(sequence, ClientRequestKind::Flush);
    }

    pub fn confirm(&mut self, sequence: u64) {
        self.send(VolumeIn::Confirm {
            client: CLIENT,
            sequences: vec![Sequence(sequence)],
        });
    }

    /// The oldest operation in flight.
    pub fn oldest(&self) -> OperationId {
        *self.operations.keys().next().expect("an operation is in flight")
    }

    pub fn complete(&mut self, id: OperationId) {
        let kind = self.operations.remove(&id).expect("in flight");
        let data = match kind {
            DataKind::Read { range } => Some(bytes(range, 77)),
            _ => None,
        };
        self.send(VolumeIn::Completed(vec![DataCompletion { id, result: Ok(data) }]));
    }

    pub fn complete_with(&mut self, id: OperationId, data: Buffer) {
        self.operations.remove(&id).expect("in flight");
        self.send(VolumeIn::Completed(vec![DataCompletion {
            id,
            result: Ok(Some(data)),
        }]));
    }

    pub fn fail(&mut self, id: OperationId) -> ErrorNumber {
        self.operations.remove(&id).expect("in flight");
        self.errors += 1;
        let number = ErrorNumber(self.errors);
        self.send(VolumeIn::Completed(vec![DataCompletion {
            id,
            result: Err((number, 5)),
        }]));
        number
    }

    /// The disk part has no disk for it any more.
    pub fn refuse(&mut self, id: OperationId) {
        self.operations.remove(&id).expect("in flight");
        self.send(VolumeIn::Completed(vec![DataCompletion {
            id,
            result: Err((ErrorNumber(0), 19)),
        }]));
    }

    pub fn complete_all(&mut self) {
        while let Some(id) = self.operations.keys().next().copied() {
            self.complete(id);
        }
    }

    pub fn acknowledge_marks(&mut self) {
        while let Some((number, _)) = self.marks.pop_first() {
            self.send(VolumeIn::Marked {
                number,
                outcome: MarkOutcome::Durable,
            });
        }
    }

    pub fn hear(&mut self, message: Message) {
        self.hear_with(message, None);
    }

    pub fn hear_with(&mut self, message: Message, payload: Option<Buffer>) {
        let connection = self.snapshot.connection.unwrap_or(LINK);
        self.send(VolumeIn::Peer {
            connection,
            frames: vec![PeerFrame { message, payload }],
        });
    }

    /// Number of the last mirrored write or read request sent.
    pub fn last_request(&self) -> u64 {
        self.frames
            .iter()
            .rev()
            .find_map(|frame| match frame.message {
                Message::Write { request, .. }
                | Message::WriteZeroes { request, .. }
                | Message::Read { request, .. }
                | Message::ResyncRead { request, .. } => Some(request),
                _ => None,
            })
            .expect("a request was sent")
    }

    pub fn last_barrier(&self) -> Option<(u64, u32)> {
        self.frames.iter().rev().find_map(|frame| match frame.message {
            Message::Barrier { epoch, writes } => Some((epoch, writes)),
            _ => None,
        })
    }

    pub fn sent(&self, is: impl Fn(&Message) -> bool) -> usize {
        self.frames.iter().filter(|frame| is(&frame.message)).count()
    }

    /// How a request was answered: errno, or none for good; panics if not exactly once.
    pub fn answered(&self, sequence: u64) -> Option<i32> {
        let all: Vec<_> = self
            .answers
            .iter()
            .filter(|(_, answer)| answer.sequence == Sequence(sequence))
            .collect();
        assert_eq!(all.len(), 1, "request {sequence} is answered once");
        all[0].1.result.as_ref().err().copied()
    }

    pub fn unanswered(&self, sequence: u64) -> bool {
        !self
            .answers
            .iter()
            .any(|(_, answer)| answer.sequence == Sequence(sequence))
    }

    pub fn marked_for(&self, reason: MarkReason) -> Vec<BlockRange> {
        self.marked
            .iter()
            .filter(|mark| mark.reason == reason)
            .flat_map(|mark| mark.ranges.clone())
            .collect()
    }

    pub fn bad(&mut self, own: Vec<BlockRange>, peer: Vec<BlockRange>) {
        self.send(VolumeIn::BadBlocks(Arc::new(BadBlocks { own, peer })));
    }

    pub fn lose_link(&mut self) {
        let connection = self.snapshot.connection.expect("connected");
        self.send(VolumeIn::Lost { connection });
        let now = self.now;
        self.publish(|snapshot| {
            snapshot.connection = None;
            snapshot.mirror = false;
            snapshot.vector.connection = ConnectionState::WFConnection;
            snapshot.vector.peer_disk = DiskState::DUnknown;
            snapshot.link_lost_at = Some(now);
        });
    }

    pub fn table_query(&self) -> Query {
        self.disk
            .iter()
            .rev()
            .find_map(|message| match message {
                DiskIn::QueryTable { query, .. } => Some(*query),
                _ => None,
            })
            .expect("the table was asked for")
    }
}
