//! The health file: what a node must remember about its disk *outside* that disk. Above all the bad-block list.
//!
//! The bitmap says "this block may differ"; it cannot say which side is good. So each node keeps, in a file that does
//! not lie on the lower disk, the blocks whose own copy must not be trusted, and for its peer the same list about the
//! peer's copy (suspect records). The layout is described in `storage/HEALTH.md`.

mod anchor;
#[cfg(feature = "devices")]
pub mod file;
mod header;
mod layout;
mod limits;
mod record;
mod rules;
mod set;
mod slot;

pub use anchor::{AnchorEvidence, AnchorVerdict, judge_anchor};
pub use header::{
    DetachCause, GenerationSlots, HealCounters, Health, LastDetach, LossMark, ScrubProgress, VOLUME_NAME_MAX,
};
pub use limits::{ListFull, MAX_OWN_BLOCKS, MAX_OWN_RANGES, MAX_RECORDS, MAX_SUSPECT_RANGES, MAX_TOMBSTONES};
pub use record::{BlockState, Cause, GoodAt, RECORD_BYTES, Record, RecordError, Whose};
pub use rules::{Change, Finding, Removal};
pub use set::{Outcome, RecordSet, SetError, Union};

pub use slot::{FILE_BYTES, FORMAT_VERSION, Loaded, NoValidSlot, SLOT_BYTES, Slot, SlotError};

#[cfg(test)]
mod tests;
