//! NBD listeners: negotiation, then a session on the volume's Arbiter. An export exists while the node is Primary and may
//! serve.

use crate::ports::client::ClientPort;
use crate::service::Service;
use crate::volume::{Volume, VolumeHandle, Volumes};
use mendblock_core::snapshot::Snapshot;
use mendblock_core::volume::state::Role;
use mendblock_net::nbd::constants::{
    NBD_FLAG_CAN_MULTI_CONN, NBD_FLAG_SEND_CACHE, NBD_FLAG_SEND_FLUSH, NBD_FLAG_SEND_FUA, NBD_FLAG_SEND_TRIM,
    NBD_FLAG_SEND_WRITE_ZEROES,
};
use mendblock_net::nbd::{
    BlockSizes, ClientSocket, CloseReason, ExportDirectory, ExportInfo, ExportRefusal, ListedExport,
    NbdListener, Negotiation, RefusalKind, ServerPolicy, Step, Transmission,
};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::Interest;

/// A client that does not come to transmission in this time is dropped.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The metadata context that says what is data, what are holes, what reads as zeroes.
const BASE_ALLOCATION: &str = "base:allocation";
/// Longest read or write of a client, bytes.
const MAXIMUM_REQUEST: u32 = 32 << 20;

struct Directory(Volumes);

impl Directory {
    fn volume(&self, name: &str) -> Option<Rc<Volume>> {
        // The empty name is the default export: the only volume, where there is only one.
        match name {
            "" => Some(self.0.list())
                .filter(|volumes| volumes.len() == 1)
                .and_then(|mut volumes| volumes.pop()),
            name => self.0.get(name),
        }
    }
}

/// Bytes and minimum block size of a volume that may be served, or why it may not.
fn may_serve(volume: &VolumeHandle) -> Result<(u64, u32), ExportRefusal> {
    if volume.serving.now() != Service::Open {
        return Err(ExportRefusal {
            kind: RefusalKind::ShuttingDown,
            message: "the node is stopping: connect to the Primary".to_owned(),
        });
    }
    may_be_served(volume.name(), volume.last().as_deref())
}

fn may_be_served(name: &str, snapshot: Option<&Snapshot>) -> Result<(u64, u32), ExportRefusal> {
    let refusal = |message: String| ExportRefusal {
        kind: RefusalKind::NotServing,
        message,
    };
    let Some(snapshot) = snapshot else {
        return Err(refusal(format!("{name} is starting: try again")));
    };
    let vector = snapshot.vector;
    if vector.role != Role::Primary {
        return Err(refusal(format!(
            "{name} is Secondary here; connect to its Primary, or run `mendblock primary {name}`"
        )));
    }
    if snapshot.volume_sectors == 0 {
        return Err(refusal(format!(
            "the size of {name} is not known yet: attach a disk or connect the peer"
        )));
    }
    let minimum = snapshot.disk.as_ref().map_or(512, |disk| disk.logical_block);
    Ok((snapshot.volume_sectors * 512, minimum))
}

impl ExportDirectory for Directory {
    fn list(&self) -> Result<Vec<ListedExport>, ExportRefusal> {
        Ok(self
            .0
            .list()
            .iter()
            .filter(|volume| may_serve(&volume.handle).is_ok())
            .map(|volume| ListedExport {
                name: volume.handle.name().to_owned(),
                description: format!("replicated with {}", volume.handle.setup.configuration.peer_name),
            })
            .collect())
    }

    fn info(&self, name: &str) -> Result<ExportInfo, ExportRefusal> {
        let volume = self.volume(name).ok_or_else(|| ExportRefusal {
            kind: RefusalKind::Unknown,
            message: format!("no volume {name:?} here; list the exports"),
        })?;
        let name = volume.handle.name();
        let (bytes, minimum) = may_serve(&volume.handle)?;
        // A volume may end in half a block of the disk: what cannot be addressed whole is not offered.
        let size = bytes / u64::from(minimum) * u64::from(minimum);
        Ok(ExportInfo {
            name: name.to_owned(),
            description: format!("replicated with {}", volume.handle.setup.configuration.peer_name),
            size,
            // Several connections are one to the volume: a flush on any of them covers what was answered on all.
            flags: NBD_FLAG_SEND_FLUSH
                | NBD_FLAG_SEND_FUA
                | NBD_FLAG_SEND_TRIM
                | NBD_FLAG_SEND_WRITE_ZEROES
                | NBD_FLAG_SEND_CACHE
                | NBD_FLAG_CAN_MULTI_CONN,
            block_sizes: BlockSizes::new(minimum, 4096.max(minimum), MAXIMUM_REQUEST).unwrap_or_default(),
            contexts: vec![BASE_ALLOCATION.to_owned()],
        })
    }
}

/// Accepts clients for the volumes of this Arbiter, for ever.
pub async fn listen(listener: NbdListener, volumes: Volumes) {
    loop {
        match listener.accept().await {
            Ok(socket) => {
                actix::spawn(client(socket, volumes.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "an NBD client could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn client(socket: ClientSocket, volumes: Volumes) {
    let name = socket.to_string();
    match tokio::time::timeout(NEGOTIATION_LIMIT, negotiate(&socket, &volumes)).await {
        Err(_) => tracing::info!(client = name, "NBD client did not finish its negotiation in time"),
        Ok(Err(error)) => tracing::info!(client = name, %error, "NBD client dropped"),
        Ok(Ok(None)) => {}
        Ok(Ok(Some((transmission, rest)))) => {
            if let Some(volume) = volumes.get(&transmission.export.name) {
                serve(socket, volume, &transmission, rest, &name).await;
            }
        }
    }
}

async fn serve(
    socket: ClientSocket,
    volume: Rc<Volume>,
    transmission: &Transmission,
    rest: Vec<u8>,
    name: &str,
) {
    tracing::info!(
        client = name,
        volume = volume.handle.name(),
        "NBD client attached"
    );
    let counters = std::sync::Arc::clone(&volume.handle.counters);
    let (pool, arrivals) = (volume.pool.clone(), Rc::clone(&volume.arrivals));
    let serving = volume.handle.serving.clone();
    let port = volume
        .wired
        .session(|actor| ClientPort::new(socket, transmission, pool, arrivals, actor, counters, serving));
    volume.handle.sessions.fetch_add(1, Ordering::Relaxed);
    volume.handle.counters.metrics().nbd_sessions_opened.increment(1);
    port.serve(rest).await;
    volume.handle.sessions.fetch_sub(1, Ordering::Relaxed);
    tracing::info!(
        client = name,
        volume = volume.handle.name(),
        "NBD client detached"
    );
}

async fn negotiate(
    socket: &ClientSocket,
    volumes: &Volumes,
) -> io::Result<Option<(Box<Transmission>, Vec<u8>)>> {
    let directory = Directory(volumes.clone());
    let mut negotiation = Negotiation::new(ServerPolicy::default());
    let mut input: Vec<u8> = Vec::new();
    send(socket, &Negotiation::GREETING).await?;
    loop {
        let mut out = Vec::new();
        let advance = negotiation.advance(&input, &directory, &mut out);
        input.drain(..advance.consumed);
        send(socket, &out).await?;
        match advance.step {
            Step::Continue => {}
            Step::NeedMore => receive(socket, &mut input).await?,
            Step::Transmission(transmission) => return Ok(Some((transmission, input))),
            Step::Close(CloseReason::Aborted) => return Ok(None),
            Step::Close(reason) => return Err(io::Error::other(reason)),
        }
    }
}

async fn send(socket: &ClientSocket, bytes: &[u8]) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        socket.ready(Interest::WRITABLE).await?;
        match socket.try_write_vectored(&[IoSlice::new(&bytes[sent..])]) {
            Ok(count) => sent += count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn receive(socket: &ClientSocket, input: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0u8; 4096];
    let count = socket.receive(&mut bytes).await?;
    input.extend_from_slice(&bytes[..count]);
    Ok(())
}
