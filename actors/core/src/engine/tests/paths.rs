//! Reads: D1 and where the retry goes.

use super::harness::*;
use crate::bitmap::MarkReason;
use crate::part::Instant;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::Message;

#[test]
fn two_failing_reads_in_flight_are_both_marked_and_served_by_the_peer() {
    let mut h = Harness::new(connected());
    h.read(1, sectors(0, 8));
    h.read(2, sectors(80, 16));
    let first = h.fail(h.oldest());
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 1, "at once");
    let request = h.last_request();
    h.publish(|s| s.vector.disk = DiskState::Failed);
    let second = h.fail(h.oldest());
    assert_eq!(
        h.marked_for(MarkReason::ReadError { error: first }),
        vec![blocks(0, 1)]
    );
    assert_eq!(
        h.marked_for(MarkReason::ReadError { error: second }),
        vec![blocks(10, 2)]
    );
    h.hear_with(Message::ReadData { request }, Some(bytes(sectors(0, 8), 9)));
    h.hear_with(
        Message::ReadData {
            request: h.last_request(),
        },
        Some(bytes(sectors(80, 16), 9)),
    );
    assert_eq!((h.answered(1), h.answered(2)), (None, None));
    assert!(h.operations.is_empty());
}

#[test]
fn bad_block_is_not_read_here_and_the_whole_range_goes_to_the_peer() {
    let mut h = Harness::new(connected());
    h.bad(vec![blocks(1, 1)], vec![]);
    h.read(1, sectors(0, 16));
    assert!(h.operations.is_empty());
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 1);
    h.hear(Message::ReadFailed {
        request: h.last_request(),
        errno: 5,
    });
    assert_eq!(h.answered(1), Some(5));
    h.read(2, sectors(16, 8));
    assert_eq!(h.operations.len(), 1);
}

#[test]
fn block_that_the_peer_lacks_is_an_error_not_old_data() {
    let mut h = Harness::new(connected());
    h.bad(vec![blocks(0, 1)], vec![blocks(0, 1)]);
    h.read(1, sectors(0, 8));
    assert_eq!(h.answered(1), Some(5));
}

#[test]
fn disk_that_is_not_up_to_date_is_not_read() {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.disk = DiskState::Inconsistent;
        s.vector.connection = ConnectionState::SyncTarget;
    });
    h.read(1, sectors(0, 8));
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 1);
}

#[test]
fn read_without_a_path_waits_for_the_grace() {
    let mut h = Harness::new(connected());
    h.lose_link();
    h.bad(vec![blocks(0, 1)], vec![]);
    h.read(1, sectors(0, 8));
    assert!(h.unanswered(1));
    h.wake(Instant(0).after_ms(4999));
    assert!(h.unanswered(1));
    h.wake(Instant(0).after_ms(5000));
    assert_eq!(h.answered(1), Some(5));
}

#[test]
fn read_at_the_peer_survives_the_loss_of_the_link() {
    let mut h = Harness::new(connected());
    h.bad(vec![blocks(0, 1)], vec![]);
    h.read(1, sectors(0, 8));
    h.lose_link();
    assert!(h.unanswered(1));
    h.publish(|s| {
        *s = connected();
        s.connection = Some(LINK.next());
    });
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 2);
    h.hear_with(
        Message::ReadData {
            request: h.last_request(),
        },
        Some(bytes(sectors(0, 8), 1)),
    );
    assert_eq!(h.answered(1), None);
}
