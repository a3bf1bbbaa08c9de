//! One process per disk: the lock on a lower disk, and who holds it when it is not ours.
//!
//! Regular files and block devices get a lock of the open file description over all bytes (F_OFD_SETLK): it ends with
//! the last descriptor, also when the process dies, and it conflicts with the locks of QEMU's tools. Block devices are
//! opened with O_EXCL besides.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// An open file with the lock on it.
#[derive(Debug)]
pub struct LockedFile {
    file: File,
}

/// Why a file could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else holds a conflicting lock.
    #[error("in use by another process, or open a second time in this one")]
    InUse,
    /// The file system refuses locks, or something else went wrong.
    #[error("cannot lock: {0}")]
    Failed(#[from] io::Error),
}

impl LockedFile {
    /// Locks the file; does not wait. `shared`: together with other readers.
    pub fn lock(file: File, shared: bool) -> Result<Self, LockError> {
        let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
        match set_lock(&file, kind) {
            Ok(()) => Ok(Self { file }),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                Err(LockError::InUse)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }
}

impl Drop for LockedFile {
    /// Closing would do it too, but not at once while a child process between fork and exec shares the descriptor.
    fn drop(&mut self) {
        if let Err(error) = set_lock(&self.file, libc::F_UNLCK) {
            tracing::debug!(%error, "unlocking failed; closing the file unlocks it");
        }
    }
}

impl AsFd for LockedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for LockedFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

#[allow(unsafe_code, reason = "no library in use here offers F_OFD_SETLK")]
fn set_lock(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: all fields of `flock` are integers, for which zero is a value; start and length zero mean the whole file,
    // and F_OFD_SETLK wants a pid of zero.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open, and F_OFD_SETLK reads a `flock`, which lives during the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Who has a disk open, as far as this process may look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Processes that have it open: id and name.
    pub processes: Vec<(u32, String)>,
    /// Block devices (device-mapper, md) built on it.
    pub devices: Vec<String>,
    /// Where it is mounted.
    pub mounts: Vec<String>,
}

impl Holders {
    /// Looks through /proc and /sys. What cannot be read is left out.
    pub fn find(path: &Path) -> Self {
        let Ok(disk) = std::fs::metadata(path) else {
            return Self::default();
        };
        let (devices, mounts) = match disk.file_type().is_block_device() {
            true => kernel_users(disk.rdev()),
            false => Default::default(),
        };
        Self {
            processes: processes_with(&disk),
            devices,
            mounts,
        }
    }
}

fn processes_with(disk: &Metadata) -> Vec<(u32, String)> {
    let is_disk = |other: &Metadata| match disk.file_type().is_block_device() {
        true => other.file_type().is_block_device() && other.rdev() == disk.rdev(),
        false => (other.dev(), other.ino()) == (disk.dev(), disk.ino()),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let descriptors = std::fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        // `metadata` follows the link to the open file itself.
        if descriptors
            .filter_map(|descriptor| std::fs::metadata(descriptor.path()).ok())
            .any(|other| is_disk(&other))
        {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((id, name.trim().to_owned()));
        }
    }
    found.sort();
    found
}

fn kernel_users(device: u64) -> (Vec<String>, Vec<String>) {
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let mut devices: Vec<String> = std::fs::read_dir(format!("/sys/dev/block/{number}/holders"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    devices.sort();
    // Fields of mountinfo: id, parent, device number, root, mount point.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&number.as_str()))
        .filter_map(|fields| fields.get(4).map(|place| (*place).to_owned()))
        .collect();
    (devices, mounts)
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = std::process::id();
        let mut users: Vec<String> = self
            .processes
            .iter()
            .map(|(id, name)| match *id == own {
                true => "this process itself".to_owned(),
                false => format!("process {id} ({name})"),
            })
            .collect();
        users.extend(self.devices.iter().map(|name| format!("block device {name}")));
        users.extend(self.mounts.iter().map(|place| format!("the mount at {place}")));
        if users.is_empty() {
            return f.write_str("another process (which one cannot be seen from here)");
        }
        f.write_str(&users.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_conflict_share_and_end() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let reader = LockedFile::lock(open(), true).unwrap();
        let second = LockedFile::lock(open(), true).unwrap();
        assert!(matches!(LockedFile::lock(open(), false), Err(LockError::InUse)));
        drop(reader);
        assert!(matches!(LockedFile::lock(open(), false), Err(LockError::InUse)));
        // The lock ends with its holder although a duplicate of the descriptor is still open.
        let duplicate = second.file.try_clone().unwrap();
        drop(second);
        let writer = LockedFile::lock(open(), false).unwrap();
        assert!(matches!(LockedFile::lock(open(), true), Err(LockError::InUse)));
        drop((writer, duplicate));
    }

    #[test]
    fn holders_are_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Holders::find(file.path()).to_string(), "this process itself");
        let holders = Holders {
            processes: vec![(1, "init".into())],
            devices: vec!["dm-3".into()],
            mounts: vec!["/srv".into()],
        };
        let text = "process 1 (init), block device dm-3, the mount at /srv";
        assert_eq!(holders.to_string(), text);
        let path = file.into_temp_path();
        assert!(Holders::find(&path).to_string().contains("cannot be seen"));
    }
}
