//! How long storms need to find a planted fault.

use super::plan::{Mode, Plan};
use super::run::run;
use mendblock_core::planted::{Fault, with_planted};

/// Where a fault was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// Seed of the storm.
    pub seed: u64,
    /// How many storms were run.
    pub storms: u64,
    /// What it violated.
    pub failure: String,
}

/// Runs the storms from seed 1 on until one fails; none: not within so many.
#[must_use]
pub fn find(fault: Fault, storms: u64) -> Option<Found> {
    with_planted(fault, || {
        (1..=storms).find_map(|seed| {
            let mode = if seed % 4 == 3 { Mode::Beyond } else { Mode::Inside };
            let failure = run(&Plan::of_seed(seed, mode)).err()?;
            Some(Found {
                seed,
                storms: seed,
                failure,
            })
        })
    })
}
