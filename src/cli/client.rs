//! A client of the admin API: HTTP/1.1 over the node's unix socket, one connection per request, every wait with a limit.

use crate::admin::exit;
use crate::admin::schema::ErrorBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest answer that is not a stream, bytes: a status of thousands of volumes fits.
const ANSWER_BYTES: usize = 64 << 20;

/// Why there is no answer, or which refusal it was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no node answers at {}: {source}; is it running, and is this its admin-socket? (--socket, MENDBLOCK_SOCKET)",
        socket.display()
    )]
    NoNode {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The node takes too long.
    #[error(
        "the node has not answered within {seconds} s; it may still do what was asked: see `mendblock status`, or wait longer with --timeout"
    )]
    TooSlow {
        /// The limit.
        seconds: u64,
    },
    /// The connection broke.
    #[error("the connection to the node broke: {0}; see its log")]
    Broken(#[from] hyper::Error),
    /// What came is not what this program understands.
    #[error("the node's answer makes no sense here: {0}; are node and command of the same release?")]
    Unintelligible(String),
    /// The node refuses.
    #[error("{} ({}) {}", refusal(body), body.code, body.text)]
    Refused {
        /// What the node says.
        body: ErrorBody,
    },
}

fn refusal(body: &ErrorBody) -> &'static str {
    if body.code < 0 {
        "State change failed:"
    } else {
        "Failure:"
    }
}

impl ClientError {
    /// The exit code of the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { body } => body.exit_code,
            _ => exit::USAGE,
        }
    }

    /// What to do, where the text does not say it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Refused { body } => Some(body.hint.as_str()).filter(|hint| !hint.is_empty()),
            _ => None,
        }
    }
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    limit: Duration,
}

impl Client {
    /// A client of the node at `socket`, which waits for each answer `limit` at most.
    pub fn new(socket: impl Into<PathBuf>, limit: Duration) -> Self {
        Self {
            socket: socket.into(),
            limit,
        }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// No answer, a refusal, or an answer of another shape.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// `POST path` with `body` as JSON.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::Unintelligible(error.to_string()))?;
        self.ask(Method::POST, path, body.into()).await
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path, Bytes::new()).await
    }

    /// `GET path` whose answer is JSON lines: only the answer's beginning has a limit.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self.limited(self.send(Method::GET, path, Bytes::new())).await?;
        if !response.status().is_success() {
            return Err(self.limited(refused(response)).await?);
        }
        Ok(Lines {
            body: response.into_body(),
            received: Vec::new(),
        })
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.limited(async {
            let response = self.send(method, path, body).await?;
            if !response.status().is_success() {
                return Err(refused(response).await?);
            }
            let body = collect(response).await?;
            serde_json::from_slice(&body).map_err(|error| ClientError::Unintelligible(error.to_string()))
        })
        .await
    }

    async fn limited<T>(
        &self,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let seconds = self.limit.as_secs();
        timeout(self.limit, answer)
            .await
            .unwrap_or(Err(ClientError::TooSlow { seconds }))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::NoNode {
                socket: self.socket.clone(),
                source,
            })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its error comes out of the request as well.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "mendblock")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Unintelligible(error.to_string()))?;
        Ok(sender.send_request(request).await?)
    }
}

/// The refusal in an answer.
async fn refused(response: Response<Incoming>) -> Result<ClientError, ClientError> {
    let status = response.status();
    let body = collect(response).await?;
    Ok(match serde_json::from_slice(&body) {
        Ok(body) => ClientError::Refused { body },
        Err(_) => ClientError::Unintelligible(format!("HTTP {status}: {}", String::from_utf8_lossy(&body))),
    })
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES);
    let collected = body
        .collect()
        .await
        .map_err(|error| ClientError::Unintelligible(error.to_string()))?;
    Ok(collected.to_bytes())
}

/// JSON lines as they arrive.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    received: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` when the node has ended the stream.
    ///
    /// # Errors
    /// The connection broke, or a line is longer than any answer may be.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.received[searched..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=searched + end).collect();
                return Ok(Some(
                    String::from_utf8_lossy(&line[..line.len() - 1]).into_owned(),
                ));
            }
            searched = self.received.len();
            if searched > ANSWER_BYTES {
                return Err(ClientError::Unintelligible("a line without end".into()));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Some(data) = frame?.data_ref() {
                        self.received.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
