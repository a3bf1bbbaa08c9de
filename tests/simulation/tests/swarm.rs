//! Everything at random, within what the promises cover: one disk fails, or one process crashes, while any part dies and
//! connections come and go.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::DiskState;
use mendblock_kit::wiring::SINGLE;
use mendblock_kit::world::World;
use mendblock_simulation::load::Load;
use mendblock_simulation::seeds::each_seed;

/// A time in which one kind of trouble is on, then peace.
fn trouble(world: &mut World, load: &Load) {
    let secondary = 1 - load.node;
    match world.random.u8(0..8) {
        0 => world.break_connections(),
        1 => {
            world.network.partitioned = true;
            load.run(world, 30);
            world.network.partitioned = false;
        }
        2 => {
            let power = world.random.bool();
            world.crash(secondary, power);
            load.run(world, 30);
            world.start(secondary);
        }
        3 | 4 => {
            for _ in 0..world.random.usize(1..4) {
                let node = world.random.usize(0..2);
                let name = SINGLE[world.random.usize(0..SINGLE.len())];
                world.kill(node, name);
            }
        }
        5 => {
            let node = world.random.usize(0..2);
            let blocks = world.sectors() / 8;
            for _ in 0..world.random.usize(1..3) {
                let block = world.random.u64(0..blocks);
                let faults = &mut world.nodes[node].device.faults;
                if world.random.bool() {
                    faults.unreadable.insert(block);
                } else {
                    faults.unwritable.insert(block);
                }
            }
        }
        6 => {
            let force = world.random.bool();
            world.order(secondary, Command::Detach { force });
        }
        _ => {
            let client = load.clients[world.random.usize(0..load.clients.len())];
            world.kill_session(load.node, client);
        }
    }
    load.run(world, 30);
}

/// Both are well again, whatever was on.
fn peace(world: &mut World) {
    for node in 0..2 {
        world.nodes[node].device.faults = mendblock_kit::device::Faults::default();
    }
    for _ in 0..20 {
        if world.reaches(20_000, World::is_healthy) {
            return;
        }
        for node in 0..2 {
            if world.disk_state(node) == DiskState::Diskless {
                world.order(node, Command::Attach { new_disk: false });
            }
        }
    }
    assert!(
        world.is_healthy(),
        "the pair does not get well\n{}",
        world.describe()
    );
}

#[test]
fn swarm() {
    each_seed("swarm", 12, |seed| {
        let policy = [OnIoError::Detach, OnIoError::PassOn, OnIoError::CallLocalIoError][seed as usize % 3];
        let mut world = World::synced(seed, 16 << 20, policy);
        let load = Load::new(&mut world, 0, 3);
        for _ in 0..6 {
            trouble(&mut world, &load);
            peace(&mut world);
        }
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}
