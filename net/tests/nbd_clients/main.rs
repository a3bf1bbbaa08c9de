//! Real NBD clients, unmodified, against the codec: nbdinfo, nbdcopy, qemu-io, qemu-img, fio, nbd-client. A client
//! that is not installed is skipped, with a message.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod server;

use mendblock_net::nbd::Command as Nbd;
use mendblock_net::nbd::constants::*;
use server::{SIZE, Server};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Duration;

/// Runs a client for at most two minutes; `None` when it is not installed.
fn client(program: &str, arguments: &[&str]) -> Option<Output> {
    if Command::new(program).arg("--version").output().is_err() {
        println!("skipped: {program} is not installed");
        return None;
    }
    let output = Command::new("timeout")
        .arg("120")
        .arg(program)
        .args(arguments)
        .output();
    Some(output.expect("timeout(1) of coreutils runs"))
}

fn text(output: &Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}")
}

/// Output of a client that must succeed.
fn succeeds(program: &str, arguments: &[&str]) -> Option<String> {
    let output = client(program, arguments)?;
    let text = text(&output);
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{text}",
        output.status
    );
    Some(text)
}

/// Output of a client that must fail, by itself and not by its time limit.
fn fails(program: &str, arguments: &[&str]) -> Option<String> {
    let output = client(program, arguments)?;
    let text = text(&output);
    let code = output.status.code();
    assert!(
        code.is_some_and(|code| code != 0 && code != 124),
        "{program} {arguments:?}: {code:?}\n{text}"
    );
    Some(text)
}

/// Bytes that differ from block to block; every fourth 64 KiB is zero.
fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for (number, part) in bytes.chunks_mut(64 << 10).enumerate() {
        if number % 4 == 3 {
            continue;
        }
        for word in part.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_be_bytes());
        }
    }
    bytes
}

#[test]
fn nbdinfo_describes_the_export() {
    let server = Server::start();
    for uri in [
        server.unix_uri("disk"),
        server.tcp_uri("disk"),
        server.unix_uri(""),
    ] {
        let Some(json) = succeeds("nbdinfo", &["--json", &uri]) else {
            return;
        };
        for part in [
            "\"export-size\": 67108864",
            "\"protocol\": \"newstyle-fixed\"",
            "\"structured\": true",
            "\"is_read_only\": false",
            "\"can_cache\": true",
            "\"can_df\": true",
            "\"can_fast_zero\": true",
            "\"can_flush\": true",
            "\"can_fua\": true",
            "\"can_multi_conn\": true",
            "\"can_trim\": true",
            "\"can_zero\": true",
            "\"block_size_minimum\": 512",
            "\"block_size_preferred\": 4096",
            "\"block_size_maximum\": 33554432",
            "\"base:allocation\"",
            "\"description\": \"all features\"",
        ] {
            assert!(json.contains(part), "{part} is missing in {json}");
        }
    }
    let uri = server.unix_uri("readonly");
    succeeds("nbdinfo", &["--is", "read-only", &uri]);
    fails("nbdinfo", &["--can", "multi-conn", &uri]);
    let plain = succeeds("nbdinfo", &["--json", &uri]).unwrap_or_default();
    assert!(!plain.contains("base:allocation"), "{plain}");
}

#[test]
fn nbdinfo_and_nbd_client_list_exports() {
    let server = Server::start();
    for uri in [server.unix_uri(""), server.tcp_uri("")] {
        let Some(list) = succeeds("nbdinfo", &["--list", &uri]) else {
            break;
        };
        assert!(
            list.contains("export=\"disk\"") && list.contains("export=\"readonly\""),
            "{list}"
        );
    }
    let port = server.tcp.port().to_string();
    if let Some(list) = succeeds("nbd-client", &["-l", "127.0.0.1", &port]) {
        assert!(list.contains("disk") && list.contains("readonly"), "{list}");
    }
}

#[test]
fn refused_exports_say_why() {
    let server = Server::start();
    if let Some(text) = fails("qemu-img", &["info", &server.unix_uri("secondary")]) {
        assert!(text.contains("secondary is Secondary here"), "{text}");
    }
    if let Some(text) = fails("qemu-img", &["info", &server.tcp_uri("nonsense")]) {
        assert!(text.contains("no export"), "{text}");
    }
    if let Some(text) = fails("nbdinfo", &["--size", &server.unix_uri("secondary")]) {
        assert!(text.contains("policy"), "{text}");
    }
}

#[test]
fn nbdinfo_maps_allocation() {
    let server = Server::start();
    server.fill(|disk| disk[64 << 10..128 << 10].fill(1));
    let uri = server.unix_uri("disk");
    let Some(map) = succeeds("nbdinfo", &["--map", &uri]) else {
        return;
    };
    let lines: Vec<Vec<&str>> = map
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3, "{map}");
    assert_eq!(lines[0][..3], ["0", "65536", "3"]);
    assert_eq!(lines[1][..3], ["65536", "65536", "0"]);
    assert_eq!(lines[2][..2], ["131072", "66977792"]);
}

#[test]
fn nbdcopy_both_ways_over_several_connections() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("source"), directory.path().join("target"));
    let bytes = pattern();
    fs::write(&source, &bytes).unwrap();
    for tcp in [false, true] {
        let server = Server::start();
        server.heal();
        let uri = if tcp {
            server.tcp_uri("disk")
        } else {
            server.unix_uri("disk")
        };
        let arguments = [
            "--connections=4",
            "--threads=4",
            "--flush",
            source.to_str().unwrap(),
            &uri,
        ];
        if succeeds("nbdcopy", &arguments).is_none() {
            return;
        }
        assert!(server.holds(&bytes));
        assert!(server.saw(|command| matches!(command, Nbd::Flush)));
        assert!(server.connections() >= 4, "multi-conn was not used");

        let _ = fs::remove_file(&target);
        succeeds(
            "nbdcopy",
            &["--request-size=33554432", &uri, target.to_str().unwrap()],
        );
        assert!(fs::read(&target).unwrap() == bytes, "the copy differs");
        assert!(server.longest() == 32 << 20, "no request of 32 MiB was seen");
    }
}

#[test]
fn qemu_io_every_command() {
    let server = Server::start();
    for uri in [server.unix_uri("disk"), server.tcp_uri("disk")] {
        let commands = [
            "write -P 0x5a 0 32M",
            "read -P 0x5a 0 32M",
            "write -f -P 0xa5 1M 64k",
            "read -P 0xa5 1M 64k",
            "write -z 2M 1M",
            "write -z -u 3M 1M",
            "read -P 0 2M 2M",
            "discard 4M 1M",
            "flush",
            "aio_write -P 0x11 8M 1M",
            "aio_write -P 0x22 9M 1M",
            "aio_flush",
            "read -P 0x11 8M 1M",
            "read -P 0x22 9M 1M",
            "read -P 0x5a 10M 512",
        ];
        let mut arguments = vec!["-f", "raw"];
        for command in &commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(&uri);
        let Some(text) = succeeds("qemu-io", &arguments) else {
            return;
        };
        assert!(!text.contains("failed"), "{text}");
    }
    assert!(server.saw(|command| matches!(command, Nbd::Write { fua: true })));
    assert!(server.saw(|command| matches!(command, Nbd::WriteZeroes { no_hole: true, .. })));
    assert!(server.saw(|command| matches!(command, Nbd::WriteZeroes { no_hole: false, .. })));
    assert!(server.saw(|command| matches!(command, Nbd::Trim { .. })));
    assert!(server.saw(|command| matches!(command, Nbd::Flush)));
}

#[test]
fn qemu_io_sees_errors_and_goes_on() {
    let server = Server::start();
    let uri = server.unix_uri("readonly");
    fails("qemu-io", &["-f", "raw", "-c", "write 0 512", &uri]);
    // The block at 48 MiB is unreadable: the error comes back, and the connection stays usable.
    let disk = server.unix_uri("disk");
    let arguments = [
        "-f",
        "raw",
        "-c",
        "read 48M 64k",
        "-c",
        "write -P 1 0 4k",
        "-c",
        "read -P 1 0 4k",
        &disk,
    ];
    if let Some(text) = client("qemu-io", &arguments).map(|output| text(&output)) {
        assert!(text.contains("read failed: Input/output error"), "{text}");
        assert!(
            text.contains("wrote 4096/4096") && text.contains("read 4096/4096"),
            "{text}"
        );
    }
}

#[test]
fn qemu_img_converts_and_compares() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (
        directory.path().join("source.raw"),
        directory.path().join("target.qcow2"),
    );
    let bytes = pattern();
    fs::write(&source, &bytes).unwrap();
    let server = Server::start();
    server.heal();
    let (source, target) = (source.to_str().unwrap(), target.to_str().unwrap());
    for uri in [server.unix_uri("disk"), server.tcp_uri("disk")] {
        server.fill(|disk| disk.fill(0));
        let arguments = ["convert", "-n", "-f", "raw", "-O", "raw", "-W", source, &uri];
        if succeeds("qemu-img", &arguments).is_none() {
            return;
        }
        assert!(server.holds(&bytes));
        succeeds("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &uri]);
        succeeds("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, target]);
        succeeds("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &uri, target]);
    }
}

#[test]
fn fio_verifies_what_it_wrote() {
    let server = Server::start();
    server.heal();
    for uri in [server.unix_uri("disk"), server.tcp_uri("disk")] {
        let uri = format!("--uri={uri}");
        let arguments = [
            "--name=verify",
            "--ioengine=nbd",
            &uri,
            "--rw=randwrite",
            "--bsrange=512-128k",
            "--bs_unaligned=0",
            "--size=16m",
            "--iodepth=32",
            "--fsync=64",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
        ];
        if succeeds("fio", &arguments).is_none() {
            return;
        }
    }
    assert!(server.saw(|command| matches!(command, Nbd::Flush)));
}

/// Sends a request and its payload, and reads a simple reply with `data` bytes: error, data.
fn simple_request(
    stream: &mut UnixStream,
    (command, flags): (u16, u16),
    (offset, length): (u64, u32),
    payload: &[u8],
    data: usize,
) -> (u32, Vec<u8>) {
    let cookie = *b"a cookie";
    let mut request = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
    request.extend_from_slice(&flags.to_be_bytes());
    request.extend_from_slice(&command.to_be_bytes());
    request.extend_from_slice(&cookie);
    request.extend_from_slice(&offset.to_be_bytes());
    request.extend_from_slice(&length.to_be_bytes());
    request.extend_from_slice(payload);
    stream.write_all(&request).unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[..4], NBD_SIMPLE_REPLY_MAGIC.to_be_bytes());
    assert_eq!(head[8..], cookie);
    let mut bytes = vec![0; data];
    stream.read_exact(&mut bytes).unwrap();
    (u32::from_be_bytes([head[4], head[5], head[6], head[7]]), bytes)
}

/// A client of the first days: `NBD_OPT_EXPORT_NAME`, simple replies. Its bad requests get errors, and the payload
/// of a refused write does not put the connection out of step.
#[test]
fn an_old_client_with_bad_requests_stays_in_step() {
    let server = Server::start();
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream
        .write_all(b"\0\0\0\x01IHAVEOPT\0\0\0\x01\0\0\0\x04disk")
        .unwrap();
    let mut export = [0; 134];
    stream.read_exact(&mut export).unwrap();
    assert_eq!(export[..8], (SIZE as u64).to_be_bytes());

    let end = SIZE as u64;
    let sector = [0x5a; 512];
    let mut request =
        |kind, range, payload: &[u8], data| simple_request(&mut stream, kind, range, payload, data);
    assert_eq!(request((NBD_CMD_WRITE, 0), (0, 512), &sector, 0).0, 0);
    // Behind the end, unaligned, with a flag it does not have, longer than the maximum payload.
    assert_eq!(request((NBD_CMD_WRITE, 0), (end, 512), &sector, 0).0, 28);
    assert_eq!(request((NBD_CMD_WRITE, 0), (1, 100), &sector[..100], 0).0, 22);
    assert_eq!(request((NBD_CMD_WRITE, 0x20), (0, 512), &sector, 0).0, 22);
    let long = vec![1; (32 << 20) + 512];
    assert_eq!(
        request((NBD_CMD_WRITE, 0), (0, long.len() as u32), &long, 0).0,
        22
    );
    assert_eq!(request((NBD_CMD_READ, 0), (end - 512, 1024), &[], 0).0, 22);
    assert_eq!(request((NBD_CMD_READ, 0), (48 << 20, 512), &[], 0).0, 5);
    assert_eq!(request((NBD_CMD_BLOCK_STATUS, 0), (0, 512), &[], 0).0, 22);
    assert_eq!(request((99, 0), (0, 512), &[], 0).0, 22);
    assert_eq!(request((NBD_CMD_FLUSH, 0), (0, 0), &[], 0).0, 0);
    let (error, data) = request((NBD_CMD_READ, 0), (0, 1024), &[], 1024);
    assert_eq!(
        (error, &data[..512], &data[512..]),
        (0, &sector[..], &[0; 512][..])
    );

    let mut disconnect = NBD_REQUEST_MAGIC.to_be_bytes().to_vec();
    disconnect.extend_from_slice(b"\0\0\0\x02");
    disconnect.resize(REQUEST_HEADER_BYTES, 0);
    stream.write_all(&disconnect).unwrap();
    assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "the server did not close");
}
