//! What a node remembers.
pub mod format;
#[cfg(feature = "devices")]
pub mod offline;
pub mod units;
