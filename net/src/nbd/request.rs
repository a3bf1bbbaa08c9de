//! Requests of the transmission phase: parsed, then judged by what was negotiated.
//!
//! | offset | bytes | request header |
//! |---|---|---|
//! | 0 | 4 | `NBD_REQUEST_MAGIC` |
//! | 4 | 2 | command flags |
//! | 6 | 2 | command |
//! | 8 | 8 | cookie, chosen by the client |
//! | 16 | 8 | offset |
//! | 24 | 4 | length |
//! | 28 | length | payload, of `NBD_CMD_WRITE` alone |

use super::constants::*;
use super::export::BlockSizes;
use super::reply::{NbdError, ReplyFormat};

/// Longest payload of a refused write that is read and thrown away. A longer one ends the connection.
const MAXIMUM_SKIPPED_PAYLOAD: u32 = 64 << 20;

/// A request header as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// `NBD_CMD_FLAG_…`.
    pub flags: u16,
    /// `NBD_CMD_…`.
    pub command: u16,
    /// Opaque; goes back in every reply.
    pub cookie: u64,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl RequestHeader {
    /// Parses the header; only the magic can be wrong.
    pub fn parse(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Result<Self, ProtocolViolation> {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| (u32::from(u16_at(at)) << 16) | u32::from(u16_at(at + 2));
        let u64_at = |at: usize| (u64::from(u32_at(at)) << 32) | u64::from(u32_at(at + 4));
        match u32_at(0) {
            NBD_REQUEST_MAGIC => Ok(Self {
                flags: u16_at(4),
                command: u16_at(6),
                cookie: u64_at(8),
                offset: u64_at(16),
                length: u32_at(24),
            }),
            magic => Err(ProtocolViolation::NoRequest(magic)),
        }
    }

    /// Bytes of payload that follow the header.
    pub fn payload_length(&self) -> u32 {
        match self.command {
            NBD_CMD_WRITE => self.length,
            _ => 0,
        }
    }
}

/// The client broke the protocol in a way after which its bytes mean nothing: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolViolation {
    /// No request where one should start.
    #[error("a request must start with 0x25609513, not {0:#010x}; the connection is out of step")]
    NoRequest(u32),
    /// A write so long that it is not even skipped.
    #[error("a write of {length} bytes; the client was told {maximum} as the maximum payload")]
    OversizedWrite {
        /// Announced bytes.
        length: u32,
        /// Advertised maximum payload.
        maximum: u32,
    },
}

/// What a request asks for, with the flags that the command can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Reply with the data of the range.
    Read {
        /// At most one content chunk in the reply.
        dont_fragment: bool,
    },
    /// `length` bytes of payload follow.
    Write {
        /// Answer only when on stable storage.
        fua: bool,
    },
    /// Everything answered before is on stable storage before the reply. Offset and length are 0.
    Flush,
    /// The range is no longer needed; its content is undefined from now on.
    Trim {
        /// Answer only when on stable storage.
        fua: bool,
    },
    /// The range will be read soon.
    Cache,
    /// The range reads as zeroes from now on. May be longer than the maximum payload.
    WriteZeroes {
        /// Answer only when on stable storage.
        fua: bool,
        /// Keep the range allocated.
        no_hole: bool,
        /// Refuse with [`NbdError::Enotsup`] unless faster than writing.
        fast_zero: bool,
    },
    /// Report the selected contexts over the range.
    BlockStatus {
        /// One extent for each context, not longer than the request.
        only_one: bool,
    },
}

/// A request that may be carried out: its range is not empty, aligned to the minimum block size and inside the
/// export (but for [`Command::Flush`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// Goes back in every reply.
    pub cookie: u64,
    /// What to do.
    pub command: Command,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

impl Request {
    /// Bytes of payload that follow the header.
    pub fn payload_length(&self) -> u32 {
        match self.command {
            Command::Write { .. } => self.length,
            _ => 0,
        }
    }
}

/// A request to answer with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Goes back in the reply.
    pub cookie: u64,
    /// Error to send.
    pub error: NbdError,
    /// Its text.
    pub refusal: RequestRefusal,
    /// Bytes of payload to read and throw away before the next header.
    pub skip: u32,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefusal {
    /// Command number without a meaning here.
    #[error("command {0} is not known")]
    UnknownCommand(u16),
    /// Command that the transmission flags do not offer.
    #[error("command {0} is not offered by this export")]
    NotOffered(u16),
    /// Flags that the command does not have, or that were not offered.
    #[error("flags {flags:#x} are not valid for command {command}")]
    Flags {
        /// Command number.
        command: u16,
        /// The flags at fault.
        flags: u16,
    },
    /// A write, trim or zeroes request on a read-only export.
    #[error("the export is read-only")]
    ReadOnly,
    /// Length 0.
    #[error("the request is empty")]
    Empty,
    /// A flush with an offset or length.
    #[error("offset and length of a flush must be 0")]
    FlushWithRange,
    /// Offset or length is no multiple of the minimum block size.
    #[error("offset and length must be multiples of {0} bytes")]
    Unaligned(u32),
    /// The range ends behind the export.
    #[error("the range ends behind the export's {0} bytes")]
    BehindEnd(u64),
    /// A read or write above the maximum payload.
    #[error("a request may move {0} bytes at most")]
    TooLong(u32),
    /// Block status without a selected metadata context.
    #[error("no metadata context was selected")]
    NoContext,
}

/// Verdict on a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Carry it out and answer it.
    Request(Request),
    /// Answer it with an error.
    Refused(Refused),
    /// `NBD_CMD_DISC`: finish what is under way, then close without an answer. Nothing follows.
    Disconnect,
}

/// What was negotiated, as far as requests must obey it. `size` may be changed when the export was resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestRules {
    /// Bytes of the export.
    pub size: u64,
    /// Transmission flags as sent.
    pub flags: u16,
    /// Limits as advertised.
    pub block_sizes: BlockSizes,
    /// Form of replies.
    pub replies: ReplyFormat,
    /// Whether a metadata context was selected.
    pub block_status: bool,
}

impl RequestRules {
    /// The first request in `input`; `None` while its header is incomplete. The header is
    /// [`REQUEST_HEADER_BYTES`] long; payload (or `skip`) follows.
    pub fn first(&self, input: &[u8]) -> Result<Option<Parsed>, ProtocolViolation> {
        match input.first_chunk() {
            Some(header) => self.judge(&RequestHeader::parse(header)?).map(Some),
            None => Ok(None),
        }
    }

    /// Judges one header.
    pub fn judge(&self, header: &RequestHeader) -> Result<Parsed, ProtocolViolation> {
        if header.command == NBD_CMD_DISC {
            return Ok(Parsed::Disconnect);
        }
        let skip = header.payload_length();
        let maximum = self.block_sizes.maximum_payload();
        if skip > maximum.max(MAXIMUM_SKIPPED_PAYLOAD) {
            return Err(ProtocolViolation::OversizedWrite {
                length: skip,
                maximum,
            });
        }
        let cookie = header.cookie;
        Ok(match self.check(header) {
            Ok(command) => Parsed::Request(Request {
                cookie,
                command,
                offset: header.offset,
                length: header.length,
            }),
            Err(refusal) => Parsed::Refused(Refused {
                cookie,
                error: self.error_of(header, refusal),
                refusal,
                skip,
            }),
        })
    }

    fn check(&self, header: &RequestHeader) -> Result<Command, RequestRefusal> {
        let command = self.command(header)?;
        match command {
            Command::Flush if header.offset == 0 && header.length == 0 => return Ok(command),
            Command::Flush => return Err(RequestRefusal::FlushWithRange),
            Command::Write { .. } | Command::Trim { .. } | Command::WriteZeroes { .. }
                if self.offers(NBD_FLAG_READ_ONLY) =>
            {
                return Err(RequestRefusal::ReadOnly);
            }
            Command::BlockStatus { .. } if !self.block_status => return Err(RequestRefusal::NoContext),
            Command::Read { .. } | Command::Write { .. }
                if header.length > self.block_sizes.maximum_payload() =>
            {
                return Err(RequestRefusal::TooLong(self.block_sizes.maximum_payload()));
            }
            _ => {}
        }
        self.check_range(header)?;
        Ok(command)
    }

    /// The command with its flags, when it and they were offered.
    fn command(&self, header: &RequestHeader) -> Result<Command, RequestRefusal> {
        let number = header.command;
        let has = |flag: u16| header.flags & flag != 0;
        let fua = has(NBD_CMD_FLAG_FUA);
        // The transmission flag that offers the command, and the command flags that it has besides FUA.
        let (offer, valid, command) = match number {
            NBD_CMD_READ => (
                NBD_FLAG_HAS_FLAGS,
                NBD_CMD_FLAG_DF,
                Command::Read {
                    dont_fragment: has(NBD_CMD_FLAG_DF),
                },
            ),
            NBD_CMD_WRITE => (NBD_FLAG_HAS_FLAGS, 0, Command::Write { fua }),
            NBD_CMD_FLUSH => (NBD_FLAG_SEND_FLUSH, 0, Command::Flush),
            NBD_CMD_TRIM => (NBD_FLAG_SEND_TRIM, 0, Command::Trim { fua }),
            NBD_CMD_CACHE => (NBD_FLAG_SEND_CACHE, 0, Command::Cache),
            NBD_CMD_WRITE_ZEROES => (
                NBD_FLAG_SEND_WRITE_ZEROES,
                NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
                Command::WriteZeroes {
                    fua,
                    no_hole: has(NBD_CMD_FLAG_NO_HOLE),
                    fast_zero: has(NBD_CMD_FLAG_FAST_ZERO),
                },
            ),
            NBD_CMD_BLOCK_STATUS => (
                NBD_FLAG_HAS_FLAGS,
                NBD_CMD_FLAG_REQ_ONE,
                Command::BlockStatus {
                    only_one: has(NBD_CMD_FLAG_REQ_ONE),
                },
            ),
            _ => return Err(RequestRefusal::UnknownCommand(number)),
        };
        if !self.offers(offer) {
            return Err(RequestRefusal::NotOffered(number));
        }
        let wrong = header.flags & !(valid | NBD_CMD_FLAG_FUA) | header.flags & self.flags_not_offered();
        match wrong {
            0 => Ok(command),
            flags => Err(RequestRefusal::Flags {
                command: number,
                flags,
            }),
        }
    }

    fn check_range(&self, header: &RequestHeader) -> Result<(), RequestRefusal> {
        let minimum = self.block_sizes.minimum();
        let (offset, length) = (header.offset, u64::from(header.length));
        if length == 0 {
            return Err(RequestRefusal::Empty);
        }
        if !offset.is_multiple_of(u64::from(minimum)) || !length.is_multiple_of(u64::from(minimum)) {
            return Err(RequestRefusal::Unaligned(minimum));
        }
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(RequestRefusal::BehindEnd(self.size)),
        }
    }

    fn offers(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Command flags that need a transmission flag which was not sent.
    fn flags_not_offered(&self) -> u16 {
        [
            (NBD_FLAG_SEND_FUA, NBD_CMD_FLAG_FUA),
            (NBD_FLAG_SEND_DF, NBD_CMD_FLAG_DF),
            (NBD_FLAG_SEND_FAST_ZERO, NBD_CMD_FLAG_FAST_ZERO),
        ]
        .into_iter()
        .filter(|(offer, _)| !self.offers(*offer))
        .fold(0, |flags, (_, flag)| flags | flag)
    }

    /// The error that the specification has for the refusal.
    fn error_of(&self, header: &RequestHeader, refusal: RequestRefusal) -> NbdError {
        match refusal {
            RequestRefusal::ReadOnly => NbdError::Eperm,
            RequestRefusal::BehindEnd(_)
                if matches!(header.command, NBD_CMD_WRITE | NBD_CMD_WRITE_ZEROES) =>
            {
                NbdError::Enospc
            }
            // Only a client that knows of fragments is prepared for EOVERFLOW.
            RequestRefusal::TooLong(_)
                if header.command == NBD_CMD_READ && self.replies == ReplyFormat::Structured =>
            {
                NbdError::Eoverflow
            }
            _ => NbdError::Einval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u16 = NBD_FLAG_HAS_FLAGS
        | NBD_FLAG_SEND_FLUSH
        | NBD_FLAG_SEND_FUA
        | NBD_FLAG_SEND_TRIM
        | NBD_FLAG_SEND_WRITE_ZEROES
        | NBD_FLAG_SEND_DF
        | NBD_FLAG_SEND_CACHE
        | NBD_FLAG_SEND_FAST_ZERO;

    fn rules(flags: u16) -> RequestRules {
        RequestRules {
            size: 64 << 20,
            flags,
            block_sizes: BlockSizes::default(),
            replies: ReplyFormat::Structured,
            block_status: true,
        }
    }

    fn header(command: u16, flags: u16, offset: u64, length: u32) -> RequestHeader {
        RequestHeader {
            flags,
            command,
            cookie: 7,
            offset,
            length,
        }
    }

    fn refused(rules: &RequestRules, header: RequestHeader) -> (NbdError, u32) {
        match rules.judge(&header) {
            Ok(Parsed::Refused(refused)) => {
                assert_eq!(refused.cookie, 7);
                (refused.error, refused.skip)
            }
            other => panic!("{header:?} gave {other:?}"),
        }
    }

    fn accepted(rules: &RequestRules, header: RequestHeader) -> Command {
        match rules.judge(&header) {
            Ok(Parsed::Request(request)) => {
                assert_eq!(
                    (request.cookie, request.offset, request.length),
                    (7, header.offset, header.length)
                );
                assert_eq!(request.payload_length(), header.payload_length());
                request.command
            }
            other => panic!("{header:?} gave {other:?}"),
        }
    }

    #[test]
    fn header_bytes() {
        let bytes: [u8; 28] =
            *b"\x25\x60\x95\x13\0\x01\0\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x01\0\0\x10\0\0\x02\0\0";
        let header = RequestHeader::parse(&bytes).unwrap();
        assert_eq!(
            header,
            RequestHeader {
                flags: NBD_CMD_FLAG_FUA,
                command: NBD_CMD_WRITE,
                cookie: 0x0102_0304_0506_0708,
                offset: 0x1_0000_1000,
                length: 0x2_0000,
            }
        );
        assert_eq!(header.payload_length(), 0x2_0000);
        let mut wrong = bytes;
        wrong[0] = 0x12;
        assert_eq!(
            RequestHeader::parse(&wrong),
            Err(ProtocolViolation::NoRequest(0x1260_9513))
        );
        assert_eq!(rules(ALL).first(&bytes[..27]), Ok(None));
    }

    #[test]
    fn every_command_with_its_flags() {
        let rules = rules(ALL);
        let fua = NBD_CMD_FLAG_FUA;
        let read = accepted(&rules, header(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512));
        assert_eq!(read, Command::Read { dont_fragment: true });
        // FUA is valid on every command once it was offered.
        let read = accepted(&rules, header(NBD_CMD_READ, fua, 0, 32 << 20));
        assert_eq!(read, Command::Read { dont_fragment: false });
        let write = accepted(&rules, header(NBD_CMD_WRITE, fua, 512, 32 << 20));
        assert_eq!(write, Command::Write { fua: true });
        assert_eq!(accepted(&rules, header(NBD_CMD_FLUSH, fua, 0, 0)), Command::Flush);
        let trim = accepted(&rules, header(NBD_CMD_TRIM, 0, 0, 64 << 20));
        assert_eq!(trim, Command::Trim { fua: false });
        assert_eq!(accepted(&rules, header(NBD_CMD_CACHE, 0, 0, 512)), Command::Cache);
        let zeroes = header(
            NBD_CMD_WRITE_ZEROES,
            NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
            0,
            64 << 20,
        );
        assert_eq!(
            accepted(&rules, zeroes),
            Command::WriteZeroes {
                fua: false,
                no_hole: true,
                fast_zero: true
            }
        );
        let status = header(NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, 512);
        assert_eq!(accepted(&rules, status), Command::BlockStatus { only_one: true });
        assert_eq!(
            rules.judge(&header(NBD_CMD_DISC, 0, 0, 0)),
            Ok(Parsed::Disconnect)
        );
    }

    #[test]
    fn what_was_not_offered_is_invalid() {
        let bare = rules(NBD_FLAG_HAS_FLAGS);
        for command in [
            NBD_CMD_FLUSH,
            NBD_CMD_TRIM,
            NBD_CMD_CACHE,
            NBD_CMD_WRITE_ZEROES,
            8,
            999,
        ] {
            assert_eq!(refused(&bare, header(command, 0, 0, 512)), (NbdError::Einval, 0));
        }
        for (command, flag) in [(NBD_CMD_WRITE, NBD_CMD_FLAG_FUA), (NBD_CMD_READ, NBD_CMD_FLAG_DF)] {
            assert_eq!(refused(&bare, header(command, flag, 0, 512)).0, NbdError::Einval);
        }
        let all = rules(ALL);
        for (command, flag) in [
            (NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE),
            (NBD_CMD_WRITE, NBD_CMD_FLAG_DF),
            (NBD_CMD_READ, NBD_CMD_FLAG_REQ_ONE),
            (NBD_CMD_READ, 1 << 5),
            (NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_REQ_ONE),
        ] {
            let skip = if command == NBD_CMD_WRITE { 512 } else { 0 };
            assert_eq!(
                refused(&all, header(command, flag, 0, 512)),
                (NbdError::Einval, skip)
            );
        }
        let no_fast = rules(ALL & !NBD_FLAG_SEND_FAST_ZERO);
        let zeroes = header(NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, 512);
        assert_eq!(refused(&no_fast, zeroes).0, NbdError::Einval);
        let no_context = RequestRules {
            block_status: false,
            ..all
        };
        assert_eq!(
            refused(&no_context, header(NBD_CMD_BLOCK_STATUS, 0, 0, 512)).0,
            NbdError::Einval
        );
        assert_eq!(
            refused(&all, header(NBD_CMD_FLUSH, 0, 0, 512)).0,
            NbdError::Einval
        );
    }

    #[test]
    fn ranges_are_held_to_the_export() {
        let rules = rules(ALL);
        let end = rules.size;
        assert_eq!(
            refused(&rules, header(NBD_CMD_WRITE, 0, end, 512)),
            (NbdError::Enospc, 512)
        );
        assert_eq!(
            refused(&rules, header(NBD_CMD_WRITE_ZEROES, 0, end - 512, 1024)).0,
            NbdError::Enospc
        );
        for command in [NBD_CMD_READ, NBD_CMD_TRIM, NBD_CMD_CACHE, NBD_CMD_BLOCK_STATUS] {
            assert_eq!(refused(&rules, header(command, 0, end, 512)).0, NbdError::Einval);
            let wrapping = header(command, 0, u64::MAX - 511, 512);
            assert_eq!(refused(&rules, wrapping).0, NbdError::Einval);
            assert_eq!(refused(&rules, header(command, 0, 0, 0)).0, NbdError::Einval);
            assert_eq!(refused(&rules, header(command, 0, 1, 512)).0, NbdError::Einval);
            assert_eq!(refused(&rules, header(command, 0, 0, 513)).0, NbdError::Einval);
            accepted(&rules, header(command, 0, end - 512, 512));
        }
        let full = header(NBD_CMD_WRITE, 0, u64::MAX - 511, 512);
        assert_eq!(refused(&rules, full), (NbdError::Enospc, 512));
    }

    #[test]
    fn long_requests() {
        let structured = rules(ALL);
        let simple = RequestRules {
            replies: ReplyFormat::Simple,
            ..structured
        };
        let long = (32 << 20) + 512;
        assert_eq!(
            refused(&structured, header(NBD_CMD_READ, 0, 0, long)).0,
            NbdError::Eoverflow
        );
        assert_eq!(
            refused(&simple, header(NBD_CMD_READ, 0, 0, long)).0,
            NbdError::Einval
        );
        assert_eq!(
            refused(&structured, header(NBD_CMD_WRITE, 0, 0, long)),
            (NbdError::Einval, long)
        );
        assert_eq!(
            structured.judge(&header(NBD_CMD_WRITE, 0, 0, u32::MAX)),
            Err(ProtocolViolation::OversizedWrite {
                length: u32::MAX,
                maximum: 32 << 20
            })
        );
    }

    #[test]
    fn read_only_exports_refuse_every_change() {
        let rules = rules(ALL | NBD_FLAG_READ_ONLY);
        assert_eq!(
            refused(&rules, header(NBD_CMD_WRITE, 0, 0, 512)),
            (NbdError::Eperm, 512)
        );
        for command in [NBD_CMD_TRIM, NBD_CMD_WRITE_ZEROES] {
            assert_eq!(refused(&rules, header(command, 0, 0, 512)), (NbdError::Eperm, 0));
        }
        accepted(&rules, header(NBD_CMD_READ, 0, 0, 512));
        accepted(&rules, header(NBD_CMD_FLUSH, 0, 0, 0));
    }
}
