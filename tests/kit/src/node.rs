//! One node: what survives a crash (disk, health file), what a process holds, and its living parts.

use crate::bad_blocks::Ledger;
use crate::device::Device;
use crate::health::HealthFiles;
use crate::history::Value;
use mendblock_core::activity::ActivityPart;
use mendblock_core::bitmap::{BadBlocks, BitmapPart};
use mendblock_core::client::ClientPart;
use mendblock_core::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use mendblock_core::disk::{DiskPart, PortOperation, Token};
use mendblock_core::engine::{ClientRequest, VolumePart};
use mendblock_core::fact::Fact;
use mendblock_core::helper::{Handler, HelperPart};
use mendblock_core::identity::{ClientId, ErrorNumber, PartGeneration, Query, Sequence};
use mendblock_core::part::{Instant, PartName};
use mendblock_core::peer::PeerPart;
use mendblock_core::resync::ResyncPart;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{CommandAnswer, StatePart};
use mendblock_storage::format::layout::MetaIndex;
use mendblock_storage::units::SectorRange;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A part and its generation.
pub struct Slot<P> {
    /// The living part; none: dead, its successor follows.
    pub part: Option<P>,
    /// Its generation, or that of the dead.
    pub generation: PartGeneration,
    /// When it is to be woken.
    pub wake: Option<Instant>,
}

impl<P> Default for Slot<P> {
    fn default() -> Self {
        Self {
            part: None,
            generation: PartGeneration(0),
            wake: None,
        }
    }
}

/// All parts of a node.
#[derive(Default)]
pub struct Parts {
    /// `StateActor`.
    pub state: Slot<StatePart>,
    /// `DiskActor`.
    pub disk: Slot<DiskPart>,
    /// `BitmapActor`.
    pub bitmap: Slot<BitmapPart>,
    /// `ActivityLogActor`.
    pub activity: Slot<ActivityPart>,
    /// `PeerActor`.
    pub peer: Slot<PeerPart>,
    /// `VolumeActor`.
    pub volume: Slot<VolumePart>,
    /// `ResyncActor`.
    pub resync: Slot<ResyncPart>,
    /// `HelperActor`.
    pub helper: Slot<HelperPart>,
    /// Client sessions.
    pub clients: BTreeMap<ClientId, Slot<ClientPart>>,
}

/// What the client wants to know of an open request.
#[derive(Clone, Debug)]
pub struct Open {
    /// As it was sent.
    pub request: ClientRequest,
    /// When.
    pub began: u64,
    /// Value of a write.
    pub write: Option<(SectorRange, Value)>,
    /// Range of a read.
    pub read: Option<SectorRange>,
}

/// A client's port: its requests without an answer.
#[derive(Default)]
pub struct ClientPort {
    /// In order of arrival.
    pub unanswered: BTreeMap<Sequence, Open>,
    /// Number of the last request.
    pub last: u64,
    /// The client has gone.
    pub gone: bool,
}

/// An operation in the kernel.
#[derive(Debug)]
pub struct InKernel {
    /// Whose.
    pub token: Token,
    /// What.
    pub operation: PortOperation,
    /// Its disk was closed meanwhile: nobody hears of it.
    pub quarantined: bool,
    /// It would be done, but the disk hangs.
    pub held: bool,
}

impl InKernel {
    /// A read of data that a hanging disk holds.
    pub fn is_held_read(&self) -> bool {
        self.held && matches!(self.token, Token::Data(_, Some(_), false))
    }
}

/// The `Device` port's table.
#[derive(Default)]
pub struct Table {
    /// Open for I/O.
    pub open: bool,
    /// By submission.
    pub in_kernel: BTreeMap<u64, InKernel>,
    /// Failures that nobody acknowledged.
    pub failed: BTreeMap<ErrorNumber, (Token, i32)>,
    /// Number of the last failure.
    pub errors: u64,
}

/// A health file write under way.
#[derive(Clone, Debug)]
pub struct HealthWrite {
    /// Which file.
    pub device_id: u64,
    /// Which slot.
    pub slot: u8,
    /// Its number.
    pub sequence: u64,
    /// The slot.
    pub bytes: Arc<Vec<u8>>,
}

/// A node.
pub struct Node {
    /// What its parts are configured with; `process_id` is new at each start.
    pub configuration: VolumeConfiguration,
    /// Number of its process life.
    pub life: u64,
    /// How far its calendar is off, in seconds.
    pub clock_off: i64,
    /// A process runs.
    pub up: bool,
    /// The lower disk.
    pub device: Device,
    /// Bad blocks that it must not forget.
    pub ledger: Ledger,
    /// Health files.
    pub health: HealthFiles,
    /// The device's table.
    pub table: Table,
    /// The parts.
    pub parts: Parts,
    /// The last snapshot.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Bad blocks as last published.
    pub bad_blocks: Arc<BadBlocks>,
    /// A write or flush failed, or hung, since its disk was attached.
    pub write_trouble: bool,
    /// Set bits as the state part was told last.
    pub set_bits: u64,
    /// Clients.
    pub clients: BTreeMap<ClientId, ClientPort>,
    /// Last client.
    pub last_client: u64,
    /// Requests of clients, counted.
    pub arrivals: u64,
    /// Handlers: exit code and duration in ms; others are not configured.
    pub handlers: BTreeMap<Handler, (i32, u64)>,
    /// Queries of handlers that were started.
    pub started: BTreeSet<Query>,
    /// Handlers that ran.
    pub ran: Vec<Handler>,
    /// Health file writes under way.
    pub health_writes: BTreeMap<u64, HealthWrite>,
    /// Answers to commands.
    pub answers: BTreeMap<u64, CommandAnswer>,
    /// What happened.
    pub facts: Vec<(Instant, PartName, Fact)>,
}

impl Node {
    /// A node without a process.
    pub fn new(configuration: VolumeConfiguration, device: Device) -> Self {
        Self {
            configuration,
            life: 0,
            clock_off: 0,
            up: false,
            device,
            ledger: Ledger::default(),
            health: HealthFiles::default(),
            table: Table::default(),
            parts: Parts::default(),
            snapshot: None,
            bad_blocks: Arc::default(),
            write_trouble: false,
            set_bits: 0,
            clients: BTreeMap::new(),
            last_client: 0,
            arrivals: 0,
            handlers: BTreeMap::new(),
            started: BTreeSet::new(),
            ran: Vec::new(),
            health_writes: BTreeMap::new(),
            answers: BTreeMap::new(),
            facts: Vec::new(),
        }
    }

    /// Its last snapshot.
    ///
    /// # Panics
    /// When it published none.
    pub fn state(&self) -> &Snapshot {
        self.snapshot
            .as_deref()
            .expect("the state part has published a snapshot")
    }

    /// Unanswered requests of all clients.
    pub fn open_requests(&self) -> usize {
        self.clients.values().map(|client| client.unanswered.len()).sum()
    }
}

/// The configuration of node 0 or 1 of a pair.
pub fn configuration(node: usize, on_io_error: OnIoError) -> VolumeConfiguration {
    let name = |node: usize| ["alpha", "beta"][node].to_owned();
    VolumeConfiguration {
        volume: "v0".to_owned(),
        node_id: node as u8,
        node_name: name(node),
        peer_id: 1 - node as u8,
        peer_name: name(1 - node),
        process_id: 0,
        meta_index: MetaIndex::Internal,
        on_io_error,
        on_no_data: OnNoData::IoError,
        al_extents: 7,
        max_epoch_size: 64,
        peer_window: 8 << 20,
        detach_step_timeout: 10_000,
        helper_timeout: 30_000,
        reconnect_grace: 5_000,
        disk_timeout: 0,
        peer_timeout: 42_000,
        ping_interval: 10_000,
        ping_timeout: 500,
        connect_interval: 1_000,
        resync: ResyncRate {
            resync_rate: 100_000,
            plan_ahead: 0,
            delay_target: 10,
            fill_target: 100,
            max_rate: 4_000_000,
            min_rate: 250,
        },
    }
}
