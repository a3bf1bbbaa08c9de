//! All states of many workloads, within a budget.

use super::metadata_tools::Tools;
use super::run::{Bench, Finding};
use super::state::{CrashState, MODES, THENS, Then, Victim};
use super::workload::Workload;
use fastrand::Rng;
use mendblock_kit::device::Loss;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much of a workload is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// Of the moments of the peer, and of both at once, one in so many, each with one mode.
    pub others_one_in: usize,
    /// The off-line tools look at one state in so many; 0: at none.
    pub tools_one_in: u64,
}

/// States checked, and what was found.
pub struct Campaign<'a> {
    bench: &'a Bench,
    seed: u64,
    depth: Depth,
    tools: Option<&'a Tools>,
    /// No state begins after it.
    until: Option<Instant>,
    /// States that were checked.
    pub states: u64,
    /// States that the off-line tools looked at.
    pub tool_states: u64,
    /// Workloads that were tried to their end.
    pub workloads: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl<'a> Campaign<'a> {
    /// Nothing checked yet.
    pub fn new(bench: &'a Bench, seed: u64, depth: Depth, tools: Option<&'a Tools>) -> Self {
        Self {
            bench,
            seed,
            depth,
            tools,
            until: None,
            states: 0,
            tool_states: 0,
            workloads: 0,
            findings: Vec::new(),
        }
    }

    /// No state begins later than that.
    #[must_use]
    pub fn within(mut self, budget: Duration) -> Self {
        self.until = Some(Instant::now() + budget);
        self
    }

    /// The budget is spent.
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Tries the workloads in turn; `progress` hears of each state.
    pub fn try_all(&mut self, workloads: &[Workload], mut progress: impl FnMut(&Self)) {
        for workload in workloads {
            if self.is_over() {
                return;
            }
            for state in self.states_of(workload) {
                if self.is_over() {
                    return;
                }
                self.try_one(&state);
                progress(self);
            }
            self.workloads += 1;
        }
    }

    /// One state.
    pub fn try_one(&mut self, state: &CrashState) {
        self.states += 1;
        let one_in = self.depth.tools_one_in;
        let tools = self
            .tools
            .filter(|_| one_in > 0 && self.states.is_multiple_of(one_in));
        self.tool_states += u64::from(tools.is_some());
        let node = usize::from(state.victim == Victim::Peer);
        let result = self.bench.check(state, |world| {
            if let Some(tools) = tools {
                tools.check(&world.nodes[node].device);
            }
        });
        self.findings.extend(result.err());
    }

    /// The states of a workload that are to be tried. One that fails without a crash is a finding and has none.
    pub fn states_of(&mut self, workload: &Workload) -> Vec<CrashState> {
        let mut states = Vec::new();
        for victim in [Victim::Node, Victim::Peer, Victim::Both] {
            let first = CrashState {
                workload: workload.clone(),
                seed: self.seed,
                victim,
                crash_at: 0,
                mode: Loss::Nothing,
                then: Then::Together,
            };
            match self.bench.moments(&first) {
                Ok(moments) => self.add_states(&first, moments, &mut states),
                Err(finding) => {
                    self.findings.push(finding);
                    return Vec::new();
                }
            }
        }
        states
    }

    fn add_states(&self, first: &CrashState, moments: usize, states: &mut Vec<CrashState>) {
        let mut draw = Rng::with_seed(first.seed_after());
        for crash_at in 0..=moments {
            if first.victim == Victim::Node {
                for (mode, _) in MODES {
                    let then = drawn_then(&mut draw);
                    states.push(CrashState {
                        crash_at,
                        mode,
                        then,
                        ..first.clone()
                    });
                }
            } else if draw.usize(0..self.depth.others_one_in) == 0 {
                let mode = MODES[draw.usize(0..MODES.len())].0;
                let then = drawn_then(&mut draw);
                states.push(CrashState {
                    crash_at,
                    mode,
                    then,
                    ..first.clone()
                });
            }
        }
    }

    /// How often each kind of finding came, by its first line without numbers, with the first state that showed it.
    pub fn kinds(&self) -> BTreeMap<String, (u64, &Finding)> {
        let mut kinds = BTreeMap::new();
        for finding in &self.findings {
            let line = finding.text.lines().next().unwrap_or_default();
            let kind: String = line
                .chars()
                .filter(|character| !character.is_ascii_digit())
                .collect();
            kinds.entry(kind).or_insert((0, finding)).0 += 1;
        }
        kinds
    }
}

fn drawn_then(draw: &mut Rng) -> Then {
    // Most come back together.
    THENS
        .get(draw.usize(0..5))
        .map_or(Then::Together, |(then, _)| *then)
}
