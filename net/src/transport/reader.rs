//! The receiving direction of a connection.

use std::io;
use std::ops::DerefMut;
use std::sync::Arc;

use tokio::io::Interest;

use super::connection::Stream;
use super::inbox::Inbox;
use crate::wire::frame::Frame;
use crate::wire::message::Message;

/// Receives frames. `B` is what payloads are put into.
pub struct Reader<B> {
    stream: Arc<Stream>,
    inbox: Inbox<B>,
}

/// What one call gave: never nothing at all.
#[derive(Debug)]
pub struct Batch<B> {
    /// Complete frames in their order.
    pub frames: Vec<Frame<B>>,
    /// Bytes of the buffer that the allocator did not have for the next frame. Nothing is received until it has
    /// them: wait for a buffer to come back, then call again.
    pub starved: Option<usize>,
}

impl<B: DerefMut<Target = [u8]>> Reader<B> {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            inbox: Inbox::new(),
        }
    }

    /// Waits for frames and gives all that are complete. `allocate` gets the message and the bytes of its payload,
    /// and gives a buffer of exactly that length, or `None` when its pool has none.
    ///
    /// Cancel-safe. An error ends the connection: `InvalidData` carries a
    /// [`DecodeError`](crate::wire::frame::DecodeError), `UnexpectedEof` says that the peer closed. What came whole
    /// before it has been given out.
    pub async fn read_batch(
        &mut self,
        mut allocate: impl FnMut(&Message, usize) -> Option<B>,
    ) -> io::Result<Batch<B>> {
        let mut frames = Vec::new();
        loop {
            let starved = self.inbox.take(&mut allocate, &mut frames);
            if !frames.is_empty() || starved.is_some() {
                return Ok(Batch { frames, starved });
            }
            if let Some(error) = self.inbox.failure() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, error.clone()));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        loop {
            self.stream.ready(Interest::READABLE).await?;
            match self.stream.try_read(&mut self.inbox.spaces()) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => {
                    self.inbox.received(count);
                    return Ok(());
                }
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn closed(&self) -> io::Error {
        let place = if self.inbox.is_between_frames() {
            ""
        } else {
            " in the middle of a frame"
        };
        io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the peer closed the connection{place}"),
        )
    }
}

/// Whether the socket only has to be waited for.
pub(super) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
