//! A client session: what stands between a client's port (socket, unparsed bytes, unanswered requests, half-sent
//! replies, which outlive it) and the volume part.

mod session;

pub use session::ClientPart;

use crate::engine::{ClientAnswer, ClientRequest};
use crate::identity::{PartGeneration, Sequence};
use crate::part::PartName;

/// Messages of a client session.
#[derive(Debug)]
pub enum ClientIn {
    /// A neighbour is in a new generation (the volume part: replay what the port holds).
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// From the port: requests, cut at 1 MiB, in order of arrival.
    Received(Vec<ClientRequest>),
    /// From the port: all that it holds unanswered, asked for by [`ClientEffect::Replay`].
    Replayed {
        /// From the effect: generation of the volume part.
        generation: PartGeneration,
        /// The requests, in order of arrival.
        requests: Vec<ClientRequest>,
    },
    /// From the volume part: answers.
    Answers(Vec<ClientAnswer>),
    /// From the port: these answers are in it, each handed out once.
    Delivered(Vec<Sequence>),
    /// From the port: the client disconnected, or its socket broke.
    Gone,
}

/// What a session asks its port to do.
#[derive(Debug)]
pub enum ClientEffect {
    /// Give back all unanswered requests.
    Replay {
        /// Echoed.
        generation: PartGeneration,
    },
    /// Hand answers to the client; the port drops one that it has already, and confirms all by
    /// [`ClientIn::Delivered`].
    Deliver(Vec<ClientAnswer>),
    /// The session may end.
    Close,
}
