//! DRBD's meta-data format "v08", byte for byte: pure values, no I/O.
//!
//! Integers of the superblock and of the activity log are big-endian, those of the bitmap little-endian.
//! [`layout`] says where things lie, [`superblock`], [`activity_log`] and [`bitmap`] what they hold, [`old_log`]
//! reads the log of DRBD 8.3, [`dump`] writes `drbdmeta`'s text. `FORMAT.md` of this package has the whole picture.
pub mod activity_log;
pub mod anchor;
pub mod bitmap;
mod checksum;
pub mod dump;
pub mod layout;
pub mod old_log;
pub mod replay;
pub mod superblock;

/// Bytes of the unit of all meta-data I/O.
pub const META_BLOCK_BYTES: usize = 4096;

/// One aligned 4 KiB unit of meta-data.
pub type MetaBlock = [u8; META_BLOCK_BYTES];
