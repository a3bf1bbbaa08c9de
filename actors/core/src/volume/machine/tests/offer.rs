//! A disk that is offered while the nodes are connected: both compare, either of them may refuse, and neither waits for
//! what the other one does not send.

use super::world::*;
use crate::configuration::OnIoError::Detach;
use crate::volume::machine::Command;
use crate::volume::state::{AttachFailure, ConnectionState, DetachCause, DiskState, DisklessReason, Role};
use mendblock_net::wire::message::Message;
use mendblock_storage::format::superblock::Flags;

fn says_state(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::State(_)))
}

fn refuses_disk(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::DiskRefused { .. }))
}

/// The peer is connected without a disk.
fn peer_without_disk() -> World {
    let mut world = World::attached(Detach);
    (world.peer.attached, world.peer.disk) = (false, DiskState::Diskless);
    world.connect()
}

/// What the peer attaches: it missed writes.
fn peer_offers(world: &mut World) {
    (world.peer.attached, world.peer.disk) = (true, DiskState::Negotiating);
    world.peer_parameters();
    world.settle();
}

/// Attaches a disk that missed what the peer has, up to its offer.
fn offering() -> (World, u64) {
    let mut world = World::new(Detach);
    world.peer.ids = [0x2000, BASE, 0, 0];
    let mut world = world.connect();
    let id = world.command(Command::Attach { new_disk: false });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    (world, id)
}

#[test]
fn an_offer_that_comes_before_the_first_decision_is_answered() {
    let mut world = World::attached(Detach);
    (world.peer.attached, world.peer.disk) = (false, DiskState::Diskless);
    // The lists are merged late: the peer has decided about the connection and offers its disk meanwhile.
    world.fate(Kind::Merge, Fate::Hold);
    let mut world = world.connect();
    assert_eq!(world.vector().connection, ConnectionState::WFReportParams);
    let from = world.mark();
    peer_offers(&mut world);
    assert_eq!(world.count(from, says_state), 1, "the peer waits for it");
    assert_eq!(world.vector().connection, ConnectionState::WFReportParams);
    world.release(Kind::Merge);
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    assert_eq!(world.vector().peer_disk, DiskState::UpToDate);
}

#[test]
fn a_disk_that_is_not_answered_in_time_is_withdrawn_and_can_be_offered_again() {
    let (mut world, id) = offering();
    let from = world.mark();
    world.pass(10_001);
    assert_ne!(world.answer(id).exit_code, 0);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(
        world.snapshot().reasons.diskless,
        Some(DisklessReason::NegotiationTimedOut)
    );
    world.at(from, says_disk(DiskState::Diskless));
    let id = world.command(Command::Attach { new_disk: false });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    // The answer to the first offer, then the one to this.
    world.peer_parameters();
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    world.peer_parameters();
    world.settle();
    assert_eq!(world.answer(id).exit_code, 0, "{:?}", world.answer(id));
}

#[test]
fn a_resync_that_the_peer_withdraws_from_does_not_begin() {
    let mut world = peer_without_disk().promote();
    (world.peer.attached, world.peer.disk) = (true, DiskState::Negotiating);
    world.peer.ids = [BASE, 0, 0, 0];
    world.fate(Kind::Exchange, Fate::Hold);
    peer_offers(&mut world);
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapS);
    (world.peer.attached, world.peer.disk) = (false, DiskState::Diskless);
    world.peer_state();
    world.settle();
    let vector = world.vector();
    assert_eq!(
        (vector.connection, vector.peer_disk, vector.disk),
        (
            ConnectionState::Connected,
            DiskState::Diskless,
            DiskState::UpToDate
        )
    );
}

/// The peer was Primary alone, gave its disk up, was demoted, and came back without the disk: nobody can be served by the older
/// copy here until the newer one is attached.
#[test]
fn a_peers_disk_that_is_newer_is_the_source() {
    let mut world = peer_without_disk();
    world.peer.ids = [PEER_NEW, BASE, 0, 0];
    world.fate(Kind::Exchange, Fate::Hold);
    let from = world.mark();
    peer_offers(&mut world);
    assert_eq!(world.count(from, refuses_disk), 0);
    let vector = world.vector();
    assert_eq!(
        (vector.connection, vector.disk, vector.peer_disk),
        (
            ConnectionState::WFBitMapT,
            DiskState::Outdated,
            DiskState::UpToDate
        )
    );
    assert!(world.asked(Kind::Exchange));
}

#[test]
fn a_peers_disk_that_is_newer_makes_a_connected_secondary_its_target() {
    let mut world = peer_without_disk();
    world.peer.ids = [0x2000, BASE, 0, 0];
    let from = world.mark();
    peer_offers(&mut world);
    assert_eq!(world.count(from, refuses_disk), 0);
    let vector = world.vector();
    assert_eq!(
        (vector.connection, vector.disk, vector.peer_disk),
        (
            ConnectionState::WFSyncUUID,
            DiskState::Outdated,
            DiskState::UpToDate
        )
    );
    assert!(!world.superblock.flags.contains(Flags::WAS_UP_TO_DATE), "durably");
}

/// Its own disk may hold a generation that it made for nobody: the superblock write was reported as failed.
#[test]
fn what_a_diskless_primary_attaches_never_overwrites_the_disk_that_it_works_with() {
    let mut world = World::attached(Detach);
    (world.peer.attached, world.peer.disk) = (false, DiskState::Diskless);
    world.peer.role = Role::Primary;
    let mut world = world.connect();
    let own = world.superblock.generations.slots()[0];
    world.peer.ids = [0x2000, own, BASE, 0];
    let from = world.mark();
    peer_offers(&mut world);
    assert_eq!(world.count(from, refuses_disk), 1);
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    assert_eq!(world.vector().connection, ConnectionState::Connected);

    // The same, seen by the Primary.
    let mut world = World::primary_connected(Detach);
    world.command(Command::Detach { force: false });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    world.superblock = superblock(good_flags(), [0x2000, PEER_NEW, BASE, 0]);
    let id = world.command(Command::Attach { new_disk: false });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    world.peer_parameters();
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_ne!(world.answer(id).exit_code, 0);
}

#[test]
fn a_peers_disk_that_only_this_node_refuses_is_refused_aloud() {
    let mut world = peer_without_disk().promote();
    world.peer.ids = [0x7770, 0, 0x3330, 0x4440];
    let from = world.mark();
    peer_offers(&mut world);
    assert_eq!(world.count(from, refuses_disk), 1);
    let vector = world.vector();
    assert_eq!(
        (vector.connection, vector.peer_disk, vector.role),
        (ConnectionState::Connected, DiskState::Diskless, Role::Primary),
        "the connection stays: the volume may depend on it"
    );
}

#[test]
fn a_refusal_ends_an_attach_that_waits_for_the_answer() {
    let (mut world, id) = offering();
    world.hear(Message::DiskRefused {
        reason: 7,
        text: "not now".to_owned(),
    });
    world.settle();
    assert_eq!(
        world.snapshot().reasons.diskless,
        Some(DisklessReason::AttachFailed(AttachFailure::StateRefused))
    );
    assert!(
        world.answer(id).text.contains("b refuses the disk: not now"),
        "{:?}",
        world.answer(id)
    );
}

#[test]
fn a_refusal_takes_a_disk_back_that_this_node_has_agreed_to() {
    let (mut world, id) = offering();
    world.fate(Kind::Exchange, Fate::Hold);
    world.peer_parameters();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapT);
    assert_eq!(world.answer(id).exit_code, 0);
    let from = world.mark();
    world.hear(Message::DiskRefused {
        reason: 7,
        text: "not now".to_owned(),
    });
    world.settle();
    assert_eq!(
        (world.vector().connection, world.vector().disk),
        (ConnectionState::Connected, DiskState::Diskless)
    );
    assert_eq!(
        world.snapshot().reasons.diskless,
        Some(DisklessReason::Detached {
            cause: DetachCause::NegotiationRefused,
            second_cause: None
        })
    );
    world.at(from, says_disk(DiskState::Diskless));
    // Too late for a disk that is gone already.
    world.hear(Message::DiskRefused {
        reason: 7,
        text: "not now".to_owned(),
    });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

/// Connected to a peer without a disk, and without one of its own; `forced` where the last copy must go.
fn both_without_disk(mut world: World, forced: bool) -> World {
    let id = world.command(Command::Detach { force: forced });
    world.pass(30_000);
    assert_eq!(world.answer(id).exit_code, 0, "{:?}", world.answer(id));
    assert_eq!(world.vector().disk, DiskState::Diskless);
    world
}

#[test]
fn an_attach_beside_a_peer_without_a_disk_has_nothing_to_compare_with_and_ends() {
    let mut world = both_without_disk(peer_without_disk(), false);
    let id = world.command(Command::Attach { new_disk: false });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    world.peer_parameters();
    world.settle();
    assert_eq!(world.answer(id).exit_code, 0, "{:?}", world.answer(id));
    let vector = world.vector();
    assert_eq!(
        (vector.connection, vector.disk, vector.peer_disk),
        (
            ConnectionState::Connected,
            DiskState::UpToDate,
            DiskState::Diskless
        )
    );
}

#[test]
fn a_primary_whose_disk_comes_back_alone_goes_on_under_a_new_generation() {
    let mut world = peer_without_disk().promote();
    world.told_generation = false;
    let mut world = both_without_disk(world, true);
    let old = world.superblock.generations.current;
    let id = world.command(Command::Attach { new_disk: false });
    world.settle();
    world.peer_parameters();
    world.settle();
    assert_eq!(world.vector().disk, DiskState::UpToDate, "{:?}", world.answer(id));
    assert!(world.snapshot().alone_settled);
    assert_ne!(
        world.superblock.generations.current | 1,
        old | 1,
        "the peer's disk has the old one"
    );
}
