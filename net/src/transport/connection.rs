//! A stream socket of either family, and where such sockets come from.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::reader::Reader;
use super::tcp::TcpOptions;
use super::writer::Writer;

/// A connected socket. Shared by reader and writer; closed when both are dropped.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await.map(drop),
            Self::Unix(stream) => stream.ready(interest).await.map(drop),
        }
    }

    pub(super) fn try_read(&self, spaces: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_vectored(spaces),
            Self::Unix(stream) => stream.try_read_vectored(spaces),
        }
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write_vectored(slices),
            Self::Unix(stream) => stream.try_write_vectored(slices),
        }
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(how),
            Self::Unix(stream) => SockRef::from(stream).shutdown(how),
        }
    }
}

/// A new connection, before the first message.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: String,
}

impl Connection {
    pub(super) fn new(stream: Stream, peer: String) -> Self {
        Self { stream, peer }
    }

    /// Address of the other end, for people.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The two directions. `B` is what received payloads are put into, `P` what sent ones lie in.
    pub fn split<B, P>(self) -> (Reader<B>, Writer<P>)
    where
        B: DerefMut<Target = [u8]>,
        P: Deref<Target = [u8]>,
    {
        let stream = Arc::new(self.stream);
        (Reader::new(stream.clone()), Writer::new(stream))
    }
}

/// Accepts connections. A port: it outlives the actors that use it.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: String,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, TcpOptions),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn tcp(listener: TcpListener, options: TcpOptions) -> io::Result<Self> {
        Ok(Self {
            address: listener.local_addr()?.to_string(),
            socket: Socket::Tcp(listener, options),
        })
    }

    pub(super) fn unix(listener: UnixListener, path: String) -> Self {
        Self {
            address: path,
            socket: Socket::Unix(listener),
        }
    }

    /// Where it listens: the address with the port that was really taken, or the path.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next connection; cancel-safe. After an error (no file descriptors left, a peer that went away
    /// while it was accepted) the listener is good: try again, but not at once.
    pub async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tcp(listener, options) => {
                let (stream, peer) = listener.accept().await?;
                options.apply(&stream)?;
                Ok(Connection::new(Stream::Tcp(stream), peer.to_string()))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Connection::new(
                    Stream::Unix(stream),
                    format!("a client of {}", self.address),
                ))
            }
        }
    }
}
