//! A generation that was never durable names nothing: the disk that is given up meanwhile keeps the name before.

use super::world::*;
use crate::configuration::OnIoError::Detach;
use crate::volume::machine::{Command, ErrorKind};
use crate::volume::state::{ConnectionState, DiskState};

/// A Primary whose peer is lost, and whose disk fails before the generation for that is durable.
fn failed_before_the_generation(pages: Fate) -> World {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::WriteOut, pages);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.link_down();
    world.settle();
    assert!(world.asked(Kind::SuperblockWrite));
    world.io_error(ErrorKind::Write, 3, EIO);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Failed);
    world
}

#[test]
fn the_last_superblock_and_the_health_file_have_the_name_before() {
    for pages in [Fate::Answer, Fate::Fail(EIO)] {
        let mut world = failed_before_the_generation(pages);
        world.release(Kind::SuperblockWrite);
        world.pass(60_000);
        assert_eq!(world.vector().disk, DiskState::Diskless);
        let slots = world.superblock.generations.slots();
        assert_eq!((slots[0] & !1, slots[1]), (BASE, 0), "{pages:?}");
        assert_eq!(world.health.as_ref().unwrap().slots, slots);
    }
}

/// Nobody has worked under the name that was taken back, so the peer may go on from the one before, and its data come back.
#[test]
fn the_disk_is_no_branch_of_its_own_when_the_peer_has_gone_on() {
    let mut world = failed_before_the_generation(Fate::Answer);
    world.release(Kind::SuperblockWrite);
    world.pass(60_000);
    world.link_up();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    world.peer.ids = [PEER_NEW, BASE, 0, 0];
    world.peer_generations();
    world.command(Command::Attach { new_disk: false });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    world.fate(Kind::Exchange, Fate::Hold);
    world.peer_parameters();
    world.settle();
    let vector = world.vector();
    assert_eq!(
        (vector.connection, vector.disk),
        (ConnectionState::WFBitMapT, DiskState::Inconsistent)
    );
}

/// Once it is durable it stands: writes may have been answered under it.
#[test]
fn a_durable_generation_is_not_taken_back() {
    let mut world = World::primary_connected(Detach);
    world.link_down();
    world.settle();
    let made = world.superblock.generations.slots();
    assert_ne!(made[0] & !1, BASE);
    world.io_error(ErrorKind::Write, 3, EIO);
    world.pass(60_000);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.superblock.generations.slots(), made);
}
