//! The exposed identifier: the generation that this node's application has seen last (kept in memory only).
//!
//! A Primary without a disk may work only with a disk that holds exactly this generation, else its application would
//! see older or foreign data.
//!
//! | Exposed := | when |
//! |---|---|
//! | own new `current` | any assignment of `current`; but see [`at_start_target`] |
//! | own `current` | the own disk rises from below Consistent to Consistent or better |
//! | the peer's `current` | its identifiers arrive: [`receive`] |
//! | random | `resume-io` with a noted NEW and no disk: nothing fits until the volume is taken down |
//!
//! [`Generation::NONE`]: the application has seen nothing.

use super::identifiers::{Generation, Identifiers};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// START-TARGET. A Primary target reads the source's data, so what its application sees is the source's generation,
/// not the mixture on the own disk. (DRBD takes the sync id; if the disk then fails and the link breaks, the source is
/// refused for ever.)
pub fn at_start_target(primary: bool, sync_id: Generation, peer_current: Generation) -> Generation {
    if primary {
        peer_current
    } else {
        sync_id.with_role(false)
    }
}

/// The peer's word about a `current` that it made (ours): void as soon as its `current` is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MadeForYou {
    /// The attach of the receiver's disk for whose loss it was made.
    pub attach: u64,
    /// Somebody was Primary at the sender since: it may hold writes that the receiver's application has not seen.
    pub primary_since: bool,
}

/// Arrival of the peer's identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Arrival {
    /// The exposed identifier so far.
    pub exposed: Generation,
    /// The own slots if the own disk is Inconsistent or better.
    pub own: Option<Identifiers>,
    /// The last attach of the own disk (ours).
    pub own_attach: u64,
    /// This node is Primary.
    pub primary: bool,
    /// The connection is Connected or beyond; else it is being established.
    pub connected: bool,
    /// The peer had no disk and now brings one up.
    pub peer_attaches: bool,
    /// While the connection is being established: `current` of the peer's disk as this very connection named it before (ours).
    pub named_before: Option<Generation>,
    /// Agreed protocol.
    pub protocol: u16,
    /// The slots that arrived.
    pub peer: Identifiers,
    /// Flag 8: take my `current`, skip the initial sync.
    pub skip_initial_sync: bool,
    /// Ours: the peer made its `current` because this node's disk failed.
    pub made_for_you: Option<MadeForYou>,
}

/// What to do with identifiers that arrived. They become the remembered peer's in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Received {
    /// The exposed identifier from now on. To be taken over only when a cluster-wide change that is running has ended,
    /// unless this node is a Primary.
    pub exposed: Generation,
    /// The target's half of skipping the initial sync: bits cleared and written, then [`Identifiers::start_target`]
    /// with the peer's `current`, then both disks UpToDate.
    pub skip_initial_sync: bool,
}

/// Data that the application of a Primary must not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
pub enum DataNotCurrent {
    /// The peer's disk; the connection goes to StandAlone.
    #[error(
        "can only connect to data with current generation {exposed}, the peer has {found}: connect a node that has \
         it, attach the own disk, or stop the application and demote this node"
    )]
    Peer {
        /// What the application has seen.
        exposed: Generation,
        /// What the peer has.
        found: Generation,
    },
    /// The own disk (DRBD error 150); it stays Diskless.
    #[error(
        "can only attach to data with current generation {exposed}, this disk has {found}: connect the peer that has \
         it first, or stop the application and demote this node"
    )]
    Own {
        /// What the application has seen.
        exposed: Generation,
        /// What the disk has.
        found: Generation,
    },
}

/// Identifiers of the peer's attached disk arrive (never those marked "not attached").
pub fn receive(arrival: &Arrival) -> Result<Received, DataNotCurrent> {
    let Some(own) = arrival.own else {
        return receive_without_disk(arrival);
    };
    let skip_initial_sync = arrival.skip_initial_sync
        && arrival.connected
        && arrival.protocol >= 90
        && own.current == Generation::JUST_CREATED;
    Ok(Received {
        exposed: arrival.exposed,
        skip_initial_sync,
    })
}

/// A Primary refuses foreign data when it connects, and when a peer without a disk brings one up. From a disk that it
/// already works with, another `current` means that the peer made a generation for this node, if it comes from the exposed one.
/// One that does not is of a disk that was behind when the own one failed, and had not been brought up to date: what the
/// application has seen is not there, and the next connection must still know that.
fn receive_without_disk(arrival: &Arrival) -> Result<Received, DataNotCurrent> {
    let found = arrival.peer.current;
    let first_sight = !arrival.connected || arrival.peer_attaches;
    let made_for_me = made_for_own_loss(arrival) || made_meanwhile(arrival);
    if arrival.primary && first_sight && !arrival.exposed.same(found) && !made_for_me {
        return Err(DataNotCurrent::Peer {
            exposed: arrival.exposed,
            found,
        });
    }
    let takes_over = if arrival.primary {
        arrival.exposed.same(Generation::NONE) || made_for_me || comes_from(&arrival.peer, arrival.exposed)
    } else {
        arrival.connected
    };
    let exposed = if takes_over { found } else { arrival.exposed };
    Ok(Received {
        exposed,
        skip_initial_sync: false,
    })
}

/// These identifiers are those of a generation, or of one that was made after it.
fn comes_from(peer: &Identifiers, generation: Generation) -> bool {
    let known = [peer.current, peer.bitmap, peer.history[0], peer.history[1]];
    known.into_iter().any(|known| known.same(generation))
}

/// The peer made its generation because this node's disk failed, but the link broke before this node heard it (ours;
/// DRBD refuses such a peer for ever).
fn made_for_own_loss(arrival: &Arrival) -> bool {
    arrival
        .made_for_you
        .is_some_and(|made| made.attach == arrival.own_attach && !made.primary_since)
        && arrival.peer.bitmap.same(arrival.exposed)
        && !arrival.exposed.same(Generation::NONE)
}

/// This connection has named the right generation already, and the peer, which had finished establishing it first, has since made
/// one for this Primary without a disk. (As if this node had finished first too: whose lists are merged sooner is chance.)
fn made_meanwhile(arrival: &Arrival) -> bool {
    let exposed = arrival.exposed;
    let is_exposed = |named: Generation| named.same(exposed) && !exposed.same(Generation::NONE);
    arrival.named_before.is_some_and(is_exposed) && arrival.peer.bitmap.same(exposed)
}

/// Who could hold what the application has seen while a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attach {
    /// The exposed identifier.
    pub exposed: Generation,
    /// `current` on the disk.
    pub current: Generation,
    /// Either node is Primary.
    pub in_use: bool,
    /// Connected, and the peer's disk is UpToDate: the handshake decides.
    pub peer_up_to_date: bool,
}

/// Whether a disk may be attached: refused if somebody works with another generation and no UpToDate peer can bring
/// the disk up to it. (DRBD 8.4.7 asks only a Primary that is not connected: "Primary loses its disk, writes go to the
/// peer, the peer loses its disk, the old disk is attached again" is then accepted with the writes missing.)
pub fn may_attach(attach: &Attach) -> Result<(), DataNotCurrent> {
    let Attach {
        exposed,
        current: found,
        in_use,
        peer_up_to_date,
    } = *attach;
    let foreign = !exposed.same(Generation::NONE) && !exposed.same(found);
    if in_use && !peer_up_to_date && foreign {
        return Err(DataNotCurrent::Own { exposed, found });
    }
    Ok(())
}

/// The link was lost while the own disk was Negotiating: whether it takes the state that the attach decided. Else it
/// becomes Diskless.
pub fn negotiating_disk_stays(exposed: Generation, current: Generation) -> bool {
    exposed.same(current)
}
