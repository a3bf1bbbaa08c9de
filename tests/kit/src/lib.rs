//! Two nodes on one thread, from one seed: the very parts that the actors run, on simulated disks and a simulated network.
//!
//! Read in this order: [`world`] (time, events, delivery), [`wiring`] (who reaches whom, what a new generation is given),
//! [`ports`] (what carries out effects), [`device`], [`bad_blocks`], [`network`], [`health`], then [`history`] (what clients may see) and
//! [`invariants`].

pub mod bad_blocks;
pub mod coverage;
pub mod device;
pub mod format;
pub mod health;
pub mod history;
pub mod invariants;
pub mod network;
pub mod node;
pub mod orders;
pub mod ports;
pub mod wiring;
pub mod world;
