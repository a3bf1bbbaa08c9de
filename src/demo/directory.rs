//! The demo's directory: disks, configurations, sockets and logs of both nodes, and a marker that says they are ours.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File that tells a directory of the demo from any other.
pub const MARKER: &str = "mendblock-demo.marker";
const MARKER_TEXT: &str =
    "This directory belongs to `mendblock demo`, which overwrites what is in it at its next run.\n";
/// Most bytes of a unix socket's path, without the terminating zero.
const SOCKET_PATH_BYTES: usize = 107;

/// Why the demo cannot use a directory.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refuses something.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody else's files are in it.
    #[error(
        "{} is not empty and no directory of an earlier demo ({MARKER} is missing): nothing was changed; give an empty one, \
         or one that is not there yet, with --dir", .0.display()
    )]
    NotOurs(PathBuf),
    /// Another demo is running.
    #[error("another demo is running in {}: end it, or give another directory with --dir", .0.display())]
    InUse(PathBuf),
    /// Its path is too long for sockets.
    #[error(
        "the path {} is too long for a unix socket ({SOCKET_PATH_BYTES} bytes at most): give a shorter one with --dir",
        .0.display()
    )]
    TooLong(PathBuf),
}

/// The files of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles {
    /// The node's name.
    pub name: &'static str,
    /// Lower disk.
    pub disk: PathBuf,
    /// Configuration.
    pub configuration: PathBuf,
    /// Health files.
    pub state_dir: PathBuf,
    /// Admin API.
    pub admin_socket: PathBuf,
    /// NBD.
    pub nbd_socket: PathBuf,
    /// What the process writes.
    pub log: PathBuf,
}

impl NodeFiles {
    fn new(directory: &Path, name: &'static str) -> Self {
        let file = |ending: &str| directory.join(format!("{name}{ending}"));
        Self {
            name,
            disk: file(".img"),
            configuration: file(".toml"),
            state_dir: file("-state"),
            admin_socket: file(".admin"),
            nbd_socket: file(".nbd"),
            log: file(".log"),
        }
    }

    /// Removes what an earlier run left.
    fn remove(&self) -> Result<(), DirectoryError> {
        let files = [
            &self.disk,
            &self.configuration,
            &self.admin_socket,
            &self.nbd_socket,
            &self.log,
        ];
        for file in files {
            gone(file, fs::remove_file(file))?;
        }
        gone(&self.state_dir, fs::remove_dir_all(&self.state_dir))
    }
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), DirectoryError> {
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(source)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { action, path, source }
}

/// A directory that is the demo's until this is dropped.
#[derive(Debug)]
pub struct DemoDirectory {
    /// First node.
    pub alice: NodeFiles,
    /// Second node.
    pub bob: NodeFiles,
    /// Holds the lock.
    _marker: File,
}

impl DemoDirectory {
    /// Makes or takes over `path`: afterwards there is nothing in it of an earlier run.
    ///
    /// # Errors
    /// It is in use, or not a demo's; then nothing was changed.
    pub fn prepare(path: &Path) -> Result<Self, DirectoryError> {
        fs::create_dir_all(path).map_err(failed("make the directory", path))?;
        let path = fs::canonicalize(path).map_err(failed("find", path))?;
        let (alice, bob) = (NodeFiles::new(&path, "alice"), NodeFiles::new(&path, "bob"));
        let longest = alice.admin_socket.as_os_str().as_bytes().len();
        if longest > SOCKET_PATH_BYTES {
            return Err(DirectoryError::TooLong(path));
        }
        let marker_path = path.join(MARKER);
        if !marker_path.is_file() {
            let mut entries = fs::read_dir(&path).map_err(failed("read", &path))?;
            if entries.next().is_some() {
                return Err(DirectoryError::NotOurs(path));
            }
            fs::write(&marker_path, MARKER_TEXT).map_err(failed("write", &marker_path))?;
        }
        let marker = File::open(&marker_path).map_err(failed("open", &marker_path))?;
        match marker.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse(path)),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &marker_path)(source)),
        }
        alice.remove()?;
        bob.remove()?;
        Ok(Self {
            alice,
            bob,
            _marker: marker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_over_only_from_an_earlier_demo() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new/demo");
        let first = DemoDirectory::prepare(&path).unwrap();
        assert!(first.alice.disk.is_absolute());
        fs::write(&first.alice.disk, "old").unwrap();
        fs::create_dir(&first.bob.state_dir).unwrap();
        assert!(matches!(
            DemoDirectory::prepare(&path),
            Err(DirectoryError::InUse(_))
        ));
        assert!(first.alice.disk.exists(), "a refusal changes nothing");
        drop(first);
        let second = DemoDirectory::prepare(&path).unwrap();
        assert!(!second.alice.disk.exists() && !second.bob.state_dir.exists());
    }

    #[test]
    fn directories_of_others_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let precious = directory.path().join("alice.img");
        fs::write(&precious, "mine").unwrap();
        let error = DemoDirectory::prepare(directory.path()).unwrap_err();
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "mine");
        let long = directory.path().join("x".repeat(100));
        assert!(matches!(
            DemoDirectory::prepare(&long),
            Err(DirectoryError::TooLong(_))
        ));
    }
}
