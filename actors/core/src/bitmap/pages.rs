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
use mendblock_storage::dirty::PageVersion;
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
    failed: Option<i32>,
    wanted: Vec<WriteOut>,
    pub waiting: Vec<Waiting>,
    /// Bits were cleared since the last flush of the data.
    pub cleared: bool,
    /// Some bit that is not on disk is not covered by a hot extent.
    pub uncovered: bool,
    /// Changes of pages are wanted on disk soon without anybody waiting (notices, clears).
    pub lazily: bool,
    /// Everything is to be written for this one (load, set-all).
    whole: Option<Whole>,
}

/// Who ordered a write of everything that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Load(Query),
    SetAll(Query),
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
        self.whole = Some(whole);
    }
}

impl BitmapPart {
    /// Begins a batch if somebody needs one.
    pub(super) fn write_pages(&mut self, out: &mut Outbox<BitmapEffect>) {
        if !matches!(self.pages.stage, Stage::Idle)
            || self.is_recovering()
            || self.loading.is_some() && self.pages.whole.is_none()
        {
            return;
        }
        let in_use = self.in_use();
        let last = self.last_mark;
        let due = self.pages.wanted.iter().any(|wanted| wanted.after <= last);
        let marks = in_use && self.pages.waiting.iter().any(|waiting| !waiting.bits);
        let lazily = in_use && self.pages.lazily;
        if !(due || marks || lazily || self.pages.whole.is_some()) {
            return;
        }
        for wanted in self.pages.wanted.iter_mut().filter(|wanted| wanted.after <= last) {
            wanted.batch = true;
        }
        for waiting in &mut self.pages.waiting {
            waiting.batch = true;
        }
        self.pages.lazily = false;
        self.pages.failed = None;
        let Some(loaded) = self.loaded.as_ref() else {
            return self.batch_ended(Err(19), out);
        };
        self.pages.versions = loaded.map.changed_pages().collect();
        if self.pages.versions.is_empty() {
            return self.batch_ended(Ok(()), out);
        }
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
            let Some(loaded) = self.loaded.as_ref() else {
                return;
            };
            let offset = loaded.layout.bitmap_page_byte(u64::from(page));
            let buffer = Buffer::from_vec(loaded.map.page_bytes(page).to_vec());
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
            Stage::After(flush) if *flush == number => self.batch_ended(result, out),
            _ => {}
        }
    }

    fn batch_ended(&mut self, result: Result<(), i32>, out: &mut Outbox<BitmapEffect>) {
        self.pages.stage = Stage::Idle;
        let versions = std::mem::take(&mut self.pages.versions);
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
            waiting.bits |= std::mem::take(&mut waiting.batch) && result.is_ok();
        }
        let uncovered = self.pages.uncovered;
        let (done, rest): (Vec<WriteOut>, Vec<WriteOut>) = std::mem::take(&mut self.pages.wanted)
            .into_iter()
            .partition(|wanted| wanted.batch);
        self.pages.wanted = rest;
        for wanted in done {
            written_out(&wanted, result, uncovered, out);
        }
        if let Some(whole) = self.pages.whole.take() {
            self.whole_written(whole, result, out);
        }
    }

    fn whole_written(&mut self, whole: Whole, result: Result<(), i32>, out: &mut Outbox<BitmapEffect>) {
        match whole {
            Whole::SetAll(query) => out.send(To::State(StateIn::AllSet { query, result })),
            Whole::Load(query) => self.load_written(query, result, out),
        }
    }

    /// Acknowledges what is durable; without a disk in use, what is as durable as it can be.
    pub(super) fn acknowledge(&mut self, out: &mut Outbox<BitmapEffect>) {
        let in_use = self.in_use() || self.is_recovering();
        let (done, rest): (Vec<Waiting>, Vec<Waiting>) = std::mem::take(&mut self.pages.waiting)
            .into_iter()
            .partition(|waiting| waiting.record.is_none() && (waiting.bits || (!in_use && !waiting.batch)));
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
        for waiting in &mut self.pages.waiting {
            waiting.batch = false;
        }
        for wanted in std::mem::take(&mut self.pages.wanted) {
            written_out(&wanted, Err(19), self.pages.uncovered, out);
        }
        if let Some(whole) = self.pages.whole.take() {
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
