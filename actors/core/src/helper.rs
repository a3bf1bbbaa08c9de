//! The helper part: runs handlers (operator's programs), each with a time limit.

use crate::identity::{PartGeneration, Query};
use crate::part::PartName;

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
