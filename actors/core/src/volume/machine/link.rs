//! The connection as the state part sees it: parameters sent and awaited, the handshake, the peer's state, loss.

use super::part::StatePart;
use super::parting::{reason_of, refused_state};
use super::store::identifiers_of;
use super::{LinkFact, StateEffect};
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::fact::Fact;
use crate::helper::Handler;
use crate::identity::ConnectionNumber;
use crate::part::{Context, Instant, Outbox, To};
use crate::peer::PeerIn;
use crate::volume::generations::compare::{Agreed, Comparison, Side};
use crate::volume::generations::exposed::{self, Arrival, MadeForYou};
use crate::volume::generations::handshake::{
    self, Call, Decision, Handshake, NegotiatedDisk, Next, Participant, Policies,
};
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::state::{ConnectionState, DisconnectReason, DiskState, DownReason, Role};
use crate::volume::transition::{Confirmed, Kind, judge_handshake};
use mendblock_net::wire::message::{GenerationInfo, Message, PeerState, Sizes};

/// Counts of bad blocks that both sides know after the lists were exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct KnownBad {
    pub own: u64,
    pub peer: u64,
}

/// What is known of the connection that is up, or being established.
#[derive(Clone, Hash)]
pub(super) struct Link {
    pub connection: ConnectionNumber,
    resolver: bool,
    /// Own parameters were sent (or wait until a new generation is durable).
    sent: bool,
    pub sizes: Option<Sizes>,
    pub generations: Option<GenerationInfo>,
    pub state: Option<PeerState>,
    bad: KnownBad,
    /// Rounds of parameters that were begun on this connection, and lists of the peer that are merged: one each.
    rounds: u32,
    merged: u32,
    /// The slots that were sent, against which this side compares.
    sent_identifiers: Identifiers,
    /// The handshake of this establishing (or of the disk being attached) is done.
    decided: bool,
    until: Option<Instant>,
}

impl Link {
    pub fn wake_at(&self) -> Option<Instant> {
        self.until
    }

    /// Own parameters are out and the peer's are awaited (DRBD `STATE_SENT`).
    pub fn is_establishing(&self) -> bool {
        !self.decided
    }

    pub fn state_may_be_sent(&self) -> bool {
        self.sent && self.decided
    }

    pub fn peer_identifiers(&self) -> Option<Identifiers> {
        self.generations.as_ref().map(identifiers_in)
    }

    pub fn resolver(&self) -> bool {
        self.resolver
    }

    /// The connection ends whatever the lists of bad blocks say: the comparison does not wait for them.
    pub fn forgo_lists(&mut self) {
        self.merged = self.merged.max(self.rounds);
    }

    /// The disk that was offered is gone: the peer's answer decides nothing any more.
    pub fn withdraw(&mut self) {
        self.decided = true;
        self.until = None;
    }

    /// The peer has copied every block that it could: what it still lacks is lost here too.
    pub fn peer_is_healed(&mut self) {
        self.bad.peer = 0;
    }

    pub fn known_bad(&self) -> KnownBad {
        self.bad
    }
}

impl StatePart {
    pub(super) fn link_fact(&mut self, fact: LinkFact, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        match fact {
            LinkFact::Up {
                connection, resolver, ..
            } => self.link_up(connection, resolver, cx, out),
            LinkFact::Down {
                connection,
                reason,
                text,
            } => self.link_down(connection, reason, &text, cx, out),
            LinkFact::Refused { text } => {
                self.part_with_peer(DisconnectReason::HandshakeRefused, &text, cx, out);
            }
            LinkFact::NotNow { text } => {
                if self.vector().connection == ConnectionState::WFConnection {
                    self.current.reasons.turned_away = Some(text);
                }
            }
        }
    }

    fn link_up(
        &mut self,
        connection: ConnectionNumber,
        resolver: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.vector().connection != ConnectionState::WFConnection {
            out.send(To::Peer(PeerIn::Drop {
                connection,
                text: format!("the volume is {}", self.vector().connection),
            }));
            return;
        }
        self.current.reasons.turned_away = None;
        self.link = Some(Link {
            connection,
            resolver,
            sent: false,
            sizes: None,
            generations: None,
            state: None,
            bad: KnownBad::default(),
            rounds: 1,
            merged: 0,
            sent_identifiers: self.current.identifiers,
            decided: false,
            until: Some(cx.now.after_ms(self.configuration.detach_step_timeout)),
        });
        self.fact("connection made", out, |v| {
            v.connection = ConnectionState::WFReportParams
        });
    }

    /// Sends the own parameters once nothing is under way that would change them.
    pub(super) fn send_parameters(&mut self, out: &mut Outbox<StateEffect>) {
        // The end of a resync is not durable yet: its identifiers would go out with the state from before.
        let busy = self.generation_pending()
            || self.promotion_pending()
            || self.sync.is_finishing()
            || self.detach.is_some()
            || self.attach.as_ref().is_some_and(|a| !a.is_waiting());
        let Some(link) = self.link.as_mut().filter(|link| !link.sent && !busy) else {
            return;
        };
        link.sent = true;
        link.sent_identifiers = self.current.identifiers;
        let connection = link.connection;
        out.send(To::Bitmap(BitmapIn::SendRecords { connection }));
        self.send_sizes_and_generations(connection, out);
        let state = self.peer_state();
        self.send_peer(connection, Message::State(state), out);
    }

    pub(super) fn send_generations(&self, connection: ConnectionNumber, out: &mut Outbox<StateEffect>) {
        let info = self.generation_info();
        self.send_peer(connection, Message::Generations(info), out);
    }

    fn generation_info(&self) -> GenerationInfo {
        let attached = self.vector().disk >= DiskState::Negotiating;
        let ids = if attached {
            self.current.identifiers
        } else {
            identifiers_of(self.health.slots)
        };
        let decided = self.attach.as_ref().and_then(super::attach::Attaching::decided);
        let (loss, loss_current) = self.health.loss_of.unwrap_or((0, 0));
        let made = attached && loss != 0 && Generation(loss_current).same(ids.current);
        GenerationInfo {
            current: ids.current.0,
            bitmap: ids.bitmap.0,
            history: [ids.history[0].0, ids.history[1].0],
            set_bits: self.sync.set_bits,
            discard_my_data: self.discard_my_data,
            crashed_primary: self.current.crashed_primary,
            will_be_inconsistent: decided.is_some_and(|decided| decided.disk == DiskState::Inconsistent),
            skip_initial_sync: false,
            attached,
            attach_id: self
                .current
                .disk
                .as_ref()
                .map_or(self.health.attach_id, |disk| disk.attach_id.0),
            exposed: self.exposed.0,
            made_for_loss_of: if made { loss } else { 0 },
            not_primary_since: made && self.vector().role != Role::Primary,
        }
    }

    /// A disk is offered to the peer while connected (A14): the handshake decides.
    pub(super) fn offer_disk(&mut self, out: &mut Outbox<StateEffect>) {
        let Some(link) = self.link.as_mut() else { return };
        link.generations = None;
        link.state = None;
        link.rounds += 1;
        link.decided = false;
        link.sent = true;
        link.sent_identifiers = self.current.identifiers;
        let connection = link.connection;
        out.send(To::Bitmap(BitmapIn::SendRecords { connection }));
        self.send_sizes_and_generations(connection, out);
        let state = self.peer_state();
        self.send_peer(connection, Message::State(state), out);
    }

    pub(super) fn peer_message(
        &mut self,
        connection: ConnectionNumber,
        message: Message,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.link.as_ref().is_none_or(|link| link.connection > connection) {
            return;
        }
        match message {
            Message::Sizes(sizes) => self.peer_sizes(sizes, cx, out),
            Message::Generations(info) => self.peer_generations(info, cx, out),
            Message::State(state) => self.peer_state_arrived(state, cx, out),
            Message::ChangeRequest { request, change } => {
                self.change_requested(connection, request, change, cx, out)
            }
            Message::ChangeAnswer { request, code, cause } => {
                self.change_answered(request, code, cause, cx, out)
            }
            Message::Parting { reason, text } => self.peer_parted(reason, &text, cx, out),
            Message::DiskRefused { text, .. } => self.disk_refused(&text, cx, out),
            Message::SyncId { id } => self.sync_id(connection, Generation(id), out),
            Message::Tell {
                number,
                attach_id,
                failed,
                records,
            } => {
                self.tell_received(connection, number, attach_id, failed, records, out);
            }
            Message::Told {
                number,
                current,
                new_generation,
            } => self.told(number, current, new_generation, out),
            Message::Marked { .. } => self.current.peer_loss_settled = true,
            other => out.fact(Fact::Surprise {
                what: format!("message not for the state part: {other:?}"),
            }),
        }
    }

    fn peer_generations(
        &mut self,
        info: GenerationInfo,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let before = self.link.as_mut().and_then(|link| link.generations.replace(info));
        if self.takes_generations(&info, before, cx, out) {
            self.newer_than_own_disk(identifiers_in(&info), out);
        }
    }

    /// Takes up what the peer's disk says of its generation (`before`: what it said before on this connection); false: it has
    /// none, or it is not the data that this node works with, and they part.
    pub(super) fn takes_generations(
        &mut self,
        info: &GenerationInfo,
        before: Option<GenerationInfo>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        if !info.attached {
            return false;
        }
        let connected = self.vector().connection.is_connected_or_better();
        let own = self.vector().disk.is_usable().then_some(self.current.identifiers);
        let received = exposed::receive(&Arrival {
            exposed: self.exposed,
            own,
            own_attach: self.health.attach_id,
            primary: self.vector().role == Role::Primary,
            connected,
            peer_attaches: self.vector().peer_disk <= DiskState::Negotiating,
            named_before: before
                .filter(|before| before.attached && !connected)
                .map(|before| Generation(before.current)),
            protocol: Agreed::OURS.protocol,
            peer: identifiers_in(info),
            skip_initial_sync: info.skip_initial_sync,
            made_for_you: (info.made_for_loss_of != 0).then_some(MadeForYou {
                attach: info.made_for_loss_of,
                primary_since: !info.not_primary_since,
            }),
        });
        match received {
            Err(refusal) => {
                self.part_with_peer(DisconnectReason::DataNotCurrent, &refusal.to_string(), cx, out);
                false
            }
            Ok(received) => {
                self.exposed = received.exposed;
                true
            }
        }
    }

    /// A node without a disk learns of a generation newer than its disk's: "outdated since" is recorded, then said (T4).
    fn newer_than_own_disk(&mut self, peer: Identifiers, out: &mut Outbox<StateEffect>) {
        if self.disk.is_some() || self.health.device_id == 0 {
            if self.disk.is_none() {
                self.current.own_loss_settled = true;
            }
            return;
        }
        let own = identifiers_of(self.health.slots);
        let known = [own.current, own.bitmap, own.history[0], own.history[1]];
        if self.health.outdated_since == Some(peer.current.0) {
            self.current.own_loss_settled = true;
            return;
        }
        // The peer names a generation for a Primary whose own disk has the same: the first write waits for that one.
        let comes = self.vector().role == Role::Primary && own.current.same(peer.current);
        if known.iter().any(|id| id.same(peer.current)) {
            self.current.own_loss_settled = !comes;
            return;
        }
        self.current.own_loss_settled = false;
        let query = self.set_header(HeaderChange::outdated_since(peer.current.0), out);
        self.sync.outdated_note = Some((query, peer.current.0));
    }

    /// The note of [`Self::newer_than_own_disk`] is durable.
    pub(super) fn outdated_noted(
        &mut self,
        query: crate::identity::Query,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        let Some((_, generation)) = self.sync.outdated_note.filter(|(noted, _)| *noted == query) else {
            return false;
        };
        self.sync.outdated_note = None;
        self.current.own_loss_settled = true;
        if let Some(link) = self.link.as_ref() {
            self.send_peer(link.connection, Message::Marked { generation }, out);
        }
        true
    }

    pub(super) fn peer_records_merged(
        &mut self,
        connection: ConnectionNumber,
        own: u64,
        peer: u64,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if let Some(link) = self.link.as_mut().filter(|link| link.connection == connection) {
            link.bad = KnownBad { own, peer };
            link.merged += 1;
            self.establish(cx, out);
        }
    }

    fn peer_state_arrived(&mut self, state: PeerState, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let peer_disk = DiskState::from_number(state.disk).unwrap_or(DiskState::DUnknown);
        let Some(link) = self.link.as_mut() else { return };
        // A second state of a round is not the peer's answer: it was faster, has decided, and offers its disk already.
        let again = link.state.is_some() && peer_disk == DiskState::Negotiating;
        let establishing = link.is_establishing() && !again;
        link.state = Some(state);
        if establishing {
            self.establish(cx, out);
            return;
        }
        if peer_disk == DiskState::Negotiating {
            return self.peer_offers_disk(cx, out);
        }
        self.peer_state_changed(state, cx, out);
    }

    /// The peer attaches a disk while we are connected: answer with our parameters, then both compare.
    fn peer_offers_disk(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let Some(link) = self.link.as_mut() else { return };
        link.decided = false;
        link.rounds += 1;
        link.sent_identifiers = self.current.identifiers;
        let connection = link.connection;
        out.send(To::Bitmap(BitmapIn::SendRecords { connection }));
        self.send_sizes_and_generations(connection, out);
        let state = self.peer_state();
        self.send_peer(connection, Message::State(state), out);
        self.establish(cx, out);
    }

    /// Everything of the peer is here: compare, decide, change the state.
    pub(super) fn establish(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let Some(link) = self
            .link
            .as_ref()
            .filter(|link| link.sent && !link.decided && link.merged >= link.rounds)
        else {
            return;
        };
        let (Some(_), Some(info), Some(state), bad) = (link.sizes, link.generations, link.state, link.bad)
        else {
            return;
        };
        let peer_disk = real_peer_disk(&state, &info);
        let own_disk = self.own_negotiated();
        if let Some(link) = self.link.as_mut() {
            link.decided = true;
            link.until = None;
        }
        match (own_disk, negotiated(peer_disk)) {
            (Some(own), Some(peer)) if info.attached => self.compare_and_decide(own, peer, bad, cx, out),
            _ => self.connected_without_comparison(peer_disk, cx, out),
        }
    }

    /// The disks that a comparison which is still to come is about.
    pub(super) fn negotiated_disks(&self, link: &Link) -> Option<(NegotiatedDisk, NegotiatedDisk)> {
        let waits = link.sent && !link.decided && link.sizes.is_some();
        let (info, state) = link.generations.zip(link.state).filter(|_| waits)?;
        let peer = negotiated(real_peer_disk(&state, &info)).filter(|_| info.attached);
        self.own_negotiated().zip(peer)
    }

    pub(super) fn own_negotiated(&self) -> Option<NegotiatedDisk> {
        let decided = self
            .attach
            .as_ref()
            .filter(|attach| attach.is_negotiating())
            .and_then(super::attach::Attaching::decided);
        match (self.vector().disk, decided) {
            (DiskState::Negotiating, Some(decided)) => negotiated(decided.disk),
            (disk, _) => negotiated(disk),
        }
    }

    pub(super) fn peer_role(&self) -> Role {
        let number = self
            .link
            .as_ref()
            .and_then(|link| link.state)
            .map_or(0, |state| state.role);
        Role::from_number(number).unwrap_or(Role::Unknown)
    }

    fn compare_and_decide(
        &mut self,
        own: NegotiatedDisk,
        peer: NegotiatedDisk,
        bad: KnownBad,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let Some(handshake) = self.handshake(own, peer) else {
            return;
        };
        let mut decision = handshake::decide(&handshake);
        let good_copy = own > NegotiatedDisk::Inconsistent || peer > NegotiatedDisk::Inconsistent;
        if decision.next == Next::Connected && good_copy {
            decision.next = self.known_bad_blocks_first(bad, own, peer);
        }
        self.current.reasons.handshake = Some(format!("{} -> {:?}", decision.verdict, decision.next));
        out.fact(Fact::Handshake {
            rule: u16::from(decision.verdict.answer.rule.number()),
            decision: format!("{} -> {:?}", decision.verdict, decision.next),
        });
        self.discard_my_data = false;
        for call in &decision.calls {
            match call {
                Call::InitialSplitBrain => self.want_helper(Handler::InitialSplitBrain),
                Call::SplitBrain => self.want_helper(Handler::SplitBrain),
                Call::Demote | Call::PriLostAfterSb | Call::PriLost => {}
            }
        }
        self.apply_decision(&decision, peer, cx, out);
    }

    pub(super) fn handshake(&self, own: NegotiatedDisk, peer: NegotiatedDisk) -> Option<Handshake> {
        let link = self.link.as_ref()?;
        let info = link.generations?;
        Some(Handshake {
            comparison: Comparison {
                own: Side {
                    identifiers: link.sent_identifiers,
                    crashed_primary: self.current.crashed_primary,
                    primary: self.vector().role == Role::Primary,
                },
                peer: Side {
                    identifiers: link.peer_identifiers()?,
                    crashed_primary: info.crashed_primary,
                    primary: self.peer_role() == Role::Primary,
                },
                resolver: link.resolver,
                agreed: Agreed::OURS,
            },
            own: Participant {
                disk: own,
                discard_my_data: self.discard_my_data,
                bits: self.sync.set_bits,
            },
            peer: Participant {
                disk: peer,
                discard_my_data: info.discard_my_data,
                bits: info.set_bits,
            },
            own_disk_in_use: self.vector().disk >= DiskState::Consistent
                && self.vector().disk != DiskState::Negotiating,
            policies: Policies::default(),
            tentative: false,
            peer_dry_run: false,
            demotion_possible: false,
            peer_answer: None,
        })
    }

    /// "Nothing to do" is not allowed while one side has a bad-block record: these blocks are resynced from the other side, but
    /// never from an Outdated disk. It is one because such a resync ended before it began, and the next connection may have the
    /// other resolver: both would refuse for ever.
    fn known_bad_blocks_first(&self, bad: KnownBad, own: NegotiatedDisk, peer: NegotiatedDisk) -> Next {
        let resolver = self.link.as_ref().is_some_and(Link::resolver);
        let is_old = |disk| disk == NegotiatedDisk::Outdated;
        match (bad.own > 0, bad.peer > 0) {
            (false, false) => Next::Connected,
            _ if is_old(own) && !is_old(peer) => Next::WFBitMapT,
            _ if is_old(peer) && !is_old(own) => Next::WFBitMapS,
            (true, false) => Next::WFBitMapT,
            (false, true) => Next::WFBitMapS,
            // Both have bad blocks: blocks that only the source has bad stay with it until a client overwrites them.
            (true, true) if resolver => Next::WFBitMapS,
            (true, true) => Next::WFBitMapT,
        }
    }

    fn apply_decision(
        &mut self,
        decision: &Decision,
        peer: NegotiatedDisk,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let connection = match decision.next {
            Next::Connected => ConnectionState::Connected,
            Next::WFBitMapS => ConnectionState::WFBitMapS,
            Next::WFBitMapT => ConnectionState::WFBitMapT,
            Next::Refuse(refusal) => {
                return self.refuse_handshake(reason_of(&refusal), &refusal.to_string(), cx, out);
            }
        };
        if self.replaces_data_in_use(connection) {
            let text = "the application of the Primary works with the other disk: what it attaches may become a target alone";
            return self.refuse_handshake(DisconnectReason::DataNotCurrent, text, cx, out);
        }
        let old = *self.vector();
        let decided = self.attach.as_ref().and_then(super::attach::Attaching::decided);
        let peer_role = self.peer_role();
        let edit = |v: &mut crate::volume::state::StateVector| {
            v.connection = connection;
            v.peer_role = peer_role;
            v.peer_disk = of_negotiated(peer);
            // A Negotiating disk that becomes target goes to Inconsistent by the rules themselves (V2).
            let target = connection == ConnectionState::WFBitMapT;
            if let (DiskState::Negotiating, Some(decided), false) = (v.disk, decided, target) {
                v.disk = decided.disk;
            }
            match connection {
                ConnectionState::Connected
                    if v.disk >= DiskState::Outdated && v.peer_disk >= DiskState::Outdated =>
                {
                    v.disk = DiskState::UpToDate;
                    v.peer_disk = DiskState::UpToDate;
                }
                // The rules lower a good disk to Outdated. Wished for, that would be refused while connected: the peer's disk
                // may be attached now, and be the newer one.
                ConnectionState::WFBitMapT => v.peer_disk = DiskState::UpToDate,
                ConnectionState::WFBitMapS => v.peer_disk = v.peer_disk.min(DiskState::Consistent),
                _ => {}
            }
        };
        let mut wanted = old;
        edit(&mut wanted);
        let policy = self.policy(Confirmed::ByHandshake);
        if let Err(refusal) = judge_handshake(&old, &wanted, &policy) {
            return self.refuse_handshake(DisconnectReason::StateRefused, &refused_state(refusal), cx, out);
        }
        if let Err(refusal) = self.change(Kind::Soft, Confirmed::ByHandshake, "handshake", out, edit) {
            return self.refuse_handshake(DisconnectReason::StateRefused, &refused_state(refusal), cx, out);
        }
        if self
            .attach
            .as_ref()
            .is_some_and(super::attach::Attaching::is_negotiating)
        {
            self.attach_ended(out);
        }
        self.current.peer_loss_settled = true;
        let round = self.query();
        self.sync.begin(
            round,
            decision,
            connection,
            self.link.as_ref().and_then(Link::peer_identifiers),
        );
        self.connected(cx, out);
        if connection != ConnectionState::Connected {
            self.begin_sync(decision.full_sync, cx, out);
        } else if self.health.outdated_since.is_some() && self.vector().disk == DiskState::UpToDate {
            self.store(super::store::Then::OutdatedVoid);
        }
    }

    /// A Primary without a disk works with one disk alone, whatever generation another one names that it attaches: that may have been
    /// written when it failed already, and no answer ever stood on it.
    fn replaces_data_in_use(&self, connection: ConnectionState) -> bool {
        let vector = self.vector();
        let attached_here = vector.disk == DiskState::Negotiating
            && vector.role == Role::Primary
            && connection != ConnectionState::WFBitMapT
            && !self.exposed.same(self.current.identifiers.current);
        let attached_there = vector.connection.is_connected_or_better()
            && self.peer_role() == Role::Primary
            && vector.disk == DiskState::UpToDate
            && connection == ConnectionState::WFBitMapT;
        attached_here || attached_there
    }

    /// The connection is established.
    pub(super) fn connected(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.current.alone_settled = true;
        self.current.link_lost_at = None;
        self.current.reasons.down = None;
        self.current.reasons.split_brain = None;
        self.current.reasons.disconnected = None;
        self.current.reasons.turned_away = None;
        self.current.vector.suspended.no_data &= !self.current.vector.has_up_to_date_data();
        self.current.peer_loss_settled = true;
        if let Some(link) = self.link.as_ref() {
            out.fact(Fact::LinkUp {
                connection: link.connection,
                peer: self.configuration.peer_name.clone(),
            });
        }
        self.answer_connect(out);
        self.serve_diskless_primary(cx, out);
        self.repeat_lost_tells(out);
        // A detach that began while the connection was being established is told now.
        self.detach_steps(cx, out);
    }

    fn link_down(
        &mut self,
        connection: ConnectionNumber,
        reason: DownReason,
        text: &str,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.link.as_ref().is_none_or(|link| link.connection > connection) {
            return;
        }
        self.link = None;
        out.fact(Fact::LinkDown {
            connection,
            cause: text.to_owned(),
        });
        self.source_was_not_opened();
        let state = reason.state();
        self.fact(text, out, |v| v.connection = state);
        self.current.reasons.down = Some(reason);
        self.after_loss(connection, cx, out);
        self.fact("reconnecting", out, |v| {
            v.connection = ConnectionState::Unconnected
        });
        self.fact("waiting for the peer", out, |v| {
            v.connection = ConnectionState::WFConnection
        });
    }

    /// What a loss of the link means, whoever caused it: generation first, then answers.
    fn after_loss(
        &mut self,
        connection: ConnectionNumber,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        self.current.link_lost_at = Some(cx.now);
        self.after_loss_facts(connection, out);
        self.lost_peer_data(cx, out);
        self.no_data_left(out);
    }

    pub(super) fn after_loss_facts(&mut self, _connection: ConnectionNumber, out: &mut Outbox<StateEffect>) {
        self.tells.link_lost();
        self.detach_link_lost();
        self.current.peer_loss_settled = true;
        self.sync.link_lost(out);
        self.fail_running_on_loss(out);
        self.negotiation_lost(out);
    }

    pub(super) fn loss_retired(
        &mut self,
        _connection: ConnectionNumber,
        _cx: &mut Context<'_>,
        _out: &mut Outbox<StateEffect>,
    ) {
    }

    pub(super) fn link_deadline(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let late = self
            .link
            .as_ref()
            .and_then(|link| link.until)
            .is_some_and(|until| until <= cx.now);
        if let Some(link) = self.link.as_mut().filter(|_| late) {
            link.until = Some(cx.now.after_ms(self.configuration.detach_step_timeout));
            let connection = link.connection;
            out.send(To::Peer(PeerIn::Drop {
                connection,
                text: "the peer did not send its parameters in time".to_owned(),
            }));
        }
    }
}

fn identifiers_in(info: &GenerationInfo) -> Identifiers {
    identifiers_of([info.current, info.bitmap, info.history[0], info.history[1]])
}

fn real_peer_disk(state: &PeerState, info: &GenerationInfo) -> DiskState {
    match DiskState::from_number(state.disk) {
        Some(DiskState::Negotiating) if info.will_be_inconsistent => DiskState::Inconsistent,
        Some(DiskState::Negotiating) => DiskState::Consistent,
        Some(disk) => disk,
        None => DiskState::DUnknown,
    }
}

fn negotiated(disk: DiskState) -> Option<NegotiatedDisk> {
    match disk {
        DiskState::Inconsistent => Some(NegotiatedDisk::Inconsistent),
        DiskState::Outdated => Some(NegotiatedDisk::Outdated),
        DiskState::Consistent => Some(NegotiatedDisk::Consistent),
        DiskState::UpToDate => Some(NegotiatedDisk::UpToDate),
        _ => None,
    }
}

fn of_negotiated(disk: NegotiatedDisk) -> DiskState {
    match disk {
        NegotiatedDisk::Inconsistent => DiskState::Inconsistent,
        NegotiatedDisk::Outdated => DiskState::Outdated,
        NegotiatedDisk::Consistent => DiskState::Consistent,
        NegotiatedDisk::UpToDate => DiskState::UpToDate,
    }
}
