//! The disk part: the lower disk's life. It decides nothing: it reports completions to who asked, and every error,
//! numbered, to the state part as well.
//!
//! [`part`] takes the messages, [`table`] knows what is in the kernel, [`meta`] the steps of meta-data operations, [`failures`]
//! the errors that somebody still has to take note of.

mod failures;
mod meta;
mod part;
mod table;

pub use part::DiskPart;

use crate::identity::{ErrorNumber, OperationId, PartGeneration, Query};
use crate::part::PartName;
use crate::snapshot::Snapshot;
use mendblock_storage::buffer::{Buffer, BufferMut};
use mendblock_storage::units::SectorRange;
use std::sync::Arc;

/// A data operation of `VolumeActor`.
#[derive(Debug)]
pub struct DataOperation {
    /// Who and what for.
    pub id: OperationId,
    /// What.
    pub kind: DataKind,
}

/// Kinds of data operations.
#[derive(Clone, Debug)]
pub enum DataKind {
    /// Read into `buffer` (as long as the range).
    Read {
        /// Where.
        range: SectorRange,
    },
    /// Write.
    Write {
        /// Where.
        range: SectorRange,
        /// The bytes (as long as the range).
        buffer: Buffer,
        /// Stable before completion.
        fua: bool,
    },
    /// Write zeroes; may deallocate if that reads as zeroes.
    WriteZeroes {
        /// Where.
        range: SectorRange,
        /// May deallocate.
        may_unmap: bool,
        /// Stable before completion.
        fua: bool,
    },
    /// Everything completed before is stable when this completes.
    Flush,
}

/// A data operation that ended.
#[derive(Debug)]
pub struct DataCompletion {
    /// Which.
    pub id: OperationId,
    /// Good: data of a read. Failed: its number and errno; it stays in the device's table until
    /// [`DiskIn::ErrorMarked`] and [`DiskIn::ErrorTaken`].
    pub result: Result<Option<Buffer>, (ErrorNumber, i32)>,
}

/// A meta-data operation of bitmap, activity log or state part.
#[derive(Debug)]
pub struct MetaOperation {
    /// Who.
    pub holder: PartName,
    /// Its generation.
    pub generation: PartGeneration,
    /// Its number there.
    pub number: u64,
    /// What.
    pub kind: MetaKind,
}

/// Kinds of meta-data operations. Offsets are bytes on the meta-data device.
#[derive(Clone, Debug)]
pub enum MetaKind {
    /// Read.
    Read {
        /// Where, a multiple of 4 KiB.
        offset: u64,
        /// How much, a multiple of 4 KiB.
        length: u32,
    },
    /// Write, stable on completion (FUA), after an optional flush of the data device and, if it is another one, of the
    /// meta-data device.
    Write {
        /// Where, a multiple of 4 KiB.
        offset: u64,
        /// The bytes.
        buffer: Buffer,
        /// Flush both devices before (what completed before must not be lost once this is stable).
        flush_before: bool,
    },
    /// Write without FUA; made stable by a later [`MetaKind::Flush`].
    WriteLazy {
        /// Where, a multiple of 4 KiB.
        offset: u64,
        /// The bytes.
        buffer: Buffer,
    },
    /// Flush the data device and, if it is another one, the meta-data device.
    Flush,
}

/// A meta-data operation that ended.
#[derive(Debug)]
pub struct MetaCompletion {
    /// Who asked.
    pub holder: PartName,
    /// Its generation.
    pub generation: PartGeneration,
    /// Its number there.
    pub number: u64,
    /// Bytes of a read, or the errno.
    pub result: Result<Option<Buffer>, i32>,
}

/// A device that was opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OpenedDevice {
    /// Bytes of the data device.
    pub data_bytes: u64,
    /// Bytes of the meta-data device, if it is another one.
    pub meta_bytes: Option<u64>,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// How I/O is done.
    pub backend: &'static str,
}

/// Why a device could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenFailure {
    /// Requests of an earlier life are still in the kernel (A1).
    Busy {
        /// How many.
        in_kernel: usize,
        /// Age of the oldest, ms.
        oldest: u64,
    },
    /// Opening failed.
    Failed {
        /// For people: path and reason.
        text: String,
        /// Linux errno, if there is one.
        errno: Option<i32>,
        /// Another process holds it.
        in_use: bool,
    },
}

/// What the device's table holds: answer to [`DiskIn::QueryTable`].
#[derive(Debug)]
pub struct TableAnswer {
    /// From the query.
    pub query: Query,
    /// Generation of the asker that asked.
    pub asker: PartGeneration,
    /// Data operations in the kernel, with their range (none: flush) and whether they write.
    pub data: Vec<(OperationId, Option<SectorRange>, bool)>,
    /// Meta-data operations of the asker's kind in the kernel.
    pub meta: Vec<(PartGeneration, u64)>,
}

/// Messages of the disk part.
#[derive(Debug)]
pub enum DiskIn {
    /// The state changed.
    Snapshot(Arc<Snapshot>),
    /// A neighbour is in a new generation.
    Restarted {
        /// Who.
        part: PartName,
        /// Its generation.
        generation: PartGeneration,
    },
    /// Open data and meta-data device as configured (A1, A2).
    Open {
        /// Echoed in [`crate::volume::machine::StateIn::DiskOpened`].
        query: Query,
    },
    /// Close them (D12). Operations in the kernel keep their buffers until they return.
    Close,
    /// Data operations.
    Data(Vec<DataOperation>),
    /// Meta-data operations.
    Meta(Vec<MetaOperation>),
    /// Requests on the disk are abandoned: their completions change nothing any more (Q3, Q4).
    Abandon,
    /// What is in the table (R9)? Answered to the asker.
    QueryTable {
        /// Who asks.
        asker: PartName,
        /// Its generation.
        generation: PartGeneration,
        /// Echoed.
        query: Query,
    },
    /// The range of this failed completion is durably marked.
    ErrorMarked {
        /// Its number.
        number: ErrorNumber,
    },
    /// The state part has taken this error up.
    ErrorTaken {
        /// Its number.
        number: ErrorNumber,
    },
    /// From the shell: the devices were opened, or not.
    Opened {
        /// From the effect.
        query: Query,
        /// What, or why not.
        result: Result<OpenedDevice, OpenFailure>,
    },
    /// From the shell: both devices are closed.
    Closed,
    /// From the shell: operations that ended. The token is the one of [`DiskEffect::Submit`].
    Completed(Vec<DeviceCompletion>),
    /// From the shell, to each new generation before anything else: what the port's table holds.
    Adopted {
        /// Operations in the kernel.
        in_kernel: Vec<Token>,
        /// Failed completions that nobody has told it to forget: token, number, Linux errno.
        failed: Vec<(Token, ErrorNumber, i32)>,
    },
}

/// A completion as the device port reports it.
#[derive(Debug)]
pub struct DeviceCompletion {
    /// What was asked.
    pub token: Token,
    /// Number given by the port if it failed (ascending over all lives of the actor).
    pub error: Option<(ErrorNumber, i32)>,
    /// Data of a read.
    pub buffer: Option<BufferMut>,
}

/// What an operation in the device's table belongs to; the table keeps it, so that it outlives every actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Token {
    /// A data operation, with its range (none: flush) and whether it writes.
    Data(OperationId, Option<SectorRange>, bool),
    /// A meta-data operation, or a step of it.
    Meta {
        /// Who asked.
        holder: PartName,
        /// Its generation.
        generation: PartGeneration,
        /// Its number there.
        number: u64,
        /// Step within the operation (flush before a write, …). [`Token::LAST_STEP`] ends it.
        step: u8,
    },
    /// Zeroes that are flushed when they are written (FUA): the flush goes under [`Token::Data`] with the same range.
    ZeroesBeforeFlush(OperationId, SectorRange),
}

impl Token {
    /// The step of a meta-data operation that completes it.
    pub const LAST_STEP: u8 = u8::MAX;
}

/// Which of the two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhichDevice {
    /// The data device.
    Data,
    /// The device that holds the meta-data (the same one if internal).
    Meta,
}

/// What the disk part asks its shell (the `Device` port) to do.
#[derive(Debug)]
pub enum DiskEffect {
    /// Open the configured devices; answered by [`DiskIn::Opened`].
    Open {
        /// Echoed.
        query: Query,
    },
    /// Close them as soon as nothing is in the kernel; answered by [`DiskIn::Closed`] at once (quarantined I/O keeps its own handle).
    Close,
    /// Start an operation; the port takes read buffers from its pool.
    Submit {
        /// Kept in the table.
        token: Token,
        /// Which device.
        device: WhichDevice,
        /// What.
        operation: PortOperation,
    },
    /// Forget a failed completion that the table kept.
    Forget {
        /// Its number.
        number: ErrorNumber,
    },
}

/// An operation on a device, offsets in bytes.
#[derive(Clone, Debug)]
pub enum PortOperation {
    /// Read.
    Read {
        /// Where.
        offset: u64,
        /// How much.
        length: u32,
    },
    /// Write.
    Write {
        /// Where.
        offset: u64,
        /// The bytes.
        buffer: Buffer,
        /// Stable on completion.
        fua: bool,
    },
    /// Write zeroes.
    WriteZeroes {
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
        /// May deallocate if that reads as zeroes.
        may_unmap: bool,
    },
    /// Flush.
    Flush,
}
