//! Answers and retirement: T1, T3, T4, T5, epochs, grants, losses, drains.

use super::harness::*;
use crate::bitmap::MarkReason;
use crate::engine::VolumeIn;
use crate::identity::{Query, TellNumber};
use crate::part::{Instant, Part};
use crate::snapshot::{Admission, Drain, HoldReason, Snapshot};
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::Message;

#[test]
fn mirrored_write_needs_both_and_goes_out_before_the_local_disk() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.tell = TellNumber(4));
    h.write(1, sectors(0, 8));
    assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), 1);
    assert_eq!(h.afters.last(), Some(&TellNumber(4)));
    h.complete(h.oldest());
    assert!(h.unanswered(1));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    assert_eq!(h.answered(1), None);
    assert!(h.marked.is_empty(), "nothing is owed on the good path");
}

#[test]
fn write_waits_for_a_grant_of_every_extent() {
    let mut h = Harness::new(connected());
    h.grant_at_once = false;
    h.write(1, sectors(8184, 16));
    assert_eq!(h.asked, vec![0, 1]);
    assert!(h.operations.is_empty() && h.frames.is_empty());
    h.grant(&[0]);
    assert!(h.operations.is_empty());
    h.grant(&[1]);
    assert_eq!((h.operations.len(), h.frames.len()), (1, 1));
}

#[test]
fn t1_failed_local_write_waits_for_its_error_to_be_settled() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    let error = h.fail(h.oldest());
    assert_eq!(h.marked_for(MarkReason::WriteError { error }), vec![blocks(0, 1)]);
    h.acknowledge_marks();
    assert!(h.unanswered(1));
    h.publish(|s| s.errors_settled = error);
    assert_eq!(h.answered(1), None);
}

#[test]
fn t1_of_a_disk_that_is_given_up() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    h.fail(h.oldest());
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.own_loss_settled = false;
    });
    h.write(2, sectors(80, 8));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    assert!(h.operations.is_empty(), "no new local I/O");
    assert!(h.unanswered(1) && h.unanswered(2));
    h.publish(|s| s.own_loss_settled = true);
    assert_eq!((h.answered(1), h.answered(2)), (None, None));
}

#[test]
fn t1_waiter_that_loses_the_peer_is_no_success() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    h.fail(h.oldest());
    h.lose_link();
    assert!(h.unanswered(1), "the peer may come back within its grace");
    h.wake(Instant(0).after_ms(5001));
    assert_eq!(h.answered(1), Some(5));
}

/// A write of a Primary without a disk: the peer has it, and the loss of the own disk is not settled.
fn only_there() -> Harness {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.disk = DiskState::Diskless;
        s.disk = None;
        s.own_loss_settled = false;
    });
    h.write(1, sectors(0, 8));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    assert!(h.unanswered(1));
    h
}

#[test]
fn t1_waiter_whose_peer_loses_its_disk_is_no_success() {
    for (settled, answer) in [(false, Some(5)), (true, None)] {
        let mut h = only_there();
        h.publish(|s| {
            s.own_loss_settled = settled;
            s.vector.peer_disk = DiskState::Failed;
            s.mirror = false;
        });
        assert_eq!(h.answered(1), answer);
    }
}

/// The loss of the own disk counts as settled as soon as there is a disk again, but what only the peer has is not on it.
#[test]
fn t1_waiter_that_has_a_disk_again_is_written_there() {
    let mut h = only_there();
    h.publish(|s| {
        s.vector.disk = DiskState::Negotiating;
        s.disk = Some(disk());
        s.own_loss_settled = true;
        s.writes = Admission::Held(HoldReason::BitmapExchange);
    });
    assert!(h.unanswered(1) && h.operations.is_empty());
    h.publish(|s| {
        s.vector.disk = DiskState::UpToDate;
        s.writes = Admission::Open;
    });
    assert!(h.unanswered(1));
    h.complete(h.oldest());
    assert!(h.unanswered(1), "the peer gets it once more");
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    assert_eq!(h.answered(1), None);
}

#[test]
fn t3_nacked_write_is_answered_after_the_record() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.hear(Message::WriteNack {
        request: h.last_request(),
        errno: 5,
    });
    assert!(h.unanswered(1));
    assert_eq!(h.marked_for(MarkReason::PeerFailed), vec![blocks(0, 1)]);
    h.acknowledge_marks();
    assert_eq!(h.answered(1), None);
}

#[test]
fn both_copies_failed_is_an_error_and_the_peer_hears_of_it() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.fail(h.oldest());
    h.hear(Message::WriteNack {
        request: h.last_request(),
        errno: 5,
    });
    h.acknowledge_marks();
    assert_eq!(h.answered(1), Some(5));
    assert_eq!(h.sent(|m| matches!(m, Message::WriteAnsweredWithError { .. })), 1);
}

#[test]
fn t4_write_without_the_peer_waits_until_it_said_marked() {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.peer_disk = DiskState::Failed;
        s.mirror = false;
        s.peer_loss_settled = false;
    });
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    assert!(h.unanswered(1));
    h.publish(|s| s.peer_loss_settled = true);
    assert_eq!(h.answered(1), None);
}

#[test]
fn t5_success_on_a_disk_that_is_not_up_to_date_needs_the_peer() {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.disk = DiskState::Inconsistent;
        s.vector.connection = ConnectionState::SyncTarget;
    });
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.lose_link();
    assert!(h.unanswered(1));
    h.wake(Instant(0).after_ms(5001));
    assert_eq!(h.answered(1), Some(5));
}

#[test]
fn lost_link_answers_alone_only_once_the_generation_is_durable() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.publish(|s| s.alone_settled = true);
    h.send(VolumeIn::Lost { connection: LINK });
    assert!(h.unanswered(1), "the snapshot does not show the loss yet");
    h.publish(|s| {
        s.connection = None;
        s.mirror = false;
        s.vector.peer_disk = DiskState::DUnknown;
        s.alone_settled = false;
    });
    assert!(h.unanswered(1));
    h.publish(|s| s.alone_settled = true);
    assert_eq!(h.answered(1), None);
}

#[test]
fn loss_marks_acked_writes_without_barrier_and_is_retired_after_the_mark() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    h.lose_link();
    assert_eq!(h.marked_for(MarkReason::PeerLacks), vec![blocks(0, 1)]);
    let retired = |h: &Harness| {
        h.state
            .iter()
            .any(|m| matches!(m, StateIn::LossRetired { connection } if *connection == LINK))
    };
    assert!(!retired(&h));
    h.send(VolumeIn::Revoke {
        number: 9,
        extents: vec![0],
    });
    assert!(h.released.is_empty(), "R3");
    h.acknowledge_marks();
    assert!(retired(&h));
    assert_eq!(h.released, vec![(9, vec![0], vec![])]);
}

#[test]
fn barrier_ack_retires_and_a_revoke_closes_the_epoch() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    assert_eq!(h.last_barrier(), None);
    h.send(VolumeIn::Revoke {
        number: 3,
        extents: vec![0, 7],
    });
    assert_eq!(h.released, vec![(3, vec![], vec![7])]);
    let (epoch, writes) = h.last_barrier().unwrap();
    assert_eq!(writes, 1);
    h.write(2, sectors(800, 8));
    assert_eq!(
        h.sent(|m| matches!(m, Message::Write { .. })),
        1,
        "an extent that is wanted back takes no new write"
    );
    h.hear(Message::BarrierAck { epoch });
    assert_eq!(h.released[1], (3, vec![0], vec![]));
    assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), 2, "granted anew");
}

#[test]
fn an_epoch_is_closed_after_a_second() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    let at = h.part.wake_at().unwrap();
    assert_eq!(at, Instant(0).after_ms(1000));
    h.wake(at);
    assert_eq!(h.last_barrier().unwrap().1, 1);
    assert_eq!(h.part.wake_at(), None);
}

#[test]
fn flush_waits_for_the_local_flush_and_the_barrier_ack() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    h.flush(2);
    h.complete(h.oldest());
    assert!(h.unanswered(2));
    let (epoch, _) = h.last_barrier().unwrap();
    h.hear(Message::BarrierAck { epoch });
    assert_eq!(h.answered(2), None);
}

#[test]
fn flush_error_marks_all_that_was_not_flushed() {
    let mut h = Harness::new(alone());
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.flush(2);
    h.complete(h.oldest());
    assert_eq!(h.answered(2), None);
    h.write(3, sectors(8192, 16));
    h.complete(h.oldest());
    h.flush(4);
    let error = h.fail(h.oldest());
    assert_eq!(
        h.marked_for(MarkReason::FlushError { error }),
        vec![blocks(1024, 1024)],
        "whole extents, and not the one that was flushed"
    );
    assert_eq!(h.answered(4), Some(5));
}

#[test]
fn steady_writing_alone_marks_a_block_once() {
    let mut h = Harness::new(alone());
    for sequence in 1..5 {
        h.write(sequence, sectors(0, 8));
        h.complete(h.oldest());
        assert_eq!(h.answered(sequence), None);
        h.acknowledge_marks();
        h.confirm(sequence);
    }
    assert_eq!(h.marked.len(), 1);
}

#[test]
fn drain_waits_for_local_io_and_marks_what_is_not_retired() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.read(2, sectors(80, 8));
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.drain = Some(Drain::Wait);
    });
    h.complete(h.oldest());
    assert!(h.state.is_empty());
    let read = h.oldest();
    let error = h.fail(read);
    assert_eq!(h.marked_for(MarkReason::ReadError { error }), vec![blocks(10, 1)]);
    let last = h.marked.last().unwrap().number;
    assert_eq!(h.marked_for(MarkReason::Unflushed), vec![blocks(0, 1)]);
    assert!(
        matches!(h.state[..], [StateIn::Drained { mark, complete: true, .. }] if mark == last),
        "{:?}",
        h.state
    );
}

#[test]
fn abandoned_requests_go_on_at_once() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    h.read(2, sectors(80, 8));
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.drain = Some(Drain::Abandon);
    });
    assert!(matches!(h.state[..], [StateIn::Drained { complete: false, .. }]));
    assert_eq!(h.answered(1), None);
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 1);
    h.hear_with(
        Message::ReadData {
            request: h.last_request(),
        },
        Some(bytes(sectors(80, 8), 3)),
    );
    assert_eq!(h.answered(2), None);
    let answers = h.answers.len();
    h.complete_all();
    assert_eq!(h.answers.len(), answers, "late completions change nothing");
}

#[test]
fn quiesce_ends_when_every_write_is_retired() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.send(VolumeIn::Quiesce { query: Query(5) });
    assert!(h.state.is_empty());
    h.complete(h.oldest());
    h.hear(Message::WriteAcks {
        requests: vec![h.last_request()],
    });
    assert!(h.state.is_empty());
    let (epoch, _) = h.last_barrier().unwrap();
    h.hear(Message::BarrierAck { epoch });
    assert!(matches!(h.state[..], [StateIn::Quiesced { query: Query(5), .. }]));
}

#[test]
fn held_requests_start_when_admission_opens() {
    let mut h = Harness::new(alone());
    h.publish(|s| s.writes = Admission::Held(HoldReason::Generation));
    h.write(1, sectors(0, 8));
    assert!(h.operations.is_empty());
    h.read(2, sectors(0, 8));
    assert_eq!(h.operations.len(), 1, "reads are not held");
    h.publish(|s| s.writes = Admission::Open);
    assert_eq!(h.operations.len(), 2);
}

#[test]
fn write_that_is_not_mirrored_is_marked_before_it_is_written() {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.connection = ConnectionState::WFBitMapS;
        s.vector.peer_disk = DiskState::Consistent;
        s.mirror = false;
    });
    h.write(1, sectors(0, 8));
    assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), 0);
    assert_eq!(h.marked_for(MarkReason::PeerLacks), vec![blocks(0, 1)]);
    h.complete(h.oldest());
    assert_eq!(h.answered(1), None);
}

#[test]
fn overlapping_write_waits_for_the_confirm_of_the_one_before() {
    let mut h = Harness::new(alone());
    h.write(1, sectors(0, 8));
    h.write(2, sectors(4, 8));
    h.write(3, sectors(100, 8));
    assert_eq!(h.operations.len(), 2);
    h.complete_all();
    assert_eq!(h.answered(1), None);
    assert!(h.operations.is_empty(), "R19");
    h.confirm(1);
    assert_eq!(h.operations.len(), 1);
    h.complete_all();
    assert_eq!(h.answered(2), None);
}

#[test]
fn answered_write_keeps_its_extent_until_its_mark_is_durable() {
    let mut h = Harness::new(connected());
    h.write(1, sectors(0, 8));
    h.lose_link();
    h.complete(h.oldest());
    assert_eq!(h.answered(1), None);
    h.send(VolumeIn::Revoke {
        number: 9,
        extents: vec![0],
    });
    assert!(h.released.is_empty(), "R3");
    h.acknowledge_marks();
    assert_eq!(h.released, vec![(9, vec![0], vec![])]);
}

#[test]
fn r11_nothing_is_sent_on_a_connection_that_is_lost() {
    let mut h = Harness::new(connected());
    h.send(VolumeIn::Lost { connection: LINK });
    h.write(1, sectors(0, 8));
    h.flush(2);
    assert!(h.frames.is_empty() && h.operations.is_empty());
    h.lose_link();
    h.complete_all();
    h.acknowledge_marks();
    assert_eq!((h.answered(1), h.answered(2)), (None, None));
}

#[test]
fn r11_write_that_is_mirrored_anew_and_lost_again_is_marked_again() {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.disk = DiskState::Inconsistent;
        s.vector.connection = ConnectionState::SyncTarget;
    });
    h.write(1, sectors(0, 8));
    h.complete(h.oldest());
    h.lose_link();
    h.acknowledge_marks();
    h.publish(|s| {
        *s = connected();
        s.connection = Some(LINK.next());
    });
    assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), 2);
    h.lose_link();
    assert_eq!(h.marked_for(MarkReason::PeerLacks), vec![blocks(0, 1); 2]);
}

#[test]
fn flush_without_a_disk_waits_for_the_link_and_goes_on_with_it() {
    let diskless = |s: &mut Snapshot| {
        s.vector.disk = DiskState::Diskless;
        s.disk = None;
    };
    let mut h = Harness::new(connected());
    h.publish(diskless);
    h.write(1, sectors(0, 8));
    let request = h.last_request();
    h.hear(Message::WriteAcks {
        requests: vec![request],
    });
    h.flush(2);
    assert!(h.last_barrier().is_some());
    h.lose_link();
    h.acknowledge_marks();
    assert!(h.unanswered(2));
    h.publish(|s| {
        let lost = s.link_lost_at;
        *s = connected();
        s.connection = Some(LINK.next());
        s.link_lost_at = lost;
        diskless(s);
    });
    if let Some((epoch, _)) = h.last_barrier() {
        h.hear(Message::BarrierAck { epoch });
    }
    assert_eq!(h.answered(2), None);
}
