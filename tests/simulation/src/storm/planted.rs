//! How long storms need to find a planted fault.

use super::plan::{Mode, Plan};
use super::run::run;
use mendblock_core::planted::{Fault, with_planted, without_planted};

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

/// Runs the storms from seed `first` on until one fails; none: not within so many.
#[must_use]
pub fn find(fault: Fault, first: u64, storms: u64) -> Option<Found> {
    with_planted(fault, || {
        (first..first + storms).find_map(|seed| {
            let mode = if seed % 4 == 3 { Mode::Beyond } else { Mode::Inside };
            let plan = Plan::of_seed(seed, mode);
            let failure = run(&plan).err()?;
            // A storm that fails without the fault as well shows nothing of it.
            without_planted(|| run(&plan)).ok()?;
            Some(Found {
                seed,
                storms: seed - first + 1,
                failure,
            })
        })
    })
}
