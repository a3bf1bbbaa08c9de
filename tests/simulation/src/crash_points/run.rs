//! One state, from the copied pair to the last check.

use super::aftermath;
use super::base::Base;
use super::drive::Drive;
use super::state::CrashState;
use super::workload::{Operation, Workload};
use crate::panics::{Panic, caught};
use mendblock_kit::device::Defect;
use mendblock_kit::world::World;
use std::sync::OnceLock;

/// What a state is made from.
#[derive(Clone)]
pub struct Bench {
    base: Base,
    /// A lie of node 0's drive, to try the checks with.
    pub defect: Option<Defect>,
}

/// A state in which something is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The arguments that replay it.
    pub state: String,
    /// What is wrong.
    pub text: String,
}

impl Finding {
    fn of(state: &CrashState, panic: Panic) -> Self {
        Self {
            state: state.to_string(),
            text: panic.text,
        }
    }
}

impl Bench {
    /// Syncs the pair, once in a process.
    pub fn prepare() -> Self {
        static BASE: OnceLock<Base> = OnceLock::new();
        Self {
            base: BASE.get_or_init(Base::prepare).clone(),
            defect: None,
        }
    }

    fn drive<'a>(&self, workload: &'a Workload, state: &CrashState, stop_at: Option<usize>) -> Drive<'a> {
        let start = self
            .base
            .start(state.seed_before(), workload.policy, self.defect.as_ref());
        Drive::new(start, workload, state.victim.nodes(), stop_at)
    }

    /// The workload without a crash: its number of moments, or what went wrong.
    pub fn moments(&self, state: &CrashState) -> Result<usize, Finding> {
        let run = || {
            let mut drive = self.drive(&state.workload, state, None);
            let ended = drive.run();
            assert!(ended.is_ok(), "nobody asked for a crash");
            check_errors(&drive.world, &state.workload);
            drive.moments
        };
        caught(run).map_err(|panic| Finding::of(state, panic))
    }

    /// One crash; `on_image` sees what is durable then.
    pub fn check(&self, state: &CrashState, on_image: impl FnOnce(&World)) -> Result<(), Finding> {
        let run = || {
            let mut drive = self.drive(&state.workload, state, Some(state.crash_at));
            let ended = drive.run();
            assert!(
                ended.is_err(),
                "the workload ended after {} moments: this one does not come",
                drive.moments
            );
            check_errors(&drive.world, &state.workload);
            aftermath::follow(&mut drive.world, state, on_image);
        };
        caught(run).map_err(|panic| Finding::of(state, panic))
    }
}

/// A client hears of an error only where no good copy was within reach.
fn check_errors(world: &World, workload: &Workload) {
    let apart = [
        Operation::Disconnect,
        Operation::CutLink,
        Operation::Resync,
        Operation::Detach,
    ];
    let excused = workload.has(Operation::ReadBad) && apart.iter().any(|&operation| workload.has(operation));
    assert!(
        excused || world.client_errors.is_empty(),
        "a client got an error: {:?}\n{}",
        world.client_errors,
        world.describe()
    );
}
