//! Commands: what is durable before the answer, refusals with DRBD's numbers, deadlines.

use super::world::*;
use crate::bitmap::HealthHeader;
use crate::configuration::OnIoError::Detach;
use crate::part::PartName;
use crate::volume::machine::{Command, CommandAnswer, ErrorKind};
use crate::volume::state::{ConnectionState, DisconnectReason, DiskState, Role};
use mendblock_net::wire::message::{Message, RequestedChange};
use mendblock_storage::format::superblock::Flags;

fn run(world: &mut World, command: Command) -> u64 {
    let id = world.command(command);
    world.settle();
    id
}

const PRIMARY: Command = Command::Primary { force: false };

#[test]
fn promotion_is_durable_before_it_is_shown() {
    let mut world = World::connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let from = world.mark();
    let id = run(&mut world, PRIMARY);
    assert_eq!(world.vector().role, Role::Secondary);
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.vector().role, Role::Primary);
    assert!(world.superblock.flags.contains(Flags::PRIMARY_IND));
    assert_eq!(world.superblock.generations.current & 1, 1);
    assert!(world.at(from, request(RequestedChange::Promote)) < world.at(from, superblock_written));
    assert_eq!(world.answer(id).code, 1);
    let id = run(&mut world, PRIMARY);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (2, 0));
}

/// Whoever gives orders by itself (a node at its start) has to know that the same order is worth a second try.
#[test]
fn a_command_beside_another_one_is_told_so() {
    let mut world = World::connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let promotion = run(&mut world, PRIMARY);
    let connect = Command::Connect {
        discard_my_data: false,
    };
    let busy = run(&mut world, connect.clone());
    let answer = world.answer(busy);
    assert_eq!((answer.code, answer.exit_code), (CommandAnswer::BUSY, 11));
    assert!(answer.text.contains("promotion"), "{}", answer.text);
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.answer(promotion).code, 1);
    let again = run(&mut world, connect);
    assert_eq!(world.answer(again).code, 125);
}

#[test]
fn promotion_alone_names_a_generation() {
    let world = World::primary_alone(Detach);
    let slots = world.superblock.generations.slots();
    assert_ne!(slots[0] & !1, BASE);
    assert_eq!(slots[1], BASE);
    assert_eq!(world.snapshot().exposed.0, slots[0]);
}

#[test]
fn promotion_refusals() {
    let mut world = World::new(Detach);
    world.settle();
    let id = run(&mut world, PRIMARY);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-2, 17));
    let mut world = World::connected(Detach);
    world.peer.role = Role::Primary;
    world.peer_state();
    let id = run(&mut world, PRIMARY);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-1, 11));
    let mut world = World::connected(Detach);
    world.fate(Kind::Consent, Fate::Fail(-1));
    let id = run(&mut world, PRIMARY);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-10, 11));
}

#[test]
fn promotion_by_force() {
    let mut world = World::new(Detach);
    world.superblock.flags = Flags::CONSISTENT.with(Flags::AL_CLEAN);
    world.health = Some(HealthHeader {
        device_id: DEVICE_ID,
        outdated_since: Some(PEER_NEW),
        ..HealthHeader::default()
    });
    let mut world = world.attach();
    let from = world.mark();
    let id = run(&mut world, Command::Primary { force: true });
    assert_eq!(world.answer(id).code, 1);
    assert_eq!(
        (world.vector().role, world.vector().disk),
        (Role::Primary, DiskState::UpToDate)
    );
    assert_eq!(world.health.as_ref().unwrap().outdated_since, None);
    assert_ne!(world.superblock.generations.current & !1, BASE);
    let written = world.at(
        from,
        |event| matches!(event, Event::Superblock(block) if block.flags.contains(Flags::WAS_UP_TO_DATE)),
    );
    let cleared = world.at(
        from,
        |event| matches!(event, Event::Header(change) if change.outdated_since == Some(None)),
    );
    assert!(written < cleared, "both end, superblock first");
}

#[test]
fn v18_a_newer_unattached_disk_forbids_promotion() {
    let mut world = World::attached(Detach);
    world.peer.attached = false;
    world.peer.disk = DiskState::Diskless;
    world.peer.ids = [0x2000, BASE, 0, 0];
    world.peer.exposed = 0;
    let mut world = world.connect();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    let id = run(&mut world, PRIMARY);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-2, 17));
    assert_eq!(world.vector().role, Role::Secondary);
}

#[test]
fn promotion_has_a_deadline_at_each_stage() {
    for kind in [Kind::Consent, Kind::SuperblockWrite] {
        let mut world = World::connected(Detach);
        world.fate(kind, Fate::Hold);
        let id = run(&mut world, PRIMARY);
        world.pass(9_999);
        assert!(!world.is_answered(id));
        world.pass(2);
        assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-18, 11));
        world.fates.clear();
        world.settle();
        assert_eq!(world.vector().role, Role::Secondary);
        assert!(!world.superblock.flags.contains(Flags::PRIMARY_IND), "{kind:?}");
        let id = run(&mut world, PRIMARY);
        assert_eq!(world.answer(id).code, 1, "{kind:?}");
    }
}

#[test]
fn e66_superblock_error_on_promotion() {
    for connected in [true, false] {
        let mut world = if connected {
            World::connected(Detach)
        } else {
            World::attached(Detach)
        };
        world.fate(Kind::SuperblockWrite, Fate::Fail(EIO));
        let id = run(&mut world, PRIMARY);
        world.pass(60_000);
        assert_eq!(world.vector().disk, DiskState::Diskless);
        assert_eq!(world.vector().role == Role::Primary, connected);
        assert_eq!(world.answer(id).code == 1, connected);
    }
}

#[test]
fn the_peer_is_lost_while_it_is_asked() {
    let mut world = World::connected(Detach);
    world.fate(Kind::Consent, Fate::Hold);
    let id = run(&mut world, PRIMARY);
    world.link_down();
    world.settle();
    assert_eq!(world.answer(id).code, 1);
    assert_eq!(
        world.superblock.generations.slots()[1],
        BASE,
        "under the rules for a node alone"
    );
}

/// The peer agreed for the time being: alone, this node has the last copy that it is Primary of.
#[test]
fn the_peer_is_lost_while_writes_are_retired_for_what_it_agreed_to() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Quiesce, Fate::Hold);
    let id = run(&mut world, Command::Detach { force: false });
    assert!(world.asked(Kind::Quiesce));
    world.link_down();
    world.release(Kind::Quiesce);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-2, 17));
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    assert_eq!(world.snapshot().writes, crate::snapshot::Admission::Open);

    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Quiesce, Fate::Hold);
    let id = run(&mut world, Command::Disconnect { force: false });
    world.link_down();
    assert_eq!(world.answer(id).code, 1);
    assert_eq!(world.vector().connection, ConnectionState::StandAlone);
}

#[test]
fn v17_demotion_writes_pages_before_the_indicator_is_cleared() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    let id = run(&mut world, Command::Secondary);
    let quiesce = world.at(from, asked(Kind::Quiesce));
    let pages = world.at(from, |event| matches!(event, Event::Pages));
    let cleared = world.at(
        from,
        |event| matches!(event, Event::Superblock(block) if !block.flags.contains(Flags::PRIMARY_IND)),
    );
    assert!(quiesce < pages && pages < cleared);
    assert_eq!(world.answer(id).code, 1);
    assert_eq!(world.superblock.generations.current & 1, 0);
}

#[test]
fn v17_also_where_the_peers_only_disk_is_here() {
    let mut world = World::attached(Detach);
    world.peer.attached = false;
    world.peer.disk = DiskState::Diskless;
    world.peer.role = Role::Primary;
    let mut world = world.connect();
    assert!(world.superblock.flags.contains(Flags::PRIMARY_IND));
    let from = world.mark();
    world.fate(Kind::WriteOut, Fate::Hold);
    world.peer.role = Role::Secondary;
    world.peer_state();
    world.settle();
    assert_eq!(world.find(from, superblock_written), None);
    world.restart(PartName::Bitmap, &[Kind::WriteOut]);
    world.release(Kind::WriteOut);
    assert!(!world.superblock.flags.contains(Flags::PRIMARY_IND));
}

#[test]
fn e67_demotion_with_a_failing_disk_succeeds() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    let id = run(&mut world, Command::Secondary);
    world.pass(60_000);
    assert_eq!(world.answer(id).code, 1);
    assert_eq!(
        (world.vector().role, world.vector().disk),
        (Role::Secondary, DiskState::Diskless)
    );
}

/// Until then a loss of power would make this node a crashed Primary, whose copy wins.
#[test]
fn a_demotion_is_durable_before_it_is_answered() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = run(&mut world, Command::Secondary);
    assert_eq!(world.vector().role, Role::Secondary, "no write begins any more");
    assert!(!world.is_answered(id));
    world.fate(Kind::Consent, Fate::Answer);
    let from = world.mark();
    world.hear(Message::ChangeRequest {
        request: 3,
        change: RequestedChange::Promote,
    });
    let not_now = |event: &Event| matches!(event, Event::Peer(Message::ChangeAnswer { code: -19, .. }));
    world.at(from, not_now);
    world.release(Kind::SuperblockWrite);
    assert!(!world.superblock.flags.contains(Flags::PRIMARY_IND));
    assert_eq!(world.answer(id).code, 1);
    let id = run(&mut world, Command::Secondary);
    assert_eq!(world.answer(id).code, 2);
}

#[test]
fn a_demotion_that_was_given_up_is_not_done_before_it_is_durable() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = run(&mut world, Command::Secondary);
    world.pass(10_001);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-18, 11));
    let again = run(&mut world, Command::Secondary);
    assert!(!world.is_answered(again));
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.answer(again).code, 1);
    assert!(!world.superblock.flags.contains(Flags::PRIMARY_IND));
}

#[test]
fn a_demotion_whose_superblock_fails_is_answered_when_the_disk_is_gone() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = run(&mut world, Command::Secondary);
    world.fate(Kind::Close, Fate::Hold);
    world.fate(Kind::Told, Fate::Hold);
    world.io_error(ErrorKind::Meta, 0, EIO);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Failed);
    assert!(!world.is_answered(id));
    world.fates.clear();
    world.pass(60_000);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.answer(id).code, 1);
}

#[test]
fn demotion_is_refused_while_clients_are_there() {
    let mut world = World::primary_alone(Detach);
    world.send(crate::volume::machine::StateIn::Openers { count: 1 });
    let id = run(&mut world, Command::Secondary);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-12, 11));
    assert_eq!(world.vector().role, Role::Primary);
}

#[test]
fn the_volume_part_dies_while_it_retires_writes() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Quiesce, Fate::Hold);
    let id = run(&mut world, Command::Secondary);
    world.restart(PartName::Volume, &[Kind::Quiesce]);
    world.release(Kind::Quiesce);
    assert_eq!(world.answer(id).code, 1);
}

#[test]
fn one_command_at_a_time() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Quiesce, Fate::Hold);
    let first = run(&mut world, Command::Secondary);
    let second = run(&mut world, Command::Invalidate);
    assert_eq!(world.answer(second).exit_code, 11);
    assert!(world.answer(second).text.contains("demotion"));
    world.release(Kind::Quiesce);
    assert_eq!(world.answer(first).code, 1);
}

#[test]
fn connect_refusals() {
    let mut world = World::connected(Detach);
    let id = run(
        &mut world,
        Command::Connect {
            discard_my_data: false,
        },
    );
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (125, 10));
    let mut world = World::primary_alone(Detach);
    let id = run(
        &mut world,
        Command::Connect {
            discard_my_data: true,
        },
    );
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (123, 10));
}

#[test]
fn disconnect_names_a_generation_and_says_why() {
    for force in [false, true] {
        let mut world = World::primary_connected(Detach);
        let id = run(&mut world, Command::Disconnect { force });
        assert_eq!((world.answer(id).code, world.answer(id).exit_code), (1, 0));
        assert_eq!(world.vector().connection, ConnectionState::StandAlone);
        let reason = if force {
            DisconnectReason::AdminForced
        } else {
            DisconnectReason::Admin
        };
        assert_eq!(world.snapshot().reasons.disconnected, Some(reason));
        assert_eq!(world.superblock.generations.slots()[1] & !1, BASE);
        assert!(world.snapshot().alone_settled);
        let id = run(&mut world, Command::Disconnect { force: false });
        assert_eq!(world.answer(id).code, 2);
    }
}

#[test]
fn disconnect_of_a_diskless_primary_is_refused() {
    let mut world = World::primary_connected(Detach);
    run(&mut world, Command::Detach { force: false });
    let id = run(&mut world, Command::Disconnect { force: false });
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-2, 17));
}

#[test]
fn invalidate() {
    let mut world = World::attached(Detach);
    let id = run(&mut world, Command::Invalidate);
    assert_eq!(world.answer(id).code, 1);
    assert_eq!(world.vector().disk, DiskState::Inconsistent);
    assert!(!world.superblock.flags.contains(Flags::CONSISTENT));
    let mut world = World::primary_alone(Detach);
    let id = run(&mut world, Command::Invalidate);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-15, 11));
    let mut world = World::new(Detach);
    world.settle();
    let id = run(&mut world, Command::Invalidate);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-4, 16));
}

#[test]
fn invalidate_connected_marks_the_full_sync_before_the_bits() {
    let mut world = World::connected(Detach);
    world.fate(Kind::SetAll, Fate::Hold);
    let from = world.mark();
    let id = run(&mut world, Command::Invalidate);
    assert_eq!(world.answer(id).code, 1);
    assert!(world.superblock.flags.contains(Flags::FULL_SYNC));
    assert!(world.at(from, superblock_written) < world.at(from, asked(Kind::SetAll)));
    assert!(!world.events[from..].iter().any(asked(Kind::Exchange)));
    world.release(Kind::SetAll);
    assert_eq!(world.vector().connection, ConnectionState::WFSyncUUID);
}

#[test]
fn the_peers_request_is_answered_once_and_by_the_rules() {
    let answers = |world: &World, from: usize| -> Vec<i32> {
        world.events[from..]
            .iter()
            .filter_map(|event| match event {
                Event::Peer(Message::ChangeAnswer { code, .. }) => Some(*code),
                _ => None,
            })
            .collect()
    };
    for (change, primary, code) in [
        (RequestedChange::Promote, false, 1),
        (RequestedChange::Promote, true, -1),
        (RequestedChange::Detach, false, 1),
        (RequestedChange::Detach, true, 1),
        (RequestedChange::FullSyncToYou, true, -18),
    ] {
        let mut world = if primary {
            World::primary_connected(Detach)
        } else {
            World::connected(Detach)
        };
        let from = world.mark();
        world.hear(Message::ChangeRequest { request: 5, change });
        world.settle();
        assert_eq!(answers(&world, from), [code], "{change:?} {primary}");
    }
    let mut world = World::primary_connected(Detach);
    world.io_error(ErrorKind::Meta, 0, EIO);
    world.settle();
    let from = world.mark();
    world.hear(Message::ChangeRequest {
        request: 6,
        change: RequestedChange::Detach,
    });
    assert_eq!(
        answers(&world, from),
        [-2],
        "this Primary works with the peer's disk"
    );
}

#[test]
fn s46_the_resolvers_command_goes_first() {
    let mut world = World::connected(Detach);
    world.fate(Kind::Consent, Fate::Hold);
    let id = run(&mut world, PRIMARY);
    let from = world.mark();
    world.hear(Message::ChangeRequest {
        request: 5,
        change: RequestedChange::Promote,
    });
    assert!(matches!(
        world.events[from],
        Event::Peer(Message::ChangeAnswer {
            request: 5,
            code: -19,
            ..
        })
    ));
    world.release(Kind::Consent);
    assert_eq!(world.answer(id).code, 1);
}

#[test]
fn a_peer_that_says_not_now_is_asked_again_a_little_later() {
    let mut world = World::connected(Detach);
    world.fate(Kind::Consent, Fate::Fail(-19));
    let from = world.mark();
    let id = run(&mut world, PRIMARY);
    assert_eq!(world.count(from, request(RequestedChange::Promote)), 1);
    world.pass(1_000);
    assert_eq!(world.count(from, request(RequestedChange::Promote)), 6);
    assert!(!world.is_answered(id));
    world.fates.clear();
    world.pass(200);
    assert_eq!(world.answer(id).code, 1);
}

#[test]
fn the_source_of_an_invalidate_of_the_peer() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SetAll, Fate::Hold);
    let from = world.mark();
    world.hear(Message::ChangeRequest {
        request: 5,
        change: RequestedChange::FullSyncToMe,
    });
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapS);
    assert!(world.superblock.flags.contains(Flags::FULL_SYNC));
    assert!(world.at(from, superblock_written) < world.at(from, asked(Kind::SetAll)));
    world.release(Kind::SetAll);
    assert_eq!(world.vector().connection, ConnectionState::SyncSource);
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    assert!(!world.superblock.flags.contains(Flags::FULL_SYNC));
}

#[test]
fn a_detach_that_an_error_has_overtaken_is_answered() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Quiesce, Fate::Hold);
    world.fate(Kind::Close, Fate::Hold);
    let id = world.command(Command::Detach { force: false });
    world.settle();
    world.io_error(ErrorKind::Read, 9, ENODEV);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    world.release(Kind::Quiesce);
    assert_eq!(world.answer(id).exit_code, 0);
}

#[test]
fn a_peer_that_leaves_while_the_promotion_is_stored_does_not_have_the_primarys_generation() {
    let mut world = World::connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = world.command(Command::Primary { force: false });
    world.settle();
    assert!(world.asked(Kind::SuperblockWrite), "the peer has agreed");
    world.link_down();
    let from = world.mark();
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.answer(id).exit_code, 0, "{:?}", world.answer(id));
    assert_eq!(world.superblock.generations.bitmap & !1, BASE);
    let settled = |event: &Event| matches!(event, Event::Published(snapshot) if snapshot.vector.role == Role::Primary && snapshot.alone_settled);
    let named =
        |event: &Event| matches!(event, Event::Superblock(block) if block.generations.bitmap & !1 == BASE);
    assert!(world.at(from, named) < world.at(from, settled));
}

#[test]
fn a_peers_disk_that_leaves_while_the_promotion_is_stored_does_not_have_the_primarys_generation() {
    let mut world = World::connected(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.command(Command::Primary { force: false });
    world.settle();
    (world.peer.attached, world.peer.disk) = (false, DiskState::Diskless);
    world.peer_state();
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.vector().role, Role::Primary);
    assert_eq!(world.superblock.generations.bitmap & !1, BASE);
}
