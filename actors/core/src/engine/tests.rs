//! The part driven by hand: a scripted disk, peer, bitmap and activity log.

mod harness;
mod late_snapshots;
mod localise;
mod news;
mod paths;
mod peer_side;
mod proof;
mod random;
mod recovery;
mod rules;
