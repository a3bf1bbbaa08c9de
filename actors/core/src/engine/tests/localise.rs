//! A larger read fails on the last good copy: its blocks are told apart.

use super::harness::*;
use crate::bitmap::{BitmapIn, ClearReason};
use crate::disk::DataKind;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::Message;
use mendblock_storage::units::BlockRange;

fn source() -> Harness {
    let mut h = Harness::new(connected());
    h.publish(|s| {
        s.vector.connection = ConnectionState::SyncSource;
        s.vector.peer_disk = DiskState::Inconsistent;
    });
    h
}

fn read_twice(h: &Harness) -> Vec<BlockRange> {
    let ranges = |message: &BitmapIn| match message {
        BitmapIn::Clear {
            ranges,
            reason: ClearReason::ReadTwice,
        } => ranges.clone(),
        _ => Vec::new(),
    };
    h.bitmap.iter().flat_map(ranges).collect()
}

/// Answers the reads of single blocks until there are none: `bad` fails, `changing` gives other bytes each time.
fn probe_all(h: &mut Harness, bad: u64, changing: u64) {
    for fill in 1..100 {
        let Some((&id, kind)) = h.operations.first_key_value() else {
            return;
        };
        let DataKind::Read { range } = *kind else {
            panic!("{kind:?}")
        };
        assert_eq!(range.count(), 8, "block by block");
        let block = range.first() / 8;
        if block == bad {
            h.fail(id);
        } else {
            let fill = if block == changing { fill } else { 7 };
            h.complete_with(id, bytes(range, fill));
        }
    }
    panic!("the probes do not end");
}

#[test]
fn blocks_of_a_failed_resync_read_are_told_apart() {
    let mut h = source();
    let range = sectors(0, 32);
    h.hear(Message::ResyncRead { request: 4, range });
    h.fail(h.oldest());
    let not_now = |h: &Harness| h.sent(|m| matches!(m, Message::ReadFailed { errno: 11, .. }));
    assert_eq!(not_now(&h), 1, "nothing is said to be lost yet");
    h.bad(vec![blocks(0, 4)], vec![]);
    probe_all(&mut h, 1, 3);
    assert_eq!(read_twice(&h), [blocks(0, 1), blocks(2, 1)]);
    // The old picture still names them all.
    h.hear(Message::ResyncRead { request: 5, range });
    assert_eq!(not_now(&h), 2);
    h.bad(vec![blocks(1, 1), blocks(3, 1)], vec![]);
    h.hear(Message::ResyncRead { request: 6, range });
    let lost = sectors(8, 8);
    assert_eq!(
        h.sent(|m| matches!(m, Message::ResyncFailed { request: 6, range } if *range == lost)),
        1
    );
}

#[test]
fn disk_that_is_given_up_is_not_probed() {
    let mut h = Harness::new(connected());
    h.publish(|s| s.errors_seen = crate::identity::ErrorNumber(0));
    h.read(1, sectors(0, 32));
    let error = h.fail(h.oldest());
    h.publish(|s| {
        s.errors_seen = error;
        s.vector.disk = DiskState::Failed;
    });
    assert!(h.operations.is_empty());
}

#[test]
fn block_that_fails_again_meanwhile_stays_on_the_list() {
    let mut h = source();
    let range = sectors(0, 16);
    h.hear(Message::ResyncRead { request: 4, range });
    h.hear(Message::ResyncRead { request: 5, range });
    h.fail(h.oldest());
    // The second read of the same blocks fails while the first block is probed.
    let other = h.oldest();
    h.fail(other);
    probe_all(&mut h, 99, 99);
    assert!(!read_twice(&h).is_empty());
}
