//! Attach: each step with its failure, what the state is read from, and what is durable before the disk is offered.

use super::world::*;
use crate::bitmap::HealthHeader;
use crate::configuration::OnIoError::{CallLocalIoError, Detach};
use crate::disk::OpenFailure;
use crate::helper::Handler;
use crate::identity::PartGeneration;
use crate::part::PartName;
use crate::volume::machine::{Command, StateIn};
use crate::volume::state::{AttachFailure, ConnectionState, DetachCause, DiskState, DisklessReason, Role};
use mendblock_net::wire::message::Message;
use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
use mendblock_storage::format::superblock::Flags;

fn attach(world: &mut World) -> u64 {
    let id = world.command(Command::Attach { new_disk: false });
    world.settle();
    id
}

fn assert_failed(world: &World, id: u64, failure: AttachFailure) {
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(world.snapshot().disk.is_none());
    assert_eq!(
        world.snapshot().reasons.diskless,
        Some(DisklessReason::AttachFailed(failure))
    );
    assert_ne!(world.answer(id).exit_code, 0);
    assert_eq!(
        world.find(0, superblock_written),
        None,
        "no byte of the superblock was changed"
    );
    assert_eq!(world.count(0, handler(Handler::LocalIoError)), 0);
}

fn fresh(policy: crate::configuration::OnIoError) -> World {
    let mut world = World::new(policy);
    world.settle();
    world
}

#[test]
fn a1_a2_open_fails() {
    let busy = OpenFailure::Busy {
        in_kernel: 3,
        oldest: 99,
    };
    let used = OpenFailure::Failed {
        text: "x".to_owned(),
        errno: None,
        in_use: true,
    };
    let gone = OpenFailure::Failed {
        text: "x".to_owned(),
        errno: Some(2),
        in_use: false,
    };
    for (failure, reason, code) in [
        (busy, AttachFailure::Busy, 124),
        (used, AttachFailure::InUse, 104),
        (gone, AttachFailure::Open, 104),
    ] {
        let mut world = fresh(Detach);
        world.open_failure = Some(failure);
        let id = attach(&mut world);
        assert_failed(&world, id, reason);
        assert_eq!((world.answer(id).code, world.answer(id).exit_code), (code, 10));
    }
}

#[test]
fn e134_attach_superblock_unreadable() {
    let mut world = fresh(CallLocalIoError);
    world.fate(Kind::SuperblockRead, Fate::Fail(EIO));
    let id = attach(&mut world);
    assert_failed(&world, id, AttachFailure::MetaDataIo);
    assert_eq!(world.answer(id).code, 118);
}

#[test]
fn e133_wrong_disk() {
    let mut world = fresh(Detach);
    world.health = Some(HealthHeader {
        device_id: 0xBAD,
        ..HealthHeader::default()
    });
    let id = attach(&mut world);
    assert_failed(&world, id, AttachFailure::OtherDisk);
    assert_eq!(world.answer(id).code, 119);
    let id = world.command(Command::Attach { new_disk: true });
    world.settle();
    assert_eq!(world.answer(id).exit_code, 0);
}

#[test]
fn a5_too_small_for_the_volume() {
    let mut world = World::new(Detach);
    world.peer.volume_sectors *= 2;
    world.peer.sectors *= 2;
    let mut world = world.connect();
    let id = attach(&mut world);
    assert_failed(&world, id, AttachFailure::TooSmall);
    assert_eq!(world.answer(id).code, 111);
}

#[test]
fn a8_data_not_current() {
    let mut world = World::primary_connected(Detach);
    world.read_error(1);
    world.settle();
    world.link_down();
    world.settle();
    assert_eq!(
        (world.vector().role, world.vector().disk),
        (Role::Primary, DiskState::Diskless)
    );
    let before = world.mark();
    let id = attach(&mut world);
    assert_eq!(world.answer(id).code, 150);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.find(before, superblock_written), None);
}

#[test]
fn e136_a9_the_log_of_a_crashed_primary_is_in_the_plan() {
    for (primary, extents) in [(true, vec![3, 9]), (false, Vec::new())] {
        let mut world = fresh(Detach);
        let flags = good_flags().without(Flags::AL_CLEAN);
        world.superblock.flags = if primary {
            flags.with(Flags::PRIMARY_IND)
        } else {
            flags
        };
        world.superblock.log_state = mendblock_storage::format::superblock::LogState::Unclean;
        world.log_extents = Ok(vec![3, 9]);
        attach(&mut world);
        assert_eq!(world.plans[0].extents, extents);
        assert_eq!(world.snapshot().crashed_primary, primary);
        assert_eq!(world.vector().disk, DiskState::UpToDate);
    }
}

#[test]
fn e137_attach_al_unreadable_unclean() {
    for primary in [true, false] {
        let mut world = fresh(Detach);
        let flags = good_flags().without(Flags::AL_CLEAN);
        world.superblock.flags = if primary {
            flags.with(Flags::PRIMARY_IND)
        } else {
            flags
        };
        world.superblock.log_state = mendblock_storage::format::superblock::LogState::Unclean;
        world.log_extents = Err("no usable block".to_owned());
        attach(&mut world);
        assert_eq!(world.plans[0].set_all, primary);
        assert_eq!(world.vector().disk, DiskState::UpToDate);
    }
}

#[test]
fn a10_full_sync_mark_sets_all_and_goes_with_the_commit() {
    let mut world = fresh(Detach);
    world.superblock.flags = good_flags().with(Flags::FULL_SYNC);
    attach(&mut world);
    assert!(world.plans[0].set_all);
    assert!(world.at(0, asked(Kind::Load)) < world.at(0, superblock_written));
    assert!(!world.superblock.flags.contains(Flags::FULL_SYNC));
}

#[test]
fn a10_a11_meta_data_write_fails() {
    for kind in [Kind::Load, Kind::Reset] {
        let mut world = fresh(CallLocalIoError);
        world.fate(kind, Fate::Fail(EIO));
        let id = attach(&mut world);
        assert_failed(&world, id, AttachFailure::MetaDataIo);
    }
}

#[test]
fn a11_the_ring_is_reset_behind_the_bitmap() {
    let world = World::attached(Detach);
    let load = world.at(0, asked(Kind::Load));
    let reset = world.at(0, asked(Kind::Reset));
    let commit = world.at(0, superblock_written);
    assert!(load < reset && reset < commit);
    assert!(!world.superblock.log_is_clean());
    assert!(
        world
            .find(0, |event| matches!(event, Event::Answered(_)))
            .unwrap()
            > commit
    );
}

#[test]
fn a12_state_from_the_flags() {
    for (flags, expected) in [
        (Flags::none(), DiskState::Inconsistent),
        (Flags::CONSISTENT, DiskState::Outdated),
        (good_flags(), DiskState::UpToDate),
    ] {
        let mut world = fresh(Detach);
        world.superblock.flags = flags.with(Flags::AL_CLEAN);
        attach(&mut world);
        assert_eq!(world.vector().disk, expected);
    }
}

#[test]
fn e142_e143_outdated_by_superblock_or_health_file_is_not_promoted() {
    for file in [false, true] {
        let mut world = fresh(Detach);
        if file {
            world.health = Some(HealthHeader {
                device_id: DEVICE_ID,
                outdated_since: Some(PEER_NEW),
                ..HealthHeader::default()
            });
        } else {
            world.superblock.flags = Flags::CONSISTENT.with(Flags::AL_CLEAN);
        }
        attach(&mut world);
        assert_eq!(world.vector().disk, DiskState::Outdated);
        let id = world.command(Command::Primary { force: false });
        world.settle();
        assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-2, 17));
        assert_eq!(world.vector().role, Role::Secondary);
    }
}

#[test]
fn a_record_of_the_disks_own_generation_is_void() {
    for own in [BASE, 0x2000, 0x3000] {
        let mut world = fresh(Detach);
        world.superblock = superblock(good_flags(), [BASE, 0x2000, 0x3000, 0]);
        world.health = Some(HealthHeader {
            device_id: DEVICE_ID,
            outdated_since: Some(own),
            ..HealthHeader::default()
        });
        attach(&mut world);
        assert_eq!(world.vector().disk, DiskState::UpToDate, "{own:x}");
    }
}

#[test]
fn e138_attach_commit_write_fails() {
    let mut world = fresh(CallLocalIoError);
    world.fate(Kind::SuperblockWrite, Fate::Fail(EIO));
    let id = attach(&mut world);
    world.pass(60_000);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_ne!(world.answer(id).exit_code, 0);
    assert_eq!(
        world.count(0, handler(Handler::LocalIoError)),
        0,
        "a failed attach never runs it"
    );
    let reason = world.snapshot().reasons.diskless;
    assert!(
        matches!(
            reason,
            Some(DisklessReason::Detached {
                cause: DetachCause::Attach,
                ..
            })
        ),
        "{reason:?}"
    );
}

#[test]
fn e138_the_error_is_heard_before_the_completion() {
    let mut world = fresh(CallLocalIoError);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = attach(&mut world);
    world.io_error(crate::volume::machine::ErrorKind::Meta, 0, EIO);
    world.fate(Kind::SuperblockWrite, Fate::Fail(EIO));
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.count(0, handler(Handler::LocalIoError)), 0);
    assert_ne!(world.answer(id).exit_code, 0);
}

#[test]
fn every_attach_step_has_a_deadline() {
    let kinds = [
        Kind::Open,
        Kind::SuperblockRead,
        Kind::Health,
        Kind::Log,
        Kind::Load,
        Kind::Reset,
        Kind::SuperblockWrite,
    ];
    for kind in kinds {
        let mut world = fresh(Detach);
        world.superblock.log_state = mendblock_storage::format::superblock::LogState::Unclean;
        world.fate(kind, Fate::Hold);
        let id = attach(&mut world);
        world.pass(9_999);
        assert!(!world.is_answered(id), "{kind:?}");
        world.pass(40_000);
        assert_ne!(world.answer(id).exit_code, 0, "{kind:?}");
        assert_eq!(world.vector().disk, DiskState::Diskless, "{kind:?}");
        // The answer comes after all: it changes nothing, and the disk can be attached again.
        world.fates.clear();
        world.settle();
        let id = attach(&mut world);
        assert_eq!(world.answer(id).exit_code, 0, "{kind:?}");
    }
}

#[test]
fn i6_a_disk_whose_commit_hangs_is_drained_before_it_goes() {
    let mut world = fresh(Detach);
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.fate(Kind::Drain, Fate::Hold);
    attach(&mut world);
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    world.pass(10_001);
    assert_eq!(world.vector().disk, DiskState::Failed, "A13: D3..");
    world.release(Kind::Drain);
    world.pass(60_000);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

#[test]
fn a14_the_handshake_decides_about_a_disk_that_comes_while_connected() {
    let mut world = World::new(Detach).connect();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    let from = world.mark();
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = attach(&mut world);
    assert_eq!(world.vector().disk, DiskState::Negotiating);
    assert_eq!(
        world.find(from, says_disk(DiskState::Negotiating)),
        None,
        "not before A13"
    );
    world.release(Kind::SuperblockWrite);
    assert!(world.at(from, superblock_written) < world.at(from, says_disk(DiskState::Negotiating)));
    assert!(!world.is_answered(id));
    world.peer_parameters();
    world.settle();
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    assert_eq!(world.answer(id).exit_code, 0);
}

#[test]
fn link_lost_while_the_disk_is_negotiated() {
    // The application worked with this disk's generation: it stays. Else it is let go.
    for (known, disk) in [(true, DiskState::UpToDate), (false, DiskState::Diskless)] {
        let mut world = if known {
            let mut world = World::connected(Detach);
            world.command(Command::Detach { force: false });
            world.settle();
            world
        } else {
            World::new(Detach).connect()
        };
        assert_eq!(world.vector().disk, DiskState::Diskless);
        let id = attach(&mut world);
        assert_eq!(world.vector().disk, DiskState::Negotiating);
        world.link_down();
        world.settle();
        assert_eq!(world.vector().disk, disk, "{known}");
        assert_eq!(world.answer(id).exit_code == 0, known, "answered at once");
        world.pass(60_000);
        assert_eq!(world.vector().disk, disk, "{known}: no deadline undoes it");
        assert_eq!(world.snapshot().disk.is_some(), known);
        let lost = world.snapshot().reasons.diskless == Some(DisklessReason::ConnectionLostWhileNegotiating);
        assert_eq!(lost, !known);
    }
}

#[test]
fn a_negotiation_that_does_not_end() {
    let mut world = World::new(Detach).connect();
    let id = attach(&mut world);
    world.pass(10_001);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_ne!(world.answer(id).exit_code, 0);
}

#[test]
fn the_only_disk_of_a_primary_takes_a_generation_before_it_takes_a_write() {
    let mut world = World::primary_alone(Detach);
    let id = world.command(Command::Detach { force: true });
    world.settle();
    assert_eq!(world.answer(id).exit_code, 0);
    world.fates.clear();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    let before = world.superblock.generations.current;
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let id = attach(&mut world);
    assert!(!world.snapshot().alone_settled);
    world.release(Kind::SuperblockWrite);
    assert!(world.snapshot().alone_settled);
    assert_eq!(world.answer(id).exit_code, 0);
    assert_ne!(world.superblock.generations.current | 1, before | 1);
    assert!(world.superblock.flags.contains(Flags::PRIMARY_IND));
}

#[test]
fn a_neighbour_that_dies_during_the_attach_ends_it() {
    for (part, at) in [
        (PartName::Disk, Kind::SuperblockRead),
        (PartName::Bitmap, Kind::Load),
        (PartName::ActivityLog, Kind::Reset),
    ] {
        let mut world = fresh(Detach);
        world.fate(at, Fate::Hold);
        let id = attach(&mut world);
        world.restart(part, &[at]);
        world.fates.clear();
        world.settle();
        assert_failed(&world, id, AttachFailure::Interrupted);
        let id = attach(&mut world);
        assert_eq!(world.answer(id).exit_code, 0);
    }
}

#[test]
fn the_state_part_dies_during_the_attach() {
    for at in [
        Kind::Open,
        Kind::SuperblockRead,
        Kind::Load,
        Kind::SuperblockWrite,
    ] {
        let mut world = fresh(Detach);
        world.fate(at, Fate::Hold);
        attach(&mut world);
        world.restart_state();
        world.fates.clear();
        world.pass(60_000);
        let usable = world.vector().disk.is_usable();
        assert_eq!(usable, world.snapshot().disk.is_some(), "{at:?}");
        if !usable {
            let id = attach(&mut world);
            assert_eq!(world.answer(id).exit_code, 0, "{at:?}");
        }
        assert!(!world.superblock.log_is_clean());
    }
}

#[test]
fn the_anchor_of_the_list_survives_a_new_state_part() {
    use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
    let mut world = World::new(Detach);
    let anchor = StoredAnchor::Present(Anchor {
        health_id: 8,
        sequence: 5,
        record_count: 3,
    });
    world.superblock.anchor = anchor;
    world.health = Some(HealthHeader {
        device_id: DEVICE_ID,
        sequence: 5,
        anchor,
        ..HealthHeader::default()
    });
    let mut world = world.attach();
    assert_eq!(world.superblock.anchor, anchor);
    world.restart_state();
    world.settle();
    assert_eq!(world.superblock.anchor, anchor);
}

#[test]
fn a_list_is_lost_when_its_file_is_older_or_another_one() {
    use mendblock_storage::format::anchor::{Anchor, StoredAnchor};
    let anchor = |health_id, sequence| {
        StoredAnchor::Present(Anchor {
            health_id,
            sequence,
            record_count: 3,
        })
    };
    for (health_id, sequence, lost) in [(8, 5, false), (8, 9, false), (8, 4, true), (7, 9, true)] {
        let mut world = World::new(Detach);
        world.superblock.anchor = anchor(8, 5);
        world.health = Some(HealthHeader {
            device_id: DEVICE_ID,
            sequence,
            anchor: anchor(health_id, sequence),
            ..HealthHeader::default()
        });
        let world = world.attach();
        let plan = world.plans.last().unwrap();
        assert_eq!(plan.list_lost, lost, "file {health_id}, content {sequence}");
    }
}

#[test]
fn attach_of_an_attached_disk_is_refused() {
    let mut world = World::attached(Detach);
    let id = attach(&mut world);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (124, 10));
}

/// Nobody sees from outside that D12 still runs: the disk is Diskless, and the detach was answered.
#[test]
fn an_attach_waits_for_the_end_of_the_detach() {
    for kind in [Kind::Close, Kind::SuperblockWrite] {
        let mut world = World::attached(Detach);
        world.fate(kind, Fate::Hold);
        world.command(Command::Detach { force: false });
        world.settle();
        let id = attach(&mut world);
        assert!(!world.is_answered(id), "{kind:?}");
        world.release(kind);
        assert_eq!(world.answer(id).exit_code, 0, "{:?}", world.answer(id));
        assert_eq!(world.vector().disk, DiskState::UpToDate);
    }
    let mut world = World::attached(Detach);
    world.fate(Kind::Close, Fate::Hold);
    world.command(Command::Detach { force: false });
    world.settle();
    let id = attach(&mut world);
    world.pass(10_001);
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-18, 11));
    world.release(Kind::Close);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

#[test]
fn an_old_attach_answer_is_not_taken_for_a_new_one() {
    let mut world = fresh(Detach);
    world.fate(Kind::Open, Fate::Hold);
    attach(&mut world);
    world.send(StateIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(2),
    });
    world.fates.clear();
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    let closes = world.count(0, asked(Kind::Close));
    assert!(closes >= 1, "the device that nobody waits for is closed");
    assert!(
        !world
            .events
            .iter()
            .any(|event| matches!(event, Event::Peer(Message::State(_))))
    );
}

/// The bitmap part could not write its list: the superblock names it at once, whatever else there is to write.
#[test]
fn a_list_that_could_not_be_written_is_named_in_the_superblock_at_once() {
    let mut world = World::attached(Detach);
    let from = world.mark();
    let anchor = StoredAnchor::Present(Anchor {
        health_id: 7,
        sequence: 9,
        record_count: 1,
    });
    world.send(StateIn::ListUnwritten(anchor));
    world.settle();
    world.at(
        from,
        |event| matches!(event, Event::Superblock(block) if block.anchor == anchor),
    );
}
