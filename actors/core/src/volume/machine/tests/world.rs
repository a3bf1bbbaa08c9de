//! A scripted world around one [`StatePart`]: its neighbours' answers, each of which can be held, failed or lost, the
//! superblock and the health file as they are on stable storage, and a record of everything in the order in which it
//! happened.

mod events;
mod neighbours;

pub use events::*;

use super::super::{Command, CommandAnswer, ErrorKind, LinkFact, StateIn, StatePart};
use crate::bitmap::{HeaderChange, HealthHeader, LoadPlan};
use crate::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use crate::disk::OpenFailure;
use crate::helper::Handler;
use crate::identity::{ConnectionNumber, ErrorNumber, PartGeneration, Query, SnapshotNumber};
use crate::part::{Part, PartName};
use crate::peer::LinkWish;
use crate::snapshot::Snapshot;
use crate::volume::state::{ConnectionState, DiskState, DownReason, Role, StateVector};
use mendblock_net::wire::message::{GenerationInfo, Message, PeerState, Sizes};
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::{Flags, LogState, Superblock};
use mendblock_storage::units::SectorRange;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const DISK_BYTES: u64 = 64 << 20;
pub const DEVICE_ID: u64 = 0xD15C;
/// Generation that both disks start with.
pub const BASE: u64 = 0x1000;
pub const PEER_NEW: u64 = 0x9990;
pub const EIO: i32 = 5;
pub const ENODEV: i32 = 19;
pub const ENOSPC: i32 = 28;

/// Kinds of questions to neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Open,
    Close,
    SuperblockRead,
    SuperblockWrite,
    Health,
    Load,
    Log,
    Reset,
    WriteOut,
    SetHeader,
    Persist,
    SetAll,
    Record,
    Merge,
    Exchange,
    Quiesce,
    Fence,
    Drain,
    Helper,
    Consent,
    Told,
}

/// What becomes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answer,
    Hold,
    /// The answer says that it failed (with this errno, exit code or refusal).
    Fail(i32),
    /// The work is done, the answer is lost.
    Lose,
}

/// A question that waits for its answer.
#[derive(Clone, Debug)]
pub enum Question {
    Open(Query),
    Close,
    SuperblockRead(u64, PartGeneration),
    SuperblockWrite(u64, PartGeneration, Box<Superblock>),
    Health(Query),
    Load(Query),
    Log(Query),
    Reset(Query),
    WriteOut(Query),
    SetHeader(Query, Box<HeaderChange>),
    Persist(Query),
    SetAll(Query),
    Record(ConnectionNumber, u64),
    Merge(ConnectionNumber),
    Exchange(ConnectionNumber),
    Quiesce(Query),
    Fence(Query),
    Drain(SnapshotNumber),
    Helper(Query),
    Consent(ConnectionNumber, u64),
    Told(ConnectionNumber, u64, bool),
}

impl Question {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Open(_) => Kind::Open,
            Self::Close => Kind::Close,
            Self::SuperblockRead(..) => Kind::SuperblockRead,
            Self::SuperblockWrite(..) => Kind::SuperblockWrite,
            Self::Health(_) => Kind::Health,
            Self::Load(_) => Kind::Load,
            Self::Log(_) => Kind::Log,
            Self::Reset(_) => Kind::Reset,
            Self::WriteOut(_) => Kind::WriteOut,
            Self::SetHeader(..) => Kind::SetHeader,
            Self::Persist(_) => Kind::Persist,
            Self::SetAll(_) => Kind::SetAll,
            Self::Record(..) => Kind::Record,
            Self::Merge(_) => Kind::Merge,
            Self::Exchange(_) => Kind::Exchange,
            Self::Quiesce(_) => Kind::Quiesce,
            Self::Fence(_) => Kind::Fence,
            Self::Drain(_) => Kind::Drain,
            Self::Helper(_) => Kind::Helper,
            Self::Consent(..) => Kind::Consent,
            Self::Told(..) => Kind::Told,
        }
    }
}

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The part asked for something.
    Asked(Kind),
    /// A superblock is on stable storage.
    Superblock(Box<Superblock>),
    /// Header facts are in the health file.
    Header(Box<HeaderChange>),
    /// Changed bitmap pages are on stable storage.
    Pages,
    /// The helper was asked to run a handler.
    Handler(Handler),
    /// A message to the peer.
    Peer(Message),
    /// A snapshot went out.
    Published(Arc<Snapshot>),
    Wish(LinkWish),
    Dropped,
    Answered(u64),
    ErrorTaken,
}

/// The disk of the scripted peer, and how it answers.
#[derive(Clone, Debug)]
pub struct Peer {
    pub ids: [u64; 4],
    pub attached: bool,
    pub attach_id: u64,
    pub disk: DiskState,
    pub role: Role,
    pub sectors: u64,
    pub volume_sectors: u64,
    pub exposed: u64,
    pub set_bits: u64,
    pub own_bad: u64,
    pub peer_bad: u64,
    pub made_for_loss_of: u64,
    pub crashed_primary: bool,
    pub discard: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            ids: [BASE, 0, 0, 0],
            attached: true,
            attach_id: 77,
            disk: DiskState::UpToDate,
            role: Role::Secondary,
            sectors: layout().usable_sectors(),
            volume_sectors: layout().usable_sectors(),
            exposed: BASE,
            set_bits: 0,
            own_bad: 0,
            peer_bad: 0,
            made_for_loss_of: 0,
            crashed_primary: false,
            discard: false,
        }
    }
}

pub struct World {
    pub part: StatePart,
    pub configuration: Arc<VolumeConfiguration>,
    pub now: u64,
    random: u64,
    pub generation: u64,
    pub superblock: Superblock,
    pub health: Option<HealthHeader>,
    pub bad_blocks: u64,
    pub set_bits: u64,
    pub uncovered: bool,
    pub open_failure: Option<OpenFailure>,
    pub disk_bytes: u64,
    pub log_extents: Result<Vec<u32>, String>,
    pub peer: Peer,
    pub fates: BTreeMap<Kind, Fate>,
    pub questions: Vec<Question>,
    pub events: Vec<Event>,
    pub answers: Vec<(u64, CommandAnswer)>,
    pub plans: Vec<LoadPlan>,
    pub alerts: Vec<String>,
    pub connection: u64,
    pub errors: u64,
    commands: u64,
    drain_asked: Option<(u64, bool)>,
    /// The peer has a disk that may take a generation for the loss of this one.
    pub told_generation: bool,
}

pub fn layout() -> MetadataLayout {
    MetadataLayout::compute(
        MetaIndex::Internal,
        DeviceSizes::internal(DISK_BYTES),
        LogGeometry::new(1, 8).unwrap(),
    )
    .unwrap()
}

pub fn good_flags() -> Flags {
    Flags::none()
        .with(Flags::CONSISTENT)
        .with(Flags::WAS_UP_TO_DATE)
        .with(Flags::AL_CLEAN)
}

pub fn superblock(flags: Flags, ids: [u64; 4]) -> Superblock {
    let mut block = Superblock::create(&layout());
    block.flags = flags;
    if !flags.contains(Flags::AL_CLEAN) {
        block.log_state = LogState::Unclean;
    }
    block.generations = mendblock_storage::format::superblock::GenerationIds::from_slots(ids);
    block.device_id = DEVICE_ID;
    block.effective_sectors = layout().usable_sectors();
    block
}

fn configuration(policy: OnIoError) -> VolumeConfiguration {
    VolumeConfiguration {
        volume: "v".to_owned(),
        node_id: 0,
        node_name: "a".to_owned(),
        peer_id: 1,
        peer_name: "b".to_owned(),
        process_id: 1,
        meta_index: MetaIndex::Internal,
        on_io_error: policy,
        on_no_data: OnNoData::IoError,
        al_extents: 61,
        max_epoch_size: 2048,
        peer_window: 8 << 20,
        detach_step_timeout: 10_000,
        helper_timeout: 30_000,
        reconnect_grace: 5000,
        disk_timeout: 60_000,
        peer_timeout: 30_000,
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
    }
}

impl World {
    pub fn new(policy: OnIoError) -> Self {
        Self::configured(configuration(policy))
    }

    fn configured(configuration: VolumeConfiguration) -> Self {
        let configuration = Arc::new(configuration);
        let mut world = Self {
            part: StatePart::new(Arc::clone(&configuration)),
            configuration,
            now: 1_000_000_000,
            random: 0x5000_0000_0000_0001,
            generation: 1,
            superblock: superblock(good_flags(), [BASE, 0, 0, 0]),
            health: None,
            bad_blocks: 0,
            set_bits: 0,
            uncovered: false,
            open_failure: None,
            disk_bytes: DISK_BYTES,
            log_extents: Ok(Vec::new()),
            peer: Peer::default(),
            fates: BTreeMap::new(),
            questions: Vec::new(),
            events: Vec::new(),
            answers: Vec::new(),
            plans: Vec::new(),
            alerts: Vec::new(),
            connection: 0,
            errors: 0,
            commands: 0,
            drain_asked: None,
            told_generation: true,
        };
        world.step(|part, cx, out| part.start(cx, out));
        world
    }

    // Setting up.

    /// Secondary with an attached disk, alone.
    pub fn attached(policy: OnIoError) -> Self {
        Self::new(policy).attach()
    }

    pub fn attach(mut self) -> Self {
        self.settle();
        let id = self.command(Command::Attach { new_disk: false });
        self.settle();
        assert_eq!(self.answer(id).exit_code, 0, "{:?}", self.answer(id));
        self
    }

    /// Connected to the peer, both Secondary.
    pub fn connected(policy: OnIoError) -> Self {
        Self::attached(policy).connect()
    }

    pub fn connect(mut self) -> Self {
        self.command(Command::Connect {
            discard_my_data: false,
        });
        self.settle();
        self.link_up();
        self.settle();
        self
    }

    /// PC: Primary, connected, peer UpToDate.
    pub fn primary_connected(policy: OnIoError) -> Self {
        Self::connected(policy).promote()
    }

    /// PD: Primary, no good copy reachable.
    pub fn primary_alone(policy: OnIoError) -> Self {
        Self::attached(policy).promote()
    }

    pub fn promote(mut self) -> Self {
        let id = self.command(Command::Primary { force: false });
        self.settle();
        assert_eq!(self.answer(id).exit_code, 0, "{:?}", self.answer(id));
        assert_eq!(self.vector().role, Role::Primary);
        self
    }

    // Acting.

    pub fn command(&mut self, command: Command) -> u64 {
        self.commands += 1;
        let id = self.commands;
        self.send(StateIn::Command { id, command });
        id
    }

    pub fn link_up(&mut self) {
        self.connection += 1;
        let connection = ConnectionNumber(self.connection);
        self.send(StateIn::Link(LinkFact::Up {
            connection,
            resolver: true,
            features: 0,
            peer_process: 1,
        }));
        if self.vector().connection == ConnectionState::WFReportParams {
            self.peer_parameters();
        }
    }

    /// The peer's sizes, lists, generations and state.
    pub fn peer_parameters(&mut self) {
        let peer = self.peer.clone();
        self.hear(Message::Sizes(Sizes {
            disk_sectors: if peer.attached { peer.sectors } else { 0 },
            volume_sectors: peer.volume_sectors,
            logical_block: 512,
        }));
        self.questions
            .push(Question::Merge(ConnectionNumber(self.connection)));
        self.peer_generations();
        self.peer_state();
    }

    pub fn peer_generations(&mut self) {
        let peer = self.peer.clone();
        self.hear(Message::Generations(GenerationInfo {
            current: peer.ids[0],
            bitmap: peer.ids[1],
            history: [peer.ids[2], peer.ids[3]],
            set_bits: peer.set_bits,
            discard_my_data: peer.discard,
            crashed_primary: peer.crashed_primary,
            will_be_inconsistent: false,
            skip_initial_sync: false,
            attached: peer.attached,
            attach_id: peer.attach_id,
            exposed: peer.exposed,
            made_for_loss_of: peer.made_for_loss_of,
            not_primary_since: true,
        }));
    }

    pub fn peer_state(&mut self) {
        self.peer_state_in(ConnectionState::Connected);
    }

    pub fn peer_state_in(&mut self, connection: ConnectionState) {
        let peer = self.peer.clone();
        self.hear(Message::State(PeerState {
            number: 1,
            role: peer.role.number(),
            connection: connection.number(),
            disk: peer.disk.number(),
            peer_disk: self.vector().disk.number(),
            suspended: false,
            paused: false,
        }));
    }

    pub fn hear(&mut self, message: Message) {
        let connection = ConnectionNumber(self.connection);
        self.send(StateIn::Peer { connection, message });
    }

    pub fn link_down(&mut self) {
        let connection = ConnectionNumber(self.connection);
        self.questions.retain(|question| {
            !matches!(
                question.kind(),
                Kind::Told | Kind::Consent | Kind::Merge | Kind::Exchange | Kind::Record
            )
        });
        self.send(StateIn::Link(LinkFact::Down {
            connection,
            reason: DownReason::BrokenPipe,
            text: "cut".to_owned(),
        }));
    }

    pub fn io_error(&mut self, kind: ErrorKind, block: u64, errno: i32) {
        self.errors += 1;
        let range = match kind {
            ErrorKind::Read | ErrorKind::Write => SectorRange::new(block * 8, 8),
            ErrorKind::Flush | ErrorKind::Meta => None,
        };
        self.send(StateIn::IoError {
            number: ErrorNumber(self.errors),
            kind,
            range,
            errno,
        });
    }

    pub fn read_error(&mut self, block: u64) {
        self.io_error(ErrorKind::Read, block, EIO);
    }

    pub fn fate(&mut self, kind: Kind, fate: Fate) {
        self.fates.insert(kind, fate);
    }

    /// All questions of a kind may be answered again.
    pub fn release(&mut self, kind: Kind) {
        self.fates.remove(&kind);
        self.settle();
    }

    /// Answers everything that may be answered, until nothing is left. The clock stands still.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let next = self.questions.iter().position(|question| {
                self.fates.get(&question.kind()).copied().unwrap_or(Fate::Answer) != Fate::Hold
            });
            let Some(at) = next else { return };
            let question = self.questions.remove(at);
            let fate = self.fates.get(&question.kind()).copied().unwrap_or(Fate::Answer);
            self.settle_one(question, fate);
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass up to `milliseconds`, waking the part whenever it asks for it.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now + milliseconds * 1_000_000;
        for _ in 0..10_000 {
            self.settle();
            match self.part.wake_at().filter(|at| at.0 <= end) {
                Some(at) => {
                    self.now = self.now.max(at.0);
                    self.step(|part, cx, out| part.wake(cx, out));
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!(
            "the part wakes again and again without an end: {:?}",
            self.snapshot().waits
        );
    }

    pub fn wake_at(&self) -> Option<u64> {
        self.part.wake_at().map(|at| at.0)
    }

    /// The clock of the part strikes.
    pub fn wake(&mut self, at: u64) {
        self.now = self.now.max(at);
        self.step(|part, cx, out| part.wake(cx, out));
    }

    /// The state part dies; a new one goes on from the last snapshot.
    pub fn restart_state(&mut self) {
        self.generation += 1;
        let last = Arc::clone(self.part.snapshot());
        self.part = StatePart::resume(
            Arc::clone(&self.configuration),
            PartGeneration(self.generation),
            last,
        );
        // The volume part reports an ended drain again to a new state part.
        self.drain_asked = None;
        self.step(|part, cx, out| part.start(cx, out));
        let last = Arc::clone(self.part.snapshot());
        self.watch_drain(&last);
    }

    /// A neighbour dies with everything that it was asked for and had not done.
    pub fn restart(&mut self, part: PartName, kinds: &[Kind]) {
        self.questions
            .retain(|question| !kinds.contains(&question.kind()));
        self.send(StateIn::Restarted {
            part,
            generation: PartGeneration(9),
        });
    }

    pub fn send(&mut self, message: StateIn) {
        self.step(|part, cx, out| part.on(cx, message, out));
    }

    // Looking.

    pub fn snapshot(&self) -> &Snapshot {
        self.part.snapshot()
    }

    pub fn vector(&self) -> StateVector {
        self.snapshot().vector
    }

    pub fn answer(&self, id: u64) -> &CommandAnswer {
        let answers: Vec<_> = self.answers.iter().filter(|(of, _)| *of == id).collect();
        assert_eq!(
            answers.len(),
            1,
            "command {id} was answered {} times",
            answers.len()
        );
        &answers[0].1
    }

    pub fn is_answered(&self, id: u64) -> bool {
        self.answers.iter().any(|(of, _)| *of == id)
    }

    /// Position of the first event from `from` on that fits.
    pub fn at(&self, from: usize, fits: impl Fn(&Event) -> bool) -> usize {
        self.find(from, fits)
            .unwrap_or_else(|| panic!("no such event in {:#?}", self.kinds(from)))
    }

    pub fn find(&self, from: usize, fits: impl Fn(&Event) -> bool) -> Option<usize> {
        self.events
            .iter()
            .skip(from)
            .position(fits)
            .map(|position| position + from)
    }

    pub fn count(&self, from: usize, fits: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().skip(from).filter(|event| fits(event)).count()
    }

    fn kinds(&self, from: usize) -> Vec<String> {
        self.events
            .iter()
            .skip(from)
            .map(|event| match event {
                Event::Published(snapshot) => format!("published {:?}", snapshot.vector),
                other => format!("{other:?}"),
            })
            .collect()
    }

    pub fn mark(&self) -> usize {
        self.events.len()
    }

    pub fn asked(&self, kind: Kind) -> bool {
        self.questions.iter().any(|question| question.kind() == kind)
    }
}
