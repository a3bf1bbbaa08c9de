//! Two nodes, the connection between them, and the clients' ledger. A message to a state part is handled to its end, with
//! everything that its own neighbours answer at once; what crosses between the nodes, and a superblock on its way to the disk,
//! waits for an action of its own.

use crate::fingerprint::{CLOCK, CONNECTIONS, Fingerprint, RANDOM};
use crate::ledger::Ledger;
use crate::node::{Answer, Node, Platters, configuration};
use crate::planted::Planted;
use mendblock_core::configuration::{OnIoError, VolumeConfiguration};
use mendblock_core::fact::Fact;
use mendblock_core::identity::ConnectionNumber;
use mendblock_core::part::{Context, Instant, Outbox, Part};
use mendblock_core::peer::LinkWish;
use mendblock_core::volume::machine::{Command, CommandAnswer, LinkFact, StateEffect, StateIn, StatePart};
use mendblock_core::volume::state::{ConnectionState, DownReason};
use mendblock_net::wire::message::Message;
use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::Arc;

/// What crosses between the nodes, in order.
#[derive(Clone, Debug, Hash)]
pub enum Wire {
    /// A message of the peer protocol that concerns state.
    State(Message),
    /// The sender's list of bad blocks.
    Lists(u8),
    /// The sender's bitmap.
    Bits(u8),
    /// A write to mirror: block and version.
    Data(usize, u8),
    /// The sender has written it.
    Ack(u8),
    /// The sender could not.
    Nack(u8),
    /// The target has these blocks now.
    Cleared(u8),
    /// The end of the connection.
    Closed,
}

/// Messages for the part that is being stepped.
pub type Queue = VecDeque<StateIn>;

/// The whole state that is explored.
#[derive(Clone)]
pub struct World {
    /// The nodes.
    pub nodes: [Node; 2],
    /// What is on its way to each node.
    pub channels: [VecDeque<Wire>; 2],
    /// Which nodes have the connection up.
    pub ends: [bool; 2],
    /// The newest connection.
    pub connection: u64,
    /// The clock, the same for both.
    pub now: u64,
    random: u64,
    commands: u64,
    /// What clients were told.
    pub ledger: Ledger,
    /// What must not have happened.
    pub broken: Vec<String>,
    /// What is wrong on purpose.
    pub planted: Planted,
    configurations: [Arc<VolumeConfiguration>; 2],
}

/// Both disks have the same id: it is only compared with what the same node saw before.
const DEVICE: u64 = 0xD;

impl World {
    /// Two processes that have just started, with equal disks.
    pub fn new(policy: OnIoError, planted: Planted) -> Self {
        let configurations = [configuration(0, policy), configuration(1, policy)];
        let node = |index: usize| Node::start(&configurations[index], Platters::synced(RANDOM, DEVICE));
        let mut world = Self {
            nodes: [node(0), node(1)],
            channels: Default::default(),
            ends: [false; 2],
            connection: CONNECTIONS,
            now: CLOCK,
            random: RANDOM,
            commands: 0,
            ledger: Ledger::default(),
            broken: Vec::new(),
            planted,
            configurations,
        };
        for node in [0, 1] {
            world.began(node);
        }
        world
    }

    fn began(&mut self, node: usize) {
        let mut queue = Queue::new();
        self.step(node, &mut queue, |part, cx, out| part.start(cx, out));
        self.drain(node, queue);
        let attach = self.order(node, Command::Attach { new_disk: false });
        self.nodes[node].bring_up = Some(attach);
        self.connect_after_attach(node);
    }

    /// One message, and all that follows from it within the node.
    pub fn feed(&mut self, node: usize, message: StateIn) {
        self.drain(node, Queue::from([message]));
    }

    fn drain(&mut self, node: usize, mut queue: Queue) {
        while let Some(message) = queue.pop_front() {
            self.step(node, &mut queue, |part, cx, out| part.on(cx, message, out));
        }
    }

    /// The clock of a node's part strikes.
    pub fn wake(&mut self, node: usize) {
        let mut queue = Queue::new();
        self.step(node, &mut queue, |part, cx, out| part.wake(cx, out));
        self.drain(node, queue);
    }

    fn step(
        &mut self,
        node: usize,
        queue: &mut Queue,
        act: impl FnOnce(&mut StatePart, &mut Context<'_>, &mut Outbox<StateEffect>),
    ) {
        let mut out = Outbox::default();
        let mut random = self.random;
        let mut fresh = || {
            random += 0x10;
            random
        };
        let mut cx = Context {
            now: Instant(self.now),
            wall: 1_700_000_000,
            random: &mut fresh,
        };
        act(&mut self.nodes[node].part, &mut cx, &mut out);
        self.random = random;
        for fact in out.facts {
            self.note(node, &fact);
        }
        for message in out.messages {
            self.carry(node, message, queue);
        }
        for effect in out.effects {
            if let StateEffect::Answer { id, answer } = effect {
                self.answered(node, id, &answer, queue);
            }
        }
    }

    fn note(&mut self, node: usize, fact: &Fact) {
        match fact {
            Fact::Surprise { what } => self.broken.push(format!("node {node} is surprised: {what}")),
            Fact::Handshake { rule, decision } => {
                let connection = self.connection;
                let last = self.nodes[node]
                    .answer
                    .filter(|last| last.connection == connection);
                let next = match decision.rsplit("-> ").next() {
                    Some("Connected") => 'c',
                    Some("WFBitMapS") => 's',
                    Some("WFBitMapT") => 't',
                    _ => 'r',
                };
                self.nodes[node].answer = Some(Answer {
                    connection,
                    round: last.map_or(1, |last| last.round + 1),
                    rule: *rule as u8,
                    next,
                });
            }
            _ => {}
        }
    }

    // Orders.

    /// Gives an order; its number.
    pub fn order(&mut self, node: usize, command: Command) -> u64 {
        self.commands += 1;
        // In the range of the parts' own questions, so that it is renamed as they are.
        let id = (200 << 32) + self.commands;
        self.nodes[node].commands.push((id, command.clone()));
        self.feed(node, StateIn::Command { id, command });
        id
    }

    fn answered(&mut self, node: usize, id: u64, answer: &CommandAnswer, queue: &mut Queue) {
        let given = self.nodes[node].commands.iter().position(|(of, _)| *of == id);
        let Some(given) = given else {
            return self
                .broken
                .push(format!("node {node} answered a command twice: {answer:?}"));
        };
        let (_, command) = self.nodes[node].commands.remove(given);
        let alone = !self.nodes[node].vector().connection.is_connected_or_better();
        if command == Command::Invalidate && answer.code >= 1 && alone {
            self.excuse(node, crate::node::ALL);
        }
        if self.nodes[node].bring_up == Some(id) {
            self.nodes[node].bring_up = None;
            self.connect_command(node, queue);
        }
    }

    fn connect_after_attach(&mut self, node: usize) {
        let attach = self.nodes[node].bring_up;
        let waits = |id| self.nodes[node].commands.iter().any(|(of, _)| *of == id);
        if attach.is_some_and(|id| !waits(id)) {
            self.nodes[node].bring_up = None;
            let mut queue = Queue::new();
            self.connect_command(node, &mut queue);
            self.drain(node, queue);
        }
    }

    fn connect_command(&mut self, node: usize, queue: &mut Queue) {
        self.commands += 1;
        let id = (200 << 32) + self.commands;
        let command = Command::Connect {
            discard_my_data: false,
        };
        self.nodes[node].commands.push((id, command.clone()));
        queue.push_back(StateIn::Command { id, command });
    }

    /// What only this node's disk has may be lost from now on.
    pub fn excuse(&mut self, node: usize, blocks: u8) {
        let own = self.nodes[node].platters.held();
        let other = self.nodes[1 - node].platters.held();
        self.ledger.excuse(&own, &other, blocks);
    }

    // The connection.

    /// Both dial, and nothing of the last connection is left.
    pub fn may_connect(&self) -> bool {
        let waits = |node: &Node| {
            node.wish == LinkWish::Up && node.vector().connection == ConnectionState::WFConnection
        };
        self.ends == [false; 2] && self.nodes.iter().all(waits)
    }

    /// A connection comes up; `resolver` accepted it.
    pub fn connect(&mut self, resolver: usize) {
        self.connection += 1;
        self.channels = Default::default();
        self.ends = [true; 2];
        for node in [0, 1] {
            self.nodes[node].answer = None;
            self.feed(
                node,
                StateIn::Link(LinkFact::Up {
                    connection: ConnectionNumber(self.connection),
                    resolver: node == resolver,
                    features: 0,
                    peer_process: 1,
                }),
            );
        }
    }

    /// Nothing crosses any more; each node notices by itself.
    pub fn cut(&mut self) {
        for node in [0, 1] {
            self.channels[node].clear();
            if self.ends[node] {
                self.channels[node].push_back(Wire::Closed);
            }
        }
    }

    /// Puts something on its way to the other node.
    pub fn send(&mut self, from: usize, what: Wire) {
        let closed = matches!(self.channels[1 - from].back(), Some(Wire::Closed));
        if self.ends[from] && self.ends[1 - from] && !closed {
            self.channels[1 - from].push_back(what);
        }
    }

    /// This node ends the connection; what it said before still arrives.
    pub fn hang_up(&mut self, node: usize, reason: DownReason, queue: &mut Queue) {
        if self.ends[node] {
            self.send(node, Wire::Closed);
            self.end_here(node, reason, queue);
        }
    }

    /// The connection is over for this node.
    pub fn end_here(&mut self, node: usize, reason: DownReason, queue: &mut Queue) {
        self.ends[node] = false;
        self.channels[node].clear();
        self.volume_lost_connection(node, queue);
        let it = &mut self.nodes[node];
        it.exchange = Default::default();
        it.lists = Default::default();
        it.copying = None;
        queue.push_back(StateIn::Link(LinkFact::Down {
            connection: ConnectionNumber(self.connection),
            reason,
            text: String::new(),
        }));
    }

    /// The next thing on its way to this node arrives.
    pub fn deliver(&mut self, node: usize) {
        let Some(what) = self.channels[node].pop_front() else {
            return;
        };
        let mut queue = Queue::new();
        self.arrived(node, what, &mut queue);
        self.drain(node, queue);
    }

    // Death and birth.

    /// The process dies, and starts again; `landed`: the superblock on its way is on the disk.
    pub fn crash(&mut self, node: usize, landed: bool) {
        let platters = {
            let it = &mut self.nodes[node];
            let store = it.stores.pop_front().filter(|_| landed);
            if let Some(store) = store {
                it.platters.superblock = *store.superblock;
            }
            it.platters.clone()
        };
        let other = 1 - node;
        if self.ends[node] {
            self.ends[node] = false;
            self.channels[node].clear();
            if self.ends[other] {
                self.channels[other].clear();
                self.channels[other].push_back(Wire::Closed);
            }
        }
        self.nodes[node] = Node::start(&self.configurations[node], platters);
        self.began(node);
    }

    // Looking.

    /// The same for all states that behave alike, whichever node is called the first.
    pub fn fingerprint(&self) -> u64 {
        self.seen_from(0).min(self.seen_from(1))
    }

    fn seen_from(&self, first: usize) -> u64 {
        let mut hasher = Fingerprint::new(self.now, self.connection);
        for (place, node) in [first, 1 - first].into_iter().enumerate() {
            hasher.asker(place);
            self.nodes[node].fingerprint(&mut hasher);
            self.ends[node].hash(&mut hasher);
        }
        for (place, node) in [first, 1 - first].into_iter().enumerate() {
            for what in &self.channels[node] {
                // A question is numbered by who asks it.
                let answers = matches!(what, Wire::State(Message::ChangeAnswer { .. }));
                hasher.asker(if answers { place } else { 1 - place });
                what.hash(&mut hasher);
            }
            place.hash(&mut hasher);
        }
        self.ledger.fingerprint(first, &mut hasher);
        std::hash::Hasher::finish(&hasher)
    }
}
