//! How a record may change: each transition names the proof that it needs.

use super::record::{BlockState, Cause, GoodAt, Record, Whose};
use crate::units::BlockRange;

/// An error, or a word of the peer, about a range of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Finding {
    /// Whose copy is meant.
    pub whose: Whose,
    /// What happened.
    pub cause: Cause,
    /// Whether the other node has the current content, judged by the bits *before* this error.
    pub good_at: GoodAt,
    /// Current generation.
    pub generation: u64,
    /// Unix seconds.
    pub now: u32,
}

/// A change of what is known about listed blocks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// Suspect to bad: a rewrite or a read-back failed (a second failing read does it in [`super::RecordSet::mark`]).
    Bad,
    /// Suspect or bad to lost: no good copy exists anywhere.
    Lost,
    /// Lost to bad: the other node's copy turned out good.
    Found,
    /// Decides anew whether the other node's copy is current; not for lost blocks.
    GoodAt(GoodAt),
    /// A missed write was answered with an error: it becomes a failed write.
    AnsweredWithError,
}

/// Why own blocks leave the list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Removal {
    /// Written from a good copy or by a client's full overwrite, flushed, and read back equal. Allowed in every state.
    ReadBack,
    /// One good read right after the failed write, in the same attach, of a block that had no record before it.
    FailedWriteReadable,
    /// Suspect: two good reads, and equal to an up-to-date copy.
    EqualCopies,
    /// Two equal good reads of a suspect block of a larger failed read, or of one whose other copy is unknown. The
    /// bit stays set.
    ReadTwice,
    /// Lost: the administrator accepted zeros on both nodes.
    AcceptLost,
}

/// The record of `part` after `finding`.
pub(super) fn marked(part: BlockRange, old: Option<&Record>, finding: &Finding) -> Record {
    let Some(old) = old.filter(|old| old.is_listed()) else {
        return Record {
            range: part,
            whose: finding.whose,
            state: BlockState::Suspect,
            cause: finding.cause,
            good_at: finding.good_at,
            errors: 1,
            first_seen: finding.now,
            last_seen: finding.now,
            generation: finding.generation,
        };
    };
    let newest_is_elsewhere = finding.cause == Cause::MissedWrite;
    // The weaker causes give way: what a failed write or the peer's word allows, no later error may allow.
    let weak = match old.cause {
        Cause::FailedWrite => true,
        Cause::PeerSaid => finding.cause != Cause::FailedWrite,
        _ => newest_is_elsewhere,
    };
    let second_read = old.cause.is_read() && finding.cause.is_read();
    Record {
        state: match old.state {
            BlockState::Suspect if second_read => BlockState::Bad,
            // A newer content exists where the write succeeded: what was lost is overwritten there.
            BlockState::Lost if newest_is_elsewhere && finding.good_at == GoodAt::Yes => BlockState::Bad,
            state => state,
        },
        cause: if weak { finding.cause } else { old.cause },
        // Decided at the first marking (by now the bit is set anyway), but a missed write makes another content current. That it is
        // not known where says nothing.
        good_at: if newest_is_elsewhere && finding.good_at != GoodAt::Unknown {
            finding.good_at
        } else {
            old.good_at
        },
        errors: old.errors.saturating_add(1),
        last_seen: old.last_seen.max(finding.now),
        ..*old
    }
}

/// The record after `change`; `None` when it is not allowed.
pub(super) fn updated(old: &Record, change: Change) -> Option<Record> {
    use BlockState::{Bad, Lost, Suspect, Tombstone};
    let (state, cause, good_at) = match (change, old.state) {
        (_, Tombstone) => return None,
        (Change::Bad, Suspect | Bad) => (Bad, old.cause, old.good_at),
        (Change::Lost, Suspect | Bad | Lost) => (Lost, old.cause, old.good_at),
        (Change::Found, Lost) => (Bad, old.cause, GoodAt::Yes),
        (Change::GoodAt(good_at), Suspect | Bad) => (old.state, old.cause, good_at),
        (Change::AnsweredWithError, state) if old.cause == Cause::MissedWrite => {
            (state, Cause::FailedWrite, old.good_at)
        }
        _ => return None,
    };
    Some(Record {
        state,
        cause,
        good_at,
        ..*old
    })
}

/// Whether `reason` is proof enough for the record.
pub(super) fn may_remove(old: &Record, reason: Removal) -> bool {
    match reason {
        Removal::ReadBack => true,
        Removal::FailedWriteReadable => {
            old.state == BlockState::Suspect && old.cause == Cause::FailedWrite && old.errors == 1
        }
        Removal::EqualCopies => old.state == BlockState::Suspect,
        Removal::ReadTwice => {
            let open = match old.state {
                BlockState::Suspect => old.errors == 1 || old.good_at == GoodAt::Unknown,
                state => state == BlockState::Bad && old.good_at == GoodAt::Unknown,
            };
            open && old.cause.is_read()
        }
        Removal::AcceptLost => old.state == BlockState::Lost,
    }
}

/// What stays of a record that left the list. Uniform, so that tombstones merge.
pub(super) fn tombstone(range: BlockRange, generation: u64, now: u32) -> Record {
    Record {
        range,
        whose: Whose::Own,
        state: BlockState::Tombstone,
        cause: Cause::Read,
        good_at: GoodAt::Unknown,
        errors: 0,
        first_seen: now,
        last_seen: now,
        generation,
    }
}

/// The suspect record for a part of the peer's own list: the peer knows its disk best, but of two words about whether
/// this node's copy is current the more careful one counts.
pub(super) fn about_peer(part: BlockRange, old: Option<&Record>, theirs: &Record, peer: u8) -> Record {
    let good_at = match old.map(|old| old.good_at) {
        Some(GoodAt::No) => GoodAt::No,
        Some(GoodAt::Unknown) if theirs.good_at == GoodAt::Yes => GoodAt::Unknown,
        _ => theirs.good_at,
    };
    Record {
        range: part,
        whose: Whose::Peer(peer),
        good_at,
        errors: theirs.errors.max(old.map_or(0, |old| old.errors)),
        first_seen: theirs.first_seen.min(old.map_or(u32::MAX, |old| old.first_seen)),
        last_seen: theirs.last_seen.max(old.map_or(0, |old| old.last_seen)),
        ..*theirs
    }
}

/// The own record for a part of the peer's suspect records about this node. A missed write keeps its cause: no good
/// read can make up for it.
pub(super) fn said_by_peer(part: BlockRange, theirs: &Record, now: u32) -> Record {
    let cause = match theirs.cause {
        Cause::MissedWrite => Cause::MissedWrite,
        _ => Cause::PeerSaid,
    };
    Record {
        range: part,
        whose: Whose::Own,
        cause,
        last_seen: now.max(theirs.last_seen),
        ..*theirs
    }
}
