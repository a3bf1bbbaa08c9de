//! The log in use: grants of hot extents at once, cold ones by transactions, slots of used extents by revokes.
//!
//! A transaction goes: choose slots (never used ones, then the least recently used that are not granted) -> bitmap pages of
//! the evicted extents durable -> flush, transaction block -> durable -> grants. When no change is possible because every
//! slot is granted, the log *starves*: hot extents wait behind the cold ones until one got its slot.

use super::ActivityEffect;
use super::operations::Operations;
use crate::bitmap::BitmapIn;
use crate::disk::MetaKind;
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{MarkNumber, PartGeneration, Query};
use crate::part::{Outbox, PartName, To};
use crate::planted::{Fault, is_planted};
use mendblock_storage::buffer::Buffer;
use mendblock_storage::format::activity_log::{FREE_EXTENT, SlotUpdate, TransactionSequence};
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::hot::{Begin, Grant, HotSet, Plan, Revoke, TRANSACTION_UPDATES};
use std::collections::{BTreeSet, VecDeque};

/// Extents that are wanted whole, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub extents: Vec<u32>,
    pub holder: PartGeneration,
}

#[derive(Debug)]
enum Step {
    /// Bitmap pages of the evicted extents.
    WriteOut(Query),
    /// The transaction block.
    Write(u64),
}

/// The transaction that is under way.
#[derive(Debug)]
struct Change {
    plan: Plan,
    wanted: Vec<Wanted>,
    step: Step,
}

/// The log of an attached disk.
#[derive(Debug)]
pub(super) struct HotLog {
    layout: MetadataLayout,
    set: HotSet,
    sequence: TransactionSequence,
    waiting: VecDeque<Wanted>,
    change: Option<Change>,
    starving: bool,
    /// A write-out or a transaction failed, or the disk did: nothing becomes hot any more.
    failed: bool,
}

impl HotLog {
    /// A log of which the ring says what the set does.
    pub fn new(layout: MetadataLayout, set: HotSet, next_number: u32) -> Self {
        Self {
            layout,
            set,
            sequence: TransactionSequence::starting_at(next_number),
            waiting: VecDeque::new(),
            change: None,
            starving: false,
            failed: false,
        }
    }

    /// Makes these extents hot. What is hot is granted at once, unless the log starves.
    /// Every extent that is in the log, or on its way into it.
    pub fn extents(&self) -> Vec<u32> {
        self.set.extents().collect()
    }

    pub fn activate(&mut self, wanted: Wanted, out: &mut Outbox<ActivityEffect>) {
        if self.failed {
            return;
        }
        let mut extents = wanted.extents;
        extents.sort_unstable();
        extents.dedup();
        let holder = wanted.holder;
        let mut cold = false;
        if !self.starving {
            let hot: Vec<u32> = extents
                .iter()
                .copied()
                .filter(|extent| self.set.is_hot(*extent))
                .collect();
            cold = hot.len() < extents.len();
            let grants = self.grants(&hot, holder);
            grant(grants, out);
        }
        if cold || self.starving {
            // More than one transaction holds cannot become hot at once.
            let most = TRANSACTION_UPDATES.min(usize::from(self.set.slots()));
            let pieces = extents.chunks(most).map(|piece| Wanted {
                extents: piece.to_vec(),
                holder,
            });
            self.waiting.extend(pieces);
        }
    }

    /// Grants for those that the holder has not.
    fn grants(&mut self, extents: &[u32], holder: PartGeneration) -> Vec<Grant> {
        extents
            .iter()
            .filter_map(|extent| self.set.grant(*extent, holder.0).ok())
            .collect()
    }

    /// Starts the next transaction, if one is wanted and none is under way.
    pub fn drive(
        &mut self,
        queries: &mut u64,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) {
        while self.change.is_none() && !self.failed && !self.waiting.is_empty() {
            let mut count = self.fitting();
            let mut all_missing = None;
            let begun = loop {
                let extents = self.wanted_of(count);
                match self.set.begin(&extents) {
                    Begin::Full { missing } if count > 1 => {
                        all_missing.get_or_insert((missing, extents));
                        count -= 1;
                    }
                    Begin::TooMany { .. } if count > 1 => count -= 1,
                    begun => break begun,
                }
            };
            match begun {
                Begin::Hot => {
                    self.starving = false;
                    let wanted: Vec<Wanted> = self.waiting.drain(..count).collect();
                    self.grant_all(&wanted, out);
                }
                Begin::Plan(plan) => {
                    self.starving = false;
                    let wanted = self.waiting.drain(..count).collect();
                    self.begin_change(plan, wanted, queries, operations, out);
                }
                Begin::Full { missing } => {
                    self.starving = true;
                    let head = self.wanted_of(1);
                    // Slots for all that waits are asked for at once; the head's own extents are never given up for itself.
                    if let Some((missing, extents)) = all_missing {
                        self.revoke(missing, &extents, out);
                    }
                    self.revoke(missing, &head, out);
                    return;
                }
                Begin::Busy | Begin::TooMany { .. } => return,
            }
        }
    }

    /// How many of those that wait fit into one transaction, at least one.
    fn fitting(&self) -> usize {
        let mut cold = BTreeSet::new();
        let mut all = BTreeSet::new();
        let mut count = 0;
        for wanted in &self.waiting {
            all.extend(wanted.extents.iter().copied());
            cold.extend(
                wanted
                    .extents
                    .iter()
                    .copied()
                    .filter(|extent| !self.set.is_hot(*extent)),
            );
            let most = TRANSACTION_UPDATES.min(usize::from(self.set.slots()));
            if count > 0 && (cold.len() > most || all.len() > usize::from(self.set.slots())) {
                break;
            }
            count += 1;
        }
        count
    }

    fn wanted_of(&self, count: usize) -> Vec<u32> {
        let all: BTreeSet<u32> = self
            .waiting
            .iter()
            .take(count)
            .flat_map(|wanted| wanted.extents.iter().copied())
            .collect();
        all.into_iter().collect()
    }

    fn revoke(&mut self, count: usize, keep: &[u32], out: &mut Outbox<ActivityEffect>) {
        for revoke in self.set.revoke(count, keep) {
            ask_back(revoke, out);
        }
    }

    fn begin_change(
        &mut self,
        plan: Plan,
        wanted: Vec<Wanted>,
        queries: &mut u64,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) {
        let evicts = !plan.evicted().is_empty();
        *queries += 1;
        let query = Query(*queries);
        self.change = Some(Change {
            plan,
            wanted,
            step: Step::WriteOut(query),
        });
        if evicts {
            self.ask_write_out(out);
        } else {
            self.write_transaction(operations, out);
        }
    }

    /// The bitmap on disk must carry every bit that was set while the extents were hot. Their grants came back, and with them
    /// every mark is durable (R3): no mark has to be waited for.
    fn ask_write_out(&self, out: &mut Outbox<ActivityEffect>) {
        if let Some(Change {
            plan,
            step: Step::WriteOut(query),
            ..
        }) = &self.change
        {
            out.send(To::Bitmap(BitmapIn::WriteOut {
                requester: PartName::ActivityLog,
                query: *query,
                after: MarkNumber(0),
                extents: Some(plan.evicted().to_vec()),
            }));
        }
    }

    /// The bitmap part is a new one: it does not know what it was asked for.
    pub fn bitmap_restarted(&self, out: &mut Outbox<ActivityEffect>) {
        self.ask_write_out(out);
    }

    /// The pages are written, or not.
    pub fn written_out(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        operations: &mut Operations,
        out: &mut Outbox<ActivityEffect>,
    ) {
        let waited_for = |change: &Change| matches!(change.step, Step::WriteOut(asked) if asked == query);
        if !self.change.as_ref().is_some_and(waited_for) {
            return;
        }
        match result {
            Ok(()) => self.write_transaction(operations, out),
            Err(_) => self.fail(),
        }
    }

    /// With a flush of the data device before it: a retired write is stable at the peer, but maybe not here, and after the
    /// eviction nothing covers it any more (R20).
    fn write_transaction(&mut self, operations: &mut Operations, out: &mut Outbox<ActivityEffect>) {
        let Some(change) = self.change.as_mut() else {
            return;
        };
        let slots: Vec<u32> = self
            .set
            .context(0)
            .map(|extent| extent.unwrap_or(FREE_EXTENT))
            .collect();
        let updates = change.plan.updates().iter();
        let updates = updates
            .map(|update| SlotUpdate {
                slot: update.slot,
                extent: update.extent,
            })
            .collect();
        match self.sequence.compose(&slots, updates) {
            Ok(transaction) => {
                let kind = MetaKind::Write {
                    offset: self.layout.transaction_byte(transaction.number()),
                    buffer: Buffer::from_vec(transaction.encode().to_vec()),
                    flush_before: true,
                };
                change.step = Step::Write(operations.submit(vec![kind], out));
                if is_planted(Fault::GrantBeforeDurable) {
                    self.durable(out);
                }
            }
            Err(error) => {
                out.fact(Fact::Surprise {
                    what: format!("the activity log cannot be written: {error}"),
                });
                self.fail();
            }
        }
    }

    /// A meta-data write of the log ended.
    pub fn completed(&mut self, number: u64, failed: bool, out: &mut Outbox<ActivityEffect>) {
        let waited_for =
            |change: &mut Change| matches!(change.step, Step::Write(written) if written == number);
        let Some(change) = self.change.take_if(waited_for) else {
            return;
        };
        if failed {
            self.set.abort(change.plan);
            return self.fail();
        }
        self.change = Some(change);
        self.durable(out);
    }

    /// The transaction is on the disk: its extents may be written to.
    fn durable(&mut self, out: &mut Outbox<ActivityEffect>) {
        let Some(change) = self.change.take() else {
            return;
        };
        self.sequence.written();
        let activated = change.plan.updates().len() as u32;
        let evicted = change.plan.evicted().len() as u32;
        self.set.commit(change.plan);
        out.fact(Fact::ActivityTransaction { activated, evicted });
        self.grant_all(&change.wanted, out);
    }

    fn grant_all(&mut self, wanted: &[Wanted], out: &mut Outbox<ActivityEffect>) {
        let mut grants = Vec::new();
        for wanted in wanted {
            grants.extend(self.grants(&wanted.extents, wanted.holder));
        }
        grant(grants, out);
    }

    /// The volume part gives grants back: of itself (0), or because of this revoke.
    pub fn released(&mut self, number: u64, grants: Vec<Grant>, not_held: &[u32]) {
        for grant in grants {
            let extent = grant.extent();
            // A grant of a predecessor's set answers the revoke of this one all the same: nothing is written under it.
            if !self.set.release(grant) && number != 0 {
                self.set.not_held(Revoke { extent, number });
            }
        }
        if number != 0 {
            for &extent in not_held {
                self.set.not_held(Revoke { extent, number });
            }
        }
    }

    /// Extents used lately.
    pub fn touched(&mut self, extents: &[u32]) {
        extents.iter().for_each(|extent| self.set.touch(*extent));
    }

    /// What older generations of the volume part wanted is wanted by nobody; what they had may still be written to.
    pub fn volume_restarted(&mut self, generation: PartGeneration, out: &mut Outbox<ActivityEffect>) {
        self.set.holder_restarted(generation.0);
        self.waiting.retain(|wanted| wanted.holder >= generation);
        if let Some(change) = self.change.as_mut() {
            change.wanted.retain(|wanted| wanted.holder >= generation);
        }
        if self.waiting.is_empty() {
            self.starving = false;
        }
        self.set.open_revokes().for_each(|revoke| ask_back(revoke, out));
    }

    /// Nothing becomes hot any more; who waits decides again by the snapshot.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// The disk is given up: nobody waits for the log any more.
    pub fn disk_failed(&mut self) {
        self.fail();
        self.waiting.clear();
        if let Some(change) = self.change.as_mut() {
            change.wanted.clear();
        }
    }
}

fn grant(grants: Vec<Grant>, out: &mut Outbox<ActivityEffect>) {
    if !grants.is_empty() {
        out.send(To::Volume(VolumeIn::Granted { grants }));
    }
}

fn ask_back(revoke: Revoke, out: &mut Outbox<ActivityEffect>) {
    let Revoke { extent, number } = revoke;
    out.send(To::Volume(VolumeIn::Revoke {
        number,
        extents: vec![extent],
    }));
}
