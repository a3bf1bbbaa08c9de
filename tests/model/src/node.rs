//! One node: the real state part, and what its small neighbours remember.

use crate::fingerprint::Fingerprint;
use crate::ledger::{BLOCKS, Held};
use mendblock_core::bitmap::HealthHeader;
use mendblock_core::configuration::{OnIoError, OnNoData, ResyncRate, VolumeConfiguration};
use mendblock_core::identity::{ConnectionNumber, Query};
use mendblock_core::peer::LinkWish;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{Command, StatePart};
use mendblock_core::volume::state::{DiskState, StateVector};
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::{Flags, GenerationIds, Superblock};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Size of a lower disk; only the meta-data's layout depends on it.
pub const DISK_BYTES: u64 = 16 << 20;
/// All blocks of the volume.
pub const ALL: u8 = (1 << BLOCKS) - 1;

/// Where data and meta-data lie on both disks.
pub fn layout() -> MetadataLayout {
    let log = LogGeometry::new(1, 8).expect("a small log");
    MetadataLayout::compute(MetaIndex::Internal, DeviceSizes::internal(DISK_BYTES), log)
        .expect("the disk is large enough")
}

/// What survives a crash.
#[derive(Clone, Hash)]
pub struct Platters {
    /// The superblock.
    pub superblock: Superblock,
    /// The health file.
    pub health: Option<HealthHeader>,
    /// The bitmap.
    pub bits: u8,
    /// The own list of bad blocks.
    pub bad: u8,
    /// Blocks that are bad at the peer.
    pub suspect: u8,
    /// Hot blocks of the activity log.
    pub log: u8,
    /// Versions of the blocks.
    pub data: [u8; BLOCKS],
}

impl Platters {
    /// A disk that was in sync at this generation.
    pub fn synced(current: u64, device: u64) -> Self {
        let mut superblock = Superblock::create(&layout());
        superblock.flags = Flags::none()
            .with(Flags::CONSISTENT)
            .with(Flags::WAS_UP_TO_DATE)
            .with(Flags::AL_CLEAN);
        superblock.generations = GenerationIds::from_slots([current, 0, 0, 0]);
        superblock.device_id = device;
        superblock.effective_sectors = layout().usable_sectors();
        Self {
            superblock,
            health: None,
            bits: 0,
            bad: 0,
            suspect: 0,
            log: 0,
            data: [0; BLOCKS],
        }
    }

    /// For the ledger.
    pub fn held(&self) -> Held {
        Held {
            data: self.data,
            bad: self.bad,
        }
    }
}

/// A superblock that is on its way to the disk.
#[derive(Clone, Hash)]
pub struct Store {
    /// Number of the state part.
    pub number: u64,
    /// What will be there.
    pub superblock: Box<Superblock>,
}

/// The peer's share of a client's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Net {
    /// It is not sent.
    None,
    /// Sent.
    Pending(ConnectionNumber),
    /// The peer has it.
    Done,
    /// The peer could not write it.
    Failed,
    /// The connection was lost before the answer.
    Lost(ConnectionNumber),
}

/// A client's write that is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Which block.
    pub block: usize,
    /// Which version.
    pub version: u8,
    /// The own disk has it.
    pub local: bool,
    /// The peer.
    pub net: Net,
}

/// What the volume part would remember.
#[derive(Clone, Default, Hash)]
pub struct Volume {
    /// A client's write.
    pub pending: Option<Pending>,
    /// The peer's writes that wait until the state allows them: block and version.
    pub parked: VecDeque<(usize, u8)>,
    /// The peer said that its disk failed.
    pub sender_diskless: bool,
    /// "Answer when all writes are retired."
    pub quiesce: Vec<Query>,
    /// The disk's life whose drain was answered.
    pub drained: Option<u64>,
}

/// What the bitmap part would remember of an exchange.
#[derive(Clone, Default, Hash)]
pub struct Exchange {
    /// It was ordered: on which connection, and whether as source.
    pub ordered: Option<(ConnectionNumber, bool)>,
    /// The peer's map.
    pub received: Option<u8>,
}

/// Lists of bad blocks of this connection that have no counterpart yet.
#[derive(Clone, Default, Hash)]
pub struct Lists {
    /// Sent.
    pub sent: VecDeque<u8>,
    /// The peer's.
    pub received: VecDeque<u8>,
}

/// A comparison of generations that this node has made, for the comparison with the other one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// On which connection.
    pub connection: u64,
    /// Number of the comparison there.
    pub round: u8,
    /// DRBD's number of the rule.
    pub rule: u8,
    /// Connected, source, target, or refused.
    pub next: char,
}

/// One node.
#[derive(Clone)]
pub struct Node {
    /// The real part.
    pub part: StatePart,
    /// The last snapshot that the neighbours saw.
    pub seen: Arc<Snapshot>,
    /// Disk and health file.
    pub platters: Platters,
    /// The bitmap in memory; none: no disk.
    pub bits: Option<u8>,
    /// Superblocks on their way.
    pub stores: VecDeque<Store>,
    /// The device is closed when they have ended.
    pub closing: bool,
    /// What is wanted of the connection.
    pub wish: LinkWish,
    /// See there.
    pub volume: Volume,
    /// See there.
    pub exchange: Exchange,
    /// See there.
    pub lists: Lists,
    /// Target: blocks that are still to be copied.
    pub copying: Option<u8>,
    /// Blocks that could not be copied.
    pub lost: u8,
    /// Commands that are not answered.
    pub commands: Vec<(u64, Command)>,
    /// The attach of the node's start: the connection follows it.
    pub bring_up: Option<u64>,
    /// Errors of the lower disk so far.
    pub errors: u64,
    /// The last comparison.
    pub answer: Option<Answer>,
    /// It became Primary while it could not talk to the peer: it works on a branch of its own.
    pub promoted_apart: bool,
}

impl Node {
    /// A process that has just started.
    pub fn start(configuration: &Arc<VolumeConfiguration>, platters: Platters) -> Self {
        let part = StatePart::new(Arc::clone(configuration));
        Self {
            seen: Arc::clone(part.snapshot()),
            part,
            platters,
            bits: None,
            stores: VecDeque::new(),
            closing: false,
            wish: LinkWish::Down,
            volume: Volume::default(),
            exchange: Exchange::default(),
            lists: Lists::default(),
            copying: None,
            lost: 0,
            commands: Vec::new(),
            bring_up: None,
            errors: 0,
            answer: None,
            promoted_apart: false,
        }
    }

    /// The state that the neighbours know.
    pub fn vector(&self) -> &StateVector {
        &self.seen.vector
    }

    /// The disk takes data.
    pub fn disk_usable(&self) -> bool {
        self.seen.disk.is_some() && self.vector().disk.is_usable()
    }

    /// Reads may come from here.
    pub fn up_to_date(&self) -> bool {
        self.vector().disk == DiskState::UpToDate
    }

    /// A block is out of sync, in memory.
    pub fn mark(&mut self, block: usize) {
        if let Some(bits) = self.bits.as_mut() {
            *bits |= 1 << block;
        }
    }

    /// As [`Self::mark`], durably.
    pub fn mark_durably(&mut self, blocks: u8) {
        if let Some(bits) = self.bits.as_mut() {
            *bits |= blocks;
            self.platters.bits |= blocks;
        }
    }

    /// Everything that decides what the node does next.
    pub fn fingerprint(&self, hasher: &mut Fingerprint) {
        self.part.hash(hasher);
        self.platters.hash(hasher);
        self.stores.hash(hasher);
        self.volume.hash(hasher);
        self.exchange.hash(hasher);
        self.lists.hash(hasher);
        (self.bits, self.closing, self.wish, self.copying, self.lost).hash(hasher);
        (self.commands.len(), self.bring_up.is_some(), self.errors).hash(hasher);
        self.promoted_apart.hash(hasher);
        if let Some(answer) = self.answer {
            hasher.write_u64(answer.connection);
            (answer.round, answer.rule, answer.next).hash(hasher);
        }
    }
}

/// Short limits: nothing is slow here, and waiting costs states.
pub fn configuration(node: u8, policy: OnIoError) -> Arc<VolumeConfiguration> {
    let names = ["a", "b"];
    let peer = 1 - node;
    Arc::new(VolumeConfiguration {
        volume: "v".to_owned(),
        node_id: node,
        node_name: names[usize::from(node)].to_owned(),
        peer_id: peer,
        peer_name: names[usize::from(peer)].to_owned(),
        process_id: 1,
        meta_index: MetaIndex::Internal,
        on_io_error: policy,
        on_no_data: OnNoData::IoError,
        al_extents: 61,
        max_epoch_size: 2048,
        peer_window: 8 << 20,
        detach_step_timeout: 300,
        helper_timeout: 300,
        reconnect_grace: 0,
        disk_timeout: 0,
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
    })
}
