//! `check-md`: whether the meta-data are in order. Reads only.
use super::device::Access;
use super::{Devices, Location, OfflineError};
use crate::format::anchor::StoredAnchor;
use crate::format::bitmap::{bytes_of_extent, clear_surplus, count_set, decode, room_of};
use crate::format::dump::Dump;
use crate::format::layout::MetadataLayout;
use crate::format::replay::{Completeness, replay};
use crate::format::superblock::{Flags, Verified};
use crate::format::{META_BLOCK_BYTES, old_log};
use crate::units::BLOCK_BYTES;
use serde::Serialize;
use std::fmt;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// A node can go on from here, but something was lost or must be done first.
    Warning,
    /// A node cannot use these meta-data.
    Error,
}

/// Something that `check-md` has to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "finding")]
pub enum Finding {
    /// No superblock to trust, or data that do not fit.
    Superblock {
        /// Why.
        reason: String,
    },
    /// The device is smaller than an attach demands.
    BelowMinimum {
        /// Why.
        reason: String,
    },
    /// The activity log must be applied.
    NotClean {
        /// Whether the node went down as Primary.
        was_primary: bool,
    },
    /// The log has the form of DRBD 8.3.
    OldLog,
    /// Nothing in the log can be used.
    NoUsableLog {
        /// Why.
        reason: String,
        /// Whether that matters.
        was_primary: bool,
    },
    /// Some blocks of the log cannot be used.
    LogBlocks {
        /// How many.
        unusable: usize,
        /// Whether an extent may be lost.
        completeness: Completeness,
    },
    /// The superblock says that the log is clean, but it holds transactions.
    CleanLogHoldsTransactions {
        /// How many.
        transactions: u32,
    },
    /// Hot extents that the bitmap has no room for.
    ExtentsBeyondBitmap {
        /// How many.
        count: usize,
    },
    /// Pages of the bitmap that cannot be read.
    BitmapUnreadable {
        /// The first pages.
        pages: Vec<u64>,
        /// How many.
        count: u64,
    },
    /// Set bits behind the end of the volume.
    SurplusBits {
        /// How many.
        count: u64,
    },
    /// The next attach makes a full resync.
    FullSync,
    /// The pointer to the health file is damaged.
    AnchorDamaged,
}

impl Finding {
    /// How much it matters.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Superblock { .. }
            | Self::NoUsableLog {
                was_primary: true, ..
            } => Severity::Error,
            Self::BelowMinimum { .. } => Severity::Error,
            Self::LogBlocks {
                completeness: Completeness::ExtentMayBeMissing,
                ..
            } => Severity::Warning,
            Self::LogBlocks { .. } | Self::SurplusBits { .. } | Self::FullSync => Severity::Note,
            Self::NotClean { was_primary: false } => Severity::Note,
            _ => Severity::Warning,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock { reason } | Self::BelowMinimum { reason } => f.write_str(reason),
            Self::NotClean { was_primary } => {
                let how = if *was_primary {
                    "went down as Primary"
                } else {
                    "did not mark its log as clean"
                };
                write!(
                    f,
                    "the node {how}: the activity log must be applied before the next attach (apply-al)"
                )
            }
            Self::OldLog => f.write_str("the activity log has the form of DRBD 8.3: apply-al converts it"),
            Self::NoUsableLog {
                reason,
                was_primary: true,
            } => {
                write!(f, "{reason}, and the node was Primary: only a full resync helps")
            }
            Self::NoUsableLog { reason, .. } => write!(f, "{reason}: harmless, apply-al renews it"),
            Self::LogBlocks {
                unusable,
                completeness,
            } => {
                write!(f, "{unusable} block(s) of the activity log are damaged: ")?;
                f.write_str(match completeness {
                    Completeness::Whole => "the others hold everything",
                    Completeness::NewestTorn => "the last write was torn, which is harmless",
                    Completeness::ExtentMayBeMissing => {
                        "a hot extent may be missing, apply-al asks for a full resync"
                    }
                })
            }
            Self::CleanLogHoldsTransactions { transactions } => {
                write!(
                    f,
                    "marked as clean, but the activity log holds {transactions} transaction(s): run apply-al"
                )
            }
            Self::ExtentsBeyondBitmap { count } => {
                write!(
                    f,
                    "{count} hot extent(s) lie behind the end of the bitmap: apply-al asks for a full resync"
                )
            }
            Self::BitmapUnreadable { pages, count } => {
                write!(
                    f,
                    "{count} page(s) of the bitmap cannot be read, first {pages:?}: an attach sets all their bits"
                )
            }
            Self::SurplusBits { count } => {
                write!(f, "{count} bit(s) behind the end of the volume are set: ignored")
            }
            Self::FullSync => {
                f.write_str("the next attach counts the whole volume as out of sync (FULL_SYNC)")
            }
            Self::AnchorDamaged => {
                f.write_str("the pointer to the health file is damaged: bad blocks may be forgotten")
            }
        }
    }
}

/// What `check-md` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// The meta-data, if there is a superblock to trust.
    pub metadata: Option<Dump>,
    /// Bits of the volume that are set.
    pub bits_out_of_sync: u64,
    /// Everything worth saying.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// The gravest finding; `None` when everything is in order.
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }
}

/// Pages that a finding names one by one.
const NAMED_PAGES: usize = 16;

/// Checks superblock, activity log and bitmap.
///
/// # Errors
/// Only when the devices cannot be opened or read; what is wrong with the meta-data is a finding.
pub fn check_md(location: &Location) -> Result<CheckReport, OfflineError> {
    let devices = Devices::open(location, Access::Read)?;
    let mut report = CheckReport {
        metadata: None,
        bits_out_of_sync: 0,
        findings: Vec::new(),
    };
    let verified = match devices.read_superblock() {
        Ok(block) => block
            .verify_structure(devices.index, devices.sizes)
            .map_err(|error| error.to_string()),
        Err(error @ OfflineError::Layout { .. }) => Err(error.to_string()),
        Err(error) => return Err(error),
    };
    let verified = match verified {
        Ok(verified) => verified,
        Err(reason) => {
            report.findings.push(Finding::Superblock { reason });
            return Ok(report);
        }
    };
    let mut dump = Dump::new(&verified);
    check_superblock(&devices, &verified, &mut report.findings);
    check_log(&devices, &verified, &mut report.findings)?;
    check_bitmap(&devices, &verified, &mut dump, &mut report);
    report.metadata = Some(dump);
    Ok(report)
}

fn check_superblock(devices: &Devices, verified: &Verified, findings: &mut Vec<Finding>) {
    let Verified { superblock, layout } = verified;
    if let Err(error) = superblock.check_size(layout) {
        findings.push(Finding::Superblock {
            reason: error.to_string(),
        });
    }
    if let Err(error) = MetadataLayout::check_minimum(devices.index, devices.sizes.meta_bytes) {
        findings.push(Finding::BelowMinimum {
            reason: error.to_string(),
        });
    }
    if !superblock.log_is_clean() {
        findings.push(Finding::NotClean {
            was_primary: superblock.flags.contains(Flags::PRIMARY_IND),
        });
    }
    if superblock.flags.contains(Flags::FULL_SYNC) {
        findings.push(Finding::FullSync);
    }
    if matches!(superblock.anchor, StoredAnchor::Damaged(_)) {
        findings.push(Finding::AnchorDamaged);
    }
}

fn check_log(
    devices: &Devices,
    verified: &Verified,
    findings: &mut Vec<Finding>,
) -> Result<(), OfflineError> {
    let superblock = &verified.superblock;
    let was_primary = superblock.flags.contains(Flags::PRIMARY_IND);
    let ring = devices.meta.read_ring(&verified.layout)?;
    if old_log::is_old(superblock, &ring) {
        findings.push(Finding::OldLog);
        return Ok(());
    }
    let replay = match replay(verified.layout.log(), &ring) {
        Ok(replay) => replay,
        Err(error) => {
            findings.push(Finding::NoUsableLog {
                reason: error.to_string(),
                was_primary,
            });
            return Ok(());
        }
    };
    if !replay.unusable.is_empty() || replay.completeness != Completeness::Whole {
        let (unusable, completeness) = (replay.unusable.len(), replay.completeness);
        findings.push(Finding::LogBlocks {
            unusable,
            completeness,
        });
    }
    if superblock.log_is_clean() && replay.transactions > 0 {
        findings.push(Finding::CleanLogHoldsTransactions {
            transactions: replay.transactions,
        });
    }
    let room = room_of(superblock.effective_sectors);
    let count = replay
        .extents()
        .into_iter()
        .filter(|&extent| bytes_of_extent(extent).end > room)
        .count();
    if was_primary && count > 0 {
        findings.push(Finding::ExtentsBeyondBitmap { count });
    }
    Ok(())
}

fn check_bitmap(devices: &Devices, verified: &Verified, dump: &mut Dump, report: &mut CheckReport) {
    let (mut pages, mut count, mut surplus) = (Vec::new(), 0, 0);
    for page in 0..dump.bm_bytes / BLOCK_BYTES {
        let Ok(bytes) = devices.meta.read_block(verified.layout.bitmap_page_byte(page)) else {
            count += 1;
            if pages.len() < NAMED_PAGES {
                pages.push(page);
            }
            continue;
        };
        let mut words = decode(&bytes);
        dump.bits_set += count_set(&words);
        let first_bit = page * META_BLOCK_BYTES as u64 * 8;
        surplus += clear_surplus(&mut words, first_bit, dump.la_size_sect);
    }
    report.bits_out_of_sync = dump.bits_set - surplus;
    if count > 0 {
        report.findings.push(Finding::BitmapUnreadable { pages, count });
    }
    if surplus > 0 {
        report.findings.push(Finding::SurplusBits { count: surplus });
    }
}
