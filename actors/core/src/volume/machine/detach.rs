//! Detach as numbered steps (D1 to D13): the seed. A read error is remembered before the disk is let go: the changed
//! bitmap pages are always written; if that fails and there was a read error (or other bits that no hot extent covers),
//! the full-sync mark goes into the superblock; the health file and the peer's record stand beside both.
//!
//! Order that binds: D1 < D3 < D4 < D5 (sent) < D8 < D9 < D11. D5 to D8 overlap where the table in the project's manual allows.

mod persist;
mod run;
mod superblock;
mod telling;

pub(super) use run::DetachRun;

use super::StateEffect;
use super::part::StatePart;
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::disk::DiskIn;
use crate::fact::Fact;
use crate::helper::Handler;
use crate::identity::{MarkNumber, Query, SnapshotNumber};
use crate::part::{Context, Outbox, PartName, To};
use crate::snapshot::Drain;
use crate::volume::state::{DetachCause, Detaching, DiskState, DisklessReason, Role};
use mendblock_storage::format::layout::MetaIndex;
use run::{Task, Told};

impl StatePart {
    /// D3 and what follows. The causing error was noted (D1) where it completed.
    pub(super) fn begin_detach(
        &mut self,
        cause: DetachCause,
        forced: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.detach.is_some() || self.disk.is_none() {
            return;
        }
        let read = cause == DetachCause::ReadError;
        let calls = self.configuration.on_io_error == crate::configuration::OnIoError::CallLocalIoError
            && cause.is_io_error();
        let meta_gone =
            cause.is_device_gone() || (forced && self.configuration.meta_index == MetaIndex::Internal);
        self.detach = Some(DetachRun {
            cause,
            forced,
            read_error_seen: read,
            uncovered_bits: read,
            second: None,
            early: Task::Due,
            helper: if calls { Task::Due } else { Task::Ended },
            told: Told::NotYet,
            drain_until: cx.now.after_ms(self.configuration.detach_step_timeout),
            drained: None,
            late: Task::Due,
            marked: Task::Due,
            mark_durable: false,
            outdated_since: None,
            peer_is_ahead: false,
            bitmap: Task::Due,
            bitmap_ok: false,
            superblock: Task::Due,
            last_waits: false,
            health_lost: false,
            diskless: false,
            commands: Vec::new(),
            meta_gone,
        });
        self.attach_given_up(out);
        self.fact(&format!("detach: {cause}"), out, |v| v.disk = DiskState::Failed);
        self.current.drain = Some(if forced { Drain::Abandon } else { Drain::Wait });
        self.current.own_loss_settled = false;
        for then in self.store.abandon() {
            self.stored(then, false, cx, out);
        }
        self.detach_steps(cx, out);
    }

    /// Starts every step whose conditions are met. Called after each message; idempotent.
    pub(super) fn detach_steps(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.detach.is_none() {
            return;
        }
        self.detach_deadlines(cx, out);
        self.start_early_health(cx, out);
        self.start_helper(cx, out);
        self.start_telling(out);
        self.start_late_health(cx, out);
        self.start_bitmap(cx, out);
        self.start_superblock(cx, out);
        self.continue_superblock(out);
        self.settle_loss(cx, out);
        self.become_diskless(cx, out);
        self.current.reasons.detaching = self
            .detach
            .as_ref()
            .filter(|detach| !detach.diskless)
            .map(DetachRun::shown);
    }

    /// D4: before anything is told or written to the disk.
    fn start_helper(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let limit = self.configuration.helper_timeout;
        let ready = self
            .detach
            .as_ref()
            .is_some_and(|detach| detach.helper == Task::Due && detach.early.ended());
        if ready {
            let query = self.run_helper(Handler::LocalIoError, limit, out);
            if let Some(detach) = self.detach.as_mut() {
                // The helper part ends it at its limit; 2 s later it is given up here in any case (P5).
                detach.helper = Task::Running(query, cx.now.after_ms(limit + 2000));
            }
        }
    }

    pub(super) fn detach_helper_ended(&mut self, query: Query) -> bool {
        self.detach
            .as_mut()
            .is_some_and(|detach| detach.helper.end_if(query))
    }

    /// Taken up by a new state part.
    pub(super) fn detach_resumed(&mut self, shown: Option<Detaching>, helper_began: bool) {
        let (Some(detach), Some(shown)) = (self.detach.as_mut(), shown) else {
            return;
        };
        detach.read_error_seen |= shown.read_error_seen;
        detach.uncovered_bits |= shown.uncovered_bits;
        detach.second = shown.second_cause;
        if helper_began {
            // It is never run twice (I8).
            detach.helper = Task::Ended;
        }
    }

    /// A neighbour was restarted: what it was asked for is asked again, under the same numbers.
    pub(super) fn repeat_detach(&mut self, part: PartName, out: &mut Outbox<StateEffect>) {
        let Some(detach) = self.detach.as_ref() else {
            return;
        };
        match part {
            PartName::Bitmap => {
                let cause = HeaderChange {
                    last_detach: Some(detach.cause),
                    ..HeaderChange::default()
                };
                let outdated = HeaderChange {
                    outdated_since: detach.outdated_since.map(Some),
                    ..HeaderChange::default()
                };
                for (task, change) in [
                    (detach.early, HeaderChange::default()),
                    (detach.late, cause),
                    (detach.marked, outdated),
                ] {
                    if let Task::Running(query, _) = task {
                        let change = Box::new(change);
                        out.send(To::Bitmap(BitmapIn::SetHeader { query, change }));
                    }
                }
                if let (Task::Running(query, _), Some((after, _))) = (detach.bitmap, detach.drained) {
                    out.send(To::Bitmap(BitmapIn::WriteOut {
                        requester: PartName::State,
                        query,
                        after,
                        extents: None,
                    }));
                }
            }
            PartName::Disk if detach.diskless => out.send(To::Disk(DiskIn::Close)),
            _ => {}
        }
    }

    /// The helper part was restarted: whether the handler ran to its end is not known; it is never run twice (I8).
    pub(super) fn detach_helper_lost(&mut self) {
        if let Some(detach) = self
            .detach
            .as_mut()
            .filter(|detach| matches!(detach.helper, Task::Running(..)))
        {
            detach.helper = Task::Ended;
        }
    }

    /// D6 ended.
    pub(super) fn drained(
        &mut self,
        _snapshot: SnapshotNumber,
        mark: MarkNumber,
        complete: bool,
        _cx: &mut Context<'_>,
        _out: &mut Outbox<StateEffect>,
    ) {
        if let Some(detach) = self.detach.as_mut().filter(|detach| detach.drained.is_none()) {
            detach.drained = Some((mark, complete));
        }
    }

    /// D10, D11, D12 begun. D10 first: whoever waits for T and M of this disk must be able to see them.
    fn become_diskless(&mut self, _cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let telling = self.tells.awaits_answer();
        let Some(detach) = self.detach.as_mut().filter(|detach| {
            let marking = matches!(detach.marked, Task::Running(..));
            !detach.diskless && detach.superblock.ended() && !marking && !telling
        }) else {
            return;
        };
        detach.diskless = true;
        let shown = detach.shown();
        self.current.reasons.diskless = Some(DisklessReason::from(&shown));
        self.fact(&format!("detached: {}", shown.cause), out, |v| {
            v.disk = DiskState::Diskless
        });
        out.fact(Fact::DiskGivenUp { cause: shown.cause });
        let outcome = format!("Diskless: {}", shown.cause);
        out.fact(Fact::Step { step: "D11", outcome });
        out.send(To::Disk(DiskIn::Close));
        for command in self
            .detach
            .as_mut()
            .map(|detach| std::mem::take(&mut detach.commands))
            .unwrap_or_default()
        {
            out.effect(StateEffect::Answer {
                id: command,
                answer: super::command::done("disk is Diskless".to_owned()),
            });
        }
    }

    /// D12, D13.
    pub(super) fn disk_closed(&mut self, _cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.detach.as_ref().is_none_or(|detach| !detach.diskless) {
            return;
        }
        self.detach = None;
        self.current.reasons.detaching = None;
        self.release_disk(out);
        self.tells.disk_closed();
        self.errors_end();
        self.store = super::store::Store::default();
        out.fact(Fact::Step {
            step: "D12",
            outcome: "devices closed".to_owned(),
        });
        self.no_data_left(out);
    }

    /// D13 and S50.3: a Primary without any up-to-date copy.
    pub(super) fn no_data_left(&mut self, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        if vector.role == Role::Primary && !vector.has_up_to_date_data() {
            self.want_helper(Handler::PriOnInconDegr);
            out.fact(Fact::Alert {
                what: "Primary without access to up-to-date data: connect the peer or attach a disk"
                    .to_owned(),
            });
        }
    }

    /// Steps that are over their time (P5).
    fn detach_deadlines(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let now = cx.now;
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        let over = |task: &Task| task.until().is_some_and(|until| until <= now);
        let mut late = Vec::new();
        for (task, name) in [
            (&mut detach.early, "D7 (early)"),
            (&mut detach.helper, "D4"),
            (&mut detach.late, "D7"),
            (&mut detach.marked, "D7 (outdated since)"),
            (&mut detach.bitmap, "D8"),
            (&mut detach.superblock, "D9"),
        ] {
            if over(task) {
                *task = Task::Ended;
                late.push(name);
            }
        }
        if late.contains(&"D7") {
            detach.health_lost = true;
        }
        if detach.drained.is_none() && detach.drain_until <= now && !detach.forced {
            // The deadline of D6: from here on as `detach --force`.
            self.force_detach(cx);
            late.push("D6");
        } else if detach.drained.is_none() && detach.drain_until <= now {
            detach.drained = Some((MarkNumber(0), false));
        }
        for step in late {
            out.fact(Fact::Step {
                step: "detach",
                outcome: format!("{step} did not end in time, going on without it"),
            });
        }
    }

    /// The detach that runs waits for the disk no longer (`detach --force`).
    pub(super) fn force_detach(&mut self, cx: &Context<'_>) {
        let until = cx.now.after_ms(self.configuration.detach_step_timeout);
        let internal = self.configuration.meta_index == MetaIndex::Internal;
        if let Some(detach) = self.detach.as_mut().filter(|detach| !detach.forced) {
            detach.forced = true;
            detach.drain_until = until;
            detach.meta_gone |= internal;
            self.current.drain = Some(Drain::Abandon);
        }
    }

    /// An attach that was committing is over when its disk fails.
    fn attach_given_up(&mut self, out: &mut Outbox<StateEffect>) {
        if self.attach.is_some() {
            let answer = super::command::failure("the disk failed while it was being attached".to_owned());
            for command in self
                .attach
                .take()
                .map(super::attach::Attaching::into_commands)
                .unwrap_or_default()
            {
                out.effect(StateEffect::Answer {
                    id: command,
                    answer: answer.clone(),
                });
            }
        }
    }
}
