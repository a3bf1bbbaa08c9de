//! A small NBD client, blocking, with simple replies: what the protocol says, and nothing of the node's own code.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A request that takes longer hangs.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(60);

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

    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let cookie = self.send_read(offset, length)?;
        self.finish(cookie)?;
        self.payload(length)
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let cookie = self.send_write(offset, bytes, false)?;
        self.finish(cookie)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let cookie = self.send_flush()?;
        self.finish(cookie)
    }

    pub fn trim(&mut self, offset: u64, length: u32) -> io::Result<()> {
        let cookie = self.send(Command::Trim, 0, offset, length, &[])?;
        self.finish(cookie)
    }

    pub fn write_zeroes(&mut self, offset: u64, length: u32) -> io::Result<()> {
        let cookie = self.send(Command::WriteZeroes, 0, offset, length, &[])?;
        self.finish(cookie)
    }

    /// Sends a read without waiting; the cookie of its answer.
    pub fn send_read(&mut self, offset: u64, length: u32) -> io::Result<u64> {
        self.send(Command::Read, 0, offset, length, &[])
    }

    /// Sends reads of as many bytes each in one write, so that they reach the server together.
    pub fn send_reads(&mut self, offsets: &[u64], length: u32) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        let mut cookies = Vec::new();
        for &offset in offsets {
            all.extend(self.request(Command::Read, 0, offset, length, &[]));
            cookies.push(self.cookie);
        }
        self.stream.write_all(&all)?;
        Ok(cookies)
    }

    /// Sends a write without waiting; with `forced` it goes through to stable storage.
    pub fn send_write(&mut self, offset: u64, bytes: &[u8], forced: bool) -> io::Result<u64> {
        let flags = if forced { FUA } else { 0 };
        self.send(Command::Write, flags, offset, bytes.len() as u32, bytes)
    }

    /// Sends a flush without waiting.
    pub fn send_flush(&mut self) -> io::Result<u64> {
        self.send(Command::Flush, 0, 0, 0, &[])
    }

    /// Cookie and error number of the next answer. The data of a good read follow: see [`payload`](Self::payload).
    pub fn answer(&mut self) -> io::Result<(u64, u32)> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if u32::from_be_bytes(head[..4].try_into().unwrap()) != REPLY_MAGIC {
            return nonsense(format!("no reply: {head:?}"));
        }
        let error = u32::from_be_bytes(head[4..8].try_into().unwrap());
        Ok((u64::from_be_bytes(head[8..].try_into().unwrap()), error))
    }

    /// Data of the read that was answered just now.
    pub fn payload(&mut self, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn finish(&mut self, sent: u64) -> io::Result<()> {
        match self.answer()? {
            (answered, _) if answered != sent => {
                nonsense(format!("an answer to {answered} instead of {sent}"))
            }
            (_, 0) => Ok(()),
            (_, error) => Err(io::Error::other(format!("NBD error {error}"))),
        }
    }

    fn send(
        &mut self,
        command: Command,
        flags: u16,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> io::Result<u64> {
        let request = self.request(command, flags, offset, length, payload);
        self.stream.write_all(&request)?;
        Ok(self.cookie)
    }

    fn request(&mut self, command: Command, flags: u16, offset: u64, length: u32, payload: &[u8]) -> Vec<u8> {
        self.cookie += 1;
        let mut request = Vec::with_capacity(28 + payload.len());
        request.extend(REQUEST_MAGIC.to_be_bytes());
        request.extend(flags.to_be_bytes());
        request.extend((command as u16).to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(payload);
        request
    }
}
