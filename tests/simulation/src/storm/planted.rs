//! How long storms need to find a planted fault.

use super::action::{Action, Victim};
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
            let failure = run(&plan_for(fault, seed)).err()?;
            Some(Found {
                seed,
                storms: seed,
                failure,
            })
        })
    })
}

/// Most faults show in any storm. What two records keep (the bitmap and the health file) is forgotten only where the other one
/// cannot be written.
fn plan_for(fault: Fault, seed: u64) -> Plan {
    let mode = if seed % 4 == 3 { Mode::Beyond } else { Mode::Inside };
    let mut plan = Plan::of_seed(seed, mode);
    if fault == Fault::SkipBitmapOnDetach {
        let reads = [
            Action::Round(Victim::PrimaryDisk),
            Action::UnwritableHealth(0),
            Action::Unreadable(0, 2 * seed + 1),
            Action::Requests(60),
        ];
        plan.mode = Mode::Inside;
        plan.actions = reads.to_vec();
    }
    plan
}
