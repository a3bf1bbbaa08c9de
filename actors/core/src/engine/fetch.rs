//! The target of a resync: a range is locked like a write from the request to the source until the data is on the own disk, so
//! that no write in between is overwritten by older data. Blocks of the bad-block list are read back before they count (6.4).

use super::VolumeEffect;
use super::part::VolumePart;
use super::path;
use super::request::{Local, Net, Origin, Request, Work};
use crate::bitmap::{BitmapIn, ClearReason};
use crate::disk::DataKind;
use crate::part::{Outbox, To};
use crate::planted::{Fault, is_planted};
use crate::resync::{JobEnd, ResyncIn};
use crate::volume::state::ConnectionState;
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::units::SectorRange;

impl VolumePart {
    pub(super) fn fetch(&mut self, job: u64, range: SectorRange, out: &mut Outbox<VolumeEffect>) {
        let running = self
            .requests
            .values()
            .any(|request| request.origin == Origin::Fetch { job });
        if !running {
            self.insert(Request::new(Origin::Fetch { job }, Work::Fetch { range }), out);
        }
    }

    pub(super) fn start_fetch(&mut self, id: u64) {
        let Some(snapshot) = self.snapshot.clone() else {
            return;
        };
        let target = matches!(
            snapshot.vector.connection,
            ConnectionState::SyncTarget | ConnectionState::PausedSyncT
        );
        let connection = snapshot
            .connection
            .filter(|_| target && path::disk_usable(&snapshot));
        self.running(id);
        let (Some(connection), Some(range)) = (connection, self.requests.get(&id).and_then(Request::range))
        else {
            return self.begin_settling_of(id);
        };
        if let Some(request) = self.requests.get_mut(&id) {
            request.net = Net::Pending(connection);
        }
        self.frame(Message::ResyncRead { request: id, range }, None);
    }

    pub(super) fn fetch_arrived(
        &mut self,
        id: u64,
        payload: Option<Buffer>,
        _out: &mut Outbox<VolumeEffect>,
    ) {
        let Some(connection) = self.connection() else {
            return;
        };
        let usable = self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| path::disk_usable(snapshot));
        let Some(request) = self
            .requests
            .get_mut(&id)
            .filter(|request| matches!(request.net, Net::Pending(_)))
        else {
            return;
        };
        let Some(range) = request.range() else { return };
        request.net = Net::Done(connection);
        let data = payload.filter(|buffer| buffer.len() as u64 == range.byte_length());
        let Some(buffer) = data.filter(|_| usable) else {
            return self.ended_parts(id);
        };
        request.data = Some(buffer.clone());
        if is_planted(Fault::ClearOnArrival) {
            self.fetched(range);
        }
        self.unflushed.extend(range.extents());
        self.submit(
            id,
            DataKind::Write {
                range,
                buffer,
                fua: false,
            },
        );
    }

    /// The source cannot read this part of what was asked for; the rest is asked for again.
    pub(super) fn fetch_refused(&mut self, id: u64, lost: SectorRange, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self
            .requests
            .get_mut(&id)
            .filter(|request| matches!(request.net, Net::Pending(_)))
        else {
            return;
        };
        request.net = Net::Failed(5);
        let Some(range) = request.range() else { return };
        let asked = lost.first() >= range.first() && lost.end() <= range.end();
        if !asked {
            return self.protocol_error(
                "a refused resync read names other blocks than were asked for",
                out,
            );
        }
        out.send(To::Bitmap(BitmapIn::Lost {
            ranges: vec![lost.touched_blocks()],
        }));
        self.ended_parts(id);
    }

    /// The data is written; bad blocks among it are read back.
    pub(super) fn fetch_written(&mut self, id: u64, _out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let (Some(range), Some(expected)) = (request.range(), request.data.clone()) else {
            return;
        };
        if path::own_bad(&self.bad, range) {
            // Also where a fetch became one: written is not enough for a block of the list.
            request.work = Work::Verify { range, expected };
            request.step = 0;
            self.submit(id, DataKind::Flush);
        } else {
            self.ended_parts(id);
        }
    }

    pub(super) fn answer_fetch(&mut self, id: u64, out: &mut Outbox<VolumeEffect>) {
        let Some(request) = self.remove(id) else { return };
        self.unlock(id);
        let (Origin::Fetch { job }, Some(range)) = (request.origin, request.range()) else {
            return;
        };
        let end = match (request.local, request.net) {
            // On a later connection the source may have newer data than what was fetched before.
            (Local::Done, Net::Done(of)) if self.connection() == Some(of) && !self.link_is_lost() => {
                self.fetched(range)
            }
            (Local::Failed(..), _) => JobEnd::WriteFailed,
            (_, Net::Failed(_)) => JobEnd::SourceCannot,
            _ => JobEnd::Cancelled,
        };
        out.send(To::Resync(ResyncIn::Done { job, end }));
    }

    fn fetched(&mut self, range: SectorRange) -> JobEnd {
        let Some(blocks) = range.covered_blocks(self.sectors()) else {
            return JobEnd::Cancelled;
        };
        self.batch.cleared.push((blocks, ClearReason::ResyncWritten));
        self.frame(Message::ResyncWritten { ranges: vec![blocks] }, None);
        JobEnd::Written
    }

    /// Flushed: read back, past any cache (the device is read directly); read: compare.
    pub(super) fn verify_step(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let Work::Verify { range, expected } = request.work.clone() else {
            return;
        };
        if request.step == 0 {
            request.step = 1;
            request.data = None;
            self.submit(id, DataKind::Read { range });
            return;
        }
        if request.data.as_deref() != Some(&*expected) {
            // The drive gave back other bytes than were written: as a write that failed, without a number of its own.
            request.local = Local::Failed(crate::identity::ErrorNumber(0), 5);
        }
        self.ended_parts(id);
    }
}
