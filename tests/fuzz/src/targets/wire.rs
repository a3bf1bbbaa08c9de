//! Frames from a peer: prelude, checksums, MessagePack headers, payloads, and the stream that they come in.

use super::message_pack;
use super::wire_samples::samples;
use crate::mutate;
use crate::target::{Breach, Cap, Probe, Target, ensure, ensure_equal};
use fastrand::Rng;
use mendblock_net::transport::Inbox;
use mendblock_net::wire::frame::{DecodeError, Frame, Head, encode};
use mendblock_net::wire::hello;
use mendblock_net::wire::message::{BitmapEncoding, Message};
use mendblock_net::wire::prelude::{MAGIC, MAX_PAYLOAD_BYTES, PRELUDE_BYTES, payload_crc};
use std::io::Write;

/// Longest payload that a mutation makes; longer ones only in the stream's own tests.
const LONGEST_PAYLOAD: usize = 16 << 10;

/// A stream of frames, as a peer sends it.
pub(super) struct Wire;

/// What a stream says: its whole frames, then a fault, or whether it ends between two frames.
#[derive(Debug, PartialEq)]
struct Heard {
    frames: Vec<(Message, Vec<u8>)>,
    fault: Option<DecodeError>,
    whole: bool,
}

impl Target for Wire {
    fn name(&self) -> &'static str {
        "wire"
    }

    fn about(&self) -> &'static str {
        "frames of the peer protocol: prelude, checksums, messages, and a stream in any pieces"
    }

    fn cap(&self) -> Cap {
        Cap {
            bytes: 4 << 20,
            because: "a header has at most 64 KiB (PROTOCOL.md 1); the codec reserves at most 1 MiB for each of the \
                      three lists of a message before it has seen their elements",
        }
    }

    fn longest(&self) -> usize {
        96 << 10
    }

    fn seeds(&self) -> Vec<Vec<u8>> {
        let frames: Vec<Vec<u8>> = samples()
            .iter()
            .filter_map(|(message, payload)| frame(message, payload))
            .collect();
        let stream = frames.concat();
        frames.into_iter().chain([stream]).collect()
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let names = samples()
            .into_iter()
            .map(|(message, _)| format!("{:?}", message.kind()).into_bytes());
        names.chain([MAGIC.to_vec()]).collect()
    }

    fn check(&self, input: &[u8], probe: &mut Probe) -> Result<(), Breach> {
        let heard = hear(input, probe)?;
        for (message, payload) in &heard.frames {
            probe.outline("message", message);
            probe.feature(("payload", payload.len().checked_ilog2()));
            check_message(message, payload)?;
        }
        probe.outline("fault", &heard.fault.as_ref().map(std::mem::discriminant));
        if let Some(DecodeError::Rule { kind, rule, .. }) = &heard.fault {
            probe.feature((kind.number(), rule));
        }
        probe.feature((heard.frames.len().checked_ilog2(), heard.whole));
        let pieces = hear_in_pieces(input, &mut probe.random)?;
        ensure_equal("a stream in pieces says what it says as a whole", &heard, &pieces)
    }

    fn seal(&self, input: &mut Vec<u8>) {
        let mut at = 0;
        while let Some(head) = input.get(at..at + PRELUDE_BYTES) {
            let length = |from: usize| {
                u32::from_le_bytes([head[from], head[from + 1], head[from + 2], head[from + 3]]) as usize
            };
            let rest = input.len() - at - PRELUDE_BYTES;
            let header = length(8).min(rest);
            let payload = length(12).min(rest - header);
            seal_frame(&mut input[at..], header, payload);
            at += PRELUDE_BYTES + header + payload;
        }
    }

    fn restructure(&self, input: &[u8], other: &[u8], random: &mut Rng) -> Option<Vec<u8>> {
        let mut frames = split(input);
        let others = split(other);
        if frames.is_empty() {
            return None;
        }
        let at = random.usize(0..frames.len());
        let from = others.get(random.usize(0..others.len().max(1)));
        match (random.u8(0..8), from) {
            (0, _) if frames.len() > 1 => drop(frames.remove(at)),
            (1, Some(from)) => frames.insert(at, from.clone()),
            (2, _) => {
                let with = random.usize(0..frames.len());
                frames.swap(at, with);
            }
            (3, Some(from)) => frames[at].header.clone_from(&from.header),
            _ => {
                let theirs = from.map_or(&[][..], |from| &from.header);
                frames[at].header = message_pack::change(&frames[at].header, theirs, random);
            }
        }
        if let Some(frame) = frames.get_mut(at) {
            frame.fit(random);
        }
        Some(frames.iter().flat_map(Parts::bytes).collect())
    }
}

/// Hears the stream as a whole, with the pure decoder alone.
fn hear(input: &[u8], probe: &mut Probe) -> Result<Heard, Breach> {
    let mut heard = Heard {
        frames: Vec::new(),
        fault: None,
        whole: true,
    };
    let mut rest = input;
    while !rest.is_empty() {
        let head = match probe.measured(|| Head::parse(rest)) {
            Ok(Some(head)) => head,
            Ok(None) => {
                heard.whole = false;
                break;
            }
            Err(fault) => {
                heard.fault = Some(fault);
                break;
            }
        };
        check_head(&head, rest, &mut probe.random)?;
        let (length, end) = (head.length(), head.length() + head.payload_length());
        let Some(payload) = rest.get(length..end) else {
            heard.whole = false;
            break;
        };
        match head.finish(payload) {
            Ok(message) => heard.frames.push((message, payload.to_vec())),
            Err(fault) => {
                heard.fault = Some(fault);
                break;
            }
        }
        rest = &rest[end..];
    }
    heard.whole &= heard.fault.is_none();
    Ok(heard)
}

/// A head is there exactly when its last byte is, and says nothing of what lies behind it.
fn check_head(head: &Head, bytes: &[u8], random: &mut Rng) -> Result<(), Breach> {
    ensure(
        head.length() <= bytes.len(),
        "a head lies within its input",
        || format!("{} of {} bytes", head.length(), bytes.len()),
    )?;
    ensure(
        head.payload_length() <= MAX_PAYLOAD_BYTES,
        "a payload is within the limit",
        || format!("{} bytes", head.payload_length()),
    )?;
    let cut = random.usize(0..head.length());
    ensure_equal(
        "no head before its last byte",
        &Ok(None),
        &Head::parse(&bytes[..cut]),
    )?;
    let alone = Head::parse(&bytes[..head.length()]);
    ensure_equal(
        "a head does not depend on what follows",
        &Ok(Some(head.clone())),
        &alone,
    )
}

/// What was accepted is a message that this node could have sent itself, and means the same again.
fn check_message(message: &Message, payload: &[u8]) -> Result<(), Breach> {
    let mut bytes = Vec::new();
    let encoded = encode(message, payload, &mut bytes);
    ensure_equal("an accepted message can be sent", &Ok(()), &encoded)?;
    let again = Head::parse(&bytes).map(|head| head.map(|head| head.message().clone()));
    ensure_equal(
        "a message survives its encoding",
        &Ok(Some(message.clone())),
        &again,
    )?;
    if let Message::Hello(theirs) = message {
        for (own, _) in samples() {
            if let Message::Hello(own) = own {
                let (here, there) = (hello::agree(&own, theirs), hello::agree(theirs, &own));
                ensure_equal("both sides agree on the same", &here.clone().ok(), &there.ok())?;
                ensure(
                    here.as_ref()
                        .err()
                        .is_none_or(|error| !error.to_string().is_empty()),
                    "a refusal has a text",
                    || format!("{here:?}"),
                )?;
            }
        }
    }
    Ok(())
}

/// Hears the stream in random pieces, from a pool that is sometimes empty, as a socket's reader does.
fn hear_in_pieces(mut input: &[u8], random: &mut Rng) -> Result<Heard, Breach> {
    let mut inbox: Inbox<Vec<u8>> = Inbox::new();
    let mut frames: Vec<Frame<Vec<u8>>> = Vec::new();
    loop {
        let mut refusals = random.u8(0..3);
        loop {
            let before = frames.len();
            let mut allocate = |_: &Message, length: usize| {
                let starved = refusals > 0 && {
                    refusals -= 1;
                    true
                };
                (!starved).then(|| vec![0; length])
            };
            let mut batch = Vec::new();
            let starved = inbox.take(&mut allocate, &mut batch);
            frames.append(&mut batch);
            if starved.is_none() && frames.len() == before {
                break;
            }
        }
        if input.is_empty() || inbox.failure().is_some() {
            break;
        }
        let most = [3, 40, 5000, input.len()][random.usize(0..4)];
        let (piece, rest) = input.split_at(random.usize(1..=most.max(1)).min(input.len()));
        put(&mut inbox, piece)?;
        input = rest;
    }
    Ok(Heard {
        fault: inbox.failure().cloned(),
        whole: inbox.is_between_frames() && inbox.failure().is_none(),
        frames: frames
            .into_iter()
            .map(|frame| (frame.message, frame.payload.unwrap_or_default()))
            .collect(),
    })
}

fn put(inbox: &mut Inbox<Vec<u8>>, piece: &[u8]) -> Result<(), Breach> {
    let [mut first, mut second] = inbox.spaces();
    let direct = piece.len().min(first.len());
    let room = first.len() + second.len() >= piece.len();
    ensure(room, "there is always room to receive", || {
        format!("{} bytes", piece.len())
    })?;
    let written = (&mut *first)
        .write_all(&piece[..direct])
        .and_then(|()| (&mut *second).write_all(&piece[direct..]));
    ensure(written.is_ok(), "there is always room to receive", || {
        format!("{written:?}")
    })?;
    inbox.received(piece.len());
    Ok(())
}

/// Prelude, header and payload.
pub(super) fn frame(message: &Message, payload: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    encode(message, payload, &mut bytes).ok()?;
    bytes.extend_from_slice(payload);
    Some(bytes)
}

/// A frame taken apart.
#[derive(Clone)]
struct Parts {
    prelude: [u8; PRELUDE_BYTES],
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.prelude[..], &self.header, &self.payload].concat();
        seal_frame(&mut bytes, self.header.len(), self.payload.len());
        bytes
    }

    /// Makes kind and payload what the header says, most of the time.
    fn fit(&mut self, random: &mut Rng) {
        if random.u8(0..8) == 0 {
            let longest = self.payload.len() + 512;
            return mutate::bytes(&mut self.payload, &[], &[], longest, random);
        }
        let Ok(message) = rmp_serde::from_slice::<Message>(&self.header) else {
            return;
        };
        self.prelude[6..8].copy_from_slice(&message.kind().number().to_le_bytes());
        let length = match &message {
            Message::Write { range, .. } | Message::ResyncData { range, .. } => {
                u64::from(range.count()).saturating_mul(512)
            }
            Message::BitmapPages {
                pages,
                encoding: BitmapEncoding::Pages,
                ..
            } => u64::from(*pages) * 4096,
            Message::ReadData { .. } => 512 << random.u32(0..4),
            _ => 0,
        };
        self.payload
            .resize((length as usize).min(LONGEST_PAYLOAD), random.u8(..));
    }
}

fn split(mut bytes: &[u8]) -> Vec<Parts> {
    let mut frames = Vec::new();
    while let Some((prelude, rest)) = bytes.split_first_chunk::<PRELUDE_BYTES>() {
        let length = |from: usize| {
            u32::from_le_bytes([
                prelude[from],
                prelude[from + 1],
                prelude[from + 2],
                prelude[from + 3],
            ]) as usize
        };
        let (header, rest) = rest.split_at(length(8).min(rest.len()));
        let (payload, rest) = rest.split_at(length(12).min(rest.len()));
        frames.push(Parts {
            prelude: *prelude,
            header: header.to_vec(),
            payload: payload.to_vec(),
        });
        bytes = rest;
    }
    frames
}

/// Writes lengths and checksums of the frame at the front of `bytes`.
fn seal_frame(bytes: &mut [u8], header: usize, payload: usize) {
    let behind = PRELUDE_BYTES + header;
    let crc = payload_crc(&bytes[behind..behind + payload]);
    bytes[8..12].copy_from_slice(&(header as u32).to_le_bytes());
    bytes[12..16].copy_from_slice(&(payload as u32).to_le_bytes());
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
    let covered = [&bytes[..20], &bytes[PRELUDE_BYTES..behind]].concat();
    bytes[20..24].copy_from_slice(&payload_crc(&covered).to_le_bytes());
}
