//! Detach: what happens in which order, what is durable, and how every failure on the way ends.

use super::world::*;
use crate::configuration::OnIoError;
use crate::volume::state::DiskState;
use mendblock_storage::format::superblock::Flags;

#[test]
fn e01_read_error_detach_connected() {
    let mut world = World::primary_connected(OnIoError::Detach);
    let from = world.mark();
    world.read_error(100);
    world.settle();
    let failed = world.at(from, published(DiskState::Failed));
    let early = world.at(from, asked(Kind::Persist));
    let tell = world.at(from, tell);
    let pages = world.at(from, |event| matches!(event, Event::Pages));
    let superblock = world.at(from, superblock_written);
    let diskless = world.at(from, published(DiskState::Diskless));
    let _ = early;
    assert!(tell < pages && pages < superblock && superblock < diskless);
    assert!(failed < pages);
    assert!(!world.superblock.flags.contains(Flags::FULL_SYNC));
    assert!(!world.superblock.flags.contains(Flags::WAS_UP_TO_DATE));
    assert!(world.superblock.flags.contains(Flags::CONSISTENT));
    assert!(world.superblock.log_is_clean());
    assert_eq!(world.health.as_ref().unwrap().outdated_since, Some(PEER_NEW));
    assert!(world.snapshot().disk.is_none());
}
