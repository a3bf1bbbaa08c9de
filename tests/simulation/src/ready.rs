//! A pair that is ready: the initial sync of new disks is run once, later pairs start on copies of these disks.

use mendblock_core::configuration::OnIoError;
use mendblock_core::volume::machine::Command;
use mendblock_kit::device::Device;
use mendblock_kit::health::HealthFiles;
use mendblock_kit::world::World;
use std::sync::{Mutex, PoisonError};

struct Disks {
    bytes: u64,
    disks: [(Device, HealthFiles); 2],
}

static READY: Mutex<Vec<Disks>> = Mutex::new(Vec::new());

/// Two nodes, connected, UpToDate, node 0 Primary.
#[track_caller]
pub fn ready_pair(seed: u64, bytes: u64, on_io_error: OnIoError) -> World {
    let disks = synced_disks(bytes);
    let mut world = World::pair(seed, bytes, on_io_error);
    for (node, (device, health)) in world.nodes.iter_mut().zip(disks) {
        (node.device, node.health) = (device, health);
    }
    for node in 0..2 {
        world.start(node);
    }
    world.run_until("the pair is connected", 60_000, World::is_healthy);
    world.order_ok(0, Command::Primary { force: false });
    world
}

fn synced_disks(bytes: u64) -> [(Device, HealthFiles); 2] {
    let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = ready.iter().find(|known| known.bytes == bytes) {
        return known.disks.clone();
    }
    let mut world = World::synced(1, bytes, OnIoError::Detach);
    world.order_ok(0, Command::Secondary);
    for node in 0..2 {
        world.order_ok(node, Command::Disconnect { force: false });
        world.order_ok(node, Command::Detach { force: false });
    }
    let disks = world.nodes.map(|node| (node.device, node.health));
    ready.push(Disks {
        bytes,
        disks: disks.clone(),
    });
    disks
}
