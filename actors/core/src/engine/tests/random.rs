//! Random interleavings: one answer each, none without its conditions, none missing at the end.

use super::harness::*;
use crate::engine::VolumeIn;
use crate::identity::{ConnectionNumber, ErrorNumber, OperationId};
use crate::part::Instant;
use crate::volume::state::DiskState;
use mendblock_net::wire::message::Message;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Event {
    Write(u8),
    Read(u8),
    Flush,
    Complete(u8),
    Fail(u8),
    Peer { which: u8, good: bool },
    Marks,
    Confirm,
    LoseLink,
    Reconnect,
    Settle,
    Wake,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0u8..4).prop_map(Event::Write),
        3 => (0u8..4).prop_map(Event::Read),
        2 => Just(Event::Flush),
        8 => any::<u8>().prop_map(Event::Complete),
        1 => any::<u8>().prop_map(Event::Fail),
        8 => (any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(which, good)| Event::Peer { which, good }),
        3 => Just(Event::Marks),
        3 => Just(Event::Confirm),
        1 => Just(Event::LoseLink),
        1 => Just(Event::Reconnect),
        2 => Just(Event::Settle),
        1 => Just(Event::Wake),
    ]
}

/// The world around the part: what the peer has not answered, and which good copies of each write exist.
struct World {
    h: Harness,
    next: u64,
    heard: usize,
    open: Vec<Message>,
    link: u64,
    confirmed: BTreeSet<u64>,
    /// By fill byte: good on the own disk, good at the peer.
    copies: BTreeMap<u8, (bool, bool)>,
    writes: BTreeSet<u64>,
    failed: bool,
}

fn fill_of(operation: &crate::disk::DataKind) -> Option<u8> {
    match operation {
        crate::disk::DataKind::Write { buffer, .. } => Some(buffer[0]),
        _ => None,
    }
}

impl World {
    fn new() -> Self {
        Self {
            h: Harness::new(connected()),
            next: 0,
            heard: 0,
            open: Vec::new(),
            link: 1,
            confirmed: BTreeSet::new(),
            copies: BTreeMap::new(),
            writes: BTreeSet::new(),
            failed: false,
        }
    }

    fn listen(&mut self) {
        for frame in &self.h.frames[self.heard..] {
            self.open.push(frame.message.clone());
        }
        self.heard = self.h.frames.len();
    }

    fn fill_of_request(&self, request: u64) -> Option<u8> {
        self.h
            .frames
            .iter()
            .find_map(|frame| match (&frame.message, &frame.payload) {
                (Message::Write { request: there, .. }, Some(payload)) if *there == request => {
                    Some(payload[0])
                }
                _ => None,
            })
    }

    fn peer_answers(&mut self, which: u8, good: bool) {
        if self.open.is_empty() || self.h.snapshot.connection.is_none() {
            return;
        }
        // A barrier is acked behind all that came before it.
        let index = usize::from(which) % self.open.len();
        let message = self.open.remove(index);
        match message {
            Message::Write { request, .. } if good => {
                if let Some(fill) = self.fill_of_request(request) {
                    self.copies.entry(fill).or_default().1 = true;
                }
                self.h.hear(Message::WriteAcks {
                    requests: vec![request],
                });
            }
            Message::Write { request, .. } => self.h.hear(Message::WriteNack { request, errno: 5 }),
            Message::Barrier { epoch, .. } => {
                let earlier = self.open[..index]
                    .iter()
                    .any(|open| matches!(open, Message::Write { .. } | Message::Barrier { .. }));
                if earlier {
                    self.open.insert(index, Message::Barrier { epoch, writes: 0 });
                } else {
                    self.h.hear(Message::BarrierAck { epoch });
                }
            }
            Message::Read { request, range } if good => {
                self.h
                    .hear_with(Message::ReadData { request }, Some(bytes(range, 1)));
            }
            Message::Read { request, .. } => self.h.hear(Message::ReadFailed { request, errno: 5 }),
            _ => {}
        }
    }

    fn pick(&self, which: u8) -> Option<OperationId> {
        let ids: Vec<OperationId> = self.h.operations.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[usize::from(which) % ids.len()])
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Write(at) if self.next < 250 => {
                self.next += 1;
                self.writes.insert(self.next);
                self.h.write(self.next, sectors(u64::from(at) * 4, 8));
            }
            Event::Read(at) if self.next < 250 => {
                self.next += 1;
                self.h.read(self.next, sectors(u64::from(at) * 4, 8));
            }
            Event::Flush if self.next < 250 => {
                self.next += 1;
                self.h.flush(self.next);
            }
            Event::Complete(which) => {
                if let Some(id) = self.pick(which) {
                    if let Some(fill) = fill_of(&self.h.operations[&id]) {
                        self.copies.entry(fill).or_default().0 = true;
                    }
                    self.h.complete(id);
                }
            }
            Event::Fail(which) => {
                if let Some(id) = self.pick(which) {
                    self.failed = true;
                    self.h.fail(id);
                }
            }
            Event::Peer { which, good } => self.peer_answers(which, good),
            Event::Marks => self.h.acknowledge_marks(),
            Event::Confirm => self.confirm(),
            Event::LoseLink if self.h.snapshot.connection.is_some() => {
                self.open.clear();
                self.h.lose_link();
                self.listen();
                self.open.clear();
            }
            Event::Reconnect if self.h.snapshot.connection.is_none() => {
                self.link += 1;
                let link = ConnectionNumber(self.link);
                let settled = self.h.snapshot.errors_settled;
                self.h.publish(|s| {
                    *s = connected();
                    s.connection = Some(link);
                    s.errors_settled = settled;
                });
            }
            Event::Settle => self.h.publish(|s| s.errors_settled = ErrorNumber(u64::MAX)),
            Event::Wake => {
                let now = Instant(self.h.now.0).after_ms(3000);
                self.h.wake(now);
            }
            _ => {}
        }
        self.listen();
        self.check();
    }

    fn confirm(&mut self) {
        let answered: Vec<u64> = self
            .h
            .answers
            .iter()
            .map(|(_, answer)| answer.sequence.0)
            .collect();
        for sequence in answered {
            if self.confirmed.insert(sequence) {
                self.h.confirm(sequence);
            }
        }
    }

    /// I9, I10.
    fn check(&self) {
        let mut seen = BTreeSet::new();
        for (_, answer) in &self.h.answers {
            let sequence = answer.sequence.0;
            assert!(seen.insert(sequence), "{sequence} answered twice");
            if answer.result.is_ok() && self.writes.contains(&sequence) {
                let (own, peer) = self.copies.get(&(sequence as u8)).copied().unwrap_or_default();
                assert!(own || peer, "write {sequence} answered ok without a copy");
            }
        }
    }

    /// Everything comes back.
    fn settle(&mut self) {
        self.h.publish(|s| s.errors_settled = ErrorNumber(u64::MAX));
        for _ in 0..2000 {
            let before = (self.h.answers.len(), self.h.frames.len(), self.h.marked.len());
            while let Some(id) = self.pick(0) {
                if let Some(fill) = fill_of(&self.h.operations[&id]) {
                    self.copies.entry(fill).or_default().0 = true;
                }
                self.h.complete(id);
                self.listen();
            }
            while !self.open.is_empty() && self.h.snapshot.connection.is_some() {
                self.peer_answers(0, true);
                self.listen();
            }
            self.h.acknowledge_marks();
            self.confirm();
            let now = Instant(self.h.now.0).after_ms(6000);
            self.h.wake(now);
            self.listen();
            self.check();
            let after = (self.h.answers.len(), self.h.frames.len(), self.h.marked.len());
            if before == after && self.h.operations.is_empty() {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn every_request_is_answered_once_and_only_on_its_conditions(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::new();
        for event in events {
            world.step(event);
        }
        world.settle();
        for sequence in 1..=world.next {
            prop_assert!(!world.h.unanswered(sequence), "{} is not answered", sequence);
        }
        // Nothing is owed for ever: every extent can be given back.
        world.h.send(VolumeIn::Revoke { number: 1, extents: vec![0] });
        world.listen();
        world.settle();
        prop_assert_eq!(world.h.released.len(), 1);
        prop_assert!(world.h.snapshot.vector.disk == DiskState::UpToDate);
    }
}
