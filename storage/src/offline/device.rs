//! A file or block device for off-line work.
use super::OfflineError;
use crate::format::layout::{LogGeometry, MetadataLayout};
use crate::format::{META_BLOCK_BYTES, MetaBlock};
use crate::units::BLOCK_BYTES;
use rustix::fs::{FlockOperation, OFlags, fcntl_lock};
use rustix::io::Errno;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are written at once when a large area gets one value.
const FILL_BYTES: usize = 1 << 20;

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Only read, whoever else uses it.
    Read,
    /// Read and write, alone.
    Exclusive,
    /// Read and write a part of a device that others may use too.
    Shared,
}

/// An open file or block device with errors that name it.
pub(super) struct BlockFile {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl BlockFile {
    pub(super) fn open(path: &Path, access: Access) -> Result<Self, OfflineError> {
        let failed = |action, source| OfflineError::Io {
            action,
            path: path.to_owned(),
            source,
        };
        let kind = path
            .metadata()
            .map_err(|error| failed("find", error))?
            .file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OfflineError::NotADevice(path.to_owned()));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(access != Access::Read);
        if access == Access::Exclusive && kind.is_block_device() {
            // Of a block device the kernel refuses a second exclusive user: a mount, LVM, kernel DRBD.
            options.custom_flags(OFlags::EXCL.bits().cast_signed());
        }
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => OfflineError::InUse(path.to_owned()),
            _ => failed("open", error),
        })?;
        if access == Access::Exclusive {
            // Conflicts with the lock that a running node holds on its disks, whatever kind of disk it is.
            fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
                Errno::AGAIN | Errno::ACCESS => OfflineError::InUse(path.to_owned()),
                _ => failed("lock", error.into()),
            })?;
        }
        let bytes = file
            .seek(SeekFrom::End(0))
            .map_err(|error| failed("measure", error))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            bytes,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the path leads to this very file or device.
    pub(super) fn is_same(&self, path: &Path) -> Result<bool, OfflineError> {
        let identity = |metadata: Metadata| {
            let device = metadata.file_type().is_block_device();
            if device {
                (true, metadata.rdev(), 0)
            } else {
                (false, metadata.dev(), metadata.ino())
            }
        };
        let other = path.metadata().map_err(|source| OfflineError::Io {
            action: "find",
            path: path.to_owned(),
            source,
        });
        let own = self.file.metadata().map_err(self.failed("find"));
        Ok(identity(own?) == identity(other?))
    }

    pub(super) fn read(&self, bytes: &mut [u8], byte: u64) -> Result<(), OfflineError> {
        self.file.read_exact_at(bytes, byte).map_err(self.failed("read"))
    }

    pub(super) fn read_block(&self, byte: u64) -> Result<MetaBlock, OfflineError> {
        let mut block = [0; META_BLOCK_BYTES];
        self.read(&mut block, byte)?;
        Ok(block)
    }

    /// The blocks of the activity log in the order of the disk; `None` = unreadable.
    pub(super) fn read_ring(&self, layout: &MetadataLayout) -> Result<Vec<Option<MetaBlock>>, OfflineError> {
        let (blocks, most) = (layout.log().blocks(), LogGeometry::MAX_BLOCKS_OFFLINE);
        if blocks > most {
            return Err(OfflineError::LogTooLarge { blocks, most });
        }
        let byte_of = |block: u32| layout.log_byte() + u64::from(block) * BLOCK_BYTES;
        Ok((0..blocks)
            .map(|block| self.read_block(byte_of(block)).ok())
            .collect())
    }

    pub(super) fn write(&self, bytes: &[u8], byte: u64) -> Result<(), OfflineError> {
        self.file.write_all_at(bytes, byte).map_err(self.failed("write"))
    }

    /// Fills an area with copies of a block.
    pub(super) fn fill(&self, block: &MetaBlock, byte: u64, length: u64) -> Result<(), OfflineError> {
        let piece = block.repeat(FILL_BYTES / META_BLOCK_BYTES);
        let mut done = 0;
        while done < length {
            let now = (length - done).min(FILL_BYTES as u64);
            self.write(&piece[..now as usize], byte + done)?;
            done += now;
        }
        Ok(())
    }

    /// Everything written so far is on stable storage.
    pub(super) fn sync(&self) -> Result<(), OfflineError> {
        self.file.sync_all().map_err(self.failed("flush"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> OfflineError + use<'_> {
        move |source| OfflineError::Io {
            action,
            path: self.path.clone(),
            source,
        }
    }
}
