//! Messages in, submissions and completions out.

use super::failures::{Failure, Failures};
use super::meta::steps;
use super::table::{DataRun, MetaRun, Table};
use super::{
    DataCompletion, DataKind, DataOperation, DeviceCompletion, DiskEffect, DiskIn, MetaCompletion, MetaKind,
    MetaOperation, PortOperation, Token, WhichDevice,
};
use crate::activity::ActivityIn;
use crate::bitmap::BitmapIn;
use crate::configuration::VolumeConfiguration;
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{ErrorNumber, OperationId, PartGeneration, Query};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::snapshot::Snapshot;
use crate::volume::machine::StateIn;
use crate::volume::state::DiskState;
use mendblock_storage::buffer::BufferMut;
use mendblock_storage::device::errno::ENODEV;
use mendblock_storage::format::layout::MetaIndex;
use mendblock_storage::units::SectorRange;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Completions of one message, batched by receiver.
#[derive(Debug, Default)]
struct Replies {
    data: Vec<DataCompletion>,
    meta: BTreeMap<PartName, Vec<MetaCompletion>>,
}

impl Replies {
    fn meta(&mut self, completion: MetaCompletion) {
        self.meta.entry(completion.holder).or_default().push(completion);
    }

    fn send(&mut self, out: &mut Outbox<DiskEffect>) {
        if !self.data.is_empty() {
            out.send(To::Volume(VolumeIn::Completed(std::mem::take(&mut self.data))));
        }
        for (holder, completions) in std::mem::take(&mut self.meta) {
            match holder {
                PartName::Bitmap => out.send(To::Bitmap(BitmapIn::Meta(completions))),
                PartName::ActivityLog => out.send(To::ActivityLog(ActivityIn::Meta(completions))),
                PartName::State => {
                    completions
                        .into_iter()
                        .for_each(|one| out.send(To::State(StateIn::Meta(one))));
                }
                _ => out.fact(Fact::Surprise {
                    what: format!("the {holder} part has no meta-data operations"),
                }),
            }
        }
    }
}

/// The part of `DiskActor`.
#[derive(Debug)]
pub struct DiskPart {
    configuration: Arc<VolumeConfiguration>,
    generation: PartGeneration,
    snapshot: Option<Arc<Snapshot>>,
    /// The devices are open; none: a successor that has not heard it yet.
    open: Option<bool>,
    /// What came in before that was known.
    parked_data: Vec<DataOperation>,
    parked_meta: Vec<MetaOperation>,
    table: Table,
    failures: Failures,
    replies: Replies,
    /// When the age of the oldest operation is looked at next.
    check_at: Option<Instant>,
    /// `disk-timeout` was reported in this attach.
    timed_out: bool,
}

impl DiskPart {
    /// A generation of the part. The shell sends [`DiskIn::Adopted`] to it first.
    pub fn new(configuration: Arc<VolumeConfiguration>, generation: PartGeneration) -> Self {
        Self {
            configuration,
            generation,
            snapshot: None,
            open: (generation.0 <= 1).then_some(false),
            parked_data: Vec::new(),
            parked_meta: Vec::new(),
            table: Table::default(),
            failures: Failures::default(),
            replies: Replies::default(),
            check_at: None,
            timed_out: false,
        }
    }

    fn disk_state(&self) -> DiskState {
        self.snapshot
            .as_ref()
            .map_or(DiskState::Diskless, |snapshot| snapshot.vector.disk)
    }

    fn is_open(&self) -> bool {
        self.open == Some(true)
    }

    fn snapshot(&mut self, snapshot: Arc<Snapshot>, cx: &Context<'_>, out: &mut Outbox<DiskEffect>) {
        let newer = |last: &Arc<Snapshot>| last.number < snapshot.number;
        if !self.snapshot.as_ref().is_none_or(newer) {
            return;
        }
        let has_disk = snapshot.disk.is_some();
        self.snapshot = Some(snapshot);
        if self.open.is_none() {
            self.opened_or_not(has_disk, cx, out);
        }
    }

    fn opened_or_not(&mut self, open: bool, cx: &Context<'_>, out: &mut Outbox<DiskEffect>) {
        self.open = Some(open);
        for operation in std::mem::take(&mut self.parked_data) {
            self.data(operation, cx, out);
        }
        for operation in std::mem::take(&mut self.parked_meta) {
            self.meta(operation, cx, out);
        }
    }

    fn adopted(
        &mut self,
        in_kernel: Vec<Token>,
        failed: Vec<(Token, ErrorNumber, i32)>,
        cx: &Context<'_>,
        out: &mut Outbox<DiskEffect>,
    ) {
        if !in_kernel.is_empty() || !failed.is_empty() {
            let what = format!(
                "{} operations in the kernel, {} unacknowledged errors",
                in_kernel.len(),
                failed.len()
            );
            out.fact(Fact::Recovered {
                part: PartName::Disk,
                what,
            });
        }
        for token in in_kernel {
            self.table.adopt(token, cx.now);
            self.watch(cx.now);
        }
        for (token, number, errno) in failed {
            if let Token::Meta {
                holder,
                generation,
                number,
                ..
            } = token
            {
                self.replies.meta(MetaCompletion {
                    holder,
                    generation,
                    number,
                    result: Err(errno),
                });
            }
            let completion = self.failures.adopt(number, Failure::of(token, errno, true), out);
            self.replies.data.extend(completion);
        }
    }

    fn data(&mut self, operation: DataOperation, cx: &Context<'_>, out: &mut Outbox<DiskEffect>) {
        let gone =
            self.snapshot.is_some() && matches!(self.disk_state(), DiskState::Failed | DiskState::Diskless);
        if self.open.is_none() {
            self.parked_data.push(operation);
            return;
        }
        if !self.is_open() || gone {
            self.replies.data.push(refused(operation));
            return;
        }
        let DataOperation { id, kind } = operation;
        if self.table.data.contains_key(&id) {
            out.fact(Fact::Surprise {
                what: format!("operation {id:?} was submitted twice; the second is dropped"),
            });
            return;
        }
        let (token, port_operation) = translate(id, kind);
        let (range, writes) = match token {
            Token::Data(_, range, writes) => (range, writes),
            Token::ZeroesBeforeFlush(_, range) => (Some(range), true),
            Token::Meta { .. } => (None, false),
        };
        self.table.data.insert(
            id,
            DataRun {
                range,
                writes,
                since: cx.now,
                abandoned: false,
            },
        );
        self.submit(token, WhichDevice::Data, port_operation, cx, out);
    }

    fn meta(&mut self, operation: MetaOperation, cx: &Context<'_>, out: &mut Outbox<DiskEffect>) {
        if self.open.is_none() {
            self.parked_meta.push(operation);
            return;
        }
        let MetaOperation {
            holder,
            generation,
            number,
            kind,
        } = operation;
        if !self.is_open() {
            self.replies.meta(MetaCompletion {
                holder,
                generation,
                number,
                result: Err(ENODEV),
            });
            return;
        }
        let key = (holder, generation, number);
        if self.table.meta.contains_key(&key) {
            out.fact(Fact::Surprise {
                what: format!("meta-data operation {key:?} was submitted twice; the second is dropped"),
            });
            return;
        }
        let reads = matches!(kind, MetaKind::Read { .. });
        let internal = self.configuration.meta_index == MetaIndex::Internal;
        let rest = steps(kind, internal, self.generation);
        let run = MetaRun {
            reads,
            since: cx.now,
            step: Token::LAST_STEP,
            rest,
        };
        self.next_step(key, run, cx, out);
    }

    fn next_step(
        &mut self,
        key: (PartName, PartGeneration, u64),
        mut run: MetaRun,
        cx: &Context<'_>,
        out: &mut Outbox<DiskEffect>,
    ) {
        let Some(step) = run.rest.pop_front() else { return };
        run.step = step.number;
        self.table.meta.insert(key, run);
        let (holder, generation, number) = key;
        let token = Token::Meta {
            holder,
            generation,
            number,
            step: step.number,
        };
        self.submit(token, step.device, step.operation, cx, out);
    }

    fn submit(
        &mut self,
        token: Token,
        device: WhichDevice,
        operation: PortOperation,
        cx: &Context<'_>,
        out: &mut Outbox<DiskEffect>,
    ) {
        self.watch(cx.now);
        out.effect(DiskEffect::Submit {
            token,
            device,
            operation,
        });
    }

    /// The age of what was submitted now has to be looked at some day; an earlier look finds it as well.
    fn watch(&mut self, since: Instant) {
        let timeout = self.configuration.disk_timeout;
        if timeout != 0 && !self.timed_out && self.check_at.is_none() {
            self.check_at = Some(since.after_ms(timeout));
        }
    }

    fn completed(&mut self, completion: DeviceCompletion, cx: &Context<'_>, out: &mut Outbox<DiskEffect>) {
        let DeviceCompletion { token, error, buffer } = completion;
        match (token, error) {
            (
                Token::Meta {
                    holder,
                    generation,
                    number,
                    step,
                },
                error,
            ) => {
                self.meta_completed((holder, generation, number), step, error, buffer, cx, out);
            }
            (Token::Data(..) | Token::ZeroesBeforeFlush(..), Some((number, errno))) => {
                self.data_failed(token, number, errno, out);
            }
            (Token::Data(id, range, writes), None) => {
                let abandoned = self.table.data.remove(&id).is_some_and(|run| run.abandoned);
                if !abandoned {
                    let data = buffer
                        .filter(|_| range.is_some() && !writes)
                        .map(BufferMut::freeze);
                    self.replies.data.push(DataCompletion { id, result: Ok(data) });
                }
            }
            (Token::ZeroesBeforeFlush(id, range), None) => self.zeroes_written(id, range, cx, out),
        }
    }

    /// The zeroes of a FUA operation are on the device, maybe in its cache only.
    fn zeroes_written(
        &mut self,
        id: OperationId,
        range: SectorRange,
        cx: &Context<'_>,
        out: &mut Outbox<DiskEffect>,
    ) {
        let abandoned = self.table.data.get(&id).is_some_and(|run| run.abandoned);
        if abandoned || self.open == Some(false) {
            self.table.data.remove(&id);
            if !abandoned {
                self.replies.data.push(DataCompletion {
                    id,
                    result: Err((ErrorNumber(0), ENODEV)),
                });
            }
            return;
        }
        self.submit(
            Token::Data(id, Some(range), true),
            WhichDevice::Data,
            PortOperation::Flush,
            cx,
            out,
        );
    }

    fn data_failed(&mut self, token: Token, number: ErrorNumber, errno: i32, out: &mut Outbox<DiskEffect>) {
        let (id, reads) = match token {
            Token::Data(id, range, writes) => (id, range.is_some() && !writes),
            Token::ZeroesBeforeFlush(id, _) => (id, false),
            Token::Meta { .. } => return,
        };
        let abandoned = self.table.data.remove(&id).is_some_and(|run| run.abandoned);
        let closed = self.open == Some(false);
        if number == ErrorNumber(0) || closed || (abandoned && !reads) {
            if !abandoned {
                self.replies.data.push(DataCompletion {
                    id,
                    result: Err((ErrorNumber(0), errno)),
                });
            }
            forget(number, out);
            return;
        }
        // A late failed read changes no state any more, but its blocks are bad: they are marked (Q3, Q4).
        let diskless = self.snapshot.is_some() && self.disk_state() == DiskState::Diskless;
        let failure = Failure::of(token, errno, !abandoned && !diskless);
        let completion = self.failures.add(number, failure, out);
        self.replies.data.extend(completion);
    }

    fn meta_completed(
        &mut self,
        key: (PartName, PartGeneration, u64),
        step: u8,
        error: Option<(ErrorNumber, i32)>,
        buffer: Option<BufferMut>,
        cx: &Context<'_>,
        out: &mut Outbox<DiskEffect>,
    ) {
        let (holder, generation, number) = key;
        // Not the step that is waited for: a flush that a predecessor left behind.
        let run = match self.table.meta.remove(&key) {
            Some(run) if run.step == step => Some(run),
            Some(run) => {
                self.table.meta.insert(key, run);
                None
            }
            None => None,
        };
        if let Some((error_number, errno)) = error {
            let reads = run.as_ref().is_some_and(|run| run.reads);
            self.meta_failed(key, step, reads, error_number, errno, out);
        }
        match (run, error) {
            (None, _) => {}
            (Some(_), Some((_, errno))) => {
                self.replies.meta(MetaCompletion {
                    holder,
                    generation,
                    number,
                    result: Err(errno),
                });
            }
            (Some(run), None) if run.rest.is_empty() => {
                let result = Ok(buffer.filter(|_| step == Token::LAST_STEP).map(BufferMut::freeze));
                self.replies.meta(MetaCompletion {
                    holder,
                    generation,
                    number,
                    result,
                });
            }
            (Some(_), None) if self.open == Some(false) => {
                self.replies.meta(MetaCompletion {
                    holder,
                    generation,
                    number,
                    result: Err(ENODEV),
                });
            }
            (Some(run), None) => self.next_step(key, run, cx, out),
        }
    }

    /// Every error of meta-data gives the disk up, except of a read during attach: the attach decides.
    fn meta_failed(
        &mut self,
        key: (PartName, PartGeneration, u64),
        step: u8,
        reads: bool,
        error: ErrorNumber,
        errno: i32,
        out: &mut Outbox<DiskEffect>,
    ) {
        let state = self.disk_state();
        let attaching = reads && matches!(state, DiskState::Diskless | DiskState::Attaching);
        let diskless = self.snapshot.is_some() && state == DiskState::Diskless;
        if error == ErrorNumber(0) || attaching || diskless || self.open == Some(false) {
            forget(error, out);
            return;
        }
        let (holder, generation, number) = key;
        let token = Token::Meta {
            holder,
            generation,
            number,
            step,
        };
        self.failures.add(error, Failure::of(token, errno, true), out);
    }

    /// The devices are closed: what the kernel still holds is in quarantine, and nobody is to wait for it.
    fn closed(&mut self, out: &mut Outbox<DiskEffect>) {
        self.open = Some(false);
        self.check_at = None;
        for (id, run) in std::mem::take(&mut self.table.data) {
            if !run.abandoned {
                self.replies.data.push(DataCompletion {
                    id,
                    result: Err((ErrorNumber(0), ENODEV)),
                });
            }
        }
        for (holder, generation, number) in std::mem::take(&mut self.table.meta).into_keys() {
            self.replies.meta(MetaCompletion {
                holder,
                generation,
                number,
                result: Err(ENODEV),
            });
        }
        out.send(To::State(StateIn::DiskClosed));
    }

    fn abandon(&mut self) {
        self.parked_data.clear();
        for run in self.table.data.values_mut() {
            run.abandoned = true;
        }
    }

    fn query_table(
        &mut self,
        asker: PartName,
        generation: PartGeneration,
        query: Query,
        out: &mut Outbox<DiskEffect>,
    ) {
        let mut answer = self.table.answer(asker, generation, query);
        // What waits here will get to the kernel: repeated, it would be done twice.
        for operation in &self.parked_data {
            let (range, writes) = match &operation.kind {
                DataKind::Read { range } => (Some(*range), false),
                DataKind::Write { range, .. } | DataKind::WriteZeroes { range, .. } => (Some(*range), true),
                DataKind::Flush => (None, false),
            };
            answer.data.push((operation.id, range, writes));
        }
        let parked = self
            .parked_meta
            .iter()
            .filter(|operation| operation.holder == asker);
        answer
            .meta
            .extend(parked.map(|operation| (operation.generation, operation.number)));
        match asker {
            PartName::Volume => {
                // Only with the range can a new generation mark what failed under an old one (R10): behind the table that names
                // it, it is told again.
                answer.data.extend(self.failures.named());
                out.send(To::Volume(VolumeIn::Table(answer)));
                self.replies.data.extend(self.failures.for_volume());
            }
            PartName::Bitmap => out.send(To::Bitmap(BitmapIn::Table(answer))),
            PartName::ActivityLog => out.send(To::ActivityLog(ActivityIn::Table(answer))),
            PartName::State => out.send(To::State(StateIn::Table(answer))),
            _ => out.fact(Fact::Surprise {
                what: format!("the {asker} part asked for the disk's table"),
            }),
        }
    }

    fn restarted(&mut self, part: PartName, out: &mut Outbox<DiskEffect>) {
        // A new volume part is told behind the table that it asks for.
        if part == PartName::State {
            self.failures.repeat_to_state(out);
        }
    }
}

impl Part for DiskPart {
    type In = DiskIn;
    type Effect = DiskEffect;
    const NAME: PartName = PartName::Disk;

    fn on(&mut self, cx: &mut Context<'_>, message: DiskIn, out: &mut Outbox<DiskEffect>) {
        match message {
            DiskIn::Snapshot(snapshot) => self.snapshot(snapshot, cx, out),
            DiskIn::Restarted { part, .. } => self.restarted(part, out),
            DiskIn::Open { query } => {
                self.opened_or_not(false, cx, out);
                out.effect(DiskEffect::Open { query });
            }
            DiskIn::Close => {
                self.opened_or_not(false, cx, out);
                out.effect(DiskEffect::Close);
            }
            DiskIn::Data(operations) => operations.into_iter().for_each(|one| self.data(one, cx, out)),
            DiskIn::Meta(operations) => operations.into_iter().for_each(|one| self.meta(one, cx, out)),
            DiskIn::Abandon => self.abandon(),
            DiskIn::QueryTable {
                asker,
                generation,
                query,
            } => self.query_table(asker, generation, query, out),
            DiskIn::ErrorMarked { number } => self.failures.marked(number, out),
            DiskIn::ErrorTaken { number } => self.failures.taken(number, out),
            DiskIn::Opened { query, result } => {
                if result.is_ok() {
                    self.timed_out = false;
                    self.opened_or_not(true, cx, out);
                }
                out.send(To::State(StateIn::DiskOpened { query, result }));
            }
            DiskIn::Closed => self.closed(out),
            DiskIn::Completed(completions) => completions
                .into_iter()
                .for_each(|one| self.completed(one, cx, out)),
            DiskIn::Adopted { in_kernel, failed } => self.adopted(in_kernel, failed, cx, out),
        }
        self.replies.send(out);
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Outbox<DiskEffect>) {
        if self.check_at.is_none_or(|at| at > cx.now) {
            return;
        }
        let timeout = self.configuration.disk_timeout;
        self.check_at = None;
        let Some((since, operation)) = self.table.oldest() else {
            return;
        };
        if since.after_ms(timeout) <= cx.now {
            self.timed_out = true;
            out.send(To::State(StateIn::DiskTimeout {
                operation,
                age: cx.now.ms_since(since),
            }));
        } else {
            self.check_at = Some(since.after_ms(timeout));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.check_at
    }
}

fn forget(number: ErrorNumber, out: &mut Outbox<DiskEffect>) {
    if number != ErrorNumber(0) {
        out.effect(DiskEffect::Forget { number });
    }
}

/// The answer to an operation for which there is no disk: no error of a disk, so it has no number.
fn refused(operation: DataOperation) -> DataCompletion {
    DataCompletion {
        id: operation.id,
        result: Err((ErrorNumber(0), ENODEV)),
    }
}

/// Offset 0 of the data device is where the volume starts.
fn translate(id: OperationId, kind: DataKind) -> (Token, PortOperation) {
    match kind {
        DataKind::Read { range } => {
            let length = range.byte_length() as u32;
            (
                Token::Data(id, Some(range), false),
                PortOperation::Read {
                    offset: range.byte_offset(),
                    length,
                },
            )
        }
        DataKind::Write { range, buffer, fua } => (
            Token::Data(id, Some(range), true),
            PortOperation::Write {
                offset: range.byte_offset(),
                buffer,
                fua,
            },
        ),
        DataKind::WriteZeroes {
            range,
            may_unmap,
            fua,
        } => {
            let token = if fua {
                Token::ZeroesBeforeFlush(id, range)
            } else {
                Token::Data(id, Some(range), true)
            };
            let (offset, length) = (range.byte_offset(), range.byte_length());
            (
                token,
                PortOperation::WriteZeroes {
                    offset,
                    length,
                    may_unmap,
                },
            )
        }
        DataKind::Flush => (Token::Data(id, None, false), PortOperation::Flush),
    }
}
