//! A write over a listed bad block: it is answered when the block is known to be good again, not before. The drive may have
//! accepted the write and lost it (that is how bad blocks behave), and while the block is on the list it is not read here: alone,
//! the writer would get an error for what it was just told is safe.
//!
//! | step | what |
//! |---|---|
//! | 1 | the write itself (with all others of its request) |
//! | 2 | flush: past the drive's cache |
//! | 3 | read back what was listed, past every cache (the device is read directly), and compare |
//! | 4 | off the list, durably: a crash after the answer must not bring the entry back |
//!
//! Then the answer, or the acknowledgement to the peer. A block that was overwritten in part stays on the list.

use super::part::VolumePart;
use super::path;
use super::request::{Local, Origin, Proof, Request, Work};
use crate::bitmap::{ClearReason, MarkReason};
use crate::disk::DataKind;
use crate::identity::{ConnectionNumber, ErrorNumber};
use crate::volume::state::ConnectionState;
use mendblock_net::wire::message::Message;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::device::errno::EIO;
use mendblock_storage::units::{BLOCK_SECTORS, BlockRange, SECTOR_BYTES};

impl VolumePart {
    /// A write, or a step of its proof, is done on the own disk: the next step, if one is needed.
    pub(super) fn prove(&mut self, id: u64) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let next = match request.proof {
            Proof::None => self.listed_span(request).map(Proof::Flush),
            Proof::Flush(span) => Some(Proof::Read(span)),
            Proof::Read(span) => return self.compare(id, span),
            Proof::Given { .. } | Proof::Failed(_) => None,
        };
        let Some(next) = next else {
            return self.ended_parts(id);
        };
        if !self.snapshot.as_deref().is_some_and(path::disk_usable) {
            return self.proof_broken_off(id);
        }
        let kind = match next {
            Proof::Read(span) => match span.sectors(self.sectors()) {
                Some(range) => DataKind::Read { range },
                None => return self.proof_broken_off(id),
            },
            _ => DataKind::Flush,
        };
        if let Some(request) = self.requests.get_mut(&id) {
            request.proof = next;
            request.data = None;
        }
        self.submit(id, kind);
    }

    /// The blocks of the own list that this write covers whole, and what lies between them.
    fn listed_span(&self, request: &Request) -> Option<BlockRange> {
        if !is_mirrored_write(request) || !self.snapshot.as_deref().is_some_and(path::disk_usable) {
            return None;
        }
        let covered = request.range()?.covered_blocks(self.sectors())?;
        let marked = self.marks.listing();
        let mut listed = self.bad.own.iter().copied().chain(marked);
        let first = listed.find(|bad| bad.overlaps(covered))?;
        let (begin, end) = listed
            .filter(|bad| bad.overlaps(covered))
            .fold((first.first(), first.end()), |(begin, end), bad| {
                (begin.min(bad.first()), end.max(bad.end()))
            });
        let (begin, end) = (begin.max(covered.first()), end.min(covered.end()));
        BlockRange::new(begin, u32::try_from(end.checked_sub(begin)?).ok()?)
    }

    /// Read back: the same bytes take the blocks off the list. Other bytes are a write that failed, which nothing but this saw.
    fn compare(&mut self, id: u64, span: BlockRange) {
        let attach = self.snapshot.as_ref().and_then(|snapshot| snapshot.disk.as_ref());
        let Some(attach) = attach.map(|disk| disk.attach_id) else {
            return self.proof_broken_off(id);
        };
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let equal = request
            .data
            .take()
            .is_some_and(|read| is_what_was_written(&request.work, span, &read));
        let proof = if equal {
            let mark = self.mark(vec![span], MarkReason::ReadBack { attach });
            Proof::Given { span, mark }
        } else {
            // The peer, which may have the write, is not told of it: this durable entry alone keeps the block from being read here,
            // also after a crash.
            Proof::Failed(self.mark(vec![span], MarkReason::MissedWrite))
        };
        if let Some(request) = self.requests.get_mut(&id) {
            request.proof = proof;
            if let Proof::Failed(mark) = proof {
                request.local = Local::Failed(ErrorNumber(0), EIO);
                request.tried_under = None;
                // The peer's writer hears of it behind the same mark.
                request.mark = (!request.is_client()).then_some(mark).or(request.mark);
            }
        }
        self.ended_parts(id);
    }

    /// The disk is going, with a write on it that is neither proven nor known to be stable.
    pub(super) fn proof_broken_off(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        request.local = Local::Abandoned;
        request.proof = Proof::None;
        if let Some(range) = request.range() {
            // Its log may end clean: these bits say what a flush did not.
            self.mark(vec![range.touched_blocks()], MarkReason::Unflushed);
        }
        self.ended_parts(id);
    }

    /// The disk that these proofs are about is gone: another one may come before their requests are answered.
    pub(super) fn void_proofs(&mut self) {
        let proven = self
            .requests
            .iter()
            .filter(|(_, request)| request.proof != Proof::None);
        for id in proven.map(|(&id, _)| id).collect::<Vec<u64>>() {
            if let Some(request) = self.requests.get_mut(&id) {
                request.local = Local::Abandoned;
                request.proof = Proof::None;
            }
            self.ended_parts(id);
        }
    }

    /// Not known yet whether what was written is readable.
    pub(super) fn proof_is_open(&self, request: &Request) -> bool {
        match request.proof {
            Proof::Flush(_) | Proof::Read(_) => true,
            Proof::Given { mark, .. } | Proof::Failed(mark) => self.marks.is_open(mark),
            Proof::None => false,
        }
    }

    /// The blocks of a proven write that both nodes have: their bits go here and, by the message, at the peer (6.4).
    /// `at_peer`: the peer has it by this connection.
    pub(super) fn proven_on_both(&mut self, proof: Proof, at_peer: Option<ConnectionNumber>) {
        let Proof::Given { span, .. } = proof else {
            return;
        };
        // While bitmaps are exchanged the peer does not listen to this, and a target that has merged its source's bits works off its
        // own: cleared here alone, the bit would stay there. The resync copies the block once more.
        let settled = self.snapshot.as_ref().is_some_and(|snapshot| {
            snapshot.vector.connection == ConnectionState::Connected || snapshot.vector.connection.is_resync()
        });
        // A link that was lost meanwhile has marked the write as lacking at the peer: that bit stays.
        if settled && at_peer.is_some() && at_peer == self.connection() && !self.link_is_lost() {
            self.batch.cleared.push((span, ClearReason::Overwritten));
            self.frame(Message::ResyncWritten { ranges: vec![span] }, None);
        }
    }
}

/// A client's write or zeroes, here or at the peer.
fn is_mirrored_write(request: &Request) -> bool {
    matches!(request.work, Work::Write { .. } | Work::Zeroes { .. })
        && matches!(request.origin, Origin::Client { .. } | Origin::Received { .. })
}

/// Whether these bytes of the span are those of the write.
fn is_what_was_written(work: &Work, span: BlockRange, read: &Buffer) -> bool {
    match work {
        Work::Zeroes { .. } => read.iter().all(|&byte| byte == 0),
        Work::Write { range, buffer, .. } => {
            let begin = span.first() * BLOCK_SECTORS * SECTOR_BYTES;
            let skipped = begin.checked_sub(range.byte_offset());
            let skipped = skipped.and_then(|skipped| usize::try_from(skipped).ok());
            let written = skipped.and_then(|skipped| buffer.get(skipped..)?.get(..read.len()));
            !read.is_empty() && written == Some(&read[..])
        }
        _ => false,
    }
}
