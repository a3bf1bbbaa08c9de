//! The disk part and the activity-log part, driven by hand.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod activity;
mod crash;
mod disk;
mod node;
mod recovery;
mod world;
