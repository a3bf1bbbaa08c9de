//! The size of the volume is that of the smaller disk, which a node learns from its peer: no bit stands behind it.

use super::*;

/// A page, and a part of the next one.
const SMALLER: u64 = PAGE_BITS + 7;

fn shrink(node: &mut Node) {
    node.change(|snapshot| snapshot.volume_sectors = SMALLER * 8);
    node.run();
}

#[test]
fn bits_behind_the_agreed_end_are_gone() {
    let mut node = Node::new(0);
    node.change(|_| {});
    node.load(true, Vec::new());
    node.run();
    node.commit();
    shrink(&mut node);
    let map = &node.part.loaded.as_ref().unwrap().map;
    assert_eq!((map.bits(), map.count()), (SMALLER, SMALLER));
    let durable = node.durable();
    assert!(durable.is_set(SMALLER - 1), "still out of sync");
    assert!(
        !durable.is_set(SMALLER),
        "cleared in the page that has the end, on disk too"
    );
}

#[test]
fn a_mark_behind_the_end_sets_nothing_and_is_acknowledged() {
    let mut node = Node::attached(0);
    shrink(&mut node);
    node.mark(SMALLER + 5, MarkReason::PeerLacks);
    node.run();
    assert_eq!(node.part.loaded.as_ref().unwrap().map.count(), 0);
    assert_eq!(node.marked.len(), 1);
}

#[test]
fn maps_of_different_disks_fit_each_other() {
    let mut nodes = [Node::attached(0), Node::attached(1)];
    // One with the smaller disk never had more.
    for node in &mut nodes {
        shrink(node);
        node.connect();
    }
    nodes[0].mark(SMALLER - 1, MarkReason::PeerLacks);
    nodes[0].run();
    for (node, source) in nodes.iter_mut().zip([true, false]) {
        node.send(BitmapIn::Exchange {
            connection: LINK,
            source,
            after: MarkNumber(0),
        });
    }
    for (from, to) in [(0, 1), (1, 0)] {
        for frame in std::mem::take(&mut nodes[from].frames) {
            nodes[to].send(BitmapIn::Peer {
                connection: LINK,
                frame,
            });
        }
    }
    for node in &nodes {
        assert_eq!(node.drops, 0);
        assert_eq!(node.part.loaded.as_ref().unwrap().map.count(), 1);
    }
}

#[test]
fn what_the_disk_was_never_used_for_is_out_of_sync_whatever_its_bitmap_says() {
    for agreed_sectors in [0, SMALLER * 8, SMALLER * 8 + 3] {
        let mut node = Node::new(0);
        node.change(|_| {});
        let plan = LoadPlan {
            layout: layout(),
            volume_sectors: SECTORS,
            agreed_sectors,
            set_all: false,
            extents: Vec::new(),
            list_lost: false,
        };
        node.send(BitmapIn::Load {
            query: Query(2),
            plan: Box::new(plan),
        });
        node.run();
        let durable = node.durable();
        let old = agreed_sectors / 8;
        assert_eq!(durable.count(), SECTORS / 8 - old);
        assert_eq!(durable.next_set(0), Some(old));
    }
}

#[test]
fn a_volume_that_grows_in_use_resyncs_what_is_new() {
    let mut node = Node::attached(0);
    shrink(&mut node);
    node.change(|snapshot| snapshot.volume_sectors = SECTORS);
    node.run();
    let durable = node.durable();
    // With the block that the old end may have cut.
    assert_eq!(durable.next_set(0), Some(SMALLER - 1));
    assert_eq!(durable.count(), SECTORS / 8 - SMALLER + 1);
}
