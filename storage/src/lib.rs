//! What a node remembers.
pub mod buffer;
pub mod device;
#[cfg(feature = "devices")]
pub mod lock;
pub mod units;
