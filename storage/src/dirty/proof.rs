//! Why a bit may be cleared.

/// Evidence that the blocks of a range are equal on both nodes, consumed by [`super::DirtyMap::clear`].
///
/// There is one constructor for each reason. Those for single blocks compare the generation in which the evidence
/// arose with the present one (bit 0, the role, does not count) and refuse when another generation has begun.
///
/// Cloning is for a range that is cleared in parts.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use = "a proof clears nothing until it is passed to DirtyMap::clear"]
pub struct Proof {
    reason: ProofReason,
}

/// What a [`Proof`] rests on; for audit events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProofReason {
    /// A resync write from the up-to-date copy was acknowledged.
    ResyncWrite,
    /// A write was acknowledged by both disks while both were in sync.
    MirroredWrite,
    /// A verified comparison (digest of at least 128 bits, or the bytes) found the block equal to the up-to-date copy.
    EqualCopies,
    /// The block was written from a good copy, flushed and read back equal from the medium.
    ReadBack,
    /// A decision about the whole map.
    Bulk(BulkReason),
}

/// Why a whole map may be cleared; each use writes an audit event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BulkReason {
    /// Two just created disks were declared equal (`new-current-uuid --clear-bitmap` while connected).
    SkipInitialSync,
    /// The administrator cleared the bitmap (`new-current-uuid --clear-bitmap`, alone).
    ClearedByAdmin,
    /// The generations prove that the peer finished the resync of which this node did not hear the end.
    PeerFinishedResync,
}

impl Proof {
    /// A resync write begun in generation `written_in` was acknowledged; `None` when `current` is another generation.
    pub fn resync_write(written_in: u64, current: u64) -> Option<Self> {
        Self::in_generation(ProofReason::ResyncWrite, written_in, current)
    }

    /// A mirrored write begun in generation `written_in` was acknowledged by both disks, both in sync; `None` when
    /// `current` is another generation.
    pub fn mirrored_write(written_in: u64, current: u64) -> Option<Self> {
        Self::in_generation(ProofReason::MirroredWrite, written_in, current)
    }

    /// Both copies were compared in generation `compared_in`; `None` when `current` is another generation.
    pub fn equal_copies(compared_in: u64, current: u64) -> Option<Self> {
        Self::in_generation(ProofReason::EqualCopies, compared_in, current)
    }

    /// The block was rewritten in generation `written_in`, flushed and read back equal; `None` when `current` is
    /// another generation. The only proof that clears the bit of a block on the bad-block list.
    pub fn read_back(written_in: u64, current: u64) -> Option<Self> {
        Self::in_generation(ProofReason::ReadBack, written_in, current)
    }

    /// A decision about the whole map.
    pub fn bulk(reason: BulkReason) -> Self {
        Self {
            reason: ProofReason::Bulk(reason),
        }
    }

    /// What the proof rests on.
    pub fn reason(&self) -> ProofReason {
        self.reason
    }

    fn in_generation(reason: ProofReason, then: u64, now: u64) -> Option<Self> {
        (then | 1 == now | 1).then_some(Self { reason })
    }
}
