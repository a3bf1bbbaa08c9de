//! A small NBD client: fixed newstyle, `NBD_OPT_GO`, reads with simple or structured replies, writes, flushes. One request
//! at a time, blocking. It is written apart from the server in `net`, of which it shares nothing but the numbers.

use mendblock_net::nbd::constants::{
    IHAVEOPT, NBD_CMD_DISC, NBD_CMD_FLUSH, NBD_CMD_READ, NBD_CMD_WRITE, NBD_FLAG_C_FIXED_NEWSTYLE,
    NBD_FLAG_C_NO_ZEROES, NBD_FLAG_FIXED_NEWSTYLE, NBD_INFO_EXPORT, NBD_OPT_GO, NBD_OPT_STRUCTURED_REPLY,
    NBD_REP_ACK, NBD_REP_FLAG_ERROR, NBD_REP_INFO, NBD_REP_MAGIC, NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_NONE,
    NBD_REPLY_TYPE_OFFSET_DATA, NBD_REPLY_TYPE_OFFSET_HOLE, NBD_REQUEST_MAGIC, NBD_SIMPLE_REPLY_MAGIC,
    NBD_STRUCTURED_REPLY_MAGIC, NBDMAGIC,
};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Largest request, bytes: what every server must take.
pub const REQUEST_BYTES: usize = 128 << 10;
/// How long the server may be silent. A request that waits for a detach or a lost peer is answered well before.
const SILENCE: Duration = Duration::from_secs(60);
/// Largest reply to an option and largest error chunk, bytes.
const SMALL_REPLY_BYTES: u32 = 64 << 10;
/// Bit of a chunk's type that says "error".
const CHUNK_IS_ERROR: u16 = 1 << 15;

/// Why a request did not end well.
#[derive(Debug, thiserror::Error)]
pub enum NbdClientError {
    /// The socket failed, or the server was silent for too long.
    #[error("NBD {action}: {source}")]
    Socket {
        /// What was going on.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The server broke the protocol.
    #[error("NBD: the server sent {what}")]
    Protocol {
        /// What came.
        what: String,
    },
    /// The server refuses the export.
    #[error("NBD: the server refuses the export {export:?}: {text} (reply {code:#x})")]
    Refused {
        /// The export.
        export: String,
        /// The number of the refusal.
        code: u32,
        /// The server's words.
        text: String,
    },
    /// The server answered a request with an error.
    #[error("NBD {command} of {bytes} bytes at byte {offset} failed: error {error}")]
    Request {
        /// `read`, `write` or `flush`.
        command: &'static str,
        /// First byte.
        offset: u64,
        /// Length.
        bytes: usize,
        /// The protocol's error number, which is Linux's.
        error: u32,
    },
}

fn protocol(what: impl Into<String>) -> NbdClientError {
    NbdClientError::Protocol { what: what.into() }
}

/// A client in the transmission phase.
#[derive(Debug)]
pub struct NbdClient<S: Read + Write> {
    stream: S,
    bytes: u64,
    cookie: u64,
}

impl NbdClient<UnixStream> {
    /// Connects to the export `export` of the server at `socket`.
    ///
    /// # Errors
    /// Nobody listens, or the server refuses the export.
    pub fn connect(socket: &Path, export: &str) -> Result<Self, NbdClientError> {
        let failed = |source| NbdClientError::Socket {
            action: "connect",
            source,
        };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(failed)?;
        Self::negotiate(stream, export)
    }
}

impl<S: Read + Write> NbdClient<S> {
    /// Negotiates the export over a fresh connection.
    ///
    /// # Errors
    /// The server speaks something else, or refuses the export.
    pub fn negotiate(mut stream: S, export: &str) -> Result<Self, NbdClientError> {
        let mut greeting = [0; 18];
        receive(&mut stream, &mut greeting)?;
        if be64(&greeting) != NBDMAGIC || be64(&greeting[8..]) != IHAVEOPT {
            return Err(protocol(
                "a greeting that is not the one of an NBD server (newstyle)",
            ));
        }
        if be16(&greeting[16..]) & NBD_FLAG_FIXED_NEWSTYLE == 0 {
            return Err(protocol("a greeting without the flag for fixed newstyle"));
        }
        send(
            &mut stream,
            &(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES).to_be_bytes(),
        )?;
        send(&mut stream, &option(NBD_OPT_STRUCTURED_REPLY, &[]))?;
        // A refusal is fine: then replies are simple, and each says which kind it is.
        option_reply(&mut stream, NBD_OPT_STRUCTURED_REPLY)?;
        let mut go = (export.len() as u32).to_be_bytes().to_vec();
        go.extend_from_slice(export.as_bytes());
        go.extend_from_slice(&0_u16.to_be_bytes());
        send(&mut stream, &option(NBD_OPT_GO, &go))?;
        let bytes = export_size(&mut stream, export)?;
        Ok(Self {
            stream,
            bytes,
            cookie: 0,
        })
    }

    /// Size of the export, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads at most [`REQUEST_BYTES`] into `buffer`.
    ///
    /// # Errors
    /// The server answers with an error, breaks the protocol, or is silent.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), NbdClientError> {
        self.request(NBD_CMD_READ, offset, buffer.len(), &[])?;
        self.reply("read", offset, buffer.len(), Some(buffer))
    }

    /// Writes at most [`REQUEST_BYTES`].
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdClientError> {
        self.request(NBD_CMD_WRITE, offset, data.len(), data)?;
        self.reply("write", offset, data.len(), None)
    }

    /// Returns when everything that was written is on stable storage.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn flush(&mut self) -> Result<(), NbdClientError> {
        self.request(NBD_CMD_FLUSH, 0, 0, &[])?;
        self.reply("flush", 0, 0, None)
    }

    fn request(
        &mut self,
        command: u16,
        offset: u64,
        bytes: usize,
        data: &[u8],
    ) -> Result<(), NbdClientError> {
        self.cookie += 1;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend_from_slice(&NBD_REQUEST_MAGIC.to_be_bytes());
        request.extend_from_slice(&0_u16.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&self.cookie.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&(bytes as u32).to_be_bytes());
        request.extend_from_slice(data);
        send(&mut self.stream, &request)
    }

    /// Takes the reply to the request under way; `data` is what a read is to fill.
    fn reply(
        &mut self,
        command: &'static str,
        offset: u64,
        bytes: usize,
        mut data: Option<&mut [u8]>,
    ) -> Result<(), NbdClientError> {
        let mut filled = 0;
        let mut first_error = None;
        loop {
            let mut head = [0; 16];
            receive(&mut self.stream, &mut head)?;
            if be64(&head[8..]) != self.cookie {
                return Err(protocol("a reply to a request that was not sent"));
            }
            let done = match be32(&head) {
                NBD_SIMPLE_REPLY_MAGIC => {
                    match (be32(&head[4..]), data.as_deref_mut()) {
                        (0, Some(buffer)) => {
                            receive(&mut self.stream, buffer)?;
                            filled += buffer.len();
                        }
                        (0, None) => {}
                        (error, _) => first_error = Some(error),
                    }
                    true
                }
                NBD_STRUCTURED_REPLY_MAGIC => {
                    let kind = be16(&head[6..]);
                    match self.chunk(kind, offset, data.as_deref_mut())? {
                        Chunk::Filled(count) => filled += count,
                        Chunk::Error(error) => {
                            first_error.get_or_insert(error);
                        }
                    }
                    be16(&head[4..]) & NBD_REPLY_FLAG_DONE != 0
                }
                other => return Err(protocol(format!("a reply with the unknown magic {other:#x}"))),
            };
            if done {
                break;
            }
        }
        if let Some(error) = first_error {
            return Err(NbdClientError::Request {
                command,
                offset,
                bytes,
                error,
            });
        }
        if data.is_some_and(|buffer| buffer.len() != filled) {
            return Err(protocol(format!(
                "{filled} bytes for a read of {bytes} bytes at byte {offset}"
            )));
        }
        Ok(())
    }

    fn chunk(&mut self, kind: u16, offset: u64, data: Option<&mut [u8]>) -> Result<Chunk, NbdClientError> {
        let mut length = [0; 4];
        receive(&mut self.stream, &mut length)?;
        let length = u32::from_be_bytes(length);
        match (kind, data) {
            (NBD_REPLY_TYPE_NONE, _) if length == 0 => Ok(Chunk::Filled(0)),
            (NBD_REPLY_TYPE_OFFSET_DATA, Some(buffer)) if length >= 8 => {
                let mut at = [0; 8];
                receive(&mut self.stream, &mut at)?;
                let part = part_of(buffer, offset, u64::from_be_bytes(at), length - 8)?;
                receive(&mut self.stream, part)?;
                Ok(Chunk::Filled(part.len()))
            }
            (NBD_REPLY_TYPE_OFFSET_HOLE, Some(buffer)) if length == 12 => {
                let mut hole = [0; 12];
                receive(&mut self.stream, &mut hole)?;
                let part = part_of(buffer, offset, be64(&hole), be32(&hole[8..]))?;
                part.fill(0);
                Ok(Chunk::Filled(part.len()))
            }
            (kind, _) if kind & CHUNK_IS_ERROR != 0 && (6..=SMALL_REPLY_BYTES).contains(&length) => {
                let mut error = vec![0; length as usize];
                receive(&mut self.stream, &mut error)?;
                Ok(Chunk::Error(be32(&error)))
            }
            (kind, _) => Err(protocol(format!(
                "a chunk of type {kind} and {length} bytes, which does not belong here"
            ))),
        }
    }
}

impl<S: Read + Write> Drop for NbdClient<S> {
    /// Says good-bye; a server that is gone needs none.
    fn drop(&mut self) {
        let _ = self.request(NBD_CMD_DISC, 0, 0, &[]);
    }
}

/// What a chunk of a structured reply brought.
enum Chunk {
    /// So many bytes of the buffer.
    Filled(usize),
    /// The request failed.
    Error(u32),
}

/// The part of a read's buffer that a chunk at byte `at` of the export fills.
fn part_of(buffer: &mut [u8], offset: u64, at: u64, bytes: u32) -> Result<&mut [u8], NbdClientError> {
    let start = at
        .checked_sub(offset)
        .and_then(|start| usize::try_from(start).ok());
    start
        .and_then(|start| buffer.get_mut(start..start.checked_add(bytes as usize)?))
        .ok_or_else(|| protocol(format!("{bytes} bytes at byte {at}, outside of what was read")))
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut option = IHAVEOPT.to_be_bytes().to_vec();
    option.extend_from_slice(&number.to_be_bytes());
    option.extend_from_slice(&(data.len() as u32).to_be_bytes());
    option.extend_from_slice(data);
    option
}

/// One reply to an option: its type and its data.
fn option_reply(stream: &mut impl Read, number: u32) -> Result<(u32, Vec<u8>), NbdClientError> {
    let mut head = [0; 20];
    receive(stream, &mut head)?;
    let length = be32(&head[16..]);
    if be64(&head) != NBD_REP_MAGIC || be32(&head[8..]) != number || length > SMALL_REPLY_BYTES {
        return Err(protocol(format!("no reply to the option {number}")));
    }
    let mut data = vec![0; length as usize];
    receive(stream, &mut data)?;
    Ok((be32(&head[12..]), data))
}

fn export_size(stream: &mut impl Read, export: &str) -> Result<u64, NbdClientError> {
    let mut size = None;
    loop {
        let (kind, data) = option_reply(stream, NBD_OPT_GO)?;
        match kind {
            NBD_REP_ACK => return size.ok_or_else(|| protocol("no size of the export")),
            NBD_REP_INFO if data.len() == 12 && be16(&data) == NBD_INFO_EXPORT => {
                size = Some(be64(&data[2..]))
            }
            NBD_REP_INFO => {}
            code if code & NBD_REP_FLAG_ERROR != 0 => {
                return Err(NbdClientError::Refused {
                    export: export.into(),
                    code,
                    text: String::from_utf8_lossy(&data).into_owned(),
                });
            }
            other => return Err(protocol(format!("the reply {other} to NBD_OPT_GO"))),
        }
    }
}

fn receive(stream: &mut impl Read, buffer: &mut [u8]) -> Result<(), NbdClientError> {
    stream
        .read_exact(buffer)
        .map_err(|source| NbdClientError::Socket {
            action: "receive",
            source,
        })
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> Result<(), NbdClientError> {
    stream.write_all(bytes).map_err(|source| NbdClientError::Socket {
        action: "send",
        source,
    })
}

/// The big-endian number at the beginning of `bytes`, which has that many.
fn be64(bytes: &[u8]) -> u64 {
    bytes[..8]
        .iter()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn be32(bytes: &[u8]) -> u32 {
    bytes[..4]
        .iter()
        .fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from(bytes[0]) << 8 | u16::from(bytes[1])
}

#[cfg(test)]
mod tests;
