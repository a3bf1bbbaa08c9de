//! Localisation: a failed read of several blocks marks them all (D1). Where the disk stays in use all the same, because it holds
//! the last good copy, its blocks are then read one by one: one that reads twice, and the same, leaves the bad-block list. Its bit
//! stays. Until that is known, the peer's reads of these blocks are answered "not now" rather than "lost".

use super::VolumeEffect;
use super::part::VolumePart;
use super::path;
use super::request::{Local, Origin, Request, Work};
use crate::bitmap::ClearReason;
use crate::disk::DataKind;
use crate::identity::ErrorNumber;
use crate::part::{Instant, Outbox};
use crate::snapshot::Snapshot;
use crate::volume::state::DiskState;
use mendblock_storage::units::{BlockRange, SectorRange};
use std::collections::VecDeque;

/// Failed reads whose blocks are to be told apart.
#[derive(Debug, Default)]
pub(super) struct Localisation {
    /// Not begun; each with its error, which the state judges first.
    waiting: VecDeque<(BlockRange, ErrorNumber)>,
    /// What is left of the one that runs; its first block is being read.
    running: Option<BlockRange>,
    /// Another read of that block failed meanwhile.
    spoiled: bool,
    /// The one that ran, and the last of its blocks that left the list.
    told: Option<(BlockRange, BlockRange)>,
    /// The last one has ended, but the picture of bad blocks may still be the old one; not longer than this.
    until: Option<Instant>,
}

/// The bitmap part may refuse what it is told; its picture is awaited for this time, ms.
const PICTURE_MS: u64 = 1000;

impl Localisation {
    /// A read of these blocks failed. `probe`: one of this localisation itself.
    pub fn note(&mut self, blocks: BlockRange, error: ErrorNumber, probe: bool) {
        let first = self.running.map(|range| BlockRange::single(range.first()));
        self.spoiled |= first.is_some_and(|first| first.overlaps(blocks));
        if !probe && blocks.count() > 1 {
            self.waiting.push_back((blocks, error));
        }
    }

    /// Whether it is not known yet which blocks of the range are bad.
    pub fn is_open(&self, range: SectorRange) -> bool {
        let blocks = range.touched_blocks();
        let waiting = self.waiting.iter().map(|(range, _)| *range);
        let told = self.told.map(|(range, _)| range);
        waiting
            .chain(self.running)
            .chain(told)
            .any(|range| range.overlaps(blocks))
    }

    /// When it no longer waits for a picture.
    pub fn wake_at(&self) -> Option<Instant> {
        self.until
    }
}

/// The disk is kept although it failed a read: it is the last good copy.
fn keeps_disk(snapshot: &Snapshot) -> bool {
    snapshot.vector.disk == DiskState::UpToDate && path::disk_usable(snapshot)
}

impl VolumePart {
    /// Begins with the next failed read when the state has judged it; nothing is read of a disk that is given up.
    pub(super) fn advance_localisation(&mut self, out: &mut Outbox<VolumeEffect>) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        self.picture_settled(&snapshot);
        while self.localisation.running.is_none() && self.localisation.until.is_none() {
            let seen = |(_, error): &&(BlockRange, ErrorNumber)| *error <= snapshot.errors_seen;
            let Some(&(range, _)) = self.localisation.waiting.front().filter(seen) else {
                return;
            };
            self.localisation.waiting.pop_front();
            if keeps_disk(&snapshot) {
                self.probe(Some(range), out);
            }
        }
    }

    /// The blocks that were found good are no longer in the picture of bad blocks.
    fn picture_settled(&mut self, snapshot: &Snapshot) {
        let Some(((_, last), until)) = self.localisation.told.zip(self.localisation.until) else {
            return;
        };
        let listed = self.bad.own.iter().any(|bad| bad.overlaps(last));
        if !listed || until <= self.now || !keeps_disk(snapshot) {
            self.localisation.told = None;
            self.localisation.until = None;
            self.freed = true;
        }
    }

    /// Reads the first of these blocks.
    fn probe(&mut self, left: Option<BlockRange>, out: &mut Outbox<VolumeEffect>) {
        self.localisation.running = left;
        self.localisation.spoiled = false;
        let block = left.and_then(|range| BlockRange::single(range.first()).sectors(self.sectors()));
        if let Some(range) = block {
            self.insert(Request::new(Origin::Localise, Work::Read { range }), out);
        } else {
            self.localisation.running = None;
            self.localisation.until = self.localisation.told.map(|_| self.now.after_ms(PICTURE_MS));
            self.freed = true;
        }
    }

    pub(super) fn start_probe(&mut self, id: u64) {
        let range = self.requests.get(&id).and_then(Request::range);
        self.running(id);
        let keeps = self.snapshot.as_deref().is_some_and(keeps_disk);
        match range.filter(|_| keeps) {
            Some(range) => self.submit(id, DataKind::Read { range }),
            None => self.begin_settling_of(id),
        }
    }

    /// One read of a block ended: the second one must give the same bytes.
    pub(super) fn answer_probe(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(mut request) = self.remove(id) else {
            return;
        };
        self.unlock(id);
        let (Some(left), Some(range)) = (self.localisation.running, request.range()) else {
            return;
        };
        let data = request.data.take().filter(|_| request.local == Local::Done);
        match (data, request.step) {
            (Some(data), 0) => {
                let work = Work::Verify {
                    range,
                    expected: data,
                };
                let again = Request {
                    step: 1,
                    ..Request::new(Origin::Localise, work)
                };
                self.insert(again, out);
                return;
            }
            (Some(_), _) if !self.localisation.spoiled => {
                let block = BlockRange::single(left.first());
                self.batch.cleared.push((block, ClearReason::ReadTwice));
                let whole = self.localisation.told.map_or(left, |(whole, _)| whole);
                self.localisation.told = Some((whole, block));
            }
            _ if matches!(request.local, Local::None | Local::Abandoned) => {
                // The disk is going.
                return self.probe(None, out);
            }
            _ => {}
        }
        let rest = BlockRange::new(left.first() + 1, left.count() - 1);
        self.probe(rest, out);
    }
}
