//! Changes for which the peer asks this node's consent.

use super::StateEffect;
use super::command::Stage;
use super::part::StatePart;
use crate::identity::ConnectionNumber;
use crate::part::{Context, Outbox};
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
            RequestedChange::Promote if self.promotion_pending() => Err(plain(Refusal::ConcurrentStChg)),
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
}
