//! Which part a received frame is for.

use super::PeerFrame;
use crate::bitmap::BitmapIn;
use crate::engine::VolumeIn;
use crate::identity::ConnectionNumber;
use crate::part::To;
use crate::volume::machine::StateIn;
use mendblock_net::wire::frame::Frame;
use mendblock_net::wire::kind::Kind;

/// Receiver of a kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    /// The peer part itself.
    Own,
    /// `VolumeActor`.
    Volume,
    /// `BitmapActor`.
    Bitmap,
    /// `StateActor`.
    State,
    /// `StateActor`, and `VolumeActor` in its place between the writes.
    StateAndVolume,
}

/// Receiver of the kind.
pub(super) fn receiver(kind: Kind) -> Receiver {
    match kind {
        Kind::Hello | Kind::Refused | Kind::Ping | Kind::Pong => Receiver::Own,
        Kind::Write
        | Kind::WriteZeroes
        | Kind::WriteAcks
        | Kind::WriteNack
        | Kind::WriteAnsweredWithError
        | Kind::Barrier
        | Kind::BarrierAck
        | Kind::Read
        | Kind::ReadData
        | Kind::ReadFailed
        | Kind::ResyncRead
        | Kind::ResyncData
        | Kind::ResyncFailed
        | Kind::ResyncWritten => Receiver::Volume,
        Kind::BadBlocks
        | Kind::OutOfSync
        | Kind::BitmapPages
        | Kind::BitmapEnd
        | Kind::Cleared
        | Kind::ClearedAck => Receiver::Bitmap,
        Kind::Sizes
        | Kind::Generations
        | Kind::State
        | Kind::ChangeRequest
        | Kind::ChangeAnswer
        | Kind::Parting
        | Kind::DiskRefused
        | Kind::SyncId
        | Kind::Told
        | Kind::Marked => Receiver::State,
        Kind::Tell => Receiver::StateAndVolume,
    }
}

/// Whether a frame that is sent has its place behind a `Tell` that is awaited: all but acknowledgements, and what the
/// state part says.
pub(super) fn follows_tell(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Write
            | Kind::WriteZeroes
            | Kind::WriteAnsweredWithError
            | Kind::Barrier
            | Kind::OutOfSync
            | Kind::Read
            | Kind::ReadData
            | Kind::ReadFailed
            | Kind::ResyncRead
            | Kind::ResyncData
            | Kind::ResyncFailed
    )
}

/// Messages for received frames, one batch for `VolumeActor` each time others do not come between.
pub(super) struct Batch {
    connection: ConnectionNumber,
    volume: Vec<PeerFrame>,
}

impl Batch {
    pub fn new(connection: ConnectionNumber) -> Self {
        Self {
            connection,
            volume: Vec::new(),
        }
    }

    /// Takes one frame. Frames for different receivers have no order between each other, so that of the volume part
    /// grows to the end of the batch.
    pub fn add(&mut self, frame: PeerFrame, send: &mut impl FnMut(To)) {
        let connection = self.connection;
        match receiver(frame.message.kind()) {
            Receiver::Volume => self.volume.push(frame),
            Receiver::Bitmap => send(To::Bitmap(BitmapIn::Peer { connection, frame })),
            Receiver::State => send(To::State(StateIn::Peer {
                connection,
                message: frame.message,
            })),
            Receiver::StateAndVolume => {
                let message = frame.message.clone();
                self.volume.push(Frame {
                    message: frame.message,
                    payload: None,
                });
                send(To::State(StateIn::Peer { connection, message }));
            }
            Receiver::Own => {}
        }
    }

    /// The end of the batch.
    pub fn finish(self, send: &mut impl FnMut(To)) {
        if !self.volume.is_empty() {
            send(To::Volume(VolumeIn::Peer {
                connection: self.connection,
                frames: self.volume,
            }));
        }
    }
}
