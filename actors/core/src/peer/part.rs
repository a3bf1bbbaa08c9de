//! The peer part: sockets that come and go, and the one connection that stays.

use super::handshake::{HELLO_LIMIT, Handshake, own_hello, say};
use super::link::Link;
use super::routing::Batch;
use super::{LinkWish, PeerEffect, PeerFrame, PeerIn};
use crate::configuration::VolumeConfiguration;
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, PartGeneration};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::volume::machine::{LinkFact, StateIn};
use crate::volume::state::{ConnectionState, DisconnectReason, DownReason};
use mendblock_net::wire::hello::{Keep, agree, keep};
use mendblock_net::wire::message::{Hello, Message};
use mendblock_net::wire::prelude::cut_text;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bits of a connection's number below the generation of the peer part.
const COUNT_BITS: u32 = 32;
/// Longest pause before the first dial after a loss, ms.
const REDIAL_PAUSE: u64 = 1000;

type Out = Outbox<PeerEffect>;

/// The peer part.
pub struct PeerPart {
    configuration: Arc<VolumeConfiguration>,
    generation: PartGeneration,
    connections: u64,
    /// A connection of the predecessor, to be reported as lost before anything else.
    inherited: Option<ConnectionNumber>,
    wish: Option<LinkWish>,
    dial_at: Instant,
    handshakes: BTreeMap<u64, Handshake>,
    link: Option<Link>,
    /// A loss that `VolumeActor` has not yet retired (R11).
    loss: Option<ConnectionNumber>,
    /// The last loss, for a new state part.
    last_down: Option<(ConnectionNumber, DownReason, String)>,
    /// Why the volume is StandAlone: told to a peer that dials.
    alone: Option<DisconnectReason>,
    /// Open requests of both sides when they were last told to the metrics.
    measured: (u64, u64),
}

impl PeerPart {
    /// A peer part in its `generation`. `last_connection`: the last one of its predecessors, whose sockets the shell has
    /// closed; it counts as lost (R11). A successor that is not told of one reports the loss of all before it by a
    /// number above theirs.
    pub fn new(
        configuration: Arc<VolumeConfiguration>,
        generation: PartGeneration,
        last_connection: Option<ConnectionNumber>,
    ) -> Self {
        let all_before = ConnectionNumber(generation.0 << COUNT_BITS);
        let inherited = last_connection
            .filter(|connection| connection.0 != 0)
            .or((generation > PartGeneration(1)).then_some(all_before));
        Self {
            configuration,
            generation,
            connections: 0,
            inherited,
            wish: None,
            dial_at: Instant(0),
            handshakes: BTreeMap::new(),
            link: None,
            loss: None,
            last_down: None,
            alone: None,
            measured: (0, 0),
        }
    }

    fn begin(&mut self, out: &mut Out) {
        if let Some(connection) = self.inherited.take() {
            let text = "the peer part was restarted".to_owned();
            self.report_loss(connection, DownReason::NetworkFailure, text, out);
        }
    }

    fn wished(&self) -> bool {
        self.wish == Some(LinkWish::Up)
    }

    fn set_wish(&mut self, wish: LinkWish, cx: &Context<'_>, out: &mut Out) {
        if self.wish.replace(wish) == Some(wish) {
            return;
        }
        match wish {
            LinkWish::Up => self.dial_at = cx.now,
            LinkWish::Down => {
                for (socket, _) in std::mem::take(&mut self.handshakes) {
                    out.effect(PeerEffect::Close { socket, flush: false });
                }
                // What the state part said last is still on its way.
                self.lose(
                    DownReason::TearDown,
                    "disconnected here".to_owned(),
                    Some(true),
                    cx.now,
                    out,
                );
            }
        }
    }

    fn dial_if_due(&mut self, cx: &mut Context<'_>, out: &mut Out) {
        let due = self.dials() && self.dial_at <= cx.now;
        if due {
            out.effect(PeerEffect::Dial);
            let interval = self.configuration.connect_interval.max(1);
            // Two nodes that dial in step would cross again and again.
            let jittered = interval * 3 / 4 + (cx.random)() % (interval / 2 + 1);
            self.dial_at = cx.now.after_ms(jittered);
        }
    }

    fn dials(&self) -> bool {
        self.wished() && self.link.is_none() && !self.handshakes.values().any(|handshake| handshake.dialled)
    }

    fn socket_up(
        &mut self,
        socket: u64,
        dialled: bool,
        address: String,
        hello: Option<Hello>,
        cx: &Context<'_>,
        out: &mut Out,
    ) {
        if !self.wished() {
            self.refuse(socket, self.why_alone(), false, out);
            return;
        }
        let until = cx.now.after_ms(HELLO_LIMIT);
        let handshake = Handshake {
            dialled,
            address,
            until,
        };
        match hello {
            Some(hello) => self.hello(socket, handshake, hello, cx, out),
            None => {
                out.effect(say(
                    socket,
                    Message::Hello(own_hello(&self.configuration, dialled)),
                ));
                self.handshakes.insert(socket, handshake);
            }
        }
    }

    /// For a peer that dials: what it is to know and do.
    fn why_alone(&self) -> String {
        let VolumeConfiguration {
            volume, node_name, ..
        } = &*self.configuration;
        let why = self
            .alone
            .map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{node_name} is StandAlone{why}: `mendblock connect {volume}` there")
    }

    /// The peer's hello: agree, choose between two connections. A dialled socket has our hello already, an accepted one
    /// gets it when we agree, so that the peer does not take up what we refuse.
    fn hello(&mut self, socket: u64, handshake: Handshake, peer: Hello, cx: &Context<'_>, out: &mut Out) {
        let own = own_hello(&self.configuration, handshake.dialled);
        let agreement = match agree(&own, &peer) {
            Ok(agreement) => agreement,
            Err(refusal) => {
                let (text, for_good) = (refusal.to_string(), refusal.for_good());
                self.refuse(socket, refusal.to_string(), for_good, out);
                // A stranger that found this port is no reason to stop dialling the peer.
                self.refused(&handshake.address, text, for_good && handshake.dialled, out);
                return;
            }
        };
        if let Some(established) = &self.link {
            if keep(self.configuration.node_id, &established.hello, &peer) == Keep::Established {
                let text = "another connection between the two nodes stays".to_owned();
                self.refuse(socket, text, false, out);
                return;
            }
            let text = "replaced by a newer connection".to_owned();
            self.lose(DownReason::NetworkFailure, text, Some(false), cx.now, out);
        }
        if !handshake.dialled {
            out.effect(say(socket, Message::Hello(own)));
        }
        self.connections += 1;
        let connection = ConnectionNumber(self.generation.0 << COUNT_BITS | self.connections);
        self.link = Some(Link::new(
            socket,
            connection,
            handshake.address,
            peer,
            agreement,
            cx.now,
        ));
        self.take_up(cx.now, out);
    }

    fn refuse(&self, socket: u64, reason: String, for_good: bool, out: &mut Out) {
        let reason = cut_text(&reason).to_owned();
        out.effect(say(socket, Message::Refused { reason, for_good }));
        out.effect(PeerEffect::Close { socket, flush: true });
    }

    /// One of the two nodes refused. For good means StandAlone, but a stray caller does not end a connection that works.
    fn refused(&self, address: &str, text: String, for_good: bool, out: &mut Out) {
        if for_good && self.link.is_none() {
            out.send(To::State(StateIn::Link(LinkFact::Refused { text })));
        } else {
            if self.link.is_none() {
                out.send(To::State(StateIn::Link(LinkFact::NotNow { text: text.clone() })));
            }
            out.fact(Fact::Alert {
                what: format!("no connection with {address}: {text}"),
            });
        }
    }

    /// The connection is told to the others, unless `VolumeActor` still works on the loss of the one before.
    fn take_up(&mut self, now: Instant, out: &mut Out) {
        let Some(link) = self.link.as_mut().filter(|link| !link.up && self.loss.is_none()) else {
            return;
        };
        link.up = true;
        let connection = link.connection;
        let bytes = link.open_window(self.configuration.peer_window);
        out.send(To::Volume(VolumeIn::WindowOpen { connection, bytes }));
        let parked = std::mem::take(&mut link.parked);
        out.send(To::State(StateIn::Link(up_fact(link))));
        self.route(parked, now, out);
    }

    fn received(&mut self, socket: u64, mut frames: Vec<PeerFrame>, cx: &Context<'_>, out: &mut Out) {
        if self.handshakes.contains_key(&socket) && !frames.is_empty() {
            let first = frames.remove(0).message;
            self.first_frame(socket, first, cx, out);
        }
        let Some(link) = self.link.as_mut().filter(|link| link.socket == socket) else {
            return;
        };
        link.heard(cx.now);
        let mut rest = Vec::with_capacity(frames.len());
        let mut end = None;
        for frame in frames {
            match frame.message {
                Message::Ping { number } => out.effect(say(socket, Message::Pong { number })),
                Message::Pong { .. } => {}
                Message::Hello(_) => {
                    end = Some((
                        DownReason::ProtocolError,
                        "the peer sent a second hello".to_owned(),
                        false,
                    ));
                    break;
                }
                Message::Refused { reason, for_good } => {
                    end = Some((DownReason::NetworkFailure, reason, for_good));
                    break;
                }
                _ => rest.push(frame),
            }
        }
        if !self.route(rest, cx.now, out) {
            let text = "the peer sent data before the connection was established".to_owned();
            end = Some((DownReason::ProtocolError, text, false));
        }
        if let Some((reason, text, for_good)) = end {
            let address = self
                .link
                .as_ref()
                .map_or_else(String::new, |link| link.address.clone());
            self.lose(reason, text.clone(), Some(false), cx.now, out);
            if for_good {
                self.refused(&address, text, true, out);
            }
        }
    }

    fn first_frame(&mut self, socket: u64, message: Message, cx: &Context<'_>, out: &mut Out) {
        let Some(handshake) = self.handshakes.remove(&socket) else {
            return;
        };
        match message {
            Message::Hello(hello) => self.hello(socket, handshake, hello, cx, out),
            Message::Refused { reason, for_good } => {
                out.effect(PeerEffect::Close { socket, flush: false });
                self.refused(&handshake.address, reason, for_good, out);
            }
            other => {
                out.effect(PeerEffect::Close { socket, flush: false });
                let what = format!(
                    "{} began with {:?} instead of a hello",
                    handshake.address,
                    other.kind()
                );
                out.fact(Fact::Surprise { what });
            }
        }
    }

    /// Hands frames of the connection to the parts they are for, or parks them; false: too many are parked.
    fn route(&mut self, frames: Vec<PeerFrame>, now: Instant, out: &mut Out) -> bool {
        let Some(link) = self.link.as_mut() else {
            return true;
        };
        if !link.up {
            return frames.into_iter().all(|frame| link.park(frame));
        }
        let mut batch = Batch::new(link.connection);
        let mut send = |message| out.send(message);
        for frame in frames {
            link.received(&frame.message, now);
            batch.add(frame, &mut send);
        }
        batch.finish(&mut send);
        true
    }

    fn lose(&mut self, reason: DownReason, text: String, close: Option<bool>, now: Instant, out: &mut Out) {
        if self.end_link(reason, text, close, out) {
            self.dial_at = now.after_ms(REDIAL_PAUSE.min(self.configuration.connect_interval));
        }
    }

    /// Ends the connection; `close`: its socket is still open, and whether queued frames are sent first.
    fn end_link(&mut self, reason: DownReason, text: String, close: Option<bool>, out: &mut Out) -> bool {
        let Some(link) = self.link.take() else {
            return false;
        };
        if let Some(flush) = close {
            out.effect(PeerEffect::Close {
                socket: link.socket,
                flush,
            });
        }
        if link.up {
            self.report_loss(link.connection, reason, text, out);
        }
        true
    }

    fn report_loss(&mut self, connection: ConnectionNumber, reason: DownReason, text: String, out: &mut Out) {
        self.loss = Some(connection);
        self.last_down = Some((connection, reason, text.clone()));
        out.send(To::Volume(VolumeIn::Lost { connection }));
        out.send(To::State(StateIn::Link(LinkFact::Down {
            connection,
            reason,
            text,
        })));
    }

    fn drop_connection(&mut self, connection: ConnectionNumber, text: String, now: Instant, out: &mut Out) {
        if self
            .link
            .as_ref()
            .is_some_and(|link| link.connection == connection && link.up)
        {
            self.lose(DownReason::NetworkFailure, text, Some(true), now, out);
        } else {
            // The state part believes in a connection that is gone: it must not wait for it.
            let reason = DownReason::NetworkFailure;
            out.send(To::State(StateIn::Link(LinkFact::Down {
                connection,
                reason,
                text,
            })));
        }
    }

    fn restarted(&mut self, part: PartName, generation: PartGeneration, now: Instant, out: &mut Out) {
        match part {
            PartName::Volume => self.volume_restarted(generation, now, out),
            PartName::State => {
                if let Some((connection, reason, text)) = self.last_down.clone() {
                    out.send(To::State(StateIn::Link(LinkFact::Down {
                        connection,
                        reason,
                        text,
                    })));
                }
                // Parameters of the peer may have died in its mailbox: the handshake would wait for them in vain.
                if self.link.as_ref().is_some_and(|link| link.up) {
                    self.recover(part, "the state part was restarted", now, out);
                }
            }
            // Records and out-of-sync notices of the peer may have died in its mailbox: a new handshake brings them anew.
            PartName::Bitmap if self.link.as_ref().is_some_and(|link| link.up) => {
                self.recover(part, "the bitmap part was restarted", now, out);
            }
            _ => {}
        }
    }

    /// What the peer asked of the predecessor and was not answered, it would await in vain: as a lost connection.
    fn volume_restarted(&mut self, generation: PartGeneration, now: Instant, out: &mut Out) {
        if let Some(connection) = self.loss {
            out.send(To::Volume(VolumeIn::Lost { connection }));
        }
        let owed = self.link.as_ref().map_or(0, |link| link.owed.count());
        if owed > 0 {
            let text =
                format!("the volume part was restarted and left {owed} requests of the peer unanswered");
            self.recover(PartName::Volume, &text, now, out);
        } else if self.link.as_ref().is_some_and(|link| link.resync_heard) {
            // Nobody repeats them: the bits of blocks that are in sync would stay set until the next exchange of bitmaps.
            let text = "the volume part was restarted, perhaps with the peer's word of what it wrote";
            self.recover(PartName::Volume, text, now, out);
        }
        let up = self.link.as_mut().filter(|link| link.up);
        let connection = up.as_ref().map(|link| link.connection);
        out.send(To::Volume(VolumeIn::PeerIs {
            generation,
            connection,
        }));
        if let Some(link) = up {
            let bytes = link.open_window(self.configuration.peer_window);
            out.send(To::Volume(VolumeIn::WindowOpen {
                connection: link.connection,
                bytes,
            }));
        }
    }

    fn recover(&mut self, part: PartName, text: &str, now: Instant, out: &mut Out) {
        out.fact(Fact::Recovered {
            part,
            what: format!("the connection is made anew: {text}"),
        });
        self.lose(DownReason::NetworkFailure, text.to_owned(), Some(false), now, out);
    }

    fn socket_down(&mut self, socket: u64, text: String, protocol_error: bool, now: Instant, out: &mut Out) {
        if let Some(handshake) = self.handshakes.remove(&socket) {
            out.fact(Fact::Surprise {
                what: format!("{} closed before its hello: {text}", handshake.address),
            });
        } else if self.link.as_ref().is_some_and(|link| link.socket == socket) {
            let reason = if protocol_error {
                DownReason::ProtocolError
            } else {
                DownReason::BrokenPipe
            };
            self.lose(reason, text, None, now, out);
        }
    }

    fn open_window(&mut self, out: &mut Out) {
        if let Some(link) = self.link.as_mut().filter(|link| link.up)
            && let Some(bytes) = link.window(self.configuration.peer_window)
        {
            out.send(To::Volume(VolumeIn::WindowOpen {
                connection: link.connection,
                bytes,
            }));
        }
    }

    /// Tells the metrics what has changed.
    fn measure(&mut self, out: &mut Out) {
        let (pending, unacknowledged, writes) = self.link.as_mut().map_or((0, 0, Vec::new()), Link::measured);
        if !writes.is_empty() || self.measured != (pending, unacknowledged) {
            self.measured = (pending, unacknowledged);
            out.effect(PeerEffect::Measured {
                pending,
                unacknowledged,
                writes,
            });
        }
    }

    fn clocks(&mut self, cx: &mut Context<'_>, out: &mut Out) {
        let late: Vec<u64> = self
            .handshakes
            .iter()
            .filter(|(_, shake)| shake.until <= cx.now)
            .map(|(socket, _)| *socket)
            .collect();
        for socket in late {
            self.handshakes.remove(&socket);
            out.effect(PeerEffect::Close { socket, flush: false });
        }
        let dead = self
            .link
            .as_mut()
            .and_then(|link| link.tick(&self.configuration, cx.now, &mut |effect| out.effect(effect)));
        if let Some((reason, text)) = dead {
            self.lose(reason, text, Some(false), cx.now, out);
        }
        self.dial_if_due(cx, out);
    }
}

fn up_fact(link: &Link) -> LinkFact {
    LinkFact::Up {
        connection: link.connection,
        resolver: link.resolver(),
        features: link.agreement.features,
        peer_process: link.hello.process_id,
    }
}

impl Part for PeerPart {
    type In = PeerIn;
    type Effect = PeerEffect;
    const NAME: PartName = PartName::Peer;

    fn on(&mut self, cx: &mut Context<'_>, message: PeerIn, out: &mut Out) {
        self.begin(out);
        match message {
            // A new generation learns the wish from the state, since it was said to its predecessor.
            PeerIn::Snapshot(snapshot) if self.wish.is_none() => {
                self.alone = snapshot.reasons.disconnected;
                let alone = matches!(
                    snapshot.vector.connection,
                    ConnectionState::StandAlone | ConnectionState::Disconnecting
                );
                if !alone {
                    self.set_wish(LinkWish::Up, cx, out);
                }
            }
            PeerIn::Snapshot(snapshot) => self.alone = snapshot.reasons.disconnected,
            PeerIn::Restarted { part, generation } => self.restarted(part, generation, cx.now, out),
            PeerIn::Wish(wish) => self.set_wish(wish, cx, out),
            PeerIn::Drop { connection, text } => self.drop_connection(connection, text, cx.now, out),
            PeerIn::Send {
                connection,
                frames,
                after,
            } => {
                if let Some(link) = self
                    .link
                    .as_mut()
                    .filter(|link| link.connection == connection && link.up)
                {
                    link.send(frames, after, cx.now, &mut |effect| out.effect(effect));
                    self.open_window(out);
                }
            }
            PeerIn::LossRetired { connection } => {
                if self.loss == Some(connection) {
                    self.loss = None;
                    self.take_up(cx.now, out);
                }
            }
            PeerIn::SocketUp {
                socket,
                dialled,
                address,
                hello,
            } => {
                self.socket_up(socket, dialled, address, hello, cx, out);
            }
            // The next attempt is due anyway.
            PeerIn::DialFailed { .. } => {}
            PeerIn::Received { socket, frames } => self.received(socket, frames, cx, out),
            PeerIn::SocketDown {
                socket,
                text,
                protocol_error,
            } => {
                self.socket_down(socket, text, protocol_error, cx.now, out);
            }
            PeerIn::Queued { socket, bytes } => {
                if let Some(link) = self.link.as_mut().filter(|link| link.socket == socket) {
                    link.queued(bytes);
                }
                self.open_window(out);
            }
        }
        self.dial_if_due(cx, out);
        self.measure(out);
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Out) {
        self.begin(out);
        self.clocks(cx, out);
        self.measure(out);
    }

    fn wake_at(&self) -> Option<Instant> {
        let begin = self.inherited.map(|_| Instant(0));
        let dial = self.dials().then_some(self.dial_at);
        let hello = self.handshakes.values().map(|handshake| handshake.until).min();
        let link = self.link.as_ref().map(|link| link.wake_at(&self.configuration));
        [begin, dial, hello, link].into_iter().flatten().min()
    }
}
