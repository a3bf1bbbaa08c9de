//! Processes and power that are lost with writes in flight.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::Role;
use mendblock_kit::world::World;
use mendblock_simulation::load::{Load, resynced};
use mendblock_simulation::seeds::each_seed;

const EXTENT_BLOCKS: u64 = 1024;

fn primary_crashes(seed: u64, power: bool) {
    let mut world = World::synced(seed, 48 << 20, OnIoError::Detach);
    let load = Load::new(&mut world, 0, 3);
    load.run(&mut world, 150);
    world.crash(0, power);
    if power {
        world.history.power_lost();
    }
    let facts = [0, 1].map(|node: usize| world.nodes[node].facts.len());
    world.run_for(20);
    world.start(0);
    world.settle();
    let bits = resynced(&world, 0, facts[0]) + resynced(&world, 1, facts[1]);
    assert!(
        bits <= 12 * EXTENT_BLOCKS,
        "{bits} blocks were resynced: more than the hot extents"
    );
    assert_eq!(world.client_errors, Vec::<String>::new());
}

#[test]
fn primary_process_crashes_with_writes_in_flight() {
    each_seed("primary_process_crashes_with_writes_in_flight", 6, |seed| {
        primary_crashes(seed, false)
    });
}

#[test]
fn primary_loses_power_with_writes_in_flight() {
    each_seed("primary_loses_power_with_writes_in_flight", 6, |seed| {
        primary_crashes(seed, true)
    });
}

#[test]
fn secondary_takes_over_after_a_crash() {
    each_seed("secondary_takes_over_after_a_crash", 6, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        load.run(&mut world, 150);
        let power = world.random.bool();
        world.crash(0, power);
        world.run_until("the survivor notices", 60_000, |world| {
            world.nodes[1].state().connection.is_none()
        });
        world.order_ok(1, Command::Primary { force: false });
        // What was acknowledged is there.
        world.check_disk(1);
        let load = Load::new(&mut world, 1, 2);
        load.run(&mut world, 80);
        world.start(0);
        load.run(&mut world, 80);
        world.settle();
        assert_eq!(world.role(1), Role::Primary);
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

#[test]
fn secondary_crashes_and_comes_back_under_load() {
    each_seed("secondary_crashes_and_comes_back_under_load", 6, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        for _ in 0..3 {
            load.run(&mut world, 60);
            let power = world.random.bool();
            world.crash(1, power);
            load.run(&mut world, 60);
            world.start(1);
        }
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}
