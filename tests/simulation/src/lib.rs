//! What all simulation tests share: seeds, and how a failure says how to replay it.

pub mod crash_points;
pub mod load;
pub mod panics;
pub mod ready;
pub mod seeds;
pub mod storm;
