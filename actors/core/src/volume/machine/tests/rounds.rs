//! Two resyncs on one connection: what was stored for the first, which was given up, starts nothing of the second.

use super::world::*;
use crate::configuration::OnIoError::Detach;
use crate::volume::generations::identifiers::Generation;
use crate::volume::state::{ConnectionState, DiskState, Role};
use mendblock_net::wire::message::{Message, RequestedChange};

fn sync_id(event: &Event) -> bool {
    matches!(event, Event::Peer(Message::SyncId { .. }))
}

#[test]
fn a_start_that_becomes_durable_late_is_not_the_start_of_the_next_resync() {
    let mut world = World::connected(Detach);
    world.hear(Message::ChangeRequest {
        request: 7,
        change: RequestedChange::FullSyncToMe,
    });
    world.fate(Kind::SetHeader, Fate::Hold);
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapS);
    // START-SOURCE is under way when the peer's disk fails.
    world.fate(Kind::SuperblockWrite, Fate::Hold);
    world.release(Kind::SetHeader);
    assert!(world.asked(Kind::SuperblockWrite));
    world.peer.disk = DiskState::Failed;
    world.peer_state();
    assert_eq!(world.vector().connection, ConnectionState::Connected);
    (world.peer.attached, world.peer.disk) = (false, DiskState::Diskless);
    world.peer_state();
    // It comes again, and the bitmaps of this resync are not exchanged yet.
    world.fate(Kind::Exchange, Fate::Hold);
    (world.peer.attached, world.peer.disk) = (true, DiskState::Negotiating);
    world.peer_parameters();
    world.settle();
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapS);
    let from = world.mark();
    world.release(Kind::SuperblockWrite);
    assert_eq!(world.vector().connection, ConnectionState::WFBitMapS);
    assert_eq!(world.count(from, sync_id), 0);
    world.release(Kind::Exchange);
    assert_eq!(world.vector().connection, ConnectionState::SyncSource);
    assert_eq!(world.count(from, sync_id), 1);
}

/// A Primary orders `invalidate` and then `detach` while this node starts as source: its own disk may still have this node's
/// generation, and its first write waits for another one.
#[test]
fn a_primary_that_gives_up_what_it_invalidated_is_served_under_a_new_name() {
    for held in [None, Some(Kind::SuperblockWrite), Some(Kind::SetHeader)] {
        let mut world = World::connected(Detach);
        world.peer.role = Role::Primary;
        world.peer_state();
        world.settle();
        world.hear(Message::ChangeRequest {
            request: 7,
            change: RequestedChange::FullSyncToMe,
        });
        if let Some(kind) = held {
            world.fate(kind, Fate::Hold);
        }
        world.settle();
        world.fates.clear();
        world.peer.disk = DiskState::Failed;
        world.hear(Message::Tell {
            number: 1,
            attach_id: world.peer.attach_id,
            failed: true,
            records: Vec::new(),
        });
        world.settle();
        world.peer.disk = DiskState::Diskless;
        world.peer_state();
        world.settle();
        let named = world.snapshot().identifiers.current;
        assert!(!named.same(Generation(BASE)), "{held:?}");
        assert_eq!(world.superblock.generations.current, named.0);
        assert_eq!(world.vector().disk, DiskState::UpToDate);
    }
}
