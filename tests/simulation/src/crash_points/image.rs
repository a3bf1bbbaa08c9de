//! What must hold for what is durable, at the moment when power is gone: the meta-data can be read, say nothing that cannot be,
//! and name every block in which the two disks differ.

use super::base::{EXTENT_BLOCKS, HOT_EXTENTS};
use mendblock_kit::device::Device;
use mendblock_kit::format;
use mendblock_kit::world::World;
use mendblock_storage::format::META_BLOCK_BYTES;
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::format::replay::{Completeness, Replay, replay};
use mendblock_storage::format::superblock::Flags;
use std::collections::BTreeSet;

/// The activity log on a disk, or why it cannot be replayed.
fn log(device: &Device, layout: &MetadataLayout) -> Result<Replay, String> {
    let ring: Vec<_> = (0..layout.log().blocks())
        .map(|index| {
            let byte = layout.log_byte() + u64::from(index) * META_BLOCK_BYTES as u64;
            let block = device.peek(byte, META_BLOCK_BYTES);
            Some(block.try_into().expect("a block has the size of a block"))
        })
        .collect();
    replay(layout.log(), &ring).map_err(|error| format!("the activity log cannot be replayed: {error}"))
}

/// What the meta-data of one disk say.
struct Covered {
    everything: bool,
    blocks: BTreeSet<u64>,
    extents: BTreeSet<u64>,
}

impl Covered {
    fn has(&self, block: u64) -> bool {
        self.everything || self.blocks.contains(&block) || self.extents.contains(&(block / EXTENT_BLOCKS))
    }
}

/// Reads the meta-data of a node and checks them by themselves.
///
/// # Panics
/// With what is wrong.
fn meta_data(world: &World, node: usize) -> Covered {
    let device = &world.nodes[node].device;
    let layout = format::layout(device);
    let superblock = format::superblock(device);
    // A log that is clean is not read by whoever attaches this disk: its bits are all on the disk. The attach that makes the ring anew
    // may be cut off in the middle.
    let is_clean = superblock.log_is_clean();
    let log = match log(device, &layout) {
        Err(_) if is_clean => None,
        Err(error) => panic!("{error}"),
        Ok(log) => Some(log),
    };
    let name = &world.nodes[node].configuration.node_name;
    let lacking = log
        .as_ref()
        .filter(|log| log.completeness == Completeness::ExtentMayBeMissing && !is_clean);
    assert!(
        lacking.is_none(),
        "the log of {name} may lack an extent: {:?}",
        lacking.map(|log| &log.unusable)
    );
    let extents: BTreeSet<u64> = log.iter().flat_map(Replay::extents).map(u64::from).collect();
    let all = layout.usable_sectors().div_ceil(8 * EXTENT_BLOCKS);
    assert!(
        extents.len() as u64 <= HOT_EXTENTS && extents.iter().all(|&extent| extent < all),
        "the log of {name} says that {extents:?} are hot"
    );
    let was_primary = superblock.flags.contains(Flags::PRIMARY_IND);
    let counts = was_primary && !is_clean;
    Covered {
        everything: superblock.flags.contains(Flags::FULL_SYNC),
        blocks: format::set_bits(device).into_iter().collect(),
        extents: if counts { extents } else { BTreeSet::new() },
    }
}

/// Checks the meta-data of both nodes, and that they name all differences between the two disks.
///
/// # Panics
/// With what is wrong.
pub fn check(world: &World) {
    let covered = [meta_data(world, 0), meta_data(world, 1)];
    let [first, second] = [0, 1].map(|node: usize| &world.nodes[node].device);
    let differing = first.differing(second, world.sectors() * 512);
    let silent: Vec<u64> = differing
        .into_iter()
        .filter(|&block| !covered.iter().any(|covered| covered.has(block)))
        .collect();
    assert!(
        silent.is_empty(),
        "blocks {silent:?} differ, and no bit and no hot extent says so (bits {:?} and {:?}, hot {:?} and {:?})\n{}",
        covered[0].blocks,
        covered[1].blocks,
        covered[0].extents,
        covered[1].extents,
        world.describe()
    );
}
