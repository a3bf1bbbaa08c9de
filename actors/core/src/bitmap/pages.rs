//! Writing changed pages: one batch at a time. Before pages with cleared bits go out the data device is flushed (a cleared bit
//! must not be stable before the data that clears it); behind them the meta-data device, and only then marks and write-outs that
//! were there when the batch began are acknowledged.

use super::part::BitmapPart;
use super::{BitmapEffect, MarkOutcome, MarkReason};
use crate::activity::ActivityIn;
use crate::disk::{DiskIn, MetaKind};
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, ErrorNumber, MarkNumber, Query};
use crate::part::{Outbox, PartName, To};
use crate::volume::machine::StateIn;
use mendblock_storage::buffer::Buffer;
use mendblock_storage::dirty::{DirtyMap, PageVersion};
use std::collections::BTreeMap;

/// Who waits for bits (and records) to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A mark of the volume part.
    Mark {
        number: MarkNumber,
        error: Option<ErrorNumber>,
    },
    /// The peer's tell.
    Tell {
        connection: ConnectionNumber,
        number: u64,
    },
}

/// One who waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub owner: Owner,
    /// The bits are durable.
    pub bits: bool,
    /// Version of the health file that holds its record; none: it needs none, or has it.
    pub record: Option<u64>,
    /// The record could not be written.
    pub record_lost: bool,
    /// The pages could not be written: the disk fails (M1: without a retry).
    failed: bool,
    /// It belongs to the batch that is being written.
    batch: bool,
}

impl Waiting {
    pub fn new(owner: Owner, record: Option<u64>) -> Self {
        Self {
            owner,
            bits: false,
            record,
            record_lost: false,
            failed: false,
            batch: false,
        }
    }
}

/// A write-out that is wanted.
#[derive(Clone, Copy, Debug)]
struct WriteOut {
    requester: PartName,
    query: Query,
    after: MarkNumber,
    batch: bool,
}

#[derive(Default)]
enum Stage {
    #[default]
    Idle,
    /// The data is being flushed.
    Before(u64),
    /// Pages are being written: number → page.
    Pages(BTreeMap<u64, u32>),
    /// The pages are being flushed.
    After(u64),
}

/// The writer.
#[derive(Default)]
pub(super) struct PageWriter {
    stage: Stage,
    versions: Vec<(u32, PageVersion)>,
    /// The bits as they were when the batch began: what was cleared since is not covered by its flush of the data.
    content: Option<DirtyMap>,
    failed: Option<i32>,
    wanted: Vec<WriteOut>,
    pub waiting: Vec<Waiting>,
    /// Bits were cleared since the last flush of the data.
    pub cleared: bool,
    /// Some bit that is not on disk is not covered by a hot extent.
    pub uncovered: bool,
    /// Changes of pages are wanted on disk soon without anybody waiting (notices, clears).
    pub lazily: bool,
    /// What was read may have been written by a predecessor without a flush: the next batch flushes in any case (R4).
    pub unflushed: bool,
    /// Everything is to be written for these (load, set-all).
    whole: Vec<Whole>,
    /// Those of the batch that is being written.
    whole_batch: Vec<Whole>,
}

/// Who ordered a write of everything that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Load(Query),
    SetAll(Query),
    /// The target has merged its source's bits.
    Merged(ConnectionNumber),
}

impl PageWriter {
    pub fn want(&mut self, requester: PartName, query: Query, after: MarkNumber) {
        self.wanted.push(WriteOut {
            requester,
            query,
            after,
            batch: false,
        });
    }

    pub fn want_whole(&mut self, whole: Whole) {
        self.whole.push(whole);
    }
}

impl BitmapPart {
    /// Begins a batch if somebody needs one.
    pub(super) fn write_pages(&mut self, out: &mut Outbox<BitmapEffect>) {
        if !matches!(self.pages.stage, Stage::Idle)
            || self.is_recovering()
            || self.loading.is_some() && self.pages.whole.is_empty()
        {
            return;
        }
        let in_use = self.in_use();
        let mut wanted = std::mem::take(&mut self.pages.wanted);
        for wanted in &mut wanted {
            wanted.batch = self.marks_arrived(wanted.after);
        }
        let due = wanted.iter().any(|wanted| wanted.batch);
        self.pages.wanted = wanted;
        let marks = in_use
            && self
                .pages
                .waiting
                .iter()
                .any(|waiting| !waiting.bits && !waiting.failed);
        let lazily = in_use && self.pages.lazily;
        if !(due || marks || lazily || !self.pages.whole.is_empty()) {
            return;
        }
        for waiting in &mut self.pages.waiting {
            waiting.batch = true;
        }
        self.pages.whole_batch = std::mem::take(&mut self.pages.whole);
        self.pages.lazily = false;
        self.pages.failed = None;
        let Some(loaded) = self.loaded.as_ref() else {
            return self.batch_ended(Err(19), out);
        };
        self.pages.versions = loaded.map.changed_pages().collect();
        if self.pages.versions.is_empty() {
            if self.pages.unflushed {
                let number = self.submit(MetaKind::Flush, out);
                self.pages.stage = Stage::After(number);
                return;
            }
            return self.batch_ended(Ok(()), out);
        }
        self.pages.content = Some(loaded.map.clone());
        if std::mem::take(&mut self.pages.cleared) {
            let number = self.submit(MetaKind::Flush, out);
            self.pages.stage = Stage::Before(number);
        } else {
            self.send_pages(out);
        }
    }

    fn send_pages(&mut self, out: &mut Outbox<BitmapEffect>) {
        let mut open = BTreeMap::new();
        for (page, _) in self.pages.versions.clone() {
            let (Some(loaded), Some(content)) = (self.loaded.as_ref(), self.pages.content.as_ref()) else {
                return;
            };
            let offset = loaded.layout.bitmap_page_byte(u64::from(page));
            let buffer = Buffer::from_vec(content.page_bytes(page).to_vec());
            open.insert(self.submit(MetaKind::WriteLazy { offset, buffer }, out), page);
        }
        self.pages.stage = Stage::Pages(open);
    }

    /// One of the batch's operations ended.
    pub(super) fn page_completed(
        &mut self,
        number: u64,
        result: Result<(), i32>,
        out: &mut Outbox<BitmapEffect>,
    ) {
        match &mut self.pages.stage {
            Stage::Before(flush) if *flush == number => match result {
                Ok(()) => self.send_pages(out),
                Err(errno) => {
                    self.pages.cleared = true;
                    self.batch_ended(Err(errno), out);
                }
            },
            Stage::Pages(open) => {
                open.remove(&number);
                let done = open.is_empty();
                if let Err(errno) = result {
                    self.pages.failed = Some(errno);
                }
                match (done, self.pages.failed) {
                    (true, Some(errno)) => self.batch_ended(Err(errno), out),
                    (true, None) => {
                        let number = self.submit(MetaKind::Flush, out);
                        self.pages.stage = Stage::After(number);
                    }
                    (false, _) => {}
                }
            }
            Stage::After(flush) if *flush == number => {
                self.pages.unflushed &= result.is_err();
                self.batch_ended(result, out);
            }
            _ => {}
        }
    }

    fn batch_ended(&mut self, result: Result<(), i32>, out: &mut Outbox<BitmapEffect>) {
        self.pages.stage = Stage::Idle;
        let versions = std::mem::take(&mut self.pages.versions);
        self.pages.content = None;
        if result.is_ok() {
            if let Some(loaded) = self.loaded.as_mut() {
                for &(page, version) in &versions {
                    loaded.map.mark_written(page, version);
                }
                self.pages.uncovered &= loaded.map.changed_count() > 0;
            }
            if !versions.is_empty() {
                out.fact(Fact::BitmapWritten {
                    pages: u32::try_from(versions.len()).unwrap_or(u32::MAX),
                });
            }
        }
        for waiting in &mut self.pages.waiting {
            if std::mem::take(&mut waiting.batch) {
                waiting.bits |= result.is_ok();
                waiting.failed |= result.is_err();
            }
        }
        let uncovered = self.pages.uncovered;
        let (done, rest): (Vec<WriteOut>, Vec<WriteOut>) = std::mem::take(&mut self.pages.wanted)
            .into_iter()
            .partition(|wanted| wanted.batch);
        self.pages.wanted = rest;
        for wanted in done {
            written_out(&wanted, result, uncovered, out);
        }
        for whole in std::mem::take(&mut self.pages.whole_batch) {
            self.whole_written(whole, result, out);
        }
    }

    fn whole_written(&mut self, whole: Whole, result: Result<(), i32>, out: &mut Outbox<BitmapEffect>) {
        match whole {
            Whole::SetAll(query) => out.send(To::State(StateIn::AllSet { query, result })),
            Whole::Load(query) => self.load_written(query, result, out),
            Whole::Merged(connection) if result.is_ok() => self.exchanged(connection, out),
            // The disk fails, and with it the resync.
            Whole::Merged(_) => {}
        }
    }

    /// Acknowledges what is durable; without a disk in use, what is as durable as it can be.
    pub(super) fn acknowledge(&mut self, out: &mut Outbox<BitmapEffect>) {
        let in_use = self.in_use() || self.is_recovering();
        let (done, rest): (Vec<Waiting>, Vec<Waiting>) = std::mem::take(&mut self.pages.waiting)
            .into_iter()
            .partition(|waiting| {
                waiting.record.is_none() && (waiting.bits || waiting.failed || (!in_use && !waiting.batch))
            });
        self.pages.waiting = rest;
        for waiting in done {
            match waiting.owner {
                Owner::Tell { connection, number } => {
                    out.send(To::State(StateIn::TellRecorded { number, connection }))
                }
                Owner::Mark { number, error } => {
                    let outcome = match (waiting.bits, waiting.record_lost) {
                        (true, false) => MarkOutcome::Durable,
                        (true, true) => MarkOutcome::RecordLost,
                        (false, lost) => MarkOutcome::InMemory { record: !lost },
                    };
                    out.send(To::Volume(VolumeIn::Marked { number, outcome }));
                    if let Some(number) = error {
                        out.send(To::Disk(DiskIn::ErrorMarked { number }));
                    }
                }
            }
        }
    }

    /// The disk is gone with whatever was being written.
    pub(super) fn abandon_pages(&mut self, out: &mut Outbox<BitmapEffect>) {
        self.pages.stage = Stage::Idle;
        self.pages.versions.clear();
        self.pages.content = None;
        for waiting in &mut self.pages.waiting {
            waiting.batch = false;
        }
        for wanted in std::mem::take(&mut self.pages.wanted) {
            written_out(&wanted, Err(19), self.pages.uncovered, out);
        }
        let mut whole = std::mem::take(&mut self.pages.whole_batch);
        whole.append(&mut self.pages.whole);
        for whole in whole {
            self.whole_written(whole, Err(19), out);
        }
    }

    /// Sets all bits, durably; the lists stay.
    pub(super) fn set_all(&mut self, query: Query, reason: &str, out: &mut Outbox<BitmapEffect>) {
        let Some(loaded) = self.loaded.as_mut() else {
            return out.send(To::State(StateIn::AllSet {
                query,
                result: Err(19),
            }));
        };
        loaded.map.set_all();
        out.fact(Fact::Step {
            step: "bitmap",
            outcome: format!("all bits set: {reason}"),
        });
        self.pages.want_whole(Whole::SetAll(query));
    }
}

fn written_out(wanted: &WriteOut, result: Result<(), i32>, uncovered: bool, out: &mut Outbox<BitmapEffect>) {
    let (query, result) = (wanted.query, result);
    match wanted.requester {
        PartName::ActivityLog => out.send(To::ActivityLog(ActivityIn::WrittenOut { query, result })),
        _ => out.send(To::State(StateIn::WrittenOut {
            query,
            result,
            uncovered: uncovered && result.is_err(),
        })),
    }
}

/// Whether bits set for this reason lie outside what the activity log covers.
pub(super) fn is_uncovered(reason: MarkReason) -> bool {
    matches!(reason, MarkReason::ReadError { .. })
}
