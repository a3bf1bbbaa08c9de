//! The checkers themselves: what they must find is planted, and they have to find it.
#![allow(
    clippy::unwrap_used,
    reason = "a panic is how a test fails, in its helper functions too"
)]

use mendblock_chaos::leaks::{BOUNDS, Holds, Watch};
use mendblock_chaos::report::{Class, Report};
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, Plan};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What a false server does with a request, once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    Nothing,
    /// A read is answered with other bytes.
    WrongRead,
    /// A write is acknowledged and forgotten.
    LostWrite,
    /// A request is answered with EIO.
    Error,
    /// The connection is closed.
    HangUp,
}

const BYTES: usize = 64 * 4096;
/// Every so many requests it lies.
const EVERY: u64 = 40;

/// An NBD server that keeps its bytes in memory.
struct Server {
    lie: Lie,
    bytes: Mutex<Vec<u8>>,
    requests: AtomicU64,
}

impl Server {
    fn listen(socket: &Path, lie: Lie) {
        let listener = UnixListener::bind(socket).unwrap();
        let server = Arc::new(Self {
            lie,
            bytes: Mutex::new(vec![0; BYTES]),
            requests: AtomicU64::new(0),
        });
        // It ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&server);
                // A client that goes away is no failure of the server.
                std::thread::spawn(move || drop(server.serve(stream)));
            }
        });
    }

    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        negotiate(&mut stream)?;
        loop {
            let mut head = [0; 28];
            stream.read_exact(&mut head)?;
            let kind = u16::from_be_bytes(head[6..8].try_into().unwrap());
            let at = u64::from_be_bytes(head[16..24].try_into().unwrap()) as usize;
            let length = u32::from_be_bytes(head[24..].try_into().unwrap()) as usize;
            let mut sent = vec![0; if kind == 1 { length } else { 0 }];
            stream.read_exact(&mut sent)?;
            let number = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
            let lies = number.is_multiple_of(EVERY);
            if lies && self.lie == Lie::HangUp {
                return Ok(());
            }
            let error = u32::from(lies && self.lie == Lie::Error) * 5;
            let mut answer = Vec::from(0x6744_6698_u32.to_be_bytes());
            answer.extend(error.to_be_bytes());
            answer.extend(&head[8..16]);
            if error == 0 {
                self.execute(kind, at..at + length, &sent, &mut answer);
            }
            stream.write_all(&answer)?;
        }
    }

    fn execute(&self, kind: u16, at: std::ops::Range<usize>, sent: &[u8], answer: &mut Vec<u8>) {
        let lies = self.requests.load(Ordering::SeqCst) > EVERY;
        let mut bytes = self.bytes.lock().unwrap();
        match kind {
            0 => {
                let first = answer.len();
                answer.extend(&bytes[at]);
                if lies && self.lie == Lie::WrongRead {
                    answer[first + 100] ^= 1;
                }
            }
            1 if lies && self.lie == Lie::LostWrite => {}
            1 => bytes[at].copy_from_slice(sent),
            _ => {}
        }
    }
}

fn negotiate(stream: &mut UnixStream) -> io::Result<()> {
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut start = [0; 20];
    stream.read_exact(&mut start)?;
    let length = u32::from_be_bytes(start[16..].try_into().unwrap());
    stream.read_exact(&mut vec![0; length as usize])?;
    let reply = |kind: u32, body: &[u8]| {
        let mut reply = Vec::from(0x0003_e889_0455_65a9_u64.to_be_bytes());
        reply.extend(7_u32.to_be_bytes());
        reply.extend(kind.to_be_bytes());
        reply.extend((body.len() as u32).to_be_bytes());
        reply.extend(body);
        reply
    };
    let mut info = vec![0, 0];
    info.extend((BYTES as u64).to_be_bytes());
    info.extend([0, 1]);
    stream.write_all(&reply(3, &info))?;
    stream.write_all(&reply(1, &[]))
}

/// What the report says after some work with such a server.
fn report(lie: Lie) -> Report {
    let directory = tempfile::TempDir::with_prefix("chaos-").unwrap();
    let socket = directory.path().join("nbd.sock");
    Server::listen(&socket, lie);
    let plan = Plan {
        area: 0..(BYTES / 4096) as u64,
        connections: 2,
        comes_back: true,
        seed: 7,
        observer: None,
    };
    let load = Load::on(socket, Arc::<History>::default(), plan);
    let deadline = Instant::now() + Duration::from_secs(30);
    while load.done() < 2000 && !load.has_errors() {
        assert!(Instant::now() < deadline, "{lie:?}: neither work nor errors");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut report = Report::default();
    report.clients(load.stop());
    report.check_reconnects(2);
    report
}

#[track_caller]
fn expect(lie: Lie, class: Class) -> Report {
    let report = report(lie);
    assert!(!report.is_good(), "{lie:?} was not noticed");
    for violation in &report.violations {
        assert_eq!(violation.class, class, "{lie:?}: {violation:?}");
    }
    report
}

#[test]
fn a_true_server_is_found_good() {
    let report = report(Lie::Nothing);
    assert!(report.is_good(), "{report}");
    assert!(report.requests >= 2000);
}

#[test]
fn a_planted_wrong_read_is_found() {
    assert!(expect(Lie::WrongRead, Class::WrongData).wrong_data > 0);
}

#[test]
fn a_planted_lost_write_is_found() {
    assert!(expect(Lie::LostWrite, Class::WrongData).wrong_data > 0);
}

#[test]
fn a_planted_error_is_found() {
    assert!(expect(Lie::Error, Class::ClientError).client_errors > 0);
}

#[test]
fn a_connection_that_breaks_without_a_crash_is_found() {
    let report = expect(Lie::HangUp, Class::Reconnect);
    assert!(report.reconnects > 0);
    // The same is explained by a kill of the Primary's process.
    let mut explained = Report {
        primary_kills: report.reconnects,
        reconnects: report.reconnects,
        ..Report::default()
    };
    explained.check_reconnects(1);
    assert!(explained.is_good());
}

/// This very process leaks descriptors, threads and memory, and is looked at as a node is.
#[test]
fn planted_leaks_are_found() {
    let process = std::process::id();
    let look = |watch: &mut Watch, moment: f64| {
        watch.look("leaky", process, Holds::of(process).unwrap(), (moment, 0))
    };
    let mut watch = Watch::default();
    assert_eq!(look(&mut watch, 0.0), None);

    let files: Vec<File> = (0..4 * BOUNDS.descriptors)
        .map(|_| File::open("/dev/null").unwrap())
        .collect();
    assert!(look(&mut watch, 1.0).unwrap().contains("descriptors"));
    drop(files);

    let mut watch = Watch::default();
    assert_eq!(look(&mut watch, 0.0), None);
    let (end, ended) = mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let threads: Vec<_> = (0..4 * BOUNDS.threads)
        .map(|_| {
            let ended = Arc::clone(&ended);
            // They wait for an end that never comes until the sender is dropped.
            std::thread::spawn(move || ended.lock().unwrap().recv().unwrap_err())
        })
        .collect();
    assert!(look(&mut watch, 1.0).is_some());
    drop(end);
    for thread in threads {
        thread.join().unwrap();
    }

    let mut watch = Watch::default();
    let settled = Holds {
        descriptors: 1 << 20,
        threads: 1 << 20,
        ..Holds::of(process).unwrap()
    };
    assert_eq!(watch.look("leaky", process, settled, (0.0, 0)), None);
    let memory = vec![1_u8; 2 * BOUNDS.resident_kib as usize * 1024];
    assert!(look(&mut watch, 1.0).is_some());
    assert_eq!(watch.lives()[0].moments, 2);
    drop(memory);
}

#[test]
fn a_report_names_its_seed_and_survives_json() {
    let mut report = Report {
        seed: 4711,
        ..Report::default()
    };
    report.violated(Class::NotInTime, "both disks UpToDate and connected");
    let text = report.to_string();
    assert!(text.contains("VIOLATION NotInTime"), "{text}");
    assert!(text.ends_with("seed 4711: VIOLATED"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["seed"], 4711);
    assert_eq!(json["violations"][0]["class"], "not-in-time");
}
