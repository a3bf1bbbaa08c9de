//! A request: who wants it, what, and how far its local and its net part are. The two parts are independent facts.

use crate::identity::{ClientId, ConnectionNumber, ErrorNumber, MarkNumber, Query, Sequence, SnapshotNumber};
use crate::part::Instant;
use crate::snapshot::Snapshot;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::units::{BlockRange, SectorRange};

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this node.
    Client { client: ClientId, sequence: Sequence },
    /// The peer's client: a mirrored write. `sole`: the sender has no disk, this copy is the only one.
    Received {
        connection: ConnectionNumber,
        wire: u64,
        epoch: u64,
        in_sync: bool,
        sole: bool,
    },
    /// The peer reads (its client, or its resync).
    Served {
        connection: ConnectionNumber,
        wire: u64,
        resync: bool,
    },
    /// Localisation reads a block of a failed read.
    Localise,
    /// The peer's barrier: what was received so far must become stable.
    Barrier {
        connection: ConnectionNumber,
        epoch: u64,
    },
    /// This node is the target of a resync.
    Fetch { job: u64 },
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Read {
        range: SectorRange,
    },
    Write {
        range: SectorRange,
        buffer: Buffer,
        fua: bool,
    },
    Zeroes {
        range: SectorRange,
        may_unmap: bool,
        fua: bool,
    },
    Flush,
    /// Data that the source sends will be written here.
    Fetch {
        range: SectorRange,
    },
    /// Flush, read back, compare.
    Verify {
        range: SectorRange,
        expected: Buffer,
    },
}

impl Work {
    pub fn range(&self) -> Option<SectorRange> {
        match self {
            Self::Read { range }
            | Self::Write { range, .. }
            | Self::Zeroes { range, .. }
            | Self::Fetch { range }
            | Self::Verify { range, .. } => Some(*range),
            Self::Flush => None,
        }
    }

    /// It changes blocks, so that nothing that overlaps may run beside it.
    pub fn writes(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Zeroes { .. } | Self::Fetch { .. } | Self::Verify { .. }
        )
    }
}

/// The part on the own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// None wanted, or not yet begun.
    None,
    /// In the kernel (or on the way there).
    Pending,
    /// It succeeded.
    Done,
    /// It failed under this number.
    Failed(ErrorNumber, i32),
    /// The disk was given up with the operation in it.
    Abandoned,
}

/// The part at the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Net {
    /// None wanted.
    None,
    /// An answer is awaited on this connection.
    Pending(ConnectionNumber),
    /// The peer has it (or delivered the data).
    Done(ConnectionNumber),
    /// The peer failed it.
    Failed(i32),
    /// The connection was lost before the answer, or before it was stable there.
    Lost(ConnectionNumber),
}

/// How far it is shown that a write over listed bad blocks can be read again. The range is what was listed of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// None needed, or the write itself is not done.
    None,
    /// It is being flushed.
    Flush(BlockRange),
    /// It is being read back.
    Read(BlockRange),
    /// Read back equal; with this mark its blocks leave the list.
    Given { span: BlockRange, mark: MarkNumber },
    /// Other bytes came back; this mark records the missed write.
    Failed(MarkNumber),
}

/// Where the request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits: admission, an overlapping write, extents of the log, window, a path.
    Waiting,
    /// Its parts run.
    Running,
    /// Its parts have ended; the conditions for the answer are awaited.
    Settling,
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    pub origin: Origin,
    pub work: Work,
    pub stage: Stage,
    pub local: Local,
    pub net: Net,
    /// Epoch of the mirrored write, or the last epoch that a flush waits for.
    pub epoch: u64,
    /// It holds a use of each extent that it touches, of this life of the disk.
    pub in_log: Option<u64>,
    /// A local read failed under this number (0: it was abandoned): never read locally again.
    pub no_local: Option<ErrorNumber>,
    /// Snapshot under which it was given to the own disk.
    pub tried_under: Option<SnapshotNumber>,
    /// The peer could not read it.
    pub no_peer: bool,
    /// The peer cannot say yet: it is not tried again before.
    pub not_before: Option<Instant>,
    /// It is to fail, and there may be news by which it need not.
    pub asked: Option<Query>,
    /// Data of a read.
    pub data: Option<Buffer>,
    /// A mark that must be acknowledged before the answer (T3, nack).
    pub mark: Option<MarkNumber>,
    /// The mark of its blocks as lacking at the peer; its extents stay hot until that is durable.
    pub lacking: Option<MarkNumber>,
    /// The blocks are marked (or known to be marked) as lacking at the peer.
    pub marked_lacking: bool,
    /// Extents written since the last good flush, taken over by this flush.
    pub flushing: Vec<u32>,
    /// A verify's step: 0 flush, 1 read.
    pub step: u8,
    pub proof: Proof,
}

impl Request {
    pub fn new(origin: Origin, work: Work) -> Self {
        Self {
            origin,
            work,
            stage: Stage::Waiting,
            local: Local::None,
            net: Net::None,
            epoch: 0,
            in_log: None,
            no_local: None,
            tried_under: None,
            no_peer: false,
            not_before: None,
            asked: None,
            data: None,
            mark: None,
            lacking: None,
            marked_lacking: false,
            flushing: Vec::new(),
            step: 0,
            proof: Proof::None,
        }
    }

    pub fn range(&self) -> Option<SectorRange> {
        self.work.range()
    }

    /// Both parts have ended.
    pub fn parts_ended(&self) -> bool {
        self.local != Local::Pending && !matches!(self.net, Net::Pending(_))
    }

    /// Its failure on the own disk is news that this snapshot does not have yet; nor does it have what the pair is like since.
    /// Without a number: the disk part did not take it, under a later snapshot.
    pub fn is_ahead_of(&self, snapshot: &Snapshot) -> bool {
        let failed = match self.local {
            Local::Failed(number, _) => Some(number),
            _ => self.no_local,
        };
        match failed {
            None => false,
            Some(ErrorNumber(0)) => self.tried_under == Some(snapshot.number),
            Some(number) => snapshot.errors_seen < number,
        }
    }

    pub fn is_read(&self) -> bool {
        matches!(self.work, Work::Read { .. })
    }

    pub fn is_client(&self) -> bool {
        matches!(self.origin, Origin::Client { .. })
    }
}
