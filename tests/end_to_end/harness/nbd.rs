//! A small NBD client, blocking, with simple replies: what the protocol says, and nothing of the node's own code.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A request that takes longer hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
const FUA: u16 = 1;

/// Commands by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Read = 0,
    Write = 1,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

/// Why there is no good answer.
#[derive(Debug)]
pub enum NbdError {
    /// The server's error number.
    Refused(u32),
    /// The connection broke, or the answer makes no sense: whether it was done is not known.
    Broken(io::Error),
}

impl From<io::Error> for NbdError {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Result of a request.
pub type NbdResult<T> = Result<T, NbdError>;

fn nonsense<T>(what: impl Into<String>) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidData, what.into()))
}

/// A connection in transmission phase.
pub struct Session {
    stream: UnixStream,
    cookie: u64,
    /// Export size, bytes.
    pub size: u64,
}

impl Session {
    /// Connects to `export` behind the unix socket.
    pub fn connect(socket: &Path, export: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
            return nonsense("no newstyle NBD server");
        }
        let mut go = Vec::new();
        go.extend(3u32.to_be_bytes());
        go.extend(IHAVEOPT.to_be_bytes());
        go.extend(OPTION_GO.to_be_bytes());
        go.extend((export.len() as u32 + 6).to_be_bytes());
        go.extend((export.len() as u32).to_be_bytes());
        go.extend(export.as_bytes());
        go.extend(0u16.to_be_bytes());
        stream.write_all(&go)?;
        let mut size = 0;
        loop {
            let mut head = [0; 20];
            stream.read_exact(&mut head)?;
            let kind = u32::from_be_bytes(head[12..16].try_into().unwrap());
            let length = u32::from_be_bytes(head[16..20].try_into().unwrap());
            let mut body = vec![0; length as usize];
            stream.read_exact(&mut body)?;
            match kind {
                REPLY_ACK => break,
                REPLY_INFO if body.starts_with(&[0, 0]) && body.len() == 12 => {
                    size = u64::from_be_bytes(body[2..10].try_into().unwrap());
                }
                REPLY_INFO => {}
                _ => {
                    return nonsense(format!(
                        "export refused ({kind:#x}): {}",
                        String::from_utf8_lossy(&body)
                    ));
                }
            }
        }
        Ok(Self {
            stream,
            cookie: 0,
            size,
        })
    }

    pub fn read(&mut self, offset: u64, length: u32) -> NbdResult<Vec<u8>> {
        let cookie = self.send_read(offset, length)?;
        let (answered, bytes) = self.receive(length)?;
        self.expect(cookie, answered)?;
        Ok(bytes)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> NbdResult<()> {
        self.transact(Command::Write, 0, offset, bytes.len() as u32, bytes)
    }

    /// Writes through to stable storage.
    pub fn write_fua(&mut self, offset: u64, bytes: &[u8]) -> NbdResult<()> {
        self.transact(Command::Write, FUA, offset, bytes.len() as u32, bytes)
    }

    pub fn flush(&mut self) -> NbdResult<()> {
        self.transact(Command::Flush, 0, 0, 0, &[])
    }

    pub fn trim(&mut self, offset: u64, length: u32) -> NbdResult<()> {
        self.transact(Command::Trim, 0, offset, length, &[])
    }

    pub fn write_zeroes(&mut self, offset: u64, length: u32) -> NbdResult<()> {
        self.transact(Command::WriteZeroes, 0, offset, length, &[])
    }

    /// Sends a read without waiting; the cookie of its answer.
    pub fn send_read(&mut self, offset: u64, length: u32) -> NbdResult<u64> {
        Ok(self.send(Command::Read, 0, offset, length, &[])?)
    }

    /// Cookie and data of the next answer; `length`: of the data if it is good.
    pub fn receive(&mut self, length: u32) -> NbdResult<(u64, Vec<u8>)> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if u32::from_be_bytes(head[..4].try_into().unwrap()) != REPLY_MAGIC {
            return Err(nonsense::<()>(format!("no reply: {head:?}")).unwrap_err().into());
        }
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        if error != 0 {
            return Err(NbdError::Refused(error));
        }
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok((u64::from_be_bytes(head[8..].try_into().unwrap()), bytes))
    }

    fn expect(&self, sent: u64, answered: u64) -> NbdResult<()> {
        if sent == answered {
            return Ok(());
        }
        Err(
            nonsense::<()>(format!("an answer to {answered} instead of {sent}"))
                .unwrap_err()
                .into(),
        )
    }

    fn transact(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> NbdResult<()> {
        let cookie = self.send(command, flags, offset, length, payload)?;
        let (answered, _) = self.receive(0)?;
        self.expect(cookie, answered)
    }

    fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> io::Result<u64> {
        self.cookie += 1;
        let mut request = Vec::with_capacity(28 + payload.len());
        request.extend(REQUEST_MAGIC.to_be_bytes());
        request.extend(flags.to_be_bytes());
        request.extend((command as u16).to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(payload);
        self.stream.write_all(&request)?;
        Ok(self.cookie)
    }
}
