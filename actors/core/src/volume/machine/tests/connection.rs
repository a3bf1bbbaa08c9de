//! The connection: what the comparison leads to, what is durable before it is told, and what a loss means.

use super::world::*;
use crate::configuration::OnIoError::{Detach, PassOn};
use crate::helper::Handler;
use crate::identity::ConnectionNumber;
use crate::part::PartName;
use crate::peer::LinkWish;
use crate::volume::machine::{Command, StateIn};
use crate::volume::state::{ConnectionState, DisconnectReason, DiskState, Role};
use mendblock_net::wire::message::{Message, RequestedChange, WireRecord};
use mendblock_storage::format::superblock::Flags;

fn stand_alone(world: &World, reason: DisconnectReason) {
    assert_eq!(world.vector().connection, ConnectionState::StandAlone);
    assert_eq!(world.snapshot().reasons.disconnected, Some(reason));
}

#[test]
fn equal_generations_connect() {
    let world = World::connected(Detach);
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    assert_eq!(
        (world.vector().disk, world.vector().peer_disk),
        (DiskState::UpToDate, DiskState::UpToDate)
    );
}

#[test]
fn parameters_go_in_order() {
    let world = World::connected(Detach);
    let sizes = world.at(0, |event| matches!(event, Event::Peer(Message::Sizes(_))));
    let ids = world.at(0, generations);
    let state = world.at(0, |event| matches!(event, Event::Peer(Message::State(_))));
    assert!(sizes < ids && ids < state);
}

#[test]
fn fresh_pair_stays_inconsistent_and_connected() {
    let mut world = World::new(Detach);
    world.superblock = superblock(Flags::AL_CLEAN, [4, 0, 0, 0]);
    world.peer.ids = [4, 0, 0, 0];
    world.peer.disk = DiskState::Inconsistent;
    world.peer.exposed = 0;
    let world = world.attach().connect();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    assert_eq!(world.vector().disk, DiskState::Inconsistent);
}

/// Own disk newer: its bitmap generation is the peer's current one.
fn source() -> World {
    let mut world = World::new(Detach);
    world.superblock = superblock(good_flags(), [0x2000, BASE, 0, 0]);
    world.set_bits = 5;
    world.attach()
}

/// The peer is newer.
fn target() -> World {
    let mut world = World::new(Detach);
    world.peer.ids = [0x2000, BASE, 0, 0];
    world.set_bits = 5;
    world.attach()
}

#[test]
fn start_source_is_durable_before_the_sync_id_is_told() {
    let mut world = source();
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.fate(Kind::SetHeader, Fate::Hold);
    let from = world.mark();
    let mut world = world.connect();
    let sync_id = |event: &Event| matches!(event, Event::Peer(Message::SyncId { .. }));
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapS);
    assert_eq!(world.find(from, sync_id), None);
    world.release(Kind::SetHeader);
    assert_eq!(world.find(from, sync_id), None);
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.vector().connection, ConnectionState::SyncSource);
    let open = world.at(
        from,
        |event| matches!(event, Event::Header(change) if matches!(change.source_open, Some(Some(_)))),
    );
    let told = world.at(from, sync_id);
    let Event::Peer(Message::SyncId { id }) = world.events[told] else {
        unreachable!()
    };
    let named = world.at(
        from,
        |event| matches!(event, Event::Superblock(block) if block.generations.slots()[1] == id),
    );
    assert!(open < named && named < told);
    assert!(world.at(from, handler(Handler::BeforeResyncSource)) < open);
}

#[test]
fn finish_source_clears_the_mark_behind_the_superblock() {
    let mut world = source().connect();
    world.peer.disk = DiskState::UpToDate;
    let from = world.mark();
    world.peer_state();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    let written = world.at(from, superblock_written);
    let cleared = world.at(
        from,
        |event| matches!(event, Event::Header(change) if change.source_open == Some(None)),
    );
    assert!(written < cleared);
    assert_eq!(world.superblock.generations.slots()[1], 0);
}

#[test]
fn start_target_is_durable_before_sync_target() {
    let mut world = target().connect();
    assert_eq!(world.vector().connection, ConnectionState::WFSyncUUID);
    assert!(
        !world.superblock.flags.contains(Flags::WAS_UP_TO_DATE),
        "Outdated before the exchange"
    );
    assert!(world.superblock.flags.contains(Flags::CONSISTENT));
    let from = world.mark();
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.hear(Message::SyncId { id: 0x6660 });
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFSyncUUID);
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.vector().connection, ConnectionState::SyncTarget);
    let written = world.at(from, |event| {
        matches!(event, Event::Superblock(block)
            if block.generations.slots()[0] == 0x6660 && !block.flags.contains(Flags::CONSISTENT))
    });
    assert!(written < world.at(from, in_connection(ConnectionState::SyncTarget)));
}

#[test]
fn finish_target_is_durable_before_it_is_told() {
    let mut world = target().connect();
    world.hear(Message::SyncId { id: 0x6660 });
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::SyncTarget);
    let from = world.mark();
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.send(StateIn::ResyncFinished { lost: 0 });
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Inconsistent);
    assert_eq!(world.find(from, says_disk(DiskState::UpToDate)), None);
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    let written = world.at(from, |event| {
        matches!(event, Event::Superblock(block)
            if block.flags.contains(Flags::WAS_UP_TO_DATE) && block.generations.slots()[0] | 1 == 0x2001)
    });
    assert!(written < world.at(from, says_disk(DiskState::UpToDate)));
    assert_eq!(world.count(from, handler(Handler::AfterResyncTarget)), 1);
}

#[test]
fn a_handler_may_refuse_the_resync() {
    for (mut world, code) in [(source(), 1), (target(), 1), (target(), 3)] {
        world.fate(Kind::Helper, Fate::Fail(code));
        let mut world = world.connect();
        if world.vector().connection == ConnectionState::WFSyncUUID {
            world.hear(Message::SyncId { id: 0x6660 });
            world.settle();
        }
        stand_alone(&world, DisconnectReason::HandlerVeto);
    }
    let mut world = source();
    world.fate(Kind::Helper, Fate::Fail(3));
    assert_eq!(
        world.connect().vector().connection,
        ConnectionState::SyncSource,
        "3: unknown to old tools"
    );
}

#[test]
fn split_brain_ends_stand_alone() {
    let mut world = World::new(Detach);
    world.superblock = superblock(good_flags(), [0x2000, BASE, 0, 0]);
    world.peer.ids = [0x3000, BASE, 0, 0];
    let world = world.attach().connect();
    stand_alone(&world, DisconnectReason::SplitBrain);
    assert!(world.snapshot().reasons.split_brain.is_some());
    assert!(world.count(0, handler(Handler::SplitBrain)) == 1);
    assert!(
        world
            .find(0, |event| matches!(
                event,
                Event::Wish(crate::peer::LinkWish::Down)
            ))
            .is_some()
    );
    assert_eq!(world.vector().disk, DiskState::UpToDate);
}

#[test]
fn unrelated_data_ends_stand_alone() {
    let mut world = World::new(Detach);
    world.superblock = superblock(good_flags(), [BASE, 0, 0x1110, 0x1220]);
    world.peer.ids = [0x7770, 0, 0x3330, 0x4440];
    let world = world.attach().connect();
    stand_alone(&world, DisconnectReason::UnrelatedData);
}

/// The reasons and texts of the partings that were sent from `from` on.
fn partings(world: &World, from: usize) -> Vec<(u8, String)> {
    let sent = world.events[from..].iter().filter_map(|event| match event {
        Event::Peer(Message::Parting { reason, text }) => Some((*reason, text.clone())),
        _ => None,
    });
    sent.collect()
}

/// Both disks went on alone.
fn split() -> World {
    let mut world = World::new(Detach);
    world.superblock = superblock(good_flags(), [0x2000, BASE, 0, 0]);
    world.peer.ids = [0x3000, BASE, 0, 0];
    world.attach()
}

#[test]
fn who_decides_first_tells_the_peer_before_the_connection_ends() {
    let world = split().connect();
    stand_alone(&world, DisconnectReason::SplitBrain);
    let told = world.at(0, |event| {
        matches!(event, Event::Peer(Message::Parting { reason: 3, .. }))
    });
    let ended = world.at(0, |event| matches!(event, Event::Wish(LinkWish::Down)));
    assert!(told < ended);
    assert_eq!(partings(&world, 0).len(), 1);
}

#[test]
fn a_node_that_has_not_decided_yet_ends_stand_alone_by_the_peers_parting() {
    let mut world = split();
    // Its own bitmap part is slow: the peer decides, says so, and closes before the lists are merged.
    world.fate(Kind::Merge, Fate::Hold);
    let mut world = world.connect();
    assert_eq!(world.vector().connection, ConnectionState::WFReportParams);
    let from = world.mark();
    world.hear(Message::Parting {
        reason: 3,
        text: "split brain, in the peer's words".to_owned(),
    });
    stand_alone(&world, DisconnectReason::SplitBrain);
    let found = world.snapshot().reasons.split_brain.clone().unwrap();
    assert!(found.contains("(own 00"), "its own comparison: {found}");
    assert_eq!(world.count(from, handler(Handler::SplitBrain)), 1);
    world.link_down();
    world.release(Kind::Merge);
    stand_alone(&world, DisconnectReason::SplitBrain);
    assert_eq!(
        world.count(from, |event| matches!(event, Event::Wish(LinkWish::Up))),
        0
    );
}

#[test]
fn a_parting_without_a_finding_of_ones_own_is_taken_over() {
    // Nothing of the peer but its parting has arrived.
    let mut world = World::attached(Detach);
    world.command(Command::Connect {
        discard_my_data: false,
    });
    world.settle();
    world.connection += 1;
    let connection = ConnectionNumber(world.connection);
    world.send(StateIn::Link(crate::volume::machine::LinkFact::Up {
        connection,
        resolver: false,
        features: 0,
        peer_process: 1,
    }));
    world.hear(Message::Parting {
        reason: 5,
        text: "a's disk is too small".to_owned(),
    });
    stand_alone(&world, DisconnectReason::TooSmall);
    assert_eq!(
        world.snapshot().reasons.handshake.as_deref(),
        Some("b parted: a's disk is too small")
    );
}

#[test]
fn a_primary_that_the_peer_parts_from_goes_on_under_a_new_generation() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    world.hear(Message::Parting {
        reason: 6,
        text: "no".to_owned(),
    });
    world.settle();
    stand_alone(&world, DisconnectReason::HandlerVeto);
    let slots = world.superblock.generations.slots();
    assert_ne!(slots[0] | 1, BASE | 1);
    assert_eq!(slots[1] & !1, BASE);
    assert_eq!(partings(&world, from), [], "there is nobody to tell any more");
}

#[test]
fn connect_forgets_the_finding() {
    let mut world = split().connect();
    world.link_down();
    world.command(Command::Connect {
        discard_my_data: true,
    });
    let reasons = &world.snapshot().reasons;
    assert_eq!((&reasons.split_brain, &reasons.handshake), (&None, &None));
    assert_eq!(world.vector().connection, ConnectionState::WFConnection);
    world.link_up();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFSyncUUID);
}

#[test]
fn a_refusal_is_shown_while_the_node_dials_and_goes_with_the_next_connection() {
    let mut world = World::attached(Detach);
    let told = |world: &mut World| {
        world.send(StateIn::Link(crate::volume::machine::LinkFact::NotNow {
            text: "b is StandAlone".to_owned(),
        }));
        world.snapshot().reasons.turned_away.clone()
    };
    assert_eq!(told(&mut world), None, "nobody dials here");
    world.command(Command::Connect {
        discard_my_data: false,
    });
    world.settle();
    assert_eq!(told(&mut world).as_deref(), Some("b is StandAlone"));
    assert_eq!(world.vector().connection, ConnectionState::WFConnection);
    world.link_up();
    assert_eq!(world.snapshot().reasons.turned_away, None);
}

#[test]
fn a_target_that_is_primary_says_so() {
    let mut world = World::primary_alone(Detach);
    world.peer.ids = [0x2000, world.superblock.generations.slots()[0], BASE, 0];
    let world = world.connect();
    stand_alone(&world, DisconnectReason::TargetIsPrimary);
    let told = partings(&world, 0);
    assert_eq!(told[0].0, 9);
    assert!(told[0].1.contains("demote"), "{told:?}");
}

#[test]
fn a_peer_that_is_too_small_is_refused() {
    let mut world = World::attached(Detach);
    world.peer.sectors /= 2;
    let world = world.connect();
    stand_alone(&world, DisconnectReason::TooSmall);
    let told = partings(&world, 0);
    assert!(
        told[0].1.contains("the volume has") && told[0].1.contains("give b a larger disk"),
        "{told:?}"
    );
    assert_eq!(
        world.snapshot().volume_sectors,
        layout().usable_sectors(),
        "the volume stays"
    );
}

#[test]
fn a_fresh_disk_takes_the_size_of_the_smaller_one_and_writes_it_down() {
    let mut world = World::new(Detach);
    world.superblock = superblock(Flags::AL_CLEAN, [4, 0, 0, 0]);
    let half = layout().usable_sectors() / 2;
    (world.peer.ids, world.peer.disk, world.peer.exposed) = ([4, 0, 0, 0], DiskState::Inconsistent, 0);
    (world.peer.sectors, world.peer.volume_sectors) = (half, half);
    let world = world.attach().connect();
    assert_eq!(world.snapshot().volume_sectors, half);
    assert_eq!(world.superblock.effective_sectors, half);
}

#[test]
fn a_volume_does_not_grow_when_the_smaller_disk_is_replaced_by_a_larger_one() {
    let half = layout().usable_sectors() / 2;
    // The node that kept its disk; then the one with the new disk, which has taken all of it for the volume.
    for (agreed, volume) in [(half, 2 * half), (2 * half, half)] {
        let mut world = World::new(Detach);
        let fresh = agreed > half;
        if fresh {
            world.superblock = superblock(Flags::AL_CLEAN, [4, 0, 0, 0]);
        } else {
            (world.peer.ids, world.peer.disk) = ([4, 0, 0, 0], DiskState::Inconsistent);
        }
        world.superblock.effective_sectors = agreed;
        (world.peer.sectors, world.peer.volume_sectors) = (2 * half, volume);
        let world = world.attach().connect();
        assert_eq!(world.snapshot().volume_sectors, half);
        assert!(world.vector().connection.is_connected_or_better());
    }
}

#[test]
fn a_diskless_primary_refuses_foreign_data() {
    let mut world = World::primary_connected(Detach);
    world.command(Command::Detach { force: true });
    world.settle();
    world.link_down();
    world.peer.ids = [0x7770, 0x7660, 0, 0];
    world.link_up();
    world.settle();
    stand_alone(&world, DisconnectReason::DataNotCurrent);
}

#[test]
fn a_new_generation_that_is_not_durable_is_not_the_exposed_one() {
    // E68 and P7: else no disk that still exists would ever be accepted again.
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Fail(EIO));
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    world.link_down();
    assert_eq!(world.snapshot().exposed.without_role().0, BASE);
    world.pass(60_000);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    world.fates.clear();
    world.link_up();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
}

#[test]
fn generation_then_answers_when_the_link_is_lost() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.link_down();
    world.settle();
    assert!(!world.snapshot().alone_settled);
    world.release(Kind::SuperblockWrite);
    assert!(world.snapshot().alone_settled);
    let slots = world.superblock.generations.slots();
    assert_ne!(slots[0] | 1, BASE | 1);
    assert_eq!(slots[1] & !1, BASE);
    assert_eq!(world.snapshot().exposed.0, slots[0]);
}

#[test]
fn a_secondary_that_loses_the_link_makes_no_generation() {
    let mut world = World::connected(Detach);
    let from = world.mark();
    world.link_down();
    world.settle();
    assert_eq!(world.superblock.generations.slots(), [BASE, 0, 0, 0]);
    assert_eq!(world.find(from, generations), None);
}

#[test]
fn parameters_wait_for_a_generation_under_way() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.link_down();
    let from = world.mark();
    world.link_up();
    world.settle();
    assert_eq!(world.find(from, generations), None);
    world.release(Kind::SuperblockWrite);
    assert!(world.at(from, superblock_written) < world.at(from, generations));
}

fn peer_tells(world: &mut World, number: u64, attach_id: u64) {
    world.hear(Message::Tell {
        number,
        attach_id,
        failed: true,
        records: Vec::<WireRecord>::new(),
    });
}

#[test]
fn i26_one_generation_for_one_loss_of_the_peers_disk() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    world.fate(Kind::Record, Fate::Hold);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    peer_tells(&mut world, 1, 77);
    world.settle();
    assert_eq!(world.vector().peer_disk, DiskState::Failed);
    assert!(!world.snapshot().peer_loss_settled, "T4");
    assert_eq!(world.find(from, told), None);
    world.release(Kind::Record);
    assert_eq!(
        world.find(from, told),
        None,
        "not before the generation is durable"
    );
    world.release(Kind::SuperblockWrite);
    let answer = world.at(from, told);
    let written = world.at(
        from,
        |event| matches!(event, Event::Superblock(block) if block.generations.slots()[1] & !1 == BASE),
    );
    assert!(written < answer);
    let current = world.superblock.generations.current;
    assert!(
        matches!(world.events[answer], Event::Peer(Message::Told { number: 1, current: c, new_generation: true }) if c == current)
    );
    peer_tells(&mut world, 2, 77);
    world.peer.disk = DiskState::Diskless;
    world.peer_state();
    world.settle();
    assert_eq!(world.superblock.generations.current, current, "one for one life");
    let repeated = world.at(answer + 1, told);
    assert!(matches!(
        world.events[repeated],
        Event::Peer(Message::Told {
            number: 2,
            new_generation: true,
            ..
        })
    ));
}

#[test]
fn the_loss_is_marked_before_its_generation_is_durable() {
    // A crash between them would leave a generation that the diskless Primary refuses for ever.
    for dies in [false, true] {
        let mut world = World::primary_connected(Detach);
        let from = world.mark();
        world.fate(Kind::SetHeader, Fate::Hold);
        peer_tells(&mut world, 1, 77);
        world.settle();
        assert_eq!(world.superblock.generations.current & !1, BASE);
        if dies {
            world.restart(PartName::Bitmap, &[Kind::SetHeader]);
        }
        world.release(Kind::SetHeader);
        let is_mark = |event: &Event| matches!(event, Event::Header(change) if change.loss_of.is_some());
        let current = world.superblock.generations.current;
        assert_ne!(current & !1, BASE);
        let is_generation =
            |event: &Event| matches!(event, Event::Superblock(block) if block.generations.current == current);
        assert!(world.at(from, is_mark) < world.at(from, is_generation));
        assert!(world.at(from, is_generation) < world.at(from, told));
    }
}

#[test]
fn a_health_file_that_fails_does_not_stop_the_generation() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    world.fate(Kind::SetHeader, Fate::Fail(EIO));
    peer_tells(&mut world, 1, 77);
    world.settle();
    assert_ne!(world.superblock.generations.current & !1, BASE);
    world.at(from, told);
}

#[test]
fn t4_marked_or_diskless_settles_the_peers_loss() {
    for marked in [true, false] {
        let mut world = World::primary_connected(Detach);
        peer_tells(&mut world, 1, 77);
        world.settle();
        assert!(!world.snapshot().peer_loss_settled);
        if marked {
            let generation = world.superblock.generations.current;
            world.hear(Message::Marked { generation });
        } else {
            world.peer.disk = DiskState::Diskless;
            world.peer_state();
        }
        assert!(world.snapshot().peer_loss_settled);
    }
    let mut world = World::primary_connected(Detach);
    peer_tells(&mut world, 1, 77);
    world.settle();
    world.link_down();
    assert!(world.snapshot().peer_loss_settled, "the link is lost");
}

#[test]
fn no_generation_for_a_peer_that_detaches_while_both_are_secondary() {
    let mut world = World::connected(Detach);
    let from = world.mark();
    peer_tells(&mut world, 1, 77);
    world.settle();
    let answer = world.at(from, told);
    assert!(matches!(
        world.events[answer],
        Event::Peer(Message::Told {
            new_generation: false,
            ..
        })
    ));
    assert_eq!(world.superblock.generations.slots(), [BASE, 0, 0, 0]);
}

#[test]
fn a_diskless_primary_is_named_a_generation_that_is_durable() {
    let mut world = World::attached(Detach);
    world.peer.attached = false;
    world.peer.disk = DiskState::Diskless;
    world.peer.role = Role::Primary;
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let mut world = world.connect();
    let from = world.mark();
    world.release(Kind::SuperblockWrite);
    assert!(world.at(from, superblock_written) < world.at(from, generations));
    assert_eq!(world.superblock.generations.slots()[1] & !1, BASE);
    // It may not have heard of it. Without the mark it would take it for foreign data at the next connection.
    let from = world.mark();
    world.link_down();
    world.link_up();
    world.settle();
    let info = match &world.events[world.at(from, generations)] {
        Event::Peer(Message::Generations(info)) => *info,
        other => panic!("{other:?}"),
    };
    assert_eq!((info.made_for_loss_of, info.not_primary_since), (77, true));
}

#[test]
fn a_generation_named_to_a_diskless_primary_is_known_as_made_for_it_on_the_next_connection() {
    let mut world = World::attached(Detach);
    world.peer.attached = false;
    world.peer.disk = DiskState::Diskless;
    world.peer.role = Role::Primary;
    let mut world = world.connect();
    let made = world.superblock.generations.slots()[0];
    // It does not hear it.
    world.link_down();
    let from = world.mark();
    world.link_up();
    world.settle();
    let told = |event: &Event| {
        matches!(event, Event::Peer(Message::Generations(info)) if info.current == made
            && info.made_for_loss_of == world.peer.attach_id && info.not_primary_since)
    };
    assert!(world.find(from, told).is_some());
}

#[test]
fn t1_a_diskless_primary_answers_only_after_it_has_noted_the_new_generation() {
    let mut world = World::primary_connected(Detach);
    world.command(Command::Detach { force: false });
    world.settle();
    assert!(world.snapshot().own_loss_settled);
    world.link_down();
    world.peer.ids = [0xABC0, PEER_NEW, BASE, 0];
    world.peer.made_for_loss_of = 0;
    // The same generation as before, at first; then the peer names another for this Primary without a disk.
    world.peer.ids = [PEER_NEW, BASE, 0, 0];
    world.link_up();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    world.fate(Kind::SetHeader, Fate::Hold);
    world.peer.ids = [0xABC0, BASE, PEER_NEW, 0];
    world.peer_generations();
    world.settle();
    assert!(
        !world.snapshot().own_loss_settled,
        "M for the new generation is missing"
    );
    world.release(Kind::SetHeader);
    assert!(world.snapshot().own_loss_settled);
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(0xABC0));
}

/// Its Primary's disk failed at the end of its resync: it may hold this node's generation already, of which this node has not heard.
/// Then the Primary waits for another one.
#[test]
fn t1_a_source_names_another_generation_when_its_targets_disk_fails() {
    let mut world = source();
    world.peer.role = Role::Primary;
    let mut world = world.connect();
    assert_eq!(world.vector().connection, ConnectionState::SyncSource);
    let before = world.superblock.generations.slots()[0];
    for disk in [DiskState::Failed, DiskState::Diskless] {
        world.peer.disk = disk;
        world.peer_state();
        world.settle();
    }
    assert_eq!(world.vector().peer_disk, DiskState::Diskless);
    let [current, _, newest, _] = world.superblock.generations.slots();
    assert_ne!(current & !1, before & !1);
    assert_eq!(
        newest & !1,
        before & !1,
        "the name that the peer may hold stays known"
    );
    let named =
        |event: &Event| matches!(event, Event::Peer(Message::Generations(info)) if info.current == current);
    assert!(world.find(0, named).is_some(), "the peer hears of it");
}

#[test]
fn a_generation_made_for_a_diskless_primary_may_come_before_it_has_merged_the_lists() {
    let diskless = || {
        let mut world = World::primary_connected(Detach);
        world.command(Command::Detach { force: false });
        world.settle();
        world.link_down();
        world.peer.ids = [PEER_NEW, BASE, 0, 0];
        world.fate(Kind::Merge, Fate::Hold);
        world.link_up();
        world.settle();
        assert_eq!(world.vector().connection, ConnectionState::WFReportParams);
        world
    };
    let connection_after = |ids| {
        let mut world = diskless();
        world.peer.ids = ids;
        world.peer_generations();
        world.release(Kind::Merge);
        world.vector().connection
    };
    assert_eq!(
        connection_after([0xABC0, PEER_NEW, BASE, 0]),
        ConnectionState::Connected
    );
    assert_eq!(
        connection_after([0xABC0, BASE, PEER_NEW, 0]),
        ConnectionState::StandAlone,
        "not made from what the application has seen"
    );
}

#[test]
fn an_error_whose_tell_was_lost_with_the_link_is_settled_after_the_next_connect() {
    let mut world = World::primary_connected(PassOn);
    world.fate(Kind::Told, Fate::Hold);
    world.read_error(100);
    world.settle();
    world.link_down();
    world.fates.clear();
    world.settle();
    assert_eq!(world.snapshot().errors_settled.0, 0);
    world.link_up();
    world.settle();
    assert!(world.vector().connection.is_connected_or_better());
    assert_eq!(
        world.snapshot().errors_settled.0,
        1,
        "a write may wait for it (T1)"
    );
}

#[test]
fn a_connection_of_yesterday_changes_nothing() {
    let mut world = World::connected(Detach);
    world.link_down();
    let before = world.vector();
    world.send(StateIn::Peer {
        connection: ConnectionNumber(1),
        message: Message::SyncId { id: 9 },
    });
    world.send(StateIn::PeerRecordsMerged {
        connection: ConnectionNumber(1),
        own_bad: 1,
        peer_bad: 1,
    });
    world.send(StateIn::BitmapExchanged {
        connection: ConnectionNumber(1),
        set_bits: 1,
    });
    assert_eq!(world.vector(), before);
}

#[test]
fn a_peer_that_sends_no_parameters_is_dropped_in_time() {
    let mut world = World::attached(Detach);
    world.command(Command::Connect {
        discard_my_data: false,
    });
    world.connection = 1;
    world.send(StateIn::Link(crate::volume::machine::LinkFact::Up {
        connection: ConnectionNumber(1),
        resolver: false,
        features: 0,
        peer_process: 1,
    }));
    world.pass(10_001);
    assert!(world.events.iter().any(|event| matches!(event, Event::Dropped)));
}

#[test]
fn i23_pass_on_repair_that_is_refused_is_not_asked_without_end() {
    let mut world = World::primary_connected(PassOn);
    world.fate(Kind::Consent, Fate::Fail(-18));
    let from = world.mark();
    world.read_error(100);
    world.settle();
    assert!(world.count(from, request(RequestedChange::ResyncToMe)) <= 2);
}

#[test]
fn a_new_state_part_of_a_source_makes_the_connection_anew() {
    let mut world = source().connect();
    world.restart_state();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFConnection);
    assert!(world.events.iter().any(|event| matches!(event, Event::Dropped)));
    assert_eq!(world.vector().disk, DiskState::UpToDate);
}
