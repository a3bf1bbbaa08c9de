//! The pair that workloads happen to: synced once, then copied for each state.

use crate::ready::{Disks, stopped};
use mendblock_core::configuration::OnIoError;
use mendblock_core::identity::ClientId;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::{ConnectionState, DiskState};
use mendblock_kit::device::Defect;
use mendblock_kit::history::History;
use mendblock_kit::node::{Node, configuration};
use mendblock_kit::world::World;
use mendblock_storage::units::SectorRange;

const BYTES: u64 = 16 << 20;
/// Blocks of an extent of the activity log.
pub const EXTENT_BLOCKS: u64 = 1024;
/// Slots of the activity log: fewer than the volume has extents, so that a cold extent evicts another one.
pub const HOT_EXTENTS: u64 = 3;
/// The extent that stays hot.
pub const HOT_BLOCK: u64 = 2 * EXTENT_BLOCKS + 7;
/// The block that cannot be read.
pub const BAD_BLOCK: u64 = EXTENT_BLOCKS + 300;

/// Disks and history of a pair that is synced and stopped.
#[derive(Clone)]
pub struct Base {
    disks: Disks,
    history: History,
    now: u64,
}

/// A whole block.
pub fn block(block: u64) -> SectorRange {
    SectorRange::new(block * 8, 8).expect("the range is not empty")
}

impl Base {
    /// Syncs a pair, writes some blocks, stops both in order.
    pub fn prepare() -> Self {
        let mut world = World::synced(1, BYTES, OnIoError::Detach);
        let client = world.open_client(0);
        for extent in 0..4 {
            world.write(0, client, block(extent * EXTENT_BLOCKS + 7), false);
        }
        world.write(0, client, block(BAD_BLOCK), false);
        world.flush(0, client);
        world.run_until("the blocks are written", 10_000, |world| {
            world.nodes[0].open_requests() == 0
        });
        world.close_client(0, client);
        world.settle();
        Self {
            disks: stopped(&mut world),
            history: world.history.clone(),
            now: world.now,
        }
    }

    /// Both nodes run and are connected, node 0 is Primary with a client and its log is full: extent 0 is the next to be evicted,
    /// extent 3 is cold.
    pub fn start(&self, seed: u64, policy: OnIoError, defect: Option<&Defect>) -> (World, ClientId) {
        let nodes = [0, 1].map(|node: usize| {
            let mut configuration = configuration(node, policy);
            configuration.al_extents = HOT_EXTENTS as u32;
            let mut here = Node::new(configuration, self.disks[node].0.clone());
            here.health = self.disks[node].1.clone();
            here
        });
        let mut world = World::new(seed, nodes);
        world.history = self.history.clone();
        world.now = self.now;
        world.start(0);
        world.start(1);
        world.run_until("the copied pair is connected", 60_000, World::is_connected);
        world.order_ok(0, Command::Primary { force: false });
        world.run_until("the copied pair is healthy", 60_000, World::is_healthy);
        let client = world.open_client(0);
        for extent in 0..HOT_EXTENTS {
            world.write(0, client, block(extent * EXTENT_BLOCKS + 9), false);
            world.run_until("the extent is hot", 10_000, |world| {
                world.nodes[0].open_requests() == 0
            });
        }
        world.flush(0, client);
        world.run_until("the log is full", 10_000, |world| {
            world.nodes[0].open_requests() == 0
        });
        // Nothing of this is under way any more when the workload begins.
        world.run_for(2_000);
        if let Some(defect) = defect {
            world.nodes[0].device.defect = Some(defect.clone());
        }
        (world, client)
    }
}

/// The node is connected, and its disk is good.
pub fn is_good(world: &World, node: usize) -> bool {
    world.nodes[node].up
        && world.connection_state(node) == ConnectionState::Connected
        && world.disk_state(node) == DiskState::UpToDate
}
