//! Writes over listed bad blocks: not answered before the block is flushed, read back, and durably off the list.

use super::harness::*;
use crate::bitmap::{BitmapIn, ClearReason, MarkReason};
use crate::disk::DataKind;
use crate::engine::ClientRequestKind;
use crate::identity::{AttachId, ErrorNumber};
use crate::snapshot::Drain;
use crate::volume::state::{DiskState, Role};
use mendblock_net::wire::message::Message;
use mendblock_storage::units::{BlockRange, SectorRange};

const READ_BACK: MarkReason = MarkReason::ReadBack { attach: AttachId(1) };

/// The first block is bad here.
fn with_bad_block(snapshot: crate::snapshot::Snapshot) -> Harness {
    let mut h = Harness::new(snapshot);
    h.bad(vec![blocks(0, 1)], vec![]);
    h
}

fn only_operation(h: &Harness) -> DataKind {
    assert_eq!(h.operations.len(), 1, "{:?}", h.operations);
    h.operations[&h.oldest()].clone()
}

fn is_read_of(kind: &DataKind, of: SectorRange) -> bool {
    matches!(kind, DataKind::Read { range } if *range == of)
}

fn marks(h: &Harness, reason: MarkReason) -> Vec<Vec<BlockRange>> {
    let of_reason = h.marked.iter().filter(|mark| mark.reason == reason);
    of_reason.map(|mark| mark.ranges.clone()).collect()
}

fn cleared(h: &Harness) -> Vec<(Vec<BlockRange>, ClearReason)> {
    let clears = h.bitmap.iter().filter_map(|message| match message {
        BitmapIn::Clear { ranges, reason } => Some((ranges.clone(), *reason)),
        _ => None,
    });
    clears.collect()
}

fn acknowledge(h: &mut Harness) {
    let request = h.last_request();
    h.hear(Message::WriteAcks {
        requests: vec![request],
    });
}

fn mirror(h: &mut Harness, request: u64, range: SectorRange) {
    let message = Message::Write {
        request,
        epoch: 1,
        range,
        fua: false,
        may_set_in_sync: false,
    };
    h.hear_with(message, Some(bytes(range, request as u8)));
}

/// Write and flush are done, the read-back is under way.
fn until_read_back(h: &mut Harness) {
    assert!(matches!(
        only_operation(h),
        DataKind::Write { .. } | DataKind::WriteZeroes { .. }
    ));
    h.complete(h.oldest());
    assert!(matches!(only_operation(h), DataKind::Flush));
    h.complete(h.oldest());
    assert!(is_read_of(&only_operation(h), sectors(0, 8)));
}

#[test]
fn alone_the_answer_waits_until_the_block_is_off_the_list() {
    let mut h = with_bad_block(alone());
    h.write(3, sectors(0, 8));
    until_read_back(&mut h);
    assert!(h.unanswered(3));
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 3));
    assert!(h.operations.is_empty() && h.unanswered(3));
    assert_eq!(marks(&h, READ_BACK), vec![vec![blocks(0, 1)]]);
    h.acknowledge_marks();
    assert_eq!(h.answered(3), None);
    // The peer lacks it: the bit stays.
    assert!(cleared(&h).is_empty());
}

#[test]
fn both_have_it_and_the_bits_go_on_both() {
    let mut h = with_bad_block(connected());
    h.write(3, sectors(0, 8));
    acknowledge(&mut h);
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 3));
    assert!(h.unanswered(3) && cleared(&h).is_empty());
    h.acknowledge_marks();
    assert_eq!(h.answered(3), None);
    assert_eq!(cleared(&h), vec![(vec![blocks(0, 1)], ClearReason::Overwritten)]);
    let written = |message: &Message| matches!(message, Message::ResyncWritten { ranges } if *ranges == vec![blocks(0, 1)]);
    assert_eq!(h.sent(written), 1);
}

#[test]
fn no_bit_goes_while_bitmaps_are_exchanged() {
    let mut h = with_bad_block(connected());
    h.write(3, sectors(0, 8));
    acknowledge(&mut h);
    h.publish(|s| s.vector.connection = crate::volume::state::ConnectionState::WFBitMapT);
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 3));
    h.acknowledge_marks();
    assert_eq!(h.answered(3), None);
    assert!(cleared(&h).is_empty());
    assert_eq!(
        h.sent(|message| matches!(message, Message::ResyncWritten { .. })),
        0
    );
}

#[test]
fn mirrored_write_is_acknowledged_behind_its_proof() {
    let mut h = with_bad_block(connected());
    h.publish(|s| (s.vector.role, s.vector.peer_role) = (Role::Secondary, Role::Primary));
    let acks = |h: &Harness| h.sent(|message| matches!(message, Message::WriteAcks { .. }));
    mirror(&mut h, 7, sectors(0, 8));
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 7));
    assert_eq!(acks(&h), 0);
    h.acknowledge_marks();
    assert_eq!(acks(&h), 1);
    assert_eq!(cleared(&h), vec![(vec![blocks(0, 1)], ClearReason::Overwritten)]);
    assert_eq!(
        h.sent(|message| matches!(message, Message::ResyncWritten { .. })),
        1
    );
    // The next one finds other bytes: refused, and the block is still listed.
    mirror(&mut h, 8, sectors(0, 8));
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 7));
    let nacks = |h: &Harness| h.sent(|message| matches!(message, Message::WriteNack { request: 8, .. }));
    assert_eq!((acks(&h), nacks(&h)), (1, 0));
    h.acknowledge_marks();
    assert_eq!((acks(&h), nacks(&h)), (1, 1));
    assert_eq!(marks(&h, MarkReason::MissedWrite), vec![vec![blocks(0, 1)]]);
}

#[test]
fn zeroes_are_proven_too() {
    for (fill, answer) in [(0, None), (1, Some(5))] {
        let mut h = with_bad_block(alone());
        h.request(
            3,
            ClientRequestKind::WriteZeroes {
                range: sectors(0, 16),
                may_unmap: true,
                fua: false,
            },
        );
        until_read_back(&mut h);
        h.complete_with(h.oldest(), bytes(sectors(0, 8), fill));
        h.acknowledge_marks();
        assert_eq!(h.answered(3), answer);
    }
}

#[test]
fn what_the_drive_did_not_keep_is_an_error_alone() {
    let mut h = with_bad_block(alone());
    h.write(3, sectors(0, 8));
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 9));
    h.acknowledge_marks();
    assert_eq!(h.answered(3), Some(5));
    assert!(marks(&h, READ_BACK).is_empty());
}

#[test]
fn what_the_drive_did_not_keep_is_recorded_before_the_peers_copy_counts() {
    let mut h = with_bad_block(connected());
    h.write(3, sectors(0, 8));
    acknowledge(&mut h);
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 9));
    assert!(h.unanswered(3));
    assert_eq!(marks(&h, MarkReason::MissedWrite), vec![vec![blocks(0, 1)]]);
    h.acknowledge_marks();
    assert_eq!(h.answered(3), None);
    assert!(cleared(&h).is_empty());
}

#[test]
fn failed_flush_or_read_is_a_failed_write() {
    for done in [1, 2] {
        let mut h = with_bad_block(alone());
        h.write(3, sectors(0, 8));
        (0..done).for_each(|_| h.complete(h.oldest()));
        let error = h.fail(h.oldest());
        h.acknowledge_marks();
        assert_eq!(h.answered(3), Some(5));
        let reason = match done {
            1 => MarkReason::FlushError { error },
            _ => MarkReason::ReadError { error },
        };
        assert_eq!(marks(&h, reason).len(), 1, "{done}");
    }
}

#[test]
fn disk_that_goes_meanwhile_leaves_the_write_to_the_peer() {
    let mut h = with_bad_block(connected());
    h.write(3, sectors(0, 8));
    acknowledge(&mut h);
    h.complete(h.oldest());
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.drain = Some(Drain::Wait);
        s.own_loss_settled = false;
    });
    h.complete(h.oldest());
    // Nothing is read of a disk that goes; what was written is not known to be stable.
    assert!(h.operations.is_empty() && h.unanswered(3));
    assert_eq!(marks(&h, MarkReason::Unflushed).concat(), vec![blocks(0, 1)]);
    h.publish(|s| {
        s.vector.disk = DiskState::Diskless;
        s.disk = None;
        s.own_loss_settled = true;
    });
    assert_eq!(h.answered(3), None);
}

#[test]
fn another_disk_is_not_proven_by_what_was_read_of_the_first() {
    let mut h = with_bad_block(alone());
    h.write(3, sectors(0, 8));
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 3));
    let facts = h.snapshot.disk.clone();
    h.publish(|s| {
        s.vector.disk = DiskState::Diskless;
        s.disk = None;
        s.link_lost_at = Some(crate::part::Instant(0));
    });
    h.publish(|s| {
        s.vector.disk = DiskState::UpToDate;
        s.disk = facts;
    });
    h.marks.clear();
    // It is written anew, and shown anew.
    assert!(h.unanswered(3));
    until_read_back(&mut h);
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 3));
    h.acknowledge_marks();
    assert_eq!(h.answered(3), None);
}

#[test]
fn block_that_was_overwritten_in_part_needs_no_proof_and_stays_listed() {
    let mut h = with_bad_block(alone());
    h.write(3, sectors(0, 7));
    h.complete(h.oldest());
    h.acknowledge_marks();
    assert_eq!(h.answered(3), None);
    assert!(h.operations.is_empty() && marks(&h, READ_BACK).is_empty());
}

#[test]
fn only_what_was_listed_is_read_back() {
    let mut h = Harness::new(alone());
    h.bad(vec![blocks(2, 1), blocks(5, 1), blocks(9, 4)], vec![]);
    let range = sectors(8, 10 * 8 - 4);
    h.write(3, range);
    h.complete(h.oldest());
    h.complete(h.oldest());
    assert!(
        is_read_of(&only_operation(&h), sectors(16, 8 * 8)),
        "{:?}",
        only_operation(&h)
    );
    h.complete_with(h.oldest(), bytes(sectors(16, 8 * 8), 3));
    assert_eq!(marks(&h, READ_BACK), vec![vec![blocks(2, 8)]]);
}

#[test]
fn error_that_is_not_in_the_picture_yet_counts() {
    let mut h = Harness::new(connected());
    h.read(1, sectors(0, 8));
    h.fail(h.oldest());
    h.write(3, sectors(0, 8));
    acknowledge(&mut h);
    until_read_back(&mut h);
    assert!(h.unanswered(3));
}

#[test]
fn peers_read_waits_for_the_proof() {
    let mut h = with_bad_block(connected());
    h.publish(|s| s.vector.connection = crate::volume::state::ConnectionState::SyncSource);
    h.write(3, sectors(0, 8));
    h.complete(h.oldest());
    h.hear(Message::ResyncRead {
        request: 4,
        range: sectors(0, 8),
    });
    h.complete(h.oldest());
    h.complete_with(h.oldest(), bytes(sectors(0, 8), 3));
    let refused =
        |message: &Message| matches!(message, Message::ResyncFailed { .. } | Message::ReadFailed { .. });
    assert_eq!(h.sent(refused), 0, "the block would be lost at the target");
    h.bad(vec![], vec![]);
    h.acknowledge_marks();
    assert!(is_read_of(&only_operation(&h), sectors(0, 8)));
}

#[test]
fn write_that_was_refused_for_want_of_a_disk_waits_for_the_word_of_it() {
    let mut h = Harness::new(connected());
    h.write(3, sectors(0, 8));
    acknowledge(&mut h);
    h.refuse(h.oldest());
    // Nothing durable says yet that this disk is behind: a crash now, and it would come back as current.
    assert!(h.unanswered(3));
    h.publish(|s| {
        s.vector.disk = DiskState::Failed;
        s.own_loss_settled = false;
    });
    assert!(h.unanswered(3));
    h.publish(|s| s.own_loss_settled = true);
    assert_eq!(h.answered(3), None);
}

#[test]
fn peers_word_clears_nothing_behind_a_failed_flush() {
    let mut h = Harness::new(connected());
    h.write(3, sectors(0, 8));
    h.complete(h.oldest());
    acknowledge(&mut h);
    h.flush(4);
    let flush = h.oldest();
    let error = h.fail(flush);
    h.publish(|s| s.errors_settled = ErrorNumber(0));
    let ranges = vec![blocks(0, 1)];
    h.hear(Message::ResyncWritten {
        ranges: ranges.clone(),
    });
    assert!(cleared(&h).is_empty());
    h.publish(|s| s.errors_settled = error);
    h.hear(Message::ResyncWritten {
        ranges: ranges.clone(),
    });
    assert_eq!(cleared(&h), vec![(ranges, ClearReason::PeerWrote)]);
}
