//! The sending direction of a connection.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::ops::Deref;
use std::sync::Arc;

use tokio::io::Interest;

use super::connection::Stream;
use super::queue::{MAX_WRITE_SLICES, SendQueue};
use super::reader::is_transient;
use crate::wire::frame::EncodeError;
use crate::wire::message::Message;

/// Sends frames. `P` is what payloads lie in; each is held until its last byte has gone to the kernel.
///
/// An actor pushes what a batch brings, calls [`Writer::try_flush`] once, and when that left something waits for
/// [`Writer::ready`]. A task of its own calls [`Writer::flush`].
pub struct Writer<P> {
    stream: Arc<Stream>,
    queue: SendQueue<P>,
}

impl<P: Deref<Target = [u8]>> Writer<P> {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self {
            stream,
            queue: SendQueue::new(),
        }
    }

    /// Queues a message and its payload; sends nothing yet. An acknowledgement or keep-alive
    /// ([`Class::Urgent`](crate::wire::kind::Class)) goes before all others. Nothing is queued after an error.
    pub fn push(&mut self, message: &Message, payload: Option<P>) -> Result<(), EncodeError> {
        self.queue.push(message, payload)
    }

    /// Bytes that are queued and not yet with the kernel, for the sender's window.
    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes()
    }

    /// One write of at most 1 MiB, without waiting; true when nothing is left. An error ends the connection.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        if self.queue.bytes() > 0 {
            let mut slices = [IoSlice::new(&[]); MAX_WRITE_SLICES];
            let used = self.queue.gather(&mut slices);
            match self.stream.try_write(&slices[..used]) {
                Ok(count) => self.queue.advance(count),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.queue.bytes() == 0)
    }

    /// Resolves when the kernel takes bytes again; borrows nothing.
    pub fn ready(&self) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let stream = self.stream.clone();
        async move { stream.ready(Interest::WRITABLE).await }
    }

    /// Sends all that is queued, letting others of the thread run between two writes. Cancel-safe.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.try_flush()? {
            self.stream.ready(Interest::WRITABLE).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Ends the sending direction behind what the kernel has already: for a last message that the peer must get, such
    /// as a refusal. Flush before, read on until the peer closes or a deadline ends it, then drop both halves: closing
    /// with unread bytes would make the peer's kernel throw the last message away.
    pub fn finish(&self) -> io::Result<()> {
        self.end(Shutdown::Write)
    }

    /// Ends both directions at once: the own reader and the peer see the end of the stream. What is queued is lost.
    pub fn shutdown(&self) -> io::Result<()> {
        self.end(Shutdown::Both)
    }

    fn end(&self, how: Shutdown) -> io::Result<()> {
        match self.stream.shutdown(how) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }
}
