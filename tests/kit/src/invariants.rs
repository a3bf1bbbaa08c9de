//! What must hold after every step, as far as it is cheap to see. Numbers are those of the project's list of invariants; what
//! a client sees (I1, I9, I10) is checked where its answers arrive.

use crate::world::World;
use mendblock_core::part::To;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{ErrorKind, StateIn};
use mendblock_core::volume::state::DiskState;

/// A message leaves a part.
pub(crate) fn on_message(world: &mut World, node: usize, message: &To) {
    if let To::State(StateIn::SetBits { count }) = message {
        world.nodes[node].set_bits = *count;
    }
}

/// A snapshot was published.
pub(crate) fn on_snapshot(world: &mut World, node: usize, old: Option<&Snapshot>) {
    let new = world.nodes[node].state();
    let Some(old) = old else { return };
    assert!(
        new.number > old.number,
        "snapshots ascend: {} after {}",
        new.number,
        old.number
    );
    if new.vector != old.vector {
        world.note(node, || format!("STATE {}", world.nodes[node].state().vector));
    }
    let (before, after) = (old.vector.disk, new.vector.disk);
    // I6: a disk is never just gone.
    if after == DiskState::Diskless && before != after {
        assert!(
            matches!(
                before,
                DiskState::Failed | DiskState::Attaching | DiskState::Negotiating
            ),
            "I6: Diskless straight from {before:?}\n{}",
            world.describe()
        );
    }
}

/// The state part has handled a failed meta-data operation.
pub(crate) fn after_meta_error(world: &World, node: usize) {
    let disk = world.nodes[node].state().vector.disk;
    assert!(
        disk <= DiskState::Failed,
        "I22: disk {disk:?} after a failed meta-data operation\n{}",
        world.describe()
    );
}

/// Whether a message is such an error.
pub(crate) fn is_meta_error(message: &To) -> bool {
    matches!(
        message,
        To::State(StateIn::IoError {
            kind: ErrorKind::Meta,
            ..
        })
    )
}

/// After each event.
pub(crate) fn after_step(world: &mut World) {
    for node in &world.nodes {
        // I13: nothing is open twice.
        assert!(
            !(node.table.open && node.table.in_kernel.values().any(|entry| entry.quarantined)),
            "I13: a disk is open while operations of its former life are in the kernel"
        );
    }
}
