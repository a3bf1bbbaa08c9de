//! Replies of the transmission phase. The head of a reply is made apart from its data, so that a caller can gather
//! heads and pooled buffers into one vectored write.
//!
//! | simple reply | bytes | | structured chunk | bytes |
//! |---|---|---|---|---|
//! | 0 | 4: `NBD_SIMPLE_REPLY_MAGIC` | | 0 | 4: `NBD_STRUCTURED_REPLY_MAGIC` |
//! | 4 | 4: error, or 0 | | 4 | 2: flags |
//! | 8 | 8: cookie | | 6 | 2: type |
//! | 16 | data of a good read | | 8 | 8: cookie |
//! | | | | 16 | 4: length, then the chunk's body |

use super::constants::*;
use super::export::nbd_string;

/// Errors that the protocol has, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum NbdError {
    /// Not permitted: the export is read-only.
    Eperm = 1,
    /// Input/output error.
    Eio = 5,
    /// Out of memory.
    Enomem = 12,
    /// Invalid request.
    Einval = 22,
    /// No space: also a write behind the end.
    Enospc = 28,
    /// Too large; only for a read with structured replies, or a request without payload.
    Eoverflow = 75,
    /// Only for write zeroes with the fast flag.
    Enotsup = 95,
    /// The server is shutting down (or no longer serves the export); the client must disconnect.
    Eshutdown = 108,
}

impl NbdError {
    /// Number on the wire.
    pub fn code(self) -> u32 {
        self as u32
    }

    /// From a Linux `errno` of a failed data operation. What the protocol has no word for is an I/O error, never
    /// "invalid": the request was judged before it went to a disk. `EOPNOTSUPP` is one of these, since clients
    /// expect [`NbdError::Enotsup`] for fast zeroes alone.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            // EPERM, EACCES, EROFS
            1 | 13 | 30 => Self::Eperm,
            // ENOMEM
            12 => Self::Enomem,
            // EINVAL
            22 => Self::Einval,
            // EFBIG, ENOSPC, EDQUOT
            27 | 28 | 122 => Self::Enospc,
            // ESHUTDOWN
            108 => Self::Eshutdown,
            _ => Self::Eio,
        }
    }
}

/// The bytes in front of a reply's data, at most 32; or a whole reply without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    bytes: [u8; Self::CAPACITY],
    length: u8,
}

impl ReplyHead {
    const CAPACITY: usize = 32;

    fn new(parts: &[&[u8]]) -> Self {
        let mut head = Self {
            bytes: [0; Self::CAPACITY],
            length: 0,
        };
        for part in parts {
            let start = usize::from(head.length);
            head.bytes[start..start + part.len()].copy_from_slice(part);
            head.length += part.len() as u8;
        }
        head
    }

    fn simple(cookie: u64, error: u32) -> Self {
        Self::new(&[
            &NBD_SIMPLE_REPLY_MAGIC.to_be_bytes(),
            &error.to_be_bytes(),
            &cookie.to_be_bytes(),
        ])
    }

    /// Header of a structured chunk with `length` bytes of body, of which `body` are given here.
    fn chunk(cookie: u64, kind: u16, last: bool, length: u32, body: &[&[u8]; 2]) -> Self {
        let flags = if last { NBD_REPLY_FLAG_DONE } else { 0 };
        Self::new(&[
            &NBD_STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &flags.to_be_bytes(),
            &kind.to_be_bytes(),
            &cookie.to_be_bytes(),
            &length.to_be_bytes(),
            body[0],
            body[1],
        ])
    }

    /// Chunk with data: exactly `length` bytes from `offset` of the export follow. For a reply in several chunks;
    /// structured replies only. `length` must be in 1..=`u32::MAX - 8`.
    pub fn data_chunk(cookie: u64, offset: u64, length: u32, last: bool) -> Self {
        let body = [&offset.to_be_bytes()[..], &[]];
        Self::chunk(
            cookie,
            NBD_REPLY_TYPE_OFFSET_DATA,
            last,
            length.saturating_add(8),
            &body,
        )
    }

    /// Chunk that says that `length` bytes (not 0) from `offset` are zeroes. Structured replies only.
    pub fn hole_chunk(cookie: u64, offset: u64, length: u32, last: bool) -> Self {
        let body = [&offset.to_be_bytes()[..], &length.to_be_bytes()];
        Self::chunk(cookie, NBD_REPLY_TYPE_OFFSET_HOLE, last, 12, &body)
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl AsRef<[u8]> for ReplyHead {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// One extent of a block status reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// Bytes, not 0.
    pub length: u32,
    /// Of the context; `NBD_STATE_…` for `base:allocation`.
    pub flags: u32,
}

/// How this client wants its replies: negotiated once, used for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyFormat {
    /// Error number and data.
    Simple,
    /// Chunks; errors come with a text.
    Structured,
}

impl ReplyFormat {
    /// Whole reply to a successful request without data in its reply.
    pub fn done(self, cookie: u64) -> ReplyHead {
        match self {
            Self::Simple => ReplyHead::simple(cookie, 0),
            Self::Structured => ReplyHead::chunk(cookie, NBD_REPLY_TYPE_NONE, true, 0, &[&[], &[]]),
        }
    }

    /// Head of the reply to a successful read; exactly `length` bytes of data follow, and the reply is complete.
    /// The data must be at hand: after this head nothing but a hard disconnect can tell of an error.
    pub fn data(self, cookie: u64, offset: u64, length: u32) -> ReplyHead {
        match self {
            // A data chunk must not be empty.
            _ if length == 0 => self.done(cookie),
            Self::Simple => ReplyHead::simple(cookie, 0),
            Self::Structured => ReplyHead::data_chunk(cookie, offset, length, true),
        }
    }

    /// Appends the whole reply to a failed request. `message` (for the client's user, cut to 4096 bytes) is sent
    /// with structured replies only.
    pub fn error(self, cookie: u64, error: NbdError, message: &str, out: &mut Vec<u8>) {
        match self {
            Self::Simple => out.extend_from_slice(ReplyHead::simple(cookie, error.code()).as_bytes()),
            Self::Structured => error_chunk(cookie, NBD_REPLY_TYPE_ERROR, error, message, &[], true, out),
        }
    }
}

/// Appends an error chunk that names the offset (inside the request's range) at which the error occurred.
/// Structured replies only, and not for flush.
pub fn error_offset_chunk(
    cookie: u64,
    error: NbdError,
    message: &str,
    offset: u64,
    last: bool,
    out: &mut Vec<u8>,
) {
    let tail = offset.to_be_bytes();
    error_chunk(
        cookie,
        NBD_REPLY_TYPE_ERROR_OFFSET,
        error,
        message,
        &tail,
        last,
        out,
    );
}

/// Appends the chunk of one metadata context in a block status reply. `extents` lie one behind the other from the
/// request's offset; at least 1. Those behind the first 2^20 are left out, as the specification wants it: the client
/// asks again. Every selected context gets one chunk.
pub fn block_status_chunk(
    cookie: u64,
    context_id: u32,
    extents: &[StatusExtent],
    last: bool,
    out: &mut Vec<u8>,
) {
    let extents = &extents[..extents.len().min(1 << 20)];
    let length = 4 + 8 * extents.len() as u32;
    let body = [&context_id.to_be_bytes()[..], &[]];
    let head = ReplyHead::chunk(cookie, NBD_REPLY_TYPE_BLOCK_STATUS, last, length, &body);
    out.extend_from_slice(head.as_bytes());
    for extent in extents {
        out.extend_from_slice(&extent.length.to_be_bytes());
        out.extend_from_slice(&extent.flags.to_be_bytes());
    }
}

fn error_chunk(
    cookie: u64,
    kind: u16,
    error: NbdError,
    message: &str,
    tail: &[u8],
    last: bool,
    out: &mut Vec<u8>,
) {
    let message = nbd_string(message).as_bytes();
    let length = (6 + message.len() + tail.len()) as u32;
    let body = [
        &error.code().to_be_bytes()[..],
        &(message.len() as u16).to_be_bytes(),
    ];
    let head = ReplyHead::chunk(cookie, kind, last, length, &body);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(tail);
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    #[test]
    fn simple_replies() {
        assert_eq!(
            ReplyFormat::Simple.done(COOKIE).as_bytes(),
            b"\x67\x44\x66\x98\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08"
        );
        assert_eq!(
            ReplyFormat::Simple.data(COOKIE, 4096, 512),
            ReplyFormat::Simple.done(COOKIE)
        );
        let mut out = Vec::new();
        ReplyFormat::Simple.error(COOKIE, NbdError::Eio, "not sent", &mut out);
        assert_eq!(out, b"\x67\x44\x66\x98\0\0\0\x05\x01\x02\x03\x04\x05\x06\x07\x08");
    }

    #[test]
    fn structured_replies() {
        assert_eq!(
            ReplyFormat::Structured.done(COOKIE).as_bytes(),
            b"\x66\x8e\x33\xef\0\x01\0\0\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\0"
        );
        assert_eq!(
            ReplyFormat::Structured.data(COOKIE, 4096, 512).as_bytes(),
            b"\x66\x8e\x33\xef\0\x01\0\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\x02\x08\0\0\0\0\0\0\x10\0"
        );
        assert_eq!(
            ReplyFormat::Structured.data(COOKIE, 4096, 0),
            ReplyFormat::Structured.done(COOKIE)
        );
        assert_eq!(
            ReplyHead::hole_chunk(COOKIE, 4096, 512, false).as_bytes(),
            b"\x66\x8e\x33\xef\0\0\0\x02\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x0c\0\0\0\0\0\0\x10\0\0\0\x02\0"
        );
    }

    #[test]
    fn error_chunks() {
        let mut out = Vec::new();
        ReplyFormat::Structured.error(COOKIE, NbdError::Enospc, "full", &mut out);
        assert_eq!(
            out,
            b"\x66\x8e\x33\xef\0\x01\x80\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x0a\0\0\0\x1c\0\x04full"
        );
        out.clear();
        error_offset_chunk(COOKIE, NbdError::Eio, "bad", 512, true, &mut out);
        assert_eq!(
            out,
            b"\x66\x8e\x33\xef\0\x01\x80\x02\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x11\0\0\0\x05\0\x03bad\0\0\0\0\0\0\x02\0"
        );
        out.clear();
        ReplyFormat::Structured.error(COOKIE, NbdError::Eio, &"x".repeat(70_000), &mut out);
        assert_eq!(out.len(), 26 + NBD_MAX_STRING);
    }

    #[test]
    fn block_status() {
        let mut out = Vec::new();
        let extents = [
            StatusExtent {
                length: 512,
                flags: 0,
            },
            StatusExtent {
                length: 1024,
                flags: NBD_STATE_HOLE | NBD_STATE_ZERO,
            },
        ];
        block_status_chunk(COOKIE, 1, &extents, true, &mut out);
        assert_eq!(
            out,
            b"\x66\x8e\x33\xef\0\x01\0\x05\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x14\0\0\0\x01\0\0\x02\0\0\0\0\0\0\0\x04\0\0\0\0\x03"
        );
    }

    #[test]
    fn errno_mapping() {
        // EROFS, EDQUOT, EFBIG, ESHUTDOWN; ENODATA (unreadable medium), EOPNOTSUPP, ENXIO.
        for (errno, error) in [
            (30, NbdError::Eperm),
            (122, NbdError::Enospc),
            (27, NbdError::Enospc),
            (108, NbdError::Eshutdown),
            (61, NbdError::Eio),
            (95, NbdError::Eio),
            (6, NbdError::Eio),
            (-1, NbdError::Eio),
        ] {
            assert_eq!(NbdError::from_errno(errno), error, "errno {errno}");
        }
    }
}
