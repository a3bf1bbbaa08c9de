//! The comparison: both nodes' identifiers -> which copy is newer.
//!
//! Both nodes compare the same data with the sides swapped and get mirrored answers ([`Answer::fits`]). Nothing but
//! [`Comparison`] decides: no write counters, no clocks.

use super::identifiers::{Generation, Identifiers};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One node's share of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Side {
    /// The slots: the own ones, or the peer's as last received.
    pub identifiers: Identifiers,
    /// This node was Primary when it stopped (the own mark, or flag 2 of the peer's identifiers).
    pub crashed_primary: bool,
    /// Primary now; the peer's from the state packet just received, not a remembered one.
    pub primary: bool,
}

/// What the two nodes have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Agreed {
    /// DRBD protocol number; makes a difference only below 96.
    pub protocol: u16,
    /// DRBD's feature flag 4: the peer knows rule 41.
    pub rule_41: bool,
    /// Ours: both nodes RENAME, so rules 52 and 72 apply.
    pub renames: bool,
}

impl Agreed {
    /// Between two nodes of ours.
    pub const OURS: Self = Self {
        protocol: 101,
        rule_41: true,
        renames: true,
    };
}

/// Everything the comparison looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Comparison {
    /// This node.
    pub own: Side,
    /// The other node.
    pub peer: Side,
    /// This node breaks ties; true on exactly one of the two (the accepting side of the connection).
    pub resolver: bool,
    /// Protocol and features.
    pub agreed: Agreed,
}

/// The rule that decided. The number is DRBD's; 52 and 72 are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rule {
    /// 10: two fresh disks.
    BothFresh = 10,
    /// 20: my disk is new, the peer's has data.
    OwnFresh = 20,
    /// 30: the peer's disk is new. Also the answer -1091 when one side alone has a base and 34 to 37 are unknown.
    PeerFresh = 30,
    /// 34: I was source; the target finished, I never heard it. It becomes the source if it crashed as Primary and I did not (ours).
    FinishNotHeard = 34,
    /// 35: I was target and finished; the source never heard it.
    FinishNotHeardByPeer = 35,
    /// 36: I was source; the target never stored the sync id.
    StartNotStoredByPeer = 36,
    /// 37: I was target and never stored the sync id.
    StartNotStored = 37,
    /// 40: the same generation; if somebody crashed as Primary, it may have written more.
    SameGeneration = 40,
    /// 41: the same generation, somebody crashed, and somebody is Primary now: the Primary has the writes.
    SameGenerationInUse = 41,
    /// 50: the peer went on from my generation, or our resync broke off.
    PeerWentOn = 50,
    /// 51: the peer started a resync to me, its sync id never got to my disk.
    SyncIdLost = 51,
    /// 52 (ours): as 51, and the peer has renamed its generation since.
    SyncIdLostThenRenamed = 52,
    /// 60: I am an older generation from which no bitmap counts any more.
    OwnOlder = 60,
    /// 70: I went on from the peer's generation; mirror of 50.
    OwnWentOn = 70,
    /// 71: mirror of 51.
    SyncIdLostByPeer = 71,
    /// 72 (ours): mirror of 52.
    SyncIdLostByPeerThenRenamed = 72,
    /// 80: the peer is an older generation; mirror of 60.
    PeerOlder = 80,
    /// 90: both went on from one base.
    BothWentOn = 90,
    /// 100: both went on and the base has left the bitmap slots (split brain), or the two were never one volume.
    NoCommonBase = 100,
}

impl Rule {
    /// DRBD's number of the rule.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The rule by which the other node must have decided.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::OwnFresh => Self::PeerFresh,
            Self::PeerFresh => Self::OwnFresh,
            Self::FinishNotHeard => Self::FinishNotHeardByPeer,
            Self::FinishNotHeardByPeer => Self::FinishNotHeard,
            Self::StartNotStoredByPeer => Self::StartNotStored,
            Self::StartNotStored => Self::StartNotStoredByPeer,
            Self::PeerWentOn => Self::OwnWentOn,
            Self::OwnWentOn => Self::PeerWentOn,
            Self::SyncIdLost => Self::SyncIdLostByPeer,
            Self::SyncIdLostByPeer => Self::SyncIdLost,
            Self::SyncIdLostThenRenamed => Self::SyncIdLostByPeerThenRenamed,
            Self::SyncIdLostByPeerThenRenamed => Self::SyncIdLostThenRenamed,
            Self::OwnOlder => Self::PeerOlder,
            Self::PeerOlder => Self::OwnOlder,
            Self::BothFresh
            | Self::SameGeneration
            | Self::SameGenerationInUse
            | Self::BothWentOn
            | Self::NoCommonBase => self,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}", self.number())
    }
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// 0.
    NoResync,
    /// +1: I become source; the union of both bitmaps decides which blocks.
    SourceWithBitmap,
    /// -1: I become target; the union of both bitmaps decides which blocks.
    TargetWithBitmap,
    /// +2: I become source of all blocks.
    SourceFull,
    /// -2: I become target of all blocks.
    TargetFull,
    /// +100 with, -100 without a common base.
    SplitBrain {
        /// Both bitmaps count from one base: automatic policies may decide without `always-asbp`.
        base_known: bool,
    },
    /// -1000: never one volume.
    Unrelated,
    /// Cannot tell with what the nodes have agreed on.
    NeedsProtocol {
        /// Protocol that both would need.
        protocol: u16,
        /// DRBD feature flags that both would need.
        features: u16,
    },
}

impl Outcome {
    /// DRBD's number.
    pub fn value(self) -> i32 {
        match self {
            Self::NoResync => 0,
            Self::SourceWithBitmap => 1,
            Self::TargetWithBitmap => -1,
            Self::SourceFull => 2,
            Self::TargetFull => -2,
            Self::SplitBrain { base_known: true } => 100,
            Self::SplitBrain { base_known: false } => -100,
            Self::Unrelated => -1000,
            Self::NeedsProtocol {
                protocol,
                features: 0,
            } => -(1000 + i32::from(protocol)),
            Self::NeedsProtocol { protocol, features } => {
                -(0x1_0000 + i32::from(protocol) + 256 * i32::from(features))
            }
        }
    }

    /// What the other node must have got.
    #[must_use]
    pub fn mirrored(self) -> Self {
        match self {
            Self::SourceWithBitmap => Self::TargetWithBitmap,
            Self::TargetWithBitmap => Self::SourceWithBitmap,
            Self::SourceFull => Self::TargetFull,
            Self::TargetFull => Self::SourceFull,
            Self::NoResync | Self::SplitBrain { .. } | Self::Unrelated | Self::NeedsProtocol { .. } => self,
        }
    }

    /// I become source.
    pub fn is_source(self) -> bool {
        matches!(self, Self::SourceWithBitmap | Self::SourceFull)
    }

    /// I become target.
    pub fn is_target(self) -> bool {
        matches!(self, Self::TargetWithBitmap | Self::TargetFull)
    }

    /// All blocks are resynced.
    pub fn is_full(self) -> bool {
        matches!(self, Self::SourceFull | Self::TargetFull)
    }
}

/// What one node tells the other about its comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// The rule that decided.
    pub rule: Rule,
    /// Its result.
    pub outcome: Outcome,
}

impl Answer {
    /// The other node's answer is the mirror of mine. If not, the meta-data of one is damaged or edited (both
    /// `current` empty; each one's `current` among the other's base or history), and nothing may be resynced.
    pub fn fits(self, peer: Self) -> bool {
        // -1091 has a rule of its own for want of a base, the same on both nodes.
        let rule_fits = match self.outcome {
            Outcome::NeedsProtocol { .. } => true,
            _ => self.rule.mirrored() == peer.rule,
        };
        rule_fits && self.outcome.mirrored() == peer.outcome
    }
}

/// Slots that the comparison repairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Correction {
    /// The own slots. Ours: on disk only in the same write as START-SOURCE, else the next handshake is rule 40 with
    /// copies that differ.
    Own(Identifiers),
    /// The remembered copy of the peer's, which FINISH-TARGET uses.
    Peer(Identifiers),
}

/// A comparison and its result, enough to explain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Verdict {
    /// The own slots as compared.
    pub own: Identifiers,
    /// The peer's slots as compared.
    pub peer: Identifiers,
    /// Rule and result.
    pub answer: Answer,
    /// Slots that have to be repaired.
    pub correction: Option<Correction>,
}

impl Verdict {
    /// The own slots, repaired: what START-SOURCE goes on from.
    pub fn own_corrected(&self) -> Identifiers {
        match self.correction {
            Some(Correction::Own(identifiers)) => identifiers,
            _ => self.own,
        }
    }

    /// The peer's slots, repaired: to be remembered as the peer's.
    pub fn peer_corrected(&self) -> Identifiers {
        match self.correction {
            Some(Correction::Peer(identifiers)) => identifiers,
            _ => self.peer,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { rule, outcome } = self.answer;
        write!(
            f,
            "own {}, peer {}: {rule}, result {}",
            self.own,
            self.peer,
            outcome.value()
        )
    }
}

/// Compares the two copies; the first rule that matches wins.
pub fn compare(comparison: &Comparison) -> Verdict {
    let (rule, outcome, correction) = rules(comparison);
    Verdict {
        own: comparison.own.identifiers,
        peer: comparison.peer.identifiers,
        answer: Answer { rule, outcome },
        correction,
    }
}

type Match = (Rule, Outcome, Option<Correction>);

const PROTOCOL_91: Outcome = Outcome::NeedsProtocol {
    protocol: 91,
    features: 0,
};
const PROTOCOL_101_RULE_41: Outcome = Outcome::NeedsProtocol {
    protocol: 101,
    features: 4,
};

/// The rules in their order.
fn rules(comparison: &Comparison) -> Match {
    use Outcome::*;
    use Rule::*;
    let (own, peer) = (&comparison.own.identifiers, &comparison.peer.identifiers);
    let agreed = comparison.agreed;
    let created = |side: &Identifiers| side.current.same(Generation::JUST_CREATED);
    let blank = |side: &Identifiers| created(side) || side.current.same(Generation::NONE);

    if created(own) && created(peer) {
        (BothFresh, NoResync, None)
    } else if blank(own) && !created(peer) {
        (OwnFresh, TargetFull, None)
    } else if blank(peer) {
        (PeerFresh, SourceFull, None)
    } else if own.current.same(peer.current) {
        same_current(comparison)
    } else if own.current.same(peer.bitmap) {
        (PeerWentOn, TargetWithBitmap, None)
    } else if sync_id_lost(peer, own, agreed.protocol) {
        undo_start(
            SyncIdLost,
            TargetWithBitmap,
            agreed.protocol,
            Correction::Peer(before_start(peer)),
        )
    } else if agreed.renames && sync_id_lost_then_renamed(peer, own) {
        (
            SyncIdLostThenRenamed,
            TargetWithBitmap,
            Some(Correction::Peer(before_renamed_start(peer))),
        )
    } else if in_history(own.current, peer) {
        let correction = Correction::Peer(based_on(peer, own.current));
        (OwnOlder, TargetFull, agreed.renames.then_some(correction))
    } else if own.bitmap.same(peer.current) {
        (OwnWentOn, SourceWithBitmap, None)
    } else if sync_id_lost(own, peer, agreed.protocol) {
        undo_start(
            SyncIdLostByPeer,
            SourceWithBitmap,
            agreed.protocol,
            Correction::Own(before_start(own)),
        )
    } else if agreed.renames && sync_id_lost_then_renamed(own, peer) {
        (
            SyncIdLostByPeerThenRenamed,
            SourceWithBitmap,
            Some(Correction::Own(before_renamed_start(own))),
        )
    } else if in_history(peer.current, own) {
        let correction = Correction::Own(based_on(own, peer.current));
        (PeerOlder, SourceFull, agreed.renames.then_some(correction))
    } else if own.bitmap.same(peer.bitmap) && !own.bitmap.same(Generation::NONE) {
        (BothWentOn, SplitBrain { base_known: true }, None)
    } else if own.history.iter().any(|identifier| in_history(*identifier, peer)) {
        // Two empty places count, as in DRBD: a false alarm refuses, which loses nothing.
        (NoCommonBase, SplitBrain { base_known: false }, None)
    } else {
        (NoCommonBase, Unrelated, None)
    }
}

/// Rules 34 to 41: both disks hold the same generation.
fn same_current(comparison: &Comparison) -> Match {
    use Outcome::*;
    use Rule::*;
    let Comparison {
        own: own_side,
        peer: peer_side,
        resolver,
        agreed,
    } = comparison;
    let (own, peer) = (&own_side.identifiers, &peer_side.identifiers);
    let (own_base, peer_base) = (!own.bitmap.is_none(), !peer.bitmap.is_none());

    match (own_base, peer_base) {
        (true, false) | (false, true) if agreed.protocol < 91 => return (PeerFresh, PROTOCOL_91, None),
        (true, false) if finished_resync(own, peer) && agreed.renames && has_more(peer_side, own_side) => {
            return (FinishNotHeard, TargetWithBitmap, None);
        }
        (true, false) if finished_resync(own, peer) => {
            return (
                FinishNotHeard,
                SourceWithBitmap,
                Some(Correction::Own(own.rotate_out())),
            );
        }
        (true, false) => return (StartNotStoredByPeer, SourceWithBitmap, None),
        (false, true) if finished_resync(peer, own) && agreed.renames && has_more(own_side, peer_side) => {
            return (FinishNotHeardByPeer, SourceWithBitmap, None);
        }
        (false, true) if finished_resync(peer, own) => {
            return (
                FinishNotHeardByPeer,
                TargetWithBitmap,
                Some(Correction::Peer(peer.rotate_out())),
            );
        }
        (false, true) => return (StartNotStored, TargetWithBitmap, None),
        (true, true) | (false, false) => {}
    }
    let crashed = (own_side.crashed_primary, peer_side.crashed_primary);
    let in_use = (own_side.primary, peer_side.primary);
    match (crashed, in_use) {
        ((false, false), _) => (SameGeneration, NoResync, None),
        (_, (true, _) | (_, true)) if !agreed.rule_41 => (SameGenerationInUse, PROTOCOL_101_RULE_41, None),
        (_, (true, true)) => (SameGenerationInUse, SplitBrain { base_known: false }, None),
        (_, (true, false)) => (SameGenerationInUse, SourceWithBitmap, None),
        (_, (false, true)) => (SameGenerationInUse, TargetWithBitmap, None),
        ((true, false), _) => (SameGeneration, SourceWithBitmap, None),
        ((false, true), _) => (SameGeneration, TargetWithBitmap, None),
        ((true, true), _) if *resolver => (SameGeneration, TargetWithBitmap, None),
        ((true, true), _) => (SameGeneration, SourceWithBitmap, None),
    }
}

/// `target` shows the traces of the resync that `source` still has open (34, 35).
fn finished_resync(source: &Identifiers, target: &Identifiers) -> bool {
    source.bitmap.same(target.history[0]) && source.history[0].same(target.history[1])
}

/// The target of a resync was Primary when it stopped, and the source was not: the target finished, so it has all that was
/// answered, and the last writes perhaps alone (34, 35; ours: DRBD lets the source overwrite them). A source that was Primary
/// has its own last writes; one that went on alone has another name.
fn has_more(target: &Side, source: &Side) -> bool {
    target.crashed_primary && !source.crashed_primary && !source.primary
}

/// `source` has started a resync to `target`, whose disk still has the base (51, 71).
fn sync_id_lost(source: &Identifiers, target: &Identifiers, protocol: u16) -> bool {
    let base = source.history[0];
    target.current.same(base)
        && if protocol < 96 {
            target.history[0].same(source.history[1])
        } else {
            base.without_role().sync_id().same(source.bitmap)
        }
}

/// As [`sync_id_lost`], with the source's former name pushed above the base (52, 72).
fn sync_id_lost_then_renamed(source: &Identifiers, target: &Identifiers) -> bool {
    let base = source.history[1];
    target.current.same(base) && base.without_role().sync_id().same(source.bitmap)
}

fn undo_start(rule: Rule, outcome: Outcome, protocol: u16, correction: Correction) -> Match {
    if protocol < 91 {
        (rule, PROTOCOL_91, None)
    } else {
        (rule, outcome, Some(correction))
    }
}

/// Before a full resync all bits are set: they count from whatever the target has, so that becomes the base (60, 80; ours). Were it
/// left in the history alone, START-SOURCE and RENAME would push it out when the link is lost before the target has started,
/// and at the next handshake the target would pass for a stranger.
fn based_on(source: &Identifiers, target: Generation) -> Identifiers {
    let base = source.history.into_iter().find(|former| former.same(target));
    Identifiers {
        bitmap: base.unwrap_or(target.without_role()),
        history: [source.bitmap, Generation::NONE],
        ..*source
    }
}

/// START-SOURCE undone.
fn before_start(source: &Identifiers) -> Identifiers {
    let [base, older] = source.history;
    Identifiers {
        bitmap: base,
        history: [older, older],
        ..*source
    }
}

/// START-SOURCE undone below the name that RENAME pushed.
fn before_renamed_start(source: &Identifiers) -> Identifiers {
    let [renamed, base] = source.history;
    Identifiers {
        bitmap: base,
        history: [renamed, renamed],
        ..*source
    }
}

fn in_history(identifier: Generation, of: &Identifiers) -> bool {
    of.history.iter().any(|former| former.same(identifier))
}
