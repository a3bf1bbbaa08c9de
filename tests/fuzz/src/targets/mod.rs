//! Everything that reads bytes from outside, one target each.

mod activity_log;
mod admin;
mod bitmap;
mod configuration;
mod health;
mod image;
mod message_pack;
mod messages;
mod nbd;
mod nbd_session;
mod superblock;
mod wire;
#[allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "the samples of the golden bytes, shared with their test"
)]
#[path = "../../../../net/tests/wire_samples/mod.rs"]
mod wire_samples;

use crate::target::Target;

/// All targets, in the order in which `all` runs them.
pub fn all() -> Vec<&'static dyn Target> {
    vec![
        &wire::Wire,
        &nbd::Nbd,
        &superblock::SuperblockTarget,
        &activity_log::ActivityLog,
        &bitmap::Bitmap,
        &health::HealthSlot,
        &configuration::ConfigurationText,
        &admin::Admin,
        &messages::Messages,
        &image::Image,
    ]
}

/// The target of that name.
pub fn find(name: &str) -> Option<&'static dyn Target> {
    all().into_iter().find(|target| target.name() == name)
}
