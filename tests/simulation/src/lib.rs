//! What all simulation tests share: seeds, and how a failure says how to replay it.

pub mod load;
pub mod ready;
pub mod seeds;
pub mod storm;
