//! What can happen to two nodes.

use super::moment::Moment;
use mendblock_core::part::PartName;
use serde::{Deserialize, Serialize};

/// Who may be hurt until the next round. Whatever it is, one good copy of every block stays reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Victim {
    /// Nobody: parts die, the line is slow.
    Nobody,
    /// The Secondary: its process, its disk, the line to it.
    Secondary,
    /// The Primary's disk.
    PrimaryDisk,
    /// The Primary's process; it comes back, or the other node takes over.
    PrimaryProcess,
    /// The Primary's disk, and its process, which comes back. No seed draws it: what it finds is open, see docs/reliability.md.
    PrimaryNode,
    /// The Primary's disk, and its process too once the disk has been given up.
    DisklessPrimary,
    /// Both processes at once.
    Both,
}

/// An administrator's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the commands of the same name")]
pub enum Order {
    Attach,
    Detach { force: bool },
    Connect,
    Disconnect,
    Invalidate,
    Primary,
    Secondary,
}

/// A region of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the regions of the format, by name")]
pub enum Region {
    Superblock,
    ActivityLog,
    Bitmap,
    Data,
}

/// Something that happens at once, or takes as long as it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Everything is mended and both get well; then this victim may be hurt.
    Round(Victim),
    /// Clients send so many requests.
    Requests(u16),
    /// Clients send so many requests at once.
    Burst(u16),
    /// Clients read every place that they use.
    Sweep,
    /// Nothing is asked for so many milliseconds.
    Pause(u16),
    /// The same in microseconds.
    Micros(u16),
    /// Nothing is asked until this moment is there, or does not come.
    Until(Moment),
    /// Every connection breaks; of what is under way some arrives.
    Break,
    /// Nothing gets through, both ways.
    Partition,
    /// Nothing gets through towards this node.
    Deaf(u8),
    /// The line is so many times as slow.
    Slow(u16),
    /// The line is well again.
    Heal,
    /// The process ends; with `power` also what the disk had not made stable.
    Crash {
        /// Node.
        node: u8,
        /// The machine loses its power.
        power: bool,
    },
    /// The process is started, attaches and connects.
    Start(u8),
    /// The other node becomes Primary after the Primary's crash.
    TakeOver,
    /// The other node becomes Primary after the Primary's crash, though it may lack writes that were answered. Then the Primary
    /// comes back, and either they have not parted, or they see it. The storm ends there.
    Part(u8),
    /// A part dies.
    Kill(u8, PartName),
    /// A client's session dies.
    KillSession(u8),
    /// A block cannot be read until it is written.
    Unreadable(u8, u64),
    /// A block cannot be written.
    Unwritable(u8, u64),
    /// So many flushes fail.
    FailingFlushes(u8, u8),
    /// A region cannot be written.
    UnwritableMeta(u8, Region),
    /// The health file cannot be written.
    UnwritableHealth(u8),
    /// Nothing completes on the disk.
    Hang(u8),
    /// What hung goes on.
    Thaw(u8),
    /// The disk fails everything.
    Dead(u8),
    /// The disk's faults are gone.
    MendDisk(u8),
    /// The drive gives up its bad blocks: those that its node must have noted read as zeroes. Its other faults are gone.
    Remap(u8),
    /// An order, not waited for.
    Order(u8, Order),
    /// `local-io-error` and the handlers around a resync end so: exit code, milliseconds; 60 s and more: far too late.
    Handlers(u8, i8, u16),
    /// The calendar jumps by so many seconds.
    Clock(u8, i32),
}

/// A node's number from the plan.
#[must_use]
pub fn index(node: u8) -> usize {
    usize::from(node & 1)
}
