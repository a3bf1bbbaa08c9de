//! Two healthy nodes: a fresh pair, and load on it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use mendblock_core::configuration::OnIoError;
use mendblock_kit::world::World;
use mendblock_simulation::load::Load;
use mendblock_simulation::seeds::each_seed;

#[test]
fn fresh_pair_is_synced_after_primary_force() {
    each_seed("fresh_pair_is_synced_after_primary_force", 3, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        world.check_quiet();
    });
}

#[test]
fn random_requests_on_a_healthy_pair() {
    each_seed("random_requests_on_a_healthy_pair", 4, |seed| {
        let mut world = World::synced(seed, 16 << 20, OnIoError::Detach);
        let load = Load::new(&mut world, 0, 3);
        load.run(&mut world, 500);
        world.check_quiet();
        assert_eq!(world.client_errors, Vec::<String>::new());
    });
}
