//! Requests that wait for an answer over the connection: ours, whose age says whether the peer is alive, and the
//! peer's, which die with a `VolumeActor`.

use crate::part::Instant;
use mendblock_net::wire::message::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// A mirrored write, until it is acknowledged.
    Write(u64),
    /// The end of an epoch, until it is stable at the other side.
    Barrier(u64),
    /// A read from the other side's disk.
    Read(u64),
    /// A resync request. Not timed: the source may slow it down as it likes.
    Resync(u64),
}

fn asked(message: &Message) -> Option<Key> {
    match *message {
        Message::Write { request, .. } | Message::WriteZeroes { request, .. } => Some(Key::Write(request)),
        Message::Barrier { epoch, .. } => Some(Key::Barrier(epoch)),
        Message::Read { request, .. } => Some(Key::Read(request)),
        Message::ResyncRead { request, .. } => Some(Key::Resync(request)),
        _ => None,
    }
}

fn for_each_answered(message: &Message, mut done: impl FnMut(Key)) {
    match message {
        Message::WriteAcks { requests } => requests.iter().for_each(|request| done(Key::Write(*request))),
        Message::WriteNack { request, .. } => done(Key::Write(*request)),
        Message::BarrierAck { epoch } => done(Key::Barrier(*epoch)),
        Message::ReadData { request } => done(Key::Read(*request)),
        // Also the source's "not now" to a resync request; a requester numbers both kinds from one counter.
        Message::ReadFailed { request, .. } => {
            done(Key::Read(*request));
            done(Key::Resync(*request));
        }
        Message::ResyncData { request, .. } | Message::ResyncFailed { request, .. } => {
            done(Key::Resync(*request));
        }
        _ => {}
    }
}

/// Own requests, by the time they were sent.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    open: BTreeMap<Key, Instant>,
    /// In the order sent; an entry that is no longer open is dropped when it comes to the front. Resync requests are not in
    /// it.
    sent: VecDeque<(Key, Instant)>,
    /// How long acknowledged writes took, ns, since this was last taken.
    writes: Vec<u64>,
}

impl Outstanding {
    /// A frame is sent.
    pub fn sent(&mut self, message: &Message, now: Instant) {
        let Some(key) = asked(message) else { return };
        self.open.insert(key, now);
        if !matches!(key, Key::Resync(_)) {
            self.sent.push_back((key, now));
        }
    }

    /// A frame arrived.
    pub fn received(&mut self, message: &Message, now: Instant) {
        let acknowledged = matches!(message, Message::WriteAcks { .. });
        for_each_answered(message, |key| {
            if let Some(at) = self.open.remove(&key).filter(|_| acknowledged) {
                self.writes.push(now.0.saturating_sub(at.0));
            }
        });
        while let Some((key, at)) = self.sent.front() {
            if self.open.get(key) == Some(at) {
                break;
            }
            self.sent.pop_front();
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// How long acknowledged writes took, ns, since the last call.
    pub fn take_writes(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.writes)
    }

    /// Since when the oldest one waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.sent.front().map(|(_, at)| *at)
    }
}

/// The peer's requests that `VolumeActor` has not answered.
#[derive(Debug, Default)]
pub(super) struct Owed(BTreeSet<Key>);

impl Owed {
    /// A frame is handed to `VolumeActor`.
    pub fn received(&mut self, message: &Message) {
        self.0.extend(asked(message));
    }

    /// A frame is sent to the peer.
    pub fn sent(&mut self, message: &Message) {
        for_each_answered(message, |key| {
            self.0.remove(&key);
        });
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
