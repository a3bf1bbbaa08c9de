//! A server for the tests: exports in memory, one task for each connection, built from the codec.

use mendblock_net::nbd::constants::*;
use mendblock_net::nbd::*;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::io::Interest;
use tokio::sync::oneshot;

/// Bytes of every export.
pub const SIZE: usize = 64 << 20;
/// Reads that touch it fail until the server is healed.
const BAD: Range<usize> = 48 << 20..(48 << 20) + 512;
/// Granularity of the reported allocation.
const STATUS_STEP: usize = 64 << 10;

/// What the connections share.
struct Shared {
    disk: Mutex<Vec<u8>>,
    bad: Mutex<bool>,
    seen: Mutex<Vec<(Command, u32)>>,
    connections: Mutex<usize>,
}

/// A running server; stops when dropped.
pub struct Server {
    /// Where it listens on TCP.
    pub tcp: SocketAddr,
    socket: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

struct Directory;

impl ExportDirectory for Directory {
    fn list(&self) -> Result<Vec<ListedExport>, ExportRefusal> {
        Ok(["disk", "readonly"]
            .map(|name| ListedExport {
                name: name.to_owned(),
                description: "in memory".to_owned(),
            })
            .into())
    }

    fn info(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        let (name, description, flags, contexts) = match name {
            "" | "disk" => (
                "disk",
                "all features",
                NBD_FLAG_SEND_FLUSH
                    | NBD_FLAG_SEND_FUA
                    | NBD_FLAG_SEND_TRIM
                    | NBD_FLAG_SEND_WRITE_ZEROES
                    | NBD_FLAG_SEND_FAST_ZERO
                    | NBD_FLAG_SEND_CACHE
                    | NBD_FLAG_CAN_MULTI_CONN,
                vec!["base:allocation".to_owned()],
            ),
            "readonly" => ("readonly", "", NBD_FLAG_READ_ONLY, vec![]),
            "secondary" => {
                return Err(ExportRefusal {
                    kind: RefusalKind::NotServing,
                    message: "secondary is Secondary here; connect to its Primary".to_owned(),
                });
            }
            _ => {
                return Err(ExportRefusal {
                    kind: RefusalKind::Unknown,
                    message: format!("no export {name:?} here; list the exports"),
                });
            }
        };
        Ok(ExportInfo {
            name: name.to_owned(),
            description: description.to_owned(),
            size: SIZE as u64,
            flags,
            block_sizes: BlockSizes::default(),
            contexts,
        })
    }
}

impl Server {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("nbd.sock");
        let shared = Arc::new(Shared {
            disk: Mutex::new(vec![0; SIZE]),
            bad: Mutex::new(true),
            seen: Mutex::default(),
            connections: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let (bound_sender, bound) = std::sync::mpsc::channel();
        let (path, served) = (socket.clone(), shared.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let unix = NbdListener::bind(&ListenAddress::Unix(path)).unwrap();
                let tcp = NbdListener::bind(&ListenAddress::Tcp(([127, 0, 0, 1], 0).into())).unwrap();
                bound_sender.send(tcp.address().clone()).unwrap();
                tokio::spawn(accept(unix, served.clone()));
                tokio::spawn(accept(tcp, served));
                let _ = stopped.await;
            });
        });
        let ListenAddress::Tcp(tcp) = bound.recv().unwrap() else {
            panic!("no TCP address");
        };
        Self {
            tcp,
            socket,
            shared,
            stop: Some(stop),
            thread: Some(thread),
            _directory: directory,
        }
    }

    /// Path of the Unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn unix_uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    pub fn tcp_uri(&self, export: &str) -> String {
        format!("nbd://{}/{export}", self.tcp)
    }

    /// Changes the disk behind the clients' back.
    pub fn fill(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.shared.disk.lock().unwrap());
    }

    /// Makes every block readable.
    pub fn heal(&self) {
        *self.shared.bad.lock().unwrap() = false;
    }

    pub fn holds(&self, bytes: &[u8]) -> bool {
        *self.shared.disk.lock().unwrap() == bytes
    }

    /// Whether a request of that kind was served.
    pub fn saw(&self, kind: impl Fn(&Command) -> bool) -> bool {
        self.shared
            .seen
            .lock()
            .unwrap()
            .iter()
            .any(|(command, _)| kind(command))
    }

    /// Length of the longest read or write served.
    pub fn longest(&self) -> u32 {
        let seen = self.shared.seen.lock().unwrap();
        seen.iter()
            .filter(|(command, _)| matches!(command, Command::Read { .. } | Command::Write { .. }))
            .map(|(_, length)| *length)
            .max()
            .unwrap_or(0)
    }

    /// Connections that came to transmission.
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(matches!(ended, Some(Ok(()))), "the server panicked");
        }
    }
}

async fn accept(listener: NbdListener, shared: Arc<Shared>) {
    loop {
        let socket = listener.accept().await.unwrap();
        let shared = shared.clone();
        tokio::spawn(async move {
            let name = socket.to_string();
            let connection = Connection {
                socket,
                input: Vec::new(),
                shared,
            };
            if let Err(error) = connection.serve().await {
                println!("{name}: {error}");
            }
        });
    }
}

struct Connection {
    socket: ClientSocket,
    input: Vec<u8>,
    shared: Arc<Shared>,
}

impl Connection {
    async fn serve(mut self) -> io::Result<()> {
        self.send(&[&Negotiation::GREETING]).await?;
        let mut negotiation = Negotiation::new(ServerPolicy::default());
        let transmission = loop {
            let mut out = Vec::new();
            let advance = negotiation.advance(&self.input, &Directory, &mut out);
            self.input.drain(..advance.consumed);
            self.send(&[&out]).await?;
            match advance.step {
                Step::Continue => {}
                Step::NeedMore => self.receive(self.input.len() + 1).await?,
                Step::Transmission(transmission) => break transmission,
                Step::Close(reason) => return Err(io::Error::other(reason)),
            }
        };
        *self.shared.connections.lock().unwrap() += 1;
        let rules = transmission.request_rules();
        loop {
            self.receive(REQUEST_HEADER_BYTES).await?;
            let parsed = rules.first(&self.input).map_err(io::Error::other)?;
            self.input.drain(..REQUEST_HEADER_BYTES);
            match parsed.expect("a whole header was received") {
                Parsed::Disconnect => return Ok(()),
                Parsed::Refused(refused) => {
                    self.receive(refused.skip as usize).await?;
                    self.input.drain(..refused.skip as usize);
                    let mut out = Vec::new();
                    let message = refused.refusal.to_string();
                    rules
                        .replies
                        .error(refused.cookie, refused.error, &message, &mut out);
                    self.send(&[&out]).await?;
                }
                Parsed::Request(request) => {
                    let length = request.payload_length() as usize;
                    self.receive(length).await?;
                    let payload: Vec<u8> = self.input.drain(..length).collect();
                    self.answer(request, &payload, &transmission).await?;
                }
            }
        }
    }

    async fn answer(&self, request: Request, payload: &[u8], session: &Transmission) -> io::Result<()> {
        let (cookie, format) = (request.cookie, session.replies);
        let start = request.offset as usize;
        let range = start..start + request.length as usize;
        self.shared
            .seen
            .lock()
            .unwrap()
            .push((request.command, request.length));
        let mut out = Vec::new();
        let mut data = Vec::new();
        match request.command {
            Command::Read { .. } if *self.shared.bad.lock().unwrap() && overlap(&range, &BAD) => {
                format.error(cookie, NbdError::from_errno(61), "unreadable medium", &mut out);
            }
            Command::Read { .. } => {
                data = self.shared.disk.lock().unwrap()[range].to_vec();
                let head = format.data(cookie, request.offset, request.length);
                return self.send(&[head.as_bytes(), &data]).await;
            }
            Command::WriteZeroes { fast_zero: true, .. } => {
                format.error(cookie, NbdError::Enotsup, "no faster than writing", &mut out);
            }
            Command::BlockStatus { only_one } => {
                let disk = self.shared.disk.lock().unwrap();
                let extents = extents(&disk[range], only_one);
                reply::block_status_chunk(cookie, session.contexts[0].id, &extents, true, &mut out);
            }
            Command::Write { .. } => self.shared.disk.lock().unwrap()[range].copy_from_slice(payload),
            Command::WriteZeroes { .. } | Command::Trim { .. } => {
                self.shared.disk.lock().unwrap()[range].fill(0);
            }
            Command::Flush | Command::Cache => {}
        }
        if out.is_empty() {
            out.extend_from_slice(format.done(cookie).as_bytes());
        }
        self.send(&[&out, &data]).await
    }

    /// Reads until `length` bytes are there.
    async fn receive(&mut self, length: usize) -> io::Result<()> {
        let mut part = vec![0; 256 << 10];
        while self.input.len() < length {
            self.socket.ready(Interest::READABLE).await?;
            match self.socket.try_read(&mut part) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.input.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn send(&self, parts: &[&[u8]]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            self.socket.ready(Interest::WRITABLE).await?;
            match self.socket.try_write_vectored(rest) {
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Allocation of the range in steps: zero parts are holes.
fn extents(disk: &[u8], only_one: bool) -> Vec<StatusExtent> {
    let mut extents: Vec<StatusExtent> = Vec::new();
    for part in disk.chunks(STATUS_STEP) {
        let flags = match part.iter().all(|byte| *byte == 0) {
            true => NBD_STATE_HOLE | NBD_STATE_ZERO,
            false => 0,
        };
        match extents.last_mut() {
            Some(last) if last.flags == flags => last.length += part.len() as u32,
            Some(_) if only_one => break,
            _ => extents.push(StatusExtent {
                length: part.len() as u32,
                flags,
            }),
        }
    }
    extents
}
