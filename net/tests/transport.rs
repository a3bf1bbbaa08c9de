//! Frames over real sockets.
#![cfg(feature = "transport")]
#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

use std::io::ErrorKind;
use std::time::Duration;

use mendblock_net::transport::*;
use mendblock_net::wire::message::Message;
use mendblock_storage::units::SectorRange;

type Halves = (Reader<Vec<u8>>, Writer<Vec<u8>>);

const FRAMES: u64 = 10_000;
const TIMEOUT: Duration = Duration::from_secs(30);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(TIMEOUT, test).await.expect("the test hangs") });
}

async fn tcp_pair() -> (Halves, Halves) {
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), TcpOptions::default()).unwrap();
    let address = listener.address().parse().unwrap();
    let dialled = connect_tcp(address, TIMEOUT, &TcpOptions::default())
        .await
        .unwrap();
    assert_eq!(dialled.peer(), listener.address());
    (dialled.split(), listener.accept().await.unwrap().split())
}

async fn unix_pair(directory: &tempfile::TempDir) -> (Halves, Halves) {
    let path = directory.path().join("peer");
    let listener = listen_unix(&path).unwrap();
    let dialled = connect_unix(&path).await.unwrap();
    (dialled.split(), listener.accept().await.unwrap().split())
}

fn write(request: u64) -> (Message, Vec<u8>) {
    let sectors = 1 + (request % 16) as u32;
    let message = Message::Write {
        request,
        epoch: request / 100,
        range: SectorRange::new(request, sectors).unwrap(),
        fua: false,
        may_set_in_sync: true,
    };
    (message, vec![request as u8; sectors as usize * 512])
}

fn allocate(_: &Message, length: usize) -> Option<Vec<u8>> {
    Some(vec![0; length])
}

/// Sends writes one way while each is acknowledged the other way.
async fn writes_and_acks((mut own_in, mut own_out): Halves, (mut peer_in, mut peer_out): Halves) {
    let send = async {
        for request in 0..FRAMES {
            let (message, payload) = write(request);
            own_out.push(&message, Some(payload)).unwrap();
            if own_out.queued_bytes() > 4 << 20 || request == FRAMES - 1 {
                own_out.flush().await.unwrap();
                assert_eq!(own_out.queued_bytes(), 0);
            }
        }
    };
    let answer = async {
        let mut expected = 0;
        while expected < FRAMES {
            let mut requests = Vec::new();
            for frame in peer_in.read_batch(allocate).await.unwrap().frames {
                let (message, payload) = write(expected);
                assert_eq!((frame.message, frame.payload), (message, Some(payload)));
                requests.push(expected);
                expected += 1;
            }
            peer_out.push(&Message::WriteAcks { requests }, None).unwrap();
            peer_out.flush().await.unwrap();
        }
    };
    let collect = async {
        let mut acked = 0..FRAMES;
        while !acked.is_empty() {
            for frame in own_in.read_batch(allocate).await.unwrap().frames {
                let Message::WriteAcks { requests } = frame.message else {
                    panic!("no ack: {:?}", frame.message);
                };
                assert!(requests.into_iter().all(|request| acked.next() == Some(request)));
            }
        }
    };
    tokio::join!(send, answer, collect);
}

#[test]
fn ten_thousand_frames_over_tcp() {
    run(async {
        let (own, peer) = tcp_pair().await;
        writes_and_acks(own, peer).await;
    });
}

#[test]
fn ten_thousand_frames_over_unix() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let (own, peer) = unix_pair(&directory).await;
        writes_and_acks(own, peer).await;
    });
}

#[test]
fn a_ping_overtakes_what_the_kernel_has_not_taken() {
    run(async {
        let ((_own_in, mut out), (mut peer_in, _peer_out)) = tcp_pair().await;
        // Far more than the kernel's buffers hold, so that most of it still waits here.
        let count = 64u64;
        for request in 0..count {
            let message = Message::Write {
                request,
                epoch: 1,
                range: SectorRange::new(0, 2048).unwrap(),
                fua: false,
                may_set_in_sync: true,
            };
            out.push(&message, Some(vec![0; 1 << 20])).unwrap();
        }
        let mut before = usize::MAX;
        while out.queued_bytes() < before {
            before = out.queued_bytes();
            assert!(!out.try_flush().unwrap());
        }
        out.push(&Message::Ping { number: 1 }, None).unwrap();
        let receive = async {
            let mut kinds = Vec::new();
            while kinds.len() <= count as usize {
                let batch = peer_in.read_batch(allocate).await.unwrap();
                kinds.extend(batch.frames.into_iter().map(|frame| frame.message));
            }
            kinds
        };
        let (sent, received) = tokio::join!(out.flush(), receive);
        sent.unwrap();
        let ping = received
            .iter()
            .position(|message| matches!(message, Message::Ping { .. }))
            .unwrap();
        let sent_before = (count << 20) as usize - before;
        assert!(
            ping <= sent_before / (1 << 20) + 1,
            "the ping came as frame {ping}"
        );
        let order = received.iter().filter_map(|message| match message {
            Message::Write { request, .. } => Some(*request),
            _ => None,
        });
        assert!(order.eq(0..count));
    });
}

#[test]
fn a_dropped_read_loses_nothing() {
    run(async {
        let ((_own_in, mut out), (mut peer_in, _peer_out)) = tcp_pair().await;
        let send = async {
            for request in 0..300 {
                let (message, payload) = write(request);
                out.push(&message, Some(payload)).unwrap();
                out.flush().await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receive = async {
            let mut expected = 0;
            while expected < 300 {
                let batch = tokio::select! {
                    biased;
                    batch = peer_in.read_batch(allocate) => batch.unwrap(),
                    () = tokio::task::yield_now() => continue,
                };
                for frame in batch.frames {
                    assert_eq!(frame.message, write(expected).0);
                    expected += 1;
                }
            }
        };
        tokio::join!(send, receive);
    });
}

#[test]
fn the_end_of_the_stream_is_told() {
    run(async {
        let ((mut own_in, mut own_out), (mut peer_in, peer_out)) = tcp_pair().await;
        let refused = Message::Refused {
            reason: "another volume".into(),
            for_good: true,
        };
        own_out.push(&refused, None).unwrap();
        own_out.flush().await.unwrap();
        own_out.finish().unwrap();
        let batch = peer_in.read_batch(allocate).await.unwrap();
        assert_eq!(batch.frames[0].message, refused);
        let end = peer_in.read_batch(allocate).await.unwrap_err();
        assert_eq!(
            (end.kind(), end.to_string().as_str()),
            (ErrorKind::UnexpectedEof, "the peer closed the connection")
        );
        peer_out.shutdown().unwrap();
        assert_eq!(
            own_in.read_batch(allocate).await.unwrap_err().kind(),
            ErrorKind::UnexpectedEof
        );
        own_out.shutdown().unwrap();
    });
}

#[test]
fn bytes_of_another_protocol_are_refused() {
    run(async {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), TcpOptions::default()).unwrap();
        let mut stranger = std::net::TcpStream::connect(listener.address()).unwrap();
        let (mut reader, _writer): Halves = listener.accept().await.unwrap().split();
        std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let error = reader.read_batch(allocate).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(
            error
                .to_string()
                .contains("does not speak the Mendblock protocol"),
            "{error}"
        );
    });
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    run(async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peer");
        drop(listen_unix(&path).unwrap());
        assert!(path.exists());
        let live = listen_unix(&path).unwrap();
        assert_eq!(listen_unix(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(live);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(listen_unix(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    });
}

#[test]
fn a_port_without_listener_refuses() {
    run(async {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), TcpOptions::default()).unwrap();
        let address = listener.address().parse().unwrap();
        drop(listener);
        let error = connect_tcp(address, TIMEOUT, &TcpOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}
