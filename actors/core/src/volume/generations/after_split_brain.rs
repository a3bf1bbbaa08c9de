//! The automatic policies for a split brain (`after-sb-0pri`, `-1pri`, `-2pri`).
//!
//! Both nodes need equal settings (`discard-local` on one is `discard-remote` on the other). The default is
//! `disconnect`: nobody loses data without a human's word.

use super::identifiers::Identifiers;
use serde::{Deserialize, Serialize};

/// Policy while nobody is Primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterSb0Pri {
    /// Decide nothing.
    #[default]
    Disconnect,
    /// The node that was promoted later loses.
    DiscardYoungerPrimary,
    /// The node that was Primary when the link broke loses.
    DiscardOlderPrimary,
    /// A node without changes loses; with changes on both, decide nothing.
    DiscardZeroChanges,
    /// The node with fewer changed blocks loses.
    DiscardLeastChanges,
    /// This node loses.
    DiscardLocal,
    /// The peer loses.
    DiscardRemote,
}

/// Policy while one node is Primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterSb1Pri {
    /// Decide nothing.
    #[default]
    Disconnect,
    /// As `after-sb-0pri`, if that makes the Secondary lose.
    Consensus,
    /// The Secondary loses.
    DiscardSecondary,
    /// As `after-sb-0pri`; a Primary that loses is demoted, and if that fails its handler runs.
    CallPriLostAfterSb,
    /// As `after-sb-0pri`.
    ViolentlyAs0p,
}

/// Policy while both nodes are Primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterSb2Pri {
    /// Decide nothing.
    #[default]
    Disconnect,
    /// As `after-sb-0pri`; the loser is demoted, and if that fails its handler runs.
    CallPriLostAfterSb,
    /// As `after-sb-0pri`.
    ViolentlyAs0p,
}

/// The three policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AfterSplitBrain {
    /// Nobody is Primary now.
    pub zero_primaries: AfterSb0Pri,
    /// One node is Primary now.
    pub one_primary: AfterSb1Pri,
    /// Both nodes are Primary now.
    pub two_primaries: AfterSb2Pri,
}

/// What the policies look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Situation<'a> {
    /// The own slots: bit 0 of the base says whether this node was Primary when the link broke.
    pub own: &'a Identifiers,
    /// The peer's slots.
    pub peer: &'a Identifiers,
    /// Set bits as sent in the last identifiers (not counted afresh, or both nodes might win).
    pub own_bits: u64,
    /// Set bits as received in the last identifiers.
    pub peer_bits: u64,
    /// This node is Primary now.
    pub own_primary: bool,
    /// The peer is Primary now.
    pub peer_primary: bool,
    /// This node breaks ties, and then loses.
    pub resolver: bool,
}

/// What a policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Resolution {
    /// The peer loses its changes.
    OwnWins,
    /// This node loses its changes.
    OwnLoses,
    /// This node loses its changes and is Primary: it has to be demoted first.
    OwnLosesIfDemoted,
    /// A human has to decide.
    Unsolved,
}

impl AfterSplitBrain {
    /// Applies the policy for the number of Primaries.
    pub fn resolve(&self, situation: &Situation<'_>) -> Resolution {
        match (situation.own_primary, situation.peer_primary) {
            (false, false) => zero_primaries(self.zero_primaries, situation),
            (true, true) => self.resolve_two(situation),
            _ => self.resolve_one(situation),
        }
    }

    fn resolve_one(&self, situation: &Situation<'_>) -> Resolution {
        let as_zero = zero_primaries(self.zero_primaries, situation);
        let favours_primary = match as_zero {
            Resolution::OwnWins => situation.own_primary,
            Resolution::OwnLoses => !situation.own_primary,
            Resolution::OwnLosesIfDemoted | Resolution::Unsolved => false,
        };
        match self.one_primary {
            AfterSb1Pri::Disconnect => Resolution::Unsolved,
            AfterSb1Pri::Consensus if favours_primary => as_zero,
            AfterSb1Pri::Consensus => Resolution::Unsolved,
            AfterSb1Pri::DiscardSecondary if situation.own_primary => Resolution::OwnWins,
            AfterSb1Pri::DiscardSecondary => Resolution::OwnLoses,
            AfterSb1Pri::CallPriLostAfterSb => demoting(as_zero, situation.own_primary),
            AfterSb1Pri::ViolentlyAs0p => as_zero,
        }
    }

    fn resolve_two(&self, situation: &Situation<'_>) -> Resolution {
        let as_zero = zero_primaries(self.zero_primaries, situation);
        match self.two_primaries {
            AfterSb2Pri::Disconnect => Resolution::Unsolved,
            AfterSb2Pri::CallPriLostAfterSb => demoting(as_zero, true),
            AfterSb2Pri::ViolentlyAs0p => as_zero,
        }
    }
}

fn demoting(resolution: Resolution, own_primary: bool) -> Resolution {
    match resolution {
        Resolution::OwnLoses if own_primary => Resolution::OwnLosesIfDemoted,
        other => other,
    }
}

fn zero_primaries(policy: AfterSb0Pri, situation: &Situation<'_>) -> Resolution {
    // Was Primary when the link broke: promotion rotates first and sets bit 0 afterwards.
    let older = (
        situation.own.bitmap.is_primary(),
        situation.peer.bitmap.is_primary(),
    );
    match (policy, older) {
        (AfterSb0Pri::Disconnect, _) => Resolution::Unsolved,
        (AfterSb0Pri::DiscardYoungerPrimary, (false, true)) => Resolution::OwnLoses,
        (AfterSb0Pri::DiscardYoungerPrimary, (true, false)) => Resolution::OwnWins,
        (AfterSb0Pri::DiscardOlderPrimary, (false, true)) => Resolution::OwnWins,
        (AfterSb0Pri::DiscardOlderPrimary, (true, false)) => Resolution::OwnLoses,
        (AfterSb0Pri::DiscardYoungerPrimary | AfterSb0Pri::DiscardOlderPrimary, _) => {
            zero_changes(situation).unwrap_or_else(|| least_changes(situation))
        }
        (AfterSb0Pri::DiscardZeroChanges, _) => zero_changes(situation).unwrap_or(Resolution::Unsolved),
        (AfterSb0Pri::DiscardLeastChanges, _) => least_changes(situation),
        (AfterSb0Pri::DiscardLocal, _) => Resolution::OwnLoses,
        (AfterSb0Pri::DiscardRemote, _) => Resolution::OwnWins,
    }
}

fn zero_changes(situation: &Situation<'_>) -> Option<Resolution> {
    match (situation.own_bits, situation.peer_bits) {
        (0, 0) => Some(tie(situation)),
        (_, 0) => Some(Resolution::OwnWins),
        (0, _) => Some(Resolution::OwnLoses),
        _ => None,
    }
}

fn least_changes(situation: &Situation<'_>) -> Resolution {
    match situation.own_bits.cmp(&situation.peer_bits) {
        std::cmp::Ordering::Less => Resolution::OwnLoses,
        std::cmp::Ordering::Greater => Resolution::OwnWins,
        std::cmp::Ordering::Equal => tie(situation),
    }
}

fn tie(situation: &Situation<'_>) -> Resolution {
    if situation.resolver {
        Resolution::OwnLoses
    } else {
        Resolution::OwnWins
    }
}
