//! Detach: what happens in which order, what is durable, and how every failure on the way ends.

use super::world::*;
use crate::configuration::OnIoError::{CallLocalIoError, Detach, PassOn};
use crate::helper::Handler;
use crate::part::PartName;
use crate::snapshot::Drain;
use crate::volume::machine::{Command, ErrorKind};
use crate::volume::state::{ConnectionState, DetachCause, DetachStep, DiskState, DisklessReason, Role};
use mendblock_net::wire::message::{Message, RequestedChange};
use mendblock_storage::format::superblock::Flags;
use mendblock_storage::units::SectorRange;

/// D1 < D3 < D5 < D8 < D9 < D11, all on a disk that is told about; returns where D5 and D11 stand.
fn assert_order(world: &World, from: usize) -> (usize, usize) {
    let failed = world.at(from, published(DiskState::Failed));
    let told = world.at(from, tell);
    let pages = world.at(from, |event| matches!(event, Event::Pages));
    let superblock = world.at(pages, superblock_written);
    let diskless = world.at(from, published(DiskState::Diskless));
    assert!(failed < pages && told < pages && pages < superblock && superblock < diskless);
    assert!(
        world.find(from, superblock_written) == Some(superblock),
        "one superblock write"
    );
    (told, diskless)
}

fn flags(world: &World) -> Flags {
    world.superblock.flags
}

fn cause(world: &World) -> DetachCause {
    match world.snapshot().reasons.diskless {
        Some(DisklessReason::Detached { cause, .. }) => cause,
        ref other => panic!("{other:?}"),
    }
}

fn records(event: &Event) -> usize {
    match event {
        Event::Peer(Message::Tell { records, .. }) => records.len(),
        _ => 0,
    }
}

#[test]
fn e01_read_error_detach_connected() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    world.read_error(100);
    assert_eq!(
        world.vector().disk,
        DiskState::Failed,
        "in the step of the error (D3)"
    );
    world.settle();
    assert_order(&world, from);
    assert!(!flags(&world).contains(Flags::FULL_SYNC));
    assert!(!flags(&world).contains(Flags::WAS_UP_TO_DATE), "OD");
    assert!(flags(&world).contains(Flags::CONSISTENT));
    assert!(world.superblock.log_is_clean());
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(PEER_NEW));
    assert!(world.snapshot().disk.is_none() && world.snapshot().own_loss_settled);
    assert_eq!(cause(&world), DetachCause::ReadError);
    assert_eq!(world.snapshot().exposed.without_role().0, PEER_NEW);
}

#[test]
fn t1_m_the_loss_is_settled_after_told_and_the_own_mark() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    world.fate(Kind::Told, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    assert!(!world.snapshot().own_loss_settled, "T is missing");
    world.fate(Kind::SetHeader, Fate::Hold);
    world.release(Kind::Told);
    assert!(!world.snapshot().own_loss_settled, "M is missing");
    assert_eq!(
        world.find(from, marked),
        None,
        "T4: marked only when it is durable"
    );
    world.release(Kind::SetHeader);
    assert!(world.snapshot().own_loss_settled);
    assert_eq!(world.vector().disk, DiskState::Failed, "the drain still runs");
    let note = world.at(
        from,
        |event| matches!(event, Event::Header(change) if change.outdated_since == Some(Some(PEER_NEW))),
    );
    assert!(note < world.at(from, marked));
    world.release(Kind::Drain);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

/// The peer's disk fails too before the generation is on it: both attached again, nothing says which lacks what.
#[test]
fn t1_m_an_answer_without_a_generation_settles_no_loss_of_a_primary() {
    let mut world = World::primary_connected(Detach);
    world.told_generation = false;
    world.read_error(100);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(!world.snapshot().own_loss_settled);
    // Of a Secondary's disk nobody is asked to serve anything: the record is enough.
    let mut world = World::connected(Detach);
    world.told_generation = false;
    world.read_error(100);
    world.settle();
    assert!(world.snapshot().own_loss_settled);
}

#[test]
fn t1_m_the_mark_that_comes_after_the_last_superblock_is_waited_for() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Told, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    // Drain and health file are done; only T, M, D8 and D9 are left.
    world.fate(Kind::SetHeader, Fate::Hold);
    world.release(Kind::Told);
    assert!(!world.snapshot().own_loss_settled);
    assert_eq!(
        world.vector().disk,
        DiskState::Failed,
        "D10 before D11: a waiter of T1 still refers to it"
    );
    world.release(Kind::SetHeader);
    assert!(
        world.snapshot().own_loss_settled,
        "else the write that waits for T1 is never answered"
    );
    assert!(world.find(from, marked).is_some(), "T4");
    assert!(world.snapshot().disk.is_none());
}

#[test]
fn t1_m_without_a_health_file_the_superblock_is_the_mark() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::SetHeader, Fate::Fail(EIO));
    world.fate(Kind::Persist, Fate::Fail(EIO));
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    assert!(world.asked(Kind::SuperblockWrite), "D9 is under way");
    assert!(
        !world.snapshot().own_loss_settled,
        "neither file nor superblock names the loss"
    );
    assert_eq!(world.find(from, marked), None, "nothing is marked yet");
    world.release(Kind::SuperblockWrite);
    assert!(!flags(&world).contains(Flags::WAS_UP_TO_DATE));
    assert!(world.snapshot().own_loss_settled && world.snapshot().disk.is_none());
}

#[test]
fn e02_read_error_call_connected() {
    let mut world = World::primary_connected(CallLocalIoError);
    world.fate(Kind::Helper, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    let helper = world.at(from, handler(Handler::LocalIoError));
    assert!(world.at(from, published(DiskState::Failed)) < helper);
    assert!(world.at(from, asked(Kind::Persist)) < helper, "D7, early");
    for told in [tell, marked, superblock_written] {
        assert_eq!(world.find(from, told), None, "T2: nothing told, nothing written");
    }
    assert_eq!(world.find(from, says_disk(DiskState::Failed)), None, "T2");
    assert!(!world.asked(Kind::WriteOut));
    assert!(matches!(
        world.snapshot().writes,
        crate::snapshot::Admission::Held(_)
    ));
    assert_eq!(world.snapshot().reads, crate::snapshot::Admission::Open);
    world.release(Kind::Helper);
    let (told, _) = assert_order(&world, from);
    assert!(helper < told);
    assert_eq!(world.count(from, handler(Handler::LocalIoError)), 1);
}

#[test]
fn d4_waits_for_the_early_health_file_or_a_second() {
    let mut world = World::primary_connected(CallLocalIoError);
    world.fate(Kind::Persist, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.pass(999);
    assert_eq!(world.find(from, handler(Handler::LocalIoError)), None);
    world.pass(2);
    assert_eq!(world.count(from, handler(Handler::LocalIoError)), 1);
    world.pass(60_000);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

#[test]
fn the_request_that_took_the_disk_away_is_named_until_the_next_attach() {
    let mut world = World::primary_connected(Detach);
    world.read_error(100);
    world.read_error(200);
    world.settle();
    let request = world.snapshot().reasons.failed_request.unwrap();
    assert_eq!(request.range, SectorRange::new(800, 8));
    assert_eq!((request.cause, request.errno), (DetachCause::ReadError, EIO));
    world.command(Command::Attach { new_disk: false });
    world.settle();
    assert_ne!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.snapshot().reasons.failed_request, None);
}

#[test]
fn e03_read_error_pass_on_connected() {
    let mut world = World::primary_connected(PassOn);
    world.fate(Kind::Told, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    let named = world.snapshot().reasons.failed_request;
    assert_eq!(named.and_then(|request| request.range), SectorRange::new(800, 8));
    assert_eq!(world.vector().disk, DiskState::Inconsistent);
    assert!(!flags(&world).contains(Flags::CONSISTENT));
    assert!(
        matches!(&world.events[world.at(from, tell)], Event::Peer(Message::Tell { failed: false, records, .. }) if records.len() == 1)
    );
    assert_eq!(
        world.find(from, request(RequestedChange::ResyncToMe)),
        None,
        "not before T"
    );
    assert_eq!(world.snapshot().errors_settled.0, 0);
    world.release(Kind::Told);
    assert_eq!(world.snapshot().errors_settled.0, 1);
    assert_eq!(
        world.count(from, request(RequestedChange::ResyncToMe)),
        1,
        "repairs itself"
    );
    assert_eq!(world.vector().connection, ConnectionState::WFSyncUUID);
    assert_eq!(world.vector().role, Role::Primary);
    assert_eq!(world.peer.ids[0], BASE, "no generation under pass_on");
}

#[test]
fn e05_read_error_bitmap_write_fails() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    world.read_error(100);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(flags(&world).contains(Flags::FULL_SYNC));
    assert!(!world.superblock.log_is_clean());
}

#[test]
fn e06_read_error_bitmap_and_superblock_fail() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    world.fate(Kind::SuperblockWrite, Fate::Fail(EIO));
    let before = world.superblock;
    world.read_error(100);
    world.settle();
    assert_eq!(world.superblock, before);
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(PEER_NEW));
    assert!(world.snapshot().disk.is_none() && world.snapshot().own_loss_settled);
    assert!(
        world
            .alerts
            .iter()
            .any(|alert| alert.contains("could not be marked"))
    );
}

#[test]
fn e07_read_error_every_local_record_fails() {
    let mut world = World::primary_connected(Detach);
    for kind in [
        Kind::WriteOut,
        Kind::SuperblockWrite,
        Kind::SetHeader,
        Kind::Persist,
    ] {
        world.fate(kind, Fate::Fail(EIO));
    }
    world.read_error(100);
    world.settle();
    assert!(world.snapshot().disk.is_none());
    assert!(world.snapshot().own_loss_settled, "reported, then answered");
    assert!(
        world
            .alerts
            .iter()
            .any(|alert| alert.contains("could not be marked"))
    );
}

#[test]
fn e10_two_bad_blocks_in_flight() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    world.fate(Kind::Drain, Fate::Hold);
    world.read_error(100);
    world.read_error(70_000);
    world.settle();
    let told: usize = world.events[from..].iter().map(records).sum();
    assert_eq!(told, 2);
    world.release(Kind::Drain);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(world.snapshot().own_loss_settled);
    assert_eq!(world.count(from, |event| matches!(event, Event::ErrorTaken)), 2);
}

#[test]
fn e11_error_during_the_drain_is_told_and_settled_anew() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    world.read_error(100);
    world.settle();
    assert!(world.snapshot().own_loss_settled);
    world.fate(Kind::Told, Fate::Hold);
    world.read_error(200);
    world.settle();
    assert!(
        !world.snapshot().own_loss_settled,
        "T of the second error is missing"
    );
    world.release(Kind::Drain);
    world.release(Kind::Told);
    assert!(world.snapshot().own_loss_settled);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

#[test]
fn e12_read_and_write_error_in_flight() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    let from = world.mark();
    world.io_error(ErrorKind::Write, 7, EIO);
    world.read_error(100);
    world.settle();
    let detaching = world.snapshot().reasons.detaching.unwrap();
    assert!(detaching.read_error_seen && detaching.uncovered_bits);
    assert_eq!(
        (detaching.cause, detaching.second_cause),
        (DetachCause::WriteError, Some(DetachCause::ReadError))
    );
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    world.release(Kind::Drain);
    assert!(
        flags(&world).contains(Flags::FULL_SYNC),
        "the log does not cover a read error"
    );
    assert_eq!(world.events[from..].iter().map(records).sum::<usize>(), 2);
}

#[test]
fn e20_read_error_detach_disconnected() {
    let mut world = World::primary_alone(Detach);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(
        flags(&world).contains(Flags::WAS_UP_TO_DATE),
        "the newest copy: no OD"
    );
    assert!(!world.snapshot().own_loss_settled, "nobody knows of it");
    let diskless = world.at(from, published(DiskState::Diskless));
    assert!(diskless < world.at(from, handler(Handler::PriOnInconDegr)), "D13");
}

#[test]
fn e22_read_error_pass_on_disconnected() {
    let mut world = World::primary_alone(PassOn);
    world.read_error(100);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::UpToDate, "L2");
    assert_eq!(world.snapshot().errors_settled.0, 1);
}

#[test]
fn e34_write_error_detach_connected() {
    let mut world = World::primary_connected(Detach);
    let from = world.mark();
    world.io_error(ErrorKind::Write, 5, EIO);
    world.settle();
    assert_order(&world, from);
    assert!(!flags(&world).contains(Flags::WAS_UP_TO_DATE) && world.superblock.log_is_clean());
    assert!(world.snapshot().own_loss_settled);
}

#[test]
fn e38_write_error_bitmap_write_fails() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    world.io_error(ErrorKind::Write, 5, EIO);
    world.settle();
    assert!(!flags(&world).contains(Flags::FULL_SYNC), "the log covers it");
    assert!(!world.superblock.log_is_clean());
}

#[test]
fn e49_no_space_disconnected_stays() {
    let mut world = World::primary_alone(Detach);
    world.io_error(ErrorKind::Write, 5, ENOSPC);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::UpToDate);
}

#[test]
fn i22_e61_e62_meta_errors_fail_the_disk_in_the_same_step_under_every_policy() {
    for policy in [Detach, CallLocalIoError, PassOn] {
        for mut world in [World::primary_connected(policy), World::primary_alone(policy)] {
            world.io_error(ErrorKind::Meta, 0, EIO);
            assert_eq!(world.vector().disk, DiskState::Failed, "{policy:?}");
            world.pass(120_000);
            assert_eq!(world.vector().disk, DiskState::Diskless, "{policy:?}");
        }
    }
}

#[test]
fn e65_bits_that_no_hot_extent_covers_need_the_full_sync_mark() {
    let mut world = World::primary_connected(Detach);
    world.uncovered = true;
    world.fate(Kind::WriteOut, Fate::Fail(EIO));
    world.io_error(ErrorKind::Write, 5, EIO);
    world.settle();
    assert!(flags(&world).contains(Flags::FULL_SYNC));
}

#[test]
fn e69_e70_the_last_copy_whose_list_is_on_no_file_must_not_pass_for_current() {
    let mut world = World::primary_alone(Detach);
    world.fate(Kind::Persist, Fate::Fail(EIO));
    world.fate(Kind::SetHeader, Fate::Fail(EIO));
    world.read_error(100);
    world.settle();
    assert!(!flags(&world).contains(Flags::WAS_UP_TO_DATE) && flags(&world).contains(Flags::CONSISTENT));
}

#[test]
fn e19_device_gone_writes_nothing_more() {
    let mut world = World::primary_connected(PassOn);
    let from = world.mark();
    world.io_error(ErrorKind::Read, 1, ENODEV);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.find(from, superblock_written), None);
    assert!(!world.events[from..].iter().any(asked(Kind::WriteOut)));
    assert_eq!(cause(&world), DetachCause::DeviceGone);
    assert!(world.snapshot().own_loss_settled);
}

#[test]
fn e79_connection_lost_while_telling() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Told, Fate::Hold);
    world.read_error(100);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Failed);
    world.link_down();
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(!world.snapshot().own_loss_settled, "T was not reached");
    assert!(
        flags(&world).contains(Flags::WAS_UP_TO_DATE),
        "no generation was named: no OD"
    );
    // The link comes back; the peer made a generation for this loss, and it is accepted.
    world.fates.clear();
    world.peer.ids = [PEER_NEW, BASE, 0, 0];
    world.peer.made_for_loss_of = world.health.as_ref().unwrap().attach_id;
    let from = world.mark();
    world.link_up();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    assert_eq!(world.snapshot().exposed.without_role().0, PEER_NEW);
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(PEER_NEW));
    let note = world.at(
        from,
        |event| matches!(event, Event::Header(change) if change.outdated_since.is_some()),
    );
    assert!(note < world.at(from, marked));
    assert!(world.snapshot().own_loss_settled);
}

#[test]
fn e80_drain_deadline() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    world.read_error(100);
    world.pass(9_999);
    assert_eq!(world.snapshot().drain, Some(Drain::Wait));
    world.pass(2);
    assert_eq!(world.snapshot().drain, Some(Drain::Abandon));
    world.pass(10_001);
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert!(!world.superblock.log_is_clean());
}

#[test]
fn e81_error_during_admin_detach() {
    let mut world = World::primary_connected(CallLocalIoError);
    world.fate(Kind::Drain, Fate::Hold);
    let from = world.mark();
    let id = world.command(Command::Detach { force: false });
    world.settle();
    world.read_error(100);
    world.settle();
    world.release(Kind::Drain);
    assert_eq!(world.find(from, handler(Handler::LocalIoError)), None);
    assert_eq!(
        world.snapshot().reasons.diskless,
        Some(DisklessReason::Detached {
            cause: DetachCause::Admin,
            second_cause: Some(DetachCause::ReadError)
        })
    );
    assert_eq!(world.answer(id).code, 1);
}

#[test]
fn e82_helper_hangs() {
    let mut world = World::primary_connected(CallLocalIoError);
    world.fate(Kind::Helper, Fate::Hold);
    world.read_error(100);
    world.pass(30_000);
    assert_eq!(world.vector().disk, DiskState::Failed);
    world.pass(2_001);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}

#[test]
fn e84_helper_cannot_start() {
    let mut world = World::primary_connected(CallLocalIoError);
    world.fate(Kind::Helper, Fate::Fail(127));
    let from = world.mark();
    world.read_error(100);
    world.settle();
    assert_order(&world, from);
}

#[test]
fn e86_admin_detach_connected() {
    let mut world = World::primary_connected(CallLocalIoError);
    let from = world.mark();
    let id = world.command(Command::Detach { force: false });
    world.settle();
    let consent = world.at(from, request(RequestedChange::Detach));
    assert!(consent < world.at(from, asked(Kind::Quiesce)));
    assert_order(&world, from);
    assert_eq!(
        world.find(from, handler(Handler::LocalIoError)),
        None,
        "not for an order"
    );
    assert!(!flags(&world).contains(Flags::WAS_UP_TO_DATE) && world.superblock.log_is_clean());
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (1, 0));
    let diskless = world.at(from, published(DiskState::Diskless));
    assert!(world.at(from, |event| matches!(event, Event::Answered(of) if *of == id)) + 2 >= diskless);
}

#[test]
fn e87_admin_detach_last_copy() {
    let mut world = World::primary_alone(Detach);
    let id = world.command(Command::Detach { force: false });
    world.settle();
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-2, 17));
    assert_eq!(world.vector().disk, DiskState::UpToDate);
}

#[test]
fn e88_admin_detach_secondary_alone() {
    let mut world = World::attached(Detach);
    let id = world.command(Command::Detach { force: false });
    world.settle();
    assert_eq!(world.answer(id).code, 1);
    assert!(flags(&world).contains(Flags::WAS_UP_TO_DATE));
}

#[test]
fn e89_admin_detach_refused_by_the_peer() {
    let mut world = World::connected(Detach);
    world.fate(Kind::Consent, Fate::Fail(-2));
    let id = world.command(Command::Detach { force: false });
    world.settle();
    assert_eq!((world.answer(id).code, world.answer(id).exit_code), (-10, 11));
    assert_eq!(world.vector().disk, DiskState::UpToDate);
}

#[test]
fn detach_of_the_only_good_copy_of_a_block_is_refused() {
    let mut world = World::attached(Detach);
    world.peer.peer_bad = 1;
    let mut world = world.connect();
    let id = world.command(Command::Detach { force: false });
    world.settle();
    assert_eq!(world.answer(id).exit_code, 17);
    assert!(world.vector().disk.is_usable());
}

#[test]
fn e90_a_second_detach_joins_the_first() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    let first = world.command(Command::Detach { force: false });
    world.settle();
    let second = world.command(Command::Detach { force: false });
    world.settle();
    assert!(!world.is_answered(first) && !world.is_answered(second));
    world.release(Kind::Drain);
    assert_eq!((world.answer(first).code, world.answer(second).code), (1, 1));
}

#[test]
fn e91_forced_detach_returns_after_failed() {
    for mut world in [World::primary_connected(Detach), World::primary_alone(Detach)] {
        world.fate(Kind::Drain, Fate::Hold);
        let id = world.command(Command::Detach { force: true });
        assert_eq!(world.answer(id).exit_code, 0);
        assert_eq!(world.vector().disk, DiskState::Failed);
        assert_eq!(world.snapshot().drain, Some(Drain::Abandon));
        world.pass(20_000);
        assert_eq!(world.vector().disk, DiskState::Diskless);
    }
}

#[test]
fn forced_detach_forces_the_detach_that_waits() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    let first = world.command(Command::Detach { force: false });
    world.settle();
    assert_eq!(world.snapshot().drain, Some(Drain::Wait));
    let second = world.command(Command::Detach { force: true });
    assert_eq!(world.snapshot().drain, Some(Drain::Abandon), "at once");
    assert_eq!(world.answer(second).exit_code, 0);
    world.pass(20_000);
    assert_eq!(world.answer(first).exit_code, 0);
}

#[test]
fn e148_generation_not_made_twice() {
    let mut world = World::primary_connected(Detach);
    world.peer.role = Role::Secondary;
    world.fate(Kind::Drain, Fate::Hold);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    world.restart(
        PartName::Bitmap,
        &[Kind::SetHeader, Kind::Persist, Kind::WriteOut],
    );
    world.read_error(101);
    world.settle();
    let attach_ids: Vec<u64> = world.events[from..]
        .iter()
        .filter_map(|event| match event {
            Event::Peer(Message::Tell {
                attach_id, failed, ..
            }) => failed.then_some(*attach_id),
            _ => None,
        })
        .collect();
    assert_eq!(attach_ids.len(), 2);
    assert_eq!(attach_ids[0], attach_ids[1], "by which the peer knows the loss");
}

#[test]
fn i6_i23_every_step_that_never_answers_has_a_deadline() {
    let kinds = [
        Kind::Persist,
        Kind::SetHeader,
        Kind::Helper,
        Kind::Drain,
        Kind::WriteOut,
        Kind::SuperblockWrite,
    ];
    for policy in [Detach, CallLocalIoError] {
        for held in 0..(1 << kinds.len()) {
            let mut world = World::primary_connected(policy);
            for (bit, kind) in kinds.iter().enumerate() {
                if held & (1 << bit) != 0 {
                    world.fate(*kind, Fate::Hold);
                }
            }
            world.read_error(100);
            let mut last = DetachStep::Note;
            for _ in 0..120 {
                world.pass(1_000);
                if let Some(detaching) = world.snapshot().reasons.detaching {
                    assert!(detaching.step >= last || detaching.step == DetachStep::TellPeer);
                    last = detaching.step;
                    assert!(
                        world.snapshot().waits.iter().any(|wait| wait.until.is_some()),
                        "P8: the wait names its deadline"
                    );
                }
            }
            assert_eq!(world.vector().disk, DiskState::Diskless, "{policy:?} {held:06b}");
        }
    }
}

#[test]
fn e153_pending_detach_runs_when_the_peer_is_current() {
    let mut world = World::attached(Detach);
    world.peer.disk = DiskState::Inconsistent;
    world.peer.ids = [4, 0, 0, 0];
    let mut world = world.connect();
    assert_eq!(world.vector().connection, ConnectionState::SyncSource);
    world.read_error(100);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::UpToDate, "L1");
    world.peer.disk = DiskState::UpToDate;
    world.peer_state();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    world.pass(999);
    assert_eq!(world.vector().disk, DiskState::UpToDate);
    world.pass(2);
    assert_eq!(world.vector().disk, DiskState::Diskless);
}
