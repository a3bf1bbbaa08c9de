//! What runs: the actix shells around the parts of `mendblock-core`, their supervision, the ports that outlive them,
//! and the one file that names all actors ([`wiring`]).
//!
//! A volume lives on one Arbiter: its actors, its ports and its client sessions. The rest of the node talks to it
//! through a [`volume::VolumeHandle`], which may cross threads.

pub mod clock;
pub mod counters;
pub mod facts;
pub mod handle;
pub mod nbd;
pub mod peers;
pub mod ports;
pub mod service;
pub mod shell;
pub mod supervision;
pub mod volume;
pub mod wiring;
