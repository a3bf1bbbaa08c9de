//! Completions of the own disk (D1: every failed read is recorded in the step in which it is seen, in every disk state) and
//! marks that have ended.

use super::VolumeEffect;
use super::part::{Submitted, VolumePart};
use super::request::{Local, Net, Origin, Proof, Request, Stage, Work};
use crate::bitmap::{MarkOutcome, MarkReason};
use crate::disk::{DataCompletion, DataKind};
use crate::identity::{ErrorNumber, MarkNumber, OperationId};
use crate::part::Outbox;
use crate::planted::{Fault, is_planted};
use mendblock_storage::units::{BlockRange, EXTENT_BLOCKS, SectorRange};

impl VolumePart {
    pub(super) fn completed(&mut self, completion: DataCompletion, out: &mut Outbox<VolumeEffect>) {
        if completion.id.generation != self.generation {
            return self.adopted_completed(completion.id, &completion.result.as_ref().err().copied());
        }
        let Some(Submitted { request: id, kind }) = self.operations.remove(&completion.id.request) else {
            return;
        };
        match completion.result {
            Ok(data) => {
                let live = self
                    .requests
                    .get_mut(&id)
                    .filter(|request| request.local == Local::Pending);
                let Some(request) = live else { return };
                request.local = Local::Done;
                if data.is_some() {
                    request.data = data;
                }
                self.local_done(id, out);
            }
            Err((number, errno)) => {
                self.note_error(number, errno, &kind, id);
                let live = self
                    .requests
                    .get_mut(&id)
                    .filter(|request| request.local == Local::Pending);
                let Some(request) = live else { return };
                request.local = Local::Failed(number, errno);
                self.news.failed(number);
                self.local_failed(id, out);
            }
        }
    }

    /// D1: bits and records, whatever becomes of the request (also one that was abandoned: Q4).
    fn note_error(&mut self, error: ErrorNumber, errno: i32, kind: &DataKind, id: u64) {
        if !is_of_the_medium(error, errno) {
            return self.note_missed(kind, id);
        }
        match kind {
            DataKind::Read { .. } if error.0 > 1 && is_planted(Fault::ForgetSecondBadBlock) => {}
            DataKind::Read { range } => {
                self.mark(vec![range.touched_blocks()], MarkReason::ReadError { error });
                let probe = self
                    .requests
                    .get(&id)
                    .is_some_and(|request| request.origin == Origin::Localise);
                self.localisation.note(range.touched_blocks(), error, probe);
            }
            DataKind::Write { range, .. } | DataKind::WriteZeroes { range, .. } => {
                self.mark(vec![range.touched_blocks()], MarkReason::WriteError { error });
            }
            DataKind::Flush => {
                // Which of the unflushed writes were lost is not known, and a later flush proves nothing about them (3.5).
                self.flush_error = error;
                let mut extents = std::mem::take(&mut self.unflushed);
                if let Some(request) = self.requests.get_mut(&id) {
                    extents.extend(std::mem::take(&mut request.flushing));
                }
                let sectors = self.sectors();
                let ranges: Vec<BlockRange> = extents
                    .into_iter()
                    .filter_map(|extent| extent_blocks(extent, sectors))
                    .collect();
                self.mark(ranges, MarkReason::FlushError { error });
            }
        }
    }

    /// A client's write that the disk did not take, because it was given up meanwhile (or refused the alignment). The peer has
    /// it, sent before the word of the failed disk: it does not know that this copy lacks it, and the log will be clean.
    fn note_missed(&mut self, kind: &DataKind, id: u64) {
        let is_sent = |request: &Request| request.is_client() && request.net != Net::None;
        if !self.requests.get(&id).is_some_and(is_sent) || is_planted(Fault::ForgetMissedWrite) {
            return;
        }
        if let DataKind::Write { range, .. } | DataKind::WriteZeroes { range, .. } = kind {
            self.mark(vec![range.touched_blocks()], MarkReason::MissedWrite);
        }
    }

    fn local_done(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        if let Work::Verify { .. } = request.work {
            return self.verify_step(id);
        }
        if let (Origin::Fetch { .. }, Work::Fetch { .. }) = (request.origin, &request.work) {
            return self.fetch_written(id, out);
        }
        self.prove(id);
    }

    fn local_failed(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        if let (Local::Failed(ErrorNumber(0), _), Proof::Flush(_) | Proof::Read(_)) =
            (request.local, request.proof)
        {
            return self.proof_broken_off(id);
        }
        request.proof = Proof::None;
        if request.is_read() && request.is_client() {
            // The read goes to the peer at once (P4), never to this disk again.
            if let Local::Failed(number, _) = request.local {
                request.no_local = Some(number);
            }
            self.restart(id);
            return self.try_start(id, out);
        }
        self.ended_parts(id);
        if self
            .requests
            .get(&id)
            .is_some_and(|request| request.stage == Stage::Running)
        {
            // Its net part is still under way.
            return;
        }
        self.begin_settling_of(id);
    }

    /// An operation of a predecessor left the kernel.
    fn adopted_completed(&mut self, id: OperationId, error: &Option<(ErrorNumber, i32)>) {
        let given_up = self.given_up.remove(&id);
        let Some((range, writes)) = self.adopted.remove(&id).or(given_up) else {
            return;
        };
        let (Some((error, _)), Some(range)) = (error.filter(|(number, _)| number.0 != 0), range) else {
            return;
        };
        let reason = if writes {
            MarkReason::WriteError { error }
        } else {
            MarkReason::ReadError { error }
        };
        self.mark(vec![range.touched_blocks()], reason);
    }

    /// A mark ended: what waited for it is looked at again by the end of the step.
    pub(super) fn mark_ended(
        &mut self,
        number: MarkNumber,
        outcome: MarkOutcome,
        _out: &mut Outbox<VolumeEffect>,
    ) {
        let Some(mark) = self.marks.end(number) else {
            return;
        };
        if mark.reason == MarkReason::PeerLacks
            && outcome == MarkOutcome::Durable
            && self.connection().is_none()
        {
            self.marks.remember(&mark);
        }
    }
}

/// Not of one that was never submitted (no disk), nor of our own fault of alignment: they say nothing about the medium.
pub(super) fn is_of_the_medium(error: ErrorNumber, errno: i32) -> bool {
    error.0 != 0 && errno != 22
}

/// The blocks of an extent, cut at the end of the volume.
pub(super) fn extent_blocks(extent: u32, sectors: u64) -> Option<BlockRange> {
    let first = u64::from(extent) * EXTENT_BLOCKS;
    let end = (first + EXTENT_BLOCKS).min(mendblock_storage::units::blocks_of(sectors));
    BlockRange::new(first, u32::try_from(end.checked_sub(first)?).ok()?)
}

/// Whether a range lies in the volume.
pub(super) fn inside(range: SectorRange, sectors: u64) -> bool {
    range.end() <= sectors
}
