//! Two nodes as real processes, with real clients, and everything that may happen to them.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]
#![allow(
    missing_docs,
    reason = "names and assertions say what a test is about; items are documented where they do not"
)]

mod actors;
mod bad_blocks;
mod bad_input;
mod bad_peers;
mod clients;
mod commands;
mod crashes;
mod mending;
mod nbd_server;
mod observability;
mod operations;
mod split_brain;
mod stopping;
