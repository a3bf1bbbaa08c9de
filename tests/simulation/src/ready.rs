//! A pair that is ready: the initial sync of new disks is run once, later pairs start on copies of these disks.

use crate::storm::plan::{DISK_BYTES, LARGE_DISK_BYTES};
use mendblock_core::configuration::OnIoError;
use mendblock_core::planted::without_planted;
use mendblock_core::volume::machine::Command;
use mendblock_kit::device::Device;
use mendblock_kit::health::HealthFiles;
use mendblock_kit::world::World;
use std::sync::OnceLock;

/// What a pair that is stopped leaves, by node.
pub type Disks = [(Device, HealthFiles); 2];

/// Two nodes with disks of [`DISK_BYTES`], or large ones, connected, UpToDate, node 0 Primary.
#[track_caller]
pub fn ready_pair(seed: u64, on_io_error: OnIoError, large: bool) -> World {
    static READY: [OnceLock<Disks>; 2] = [OnceLock::new(), OnceLock::new()];
    let bytes = if large { LARGE_DISK_BYTES } else { DISK_BYTES };
    let disks = READY[usize::from(large)].get_or_init(|| {
        // Whatever is planted is no part of it: every run starts on the same disks.
        let ready = || stopped(&mut World::synced(1, bytes, OnIoError::Detach));
        without_planted(ready)
    });
    let mut world = World::pair(seed, bytes, on_io_error);
    for (node, (device, health)) in world.nodes.iter_mut().zip(disks.clone()) {
        (node.device, node.health) = (device, health);
    }
    for node in 0..2 {
        world.start(node);
    }
    world.run_until("the pair is connected", 60_000, World::is_healthy);
    world.order_ok(0, Command::Primary { force: false });
    world
}

/// Stops a healthy pair in order, node 0 being Primary: no log has to be applied afterwards.
#[track_caller]
pub fn stopped(world: &mut World) -> Disks {
    world.order_ok(0, Command::Secondary);
    for node in 0..2 {
        world.order_ok(node, Command::Disconnect { force: false });
        world.order_ok(node, Command::Detach { force: false });
    }
    world.run_for(2_000);
    [0, 1].map(|node: usize| (world.nodes[node].device.clone(), world.nodes[node].health.clone()))
}
