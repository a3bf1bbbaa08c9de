//! What a node remembers: on-disk formats ([`mod@format`]) and the tools that work on them off line, the out-of-sync map
//! ([`dirty`]), the activity log's hot set ([`hot`]), the health file ([`health`]); and the devices and buffers by
//! which it reads and writes.

pub mod buffer;
pub mod device;
pub mod dirty;
pub mod format;
pub mod health;
pub mod hot;
#[cfg(feature = "devices")]
pub mod lock;
#[cfg(feature = "devices")]
pub mod offline;
pub mod units;
