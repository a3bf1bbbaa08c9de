//! The resync part, on the target: what to request next, and how fast. The source only answers.

mod marks;
mod part;
pub mod rate;

pub use marks::Marks;
pub use part::ResyncPart;

use crate::identity::{PartGeneration, Query};
use crate::part::PartName;
use crate::snapshot::Snapshot;
use mendblock_storage::units::BlockRange;
use std::sync::Arc;

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEnd {
    /// Written; the bits are being cleared.
    Written,
    /// The source can never read some of it: that is lost here too, and leaves the runs.
    SourceCannot,
    /// The own write failed: the disk's policy decides.
    WriteFailed,
    /// The connection was lost, the resync ended meanwhile, or the source could not serve now.
    Cancelled,
}

/// Messages of the resync part.
#[derive(Debug)]
pub enum ResyncIn {
    /// The state changed.
    Snapshot(Arc<Snapshot>),
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// Bitmap: answer to `BitmapIn::NextRun`.
    Runs {
        /// From the question.
        query: Query,
        /// Runs of set bits, ascending; empty: none at or after `from`.
        runs: Vec<BlockRange>,
        /// Set bits in the whole map.
        set_bits: u64,
        /// Of these, blocks that cannot be fetched (the peer's copy is bad as well).
        unfetchable: u64,
    },
    /// Volume: a job ended.
    Done {
        /// From `VolumeIn::FetchBlocks`.
        job: u64,
        /// How.
        end: JobEnd,
    },
}

/// Progress of a resync, for `status` and metrics; computed on the target, estimated on the source from its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bits set when it began.
    pub total: u64,
    /// Bits set now.
    pub left: u64,
    /// Blocks that failed.
    pub failed: u64,
    /// KiB/s over the last marks.
    pub rate: u64,
}

/// What the resync part asks its shell to do.
#[derive(Debug)]
pub enum ResyncEffect {
    /// New progress, for `status` and metrics; none: no resync.
    Progress(Option<Progress>),
}
