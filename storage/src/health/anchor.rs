//! What the anchor in the superblock and the health file say together.
//!
//! The anchor names the health file that existed when the superblock was last written, so that its loss is noticed.
//! Kernel DRBD and `drbdmeta` write zeros there.

use super::header::Health;

/// What stands in the anchor's place of the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AnchorEvidence {
    /// Nothing: there never was an anchor, or DRBD wrote the superblock last.
    Absent,
    /// There was one, but it cannot be read.
    Damaged,
    /// An anchor.
    Present {
        /// Identifier of the health file.
        health_id: u64,
        /// Sequence number of its content when the superblock was written.
        sequence: u64,
        /// Number of ranges on its own bad-block list ([`super::RecordSet::own_ranges`]).
        records: u32,
    },
}

/// What follows for the attach of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AnchorVerdict {
    /// The disk never had a health file, or had one without a bad block: begin with an empty list.
    Fresh,
    /// The file is as new as the anchor, or newer (the anchor is written lazily): apply it.
    Normal,
    /// A list existed and is gone, or only an older one is there. Every set bit counts as own-bad; the own disk is
    /// Outdated unless connected; whether the peer's copy is good is unknown where this disk is the newer one. Records
    /// of an older file of this disk are applied all the same.
    ListLost {
        /// Ranges of the lost list; `None` when the anchor is damaged.
        records: Option<u32>,
    },
    /// Somebody else wrote the superblock since (kernel DRBD, `drbdmeta`, damage): apply the file (stale records cost
    /// only a read-back), but whether the peer's copy is good is unknown where this disk is the newer one.
    ForeignWriter,
    /// The file belongs to another disk, and this one had none: begin with an empty list.
    OtherDisk,
}

/// Judges the anchor of disk `device_id` against the volume's health file. A file of another disk is never applied and
/// is to be archived, whatever the verdict.
pub fn judge_anchor(device_id: u64, anchor: AnchorEvidence, file: Option<&Health>) -> AnchorVerdict {
    let own = file.filter(|file| file.device_id == device_id);
    let none = if file.is_some() {
        AnchorVerdict::OtherDisk
    } else {
        AnchorVerdict::Fresh
    };
    match (anchor, own) {
        (AnchorEvidence::Absent, None) => none,
        (AnchorEvidence::Absent | AnchorEvidence::Damaged, Some(_)) => AnchorVerdict::ForeignWriter,
        (AnchorEvidence::Damaged, None) => AnchorVerdict::ListLost { records: None },
        (
            AnchorEvidence::Present {
                health_id,
                sequence,
                records,
            },
            own,
        ) => match own {
            Some(file) if file.health_id == health_id && file.sequence >= sequence => AnchorVerdict::Normal,
            _ if records > 0 => AnchorVerdict::ListLost {
                records: Some(records),
            },
            // An older or another file of this disk, and nothing was listed when the superblock was written: its
            // records are at most too many.
            Some(_) => AnchorVerdict::Normal,
            None => none,
        },
    }
}
