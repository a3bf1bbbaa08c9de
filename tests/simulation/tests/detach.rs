//! A detach with a crash at every step, and writes that only one node has.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::DiskState;
use mendblock_kit::format;
use mendblock_kit::world::World;
use mendblock_simulation::load::Load;
use mendblock_simulation::seeds::each_seed;
use mendblock_storage::units::{BlockRange, SectorRange};

const X: u64 = 1500;

fn block(block: u64) -> SectorRange {
    SectorRange::new(block * 8, 8).unwrap()
}

/// Whether some node knows, durably, that X is bad on A. If nobody does, only the drive does, and must say so again (E71).
fn remembered(world: &World) -> bool {
    let device_id = format::superblock(&world.nodes[0].device).device_id;
    let own = world.nodes[0].health.health(device_id);
    let own = own.is_some_and(|health| health.records.is_bad(BlockRange::single(X)));
    own || world.nodes[1]
        .bad_blocks
        .peer
        .iter()
        .any(|range| range.contains(X))
}

/// E71 to E77: the node that detaches crashes (process or power) after each number of events of its detach.
#[test]
fn crash_at_every_step_of_a_detach() {
    each_seed("crash_at_every_step_of_a_detach", 2, |seed| {
        for step in 0..24 {
            let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
            let load = Load::new(&mut world, 0, 2);
            load.run(&mut world, 40);
            world.run_until("the load is answered", 10_000, |world| {
                world.nodes[0].open_requests() == 0
            });
            let client = world.open_client(0);
            world.write(0, client, block(X), false);
            world.flush(0, client);
            world.run_until("the write is answered", 10_000, |world| {
                world.nodes[0].open_requests() == 0
            });
            world.nodes[0].device.faults.unreadable.insert(X);
            world.read(0, client, block(X));
            world.run_until("the disk has failed", 5_000, |world| {
                world.disk_state(0) == DiskState::Failed
            });
            for _ in 0..step * 7 {
                world.advance();
            }
            let power = step % 2 == 0;
            world.crash(0, power);
            if power {
                world.history.power_lost();
            }
            let pause = world.random.u64(1..50_000_000);
            world.run_nanoseconds(pause);
            if remembered(&world) {
                // The drive remaps the block: it reads as zeroes.
                world.nodes[0].device.repair();
            }
            world.start(0);
            world.recover();
            if !world.nodes[0].bad_blocks.own.is_empty() {
                // It came back as source (the peer had not heard of the error): a client's overwrite heals the block.
                world.order_ok(0, Command::Primary { force: false });
                let client = world.open_client(0);
                world.read(0, client, block(X));
                world.write(0, client, block(X), false);
                world.run_until("the block is healed", 60_000, |world| {
                    world.nodes[0].bad_blocks.own.is_empty() && world.nodes[1].bad_blocks.peer.is_empty()
                });
            }
            // As long as there is no reverse fetch, a bad block of the source is an error until it is overwritten.
            world
                .client_errors
                .retain(|error| !error.contains("Read { range: sectors 12000+8 }"));
            world.check_quiet();
            assert_eq!(world.client_errors, Vec::<String>::new(), "step {step}");
        }
    });
}

/// E42 (T1): a write failed on the Primary's disk and was answered; then power is lost. The peer's bytes win.
#[test]
fn write_error_crash_after_answer() {
    each_seed("write_error_crash_after_answer", 8, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let client = world.open_client(0);
        world.write(0, client, block(X), false);
        world.flush(0, client);
        world.run_until("the first write is answered", 10_000, |world| {
            world.nodes[0].open_requests() == 0
        });
        world.nodes[0].device.faults.unwritable.insert(X);
        world.write(0, client, block(X), false);
        world.run_until("the failed write is answered", 60_000, |world| {
            world.nodes[0].open_requests() == 0
        });
        assert_eq!(world.client_errors, Vec::<String>::new());
        world.crash(0, true);
        world.nodes[0].device.repair();
        world.run_for(10);
        world.start(0);
        world.settle();
    });
}

/// E158 (T4): the peer detaches by command, the Primary writes alone and dies as soon as the write is answered.
#[test]
fn peer_detached_then_primary_dies() {
    each_seed("peer_detached_then_primary_dies", 8, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let client = world.open_client(0);
        world.command(1, Command::Detach { force: false });
        let pause = world.random.u64(0..3_000_000);
        world.run_nanoseconds(pause);
        world.write(0, client, block(X), false);
        world.run_until("the write is answered", 60_000, |world| {
            world.nodes[0].open_requests() == 0
        });
        world.crash(0, false);
        world.run_for(200);
        world.run_until("the peer's disk is gone", 20_000, |world| {
            world.disk_state(1) == DiskState::Diskless
        });
        world.run_for(2_000);
        world.order(1, Command::Attach { new_disk: false });
        let promoted = world.order(1, Command::Primary { force: false });
        if promoted.exit_code == 0 {
            // The write reached it before its disk was given up, or it knows that it missed it: then it is an error (E157).
            let client = world.open_client(1);
            world.read(1, client, block(X));
            world.run_until("the read is answered", 60_000, |world| {
                world.nodes[1].open_requests() == 0
            });
            // Both have named a generation of their own: a split brain, and said so.
            return;
        }
        world.start(0);
        world.settle();
    });
}
