//! The bad-block list as a value: sorted, disjoint, merged records.

use super::limits::{ListFull, MAX_OWN_BLOCKS, MAX_OWN_RANGES, Totals};
use super::record::{Record, Whose};
use super::rules::{self, Change, Finding, Removal};
use crate::units::BlockRange;

/// What an operation on a range did, in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Blocks that entered or left the list, or whose record was changed.
    pub changed: u64,
    /// Blocks of the range for which the operation is not allowed; they stay as they were.
    pub refused: u64,
}

/// What [`RecordSet::union`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Union {
    /// Blocks whose record was added, changed or removed.
    pub changed: u64,
    /// A part that found no room.
    pub full: Option<ListFull>,
}

/// The own bad-block list, the suspect records about peers and the tombstones of one volume.
///
/// Records are sorted by (whose, first block), disjoint for each owner, and neighbours are one record when all their
/// fields but the times are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RecordSet {
    records: Vec<Record>,
    totals: Totals,
    own_ranges_max: usize,
    own_blocks_max: u64,
}

/// Why a list of records is not a valid set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetError {
    /// Two records are out of order, or overlap.
    #[error("record {index} is not behind the one before it")]
    Order {
        /// Index of the second record.
        index: usize,
    },
    /// A tombstone about a peer, which no node keeps.
    #[error("record {index} is a tombstone about a peer")]
    PeerTombstone {
        /// Index of the record.
        index: usize,
    },
    /// More records than a list may have.
    #[error(transparent)]
    Full(#[from] ListFull),
}

impl Default for RecordSet {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            totals: Totals::default(),
            own_ranges_max: MAX_OWN_RANGES,
            own_blocks_max: MAX_OWN_BLOCKS,
        }
    }
}

impl RecordSet {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// A list of records that are already sorted and disjoint.
    pub fn from_records(records: Vec<Record>) -> Result<Self, SetError> {
        for (index, pair) in records.windows(2).enumerate() {
            if (pair[0].whose, pair[0].range.end()) > (pair[1].whose, pair[1].range.first()) {
                return Err(SetError::Order { index: index + 1 });
            }
        }
        let peer_tombstone = |record: &Record| !record.is_listed() && record.whose != Whose::Own;
        if let Some(index) = records.iter().position(peer_tombstone) {
            return Err(SetError::PeerTombstone { index });
        }
        let totals = Totals::of(&records);
        Totals::default().check(totals, MAX_OWN_RANGES, MAX_OWN_BLOCKS)?;
        Ok(Self {
            records: merged(records),
            totals,
            ..Self::default()
        }
        .recounted())
    }

    /// Sets `bad-list-max`: most ranges (1 to 1024) and blocks (1 to 16384) of the own list, cut to these bounds.
    pub fn set_own_limits(&mut self, ranges: usize, blocks: u64) {
        self.own_ranges_max = ranges.clamp(1, MAX_OWN_RANGES);
        self.own_blocks_max = blocks.clamp(1, MAX_OWN_BLOCKS);
    }

    /// All records, in order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The own bad-block list, without tombstones.
    pub fn own(&self) -> impl Iterator<Item = &Record> {
        self.of(Whose::Own).iter().filter(|record| record.is_listed())
    }

    /// The suspect records about a peer.
    pub fn suspects(&self, peer: u8) -> impl Iterator<Item = &Record> {
        self.of(Whose::Peer(peer)).iter()
    }

    /// The tombstones that the peer has still to confirm.
    pub fn tombstones(&self) -> impl Iterator<Item = &Record> {
        self.of(Whose::Own).iter().filter(|record| !record.is_listed())
    }

    /// Number of ranges on the own list.
    pub fn own_ranges(&self) -> usize {
        self.totals.own_ranges
    }

    /// Number of blocks on the own list.
    pub fn own_blocks(&self) -> u64 {
        self.totals.own_blocks
    }

    /// Number of own blocks that are lost.
    pub fn lost_blocks(&self) -> u64 {
        self.totals.lost_blocks
    }

    /// The record of a block, tombstones included.
    pub fn lookup(&self, whose: Whose, block: u64) -> Option<&Record> {
        self.overlapping(whose, BlockRange::single(block)).first()
    }

    /// The records that share a block with the range, tombstones included.
    pub fn overlapping(&self, whose: Whose, range: BlockRange) -> &[Record] {
        &self.records[self.positions(whose, range)]
    }

    /// Whether a block of the range is on the own list: then it is not read from the own disk.
    pub fn is_bad(&self, range: BlockRange) -> bool {
        self.overlapping(Whose::Own, range).iter().any(Record::is_listed)
    }

    /// The parts of the range that are on no list: neither own nor suspect. Only their bits may be cleared in bulk.
    pub fn unlisted(&self, range: BlockRange) -> Vec<BlockRange> {
        let mut parts = vec![range];
        let listed = self.records.iter().filter(|record| record.is_listed());
        for record in listed.filter(|record| record.range.overlaps(range)) {
            parts = parts
                .into_iter()
                .flat_map(|part| {
                    let cut = record.range;
                    [
                        span(part.first(), part.end().min(cut.first())),
                        span(part.first().max(cut.end()), part.end()),
                    ]
                })
                .flatten()
                .collect();
        }
        parts
    }

    /// Puts the blocks of the range on the list, or notes another error on those already there.
    pub fn mark(&mut self, range: BlockRange, finding: Finding) -> Result<Outcome, ListFull> {
        self.edit(finding.whose, range, |part, old| {
            Step::Keep(rules::marked(part, old, &finding))
        })
    }

    /// Changes what is known about the listed blocks of the range; refused where the change does not fit the record.
    pub fn update(&mut self, whose: Whose, range: BlockRange, change: Change) -> Result<Outcome, ListFull> {
        self.edit(whose, range, |_, old| match old {
            None => Step::Nothing,
            Some(old) => rules::updated(old, change).map_or(Step::Refused, Step::Keep),
        })
    }

    /// Takes blocks off the own list and leaves tombstones; refused where the reason is no proof for the record.
    /// `generation` is the current one, `now` Unix seconds.
    pub fn remove(
        &mut self,
        range: BlockRange,
        reason: Removal,
        generation: u64,
        now: u32,
    ) -> Result<Outcome, ListFull> {
        self.edit(Whose::Own, range, |part, old| match old {
            Some(old) if !old.is_listed() => Step::Nothing,
            Some(old) if rules::may_remove(old, reason) => {
                Step::Keep(rules::tombstone(part, generation, now))
            }
            Some(_) => Step::Refused,
            None => Step::Nothing,
        })
    }

    /// The peer no longer has the blocks on its list (its "cleared" or its tombstone), or has another disk.
    pub fn drop_suspects(&mut self, peer: u8, range: BlockRange) -> Result<Outcome, ListFull> {
        self.edit(Whose::Peer(peer), range, |_, old| match old {
            Some(_) => Step::Drop,
            None => Step::Nothing,
        })
    }

    /// The peer confirmed that it dropped its suspect records: the tombstones of the range go.
    pub fn drop_tombstones(&mut self, range: BlockRange) -> Result<Outcome, ListFull> {
        self.edit(Whose::Own, range, |_, old| match old {
            Some(old) if !old.is_listed() => Step::Drop,
            _ => Step::Nothing,
        })
    }

    /// Takes in the list that `peer` sent, in which this node has the number `me`. Its tombstones drop suspect records
    /// about it; its own list becomes suspect records; its suspect records about this node enter the own list, except
    /// where a tombstone here says that they are settled. Goes on with the rest when a part finds no room.
    pub fn union(&mut self, peer: u8, me: u8, theirs: &[Record], now: u32) -> Union {
        let mut union = Union::default();
        let mut book = |result: Result<Outcome, ListFull>| match result {
            Ok(outcome) => union.changed += outcome.changed,
            Err(full) => union.full = Some(full),
        };
        let (settled, open): (Vec<&Record>, Vec<&Record>) =
            theirs.iter().partition(|record| !record.is_listed());
        for record in settled.iter().filter(|record| record.whose == Whose::Own) {
            book(self.drop_suspects(peer, record.range));
        }
        for record in open {
            if record.whose == Whose::Own {
                book(self.edit(Whose::Peer(peer), record.range, |part, old| {
                    Step::Keep(rules::about_peer(part, old, record, peer))
                }));
            } else if record.whose == Whose::Peer(me) {
                book(self.edit(Whose::Own, record.range, |part, old| match old {
                    Some(_) => Step::Nothing,
                    None => Step::Keep(rules::said_by_peer(part, record, now)),
                }));
            }
        }
        union
    }

    fn of(&self, whose: Whose) -> &[Record] {
        let first = self.records.partition_point(|record| record.whose < whose);
        let end = self.records.partition_point(|record| record.whose <= whose);
        &self.records[first..end]
    }

    fn positions(&self, whose: Whose, range: BlockRange) -> std::ops::Range<usize> {
        let first = self
            .records
            .partition_point(|record| (record.whose, record.range.end()) <= (whose, range.first()));
        let end = self
            .records
            .partition_point(|record| (record.whose, record.range.first()) < (whose, range.end()));
        first..end
    }

    fn recounted(mut self) -> Self {
        self.totals = Totals::of(&self.records);
        self
    }

    /// Cuts the records at the ends of the range, asks `decide` about each part of it (a record, or a gap), and puts
    /// the answers in their place; nothing changes when the result finds no room.
    fn edit(
        &mut self,
        whose: Whose,
        range: BlockRange,
        mut decide: impl FnMut(BlockRange, Option<&Record>) -> Step,
    ) -> Result<Outcome, ListFull> {
        let hit = self.positions(whose, range);
        // Neighbours take part, because the result may merge with them.
        let place = hit.start.saturating_sub(1)..(hit.end + 1).min(self.records.len());
        let mut fresh = self.records[place.start..hit.start].to_vec();
        let mut outcome = Outcome::default();
        let mut at = range.first();
        for old in &self.records[hit.clone()] {
            if let Some(gap) = span(at, old.range.first()) {
                step(decide(gap, None), gap, None, &mut fresh, &mut outcome);
            }
            let before = span(old.range.first(), range.first());
            fresh.extend(before.map(|range| Record { range, ..*old }));
            if let Some(part) = span(
                old.range.first().max(range.first()),
                old.range.end().min(range.end()),
            ) {
                let inside = Record { range: part, ..*old };
                step(
                    decide(part, Some(&inside)),
                    part,
                    Some(&inside),
                    &mut fresh,
                    &mut outcome,
                );
            }
            let behind = span(range.end(), old.range.end());
            fresh.extend(behind.map(|range| Record { range, ..*old }));
            at = old.range.end();
        }
        if let Some(gap) = span(at, range.end()) {
            step(decide(gap, None), gap, None, &mut fresh, &mut outcome);
        }
        fresh.extend_from_slice(&self.records[hit.end..place.end]);
        let fresh = merged(fresh);
        let old = Totals::of(&self.records[place.clone()]);
        let next = self.totals.replaced(old, Totals::of(&fresh));
        self.totals
            .check(next, self.own_ranges_max, self.own_blocks_max)?;
        self.records.splice(place, fresh);
        self.totals = next;
        Ok(outcome)
    }
}

/// What becomes of a part of an edited range.
enum Step {
    Keep(Record),
    Drop,
    Nothing,
    Refused,
}

fn step(step: Step, part: BlockRange, old: Option<&Record>, fresh: &mut Vec<Record>, outcome: &mut Outcome) {
    let blocks = u64::from(part.count());
    match step {
        Step::Keep(record) => {
            outcome.changed += if old == Some(&record) { 0 } else { blocks };
            fresh.push(record);
        }
        Step::Drop => outcome.changed += blocks,
        Step::Nothing => fresh.extend(old),
        Step::Refused => {
            outcome.refused += blocks;
            fresh.extend(old);
        }
    }
}

/// The blocks from `first` up to `end`, if there are any.
fn span(first: u64, end: u64) -> Option<BlockRange> {
    let count = u32::try_from(end.checked_sub(first)?).ok()?;
    BlockRange::new(first, count)
}

/// Joins neighbours about which the same is known.
fn merged(records: Vec<Record>) -> Vec<Record> {
    let mut result: Vec<Record> = Vec::with_capacity(records.len());
    for record in records {
        if let Some(last) = result.last_mut()
            && last.joins(&record)
            && let Some(range) = span(last.range.first(), record.range.end())
        {
            last.range = range;
            last.first_seen = last.first_seen.min(record.first_seen);
            last.last_seen = last.last_seen.max(record.last_seen);
            continue;
        }
        result.push(record);
    }
    result
}

impl std::fmt::Debug for RecordSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.records).finish()
    }
}
