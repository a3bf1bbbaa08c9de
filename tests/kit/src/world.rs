//! Time, events and delivery. Messages of one sender to one receiver keep their order; everything else is drawn by the seed.

use crate::coverage::Coverage;
use crate::history::History;
use crate::network::Network;
use crate::node::{HealthWrite, Node};
use crate::wiring::{Address, Wired};
use fastrand::Rng;
use mendblock_core::disk::PortOperation;
use mendblock_core::fact::Fact;
use mendblock_core::identity::{PartGeneration, Query};
use mendblock_core::part::{Context, Instant, Outbox, PartName, To};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A nanosecond is 1.
pub const MICROSECOND: u64 = 1_000;
/// In nanoseconds.
pub const MILLISECOND: u64 = 1_000_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// A message reaches a part, if the part still is of that generation.
    Deliver {
        /// Receiver's generation when it was sent.
        generation: PartGeneration,
        /// The message.
        message: To,
    },
    /// A part wants to be woken.
    Wake {
        /// Which.
        address: Address,
        /// Its generation.
        generation: PartGeneration,
        /// When it wanted to be.
        at: Option<Instant>,
    },
    /// A dead part gets its successor.
    Reborn(Address),
    /// A disk operation ends.
    DiskDone(u64),
    /// The device answers an open.
    DiskOpened(Query),
    /// A health file write ends.
    HealthDone(u64, HealthWrite),
    /// A handler ends.
    HelperDone(Query, i32),
    /// The node's dial has an answer.
    Dialled,
    /// A frame leaves the queue towards this node.
    Transmit(u64),
}

struct Scheduled {
    node: usize,
    life: u64,
    event: Event,
}

/// First step of a part.
pub(crate) type Beginning = Box<dyn FnOnce(&mut World)>;

/// The two nodes and everything between them.
pub struct World {
    /// Where it all comes from.
    pub seed: u64,
    /// Draws.
    pub random: Rng,
    /// Simulated time in nanoseconds.
    pub now: u64,
    /// The nodes.
    pub nodes: [Node; 2],
    /// The network.
    pub network: Network,
    /// What clients did.
    pub history: History,
    /// Errors that clients were answered, as text.
    pub client_errors: Vec<String>,
    /// Events so far.
    pub events: u64,
    /// What was reached.
    pub coverage: Coverage,
    /// Changes with every event: two runs with the same digest went the same way.
    pub digest: u64,
    /// Every step to standard error.
    pub trace: bool,
    /// Last command.
    pub last_command: u64,
    pub(crate) last_number: u64,
    /// First steps of the parts of a process that is being started.
    pub(crate) booting: Option<Vec<Beginning>>,
    queue: BTreeMap<(u64, u64), Scheduled>,
    scheduled: u64,
    channels: BTreeMap<(usize, u64, Address, Address), u64>,
}

/// The shell, as a sender.
pub(crate) fn port_of(address: Address) -> Address {
    (
        address.0,
        mendblock_core::identity::ClientId(u64::MAX - address.1.0),
    )
}

impl World {
    /// Two nodes without processes.
    pub fn new(seed: u64, nodes: [Node; 2]) -> Self {
        Self {
            seed,
            random: Rng::with_seed(seed),
            now: MILLISECOND,
            nodes,
            network: Network::default(),
            history: History::default(),
            client_errors: Vec::new(),
            events: 0,
            coverage: Coverage::default(),
            digest: 0,
            trace: std::env::var_os("TRACE").is_some(),
            last_command: 0,
            last_number: 0,
            booting: None,
            queue: BTreeMap::new(),
            scheduled: 0,
            channels: BTreeMap::new(),
        }
    }

    /// A number that is not used for anything else.
    pub(crate) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// A line for whoever replays the seed with `TRACE`.
    pub fn note(&self, node: usize, text: impl FnOnce() -> String) {
        if self.trace {
            let name = &self.nodes[node].configuration.node_name;
            eprintln!("{:>14.6} {name:<5} {}", self.now as f64 / 1e6, text());
        }
    }

    /// Mostly `usual` nanoseconds, sometimes many times that.
    pub(crate) fn delay(&mut self, usual: u64) -> u64 {
        let factor = match self.random.u8(..) {
            0..=229 => 1,
            230..=252 => 8,
            _ => 64,
        };
        self.random.u64(1..=usual * factor)
    }

    pub(crate) fn schedule(&mut self, node: usize, after: u64, event: Event) {
        self.scheduled += 1;
        let life = self.nodes[node].life;
        self.queue.insert(
            (self.now + after, self.scheduled),
            Scheduled { node, life, event },
        );
    }

    /// A message from one part (or port) of a node to another: random delay, order kept per pair.
    pub(crate) fn send(&mut self, node: usize, from: Address, message: To) {
        let to = crate::wiring::address_of(&message);
        let generation = crate::wiring::living(&self.nodes[node].parts, to).unwrap_or(PartGeneration(0));
        let delay = self.delay(10 * MICROSECOND);
        let life = self.nodes[node].life;
        let last = self.channels.entry((node, life, from, to)).or_insert(0);
        let at = (self.now + delay).max(*last + 1);
        *last = at;
        self.schedule(node, at - self.now, Event::Deliver { generation, message });
    }

    /// Forgets what was under way in a process that is no more.
    pub(crate) fn forget(&mut self, node: usize) {
        self.channels.retain(|&(channel, ..), _| channel != node);
    }

    /// Runs one step of a part, if it lives, and carries out what follows.
    pub fn step<P: Wired>(
        &mut self,
        node: usize,
        address: Address,
        run: impl FnOnce(&mut P, &mut Context<'_>, &mut Outbox<P::Effect>),
    ) {
        let mut out = Outbox::default();
        let mut draws = self.random.fork();
        let now = Instant(self.now);
        let clock_off = self.nodes[node].clock_off;
        let Some(slot) = P::slot(&mut self.nodes[node].parts, address.1) else {
            return;
        };
        let Some(part) = slot.part.as_mut() else { return };
        let mut random = || draws.u64(..);
        let mut cx = Context {
            now,
            wall: (1_700_000_000 + now.0 / 1_000_000_000).saturating_add_signed(clock_off),
            random: &mut random,
        };
        run(part, &mut cx, &mut out);
        self.finish::<P>(node, address, out);
    }

    fn finish<P: Wired>(&mut self, node: usize, address: Address, out: Outbox<P::Effect>) {
        for fact in out.facts {
            self.note(node, || format!("{} fact {}", P::NAME, told(&fact)));
            self.coverage.fact(&fact);
            self.nodes[node].facts.push((Instant(self.now), P::NAME, fact));
        }
        for message in out.messages {
            crate::invariants::on_message(self, node, &message);
            self.send(node, address, message);
        }
        P::carry_out(self, node, address, out.effects);
        let again = out.again;
        let Some(slot) = P::slot(&mut self.nodes[node].parts, address.1) else {
            return;
        };
        let generation = slot.generation;
        if again {
            self.schedule(
                node,
                MICROSECOND,
                Event::Wake {
                    address,
                    generation,
                    at: None,
                },
            );
        }
        self.set_alarm::<P>(node, address);
    }

    fn set_alarm<P: Wired>(&mut self, node: usize, address: Address) {
        let Some(slot) = P::slot(&mut self.nodes[node].parts, address.1) else {
            return;
        };
        let wanted = slot.part.as_ref().and_then(|part| part.wake_at());
        let generation = slot.generation;
        if wanted != slot.wake {
            slot.wake = wanted;
            if let Some(at) = wanted {
                // A timer has a granularity: what is due at once must not spin.
                let after = at.0.saturating_sub(self.now).max(MICROSECOND);
                self.schedule(
                    node,
                    after,
                    Event::Wake {
                        address,
                        generation,
                        at: wanted,
                    },
                );
            }
        }
    }

    pub(crate) fn wake<P: Wired>(
        &mut self,
        node: usize,
        address: Address,
        generation: PartGeneration,
        at: Option<Instant>,
    ) {
        let Some(slot) = P::slot(&mut self.nodes[node].parts, address.1) else {
            return;
        };
        if slot.generation != generation || (at.is_some() && slot.wake != at) {
            return;
        }
        if at.is_some() {
            slot.wake = None;
        }
        self.step::<P>(node, address, |part, cx, out| part.wake(cx, out));
    }

    /// The next event stores something of a node: it ends a write or a flush of its disk, or a write of its health file.
    pub fn about_to_store(&self, node: usize) -> bool {
        let Some((_, next)) = self.queue.first_key_value() else {
            return false;
        };
        let here = &self.nodes[node];
        if next.node != node || next.life != here.life || !here.up {
            return false;
        }
        match &next.event {
            Event::DiskDone(number) => here
                .table
                .in_kernel
                .get(number)
                .is_some_and(|entry| !matches!(entry.operation, PortOperation::Read { .. })),
            Event::HealthDone(..) => true,
            _ => false,
        }
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.first_key_value().map(|(&(at, _), _)| at)
    }

    /// The next event happens; false: there is none.
    pub fn advance(&mut self) -> bool {
        let Some(((at, _), Scheduled { node, life, event })) = self.queue.pop_first() else {
            return false;
        };
        self.now = self.now.max(at);
        self.events += 1;
        self.digest = digest(self.digest, self.now, node, &event);
        let current = self.nodes[node].life == life;
        match event {
            Event::Transmit(connection) => self.transmit(node, connection),
            Event::DiskDone(number) => self.disk_done(node, number, current),
            _ if !current || !self.nodes[node].up => {}
            Event::Deliver { generation, message } => {
                let to = crate::wiring::address_of(&message);
                if crate::wiring::living(&self.nodes[node].parts, to) == Some(generation) {
                    self.note(node, || brief(&message));
                    crate::wiring::deliver(self, node, message);
                }
            }
            Event::Wake {
                address,
                generation,
                at,
            } => crate::wiring::wake(self, node, address, generation, at),
            Event::Reborn(address) => crate::wiring::make(self, node, address),
            Event::DiskOpened(query) => self.disk_opened(node, query),
            Event::HealthDone(number, write) => self.health_done(node, number, &write),
            Event::HelperDone(query, exit_code) => self.helper_done(node, query, exit_code),
            Event::Dialled => self.dialled(node),
        }
        crate::invariants::after_step(self);
        true
    }

    /// Runs for so many milliseconds.
    pub fn run_for(&mut self, milliseconds: u64) {
        self.run_nanoseconds(milliseconds * MILLISECOND);
    }

    /// Runs for so many nanoseconds.
    pub fn run_nanoseconds(&mut self, nanoseconds: u64) {
        let until = self.now + nanoseconds;
        while self
            .queue
            .first_key_value()
            .is_some_and(|(&(at, _), _)| at <= until)
        {
            self.advance();
        }
        self.now = until;
    }

    /// Runs until something holds.
    ///
    /// # Panics
    /// When it does not hold after `milliseconds`.
    #[track_caller]
    pub fn run_until(&mut self, what: &str, milliseconds: u64, holds: impl Fn(&Self) -> bool) {
        assert!(
            self.reaches(milliseconds, holds),
            "never: {what}\n{}",
            self.describe()
        );
    }

    /// Runs until something holds: true; or for so long: false.
    pub fn reaches(&mut self, milliseconds: u64, holds: impl Fn(&Self) -> bool) -> bool {
        let until = self.now + milliseconds * MILLISECOND;
        let events = self.events + 500_000;
        while !holds(self) {
            let due = self
                .queue
                .first_key_value()
                .is_some_and(|(&(at, _), _)| at <= until);
            if !due {
                self.now = until;
                return false;
            }
            assert!(self.events < events, "busy without progress\n{}", self.describe());
            self.advance();
        }
        true
    }

    /// Where both nodes stand.
    pub fn describe(&self) -> String {
        let mut text = format!("at {:.3} ms, {} events\n", self.now as f64 / 1e6, self.events);
        for node in &self.nodes {
            let name = &node.configuration.node_name;
            match node.snapshot.as_ref().filter(|_| node.up) {
                None => _ = writeln!(text, "{name}: down"),
                Some(snapshot) => {
                    let _ = writeln!(
                        text,
                        "{name}: {} writes {:?} reads {:?} waits {:?} open requests {} bits {} in kernel {} failed {:?} bad {:?}",
                        snapshot.vector,
                        snapshot.writes,
                        snapshot.reads,
                        snapshot.waits,
                        node.open_requests(),
                        node.set_bits,
                        node.table.in_kernel.len(),
                        node.table.failed,
                        node.bad_blocks,
                    );
                    let _ = writeln!(
                        text,
                        "   ids {:?} reasons {:?}",
                        snapshot.identifiers, snapshot.reasons
                    );
                }
            }
            for (at, part, fact) in node.facts.iter().rev().take(12).rev() {
                let _ = writeln!(text, "   {:>12.3} {part}: {}", at.0 as f64 / 1e6, told(fact));
            }
        }
        text
    }
}

/// Cheap, and good enough to notice that two runs part.
fn digest(before: u64, now: u64, node: usize, event: &Event) -> u64 {
    let what = match event {
        Event::Deliver { generation, message } => {
            let (name, client) = crate::wiring::address_of(message);
            (1, name as u64, client.0 ^ generation.0)
        }
        Event::Wake { address, .. } => (2, address.0 as u64, address.1.0),
        Event::Reborn(address) => (3, address.0 as u64, address.1.0),
        Event::DiskDone(number) => (4, *number, 0),
        Event::DiskOpened(query) => (5, query.0, 0),
        Event::HealthDone(number, _) => (6, *number, 0),
        Event::HelperDone(query, code) => (7, query.0, *code as u64),
        Event::Dialled => (8, 0, 0),
        Event::Transmit(socket) => (9, *socket, 0),
    };
    [now, node as u64, what.0, what.1, what.2]
        .into_iter()
        .fold(before, |sum, value| {
            (sum ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
}

fn told(fact: &Fact) -> String {
    match fact {
        Fact::StateChanged { old, new, cause } => format!("{old} => {new}: {cause}"),
        other => format!("{other:?}"),
    }
}

fn brief(message: &To) -> String {
    let mut text = match message {
        To::State(_) => "-> state ",
        To::Disk(_) => "-> disk ",
        To::Bitmap(_) => "-> bitmap ",
        To::ActivityLog(_) => "-> activity-log ",
        To::Peer(_) => "-> peer ",
        To::Volume(_) => "-> volume ",
        To::Resync(_) => "-> resync ",
        To::Client(..) => "-> client ",
        To::Helper(_) => "-> helper ",
    }
    .to_owned();
    let body = format!("{message:?}");
    text.push_str(body.get(..600).unwrap_or(&body));
    text
}

/// The address of a part that there is once.
pub fn part(name: PartName) -> Address {
    (name, mendblock_core::identity::ClientId(0))
}
