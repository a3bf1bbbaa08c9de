//! D9: the last superblock of this attach says what the bitmap could not.

use super::super::StateEffect;
use super::super::part::StatePart;
use super::run::{DetachRun, Task, Told};
use crate::disk::MetaCompletion;
use crate::fact::Fact;
use crate::identity::Query;
use crate::part::{Context, Outbox};
use crate::volume::state::{DetachCause, DiskState};
use mendblock_storage::format::superblock::{Flags, LogState, Superblock};

impl StatePart {
    /// D9: one write, only if something must be said.
    pub(super) fn start_superblock(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let ready = self.detach.as_ref().is_some_and(|detach| {
            detach.superblock == Task::Due
                && detach.bitmap.ended()
                && detach.late.ended()
                && !matches!(detach.told, Told::Sent | Told::NotYet)
        });
        if !ready {
            return;
        }
        let number = self.query();
        let timeout = self.configuration.detach_step_timeout;
        let (flags, wanted) = (self.last_flags(), self.wanted_at_the_end());
        let renamed = self.store.names_others(&self.current.identifiers);
        let (Some(detach), Some(flags), Some(wanted)) = (self.detach.as_mut(), flags, wanted) else {
            return;
        };
        if detach.meta_gone || (wanted == (flags, LogState::Unclean) && !renamed) {
            detach.superblock = Task::Ended;
            return;
        }
        detach.superblock = Task::Running(number, cx.now.after_ms(timeout));
        detach.last_waits = true;
        self.continue_superblock(out);
    }

    pub(super) fn continue_superblock(&mut self, out: &mut Outbox<StateEffect>) {
        let in_kernel = self.store.writes_superblock();
        let wanted = self.wanted_at_the_end();
        let (Some(detach), Some(wanted)) = (self.detach.as_mut(), wanted) else {
            return;
        };
        let Task::Running(number, _) = detach.superblock else {
            return;
        };
        if !in_kernel && std::mem::take(&mut detach.last_waits) {
            self.write_last_superblock(number, wanted, out);
        }
    }

    /// What the last superblock of this attach must say, by what is known now.
    pub(super) fn wanted_at_the_end(&self) -> Option<(Flags, LogState)> {
        let detach = self.detach.as_ref()?;
        let last_copy = !(self.vector().connection.is_connected_or_better()
            && self.vector().peer_disk == DiskState::UpToDate);
        // A predecessor of this part may have heard of the peer's generation: then the health file says so.
        let outdated = self
            .health
            .outdated_since
            .is_some_and(|generation| self.outdated_stands(generation));
        Some(superblock_at_the_end(
            detach,
            self.last_flags()?,
            last_copy,
            outdated,
        ))
    }

    pub(super) fn write_last_superblock(
        &mut self,
        number: Query,
        (flags, log_state): (Flags, LogState),
        out: &mut Outbox<StateEffect>,
    ) {
        if let Some(superblock) = self.compose() {
            let superblock = Superblock {
                flags,
                log_state,
                ..superblock
            };
            self.last_superblock = Some(superblock);
            self.write_superblock(number.0, &superblock, out);
        }
    }

    pub(super) fn last_flags(&self) -> Option<Flags> {
        self.disk.as_ref().map(|disk| disk.superblock.flags)
    }

    pub(in crate::volume::machine) fn detach_meta(
        &mut self,
        completion: &MetaCompletion,
        out: &mut Outbox<StateEffect>,
    ) {
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if !detach.superblock.end_if(Query(completion.number)) {
            return;
        }
        match completion.result {
            Ok(_) => out.fact(Fact::Step { step: "D9", outcome: "superblock marked".to_owned() }),
            Err(errno) => out.fact(Fact::Alert {
                what: format!("this disk could not be marked (superblock write failed, errno {errno}): the health file and the peer's record remain"),
            }),
        }
    }

    /// The disk part was restarted and its table does not name the last superblock: it is written again.
    pub(in crate::volume::machine) fn repeat_last_superblock(
        &self,
        in_kernel: &[u64],
        out: &mut Outbox<StateEffect>,
    ) {
        let running = self.detach.as_ref().map(|detach| detach.superblock);
        if let (Some(Task::Running(number, _)), Some(superblock)) = (running, self.last_superblock.as_ref())
            && !in_kernel.contains(&number.0)
        {
            self.write_superblock(number.0, superblock, out);
        }
    }
}

/// What the last superblock of this attach must say.
fn superblock_at_the_end(
    detach: &DetachRun,
    flags: Flags,
    last_copy: bool,
    outdated: bool,
) -> (Flags, LogState) {
    let mut wanted = flags;
    let forgotten = !detach.bitmap_ok && (detach.read_error_seen || detach.uncovered_bits);
    if forgotten || detach.cause == DetachCause::TooManyBad {
        wanted = wanted.with(Flags::FULL_SYNC);
    }
    // The peer goes on with a new generation: attached alone later, this disk must not pass for current. The same bit where
    // the list of bad blocks is on no file: CONSISTENT stays, else the direction of the next resync would turn round.
    if outdated
        || detach.outdated_since.is_some()
        || (detach.health_lost && last_copy && detach.read_error_seen)
    {
        wanted = wanted.without(Flags::WAS_UP_TO_DATE);
    }
    let complete = detach.drained.is_some_and(|(_, complete)| complete);
    if complete && detach.bitmap_ok {
        return (wanted.with(Flags::AL_CLEAN), LogState::Clean);
    }
    (wanted, LogState::Unclean)
}
