//! The activity-log part: which extents are hot, and the on-disk log that says so.
//!
//! [`part`] takes the messages, [`hot_log`] decides about transactions, grants and revokes, [`ring`] reads and resets the ring,
//! [`operations`] keeps meta-data operations through deaths of the disk part.

mod hot_log;
mod operations;
mod part;
mod ring;

pub use part::ActivityPart;

use crate::disk::MetaCompletion;
use crate::identity::{PartGeneration, Query};
use crate::part::PartName;
use crate::snapshot::Snapshot;
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::hot::Grant;
use std::sync::Arc;

/// Messages of the activity-log part.
#[derive(Debug)]
pub enum ActivityIn {
    /// The state changed.
    Snapshot(Arc<Snapshot>),
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// State: read the ring (A9).
    Load {
        /// Echoed in `StateIn::LogLoaded`.
        query: Query,
        /// Where it lies.
        layout: Box<MetadataLayout>,
    },
    /// State: the extents of the log are in the bitmap; start with an empty log on disk (A11).
    Reset {
        /// Echoed in `StateIn::LogReset`.
        query: Query,
        /// Where it lies.
        layout: Box<MetadataLayout>,
    },
    /// State: the disk is gone; every grant is void.
    Unload,
    /// Volume: make these extents hot; answered by `VolumeIn::Granted` once the transaction is durable.
    Activate {
        /// The extents, each wanted whole: all extents of one request go into one transaction.
        extents: Vec<u32>,
        /// Generation of the volume part that will hold the grants.
        holder: PartGeneration,
    },
    /// Volume: these extents are drained and given back.
    Released {
        /// From [`crate::engine::VolumeIn::Revoke`]; 0: given back on its own.
        number: u64,
        /// The grants; consumed.
        grants: Vec<Grant>,
        /// Extents of the revoke that were not held.
        not_held: Vec<u32>,
    },
    /// Volume: which extents are in the log? Answered by `VolumeIn::HotExtents`.
    ListHot {
        /// Echoed.
        query: Query,
    },
    /// Volume: extents used lately, for the choice of what to evict. Sent at most once a second.
    Touched(Vec<u32>),
    /// Bitmap: pages of extents to be evicted are written.
    WrittenOut {
        /// From [`crate::bitmap::BitmapIn::WriteOut`].
        query: Query,
        /// Linux errno on failure.
        result: Result<(), i32>,
    },
    /// Disk: meta-data operations that ended.
    Meta(Vec<MetaCompletion>),
    /// Disk (R9).
    Table(crate::disk::TableAnswer),
}

/// The activity-log part has no port of its own.
#[derive(Debug)]
pub enum ActivityEffect {}
