//! Clients that write and read at random on several connections until they are told to stop; everything they do stands
//! in a [`History`].

use crate::admin::VOLUME;
use crate::disks::BLOCK;
use crate::history::{BLOCK_SECTORS, History, SECTOR, content};
use crate::nbd::{ANSWER_LIMIT, Session};
use crate::node::Node;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most sectors of one request.
const MOST_SECTORS: u64 = 40;
/// Requests that a client has under way at once.
const DEPTH: usize = 4;
/// How long a client looks for a node that serves it.
const RECONNECT_LIMIT: Duration = Duration::from_secs(60);

/// Hears of each answer that a client got.
pub trait Observer: Send + Sync {
    /// A request was sent at `sent` and answered well at `answered`.
    fn answered(&self, sent: Instant, answered: Instant);
}

/// What the clients do.
pub struct Plan {
    /// Blocks that they use.
    pub area: Range<u64>,
    pub connections: u64,
    /// A broken connection is no end: the client looks for a Primary again.
    pub comes_back: bool,
    /// The same seed draws the same requests.
    pub seed: u64,
    pub observer: Option<Arc<dyn Observer>>,
}

/// A running load.
pub struct Load {
    pub history: Arc<History>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Where the Primary serves.
    socket: Mutex<PathBuf>,
    plan: Plan,
    stop: AtomicBool,
    pause: AtomicBool,
    /// Clients that have nothing under way because of the pause.
    idle: AtomicU64,
    done: AtomicU64,
    reconnects: AtomicU64,
    errors: Mutex<Vec<ClientError>>,
}

/// What no client should see.
#[derive(Debug)]
pub enum ClientError {
    /// The connection broke.
    Broken(io::Error),
    /// Nobody serves the volume any more.
    Unreachable(io::Error),
    /// A request was not answered in time.
    NoAnswer,
    /// A request was answered with this error.
    Refused(u32),
    /// An answer to a request that was answered or never sent.
    Unasked(u64),
    /// What was read cannot be true.
    WrongData(String),
}

impl Display for ClientError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => write!(f, "broken: {error}"),
            Self::Unreachable(error) => write!(f, "connect again: {error}"),
            Self::NoAnswer => write!(f, "no answer within {ANSWER_LIMIT:?}"),
            Self::Refused(error) => write!(f, "a client got error {error}"),
            Self::Unasked(cookie) => {
                write!(f, "an answer to {cookie}, which was answered or never asked")
            }
            Self::WrongData(wrong) => f.write_str(wrong),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::NoAnswer,
            _ => Self::Broken(error),
        }
    }
}

/// How a load ended.
#[derive(Debug, Default)]
pub struct Ended {
    pub errors: Vec<ClientError>,
    pub requests: u64,
    pub reconnects: u64,
}

impl Load {
    /// Starts `connections` clients on the blocks `area`. Each ends with the first broken connection.
    pub fn start(node: &Node, history: Arc<History>, area: Range<u64>, connections: u64) -> Self {
        let plan = Plan {
            area,
            connections,
            comes_back: false,
            seed: 0,
            observer: None,
        };
        Self::on(node.nbd_socket(), history, plan)
    }

    /// Starts clients of the server behind this socket.
    #[track_caller]
    pub fn on(socket: PathBuf, history: Arc<History>, plan: Plan) -> Self {
        let sessions: Vec<Session> = (0..plan.connections)
            .map(|_| Session::connect(&socket, VOLUME).unwrap())
            .collect();
        let shared = Arc::new(Shared {
            socket: Mutex::new(socket),
            plan,
            stop: AtomicBool::new(false),
            pause: AtomicBool::new(false),
            idle: AtomicU64::new(0),
            done: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            errors: Mutex::default(),
        });
        let threads = (0..)
            .zip(sessions)
            .map(|(number, session)| {
                let (shared, history) = (Arc::clone(&shared), Arc::clone(&history));
                std::thread::spawn(move || client(&shared, &history, session, number))
            })
            .collect();
        Self {
            history,
            shared,
            threads,
        }
    }

    /// Waits until all clients have their answers and send nothing more, until [`go_on`](Self::go_on).
    #[track_caller]
    pub fn pause(&self, seconds: u64) {
        self.shared.pause.store(true, Ordering::SeqCst);
        let clients = self.threads.len() as u64;
        self.until(
            seconds,
            || self.shared.idle.load(Ordering::SeqCst) == clients,
            || "the clients do not come to rest".into(),
        );
    }

    /// Ends a pause.
    pub fn go_on(&self) {
        self.shared.pause.store(false, Ordering::SeqCst);
    }

    /// Requests that were answered well until now.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Connections that were made again until now.
    pub fn reconnects(&self) -> u64 {
        self.shared.reconnects.load(Ordering::Relaxed)
    }

    /// Whether a client has seen what none should see.
    pub fn has_errors(&self) -> bool {
        !self.shared.errors.lock().unwrap().is_empty()
    }

    /// From now on this node is the Primary.
    pub fn moves_to(&self, node: &Node) {
        *self.shared.socket.lock().unwrap() = node.nbd_socket();
    }

    /// Waits until `count` more requests were answered well.
    #[track_caller]
    pub fn progress(&self, count: u64, seconds: u64) {
        let wanted = self.done() + count;
        self.until(
            seconds,
            || self.done() >= wanted,
            || format!("the clients come to a stop at {} of {wanted}", self.done()),
        );
    }

    #[track_caller]
    fn until(&self, seconds: u64, is_so: impl Fn() -> bool, otherwise: impl Fn() -> String) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !is_so() {
            let errors = self.shared.errors.lock().unwrap();
            assert!(errors.is_empty(), "clients see errors: {errors:#?}");
            drop(errors);
            assert!(Instant::now() < deadline, "{}", otherwise());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the clients after the requests that each is at.
    pub fn stop(self) -> Ended {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let errors = std::mem::take(&mut *self.shared.errors.lock().unwrap());
        Ended {
            errors,
            requests: self.shared.done.load(Ordering::Relaxed),
            reconnects: self.shared.reconnects.load(Ordering::Relaxed),
        }
    }
}

impl Ended {
    /// No client saw an error.
    #[track_caller]
    pub fn expect_no_error(&self) {
        assert!(self.errors.is_empty(), "clients saw errors: {:#?}", self.errors);
        assert!(self.requests > 0, "nothing was done");
    }

    /// Clients saw their connection break, but nothing worse.
    #[track_caller]
    pub fn expect_only_broken(&self) {
        let worse: Vec<_> = self
            .errors
            .iter()
            .filter(|error| !matches!(error, ClientError::Broken(_)))
            .collect();
        assert!(worse.is_empty(), "{worse:#?}");
    }
}

/// A request under way.
enum Request {
    Read { started: u64, sectors: Range<u64> },
    Write { value: u64, sectors: Range<u64> },
    Flush,
}

struct Client<'a> {
    shared: &'a Shared,
    history: &'a History,
    session: Session,
    /// By cookie, and when each was sent.
    under_way: BTreeMap<u64, (Instant, Request)>,
    random: Random,
}

fn client(shared: &Shared, history: &History, session: Session, number: u64) {
    let own = shared.plan.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let seed = 0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xff51_afd7_ed55_8ccd) ^ own;
    let mut client = Client {
        shared,
        history,
        session,
        under_way: BTreeMap::new(),
        // The generator stands still at 0.
        random: Random(seed.max(1)),
    };
    if let Err(error) = client.run() {
        shared.errors.lock().unwrap().push(error);
    }
}

impl Client<'_> {
    fn run(&mut self) -> Result<(), ClientError> {
        loop {
            match self.work() {
                Ok(()) => return Ok(()),
                Err(ClientError::Broken(_)) if self.shared.plan.comes_back && !self.is_told_to_stop() => {
                    self.come_back()?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn is_told_to_stop(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn may_send(&self) -> bool {
        !self.is_told_to_stop() && !self.shared.pause.load(Ordering::SeqCst)
    }

    /// Sends and receives until it is told to stop and everything is answered.
    fn work(&mut self) -> Result<(), ClientError> {
        loop {
            while self.under_way.len() < DEPTH && self.may_send() {
                self.send()?;
            }
            if !self.under_way.is_empty() {
                self.receive()?;
            } else if self.is_told_to_stop() {
                return Ok(());
            } else {
                self.rest();
            }
        }
    }

    /// Waits for the end of the pause.
    fn rest(&self) {
        self.shared.idle.fetch_add(1, Ordering::SeqCst);
        while !self.may_send() && !self.is_told_to_stop() {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.shared.idle.fetch_sub(1, Ordering::SeqCst);
    }

    /// Half of the requests are whole blocks, as of a file system.
    fn some_sectors(&mut self) -> Range<u64> {
        let area = &self.shared.plan.area;
        let area = area.start * BLOCK_SECTORS..area.end * BLOCK_SECTORS;
        let unit = if self.random.below(2) == 0 {
            BLOCK_SECTORS
        } else {
            1
        };
        let first = area.start + self.random.below((area.end - area.start) / unit) * unit;
        let count = (1 + self.random.below(MOST_SECTORS / unit)) * unit;
        first..(first + count).min(area.end)
    }

    fn send(&mut self) -> Result<(), ClientError> {
        let now = Instant::now();
        let sectors = self.some_sectors();
        let at = sectors.start * SECTOR;
        let (cookie, request) = match self.random.below(12) {
            0 => (self.session.send_flush()?, Request::Flush),
            1..=4 => {
                let started = self.history.begin_read();
                let length = (sectors.end - sectors.start) * SECTOR;
                let cookie = self.session.send_read(at, length as u32)?;
                (cookie, Request::Read { started, sectors })
            }
            choice => {
                let value = self.history.begin_write(sectors.clone());
                let bytes = content(sectors.clone(), value);
                let cookie = self.session.send_write(at, &bytes, choice == 5)?;
                (cookie, Request::Write { value, sectors })
            }
        };
        self.under_way.insert(cookie, (now, request));
        Ok(())
    }

    fn receive(&mut self) -> Result<(), ClientError> {
        let (cookie, error) = self.session.answer()?;
        let (sent, request) = self
            .under_way
            .remove(&cookie)
            .ok_or(ClientError::Unasked(cookie))?;
        if error != 0 {
            return Err(ClientError::Refused(error));
        }
        match request {
            Request::Flush => {}
            Request::Write { value, sectors } => self.history.acknowledged(sectors, value),
            Request::Read { started, sectors } => {
                let length = (sectors.end - sectors.start) * SECTOR;
                let bytes = self.session.payload(length as u32)?;
                self.history
                    .read(started, sectors.start, &bytes)
                    .map_err(ClientError::WrongData)?;
            }
        }
        self.shared.done.fetch_add(1, Ordering::Relaxed);
        if let Some(observer) = &self.shared.plan.observer {
            observer.answered(sent, Instant::now());
        }
        Ok(())
    }

    /// Connects again; what was under way stays unanswered.
    fn come_back(&mut self) -> Result<(), ClientError> {
        for (_, request) in std::mem::take(&mut self.under_way).into_values() {
            if let Request::Write { value, sectors } = request {
                self.history.given_up(sectors, value);
            }
        }
        let deadline = Instant::now() + RECONNECT_LIMIT;
        loop {
            let socket = self.shared.socket.lock().unwrap().clone();
            match Session::connect(&socket, VOLUME) {
                Ok(session) => {
                    self.session = session;
                    self.shared.reconnects.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(_) if self.is_told_to_stop() => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(ClientError::Unreachable(error)),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Reads every block that the history knows, through the volume, and checks it.
#[track_caller]
pub fn check_all(socket: &Path, history: &History) {
    let mut session = Session::connect(socket, VOLUME).unwrap();
    for block in history.blocks() {
        let started = history.begin_read();
        let bytes = session.read(block * BLOCK, BLOCK as u32).unwrap();
        history.read(started, block * BLOCK_SECTORS, &bytes).unwrap();
    }
}

/// Numbers without a pattern, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
