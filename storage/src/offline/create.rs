//! `create-md`: new meta-data.
use super::device::Access;
use super::signature::{Found, find, find_metadata};
use super::{Devices, Location, OfflineError};
use crate::format::META_BLOCK_BYTES;
use crate::format::activity_log::initialized_block;
use crate::format::layout::{LogGeometry, MetaIndex, MetadataLayout};
use crate::format::superblock::Superblock;
use crate::units::BLOCK_BYTES;
use serde::Serialize;

/// What new meta-data are to be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Size and striping of the activity log.
    pub log: LogGeometry,
    /// What to take for the peer's largest bio until it announces one, in bytes; 0 = unknown.
    pub peer_max_bio_bytes: u32,
    /// Overwrite whatever is there.
    pub force: bool,
}

/// What `create-md` made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CreateReport {
    /// Where everything lies.
    pub layout: MetadataLayout,
    /// Largest size of the volume in sectors.
    pub usable_sectors: u64,
    /// What was found before and overwritten by force.
    pub overwritten: Vec<Found>,
}

/// Writes new meta-data: an empty bitmap, an empty activity log, and last the superblock.
///
/// # Errors
/// Without `force` it refuses when meta-data of DRBD, a file system, a partition table or the like is on the devices.
pub fn create_md(location: &Location, options: CreateOptions) -> Result<CreateReport, OfflineError> {
    let devices = Devices::open(location, Access::Exclusive)?;
    let layout = MetadataLayout::compute(devices.index, devices.sizes, options.log)
        .and_then(|layout| {
            MetadataLayout::check_minimum(devices.index, devices.sizes.meta_bytes).map(|()| layout)
        })
        .map_err(|error| devices.layout_error(error))?;
    let found = what_is_there(&devices)?;
    if !found.is_empty() && !options.force {
        return Err(OfflineError::WouldOverwrite(found));
    }
    let meta = &devices.meta;
    // An old superblock must not survive next to an emptied bitmap, should we be interrupted.
    meta.write(&[0; META_BLOCK_BYTES], layout.superblock_byte())?;
    meta.sync()?;
    meta.fill(
        &[0; META_BLOCK_BYTES],
        layout.bitmap_byte(),
        layout.bitmap_bytes(),
    )?;
    let log_bytes = u64::from(layout.log().blocks()) * BLOCK_BYTES;
    meta.fill(&initialized_block(), layout.log_byte(), log_bytes)?;
    meta.sync()?;
    let superblock = Superblock {
        peer_max_bio_bytes: options.peer_max_bio_bytes,
        ..Superblock::create(&layout)
    };
    meta.write(&superblock.encode(), layout.superblock_byte())?;
    meta.sync()?;
    Ok(CreateReport {
        layout,
        usable_sectors: layout.usable_sectors(),
        overwritten: found,
    })
}

fn what_is_there(devices: &Devices) -> Result<Vec<Found>, OfflineError> {
    let mut found = find(devices.data())?;
    found.extend(find_metadata(devices.data(), MetaIndex::Internal)?);
    if devices.data.is_some() {
        found.extend(find(&devices.meta)?);
        found.extend(find_metadata(&devices.meta, devices.index)?);
    }
    Ok(found)
}
