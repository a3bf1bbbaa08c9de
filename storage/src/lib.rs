//! What a node remembers.
pub mod dirty;
pub mod buffer;
pub mod device;
#[cfg(feature = "devices")]
pub mod lock;
pub mod format;
#[cfg(feature = "devices")]
pub mod offline;
pub mod health;
pub mod hot;
pub mod units;
