//! Clients that write and read at random on several connections until they are told to stop; everything they do stands
//! in a [`History`].

use crate::admin::VOLUME;
use crate::disks::BLOCK;
use crate::history::{BLOCK_SECTORS, History, SECTOR, content};
use crate::nbd::Session;
use crate::node::Node;
use std::collections::BTreeMap;
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

/// A running load.
pub struct Load {
    pub history: Arc<History>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Where the Primary serves.
    socket: Mutex<PathBuf>,
    /// Sectors that it uses.
    area: Range<u64>,
    /// A broken connection is no end: the client looks for a Primary again.
    comes_back: bool,
    stop: AtomicBool,
    done: AtomicU64,
    reconnects: AtomicU64,
    errors: Mutex<Vec<String>>,
}

/// How a load ended.
pub struct Ended {
    /// What went wrong: I/O errors, broken connections, wrong data.
    pub errors: Vec<String>,
    pub requests: u64,
    pub reconnects: u64,
}

impl Load {
    /// Starts `connections` clients on the blocks `area`. Each ends with the first broken connection.
    pub fn start(node: &Node, history: Arc<History>, area: Range<u64>, connections: u64) -> Self {
        Self::with(node, history, area, connections, false)
    }

    /// Clients that connect again when the Primary dies: to it or, after [`moves_to`](Self::moves_to), to another node.
    pub fn that_comes_back(node: &Node, history: Arc<History>, area: Range<u64>, connections: u64) -> Self {
        Self::with(node, history, area, connections, true)
    }

    fn with(
        node: &Node,
        history: Arc<History>,
        area: Range<u64>,
        connections: u64,
        comes_back: bool,
    ) -> Self {
        let shared = Arc::new(Shared {
            socket: Mutex::new(node.nbd_socket()),
            area: area.start * BLOCK_SECTORS..area.end * BLOCK_SECTORS,
            comes_back,
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            errors: Mutex::default(),
        });
        let threads = (0..connections)
            .map(|number| {
                let (shared, history) = (Arc::clone(&shared), Arc::clone(&history));
                let session = node.session();
                std::thread::spawn(move || client(&shared, &history, session, number))
            })
            .collect();
        Self {
            history,
            shared,
            threads,
        }
    }

    /// From now on this node is the Primary.
    pub fn moves_to(&self, node: &Node) {
        *self.shared.socket.lock().unwrap() = node.nbd_socket();
    }

    /// Waits until `count` more requests were answered well.
    #[track_caller]
    pub fn progress(&self, count: u64, seconds: u64) {
        let wanted = self.shared.done.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while self.shared.done.load(Ordering::Relaxed) < wanted {
            let errors = self.shared.errors.lock().unwrap();
            assert!(errors.is_empty(), "clients see errors: {errors:#?}");
            drop(errors);
            let done = self.shared.done.load(Ordering::Relaxed);
            assert!(
                Instant::now() < deadline,
                "the clients come to a stop at {done} of {wanted}"
            );
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
            .filter(|error| !error.starts_with("broken:"))
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

/// Why a client cannot go on.
enum Stopped {
    /// The connection broke.
    Broken(io::Error),
    /// An error that no client must see, or wrong data.
    Wrong(String),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

struct Client<'a> {
    shared: &'a Shared,
    history: &'a History,
    session: Session,
    under_way: BTreeMap<u64, Request>,
    random: Random,
}

fn client(shared: &Shared, history: &History, session: Session, number: u64) {
    let seed = 0x9e37_79b9_7f4a_7c15 ^ (number + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mut client = Client {
        shared,
        history,
        session,
        under_way: BTreeMap::new(),
        random: Random(seed),
    };
    if let Err(error) = client.run() {
        shared.errors.lock().unwrap().push(error);
    }
}

impl Client<'_> {
    fn run(&mut self) -> Result<(), String> {
        loop {
            match self.work() {
                Ok(()) => return Ok(()),
                Err(Stopped::Broken(_)) if self.shared.comes_back && !self.is_told_to_stop() => {
                    self.come_back()?;
                }
                Err(Stopped::Broken(error)) => return Err(format!("broken: {error}")),
                Err(Stopped::Wrong(error)) => return Err(error),
            }
        }
    }

    fn is_told_to_stop(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Sends and receives until it is told to stop and everything is answered.
    fn work(&mut self) -> Result<(), Stopped> {
        loop {
            while self.under_way.len() < DEPTH && !self.is_told_to_stop() {
                self.send()?;
            }
            if self.under_way.is_empty() {
                return Ok(());
            }
            self.receive()?;
            self.shared.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Half of the requests are whole blocks, as of a file system.
    fn some_sectors(&mut self) -> Range<u64> {
        let area = self.shared.area.clone();
        let unit = if self.random.below(2) == 0 {
            BLOCK_SECTORS
        } else {
            1
        };
        let first = area.start + self.random.below((area.end - area.start) / unit) * unit;
        let count = (1 + self.random.below(MOST_SECTORS / unit)) * unit;
        first..(first + count).min(area.end)
    }

    fn send(&mut self) -> Result<(), Stopped> {
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
        self.under_way.insert(cookie, request);
        Ok(())
    }

    fn receive(&mut self) -> Result<(), Stopped> {
        let (cookie, error) = self.session.answer()?;
        let wrong = |what: String| Err(Stopped::Wrong(what));
        let Some(request) = self.under_way.remove(&cookie) else {
            return wrong(format!(
                "an answer to {cookie}, which was answered or never asked"
            ));
        };
        if error != 0 {
            return wrong(format!("a client got error {error}"));
        }
        match request {
            Request::Flush => {}
            Request::Write { value, sectors } => self.history.acknowledged(sectors, value),
            Request::Read { started, sectors } => {
                let length = (sectors.end - sectors.start) * SECTOR;
                let bytes = self.session.payload(length as u32)?;
                self.history.read(started, sectors.start, &bytes).or_else(wrong)?;
            }
        }
        Ok(())
    }

    /// Connects again; what was under way stays unanswered.
    fn come_back(&mut self) -> Result<(), String> {
        for request in std::mem::take(&mut self.under_way).into_values() {
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
                Err(error) if Instant::now() > deadline => return Err(format!("connect again: {error}")),
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
