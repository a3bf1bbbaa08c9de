//! The disk part and the activity-log part, driven by hand.

mod activity;
mod crash;
mod disk;
mod node;
mod recovery;
mod world;
