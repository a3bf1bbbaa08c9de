//! What must hold after every step, as far as it is cheap to see. Numbers are those of the project's list of invariants; what
//! a client sees (I1, I9, I10) is checked where its answers arrive.

use crate::format;
use crate::world::World;
use mendblock_core::bitmap::{BitmapIn, ClearReason};
use mendblock_core::disk::PortOperation;
use mendblock_core::part::To;
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::machine::{ErrorKind, StateIn};
use mendblock_core::volume::state::DiskState;
use mendblock_storage::format::superblock::Flags;
use mendblock_storage::health::Cause;
use mendblock_storage::units::BlockRange;

/// A message leaves a part.
pub(crate) fn on_message(world: &mut World, node: usize, message: &To) {
    if let To::State(StateIn::SetBits { count }) = message {
        world.nodes[node].set_bits = *count;
    }
    if let To::Bitmap(BitmapIn::Clear { ranges, reason }) = message
        && *reason != ClearReason::ReadTwice
    {
        for &range in ranges {
            on_clear(world, node, range);
        }
    }
}

/// P6: bits of blocks are about to be cleared, because both disks hold the same.
fn on_clear(world: &World, node: usize, range: BlockRange) {
    // Without the other node there is nothing to compare with, and what it is writing comes to this one still.
    if !world.is_connected() {
        return;
    }
    let [first, second] = &world.nodes;
    for block in range.iter() {
        assert!(
            !first.device.differs(&second.device, block) || is_being_written(world, block),
            "P6: {} clears the bit of block {block} though both copies differ\n{}",
            world.nodes[node].configuration.node_name,
            world.describe()
        );
    }
}

/// A write of a client to this block is on its way.
fn is_being_written(world: &World, block: u64) -> bool {
    let bytes = block * 4096..(block + 1) * 4096;
    world.nodes.iter().any(|node| {
        let asked = node
            .clients
            .values()
            .flat_map(|client| client.unanswered.values());
        let mut asked = asked.filter_map(|open| open.write);
        let mut in_kernel = node.table.in_kernel.values();
        asked.any(|(range, _)| range.first() * 512 < bytes.end && bytes.start < range.end() * 512)
            || in_kernel.any(|entry| match &entry.operation {
                PortOperation::Write { offset, buffer, .. } => {
                    *offset < bytes.end && bytes.start < *offset + buffer.len() as u64
                }
                PortOperation::WriteZeroes { offset, length, .. } => {
                    *offset < bytes.end && bytes.start < *offset + *length
                }
                PortOperation::Read { .. } | PortOperation::Flush => false,
            })
    })
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
    world.disk_state_changed(node, before, after);
    if after == DiskState::Attaching {
        world.nodes[node].write_trouble = false;
        world.nodes[node].device.failed_writes = 0;
    }
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
        // A forced one leaves reads behind that fail later.
        let forced = old
            .reasons
            .detaching
            .as_ref()
            .is_some_and(|detaching| detaching.forced);
        if before == DiskState::Failed && !forced {
            given_up(world, node, old.disk.as_ref().map(|disk| disk.device_id));
        }
    }
}

/// P3: a disk was given up. If its meta-data could be written, its own bitmap knows each block that could not be read, whatever
/// becomes of the health file and of the peer.
fn given_up(world: &World, node: usize, device_id: Option<u64>) {
    let device = &world.nodes[node].device;
    if world.nodes[node].write_trouble || format::superblock(device).flags.contains(Flags::FULL_SYNC) {
        return;
    }
    // A write that it missed since is for its sender to remember: it was refused.
    let health = &world.nodes[node].health;
    let listed = device_id.and_then(|id| health.health(id));
    let read_errors = listed.iter().flat_map(|health| health.records.own());
    let read_errors = read_errors.filter(|record| record.is_listed() && record.cause == Cause::Read);
    let still = &world.nodes[node].bad_blocks.own;
    let bits = format::set_bits(device);
    let forgotten = read_errors
        .flat_map(|record| record.range.iter())
        // A file that could not be written lists what was healed since.
        .filter(|&block| still.iter().any(|range| range.contains(block)))
        .find(|block| !bits.contains(block));
    assert!(
        forgotten.is_none(),
        "P3: {} gives its disk up, and the bitmap on it does not know the bad block {forgotten:?}\n{}",
        world.nodes[node].configuration.node_name,
        world.describe()
    );
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
    for node in &mut world.nodes {
        let device = &node.device;
        node.write_trouble |= device.failed_writes > 0 || device.faults.hangs || device.faults.dead;
        // I13: nothing is open twice.
        assert!(
            !(node.table.open && node.table.in_kernel.values().any(|entry| entry.quarantined)),
            "I13: a disk is open while operations of its former life are in the kernel"
        );
    }
}
