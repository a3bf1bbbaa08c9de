//! Deaths: of the log's actor (R7, R8), of the disk's (R9), of the bitmap's.

use crate::node::Node;
use crate::world::layout;
use mendblock_core::activity::ActivityIn;
use mendblock_core::disk::{MetaKind, TableAnswer};
use mendblock_core::identity::{PartGeneration, Query};
use mendblock_core::part::PartName;
use mendblock_core::volume::machine::StateIn;
use mendblock_core::volume::state::DiskState;
use std::collections::BTreeSet;

fn disk_restarted(node: &mut Node) {
    node.on(ActivityIn::Restarted {
        part: PartName::Disk,
        generation: PartGeneration(2),
    });
}

/// A05, the log's half: the predecessor's transaction is in the kernel when the successor starts.
#[test]
fn predecessors_transaction_lands_late() {
    let mut node = Node::attached(4);
    node.make_hot(&[1]);
    node.activate(&[2]);
    node.restart(2);
    node.activate(&[3]);
    assert_eq!(node.meta.len(), 1, "nothing is read before the table's answer");
    node.answer_table();
    assert_eq!(
        node.meta.len(),
        1,
        "nor before the predecessor's write has left it"
    );
    node.complete_all();
    assert_eq!(node.on_disk(), BTreeSet::from([1, 2, 3]));
    assert_eq!(
        node.granted(),
        [1, 3],
        "2 is granted by no one: its volume part asks again"
    );
    node.activate(&[2]);
    assert_eq!(node.granted(), [1, 3, 2]);
}

#[test]
fn a_successor_takes_every_extent_for_granted() {
    let mut node = Node::attached(2);
    node.make_hot(&[1]);
    node.make_hot(&[2]);
    node.give_back(2);
    node.restart(2);
    node.answer_table();
    node.complete_all();
    node.activate(&[3]);
    assert!(node.write_outs.is_empty());
    assert_eq!(node.revokes.len(), 1);
    let released = node.release();
    assert_eq!(node.written_out(Ok(())), [released]);
    node.complete();
    assert!(node.granted().contains(&3));
}

/// A19.
#[test]
fn released_answers_an_old_revoke() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.activate(&[2]);
    let (old, _) = node.revokes.remove(0);
    node.restart(2);
    node.answer_table();
    node.complete_all();
    node.activate(&[2]);
    assert_ne!(node.revokes[0].0, old);
    node.on(ActivityIn::Released {
        number: old,
        grants: Vec::new(),
        not_held: vec![1],
    });
    assert!(
        node.write_outs.is_empty(),
        "the answer was for the predecessor's question"
    );
    node.release();
    assert_eq!(node.write_outs.len(), 1);
}

/// A19, within one generation: the disk was attached anew meanwhile.
#[test]
fn numbers_of_revokes_differ_between_attaches() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.activate(&[2]);
    let (old, _) = node.revokes.remove(0);
    node.on(ActivityIn::Unload);
    node.grants.clear();
    node.on(ActivityIn::Reset {
        query: Query(9),
        layout: Box::new(layout()),
    });
    node.complete_all();
    node.make_hot(&[1]);
    node.activate(&[2]);
    node.on(ActivityIn::Released {
        number: old,
        grants: Vec::new(),
        not_held: vec![1],
    });
    assert!(node.write_outs.is_empty());
}

#[test]
fn what_the_table_does_not_name_is_repeated() {
    let mut node = Node::attached(4);
    node.activate(&[1]);
    let lost = node.meta[0].number;
    node.meta.clear();
    disk_restarted(&mut node);
    assert!(node.meta.is_empty(), "nothing before the answer");
    node.answer_table();
    assert_eq!(node.meta.len(), 1);
    assert_eq!(node.meta[0].number, lost);
    disk_restarted(&mut node);
    node.answer_table();
    assert_eq!(node.meta.len(), 1, "it is named: no second copy");
    node.complete();
    assert_eq!(node.granted(), [1]);
}

/// A03: an answer to another question, or to a dead generation, says nothing.
#[test]
fn stale_table_answer_is_dropped() {
    let mut node = Node::attached(4);
    node.activate(&[1]);
    disk_restarted(&mut node);
    disk_restarted(&mut node);
    let (asker, first) = node.queries.remove(0);
    let stale = [(asker, first), (PartGeneration(7), node.queries[0].1)];
    for (asker, query) in stale {
        node.on(ActivityIn::Table(TableAnswer {
            query,
            asker,
            data: Vec::new(),
            meta: Vec::new(),
        }));
    }
    assert_eq!(node.meta.len(), 1);
    node.answer_table();
    node.complete();
    assert_eq!(node.granted(), [1]);
}

#[test]
fn a_write_out_is_repeated_to_a_new_bitmap_part() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.give_back(1);
    node.activate(&[2]);
    let first = node.write_outs.remove(0);
    node.on(ActivityIn::Restarted {
        part: PartName::Bitmap,
        generation: PartGeneration(2),
    });
    assert_eq!(node.write_outs, [first]);
    node.written_out(Ok(()));
    node.complete();
    assert_eq!(node.granted(), [2]);
}

#[test]
fn a_predecessors_write_out_is_not_taken_for_the_own() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.give_back(1);
    node.activate(&[2]);
    let (old, _) = node.write_outs.remove(0);
    node.restart(2);
    node.answer_table();
    node.complete_all();
    node.activate(&[2]);
    node.release();
    node.on(ActivityIn::WrittenOut {
        query: old,
        result: Ok(()),
    });
    assert!(node.meta.is_empty());
    node.written_out(Ok(()));
    assert!(matches!(node.meta[0].kind, MetaKind::Write { .. }));
}

#[test]
fn a_ring_that_cannot_be_read_back_gives_the_disk_up() {
    let mut node = Node::attached(4);
    node.make_hot(&[1]);
    node.ring = vec![None; 8];
    node.restart(2);
    node.answer_table();
    node.complete_all();
    assert!(matches!(
        node.state.pop(),
        Some(StateIn::DriverFailed {
            part: PartName::ActivityLog
        })
    ));
}

#[test]
fn without_a_disk_there_is_nothing_to_recover() {
    let mut node = Node::new(4);
    node.restart_under(2, DiskState::Diskless);
    node.answer_table();
    assert!(node.meta.is_empty() && node.state.is_empty());
}
