//! The activity log's transactions: which extents of 4 MiB may hold writes that the peer lacks.
//!
//! A transaction is one 4 KiB block:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic 0x69CB65A2 |
//! | 4 | 4 | transaction number, +1 each, wraps |
//! | 8 | 4 | CRC-32C of the block with zeros here, start value 0, no final inversion |
//! | 12 | 2 | type: 0 = update, 0xFFFF = initialized (holds nothing) |
//! | 14 | 2 | number of updates, 0..=64 |
//! | 16 | 2 | number of slots (`al-extents`) |
//! | 18 | 2 | first slot of the context |
//! | 20 | 16 | zero |
//! | 36 | 64 x 2 | slots that change; unused 0xFFFF |
//! | 164 | 64 x 4 | their new extents; unused 0xFFFFFFFF |
//! | 420 | 919 x 4 | context: extents of consecutive slots *before* this transaction's updates; free 0xFFFFFFFF |
//!
//! [`super::replay`] puts the blocks of a ring together.
use super::checksum::crc32c_of_log_block;
use super::{META_BLOCK_BYTES, MetaBlock};
use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most updates of one transaction.
pub const MAX_UPDATES: usize = 64;
/// Slots in the context of one transaction.
pub const CONTEXT_ENTRIES: u16 = 919;
/// The extent number of a free slot.
pub const FREE_EXTENT: u32 = 0xFFFF_FFFF;
/// The first slot number that the format cannot use.
pub const SLOT_LIMIT: u16 = 65_534;

const MAGIC: u32 = 0x69CB_65A2;
const TYPE_UPDATE: u16 = 0;
const TYPE_INITIALIZED: u16 = 0xFFFF;
const UNUSED_SLOT: u16 = 0xFFFF;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawTransaction {
    magic: U32,
    number: U32,
    crc32c: U32,
    kind: U16,
    n_updates: U16,
    context_size: U16,
    context_start: U16,
    reserved: [u8; 16],
    update_slots: [U16; MAX_UPDATES],
    update_extents: [U32; MAX_UPDATES],
    context: [U32; CONTEXT_ENTRIES as usize],
}

impl RawTransaction {
    fn seal(mut self) -> MetaBlock {
        self.crc32c = U32::ZERO;
        self.crc32c = crc32c_of_log_block(&zerocopy::transmute!(self)).into();
        zerocopy::transmute!(self)
    }
}

/// Whether a block starts like a transaction of this form (that of DRBD 8.4).
pub fn has_magic(block: &MetaBlock) -> bool {
    block.starts_with(&MAGIC.to_be_bytes())
}

/// The block that new or cleaned logs consist of.
pub fn initialized_block() -> MetaBlock {
    let mut raw = RawTransaction::new_zeroed_block();
    raw.magic = MAGIC.into();
    raw.kind = TYPE_INITIALIZED.into();
    raw.seal()
}

impl RawTransaction {
    fn new_zeroed_block() -> Self {
        zerocopy::transmute!([0u8; META_BLOCK_BYTES])
    }
}

/// A slot and the extent that it holds from now on ([`FREE_EXTENT`] = none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotUpdate {
    /// Slot, below [`SLOT_LIMIT`].
    pub slot: u16,
    /// Extent, or [`FREE_EXTENT`].
    pub extent: u32,
}

/// One transaction that changes slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    number: u32,
    slots: u16,
    context_start: u16,
    context: Vec<u32>,
    updates: Vec<SlotUpdate>,
}

impl Transaction {
    /// A transaction of a log with `slots` slots. `context` holds the extents of the slots from `context_start` on, as
    /// they were before `updates`.
    pub fn new(
        number: u32,
        slots: u16,
        context_start: u16,
        context: Vec<u32>,
        updates: Vec<SlotUpdate>,
    ) -> Result<Self, TransactionError> {
        if updates.len() > MAX_UPDATES {
            return Err(TransactionError::TooManyUpdates(updates.len()));
        }
        if let Some(bad) = updates.iter().find(|update| update.slot >= slots.min(SLOT_LIMIT)) {
            return Err(TransactionError::Slot {
                slot: bad.slot,
                slots,
            });
        }
        let context_end = usize::from(context_start) + context.len();
        if context.len() > usize::from(CONTEXT_ENTRIES) || context_end > usize::from(slots) {
            return Err(TransactionError::Context {
                start: context_start,
                length: context.len(),
                slots,
            });
        }
        Ok(Self {
            number,
            slots,
            context_start,
            context,
            updates,
        })
    }

    /// Number of the transaction.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Number of slots of the log that it belongs to.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Slots whose extents it repeats.
    pub fn context_slots(&self) -> std::ops::Range<u32> {
        let start = u32::from(self.context_start);
        start..start + self.context.len() as u32
    }

    /// The slots that it changes.
    pub fn updates(&self) -> &[SlotUpdate] {
        &self.updates
    }

    /// What a reader does with it, in order: the context, then the updates. Slots from [`SLOT_LIMIT`] on may occur in
    /// a transaction that was read; no log has them.
    pub fn entries(&self) -> impl Iterator<Item = SlotUpdate> + '_ {
        let context = self.context_slots().zip(&self.context);
        let context = context.map(|(slot, &extent)| SlotUpdate {
            slot: u16::try_from(slot).unwrap_or(u16::MAX),
            extent,
        });
        context.chain(self.updates.iter().copied())
    }

    /// The block for the disk.
    pub fn encode(&self) -> MetaBlock {
        let mut raw = RawTransaction::new_zeroed_block();
        raw.magic = MAGIC.into();
        raw.number = self.number.into();
        raw.kind = TYPE_UPDATE.into();
        raw.n_updates = (self.updates.len() as u16).into();
        raw.context_size = self.slots.into();
        raw.context_start = self.context_start.into();
        raw.update_slots = [UNUSED_SLOT.into(); MAX_UPDATES];
        raw.update_extents = [FREE_EXTENT.into(); MAX_UPDATES];
        raw.context = [FREE_EXTENT.into(); CONTEXT_ENTRIES as usize];
        for (at, update) in self.updates.iter().enumerate() {
            raw.update_slots[at] = update.slot.into();
            raw.update_extents[at] = update.extent.into();
        }
        for (entry, &extent) in raw.context.iter_mut().zip(&self.context) {
            *entry = extent.into();
        }
        raw.seal()
    }
}

/// A transaction that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// More updates than entries.
    #[error(
        "{0} updates do not fit into one transaction of the activity log: split them into groups of {MAX_UPDATES}"
    )]
    TooManyUpdates(usize),
    /// An update of a slot that the log does not have.
    #[error("slot {slot} does not exist in an activity log of {slots} slots")]
    Slot {
        /// The slot.
        slot: u16,
        /// Slots of the log.
        slots: u16,
    },
    /// A context outside the slots, or too long.
    #[error("a context of {length} slots from {start} on does not fit an activity log of {slots} slots")]
    Context {
        /// First slot.
        start: u16,
        /// Number of slots.
        length: usize,
        /// Slots of the log.
        slots: u16,
    },
}

/// A block of the ring whose magic and checksum are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogBlock {
    /// Holds nothing.
    Initialized,
    /// Holds a transaction.
    Transaction(Transaction),
}

/// A block of the ring that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockDefect {
    /// Not a transaction.
    #[error("no magic ({0:#010x})")]
    Magic(u32),
    /// A torn or damaged transaction.
    #[error("checksum {stored:#010x} instead of {computed:#010x}")]
    Checksum {
        /// Stored checksum.
        stored: u32,
        /// Checksum of the bytes.
        computed: u32,
    },
}

/// Reads a block of the ring. What a valid checksum covers is taken as `drbdmeta` takes it: types other than the two
/// known ones count as updates, and so do entries behind the number of updates whose slot is in use.
pub fn parse(block: &MetaBlock) -> Result<LogBlock, BlockDefect> {
    let mut raw: RawTransaction = zerocopy::transmute!(*block);
    if raw.magic.get() != MAGIC {
        return Err(BlockDefect::Magic(raw.magic.get()));
    }
    let stored = raw.crc32c.get();
    raw.crc32c = U32::ZERO;
    let computed = crc32c_of_log_block(&zerocopy::transmute!(raw));
    if stored != computed {
        return Err(BlockDefect::Checksum { stored, computed });
    }
    if raw.kind.get() == TYPE_INITIALIZED {
        return Ok(LogBlock::Initialized);
    }
    let updates = raw.update_slots.iter().zip(&raw.update_extents).enumerate();
    let updates = updates
        .filter(|(at, (slot, _))| *at < usize::from(raw.n_updates.get()) || slot.get() != UNUSED_SLOT)
        .map(|(_, (slot, extent))| SlotUpdate {
            slot: slot.get(),
            extent: extent.get(),
        })
        .collect();
    // A free entry behind the last slot is padding; any other entry counts, whatever the number of slots says.
    let (start, slots) = (
        usize::from(raw.context_start.get()),
        usize::from(raw.context_size.get()),
    );
    let used = raw
        .context
        .iter()
        .rposition(|extent| extent.get() != FREE_EXTENT)
        .map_or(0, |last| last + 1);
    let length = used.max(slots.saturating_sub(start)).min(raw.context.len());
    Ok(LogBlock::Transaction(Transaction {
        number: raw.number.get(),
        slots: raw.context_size.get(),
        context_start: raw.context_start.get(),
        context: raw.context[..length].iter().map(|extent| extent.get()).collect(),
        updates,
    }))
}

/// Numbers the transactions of one log and moves the window of their contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionSequence {
    number: u32,
    context_start: u16,
}

impl TransactionSequence {
    /// A sequence whose first transaction has this number.
    pub fn starting_at(number: u32) -> Self {
        Self {
            number,
            context_start: 0,
        }
    }

    /// Number of the next transaction.
    pub fn next_number(&self) -> u32 {
        self.number
    }

    /// The next transaction: `slots` are the extents of all slots before `updates`. Moves the window; the number moves
    /// only when the block is on disk ([`Self::written`]).
    pub fn compose(
        &mut self,
        slots: &[u32],
        updates: Vec<SlotUpdate>,
    ) -> Result<Transaction, TransactionError> {
        let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
        let start = if self.context_start < count {
            self.context_start
        } else {
            0
        };
        let end = count.min(start.saturating_add(CONTEXT_ENTRIES));
        let context = slots[usize::from(start)..usize::from(end)].to_vec();
        let transaction = Transaction::new(self.number, count, start, context, updates)?;
        self.context_start = if end < count { end } else { 0 };
        Ok(transaction)
    }

    /// The transaction is on disk: the next one gets the next number.
    pub fn written(&mut self) {
        self.number = self.number.wrapping_add(1);
    }
}
