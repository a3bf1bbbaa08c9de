//! One part, its sockets played by the test.

use super::*;
use crate::bitmap::BitmapIn;
use crate::engine::VolumeIn;
use crate::part::{Context, Outbox, Part, To};
use crate::volume::machine::{LinkFact, StateIn};
use crate::volume::state::{DisconnectReason, DownReason};
use mendblock_net::wire::kind::Kind;
use mendblock_net::wire::message::{PeerState, features};
use mendblock_storage::units::{BlockRange, SectorRange};

const SOCKET: u64 = 5;

struct Bench {
    part: PeerPart,
    now: u64,
    out: Outbox<PeerEffect>,
}

impl Bench {
    /// Wish up, nothing accepted yet.
    fn new() -> Self {
        Self::of(PeerPart::new(Arc::new(configuration(0)), PartGeneration(1), None))
    }

    fn of(part: PeerPart) -> Self {
        let mut bench = Self {
            part,
            now: 0,
            out: Outbox::default(),
        };
        bench.on(PeerIn::Wish(LinkWish::Up));
        bench
    }

    /// With an accepted connection that is up.
    fn connected() -> (Self, ConnectionNumber) {
        let mut bench = Self::new();
        bench.accept(SOCKET, hello());
        let connection = bench.up().expect("up");
        (bench, connection)
    }

    fn on(&mut self, message: PeerIn) {
        self.step(Some(message));
    }

    fn step(&mut self, message: Option<PeerIn>) {
        let mut random = || 0;
        let mut cx = Context {
            now: at(self.now),
            wall: 0,
            random: &mut random,
        };
        self.out = Outbox::default();
        match message {
            Some(message) => self.part.on(&mut cx, message, &mut self.out),
            None => self.part.wake(&mut cx, &mut self.out),
        }
    }

    fn wake(&mut self) {
        self.now = self.part.wake_at().unwrap().0 / 1_000_000;
        self.step(None);
    }

    fn accept(&mut self, socket: u64, hello: Hello) {
        self.on(PeerIn::SocketUp {
            socket,
            dialled: false,
            address: "10.0.0.2".to_owned(),
            hello: Some(hello),
        });
    }

    fn receive(&mut self, messages: Vec<Message>) {
        self.on(PeerIn::Received {
            socket: SOCKET,
            frames: messages.into_iter().map(bare).collect(),
        });
    }

    fn send(&mut self, connection: ConnectionNumber, messages: Vec<Message>, after: u64) {
        self.on(PeerIn::Send {
            connection,
            frames: messages.into_iter().map(bare).collect(),
            after: TellNumber(after),
        });
    }

    fn up(&self) -> Option<ConnectionNumber> {
        self.out.messages.iter().find_map(|message| match message {
            To::State(StateIn::Link(LinkFact::Up { connection, .. })) => Some(*connection),
            _ => None,
        })
    }

    fn down(&self) -> Option<(ConnectionNumber, DownReason)> {
        self.out.messages.iter().find_map(|message| match message {
            To::State(StateIn::Link(LinkFact::Down {
                connection, reason, ..
            })) => Some((*connection, *reason)),
            _ => None,
        })
    }

    fn lost(&self) -> Option<ConnectionNumber> {
        self.out.messages.iter().find_map(|message| match message {
            To::Volume(VolumeIn::Lost { connection }) => Some(*connection),
            _ => None,
        })
    }

    /// Kinds of what was sent, with the urgent flag.
    fn sent(&self) -> Vec<(Kind, bool)> {
        let mut kinds = Vec::new();
        for effect in &self.out.effects {
            if let PeerEffect::Send { frames, urgent, .. } = effect {
                kinds.extend(frames.iter().map(|frame| (frame.message.kind(), *urgent)));
            }
        }
        kinds
    }

    fn closed(&self) -> Vec<(u64, bool)> {
        let close = |effect: &PeerEffect| match effect {
            PeerEffect::Close { socket, flush } => Some((*socket, *flush)),
            _ => None,
        };
        self.out.effects.iter().filter_map(close).collect()
    }

    fn window(&self) -> Option<u64> {
        self.out.messages.iter().find_map(|message| match message {
            To::Volume(VolumeIn::WindowOpen { bytes, .. }) => Some(*bytes),
            _ => None,
        })
    }
}

/// The peer's hello on a connection that it dialled.
fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: features::ALL,
        required: 0,
        volume: "data".to_owned(),
        node_id: 1,
        peer_id: 0,
        node_name: "node1".to_owned(),
        process_id: 101,
        dialled: true,
    }
}

fn range() -> SectorRange {
    SectorRange::new(8, 8).unwrap()
}

fn write(request: u64) -> Message {
    Message::Write {
        request,
        epoch: 1,
        range: range(),
        fua: false,
        may_set_in_sync: false,
    }
}

fn tell(number: u64) -> Message {
    Message::Tell {
        number,
        attach_id: 1,
        failed: true,
        records: Vec::new(),
    }
}

fn state() -> Message {
    Message::State(PeerState {
        number: 1,
        role: 0,
        connection: 10,
        disk: 8,
        peer_disk: 8,
        suspended: false,
        paused: false,
    })
}

#[test]
fn an_accepted_socket_comes_up_with_its_window() {
    let mut bench = Bench::new();
    bench.accept(SOCKET, hello());
    assert_eq!(bench.sent(), [(Kind::Hello, true)]);
    assert_eq!(bench.window(), Some(1 << 20));
    let up = bench.out.messages.iter().find_map(|message| match message {
        To::State(StateIn::Link(up @ LinkFact::Up { .. })) => Some(up.clone()),
        _ => None,
    });
    let expected = LinkFact::Up {
        connection: ConnectionNumber((1 << 32) + 1),
        resolver: true,
        features: features::ALL,
        peer_process: 101,
    };
    assert_eq!(up, Some(expected));
}

#[test]
fn what_cannot_be_agreed_is_refused_without_a_hello() {
    let mut bench = Bench::new();
    let other = Hello {
        node_id: 3,
        ..hello()
    };
    bench.accept(SOCKET, other.clone());
    assert_eq!(bench.sent(), [(Kind::Refused, true)]);
    assert_eq!(bench.closed(), [(SOCKET, true)]);
    // Whoever called: the peer itself is still looked for.
    assert!(not_now(&bench).unwrap().contains("node 3"));
    assert!(bench.part.wake_at().is_some(), "it goes on dialling");

    let mut bench = Bench::new();
    bench.on(PeerIn::SocketUp {
        socket: SOCKET,
        dialled: true,
        address: "x".to_owned(),
        hello: None,
    });
    let accepted = Hello {
        dialled: false,
        ..other
    };
    bench.receive(vec![Message::Hello(accepted)]);
    let refused = |message: &To| matches!(message, To::State(StateIn::Link(LinkFact::Refused { .. })));
    assert!(bench.out.messages.iter().any(refused));
    assert_eq!(not_now(&bench), None);
}

/// What the state part is told of a refusal that is not for good.
fn not_now(bench: &Bench) -> Option<&str> {
    bench.out.messages.iter().find_map(|message| match message {
        To::State(StateIn::Link(LinkFact::NotNow { text })) => Some(text.as_str()),
        _ => None,
    })
}

#[test]
fn why_a_node_is_stand_alone_is_told_to_a_peer_that_dials() {
    let mut bench = Bench::new();
    let start = crate::volume::machine::StatePart::new(Arc::new(configuration(0)));
    let mut snapshot = (**start.snapshot()).clone();
    snapshot.reasons.disconnected = Some(DisconnectReason::SplitBrain);
    bench.on(PeerIn::Snapshot(Arc::new(snapshot)));
    bench.on(PeerIn::Wish(LinkWish::Down));
    bench.accept(SOCKET, hello());
    let said = bench.out.effects.iter().find_map(|effect| match effect {
        PeerEffect::Send { frames, .. } => match &frames[0].message {
            Message::Refused { reason, for_good } => Some((reason.clone(), *for_good)),
            _ => None,
        },
        _ => None,
    });
    let (reason, for_good) = said.unwrap();
    assert!(
        reason.contains("split brain") && reason.contains("`mendblock connect"),
        "{reason}"
    );
    assert!(
        !for_good,
        "it dials on, and is connected once somebody has decided"
    );
}

#[test]
fn a_peer_that_refuses_is_dialled_again_and_the_reason_is_shown() {
    let mut bench = Bench::new();
    bench.on(PeerIn::SocketUp {
        socket: SOCKET,
        dialled: true,
        address: "x".to_owned(),
        hello: None,
    });
    bench.receive(vec![Message::Refused {
        reason: "b is StandAlone".to_owned(),
        for_good: false,
    }]);
    assert_eq!(not_now(&bench), Some("b is StandAlone"));
    assert!(bench.part.wake_at().is_some(), "it goes on dialling");
}

#[test]
fn a_version_that_does_not_meet_is_not_for_good() {
    let mut bench = Bench::new();
    let newer = Hello {
        version_min: 9,
        version_max: 9,
        ..hello()
    };
    bench.accept(SOCKET, newer);
    assert_eq!(bench.closed(), [(SOCKET, true)]);
    assert!(not_now(&bench).unwrap().contains("upgrade this node"));
    assert_eq!(bench.out.messages.len(), 1);
    assert!(bench.part.wake_at().is_some(), "it goes on dialling");
}

#[test]
fn a_stray_caller_does_not_end_a_working_connection() {
    let (mut bench, _) = Bench::connected();
    bench.accept(
        6,
        Hello {
            node_id: 3,
            ..hello()
        },
    );
    assert_eq!(bench.closed(), [(6, true)]);
    assert!(bench.out.messages.is_empty());
}

#[test]
fn a_silent_socket_is_closed_after_two_seconds() {
    let mut bench = Bench::new();
    bench.on(PeerIn::SocketUp {
        socket: SOCKET,
        dialled: true,
        address: "x".to_owned(),
        hello: None,
    });
    assert_eq!(bench.sent(), [(Kind::Hello, true)]);
    bench.wake();
    assert_eq!(bench.now, 2000);
    assert_eq!(bench.closed(), [(SOCKET, false)]);
}

#[test]
fn anything_before_the_hello_closes_the_socket() {
    let mut bench = Bench::new();
    bench.on(PeerIn::SocketUp {
        socket: SOCKET,
        dialled: true,
        address: "x".to_owned(),
        hello: None,
    });
    bench.receive(vec![state()]);
    assert_eq!(bench.closed(), [(SOCKET, false)]);
    assert!(bench.out.messages.is_empty());
}

#[test]
fn a_second_hello_is_a_protocol_error() {
    let (mut bench, connection) = Bench::connected();
    bench.receive(vec![write(1), Message::Hello(hello()), write(2)]);
    assert_eq!(bench.down(), Some((connection, DownReason::ProtocolError)));
    assert_eq!(bench.lost(), Some(connection));
    let data = bench.out.messages.iter().find_map(|message| match message {
        To::Volume(VolumeIn::Peer { frames, .. }) => Some(frames.len()),
        _ => None,
    });
    assert_eq!(data, Some(1), "what came before it counts");
}

#[test]
fn frames_go_to_the_parts_they_are_for() {
    let (mut bench, _) = Bench::connected();
    let ranges = vec![BlockRange::new(1, 1).unwrap()];
    let out_of_sync = Message::OutOfSync { ranges };
    bench.receive(vec![
        write(1),
        tell(3),
        state(),
        out_of_sync,
        write(2),
        Message::Ping { number: 4 },
    ]);
    let (mut volume, mut to_state, mut bitmap) = (Vec::new(), Vec::new(), Vec::new());
    for message in &bench.out.messages {
        match message {
            To::Volume(VolumeIn::Peer { frames, .. }) => {
                volume.push(
                    frames
                        .iter()
                        .map(|frame| frame.message.kind())
                        .collect::<Vec<_>>(),
                );
            }
            To::State(StateIn::Peer { message, .. }) => to_state.push(message.kind()),
            To::Bitmap(BitmapIn::Peer { frame, .. }) => bitmap.push(frame.message.kind()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        volume,
        [vec![Kind::Write, Kind::Tell, Kind::Write]],
        "one batch, the tell in its place"
    );
    assert_eq!(to_state, [Kind::Tell, Kind::State]);
    assert_eq!(bitmap, [Kind::OutOfSync]);
    assert_eq!(bench.sent(), [(Kind::Pong, true)]);
}

#[test]
fn frames_wait_for_their_tell() {
    let (mut bench, connection) = Bench::connected();
    bench.send(connection, vec![write(1)], 2);
    assert!(bench.sent().is_empty());
    bench.send(connection, vec![Message::Barrier { epoch: 1, writes: 1 }], 0);
    assert!(bench.sent().is_empty(), "nor may a barrier overtake the write");
    bench.send(connection, vec![Message::WriteAcks { requests: vec![9] }], 0);
    assert_eq!(
        bench.sent(),
        [(Kind::WriteAcks, true)],
        "acknowledgements do not wait"
    );
    bench.send(connection, vec![tell(1)], 0);
    assert_eq!(bench.sent(), [(Kind::Tell, false)]);
    bench.send(connection, vec![tell(2)], 0);
    assert_eq!(
        bench.sent(),
        [(Kind::Tell, false), (Kind::Write, false), (Kind::Barrier, false)]
    );
    bench.send(connection, vec![write(2)], 2);
    assert_eq!(bench.sent(), [(Kind::Write, false)]);
}

#[test]
fn frames_for_another_connection_are_dropped() {
    let (mut bench, connection) = Bench::connected();
    bench.send(ConnectionNumber(connection.0 - 1), vec![write(1)], 0);
    assert!(bench.sent().is_empty());
}

#[test]
fn an_idle_link_is_pinged_and_then_dead() {
    let (mut bench, connection) = Bench::connected();
    bench.wake();
    assert_eq!((bench.now, bench.sent()), (10_000, vec![(Kind::Ping, true)]));
    bench.receive(vec![Message::Pong { number: 1 }]);
    bench.wake();
    assert_eq!((bench.now, bench.sent()), (20_000, vec![(Kind::Ping, true)]));
    bench.wake();
    assert_eq!(bench.now, 20_500);
    assert_eq!(bench.down(), Some((connection, DownReason::NetworkFailure)));
    assert_eq!(bench.lost(), Some(connection));
    assert_eq!(bench.closed(), [(SOCKET, false)]);
}

#[test]
fn a_write_without_ack_is_a_timeout_though_the_peer_answers_pings() {
    let (mut bench, connection) = Bench::connected();
    bench.now = 1000;
    bench.send(connection, vec![write(1), write(2)], 0);
    bench.now = 3000;
    bench.send(connection, vec![write(3)], 0);
    bench.receive(vec![Message::WriteAcks { requests: vec![1, 2] }]);
    bench.now = 7500;
    bench.receive(vec![Message::Pong { number: 0 }]);
    bench.step(None);
    assert_eq!(bench.down(), None, "1 and 2 were answered in time");
    bench.wake();
    assert_eq!(
        (bench.now, bench.down()),
        (9000, Some((connection, DownReason::Timeout)))
    );
}

#[test]
fn resync_requests_may_take_their_time() {
    let (mut bench, connection) = Bench::connected();
    bench.send(
        connection,
        vec![Message::ResyncRead {
            request: 1,
            range: range(),
        }],
        0,
    );
    assert_eq!(bench.part.wake_at(), Some(at(10_000)), "only the ping");
}

#[test]
fn a_socket_that_closes_is_a_loss_and_a_new_one_waits_for_its_end() {
    let (mut bench, connection) = Bench::connected();
    bench.on(PeerIn::SocketDown {
        socket: SOCKET,
        text: "reset".to_owned(),
        protocol_error: false,
    });
    assert_eq!(bench.down(), Some((connection, DownReason::BrokenPipe)));
    bench.accept(6, hello());
    assert_eq!(
        bench.sent(),
        [(Kind::Hello, true)],
        "the peer need not wait for our hello"
    );
    assert_eq!(bench.up(), None);
    bench.on(PeerIn::Received {
        socket: 6,
        frames: vec![bare(state())],
    });
    assert!(bench.out.messages.is_empty(), "parked");
    bench.on(PeerIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    });
    assert_eq!(bench.lost(), Some(connection), "repeated to a new volume part");
    assert!(matches!(
        bench.out.messages[..],
        [
            To::Volume(VolumeIn::Lost { .. }),
            To::Volume(VolumeIn::PeerIs {
                generation: PartGeneration(2),
                connection: None
            })
        ]
    ));
    bench.on(PeerIn::LossRetired {
        connection: ConnectionNumber(77),
    });
    assert_eq!(bench.up(), None, "another loss");
    bench.on(PeerIn::LossRetired { connection });
    assert!(bench.up().unwrap() > connection);
    let state = |message: &To| matches!(message, To::State(StateIn::Peer { .. }));
    assert!(bench.out.messages.iter().any(state), "parked frames follow");
}

#[test]
fn too_much_before_the_connection_is_up_ends_it() {
    let (mut bench, _) = Bench::connected();
    bench.on(PeerIn::SocketDown {
        socket: SOCKET,
        text: "reset".to_owned(),
        protocol_error: false,
    });
    bench.accept(6, hello());
    bench.on(PeerIn::Received {
        socket: 6,
        frames: (0..1025).map(|_| bare(state())).collect(),
    });
    assert_eq!(bench.closed(), [(6, false)]);
    assert!(bench.out.messages.is_empty(), "nobody knew of it");
}

#[test]
fn a_dropped_connection_is_reported_and_dialled_anew() {
    let (mut bench, connection) = Bench::connected();
    bench.on(PeerIn::Drop {
        connection,
        text: "no".to_owned(),
    });
    assert_eq!(bench.closed(), [(SOCKET, true)]);
    assert_eq!(bench.lost(), Some(connection));
    bench.wake();
    assert_eq!(bench.now, 1000);
    assert!(matches!(bench.out.effects[..], [PeerEffect::Dial]));
    bench.on(PeerIn::Drop {
        connection,
        text: "no".to_owned(),
    });
    assert_eq!(
        bench.down().map(|(lost, _)| lost),
        Some(connection),
        "the state part hears that it is gone"
    );
    assert_eq!(bench.lost(), None);
}

#[test]
fn a_new_volume_part_keeps_a_connection_on_which_nothing_is_owed() {
    let (mut bench, connection) = Bench::connected();
    bench.receive(vec![write(1)]);
    bench.send(connection, vec![Message::WriteAcks { requests: vec![1] }], 0);
    bench.on(PeerIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    });
    assert!(matches!(
        bench.out.messages[0],
        To::Volume(VolumeIn::PeerIs { generation: PartGeneration(2), connection: Some(up) }) if up == connection
    ));
    assert_eq!(bench.window(), Some(1 << 20));
}

#[test]
fn a_volume_part_that_dies_during_a_resync_ends_the_connection() {
    let (mut bench, connection) = Bench::connected();
    let ranges = vec![BlockRange::single(4)];
    bench.receive(vec![Message::ResyncWritten { ranges }]);
    bench.on(PeerIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    });
    assert_eq!(bench.down(), Some((connection, DownReason::NetworkFailure)));
}

#[test]
fn a_new_volume_part_does_not_know_what_its_predecessor_owed_the_peer() {
    let (mut bench, connection) = Bench::connected();
    bench.receive(vec![write(1)]);
    bench.on(PeerIn::Restarted {
        part: PartName::Volume,
        generation: PartGeneration(2),
    });
    assert_eq!(bench.down(), Some((connection, DownReason::NetworkFailure)));
    let last = bench.out.messages.last();
    assert!(
        matches!(last, Some(To::Volume(VolumeIn::PeerIs { connection: None, .. }))),
        "{last:?}"
    );
}

#[test]
fn a_new_state_part_hears_of_the_last_loss_and_the_connection_is_made_anew() {
    let (mut bench, first) = Bench::connected();
    bench.on(PeerIn::SocketDown {
        socket: SOCKET,
        text: "reset".to_owned(),
        protocol_error: true,
    });
    bench.on(PeerIn::LossRetired { connection: first });
    bench.accept(6, hello());
    let second = bench.up();
    bench.on(PeerIn::Restarted {
        part: PartName::State,
        generation: PartGeneration(2),
    });
    // What the peer had sent for it may have died in its predecessor's mailbox.
    let down: Vec<_> = bench
        .out
        .messages
        .iter()
        .filter_map(|message| match message {
            To::State(StateIn::Link(LinkFact::Down { connection, .. })) => Some(*connection),
            _ => None,
        })
        .collect();
    assert_eq!(down, [first, second.unwrap()]);
}

#[test]
fn a_new_generation_reports_its_predecessors_connection_as_lost() {
    let configuration = Arc::new(configuration(0));
    let last = ConnectionNumber((1 << 32) + 4);
    let mut part = PeerPart::new(Arc::clone(&configuration), PartGeneration(2), Some(last));
    assert_eq!(part.wake_at(), Some(Instant(0)));
    let mut bench = Bench::of(part);
    assert_eq!(bench.lost(), Some(last));
    bench.accept(SOCKET, hello());
    assert_eq!(bench.up(), None);
    bench.on(PeerIn::LossRetired { connection: last });
    assert_eq!(bench.up(), Some(ConnectionNumber((2 << 32) + 1)));

    part = PeerPart::new(configuration, PartGeneration(3), None);
    let bench = Bench::of(part);
    let all_before = bench.lost().unwrap();
    assert!(all_before > ConnectionNumber((2 << 32) + 1) && all_before < ConnectionNumber((3 << 32) + 1));
}

#[test]
fn the_window_opens_again_as_data_leaves() {
    let (mut bench, connection) = Bench::connected();
    let data = || PeerFrame {
        message: write(1),
        payload: Some(Buffer::from_vec(vec![0; 300 << 10])),
    };
    let send = |bench: &mut Bench| {
        bench.on(PeerIn::Send {
            connection,
            frames: vec![data()],
            after: TellNumber(0),
        });
        bench.window()
    };
    let queued = |bench: &mut Bench, bytes| {
        bench.on(PeerIn::Queued {
            socket: SOCKET,
            bytes,
        });
        bench.window()
    };
    assert_eq!(queued(&mut bench, 600 << 10), None);
    assert_eq!(send(&mut bench), None);
    assert_eq!(send(&mut bench), None, "used up, but the queue is full");
    assert_eq!(queued(&mut bench, 600 << 10), None);
    assert_eq!(queued(&mut bench, 100 << 10), Some(924 << 10));
    assert_eq!(queued(&mut bench, 0), None, "said once");
}

/// What `PeerEffect::Measured` said last: pending, unacknowledged, durations in ms.
fn measured(bench: &Bench) -> Option<(u64, u64, Vec<u64>)> {
    bench.out.effects.iter().find_map(|effect| match effect {
        PeerEffect::Measured {
            pending,
            unacknowledged,
            writes,
        } => Some((
            *pending,
            *unacknowledged,
            writes.iter().map(|nanoseconds| nanoseconds / 1_000_000).collect(),
        )),
        _ => None,
    })
}

#[test]
fn what_is_open_and_how_long_writes_took_is_measured() {
    let (mut bench, connection) = Bench::connected();
    bench.send(connection, vec![write(1), write(2)], 0);
    assert_eq!(measured(&bench), Some((2, 0, vec![])));
    let resync = Message::ResyncRead {
        request: 7,
        range: SectorRange::new(0, 8).unwrap(),
    };
    bench.send(connection, vec![resync.clone()], 0);
    assert_eq!(measured(&bench), Some((3, 0, vec![])));
    bench.now = 30;
    let requests = vec![1];
    bench.receive(vec![Message::WriteAcks { requests }]);
    assert_eq!(measured(&bench), Some((2, 0, vec![30])));
    // A write that failed says nothing about how long a write takes.
    bench.receive(vec![Message::WriteNack { request: 2, errno: 5 }]);
    assert_eq!(measured(&bench), Some((1, 0, vec![])));
    bench.receive(vec![resync]);
    assert_eq!(measured(&bench), Some((1, 1, vec![])));
    bench.receive(vec![Message::Ping { number: 1 }]);
    assert_eq!(measured(&bench), None, "nothing has changed");
    bench.on(PeerIn::SocketDown {
        socket: SOCKET,
        text: "gone".to_owned(),
        protocol_error: false,
    });
    assert_eq!(measured(&bench), Some((0, 0, vec![])));
}
