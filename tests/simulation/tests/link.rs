//! Connections that are lost, in the middle of writes and of a resync.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_core::volume::state::ConnectionState;
use mendblock_kit::world::World;
use mendblock_simulation::load::Load;
use mendblock_simulation::seeds::each_seed;

#[test]
fn connection_lost_in_the_middle_of_writes() {
    each_seed("connection_lost_in_the_middle_of_writes", 5, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 2);
        for _ in 0..6 {
            load.run(&mut world, 40);
            world.break_connections();
        }
        load.run(&mut world, 40);
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

#[test]
fn partition_while_the_primary_writes() {
    each_seed("partition_while_the_primary_writes", 4, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 2);
        load.run(&mut world, 30);
        world.network.partitioned = true;
        load.run(&mut world, 30);
        // The link is found dead by its pings, then the Primary goes on alone.
        world.run_until("the Primary notices", 60_000, |world| {
            world.connection_state(0) < ConnectionState::Connected
        });
        load.run(&mut world, 60);
        world.network.partitioned = false;
        load.run(&mut world, 60);
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

#[test]
fn connection_lost_in_the_middle_of_a_resync() {
    each_seed("connection_lost_in_the_middle_of_a_resync", 5, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 2);
        for _ in 0..5 {
            world.network.partitioned = true;
            world.break_connections();
            load.run(&mut world, 60);
            world.network.partitioned = false;
            world.run_until("a resync runs", 30_000, |world| {
                world.connection_state(1) == ConnectionState::SyncTarget || world.is_healthy()
            });
            let pause = world.random.u64(0..2_000_000);
            world.run_nanoseconds(pause);
            world.break_connections();
            load.run(&mut world, 10);
        }
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}
