//! TCP between two nodes.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::connection::{Connection, Listener, Stream};

/// Connections that may wait to be accepted: one peer per volume, a few attempts of each.
const BACKLOG: u32 = 64;
/// Keep-alive probes that may stay unanswered.
const KEEPALIVE_RETRIES: u32 = 3;

/// Options of the sockets. Nagle's delay is always off: the writer gathers by itself.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Idle time before the kernel probes the peer, and a third of it between probes. Finds a host that is gone;
    /// a process that hangs is found by pings.
    pub keepalive: Duration,
    /// How long sent bytes may stay unacknowledged before the kernel gives the connection up.
    pub user_timeout: Duration,
    /// Bytes of the kernel's send buffer; `None` leaves the kernel's automatic sizing on.
    pub send_buffer: Option<u32>,
    /// Bytes of the kernel's receive buffer; `None` as for the send buffer.
    pub receive_buffer: Option<u32>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keepalive: Duration::from_secs(10),
            user_timeout: Duration::from_secs(30),
            send_buffer: None,
            receive_buffer: None,
        }
    }
}

impl TcpOptions {
    /// What can be set on a connected socket; accepted ones inherit the buffer sizes from the listener.
    pub(super) fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let interval = (self.keepalive / 3).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new()
            .with_time(self.keepalive)
            .with_interval(interval)
            .with_retries(KEEPALIVE_RETRIES);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))
    }

    /// A socket for the address, with the buffer sizes, which count only before it connects or listens.
    fn socket(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        if let Some(bytes) = self.send_buffer {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(socket)
    }
}

/// Listens on the address; port 0 takes a free one, which [`Listener::address`] tells.
pub fn listen_tcp(address: SocketAddr, options: TcpOptions) -> io::Result<Listener> {
    let socket = options.socket(address)?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Listener::tcp(socket.listen(BACKLOG)?, options)
}

/// Dials the address; `TimedOut` when that takes longer than `timeout`.
pub async fn connect_tcp(
    address: SocketAddr,
    timeout: Duration,
    options: &TcpOptions,
) -> io::Result<Connection> {
    let connecting = options.socket(address)?.connect(address);
    let Ok(connected) = tokio::time::timeout(timeout, connecting).await else {
        let text = format!("no answer from {address} within {timeout:?}: is the node up and the port open?");
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    };
    let stream = connected?;
    options.apply(&stream)?;
    Ok(Connection::new(Stream::Tcp(stream), address.to_string()))
}
