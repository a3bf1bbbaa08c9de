//! What tests of whole nodes stand on: real processes of the real binary, their configuration, their admin API, an NBD
//! client and a checker of what clients were told.
//!
//! A condition that does not hold ends in a panic that says what was waited for: that is how a test fails.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]
#![allow(
    missing_docs,
    reason = "names and assertions say what a test is about; items are documented where they do not"
)]

pub mod admin;
pub mod disks;
pub mod events;
pub mod history;
pub mod link;
pub mod load;
pub mod nbd;
pub mod node;
pub mod pair;
pub mod program;
pub mod tool;
