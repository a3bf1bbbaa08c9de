//! What can happen next. Steps happen by themselves, in any order; orders, writes and faults are given from outside.

use crate::ledger::BLOCKS;
use crate::world::{Wire, World};
use mendblock_core::part::Part;
use mendblock_core::volume::machine::Command;
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};
use std::fmt;

/// An administrator's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Without force.
    Primary,
    /// See [`Command`].
    Secondary,
    /// See [`Command`].
    Attach,
    /// Without force.
    Detach,
    /// Keeping the own data.
    Connect,
    /// Without force.
    Disconnect,
    /// See [`Command`].
    Invalidate,
}

impl Order {
    const ALL: [Self; 7] = [
        Self::Primary,
        Self::Secondary,
        Self::Attach,
        Self::Detach,
        Self::Connect,
        Self::Disconnect,
        Self::Invalidate,
    ];

    fn command(self) -> Command {
        match self {
            Self::Primary => Command::Primary { force: false },
            Self::Secondary => Command::Secondary,
            Self::Attach => Command::Attach { new_disk: false },
            Self::Detach => Command::Detach { force: false },
            Self::Connect => Command::Connect {
                discard_my_data: false,
            },
            Self::Disconnect => Command::Disconnect { force: false },
            Self::Invalidate => Command::Invalidate,
        }
    }

    /// Others change nothing.
    fn makes_sense(self, world: &World, node: usize) -> bool {
        let vector = world.nodes[node].vector();
        match self {
            Self::Primary => vector.role == Role::Secondary,
            Self::Secondary => vector.role == Role::Primary,
            Self::Attach => vector.disk == DiskState::Diskless,
            Self::Detach => vector.disk > DiskState::Attaching,
            Self::Connect => vector.connection == ConnectionState::StandAlone,
            Self::Disconnect => vector.connection != ConnectionState::StandAlone,
            Self::Invalidate => vector.disk.is_usable(),
        }
    }
}

/// One event. Nodes are 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Step: what is next on its way to the node arrives.
    Deliver(usize),
    /// Step: a superblock write of the node ends well.
    Stored(usize),
    /// Step: the target copies a block, or says that it has all.
    Copy,
    /// Step: a connection comes up, accepted by the node.
    Connect(usize),
    /// Step: nothing else happens until the next deadline.
    Time,
    /// An order to the node.
    Order(usize, Order),
    /// A client at the node writes the block.
    Write(usize, usize),
    /// The connection breaks with everything that is on its way.
    Cut,
    /// A superblock write of the node fails.
    StoreFails(usize),
    /// A block of the node's disk cannot be read.
    ReadError(usize, usize),
    /// The node's process dies and starts again; whether a superblock on its way is on the disk.
    Crash(usize, bool),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |node: &usize| ["A", "B"][*node];
        match self {
            Self::Deliver(node) => write!(f, "  a message reaches {}", name(node)),
            Self::Stored(node) => write!(f, "  {}'s superblock is written", name(node)),
            Self::Copy => write!(f, "  the resync goes on by a block"),
            Self::Connect(node) => write!(f, "  a connection comes up, {} accepts it", name(node)),
            Self::Time => write!(f, "  time passes until the next deadline"),
            Self::Order(node, order) => write!(f, "order to {}: {order:?}", name(node)),
            Self::Write(node, block) => write!(f, "a client writes block {block} at {}", name(node)),
            Self::Cut => write!(f, "the connection breaks"),
            Self::StoreFails(node) => write!(f, "{}'s superblock write fails", name(node)),
            Self::ReadError(node, block) => write!(f, "{} cannot read block {block} of its disk", name(node)),
            Self::Crash(node, landed) => {
                let what = if *landed { "is on disk" } else { "is lost" };
                write!(
                    f,
                    "{} dies and starts again; a superblock under way {what}",
                    name(node)
                )
            }
        }
    }
}

/// Orders that a node has not answered, at the most.
const MOST_OPEN_ORDERS: usize = 2;
/// Writes in one history, at the most: they only make more versions.
const MOST_WRITES: usize = 4;

impl World {
    /// What may happen by itself.
    pub fn steps(&self) -> Vec<Action> {
        let mut steps = Vec::new();
        for node in [0, 1] {
            if !self.channels[node].is_empty() {
                steps.push(Action::Deliver(node));
            }
            if !self.nodes[node].stores.is_empty() {
                steps.push(Action::Stored(node));
            }
        }
        if self.may_copy().is_some() {
            steps.push(Action::Copy);
        }
        if self.may_connect() {
            steps.extend([Action::Connect(0), Action::Connect(1)]);
        }
        if steps.is_empty() && self.next_deadline().is_some() {
            steps.push(Action::Time);
        }
        steps
    }

    fn next_deadline(&self) -> Option<(u64, usize)> {
        let deadlines = [0, 1].into_iter().filter_map(|node| {
            let at = self.nodes[node].part.wake_at()?;
            Some((at.0, node))
        });
        // Until when a part waits for nobody is set by its next pass over the steps.
        deadlines.filter(|(at, _)| *at < u64::MAX).min()
    }

    /// What may be done from outside.
    pub fn orders(&self) -> Vec<Action> {
        let mut orders = Vec::new();
        for node in [0, 1] {
            let it = &self.nodes[node];
            if it.commands.len() < MOST_OPEN_ORDERS && it.bring_up.is_none() {
                let sensible = Order::ALL
                    .into_iter()
                    .filter(|order| order.makes_sense(self, node));
                orders.extend(sensible.map(|order| Action::Order(node, order)));
            }
            if self.may_write(node) && self.ledger.writes() < MOST_WRITES {
                orders.extend((0..BLOCKS).map(|block| Action::Write(node, block)));
            }
            if it.disk_usable() {
                let good = (0..BLOCKS).filter(|block| it.platters.bad & 1 << block == 0);
                orders.extend(good.map(|block| Action::ReadError(node, block)));
            }
            orders.push(Action::Crash(node, false));
            if !it.stores.is_empty() {
                orders.extend([Action::Crash(node, true), Action::StoreFails(node)]);
            }
        }
        let closed = |node: usize| matches!(self.channels[node].front(), Some(Wire::Closed));
        if (0..2).any(|node| self.ends[node] && !closed(node)) {
            orders.push(Action::Cut);
        }
        orders
    }

    /// Lets it happen.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Deliver(node) => self.deliver(node),
            Action::Stored(node) => self.store_ends(node, true),
            Action::StoreFails(node) => self.store_ends(node, false),
            Action::Copy => self.copy(),
            Action::Connect(resolver) => self.connect(resolver),
            Action::Time => {
                if let Some((at, node)) = self.next_deadline() {
                    self.now = self.now.max(at);
                    self.wake(node);
                }
            }
            Action::Order(node, order) => {
                self.order(node, order.command());
            }
            Action::Write(node, block) => self.write(node, block),
            Action::Cut => self.cut(),
            Action::ReadError(node, block) => self.read_error(node, block),
            Action::Crash(node, landed) => self.crash(node, landed),
        }
    }
}
