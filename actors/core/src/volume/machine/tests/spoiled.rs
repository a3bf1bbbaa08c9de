//! What goes wrong while a resync ends. `pass_on`: a request fails on the target; what failed is marked too late for this
//! resync. Or the link is lost before the end is durable.

use super::world::*;
use crate::configuration::OnIoError::{Detach, PassOn};
use crate::volume::machine::{Command, ErrorKind, StateIn};
use crate::volume::state::{ConnectionState, DiskState, InconsistentReason};
use mendblock_net::wire::message::{Message, RequestedChange};
use mendblock_storage::format::superblock::Flags;

/// A target whose resync has copied everything; the last superblock is being written.
fn finishing() -> World {
    let mut world = World::new(PassOn);
    world.peer.ids = [0x2000, BASE, 0, 0];
    world.set_bits = 5;
    let mut world = world.attach().connect();
    world.hear(Message::SyncId { id: 0x6660 });
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::SyncTarget);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.send(StateIn::ResyncFinished { lost: 0 });
    world.settle();
    world
}

#[test]
fn a_flush_that_fails_while_the_resync_ends_is_repaired_by_another_one() {
    let mut world = finishing();
    world.io_error(ErrorKind::Flush, 0, EIO);
    let from = world.mark();
    world.release(Kind::SuperblockWrite);
    world.settle();
    assert_eq!(
        world.count(from, published(DiskState::UpToDate)),
        0,
        "a read would find what the disk has lost"
    );
    let ended = world.at(from, says_disk(DiskState::UpToDate));
    assert!(ended < world.at(from, says_disk(DiskState::Inconsistent)));
    assert_eq!(
        world.snapshot().reasons.inconsistent,
        Some(InconsistentReason::FlushError)
    );
    assert_eq!(world.count(from, request(RequestedChange::ResyncToMe)), 1);
}

#[test]
fn without_the_source_it_stays_inconsistent() {
    let mut world = finishing();
    world.io_error(ErrorKind::Write, 7, EIO);
    world.link_down();
    world.release(Kind::SuperblockWrite);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Inconsistent);
    assert!(!world.superblock.flags.contains(Flags::CONSISTENT));
}

#[test]
fn without_an_error_it_is_up_to_date() {
    let mut world = finishing();
    world.release(Kind::SuperblockWrite);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::UpToDate);
}

#[test]
fn a_primary_that_finishes_as_target_after_the_loss_goes_on_under_a_new_generation() {
    let mut world = World::new(Detach);
    world.peer.ids = [0x2000, BASE, 0, 0];
    world.peer.exposed = 0x2000;
    let mut world = world.connect().promote();
    world.command(Command::Attach { new_disk: false });
    world.settle();
    world.peer_parameters();
    world.settle();
    world.hear(Message::SyncId { id: 0x6660 });
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::SyncTarget);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.send(StateIn::ResyncFinished { lost: 0 });
    world.settle();
    world.link_down();
    world.release(Kind::SuperblockWrite);
    let slots = world.superblock.generations.slots();
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    assert_eq!(slots[1] & !1, 0x2000, "the peer's generation is the base now");
    assert_ne!(slots[0] | 1, 0x2001);
}

/// The peer agrees to the repair of a disk that has failed meanwhile. It hears of that on this connection, and of what is told with it.
#[test]
fn a_repair_that_comes_too_late_does_not_cost_the_connection() {
    let mut world = World::primary_connected(PassOn);
    world.fate(Kind::Consent, Fate::Hold);
    world.read_error(100);
    world.settle();
    assert!(world.asked(Kind::Consent));
    world.fate(Kind::Told, Fate::Hold);
    world.io_error(ErrorKind::Meta, 0, EIO);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Failed);
    let from = world.mark();
    world.release(Kind::Consent);
    assert_eq!(world.count(from, |event| matches!(event, Event::Dropped)), 0);
    assert_eq!(world.vector().connection, ConnectionState::Connected);
}

/// The peer would judge a finished generation beside an Inconsistent disk, and this node an UpToDate one.
#[test]
fn parameters_wait_until_the_end_of_the_resync_is_durable() {
    let mut world = finishing();
    world.link_down();
    let from = world.mark();
    world.link_up();
    world.settle();
    assert_eq!(world.count(from, generations), 0);
    world.release(Kind::SuperblockWrite);
    world.settle();
    let says_finished = |event: &Event| matches!(event, Event::Peer(Message::State(state)) if state.disk == DiskState::UpToDate.number());
    assert!(world.at(from, generations) < world.at(from, says_finished));
    assert_eq!(
        world.count(from, says_disk(DiskState::Inconsistent)),
        0,
        "it never was the peer's to know"
    );
}
