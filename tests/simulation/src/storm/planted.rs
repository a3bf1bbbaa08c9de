//! How long storms need to find a planted fault.

use super::plan::{Mode, Plan};
use super::run::run;
use super::shrink::shrink;
use mendblock_core::planted::{Fault, with_planted, without_planted};

/// Where a fault was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The storm.
    pub plan: Plan,
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
            let failure = shown_by(&plan)?;
            Some(Found {
                plan,
                storms: seed - first + 1,
                failure,
            })
        })
    })
}

/// How a plan fails with the fault that is planted; none if it does not, or fails without the fault as well: that shows nothing of it.
fn shown_by(plan: &Plan) -> Option<String> {
    let failure = run(plan).err()?;
    without_planted(|| run(plan)).ok()?;
    Some(failure)
}

/// The plan as short as it gets with this fault in at most `tries` runs.
#[must_use]
pub fn shorten(fault: Fault, found: &Found, tries: usize) -> Plan {
    with_planted(fault, || {
        let (plan, _) = shrink(&found.plan, found.failure.clone(), tries);
        if shown_by(&plan).is_some() {
            plan
        } else {
            found.plan.clone()
        }
    })
}

/// Runs a plan with one seed after the other, so that delays and requests are others each time: in which of at most so many runs
/// it shows the fault. A plan that was made for a fault shows it for some seed, though the code has changed since.
#[must_use]
pub fn shows(fault: Fault, plan: &Plan, runs: u64) -> Option<u64> {
    with_planted(fault, || {
        (0..runs).find(|number| {
            let seed = plan.seed.wrapping_add(*number);
            shown_by(&Plan { seed, ..plan.clone() }).is_some()
        })
    })
    .map(|number| number + 1)
}
