//! Whatever happens, and whenever the power fails: the ring replayed names every extent that is granted.

use crate::node::{Node, extents_of};
use mendblock_core::activity::ActivityIn;
use mendblock_core::disk::MetaKind;
use mendblock_core::identity::PartGeneration;
use mendblock_core::part::PartName;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Activate(Vec<u32>),
    Release,
    GiveBack(usize),
    Touch(u32),
    WrittenOut,
    Complete,
    Restart,
    AnswerTable,
    DiskDies,
    BitmapDies,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec(0u32..24, 1..4).prop_map(Action::Activate),
        4 => Just(Action::Release),
        2 => (0usize..24).prop_map(Action::GiveBack),
        1 => (0u32..24).prop_map(Action::Touch),
        5 => Just(Action::WrittenOut),
        8 => Just(Action::Complete),
        1 => Just(Action::Restart),
        3 => Just(Action::AnswerTable),
        1 => Just(Action::DiskDies),
        1 => Just(Action::BitmapDies),
    ]
}

/// What a volume part does with a second grant of an extent: it keeps the newer one.
fn keep_newest(node: &mut Node) {
    let mut seen = std::collections::BTreeSet::new();
    node.grants.reverse();
    node.grants.retain(|grant| seen.insert(grant.extent()));
    node.grants.reverse();
}

fn act(node: &mut Node, action: Action, generation: &mut u64) {
    match action {
        Action::Activate(extents) => {
            let held = node.granted();
            let wanted: Vec<u32> = extents
                .into_iter()
                .filter(|extent| !held.contains(extent))
                .collect();
            if !wanted.is_empty() {
                node.activate(&wanted);
            }
        }
        Action::Release if !node.revokes.is_empty() => drop(node.release()),
        Action::GiveBack(at) if !node.grants.is_empty() => {
            let extent = node.granted()[at % node.grants.len()];
            node.give_back(extent);
        }
        Action::Touch(extent) => node.on(ActivityIn::Touched(vec![extent])),
        Action::WrittenOut if !node.write_outs.is_empty() => drop(node.written_out(Ok(()))),
        Action::Complete if !node.meta.is_empty() => node.complete(),
        Action::Restart => {
            *generation += 1;
            node.restart(*generation);
        }
        Action::AnswerTable if !node.queries.is_empty() => node.answer_table(),
        Action::DiskDies => {
            // The oldest operation is in the kernel, the others were in the mailbox.
            node.meta.truncate(1);
            node.on(ActivityIn::Restarted {
                part: PartName::Disk,
                generation: PartGeneration(2),
            });
        }
        Action::BitmapDies => {
            node.write_outs.clear();
            node.on(ActivityIn::Restarted {
                part: PartName::Bitmap,
                generation: PartGeneration(2),
            });
        }
        _ => {}
    }
    keep_newest(node);
}

/// The ring now, and with each write that is under way torn or landed.
fn check(node: &Node) -> Result<(), TestCaseError> {
    let granted = node.granted();
    let mut rings = vec![node.ring.clone()];
    for operation in &node.meta {
        if let MetaKind::Write { offset, buffer, .. } = &operation.kind {
            let block = ((offset - crate::world::layout().log_byte()) / 4096) as usize;
            let mut torn = buffer.to_vec();
            torn[2048..].fill(0xA5);
            for bytes in [buffer.to_vec(), torn] {
                let mut ring = node.ring.clone();
                ring[block] = Some(bytes.try_into().unwrap());
                rings.push(ring);
            }
        }
    }
    for ring in rings {
        let hot = extents_of(&ring);
        for extent in &granted {
            prop_assert!(
                hot.contains(extent),
                "{extent} is granted, the ring names {hot:?}"
            );
        }
    }
    Ok(())
}

/// Lets everything end that can.
fn settle(node: &mut Node) {
    for _ in 0..1000 {
        if !node.queries.is_empty() {
            node.answer_table();
        } else if !node.meta.is_empty() {
            node.complete();
        } else if !node.write_outs.is_empty() {
            node.written_out(Ok(()));
        } else if !node.revokes.is_empty() {
            node.release();
        } else {
            return;
        }
        keep_newest(node);
    }
    panic!("it never ends");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_ring_names_every_granted_extent(
        slots in 2u32..9,
        actions in prop::collection::vec(action(), 1..150),
    ) {
        let mut node = Node::attached(slots);
        let mut generation = 1;
        for action in actions {
            act(&mut node, action, &mut generation);
            check(&node)?;
        }
        settle(&mut node);
        check(&node)?;
        node.activate(&[100]);
        settle(&mut node);
        prop_assert!(node.granted().contains(&100), "the log has stopped");
    }
}
