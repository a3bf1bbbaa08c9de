//! The activity-log part while nobody dies.

use crate::node::Node;
use crate::world::{layout, snapshot};
use mendblock_core::activity::ActivityIn;
use mendblock_core::disk::MetaKind;
use mendblock_core::identity::{PartGeneration, Query};
use mendblock_core::volume::machine::StateIn;
use mendblock_core::volume::state::DiskState;
use mendblock_storage::format::activity_log::initialized_block;
use std::collections::BTreeSet;

fn load(node: &mut Node) -> Result<Vec<u32>, String> {
    node.on(ActivityIn::Load {
        query: Query(4),
        layout: Box::new(layout()),
    });
    node.complete_all();
    match node.state.pop() {
        Some(StateIn::LogLoaded {
            query: Query(4),
            result,
        }) => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn loading_says_which_extents_were_hot() {
    let mut node = Node::new(16);
    assert!(
        load(&mut node)
            .unwrap_err()
            .contains("none of its 8 blocks is valid")
    );
    node.ring = vec![Some(initialized_block()); 8];
    assert_eq!(load(&mut node), Ok(vec![]));

    let mut node = Node::attached(16);
    node.make_hot(&[9, 3]);
    node.make_hot(&[700]);
    assert_eq!(load(&mut node), Ok(vec![3, 9, 700]));
}

#[test]
fn an_unreadable_block_costs_one_transaction() {
    let mut node = Node::attached(16);
    for extent in [1, 2, 3] {
        node.make_hot(&[extent]);
    }
    node.ring[1] = None;
    assert_eq!(
        load(&mut node),
        Ok(vec![1, 2, 3]),
        "the third transaction repeats the slots of the second"
    );
    node.ring[2] = None;
    assert!(
        load(&mut node).unwrap_err().contains("lost transaction"),
        "nothing repeats those of the third"
    );
}

#[test]
fn a_reset_leaves_an_empty_log() {
    let mut node = Node::attached(16);
    node.make_hot(&[1, 2, 3]);
    node.on(ActivityIn::Unload);
    node.grants.clear();
    node.on(ActivityIn::Reset {
        query: Query(5),
        layout: Box::new(layout()),
    });
    node.complete_all();
    assert_eq!(node.on_disk(), BTreeSet::new());
    node.make_hot(&[4]);
    assert_eq!(node.on_disk(), BTreeSet::from([4]));
}

#[test]
fn a_failed_reset_is_reported() {
    let mut node = Node::new(16);
    node.on(ActivityIn::Reset {
        query: Query(1),
        layout: Box::new(layout()),
    });
    let operation = node.meta.remove(0);
    node.answer_meta(&operation, Err(5));
    assert!(matches!(
        node.state.pop(),
        Some(StateIn::LogReset {
            query: Query(1),
            result: Err(5)
        })
    ));
    node.activate(&[1]);
    assert!(node.meta.is_empty());
}

#[test]
fn grants_follow_the_durable_transaction() {
    let mut node = Node::attached(16);
    node.activate(&[5, 6]);
    assert!(
        matches!(node.meta[..], [ref only] if matches!(only.kind, MetaKind::Write { flush_before: true, .. }))
    );
    assert_eq!(node.granted(), []);
    node.complete();
    assert_eq!(node.granted(), [5, 6]);
    assert_eq!(node.transactions, [(2, 0)]);
    node.activate(&[5]);
    assert_eq!(node.granted(), [5, 6], "it has it already");
    node.give_back(5);
    node.activate(&[5]);
    assert_eq!(node.granted(), [6, 5], "hot: no transaction");
    assert!(node.meta.is_empty());
}

#[test]
fn all_that_waits_goes_into_one_transaction_of_at_most_64() {
    let mut node = Node::attached(200);
    node.activate(&[1000]);
    for extent in 0..65 {
        node.activate(&[extent]);
    }
    node.complete_all();
    assert_eq!(node.transactions, [(1, 0), (64, 0), (1, 0)]);
    assert_eq!(node.granted().len(), 66);
}

#[test]
fn sixty_five_updates_are_split_but_never_a_request() {
    let mut node = Node::attached(200);
    let many: Vec<u32> = (0..65).collect();
    node.activate(&many);
    node.complete_all();
    assert_eq!(node.transactions, [(64, 0), (1, 0)]);

    let mut node = Node::attached(200);
    node.activate(&[1000]);
    let (first, second): (Vec<u32>, Vec<u32>) = (0..80).partition(|extent| extent % 2 == 0);
    node.activate(&first);
    node.activate(&second);
    node.complete_all();
    assert_eq!(node.transactions, [(1, 0), (40, 0), (40, 0)]);
}

#[test]
fn the_least_recently_used_extent_leaves_after_its_pages() {
    let mut node = Node::attached(3);
    for extent in [1, 2, 3] {
        node.make_hot(&[extent]);
    }
    node.on(ActivityIn::Touched(vec![1]));
    node.activate(&[4]);
    assert_eq!(node.revokes.len(), 1);
    assert!(node.write_outs.is_empty() && node.meta.is_empty());
    assert_eq!(node.release(), 2);
    assert!(node.meta.is_empty(), "the pages first");
    assert_eq!(node.written_out(Ok(())), [2]);
    assert!(matches!(
        node.meta[0].kind,
        MetaKind::Write {
            flush_before: true,
            ..
        }
    ));
    assert_eq!(node.granted(), [1, 3]);
    node.complete();
    assert_eq!(node.granted(), [1, 3, 4]);
    assert_eq!(node.transactions.last(), Some(&(1, 1)));
    assert_eq!(node.on_disk(), BTreeSet::from([1, 3, 4]));
}

#[test]
fn what_was_given_back_is_evicted_without_a_revoke() {
    let mut node = Node::attached(2);
    node.make_hot(&[1]);
    node.make_hot(&[2]);
    node.give_back(2);
    node.activate(&[3]);
    assert!(node.revokes.is_empty());
    assert_eq!(node.written_out(Ok(())), [2]);
}

#[test]
fn an_extent_that_is_being_evicted_is_not_granted() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.give_back(1);
    node.activate(&[2]);
    node.activate(&[1]);
    assert_eq!(node.granted(), []);
    node.written_out(Ok(()));
    node.complete();
    assert_eq!(node.granted(), [2]);
    assert_eq!(node.release(), 2);
    assert_eq!(node.written_out(Ok(())), [2]);
    node.complete();
    assert_eq!(node.granted(), [1]);
}

#[test]
fn hot_requests_overtake_cold_ones_unless_the_log_starves() {
    let mut node = Node::attached(2);
    node.make_hot(&[1]);
    node.give_back(1);
    node.activate(&[2]);
    node.activate(&[1]);
    assert_eq!(node.granted(), [1], "while the transaction for 2 is written");
    node.complete();

    node.activate(&[3]);
    assert_eq!(node.revokes.len(), 1);
    node.give_back(2);
    // Slot of 2 is free: 3 is on its way, and the log starves no longer.
    assert_eq!(node.written_out(Ok(())), [2]);
    node.complete();
    assert_eq!(node.granted(), [1, 3]);

    node.activate(&[4, 5]);
    node.give_back(1);
    node.activate(&[1]);
    assert_eq!(
        node.granted(),
        [3],
        "4 and 5 wait for two slots; 1 does not take its slot back"
    );
}

#[test]
fn a_request_never_gives_up_its_own_extents() {
    let mut node = Node::attached(2);
    node.make_hot(&[1]);
    node.make_hot(&[2]);
    node.activate(&[1, 3]);
    assert_eq!(node.release(), 2);
    assert_eq!(node.written_out(Ok(())), [2]);
    node.complete();
    assert_eq!(node.granted(), [1, 3]);
}

#[test]
fn a_failed_write_out_or_transaction_grants_nothing() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.give_back(1);
    node.activate(&[2]);
    node.written_out(Err(5));
    assert!(node.meta.is_empty());
    node.activate(&[3]);
    assert_eq!(node.granted(), []);

    let mut node = Node::attached(4);
    node.activate(&[1]);
    let operation = node.meta.remove(0);
    node.activate(&[2]);
    node.answer_meta(&operation, Err(5));
    assert!(node.granted().is_empty() && node.meta.is_empty());
}

#[test]
fn who_waits_for_a_failed_disk_is_dropped() {
    for state in [DiskState::Failed, DiskState::Diskless] {
        let mut node = Node::attached(4);
        node.activate(&[1]);
        node.activate(&[2]);
        node.on(ActivityIn::Snapshot(snapshot(4, state)));
        node.complete_all();
        assert_eq!(node.granted(), []);
    }
}

#[test]
fn a_new_volume_part_is_asked_again_and_its_predecessors_wishes_end() {
    let mut node = Node::attached(1);
    node.make_hot(&[1]);
    node.activate(&[2]);
    assert_eq!(node.revokes.len(), 1);
    node.grants.clear();
    node.on(ActivityIn::Restarted {
        part: mendblock_core::part::PartName::Volume,
        generation: PartGeneration(2),
    });
    assert_eq!(node.revokes.len(), 2);
    node.revokes.remove(0);
    node.activate(&[7]);
    node.on(ActivityIn::Activate {
        extents: vec![8],
        holder: PartGeneration(2),
    });
    assert!(
        node.write_outs.is_empty(),
        "1 may be held by writes that the new one has to find"
    );
    node.release();
    assert_eq!(node.written_out(Ok(())), [1]);
    node.complete();
    assert_eq!(node.granted(), [8]);
}
