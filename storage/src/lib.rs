//! What a node remembers.
pub mod dirty;
pub mod buffer;
pub mod device;
pub mod units;
