//! The helper part: runs handlers (operator's programs), each with a time limit.

use crate::fact::Fact;
use crate::identity::{PartGeneration, Query};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::volume::machine::StateIn;
use std::collections::{BTreeMap, BTreeSet};

/// Handlers of this release, by DRBD's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Handler {
    /// Own disk failed by an I/O error, policy `call-local-io-error`; before anything is told or written.
    LocalIoError,
    /// Primary without any up-to-date data.
    PriOnInconDegr,
    /// A split brain was found.
    InitialSplitBrain,
    /// A split brain was not solved.
    SplitBrain,
    /// About to become SyncTarget; exit code other than 0: the connection is dropped.
    BeforeResyncTarget,
    /// About to become SyncSource; exit code other than 0 and 3: the connection is dropped.
    BeforeResyncSource,
    /// Resync ended on the target.
    AfterResyncTarget,
}

impl Handler {
    /// DRBD's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalIoError => "local-io-error",
            Self::PriOnInconDegr => "pri-on-incon-degr",
            Self::InitialSplitBrain => "initial-split-brain",
            Self::SplitBrain => "split-brain",
            Self::BeforeResyncTarget => "before-resync-target",
            Self::BeforeResyncSource => "before-resync-source",
            Self::AfterResyncTarget => "after-resync-target",
        }
    }
}

/// Messages of the helper part.
#[derive(Debug)]
pub enum HelperIn {
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// State: run a handler; answered by `StateIn::HelperEnded`.
    Run {
        /// Echoed. The same query is never started twice, also by a new generation.
        query: Query,
        /// Which.
        handler: Handler,
        /// Time limit, ms.
        limit: u64,
    },
    /// From the shell: the program ended.
    Ended {
        /// From the effect.
        query: Query,
        /// Exit code; none: see outcome.
        exit_code: Option<i32>,
        /// For people.
        outcome: String,
    },
}

/// What the helper part asks its shell to do.
#[derive(Debug)]
pub enum HelperEffect {
    /// Start `/bin/sh -c` with the configured line (none configured: exit code 0 at once).
    Start {
        /// Echoed.
        query: Query,
        /// Which.
        handler: Handler,
    },
    /// Stop it (its process group).
    Stop {
        /// Which.
        query: Query,
    },
}

/// The helper part. Handlers run independently of each other; a query is started once in the life of the process.
#[derive(Clone, Debug)]
pub struct HelperPart {
    /// Started by predecessors, and not known to have ended.
    inherited: BTreeSet<Query>,
    /// Every query that was seen; those in `running` are still awaited.
    started: BTreeSet<Query>,
    running: BTreeMap<Query, Running>,
    /// How each ended: repeated to a state part that asks again. Few: one for each incident.
    results: BTreeMap<Query, (Option<i32>, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    handler: Handler,
    since: Instant,
    until: Instant,
}

impl HelperPart {
    /// `started`: queries that predecessors started (the shell outlives the part and knows). They are not started
    /// again; the end of one that still runs is reported as any other.
    pub fn new(_generation: PartGeneration, started: impl IntoIterator<Item = Query>) -> Self {
        let started: BTreeSet<Query> = started.into_iter().collect();
        Self {
            inherited: started.clone(),
            started,
            running: BTreeMap::new(),
            results: BTreeMap::new(),
        }
    }

    fn run(
        &mut self,
        now: Instant,
        query: Query,
        handler: Handler,
        limit: u64,
        out: &mut Outbox<HelperEffect>,
    ) {
        let inherited = self.inherited.remove(&query);
        if !self.started.insert(query) && !inherited {
            if let Some((exit_code, outcome)) = self.results.get(&query).cloned() {
                out.send(To::State(StateIn::HelperEnded {
                    query,
                    exit_code,
                    outcome,
                }));
            }
            return;
        }
        if !inherited {
            out.effect(HelperEffect::Start { query, handler });
        }
        let until = now.after_ms(limit);
        self.running.insert(
            query,
            Running {
                handler,
                since: now,
                until,
            },
        );
    }

    fn ended(
        &mut self,
        now: Instant,
        query: Query,
        exit_code: Option<i32>,
        outcome: String,
        out: &mut Outbox<HelperEffect>,
    ) {
        // One that was stopped at its limit was reported then.
        let running = self.running.remove(&query);
        if running.is_none() && !self.inherited.remove(&query) {
            return;
        }
        if let Some(running) = running {
            out.fact(Fact::HelperEnded {
                handler: running.handler.name(),
                exit_code,
                outcome: outcome.clone(),
                milliseconds: now.ms_since(running.since),
            });
        }
        self.results.insert(query, (exit_code, outcome.clone()));
        out.send(To::State(StateIn::HelperEnded {
            query,
            exit_code,
            outcome,
        }));
    }
}

impl Part for HelperPart {
    type In = HelperIn;
    type Effect = HelperEffect;
    const NAME: PartName = PartName::Helper;

    fn on(&mut self, cx: &mut Context<'_>, message: HelperIn, out: &mut Outbox<HelperEffect>) {
        match message {
            // A new state part repeats what it still awaits.
            HelperIn::Restarted { .. } => {}
            HelperIn::Run {
                query,
                handler,
                limit,
            } => self.run(cx.now, query, handler, limit, out),
            HelperIn::Ended {
                query,
                exit_code,
                outcome,
            } => self.ended(cx.now, query, exit_code, outcome, out),
        }
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Outbox<HelperEffect>) {
        let late: Vec<Query> = self
            .running
            .iter()
            .filter(|(_, running)| running.until <= cx.now)
            .map(|(query, _)| *query)
            .collect();
        for query in late {
            out.effect(HelperEffect::Stop { query });
            self.ended(
                cx.now,
                query,
                None,
                "stopped after its time limit".to_owned(),
                out,
            );
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.running.values().map(|running| running.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(part: &mut HelperPart, ms: u64, message: Option<HelperIn>) -> Outbox<HelperEffect> {
        let mut random = || 1;
        let mut cx = Context {
            now: Instant(0).after_ms(ms),
            wall: 0,
            random: &mut random,
        };
        let mut out = Outbox::default();
        match message {
            Some(message) => part.on(&mut cx, message, &mut out),
            None => part.wake(&mut cx, &mut out),
        }
        out
    }

    fn run(query: u64) -> Option<HelperIn> {
        Some(HelperIn::Run {
            query: Query(query),
            handler: Handler::LocalIoError,
            limit: 1000,
        })
    }

    fn ended(query: u64, exit_code: i32) -> Option<HelperIn> {
        Some(HelperIn::Ended {
            query: Query(query),
            exit_code: Some(exit_code),
            outcome: "exit".to_owned(),
        })
    }

    fn answers(out: &Outbox<HelperEffect>) -> Vec<(u64, Option<i32>)> {
        out.messages
            .iter()
            .map(|message| match message {
                To::State(StateIn::HelperEnded { query, exit_code, .. }) => (query.0, *exit_code),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_result_is_reported_with_its_duration() {
        let mut part = HelperPart::new(PartGeneration(1), []);
        let out = step(&mut part, 10, run(1));
        assert!(matches!(
            out.effects[..],
            [HelperEffect::Start {
                query: Query(1),
                handler: Handler::LocalIoError
            }]
        ));
        let out = step(&mut part, 260, ended(1, 3));
        assert_eq!(answers(&out), [(1, Some(3))]);
        assert!(matches!(
            out.facts[..],
            [Fact::HelperEnded {
                exit_code: Some(3),
                milliseconds: 250,
                ..
            }]
        ));
        assert_eq!(part.wake_at(), None);
    }

    #[test]
    fn several_run_at_once_and_each_has_its_limit() {
        let mut part = HelperPart::new(PartGeneration(1), []);
        step(&mut part, 0, run(1));
        step(&mut part, 500, run(2));
        assert_eq!(part.wake_at(), Some(Instant(0).after_ms(1000)));
        let out = step(&mut part, 1000, None);
        assert!(matches!(
            out.effects[..],
            [HelperEffect::Stop { query: Query(1) }]
        ));
        assert_eq!(answers(&out), [(1, None)]);
        assert!(
            answers(&step(&mut part, 1001, ended(1, 0))).is_empty(),
            "reported once"
        );
        assert_eq!(answers(&step(&mut part, 1002, ended(2, 0))), [(2, Some(0))]);
    }

    #[test]
    fn never_started_twice() {
        let mut part = HelperPart::new(PartGeneration(1), []);
        step(&mut part, 0, run(1));
        assert!(step(&mut part, 1, run(1)).effects.is_empty(), "while it runs");
        step(&mut part, 2, ended(1, 0));
        let out = step(&mut part, 3, run(1));
        assert!(out.effects.is_empty(), "after its end");
        assert_eq!(
            answers(&out),
            [(1, Some(0))],
            "a new state part hears how it ended"
        );
        let mut successor = HelperPart::new(PartGeneration(2), [Query(1), Query(2)]);
        assert!(
            step(&mut successor, 4, run(2)).effects.is_empty(),
            "by a new generation"
        );
        assert_eq!(
            answers(&step(&mut successor, 5, ended(1, 0))),
            [(1, Some(0))],
            "one that nobody repeated"
        );
        let out = step(&mut successor, 1004, None);
        assert_eq!(
            answers(&out),
            [(2, None)],
            "the limit holds for one that was taken over"
        );
    }
}
