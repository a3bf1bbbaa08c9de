//! The node's listener for peers: the first message of a connection says for which volume it is.

use crate::volume::Volumes;
use mendblock_net::transport::{Connection, Listener, Reader, Writer};
use mendblock_net::wire::message::{Hello, Message};
use mendblock_storage::buffer::{Buffer, BufferMut};
use std::io;
use std::time::Duration;

/// A peer that does not say hello in this time is dropped.
const HELLO_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections of peers for the volumes of this Arbiter, for ever.
pub async fn listen(listener: Listener, volumes: Volumes) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                actix::spawn(peer(connection, volumes.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a peer could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn peer(connection: Connection, volumes: Volumes) {
    let address = connection.peer().to_owned();
    let (mut reader, mut writer): (Reader<BufferMut>, Writer<Buffer>) = connection.split();
    let hello = match tokio::time::timeout(HELLO_LIMIT, first(&mut reader)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => {
            tracing::info!(address, %error, "connection to the peer port dropped");
            return;
        }
        Err(_) => {
            tracing::info!(address, "connection to the peer port said nothing");
            return;
        }
    };
    match volumes.get(&hello.volume) {
        Some(volume) => volume.wired.peer.accepted(address, reader, writer, hello),
        None => {
            let reason = format!(
                "no volume {:?} on this node: compare both configurations",
                hello.volume
            );
            tracing::warn!(address, reason, "peer refused");
            if writer
                .push(
                    &Message::Refused {
                        reason,
                        for_good: true,
                    },
                    None,
                )
                .is_ok()
            {
                // The peer may be gone already.
                let _ = tokio::time::timeout(HELLO_LIMIT, writer.flush()).await;
                let _ = writer.finish();
                let _ = tokio::time::timeout(HELLO_LIMIT, first(&mut reader)).await;
            }
        }
    }
}

/// The first frame. A peer sends nothing behind its hello before it has ours, so a batch holds it alone.
async fn first(reader: &mut Reader<BufferMut>) -> io::Result<Hello> {
    let batch = reader.read_batch(|_, _| None).await?;
    match batch.frames.into_iter().next().map(|frame| frame.message) {
        Some(Message::Hello(hello)) => Ok(hello),
        Some(other) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("expected a hello, got {:?}", other.kind()),
        )),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
