//! What a node remembers.
pub mod format;
pub mod units;
