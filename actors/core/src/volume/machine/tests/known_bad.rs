//! Blocks that both nodes know to be bad on one of them when they connect: who becomes the source, and until when it is needed.

use super::world::*;
use crate::configuration::OnIoError::Detach;
use crate::volume::machine::Command;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_storage::format::superblock::Flags;

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

/// A resync because of bad blocks that ended before it began leaves an Outdated disk; the next connection has another resolver.
#[test]
fn known_bad_blocks_make_no_source_of_an_outdated_disk() {
    for (own_bad, peer_bad) in [(0, 1), (1, 1)] {
        let mut world = World::new(Detach);
        world.superblock = superblock(good_flags().without(Flags::WAS_UP_TO_DATE), [BASE, 0, 0, 0]);
        let mut world = world.attach();
        (world.peer.own_bad, world.peer.peer_bad) = (own_bad, peer_bad);
        assert_eq!(world.vector().disk, DiskState::Outdated);
        assert_eq!(world.connect().vector().connection, ConnectionState::WFSyncUUID);
    }
    for (own_bad, peer_bad) in [(1, 0), (1, 1)] {
        let mut world = World::attached(Detach);
        world.peer.disk = DiskState::Outdated;
        (world.peer.own_bad, world.peer.peer_bad) = (own_bad, peer_bad);
        assert_eq!(world.connect().vector().connection, ConnectionState::SyncSource);
    }
}
