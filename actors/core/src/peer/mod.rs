//! The peer part: one connection to the peer at a time. Handshake of hellos, keep-alive, byte window, routing. It
//! decides whether the peer is reachable.

mod handshake;
mod link;
mod outstanding;
mod part;
mod routing;
#[cfg(test)]
mod tests;

pub use part::PeerPart;

use crate::identity::{ConnectionNumber, PartGeneration, TellNumber};
use crate::part::PartName;
use crate::snapshot::Snapshot;
use mendblock_net::wire::frame::Frame;
use mendblock_net::wire::message::Hello;
use mendblock_storage::buffer::Buffer;
use std::sync::Arc;

/// A frame of the peer protocol with its payload in a pooled buffer.
pub type PeerFrame = Frame<Buffer>;

/// What the link should be (from the state part).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkWish {
    /// No connection (StandAlone).
    Down,
    /// Dial and listen.
    Up,
}

/// Messages of the peer part.
#[derive(Debug)]
pub enum PeerIn {
    /// The state changed.
    Snapshot(Arc<Snapshot>),
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// State: whether to have a connection.
    Wish(LinkWish),
    /// State: drop this connection (refused handshake, protocol error); reconnect unless the wish is down.
    Drop {
        /// Which.
        connection: ConnectionNumber,
        /// Why, for people.
        text: String,
    },
    /// Any part: send frames, in this order. Dropped when the connection is another one.
    Send {
        /// Which connection.
        connection: ConnectionNumber,
        /// The frames.
        frames: Vec<PeerFrame>,
        /// Not before this `Tell` was sent (0: none).
        after: TellNumber,
    },
    /// Volume: every write cut off by this loss is durably marked (R11).
    LossRetired {
        /// Which connection.
        connection: ConnectionNumber,
    },
    /// From the shell: a socket came to be (dialled or accepted) and is known by this number from now on. Nothing has been
    /// said on it yet, except that an accepted one comes with the peer's hello.
    SocketUp {
        /// The port's number for the socket.
        socket: u64,
        /// This node dialled.
        dialled: bool,
        /// The peer's address, for people.
        address: String,
        /// The peer's hello, if it was read already (accepted sockets: the listener needs it to find the volume).
        hello: Option<Hello>,
    },
    /// From the shell: dialling failed.
    DialFailed {
        /// For people.
        text: String,
    },
    /// From the shell: frames arrived on a socket.
    Received {
        /// Which socket.
        socket: u64,
        /// The frames.
        frames: Vec<PeerFrame>,
    },
    /// From the shell: a socket is closed (by whom ever).
    SocketDown {
        /// Which.
        socket: u64,
        /// For people.
        text: String,
        /// A broken frame, not a broken socket.
        protocol_error: bool,
    },
    /// From the shell: bytes of a socket's queue that the kernel has not yet taken.
    Queued {
        /// Which socket.
        socket: u64,
        /// How many.
        bytes: u64,
    },
}

/// What the peer part asks its shell to do.
#[derive(Debug)]
pub enum PeerEffect {
    /// Dial the peer.
    Dial,
    /// Send frames on a socket.
    Send {
        /// Which socket.
        socket: u64,
        /// The frames.
        frames: Vec<PeerFrame>,
        /// Before bulk data that is queued already (acks, pings).
        urgent: bool,
    },
    /// Close a socket; frames that are queued are sent first if `flush`.
    Close {
        /// Which.
        socket: u64,
        /// Send what is queued (a refusal) first.
        flush: bool,
    },
    /// For the metrics: what is open over the connection now, and what was acknowledged since the last time.
    Measured {
        /// Requests sent whose answer is outstanding.
        pending: u64,
        /// Requests received and not answered.
        unacknowledged: u64,
        /// How long mirrored writes that the peer acknowledged took since they were sent, ns.
        writes: Vec<u64>,
    },
}
