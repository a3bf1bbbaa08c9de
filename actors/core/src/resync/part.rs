//! The resync part: asks the bitmap for set bits, the volume part for their data, at the controller's speed.

use super::marks::Marks;
use super::rate::{Controller, TICK_MS};
use super::{JobEnd, Progress, ResyncEffect, ResyncIn};
use crate::bitmap::BitmapIn;
use crate::configuration::VolumeConfiguration;
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, PartGeneration, Query};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::snapshot::Snapshot;
use crate::volume::machine::StateIn;
use crate::volume::state::{ConnectionState, StateVector};
use mendblock_storage::units::{BLOCK_SECTORS, BlockRange, SECTOR_BYTES};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Blocks of the largest job: 1 MiB.
const MAX_JOB_BLOCKS: u32 = 256;
/// Runs asked for at once.
const MAX_RUNS: u32 = 64;
/// Least time between two reports of progress, ms.
const PROGRESS_MS: u64 = 500;
/// Pause after a failed write, and between two reports that a resync is finished, ms.
const RETRY_MS: u64 = 1000;
/// Pause after a job that the source could not serve now, ms.
const AGAIN_MS: u64 = 100;
/// Bits of a job's or query's number below the generation.
const COUNT_BITS: u32 = 32;

type Out = Outbox<ResyncEffect>;

/// A resync in which this node is the target.
struct Run {
    connection: ConnectionNumber,
    volume_sectors: u64,
    paused: bool,
    controller: Controller,
    next_tick: Instant,
    /// Sectors answered since the last tick.
    answered: u64,
    /// Sectors that may still be requested by the controller's last tick.
    allowed: u64,
    /// Sectors that may still be requested before the next tick by `c-max-rate`.
    budget: u64,
    /// Next block to ask the bitmap for.
    cursor: u64,
    /// The bitmap gave no run at or behind the cursor: the next pass begins at a tick.
    at_end: bool,
    query: Option<Query>,
    runs: VecDeque<BlockRange>,
    jobs: BTreeMap<u64, BlockRange>,
    /// Blocks that no job can get, by the bitmap's last answer.
    lost: u64,
    /// Own writes that failed.
    failed: u64,
    /// No request before this.
    not_before: Instant,
    /// All is done, which the state part was told.
    finished: bool,
    total: Option<u64>,
    left: u64,
    marks: Marks,
    reported: Option<Instant>,
}

/// The resync part.
pub struct ResyncPart {
    configuration: Arc<VolumeConfiguration>,
    /// Last job; the generation in the high bits, so that answers to a predecessor's are known as such.
    last_job: u64,
    last_query: u64,
    run: Option<Run>,
}

impl Run {
    fn new(volume_sectors: u64, connection: ConnectionNumber, controller: Controller, now: Instant) -> Self {
        Self {
            connection,
            volume_sectors,
            paused: false,
            controller,
            next_tick: now,
            answered: 0,
            allowed: 0,
            budget: 0,
            cursor: 0,
            at_end: false,
            query: None,
            runs: VecDeque::new(),
            jobs: BTreeMap::new(),
            lost: 0,
            failed: 0,
            not_before: now,
            finished: false,
            total: None,
            left: 0,
            marks: Marks::default(),
            reported: None,
        }
    }

    fn in_flight(&self) -> u64 {
        self.jobs.values().map(|range| sectors(*range)).sum()
    }

    fn is_busy(&self, range: BlockRange) -> bool {
        self.jobs.values().any(|job| job.overlaps(range))
    }

    /// A tick of the controller.
    fn tick(&mut self, now: Instant) {
        let in_flight = self.in_flight();
        self.allowed = self
            .controller
            .tick(std::mem::take(&mut self.answered), in_flight);
        self.budget = self.controller.per_tick_limit();
        self.next_tick = now.after_ms(TICK_MS);
        if self.at_end && self.query.is_none() && self.runs.is_empty() {
            self.at_end = false;
            self.cursor = 0;
        }
    }

    /// Whether one more request may go out; `most`: sectors that may be in flight at all.
    fn may_request(&self, most: u64) -> bool {
        let in_flight = self.in_flight();
        let room = in_flight < most.max(sectors_of_job());
        room && (self.allowed > 0 || (self.budget > 0 && in_flight < self.controller.refill()))
    }

    fn spend(&mut self, sectors: u64) {
        self.allowed = self.allowed.saturating_sub(sectors);
        self.budget = self.budget.saturating_sub(sectors);
    }
}

fn sectors(range: BlockRange) -> u64 {
    u64::from(range.count()) * BLOCK_SECTORS
}

fn sectors_of_job() -> u64 {
    u64::from(MAX_JOB_BLOCKS) * BLOCK_SECTORS
}

impl ResyncPart {
    /// A resync part in its `generation`; a resync that runs is taken up anew from its bits.
    pub fn new(configuration: Arc<VolumeConfiguration>, generation: PartGeneration) -> Self {
        let first = generation.0 << COUNT_BITS;
        Self {
            configuration,
            last_job: first,
            last_query: first,
            run: None,
        }
    }

    /// The state is this now, over this connection, for a volume of so many sectors.
    fn follow(
        &mut self,
        vector: &StateVector,
        connection: Option<ConnectionNumber>,
        volume_sectors: u64,
        now: Instant,
        out: &mut Out,
    ) {
        let state = vector.connection;
        let target = matches!(state, ConnectionState::SyncTarget | ConnectionState::PausedSyncT);
        let Some(connection) = connection.filter(|_| target) else {
            return self.stop(out);
        };
        if self.run.as_ref().is_some_and(|run| run.connection != connection) {
            self.stop(out);
        }
        let settings = self.configuration.resync;
        let run = self
            .run
            .get_or_insert_with(|| Run::new(volume_sectors, connection, Controller::new(settings), now));
        run.volume_sectors = volume_sectors;
        let paused = state == ConnectionState::PausedSyncT || vector.paused.any();
        if std::mem::replace(&mut run.paused, paused) != paused {
            run.marks.restart();
            run.next_tick = now;
        }
    }

    fn stop(&mut self, out: &mut Out) {
        if self.run.take().is_some() {
            out.effect(ResyncEffect::Progress(None));
        }
    }

    /// Requests as much as it may, and asks for runs when those at hand are used up.
    fn go_on(&mut self, now: Instant, out: &mut Out) {
        let Some(run) = self
            .run
            .as_mut()
            .filter(|run| !run.paused && !run.finished && run.not_before <= now)
        else {
            return;
        };
        let most = self.configuration.peer_window / 2 / SECTOR_BYTES;
        while run.may_request(most) {
            let Some(range) = run.runs.pop_front() else { break };
            // Its bits are not yet cleared.
            if run.is_busy(range) {
                continue;
            }
            let Some(cut) = range.sectors(run.volume_sectors) else {
                continue;
            };
            self.last_job += 1;
            run.jobs.insert(self.last_job, range);
            run.spend(sectors(range));
            out.send(To::Volume(VolumeIn::FetchBlocks {
                job: self.last_job,
                range: cut,
            }));
        }
        if run.runs.is_empty() && run.query.is_none() && !run.at_end {
            self.ask(out);
        }
    }

    fn ask(&mut self, out: &mut Out) {
        let Some(run) = self.run.as_mut() else { return };
        self.last_query += 1;
        let query = Query(self.last_query);
        run.query = Some(query);
        out.send(To::Bitmap(BitmapIn::NextRun {
            query,
            from: run.cursor,
            max_blocks: MAX_JOB_BLOCKS,
            max_runs: MAX_RUNS,
        }));
    }

    fn runs(
        &mut self,
        query: Query,
        runs: Vec<BlockRange>,
        set_bits: u64,
        unfetchable: u64,
        now: Instant,
        out: &mut Out,
    ) {
        let Some(run) = self.run.as_mut().filter(|run| run.query == Some(query)) else {
            return;
        };
        run.query = None;
        run.left = set_bits;
        run.lost = unfetchable;
        run.total = Some(run.total.unwrap_or(set_bits).max(set_bits));
        match runs.last() {
            Some(last) => run.cursor = last.end(),
            None => run.at_end = true,
        }
        run.runs.extend(runs.into_iter().flat_map(jobs_of));
        if set_bits.saturating_sub(unfetchable) == 0 && run.jobs.is_empty() && !run.paused {
            run.runs.clear();
            run.finished = true;
            run.not_before = now.after_ms(RETRY_MS);
            out.send(To::State(StateIn::ResyncFinished { lost: run.lost }));
        }
        self.report(now, out);
    }

    fn done(&mut self, job: u64, end: JobEnd, now: Instant) {
        let Some(run) = self.run.as_mut() else { return };
        let Some(range) = run.jobs.remove(&job) else {
            return;
        };
        run.answered += sectors(range);
        match end {
            // What cannot be had leaves the runs: the bitmap part was told.
            JobEnd::Written | JobEnd::SourceCannot => {}
            JobEnd::WriteFailed => {
                run.failed += u64::from(range.count());
                run.not_before = now.after_ms(RETRY_MS);
            }
            JobEnd::Cancelled => run.not_before = now.after_ms(AGAIN_MS),
        }
    }

    fn report(&mut self, now: Instant, out: &mut Out) {
        let Some(run) = self.run.as_mut() else { return };
        let Some(total) = run.total else { return };
        let rate = if run.paused {
            0
        } else {
            run.marks.note(now, run.left)
        };
        if run.reported.is_some_and(|at| now.ms_since(at) < PROGRESS_MS) {
            return;
        }
        run.reported = Some(now);
        let failed = run.failed + run.lost;
        out.effect(ResyncEffect::Progress(Some(Progress {
            total,
            left: run.left,
            failed,
            rate,
        })));
    }

    fn restarted(&mut self, part: PartName, now: Instant, out: &mut Out) {
        let Some(run) = self.run.as_mut() else { return };
        match part {
            PartName::Volume => {
                for (job, range) in &run.jobs {
                    if let Some(range) = range.sectors(run.volume_sectors) {
                        out.send(To::Volume(VolumeIn::FetchBlocks { job: *job, range }));
                    }
                }
                let what = format!("{} resync requests repeated", run.jobs.len());
                out.fact(Fact::Recovered { part, what });
            }
            PartName::Bitmap if run.query.take().is_some() => self.ask(out),
            PartName::State if run.finished => run.not_before = now,
            _ => {}
        }
    }
}

/// Cuts a run at the size of a job, should the bitmap give a longer one.
fn jobs_of(run: BlockRange) -> impl Iterator<Item = BlockRange> {
    (run.first()..run.end())
        .step_by(MAX_JOB_BLOCKS as usize)
        .filter_map(move |first| {
            let count = (run.end() - first).min(u64::from(MAX_JOB_BLOCKS));
            BlockRange::new(first, count as u32)
        })
}

impl Part for ResyncPart {
    type In = ResyncIn;
    type Effect = ResyncEffect;
    const NAME: PartName = PartName::Resync;

    fn on(&mut self, cx: &mut Context<'_>, message: ResyncIn, out: &mut Out) {
        match message {
            ResyncIn::Snapshot(snapshot) => {
                let Snapshot {
                    vector,
                    connection,
                    volume_sectors,
                    ..
                } = *snapshot;
                self.follow(&vector, connection, volume_sectors, cx.now, out);
            }
            ResyncIn::Restarted { part, .. } => self.restarted(part, cx.now, out),
            ResyncIn::Runs {
                query,
                runs,
                set_bits,
                unfetchable,
            } => {
                self.runs(query, runs, set_bits, unfetchable, cx.now, out);
            }
            ResyncIn::Done { job, end } => self.done(job, end, cx.now),
        }
        self.go_on(cx.now, out);
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Out) {
        let Some(run) = self.run.as_mut().filter(|run| !run.paused) else {
            return;
        };
        if run.next_tick <= cx.now {
            run.tick(cx.now);
        }
        // The state part did not act on the end: it may have died over it, or bits were set meanwhile.
        if run.finished && run.not_before <= cx.now {
            run.finished = false;
        }
        self.report(cx.now, out);
        self.go_on(cx.now, out);
    }

    fn wake_at(&self) -> Option<Instant> {
        self.run
            .as_ref()
            .filter(|run| !run.paused)
            .map(|run| run.next_tick)
    }
}

#[cfg(test)]
mod tests;
