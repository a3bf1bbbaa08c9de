//! Marks, clears, and the records that stand beside the bits.

use super::pages::{Owner, Waiting, is_uncovered};
use super::part::BitmapPart;
use super::{BadBlocks, BitmapEffect, ClearReason, Mark, MarkReason};
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, ErrorNumber};
use crate::part::{Outbox, To};
use crate::peer::{PeerFrame, PeerIn};
use crate::volume::state::DiskState;
use mendblock_net::wire::message::{Message, WireRecord};
use mendblock_storage::dirty::{BulkReason, Proof};
use mendblock_storage::health::{Cause, Change, Finding, GoodAt, Record, Removal, Whose};
use mendblock_storage::units::BlockRange;

/// Ranges of blocks that the peer lacks, published at the most: above it they are merged.
const MAX_LACKING: usize = 2048;

impl BitmapPart {
    fn peer(&self) -> Whose {
        Whose::Peer(self.configuration.peer_id)
    }

    /// A mark: bits at once, records by its reason, acknowledgement when both are durable.
    pub(super) fn mark(&mut self, mark: Mark, out: &mut Outbox<BitmapEffect>) {
        self.last_mark = self.last_mark.max(mark.number);
        let (whose, cause, error) = of_reason(mark.reason, self.peer());
        let mut recorded = false;
        for &range in &mark.ranges {
            if let (Some(whose), Some(cause)) = (whose, cause) {
                recorded |= self.record(range, whose, cause, out);
            }
            if mark.reason == MarkReason::FailedWrite {
                recorded |= self.answered_with_error(range);
            }
            self.set_bits(range);
        }
        self.pages.uncovered |= is_uncovered(mark.reason);
        let version = (recorded && self.health.content.is_some()).then(|| self.health.changed());
        self.pages.waiting.push(Waiting::new(
            Owner::Mark {
                number: mark.number,
                error,
            },
            version,
        ));
        if mark.reason == MarkReason::PeerLacks || recorded {
            self.lists_changed();
        }
    }

    /// Enters a range into a list; whether the other node has the content is judged by the bits before this error.
    fn record(
        &mut self,
        range: BlockRange,
        whose: Whose,
        cause: Cause,
        out: &mut Outbox<BitmapEffect>,
    ) -> bool {
        let set_before = self
            .loaded
            .as_ref()
            .is_some_and(|loaded| loaded.map.any_in(range));
        let good_at = if set_before { GoodAt::No } else { GoodAt::Yes };
        let finding = Finding {
            whose,
            cause,
            good_at,
            generation: self.current_generation(),
            now: self.now_wall as u32,
        };
        self.enter(range, finding, out)
    }

    fn enter(&mut self, range: BlockRange, finding: Finding, out: &mut Outbox<BitmapEffect>) -> bool {
        let Some(health) = self.health.content.as_mut() else {
            return false;
        };
        match health.records.mark(range, finding) {
            Ok(outcome) => {
                if outcome.changed > 0 {
                    out.fact(Fact::BadBlocks {
                        range,
                        change: "marked",
                        cause: format!("{:?} ({:?})", finding.cause, finding.whose),
                    });
                }
                outcome.changed > 0
            }
            Err(full) => {
                out.fact(Fact::Alert {
                    what: format!(
                        "the bad-block list is full ({full}): {range} is out of sync in the bitmap only"
                    ),
                });
                false
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

    /// The peer's tell: its blocks are suspect, and out of sync here.
    pub(super) fn record_tell(
        &mut self,
        connection: ConnectionNumber,
        number: u64,
        records: &[WireRecord],
        out: &mut Outbox<BitmapEffect>,
    ) {
        let mut recorded = false;
        for record in records {
            let cause = if record.cause == 0 {
                Cause::Read
            } else {
                Cause::MissedWrite
            };
            recorded |= self.record(record.range, self.peer(), cause, out);
            self.set_bits(record.range);
        }
        let version = (recorded && self.health.content.is_some()).then(|| self.health.changed());
        self.pages
            .waiting
            .push(Waiting::new(Owner::Tell { connection, number }, version));
        self.lists_changed();
    }

    /// Clears bits by proof (P6). A block of the own list only by a proof that it was read back; then it leaves the list.
    pub(super) fn clear(&mut self, range: BlockRange, reason: ClearReason, out: &mut Outbox<BitmapEffect>) {
        let generation = self.current_generation();
        if Self::clear_reason_reads_back(reason) {
            self.healed(range, out);
        }
        if reason == (ClearReason::Overwritten { both: false }) {
            return;
        }
        let proof = match reason {
            ClearReason::ResyncWritten | ClearReason::Overwritten { .. } => {
                Proof::read_back(generation, generation)
            }
            ClearReason::WrittenOnBoth => Proof::mirrored_write(generation, generation),
        };
        let parts = match (reason, self.records()) {
            (ClearReason::WrittenOnBoth, Some(records)) => self.without_suspects(records.unlisted(range)),
            _ => vec![range],
        };
        let (Some(loaded), Some(proof)) = (self.loaded.as_mut(), proof) else {
            return;
        };
        for part in parts {
            if loaded.map.clear(part, proof.clone()) > 0 {
                self.pages.cleared = true;
            }
        }
    }

    /// Blocks that were written from a good copy and read back leave the list; the peer drops its suspect record.
    fn healed(&mut self, range: BlockRange, out: &mut Outbox<BitmapEffect>) {
        let (generation, now) = (self.current_generation(), self.now_wall as u32);
        let Some(health) = self.health.content.as_mut() else {
            return;
        };
        if !health.records.is_bad(range) {
            return;
        }
        let listed: Vec<BlockRange> = health
            .records
            .overlapping(Whose::Own, range)
            .iter()
            .filter(|record| record.is_listed())
            .filter_map(|record| cut(record.range, range))
            .collect();
        for &part in &listed {
            if health
                .records
                .remove(part, Removal::ReadBack, generation, now)
                .is_ok()
            {
                out.fact(Fact::BadBlocks {
                    range: part,
                    change: "healed",
                    cause: "rewritten and read back".to_owned(),
                });
            }
        }
        self.health.changed();
        self.lists_changed();
        self.send(Message::Cleared { ranges: listed }, out);
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
        self.health.changed();
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

    /// The list was lost (9.3): every set bit counts as own-bad.
    pub(super) fn every_bit_is_suspect(&mut self, out: &mut Outbox<BitmapEffect>) {
        let runs: Vec<BlockRange> = self
            .loaded
            .as_ref()
            .map(|loaded| loaded.map.runs().collect())
            .unwrap_or_default();
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

    pub(super) fn without_peer_bad(&self, run: BlockRange) -> Vec<BlockRange> {
        self.without_suspects(vec![run])
    }

    fn without_suspects(&self, mut parts: Vec<BlockRange>) -> Vec<BlockRange> {
        for bad in self.peer_bad_ranges() {
            parts = parts.into_iter().flat_map(|part| minus(part, bad)).collect();
        }
        parts
    }

    /// What the volume part must not read here, and not from the peer.
    pub(super) fn picture(&self) -> BadBlocks {
        let listed = |record: &&Record| record.is_listed();
        let own = self
            .records()
            .map(|records| records.own().filter(listed).map(|record| record.range).collect())
            .unwrap_or_default();
        let mut peer = self.peer_bad_ranges();
        let both_up_to_date = self.snapshot.as_ref().is_some_and(|snapshot| {
            snapshot.vector.disk == DiskState::UpToDate && snapshot.vector.peer_disk == DiskState::UpToDate
        });
        if let (true, Some(loaded)) = (both_up_to_date, self.loaded.as_ref()) {
            let own_ranges: &Vec<BlockRange> = &own;
            peer.extend(
                loaded
                    .map
                    .runs()
                    .take(MAX_LACKING)
                    .filter(|run| !own_ranges.iter().any(|bad| bad.overlaps(*run))),
            );
        }
        peer.sort();
        BadBlocks {
            own,
            peer: joined(peer),
        }
    }
}

fn of_reason(reason: MarkReason, peer: Whose) -> (Option<Whose>, Option<Cause>, Option<ErrorNumber>) {
    match reason {
        MarkReason::ReadError { error } => (Some(Whose::Own), Some(Cause::Read), Some(error)),
        // A write that is not on this disk although its client may be told ok: the same as one that was missed.
        MarkReason::WriteError { error } => (Some(Whose::Own), Some(Cause::MissedWrite), Some(error)),
        MarkReason::FlushError { error } => (None, None, Some(error)),
        MarkReason::PeerFailed => (Some(peer), Some(Cause::MissedWrite), None),
        MarkReason::MissedWrite => (Some(Whose::Own), Some(Cause::MissedWrite), None),
        MarkReason::PeerLacks | MarkReason::FailedWrite | MarkReason::OnlyCopy => (None, None, None),
    }
}

fn cut(range: BlockRange, by: BlockRange) -> Option<BlockRange> {
    let first = range.first().max(by.first());
    let end = range.end().min(by.end());
    BlockRange::new(first, u32::try_from(end.checked_sub(first)?).ok()?)
}

fn minus(range: BlockRange, without: BlockRange) -> Vec<BlockRange> {
    let span = |first: u64, end: u64| BlockRange::new(first, u32::try_from(end.checked_sub(first)?).ok()?);
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
fn joined(sorted: Vec<BlockRange>) -> Vec<BlockRange> {
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
