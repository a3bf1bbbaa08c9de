//! Promotion while a newer, unattached disk is known (ours).
//!
//! The health file keeps the slots of a node's disk. A node without a disk sends them, marked "not attached", when it
//! connects; they serve this check alone. DRBD promotes on the older copy, and the attach afterwards is a split brain.

use super::compare::{Agreed, Comparison, Outcome, Side, Verdict, compare};
use super::identifiers::Identifiers;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A node's disk as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KnownDisk {
    /// In use.
    Attached(Identifiers),
    /// Its slots are known from the health file alone.
    NotAttached(Identifiers),
    /// Nothing is known of it.
    Unknown,
}

/// Whose disk it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// This node.
    Own,
    /// The peer.
    Peer,
}

/// Why no node is promoted without force; the comparison has the disk in use as `own`, the other as `peer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
pub enum PromotionRefused {
    /// The unattached disk has writes that the disk in use lacks.
    #[error("{} has a newer disk that is not attached ({verdict}): attach the newer disk first", holder(*.owner))]
    NewerDiskNotAttached {
        /// Who has the newer disk.
        owner: Owner,
        /// The comparison.
        verdict: Verdict,
    },
    /// The two would be a split brain, or cannot be compared.
    #[error(
        "{} has a disk that is not attached and whose data went another way ({verdict}): attach it and settle the \
         split brain before anything is written", holder(*.owner)
    )]
    SplitDiskNotAttached {
        /// Who has the other disk.
        owner: Owner,
        /// The comparison.
        verdict: Verdict,
    },
}

fn holder(owner: Owner) -> &'static str {
    match owner {
        Owner::Own => "this node",
        Owner::Peer => "the peer",
    }
}

/// Whether either of two connected nodes may be promoted without force, as far as unattached disks are concerned:
/// only if such a disk is older than the one that would be used, or equal. Without a disk in use there is nothing to
/// compare (and other rules refuse).
///
/// Marks of a crash play no part: what a crashed Primary may have written above an equal generation was not
/// acknowledged, and waiting for it would hold up a failover.
pub fn may_promote(own: KnownDisk, peer: KnownDisk) -> Result<(), PromotionRefused> {
    match (own, peer) {
        (KnownDisk::Attached(used), KnownDisk::NotAttached(other)) => {
            unattached_is_not_newer(used, other, Owner::Peer)
        }
        (KnownDisk::NotAttached(other), KnownDisk::Attached(used)) => {
            unattached_is_not_newer(used, other, Owner::Own)
        }
        (KnownDisk::Attached(_), KnownDisk::Attached(_) | KnownDisk::Unknown)
        | (KnownDisk::Unknown, KnownDisk::Attached(_))
        | (KnownDisk::NotAttached(_) | KnownDisk::Unknown, KnownDisk::NotAttached(_) | KnownDisk::Unknown) => {
            Ok(())
        }
    }
}

fn unattached_is_not_newer(
    used: Identifiers,
    other: Identifiers,
    owner: Owner,
) -> Result<(), PromotionRefused> {
    let side = |identifiers| Side {
        identifiers,
        crashed_primary: false,
        primary: false,
    };
    let verdict = compare(&Comparison {
        own: side(used),
        peer: side(other),
        resolver: false,
        agreed: Agreed::OURS,
    });
    match verdict.answer.outcome {
        Outcome::NoResync | Outcome::SourceWithBitmap | Outcome::SourceFull => Ok(()),
        Outcome::TargetWithBitmap | Outcome::TargetFull => {
            Err(PromotionRefused::NewerDiskNotAttached { owner, verdict })
        }
        Outcome::SplitBrain { .. } | Outcome::Unrelated | Outcome::NeedsProtocol { .. } => {
            Err(PromotionRefused::SplitDiskNotAttached { owner, verdict })
        }
    }
}
