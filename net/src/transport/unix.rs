//! Unix sockets between two nodes on one machine.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use super::connection::{Connection, Listener, Stream};

/// Listens on the path. A socket file on which nobody listens any more is removed first; `AddrInUse` when somebody
/// does, or when the path is something else than a socket. Two processes must not call this for one path at the
/// same time: a node holds its lock file before it listens.
pub fn listen_unix(path: &Path) -> io::Result<Listener> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    Ok(Listener::unix(listener, path.display().to_string()))
}

/// Dials the path.
pub async fn connect_unix(path: &Path) -> io::Result<Connection> {
    let stream = UnixStream::connect(path).await?;
    Ok(Connection::new(Stream::Unix(stream), path.display().to_string()))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let file_type = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let in_use = |text: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{} {text}", path.display()));
    if !file_type.is_socket() {
        return Err(in_use(
            "exists and is no socket: remove it or configure another path",
        ));
    }
    // Not blocking: a listener whose backlog is full answers "would block", and is a listener all the same.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(in_use("is in use: another process listens on it")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(in_use("is in use and its listener is busy"))
        }
        Err(error) => Err(error),
    }
}
