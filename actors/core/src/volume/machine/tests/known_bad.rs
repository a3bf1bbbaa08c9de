//! Blocks that both nodes know to be bad on one of them when they connect.

use super::world::*;
use crate::configuration::OnIoError::Detach;
use crate::volume::machine::Command;
use crate::volume::state::ConnectionState;

#[test]
fn known_bad_blocks_are_resynced_though_generations_are_equal() {
    for (own, peer, state) in [
        (1, 0, ConnectionState::WFSyncUUID),
        (0, 1, ConnectionState::SyncSource),
    ] {
        let mut world = World::attached(Detach);
        world.peer.own_bad = own;
        world.peer.peer_bad = peer;
        assert_eq!(world.connect().vector().connection, state);
    }
}

/// While the peer's blocks are bad this is their only good copy; once the resync has healed them it may go.
#[test]
fn a_detach_waits_only_until_the_peer_is_healed() {
    let mut world = World::attached(Detach);
    world.peer.peer_bad = 1;
    let mut world = world.connect();
    assert_eq!(world.vector().connection, ConnectionState::SyncSource);
    let detach = |world: &mut World| {
        let id = world.command(Command::Detach { force: false });
        world.settle();
        world.answer(id).exit_code
    };
    assert_eq!(detach(&mut world), 17);
    world.peer_state();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    assert_eq!(detach(&mut world), 0);
}
