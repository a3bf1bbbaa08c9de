//! Clients and their ports: requests are kept until they are answered, each answer is handed out once, and the history checks
//! what was read.

use crate::history::{sector_of, value_of};
use crate::node::{ClientPort, Open};
use crate::world::{World, port_of};
use mendblock_core::client::{ClientEffect, ClientIn};
use mendblock_core::engine::{ClientAnswer, ClientRequest, ClientRequestKind};
use mendblock_core::identity::{Arrival, ClientId, Sequence};
use mendblock_core::part::{PartName, To};
use mendblock_storage::buffer::Buffer;
use mendblock_storage::units::SectorRange;

impl World {
    /// A client opens the export of a node.
    pub fn open_client(&mut self, node: usize) -> ClientId {
        let here = &mut self.nodes[node];
        here.last_client += 1;
        let client = ClientId(here.last_client);
        here.clients.insert(client, ClientPort::default());
        here.parts.clients.insert(client, crate::node::Slot::default());
        crate::wiring::tell_openers(self, node);
        crate::wiring::make(self, node, (PartName::Client, client));
        client
    }

    /// A client says goodbye.
    pub fn close_client(&mut self, node: usize, client: ClientId) {
        if let Some(port) = self.nodes[node].clients.get_mut(&client) {
            port.gone = true;
        }
        self.tell_session(node, client, ClientIn::Gone);
    }

    /// A client writes a fresh value.
    pub fn write(&mut self, node: usize, client: ClientId, range: SectorRange, fua: bool) -> Sequence {
        let value = self.history.fresh();
        let buffer = Buffer::from_vec(sector_of(value).repeat(range.count() as usize));
        self.request(
            node,
            client,
            ClientRequestKind::Write { range, buffer, fua },
            Some((range, value)),
            None,
        )
    }

    /// A client writes zeroes.
    pub fn write_zeroes(
        &mut self,
        node: usize,
        client: ClientId,
        range: SectorRange,
        may_unmap: bool,
    ) -> Sequence {
        let kind = ClientRequestKind::WriteZeroes {
            range,
            may_unmap,
            fua: false,
        };
        self.request(node, client, kind, Some((range, 0)), None)
    }

    /// A client reads.
    pub fn read(&mut self, node: usize, client: ClientId, range: SectorRange) -> Sequence {
        self.request(node, client, ClientRequestKind::Read { range }, None, Some(range))
    }

    /// A client flushes.
    pub fn flush(&mut self, node: usize, client: ClientId) -> Sequence {
        self.request(node, client, ClientRequestKind::Flush, None, None)
    }

    fn request(
        &mut self,
        node: usize,
        client: ClientId,
        kind: ClientRequestKind,
        write: Option<(SectorRange, u64)>,
        read: Option<SectorRange>,
    ) -> Sequence {
        let now = self.now;
        if let Some((range, value)) = write {
            self.history.begin(range, value, now);
        }
        let here = &mut self.nodes[node];
        here.arrivals += 1;
        let arrival = Arrival(here.arrivals);
        let port = here.clients.get_mut(&client).expect("the client is open");
        port.last += 1;
        let sequence = Sequence(port.last);
        let request = ClientRequest {
            sequence,
            arrival,
            kind,
        };
        port.unanswered.insert(
            sequence,
            Open {
                request: request.clone(),
                began: now,
                write,
                read,
            },
        );
        self.note(node, || format!("CLIENT {client} {request:?} {write:?}"));
        self.tell_session(node, client, ClientIn::Received(vec![request]));
        sequence
    }

    fn tell_session(&mut self, node: usize, client: ClientId, message: ClientIn) {
        self.send(
            node,
            port_of((PartName::Client, client)),
            To::Client(client, message),
        );
    }

    pub(crate) fn client(&mut self, node: usize, client: ClientId, effect: ClientEffect) {
        match effect {
            ClientEffect::Replay { generation } => {
                let port = &self.nodes[node].clients[&client];
                let requests = port
                    .unanswered
                    .values()
                    .map(|open| open.request.clone())
                    .collect();
                self.tell_session(node, client, ClientIn::Replayed { generation, requests });
            }
            ClientEffect::Deliver(answers) => {
                let sequences = answers.iter().map(|answer| answer.sequence).collect();
                for answer in answers {
                    self.answered(node, client, answer);
                }
                self.tell_session(node, client, ClientIn::Delivered(sequences));
            }
            ClientEffect::Close => {
                self.nodes[node].parts.clients.remove(&client);
                crate::wiring::tell_openers(self, node);
            }
        }
    }

    fn answered(&mut self, node: usize, client: ClientId, answer: ClientAnswer) {
        let port = self.nodes[node]
            .clients
            .get_mut(&client)
            .expect("the client is open");
        // A second answer is dropped: each is handed out once (R18).
        let Some(open) = port.unanswered.remove(&answer.sequence) else {
            return;
        };
        self.note(node, || {
            format!(
                "ANSWERED {client} {} {:?}",
                answer.sequence,
                answer.result.as_ref().map(|_| ())
            )
        });
        let now = self.now;
        if let Err(errno) = answer.result {
            let name = &self.nodes[node].configuration.node_name;
            self.client_errors.push(format!(
                "{name} client {client} {:?}: errno {errno}",
                open.request.kind
            ));
        }
        if let Some((range, value)) = open.write {
            self.history
                .end(range, value, open.began, answer.result.is_ok(), now);
        }
        if answer.result.is_ok() {
            match open.request.kind {
                ClientRequestKind::Flush => self.history.flushed(open.began),
                ClientRequestKind::Write { range, fua: true, .. } => {
                    self.history
                        .forced(range, open.write.map_or(0, |(_, value)| value));
                }
                _ => {}
            }
        }
        if let (Some(range), Ok(buffer)) = (open.read, answer.result) {
            let buffer = buffer.expect("a read is answered with data");
            assert_eq!(buffer.len() as u64, range.byte_length(), "length of a read");
            self.check_read(node, range, &buffer, open.began);
        }
    }

    /// Checks bytes that were read, by a client or from a disk.
    pub(crate) fn check_read(&mut self, node: usize, range: SectorRange, bytes: &[u8], began: u64) {
        for (index, bytes) in bytes.chunks(512).enumerate() {
            let sector = range.first() + index as u64;
            let value = value_of(bytes).unwrap_or(u64::MAX);
            if let Err(violation) = self.history.read(sector, value, began, self.now) {
                let name = &self.nodes[node].configuration.node_name;
                panic!(
                    "wrong data on {name} (block {}): {violation:?}\n{}",
                    sector / 8,
                    self.describe()
                );
            }
        }
    }
}
