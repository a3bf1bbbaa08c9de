//! An agreed connection: what is parked until it may be used, what waits for a `Tell`, its clocks and its window.

use super::outstanding::{Outstanding, Owed};
use super::routing::follows_tell;
use super::{PeerEffect, PeerFrame};
use crate::configuration::VolumeConfiguration;
use crate::identity::{ConnectionNumber, TellNumber};
use crate::part::Instant;
use crate::volume::state::DownReason;
use mendblock_net::wire::frame::Frame;
use mendblock_net::wire::hello::Agreement;
use mendblock_net::wire::kind::Class;
use mendblock_net::wire::message::{Hello, Message};
use std::collections::VecDeque;

/// Most frames that a connection parks while the loss of the one before it is not yet retired. The peer sends no
/// more than its parameters before it has ours.
const MAX_PARKED: usize = 1024;

/// Frames and the `Tell` that must precede them.
struct Waiting {
    after: TellNumber,
    frames: Vec<PeerFrame>,
}

/// The connection.
pub(super) struct Link {
    pub socket: u64,
    pub connection: ConnectionNumber,
    pub address: String,
    /// The peer's.
    pub hello: Hello,
    pub agreement: Agreement,
    /// The state part knows it and data may flow. False: it is held until the last loss is retired (R11).
    pub up: bool,
    /// Frames that arrived while not up.
    pub parked: Vec<PeerFrame>,
    pub owed: Owed,
    /// The peer told of blocks that its resync wrote: their clears may be in the volume part's mailbox.
    pub resync_heard: bool,
    outstanding: Outstanding,
    waiting: VecDeque<Waiting>,
    tell_sent: TellNumber,
    last_received: Instant,
    ping: Option<Instant>,
    pings: u64,
    /// Bytes in the socket's queue when it was last reported.
    queued: u64,
    /// Payload sent since the window was last opened.
    used: u64,
}

impl Link {
    pub fn new(
        socket: u64,
        connection: ConnectionNumber,
        address: String,
        hello: Hello,
        agreement: Agreement,
        now: Instant,
    ) -> Self {
        Self {
            socket,
            connection,
            address,
            hello,
            agreement,
            up: false,
            parked: Vec::new(),
            owed: Owed::default(),
            resync_heard: false,
            outstanding: Outstanding::default(),
            waiting: VecDeque::new(),
            tell_sent: TellNumber(0),
            last_received: now,
            ping: None,
            pings: 0,
            queued: 0,
            used: 0,
        }
    }

    /// The peer dialled, so this node resolves conflicts.
    pub fn resolver(&self) -> bool {
        self.hello.dialled
    }

    /// Keeps a frame until the connection is up; false: too many.
    pub fn park(&mut self, frame: PeerFrame) -> bool {
        self.parked.push(frame);
        self.parked.len() <= MAX_PARKED
    }

    /// Frames arrived: the peer lives.
    pub fn heard(&mut self, now: Instant) {
        self.last_received = now;
        self.ping = None;
    }

    /// A frame that concerns data arrived.
    pub fn received(&mut self, message: &Message, now: Instant) {
        self.outstanding.received(message, now);
        self.owed.received(message);
        self.resync_heard |= matches!(message, Message::ResyncWritten { .. });
    }

    /// Sends frames, or keeps them until the `Tell` that they follow was sent.
    pub fn send(
        &mut self,
        frames: Vec<PeerFrame>,
        after: TellNumber,
        now: Instant,
        effect: &mut impl FnMut(PeerEffect),
    ) {
        let behind =
            !self.waiting.is_empty() && frames.iter().any(|frame| follows_tell(frame.message.kind()));
        if after > self.tell_sent || behind {
            self.waiting.push_back(Waiting { after, frames });
            return;
        }
        self.send_now(frames, now, effect);
        while let Some(waiting) = self
            .waiting
            .pop_front_if(|waiting| waiting.after <= self.tell_sent)
        {
            self.send_now(waiting.frames, now, effect);
        }
    }

    fn send_now(&mut self, frames: Vec<PeerFrame>, now: Instant, effect: &mut impl FnMut(PeerEffect)) {
        for frame in &frames {
            if let Message::Tell { number, .. } = frame.message {
                self.tell_sent = self.tell_sent.max(TellNumber(number));
            }
            self.outstanding.sent(&frame.message, now);
            self.owed.sent(&frame.message);
            self.used += frame.payload.as_ref().map_or(0, |payload| payload.len() as u64);
        }
        let socket = self.socket;
        let (urgent, ordered): (Vec<_>, Vec<_>) = frames
            .into_iter()
            .partition(|frame| frame.message.kind().class() == Class::Urgent);
        for (frames, urgent) in [(urgent, true), (ordered, false)] {
            if !frames.is_empty() {
                effect(PeerEffect::Send {
                    socket,
                    frames,
                    urgent,
                });
            }
        }
    }

    /// Requests of ours and of the peer that are open, and how long acknowledged writes took since the last call, ns.
    pub fn measured(&mut self) -> (u64, u64, Vec<u64>) {
        let (pending, owed) = (self.outstanding.count(), self.owed.count());
        (pending as u64, owed as u64, self.outstanding.take_writes())
    }

    /// The socket's queue was reported.
    pub fn queued(&mut self, bytes: u64) {
        self.queued = bytes;
    }

    /// Bytes that may be queued from now on, if it is time to say so: half of what was last allowed is used up, and the
    /// queue is at most half full.
    pub fn window(&mut self, configured: u64) -> Option<u64> {
        if self.used < configured / 2 || self.queued > configured / 2 {
            return None;
        }
        Some(self.open_window(configured))
    }

    /// Bytes that may be queued from now on.
    pub fn open_window(&mut self, configured: u64) -> u64 {
        self.used = 0;
        configured.saturating_sub(self.queued)
    }

    /// Sends a ping when nothing was heard for long; the reason when the peer counts as dead.
    pub fn tick(
        &mut self,
        configuration: &VolumeConfiguration,
        now: Instant,
        effect: &mut impl FnMut(PeerEffect),
    ) -> Option<(DownReason, String)> {
        let timeout = configuration.peer_timeout;
        if timeout > 0
            && self
                .outstanding
                .oldest()
                .is_some_and(|oldest| oldest.after_ms(timeout) <= now)
        {
            let text = format!("the peer left a request unanswered for {timeout} ms");
            return Some((DownReason::Timeout, text));
        }
        let limit = configuration.ping_timeout;
        match self.ping {
            Some(at) if at.after_ms(limit) <= now => {
                let text = format!("the peer did not answer a ping within {limit} ms");
                return Some((DownReason::NetworkFailure, text));
            }
            None if self.last_received.after_ms(configuration.ping_interval) <= now => {
                self.ping = Some(now);
                self.pings += 1;
                let message = Message::Ping { number: self.pings };
                effect(PeerEffect::Send {
                    socket: self.socket,
                    frames: vec![Frame {
                        message,
                        payload: None,
                    }],
                    urgent: true,
                });
            }
            _ => {}
        }
        None
    }

    /// When [`Link::tick`] has something to do.
    pub fn wake_at(&self, configuration: &VolumeConfiguration) -> Instant {
        let alive = match self.ping {
            Some(at) => at.after_ms(configuration.ping_timeout),
            None => self.last_received.after_ms(configuration.ping_interval),
        };
        let timeout = configuration.peer_timeout;
        match self.outstanding.oldest() {
            Some(oldest) if timeout > 0 => alive.min(oldest.after_ms(timeout)),
            _ => alive,
        }
    }
}
