//! `mendblock node`: reads the configuration, starts the volumes on their Arbiter, serves the admin API, NBD and metrics,
//! and ends orderly.
//!
//! Two threads: the data Arbiter with the volumes, their clients and peers, and this one with everything that may be slow
//! (API, events, metrics).

mod api;
mod events;
mod faults;
mod metrics;
mod serve;
mod setup;
mod status;
mod stop;
mod why;

use crate::admin::exit;
use crate::cli::NodeArguments;
use crate::configuration::Configuration;
use mendblock_actors::clock::Clock;
use mendblock_actors::facts::Happened;
use mendblock_actors::volume::{Meters, VolumeHandle, VolumeSetup, Volumes};
use mendblock_core::volume::machine::{Command, CommandAnswer};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{broadcast, oneshot};

/// Events that a slow reader may lag behind before it misses some.
const EVENTS_KEPT: usize = 4096;

/// Everything that the API and the metrics look at.
pub struct Node {
    configuration: Configuration,
    volumes: Vec<VolumeHandle>,
    events: broadcast::Sender<Arc<Happened>>,
    metrics: metrics::NodeMetricsSet,
    started: SystemTime,
    allow_kill: bool,
}

/// Why a node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A directory or socket.
    #[error("cannot {action} {what}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
    /// An NBD listener.
    #[error(transparent)]
    Nbd(#[from] mendblock_net::nbd::BindError),
    /// A volume.
    #[error("volume {volume}: {source}")]
    Volume {
        /// Which.
        volume: String,
        /// The cause.
        source: mendblock_actors::volume::StartError,
    },
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] mendblock_metrics::ExporterError),
    /// The data Arbiter ended while it started.
    #[error("the data thread ended while the node was starting: see the log")]
    Arbiter,
}

/// Runs a node until it is told to stop. The exit code of the process.
pub fn run(arguments: &NodeArguments) -> u8 {
    let configuration = match arguments.file.load() {
        Ok(configuration) => configuration,
        Err(error) => {
            eprintln!("{error}");
            return exit::USAGE;
        }
    };
    logging(&configuration.node.log);
    match actix::System::new().block_on(serve::node(
        configuration,
        &arguments.file.configuration,
        arguments.allow_kill,
    )) {
        Ok(()) => exit::DONE,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("mendblock: {error}");
            exit::USAGE
        }
    }
}

/// One line per fact on standard error; the filter is checked with the configuration.
fn logging(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    std::panic::set_hook(Box::new(|info| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!("panic: {info}\n{backtrace}");
    }));
}

/// Starts the volumes on the data Arbiter and waits until they exist.
async fn start_volumes(
    arbiter: &actix::Arbiter,
    setups: Vec<(VolumeSetup, Meters)>,
    listeners: serve::Listeners,
    clock: Clock,
    events: &broadcast::Sender<Arc<Happened>>,
) -> Result<Vec<VolumeHandle>, NodeError> {
    let (sender, started) = oneshot::channel();
    let events = events.clone();
    let run = move || async move {
        let volumes = Volumes::default();
        let mut handles = Vec::new();
        for (setup, meters) in setups {
            let name = setup.configuration.volume.clone();
            match volumes.start(setup, clock, events.clone(), meters) {
                Ok(handle) => handles.push(handle),
                Err(source) => {
                    let _ = sender.send(Err(NodeError::Volume { volume: name, source }));
                    return;
                }
            }
        }
        // Sockets belong to the runtime that polls them: they are opened here.
        let opened = serve::listen(listeners, &volumes);
        let _ = sender.send(opened.map(|()| handles));
        // The volumes live as long as the Arbiter.
        std::future::pending::<()>().await;
        drop(volumes);
    };
    // Ports and handles of a volume never leave its thread: the future is made there.
    let spawned = arbiter.spawn_fn(move || {
        actix::spawn(run());
    });
    if !spawned {
        return Err(NodeError::Arbiter);
    }
    started.await.map_err(|_| NodeError::Arbiter)?
}

/// Attaches the disks and connects to the peers, as `drbdadm up` does. What fails stands in `status`.
async fn bring_up(volume: VolumeHandle, connect: bool) {
    let attached = when_not_busy(&volume, Command::Attach { new_disk: false }).await;
    // Attached already: an administrator was faster.
    if attached.code < 1 || attached.code > 100 && attached.code != ALREADY_ATTACHED {
        tracing::error!(
            volume = volume.name(),
            "the disk was not attached: {}",
            attached.text
        );
    }
    if connect {
        let up = Command::Connect {
            discard_my_data: false,
        };
        let connected = when_not_busy(&volume, up).await;
        if connected.code < 1 {
            tracing::error!(volume = volume.name(), "not connecting: {}", connected.text);
        }
    }
}

/// DRBD's ERR_DISK_CONFIGURED.
const ALREADY_ATTACHED: i32 = 124;
/// How soon a command is repeated that came while another one ran. Every command has a deadline, so this ends.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// An administrator may be faster than the start: the node's own commands must not be lost for that.
async fn when_not_busy(volume: &VolumeHandle, command: Command) -> CommandAnswer {
    loop {
        let answer = volume.command(command.clone()).await;
        if answer.code != CommandAnswer::BUSY {
            return answer;
        }
        tokio::time::sleep(BUSY_PAUSE).await;
    }
}
