//! The orderly end of a node: each volume is taken down as `drbdadm down` does it, all side by side. Its clients get what they
//! are owed and are let go, it becomes Secondary, leaves its peer, and gives its disk back with a closed activity log. So the
//! next start finds no crashed Primary, and nothing to resync but what the peer wrote meanwhile.

use super::{NodeError, when_not_busy};
use mendblock_actors::service::Service;
use mendblock_actors::volume::VolumeHandle;
use mendblock_core::volume::machine::{Command, CommandAnswer};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// All volumes together have so long. Service managers wait longer before they kill (systemd: 90 s).
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Requests of clients that are open may take so long; then the connections are cut.
const CLIENTS_LIMIT: Duration = Duration::from_secs(5);
/// How soon a demotion is tried again that found clients.
const CLIENTS_PAUSE: Duration = Duration::from_millis(10);
/// DRBD's SS_DEVICE_IN_USE.
const DEVICE_IN_USE: i32 = -12;

/// Signals that end the node.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    pub fn new() -> Result<Self, NodeError> {
        let failed = |source| NodeError::Io {
            action: "wait for",
            what: "signals".to_owned(),
            source,
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// Takes all volumes down. What does not come to rest in time stays as a crash would leave it: that loses nothing.
pub async fn take_down(volumes: &[VolumeHandle]) {
    let downs: Vec<_> = volumes
        .iter()
        .cloned()
        .map(|volume| {
            actix::spawn(async move {
                match tokio::time::timeout(STOP_LIMIT, down(&volume)).await {
                    Ok(Ok(())) => tracing::info!(volume = volume.name(), "stopped"),
                    Ok(Err(cause)) => {
                        tracing::warn!(volume = volume.name(), "stopped as by a crash: {cause}");
                    }
                    Err(_) => tracing::warn!(
                        volume = volume.name(),
                        "did not come to rest in time: stopped as by a crash"
                    ),
                }
            })
        })
        .collect();
    for down in downs {
        // One that panicked has said so; the others are waited for all the same.
        let _ = down.await;
    }
}

async fn down(volume: &VolumeHandle) -> Result<(), String> {
    demote(volume).await?;
    leave_peer(volume).await;
    done(when_not_busy(volume, Command::Detach { force: false }).await)
}

fn done(answer: CommandAnswer) -> Result<(), String> {
    if answer.code >= 1 && answer.exit_code == 0 {
        Ok(())
    } else {
        Err(answer.text)
    }
}

/// Lets the clients go, and becomes Secondary once they are gone: no write comes after that.
async fn demote(volume: &VolumeHandle) -> Result<(), String> {
    volume.serving.go_on_to(Service::Ending);
    let limit = Instant::now() + CLIENTS_LIMIT;
    loop {
        let answer = when_not_busy(volume, Command::Secondary).await;
        if answer.code != DEVICE_IN_USE {
            return done(answer);
        }
        if Instant::now() > limit && volume.serving.now() == Service::Ending {
            let open = volume.counters.upper_pending.load(Ordering::Relaxed);
            volume.serving.go_on_to(Service::Ended);
            // A client that does not fetch its answers is only cut off. But a request that is open may still write: not on a
            // Secondary, whose disk passes for what the peer has.
            if open > 0 {
                return Err(format!("{open} request(s) of clients did not end in time"));
            }
        }
        tokio::time::sleep(CLIENTS_PAUSE).await;
    }
}

/// Leaves the peer with its consent, or without it: a Primary there may depend on this disk, but this node is told to end.
async fn leave_peer(volume: &VolumeHandle) {
    let asked = when_not_busy(volume, Command::Disconnect { force: false }).await;
    if let Err(cause) = done(asked) {
        tracing::warn!(volume = volume.name(), "the peer is left by force: {cause}");
        when_not_busy(volume, Command::Disconnect { force: true }).await;
    }
}
