//! Crash points: every short workload, cut off by a loss of power at every operation that stores something, with every fate of
//! what was not stable.
//!
//! Read in this order: [`workload`] (what is done, and all of it), [`state`] (one crash of one workload, and how it is named),
//! [`base`] (the pair that it happens to), [`drive`] (runs a workload up to its crash), [`image`] (what must hold for the disk
//! of a node that is down), [`aftermath`] (how the pair comes back, and what must hold then), [`run`] (all of that for one
//! state), [`campaign`] (all states within a budget).

pub mod aftermath;
pub mod base;
pub mod campaign;
pub mod drive;
pub mod image;
pub mod metadata_tools;
pub mod run;
pub mod state;
pub mod workload;
