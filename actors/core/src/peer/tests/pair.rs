//! Two parts back to back, with events of sockets delivered in any order.

use super::*;
use crate::engine::VolumeIn;
use crate::part::{Context, Outbox, Part, To};
use crate::volume::machine::{LinkFact, StateIn};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

/// What travels in one direction of a connection.
#[derive(Debug)]
enum Event {
    Frames(Vec<PeerFrame>),
    Closed,
}

/// A connection: both ends know it by the same number.
struct Pipe {
    dialler: usize,
    /// Whether each node still has its end open (and knows of it).
    open: [bool; 2],
    accepted: bool,
    /// Towards each node.
    towards: [VecDeque<Event>; 2],
}

struct Node {
    part: PeerPart,
    up: Option<(ConnectionNumber, bool)>,
    ups: usize,
    downs: usize,
    refused: Option<String>,
    unretired: Option<ConnectionNumber>,
    to_volume: Vec<PeerFrame>,
}

struct Pair {
    nodes: [Node; 2],
    pipes: BTreeMap<u64, Pipe>,
    now: u64,
    random: u64,
    dials_fail: bool,
}

impl Pair {
    fn new(configurations: [VolumeConfiguration; 2], seed: u64) -> Self {
        let nodes = configurations.map(|configuration| Node {
            part: PeerPart::new(Arc::new(configuration), PartGeneration(1), None),
            up: None,
            ups: 0,
            downs: 0,
            refused: None,
            unretired: None,
            to_volume: Vec::new(),
        });
        Self {
            nodes,
            pipes: BTreeMap::new(),
            now: 0,
            random: seed | 1,
            dials_fail: false,
        }
    }

    fn random(&mut self) -> u64 {
        next(&mut self.random)
    }

    fn step(&mut self, node: usize, message: Option<PeerIn>) {
        let mut random = self.random;
        let mut draw = || next(&mut random);
        let mut cx = Context {
            now: at(self.now),
            wall: 0,
            random: &mut draw,
        };
        let mut out = Outbox::default();
        match message {
            Some(message) => self.nodes[node].part.on(&mut cx, message, &mut out),
            None => self.nodes[node].part.wake(&mut cx, &mut out),
        }
        self.random = random;
        for message in out.messages {
            self.nodes[node].take(message);
        }
        for effect in out.effects {
            self.carry_out(node, effect);
        }
    }

    fn carry_out(&mut self, node: usize, effect: PeerEffect) {
        match effect {
            PeerEffect::Measured { .. } => {}
            PeerEffect::Dial if self.dials_fail => self.step(
                node,
                Some(PeerIn::DialFailed {
                    text: "refused".to_owned(),
                }),
            ),
            PeerEffect::Dial => {
                let socket = 1 + self.pipes.len() as u64;
                let mut open = [false; 2];
                open[node] = true;
                self.pipes.insert(
                    socket,
                    Pipe {
                        dialler: node,
                        open,
                        accepted: false,
                        towards: Default::default(),
                    },
                );
                self.step(
                    node,
                    Some(PeerIn::SocketUp {
                        socket,
                        dialled: true,
                        address: "peer".to_owned(),
                        hello: None,
                    }),
                );
            }
            PeerEffect::Send { socket, frames, .. } => {
                let pipe = self.pipes.get_mut(&socket).unwrap();
                assert!(pipe.open[node], "frames for a closed socket");
                pipe.towards[1 - node].push_back(Event::Frames(frames));
            }
            PeerEffect::Close { socket, flush } => {
                let pipe = self.pipes.get_mut(&socket).unwrap();
                assert!(std::mem::replace(&mut pipe.open[node], false), "closed twice");
                if !flush {
                    pipe.towards[1 - node].clear();
                }
                pipe.towards[1 - node].push_back(Event::Closed);
                pipe.towards[node].clear();
            }
        }
    }

    /// Delivers one event, if there is one: of a socket, or that a loss is retired.
    fn deliver(&mut self) -> bool {
        let mut choices: Vec<(u64, usize)> = Vec::new();
        for (socket, pipe) in &self.pipes {
            choices.extend(
                (0..2)
                    .filter(|node| !pipe.towards[*node].is_empty())
                    .map(|node| (*socket, node)),
            );
        }
        choices.extend(
            (0..2)
                .filter(|node| self.nodes[*node].unretired.is_some())
                .map(|node| (0, node)),
        );
        if choices.is_empty() {
            return false;
        }
        let choice = self.random() as usize % choices.len();
        let (socket, node) = choices[choice];
        if socket == 0 {
            let connection = self.nodes[node].unretired.take().unwrap();
            self.step(node, Some(PeerIn::LossRetired { connection }));
        } else {
            self.deliver_on(socket, node);
        }
        true
    }

    fn deliver_on(&mut self, socket: u64, node: usize) {
        let pipe = self.pipes.get_mut(&socket).unwrap();
        let event = pipe.towards[node].pop_front().unwrap();
        let first = node != pipe.dialler && !std::mem::replace(&mut pipe.accepted, true);
        match event {
            Event::Frames(mut frames) if first => {
                pipe.open[node] = true;
                let Message::Hello(hello) = frames.remove(0).message else {
                    panic!("no hello")
                };
                let address = "peer".to_owned();
                let hello = Some(hello);
                self.step(
                    node,
                    Some(PeerIn::SocketUp {
                        socket,
                        dialled: false,
                        address,
                        hello,
                    }),
                );
                if self.pipes[&socket].open[node] && !frames.is_empty() {
                    self.step(node, Some(PeerIn::Received { socket, frames }));
                }
            }
            Event::Frames(frames) if pipe.open[node] => {
                self.step(node, Some(PeerIn::Received { socket, frames }));
            }
            Event::Closed if pipe.open[node] => {
                pipe.open[node] = false;
                pipe.towards[1 - node].clear();
                let text = "closed".to_owned();
                self.step(
                    node,
                    Some(PeerIn::SocketDown {
                        socket,
                        text,
                        protocol_error: false,
                    }),
                );
            }
            _ => {}
        }
    }

    /// The network cuts a connection, for both ends.
    fn cut(&mut self, socket: u64) {
        let pipe = self.pipes.get_mut(&socket).unwrap();
        for node in 0..2 {
            pipe.towards[node].clear();
            if pipe.open[node] {
                pipe.towards[node].push_back(Event::Closed);
            }
        }
    }

    fn pass_time(&mut self) {
        let due = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(node, n)| Some((n.part.wake_at()?, node)));
        let Some((at, node)) = due.min() else { return };
        self.now = self.now.max(at.0.div_ceil(1_000_000));
        self.step(node, None);
    }

    fn wish(&mut self, node: usize, wish: LinkWish) {
        self.step(node, Some(PeerIn::Wish(wish)));
    }

    /// The socket on which both are up, when all is quiet.
    fn settled(&self) -> Option<u64> {
        let open: Vec<u64> = self
            .pipes
            .iter()
            .filter(|(_, pipe)| pipe.open == [true; 2])
            .map(|(socket, _)| *socket)
            .collect();
        let both = self.nodes.iter().all(|node| node.up.is_some());
        (both && open.len() == 1).then(|| open[0])
    }

    fn settle(&mut self) -> u64 {
        for _ in 0..2000 {
            if !self.deliver() {
                if let Some(socket) = self.settled() {
                    let resolvers = self.nodes.each_ref().map(|node| node.up.unwrap().1);
                    assert_ne!(resolvers[0], resolvers[1], "one resolver");
                    assert!(
                        !resolvers[self.pipes[&socket].dialler],
                        "the dialling side does not resolve"
                    );
                    return socket;
                }
                self.pass_time();
            }
        }
        panic!("no common connection after {} ms", self.now);
    }
}

impl Node {
    fn take(&mut self, message: To) {
        match message {
            To::State(StateIn::Link(LinkFact::Up {
                connection, resolver, ..
            })) => {
                assert_eq!(self.up, None, "one connection at a time");
                assert_eq!(self.unretired, None, "R11: not before the loss is retired");
                self.up = Some((connection, resolver));
                self.ups += 1;
            }
            To::State(StateIn::Link(LinkFact::Down { connection, .. })) => {
                assert_eq!(self.up.take().map(|(up, _)| up), Some(connection));
                self.downs += 1;
            }
            To::State(StateIn::Link(LinkFact::Refused { text })) => self.refused = Some(text),
            To::Volume(VolumeIn::Lost { connection }) => self.unretired = Some(connection),
            To::Volume(VolumeIn::Peer { connection, frames }) => {
                assert_eq!(self.up.map(|(up, _)| up), Some(connection));
                self.to_volume.extend(frames);
            }
            _ => {}
        }
    }
}

fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn pair(seed: u64) -> Pair {
    Pair::new([configuration(0), configuration(1)], seed)
}

#[test]
fn crossing_dials_settle_on_the_lower_nodes_connection() {
    for seed in 1..200 {
        let mut pair = pair(seed);
        // Both dial before anything arrives.
        pair.wish(0, LinkWish::Up);
        pair.wish(1, LinkWish::Up);
        assert_eq!(pair.pipes.len(), 2);
        let socket = pair.settle();
        assert_eq!(pair.pipes[&socket].dialler, 0, "seed {seed}");
        assert!(pair.now < 100, "at once: {} ms", pair.now);
    }
}

#[test]
fn a_lost_connection_is_made_anew_on_both_sides() {
    let mut pair = pair(5);
    pair.wish(0, LinkWish::Up);
    pair.wish(1, LinkWish::Up);
    let first = pair.settle();
    let numbers = pair.nodes.each_ref().map(|node| node.up.unwrap().0);
    pair.cut(first);
    let second = pair.settle();
    assert_ne!(first, second);
    for (node, number) in pair.nodes.iter().zip(numbers) {
        assert!(node.up.unwrap().0 > number, "numbers ascend");
        assert!(node.downs >= 1);
    }
}

#[test]
fn frames_arrive_in_order_on_the_other_side() {
    let mut pair = pair(9);
    pair.wish(0, LinkWish::Up);
    pair.wish(1, LinkWish::Up);
    pair.settle();
    let connection = pair.nodes[0].up.unwrap().0;
    for epoch in 1..20 {
        let frames = vec![bare(Message::Barrier { epoch, writes: 1 })];
        pair.step(
            0,
            Some(PeerIn::Send {
                connection,
                frames,
                after: TellNumber(0),
            }),
        );
    }
    while pair.deliver() {}
    let epochs: Vec<_> = pair.nodes[1]
        .to_volume
        .iter()
        .map(|frame| match frame.message {
            Message::Barrier { epoch, .. } => epoch,
            ref other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(epochs, (1..20).collect::<Vec<_>>());
}

#[test]
fn a_node_that_is_disconnected_refuses_and_the_other_goes_on_trying() {
    let mut pair = pair(3);
    pair.wish(0, LinkWish::Up);
    for _ in 0..50 {
        if !pair.deliver() {
            pair.pass_time();
        }
    }
    assert!(pair.nodes[0].up.is_none() && pair.nodes[0].refused.is_none());
    assert!(pair.pipes.len() > 2, "it dials again");
    pair.wish(1, LinkWish::Up);
    pair.settle();
    pair.wish(1, LinkWish::Down);
    while pair.deliver() {}
    assert!(pair.nodes.iter().all(|node| node.up.is_none() && node.downs == 1));
}

#[test]
fn another_volume_is_refused_for_good_on_the_dialling_side() {
    let other = VolumeConfiguration {
        volume: "logs".to_owned(),
        ..configuration(1)
    };
    let mut pair = Pair::new([configuration(0), other], 7);
    pair.wish(1, LinkWish::Up);
    pair.wish(0, LinkWish::Up);
    while pair.deliver() {}
    for node in &pair.nodes {
        assert!(
            node.refused.as_ref().unwrap().contains("logs"),
            "{:?}",
            node.refused
        );
        assert!(node.up.is_none());
    }
}

#[test]
fn an_unreachable_peer_is_dialled_at_intervals() {
    let mut pair = pair(11);
    pair.dials_fail = true;
    pair.wish(0, LinkWish::Up);
    for _ in 0..10 {
        let before = pair.now;
        pair.pass_time();
        assert!(
            (7_500..=12_500).contains(&(pair.now - before)),
            "{} ms",
            pair.now - before
        );
    }
    pair.dials_fail = false;
    pair.wish(1, LinkWish::Up);
    pair.settle();
}

proptest! {
    /// Whatever the order of events, cuts and restarts of a node's wish: in the end both are on one connection, and neither
    /// ever took one up before the loss of the last was retired (asserted in the harness).
    #[test]
    fn always_one_connection_in_the_end(
        seed in any::<u64>(),
        actions in proptest::collection::vec(0u8..8, 0..60),
    ) {
        let mut pair = pair(seed);
        pair.wish(0, LinkWish::Up);
        pair.wish(1, LinkWish::Up);
        for action in actions {
            match action {
                0 => {
                    let sockets: Vec<u64> = pair.pipes.keys().copied().collect();
                    let choice = pair.random() as usize % sockets.len();
                    pair.cut(sockets[choice]);
                }
                1 => pair.pass_time(),
                2 => {
                    let node = pair.random() as usize % 2;
                    pair.wish(node, LinkWish::Down);
                    pair.wish(node, LinkWish::Up);
                }
                _ => {
                    pair.deliver();
                }
            }
        }
        pair.settle();
    }
}
