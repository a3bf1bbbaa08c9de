//! From the comparison to a connection state: two disks meet.
//!
//! Runs on the peer's state packet when its identifiers are known and both disks are Negotiating or better: on a new
//! connection, when one side attaches while connected, when one of two Inconsistent nodes is promoted by force, and
//! when the peer has decided for a sync and this node has not. [`Step`] names the steps in their order.

use super::after_split_brain::{AfterSplitBrain, Resolution, Situation};
use super::compare::{Answer, Comparison, Outcome, Verdict, compare};
use super::identifiers::Generation;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A disk that takes part, in the state after negotiation: the own as decided at attach, the peer's as it announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NegotiatedDisk {
    /// A mixture, or never synced.
    Inconsistent,
    /// Of one moment, but known to be old.
    Outdated,
    /// Of one moment; whether it is current only the peer can tell.
    Consistent,
    /// Current.
    UpToDate,
}

/// One node's share of the handshake beside its [`super::Side`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Participant {
    /// Its disk after negotiation.
    pub disk: NegotiatedDisk,
    /// Discard-my-data was given for this attempt to connect (flag 1).
    pub discard_my_data: bool,
    /// Set bits in its last identifiers packet.
    pub bits: u64,
}

/// `rr-conflict`: a Primary with good data would become target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RrConflict {
    /// Refuse.
    #[default]
    Disconnect,
    /// Run the handler `pri-lost`, then refuse.
    CallPriLost,
    /// Go on: the data changes under the application.
    Violently,
}

/// The configured policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Policies {
    /// After a split brain, by number of Primaries.
    pub after_split_brain: AfterSplitBrain,
    /// Apply them without a known common base too, with a full sync.
    pub always_asbp: bool,
    /// A Primary would become target.
    pub rr_conflict: RrConflict,
}

/// Everything the handshake looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Handshake {
    /// Identifiers, marks, roles.
    pub comparison: Comparison,
    /// This node.
    pub own: Participant,
    /// The other node.
    pub peer: Participant,
    /// The own disk is Consistent or better *now*, not only after negotiation.
    pub own_disk_in_use: bool,
    /// The configured policies.
    pub policies: Policies,
    /// Only log what would happen (this node was asked to).
    pub tentative: bool,
    /// The peer only wants to log what would happen.
    pub peer_dry_run: bool,
    /// A demotion of this node would succeed: no client has the volume open.
    pub demotion_possible: bool,
    /// What the peer got from its comparison, if it has said so (nodes of ours).
    pub peer_answer: Option<Answer>,
}

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// Ours: the two nodes' answers must be mirrors.
    AnswersFit = 0,
    /// Unrelated data, or the protocol is too old.
    Comparable = 1,
    /// Exactly one disk is Inconsistent: the better one is source, whatever the identifiers say.
    OneInconsistent = 2,
    /// A split brain is announced to the operator.
    SplitBrainFound = 3,
    /// After-split-brain policies.
    AfterSplitBrain = 4,
    /// Discard-my-data on exactly one node.
    DiscardMyData = 5,
    /// Still a split brain.
    Unresolved = 6,
    /// The source must have data.
    SourceHasData = 7,
    /// The target must not be in use as Primary (`rr-conflict`).
    TargetNotInUse = 8,
    /// Dry run.
    DryRun = 9,
    /// All bits are set, under the full-sync mark.
    FullSync = 10,
    /// The result stands.
    Result = 11,
}

/// What has to be called, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Handler `initial-split-brain`.
    InitialSplitBrain,
    /// Handler `split-brain`.
    SplitBrain,
    /// Demote this node.
    Demote,
    /// Handler `pri-lost-after-sb`.
    PriLostAfterSb,
    /// Handler `pri-lost`.
    PriLost,
}

/// Why the data of two nodes is not brought together; the text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// Own rule of [`Answer::fits`].
    #[error(
        "the two nodes disagree about whose data is newer (here {}, there {}): the meta-data of one is damaged; \
         check both dumps, then make the wrong disk new with create-md", own.rule, peer.rule
    )]
    AnswersDiffer {
        /// This node's answer.
        own: Answer,
        /// The peer's answer.
        peer: Answer,
    },
    /// Step 1.
    #[error(
        "unrelated data, aborting (own {own}, peer {peer}): these disks were never one volume; check that the right \
         disks are connected, then make the one to be overwritten new with create-md"
    )]
    Unrelated {
        /// The own current generation.
        own: Generation,
        /// The peer's current generation.
        peer: Generation,
    },
    /// Step 1.
    #[error(
        "this decision needs protocol {protocol} and features {features:#x} on both nodes: upgrade the older one"
    )]
    NeedsProtocol {
        /// Protocol that both would need.
        protocol: u16,
        /// DRBD feature flags that both would need.
        features: u16,
    },
    /// Step 6.
    #[error(
        "split brain, unresolved: both copies went on (own {own}, peer {peer}, common base {}): choose the node whose \
         changes are to be lost and connect it with discard-my-data",
        base.map_or_else(|| "unknown".to_owned(), |base| base.to_string())
    )]
    SplitBrain {
        /// The own current generation.
        own: Generation,
        /// The peer's current generation.
        peer: Generation,
        /// The generation from which both went on, if known.
        base: Option<Generation>,
    },
    /// Step 7.
    #[error(
        "I shall be source, but my disk is Inconsistent: connect a node with good data, or promote the better of the \
         two by force"
    )]
    SourceInconsistent,
    /// Step 8.
    #[error(
        "I shall be target, but I am Primary: stop the application and demote this node, or give up the peer's \
         changes there with discard-my-data or invalidate"
    )]
    TargetIsPrimary,
    /// Step 9.
    #[error("dry run: nothing was changed")]
    DryRun {
        /// What would have happened.
        would: Outcome,
    },
}

/// The connection state that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Next {
    /// No resync. Bits that are set stay set.
    Connected,
    /// Source: the bitmaps are exchanged.
    WFBitMapS,
    /// Target: the bitmaps are exchanged.
    WFBitMapT,
    /// No common data; what that does to disk and connection depends on who is Negotiating.
    Refuse(Refusal),
}

/// What the handshake decided, enough to explain it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Decision {
    /// The comparison.
    pub verdict: Verdict,
    /// The result after all steps; differs from the verdict's if `decided_by` is step 2, 4 or 5.
    pub outcome: Outcome,
    /// The step that refused, or the last one that set the direction; [`Step::Result`] if the comparison stands.
    pub decided_by: Step,
    /// The connection state that follows.
    pub next: Next,
    /// Before the state change: FULL_SYNC mark, all bits set, whole bitmap written, mark cleared. If that fails, refuse.
    pub full_sync: bool,
    /// What has to be called before, in this order.
    pub calls: Vec<Call>,
    /// `rr-conflict = violently` lets the data change under a Primary: to be logged as a warning.
    pub violent: bool,
}

/// Runs the comparison and the steps.
pub fn decide(handshake: &Handshake) -> Decision {
    let verdict = compare(&handshake.comparison);
    let mut run = Run {
        handshake,
        verdict,
        outcome: verdict.answer.outcome,
        decided_by: Step::Result,
        primary: handshake.comparison.own.primary,
        calls: Vec::new(),
        violent: false,
    };
    let next = match run.steps() {
        Ok(next) => next,
        Err((step, refusal)) => {
            run.decided_by = step;
            Next::Refuse(refusal)
        }
    };
    Decision {
        verdict,
        outcome: run.outcome,
        decided_by: run.decided_by,
        full_sync: !matches!(next, Next::Refuse(_)) && run.outcome.is_full(),
        next,
        calls: run.calls,
        violent: run.violent,
    }
}

type Refused = (Step, Refusal);

/// A handshake on its way through the steps.
struct Run<'a> {
    handshake: &'a Handshake,
    verdict: Verdict,
    outcome: Outcome,
    decided_by: Step,
    primary: bool,
    calls: Vec<Call>,
    violent: bool,
}

impl Run<'_> {
    fn steps(&mut self) -> Result<Next, Refused> {
        self.answers_fit()?;
        self.comparable()?;
        self.one_inconsistent();
        self.split_brain()?;
        self.source_has_data()?;
        self.target_not_in_use()?;
        self.dry_run()?;
        Ok(match self.outcome {
            outcome if outcome.is_source() => Next::WFBitMapS,
            outcome if outcome.is_target() => Next::WFBitMapT,
            _ => Next::Connected,
        })
    }

    fn set(&mut self, step: Step, source: bool, full: bool) {
        self.decided_by = step;
        self.outcome = match (source, full) {
            (true, false) => Outcome::SourceWithBitmap,
            (true, true) => Outcome::SourceFull,
            (false, false) => Outcome::TargetWithBitmap,
            (false, true) => Outcome::TargetFull,
        };
    }

    fn answers_fit(&self) -> Result<(), Refused> {
        let own = self.verdict.answer;
        match self.handshake.peer_answer {
            Some(peer) if !own.fits(peer) => Err((Step::AnswersFit, Refusal::AnswersDiffer { own, peer })),
            _ => Ok(()),
        }
    }

    fn comparable(&self) -> Result<(), Refused> {
        let Verdict { own, peer, .. } = self.verdict;
        let refusal = match self.outcome {
            Outcome::Unrelated => Refusal::Unrelated {
                own: own.current,
                peer: peer.current,
            },
            Outcome::NeedsProtocol { protocol, features } => Refusal::NeedsProtocol { protocol, features },
            _ => return Ok(()),
        };
        Err((Step::Comparable, refusal))
    }

    fn one_inconsistent(&mut self) {
        let own = self.handshake.own.disk > NegotiatedDisk::Inconsistent;
        let peer = self.handshake.peer.disk > NegotiatedDisk::Inconsistent;
        if own != peer {
            let full = self.outcome.is_full() || self.outcome == Outcome::SplitBrain { base_known: false };
            self.set(Step::OneInconsistent, own, full);
        }
    }

    /// Steps 3 to 6.
    fn split_brain(&mut self) -> Result<(), Refused> {
        let Outcome::SplitBrain { base_known } = self.outcome else {
            return Ok(());
        };
        self.calls.push(Call::InitialSplitBrain);
        if base_known || self.handshake.policies.always_asbp {
            self.apply_policy(!base_known);
        }
        if matches!(self.outcome, Outcome::SplitBrain { .. }) {
            match (
                self.handshake.own.discard_my_data,
                self.handshake.peer.discard_my_data,
            ) {
                (true, false) => self.set(Step::DiscardMyData, false, false),
                (false, true) => self.set(Step::DiscardMyData, true, false),
                _ => return Err(self.unresolved(base_known)),
            }
        }
        Ok(())
    }

    fn apply_policy(&mut self, full: bool) {
        let Handshake {
            comparison,
            own,
            peer,
            policies,
            ..
        } = self.handshake;
        let situation = Situation {
            own: &comparison.own.identifiers,
            peer: &comparison.peer.identifiers,
            own_bits: own.bits,
            peer_bits: peer.bits,
            own_primary: comparison.own.primary,
            peer_primary: comparison.peer.primary,
            resolver: comparison.resolver,
        };
        match policies.after_split_brain.resolve(&situation) {
            Resolution::OwnWins => self.set(Step::AfterSplitBrain, true, full),
            Resolution::OwnLoses => self.set(Step::AfterSplitBrain, false, full),
            Resolution::OwnLosesIfDemoted => {
                self.calls.push(Call::Demote);
                if self.handshake.demotion_possible {
                    self.primary = false;
                    self.set(Step::AfterSplitBrain, false, full);
                } else {
                    self.calls.push(Call::PriLostAfterSb);
                }
            }
            Resolution::Unsolved => {}
        }
    }

    fn unresolved(&mut self, base_known: bool) -> Refused {
        self.calls.push(Call::SplitBrain);
        let Verdict { own, peer, .. } = self.verdict;
        let base = base_known.then_some(own.bitmap);
        (
            Step::Unresolved,
            Refusal::SplitBrain {
                own: own.current,
                peer: peer.current,
                base,
            },
        )
    }

    fn source_has_data(&self) -> Result<(), Refused> {
        if self.outcome.is_source() && self.handshake.own.disk == NegotiatedDisk::Inconsistent {
            return Err((Step::SourceHasData, Refusal::SourceInconsistent));
        }
        Ok(())
    }

    fn target_not_in_use(&mut self) -> Result<(), Refused> {
        if !(self.outcome.is_target() && self.primary && self.handshake.own_disk_in_use) {
            return Ok(());
        }
        match self.handshake.policies.rr_conflict {
            RrConflict::Violently => {
                self.violent = true;
                return Ok(());
            }
            RrConflict::CallPriLost => self.calls.push(Call::PriLost),
            RrConflict::Disconnect => {}
        }
        Err((Step::TargetNotInUse, Refusal::TargetIsPrimary))
    }

    fn dry_run(&self) -> Result<(), Refused> {
        if self.handshake.tentative || self.handshake.peer_dry_run {
            return Err((Step::DryRun, Refusal::DryRun { would: self.outcome }));
        }
        Ok(())
    }
}
