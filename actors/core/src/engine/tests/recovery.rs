//! Deaths: of this part, and of its neighbours.

use super::harness::*;
use crate::bitmap::{BitmapIn, MarkReason};
use crate::disk::{DataCompletion, DataKind, TableAnswer};
use crate::engine::{ClientRequest, ClientRequestKind, VolumeIn};
use crate::identity::{Arrival, ClientId, ErrorNumber, MarkNumber, OperationId, PartGeneration, Sequence};
use crate::part::PartName;
use crate::snapshot::{Drain, Snapshot};
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, DiskState, Role};
use mendblock_net::wire::message::Message;
use mendblock_storage::units::SectorRange;

const SECOND: PartGeneration = PartGeneration(2);
const OLD: OperationId = OperationId {
    generation: PartGeneration(1),
    request: 44,
};

/// A second generation that has asked, and heard all but the table.
fn successor(snapshot: Snapshot, lost: bool) -> Harness {
    let mut h = Harness::of_generation(2, None);
    h.start();
    h.publish(|s| *s = snapshot);
    h.send(VolumeIn::Sessions(vec![CLIENT]));
    if lost {
        h.send(VolumeIn::Lost { connection: LINK });
    }
    h.send(VolumeIn::PeerIs {
        generation: SECOND,
        connection: h.snapshot.connection,
    });
    h.send(VolumeIn::BitmapIs {
        generation: SECOND,
        last: MarkNumber(17),
    });
    h
}

fn answer_table(h: &mut Harness, data: Vec<(OperationId, Option<SectorRange>, bool)>) {
    let query = h.table_query();
    h.send(VolumeIn::Table(TableAnswer {
        query,
        asker: SECOND,
        data,
        meta: vec![],
    }));
}

fn replay_end(h: &mut Harness) {
    h.send(VolumeIn::ReplayEnd {
        client: CLIENT,
        generation: SECOND,
    });
}

#[test]
fn nothing_starts_before_everything_is_known_and_replays_keep_their_order() {
    let mut h = successor(alone(), false);
    let write = |client: u64, arrival: u64| VolumeIn::Requests {
        client: ClientId(client),
        requests: vec![ClientRequest {
            sequence: Sequence(1),
            arrival: Arrival(arrival),
            kind: ClientRequestKind::Write {
                range: sectors(0, 8),
                buffer: bytes(sectors(0, 8), arrival as u8),
                fua: false,
            },
        }],
    };
    h.send(write(1, 8));
    h.send(write(2, 3));
    replay_end(&mut h);
    assert!(h.operations.is_empty());
    answer_table(&mut h, vec![]);
    assert_eq!(h.operations.len(), 1);
    match &h.operations[&h.oldest()] {
        DataKind::Write { buffer, .. } => assert_eq!(buffer[0], 3, "the one that arrived first"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn stale_table_answer_is_dropped() {
    let mut h = successor(alone(), false);
    replay_end(&mut h);
    let query = h.table_query();
    h.send(VolumeIn::Table(TableAnswer {
        query,
        asker: PartGeneration(1),
        data: vec![],
        meta: vec![],
    }));
    h.read(1, sectors(0, 8));
    assert!(h.operations.is_empty());
}

#[test]
fn adopted_write_is_a_lock() {
    let mut h = successor(alone(), false);
    answer_table(&mut h, vec![(OLD, Some(sectors(0, 8)), true)]);
    replay_end(&mut h);
    h.write(1, sectors(0, 8));
    h.write(2, sectors(80, 8));
    assert_eq!(h.operations.len(), 1);
    h.send(VolumeIn::Completed(vec![DataCompletion {
        id: OLD,
        result: Ok(None),
    }]));
    assert_eq!(h.operations.len(), 2);
}

#[test]
fn failed_adopted_read_is_marked() {
    let mut h = successor(alone(), false);
    answer_table(&mut h, vec![(OLD, Some(sectors(8, 8)), false)]);
    let error = ErrorNumber(3);
    h.send(VolumeIn::Completed(vec![DataCompletion {
        id: OLD,
        result: Err((error, 5)),
    }]));
    assert_eq!(h.marked_for(MarkReason::ReadError { error }), vec![blocks(1, 1)]);
    assert!(h.marked[0].number > MarkNumber(17), "numbers go on");
    h.send(VolumeIn::Completed(vec![DataCompletion {
        id: OLD,
        result: Err((error, 5)),
    }]));
    assert_eq!(h.marked.len(), 1, "repeated while its mark is under way");
}

#[test]
fn drain_counts_adopted_reads() {
    let mut snapshot = connected();
    snapshot.vector.disk = DiskState::Failed;
    snapshot.drain = Some(Drain::Wait);
    let mut h = successor(snapshot, false);
    replay_end(&mut h);
    assert!(h.state.is_empty());
    answer_table(&mut h, vec![(OLD, Some(sectors(8, 8)), false)]);
    assert!(h.state.is_empty());
    h.send(VolumeIn::Completed(vec![DataCompletion {
        id: OLD,
        result: Err((ErrorNumber(1), 5)),
    }]));
    let last = h.marked.last().expect("the read is marked").number;
    assert!(
        matches!(h.state[..], [StateIn::Drained { complete: true, mark, .. }] if mark == last),
        "{:?}",
        h.state
    );
}

/// Nobody hears of the end of an abandoned operation.
#[test]
fn adopted_operations_are_no_locks_once_their_disk_is_abandoned() {
    let table = || {
        let read = OperationId { request: 45, ..OLD };
        vec![
            (OLD, Some(sectors(0, 8)), true),
            (read, Some(sectors(16, 8)), false),
        ]
    };
    for abandoned_first in [false, true] {
        let mut h = successor(connected(), false);
        replay_end(&mut h);
        if !abandoned_first {
            answer_table(&mut h, table());
        }
        h.publish(|s| {
            s.vector.disk = DiskState::Failed;
            s.drain = Some(Drain::Abandon);
        });
        if abandoned_first {
            answer_table(&mut h, table());
        }
        let asked = h.sent(|m| matches!(m, Message::Write { .. }));
        h.write(1, sectors(0, 8));
        assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), asked + 1);
        // A read that fails late names a bad block all the same.
        let error = ErrorNumber(3);
        h.send(VolumeIn::Completed(vec![DataCompletion {
            id: OperationId { request: 45, ..OLD },
            result: Err((error, 5)),
        }]));
        assert_eq!(h.marked_for(MarkReason::ReadError { error }), vec![blocks(2, 1)]);
    }
}

#[test]
fn adopted_operations_are_no_locks_once_their_disk_is_gone() {
    let mut h = successor(connected(), false);
    replay_end(&mut h);
    answer_table(&mut h, vec![(OLD, Some(sectors(0, 8)), true)]);
    h.publish(|s| {
        s.vector.disk = DiskState::Diskless;
        s.disk = None;
    });
    h.write(1, sectors(0, 8));
    assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), 1);
}

/// The log of such a disk does not answer, and the connection would not be made anew for ever.
#[test]
fn a_loss_is_retired_though_a_disk_is_being_attached_or_goes() {
    let retired = |h: &Harness| {
        let is_it = |state: &StateIn| matches!(state, StateIn::LossRetired { .. });
        h.state.iter().any(is_it)
    };
    let mut attaching = alone();
    attaching.vector.disk = DiskState::Attaching;
    let mut h = successor(attaching, true);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    assert!(retired(&h));

    let mut h = successor(alone(), true);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    assert!(!retired(&h), "its log names what is owed");
    h.publish(|s| {
        s.vector.disk = DiskState::Diskless;
        s.disk = None;
    });
    assert!(retired(&h));
}

#[test]
fn flush_and_revoke_wait_for_a_barrier_of_the_new_generation() {
    let mut h = successor(connected(), false);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    let (epoch, writes) = h.last_barrier().unwrap();
    assert_eq!(writes, 0);
    h.flush(1);
    h.send(VolumeIn::Revoke {
        number: 6,
        extents: vec![2],
    });
    assert!(h.operations.is_empty() && h.released.is_empty());
    h.hear(Message::BarrierAck { epoch });
    assert_eq!(h.released, vec![(6, vec![], vec![2])]);
    h.complete_all();
    assert_eq!(h.answered(1), None);
}

#[test]
fn inherited_loss_is_settled_by_marks_of_the_orphans_only() {
    let mut snapshot = connected();
    snapshot.connection = Some(LINK.next());
    let mut h = successor(snapshot, true);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    assert_eq!(h.last_barrier(), None);
    let query = *h.hot_queries.last().expect("the log was asked");
    h.send(VolumeIn::HotExtents {
        query,
        extents: vec![3],
    });
    assert_eq!(h.marked_for(MarkReason::PeerLacks), vec![blocks(3 * 1024, 1024)]);
    h.send(VolumeIn::Revoke {
        number: 6,
        extents: vec![3],
    });
    assert!(h.released.is_empty() && h.state.is_empty());
    h.acknowledge_marks();
    assert_eq!(h.released, vec![(6, vec![], vec![3])]);
    assert!(matches!(h.state[..], [StateIn::LossRetired { .. }]));
}

/// The bitmaps may have been exchanged before this generation heard from the log.
#[test]
fn what_a_new_part_of_the_source_marks_is_told_to_the_target() {
    for (connection, told) in [
        (ConnectionState::Connected, 0),
        (ConnectionState::WFBitMapS, 1),
        (ConnectionState::SyncSource, 1),
        (ConnectionState::SyncTarget, 0),
    ] {
        let mut snapshot = connected();
        snapshot.mirror = false;
        snapshot.vector.connection = connection;
        snapshot.vector.peer_disk = DiskState::Inconsistent;
        let mut h = successor(snapshot, false);
        answer_table(&mut h, vec![]);
        replay_end(&mut h);
        let query = *h.hot_queries.last().expect("the log was asked");
        h.send(VolumeIn::HotExtents {
            query,
            extents: vec![3],
        });
        let marked = blocks(3 * 1024, 1024);
        assert_eq!(h.marked_for(MarkReason::PeerLacks), vec![marked]);
        let tells = |m: &Message| matches!(m, Message::OutOfSync { ranges } if *ranges == [marked]);
        assert_eq!(h.sent(tells), told, "{connection}");
    }
}

#[test]
fn failed_read_does_not_go_to_a_peer_that_lacks_the_write() {
    let mut h = successor(connected(), false);
    h.bad(vec![], vec![blocks(0, 1)]);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    h.read(1, sectors(0, 8));
    h.fail(h.oldest());
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 0);
    assert_eq!(h.answered(1), Some(5));
}

#[test]
fn flush_of_a_successor_needs_nothing_but_its_barrier() {
    let mut h = successor(connected(), false);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    h.flush(1);
    let (epoch, _) = h.last_barrier().unwrap();
    h.hear(Message::BarrierAck { epoch });
    h.complete_all();
    assert_eq!(h.answered(1), None);
}

#[test]
fn snapshot_of_a_new_connection_may_overtake_the_loss_of_the_old_one() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.publish(|s| s.connection = Some(LINK.next()));
    assert_eq!(h.marked_for(MarkReason::PeerLacks), vec![blocks(0, 1)]);
    assert_eq!(h.answered(1), None);
    h.write(2, sectors(80, 8));
    h.complete(h.oldest());
    h.send(VolumeIn::Lost { connection: LINK });
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    h.acknowledge_marks();
    h.send(VolumeIn::Revoke {
        number: 1,
        extents: vec![0],
    });
    let (epoch, writes) = h.last_barrier().unwrap();
    assert_eq!(writes, 1);
    h.hear(Message::BarrierAck { epoch });
    assert_eq!(h.released, vec![(1, vec![0], vec![])]);
}

#[test]
fn repeated_request_is_answered_from_what_is_kept() {
    let mut h = Harness::new(alone());
    h.write(1, sectors(0, 8));
    h.complete_all();
    h.write(1, sectors(0, 8));
    assert!(h.operations.is_empty(), "not executed again");
    assert_eq!(h.answers.len(), 2);
    h.confirm(1);
    assert!(h.answers.iter().all(|(_, answer)| answer.result.is_ok()));
}

#[test]
fn new_disk_part_gets_only_what_the_table_does_not_name() {
    let mut h = Harness::new(alone());
    h.read(1, sectors(0, 8));
    h.read(2, sectors(80, 8));
    let there = h.oldest();
    h.send(VolumeIn::Restarted {
        part: PartName::Disk,
        generation: SECOND,
    });
    h.read(3, sectors(160, 8));
    assert_eq!(h.operations.len(), 2, "nothing is submitted before the answer");
    let query = h.table_query();
    h.operations.retain(|id, _| *id == there);
    let data = vec![(there, Some(sectors(0, 8)), false)];
    h.send(VolumeIn::Table(TableAnswer {
        query,
        asker: PartGeneration(1),
        data,
        meta: vec![],
    }));
    assert_eq!(h.operations.len(), 3);
    h.complete_all();
    assert_eq!((h.answered(1), h.answered(2), h.answered(3)), (None, None, None));
}

#[test]
fn new_bitmap_part_gets_the_marks_under_way_then_their_end() {
    let mut h = Harness::new(alone());
    h.write(1, sectors(0, 8));
    let number = *h.marks.keys().next().unwrap();
    h.marks.clear();
    h.send(VolumeIn::Restarted {
        part: PartName::Bitmap,
        generation: SECOND,
    });
    assert!(h.marks.contains_key(&number));
    assert!(
        matches!(h.bitmap[..], [BitmapIn::MarksUpTo { number: up_to, generation: SECOND }] if up_to == number)
    );
}

#[test]
fn new_activity_log_is_asked_again_and_new_state_part_hears_the_drain_again() {
    let mut h = Harness::new(connected());
    h.grant_at_once = false;
    h.write(1, sectors(0, 8));
    h.asked.clear();
    h.send(VolumeIn::Restarted {
        part: PartName::ActivityLog,
        generation: SECOND,
    });
    assert_eq!(h.asked, vec![0]);
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.drain = Some(Drain::Wait);
    });
    h.send(VolumeIn::Restarted {
        part: PartName::State,
        generation: SECOND,
    });
    // It asks by its first snapshot.
    h.publish(|_| {});
    assert_eq!(
        h.state
            .iter()
            .filter(|m| matches!(m, StateIn::Drained { .. }))
            .count(),
        2
    );
}

#[test]
fn epoch_that_a_predecessor_began_is_not_counted_and_the_next_one_is() {
    let mut secondary = connected();
    secondary.vector.role = Role::Secondary;
    secondary.vector.peer_role = Role::Primary;
    let mut h = successor(secondary, false);
    answer_table(&mut h, vec![]);
    replay_end(&mut h);
    h.hear(Message::Barrier { epoch: 7, writes: 3 });
    h.complete_all();
    assert_eq!(h.sent(|m| matches!(m, Message::BarrierAck { epoch: 7 })), 1);
    h.hear(Message::Barrier { epoch: 8, writes: 1 });
    h.complete_all();
    assert_eq!(h.sent(|m| matches!(m, Message::BarrierAck { epoch: 8 })), 0);
}
