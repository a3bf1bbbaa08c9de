//! What a node remembers.
pub mod dirty;
pub mod units;
