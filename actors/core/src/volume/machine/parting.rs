//! The end of a connection for good: this node finds that the two must not be connected, or the peer does. Both end
//! StandAlone with the reason, whoever decides first: the other one would dial for ever and not know why.

use super::StateEffect;
use super::part::StatePart;
use crate::fact::Fact;
use crate::helper::Handler;
use crate::part::{Context, Outbox, To};
use crate::peer::{LinkWish, PeerIn};
use crate::volume::generations::handshake::{self, Next};
use crate::volume::state::{AttachFailure, ConnectionState, DetachCause, DisconnectReason, DiskState};
use crate::volume::transition::Refusal;
use mendblock_net::wire::message::Message;
use mendblock_net::wire::prelude::cut_text;

impl StatePart {
    /// Refused: what that means depends on whose disk was being negotiated (`generations.md` 4.3).
    pub(super) fn refuse_handshake(
        &mut self,
        reason: DisconnectReason,
        text: &str,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.vector().disk == DiskState::Negotiating {
            return self.attach_failed(AttachFailure::StateRefused, text.to_owned(), out);
        }
        if self.peer_negotiates() && self.vector().connection.is_connected_or_better() {
            return self.refuse_peers_disk(reason, text, out);
        }
        self.part_with_peer(reason, text, cx, out);
    }

    /// The peer may have agreed, and would wait for a resync that does not come.
    fn refuse_peers_disk(&mut self, reason: DisconnectReason, text: &str, out: &mut Outbox<StateEffect>) {
        out.fact(Fact::Alert {
            what: format!("the peer's disk was refused: {text}"),
        });
        if let (Some(link), Some(reason)) = (self.link.as_ref(), reason.number()) {
            let text = cut_text(text).to_owned();
            self.send_peer(link.connection, Message::DiskRefused { reason, text }, out);
        }
        self.fact("the peer's disk was refused", out, |v| {
            v.peer_disk = DiskState::Diskless
        });
    }

    /// The peer refuses the disk that is attached here, whatever this node has found.
    pub(super) fn disk_refused(&mut self, text: &str, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let text = format!("{} refuses the disk: {text}", self.configuration.peer_name);
        if self.vector().disk == DiskState::Negotiating {
            self.attach_failed(AttachFailure::StateRefused, text, out);
        } else if self.vector().disk.is_usable() && self.detach.is_none() {
            out.fact(Fact::Alert { what: text });
            self.begin_detach(DetachCause::NegotiationRefused, false, cx, out);
        }
    }

    fn peer_negotiates(&self) -> bool {
        self.link
            .as_ref()
            .and_then(|link| link.state)
            .is_some_and(|state| state.disk == DiskState::Negotiating.number())
    }

    /// For good: an operator must act. The peer is told: it may not have decided yet, and what it still waits for
    /// (its own lists, its own writes) must not let the loss of the connection come first.
    pub(super) fn part_with_peer(
        &mut self,
        reason: DisconnectReason,
        text: &str,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if let (Some(link), Some(reason)) = (self.link.as_ref(), reason.number()) {
            let text = cut_text(text).to_owned();
            self.send_peer(link.connection, Message::Parting { reason, text }, out);
        }
        self.give_up_connection(reason, text, cx, out);
    }

    /// The peer is StandAlone and says why. What this node finds itself stands, as it knows its own side better.
    pub(super) fn peer_parted(
        &mut self,
        reason: u8,
        text: &str,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.refuses_by_itself() {
            if let Some(link) = self.link.as_mut() {
                link.forgo_lists();
            }
            self.establish(cx, out);
            if self.link.is_none() {
                return;
            }
        }
        let reason = DisconnectReason::from_number(reason);
        if reason == DisconnectReason::SplitBrain {
            self.want_helper(Handler::SplitBrain);
        }
        let text = format!("{} parted: {text}", self.configuration.peer_name);
        self.give_up_connection(reason, &text, cx, out);
    }

    /// Whether a comparison is still to come, and its result would be a refusal. It only waits for lists of bad blocks,
    /// which decide nothing about that.
    fn refuses_by_itself(&self) -> bool {
        let Some((own, peer)) = self.link.as_ref().and_then(|link| self.negotiated_disks(link)) else {
            return false;
        };
        self.handshake(own, peer)
            .is_some_and(|handshake| matches!(handshake::decide(&handshake).next, Next::Refuse(_)))
    }

    fn give_up_connection(
        &mut self,
        reason: DisconnectReason,
        text: &str,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        out.fact(Fact::Alert {
            what: format!("disconnected: {text}"),
        });
        let old = *self.vector();
        self.become_stand_alone(reason, cx, out);
        self.current.reasons.handshake = Some(text.to_owned());
        if reason == DisconnectReason::SplitBrain {
            self.current.reasons.split_brain = Some(text.to_owned());
        }
        self.no_data_left_since(old, out);
        self.answer_connect_refused(text, out);
    }

    /// StandAlone. A loss like any other: a Primary goes on under a new generation.
    pub(super) fn become_stand_alone(
        &mut self,
        reason: DisconnectReason,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        self.source_was_not_opened();
        let was = self.link.take();
        self.fact("disconnecting", out, |v| {
            v.connection = ConnectionState::Disconnecting
        });
        if let Some(link) = was {
            self.after_loss_facts(link.connection, out);
        }
        self.fact("StandAlone", out, |v| v.connection = ConnectionState::StandAlone);
        let reasons = &mut self.current.reasons;
        reasons.disconnected = Some(reason);
        (reasons.handshake, reasons.split_brain, reasons.turned_away) = (None, None, None);
        self.lost_peer_data(cx, out);
        out.send(To::Peer(PeerIn::Wish(LinkWish::Down)));
    }
}

/// The reason behind a refusal of the handshake.
pub(super) fn reason_of(refusal: &handshake::Refusal) -> DisconnectReason {
    match refusal {
        handshake::Refusal::AnswersDiffer { .. } => DisconnectReason::AnswersDiffer,
        handshake::Refusal::Unrelated { .. } => DisconnectReason::UnrelatedData,
        handshake::Refusal::NeedsProtocol { .. } => DisconnectReason::RuleUnknown,
        handshake::Refusal::SplitBrain { .. } => DisconnectReason::SplitBrain,
        handshake::Refusal::SourceInconsistent => DisconnectReason::NoSource,
        handshake::Refusal::TargetIsPrimary => DisconnectReason::TargetIsPrimary,
        handshake::Refusal::DryRun { .. } => DisconnectReason::StateRefused,
    }
}

/// What the rules of states say against a connection, and what to do.
pub(super) fn refused_state(refusal: Refusal) -> String {
    format!("{refusal}: {}", refusal.hint())
}
