//! A detach under way: what has ended, what runs, and until when.

use crate::identity::{MarkNumber, Query};
use crate::part::Instant;
use crate::volume::state::{DetachCause, DetachStep, Detaching};

/// A step that runs beside others: not begun, under way, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Task {
    Due,
    Running(Query, Instant),
    Ended,
}

impl Task {
    pub(super) fn ended(self) -> bool {
        self == Self::Ended
    }

    pub(super) fn until(self) -> Option<Instant> {
        match self {
            Self::Running(_, until) => Some(until),
            Self::Due | Self::Ended => None,
        }
    }

    pub(super) fn end_if(&mut self, query: Query) -> bool {
        let mine = matches!(self, Self::Running(running, _) if *running == query);
        if mine {
            *self = Self::Ended;
        }
        mine
    }
}

/// A detach that runs. Its public part is [`Detaching`], in the snapshot.
#[derive(Clone, Hash)]
pub(in crate::volume::machine) struct DetachRun {
    pub(super) cause: DetachCause,
    pub(super) forced: bool,
    pub(super) read_error_seen: bool,
    pub(super) uncovered_bits: bool,
    pub(super) second: Option<DetachCause>,
    pub(super) early: Task,
    pub(super) helper: Task,
    pub(super) told: Told,
    pub(super) drain_until: Instant,
    pub(super) drained: Option<(MarkNumber, bool)>,
    pub(super) late: Task,
    /// M: "outdated since" is durable.
    pub(super) marked: Task,
    pub(super) mark_durable: bool,
    pub(super) outdated_since: Option<u64>,
    /// The peer's answer named another generation than this disk has.
    pub(super) peer_is_ahead: bool,
    pub(super) bitmap: Task,
    pub(super) bitmap_ok: bool,
    pub(super) superblock: Task,
    /// D9's superblock waits for one that is still in the kernel: that one would land on top of it.
    pub(super) last_waits: bool,
    pub(super) health_lost: bool,
    pub(super) diskless: bool,
    pub(super) commands: Vec<u64>,
    pub(super) meta_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
/// Whether the peer knows.
pub(super) enum Told {
    /// The helper must end first.
    NotYet,
    /// Sent; the answer or the loss of the link ends it.
    Sent,
    /// Answered.
    Yes,
    /// There is nobody to tell, or the link was lost.
    Nobody,
}

impl DetachRun {
    pub fn note(&mut self, cause: DetachCause) {
        if cause != self.cause && self.second.is_none() {
            self.second = Some(cause);
        }
        if cause == DetachCause::ReadError {
            self.read_error_seen = true;
            self.uncovered_bits = true;
        }
    }

    /// T2: nothing may reach the peer before the helper ended.
    pub fn holds_tell(&self) -> bool {
        !self.helper.ended()
    }

    /// Writes wait while the helper runs.
    pub fn holds_writes(&self) -> bool {
        !self.helper.ended()
    }

    pub fn is_diskless(&self) -> bool {
        self.diskless
    }

    pub fn join(&mut self, command: u64) {
        self.commands.push(command);
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let drain = self.drained.is_none().then_some(self.drain_until);
        [
            self.early.until(),
            self.helper.until(),
            drain,
            self.late.until(),
            self.marked.until(),
            self.bitmap.until(),
            self.superblock.until(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn step(&self) -> DetachStep {
        if self.diskless {
            DetachStep::Close
        } else if self.helper == Task::Due {
            DetachStep::Failed
        } else if !self.helper.ended() {
            DetachStep::Helper
        } else if matches!(self.told, Told::Sent | Told::NotYet) {
            DetachStep::TellPeer
        } else if self.drained.is_none() {
            DetachStep::Drain
        } else if !self.late.ended() {
            DetachStep::HealthFile
        } else if !self.bitmap.ended() {
            DetachStep::Bitmap
        } else {
            DetachStep::Superblock
        }
    }

    /// For `status`: the step, what it waits for, until when.
    pub fn wait(&self) -> (&'static str, String, Option<Instant>) {
        let step = self.step();
        (step.label(), step.text().to_owned(), self.wake_at())
    }

    pub(super) fn shown(&self) -> Detaching {
        Detaching {
            cause: self.cause,
            second_cause: self.second,
            forced: self.forced,
            read_error_seen: self.read_error_seen,
            uncovered_bits: self.uncovered_bits,
            step: self.step(),
        }
    }
}
