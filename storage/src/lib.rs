//! What a node remembers.
pub mod buffer;
pub mod device;
pub mod units;
