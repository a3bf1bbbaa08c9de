//! What waits to be sent, in two queues. Pure; [`super::Writer`] does the writing.
//!
//! Order in the stream: the chunk that is already half sent, then urgent chunks, then ordered ones. A chunk is the
//! bytes of one or more heads and at most one payload at its end; small frames share a chunk, for one write
//! takes only 64 slices.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Deref;

use crate::wire::frame::{EncodeError, encode};
use crate::wire::kind::Class;
use crate::wire::message::Message;

/// Most bytes of one write: what an urgent message may have to wait for.
pub const MAX_WRITE_BYTES: usize = 1 << 20;
/// Most slices of one write.
pub const MAX_WRITE_SLICES: usize = 64;
/// Heads are added to a chunk until it has so many bytes of them.
const CHUNK_HEAD_BYTES: usize = 16 << 10;

struct Chunk<P> {
    heads: Vec<u8>,
    payload: Option<P>,
}

impl<P: Deref<Target = [u8]>> Chunk<P> {
    fn parts(&self) -> [&[u8]; 2] {
        [&self.heads, self.payload.as_deref().unwrap_or_default()]
    }

    fn length(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    fn is_open(&self) -> bool {
        self.payload.is_none() && self.heads.len() < CHUNK_HEAD_BYTES
    }
}

pub(super) struct SendQueue<P> {
    /// Not in a queue any more because its first bytes are sent, with their number.
    started: Option<(Chunk<P>, usize)>,
    urgent: VecDeque<Chunk<P>>,
    ordered: VecDeque<Chunk<P>>,
    bytes: usize,
}

impl<P: Deref<Target = [u8]>> SendQueue<P> {
    pub(super) fn new() -> Self {
        Self {
            started: None,
            urgent: VecDeque::new(),
            ordered: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Bytes that are not sent yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a message; nothing is queued after an error.
    pub(super) fn push(&mut self, message: &Message, payload: Option<P>) -> Result<(), EncodeError> {
        let queue = match message.kind().class() {
            Class::Urgent => &mut self.urgent,
            Class::Ordered => &mut self.ordered,
        };
        let data = payload.as_deref().unwrap_or_default();
        match queue.back_mut().filter(|chunk| chunk.is_open()) {
            Some(chunk) => {
                let before = chunk.heads.len();
                encode(message, data, &mut chunk.heads)?;
                self.bytes += chunk.heads.len() - before + data.len();
                chunk.payload = payload;
            }
            None => {
                let mut heads = Vec::with_capacity(128);
                encode(message, data, &mut heads)?;
                self.bytes += heads.len() + data.len();
                queue.push_back(Chunk { heads, payload });
            }
        }
        Ok(())
    }

    /// The next write: at most 1 MiB in 64 slices; returns the number of slices.
    pub(super) fn gather<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_WRITE_SLICES]) -> usize {
        let started = self.started.iter().map(|(chunk, sent)| (chunk, *sent));
        let waiting = self.urgent.iter().chain(&self.ordered).map(|chunk| (chunk, 0));
        let mut room = MAX_WRITE_BYTES;
        let mut used = 0;
        for (chunk, mut sent) in started.chain(waiting) {
            for part in chunk.parts() {
                let skipped = sent.min(part.len());
                sent -= skipped;
                let rest = &part[skipped..];
                let rest = &rest[..rest.len().min(room)];
                if rest.is_empty() {
                    continue;
                }
                slices[used] = IoSlice::new(rest);
                used += 1;
                room -= rest.len();
                if used == MAX_WRITE_SLICES || room == 0 {
                    return used;
                }
            }
        }
        used
    }

    /// The first `count` bytes of the last gathered write are sent; nothing was pushed since.
    pub(super) fn advance(&mut self, mut count: usize) {
        self.bytes -= count;
        while count > 0 {
            let next = self.started.take();
            let next = next.or_else(|| self.urgent.pop_front().map(|chunk| (chunk, 0)));
            let next = next.or_else(|| self.ordered.pop_front().map(|chunk| (chunk, 0)));
            let (chunk, sent) = next.expect("no more was sent than was queued");
            let step = count.min(chunk.length() - sent);
            count -= step;
            if sent + step < chunk.length() {
                self.started = Some((chunk, sent + step));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Head;
    use mendblock_storage::units::SectorRange;
    use proptest::prelude::*;

    fn write(request: u64, sectors: u32) -> (Message, Option<Vec<u8>>) {
        let message = Message::Write {
            request,
            epoch: 1,
            range: SectorRange::new(0, sectors).unwrap(),
            fua: false,
            may_set_in_sync: true,
        };
        (message, Some(vec![request as u8; sectors as usize * 512]))
    }

    /// Sends up to `most` bytes of the next write.
    fn send(queue: &mut SendQueue<Vec<u8>>, most: usize, out: &mut Vec<u8>) {
        let mut slices = [IoSlice::new(&[]); MAX_WRITE_SLICES];
        let used = queue.gather(&mut slices);
        let bytes: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.to_vec()).collect();
        assert!(bytes.len() <= MAX_WRITE_BYTES);
        let count = bytes.len().min(most);
        out.extend_from_slice(&bytes[..count]);
        queue.advance(count);
    }

    fn parse(mut bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            let head = Head::parse(bytes).unwrap().unwrap();
            let (start, end) = (head.length(), head.length() + head.payload_length());
            messages.push(head.finish(&bytes[start..end]).unwrap());
            bytes = &bytes[end..];
        }
        messages
    }

    #[test]
    fn urgent_waits_for_the_started_chunk_alone() {
        let mut queue = SendQueue::new();
        let (first, data) = write(1, 8);
        queue.push(&first, data).unwrap();
        let (second, data) = write(2, 8);
        queue.push(&second, data).unwrap();
        let mut out = Vec::new();
        send(&mut queue, 100, &mut out);
        let ping = Message::Ping { number: 7 };
        queue.push(&ping, None).unwrap();
        send(&mut queue, usize::MAX, &mut out);
        assert_eq!(parse(&out), [first, ping, second]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn one_write_is_cut_at_its_limits() {
        let mut queue = SendQueue::new();
        for request in 0..3 {
            let (message, data) = write(request, 2048);
            queue.push(&message, data).unwrap();
        }
        let before = queue.bytes();
        send(&mut queue, usize::MAX, &mut Vec::new());
        assert_eq!(before - queue.bytes(), MAX_WRITE_BYTES);

        let mut queue = SendQueue::new();
        for request in 0..100 {
            let (message, data) = write(request, 1);
            queue.push(&message, data).unwrap();
        }
        let mut out = Vec::new();
        send(&mut queue, usize::MAX, &mut out);
        assert_eq!(parse(&out).len(), MAX_WRITE_SLICES / 2);
    }

    #[test]
    fn a_refused_message_leaves_the_queue_as_it_was() {
        let mut queue = SendQueue::new();
        queue
            .push(&Message::Barrier { epoch: 1, writes: 0 }, None)
            .unwrap();
        let before = queue.bytes();
        let (message, _) = write(1, 8);
        assert!(queue.push(&message, Some(vec![0; 512])).is_err());
        assert_eq!(queue.bytes(), before);
        let mut out = Vec::new();
        send(&mut queue, usize::MAX, &mut out);
        assert_eq!(parse(&out), [Message::Barrier { epoch: 1, writes: 0 }]);
    }

    proptest! {
        #[test]
        fn every_partial_write_keeps_both_orders(
            steps in prop::collection::vec((0u32..4, 0usize..1500), 1..60),
        ) {
            let mut queue = SendQueue::new();
            let (mut out, mut pings, mut writes) = (Vec::new(), Vec::new(), Vec::new());
            for ((sectors, most), number) in steps.into_iter().zip(0..) {
                let (message, data) = match sectors {
                    0 => (Message::Ping { number }, None),
                    _ => write(number, sectors),
                };
                queue.push(&message, data).unwrap();
                if sectors == 0 { pings.push(message) } else { writes.push(message) }
                send(&mut queue, most, &mut out);
            }
            while queue.bytes() > 0 {
                send(&mut queue, 700, &mut out);
            }
            let (got_pings, got_writes): (Vec<_>, Vec<_>) =
                parse(&out).into_iter().partition(|message| matches!(message, Message::Ping { .. }));
            prop_assert_eq!(got_pings, pings);
            prop_assert_eq!(got_writes, writes);
        }
    }
}
