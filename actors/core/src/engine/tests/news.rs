//! No error is given while there may be news by which the request can be served.

use super::harness::*;
use crate::engine::VolumeIn;
use crate::identity::{ErrorNumber, PartGeneration, Query, SnapshotNumber};
use crate::part::PartName;
use crate::volume::state::DiskState;
use mendblock_net::wire::message::Message;

/// A read of a block that is bad here; the picture still has it that the peer lacks it. Its question.
fn asked_for_a_bad_block(h: &mut Harness) -> Query {
    h.hold_news = true;
    h.bad(vec![blocks(0, 1)], vec![blocks(0, 1024)]);
    h.read(1, sectors(0, 8));
    assert!(h.unanswered(1));
    assert_eq!(h.questions.len(), 1);
    h.questions[0]
}

fn is_read_at_the_peer(h: &Harness) -> bool {
    h.sent(|message| matches!(message, Message::Read { .. })) == 1
}

/// A flush failed, and its bits are those of the own disk; the bitmap part has not had the snapshot that says so.
#[test]
fn the_picture_is_fetched_before_an_error() {
    let mut h = Harness::new(connected());
    let query = asked_for_a_bad_block(&mut h);
    h.publish(|s| s.vector.disk = DiskState::Failed);
    assert!(h.unanswered(1), "the picture may be older than this snapshot");
    h.bad(vec![blocks(0, 1)], vec![]);
    h.answer_news(query);
    assert!(is_read_at_the_peer(&h));
}

#[test]
fn the_snapshot_of_which_the_picture_is_is_awaited() {
    let mut h = Harness::new(connected());
    let query = asked_for_a_bad_block(&mut h);
    let snapshot = h.snapshot.number.next();
    h.send(VolumeIn::News { query, snapshot });
    assert!(h.unanswered(1));
    h.publish(|s| s.vector.disk = DiskState::Failed);
    assert_eq!(h.answered(1), Some(5));
}

#[test]
fn an_answer_about_an_older_snapshot_is_none() {
    let mut h = Harness::new(connected());
    let query = asked_for_a_bad_block(&mut h);
    h.publish(|s| s.vector.disk = DiskState::Failed);
    let snapshot = SnapshotNumber(h.snapshot.number.0 - 1);
    h.send(VolumeIn::News { query, snapshot });
    assert!(h.unanswered(1));
    let again = *h.questions.last().unwrap();
    assert_ne!(again, query);
    h.answer_news(again);
    assert_eq!(h.answered(1), Some(5));
}

/// What the failure marked is in the picture; that the disk failed is not in the snapshot.
#[test]
fn the_state_part_must_have_heard_of_every_failure_that_was_marked() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.errors_seen = ErrorNumber(0));
    h.flush(2);
    let error = h.fail(h.oldest());
    h.bad(vec![blocks(0, 1)], vec![blocks(0, 1024)]);
    h.read(1, sectors(0, 8));
    assert!(h.unanswered(1));
    h.bad(vec![blocks(0, 1)], vec![]);
    h.publish(|s| {
        s.errors_seen = error;
        s.vector.disk = DiskState::Failed;
    });
    assert!(is_read_at_the_peer(&h));
}

/// The own disk and the peer are UpToDate for everybody else already; the peer's disk failed this very write.
#[test]
fn no_error_is_given_before_the_state_was_asked_for_news() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.vector.disk = DiskState::Inconsistent);
    h.grant(&[0]);
    h.hold_news = true;
    h.write(1, sectors(0, 8));
    let request = h.last_request();
    h.complete(h.oldest());
    h.hear(Message::WriteNack { request, errno: 5 });
    assert!(h.unanswered(1) && h.questions.len() == 1);
    h.publish(|s| s.vector.disk = DiskState::UpToDate);
    h.acknowledge_marks();
    assert_eq!(h.answered(1), None);
}

#[test]
fn a_new_state_or_bitmap_part_is_asked_again() {
    let mut h = Harness::new(alone());
    h.publish(|s| s.vector.disk = DiskState::Failed);
    h.hold_news = true;
    h.read(1, sectors(0, 8));
    let asked = h.questions.clone();
    assert!(h.unanswered(1) && asked.len() == 1);
    for (part, times) in [(PartName::State, 2), (PartName::Bitmap, 3)] {
        let generation = PartGeneration(2);
        h.send(VolumeIn::Restarted { part, generation });
        assert_eq!(h.questions, vec![asked[0]; times]);
    }
    h.answer_news(asked[0]);
    assert_eq!(h.answered(1), Some(5));
}
