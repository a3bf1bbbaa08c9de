//! One message with its payload, in and out of bytes. Pure and incremental: the caller owns the receive buffer and
//! the payload's destination.
//!
//! Sending: [`encode`] gives prelude and header; the payload is gathered behind them, uncopied.
//! Receiving: [`Head::parse`] on what has arrived; when it gives a head, [`Head::payload_length`] bytes of payload
//! follow the [`Head::length`] bytes of the head; [`Head::finish`] checks them.

use serde::{Deserialize, Serialize};

use super::check::check;
use super::kind::Kind;
use super::message::Message;
use super::prelude::{MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, PRELUDE_BYTES, Prelude, payload_crc};

/// A received message with its payload. `P` holds bytes: a pooled buffer, or a `Vec<u8>` in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<P> {
    /// What is said.
    pub message: Message,
    /// The raw bytes that belong to it, for the kinds that carry some.
    pub payload: Option<P>,
}

/// A message that does not fit the protocol: a fault of the sender's own program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The header is longer than the limit.
    #[error(
        "a {kind:?} message needs {length} bytes of header, {MAX_HEADER_BYTES} are allowed: cut its lists"
    )]
    HeaderLength {
        /// Kind of the message.
        kind: Kind,
        /// Bytes that it needs.
        length: usize,
    },
    /// The message breaks a rule of its kind, or its payload does not fit.
    #[error("a {kind:?} message with {payload_length} bytes of payload needs {rule}")]
    Rule {
        /// Kind of the message.
        kind: Kind,
        /// Bytes of payload given.
        payload_length: usize,
        /// What it needs.
        rule: &'static str,
    },
    /// MessagePack refused the header.
    #[error("a {kind:?} message can not be encoded: {reason}")]
    Header {
        /// Kind of the message.
        kind: Kind,
        /// Why.
        reason: String,
    },
}

/// Bytes that are no frame. The stream is useless after it: close the connection and connect again; what was not
/// acknowledged is resent or resynced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The first four bytes are not ours.
    #[error(
        "the peer does not speak the Mendblock protocol (first bytes {found:02x?}): check the peer's address"
    )]
    Magic {
        /// What was there.
        found: [u8; 4],
    },
    /// Another version of the framing.
    #[error("the peer uses framing version {found}, this node knows 1: run the same release on both nodes")]
    Framing {
        /// The peer's version.
        found: u16,
    },
    /// The header length is out of range.
    #[error("a header of {found} bytes is outside of 1 to {MAX_HEADER_BYTES}: closing the connection")]
    HeaderLength {
        /// Length in the prelude.
        found: u32,
    },
    /// The payload length is out of range.
    #[error("a payload of {found} bytes is longer than {MAX_PAYLOAD_BYTES}: closing the connection")]
    PayloadLength {
        /// Length in the prelude.
        found: u32,
    },
    /// The header was damaged on the way.
    #[error("header checksum {found:08x} but computed {computed:08x}: damaged on the way, check the network")]
    HeaderCrc {
        /// From the prelude.
        found: u32,
        /// Of the bytes that came.
        computed: u32,
    },
    /// The payload was damaged on the way.
    #[error(
        "payload checksum {found:08x} of a {kind:?} but computed {computed:08x}: damaged on the way, check the network"
    )]
    PayloadCrc {
        /// Kind of the message.
        kind: Kind,
        /// From the prelude.
        found: u32,
        /// Of the bytes that came.
        computed: u32,
    },
    /// A kind that this version does not know.
    #[error(
        "the peer sent kind {found}, unknown here though no agreed feature has it: report this as a bug of the peer"
    )]
    Kind {
        /// Number in the prelude.
        found: u16,
    },
    /// The header is no message.
    #[error("the header of a {kind:?} can not be read ({reason}): report this as a bug of the peer")]
    Header {
        /// Kind from the prelude.
        kind: Kind,
        /// Why.
        reason: String,
    },
    /// Prelude and header name different kinds.
    #[error("the prelude says {prelude:?}, the header {header:?}: report this as a bug of the peer")]
    KindMismatch {
        /// Kind from the prelude.
        prelude: Kind,
        /// Kind of the decoded message.
        header: Kind,
    },
    /// The message breaks a rule of its kind.
    #[error(
        "a {kind:?} with {payload_length} bytes of payload came, but it needs {rule}: report this as a bug of the peer"
    )]
    Rule {
        /// Kind of the message.
        kind: Kind,
        /// Bytes of payload that it announced.
        payload_length: usize,
        /// What it needs.
        rule: &'static str,
    },
}

/// Appends prelude and header of the message to `out`; the sender puts `payload` behind them. `out` is unchanged
/// after an error.
pub fn encode(message: &Message, payload: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    encode_with_crc(message, payload.len(), payload_crc(payload), out)
}

/// [`encode`] for a payload whose CRC-32C is already known.
pub fn encode_with_crc(
    message: &Message,
    payload_length: usize,
    payload_crc: u32,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let kind = message.kind();
    check(message, payload_length).map_err(|rule| EncodeError::Rule {
        kind,
        payload_length,
        rule,
    })?;
    let start = out.len();
    let written = write_header(message, payload_length, payload_crc, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write_header(
    message: &Message,
    payload_length: usize,
    payload_crc: u32,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let kind = message.kind();
    let start = out.len();
    out.resize(start + PRELUDE_BYTES, 0);
    message
        .serialize(&mut rmp_serde::Serializer::new(&mut *out))
        .map_err(|error| EncodeError::Header {
            kind,
            reason: error.to_string(),
        })?;
    let length = out.len() - start - PRELUDE_BYTES;
    if length > MAX_HEADER_BYTES {
        return Err(EncodeError::HeaderLength { kind, length });
    }
    Prelude::fill(&mut out[start..], kind.number(), payload_length, payload_crc);
    Ok(())
}

/// Prelude and header of a received frame, checked; its payload is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    message: Message,
    prelude: Prelude,
}

impl Head {
    /// Reads a head from the start of `bytes`; `None` when more bytes are needed. Bad lengths are refused as soon as
    /// the prelude is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let Some(prelude) = Prelude::parse(bytes)? else {
            return Ok(None);
        };
        let Some(header) = bytes.get(PRELUDE_BYTES..PRELUDE_BYTES + prelude.header_length) else {
            return Ok(None);
        };
        prelude.check_crc(bytes)?;
        let kind = Kind::from_number(prelude.kind).ok_or(DecodeError::Kind { found: prelude.kind })?;
        let message = read_header(kind, header)?;
        check(&message, prelude.payload_length).map_err(|rule| DecodeError::Rule {
            kind,
            payload_length: prelude.payload_length,
            rule,
        })?;
        Ok(Some(Self { message, prelude }))
    }

    /// Bytes of prelude and header: what the caller takes off its receive buffer.
    pub fn length(&self) -> usize {
        PRELUDE_BYTES + self.prelude.header_length
    }

    /// Bytes of payload that follow, at most [`MAX_PAYLOAD_BYTES`].
    pub fn payload_length(&self) -> usize {
        self.prelude.payload_length
    }

    /// The message, to choose a destination for its payload. Nothing may be done for it before [`Head::finish`].
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Gives out the message after checking its payload, which is all [`Head::payload_length`] bytes.
    pub fn finish(self, payload: &[u8]) -> Result<Message, DecodeError> {
        let kind = self.message.kind();
        if payload.len() != self.prelude.payload_length {
            return Err(DecodeError::Rule {
                kind,
                payload_length: payload.len(),
                rule: "the payload that its prelude announced",
            });
        }
        let computed = payload_crc(payload);
        if computed != self.prelude.payload_crc {
            return Err(DecodeError::PayloadCrc {
                kind,
                found: self.prelude.payload_crc,
                computed,
            });
        }
        Ok(self.message)
    }
}

fn read_header(kind: Kind, header: &[u8]) -> Result<Message, DecodeError> {
    let unreadable = |reason: String| DecodeError::Header { kind, reason };
    let mut deserializer = rmp_serde::Deserializer::new(header);
    let message = Message::deserialize(&mut deserializer).map_err(|error| unreadable(error.to_string()))?;
    let rest = deserializer.get_ref().len();
    if rest > 0 {
        return Err(unreadable(format!("{rest} bytes too many")));
    }
    if message.kind() != kind {
        return Err(DecodeError::KindMismatch {
            prelude: kind,
            header: message.kind(),
        });
    }
    Ok(message)
}
