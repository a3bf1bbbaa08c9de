//! Garbage on every port, under load: no client and no peer notices it.

use mendblock_harness::admin::http;
use mendblock_harness::history::History;
use mendblock_harness::load::{Load, Random};
use mendblock_harness::pair::{Options, Pair, connection};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

/// What comes to a port: noise, other protocols, beginnings, lengths without end.
fn garbage() -> Vec<Vec<u8>> {
    let mut random = Random(0x1234_5678_9abc_def1);
    let noise = |random: &mut Random, length: usize| -> Vec<u8> {
        (0..length)
            .map(|_| u8::try_from(random.below(256)).unwrap())
            .collect()
    };
    let mut nbd = 3u32.to_be_bytes().to_vec();
    nbd.extend(b"IHAVEOPT");
    nbd.extend([0, 0, 0, 7, 0xFF, 0xFF, 0xFF, 0xFF]);
    vec![
        Vec::new(),
        vec![0],
        vec![0xFF; 4096],
        noise(&mut random, 7),
        noise(&mut random, 64),
        noise(&mut random, 100_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"POST /v1/volumes/r0/primary HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        b"GET /\xFF\xFE HTTP/9.9\r\n\r\n".to_vec(),
        [vec![b'A'; 200_000], b"\r\n\r\n".to_vec()].concat(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        nbd,
    ]
}

/// Sends it and reads until the node has had enough, or nothing comes for a moment. What the node answers is its own
/// affair, and so is when it hangs up.
fn send(mut stream: impl Read + Write, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
    let _ = stream.flush();
    let mut answer = [0; 4096];
    while stream.read(&mut answer).is_ok_and(|length| length > 0) {}
}

#[test]
fn garbage_on_every_port_under_load() {
    let mut pair = Pair::running(&Options::default());
    let load = Load::start(&pair.alice, Arc::<History>::default(), 0..2048, 2);
    load.progress(20, 20);
    let moment = Some(Duration::from_millis(100));
    for node in [&pair.alice, &pair.bob] {
        for bytes in garbage() {
            for address in [node.peer_port(), node.nbd_port(), node.metrics_port()] {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(moment).unwrap();
                stream.set_write_timeout(moment).unwrap();
                send(stream, &bytes);
            }
            for socket in [&node.nbd_socket(), &node.admin.socket] {
                let stream = UnixStream::connect(socket).unwrap();
                stream.set_read_timeout(moment).unwrap();
                stream.set_write_timeout(moment).unwrap();
                send(stream, &bytes);
            }
        }
        load.progress(20, 20);
    }
    load.stop().expect_no_error();
    for node in [&pair.alice, &pair.bob] {
        assert_eq!(connection(&node.admin.volume()), "Connected");
        let log = node.log_text();
        assert!(!log.contains("panic"), "{log}");
    }
    pair.alice.assert_alive();
    pair.bob.assert_alive();
    pair.stop_and_compare();
}

/// Connections that say nothing do not keep the peer out.
#[test]
fn silent_connections_do_not_keep_the_peer_out() {
    let mut pair = Pair::running(&Options::default());
    let silent: Vec<TcpStream> = (0..50)
        .map(|_| TcpStream::connect(pair.alice.peer_port()).unwrap())
        .collect();
    pair.bob.kill();
    pair.alice.admin.wait_for("the loss is noticed", 20, |volume| {
        connection(volume) != "Connected"
    });
    pair.bob.start();
    pair.wait_in_sync(30);
    drop(silent);
    pair.stop_and_compare();
}

/// Requests that the admin API does not know are refused, each with a text and an exit code.
#[test]
fn wrong_requests_to_the_admin_api() {
    let pair = Pair::running(&Options::default());
    let admin = &pair.alice.admin;
    let wrong = [
        ("GET", "/", ""),
        ("GET", "/v2/status", ""),
        ("DELETE", "/v1/status", ""),
        ("POST", "/v1/volumes/r9/primary", ""),
        ("POST", "/v1/volumes/r0/explode", ""),
        ("POST", "/v1/volumes/r0/primary", "{"),
        ("POST", "/v1/volumes/r0/primary", "{\"force\": 7}"),
        ("POST", "/v1/volumes/r0/primary", "{\"forse\": true}"),
        ("POST", "/v1/volumes/r0/faults", "{}"),
        (
            "POST",
            "/v1/volumes/r0/faults",
            "{\"kind\": \"read\", \"sectors\": 0}",
        ),
        (
            "POST",
            "/v1/volumes/r0/faults",
            "{\"kind\": \"flush\", \"hang\": true, \"error\": \"EIO\"}",
        ),
        ("DELETE", "/v1/volumes/r0/faults/99", ""),
        (
            "POST",
            "/v1/volumes/r0/actors/nobody/kill",
            "{\"how\": \"panic\"}",
        ),
        ("POST", "/v1/volumes/r0/actors/disk/kill", "{\"how\": \"gently\"}"),
    ];
    for (method, path, body) in wrong {
        let refused = admin.refused(method, path, body);
        assert!(
            !refused.text.is_empty() && refused.exit_code != 0,
            "{method} {path}: {refused:?}"
        );
    }
    let stream = TcpStream::connect(pair.alice.metrics_port()).unwrap();
    let (code, _) = http(stream, "GET", "/nothing", "").unwrap();
    assert_eq!(code, 404);
    assert_eq!(admin.volume().role, "Primary");
}
