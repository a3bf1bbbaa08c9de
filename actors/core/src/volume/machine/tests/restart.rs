//! E78: a part dies in each step of a detach; the end is the one without the death.

use super::world::*;
use crate::configuration::OnIoError::{self, CallLocalIoError, Detach};
use crate::helper::Handler;
use crate::part::PartName;
use crate::volume::state::DiskState;
use mendblock_storage::format::superblock::Flags;

fn died(policy: OnIoError, at: Kind) -> World {
    let mut world = World::primary_connected(policy);
    world.fate(at, Fate::Hold);
    world.read_error(100);
    world.settle();
    world
}

#[test]
fn e78_state_part_dies_in_every_step() {
    let steps = [
        Kind::Persist,
        Kind::Helper,
        Kind::Told,
        Kind::Drain,
        Kind::SetHeader,
        Kind::WriteOut,
        Kind::SuperblockWrite,
        Kind::Close,
    ];
    for policy in [Detach, CallLocalIoError] {
        for at in steps {
            let mut world = died(policy, at);
            world.restart_state();
            world.fates.clear();
            world.pass(120_000);
            assert_eq!(world.vector().disk, DiskState::Diskless, "{policy:?} {at:?}");
            assert!(world.snapshot().disk.is_none(), "{policy:?} {at:?}");
            assert_eq!(world.snapshot().drain, None);
            let helpers = world.count(0, handler(Handler::LocalIoError));
            assert_eq!(
                helpers,
                usize::from(policy == CallLocalIoError),
                "{at:?}: once, and not never (I8)"
            );
        }
    }
}

#[test]
fn e78_what_the_peer_said_before_the_death_is_in_the_last_superblock() {
    let mut world = died(Detach, Kind::Drain);
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(PEER_NEW));
    world.restart_state();
    world.fates.clear();
    world.pass(60_000);
    assert!(world.snapshot().disk.is_none());
    assert!(
        !world.superblock.flags.contains(Flags::WAS_UP_TO_DATE),
        "OD as without the death"
    );
}

#[test]
fn e78_bitmap_part_dies_in_every_step() {
    for policy in [Detach, CallLocalIoError] {
        for at in [
            Kind::Persist,
            Kind::Drain,
            Kind::SetHeader,
            Kind::WriteOut,
            Kind::SuperblockWrite,
        ] {
            let mut world = died(policy, at);
            world.restart(
                PartName::Bitmap,
                &[Kind::Persist, Kind::SetHeader, Kind::WriteOut],
            );
            world.release(at);
            assert!(
                world.snapshot().disk.is_none(),
                "{policy:?} {at:?}: asked again, no deadline is needed"
            );
            assert!(!world.superblock.flags.contains(Flags::WAS_UP_TO_DATE));
        }
    }
}

#[test]
fn e78_the_header_change_of_the_dead_bitmap_part_is_made_again() {
    let mut world = World::primary_connected(Detach);
    world.fate(Kind::Drain, Fate::Hold);
    world.fate(Kind::SetHeader, Fate::Hold);
    world.read_error(100);
    world.settle();
    assert!(world.asked(Kind::SetHeader), "outdated since");
    world.restart(
        PartName::Bitmap,
        &[Kind::Persist, Kind::SetHeader, Kind::WriteOut],
    );
    world.release(Kind::SetHeader);
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(PEER_NEW), "M");
    assert!(world.snapshot().own_loss_settled);
}

#[test]
fn e78_disk_part_dies_in_d9_and_d12() {
    for at in [Kind::SuperblockWrite, Kind::Close] {
        let mut world = died(Detach, at);
        world.restart(PartName::Disk, &[Kind::SuperblockWrite, Kind::Close]);
        world.release(at);
        assert!(world.snapshot().disk.is_none(), "{at:?}");
        assert!(!world.superblock.flags.contains(Flags::WAS_UP_TO_DATE));
    }
}

#[test]
fn e78_helper_part_dies_with_the_handler() {
    let mut world = died(CallLocalIoError, Kind::Helper);
    world.restart(PartName::Helper, &[Kind::Helper]);
    world.settle();
    assert_eq!(world.vector().disk, DiskState::Diskless);
    assert_eq!(world.count(0, handler(Handler::LocalIoError)), 1, "never twice");
}

#[test]
fn a_new_state_part_writes_no_superblock_that_its_predecessors_could_land_on() {
    let mut world = died(Detach, Kind::SuperblockWrite);
    let open = |world: &World| {
        let is_write = |question: &&Question| question.kind() == Kind::SuperblockWrite;
        world.questions.iter().filter(is_write).count()
    };
    assert_eq!(open(&world), 1);
    world.restart_state();
    world.pass(1_000);
    assert_eq!(open(&world), 1, "the predecessor's is still in the kernel");
    world.release(Kind::SuperblockWrite);
    world.pass(60_000);
    assert!(world.snapshot().disk.is_none());
    assert!(!world.superblock.flags.contains(Flags::WAS_UP_TO_DATE));
}
