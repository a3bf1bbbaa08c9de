//! Mirrored writes, barriers, served reads, resync.

use super::harness::*;
use crate::bitmap::{BitmapIn, ClearReason, MarkReason};
use crate::disk::DataKind;
use crate::engine::VolumeIn;
use crate::identity::Query;
use crate::peer::PeerIn;
use crate::resync::JobEnd;
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, DiskState, Role};
use mendblock_net::wire::message::Message;

fn secondary() -> Harness {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.role = Role::Secondary;
        s.vector.peer_role = Role::Primary;
    });
    h
}

fn target() -> Harness {
    let mut h = secondary();
    h.publish(|s| {
        s.vector.disk = DiskState::Inconsistent;
        s.vector.connection = ConnectionState::SyncTarget;
    });
    h
}

fn mirror(h: &mut Harness, request: u64, epoch: u64, first: u64) {
    let range = sectors(first, 8);
    let message = Message::Write {
        request,
        epoch,
        range,
        fua: false,
        may_set_in_sync: false,
    };
    h.hear_with(message, Some(bytes(range, request as u8)));
}

fn acked(h: &Harness) -> Vec<u64> {
    let acks = h.frames.iter().filter_map(|frame| match &frame.message {
        Message::WriteAcks { requests } => Some(requests.clone()),
        _ => None,
    });
    acks.flatten().collect()
}

#[test]
fn received_writes_that_overlap_are_executed_in_order() {
    let mut h = secondary();
    mirror(&mut h, 1, 1, 0);
    mirror(&mut h, 2, 1, 0);
    assert_eq!(h.operations.len(), 1);
    h.complete_all();
    assert_eq!(acked(&h), vec![1, 2]);
    assert!(h.asked.is_empty() && h.marked.is_empty());
}

#[test]
fn barrier_is_acked_after_a_flush_behind_all_its_writes() {
    let mut h = secondary();
    mirror(&mut h, 1, 4, 0);
    mirror(&mut h, 2, 4, 80);
    h.hear(Message::Barrier { epoch: 4, writes: 2 });
    mirror(&mut h, 3, 5, 160);
    h.complete(h.oldest());
    assert!(!h.operations.values().any(|kind| matches!(kind, DataKind::Flush)));
    h.complete(h.oldest());
    assert_eq!(
        h.operations.len(),
        2,
        "the flush, and the write of the next epoch"
    );
    assert_eq!(h.sent(|m| matches!(m, Message::BarrierAck { .. })), 0);
    h.complete_all();
    assert_eq!(h.sent(|m| matches!(m, Message::BarrierAck { epoch: 4 })), 1);
}

#[test]
fn failed_flush_is_no_barrier_ack() {
    let mut h = secondary();
    mirror(&mut h, 1, 4, 0);
    h.complete_all();
    h.hear(Message::Barrier { epoch: 4, writes: 1 });
    let error = h.fail(h.oldest());
    assert_eq!(h.sent(|m| matches!(m, Message::BarrierAck { .. })), 0);
    assert_eq!(
        h.marked_for(MarkReason::FlushError { error }),
        vec![blocks(0, 1024)]
    );
}

#[test]
fn wrong_count_in_a_barrier_drops_the_connection() {
    let mut h = secondary();
    mirror(&mut h, 1, 4, 0);
    h.hear(Message::Barrier { epoch: 4, writes: 2 });
    assert!(h.peer.iter().any(|m| matches!(m, PeerIn::Drop { .. })));
}

#[test]
fn nack_is_sent_after_the_record() {
    let mut h = secondary();
    mirror(&mut h, 1, 1, 0);
    let error = h.fail(h.oldest());
    assert_eq!(h.marked_for(MarkReason::WriteError { error }), vec![blocks(0, 1)]);
    assert_eq!(h.marked_for(MarkReason::MissedWrite), vec![blocks(0, 1)]);
    assert_eq!(h.sent(|m| matches!(m, Message::WriteNack { .. })), 0);
    h.acknowledge_marks();
    assert_eq!(h.sent(|m| matches!(m, Message::WriteNack { request: 1, .. })), 1);
    h.publish(|s| s.vector.disk = DiskState::Failed);
    mirror(&mut h, 2, 1, 80);
    assert_eq!(h.sent(|m| matches!(m, Message::WriteNack { request: 2, .. })), 0);
    h.acknowledge_marks();
    assert_eq!(h.sent(|m| matches!(m, Message::WriteNack { request: 2, .. })), 1);
}

#[test]
fn write_of_a_sender_without_disk_is_logged_and_marked_here() {
    let mut h = secondary();
    h.hear(Message::Tell {
        number: 1,
        attach_id: 1,
        failed: true,
        records: vec![],
    });
    mirror(&mut h, 1, 1, 0);
    // When it came in, for its extent was cold, and at its turn: a clear may have come between the two.
    assert_eq!(h.marked_for(MarkReason::OnlyCopy), vec![blocks(0, 1); 2]);
    h.complete_all();
    assert_eq!(acked(&h), vec![1]);
    h.send(VolumeIn::Revoke {
        number: 2,
        extents: vec![0],
    });
    assert!(h.released.is_empty());
    h.acknowledge_marks();
    assert_eq!(h.released, vec![(2, vec![0], vec![])]);
}

/// As target, this node hears nothing of the resync's begin that says so: only its end does.
#[test]
fn writes_of_a_sender_whose_newer_disk_is_back_are_on_both() {
    let mut h = secondary();
    let only_here = |h: &Harness| h.marked_for(MarkReason::OnlyCopy).len();
    h.hear(Message::Tell {
        number: 1,
        attach_id: 1,
        failed: true,
        records: vec![],
    });
    // A snapshot from before the state heard of it says nothing.
    h.publish(|_| {});
    mirror(&mut h, 1, 1, 0);
    assert!(only_here(&h) > 0);
    h.publish(|s| s.vector.peer_disk = DiskState::Failed);
    h.publish(|s| {
        s.vector.connection = ConnectionState::SyncTarget;
        (s.vector.disk, s.vector.peer_disk) = (DiskState::Inconsistent, DiskState::UpToDate);
    });
    h.publish(|s| {
        s.vector.connection = ConnectionState::Connected;
        s.vector.disk = DiskState::UpToDate;
    });
    let before = only_here(&h);
    mirror(&mut h, 2, 1, 80);
    h.complete_all();
    assert_eq!(only_here(&h), before);
    assert_eq!(acked(&h), vec![1, 2]);
}

/// The sender's disk comes back and bitmaps are exchanged while the write still waits: a mark that is made at its turn only would
/// come too late for the sender's bitmap, and its old block would pass for good.
#[test]
fn write_of_a_sender_without_disk_is_marked_before_its_turn() {
    let mut h = secondary();
    h.grant_at_once = false;
    h.hear(Message::Tell {
        number: 1,
        attach_id: 1,
        failed: true,
        records: vec![],
    });
    // The log is busy with the first one, the second one overlaps it.
    mirror(&mut h, 1, 1, 0);
    mirror(&mut h, 2, 1, 4);
    assert!(h.operations.is_empty());
    assert_eq!(
        h.marked_for(MarkReason::OnlyCopy),
        vec![blocks(0, 1), blocks(0, 2)]
    );
    let query = Query(77);
    h.send(VolumeIn::Fence { query });
    let last = h.marks.keys().last().copied();
    let fenced = h.state.iter().find_map(|message| match message {
        StateIn::Fenced { query: asked, mark } if *asked == query => Some(*mark),
        _ => None,
    });
    assert!(fenced.is_some(), "{:?}", h.state);
    assert_eq!(fenced, last, "the exchange waits for both marks");
    h.grant(&[0]);
    h.complete_all();
    assert_eq!(acked(&h), vec![1, 2]);
}

#[test]
fn served_read_waits_for_writes_in_flight_and_refuses_bad_blocks() {
    let mut h = secondary();
    mirror(&mut h, 1, 1, 0);
    h.hear(Message::Read {
        request: 7,
        range: sectors(0, 8),
    });
    assert_eq!(h.operations.len(), 1);
    h.complete(h.oldest());
    assert_eq!(h.operations.len(), 1);
    h.complete(h.oldest());
    assert_eq!(h.sent(|m| matches!(m, Message::ReadData { request: 7 })), 1);
    h.bad(vec![blocks(0, 1)], vec![]);
    h.hear(Message::Read {
        request: 8,
        range: sectors(0, 8),
    });
    assert_eq!(h.sent(|m| matches!(m, Message::ReadFailed { request: 8, .. })), 1);
    h.hear(Message::Read {
        request: 9,
        range: sectors(80, 8),
    });
    let error = h.fail(h.oldest());
    assert_eq!(h.marked_for(MarkReason::ReadError { error }), vec![blocks(10, 1)]);
    assert_eq!(h.sent(|m| matches!(m, Message::ReadFailed { request: 9, .. })), 1);
}

#[test]
fn frames_wait_until_the_target_has_begun() {
    let mut h = secondary();
    h.publish(|s| {
        s.vector.connection = ConnectionState::WFBitMapT;
        s.vector.disk = DiskState::Outdated;
    });
    mirror(&mut h, 1, 1, 0);
    assert!(h.operations.is_empty());
    h.publish(|s| {
        s.vector.connection = ConnectionState::SyncTarget;
        s.vector.disk = DiskState::Inconsistent;
    });
    assert_eq!(h.operations.len(), 1);
}

#[test]
fn frames_of_a_connection_that_no_snapshot_names_wait_and_die_with_it() {
    let mut h = Harness::new(alone());
    mirror(&mut h, 1, 1, 0);
    assert!(h.operations.is_empty());
    h.send(VolumeIn::Lost { connection: LINK });
    h.publish(|s| {
        *s = connected();
        s.connection = Some(LINK.next());
    });
    assert!(h.operations.is_empty());
}

#[test]
fn fetch_locks_the_range_against_a_mirrored_write() {
    let mut h = target();
    h.send(VolumeIn::FetchBlocks {
        job: 5,
        range: sectors(0, 16),
    });
    let request = h.last_request();
    mirror(&mut h, 1, 1, 8);
    assert!(h.operations.is_empty(), "the write waits behind the fetch");
    let range = sectors(0, 16);
    h.hear_with(Message::ResyncData { request, range }, Some(bytes(range, 6)));
    h.complete(h.oldest());
    assert_eq!(h.jobs, vec![(5, JobEnd::Written)]);
    assert_eq!(h.sent(|m| matches!(m, Message::ResyncWritten { .. })), 1);
    assert!(h.bitmap.iter().any(|m| matches!(
        m,
        BitmapIn::Clear {
            reason: ClearReason::ResyncWritten,
            ..
        }
    )));
    assert_eq!(h.operations.len(), 1, "now the mirrored write");
}

#[test]
fn fetched_bad_block_counts_after_flush_and_read_back() {
    for good in [true, false] {
        let mut h = target();
        h.bad(vec![blocks(0, 1)], vec![]);
        let range = sectors(0, 8);
        h.send(VolumeIn::FetchBlocks { job: 1, range });
        h.hear_with(
            Message::ResyncData {
                request: h.last_request(),
                range,
            },
            Some(bytes(range, 6)),
        );
        h.complete(h.oldest());
        assert!(matches!(h.operations[&h.oldest()], DataKind::Flush));
        h.complete(h.oldest());
        assert!(h.jobs.is_empty() && h.bitmap.is_empty());
        h.complete_with(h.oldest(), bytes(range, if good { 6 } else { 0 }));
        assert_eq!(
            h.jobs,
            vec![(
                1,
                if good {
                    JobEnd::Written
                } else {
                    JobEnd::WriteFailed
                }
            )]
        );
        assert_eq!(h.bitmap.len(), usize::from(good));
    }
}

#[test]
fn source_refuses_a_bad_block_and_the_target_loses_it() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.connection = ConnectionState::SyncSource);
    h.bad(vec![blocks(0, 1)], vec![]);
    h.hear(Message::ResyncRead {
        request: 4,
        range: sectors(0, 8),
    });
    assert_eq!(
        h.sent(|m| matches!(m, Message::ResyncFailed { request: 4, .. })),
        1
    );
    let mut h = target();
    h.send(VolumeIn::FetchBlocks {
        job: 1,
        range: sectors(0, 8),
    });
    h.hear(Message::ResyncFailed {
        request: h.last_request(),
        range: sectors(0, 8),
    });
    assert!(h.bitmap.iter().any(|m| matches!(m, BitmapIn::Lost { .. })));
    assert_eq!(h.jobs, vec![(1, JobEnd::SourceCannot)]);
}

#[test]
fn source_reads_behind_its_own_write_in_flight() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.connection = ConnectionState::SyncSource);
    h.write(1, sectors(0, 8));
    h.hear(Message::ResyncRead {
        request: 4,
        range: sectors(0, 8),
    });
    assert_eq!(h.operations.len(), 1);
    h.complete(h.oldest());
    assert_eq!(h.operations.len(), 1);
    h.complete(h.oldest());
    assert_eq!(h.sent(|m| matches!(m, Message::ResyncData { request: 4, .. })), 1);
}

#[test]
fn lost_link_cancels_a_fetch() {
    let mut h = target();
    h.send(VolumeIn::FetchBlocks {
        job: 1,
        range: sectors(0, 8),
    });
    h.lose_link();
    assert_eq!(h.jobs, vec![(1, JobEnd::Cancelled)]);
}

#[test]
fn q11_fetch_and_mirrored_write_do_not_wait_for_each_other() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.connection = ConnectionState::SyncSource);
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.hear(Message::ResyncRead {
        request: 4,
        range: sectors(0, 8),
    });
    h.complete(h.oldest());
    assert!(
        h.unanswered(1),
        "the target has not acknowledged it: its fetch holds the block"
    );
    assert_eq!(h.sent(|m| matches!(m, Message::ResyncData { request: 4, .. })), 1);
}

#[test]
fn epochs_of_an_earlier_connection_do_not_count_for_a_barrier() {
    let mut h = secondary();
    mirror(&mut h, 1, 4, 0);
    h.lose_link();
    h.publish(|s| {
        *s = connected();
        s.connection = Some(LINK.next());
        s.vector.role = Role::Secondary;
        s.vector.peer_role = Role::Primary;
    });
    mirror(&mut h, 2, 4, 80);
    h.hear(Message::Barrier { epoch: 4, writes: 1 });
    h.complete(h.oldest());
    assert!(!h.operations.values().any(|kind| matches!(kind, DataKind::Flush)));
    h.complete_all();
    assert_eq!(h.sent(|m| matches!(m, Message::BarrierAck { epoch: 4 })), 1);
    assert!(h.peer.iter().all(|m| !matches!(m, PeerIn::Drop { .. })));
}

/// The sender has attached its disk and not decided yet; this node has, and has sent its bitmap.
#[test]
fn a_write_that_only_this_node_gets_while_it_is_source_is_told_to_the_target() {
    for (connection, told) in [(ConnectionState::Connected, 0), (ConnectionState::WFBitMapS, 1)] {
        let mut h = secondary();
        h.hear(Message::Tell {
            number: 1,
            attach_id: 1,
            failed: true,
            records: vec![],
        });
        h.publish(|s| s.vector.connection = connection);
        mirror(&mut h, 1, 1, 0);
        let tells = |m: &Message| matches!(m, Message::OutOfSync { ranges } if *ranges == [blocks(0, 1)]);
        assert_eq!(h.sent(tells), told);
    }
}

/// A detach drains the target's resync writes; what they hold was read before this node began to write alone.
#[test]
fn late_resync_data_of_a_disk_that_goes_clear_nothing() {
    let heard = Message::ResyncWritten {
        ranges: vec![blocks(0, 4)],
    };
    for (tell, peer_disk, cleared) in [
        (false, DiskState::Inconsistent, 1),
        (true, DiskState::Inconsistent, 0),
        (false, DiskState::Failed, 0),
    ] {
        let mut h = Harness::new(connected());
        h.publish(|s| {
            s.vector.peer_disk = peer_disk;
            s.vector.connection = ConnectionState::SyncSource;
        });
        if tell {
            h.hear(Message::Tell {
                number: 1,
                attach_id: 1,
                failed: true,
                records: vec![],
            });
        }
        h.hear(heard.clone());
        let clears = |message: &&BitmapIn| matches!(message, BitmapIn::Clear { .. });
        assert_eq!(h.bitmap.iter().filter(clears).count(), cleared);
    }
}
