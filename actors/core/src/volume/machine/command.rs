//! Commands of the administrator. One command runs at a time; each has a deadline.

use super::part::StatePart;
use super::store::Then;
use super::{Command, CommandAnswer, StateEffect};
use crate::bitmap::BitmapIn;
use crate::engine::VolumeIn;
use crate::identity::{MarkNumber, Query};
use crate::part::{Context, Instant, Outbox, To};
use crate::peer::{LinkWish, PeerIn};
use crate::volume::generations::promotion::{self, KnownDisk};
use crate::volume::state::{
    AttachFailure, ConnectionState, DetachCause, DisconnectReason, DiskState, InconsistentReason, Role,
    StateVector,
};
use crate::volume::transition::{Change, Confirmed, Kind, Refusal, change};
use mendblock_net::wire::message::{Message, RequestedChange};

/// Where a command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Waits until a transient state has passed.
    Transient,
    /// The peer was asked.
    Asked(u64),
    /// Writes are being retired.
    Quiescing(Query),
    /// Changed bitmap pages are being written (V17).
    Pages(Query),
    /// The superblock is being written.
    Storing,
    /// It is written; the new role waits until a handshake has ended.
    Stored,
    /// The connection is being established.
    Connecting,
}

/// A command that runs.
#[derive(Clone, Hash)]
pub(super) struct Running {
    pub id: u64,
    pub command: Command,
    pub stage: Stage,
    pub until: Instant,
    /// The peer said "not now": it is not asked again before.
    pub not_before: Option<Instant>,
}

/// A peer that says "not now" is asked again after this time, ms.
pub(super) const ASK_AGAIN: u64 = 200;

impl Running {
    pub fn wake_at(&self) -> Instant {
        self.not_before.map_or(self.until, |at| at.min(self.until))
    }

    pub fn name(&self) -> &'static str {
        match self.command {
            Command::Primary { .. } => "promotion",
            Command::Secondary => "demotion",
            Command::Attach { .. } => "attach",
            Command::Detach { .. } => "detach",
            Command::Connect { .. } => "connect",
            Command::Disconnect { .. } => "disconnect",
            Command::Invalidate => "invalidate",
        }
    }

    pub fn waits_for(&self) -> &'static str {
        match self.stage {
            Stage::Transient | Stage::Stored => "a transient state to pass",
            Stage::Asked(_) => "the peer's consent",
            Stage::Quiescing(_) => "writes in flight to be stable on both nodes",
            Stage::Pages(_) => "changed bitmap pages",
            Stage::Storing => "the superblock",
            Stage::Connecting => "the handshake with the peer",
        }
    }
}

pub(super) fn done(text: String) -> CommandAnswer {
    CommandAnswer {
        code: 1,
        text,
        hint: None,
        exit_code: 0,
    }
}

pub(super) fn failure(text: String) -> CommandAnswer {
    CommandAnswer {
        code: 0,
        text,
        hint: None,
        exit_code: 11,
    }
}

pub(super) fn nothing_to_do(text: &str) -> CommandAnswer {
    CommandAnswer {
        code: 2,
        text: text.to_owned(),
        hint: None,
        exit_code: 0,
    }
}

pub(super) fn attach_refused(reason: AttachFailure, text: &str) -> CommandAnswer {
    let code = match reason {
        AttachFailure::Open | AttachFailure::InUse => 104,
        AttachFailure::TooSmall => 111,
        AttachFailure::MetaDataIo => 118,
        AttachFailure::NoMetaData | AttachFailure::OldActivityLog | AttachFailure::OtherDisk => 119,
        AttachFailure::DataNotCurrent => 150,
        AttachFailure::Busy => 124,
        AttachFailure::StateRefused | AttachFailure::TimedOut | AttachFailure::Interrupted => 11,
    };
    CommandAnswer {
        code,
        text: text.to_owned(),
        hint: Some(reason.to_string()),
        exit_code: 10,
    }
}

pub(super) fn refused(refusal: &Refusal, cause: Option<&str>) -> CommandAnswer {
    let text = cause.map_or_else(|| refusal.to_string(), |cause| format!("{refusal}: {cause}"));
    CommandAnswer {
        code: refusal.number(),
        text,
        hint: Some(refusal.hint().to_owned()),
        exit_code: refusal.exit_code(),
    }
}

impl StatePart {
    pub(super) fn command(
        &mut self,
        id: u64,
        command: Command,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        // Two commands may join or overtake: a second detach joins, force waits for nobody.
        if matches!(command, Command::Detach { .. })
            && let Some(detach) = self.detach.as_mut().filter(|detach| !detach.is_diskless())
        {
            if command == (Command::Detach { force: true }) {
                self.force_detach(cx);
                let answer = done("the disk is being given up".to_owned());
                out.effect(StateEffect::Answer { id, answer });
            } else {
                detach.join(id);
            }
            return;
        }
        let forced = matches!(
            command,
            Command::Detach { force: true } | Command::Disconnect { force: true }
        );
        if let Some(other) = self.running.as_ref().filter(|_| !forced) {
            let answer = CommandAnswer::busy(other.name(), other.waits_for());
            out.effect(StateEffect::Answer { id, answer });
            return;
        }
        let until = cx.now.after_ms(self.configuration.detach_step_timeout);
        if forced {
            return self.forced(id, &command, cx, out);
        }
        self.running = Some(Running {
            id,
            command,
            stage: Stage::Transient,
            until,
            not_before: None,
        });
        self.advance_command(cx, out);
    }

    fn forced(&mut self, id: u64, command: &Command, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let answer = match command {
            Command::Detach { .. } if self.disk.is_none() => nothing_to_do("disk is Diskless"),
            Command::Detach { .. } => {
                self.begin_detach(DetachCause::Admin, true, cx, out);
                done("the disk is being given up".to_owned())
            }
            _ => {
                self.become_stand_alone(DisconnectReason::AdminForced, cx, out);
                done("StandAlone".to_owned())
            }
        };
        out.effect(StateEffect::Answer { id, answer });
    }

    /// Goes on with the running command if what it waited for has come.
    pub(super) fn advance_command(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        match self.running.as_ref().map(|running| running.stage) {
            Some(Stage::Transient) => {}
            Some(Stage::Stored) => return self.promotion_stored(true, cx, out),
            Some(Stage::Storing) => return self.demotion_without_disk(out),
            _ => return,
        }
        let Some(running) = self.running.as_mut() else {
            return;
        };
        if running.not_before.is_some_and(|at| at > cx.now) {
            return;
        }
        running.not_before = None;
        match running.command.clone() {
            Command::Primary { force } => self.begin_promotion(force, cx, out),
            Command::Secondary => self.begin_demotion(out),
            Command::Attach { new_disk } => self.attach_command(new_disk, cx, out),
            Command::Detach { .. } => self.detach_command(cx, out),
            Command::Connect { discard_my_data } => self.connect_command(discard_my_data, cx, out),
            Command::Disconnect { .. } => self.disconnect_command(cx, out),
            Command::Invalidate => self.invalidate_command(cx, out),
        }
    }

    pub(super) fn answer(&mut self, answer: CommandAnswer, out: &mut Outbox<StateEffect>) {
        if let Some(running) = self.running.take() {
            out.effect(StateEffect::Answer {
                id: running.id,
                answer,
            });
        }
    }

    pub(super) fn stage(&mut self, stage: Stage) {
        if let Some(running) = self.running.as_mut() {
            running.stage = stage;
        }
    }

    pub(super) fn is_at(&self, stage: Stage) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.stage == stage)
    }

    pub(super) fn running_holds_writes(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            matches!(running.stage, Stage::Quiescing(_) | Stage::Asked(_))
                && matches!(
                    running.command,
                    Command::Detach { .. } | Command::Disconnect { .. }
                )
        })
    }

    pub(super) fn promotion_pending(&self) -> bool {
        self.running.as_ref().is_some_and(|running| {
            matches!(running.command, Command::Primary { .. }) && running.stage == Stage::Storing
        })
    }

    /// A refusal that only says "not now" leaves the command waiting for the next change, until its deadline.
    pub(super) fn refuse_or_wait(&mut self, refusal: &Refusal, out: &mut Outbox<StateEffect>) {
        if *refusal != Refusal::InTransientState {
            self.answer(refused(refusal, None), out);
        }
    }

    pub(super) fn would(&self, edit: impl FnOnce(&mut StateVector)) -> Result<Change, Refusal> {
        let mut wanted = self.current.vector;
        edit(&mut wanted);
        change(
            &self.current.vector,
            &wanted,
            Kind::Soft,
            &self.policy(Confirmed::Nothing),
        )
    }

    pub(super) fn ask_peer(&mut self, change: RequestedChange, out: &mut Outbox<StateEffect>) {
        let request = self.query().0;
        if let Some(connection) = self.link.as_ref().map(|link| link.connection) {
            self.stage(Stage::Asked(request));
            self.send_peer(connection, Message::ChangeRequest { request, change }, out);
        }
    }

    pub(super) fn connected_now(&self) -> bool {
        self.vector().connection.is_connected_or_better() && self.link.is_some()
    }

    // Promotion.

    fn begin_promotion(&mut self, force: bool, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.vector().role == Role::Primary {
            return self.answer(nothing_to_do("role is Primary"), out);
        }
        if self.detach.is_some() || self.attach.is_some() || self.generation_pending() {
            return;
        }
        if let (false, Err(refusal)) = (
            force,
            promotion::may_promote(self.known_disk(), self.peers_known_disk()),
        ) {
            let answer = CommandAnswer {
                code: -2,
                text: refusal.to_string(),
                hint: Some("attach that disk, or promote with --force and lose its changes".to_owned()),
                exit_code: 17,
            };
            return self.answer(answer, out);
        }
        match self.would(|v| v.role = Role::Primary) {
            Ok(_) => {}
            Err(Refusal::NoUpToDateDisk) if force && self.vector().disk.is_usable() => {
                let raised = self.would(|v| {
                    v.role = Role::Primary;
                    v.disk = DiskState::UpToDate;
                });
                if let Err(refusal) = raised {
                    return self.refuse_or_wait(&refusal, out);
                }
            }
            Err(refusal) => return self.refuse_or_wait(&refusal, out),
        }
        if self.connected_now() {
            self.ask_peer(RequestedChange::Promote, out);
        } else {
            self.promote(force, cx, out);
        }
    }

    fn known_disk(&self) -> KnownDisk {
        if self.vector().disk.is_usable() {
            KnownDisk::Attached(self.current.identifiers)
        } else if self.health.device_id != 0 {
            KnownDisk::NotAttached(super::store::identifiers_of(self.health.slots))
        } else {
            KnownDisk::Unknown
        }
    }

    fn peers_known_disk(&self) -> KnownDisk {
        let info = self
            .link
            .as_ref()
            .filter(|_| self.connected_now())
            .and_then(|link| link.generations.zip(link.peer_identifiers()));
        match info {
            Some((info, ids)) if info.attached => KnownDisk::Attached(ids),
            Some((info, ids)) if info.attach_id != 0 => KnownDisk::NotAttached(ids),
            _ => KnownDisk::Unknown,
        }
    }

    /// Names a generation where one is due, then writes the Primary indicator; the role changes when both are durable.
    pub(super) fn promote(&mut self, force: bool, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        let raise = force
            && vector.disk.is_usable()
            && vector.disk != DiskState::UpToDate
            && vector.peer_disk != DiskState::UpToDate;
        if raise {
            let raised = self.change(Kind::Soft, Confirmed::Nothing, "promotion by force", out, |v| {
                v.disk = DiskState::UpToDate;
                v.role = Role::Primary;
            });
            if let Err(refusal) = raised {
                return self.answer(refused(&refusal, None), out);
            }
            // The role is shown only when its indicator is durable.
            self.current.vector.role = Role::Secondary;
        }
        let vector = *self.vector();
        let alone = !vector.connection.is_connected_or_better() || vector.peer_disk < DiskState::Inconsistent;
        if vector.disk.is_usable() && (raise || (alone && vector.disk == DiskState::UpToDate)) {
            self.advance_generation("promotion", cx, out);
        }
        self.current.identifiers = self.current.identifiers.with_role(true);
        self.stage(Stage::Storing);
        if let Some(disk) = self.disk.as_mut() {
            use mendblock_storage::format::superblock::Flags;
            disk.superblock.flags = disk.superblock.flags.with(Flags::PRIMARY_IND);
        }
        if !vector.disk.is_usable() {
            // A Primary without a disk: its first write waits until the peer has named a generation and M is reached.
            self.current.own_loss_settled = self.health.device_id == 0;
        }
        self.store(Then::PromotionStored);
    }

    pub(super) fn promotion_stored(&mut self, ok: bool, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if !self.is_at(Stage::Storing) && !self.is_at(Stage::Stored) {
            return;
        }
        let peer_serves = self.connected_now() && self.vector().peer_disk == DiskState::UpToDate;
        if !ok && !peer_serves {
            return self.answer(
                failure("the superblock could not be written, and no other copy is reachable".to_owned()),
                out,
            );
        }
        if ok && self.vector().disk == DiskState::UpToDate {
            self.clear_outdated(out);
        }
        let changed = self.change(Kind::Soft, Confirmed::Nothing, "promoted", out, |v| {
            v.role = Role::Primary
        });
        self.discard_my_data = false;
        match changed {
            Ok(()) => {
                if self.disk.is_some() {
                    self.exposed = self.current.identifiers.current;
                } else if let Some(peer) = self.link.as_ref().and_then(super::link::Link::peer_identifiers) {
                    self.exposed = peer.current;
                }
                self.promoted(cx, out);
                if self.connected_now()
                    && self.vector().disk == DiskState::UpToDate
                    && self.vector().peer_disk == DiskState::Inconsistent
                {
                    // Promoted by force beside an Inconsistent peer: it becomes the target of a handshake.
                    self.drop_link("promoted by force: a new handshake", out);
                }
                self.answer(done("role is Primary".to_owned()), out);
            }
            Err(Refusal::InTransientState) => self.stage(Stage::Stored),
            Err(refusal) => self.answer(refused(&refusal, None), out),
        }
    }

    // Writes are retired, pages are written.

    pub(super) fn quiesced(
        &mut self,
        query: Query,
        mark: MarkNumber,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.is_at(Stage::Quiescing(query)) {
            return;
        }
        match self.running.as_ref().map(|running| running.command.clone()) {
            Some(Command::Secondary) => self.demotion_pages(mark, out),
            Some(Command::Detach { .. }) => self.detach_agreed(cx, out),
            Some(Command::Disconnect { .. }) => self.disconnect_agreed(cx, out),
            _ => {}
        }
    }

    pub(super) fn role_pages_written(
        &mut self,
        query: Query,
        _result: Result<(), i32>,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        if !self.is_at(Stage::Pages(query)) {
            return false;
        }
        // A failed write is a meta-data error: the disk is given up; the demotion itself succeeds.
        self.demote(out);
        true
    }

    // Disk.

    fn attach_command(&mut self, new_disk: bool, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.detach.is_some() {
            // The old disk is still being given up, or its devices are being closed.
            return;
        }
        if self.vector().disk != DiskState::Diskless || self.disk.is_some() || self.attach.is_some() {
            let text = "Device is attached to a disk (use detach first)";
            return self.answer(
                CommandAnswer {
                    code: 124,
                    text: text.to_owned(),
                    hint: None,
                    exit_code: 10,
                },
                out,
            );
        }
        let Some(running) = self.running.take() else {
            return;
        };
        self.begin_attach(running.id, new_disk, cx, out);
    }

    fn detach_command(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.vector().disk == DiskState::Diskless {
            return self.answer(nothing_to_do("disk is Diskless"), out);
        }
        if self.link.as_ref().is_some_and(|link| link.known_bad().peer > 0) {
            let text = "this node has the only good copy of blocks that are bad at the peer: wait until they are healed";
            return self.answer(
                CommandAnswer {
                    code: -2,
                    text: text.to_owned(),
                    hint: Some("or use --force".to_owned()),
                    exit_code: 17,
                },
                out,
            );
        }
        if let Err(refusal) = self.would(|v| v.disk = DiskState::Failed) {
            return self.refuse_or_wait(&refusal, out);
        }
        if self.connected_now() {
            self.ask_peer(RequestedChange::Detach, out);
        } else {
            self.detach_agreed(cx, out);
        }
    }

    fn detach_agreed(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.begin_detach(DetachCause::Admin, false, cx, out);
        if let Some(detach) = self.detach.as_mut().filter(|detach| !detach.is_diskless()) {
            detach.join(running.id);
        } else {
            out.effect(StateEffect::Answer {
                id: running.id,
                answer: nothing_to_do("disk is Diskless"),
            });
        }
    }

    // Network.

    fn connect_command(
        &mut self,
        discard_my_data: bool,
        _cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.vector().connection != ConnectionState::StandAlone {
            let text = "Device has a net-config (use disconnect first)";
            return self.answer(
                CommandAnswer {
                    code: 125,
                    text: text.to_owned(),
                    hint: None,
                    exit_code: 10,
                },
                out,
            );
        }
        if discard_my_data && self.vector().role == Role::Primary {
            let text = "discard-my-data is not possible on a Primary: demote it first";
            return self.answer(
                CommandAnswer {
                    code: 123,
                    text: text.to_owned(),
                    hint: None,
                    exit_code: 10,
                },
                out,
            );
        }
        self.discard_my_data = discard_my_data;
        self.fact("connect", out, |v| v.connection = ConnectionState::Unconnected);
        self.fact("connect", out, |v| v.connection = ConnectionState::WFConnection);
        let reasons = &mut self.current.reasons;
        (reasons.disconnected, reasons.handshake, reasons.split_brain) = (None, None, None);
        out.send(To::Peer(PeerIn::Wish(LinkWish::Up)));
        self.answer(done("connecting".to_owned()), out);
    }

    pub(super) fn answer_connect(&mut self, out: &mut Outbox<StateEffect>) {
        if self.is_at(Stage::Connecting) {
            self.answer(done("connected".to_owned()), out);
        }
    }

    pub(super) fn answer_connect_refused(&mut self, text: &str, out: &mut Outbox<StateEffect>) {
        if self.is_at(Stage::Connecting) {
            self.answer(failure(text.to_owned()), out);
        }
    }

    fn disconnect_command(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.vector().connection == ConnectionState::StandAlone {
            return self.answer(nothing_to_do("StandAlone"), out);
        }
        match self.would(|v| v.connection = ConnectionState::Disconnecting) {
            Ok(_) => {}
            Err(refusal) => return self.refuse_or_wait(&refusal, out),
        }
        if self.connected_now() {
            self.ask_peer(
                RequestedChange::Disconnect {
                    outdate_me: false,
                    outdate_you: false,
                },
                out,
            );
        } else {
            self.disconnect_agreed(cx, out);
        }
    }

    fn disconnect_agreed(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.become_stand_alone(DisconnectReason::Admin, cx, out);
        self.answer(done("StandAlone".to_owned()), out);
    }

    // Invalidate.

    fn invalidate_command(&mut self, _cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        if !vector.disk.is_usable() {
            return self.answer(refused(&Refusal::NoLocalDisk, None), out);
        }
        if self.connected_now() {
            if vector.peer_disk != DiskState::UpToDate {
                return self.answer(
                    refused(
                        &Refusal::NoRemoteDisk,
                        Some("the peer has no UpToDate disk to copy from"),
                    ),
                    out,
                );
            }
            if vector.connection != ConnectionState::Connected {
                return self.answer(refused(&Refusal::ResyncRunning, None), out);
            }
            self.ask_peer(RequestedChange::FullSyncToMe, out);
        } else if vector.role == Role::Primary || vector.connection != ConnectionState::StandAlone {
            self.answer(refused(&Refusal::NeedConnection, None), out);
        } else {
            let query = self.query();
            self.stage(Stage::Storing);
            self.sync.invalidating = Some(query);
            self.fact("invalidated", out, |v| v.disk = DiskState::Inconsistent);
            self.current.reasons.inconsistent = Some(InconsistentReason::Invalidated);
            out.send(To::Bitmap(BitmapIn::SetAll {
                query,
                reason: "invalidate".to_owned(),
            }));
        }
    }

    pub(super) fn invalidated(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        _cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        if self.sync.invalidating != Some(query) {
            return false;
        }
        self.sync.invalidating = None;
        let answer = match result {
            Ok(()) => done("all blocks are out of sync; connect to resync from the peer".to_owned()),
            Err(errno) => failure(format!("the bitmap could not be written (errno {errno})")),
        };
        self.answer(answer, out);
        true
    }

    /// The volume part was restarted: it is asked again.
    pub(super) fn repeat_quiesce(&self, out: &mut Outbox<StateEffect>) {
        if let Some(Stage::Quiescing(query)) = self.running.as_ref().map(|running| running.stage) {
            out.send(To::Volume(VolumeIn::Quiesce { query }));
        }
    }

    // Time and loss.

    pub(super) fn command_deadline(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let late = self
            .running
            .as_ref()
            .is_some_and(|running| running.until <= cx.now);
        if late {
            let (name, what) = self
                .running
                .as_ref()
                .map_or(("", ""), |running| (running.name(), running.waits_for()));
            let text = format!("{name} gave up: it still waited for {what}");
            let answer = CommandAnswer {
                code: -18,
                text,
                hint: Some("look at `status` for what holds it, then try again".to_owned()),
                exit_code: 11,
            };
            let promoting = self.promotion_pending();
            self.answer(answer, out);
            if promoting {
                // The indicator that was being written must not stay.
                self.current.identifiers = self.current.identifiers.with_role(false);
                self.note_flags();
            }
        }
    }

    /// The peer can no longer answer, and what it agreed to was meant for a connection: a command that asked it, or that still
    /// waits to do what was agreed, starts over, under the rules for a node alone.
    pub(super) fn fail_running_on_loss(&mut self, _out: &mut Outbox<StateEffect>) {
        if let Some(running) = self.running.as_mut().filter(|running| {
            let agreed = matches!(
                running.command,
                Command::Detach { .. } | Command::Disconnect { .. }
            );
            match running.stage {
                Stage::Asked(_) => true,
                Stage::Quiescing(_) => agreed,
                _ => false,
            }
        }) {
            running.stage = Stage::Transient;
        }
    }
}
