//! The NBD server of a running node, byte by byte and by unmodified clients, over TCP; the tests of `clients` use the
//! unix socket.

use mendblock_harness::admin::text;
use mendblock_harness::disks;
use mendblock_harness::node::Node;
use mendblock_harness::pair::{Options, Pair};
use mendblock_harness::tool::{is_installed, limited, succeeds};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const INVALID: u32 = 0x8000_0003;
const UNKNOWN: u32 = 0x8000_0006;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
/// Longest request that every client may send.
const MOST: u32 = 32 << 20;

/// A connection, without any knowledge of the node's own code.
struct Raw(TcpStream);

impl Raw {
    fn greeted(node: &Node) -> Self {
        let mut stream = TcpStream::connect(node.nbd_port()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGICIHAVEOPT\0\x03", "fixed newstyle, no zeroes");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        Self(stream)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn number(&mut self, length: usize) -> u64 {
        self.bytes(length)
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Sends an option; all replies to it, the last one being an acknowledgement or an error.
    fn option(&mut self, option: u32, body: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let length = body.len() as u32;
        let head = [b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes()].concat();
        self.0.write_all(&[&head, body].concat()).unwrap();
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.number(8), 0x0003_e889_0455_65a9);
            assert_eq!(self.number(4), u64::from(option));
            let kind = self.number(4) as u32;
            let length = self.number(4) as usize;
            let body = self.bytes(length);
            replies.push((kind, body));
            if kind == ACK || kind >= UNSUPPORTED {
                return replies;
            }
        }
    }

    /// The kind of the last reply.
    fn end_of(&mut self, option: u32, body: &[u8]) -> u32 {
        self.option(option, body).last().unwrap().0
    }

    /// In transmission phase, with structured replies where wanted.
    fn ready(node: &Node, structured: bool) -> Self {
        let mut raw = Self::greeted(node);
        if structured {
            assert_eq!(raw.end_of(8, &[]), ACK);
        }
        assert_eq!(raw.end_of(7, &named("r0", &[])), ACK);
        raw
    }

    fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        let parts = [
            &0x2560_9513_u32.to_be_bytes()[..],
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
        ];
        self.0.write_all(&parts.concat()).unwrap();
    }

    /// Error and cookie of a simple reply.
    fn simple(&mut self) -> (u32, u64) {
        assert_eq!(self.number(4), 0x6744_6698);
        (self.number(4) as u32, self.number(8))
    }

    /// Flags, type and body of a structured chunk.
    fn chunk(&mut self, cookie: u64) -> (u64, u64, Vec<u8>) {
        assert_eq!(self.number(4), 0x668e_33ef);
        let (flags, kind) = (self.number(2), self.number(2));
        assert_eq!(self.number(8), cookie);
        let length = self.number(4) as usize;
        (flags, kind, self.bytes(length))
    }

    fn expect_end(mut self) {
        assert_eq!(
            self.0.read(&mut [0]).unwrap(),
            0,
            "the server keeps the connection"
        );
    }
}

/// Body of `INFO` and `GO`.
fn named(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut body = (name.len() as u32).to_be_bytes().to_vec();
    body.extend(name.as_bytes());
    body.extend((wanted.len() as u16).to_be_bytes());
    body.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    body
}

/// Every option that a client may send has its answer, and the session goes on to the transmission phase.
#[test]
fn every_option_has_its_answer() {
    let pair = Pair::running(&Options::default());
    let mut raw = Raw::greeted(&pair.alice);
    // PEEK_EXPORT, STARTTLS, EXTENDED_HEADERS, one that does not exist: with a body too.
    for (option, body) in [
        (4, &b""[..]),
        (5, b""),
        (11, b""),
        (77, b"what is this"),
        (5, b"x"),
    ] {
        assert_eq!(raw.end_of(option, body), UNSUPPORTED, "option {option}");
    }
    let list = raw.option(3, &[]);
    assert_eq!(list.len(), 2, "{list:?}");
    assert_eq!(list[0].0, SERVER);
    assert_eq!(list[0].1[..6], *b"\0\0\0\x02r0");
    assert_eq!(raw.end_of(3, b"body"), INVALID);
    // INFO with EXPORT, NAME, DESCRIPTION and BLOCK_SIZE: nothing is taken by it.
    let info = raw.option(6, &named("r0", &[0, 1, 2, 3]));
    let size = pair.alice.admin.volume().size_bytes;
    let export = info
        .iter()
        .find(|(kind, body)| *kind == INFO && body.starts_with(&[0, 0]));
    assert_eq!(export.unwrap().1[2..10], size.to_be_bytes());
    let blocks = info
        .iter()
        .find(|(kind, body)| *kind == INFO && body.starts_with(&[0, 3]));
    let sizes = [512u32, 4096, MOST].map(u32::to_be_bytes).concat();
    assert_eq!(blocks.unwrap().1[2..], sizes);
    assert!(
        info.iter()
            .any(|(kind, body)| *kind == INFO && body == b"\0\x01r0"),
        "{info:?}"
    );
    assert_eq!(raw.end_of(6, &named("r9", &[])), UNKNOWN);
    assert_eq!(raw.end_of(6, b"short"), INVALID);
    // Meta contexts need structured replies first.
    let context = [
        &named("r0", &[])[..6],
        &1u32.to_be_bytes(),
        &15u32.to_be_bytes(),
        b"base:allocation",
    ]
    .concat();
    assert_eq!(raw.end_of(10, &context), INVALID);
    assert_eq!(raw.end_of(8, &[]), ACK);
    assert_eq!(raw.end_of(10, &context), ACK);
    assert_eq!(raw.end_of(9, &context), ACK);
    // The Secondary's node names the export and says why it does not serve it.
    let refused = Raw::greeted(&pair.bob).option(7, &named("r0", &[]));
    let (kind, why) = refused.last().unwrap();
    assert_eq!(*kind, POLICY);
    assert!(String::from_utf8_lossy(why).contains("Secondary"), "{why:?}");
    // ABORT is acknowledged, and ends the session.
    let mut other = Raw::greeted(&pair.alice);
    assert_eq!(other.end_of(2, &[]), ACK);
    other.expect_end();
    assert_eq!(raw.end_of(7, &named("r0", &[3])), ACK);
    raw.request(0, 0, 9, 0, 512);
    let (flags, kind, body) = raw.chunk(9);
    assert_eq!((flags & 1, kind, body.len()), (1, 1, 8 + 512));
}

/// The oldest way in: `EXPORT_NAME`, without an answer to the option.
#[test]
fn a_client_of_the_first_newstyle() {
    let pair = Pair::running(&Options::default());
    let mut raw = Raw::greeted(&pair.alice);
    raw.0.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x02r0").unwrap();
    assert_eq!(raw.number(8), pair.alice.admin.volume().size_bytes);
    let flags = raw.number(2);
    // HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, CAN_MULTI_CONN; no DF without structured replies.
    assert_eq!(flags & 0b1_1110_1101, 0b1_0110_1101, "{flags:#b}");
    raw.request(0, 0, 1, 0, 4096);
    assert_eq!(raw.simple(), (0, 1));
    raw.bytes(4096);
    raw.request(0, 2, 2, 0, 0);
    raw.expect_end();
}

/// Requests of 32 MiB are done, by simple and by structured replies; what is too long or outside is refused, and the
/// connection stays in step.
#[test]
fn the_longest_requests_and_those_beyond() {
    let mut pair = Pair::running(&Options::default());
    let size = pair.alice.admin.volume().size_bytes;
    let pattern: Vec<u8> = (0..MOST / 4)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b1).to_be_bytes())
        .collect();
    let mut simple = Raw::ready(&pair.alice, false);
    simple.request(0, 1, 1, 4096, MOST);
    simple.0.write_all(&pattern).unwrap();
    assert_eq!(simple.simple(), (0, 1));
    simple.request(0, 0, 2, 4096, MOST);
    assert_eq!(simple.simple(), (0, 2));
    assert!(
        simple.bytes(MOST as usize) == pattern,
        "simple: not what was written"
    );
    let mut structured = Raw::ready(&pair.alice, true);
    structured.request(0, 0, 3, 4096, MOST);
    let mut read = vec![0; MOST as usize];
    loop {
        let (flags, kind, body) = structured.chunk(3);
        assert_eq!(kind, 1, "data");
        let at = u64::from_be_bytes(body[..8].try_into().unwrap()) - 4096;
        read[at as usize..][..body.len() - 8].copy_from_slice(&body[8..]);
        if flags & 1 == 1 {
            break;
        }
    }
    assert!(read == pattern, "structured: not what was written");

    let refused: [(u16, u64, u32, u32); 6] = [
        (0, 0, MOST + 512, EINVAL),
        (0, size, 4096, EINVAL),
        (0, 1, 512, EINVAL),
        (4, size - 512, 1024, EINVAL),
        (6, size - 512, 1024, ENOSPC),
        (99, 0, 512, EINVAL),
    ];
    for (cookie, (command, offset, length, error)) in (10..).zip(refused) {
        simple.request(0, command, cookie, offset, length);
        assert_eq!(
            simple.simple(),
            (error, cookie),
            "command {command} at {offset}+{length}"
        );
    }
    simple.request(0, 1, 20, size, 512);
    simple.0.write_all(&[1; 512]).unwrap();
    assert_eq!(simple.simple(), (ENOSPC, 20));
    simple.request(0, 3, 21, 0, 0);
    assert_eq!(simple.simple(), (0, 21));
    // DISC: what was sent before it is answered, then the connection ends.
    simple.request(0, 0, 22, 0, 512);
    simple.request(0, 2, 23, 0, 0);
    assert_eq!(simple.simple(), (0, 22));
    simple.bytes(512);
    simple.expect_end();
    drop(structured);
    pair.stop_and_compare();
    assert_eq!(disks::block(&pair.bob, 1), pattern[..4096]);
}

/// What one connection was answered is seen by all others, over TCP and the unix socket.
#[test]
fn several_connections_see_one_volume() {
    let pair = Pair::running(&Options::default());
    let mut tcp = Raw::ready(&pair.alice, false);
    let mut others: Vec<_> = (0..4).map(|_| pair.alice.session()).collect();
    for round in 0..40u8 {
        let writer = usize::from(round) % others.len();
        others[writer].write(8192, &[round; 4096]).unwrap();
        others[(writer + 1) % 4].flush().unwrap();
        tcp.request(0, 0, u64::from(round), 8192, 4096);
        assert_eq!(tcp.simple(), (0, u64::from(round)));
        assert_eq!(tcp.bytes(4096), [round; 4096]);
        for other in &mut others {
            assert_eq!(other.read(8192, 4096).unwrap(), [round; 4096]);
        }
    }
    assert_eq!(pair.alice.admin.volume().open, 5);
}

/// nbdinfo, nbdcopy, qemu-img, qemu-io and fio over TCP.
#[test]
fn unmodified_clients_over_tcp() {
    let mut pair = Pair::running(&Options::default());
    let uri = format!("nbd://{}/r0", pair.alice.nbd_port());
    let (there, back) = (pair.disks.path().join("there"), pair.disks.path().join("back"));
    let size = pair.alice.admin.volume().size_bytes;
    let words = (0..size / 8).flat_map(|word: u64| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    fs::write(&there, words.collect::<Vec<u8>>()).unwrap();
    if is_installed("nbdinfo") {
        let list = succeeds(
            "nbdinfo",
            &["--list", &format!("nbd://{}", pair.alice.nbd_port())],
        )
        .unwrap();
        assert!(
            list.contains("export=\"r0\"") && list.contains("block_size_maximum"),
            "{list}"
        );
        let refused = limited("nbdinfo", &[&format!("nbd://{}/r0", pair.bob.nbd_port())])
            .output()
            .unwrap();
        assert!(!refused.status.success());
    }
    if is_installed("nbdcopy") {
        let copy = ["--connections=4", "--requests=16", "--flush"];
        succeeds("nbdcopy", &[&copy[..], &[text(&there), &uri]].concat());
        succeeds("nbdcopy", &[&copy[..2], &[&uri, text(&back)]].concat());
        assert!(
            fs::read(&there).unwrap() == fs::read(&back).unwrap(),
            "nbdcopy: not a copy"
        );
    }
    if is_installed("qemu-img") {
        succeeds(
            "qemu-img",
            &["convert", "-n", "-f", "raw", "-O", "raw", text(&there), &uri],
        );
        succeeds(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", text(&there), &uri],
        );
    }
    if is_installed("qemu-io") {
        let steps = [
            "-c",
            "write -P 0x77 1M 32M",
            "-c",
            "read -P 0x77 1M 32M",
            "-c",
            "flush",
        ];
        let read = succeeds("qemu-io", &[&["-f", "raw"][..], &steps, &[&uri]].concat()).unwrap();
        assert!(!read.contains("failed"), "{read}");
    }
    if is_installed("fio") {
        let uri = format!("--uri={uri}");
        let job = [
            "--name=tcp",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=4k-64k",
            "--iodepth=16",
        ];
        let verify = [
            "--size=16M",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--randseed=3",
        ];
        succeeds("fio", &[job.as_slice(), &verify].concat());
    }
    pair.stop_and_compare();
}
