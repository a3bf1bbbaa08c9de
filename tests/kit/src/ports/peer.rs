//! Sockets between the nodes.

use crate::network::{Connection, Direction, End};
use crate::world::{Event, MICROSECOND, MILLISECOND, World};
use mendblock_core::part::{PartName, To};
use mendblock_core::peer::{PeerEffect, PeerFrame, PeerIn};
use mendblock_net::wire::message::Message;

impl World {
    pub(crate) fn peer(&mut self, node: usize, effect: PeerEffect) {
        match effect {
            PeerEffect::Dial => {
                let delay = self.delay(300 * MICROSECOND);
                self.schedule(node, delay, Event::Dialled);
            }
            PeerEffect::Send { socket, frames, .. } => self.queue_frames(node, socket, frames),
            PeerEffect::Close { socket, flush } => self.close(node, socket, flush),
            PeerEffect::Measured { .. } => {}
        }
    }

    fn tell_peer_part(&mut self, node: usize, message: PeerIn) {
        self.port_says(node, PartName::Peer, To::Peer(message));
    }

    pub(crate) fn dialled(&mut self, node: usize) {
        let other = 1 - node;
        if (0..2).any(|node| self.network.holds_back(node)) || !self.nodes[other].up {
            return self.tell_peer_part(
                node,
                PeerIn::DialFailed {
                    text: "connection refused".to_owned(),
                },
            );
        }
        self.network.last += 1;
        let socket = self.network.last;
        let end = |life, announced| End {
            life,
            open: true,
            announced,
        };
        let mut ends = [end(self.nodes[0].life, false), end(self.nodes[1].life, false)];
        ends[node].announced = true;
        let towards = [Direction::default(), Direction::default()];
        self.network.connections.insert(
            socket,
            Connection {
                dialler: node,
                ends,
                towards,
            },
        );
        let address = self.nodes[other].configuration.node_name.clone();
        self.tell_peer_part(
            node,
            PeerIn::SocketUp {
                socket,
                dialled: true,
                address,
                hello: None,
            },
        );
    }

    fn queue_frames(&mut self, node: usize, socket: u64, frames: Vec<PeerFrame>) {
        let Some(connection) = self.network.connections.get_mut(&socket) else {
            return;
        };
        if !connection.ends[node].open || connection.towards[1 - node].closed {
            return;
        }
        let count = frames.len();
        for frame in frames {
            self.coverage.sent(frame.message.kind());
            connection.towards[1 - node].push(frame);
        }
        for _ in 0..count {
            self.schedule_transmit(1 - node, socket);
        }
    }

    /// Puts a frame into the newest open connection towards this node, as if its peer had said so; false: there is none.
    pub fn forge(&mut self, node: usize, frame: PeerFrame) -> bool {
        let mut connections = self.network.connections.iter_mut().rev();
        let Some((&socket, connection)) = connections
            .find(|(_, connection)| connection.ends[node].open && !connection.towards[node].closed)
        else {
            return false;
        };
        connection.towards[node].push(frame);
        self.schedule_transmit(node, socket);
        true
    }

    fn schedule_transmit(&mut self, towards: usize, socket: u64) {
        let delay = self.delay(30 * MICROSECOND * self.network.slow.max(1));
        self.schedule(towards, delay, Event::Transmit(socket));
    }

    /// A frame (or the end) reaches this node.
    pub(crate) fn transmit(&mut self, node: usize, socket: u64) {
        if self.network.holds_back(node) {
            // What TCP sends again and again.
            self.schedule(node, 20 * MILLISECOND, Event::Transmit(socket));
            return;
        }
        let Some(connection) = self.network.connections.get_mut(&socket) else {
            return;
        };
        let frame = connection.towards[node].pop();
        let ended = connection.towards[node].closed && connection.towards[node].is_empty();
        let life = self.nodes[node].life;
        let end = &mut connection.ends[node];
        if !end.open || end.life != life {
            return;
        }
        let announced = end.announced;
        if ended {
            end.open = false;
        } else if frame.is_some() {
            end.announced = true;
        }
        match frame {
            Some(frame) if announced => self.tell_peer_part(
                node,
                PeerIn::Received {
                    socket,
                    frames: vec![frame],
                },
            ),
            Some(frame) => self.accept(node, socket, &frame, ended),
            None => {}
        }
        if ended && announced {
            let down = PeerIn::SocketDown {
                socket,
                text: "connection closed by the peer".to_owned(),
                protocol_error: false,
            };
            self.tell_peer_part(node, down);
        }
    }

    /// The listener reads the hello, to know for which volume a connection is.
    fn accept(&mut self, node: usize, socket: u64, frame: &PeerFrame, ended: bool) {
        let Message::Hello(hello) = &frame.message else {
            return;
        };
        let (address, hello) = (hello.node_name.clone(), Some(hello.clone()));
        self.tell_peer_part(
            node,
            PeerIn::SocketUp {
                socket,
                dialled: false,
                address,
                hello,
            },
        );
        if ended {
            let down = PeerIn::SocketDown {
                socket,
                text: "connection closed by the peer".to_owned(),
                protocol_error: false,
            };
            self.tell_peer_part(node, down);
        }
    }

    /// This node closes its end: what is queued goes out first if `flush`, else only some of it.
    pub(crate) fn close(&mut self, node: usize, socket: u64, flush: bool) {
        let Some(connection) = self.network.connections.get_mut(&socket) else {
            return;
        };
        if !std::mem::replace(&mut connection.ends[node].open, false) {
            return;
        }
        self.cut(1 - node, socket, flush);
    }

    /// Nothing more is queued towards this node.
    fn cut(&mut self, towards: usize, socket: u64, flush: bool) {
        let Some(connection) = self.network.connections.get_mut(&socket) else {
            return;
        };
        let direction = &mut connection.towards[towards];
        if direction.closed {
            return;
        }
        direction.closed = true;
        if !flush && !direction.is_empty() {
            let keep = self.random.usize(0..=direction.len());
            let mut kept = Direction::default();
            kept.closed = true;
            for _ in 0..keep {
                if let Some(frame) = direction.pop() {
                    kept.push(frame);
                }
            }
            *direction = kept;
        }
        for _ in 0..=self.network.connections[&socket].towards[towards].len() {
            self.schedule_transmit(towards, socket);
        }
    }

    /// Closes every socket of a node: its peer part, or its process, is new.
    pub(crate) fn close_sockets(&mut self, node: usize) {
        let sockets: Vec<u64> = self.network.connections.keys().copied().collect();
        for socket in sockets {
            self.close(node, socket, false);
        }
        self.network.connections.retain(|_, connection| {
            connection.ends.iter().any(|end| end.open)
                || connection.towards.iter().any(|direction| !direction.is_empty())
        });
    }

    /// Every connection breaks: of what is under way, some arrives.
    pub fn break_connections(&mut self) {
        let sockets: Vec<u64> = self.network.connections.keys().copied().collect();
        for socket in sockets {
            for node in 0..2 {
                self.cut(node, socket, false);
            }
        }
    }
}
