//! Sockets to the peer: each has a reading task, a queue of frames to send, and a number. They are closed when a new
//! `PeerActor` begins (its predecessor's connection counts as lost).

use crate::counters::Counters;
use crate::handle::Handle;
use crate::shell::Port;
use mendblock_core::peer::{PeerEffect, PeerFrame, PeerIn, PeerPart};
use mendblock_net::transport::{Connection, Reader, TcpOptions, Writer, connect_tcp};
use mendblock_net::wire::frame::Frame;
use mendblock_net::wire::message::{Hello, Message};
use mendblock_storage::buffer::{Buffer, BufferMut, BufferPool, Share};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long a dial may take.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// How long a closing socket may take to send what is queued.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Pause before the reader asks an empty pool again.
const STARVED_PAUSE: Duration = Duration::from_millis(1);

struct Socket {
    writer: Writer<Buffer>,
    reader: JoinHandle<()>,
    flushing: bool,
}

struct Inner {
    address: SocketAddr,
    options: TcpOptions,
    pool: BufferPool,
    actor: Handle<PeerPart>,
    counters: Arc<Counters>,
    next: u64,
    sockets: BTreeMap<u64, Socket>,
    dialling: Option<JoinHandle<()>>,
}

/// The port; clones are the same one.
#[derive(Clone)]
pub struct PeerPort(Rc<RefCell<Inner>>);

impl PeerPort {
    /// For a peer at this address.
    pub fn new(
        address: SocketAddr,
        options: TcpOptions,
        pool: BufferPool,
        actor: Handle<PeerPart>,
        counters: Arc<Counters>,
    ) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            address,
            options,
            pool,
            actor,
            counters,
            next: 0,
            sockets: BTreeMap::new(),
            dialling: None,
        })))
    }

    /// A socket that the node accepted for this volume; its first message was read to know so.
    pub fn accepted(&self, address: String, reader: Reader<BufferMut>, writer: Writer<Buffer>, hello: Hello) {
        self.adopt(address, reader, writer, Some(hello));
    }

    /// Closes every socket: a new peer part begins.
    pub fn close_all(&self) {
        let mut inner = self.0.borrow_mut();
        inner.counters.peer.measured(0, 0, &[]);
        if let Some(dialling) = inner.dialling.take() {
            dialling.abort();
        }
        for (_, socket) in std::mem::take(&mut inner.sockets) {
            socket.reader.abort();
            // The peer may have closed it first.
            let _ = socket.writer.shutdown();
        }
    }

    fn deliver(&self, message: PeerIn) {
        let actor = self.0.borrow().actor.clone();
        actor.deliver(vec![message]);
    }

    fn dial(&self) {
        let (address, options) = {
            let inner = self.0.borrow();
            if inner
                .dialling
                .as_ref()
                .is_some_and(|dialling| !dialling.is_finished())
            {
                return;
            }
            (inner.address, inner.options.clone())
        };
        let port = self.clone();
        let task = actix::spawn(async move {
            match connect_tcp(address, DIAL_LIMIT, &options).await {
                Ok(connection) => port.dialled(connection),
                Err(error) => port.deliver(PeerIn::DialFailed {
                    text: format!("{address}: {error}"),
                }),
            }
        });
        self.0.borrow_mut().dialling = Some(task);
    }

    fn dialled(&self, connection: Connection) {
        let address = connection.peer().to_owned();
        let (reader, writer) = connection.split();
        self.adopt(address, reader, writer, None);
    }

    fn adopt(
        &self,
        address: String,
        reader: Reader<BufferMut>,
        writer: Writer<Buffer>,
        hello: Option<Hello>,
    ) {
        let number = {
            let mut inner = self.0.borrow_mut();
            inner.next += 1;
            inner.next
        };
        let dialled = hello.is_none();
        // The part must know the socket before its first frame.
        self.deliver(PeerIn::SocketUp {
            socket: number,
            dialled,
            address,
            hello,
        });
        let task = actix::spawn(read(self.clone(), number, reader));
        self.0.borrow_mut().sockets.insert(
            number,
            Socket {
                writer,
                reader: task,
                flushing: false,
            },
        );
    }

    fn send(&self, number: u64, frames: Vec<PeerFrame>) {
        let mut inner = self.0.borrow_mut();
        let counters = Arc::clone(&inner.counters);
        let Some(socket) = inner.sockets.get_mut(&number) else {
            return;
        };
        let mut failed = None;
        for frame in frames {
            let bytes = payload_bytes(&frame);
            match socket.writer.push(&frame.message, frame.payload) {
                Ok(()) => counters.peer.sent(&frame.message, bytes),
                Err(error) => failed = Some(format!("a message could not be encoded: {error}")),
            }
        }
        let flushed = socket.writer.try_flush();
        let waits = match (failed, flushed) {
            (Some(text), _) => Err(text),
            (None, Err(error)) => Err(error.to_string()),
            (None, Ok(empty)) => Ok(!empty && !std::mem::replace(&mut socket.flushing, !empty)),
        };
        drop(inner);
        match waits {
            Err(text) => self.broken(number, text, false),
            Ok(true) => {
                actix::spawn(flush(self.clone(), number));
            }
            Ok(false) => {}
        }
    }

    fn broken(&self, number: u64, text: String, protocol_error: bool) {
        let removed = self.0.borrow_mut().sockets.remove(&number);
        if let Some(socket) = removed {
            socket.reader.abort();
            let _ = socket.writer.shutdown();
            self.deliver(PeerIn::SocketDown {
                socket: number,
                text,
                protocol_error,
            });
        }
    }

    fn close(&self, number: u64, flush: bool) {
        let Some(mut socket) = self.0.borrow_mut().sockets.remove(&number) else {
            return;
        };
        actix::spawn(async move {
            if flush {
                let last = async {
                    let _ = socket.writer.flush().await;
                    let _ = socket.writer.finish();
                    // Closing with unread bytes would make the peer's kernel throw the refusal away: let it close first.
                    (&mut socket.reader).await
                };
                let _ = tokio::time::timeout(CLOSE_LIMIT, last).await;
            }
            socket.reader.abort();
            let _ = socket.writer.shutdown();
        });
    }
}

async fn read(port: PeerPort, number: u64, mut reader: Reader<BufferMut>) {
    let (pool, actor, counters) = {
        let inner = port.0.borrow();
        (
            inner.pool.clone(),
            inner.actor.clone(),
            Arc::clone(&inner.counters),
        )
    };
    loop {
        match reader
            .read_batch(|message, bytes| allocate(&pool, message, bytes))
            .await
        {
            Ok(batch) => {
                let starved = batch.starved.is_some();
                let frames: Vec<PeerFrame> = batch.frames.into_iter().map(frozen).collect();
                for frame in &frames {
                    counters.peer.received(&frame.message, payload_bytes(frame));
                }
                if !frames.is_empty() {
                    actor.deliver(vec![PeerIn::Received {
                        socket: number,
                        frames,
                    }]);
                }
                if starved {
                    tokio::time::sleep(STARVED_PAUSE).await;
                }
            }
            Err(error) => {
                let protocol_error = error.kind() == io::ErrorKind::InvalidData;
                port.broken(number, error.to_string(), protocol_error);
                return;
            }
        }
    }
}

fn payload_bytes(frame: &PeerFrame) -> u64 {
    frame.payload.as_ref().map_or(0, |payload| payload.len() as u64)
}

/// Data that a client or a resync waits for comes out of their shares: a peer's writes must not starve it.
fn allocate(pool: &BufferPool, message: &Message, bytes: usize) -> Option<BufferMut> {
    let share = match message {
        Message::ReadData { .. } => Share::Clients,
        Message::ResyncData { .. } => Share::Resync,
        Message::BitmapPages { .. } => Share::Metadata,
        _ => Share::Peer,
    };
    pool.take(share, bytes)
}

fn frozen(frame: Frame<BufferMut>) -> PeerFrame {
    Frame {
        message: frame.message,
        payload: frame.payload.map(BufferMut::freeze),
    }
}

async fn flush(port: PeerPort, number: u64) {
    loop {
        let ready = match port.0.borrow().sockets.get(&number) {
            Some(socket) => socket.writer.ready(),
            None => return,
        };
        let outcome = ready.await;
        let (queued, actor) = {
            let mut inner = port.0.borrow_mut();
            let actor = inner.actor.clone();
            let Some(socket) = inner.sockets.get_mut(&number) else {
                return;
            };
            match outcome.and_then(|()| socket.writer.try_flush()) {
                Ok(empty) => {
                    socket.flushing = !empty;
                    (Ok(socket.writer.queued_bytes() as u64), actor)
                }
                Err(error) => (Err(error.to_string()), actor),
            }
        };
        match queued {
            Ok(bytes) => {
                actor.deliver(vec![PeerIn::Queued {
                    socket: number,
                    bytes,
                }]);
                if bytes == 0 {
                    return;
                }
                tokio::task::yield_now().await;
            }
            Err(text) => return port.broken(number, text, false),
        }
    }
}

impl Port<PeerEffect> for PeerPort {
    fn carry_out(&mut self, effects: &mut Vec<PeerEffect>) {
        for effect in effects.drain(..) {
            match effect {
                PeerEffect::Dial => self.dial(),
                PeerEffect::Send { socket, frames, .. } => self.send(socket, frames),
                PeerEffect::Close { socket, flush } => self.close(socket, flush),
                PeerEffect::Measured {
                    pending,
                    unacknowledged,
                    writes,
                } => {
                    let counters = Arc::clone(&self.0.borrow().counters);
                    counters.peer.measured(pending, unacknowledged, &writes);
                }
            }
        }
    }
}
