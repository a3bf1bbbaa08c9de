//! The network between the two nodes: sockets with a queue in each direction, urgent messages before the ordered ones, as the
//! real sender has them.

use mendblock_core::peer::PeerFrame;
use mendblock_net::wire::kind::Class;
use std::collections::{BTreeMap, VecDeque};

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Direction {
    urgent: VecDeque<PeerFrame>,
    ordered: VecDeque<PeerFrame>,
    /// The sender has closed: nothing follows what is queued.
    pub closed: bool,
}

impl Direction {
    /// Queues a frame.
    pub fn push(&mut self, frame: PeerFrame) {
        match frame.message.kind().class() {
            Class::Urgent => self.urgent.push_back(frame),
            Class::Ordered => self.ordered.push_back(frame),
        }
    }

    /// The next frame on the wire.
    pub fn pop(&mut self) -> Option<PeerFrame> {
        self.urgent.pop_front().or_else(|| self.ordered.pop_front())
    }

    /// Frames that have not left.
    pub fn len(&self) -> usize {
        self.urgent.len() + self.ordered.len()
    }

    /// Nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Process life of the node.
    pub life: u64,
    /// The node's shell knows the socket and has not closed it.
    pub open: bool,
    /// Its peer part was told of it (an accepted one: with the hello).
    pub announced: bool,
}

/// A connection. Both ends know it by the same number.
#[derive(Debug)]
pub struct Connection {
    /// Node that dialled.
    pub dialler: usize,
    /// By node.
    pub ends: [End; 2],
    /// Towards each node.
    pub towards: [Direction; 2],
}

/// All connections.
#[derive(Debug, Default)]
pub struct Network {
    /// By number.
    pub connections: BTreeMap<u64, Connection>,
    /// Number of the last.
    pub last: u64,
    /// Nothing gets through, dials fail.
    pub partitioned: bool,
    /// Nothing gets through towards this node; dials fail, for their answer has no way.
    pub blocked: [bool; 2],
    /// Frames take so many times as long; 0: as usual.
    pub slow: u64,
}

impl Network {
    /// Whether frames towards a node are held back.
    pub fn holds_back(&self, node: usize) -> bool {
        self.partitioned || self.blocked[node]
    }

    /// Everything gets through again, as fast as usual.
    pub fn heal(&mut self) {
        self.partitioned = false;
        self.blocked = [false; 2];
        self.slow = 0;
    }
}
