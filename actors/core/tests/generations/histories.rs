//! Random histories of a pair: promotions, crashes, link and disk losses, lost sync-id and finish messages, blank
//! disks. Checked at every step by [`Pair`]: both answers mirror each other, equal slots and equal data after every
//! finished resync, equal data when no resync is needed, no acknowledged write given up without a verdict of split
//! brain, no application that is shown an older copy than it has seen.

use super::pair::{BLOCKS, Pair};
use proptest::prelude::*;

/// What happens to the pair; an event that is impossible at that moment does nothing.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Connect {
        discard: Option<usize>,
        sync_id_arrives: bool,
    },
    LinkLost,
    Write {
        node: usize,
        block: usize,
    },
    Promote {
        node: usize,
    },
    ForcedPromotion {
        node: usize,
    },
    Demote {
        node: usize,
    },
    /// A Primary may have a write in flight, which reaches either, both or none of the disks.
    Crash {
        node: usize,
        block: usize,
        on_own: bool,
        on_peer: bool,
    },
    Reboot {
        node: usize,
    },
    /// The peer's word about its new generation arrives, or the link breaks before.
    DiskFails {
        node: usize,
        heard: bool,
    },
    Attach {
        node: usize,
        sync_id_arrives: bool,
    },
    BlankDisk {
        node: usize,
    },
    CopyBlocks {
        count: usize,
    },
    FinishResync {
        heard: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 0..2usize;
    let block = || 0..BLOCKS;
    let likely = || prop::bool::weighted(0.8);
    prop_oneof![
        8 => (prop::option::weighted(0.1, node()), likely())
            .prop_map(|(discard, sync_id_arrives)| Event::Connect { discard, sync_id_arrives }),
        3 => Just(Event::LinkLost),
        8 => (node(), block()).prop_map(|(node, block)| Event::Write { node, block }),
        4 => node().prop_map(|node| Event::Promote { node }),
        1 => node().prop_map(|node| Event::ForcedPromotion { node }),
        3 => node().prop_map(|node| Event::Demote { node }),
        2 => (node(), block(), any::<bool>(), any::<bool>())
            .prop_map(|(node, block, on_own, on_peer)| Event::Crash { node, block, on_own, on_peer }),
        5 => node().prop_map(|node| Event::Reboot { node }),
        2 => (node(), likely()).prop_map(|(node, heard)| Event::DiskFails { node, heard }),
        5 => (node(), likely()).prop_map(|(node, sync_id_arrives)| Event::Attach { node, sync_id_arrives }),
        1 => node().prop_map(|node| Event::BlankDisk { node }),
        4 => (1..=BLOCKS).prop_map(|count| Event::CopyBlocks { count }),
        6 => likely().prop_map(|heard| Event::FinishResync { heard }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_from_a_pair_in_sync(events in prop::collection::vec(event(), 1..60)) {
        let mut pair = Pair::in_sync();
        for event in events {
            pair.on(event);
        }
    }

    #[test]
    fn histories_from_fresh_disks(events in prop::collection::vec(event(), 1..60)) {
        let mut pair = Pair::fresh();
        for event in events {
            pair.on(event);
        }
    }
}

/// The histories are worth something only if they get somewhere.
#[test]
fn histories_reach_every_rule() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut reached = std::collections::BTreeSet::new();
    for _ in 0..600 {
        let events = prop::collection::vec(event(), 60)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut pair = Pair::in_sync();
        events.into_iter().for_each(|event| pair.on(event));
        reached.extend(pair.rules);
    }
    let expected = [
        10, 20, 30, 34, 35, 36, 37, 40, 50, 51, 52, 60, 70, 71, 72, 80, 90, 100,
    ];
    assert_eq!(reached.into_iter().collect::<Vec<u8>>(), expected);
}
