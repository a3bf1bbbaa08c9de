//! Work on the meta-data of a volume that no node has attached: `create-md`, `dump-md`, `check-md`, `apply-al`.
//!
//! Plain blocking I/O on files and block devices. Whoever refuses has written nothing.
mod apply;
mod check;
mod create;
mod device;
mod dump;
mod signature;

pub use apply::{ApplyReport, LogForm, apply_al};
pub use check::{CheckReport, Finding, Severity, check_md};
pub use create::{CreateOptions, CreateReport, create_md};
pub use dump::dump_md;
pub use signature::Found;

use crate::format::layout::{DeviceSizes, LayoutError, MetaIndex, superblock_byte};
use crate::format::replay::ReplayError;
use crate::format::superblock::{SuperblockError, UnverifiedSuperblock};
use device::{Access, BlockFile};
use std::io;
use std::path::{Path, PathBuf};

/// Where the meta-data of a volume are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaPlacement {
    /// At the end of the data device.
    Internal,
    /// On a device of their own.
    FlexExternal(PathBuf),
    /// In slot `n` of 128 MiB on a device that several volumes share.
    Indexed(PathBuf, u8),
}

/// The devices below a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// File or block device with the data.
    pub data: PathBuf,
    /// Where the meta-data are.
    pub meta: MetaPlacement,
}

impl Location {
    /// The layout.
    pub fn index(&self) -> MetaIndex {
        match &self.meta {
            MetaPlacement::Internal => MetaIndex::Internal,
            MetaPlacement::FlexExternal(_) => MetaIndex::FlexExternal,
            MetaPlacement::Indexed(_, slot) => MetaIndex::Indexed(*slot),
        }
    }

    /// File or block device with the meta-data.
    pub fn meta_path(&self) -> &Path {
        match &self.meta {
            MetaPlacement::Internal => &self.data,
            MetaPlacement::FlexExternal(path) | MetaPlacement::Indexed(path, _) => path,
        }
    }
}

/// Why an off-line command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A file or device cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// File or device.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Somebody uses it.
    #[error("{} is in use: detach or stop what uses it first", .0.display())]
    InUse(PathBuf),
    /// Neither a file nor a block device.
    #[error("{} is neither a regular file nor a block device", .0.display())]
    NotADevice(PathBuf),
    /// External meta-data on the data device.
    #[error("data and meta-data are both on {}: use internal meta-data or another device", .0.display())]
    SameDevice(PathBuf),
    /// The layout is impossible.
    #[error("{}: {source}", path.display())]
    Layout {
        /// Device of the meta-data.
        path: PathBuf,
        /// Why.
        source: LayoutError,
    },
    /// The superblock is not to be trusted.
    #[error("{}: {source}", path.display())]
    Superblock {
        /// Device of the meta-data.
        path: PathBuf,
        /// Why.
        source: SuperblockError,
    },
    /// Something would be overwritten.
    #[error("refusing to create meta-data: {} (use force to overwrite)", list(.0))]
    WouldOverwrite(Vec<Found>),
    /// A dump of a bitmap that lacks the hot extents.
    #[error("{} was not shut down cleanly: run apply-al first, or use force to see the meta-data as they are", .0.display())]
    Unclean(PathBuf),
    /// A crashed Primary without a log that says what was hot.
    #[error(
        "{}: {source}. The node was Primary, so any block may differ from the peer's: nothing was changed; attach it with a \
         full resync, or restore the device", path.display()
    )]
    NoUsableLog {
        /// Device of the meta-data.
        path: PathBuf,
        /// Why.
        source: ReplayError,
    },
    /// As before, with the log of DRBD 8.3.
    #[error("{}: no usable activity log found in the form of DRBD 8.3, and the node was Primary: nothing was changed", .0.display())]
    NoUsableOldLog(PathBuf),
    /// A log that is too large to be read here.
    #[error(
        "an activity log of {blocks} blocks is too large for off-line commands, which take at most {most}"
    )]
    LogTooLarge {
        /// Blocks of the log.
        blocks: u32,
        /// Limit.
        most: u32,
    },
}

fn list(found: &[Found]) -> String {
    found.iter().map(Found::to_string).collect::<Vec<_>>().join("; ")
}

/// The opened devices of a volume.
struct Devices {
    index: MetaIndex,
    sizes: DeviceSizes,
    meta: BlockFile,
    /// `None` with internal meta-data.
    data: Option<BlockFile>,
}

impl Devices {
    fn open(location: &Location, access: Access) -> Result<Self, OfflineError> {
        let index = location.index();
        let shared = matches!(index, MetaIndex::Indexed(_)) && access == Access::Exclusive;
        let meta = BlockFile::open(location.meta_path(), if shared { Access::Shared } else { access })?;
        if index == MetaIndex::Internal {
            return Ok(Self {
                index,
                sizes: DeviceSizes::internal(meta.bytes()),
                meta,
                data: None,
            });
        }
        if meta.is_same(&location.data)? {
            return Err(OfflineError::SameDevice(location.data.clone()));
        }
        let data = BlockFile::open(&location.data, access)?;
        let sizes = DeviceSizes {
            data_bytes: data.bytes(),
            meta_bytes: meta.bytes(),
        };
        Ok(Self {
            index,
            sizes,
            meta,
            data: Some(data),
        })
    }

    fn data(&self) -> &BlockFile {
        self.data.as_ref().unwrap_or(&self.meta)
    }

    fn layout_error(&self, source: LayoutError) -> OfflineError {
        OfflineError::Layout {
            path: self.meta.path().to_owned(),
            source,
        }
    }

    fn superblock_error(&self, source: SuperblockError) -> OfflineError {
        OfflineError::Superblock {
            path: self.meta.path().to_owned(),
            source,
        }
    }

    fn read_superblock(&self) -> Result<UnverifiedSuperblock, OfflineError> {
        let byte =
            superblock_byte(self.index, self.sizes.meta_bytes).map_err(|error| self.layout_error(error))?;
        let block = self.meta.read_block(byte)?;
        UnverifiedSuperblock::parse(&block).map_err(|error| self.superblock_error(error))
    }
}
