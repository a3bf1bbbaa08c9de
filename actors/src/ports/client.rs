//! A client's port: its socket, its unparsed bytes, its unanswered requests and half-sent replies. It outlives the session's
//! actor and the volume's, so that the client notices neither's death.

use crate::counters::Counters;
use crate::handle::Handle;
use crate::service::{Service, Serving};
use crate::shell::Port;
use mendblock_core::client::{ClientEffect, ClientIn, ClientPart};
use mendblock_core::engine::{ClientAnswer, ClientRequest, ClientRequestKind};
use mendblock_core::identity::{Arrival, Sequence};
use mendblock_metrics::Operation;
use mendblock_net::nbd::constants::REQUEST_HEADER_BYTES;
use mendblock_net::nbd::{
    ClientSocket, Command, NbdError, Parsed, Refused, ReplyFormat, ReplyHead, Request, RequestRules,
    SelectedContext, StatusExtent, Transmission, block_status_chunk,
};
use mendblock_storage::buffer::{Buffer, BufferMut, BufferPool, Share};
use mendblock_storage::units::SectorRange;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::sync::Notify;

/// A request is cut at this many bytes and answered once.
const PIECE_BYTES: u64 = 1 << 20;
/// Zeroes carry no payload: their pieces are as large as an activity-log extent.
const ZEROES_PIECE_BYTES: u64 = 4 << 20;
/// Pieces of one client that may be unanswered; then its socket is not read.
const MAX_UNANSWERED: usize = 256;
/// Unparsed bytes kept at the most; payloads beyond it go straight into their buffers.
const INPUT_BYTES: usize = 256 << 10;
/// Replies gathered into one write.
const MAX_SLICES: usize = 64;
/// Pause before an empty pool is asked again.
const STARVED_PAUSE: Duration = Duration::from_millis(1);

/// A request as the client made it; its pieces are answered one by one.
struct Parent {
    cookie: u64,
    offset: u64,
    length: u32,
    read: bool,
    operation: Operation,
    since: Instant,
    pieces: Vec<Option<Buffer>>,
    open: usize,
    error: Option<i32>,
}

struct Inner {
    socket: Rc<ClientSocket>,
    rules: RequestRules,
    contexts: Vec<SelectedContext>,
    actor: Handle<ClientPart>,
    counters: Arc<Counters>,
    parents: BTreeMap<u64, Parent>,
    next_parent: u64,
    unanswered: BTreeMap<Sequence, (ClientRequest, u64, usize)>,
    next_sequence: u64,
    out: VecDeque<Chunk>,
    sent: usize,
    flushing: bool,
    ending: bool,
    gone: bool,
}

enum Chunk {
    Head(ReplyHead),
    Bytes(Vec<u8>),
    Data(Buffer),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Head(head) => head.as_bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Data(buffer) => buffer,
        }
    }
}

/// The port; clones are the same one.
#[derive(Clone)]
pub struct ClientPort {
    inner: Rc<RefCell<Inner>>,
    pool: BufferPool,
    arrivals: Rc<Cell<u64>>,
    room: Rc<Notify>,
    serving: Serving,
}

impl ClientPort {
    /// For a client whose negotiation has ended.
    pub fn new(
        socket: ClientSocket,
        transmission: &Transmission,
        pool: BufferPool,
        arrivals: Rc<Cell<u64>>,
        actor: Handle<ClientPart>,
        counters: Arc<Counters>,
        serving: Serving,
    ) -> Self {
        Self {
            inner: Rc::new(RefCell::new(Inner {
                socket: Rc::new(socket),
                rules: transmission.request_rules(),
                contexts: transmission.contexts.clone(),
                actor,
                counters,
                parents: BTreeMap::new(),
                next_parent: 0,
                unanswered: BTreeMap::new(),
                next_sequence: 0,
                out: VecDeque::new(),
                sent: 0,
                flushing: false,
                ending: false,
                gone: false,
            })),
            pool,
            arrivals,
            room: Rc::new(Notify::new()),
            serving,
        }
    }

    /// Reads requests until the client goes, or is no longer served. `unparsed`: what came behind the negotiation.
    pub async fn serve(self, unparsed: Vec<u8>) {
        let reader = Incoming {
            port: self.clone(),
            input: unparsed,
        };
        let read = tokio::select! {
            read = reader.run() => read,
            () = self.serving.reached(Service::Ended) => Err(no_longer_served()),
        };
        let cause = match read {
            Ok(()) => "disconnected".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::debug!(cause, "client gone");
        // A client that said goodbye, or is let go, gets the answers that are still open.
        while self.owes_answers() && self.serving.now() != Service::Ended {
            if tokio::time::timeout(Duration::from_millis(100), self.room.notified())
                .await
                .is_err()
                && self.broken()
            {
                break;
            }
        }
        self.end();
    }

    /// Whether requests are unanswered, or answers unsent, of a client that is still there.
    fn owes_answers(&self) -> bool {
        let inner = self.inner.borrow();
        !(inner.gone || inner.unanswered.is_empty() && inner.out.is_empty())
    }

    /// Whether the client's socket is dead (its answers go nowhere).
    fn broken(&self) -> bool {
        let inner = self.inner.borrow();
        let mut byte = [0u8; 1];
        matches!(inner.socket.try_read(&mut byte), Ok(0)) || inner.gone
    }

    fn end(&self) {
        let actor = {
            let mut inner = self.inner.borrow_mut();
            if std::mem::replace(&mut inner.gone, true) {
                return;
            }
            shut_down(&inner.socket);
            inner.nobody_waits();
            inner.actor.clone()
        };
        actor.deliver(vec![ClientIn::Gone]);
    }

    /// Whether nothing more will come from or go to the client.
    pub fn is_gone(&self) -> bool {
        self.inner.borrow().gone
    }

    /// Waits for bytes of the client. An error once it is no longer served.
    async fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let socket = Rc::clone(&self.inner.borrow().socket);
        tokio::select! {
            read = socket.receive(bytes) => read,
            () = self.serving.reached(Service::Ending) => Err(no_longer_served()),
        }
    }

    fn replay(&self, generation: mendblock_core::identity::PartGeneration) {
        let (requests, actor) = {
            let inner = self.inner.borrow();
            let requests = inner
                .unanswered
                .values()
                .map(|(request, _, _)| request.clone())
                .collect();
            (requests, inner.actor.clone())
        };
        actor.deliver(vec![ClientIn::Replayed { generation, requests }]);
    }

    fn answers(&self, answers: Vec<ClientAnswer>) {
        let (delivered, actor) = {
            let mut inner = self.inner.borrow_mut();
            let delivered = answers.iter().map(|answer| answer.sequence).collect();
            for answer in answers {
                inner.answered(answer);
            }
            (delivered, inner.actor.clone())
        };
        actor.deliver(vec![ClientIn::Delivered(delivered)]);
        self.room.notify_waiters();
        self.flush();
    }

    fn flush(&self) {
        let outcome = self.inner.borrow_mut().write_out();
        match outcome {
            Err(_) => self.end(),
            Ok(true) => {}
            Ok(false) if std::mem::replace(&mut self.inner.borrow_mut().flushing, true) => {}
            Ok(false) => {
                let port = self.clone();
                actix::spawn(async move { port.flush_later().await });
            }
        }
    }

    async fn flush_later(&self) {
        loop {
            let socket = Rc::clone(&self.inner.borrow().socket);
            if socket.ready(Interest::WRITABLE).await.is_err() {
                return self.end();
            }
            let outcome = self.inner.borrow_mut().write_out();
            match outcome {
                Err(_) => return self.end(),
                Ok(true) => {
                    self.inner.borrow_mut().flushing = false;
                    self.room.notify_waiters();
                    return;
                }
                Ok(false) => tokio::task::yield_now().await,
            }
        }
    }
}

impl Inner {
    /// The client has gone: its open requests are not answered any more.
    fn nobody_waits(&mut self) {
        let open = std::mem::take(&mut self.parents).len();
        self.counters
            .upper_pending
            .fetch_sub(open as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes an answer; one that was handed out before is dropped (each is handed out once, R18).
    fn answered(&mut self, answer: ClientAnswer) {
        let Some((_, parent, index)) = self.unanswered.remove(&answer.sequence) else {
            return;
        };
        let Some(entry) = self.parents.get_mut(&parent) else {
            return;
        };
        match answer.result {
            Ok(buffer) => entry.pieces[index] = buffer,
            Err(errno) => entry.error = entry.error.or(Some(errno)),
        }
        entry.open -= 1;
        if entry.open == 0
            && let Some(entry) = self.parents.remove(&parent)
        {
            self.reply(entry);
        }
    }

    fn reply(&mut self, parent: Parent) {
        self.counters.client_answered(
            parent.operation,
            u64::from(parent.length),
            parent.error.is_none(),
            parent.since.elapsed(),
        );
        let format: ReplyFormat = self.rules.replies;
        if let Some(errno) = parent.error {
            let mut bytes = Vec::new();
            format.error(
                parent.cookie,
                NbdError::from_errno(errno),
                error_text(errno),
                &mut bytes,
            );
            self.out.push_back(Chunk::Bytes(bytes));
        } else if parent.read {
            self.out.push_back(Chunk::Head(format.data(
                parent.cookie,
                parent.offset,
                parent.length,
            )));
            self.out
                .extend(parent.pieces.into_iter().flatten().map(Chunk::Data));
        } else {
            self.out.push_back(Chunk::Head(format.done(parent.cookie)));
        }
    }

    /// Writes as much as the socket takes; true when nothing is left.
    fn write_out(&mut self) -> io::Result<bool> {
        while !self.out.is_empty() {
            let mut slices = Vec::with_capacity(self.out.len().min(MAX_SLICES));
            for (index, chunk) in self.out.iter().take(MAX_SLICES).enumerate() {
                let skip = if index == 0 { self.sent } else { 0 };
                slices.push(IoSlice::new(&chunk.bytes()[skip..]));
            }
            let written = match self.socket.try_write_vectored(&slices) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            drop(slices);
            self.advance(written);
        }
        Ok(true)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.out.front() {
            let rest = first.bytes().len() - self.sent;
            if written < rest {
                self.sent += written;
                return;
            }
            written -= rest;
            self.sent = 0;
            self.out.pop_front();
        }
    }
}

/// A client waits for the end of the connection after its goodbye; the session's actor may hold the socket longer.
fn shut_down(socket: &ClientSocket) {
    if let Err(error) = socket.shut_down() {
        tracing::debug!(%error, "the client had closed its socket before");
    }
}

fn no_longer_served() -> io::Error {
    io::Error::other("the node is stopping: the volume is no longer served")
}

fn operation_of(command: Command) -> Operation {
    match command {
        Command::Write { .. } => Operation::Write,
        Command::Flush => Operation::Flush,
        Command::Trim { .. } => Operation::Trim,
        Command::WriteZeroes { .. } => Operation::WriteZeroes,
        Command::Read { .. } | Command::Cache | Command::BlockStatus { .. } => Operation::Read,
    }
}

fn error_text(errno: i32) -> &'static str {
    match errno {
        5 => "no good copy of the block is reachable: see `mendblock status`",
        28 => "no space left on the lower disk",
        108 => "the volume is no longer served by this node",
        _ => "the request failed: see `mendblock status`",
    }
}

/// The reading half.
struct Incoming {
    port: ClientPort,
    input: Vec<u8>,
}

impl Incoming {
    async fn run(mut self) -> io::Result<()> {
        let mut batch = Vec::new();
        let end = self.read(&mut batch).await;
        // What was taken is answered, however the reading ended.
        self.hand_over(&mut batch);
        end
    }

    async fn read(&mut self, batch: &mut Vec<ClientRequest>) -> io::Result<()> {
        loop {
            if self.port.is_gone() {
                return Ok(());
            }
            if self.port.serving.now() != Service::Open {
                return Err(no_longer_served());
            }
            let rules = self.port.inner.borrow().rules;
            let parsed = rules.first(&self.input).map_err(io::Error::other)?;
            match parsed {
                None => {
                    self.hand_over(batch);
                    self.fill().await?;
                }
                Some(Parsed::Disconnect) => return Ok(()),
                Some(Parsed::Refused(refused)) => {
                    self.input.drain(..REQUEST_HEADER_BYTES);
                    self.refuse(&refused).await?;
                }
                Some(Parsed::Request(request)) => {
                    self.input.drain(..REQUEST_HEADER_BYTES);
                    self.request(&request, batch).await?;
                    if batch.len() >= MAX_UNANSWERED / 2 {
                        self.hand_over(batch);
                    }
                    self.wait_for_room(batch).await;
                }
            }
        }
    }

    /// One socket read becomes one message with all its requests.
    fn hand_over(&self, batch: &mut Vec<ClientRequest>) {
        if !batch.is_empty() {
            let actor = self.port.inner.borrow().actor.clone();
            actor.deliver(vec![ClientIn::Received(std::mem::take(batch))]);
        }
    }

    async fn wait_for_room(&self, batch: &mut Vec<ClientRequest>) {
        loop {
            let notified = self.port.room.notified();
            let full = {
                let inner = self.port.inner.borrow();
                inner.unanswered.len() >= MAX_UNANSWERED && !inner.gone
            };
            if !full {
                return;
            }
            self.hand_over(batch);
            notified.await;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        let have = self.input.len();
        self.input.resize(have + INPUT_BYTES, 0);
        let read = self.port.receive(&mut self.input[have..]).await;
        self.input
            .truncate(have + read.as_ref().map_or(0, |count| *count));
        read.map(|_| ())
    }

    async fn refuse(&mut self, refused: &Refused) -> io::Result<()> {
        let mut skip = refused.skip as usize;
        while skip > 0 {
            let now = skip.min(self.input.len());
            self.input.drain(..now);
            skip -= now;
            if skip > 0 {
                self.fill().await?;
            }
        }
        let mut bytes = Vec::new();
        let format = self.port.inner.borrow().rules.replies;
        format.error(
            refused.cookie,
            refused.error,
            &refused.refusal.to_string(),
            &mut bytes,
        );
        self.port.inner.borrow_mut().out.push_back(Chunk::Bytes(bytes));
        self.port.flush();
        Ok(())
    }

    async fn request(&mut self, request: &Request, batch: &mut Vec<ClientRequest>) -> io::Result<()> {
        let kinds = self.pieces(request, batch).await?;
        let read = matches!(request.command, Command::Read { .. });
        let mut inner = self.port.inner.borrow_mut();
        if kinds.is_empty() {
            let answer = match request.command {
                Command::BlockStatus { .. } => Chunk::Bytes(block_status(request, &inner.contexts)),
                _ => Chunk::Head(inner.rules.replies.done(request.cookie)),
            };
            inner.out.push_back(answer);
            drop(inner);
            self.port.flush();
            return Ok(());
        }
        inner.next_parent += 1;
        let parent = inner.next_parent;
        inner
            .counters
            .upper_pending
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        inner.parents.insert(
            parent,
            Parent {
                cookie: request.cookie,
                offset: request.offset,
                length: request.length,
                read,
                operation: operation_of(request.command),
                since: Instant::now(),
                pieces: vec![None; kinds.len()],
                open: kinds.len(),
                error: None,
            },
        );
        for (index, kind) in kinds.into_iter().enumerate() {
            inner.next_sequence += 1;
            self.port.arrivals.set(self.port.arrivals.get() + 1);
            let request = ClientRequest {
                sequence: Sequence(inner.next_sequence),
                arrival: Arrival(self.port.arrivals.get()),
                kind,
            };
            inner
                .unanswered
                .insert(request.sequence, (request.clone(), parent, index));
            batch.push(request);
        }
        Ok(())
    }

    async fn pieces(
        &mut self,
        request: &Request,
        batch: &mut Vec<ClientRequest>,
    ) -> io::Result<Vec<ClientRequestKind>> {
        Ok(match request.command {
            Command::Read { .. } => cut(request, PIECE_BYTES)
                .map(|range| ClientRequestKind::Read { range })
                .collect(),
            Command::Flush => vec![ClientRequestKind::Flush],
            Command::Trim { fua } => zeroes(request, true, fua),
            Command::WriteZeroes { fua, no_hole, .. } => zeroes(request, !no_hole, fua),
            Command::Write { fua } => {
                let mut kinds = Vec::new();
                for range in cut(request, PIECE_BYTES) {
                    let buffer = self.payload(range.byte_length() as usize, batch).await?;
                    kinds.push(ClientRequestKind::Write { range, buffer, fua });
                }
                kinds
            }
            // A hint, the data is as near as it gets; and what is answered without the disk.
            Command::Cache | Command::BlockStatus { .. } => Vec::new(),
        })
    }

    /// Payload of a write, into a page-aligned buffer.
    async fn payload(&mut self, length: usize, batch: &mut Vec<ClientRequest>) -> io::Result<Buffer> {
        let mut buffer = self.buffer(length, batch).await;
        let have = length.min(self.input.len());
        buffer[..have].copy_from_slice(&self.input[..have]);
        self.input.drain(..have);
        let mut filled = have;
        while filled < length {
            // What was parsed so far may be worked on while the rest arrives.
            self.hand_over(batch);
            filled += self.port.receive(&mut buffer[filled..length]).await?;
        }
        Ok(buffer.freeze())
    }

    /// An empty share stops reading this socket until buffers come back.
    async fn buffer(&self, length: usize, batch: &mut Vec<ClientRequest>) -> BufferMut {
        loop {
            if let Some(buffer) = self.port.pool.take(Share::Clients, length) {
                return buffer;
            }
            self.hand_over(batch);
            tokio::time::sleep(STARVED_PAUSE).await;
        }
    }
}

/// The range of a request in pieces that end at multiples of `piece`.
fn cut(request: &Request, piece: u64) -> impl Iterator<Item = SectorRange> + use<> {
    let end = request.offset + u64::from(request.length);
    let mut offset = request.offset;
    std::iter::from_fn(move || {
        let next = ((offset / piece + 1) * piece).min(end);
        let range = SectorRange::from_bytes(offset, next.checked_sub(offset)?)?;
        offset = next;
        Some(range)
    })
}

/// The status of a range, as far as it is known: all of it is data. A hole of one lower disk may be data on the other, and what
/// a trim left behind is nobody's promise.
fn block_status(request: &Request, contexts: &[SelectedContext]) -> Vec<u8> {
    let data = StatusExtent {
        length: request.length,
        flags: 0,
    };
    let mut bytes = Vec::new();
    for (number, context) in (1..).zip(contexts) {
        let last = number == contexts.len();
        block_status_chunk(request.cookie, context.id, &[data], last, &mut bytes);
    }
    bytes
}

fn zeroes(request: &Request, may_unmap: bool, fua: bool) -> Vec<ClientRequestKind> {
    cut(request, ZEROES_PIECE_BYTES)
        .map(|range| ClientRequestKind::WriteZeroes {
            range,
            may_unmap,
            fua,
        })
        .collect()
}

impl Port<ClientEffect> for ClientPort {
    fn carry_out(&mut self, effects: &mut Vec<ClientEffect>) {
        for effect in effects.drain(..) {
            match effect {
                ClientEffect::Replay { generation } => self.replay(generation),
                ClientEffect::Deliver(answers) => self.answers(answers),
                ClientEffect::Close => self.inner.borrow_mut().ending = true,
            }
        }
    }

    fn is_over(&self) -> bool {
        self.inner.borrow().ending
    }
}
