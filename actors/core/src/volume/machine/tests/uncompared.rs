//! A disk fails during a handshake: what was not compared must not pass for current.

use super::world::*;
use crate::configuration::OnIoError::Detach;
use crate::volume::machine::ErrorKind;
use crate::volume::state::{ConnectionState, DisconnectReason, DiskState, Role};

#[test]
fn a_primary_whose_disk_fails_during_the_handshake_refuses_old_data() {
    // It went on alone under a new generation; the peer would have been brought up to date from its disk.
    let mut world = World::primary_connected(Detach);
    world.link_down();
    world.settle();
    assert_ne!(world.superblock.generations.slots()[0] | 1, BASE | 1);
    world.fate(Kind::Merge, Fate::Hold);
    world.link_up();
    assert_eq!(world.vector().connection, ConnectionState::WFReportParams);
    world.io_error(ErrorKind::Write, 7, EIO);
    world.release(Kind::Merge);
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::StandAlone);
    assert_eq!(
        world.snapshot().reasons.disconnected,
        Some(DisconnectReason::DataNotCurrent)
    );
}

#[test]
fn a_node_behind_a_disk_that_failed_during_the_handshake_is_outdated() {
    for (newer, disk) in [(true, DiskState::Outdated), (false, DiskState::UpToDate)] {
        let mut world = World::attached(Detach);
        if newer {
            world.peer.ids = [0x2000, BASE, 0, 0];
            world.peer.exposed = 0x2000;
        }
        (world.peer.role, world.peer.disk) = (Role::Primary, DiskState::Failed);
        let world = world.connect();
        let vector = world.vector();
        assert_eq!(
            (vector.connection, vector.disk),
            (ConnectionState::Connected, disk)
        );
    }
}
