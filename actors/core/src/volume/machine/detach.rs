//! Detach as numbered steps (D1 to D13): the seed. A read error is remembered before the disk is let go: the changed
//! bitmap pages are always written; if that fails and there was a read error (or other bits that no hot extent covers),
//! the full-sync mark goes into the superblock; the health file and the peer's record stand beside both.
//!
//! Order that binds: D1 < D3 < D4 < D5 (sent) < D8 < D9 < D11. D5 to D8 overlap where the table in the project's manual allows.

use super::StateEffect;
use super::part::StatePart;
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::disk::{DiskIn, MetaCompletion};
use crate::fact::Fact;
use crate::helper::Handler;
use crate::identity::{MarkNumber, Query, SnapshotNumber};
use crate::part::{Context, Instant, Outbox, PartName, To};
use crate::snapshot::Drain;
use crate::volume::generations::identifiers::Generation;
use crate::volume::state::{DetachCause, DetachStep, Detaching, DiskState, DisklessReason, Role};
use mendblock_net::wire::message::Message;
use mendblock_storage::format::layout::MetaIndex;
use mendblock_storage::format::superblock::{Flags, LogState, Superblock};

/// A step that runs beside others: not begun, under way, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Task {
    Due,
    Running(Query, Instant),
    Ended,
}

impl Task {
    fn ended(self) -> bool {
        self == Self::Ended
    }

    fn until(self) -> Option<Instant> {
        match self {
            Self::Running(_, until) => Some(until),
            Self::Due | Self::Ended => None,
        }
    }

    fn end_if(&mut self, query: Query) -> bool {
        let mine = matches!(self, Self::Running(running, _) if *running == query);
        if mine {
            *self = Self::Ended;
        }
        mine
    }
}

/// A detach that runs. Its public part is [`Detaching`], in the snapshot.
#[derive(Clone, Hash)]
pub(super) struct DetachRun {
    cause: DetachCause,
    forced: bool,
    read_error_seen: bool,
    uncovered_bits: bool,
    second: Option<DetachCause>,
    early: Task,
    helper: Task,
    told: Told,
    drain_until: Instant,
    drained: Option<(MarkNumber, bool)>,
    late: Task,
    /// M: "outdated since" is durable.
    marked: Task,
    mark_durable: bool,
    outdated_since: Option<u64>,
    /// The peer's answer named another generation than this disk has.
    peer_is_ahead: bool,
    bitmap: Task,
    bitmap_ok: bool,
    superblock: Task,
    /// D9's superblock waits for one that is still in the kernel: that one would land on top of it.
    last_waits: bool,
    health_lost: bool,
    diskless: bool,
    commands: Vec<u64>,
    meta_gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Told {
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

    fn step(&self) -> DetachStep {
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

    fn shown(&self) -> Detaching {
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

    /// D7, early: the list is on this node before the helper may power it off.
    fn start_early_health(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        let Some(detach) = self.detach.as_mut().filter(|detach| detach.early == Task::Due) else {
            return;
        };
        detach.early = Task::Running(query, cx.now.after_ms(1000));
        out.send(To::Bitmap(BitmapIn::PersistHealth { query }));
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

    /// D5: ahead of every write that is admitted after D3.
    fn start_telling(&mut self, out: &mut Outbox<StateEffect>) {
        let due = self
            .detach
            .as_ref()
            .is_some_and(|detach| detach.told == Told::NotYet && detach.helper.ended());
        let Some(attach_id) = self
            .current
            .disk
            .as_ref()
            .map(|disk| disk.attach_id.0)
            .filter(|_| due)
        else {
            return;
        };
        let sent = self.tell(attach_id, true, Vec::new(), out);
        let establishing = self.link.as_ref().is_some_and(super::link::Link::is_establishing);
        if let Some(detach) = self.detach.as_mut() {
            if sent {
                detach.told = Told::Sent;
            } else if !establishing {
                detach.told = Told::Nobody;
            }
        }
    }

    /// The peer answered: T. If it made a generation, "outdated since" is recorded at once (M).
    pub(super) fn detach_told(&mut self, current: u64, new_generation: bool, out: &mut Outbox<StateEffect>) {
        let answered = self.tells.all_answered();
        let own = self.current.identifiers.current;
        let query = self.query();
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if new_generation && detach.outdated_since.is_none() {
            detach.outdated_since = Some(current);
            self.exposed = Generation(current);
        }
        detach.peer_is_ahead |= new_generation || !Generation(current).same(own);
        if !answered || detach.told != Told::Sent {
            return;
        }
        detach.told = Told::Yes;
        // Until when is set by the next pass over the steps: the answer itself has no clock at hand.
        detach.marked = Task::Running(query, Instant(u64::MAX));
        let outdated = detach.outdated_since;
        match outdated {
            Some(generation) => {
                self.health.outdated_since = Some(generation);
                let change = HeaderChange {
                    outdated_since: Some(Some(generation)),
                    ..HeaderChange::default()
                };
                out.send(To::Bitmap(BitmapIn::SetHeader {
                    query,
                    change: Box::new(change),
                }));
            }
            // Both Secondary: no generation; the record of the blocks is the mark.
            None => out.send(To::Bitmap(BitmapIn::PersistHealth { query })),
        }
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

    /// The disk part was restarted and its table does not name the last superblock: it is written again.
    pub(super) fn repeat_last_superblock(&self, in_kernel: &[u64], out: &mut Outbox<StateEffect>) {
        let running = self.detach.as_ref().map(|detach| detach.superblock);
        if let (Some(Task::Running(number, _)), Some(superblock)) = (running, self.last_superblock.as_ref())
            && !in_kernel.contains(&number.0)
        {
            self.write_superblock(number.0, superblock, out);
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

    /// A health file write of the detach ended. True if it was one.
    pub(super) fn detach_health_written(
        &mut self,
        query: Query,
        durable: bool,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        let Some(detach) = self.detach.as_mut() else {
            return false;
        };
        if detach.early.end_if(query) {
            detach.health_lost |= !durable;
        } else if detach.late.end_if(query) {
            detach.health_lost = !durable;
        } else if detach.marked.end_if(query) {
            detach.mark_durable = durable;
            if durable {
                self.tell_marked(out);
            } else {
                out.fact(Fact::Alert { what: "the health file could not be written: that this disk is outdated is known to its superblock and to the peer alone".to_owned() });
            }
        } else {
            return false;
        }
        true
    }

    fn tell_marked(&mut self, out: &mut Outbox<StateEffect>) {
        let generation = self.detach.as_ref().and_then(|detach| detach.outdated_since);
        if let (Some(generation), Some(link)) = (generation, self.link.as_ref()) {
            self.send_peer(link.connection, Message::Marked { generation }, out);
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

    /// D7, second: all that the drain found.
    fn start_late_health(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if detach.late == Task::Due && detach.drained.is_some() && detach.early.ended() {
            let cause = detach.cause;
            detach.late = Task::Running(query, cx.now.after_ms(2000));
            let change = HeaderChange {
                last_detach: Some(cause),
                ..HeaderChange::default()
            };
            out.send(To::Bitmap(BitmapIn::SetHeader {
                query,
                change: Box::new(change),
            }));
        }
    }

    /// D8: the changed pages are always written, unless the device is gone.
    fn start_bitmap(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        let timeout = self.configuration.detach_step_timeout;
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        let Some((mark, _)) = detach
            .drained
            .filter(|_| detach.bitmap == Task::Due && detach.told != Told::NotYet)
        else {
            return;
        };
        if detach.meta_gone {
            detach.bitmap = Task::Ended;
            return;
        }
        detach.bitmap = Task::Running(query, cx.now.after_ms(timeout));
        out.send(To::Bitmap(BitmapIn::WriteOut {
            requester: PartName::State,
            query,
            after: mark,
            extents: None,
        }));
    }

    pub(super) fn written_out(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        uncovered: bool,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.pages_written(query, result) || self.role_pages_written(query, result, out) {
            return;
        }
        let Some(detach) = self
            .detach
            .as_mut()
            .filter(|detach| matches!(detach.bitmap, Task::Running(q, _) if q == query))
        else {
            return;
        };
        detach.bitmap = Task::Ended;
        detach.bitmap_ok = result.is_ok();
        detach.uncovered_bits |= uncovered;
        let outcome = match result {
            Ok(()) => "changed bitmap pages written".to_owned(),
            Err(errno) => format!("bitmap could not be written (errno {errno})"),
        };
        out.fact(Fact::Step { step: "D8", outcome });
    }

    /// D9: one write, only if something must be said.
    fn start_superblock(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
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

    fn continue_superblock(&mut self, out: &mut Outbox<StateEffect>) {
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
    fn wanted_at_the_end(&self) -> Option<(Flags, LogState)> {
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

    fn write_last_superblock(
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

    fn last_flags(&self) -> Option<Flags> {
        self.disk.as_ref().map(|disk| disk.superblock.flags)
    }

    pub(super) fn detach_meta(&mut self, completion: &MetaCompletion, out: &mut Outbox<StateEffect>) {
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

    /// T and M for the loss of the own disk: writes that only the peer has may be answered.
    fn settle_loss(&mut self, cx: &Context<'_>, _out: &mut Outbox<StateEffect>) {
        let timeout = cx.now.after_ms(2000);
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if let Task::Running(query, Instant(u64::MAX)) = detach.marked {
            detach.marked = Task::Running(query, timeout);
        }
        // Without a health file the superblock is the mark; where neither can be written, that was reported.
        let marked = detach.marked.ended() && (detach.mark_durable || detach.superblock.ended());
        // Answered without a generation, though this node is in use: the peer's disk failed as well before it could make one. Nothing
        // would tell later that this disk lacks what only the peer got, and attached first it would pass for current.
        let named = detach.peer_is_ahead || self.current.vector.role != Role::Primary;
        let settled = detach.told == Told::Yes && named && marked && self.tells.all_answered();
        self.current.own_loss_settled = settled;
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

    /// The link was lost: nobody will answer the tell; requests that waited for T have no path.
    pub(super) fn detach_link_lost(&mut self) {
        if let Some(detach) = self
            .detach
            .as_mut()
            .filter(|detach| matches!(detach.told, Told::Sent | Told::NotYet))
        {
            detach.told = Told::Nobody;
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
