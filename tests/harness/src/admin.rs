//! The admin API of a node and its commands, blocking.

use mendblock::admin::paths;
use mendblock::admin::schema::{ErrorBody, Kill, KillRequest, Status, VolumeStatus};
use mendblock::configuration::{FaultEntry, FaultKind, FaultMode, FaultRule};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Name of the volume in all tests.
pub const VOLUME: &str = "r0";
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Longest wait for an answer of the API.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// End of a command.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    pub out: String,
    pub errors: String,
}

impl Answer {
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn expect_error(&self, word: &str) {
        assert!(self.errors.contains(word), "{word:?} is missing in {self:#?}");
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            errors: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the program with `arguments`.
pub fn mendblock(arguments: &[&str]) -> Answer {
    command(arguments).output().unwrap().into()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::program::path());
    command
        .args(arguments)
        .env_remove("MENDBLOCK_CONFIG")
        .env_remove("MENDBLOCK_SOCKET")
        .stdin(Stdio::null());
    command
}

/// A node's admin API.
#[derive(Clone, Debug)]
pub struct Admin {
    pub socket: PathBuf,
}

impl Admin {
    /// Runs a command of the program against this node.
    pub fn command(&self, arguments: &[&str]) -> Answer {
        command(arguments)
            .arg("--socket")
            .arg(&self.socket)
            .output()
            .unwrap()
            .into()
    }

    /// A command on the volume: `["primary", "--force"]` becomes `mendblock primary r0 --force`.
    pub fn order(&self, arguments: &[&str]) -> Answer {
        let (first, rest) = arguments.split_first().unwrap();
        self.command(&[&[*first, VOLUME], rest].concat())
    }

    /// Status and body of the answer to one request.
    pub fn request(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        http(UnixStream::connect(&self.socket)?, method, path, body)
    }

    #[track_caller]
    pub fn ok(&self, method: &str, path: &str, body: &str) -> String {
        let (code, answer) = self.request(method, path, body).unwrap();
        assert_eq!(code, 200, "{method} {path} {body}: {answer}");
        answer
    }

    /// The refusal of a request that must not be done.
    #[track_caller]
    pub fn refused(&self, method: &str, path: &str, body: &str) -> ErrorBody {
        let (code, answer) = self.request(method, path, body).unwrap();
        assert!(code >= 400, "{method} {path} {body} was done: {answer}");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    pub fn status(&self) -> io::Result<Status> {
        let (_, body) = self.request("GET", paths::STATUS, "")?;
        serde_json::from_str(&body).map_err(io::Error::other)
    }

    #[track_caller]
    pub fn volume(&self) -> VolumeStatus {
        let status = self.status().unwrap();
        status.volumes.into_iter().next().unwrap()
    }

    /// Waits until the volume fulfils `condition`.
    #[track_caller]
    pub fn wait_for(
        &self,
        what: &str,
        seconds: u64,
        condition: impl Fn(&VolumeStatus) -> bool,
    ) -> VolumeStatus {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut last = String::from("no answer");
        while Instant::now() < deadline {
            match self.status() {
                Ok(status) => {
                    let volume = status.volumes.into_iter().next().unwrap();
                    if condition(&volume) {
                        return volume;
                    }
                    last = serde_json::to_string_pretty(&volume).unwrap();
                }
                Err(error) => last = error.to_string(),
            }
            std::thread::sleep(POLL);
        }
        panic!(
            "not within {seconds} s: {what}\n{}: {last}",
            self.socket.display()
        );
    }

    /// Lays a fault over the node's lower disk; its number.
    #[track_caller]
    pub fn fault(&self, rule: &FaultRule) -> u64 {
        let body = serde_json::to_string(rule).unwrap();
        let answer = self.ok("POST", &paths::faults(VOLUME, None), &body);
        serde_json::from_str::<FaultEntry>(&answer).unwrap().number
    }

    #[track_caller]
    pub fn clear_faults(&self) {
        self.ok("DELETE", &paths::faults(VOLUME, None), "");
    }

    /// Removes the faults that no repair can remove: those on anything but reads.
    #[track_caller]
    pub fn clear_faults_but_reads(&self) {
        for fault in self.volume().faults {
            if fault.rule.kind != FaultKind::Read {
                self.ok("DELETE", &paths::faults(VOLUME, Some(fault.number)), "");
            }
        }
    }

    /// Kills an actor of the volume.
    pub fn kill(&self, actor: &str, how: Kill) -> io::Result<(u16, String)> {
        let body = serde_json::to_string(&KillRequest { how }).unwrap();
        self.request("POST", &paths::kill(VOLUME, actor), &body)
    }
}

/// A rule that fails operations on `sectors` sectors from `first`.
pub fn failing(kind: FaultKind, first: u64, sectors: u32, mode: FaultMode) -> FaultRule {
    FaultRule {
        kind,
        first_sector: Some(first),
        sectors: Some(sectors),
        error: None,
        mode,
        delay_ms: 0,
        hang: false,
    }
}

/// One HTTP request on its own connection.
pub fn http<S: Read + Write + Limited>(
    mut stream: S,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<(u16, String)> {
    stream.limit(ANSWER_LIMIT)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let nonsense = || io::Error::other(format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(nonsense)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(nonsense)?, body.to_owned()))
}

/// A stream whose reads have a time limit.
pub trait Limited {
    fn limit(&self, limit: Duration) -> io::Result<()>;
}

impl Limited for UnixStream {
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

impl Limited for std::net::TcpStream {
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
