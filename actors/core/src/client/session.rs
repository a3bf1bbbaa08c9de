//! The client session's part.

use super::{ClientEffect, ClientIn};
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{ClientId, PartGeneration};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};

/// The client session: it holds nothing of a client but which life of the volume part has seen the replay. Requests
/// and answers lie in the port (unanswered) and in the volume part (unconfirmed), so it may die at any moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientPart {
    client: ClientId,
    generation: PartGeneration,
    /// Life of the volume part that requests go to; none: it lives no more, its successor says so.
    volume: Option<PartGeneration>,
    /// The port was asked for its replay to `volume`; what it receives meanwhile is part of that replay.
    replaying: bool,
    begun: bool,
    gone: bool,
}

impl ClientPart {
    /// A session of a client, in its `generation`. `volume`: the present life of the volume part, if it lives. The port
    /// may hold requests that the predecessor did not pass on: its replay is asked for first.
    pub fn new(client: ClientId, generation: PartGeneration, volume: Option<PartGeneration>) -> Self {
        Self {
            client,
            generation,
            volume,
            replaying: true,
            begun: false,
            gone: false,
        }
    }

    fn begin(&mut self, out: &mut Outbox<ClientEffect>) {
        if let Some(generation) = self.volume
            && !self.begun
        {
            self.begun = true;
            out.effect(ClientEffect::Replay { generation });
        }
    }

    fn volume_restarted(&mut self, generation: PartGeneration, out: &mut Outbox<ClientEffect>) {
        // Told twice of the same life: its replay is asked for once more, as the volume part may await it.
        if self.gone || self.volume.is_some_and(|known| generation < known) {
            return;
        }
        self.volume = Some(generation);
        self.replaying = true;
        self.begun = true;
        out.effect(ClientEffect::Replay { generation });
    }
}

impl Part for ClientPart {
    type In = ClientIn;
    type Effect = ClientEffect;
    const NAME: PartName = PartName::Client;

    fn on(&mut self, _cx: &mut Context<'_>, message: ClientIn, out: &mut Outbox<ClientEffect>) {
        let client = self.client;
        match message {
            ClientIn::Restarted {
                part: PartName::Volume,
                generation,
            } => self.volume_restarted(generation, out),
            ClientIn::Restarted { .. } => {}
            // The port keeps a request until its answer: those that arrive before the replay come with it.
            ClientIn::Received(requests) => {
                if !self.replaying && !self.gone && !requests.is_empty() {
                    out.send(To::Volume(VolumeIn::Requests { client, requests }));
                }
            }
            ClientIn::Replayed { generation, requests } => {
                if self.volume == Some(generation) && self.replaying && !self.gone {
                    self.replaying = false;
                    if generation > PartGeneration(1) || self.generation > PartGeneration(1) {
                        let volume = generation > PartGeneration(1);
                        out.fact(Fact::Recovered {
                            part: if volume {
                                PartName::Volume
                            } else {
                                PartName::Client
                            },
                            what: format!("client {client} repeated {} requests", requests.len()),
                        });
                    }
                    // Also when there is none: what the replay does not name is in the port, though its confirmation may
                    // have died with a session.
                    out.send(To::Volume(VolumeIn::Requests { client, requests }));
                    out.send(To::Volume(VolumeIn::ReplayEnd { client, generation }));
                }
            }
            ClientIn::Answers(answers) => {
                if !self.gone && !answers.is_empty() {
                    out.effect(ClientEffect::Deliver(answers));
                }
            }
            ClientIn::Delivered(sequences) => {
                if !sequences.is_empty() {
                    out.send(To::Volume(VolumeIn::Confirm { client, sequences }));
                }
            }
            ClientIn::Gone => {
                if !std::mem::replace(&mut self.gone, true) {
                    out.send(To::Volume(VolumeIn::ClientGone { client }));
                    out.effect(ClientEffect::Close);
                }
            }
        }
        if !self.gone {
            self.begin(out);
        }
    }

    fn wake(&mut self, _cx: &mut Context<'_>, out: &mut Outbox<ClientEffect>) {
        if !self.gone {
            self.begin(out);
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        (!self.begun && !self.gone && self.volume.is_some()).then_some(Instant(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ClientAnswer, ClientRequest, ClientRequestKind};
    use crate::identity::{Arrival, Sequence};
    use std::collections::{BTreeMap, BTreeSet};

    const CLIENT: ClientId = ClientId(7);

    fn request(number: u64) -> ClientRequest {
        ClientRequest {
            sequence: Sequence(number),
            arrival: Arrival(number),
            kind: ClientRequestKind::Flush,
        }
    }

    /// A port that keeps what is unanswered and hands an answer out once, and a volume part that answers on demand.
    struct Bench {
        part: ClientPart,
        held: BTreeMap<Sequence, ClientRequest>,
        handed_out: Vec<Sequence>,
        at_volume: BTreeSet<Sequence>,
        kept: BTreeSet<Sequence>,
        replay_ends: Vec<PartGeneration>,
        gone: usize,
        closed: usize,
    }

    impl Bench {
        fn new(volume: Option<PartGeneration>) -> Self {
            let mut bench = Self {
                part: ClientPart::new(CLIENT, PartGeneration(1), volume),
                held: BTreeMap::new(),
                handed_out: Vec::new(),
                at_volume: BTreeSet::new(),
                kept: BTreeSet::new(),
                replay_ends: Vec::new(),
                gone: 0,
                closed: 0,
            };
            bench.wake();
            bench
        }

        fn context_step(&mut self, message: Option<ClientIn>) -> Outbox<ClientEffect> {
            let mut random = || 1;
            let mut cx = Context {
                now: Instant(1),
                wall: 0,
                random: &mut random,
            };
            let mut out = Outbox::default();
            match message {
                Some(message) => self.part.on(&mut cx, message, &mut out),
                None => self.part.wake(&mut cx, &mut out),
            }
            out
        }

        fn wake(&mut self) {
            if self.part.wake_at().is_some() {
                let out = self.context_step(None);
                self.carry_out(out);
            }
        }

        fn on(&mut self, message: ClientIn) {
            let out = self.context_step(Some(message));
            self.carry_out(out);
        }

        fn carry_out(&mut self, out: Outbox<ClientEffect>) {
            for message in out.messages {
                let To::Volume(message) = message else {
                    panic!("{message:?}")
                };
                match message {
                    VolumeIn::Requests { client, requests } => {
                        assert_eq!(client, CLIENT);
                        self.at_volume
                            .extend(requests.iter().map(|request| request.sequence));
                    }
                    VolumeIn::ReplayEnd { generation, .. } => self.replay_ends.push(generation),
                    VolumeIn::Confirm { sequences, .. } => sequences.iter().for_each(|done| {
                        self.kept.remove(done);
                    }),
                    VolumeIn::ClientGone { .. } => self.gone += 1,
                    other => panic!("{other:?}"),
                }
            }
            for effect in out.effects {
                match effect {
                    ClientEffect::Replay { generation } => {
                        let requests = self.held.values().cloned().collect();
                        self.on(ClientIn::Replayed { generation, requests });
                    }
                    ClientEffect::Deliver(answers) => {
                        let sequences: Vec<_> = answers.iter().map(|answer| answer.sequence).collect();
                        for sequence in &sequences {
                            if self.held.remove(sequence).is_some() {
                                self.handed_out.push(*sequence);
                            }
                        }
                        self.on(ClientIn::Delivered(sequences));
                    }
                    ClientEffect::Close => self.closed += 1,
                }
            }
        }

        fn receive(&mut self, numbers: &[u64]) {
            let requests: Vec<_> = numbers.iter().copied().map(request).collect();
            self.held
                .extend(requests.iter().map(|request| (request.sequence, request.clone())));
            self.on(ClientIn::Received(requests));
        }

        fn answer(&mut self, number: u64) {
            self.at_volume.remove(&Sequence(number));
            self.kept.insert(Sequence(number));
            self.on(ClientIn::Answers(vec![ClientAnswer {
                sequence: Sequence(number),
                result: Ok(None),
            }]));
        }
    }

    #[test]
    fn requests_reach_the_volume_and_answers_the_client() {
        let mut bench = Bench::new(Some(PartGeneration(1)));
        assert_eq!(bench.replay_ends, [PartGeneration(1)]);
        bench.receive(&[1, 2]);
        assert_eq!(bench.at_volume.len(), 2);
        bench.answer(2);
        assert_eq!(bench.handed_out, [Sequence(2)]);
        assert!(bench.kept.is_empty(), "the answer was confirmed");
    }

    #[test]
    fn a_new_volume_gets_the_replay_and_its_end() {
        let mut bench = Bench::new(Some(PartGeneration(1)));
        bench.receive(&[1, 2, 3]);
        bench.answer(1);
        bench.at_volume.clear();
        bench.on(ClientIn::Restarted {
            part: PartName::Volume,
            generation: PartGeneration(2),
        });
        assert_eq!(bench.at_volume, BTreeSet::from([Sequence(2), Sequence(3)]));
        assert_eq!(bench.replay_ends, [PartGeneration(1), PartGeneration(2)]);
    }

    #[test]
    fn session_dies_holding_an_answer() {
        let mut bench = Bench::new(Some(PartGeneration(1)));
        bench.receive(&[1]);
        // The volume part answered; the answer was in the dead session's mailbox.
        bench.kept.insert(Sequence(1));
        bench.part = ClientPart::new(CLIENT, PartGeneration(2), Some(PartGeneration(1)));
        bench.at_volume.clear();
        bench.wake();
        assert_eq!(bench.at_volume, BTreeSet::from([Sequence(1)]), "asked again");
        bench.answer(1);
        bench.answer(1);
        assert_eq!(bench.handed_out, [Sequence(1)], "handed out once");
        assert!(bench.kept.is_empty());
    }

    #[test]
    fn without_a_volume_part_requests_wait_in_the_port() {
        let mut bench = Bench::new(None);
        bench.receive(&[1]);
        assert!(bench.at_volume.is_empty() && bench.replay_ends.is_empty());
        bench.on(ClientIn::Restarted {
            part: PartName::Volume,
            generation: PartGeneration(3),
        });
        assert_eq!(bench.at_volume.len(), 1);
        assert_eq!(bench.replay_ends, [PartGeneration(3)]);
    }

    #[test]
    fn a_replay_to_a_dead_volume_is_dropped() {
        let mut bench = Bench::new(Some(PartGeneration(2)));
        bench.on(ClientIn::Replayed {
            generation: PartGeneration(1),
            requests: vec![request(9)],
        });
        assert!(bench.at_volume.is_empty());
    }

    #[test]
    fn a_gone_client_is_told_once() {
        let mut bench = Bench::new(Some(PartGeneration(1)));
        bench.on(ClientIn::Gone);
        bench.on(ClientIn::Gone);
        assert_eq!((bench.gone, bench.closed), (1, 1));
        bench.on(ClientIn::Restarted {
            part: PartName::Volume,
            generation: PartGeneration(2),
        });
        assert_eq!(bench.replay_ends, [PartGeneration(1)]);
    }
}
