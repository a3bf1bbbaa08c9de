//! A new generation of the part, and new neighbours.

use super::*;

impl Node {
    /// Wakes the part until it no longer waits for the table.
    fn wait_for_the_table(&mut self) {
        while let Some(at) = self.part.wake_at() {
            self.step(None, at.0);
        }
    }
}

#[test]
fn predecessors_page_write_lands_late() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.reborn(2);
    assert_eq!(
        node.table.len(),
        1,
        "nothing is read while the old page write is in the kernel"
    );
    node.complete();
    assert!(node.table.is_empty());
    node.wait_for_the_table();
    node.replayed(0, 2);
    node.write_out(0);
    node.run();
    assert_eq!(node.written_out(), [(Ok(()), false)]);
    assert!(
        node.durable().is_set(1),
        "the predecessor's page was never flushed"
    );
}

#[test]
fn a_mark_repeated_to_a_new_generation_is_flushed_before_its_answer() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.complete();
    // The predecessor died before it could ask for the flush.
    node.table.clear();
    node.reborn(2);
    let number = MarkNumber(node.last_mark);
    node.send(BitmapIn::Mark(vec![Mark {
        number,
        ranges: vec![range(1, 1)],
        reason: MarkReason::PeerLacks,
    }]));
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::Durable)]);
    assert!(node.durable().is_set(1));
}

#[test]
fn write_out_waits_for_a_mark_already_written() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.run();
    node.reborn(2);
    node.write_out(1);
    node.run();
    assert!(node.written_out().is_empty());
    node.replayed(1, 2);
    node.run();
    assert_eq!(node.written_out().len(), 1);
}

#[test]
fn end_of_replay_reaches_the_wrong_generation() {
    let mut node = Node::attached(0);
    node.last_mark = 3;
    node.reborn(3);
    node.run();
    node.write_out(1);
    node.replayed(1, 2);
    node.mark(4, MarkReason::PeerLacks);
    node.run();
    assert!(node.written_out().is_empty(), "mark 1 may still be replayed");
    node.replayed(4, 3);
    node.run();
    assert_eq!(node.written_out().len(), 1);
}

#[test]
fn a_new_disk_part_gets_what_its_table_lacks() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.table.clear();
    node.send(BitmapIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(2),
    });
    assert_eq!(node.table.len(), 1);
    node.send(BitmapIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(3),
    });
    assert_eq!(node.table.len(), 1, "what the table names is not repeated");
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::Durable)]);
}

#[test]
fn nothing_is_submitted_twice_while_the_table_is_awaited() {
    let mut node = Node::attached(0);
    node.hold_table = true;
    node.send(BitmapIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(2),
    });
    node.mark(1, MarkReason::PeerLacks);
    node.answer_tables();
    assert_eq!(node.table.len(), 1);
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::Durable)]);
}

#[test]
fn an_answer_of_an_earlier_table_repeats_nothing() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    let restarted = |generation| BitmapIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(generation),
    };
    node.hold_table = true;
    let kept = std::mem::take(&mut node.table);
    node.send(restarted(2));
    node.table = kept;
    node.send(restarted(3));
    node.answer_tables();
    assert_eq!(node.table.len(), 1, "the first answer is void");
}

#[test]
fn a_disk_part_that_dies_while_a_new_generation_asks_is_asked_again() {
    let mut node = Node::attached(0);
    node.hold_table = true;
    node.reborn(2);
    node.tables.clear();
    node.send(BitmapIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(2),
    });
    node.answer_tables();
    node.replayed(0, 2);
    node.write_out(0);
    node.run();
    assert_eq!(node.written_out(), [(Ok(()), false)]);
}

#[test]
fn a_disk_part_that_dies_with_the_bitmap_part_is_asked_once_and_held_up_by_nothing() {
    let mut node = Node::attached(0);
    node.hold_table = true;
    node.born(2);
    node.send(BitmapIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(2),
    });
    node.change(|_| {});
    node.answer_tables();
    node.mark(1, MarkReason::PeerLacks);
    node.run();
    assert_eq!(node.marked, [(1, MarkOutcome::Durable)]);
}

#[test]
fn a_disk_that_goes_while_a_new_generation_reads_ends_the_waiting() {
    let mut node = Node::attached(0);
    node.reborn(2);
    node.mark(1, MarkReason::MissedWrite);
    node.write_out(0);
    node.table.clear();
    node.change(|snapshot| snapshot.vector.disk = DiskState::Failed);
    node.send(BitmapIn::Unload);
    node.run();
    assert_eq!(node.written_out().len(), 1);
    assert_eq!(node.marked, [(1, MarkOutcome::InMemory { record: true })]);
}

#[test]
fn a_new_volume_part_waits_for_the_bitmap_of_a_new_generation() {
    let mut node = Node::attached(0);
    node.connect();
    node.mark(7, MarkReason::PeerLacks);
    node.run();
    node.reborn(2);
    node.pictures.clear();
    node.send(BitmapIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    });
    assert!(node.pictures.is_empty() && node.told_volume == 0);
    node.run();
    assert_eq!(node.told_volume, 1);
    assert!(
        node.pictures.iter().all(|picture| picture.peer == [range(7, 1)]),
        "a picture without the block would let a read go to a peer that lacks the write"
    );
}

#[test]
fn a_load_during_recovery_is_answered() {
    let mut node = Node::attached(0);
    node.reborn(2);
    node.load(false, Vec::new());
    node.run();
    assert_eq!(node.loaded(), [Ok(0), Ok(0)]);
}

#[test]
fn nothing_is_replayed_by_a_volume_part_that_is_new_too() {
    let mut node = Node::attached(0);
    node.mark(1, MarkReason::PeerLacks);
    node.reborn(2);
    node.send(BitmapIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    });
    node.write_out(2);
    node.mark(2, MarkReason::PeerLacks);
    while node.complete() {}
    node.wait_for_the_table();
    node.run();
    assert_eq!(node.written_out(), [(Ok(()), false)]);
}

#[test]
fn the_end_of_a_predecessors_health_file_write_acknowledges_nothing() {
    let mut node = Node::attached(0);
    node.hold_health = true;
    node.mark(1, MarkReason::MissedWrite);
    while node.complete() {}
    node.reborn(2);
    node.replayed(1, 2);
    node.mark(2, MarkReason::MissedWrite);
    while node.complete() {}
    node.hold_health = false;
    node.write_health();
    assert!(
        node.marked.is_empty(),
        "the record is in the file of the next write"
    );
    node.run();
    assert_eq!(node.marked, [(2, MarkOutcome::Durable)]);
}

#[test]
fn a_new_generation_gives_no_news_before_it_has_the_bitmap() {
    let mut node = Node::attached(0);
    node.connect();
    node.mark(1, MarkReason::PeerLacks);
    node.run();
    node.reborn(2);
    node.ask_news();
    assert!(node.news.is_empty());
    node.wait_for_the_table();
    node.run();
    assert_eq!(node.news.len(), 1);
    assert_eq!(node.news[0].2, node.pictures.len());
    assert_eq!(node.pictures.last().unwrap().peer, [range(1, 1)]);
}
