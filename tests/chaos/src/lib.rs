//! The chaos run: two real nodes, clients that check every answer, and one trouble after the other, from one seed.
//!
//! [`run::run`] is the whole of it. What it breaks stays inside what Mendblock promises: never both good copies of a block
//! at once (see [`trouble`]). So every error that a client sees, every wrong sector, every wait without an end, every actor
//! that dies without an order and every leak is a violation.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a check of the harness fails; the run turns it into a violation"
)]

pub mod fio;
pub mod leaks;
pub mod logs;
pub mod meter;
pub mod program;
pub mod report;
pub mod run;
pub mod stage;
pub mod trouble;
