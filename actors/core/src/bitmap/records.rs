//! Marks, clears, and the records that stand beside the bits.

use super::pages::{Owner, Waiting, is_uncovered};
use super::part::BitmapPart;
use super::{BadBlocks, BitmapEffect, ClearReason, Mark, MarkReason};
use crate::fact::Fact;
use crate::identity::{AttachId, ConnectionNumber, ErrorNumber};
use crate::part::{Outbox, To};
use crate::peer::{PeerFrame, PeerIn};
use crate::snapshot::Snapshot;
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::message::{Message, WireRecord};
use mendblock_storage::dirty::{BulkReason, DirtyMap, Proof};
use mendblock_storage::health::{BlockState, Cause, Change, Finding, GoodAt, Record, Removal, Whose};
use mendblock_storage::units::BlockRange;
use std::sync::Arc;

/// Ranges of blocks that the peer lacks, published at the most: above it they are merged.
const MAX_LACKING: usize = 2048;

impl BitmapPart {
    fn peer(&self) -> Whose {
        Whose::Peer(self.configuration.peer_id)
    }

    /// A mark: bits at once, records by its reason, acknowledgement when both are durable.
    pub(super) fn mark(&mut self, mark: Mark, out: &mut Outbox<BitmapEffect>) {
        self.last_mark = self.last_mark.max(mark.number);
        if let MarkReason::ReadBack { attach } = mark.reason {
            return self.read_back(&mark, attach, out);
        }
        let (whose, cause, error) = of_reason(mark.reason, self.peer());
        // A mirrored write whose sender has no UpToDate disk is nowhere else.
        let nowhere = mark.reason == MarkReason::MissedWrite && !self.peer_is_up_to_date();
        let in_sync = if nowhere { GoodAt::No } else { GoodAt::Yes };
        let mut recorded = Recorded::Not;
        for &range in &mark.ranges {
            if let (Some(whose), Some(cause)) = (whose, cause) {
                recorded = recorded.max(self.record(range, whose, cause, in_sync, out));
            }
            if mark.reason == MarkReason::FailedWrite && self.answered_with_error(range) {
                recorded = recorded.max(Recorded::Yes);
            }
            let only_here = matches!(mark.reason, MarkReason::PeerLacks | MarkReason::OnlyCopy);
            if only_here && self.peer_is_behind(range) {
                recorded = recorded.max(Recorded::Yes);
            }
            self.set_bits(range);
        }
        self.pages.uncovered |= is_uncovered(mark.reason);
        let owner = Owner::Mark {
            number: mark.number,
            error,
        };
        self.wait(owner, recorded);
        if mark.reason == MarkReason::PeerLacks || recorded != Recorded::Not {
            self.lists_changed();
        }
    }

    fn wait(&mut self, owner: Owner, recorded: Recorded) {
        let waiting = self.waiting(owner, recorded);
        self.pages.waiting.push(waiting);
    }

    fn waiting(&mut self, owner: Owner, recorded: Recorded) -> Waiting {
        let version =
            (recorded != Recorded::Not && self.health.content.is_some()).then(|| self.health.changed());
        let mut waiting = Waiting::new(owner, version);
        waiting.record_lost = recorded == Recorded::Lost;
        waiting
    }

    /// Overwritten and read back: off the list. Acknowledged when a crash cannot bring the entry back, for the write is answered then
    /// and, alone, a listed block has no copy that may be read.
    fn read_back(&mut self, mark: &Mark, attach: AttachId, out: &mut Outbox<BitmapEffect>) {
        let same_disk = |health: &mendblock_storage::health::Health| health.attach_id == attach.0;
        let mut recorded = Recorded::Not;
        for &range in &mark.ranges {
            if self.health.content.as_ref().is_some_and(same_disk)
                && self.left_list(range, Removal::ReadBack, out)
            {
                recorded = Recorded::Yes;
            }
        }
        let owner = Owner::Mark {
            number: mark.number,
            error: None,
        };
        let mut waiting = self.waiting(owner, recorded);
        // No page is waited for: no bit changes.
        waiting.bits = true;
        self.pages.waiting.push(waiting);
    }

    fn peer_is_up_to_date(&self) -> bool {
        let up_to_date = |snapshot: &Arc<Snapshot>| snapshot.vector.peer_disk == DiskState::UpToDate;
        self.snapshot.as_ref().is_some_and(up_to_date)
    }

    /// Enters a range into a list; whether the other node has the content is judged block by block (9.1), by the bits before
    /// this error; `in_sync`: what a clear bit says; unknown: no bit says anything.
    fn record(
        &mut self,
        range: BlockRange,
        whose: Whose,
        cause: Cause,
        in_sync: GoodAt,
        out: &mut Outbox<BitmapEffect>,
    ) -> Recorded {
        let mut recorded = Recorded::Not;
        // Of an own block that the peer has, the bit says only that this copy is bad: so it is when the same write is noted twice,
        // as failed by the disk and as missed.
        let at_peer = match whose {
            Whose::Own if in_sync == GoodAt::Yes => self.own_and_good_at_peer(range),
            _ => Vec::new(),
        };
        for (part, set) in self.parts(range) {
            let mut enter = |part, good_at| {
                let finding = Finding {
                    whose,
                    cause,
                    good_at,
                    generation: self.current_generation(),
                    now: self.now_wall as u32,
                };
                recorded = recorded.max(self.enter(part, finding, out));
            };
            if !set || in_sync == GoodAt::Unknown {
                enter(part, in_sync);
                continue;
            }
            for part in at_peer.iter().filter_map(|&held| cut(held, part)) {
                enter(part, GoodAt::Yes);
            }
            for part in without(vec![part], &at_peer) {
                enter(part, GoodAt::No);
            }
        }
        recorded
    }

    /// Own bad blocks of the range whose current content the peer has.
    fn own_and_good_at_peer(&self, range: BlockRange) -> Vec<BlockRange> {
        let Some(records) = self.records() else {
            return Vec::new();
        };
        records
            .overlapping(Whose::Own, range)
            .iter()
            .filter(|record| record.is_listed() && record.good_at == GoodAt::Yes)
            .filter_map(|record| cut(record.range, range))
            .collect()
    }

    /// The range, cut into parts of which all bits are set, or none.
    fn parts(&self, range: BlockRange) -> Vec<(BlockRange, bool)> {
        let Some(loaded) = self.loaded.as_ref() else {
            return vec![(range, false)];
        };
        let (mut parts, mut at) = (Vec::new(), range.first());
        while let Some(rest) = span(at, range.end()) {
            let run = loaded
                .map
                .next_run(at, rest.count())
                .and_then(|run| cut(run, range));
            let Some(run) = run else {
                parts.push((rest, false));
                break;
            };
            parts.extend(span(at, run.first()).map(|clear| (clear, false)));
            parts.push((run, true));
            at = run.end();
        }
        parts
    }

    fn enter(&mut self, range: BlockRange, finding: Finding, out: &mut Outbox<BitmapEffect>) -> Recorded {
        let Some(health) = self.health.content.as_mut() else {
            return Recorded::Lost;
        };
        match health.records.mark(range, finding) {
            Ok(outcome) if outcome.changed == 0 => Recorded::Not,
            Ok(_) => {
                out.fact(Fact::BadBlocks {
                    range,
                    change: "marked",
                    cause: format!("{:?} ({:?})", finding.cause, finding.whose),
                });
                Recorded::Yes
            }
            Err(full) => {
                out.fact(Fact::Alert {
                    what: format!(
                        "the bad-block list is full ({full}): {range} is out of sync in the bitmap only"
                    ),
                });
                if finding.whose == Whose::Own && !std::mem::replace(&mut self.health.too_many_bad, true) {
                    out.send(To::State(StateIn::TooManyBad));
                }
                Recorded::Lost
            }
        }
    }

    fn answered_with_error(&mut self, range: BlockRange) -> bool {
        let update = |health: &mut mendblock_storage::health::Health| {
            health
                .records
                .update(Whose::Own, range, Change::AnsweredWithError)
        };
        self.health
            .content
            .as_mut()
            .is_some_and(|health| update(health).is_ok_and(|outcome| outcome.changed > 0))
    }

    /// A write to bad blocks that the peer does not get: its copy of them is no good any more, or it would be served (P2).
    fn peer_is_behind(&mut self, range: BlockRange) -> bool {
        let good = self.own_and_good_at_peer(range);
        let Some(health) = self.health.content.as_mut() else {
            return false;
        };
        let mut update = |part: BlockRange| {
            let change = Change::GoodAt(GoodAt::No);
            let updated = health.records.update(Whose::Own, part, change);
            updated.is_ok_and(|outcome| outcome.changed > 0)
        };
        good.into_iter()
            .fold(false, |changed, part| update(part) | changed)
    }

    /// The peer's tell: its blocks are suspect, and out of sync here.
    pub(super) fn record_tell(
        &mut self,
        connection: ConnectionNumber,
        number: u64,
        records: &[WireRecord],
        out: &mut Outbox<BitmapEffect>,
    ) {
        let in_sync = self.clear_bit_says();
        let mut recorded = Recorded::Not;
        for record in records {
            let cause = if record.cause == 0 {
                Cause::Read
            } else {
                Cause::MissedWrite
            };
            recorded = recorded.max(self.record(record.range, self.peer(), cause, in_sync, out));
            self.set_bits(record.range);
        }
        self.wait(Owner::Tell { connection, number }, recorded);
        self.lists_changed();
    }

    /// What a clear bit says of the own copy of a block that the peer cannot read. Errors of the time without a connection are
    /// told on the next one: as long as the bitmaps are not exchanged this node does not know what the peer wrote alone, and old
    /// data would be kept, and served, as the good copy.
    fn clear_bit_says(&self) -> GoodAt {
        let is_current = self.snapshot.as_ref().is_some_and(|snapshot| {
            let vector = &snapshot.vector;
            let is_target = matches!(
                vector.connection,
                ConnectionState::WFSyncUUID | ConnectionState::SyncTarget | ConnectionState::PausedSyncT
            );
            snapshot.connection.is_some() && (vector.disk == DiskState::UpToDate || is_target)
        });
        if is_current { GoodAt::Yes } else { GoodAt::Unknown }
    }

    /// Clears bits by proof (P6). A block of the own list only by a proof that it was read back; then it leaves the list.
    pub(super) fn clear(&mut self, range: BlockRange, reason: ClearReason, out: &mut Outbox<BitmapEffect>) {
        let generation = self.current_generation();
        match reason {
            ClearReason::ResyncWritten => {
                self.left_list(range, Removal::ReadBack, out);
            }
            ClearReason::ReadTwice => {
                self.left_list(range, Removal::ReadTwice, out);
                return;
            }
            ClearReason::Overwritten | ClearReason::PeerWrote | ClearReason::WrittenOnBoth => {}
        }
        let proof = match reason {
            ClearReason::WrittenOnBoth => Proof::mirrored_write(generation, generation),
            _ => Proof::read_back(generation, generation),
        };
        let parts = match (reason, self.records()) {
            // What went bad here since, or at the peer (its word may have overtaken this proof), keeps its bit.
            (ClearReason::WrittenOnBoth | ClearReason::Overwritten, Some(records)) => {
                self.without_suspects(records.unlisted(range))
            }
            (ClearReason::PeerWrote, Some(_)) => without(vec![range], &self.own_bad_ranges()),
            _ => vec![range],
        };
        let (Some(loaded), Some(proof)) = (self.loaded.as_mut(), proof) else {
            return;
        };
        for part in parts {
            if loaded.map.clear(part, proof.clone()) > 0 {
                self.pages.cleared = true;
                self.publish |= self
                    .published
                    .as_ref()
                    .is_some_and(|picture| !picture.peer.is_empty());
            }
        }
    }

    /// Blocks leave the list (whether any did), as far as the proof is enough for their records; the peer drops its suspect records of them.
    fn left_list(&mut self, range: BlockRange, proof: Removal, out: &mut Outbox<BitmapEffect>) -> bool {
        let (generation, now) = (self.current_generation(), self.now_wall as u32);
        let Some(health) = self.health.content.as_mut() else {
            return false;
        };
        if !health.records.is_bad(range) {
            return false;
        }
        let mut left: Vec<BlockRange> = health
            .records
            .overlapping(Whose::Own, range)
            .iter()
            .filter(|record| record.is_listed())
            .filter_map(|record| cut(record.range, range))
            .collect();
        // What the proof is not enough for stays on the list, and the peer must go on to know it.
        left.retain(|&part| {
            let removed = health.records.remove(part, proof, generation, now);
            removed.is_ok_and(|outcome| outcome.refused == 0)
        });
        if left.is_empty() {
            return false;
        }
        let cause = match proof {
            Removal::ReadTwice => "read twice",
            _ => "rewritten and read back",
        };
        for &range in &left {
            out.fact(Fact::BadBlocks {
                range,
                change: "healed",
                cause: cause.to_owned(),
            });
        }
        self.lists_changed();
        out.send(To::State(StateIn::LeftList { ranges: left.clone() }));
        self.tell_healed(left);
        true
    }

    pub(super) fn send(&self, message: Message, out: &mut Outbox<BitmapEffect>) {
        if let Some(connection) = self.connection() {
            self.send_on(connection, message, None, out);
        }
    }

    pub(super) fn send_on(
        &self,
        connection: ConnectionNumber,
        message: Message,
        payload: Option<mendblock_storage::buffer::Buffer>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        let frames = vec![PeerFrame { message, payload }];
        out.send(To::Peer(PeerIn::Send {
            connection,
            frames,
            after: crate::identity::TellNumber(0),
        }));
    }

    /// Bulk clear, with its reason for the audit; blocks of the lists keep their bits.
    pub(super) fn clear_all(&mut self, reason: &str, out: &mut Outbox<BitmapEffect>) {
        let Some(loaded) = self.loaded.as_mut() else {
            return;
        };
        let bits = loaded.map.clear_all(Proof::bulk(BulkReason::PeerFinishedResync));
        self.pages.cleared = true;
        self.pages.lazily = true;
        out.fact(Fact::BulkClear {
            bits,
            reason: reason.to_owned(),
        });
        self.bits_of_lists();
    }

    /// Target: the source cannot read these blocks; the own old copy must not be served either.
    pub(super) fn lost(&mut self, ranges: &[BlockRange], out: &mut Outbox<BitmapEffect>) {
        let generation = self.current_generation();
        for &range in ranges {
            let finding = Finding {
                whose: Whose::Own,
                cause: Cause::PeerSaid,
                good_at: GoodAt::No,
                generation,
                now: self.now_wall as u32,
            };
            self.enter(range, finding, out);
            if let Some(health) = self.health.content.as_mut()
                && health.records.update(Whose::Own, range, Change::Lost).is_ok()
            {
                out.fact(Fact::BadBlocks {
                    range,
                    change: "lost",
                    cause: "no good copy: the source cannot read it".to_owned(),
                });
            }
            self.set_bits(range);
        }
        if self.health.content.is_some() {
            self.health.lost();
        }
        self.lists_changed();
    }

    /// Every listed block has its bit (I3).
    pub(super) fn bits_of_lists(&mut self) {
        let ranges: Vec<BlockRange> = self
            .records()
            .map(|records| {
                records
                    .records()
                    .iter()
                    .filter(|record| record.is_listed())
                    .map(|record| record.range)
                    .collect()
            })
            .unwrap_or_default();
        for range in ranges {
            self.set_bits(range);
        }
    }

    /// The list was lost (9.3): each bit that was set on the disk counts as own-bad, as soon as there is a file of this disk.
    pub(super) fn lost_list_is_suspect(&mut self, out: &mut Outbox<BitmapEffect>) {
        let device = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.disk.as_ref())
            .map(|disk| disk.device_id);
        let file = self.health.content.as_ref().map(|health| health.device_id);
        if self.loaded.is_none() || file.is_none() || file != device {
            return;
        }
        let Some(runs) = self.health.lost_list.take() else {
            return;
        };
        let generation = self.current_generation();
        for range in runs {
            let finding = Finding {
                whose: Whose::Own,
                cause: Cause::PeerSaid,
                good_at: GoodAt::Unknown,
                generation,
                now: self.now_wall as u32,
            };
            self.enter(range, finding, out);
        }
        self.health.changed();
    }

    /// Blocks whose own copy is known to be bad.
    fn own_bad_ranges(&self) -> Vec<BlockRange> {
        let listed = |record: &&Record| record.is_listed();
        self.records()
            .map(|records| records.own().filter(listed).map(|record| record.range).collect())
            .unwrap_or_default()
    }

    /// Blocks whose copy at the peer is known to be bad.
    pub(super) fn peer_bad_ranges(&self) -> Vec<BlockRange> {
        self.records()
            .map(|records| {
                records
                    .suspects(self.configuration.peer_id)
                    .filter(|record| record.is_listed())
                    .map(|record| record.range)
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Blocks that a resync does not ask for: bad at the peer while the own copy is good, or lost. A suspect block that is not good
    /// here is asked for: the source alone knows whether it is lost, and lost blocks must be on the own list before the end.
    pub(super) fn unfetchable(&self) -> Vec<BlockRange> {
        let Some(records) = self.records() else {
            return Vec::new();
        };
        let good_here = |record: &&Record| record.is_listed() && record.good_at == GoodAt::Yes;
        let is_lost = |record: &&Record| record.state == BlockState::Lost;
        let suspects = records.suspects(self.configuration.peer_id).filter(good_here);
        let mut ranges: Vec<BlockRange> = suspects
            .chain(records.own().filter(is_lost))
            .map(|record| record.range)
            .collect();
        ranges.sort();
        joined(ranges)
    }

    fn without_suspects(&self, parts: Vec<BlockRange>) -> Vec<BlockRange> {
        without(parts, &self.peer_bad_ranges())
    }

    /// What the volume part must not read here, and not from the peer.
    pub(super) fn picture(&self) -> BadBlocks {
        let own = self.own_bad_ranges();
        let mut peer = self.peer_bad_ranges();
        let both_up_to_date = self.snapshot.as_ref().is_some_and(|snapshot| {
            snapshot.vector.disk == DiskState::UpToDate && snapshot.vector.peer_disk == DiskState::UpToDate
        });
        if let (true, Some(loaded)) = (both_up_to_date, self.loaded.as_ref()) {
            // A bit beside an own record whose content the peer has says that this copy is bad, not the peer's.
            let good = |record: &&Record| record.is_listed() && record.good_at == GoodAt::Yes;
            let good: Vec<BlockRange> = self
                .records()
                .map(|records| records.own().filter(good).map(|record| record.range).collect())
                .unwrap_or_default();
            for run in lacking(&loaded.map) {
                peer.extend(without(vec![run], &good));
            }
        }
        peer.sort();
        BadBlocks {
            own,
            peer: joined(peer),
        }
    }
}

/// What became of the records of a mark; the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Recorded {
    /// Nothing had to be changed.
    Not,
    /// In memory, to be written.
    Yes,
    /// No file, or no room.
    Lost,
}

fn of_reason(reason: MarkReason, peer: Whose) -> (Option<Whose>, Option<Cause>, Option<ErrorNumber>) {
    match reason {
        MarkReason::ReadError { error } => (Some(Whose::Own), Some(Cause::Read), Some(error)),
        // A write that is not on this disk although its client may be told ok: the same as one that was missed.
        MarkReason::WriteError { error } => (Some(Whose::Own), Some(Cause::MissedWrite), Some(error)),
        MarkReason::FlushError { error } => (None, None, Some(error)),
        MarkReason::PeerFailed => (Some(peer), Some(Cause::MissedWrite), None),
        MarkReason::MissedWrite => (Some(Whose::Own), Some(Cause::MissedWrite), None),
        MarkReason::PeerLacks
        | MarkReason::FailedWrite
        | MarkReason::Unflushed
        | MarkReason::OnlyCopy
        | MarkReason::ReadBack { .. } => (None, None, None),
    }
}

fn cut(range: BlockRange, by: BlockRange) -> Option<BlockRange> {
    let first = range.first().max(by.first());
    let end = range.end().min(by.end());
    BlockRange::new(first, u32::try_from(end.checked_sub(first)?).ok()?)
}

/// Runs of set bits; above [`MAX_LACKING`] with what lies between them.
fn lacking(map: &DirtyMap) -> Vec<BlockRange> {
    let mut runs: Vec<BlockRange> = map.runs().take(MAX_LACKING).collect();
    let mut at = runs.last().map_or(0, |last| last.end());
    let mut rest = map.next_set(at);
    while let Some(first) = rest {
        at = first.saturating_add(u64::from(u32::MAX)).min(map.bits());
        runs.extend(span(first, at));
        rest = map.next_set(at);
    }
    runs
}

fn span(first: u64, end: u64) -> Option<BlockRange> {
    BlockRange::new(first, u32::try_from(end.checked_sub(first)?).ok()?)
}

pub(crate) fn without(mut parts: Vec<BlockRange>, cut: &[BlockRange]) -> Vec<BlockRange> {
    for &range in cut {
        parts = parts.into_iter().flat_map(|part| minus(part, range)).collect();
    }
    parts
}

fn minus(range: BlockRange, without: BlockRange) -> Vec<BlockRange> {
    if !range.overlaps(without) {
        return vec![range];
    }
    [
        span(range.first(), without.first().max(range.first())),
        span(without.end().min(range.end()), range.end()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Joins sorted ranges that touch or overlap.
pub(super) fn joined(sorted: Vec<BlockRange>) -> Vec<BlockRange> {
    let mut result: Vec<BlockRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match result.last_mut() {
            Some(last) if range.first() <= last.end() => {
                let end = last.end().max(range.end());
                if let Some(wider) = u32::try_from(end - last.first())
                    .ok()
                    .and_then(|count| BlockRange::new(last.first(), count))
                {
                    *last = wider;
                }
            }
            _ => result.push(range),
        }
    }
    result
}
