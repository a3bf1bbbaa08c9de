//! Changes for which one node asks the other one's consent.

use super::command::{ASK_AGAIN, Stage, done, refused};
use super::part::StatePart;
use super::{Command, StateEffect};
use crate::engine::VolumeIn;
use crate::identity::ConnectionNumber;
use crate::part::{Context, Outbox, To};
use crate::volume::state::{ConnectionState, DiskState, Role};
use crate::volume::transition::Refusal;
use mendblock_net::wire::message::{Message, RequestedChange};
use mendblock_net::wire::prelude::cut_text;

impl StatePart {
    /// The peer asks for consent.
    pub(super) fn change_requested(
        &mut self,
        connection: ConnectionNumber,
        request: u64,
        wanted: RequestedChange,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let verdict = self.judge_request(wanted);
        let (code, cause) = match &verdict {
            Ok(()) => (1, String::new()),
            Err((refusal, cause)) => (
                refusal.number(),
                cause.clone().unwrap_or_else(|| refusal.to_string()),
            ),
        };
        let cause = cut_text(&cause).to_owned();
        self.send_peer(connection, Message::ChangeAnswer { request, code, cause }, out);
        if verdict.is_err() {
            return;
        }
        match wanted {
            RequestedChange::FullSyncToMe => {
                self.start_agreed_sync(ConnectionState::WFBitMapS, true, cx, out)
            }
            RequestedChange::FullSyncToYou => {
                self.start_agreed_sync(ConnectionState::WFBitMapT, true, cx, out)
            }
            RequestedChange::ResyncToMe => self.start_agreed_sync(ConnectionState::WFBitMapS, false, cx, out),
            RequestedChange::Promote | RequestedChange::Detach | RequestedChange::Disconnect { .. } => {}
        }
    }

    fn judge_request(&self, wanted: RequestedChange) -> Result<(), (Refusal, Option<String>)> {
        let vector = *self.vector();
        // The resolver's own command goes first (S46).
        let resolver = self.link.as_ref().is_some_and(super::link::Link::resolver);
        if resolver
            && self
                .running
                .as_ref()
                .is_some_and(|running| matches!(running.stage, Stage::Asked(_) | Stage::Storing))
        {
            return Err((Refusal::ConcurrentStChg, None));
        }
        let plain = |refusal| (refusal, None);
        match wanted {
            // A demotion ends first: else both disks could say Primary when power goes.
            RequestedChange::Promote if self.promotion_pending() || self.demotion_pending() => {
                Err(plain(Refusal::ConcurrentStChg))
            }
            RequestedChange::Promote => self
                .would(|v| v.peer_role = Role::Primary)
                .map(|_| ())
                .map_err(plain),
            RequestedChange::Detach => {
                let needs_it = vector.role == Role::Primary && vector.disk != DiskState::UpToDate;
                let text = "this node is Primary and works with the peer's disk";
                if needs_it {
                    Err((Refusal::NoUpToDateDisk, Some(text.to_owned())))
                } else {
                    Ok(())
                }
            }
            RequestedChange::Disconnect { .. } => {
                let needs_it = vector.role == Role::Primary && vector.disk != DiskState::UpToDate;
                let text = "this node is Primary and has no up-to-date data of its own";
                if needs_it {
                    Err((Refusal::NoUpToDateDisk, Some(text.to_owned())))
                } else {
                    Ok(())
                }
            }
            RequestedChange::FullSyncToMe | RequestedChange::ResyncToMe => {
                let ready = vector.connection == ConnectionState::Connected
                    && vector.disk == DiskState::UpToDate
                    && self.detach.is_none()
                    && !self.generation_pending();
                if ready {
                    Ok(())
                } else {
                    Err(plain(Refusal::InTransientState))
                }
            }
            RequestedChange::FullSyncToYou => {
                let ready = vector.connection == ConnectionState::Connected
                    && vector.disk.is_usable()
                    && vector.role != Role::Primary;
                if ready {
                    Ok(())
                } else {
                    Err(plain(Refusal::InTransientState))
                }
            }
        }
    }

    pub(super) fn change_answered(
        &mut self,
        request: u64,
        code: i32,
        cause: String,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.sync.repair_asked == Some(request) {
            self.sync.repair_asked = None;
            self.sync.repair_not_before = Some(cx.now.after_ms(ASK_AGAIN));
            if code >= 1 {
                self.start_agreed_sync(ConnectionState::WFBitMapT, false, cx, out);
            }
            return;
        }
        if !self.is_at(Stage::Asked(request)) {
            return;
        }
        if code == -18 || code == -19 {
            // Asked again a little later, until the command's deadline.
            if let Some(running) = self.running.as_mut() {
                running.stage = Stage::Transient;
                running.not_before = Some(cx.now.after_ms(ASK_AGAIN));
            }
            return;
        }
        if code < 1 {
            let refusal = Refusal::CwFailedByPeer;
            return self.answer(refused(&refusal, Some(&cause)), out);
        }
        let query = self.query();
        match self.running.as_ref().map(|running| running.command.clone()) {
            Some(Command::Primary { force }) => self.promote(force, cx, out),
            Some(Command::Detach { .. } | Command::Disconnect { .. }) => {
                self.stage(Stage::Quiescing(query));
                out.send(To::Volume(VolumeIn::Quiesce { query }));
            }
            Some(Command::Invalidate) => {
                self.answer(done("full resync from the peer begins".to_owned()), out);
                self.start_agreed_sync(ConnectionState::WFBitMapT, true, cx, out);
            }
            _ => {}
        }
    }

    /// `pass_on`: asks the source for a resync of the marked blocks.
    pub(super) fn ask_for_repair(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.sync.repair_not_before.is_some_and(|at| at > cx.now) {
            return;
        }
        self.sync.repair_not_before = None;
        if !self.wants_repair() || self.sync.repair_asked.is_some() || self.running.is_some() {
            return;
        }
        let request = self.query().0;
        if let Some(connection) = self.link.as_ref().map(|link| link.connection) {
            self.sync.repair_asked = Some(request);
            self.send_peer(
                connection,
                Message::ChangeRequest {
                    request,
                    change: RequestedChange::ResyncToMe,
                },
                out,
            );
        }
    }
}
