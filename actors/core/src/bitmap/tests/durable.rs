//! Loading, marks, write-outs and the health file.

use super::*;

#[test]
fn a_load_merges_disk_extents_and_list() {
    let mut node = Node::attached(0);
    node.mark(70, MarkReason::PeerLacks);
    node.mark(
        90_000,
        MarkReason::ReadError {
            error: ErrorNumber(3),
        },
    );
    node.run();
    node.restart();
    node.change(|_| {});
    node.load(false, vec![2]);
    node.run();
    assert_eq!(node.loaded().last(), Some(&Ok(1024 + 2)));
    assert_eq!(node.durable().count(), 1024 + 2);
    assert_eq!(node.pictures.last().unwrap().own, [BlockRange::single(90_000)]);
}

#[test]
fn an_unreadable_page_has_all_its_bits_set_and_is_rewritten() {
    let mut node = Node::new(0);
    node.unreadable = Some(layout().bitmap_page_byte(1));
    node.load(false, Vec::new());
    node.run();
    assert_eq!(node.loaded(), [Ok(PAGE_BITS)]);
    assert_eq!(node.durable().count_of_page(1), PAGE_BITS as u32);
}

#[test]
fn full_sync_writes_every_bit_without_reading() {
    let mut node = Node::new(0);
    node.change(|_| {});
    node.load(true, Vec::new());
    assert!(
        node.table
            .iter()
            .all(|operation| matches!(operation.kind, MetaKind::WriteLazy { .. }))
    );
    node.run();
    assert_eq!(node.durable().count(), SECTORS / 8);
}

#[test]
fn marks_during_a_batch_wait_for_the_next_one() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.mark(2, MarkReason::PeerLacks);
    assert!(
        node.complete() && node.marked.is_empty(),
        "written, but not flushed"
    );
    assert!(node.complete());
    assert_eq!(node.marked, [(1, MarkOutcome::Durable)]);
    assert!(!node.durable().is_set(2));
    node.run();
    assert_eq!(node.marked.last(), Some(&(2, MarkOutcome::Durable)));
    assert!(node.durable().is_set(2));
    node.mark(2, MarkReason::PeerLacks);
    assert_eq!(
        node.marked.last(),
        Some(&(3, MarkOutcome::Durable)),
        "already on disk"
    );
}

#[test]
fn data_is_flushed_before_cleared_bits_are_written() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.mark(5, MarkReason::PeerLacks);
    node.run();
    node.order.clear();
    node.clear(1, ClearReason::WrittenOnBoth);
    node.write_out(0);
    node.run();
    assert_eq!(node.order, ["flush", "write", "flush"]);
    assert!(!node.durable().is_set(1) && node.durable().is_set(5));
}

#[test]
fn a_read_error_mark_settles_bit_record_and_error() {
    let mut node = Node::attached(0);
    node.hold_health = true;
    node.mark(
        8,
        MarkReason::ReadError {
            error: ErrorNumber(4),
        },
    );
    node.run();
    assert!(
        node.marked.is_empty() && node.settled.is_empty(),
        "the record is not durable yet"
    );
    node.hold_health = false;
    node.run();
    assert_eq!(
        (node.marked.as_slice(), node.settled.as_slice()),
        (&[(1, MarkOutcome::Durable)][..], &[4][..])
    );
    assert!(node.newest().records.is_bad(range(8, 1)));
    assert_eq!(node.pictures.last().unwrap().own, [range(8, 1)]);
}

#[test]
fn a_failed_page_write_is_reported_and_the_page_stays_changed() {
    let mut node = Node::attached(0);
    node.failing = Some(5);
    node.mark(
        8,
        MarkReason::ReadError {
            error: ErrorNumber(4),
        },
    );
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::InMemory { record: true })]);
    node.write_out(1);
    node.run();
    node.failing = None;
    node.write_out(1);
    node.run();
    assert_eq!(node.written_out(), [(Err(5), true), (Ok(()), false)]);
    assert!(node.durable().is_set(8));
}

#[test]
fn without_a_disk_the_record_brings_the_bit_back() {
    let mut node = Node::attached(0);
    node.change(|snapshot| snapshot.vector.disk = DiskState::Diskless);
    node.send(BitmapIn::Unload);
    node.mark(8, MarkReason::MissedWrite);
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::InMemory { record: true })]);
    node.restart();
    node.attach();
    assert!(node.durable().is_set(8));
}

#[test]
fn write_out_waits_for_its_marks() {
    let mut node = Node::attached(0);
    node.write_out(1);
    node.run();
    assert!(node.written_out().is_empty());
    node.mark(
        3,
        MarkReason::ReadError {
            error: ErrorNumber(1),
        },
    );
    node.run();
    assert_eq!(node.written_out(), [(Ok(()), false)]);
}

#[test]
fn the_anchor_names_what_is_durable() {
    let mut node = Node::attached(0);
    for block in 10..14 {
        node.mark(block * 3, MarkReason::MissedWrite);
        node.run();
    }
    let durable = node.newest().sequence;
    node.hold_health = true;
    node.mark(90, MarkReason::MissedWrite);
    node.send(BitmapIn::LoadHealth {
        query: Query(3),
        device_id: Some(DEVICE),
    });
    let Some(StateIn::HealthLoaded {
        header: Some(header),
        bad_blocks,
        ..
    }) = node.state.last()
    else {
        panic!("no header");
    };
    let StoredAnchor::Present(anchor) = header.anchor else {
        panic!("no anchor")
    };
    assert_eq!((anchor.sequence, anchor.record_count), (durable, 4));
    assert_eq!((header.sequence, *bad_blocks), (durable, 5));
    node.hold_health = false;
    node.run();
    let told = node.state.iter().rev().find_map(|state| match state {
        StateIn::Anchor(StoredAnchor::Present(anchor)) => Some(*anchor),
        _ => None,
    });
    let told = told.expect("the state part learns the new anchor");
    assert_eq!((told.sequence, told.record_count), (node.newest().sequence, 5));
}

#[test]
fn a_record_that_could_not_be_written_is_reported_and_written_with_the_next() {
    let mut node = Node::attached(0);
    node.failing_health = true;
    node.mark(3, MarkReason::MissedWrite);
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::RecordLost)]);
    node.failing_health = false;
    node.mark(5, MarkReason::MissedWrite);
    node.run();
    assert_eq!(node.marked.last(), Some(&(2, MarkOutcome::Durable)));
    let records = node.newest().records;
    assert!(records.is_bad(range(3, 1)) && records.is_bad(range(5, 1)));
}

#[test]
fn a_bit_cleared_during_the_flush_of_the_data_is_not_written_yet() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.mark(2, MarkReason::PeerLacks);
    // Never cleared: with its last bit gone the map would be written at once.
    node.mark(9, MarkReason::PeerLacks);
    node.run();
    node.clear(1, ClearReason::WrittenOnBoth);
    node.write_out(0);
    node.clear(2, ClearReason::WrittenOnBoth);
    node.run();
    assert!(!node.too_early);
    assert!(!node.durable().is_set(1) && node.durable().is_set(2));
}

#[test]
fn all_bits_are_set_only_when_a_batch_that_began_later_has_ended() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.send(BitmapIn::SetAll {
        query: Query(4),
        reason: "test".to_owned(),
    });
    let set = |node: &Node| {
        let all = |state: &&StateIn| matches!(state, StateIn::AllSet { result: Ok(()), .. });
        node.state.iter().filter(all).count()
    };
    while set(&node) == 0 && node.complete() {}
    assert_eq!(node.durable().count(), SECTORS / 8);
    node.run();
    assert_eq!(set(&node), 1);
}
