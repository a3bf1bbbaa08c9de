//! The state part and the peer both know more than this part's snapshot says: nothing final is said by an old one.

use super::harness::*;
use crate::bitmap::{BitmapIn, MarkReason};
use crate::engine::VolumeIn;
use crate::identity::ErrorNumber;
use crate::part::Instant;
use crate::resync::JobEnd;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::Message;
use mendblock_storage::units::SectorRange;

fn refusals(h: &Harness) -> Vec<SectorRange> {
    let range = |message: &Message| match message {
        Message::ResyncFailed { range, .. } => Some(*range),
        _ => None,
    };
    h.frames
        .iter()
        .filter_map(|frame| range(&frame.message))
        .collect()
}

fn not_now(h: &Harness) -> usize {
    h.sent(|message| matches!(message, Message::ReadFailed { errno: 11, .. }))
}

#[test]
fn read_that_failed_here_is_no_error_before_the_state_has_heard_of_it() {
    let mut h = Harness::new(alone());
    h.publish(|s| s.errors_seen = ErrorNumber(0));
    h.read(1, sectors(0, 8));
    let error = h.fail(h.oldest());
    assert!(h.unanswered(1));
    // The next snapshot knows of a peer that this part had not heard of.
    h.publish(|s| {
        *s = connected();
        s.errors_seen = error;
        s.vector.disk = DiskState::Failed;
    });
    let request = h.last_request();
    h.hear_with(Message::ReadData { request }, Some(bytes(sectors(0, 8), 7)));
    assert_eq!(h.answered(1), None);
}

#[test]
fn read_and_write_that_failed_here_are_errors_when_the_state_knows_no_other_copy() {
    let mut h = Harness::new(alone());
    h.publish(|s| s.errors_seen = ErrorNumber(0));
    h.read(1, sectors(0, 8));
    h.fail(h.oldest());
    h.write(2, sectors(8, 8));
    h.acknowledge_marks();
    let error = h.fail(h.oldest());
    h.acknowledge_marks();
    assert!(h.unanswered(1) && h.unanswered(2));
    h.publish(|s| s.errors_seen = error);
    assert_eq!((h.answered(1), h.answered(2)), (Some(5), Some(5)));
}

#[test]
fn resync_read_waits_for_the_snapshot_that_makes_this_node_the_source() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.connection = ConnectionState::WFBitMapS);
    let range = sectors(0, 8);
    h.hear(Message::ResyncRead { request: 4, range });
    assert!(h.operations.is_empty() && refusals(&h).is_empty() && not_now(&h) == 0);
    h.publish(|s| s.vector.connection = ConnectionState::SyncSource);
    assert_eq!(h.operations.len(), 1);
}

#[test]
fn source_says_lost_only_of_what_is_bad() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.connection = ConnectionState::SyncSource);
    h.bad(vec![blocks(2, 1)], vec![]);
    let range = sectors(0, 64);
    h.hear(Message::ResyncRead { request: 4, range });
    assert_eq!(refusals(&h), [sectors(16, 8)]);
    // Its disk is being given up: of the blocks nothing is known.
    h.publish(|s| s.vector.disk = DiskState::Failed);
    let range = sectors(64, 8);
    h.hear(Message::ResyncRead { request: 5, range });
    assert_eq!((refusals(&h).len(), not_now(&h)), (1, 1));
}

#[test]
fn target_loses_what_the_source_named_and_nothing_when_it_cannot_serve_now() {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.disk = DiskState::Inconsistent;
        s.vector.connection = ConnectionState::SyncTarget;
    });
    let range = sectors(0, 64);
    h.send(VolumeIn::FetchBlocks { job: 1, range });
    let request = h.last_request();
    h.hear(Message::ReadFailed { request, errno: 11 });
    h.send(VolumeIn::FetchBlocks { job: 2, range });
    let request = h.last_request();
    h.hear(Message::ResyncFailed {
        request,
        range: sectors(16, 8),
    });
    let lost = |message: &BitmapIn| match message {
        BitmapIn::Lost { ranges } => Some(ranges.clone()),
        _ => None,
    };
    let lost: Vec<_> = h.bitmap.iter().filter_map(lost).flatten().collect();
    assert_eq!(lost, [blocks(2, 1)]);
    assert_eq!(h.jobs, [(1, JobEnd::Cancelled), (2, JobEnd::SourceCannot)]);
}

#[test]
fn read_that_the_peer_cannot_answer_yet_is_asked_again() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.disk = DiskState::Inconsistent);
    h.read(1, sectors(0, 8));
    let request = h.last_request();
    h.hear(Message::ReadFailed { request, errno: 11 });
    assert!(h.unanswered(1));
    let asked = |h: &Harness| h.sent(|message| matches!(message, Message::Read { .. }));
    assert_eq!(asked(&h), 1);
    h.wake(Instant(h.now.0 + 1_000_000_000));
    assert_eq!(asked(&h), 2);
    let request = h.last_request();
    h.hear_with(Message::ReadData { request }, Some(bytes(sectors(0, 8), 7)));
    assert_eq!(h.answered(1), None);
}

/// The disk part heard first that the disk failed, and did not take the write; the peer got it before the word of the failure.
#[test]
fn a_write_that_the_failed_disk_did_not_take_is_marked() {
    let mut h = Harness::new(connected());
    h.grant(&[0]);
    h.write(1, sectors(8, 16));
    assert_eq!(h.sent(|m| matches!(m, Message::Write { .. })), 1);
    h.refuse(h.oldest());
    assert_eq!(h.marked_for(MarkReason::MissedWrite), vec![blocks(1, 2)]);
}

#[test]
fn a_write_that_is_nowhere_is_not_marked() {
    let mut h = Harness::new(alone());
    h.grant(&[0]);
    h.write(1, sectors(8, 16));
    h.refuse(h.oldest());
    assert_eq!(h.marked_for(MarkReason::MissedWrite), vec![]);
}

/// The disk part has the later snapshot, in which the peer has become UpToDate and the own disk has failed.
#[test]
fn a_read_that_the_failed_disk_did_not_take_waits_for_the_snapshot_that_says_so() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.peer_disk = DiskState::Inconsistent);
    h.read(1, sectors(0, 8));
    h.refuse(h.oldest());
    assert!(h.unanswered(1));
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.vector.peer_disk = DiskState::UpToDate;
    });
    assert_eq!(h.sent(|m| matches!(m, Message::Read { .. })), 1);
}

#[test]
fn a_read_that_is_nowhere_fails_under_the_next_snapshot() {
    let mut h = Harness::new(alone());
    h.read(1, sectors(0, 8));
    h.refuse(h.oldest());
    assert!(h.unanswered(1));
    h.publish(|s| s.vector.disk = DiskState::Failed);
    assert_eq!(h.answered(1), Some(5));
}
