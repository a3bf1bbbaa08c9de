//! Where NBD clients come in: Unix sockets and TCP. Only opens and accepts; who may connect to a Unix socket is
//! decided by its file mode, and there is no authentication on TCP.

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::fmt;
use std::fs;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// Mode of a Unix socket: owner and group may connect.
const SOCKET_MODE: u32 = 0o660;
/// Idle time after which the kernel asks whether a TCP client still lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Path of the socket file.
    Unix(PathBuf),
    /// Address and port; port 0 lets the kernel choose. NBD's registered port is 10809.
    Tcp(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

/// Listening failed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("{0} is in use by a running process; stop it or choose another address")]
    InUse(ListenAddress),
    /// The path exists and is no socket: it is left alone.
    #[error("{0} exists and is no socket; remove it or choose another path")]
    NoSocket(ListenAddress),
    /// Anything else the kernel said.
    #[error("cannot listen on {address}: {error}")]
    Io {
        /// Where.
        address: ListenAddress,
        /// Why.
        error: io::Error,
    },
}

/// A socket that accepts NBD clients. Dropping it removes its socket file, if that is still its own.
#[derive(Debug)]
pub struct NbdListener {
    socket: ListeningSocket,
    address: ListenAddress,
    /// Held for its drop.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum ListeningSocket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl NbdListener {
    /// Starts to listen; inside a tokio runtime. A socket file that nobody listens on any more is replaced.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        match address {
            ListenAddress::Unix(path) => Self::bind_unix(path, address),
            ListenAddress::Tcp(tcp) => Self::bind_tcp(*tcp).map_err(|error| match error.kind() {
                io::ErrorKind::AddrInUse => BindError::InUse(address.clone()),
                _ => failed(address, error),
            }),
        }
    }

    fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket.into())?;
        Ok(Self {
            address: ListenAddress::Tcp(listener.local_addr()?),
            socket: ListeningSocket::Tcp(listener),
            _file: None,
        })
    }

    fn bind_unix(path: &Path, address: &ListenAddress) -> Result<Self, BindError> {
        let bind = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            Ok(socket)
        };
        let socket = match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path, address)?;
                bind()
            }
            result => result,
        };
        let listen = |socket: Socket| -> io::Result<Self> {
            let file = SocketFile::at(path)?;
            // Nobody can connect before `listen`, so nobody slips in under the wider default mode.
            fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(Self {
                socket: ListeningSocket::Unix(UnixListener::from_std(socket.into())?),
                address: address.clone(),
                _file: Some(file),
            })
        };
        socket.and_then(listen).map_err(|error| failed(address, error))
    }

    /// Where it listens; with the port that the kernel chose.
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// The next client. An error such as "too many open files" may pass: wait a little and call again.
    pub async fn accept(&self) -> io::Result<ClientSocket> {
        match &self.socket {
            ListeningSocket::Unix(listener) => Ok(ClientSocket::Unix(listener.accept().await?.0)),
            ListeningSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // A reply must not wait for the acknowledgement of the one before.
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
                Ok(ClientSocket::Tcp(stream, peer))
            }
        }
    }
}

fn failed(address: &ListenAddress, error: io::Error) -> BindError {
    BindError::Io {
        address: address.clone(),
        error,
    }
}

/// Removes a socket file that refuses connections, the remains of a process that died.
fn remove_stale(path: &Path, address: &ListenAddress) -> Result<(), BindError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| failed(address, error))?;
    if !metadata.file_type().is_socket() {
        return Err(BindError::NoSocket(address.clone()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| failed(address, error))
        }
        _ => Err(BindError::InUse(address.clone())),
    }
}

/// The file of a Unix socket, with its identity: another process may have replaced it meanwhile.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let own = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if own && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

/// A client's connection, non-blocking. `Display` names the client.
#[derive(Debug)]
pub enum ClientSocket {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP, from this address.
    Tcp(TcpStream, SocketAddr),
}

impl ClientSocket {
    /// Waits until one of the `interest` may succeed (readable, writable).
    pub async fn ready(&self, interest: Interest) -> io::Result<tokio::io::Ready> {
        match self {
            Self::Unix(stream) => stream.ready(interest).await,
            Self::Tcp(stream, _) => stream.ready(interest).await,
        }
    }

    /// Reads what is there; `Ok(0)`: the client closed. `WouldBlock`: nothing yet.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_read(buffer),
            Self::Tcp(stream, _) => stream.try_read(buffer),
        }
    }

    /// Reads into several buffers, one after the other: the rest of a payload, then the next headers.
    pub fn try_read_vectored(&self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_read_vectored(buffers),
            Self::Tcp(stream, _) => stream.try_read_vectored(buffers),
        }
    }

    /// Ends the connection in both directions, whoever still holds the socket: the client sees its end.
    pub fn shut_down(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Both),
            Self::Tcp(stream, _) => SockRef::from(stream).shutdown(Shutdown::Both),
        }
    }

    /// Writes from several buffers; may write less than they hold. The kernel takes 1024 of them at most.
    pub fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write_vectored(buffers),
            Self::Tcp(stream, _) => stream.try_write_vectored(buffers),
        }
    }
}

impl fmt::Display for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(stream) => match stream.peer_cred() {
                Ok(peer) => write!(f, "unix uid {} pid {}", peer.uid(), peer.pid().unwrap_or(0)),
                Err(_) => f.write_str("unix"),
            },
            Self::Tcp(_, peer) => write!(f, "tcp:{peer}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(test: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test)
    }

    #[test]
    fn a_socket_file_is_replaced_only_when_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let address = ListenAddress::Unix(path.clone());
        run(async {
            let first = NbdListener::bind(&address).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, SOCKET_MODE);
            assert!(matches!(NbdListener::bind(&address), Err(BindError::InUse(_))));
            drop(first);
            assert!(!path.exists());

            // A listener that died without removing its file.
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            assert!(path.exists());
            drop(NbdListener::bind(&address).unwrap());

            fs::write(&path, "data").unwrap();
            assert!(matches!(NbdListener::bind(&address), Err(BindError::NoSocket(_))));
            assert_eq!(fs::read(&path).unwrap(), b"data");
        });
    }

    #[test]
    fn a_dropped_listener_leaves_its_successors_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nbd.sock");
        let address = ListenAddress::Unix(path.clone());
        run(async {
            let first = NbdListener::bind(&address).unwrap();
            let moved = directory.path().join("old.sock");
            fs::rename(&path, &moved).unwrap();
            let second = NbdListener::bind(&address).unwrap();
            drop(first);
            assert!(path.exists());
            drop(second);
            assert!(!path.exists());
        });
    }

    #[test]
    fn tcp_clients_are_accepted_without_delay() {
        run(async {
            let any = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
            let listener = NbdListener::bind(&any).unwrap();
            let ListenAddress::Tcp(address) = *listener.address() else {
                panic!("{}", listener.address());
            };
            assert_ne!(address.port(), 0);
            assert!(matches!(
                NbdListener::bind(listener.address()),
                Err(BindError::InUse(_))
            ));
            let _client = std::net::TcpStream::connect(address).unwrap();
            match listener.accept().await.unwrap() {
                ClientSocket::Tcp(stream, _) => assert!(stream.nodelay().unwrap()),
                other => panic!("{other}"),
            }
        });
    }
}
