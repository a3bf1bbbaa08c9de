//! Moves frames over TCP and unix sockets, on tokio's current-thread runtime.
//!
//! A [`Connection`] splits into a [`Reader`] and a [`Writer`]; each belongs to one task or actor. Neither has a
//! clock: whether the peer is alive is for the owner's keep-alive to say, who then calls [`Writer::shutdown`].

mod connection;
mod inbox;
mod queue;
mod reader;
mod tcp;
mod unix;
mod writer;

pub use connection::{Connection, Listener};
pub use inbox::{Inbox, RECEIVE_BUFFER_BYTES};
pub use queue::{MAX_WRITE_BYTES, MAX_WRITE_SLICES};
pub use reader::{Batch, Reader};
pub use tcp::{TcpOptions, connect_tcp, listen_tcp};
pub use unix::{connect_unix, listen_unix};
pub use writer::Writer;
