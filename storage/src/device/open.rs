//! Opening a lower disk: kind, lock, size, block, and the way to the kernel.

use super::job::Geometry;
use super::ring::RingDevice;
use super::threads::ThreadsDevice;
use super::{Device, errno};
use crate::buffer::BufferMut;
use crate::lock::{Holders, LockError, LockedFile};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How operations reach the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// io_uring, or threads where that is refused.
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// 16 threads.
    Threads,
}

/// How to open a lower disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How operations reach the kernel.
    pub backend: Backend,
    /// Writes fail with EROFS, and other readers may have the file open too.
    pub read_only: bool,
}

/// Why a lower disk cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path leads to nothing that can be opened.
    #[error("cannot open the lower disk {path}: {source}")]
    Open {
        /// The path as given.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Neither a regular file nor a block device.
    #[error("the lower disk {path} is {kind}: give a block device or a regular file")]
    NotADisk {
        /// The path as given.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Somebody else has it.
    #[error("the lower disk {path} is in use by {holders}: stop that user first; a lock is never broken")]
    InUse {
        /// The path as given.
        path: PathBuf,
        /// Who, as far as it can be seen.
        holders: Holders,
    },
    /// Not even one block.
    #[error("the lower disk {path} has {size} bytes, less than one block of {block}: make it larger first")]
    TooSmall {
        /// The path as given.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// Logical block in bytes.
        block: u32,
    },
    /// A question about the disk or the set-up of the backend failed.
    #[error("the lower disk {path}: {what} failed: {source}")]
    Failed {
        /// The path as given.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Opens a block device or a regular file as a lower disk, for this process alone.
///
/// O_DIRECT is used where the file system allows it, else the page cache (logged; a flush works there too).
pub fn open(path: &Path, options: Options) -> Result<Box<dyn Device + Send>, OpenError> {
    let failed = |what| {
        move |source| OpenError::Failed {
            path: path.to_owned(),
            what,
            source,
        }
    };
    let is_block_device = kind_of(path)?;
    let (file, direct) = open_file(path, options, is_block_device)?;
    let mut file = LockedFile::lock(file, options.read_only).map_err(|error| match error {
        LockError::InUse => in_use(path),
        LockError::Failed(source) => failed("locking")(source),
    })?;
    let bytes = file
        .file()
        .seek(SeekFrom::End(0))
        .map_err(failed("asking for the size"))?;
    let logical_block = logical_block(file.file(), is_block_device, direct)
        .map_err(failed("asking for the logical block size"))?;
    let size = bytes - bytes % u64::from(logical_block);
    if size == 0 {
        return Err(OpenError::TooSmall {
            path: path.to_owned(),
            size: bytes,
            block: logical_block,
        });
    }
    let geometry = Geometry {
        size,
        logical_block,
        read_only: options.read_only,
        direct,
    };
    let device = set_up(path, options.backend, file, geometry)?;
    tracing::info!(
        path = %path.display(), backend = device.backend(), size, logical_block, "lower disk opened"
    );
    Ok(device)
}

fn set_up(
    path: &Path,
    backend: Backend,
    file: LockedFile,
    geometry: Geometry,
) -> Result<Box<dyn Device + Send>, OpenError> {
    let failed = |what, source| OpenError::Failed {
        path: path.to_owned(),
        what,
        source,
    };
    let file = if backend == Backend::Threads {
        file
    } else {
        match RingDevice::new(file, geometry) {
            Ok(device) => return Ok(Box::new(device)),
            Err((error, _)) if backend == Backend::IoUring => {
                return Err(failed(
                    "setting up io_uring (backend `threads` works without it)",
                    error,
                ));
            }
            Err((error, file)) => {
                tracing::warn!(%error, "io_uring is refused: using threads, which take more processor time");
                file
            }
        }
    };
    let device =
        ThreadsDevice::new(file, geometry).map_err(|error| failed("starting disk threads", error))?;
    Ok(Box::new(device))
}

/// Whether it is a block device (true) or a regular file (false).
fn kind_of(path: &Path) -> Result<bool, OpenError> {
    let kind = std::fs::metadata(path)
        .map_err(|source| OpenError::Open {
            path: path.to_owned(),
            source,
        })?
        .file_type();
    let other = match kind {
        _ if kind.is_block_device() => return Ok(true),
        _ if kind.is_file() => return Ok(false),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_char_device() => "a character device",
        _ => "no disk",
    };
    Err(OpenError::NotADisk {
        path: path.to_owned(),
        kind: other,
    })
}

/// The file, and whether it is open with O_DIRECT.
fn open_file(path: &Path, options: Options, is_block_device: bool) -> Result<(File, bool), OpenError> {
    // On a block device O_EXCL without O_CREAT keeps out mounts, device-mapper, md and others who ask for the same.
    let exclusive = if is_block_device {
        OFlags::EXCL
    } else {
        OFlags::empty()
    };
    let attempt = |flags: OFlags| {
        OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            .custom_flags(flags.bits() as i32)
            .open(path)
    };
    let result = match attempt(exclusive | OFlags::DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.raw_os_error() == Some(errno::EINVAL) => {
            tracing::warn!(path = %path.display(), "O_DIRECT is refused here: using the page cache");
            attempt(exclusive).map(|file| (file, false))
        }
        Err(error) => Err(error),
    };
    result.map_err(|source| match source.kind() {
        io::ErrorKind::ResourceBusy => in_use(path),
        _ => OpenError::Open {
            path: path.to_owned(),
            source,
        },
    })
}

fn in_use(path: &Path) -> OpenError {
    OpenError::InUse {
        path: path.to_owned(),
        holders: Holders::find(path),
    }
}

fn logical_block(file: &File, is_block_device: bool, direct: bool) -> io::Result<u32> {
    if is_block_device {
        return Ok(rustix::fs::ioctl_blksszget(file)?);
    }
    if !direct {
        return Ok(512);
    }
    // A file has no logical block of its own; what O_DIRECT takes there depends on file system and disk.
    let mut buffer = BufferMut::zeroed(4096);
    match rustix::io::pread(file, &mut buffer[..512], 0) {
        Err(rustix::io::Errno::INVAL) => {
            rustix::io::pread(file, &mut buffer[..], 0)?;
            Ok(4096)
        }
        // A bad first sector is for the reader to find, not a reason to refuse the disk.
        _ => Ok(512),
    }
}
