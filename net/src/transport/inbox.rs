//! Makes frames of the bytes that arrive. Pure; [`super::Reader`] does the reading.
//!
//! Headers are read in the receive buffer. Payloads are copied out of it into the caller's (page-aligned) buffer,
//! and what has not arrived of one is received straight into that.

use std::io::IoSliceMut;
use std::ops::DerefMut;

use crate::wire::frame::{DecodeError, Frame, Head};
use crate::wire::message::Message;

/// Bytes of the receive buffer: some 250 writes of 4 KiB per system call.
pub const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Most frames in one batch, so that small ones do not keep the thread for long.
const MAX_BATCH_FRAMES: usize = 512;

/// Makes frames of received bytes. [`super::Reader`] has one for its socket; tests feed it by hand.
pub struct Inbox<B> {
    buffer: Box<[u8]>,
    /// Bytes `start..end` of the buffer have arrived and are not used yet.
    start: usize,
    end: usize,
    pending: Pending<B>,
    failed: Option<DecodeError>,
}

/// A frame whose head is off the receive buffer.
enum Pending<B> {
    None,
    /// There was no buffer for its payload.
    Starved(Head),
    /// Its payload is complete up to `filled`.
    Filling {
        head: Head,
        payload: B,
        filled: usize,
    },
}

impl<B: DerefMut<Target = [u8]>> Default for Inbox<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: DerefMut<Target = [u8]>> Inbox<B> {
    /// Nothing has arrived.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            pending: Pending::None,
            failed: None,
        }
    }

    /// Appends the complete frames to `frames`. Returns the bytes of the buffer that `allocate` did not have, after
    /// which nothing may be received until it has them.
    pub fn take(
        &mut self,
        allocate: &mut impl FnMut(&Message, usize) -> Option<B>,
        frames: &mut Vec<Frame<B>>,
    ) -> Option<usize> {
        while self.failed.is_none() && frames.len() < MAX_BATCH_FRAMES {
            match std::mem::replace(&mut self.pending, Pending::None) {
                Pending::None => match Head::parse(&self.buffer[self.start..self.end]) {
                    Ok(None) => break,
                    Ok(Some(head)) => {
                        self.start += head.length();
                        self.accept(head, allocate, frames);
                    }
                    Err(error) => self.failed = Some(error),
                },
                Pending::Starved(head) => self.accept(head, allocate, frames),
                Pending::Filling {
                    head,
                    payload,
                    filled,
                } => {
                    if !self.fill(head, payload, filled, frames) {
                        break;
                    }
                }
            }
            if let Pending::Starved(head) = &self.pending {
                return Some(head.payload_length());
            }
        }
        None
    }

    /// Finishes a head without payload, or finds a destination for its payload.
    fn accept(
        &mut self,
        head: Head,
        allocate: &mut impl FnMut(&Message, usize) -> Option<B>,
        frames: &mut Vec<Frame<B>>,
    ) {
        let length = head.payload_length();
        if length == 0 {
            match head.finish(&[]) {
                Ok(message) => frames.push(Frame {
                    message,
                    payload: None,
                }),
                Err(error) => self.failed = Some(error),
            }
            return;
        }
        self.pending = match allocate(head.message(), length) {
            Some(payload) => {
                assert_eq!(
                    payload.len(),
                    length,
                    "the allocator gives exactly the bytes that it is asked for"
                );
                Pending::Filling {
                    head,
                    payload,
                    filled: 0,
                }
            }
            None => Pending::Starved(head),
        };
    }

    /// Moves received bytes into the payload; true when that completed the frame.
    fn fill(&mut self, head: Head, mut payload: B, filled: usize, frames: &mut Vec<Frame<B>>) -> bool {
        let count = (payload.len() - filled).min(self.end - self.start);
        payload[filled..filled + count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        let filled = filled + count;
        if filled < payload.len() {
            self.pending = Pending::Filling {
                head,
                payload,
                filled,
            };
            return false;
        }
        match head.finish(&payload) {
            Ok(message) => frames.push(Frame {
                message,
                payload: Some(payload),
            }),
            Err(error) => self.failed = Some(error),
        }
        true
    }

    /// Where the next bytes go, first the rest of a payload; call [`Inbox::take`] first until it gives no frame.
    pub fn spaces(&mut self) -> [IoSliceMut<'_>; 2] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let payload = match &mut self.pending {
            Pending::Filling { payload, filled, .. } => &mut payload[*filled..],
            Pending::None | Pending::Starved(_) => &mut [],
        };
        [
            IoSliceMut::new(payload),
            IoSliceMut::new(&mut self.buffer[self.end..]),
        ]
    }

    /// `count` bytes were put into [`Inbox::spaces`].
    pub fn received(&mut self, mut count: usize) {
        if let Pending::Filling { payload, filled, .. } = &mut self.pending {
            let direct = count.min(payload.len() - *filled);
            *filled += direct;
            count -= direct;
        }
        self.end += count;
    }

    /// Why no more frames come.
    pub fn failure(&self) -> Option<&DecodeError> {
        self.failed.as_ref()
    }

    /// Whether the bytes so far end between two frames.
    pub fn is_between_frames(&self) -> bool {
        self.start == self.end && matches!(self.pending, Pending::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::encode;
    use mendblock_storage::units::SectorRange;
    use proptest::prelude::*;
    use std::io::Write;

    fn write(request: u64, sectors: u32) -> (Message, Vec<u8>) {
        let message = Message::Write {
            request,
            epoch: 1,
            range: SectorRange::new(request, sectors).unwrap(),
            fua: false,
            may_set_in_sync: true,
        };
        (message, vec![request as u8; sectors as usize * 512])
    }

    fn put(inbox: &mut Inbox<Vec<u8>>, bytes: &[u8]) {
        let [mut first, mut second] = inbox.spaces();
        let direct = bytes.len().min(first.len());
        (&mut *first).write_all(&bytes[..direct]).unwrap();
        (&mut *second).write_all(&bytes[direct..]).unwrap();
        inbox.received(bytes.len());
    }

    fn stream(frames: &[(Message, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (message, payload) in frames {
            encode(message, payload, &mut bytes).unwrap();
            bytes.extend_from_slice(payload);
        }
        bytes
    }

    fn take_all(inbox: &mut Inbox<Vec<u8>>) -> Vec<(Message, Vec<u8>)> {
        let mut frames = Vec::new();
        assert_eq!(
            inbox.take(&mut |_, length| Some(vec![0; length]), &mut frames),
            None
        );
        frames
            .into_iter()
            .map(|frame| (frame.message, frame.payload.unwrap_or_default()))
            .collect()
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_frames(
            sectors in prop::collection::vec(0u32..9, 1..12),
            cuts in prop::collection::vec(1usize..3000, 1..40),
        ) {
            let sent: Vec<_> = sectors.iter().zip(1..).map(|(sectors, number)| match sectors {
                0 => (Message::Ping { number }, Vec::new()),
                _ => write(number, *sectors),
            }).collect();
            let bytes = stream(&sent);
            let mut inbox = Inbox::new();
            let mut received = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                put(&mut inbox, piece);
                received.extend(take_all(&mut inbox));
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(inbox.is_between_frames());
        }
    }

    #[test]
    fn an_empty_pool_stops_and_goes_on_where_it_stopped() {
        let sent = [write(1, 1), write(2, 2)];
        let mut inbox = Inbox::new();
        put(&mut inbox, &stream(&sent));
        let mut frames = Vec::new();
        let mut once = Some(());
        let starved = inbox.take(
            &mut |_, length| once.take().map(|()| vec![0; length]),
            &mut frames,
        );
        assert_eq!((starved, frames.len()), (Some(1024), 1));
        assert_eq!(inbox.take(&mut |_, _| None, &mut frames), Some(1024));
        assert_eq!(take_all(&mut inbox), sent[1..]);
    }

    #[test]
    fn frames_before_a_damaged_one_are_given_out() {
        let mut bytes = stream(&[write(1, 1), write(2, 1)]);
        *bytes.last_mut().unwrap() ^= 1;
        let mut inbox = Inbox::new();
        put(&mut inbox, &bytes);
        assert_eq!(take_all(&mut inbox), [write(1, 1)]);
        assert!(matches!(inbox.failure(), Some(DecodeError::PayloadCrc { .. })));
        assert_eq!(take_all(&mut inbox), []);
    }
}
