//! Every number of the protocol under its name in the NBD specification (`doc/proto.md`). All are sent big-endian.

/// `INIT_PASSWD`, the server's first eight bytes: "NBDMAGIC".
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second magic of the greeting and first of every option: "IHAVEOPT".
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Magic of every reply to an option.
pub const NBD_REP_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Magic of a request.
pub const NBD_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const NBD_SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Magic of a chunk of a structured reply.
pub const NBD_STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: the server speaks fixed newstyle.
pub const NBD_FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zeroes after `NBD_OPT_EXPORT_NAME` can be left out.
pub const NBD_FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flag: the client speaks fixed newstyle.
pub const NBD_FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Client flag: leave the 124 zeroes out.
pub const NBD_FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Transmission flag: always set.
pub const NBD_FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes are refused.
pub const NBD_FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: `NBD_CMD_FLUSH` is understood.
pub const NBD_FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: `NBD_CMD_FLAG_FUA` is understood.
pub const NBD_FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: the medium rotates.
pub const NBD_FLAG_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: `NBD_CMD_TRIM` is understood.
pub const NBD_FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_FLAG_NO_HOLE` are understood.
pub const NBD_FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: `NBD_CMD_FLAG_DF` is understood; only with structured replies.
pub const NBD_FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: flush and FUA on one connection cover what was answered on every other one.
pub const NBD_FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: `NBD_CMD_CACHE` is understood.
pub const NBD_FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: `NBD_CMD_FLAG_FAST_ZERO` is understood; only with `NBD_FLAG_SEND_WRITE_ZEROES`.
pub const NBD_FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Option: take the named export; no error can be told.
pub const NBD_OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const NBD_OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const NBD_OPT_LIST: u32 = 3;
/// Option: withdrawn from the specification.
pub const NBD_OPT_PEEK_EXPORT: u32 = 4;
/// Option: upgrade to TLS.
pub const NBD_OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const NBD_OPT_INFO: u32 = 6;
/// Option: take an export.
pub const NBD_OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const NBD_OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list the metadata contexts of an export.
pub const NBD_OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: select metadata contexts of an export.
pub const NBD_OPT_SET_META_CONTEXT: u32 = 10;
/// Option: experimental extension.
pub const NBD_OPT_EXTENDED_HEADERS: u32 = 11;

/// Option reply: done.
pub const NBD_REP_ACK: u32 = 1;
/// Option reply: one entry of the list of exports.
pub const NBD_REP_SERVER: u32 = 2;
/// Option reply: one piece of information about an export.
pub const NBD_REP_INFO: u32 = 3;
/// Option reply: one metadata context.
pub const NBD_REP_META_CONTEXT: u32 = 4;
/// Bit that every error reply has set.
pub const NBD_REP_FLAG_ERROR: u32 = 1 << 31;
/// Option reply: the server does not know the option.
pub const NBD_REP_ERR_UNSUP: u32 = NBD_REP_FLAG_ERROR | 1;
/// Option reply: the server may not do it.
pub const NBD_REP_ERR_POLICY: u32 = NBD_REP_FLAG_ERROR | 2;
/// Option reply: the option is malformed.
pub const NBD_REP_ERR_INVALID: u32 = NBD_REP_FLAG_ERROR | 3;
/// Option reply: no such export.
pub const NBD_REP_ERR_UNKNOWN: u32 = NBD_REP_FLAG_ERROR | 6;
/// Option reply: the server is shutting down.
pub const NBD_REP_ERR_SHUTDOWN: u32 = NBD_REP_FLAG_ERROR | 7;
/// Option reply: request or reply too large.
pub const NBD_REP_ERR_TOO_BIG: u32 = NBD_REP_FLAG_ERROR | 9;

/// Information: size and transmission flags.
pub const NBD_INFO_EXPORT: u16 = 0;
/// Information: canonical name.
pub const NBD_INFO_NAME: u16 = 1;
/// Information: description for people.
pub const NBD_INFO_DESCRIPTION: u16 = 2;
/// Information: minimum and preferred block size, maximum payload.
pub const NBD_INFO_BLOCK_SIZE: u16 = 3;

/// Command: read.
pub const NBD_CMD_READ: u16 = 0;
/// Command: write; the only one with a payload.
pub const NBD_CMD_WRITE: u16 = 1;
/// Command: disconnect; not answered.
pub const NBD_CMD_DISC: u16 = 2;
/// Command: flush.
pub const NBD_CMD_FLUSH: u16 = 3;
/// Command: the range is no longer needed.
pub const NBD_CMD_TRIM: u16 = 4;
/// Command: the range will be read soon.
pub const NBD_CMD_CACHE: u16 = 5;
/// Command: write zeroes.
pub const NBD_CMD_WRITE_ZEROES: u16 = 6;
/// Command: report the selected metadata contexts.
pub const NBD_CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: answer only when the data is on stable storage.
pub const NBD_CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of write zeroes: keep the range allocated.
pub const NBD_CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of read: one content chunk at most.
pub const NBD_CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of block status: one extent for each context.
pub const NBD_CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag of write zeroes: fail unless faster than a write.
pub const NBD_CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Chunk flag: the last chunk of its reply.
pub const NBD_REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk: nothing but the end of the reply.
pub const NBD_REPLY_TYPE_NONE: u16 = 0;
/// Chunk: data of a range.
pub const NBD_REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk: a range of zeroes.
pub const NBD_REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk: extents of one metadata context.
pub const NBD_REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// Chunk: the request failed.
pub const NBD_REPLY_TYPE_ERROR: u16 = (1 << 15) | 1;
/// Chunk: the request failed at an offset.
pub const NBD_REPLY_TYPE_ERROR_OFFSET: u16 = (1 << 15) | 2;

/// `base:allocation`: not allocated.
pub const NBD_STATE_HOLE: u32 = 1 << 0;
/// `base:allocation`: reads as zeroes.
pub const NBD_STATE_ZERO: u32 = 1 << 1;

/// Bytes of the longest string that the specification allows (names, descriptions, messages).
pub const NBD_MAX_STRING: usize = 4096;
/// Bytes of a request header.
pub const REQUEST_HEADER_BYTES: usize = 28;
/// Bytes of payload that every server should take in one request: 32 MiB. Our limit for reads and writes.
pub const MAXIMUM_PAYLOAD_BYTES: u32 = 32 << 20;
