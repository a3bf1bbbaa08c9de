//! The search to a small depth, and that it finds what is wrong on purpose.

use mendblock_core::configuration::OnIoError;
use mendblock_model::planted::Planted;
use mendblock_model::starts::{STARTS, start};
use mendblock_model::walker::{Limits, Outcome, Walker};

fn search(name: &str, policy: OnIoError, planted: Planted, depth: usize) -> Outcome {
    let limits = Limits {
        depth,
        at_rest: 0,
        time: None,
        states: usize::MAX,
    };
    Walker::new(limits, &mut |_| ()).run(start(name, policy, planted).expect("a start of this name"))
}

#[test]
fn one_order_or_fault_at_every_start_breaks_nothing() {
    for policy in [OnIoError::Detach, OnIoError::PassOn] {
        for (name, _) in STARTS {
            let outcome = search(name, policy, Planted::Nothing, 1);
            assert!(outcome.complete, "{name}, {policy:?}: {:#?}", outcome.found);
            assert!(outcome.states > 100, "{name}: {outcome:?}");
        }
    }
}

/// The number of orders and faults in the shortest history that shows the planted fault, from this start.
fn found_after(name: &str, planted: Planted) -> (usize, String) {
    let outcome = search(name, OnIoError::Detach, planted, 3);
    let found = outcome.found.expect("a fault that is planted shows");
    (outcome.layers.len() - 1, found.what)
}

#[test]
fn a_bit_that_is_cleared_without_a_copy_is_found() {
    let (depth, what) = found_after("alone", Planted::ClearWithoutProof);
    assert_eq!(depth, 1, "{what}");
    assert!(what.contains("UpToDate without acknowledged write"), "{what}");
}

#[test]
fn a_promotion_that_ignores_the_peer_is_found() {
    let (depth, what) = found_after("secondaries", Planted::IgnoreThePeer);
    assert_eq!(depth, 2, "{what}");
    assert!(what.contains("two Primaries"), "{what}");
}

#[test]
fn a_generation_that_does_not_reach_the_peer_is_found() {
    let (depth, what) = found_after("primary", Planted::StaleGenerations);
    assert_eq!(depth, 1, "{what}");
    assert!(what.contains("answers do not fit"), "{what}");
}

#[test]
fn a_generation_that_is_not_written_is_found() {
    let (depth, what) = found_after("alone", Planted::OldGeneration);
    assert_eq!(depth, 3, "{what}");
}

#[test]
fn the_same_state_is_one_state_whichever_node_is_first() {
    let left = start("primary", OnIoError::Detach, Planted::Nothing).unwrap();
    let mut right = start("secondaries", OnIoError::Detach, Planted::Nothing).unwrap();
    right.act(mendblock_model::action::Action::Order(
        1,
        mendblock_model::action::Order::Primary,
    ));
    mendblock_model::walker::settle(&mut right);
    right.nodes.swap(0, 1);
    assert_eq!(left.nodes[0].vector(), right.nodes[0].vector());
    let once = right.fingerprint();
    right.nodes.swap(0, 1);
    assert_eq!(once, right.fingerprint());
}
