//! `create-md` on a simulated disk.

use crate::device::Device;
use mendblock_storage::format::activity_log::initialized_block;
use mendblock_storage::format::bitmap;
use mendblock_storage::format::layout::{DeviceSizes, LogGeometry, MetaIndex, MetadataLayout};
use mendblock_storage::format::superblock::{Superblock, UnverifiedSuperblock};

/// Where the meta-data of a disk with internal meta-data lie.
pub fn layout(device: &Device) -> MetadataLayout {
    MetadataLayout::compute(
        MetaIndex::Internal,
        DeviceSizes::internal(device.size()),
        LogGeometry::default(),
    )
    .expect("a simulated disk has room for meta-data")
}

/// Writes new meta-data.
pub fn create_md(device: &mut Device) {
    let layout = layout(device);
    for page in 0..layout.bitmap_bytes().div_ceil(4096) {
        device.poke(layout.bitmap_page_byte(page), &[0; 4096]);
    }
    for block in 0..layout.log().blocks() {
        device.poke(layout.log_byte() + u64::from(block) * 4096, &initialized_block());
    }
    device.poke(layout.superblock_byte(), &Superblock::create(&layout).encode());
}

/// The superblock on the disk.
pub fn superblock(device: &Device) -> Superblock {
    let bytes = device.peek(layout(device).superblock_byte(), 4096);
    let unverified = UnverifiedSuperblock::parse(&bytes).expect("a superblock is on the disk");
    let sizes = DeviceSizes::internal(device.size());
    unverified
        .verify(MetaIndex::Internal, sizes)
        .expect("the superblock on the disk is valid")
        .superblock
}

/// Blocks whose bit is set in the bitmap on the disk.
pub fn set_bits(device: &Device) -> Vec<u64> {
    let layout = layout(device);
    let bytes = device.peek(layout.bitmap_byte(), layout.bitmap_bytes() as usize);
    let blocks = layout.usable_sectors().div_ceil(8);
    let mut set = Vec::new();
    for (index, word) in bitmap::decode(&bytes).into_iter().enumerate() {
        set.extend(
            (0..64)
                .filter(|bit| word >> bit & 1 == 1)
                .map(|bit| index as u64 * 64 + bit),
        );
    }
    set.retain(|&block| block < blocks);
    set
}
