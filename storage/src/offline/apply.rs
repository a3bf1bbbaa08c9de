//! `apply-al`: what the activity log knows becomes bits of the bitmap, before the next attach.
use super::device::{Access, BlockFile};
use super::{Devices, Location, OfflineError};
use crate::format::activity_log::initialized_block;
use crate::format::bitmap::{bytes_of_extent, room_of, set_extent};
use crate::format::layout::MetadataLayout;
use crate::format::old_log;
use crate::format::replay::{Completeness, UnusableBlock, replay};
use crate::format::superblock::{Flags, LogState, Superblock, Verified};
use crate::format::{META_BLOCK_BYTES, MetaBlock};
use crate::units::BLOCK_BYTES;
use serde::Serialize;
use std::collections::BTreeSet;

/// The form of an activity log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum LogForm {
    /// 4 KiB transactions, since DRBD 8.4.
    #[serde(rename = "8.4")]
    Current,
    /// 512-byte sectors; `apply-al` converts it.
    #[serde(rename = "8.3")]
    Old,
}

/// What `apply-al` found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApplyReport {
    /// Whether the superblock already said that there is nothing to replay.
    pub was_clean: bool,
    /// Whether the node went down as Primary; only then extents count as hot.
    pub was_primary: bool,
    /// Form of the log.
    pub log_form: LogForm,
    /// Extents in the log.
    pub hot_extents: BTreeSet<u32>,
    /// Bits that were clear before.
    pub bits_set: u64,
    /// Hot extents behind the end of the bitmap.
    pub extents_beyond_bitmap: BTreeSet<u32>,
    /// Blocks of the log that could not be used.
    pub unusable_blocks: Vec<UnusableBlock>,
    /// Whether the log may lack an extent.
    pub completeness: Completeness,
    /// Why nothing in the log could be used, when that did not matter (the node was not Primary).
    pub ignored_error: Option<String>,
    /// Pages of the bitmap that could not be read; all their bits were set.
    pub unreadable_pages: Vec<u64>,
    /// Whether FULL_SYNC was set, because the log cannot say everything that was hot.
    pub full_sync_set: bool,
    /// Whether the log was emptied.
    pub log_rewritten: bool,
    /// Whether the superblock was written.
    pub superblock_written: bool,
}

/// Applies the activity log and marks it clean.
///
/// As `drbdmeta` does it, with two differences. Where a crashed Primary's log cannot be applied wholly (an extent
/// behind the end of the bitmap, a lost transaction that nothing repeats), FULL_SYNC is set, where `drbdmeta` forgets
/// the extent. And everything is flushed in the order in which it is needed.
///
/// # Errors
/// Refuses meta-data that are not valid, and a crashed Primary's log of which nothing can be used.
pub fn apply_al(location: &Location) -> Result<ApplyReport, OfflineError> {
    let devices = Devices::open(location, Access::Exclusive)?;
    let verified = devices
        .read_superblock()?
        .verify(devices.index, devices.sizes)
        .map_err(|error| devices.superblock_error(error))?;
    let ring = devices.meta.read_ring(&verified.layout)?;
    let mut report = inspect(&devices.meta, &verified, &ring)?;
    write(&devices.meta, &verified, &mut report)?;
    Ok(report)
}

/// Reads the log and plans; writes nothing.
fn inspect(
    meta: &BlockFile,
    verified: &Verified,
    ring: &[Option<MetaBlock>],
) -> Result<ApplyReport, OfflineError> {
    let superblock = &verified.superblock;
    let was_primary = superblock.flags.contains(Flags::PRIMARY_IND);
    let mut report = ApplyReport {
        was_clean: superblock.log_is_clean(),
        was_primary,
        log_form: LogForm::Current,
        hot_extents: BTreeSet::new(),
        bits_set: 0,
        extents_beyond_bitmap: BTreeSet::new(),
        unusable_blocks: Vec::new(),
        completeness: Completeness::Whole,
        ignored_error: None,
        unreadable_pages: Vec::new(),
        full_sync_set: false,
        log_rewritten: false,
        superblock_written: false,
    };
    if old_log::is_old(superblock, ring) {
        report.log_form = LogForm::Old;
        report.log_rewritten = true;
        report.hot_extents = match old_log::hot_extents(ring, superblock.log_slots) {
            Some(extents) => extents,
            None if was_primary => return Err(OfflineError::NoUsableOldLog(meta.path().to_owned())),
            None => BTreeSet::new(),
        };
    } else {
        match replay(verified.layout.log(), ring) {
            Ok(replay) => {
                report.hot_extents = replay.extents();
                report.log_rewritten = replay.transactions > 0;
                report.unusable_blocks = replay.unusable;
                report.completeness = replay.completeness;
            }
            Err(source) if was_primary => {
                return Err(OfflineError::NoUsableLog {
                    path: meta.path().to_owned(),
                    source,
                });
            }
            Err(source) => {
                report.ignored_error = Some(source.to_string());
                report.log_rewritten = true;
            }
        }
    }
    if was_primary {
        let room = room_of(superblock.effective_sectors);
        let beyond = report
            .hot_extents
            .iter()
            .filter(|&&extent| bytes_of_extent(extent).end > room);
        report.extents_beyond_bitmap = beyond.copied().collect();
        report.full_sync_set = !superblock.flags.contains(Flags::FULL_SYNC)
            && (!report.extents_beyond_bitmap.is_empty()
                || report.completeness == Completeness::ExtentMayBeMissing);
    }
    Ok(report)
}

/// Carries the plan out: bitmap, flush, log, flush, superblock, flush.
fn write(meta: &BlockFile, verified: &Verified, report: &mut ApplyReport) -> Result<(), OfflineError> {
    let Verified {
        mut superblock,
        layout,
    } = *verified;
    if report.was_primary {
        set_bits(meta, &layout, report)?;
    }
    if report.full_sync_set {
        // Before the log is emptied, because that is the last other witness.
        superblock.flags.set(Flags::FULL_SYNC, true);
        meta.write(&superblock.encode(), layout.superblock_byte())?;
        meta.sync()?;
    }
    if report.log_rewritten {
        let length = u64::from(layout.log().blocks()) * BLOCK_BYTES;
        meta.fill(&initialized_block(), layout.log_byte(), length)?;
        meta.sync()?;
    }
    if !report.was_clean || report.bits_set > 0 || report.full_sync_set {
        let clean = Superblock {
            flags: superblock.flags.with(Flags::AL_CLEAN),
            log_state: LogState::Clean,
            ..superblock
        };
        meta.write(&clean.encode(), layout.superblock_byte())?;
        meta.sync()?;
        report.superblock_written = true;
    }
    Ok(())
}

fn set_bits(meta: &BlockFile, layout: &MetadataLayout, report: &mut ApplyReport) -> Result<(), OfflineError> {
    let extents: Vec<u32> = report
        .hot_extents
        .difference(&report.extents_beyond_bitmap)
        .copied()
        .collect();
    let page_of = |extent: u32| bytes_of_extent(extent).start / BLOCK_BYTES;
    for of_one_page in extents.chunk_by(|&a, &b| page_of(a) == page_of(b)) {
        let page = page_of(of_one_page[0]);
        let byte = layout.bitmap_page_byte(page);
        let mut bytes = meta.read_block(byte).unwrap_or_else(|_| {
            // What cannot be read counts as out of sync, and writing it may mend the place.
            report.unreadable_pages.push(page);
            [0xFF; META_BLOCK_BYTES]
        });
        for &extent in of_one_page {
            report.bits_set += set_extent(&mut bytes, page * BLOCK_BYTES, extent);
        }
        meta.write(&bytes, byte)?;
    }
    meta.sync()
}
