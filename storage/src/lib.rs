//! What a node remembers.
pub mod units;
