//! What the steps of the story stand on: both nodes, the terminal, waiting with a deadline, and the checks.

use super::compare::{Comparison, compare};
use super::directory::{DemoDirectory, NodeFiles};
use super::nbd::{NbdClient, NbdClientError, REQUEST_BYTES};
use super::pattern::first_difference;
use super::process::{NodeProcess, VOLUME};
use super::terminal::{NodeStates, Terminal, changes, size};
use super::watch::NodeView;
use crate::admin::paths;
use crate::admin::schema::VolumeStatus;
use serde::Serialize;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often states are looked at while the story waits.
const POLL: Duration = Duration::from_millis(10);

/// A step that did not do what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What should have been.
    pub expected: String,
    /// What was instead.
    pub seen: String,
}

impl Failure {
    /// A failure.
    pub fn new(expected: impl Into<String>, seen: impl ToString) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.to_string(),
        }
    }
}

/// One of the two nodes.
#[derive(Debug)]
pub struct DemoNode {
    /// Its files.
    pub files: NodeFiles,
    /// Its admin API.
    pub view: NodeView,
    /// Its process, once it is started.
    pub process: Option<NodeProcess>,
}

impl DemoNode {
    fn new(files: &NodeFiles) -> Self {
        Self {
            files: files.clone(),
            view: NodeView::of(files),
            process: None,
        }
    }

    async fn look(&mut self) -> Result<Option<VolumeStatus>, Failure> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        match process.ended() {
            Some(status) => {
                let name = self.files.name;
                let log = std::fs::read_to_string(&self.files.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("nothing");
                Err(Failure::new(
                    format!("{name}'s process runs"),
                    format!("it ended ({status}); the last that it said: {last}"),
                ))
            }
            None => Ok(self.view.volume().await),
        }
    }
}

/// Status of both nodes; a node that does not answer has an empty one.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    /// First node.
    pub alice: VolumeStatus,
    /// Second node.
    pub bob: VolumeStatus,
}

impl Pair {
    /// Connected, both disks UpToDate.
    pub fn healthy(&self) -> bool {
        [&self.alice, &self.bob].iter().all(|volume| {
            let connected = volume
                .connections
                .first()
                .is_some_and(|there| there.state == "Connected");
            connected && volume.disk.state == "UpToDate"
        })
    }

    /// State of the connection as alice sees it.
    pub fn connection(&self) -> &str {
        self.alice
            .connections
            .first()
            .map_or("", |there| there.state.as_str())
    }
}

/// Where the story plays.
pub struct Stage {
    /// Output.
    pub terminal: Terminal,
    /// Number of the step under way.
    pub step: u8,
    /// First node.
    pub alice: DemoNode,
    /// Second node.
    pub bob: DemoNode,
    /// Bytes of a lower disk in front of its meta-data.
    pub data_bytes: u64,
    /// Size of the export: what both nodes agreed on.
    pub volume_bytes: u64,
    /// NBD requests that were answered.
    pub requests: u64,
    /// Of these, with an error.
    pub client_errors: u64,
    client: Option<NbdClient<UnixStream>>,
    shown: [NodeStates; 2],
}

impl Stage {
    /// Before the first step.
    pub fn new(directory: &DemoDirectory, terminal: Terminal) -> Self {
        Self {
            terminal,
            step: 0,
            alice: DemoNode::new(&directory.alice),
            bob: DemoNode::new(&directory.bob),
            data_bytes: 0,
            volume_bytes: 0,
            requests: 0,
            client_errors: 0,
            client: None,
            shown: [NodeStates::of("alice", None), NodeStates::of("bob", None)],
        }
    }

    /// Begins the next step.
    pub fn begin(&mut self, title: &str) {
        self.step += 1;
        self.terminal.step(self.step, title);
    }

    /// A sentence beside the present states.
    ///
    /// # Errors
    /// A node's process has ended.
    pub async fn say(&mut self, sentence: &str) -> Result<Pair, Failure> {
        let pair = self.look().await?;
        self.terminal.say(sentence, &self.shown);
        Ok(pair)
    }

    /// Looks at both nodes without showing anything.
    async fn look(&mut self) -> Result<Pair, Failure> {
        let (alice, bob) = (self.alice.look().await?, self.bob.look().await?);
        self.shown = [
            NodeStates::of("alice", alice.as_ref()),
            NodeStates::of("bob", bob.as_ref()),
        ];
        Ok(Pair {
            alice: alice.unwrap_or_default(),
            bob: bob.unwrap_or_default(),
        })
    }

    /// Waits for `done`, and shows every change of a state meanwhile, and every quarter of a resync.
    ///
    /// # Errors
    /// It did not come true in time, or a node's process has ended.
    pub async fn wait(
        &mut self,
        expected: &str,
        limit: Duration,
        done: impl Fn(&Pair) -> bool,
    ) -> Result<Pair, Failure> {
        let deadline = Instant::now() + limit;
        let mut quarter = 0;
        loop {
            let before = self.shown.clone();
            let pair = self.look().await?;
            if before != self.shown {
                let changes = changes(&before, &self.shown);
                self.terminal.say(&changes, &self.shown);
            }
            self.show_resync(&pair, &mut quarter);
            if done(&pair) {
                return Ok(pair);
            }
            if Instant::now() > deadline {
                let expected = format!("{expected}, within {} s", limit.as_secs());
                return Err(Failure::new(expected, self.seen(&pair)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn show_resync(&mut self, pair: &Pair, quarter: &mut u64) {
        let target = [&pair.alice, &pair.bob]
            .into_iter()
            .filter_map(|volume| volume.connections.first())
            .find(|there| there.state == "SyncTarget");
        let Some(resync) = target.and_then(|there| there.resync.as_ref()) else {
            return;
        };
        let now = (resync.done_percent / 25.0) as u64;
        if now > *quarter && now < 4 {
            *quarter = now;
            let done = resync.total_bytes.saturating_sub(resync.left_bytes);
            let text = format!(
                "resync: {} of {} done, {}/s",
                size(done),
                size(resync.total_bytes),
                size(resync.rate_bytes_per_second)
            );
            self.terminal.say(&text, &self.shown);
        }
    }

    /// The states in words, with the reasons that the nodes give.
    fn seen(&self, pair: &Pair) -> String {
        let mut seen = Vec::new();
        for (states, volume) in self.shown.iter().zip([&pair.alice, &pair.bob]) {
            let reasons: Vec<&str> = volume.why.iter().map(|why| why.text.as_str()).collect();
            seen.push(format!(
                "{}: {} {} {}{}{}",
                states.name,
                states.role,
                states.connection,
                states.disk,
                if reasons.is_empty() { "" } else { ": " },
                reasons.join("; ")
            ));
        }
        seen.join("\n            ")
    }

    /// Gives alice an order.
    ///
    /// # Errors
    /// She refuses.
    pub async fn order_alice(&self, command: &str, body: &impl Serialize) -> Result<(), Failure> {
        let answer: Result<serde_json::Value, _> = self
            .alice
            .view
            .client
            .post(&paths::command(VOLUME, command), body)
            .await;
        answer
            .map(drop)
            .map_err(|error| Failure::new(format!("alice accepts `{command}`"), error))
    }

    /// Connects the NBD client to alice.
    ///
    /// # Errors
    /// She does not serve the volume.
    pub async fn connect_client(&mut self) -> Result<(), Failure> {
        let socket = self.alice.files.nbd_socket.clone();
        let client = blocking(move || NbdClient::connect(&socket, VOLUME)).await?;
        let client = client.map_err(|error| Failure::new("alice serves the volume over NBD", error))?;
        self.volume_bytes = client.bytes();
        self.client = Some(client);
        Ok(())
    }

    /// Writes through alice.
    ///
    /// # Errors
    /// A write failed.
    pub async fn write(&mut self, offset: u64, data: Vec<u8>) -> Result<(), Failure> {
        self.with_client("the client's writes succeed", move |client, requests| {
            for (piece, at) in data.chunks(REQUEST_BYTES).zip((offset..).step_by(REQUEST_BYTES)) {
                client.write(at, piece)?;
                *requests += 1;
            }
            client.flush()?;
            *requests += 1;
            Ok(())
        })
        .await
    }

    /// Reads through alice and checks what comes.
    ///
    /// # Errors
    /// A read failed, or other data came.
    pub async fn read(&mut self, offset: u64, expected: Vec<u8>) -> Result<(), Failure> {
        let bytes = expected.len();
        let data = self
            .with_client("the client's reads succeed", move |client, requests| {
                let mut data = vec![0; bytes];
                for (piece, at) in data
                    .chunks_mut(REQUEST_BYTES)
                    .zip((offset..).step_by(REQUEST_BYTES))
                {
                    client.read(at, piece)?;
                    *requests += 1;
                }
                Ok(data)
            })
            .await?;
        same(&expected, &data, offset, "the client")
    }

    async fn with_client<T: Send + 'static>(
        &mut self,
        expected: &str,
        work: impl FnOnce(&mut NbdClient<UnixStream>, &mut u64) -> Result<T, NbdClientError> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut client = self
            .client
            .take()
            .ok_or_else(|| Failure::new(expected, "no connection"))?;
        let (client, answered, result) = blocking(move || {
            let mut answered = 0;
            let result = work(&mut client, &mut answered);
            (client, answered, result)
        })
        .await?;
        self.client = Some(client);
        self.requests += answered;
        result.map_err(|error| {
            self.client_errors += 1;
            Failure::new(expected, error)
        })
    }

    /// Ends the client's session.
    pub fn disconnect_client(&mut self) {
        self.client = None;
    }

    /// Compares the data areas of both lower disks; says so.
    ///
    /// # Errors
    /// They differ, or cannot be read.
    pub async fn compare_replicas(&mut self) -> Result<(), Failure> {
        let (alice, bob) = (self.alice.files.disk.clone(), self.bob.files.disk.clone());
        let bytes = self.data_bytes;
        let found = blocking(move || compare(&alice, &bob, bytes)).await?;
        match found {
            Ok(Comparison { first: None, .. }) => {
                let text = format!(
                    "Both disks compared, byte for byte, all {} of them: equal.",
                    size(bytes)
                );
                self.say(&text).await.map(drop)
            }
            Ok(Comparison { first, blocks, .. }) => Err(Failure::new(
                "both replicas are equal byte for byte",
                format!(
                    "{blocks} blocks differ, the first at byte {}",
                    first.unwrap_or_default()
                ),
            )),
            Err(error) => Err(Failure::new("both disk files can be read", error)),
        }
    }

    /// Checks what stands on a lower disk, past the node.
    ///
    /// # Errors
    /// Something else, or it cannot be read.
    pub fn on_disk(
        &self,
        disk: &Path,
        offset: u64,
        expected: &[u8],
        name: &'static str,
    ) -> Result<(), Failure> {
        let found = super::compare::read_at(disk, offset, expected.len())
            .map_err(|error| Failure::new(format!("{name}'s disk file can be read"), error))?;
        same(expected, &found, offset, name)
    }
}

fn same(expected: &[u8], found: &[u8], offset: u64, name: &str) -> Result<(), Failure> {
    match first_difference(expected, found) {
        None => Ok(()),
        Some(at) => Err(Failure::new(
            format!("{name} has the data that was written"),
            format!("other data from byte {} on", offset + at as u64),
        )),
    }
}

/// Runs blocking work beside the signals.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new("the demo's own work ends well", error))
}
