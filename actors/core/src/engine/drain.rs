//! The end of a disk: its operations end or are abandoned (D6), and what would be owed is marked before the drain is reported.

use super::VolumeEffect;
use super::part::VolumePart;
use super::request::{Local, Net, Work};
use crate::bitmap::MarkReason;
use crate::disk::DiskIn;
use crate::identity::{ErrorNumber, Query, SnapshotNumber};
use crate::part::{Outbox, To};
use crate::snapshot::{Drain, Snapshot};
use crate::volume::machine::StateIn;
use mendblock_storage::units::BlockRange;

/// The drain that is ordered, and the one that was reported.
#[derive(Default)]
pub(super) struct Drained {
    wanted: Option<(SnapshotNumber, Drain)>,
    /// Life of the disk whose drain was reported.
    reported: Option<u64>,
    abandoned: Option<u64>,
    repeat: bool,
}

impl Drained {
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// A new state part has not heard the report.
    pub fn repeat(&mut self) {
        self.repeat = true;
    }
}

impl VolumePart {
    pub(super) fn snapshot_drain(&mut self, snapshot: &Snapshot, out: &mut Outbox<VolumeEffect>) {
        let life = snapshot.disk.as_ref().map(|disk| disk.attach_id.0);
        self.drained.wanted = match (snapshot.drain, life) {
            (Some(drain), Some(life)) if self.drained.reported != Some(life) || self.drained.repeat => {
                Some((snapshot.number, drain))
            }
            _ => None,
        };
        if let (Some((_, Drain::Abandon)), true) = (self.drained.wanted, self.drained.abandoned != life) {
            self.drained.abandoned = life;
            self.abandon(out);
        }
    }

    /// Requests stop waiting for the disk. Their buffers stay with the device until the kernel returns them (Q1).
    fn abandon(&mut self, out: &mut Outbox<VolumeEffect>) {
        out.send(To::Disk(DiskIn::Abandon));
        self.given_up.clear();
        self.let_go_of_adopted();
        let stuck: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, request)| request.local == Local::Pending)
            .map(|(&id, _)| id)
            .collect();
        for id in stuck {
            let Some(request) = self.requests.get_mut(&id) else {
                continue;
            };
            request.local = Local::Abandoned;
            if request.is_read() && request.is_client() {
                request.no_local = Some(ErrorNumber(0));
                self.restart(id);
            } else if matches!(request.net, Net::Pending(_)) {
                continue;
            } else {
                self.begin_settling_of(id);
            }
        }
    }

    /// What predecessors left in the kernel is a lock no longer: nobody hears of its end, and the disk is not opened again
    /// before that.
    fn let_go_of_adopted(&mut self) {
        self.given_up.append(&mut self.adopted);
    }

    /// A table that names them may come behind the order to abandon them.
    pub(super) fn let_go_if_abandoned(&mut self) {
        let abandoned = self.drained.abandoned;
        let is_abandoned = |snapshot: &std::sync::Arc<Snapshot>| {
            let life = snapshot.disk.as_ref().map(|disk| disk.attach_id.0);
            life.is_none() || life == abandoned
        };
        if self.snapshot.as_ref().is_some_and(is_abandoned) {
            self.let_go_of_adopted();
        }
    }

    /// Reports the drain once nothing of this node is in the kernel.
    pub(super) fn advance_drain(&mut self, out: &mut Outbox<VolumeEffect>) {
        let Some((snapshot, drain)) = self.drained.wanted else {
            return;
        };
        let in_kernel = self
            .requests
            .values()
            .any(|request| request.local == Local::Pending)
            || !self.adopted.is_empty();
        if drain == Drain::Wait && (in_kernel || self.recovery.is_collecting()) {
            return;
        }
        // Writes that are not retired: acknowledged by the disk, but not flushed; with the disk going, their bits are what
        // makes a clean activity log true (D9).
        let mut ranges: Vec<BlockRange> = self
            .unretired
            .values()
            .filter(|write| write.local_ok)
            .map(|write| write.range.touched_blocks())
            .collect();
        ranges.extend(
            self.requests
                .values()
                .filter(|request| request.local == Local::Done && request.work.writes())
                .filter_map(|request| {
                    request
                        .range()
                        .map(mendblock_storage::units::SectorRange::touched_blocks)
                }),
        );
        if !ranges.is_empty() {
            self.mark(ranges, MarkReason::Unflushed);
        }
        let life = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.disk.as_ref())
            .map(|disk| disk.attach_id.0);
        self.drained.reported = life;
        self.drained.repeat = false;
        self.drained.wanted = None;
        let mark = self.marks.last_sent();
        self.flush_marks(out);
        out.send(To::State(StateIn::Drained {
            snapshot,
            mark,
            complete: drain == Drain::Wait,
        }));
    }

    /// Marks go out before the message that names them.
    fn flush_marks(&mut self, out: &mut Outbox<VolumeEffect>) {
        let marks = std::mem::take(&mut self.batch.marks);
        if !marks.is_empty() {
            out.send(To::Bitmap(crate::bitmap::BitmapIn::Mark(marks)));
        }
    }

    /// There is no disk any more: its grants are void, its operations are history.
    pub(super) fn disk_gone(&mut self) {
        self.let_go_of_adopted();
        self.extents.void();
        self.unflushed.clear();
        self.flush_error = ErrorNumber(0);
        self.void_proofs();
        for write in self.unretired.values_mut() {
            write.in_log = None;
        }
        for request in self.requests.values_mut() {
            request.in_log = None;
        }
    }

    /// `Quiesce` waits for the writes that are under way now. Later ones do not count: under load there are always some.
    pub(super) fn begin_quiescing(&mut self, query: Query) {
        let under_way = self.requests.iter().filter(|(_, request)| {
            request.work.writes()
                && !matches!(request.work, Work::Fetch { .. })
                && request.stage != super::request::Stage::Waiting
        });
        let writes = under_way
            .map(|(&id, _)| id)
            .chain(self.unretired.keys().copied())
            .collect();
        self.quiescing.push((query, writes));
    }

    /// Answers `Quiesce` once its writes are retired.
    pub(super) fn advance_quiescing(&mut self, out: &mut Outbox<VolumeEffect>) {
        if self.quiescing.is_empty() || !self.recovery.is_settled() {
            return;
        }
        let mark = self.marks.last_sent();
        let (requests, unretired) = (&self.requests, &self.unretired);
        self.quiescing.retain_mut(|(query, writes)| {
            writes.retain(|id| requests.contains_key(id) || unretired.contains_key(id));
            if writes.is_empty() {
                out.send(To::State(StateIn::Quiesced { query: *query, mark }));
            }
            !writes.is_empty()
        });
    }
}
