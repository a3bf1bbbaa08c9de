//! Any part may die at any moment: no client sees an error, nothing is lost, nothing hangs.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_core::part::PartName;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::DiskState;
use mendblock_kit::wiring::SINGLE;
use mendblock_kit::world::World;
use mendblock_simulation::load::Load;
use mendblock_simulation::seeds::each_seed;

fn dies_under_load(test: &str, name: PartName) {
    each_seed(test, 5, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        for _ in 0..8 {
            load.run(&mut world, 25);
            let node = world.random.usize(0..2);
            world.kill(node, name);
        }
        load.run(&mut world, 25);
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

macro_rules! each_part {
    ($($test:ident $name:ident),* $(,)?) => {$(
        #[test]
        fn $test() {
            dies_under_load(stringify!($test), PartName::$name);
        }
    )*};
}

each_part! {
    state_dies_under_load State,
    disk_dies_under_load Disk,
    bitmap_dies_under_load Bitmap,
    activity_log_dies_under_load ActivityLog,
    peer_dies_under_load Peer,
    volume_dies_under_load Volume,
    resync_dies_under_load Resync,
    helper_dies_under_load Helper,
}

#[test]
fn sessions_die_under_load() {
    each_seed("sessions_die_under_load", 5, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        for _ in 0..8 {
            load.run(&mut world, 25);
            let client = load.clients[world.random.usize(0..3)];
            world.kill_session(0, client);
            if world.random.bool() {
                world.kill(0, PartName::Volume);
            }
        }
        load.run(&mut world, 25);
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

#[test]
fn any_parts_die_under_load() {
    each_seed("any_parts_die_under_load", 8, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        for _ in 0..12 {
            load.run(&mut world, 20);
            for _ in 0..world.random.usize(1..3) {
                let node = world.random.usize(0..2);
                let name = SINGLE[world.random.usize(0..SINGLE.len())];
                world.kill(node, name);
            }
        }
        load.run(&mut world, 20);
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

#[test]
fn parts_die_on_both_sides_of_a_resync() {
    each_seed("parts_die_on_both_sides_of_a_resync", 8, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 2);
        for _ in 0..3 {
            load.run(&mut world, 10);
            world.run_until("they are well", 600_000, World::is_healthy);
            world.order(1, Command::Invalidate);
            let (pause, other) = (world.random.u64(1..2_000), world.random.u64(0..5));
            world.run_for(pause);
            let name = SINGLE[world.random.usize(0..SINGLE.len())];
            world.kill(0, name);
            world.run_for(other);
            world.kill(1, name);
            load.run(&mut world, 10);
        }
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}

/// The Primary's disk is away: the peer is all that its clients have.
#[test]
fn any_parts_die_while_the_primary_has_no_disk() {
    each_seed("any_parts_die_while_the_primary_has_no_disk", 8, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        load.run(&mut world, 20);
        world.order_ok(0, Command::Detach { force: false });
        load.run(&mut world, 20);
        for _ in 0..6 {
            let node = world.random.usize(0..2);
            let name = SINGLE[world.random.usize(0..SINGLE.len())];
            world.kill(node, name);
            load.run(&mut world, 20);
            world.run_until("clients are served again", 60_000, |world| {
                world.nodes[0].open_requests() == 0
            });
        }
        // An attach that loses a part or the connection is given up, and says so.
        for _ in 0..10 {
            world.run_until("they are connected", 60_000, World::is_connected);
            if world.disk_state(0) == DiskState::Diskless {
                world.order(0, Command::Attach { new_disk: false });
            }
            if world.reaches(5_000, World::is_healthy) {
                break;
            }
        }
        load.run(&mut world, 20);
        world.settle();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}
