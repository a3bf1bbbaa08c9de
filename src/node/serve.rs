//! The running node: listeners, upkeep, signals, orderly end.

use super::{EVENTS_KEPT, Node, NodeError, api, bring_up, metrics, setup, start_volumes, status, stop};
use crate::configuration::Configuration;
use mendblock_actors::clock::Clock;
use mendblock_actors::volume::Volumes;
use mendblock_actors::{nbd, peers};
use mendblock_net::nbd::{ListenAddress, NbdListener};
use mendblock_net::transport::{TcpOptions, listen_tcp};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::broadcast;

/// A data Arbiter that does not run for so long is dead: the process ends, as by a crash.
const WATCHDOG_LIMIT: Duration = Duration::from_secs(30);

/// What the data Arbiter listens on.
pub struct Listeners {
    peer: Option<SocketAddr>,
    nbd: Vec<ListenAddress>,
    beats: Arc<AtomicU64>,
}

/// Opens the listeners of the data Arbiter; runs on it.
pub fn listen(listeners: Listeners, volumes: &Volumes) -> Result<(), NodeError> {
    if let Some(address) = listeners.peer {
        let listener = listen_tcp(address, TcpOptions::default()).map_err(|source| NodeError::Io {
            action: "listen for peers on",
            what: address.to_string(),
            source,
        })?;
        actix::spawn(peers::listen(listener, volumes.clone()));
    }
    for address in &listeners.nbd {
        actix::spawn(nbd::listen(NbdListener::bind(address)?, volumes.clone()));
    }
    let beats = listeners.beats;
    actix::spawn(async move {
        loop {
            beats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    Ok(())
}

/// Runs the node until SIGTERM or SIGINT.
pub async fn node(configuration: Configuration, file: &Path, allow_kill: bool) -> Result<(), NodeError> {
    let started = SystemTime::now();
    // Handlers get it, and may stand elsewhere.
    let file = std::path::absolute(file).map_err(|source| NodeError::Io {
        action: "find",
        what: file.display().to_string(),
        source,
    })?;
    directory(&configuration.node.state_dir)?;
    let socket = configuration.node.admin_socket.clone();
    if let Some(parent) = socket.parent() {
        directory(parent)?;
    }
    let metrics = metrics::NodeMetricsSet::new(&configuration, status::seconds(started))?;
    let (events, _) = broadcast::channel(EVENTS_KEPT);
    let clock = Clock::start();
    let arbiter = actix::Arbiter::new();
    let beats = Arc::new(AtomicU64::new(0));
    let listeners = Listeners {
        peer: configuration.node.listen,
        nbd: nbd_addresses(&configuration)?,
        beats: Arc::clone(&beats),
    };
    let setups = configuration
        .volumes
        .iter()
        .map(|volume| setup::volume(&configuration, volume, &file, allow_kill))
        .zip(metrics.volumes())
        .collect();
    let volumes = start_volumes(&arbiter, setups, listeners, clock, &events).await?;
    watchdog(beats);
    let mut signals = stop::Signals::new()?;
    let connects: Vec<bool> = configuration
        .volumes
        .iter()
        .map(|volume| volume.peer.is_some())
        .collect();
    let node = Arc::new(Node {
        configuration,
        volumes: volumes.clone(),
        events,
        metrics,
        started,
        allow_kill,
    });
    serve_admin(&socket, Arc::clone(&node))?;
    if let Some(address) = node.configuration.node.metrics_listen {
        serve_metrics(address, Arc::clone(&node)).await?;
    }
    actix::spawn(upkeep(Arc::clone(&node)));
    let starts: Vec<_> = volumes
        .iter()
        .cloned()
        .zip(connects)
        .map(|(volume, connect)| actix::spawn(bring_up(volume, connect)))
        .collect();
    tracing::info!(
        node = node.configuration.node.name,
        volumes = volumes.len(),
        "running"
    );
    signals.next().await;
    tracing::info!("stopping; a second signal ends the node at once");
    // A volume that is still on its way up must not connect after it was taken down.
    starts.iter().for_each(tokio::task::JoinHandle::abort);
    let second = tokio::select! {
        () = stop::take_down(&volumes) => None,
        second = signals.next() => Some(second),
    };
    // A socket file that stays would look like a node that does not answer.
    let _ = std::fs::remove_file(&socket);
    if let Some(second) = second {
        tracing::warn!("a second signal: the node ends at once, as by a crash");
        // As shells have it. Nothing is waited for any more, not even what a runtime would wait for at its end.
        std::process::exit(128 + second.as_raw_value());
    }
    arbiter.stop();
    Ok(())
}

fn directory(path: &Path) -> Result<(), NodeError> {
    std::fs::create_dir_all(path).map_err(|source| NodeError::Io {
        action: "make the directory",
        what: path.display().to_string(),
        source,
    })
}

fn nbd_addresses(configuration: &Configuration) -> Result<Vec<ListenAddress>, NodeError> {
    let mut addresses = Vec::new();
    if let Some(path) = configuration.node.nbd_unix.clone() {
        if let Some(parent) = path.parent() {
            directory(parent)?;
        }
        addresses.push(ListenAddress::Unix(path));
    }
    addresses.extend(configuration.node.nbd_tcp.map(ListenAddress::Tcp));
    Ok(addresses)
}

fn serve_admin(socket: &PathBuf, node: Arc<Node>) -> Result<(), NodeError> {
    let failed = |action| {
        move |source| NodeError::Io {
            action,
            what: socket.display().to_string(),
            source,
        }
    };
    // A stale file of a node that was killed; one that is alive still answers.
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        let source = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        return Err(failed("listen for commands on")(source));
    }
    let _ = std::fs::remove_file(socket);
    let listener = tokio::net::UnixListener::bind(socket).map_err(failed("listen for commands on"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o660);
    std::fs::set_permissions(socket, mode).map_err(failed("set permissions of"))?;
    actix::spawn(async move {
        if let Err(error) = axum::serve(listener, api::admin(node)).await {
            tracing::error!(%error, "the admin API ended");
        }
    });
    Ok(())
}

async fn serve_metrics(address: SocketAddr, node: Arc<Node>) -> Result<(), NodeError> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Io {
            action: "serve metrics on",
            what: address.to_string(),
            source,
        })?;
    actix::spawn(async move {
        if let Err(error) = axum::serve(listener, api::metrics(node)).await {
            tracing::error!(%error, "the metrics page ended");
        }
    });
    Ok(())
}

async fn upkeep(node: Arc<Node>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        node.metrics.tick(&node.volumes);
    }
}

/// A hung Arbiter cannot be helped from inside: the process ends, the service manager starts it again, and the peer sees a
/// crash, which loses nothing.
fn watchdog(beats: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let (mut last, mut since) = (0, std::time::Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = beats.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            } else if since.elapsed() > WATCHDOG_LIMIT {
                tracing::error!("the data thread has not run for {WATCHDOG_LIMIT:?}: the process ends");
                std::process::abort();
            }
        }
    });
}
