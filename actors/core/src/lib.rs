//! What decides. Every actor of a volume is here a *part*: a plain value that takes one message at a time and puts
//! what follows into an [`part::Outbox`]. No part does I/O, reads a clock or draws a random number, so the very same
//! parts run under actix, in a simulator and in a model checker.
//!
//! Read in this order: [`part`], [`snapshot`], then the message enum at the top of each part's file:
//! [`volume::machine`] (state), [`disk`], [`bitmap`], [`activity`], [`engine`] (volume), [`peer`], [`resync`],
//! [`client`], [`helper`].

pub mod activity;
pub mod bitmap;
pub mod client;
pub mod configuration;
pub mod disk;
pub mod engine;
pub mod fact;
pub mod helper;
pub mod identity;
pub mod part;
pub mod peer;
pub mod planted;
pub mod resync;
pub mod snapshot;
pub mod volume;
