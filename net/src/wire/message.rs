//! What two nodes say to each other about one volume. One connection carries one volume; a [`Message`] is the
//! MessagePack header of a frame (array form), the payload travels raw behind it.
//!
//! Numbers in messages: sectors of 512 bytes for data, 4 KiB blocks for bits and records.

use mendblock_storage::units::{BlockRange, SectorRange};
use serde::{Deserialize, Serialize};

/// The first message of each side. Refused when versions do not meet, the volume or the peer is another one, or
/// either side needs a feature that the other lacks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version that the sender speaks.
    pub version_min: u16,
    /// Highest protocol version that the sender speaks.
    pub version_max: u16,
    /// Feature bits that the sender offers ([`features`]).
    pub features: u64,
    /// Feature bits without which the sender refuses.
    pub required: u64,
    /// Name of the volume.
    pub volume: String,
    /// Node id of the sender, 0..=31.
    pub node_id: u8,
    /// Node id that the sender expects at the other end.
    pub peer_id: u8,
    /// Name of the sender's node, for messages to people.
    pub node_name: String,
    /// Random number of this process life of the sender: tells a restarted peer from a reconnected one.
    pub process_id: u64,
    /// Whether the sender dialled (the other side accepted).
    pub dialled: bool,
}

/// Feature bits of [`Hello`].
pub mod features {
    /// Bad-block lists and suspect records are exchanged and worked off.
    pub const BAD_BLOCKS: u64 = 1 << 0;
    /// The sender knows the generation rules 52 and 72 (RENAME).
    pub const RENAME: u64 = 1 << 1;
    /// Write-zeroes and trim travel without payload.
    pub const WRITE_ZEROES: u64 = 1 << 2;
    /// All that this version offers.
    pub const ALL: u64 = BAD_BLOCKS | RENAME | WRITE_ZEROES;
}

/// Sizes of the sender, first of the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sizes {
    /// Usable sectors of the sender's disk; 0 without a disk.
    pub disk_sectors: u64,
    /// Size that the sender works with, in sectors; 0 when unknown.
    pub volume_sectors: u64,
    /// Logical block of the sender's disk in bytes (512..=4096); 512 without a disk.
    pub logical_block: u32,
}

/// The generation identifiers of the sender's disk and what goes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GenerationInfo {
    /// Current generation.
    pub current: u64,
    /// Bitmap generation.
    pub bitmap: u64,
    /// History, newest first.
    pub history: [u64; 2],
    /// Bits set at the moment of sending.
    pub set_bits: u64,
    /// "Discard my data" on this connect attempt.
    pub discard_my_data: bool,
    /// The sender was a Primary that crashed.
    pub crashed_primary: bool,
    /// The sender's disk will be Inconsistent after the negotiation.
    pub will_be_inconsistent: bool,
    /// "Skip the initial sync": take my current generation.
    pub skip_initial_sync: bool,
    /// False: these are the slots of a disk that is not attached, from the health file; they serve the promotion
    /// check alone.
    pub attached: bool,
    /// Random number of this life of the attached disk; 0 without one.
    pub attach_id: u64,
    /// The generation that the sender's application has seen last; 0 = none.
    pub exposed: u64,
    /// `current` was made because the receiver lost the disk of this attach id; 0 = not.
    pub made_for_loss_of: u64,
    /// Nobody was Primary on the sender since `made_for_loss_of` was recorded.
    pub not_primary_since: bool,
}

/// State of the sender, as DRBD's numbers (`role`: 0..=2, `connection`: 0..=23, disks: 0..=8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerState {
    /// Number of the sender's state snapshot.
    pub number: u64,
    /// Role of the sender.
    pub role: u8,
    /// Connection state of the sender.
    pub connection: u8,
    /// Own disk of the sender.
    pub disk: u8,
    /// Receiver's disk as the sender sees it.
    pub peer_disk: u8,
    /// The sender's I/O is suspended.
    pub suspended: bool,
    /// The sender paused resync.
    pub paused: bool,
}

/// A change that needs the peer's consent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RequestedChange {
    /// The sender wants to become Primary.
    Promote,
    /// The sender wants to give up its disk by order of the administrator.
    Detach,
    /// The sender wants to disconnect; `outdate_me`: and marks its own disk Outdated.
    Disconnect {
        /// The sender will mark its own disk Outdated.
        outdate_me: bool,
        /// The receiver is asked to mark its own disk Outdated.
        outdate_you: bool,
    },
    /// Full resync; the sender becomes target.
    FullSyncToMe,
    /// Full resync; the sender becomes source.
    FullSyncToYou,
    /// Resync of the blocks that are marked; the sender becomes target (its disk is Inconsistent by errors that `pass_on` let
    /// pass).
    ResyncToMe,
}

/// Why a block's copy must not be trusted (the causes of the bad-block list).
pub type CauseCode = u8;

/// A record of the bad-block list on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WireRecord {
    /// The blocks.
    pub range: BlockRange,
    /// 0 suspect, 1 bad, 2 lost, 3 tombstone.
    pub state: u8,
    /// Cause, as in the health file.
    pub cause: CauseCode,
    /// 0 no, 1 yes, 2 unknown: whether the receiver's copy was current when the block was marked.
    pub good_at: u8,
    /// Current generation at marking.
    pub generation: u64,
}

/// How a chunk of the bitmap is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BitmapEncoding {
    /// The payload is whole 4 KiB pages.
    Pages,
    /// No payload: every bit of the pages has this value.
    Uniform(bool),
}

/// One message. Kinds that carry a payload say so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// First message of each side.
    Hello(Hello),
    /// The receiver's hello was refused, with the reason for people; the sender closes.
    Refused {
        /// Why, and what to do.
        reason: String,
        /// Trying again is useless until the configuration changes.
        for_good: bool,
    },
    /// Keep-alive.
    Ping {
        /// Echoed by [`Message::Pong`].
        number: u64,
    },
    /// Answer to [`Message::Ping`].
    Pong {
        /// From the ping.
        number: u64,
    },

    /// Parameters, in this order at each establishing and at an attach while connected: sizes, bad blocks,
    /// generations, state.
    Sizes(Sizes),
    /// The sender's bad-block list, its suspect records about the receiver and its tombstones; several messages
    /// when long.
    BadBlocks {
        /// Blocks whose copy at the sender must not be trusted.
        own: Vec<WireRecord>,
        /// Blocks whose copy at the receiver must not be trusted, as the sender knows.
        suspect: Vec<WireRecord>,
        /// Blocks that the sender no longer has in its list.
        tombstones: Vec<BlockRange>,
        /// No more of these follow.
        last: bool,
    },
    /// Generation identifiers.
    Generations(GenerationInfo),
    /// State.
    State(PeerState),

    /// Asks for consent to a change.
    ChangeRequest {
        /// Echoed in the answer.
        request: u64,
        /// The change.
        change: RequestedChange,
    },
    /// Answer to [`Message::ChangeRequest`].
    ChangeAnswer {
        /// From the request.
        request: u64,
        /// DRBD's SS number: 1 and above = agreed.
        code: i32,
        /// Cause of a refusal, for people.
        cause: String,
    },

    /// The two cannot work together until somebody acts: the last message of the sender, which is StandAlone now. The
    /// receiver may not have come to a decision of its own yet; it ends StandAlone too, for this reason.
    Parting {
        /// Number of the reason (section 4 of the protocol).
        reason: u8,
        /// What was found and what to do, as the sender sees it, for people.
        text: String,
    },
    /// The disk that the receiver offers (attaches while connected) is refused; the connection stays, and the receiver lets
    /// its disk go.
    DiskRefused {
        /// Number of the reason, as in [`Message::Parting`].
        reason: u8,
        /// What was found and what to do, as the sender sees it, for people.
        text: String,
    },

    /// A write to mirror; payload = the data.
    Write {
        /// Identifies the write in acks.
        request: u64,
        /// Epoch it belongs to.
        epoch: u64,
        /// Where.
        range: SectorRange,
        /// Must be stable before the ack.
        fua: bool,
        /// Both sides may clear the bits of the blocks it covers when both have written it.
        may_set_in_sync: bool,
    },
    /// Zeroes to mirror, no payload.
    WriteZeroes {
        /// Identifies the write in acks.
        request: u64,
        /// Epoch it belongs to.
        epoch: u64,
        /// Where.
        range: SectorRange,
        /// The range may be deallocated if it then reads as zeroes.
        may_unmap: bool,
        /// Must be stable before the ack.
        fua: bool,
        /// As for [`Message::Write`].
        may_set_in_sync: bool,
    },
    /// Writes that the sender's disk has completed (protocol C), batched.
    WriteAcks {
        /// Their numbers.
        requests: Vec<u64>,
    },
    /// The write failed on the sender's disk, or there is none; sent when the sender's record of it is durable.
    WriteNack {
        /// Which write.
        request: u64,
        /// Linux errno.
        errno: i32,
    },
    /// The sender answered this write, which the receiver failed, to its client with an error.
    WriteAnsweredWithError {
        /// Where.
        range: SectorRange,
    },
    /// End of an epoch: everything before it must be stable before the ack.
    Barrier {
        /// The epoch that ends.
        epoch: u64,
        /// Number of writes in it.
        writes: u32,
    },
    /// All writes of the epoch, and of those before it, are on stable storage.
    BarrierAck {
        /// The epoch.
        epoch: u64,
    },
    /// Blocks that the sender wrote and the receiver did not get.
    OutOfSync {
        /// The blocks.
        ranges: Vec<BlockRange>,
    },
    /// Read from the receiver's disk.
    Read {
        /// Echoed in the answer.
        request: u64,
        /// Where.
        range: SectorRange,
    },
    /// Answer; payload = the data.
    ReadData {
        /// From the request.
        request: u64,
    },
    /// Answer: the block could not be read, or the sender may not serve it.
    ReadFailed {
        /// From the request.
        request: u64,
        /// Linux errno.
        errno: i32,
    },

    /// Part of the sender's bitmap; payload per `encoding`.
    BitmapPages {
        /// Index of the first 4 KiB page.
        first_page: u32,
        /// Number of pages, at most 64.
        pages: u32,
        /// How the payload is to be read.
        encoding: BitmapEncoding,
    },
    /// The whole bitmap was sent. From the target: the merged map.
    BitmapEnd {
        /// Set bits, as a check.
        set_bits: u64,
    },
    /// The source has begun; the target takes this as its current generation.
    SyncId {
        /// The sync id.
        id: u64,
    },
    /// The target asks for blocks.
    ResyncRead {
        /// Echoed in the answer.
        request: u64,
        /// Where; whole blocks, or up to the end of the volume.
        range: SectorRange,
    },
    /// Answer; payload = the data.
    ResyncData {
        /// From the request.
        request: u64,
        /// From the request.
        range: SectorRange,
    },
    /// Answer: these blocks can not be read at the source, ever. (A source that cannot serve now says `ReadFailed` with EAGAIN.)
    ResyncFailed {
        /// From the request.
        request: u64,
        /// The part of the request that is lost; the rest may be asked for again.
        range: SectorRange,
    },
    /// The target has written the blocks: both sides may clear their bits.
    ResyncWritten {
        /// The blocks.
        ranges: Vec<BlockRange>,
    },

    /// The sender's disk failed a request, or is being given up. Repeated until told; the receiver ORs.
    Tell {
        /// Echoed by [`Message::Told`]; ascending.
        number: u64,
        /// Life of the disk concerned: at most one new generation is made for it.
        attach_id: u64,
        /// The disk is Failed: make a new generation if one of us is Primary.
        failed: bool,
        /// The blocks.
        records: Vec<WireRecord>,
    },
    /// Bits and suspect records of that tell are durable, and so is the new generation if one was due.
    Told {
        /// From the tell.
        number: u64,
        /// Current generation of the sender (new or not).
        current: u64,
        /// A new generation was made for this loss.
        new_generation: bool,
    },
    /// The sender's "outdated since" for this loss is durable: writes that only the receiver has may be answered.
    Marked {
        /// The generation named in the record.
        generation: u64,
    },
    /// Blocks that the sender no longer has in its bad-block list.
    Cleared {
        /// The blocks.
        ranges: Vec<BlockRange>,
    },
    /// The receiver's suspect records of these blocks are gone, durably: the tombstones may go.
    ClearedAck {
        /// The blocks.
        ranges: Vec<BlockRange>,
    },
}
