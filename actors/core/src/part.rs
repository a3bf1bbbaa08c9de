//! What a part is: see [`Part`]. How parts reach each other: [`To`]. What leaves them: [`Outbox`].

use crate::fact::Fact;
use crate::identity::ClientId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Monotonic time in nanoseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// This moment plus `milliseconds`.
    pub fn after_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds.saturating_mul(1_000_000)))
    }

    /// Milliseconds since `earlier`; 0 if that is in the future.
    pub fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// What a part may know of the world while it handles a message.
pub struct Context<'a> {
    /// Monotonic time.
    pub now: Instant,
    /// Wall clock, seconds since 1970.
    pub wall: u64,
    /// Source of fresh random identifiers.
    pub random: &'a mut dyn FnMut() -> u64,
}

impl Context<'_> {
    /// A fresh random number, never 0.
    pub fn fresh(&mut self) -> u64 {
        loop {
            let number = (self.random)();
            if number != 0 {
                return number;
            }
        }
    }
}

/// The kinds of parts, as shown in `status`, metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartName {
    /// `StateActor`.
    State,
    /// `DiskActor`.
    Disk,
    /// `BitmapActor`.
    Bitmap,
    /// `ActivityLogActor`.
    ActivityLog,
    /// `PeerActor`.
    Peer,
    /// `VolumeActor`.
    Volume,
    /// `ResyncActor`.
    Resync,
    /// A client session.
    Client,
    /// `HelperActor`.
    Helper,
}

impl PartName {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::State,
        Self::Disk,
        Self::Bitmap,
        Self::ActivityLog,
        Self::Peer,
        Self::Volume,
        Self::Resync,
        Self::Client,
        Self::Helper,
    ];

    /// The name in `status`, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Disk => "disk",
            Self::Bitmap => "bitmap",
            Self::ActivityLog => "activity-log",
            Self::Peer => "peer",
            Self::Volume => "volume",
            Self::Resync => "resync",
            Self::Client => "client",
            Self::Helper => "helper",
        }
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A message and its receiver.
#[derive(Debug)]
pub enum To {
    /// To `StateActor`.
    State(crate::volume::machine::StateIn),
    /// To `DiskActor`.
    Disk(crate::disk::DiskIn),
    /// To `BitmapActor`.
    Bitmap(crate::bitmap::BitmapIn),
    /// To `ActivityLogActor`.
    ActivityLog(crate::activity::ActivityIn),
    /// To `PeerActor`.
    Peer(crate::peer::PeerIn),
    /// To `VolumeActor`.
    Volume(crate::engine::VolumeIn),
    /// To `ResyncActor`.
    Resync(crate::resync::ResyncIn),
    /// To a client session.
    Client(ClientId, crate::client::ClientIn),
    /// To `HelperActor`.
    Helper(crate::helper::HelperIn),
}

/// What a part wants to happen after it has handled a message. A handler and its outbox are one step: all or nothing.
#[derive(Debug)]
pub struct Outbox<E> {
    /// Messages to other parts, in order.
    pub messages: Vec<To>,
    /// Effects for the part's own port, in order.
    pub effects: Vec<E>,
    /// What happened, for logs, `events`, metrics, `why` and tests.
    pub facts: Vec<Fact>,
    /// The part has more of a long work to do: `wake` is called again, after others had their turn.
    pub again: bool,
}

impl<E> Default for Outbox<E> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            effects: Vec::new(),
            facts: Vec::new(),
            again: false,
        }
    }
}

impl<E> Outbox<E> {
    /// Sends a message to another part.
    pub fn send(&mut self, message: To) {
        self.messages.push(message);
    }

    /// Asks the shell for an effect.
    pub fn effect(&mut self, effect: E) {
        self.effects.push(effect);
    }

    /// Records a fact.
    pub fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }
}

/// A part: the deciding half of an actor.
pub trait Part {
    /// Its messages.
    type In: Send + 'static;
    /// What it asks its own shell to do.
    type Effect: 'static;
    /// Its kind.
    const NAME: PartName;

    /// First step of a generation, before any message.
    fn start(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Self::Effect>) {
        let _ = (cx, out);
    }

    /// Handles one message to its end.
    fn on(&mut self, cx: &mut Context<'_>, message: Self::In, out: &mut Outbox<Self::Effect>);

    /// Called when [`Part::wake_at`] has passed, or after an outbox with `again`.
    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Outbox<Self::Effect>);

    /// When the part wants to be woken without a message.
    fn wake_at(&self) -> Option<Instant>;
}
