//! What a node remembers.
pub mod dirty;
pub mod health;
pub mod hot;
pub mod units;
