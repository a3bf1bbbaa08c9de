//! Messages in; what the log is doing.

use super::hot_log::{HotLog, Wanted};
use super::operations::Operations;
use super::ring::{Reading, Resetting};
use super::{ActivityEffect, ActivityIn};
use crate::configuration::VolumeConfiguration;
use crate::disk::MetaCompletion;
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{PartGeneration, Query};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::snapshot::Snapshot;
use crate::volume::machine::StateIn;
use crate::volume::state::DiskState;
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::hot::{HotSet, SLOTS_MAX};
use std::sync::Arc;

/// Work on the whole ring.
#[derive(Clone, Copy, Debug)]
enum Job {
    /// For the attach (A9).
    Load(Query),
    /// For the attach (A11).
    Reset(Query),
    /// A new generation takes up where its predecessor was (R7).
    Recover,
}

#[derive(Debug)]
enum Phase {
    /// No log in use.
    Empty,
    /// A new generation that does not know yet whether there is a log.
    Unknown,
    /// Waits until nothing of a predecessor can land in the ring.
    Due(Job, MetadataLayout),
    /// Load or recovery.
    Reading(Job, Reading),
    /// Reset.
    Resetting(Query, Resetting),
    /// In use.
    Hot(Box<HotLog>),
}

/// The part of `ActivityLogActor`.
#[derive(Debug)]
pub struct ActivityPart {
    configuration: Arc<VolumeConfiguration>,
    generation: PartGeneration,
    snapshot: Option<Arc<Snapshot>>,
    /// Newest generation of the volume part that was heard of.
    volume: PartGeneration,
    operations: Operations,
    /// Number of the last write-out.
    queries: u64,
    /// Sets made in this generation.
    sets: u64,
    phase: Phase,
    /// Activations that came before the log was usable.
    parked: Vec<Wanted>,
    /// The volume part wants to know every hot extent.
    listing: Option<Query>,
}

impl ActivityPart {
    /// A generation of the part; a later one than the first finds out what its predecessor left behind.
    pub fn new(configuration: Arc<VolumeConfiguration>, generation: PartGeneration) -> Self {
        Self {
            configuration,
            generation,
            snapshot: None,
            volume: PartGeneration(0),
            operations: Operations::new(generation),
            // A predecessor's write-out may be answered to this generation.
            queries: generation.0 << 40,
            sets: 0,
            phase: if generation.0 > 1 {
                Phase::Unknown
            } else {
                Phase::Empty
            },
            parked: Vec::new(),
            listing: None,
        }
    }

    fn slots(&self, layout: &MetadataLayout) -> u16 {
        let configured = self.configuration.al_extents.min(u32::from(SLOTS_MAX)) as u16;
        configured.clamp(1, layout.log().max_slots())
    }

    /// Numbers of grants and revokes differ from those of every set before (R8).
    fn numbered(&mut self, set: HotSet) -> HotSet {
        self.sets += 1;
        set.numbered_after((self.generation.0 & 0xFFF) << 52 | (self.sets & 0xFFF) << 40)
    }

    fn snapshot(&mut self, snapshot: Arc<Snapshot>, out: &mut Outbox<ActivityEffect>) {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|last| last.number >= snapshot.number)
        {
            return;
        }
        let usable = !matches!(snapshot.vector.disk, DiskState::Failed | DiskState::Diskless);
        let layout = snapshot.disk.as_ref().map(|disk| disk.layout);
        self.snapshot = Some(snapshot);
        match (&mut self.phase, layout) {
            (Phase::Unknown, Some(layout)) if usable => {
                self.phase = Phase::Due(Job::Recover, layout);
                self.begin_due(out);
            }
            (Phase::Unknown, _) => self.phase = Phase::Empty,
            (Phase::Hot(log), _) if !usable => log.disk_failed(),
            _ => {}
        }
        if !usable {
            self.parked.clear();
        }
    }

    fn due(&mut self, job: Job, layout: MetadataLayout, out: &mut Outbox<ActivityEffect>) {
        self.operations.forget_all();
        self.parked.clear();
        self.phase = Phase::Due(job, layout);
        self.begin_due(out);
    }

    fn begin_due(&mut self, out: &mut Outbox<ActivityEffect>) {
        let Phase::Due(job, layout) = self.phase else {
            return;
        };
        if !self.operations.is_alone() {
            return;
        }
        if let Job::Reset(query) = job {
            self.phase = Phase::Resetting(query, Resetting::begin(layout, &mut self.operations, out));
            return;
        }
        match Reading::begin(layout, &mut self.operations, out) {
            Ok(reading) => self.phase = Phase::Reading(job, reading),
            Err(text) => {
                self.phase = Phase::Empty;
                self.unusable(job, text, out);
            }
        }
    }

    fn completed(&mut self, completion: MetaCompletion, out: &mut Outbox<ActivityEffect>) {
        let waited_for = self
            .operations
            .completed(completion.generation, completion.number);
        if !waited_for {
            return self.begin_due(out);
        }
        match &mut self.phase {
            Phase::Reading(job, reading) => {
                let job = *job;
                if reading.completed(completion, &mut self.operations, out) {
                    self.ring_read(job, out);
                }
            }
            Phase::Resetting(query, resetting) => {
                let query = *query;
                if let Some(result) = resetting.completed(&completion, &mut self.operations, out) {
                    let layout = resetting.layout();
                    self.reset(query, result, layout, out);
                }
            }
            Phase::Hot(log) => log.completed(completion.number, completion.result.is_err(), out),
            Phase::Empty | Phase::Unknown | Phase::Due(..) => {}
        }
    }

    fn ring_read(&mut self, job: Job, out: &mut Outbox<ActivityEffect>) {
        let Phase::Reading(_, reading) = std::mem::replace(&mut self.phase, Phase::Empty) else {
            return;
        };
        let layout = reading.layout();
        let replay = match reading.replay() {
            Ok(replay) => replay,
            Err(text) => return self.unusable(job, text, out),
        };
        if let Job::Load(query) = job {
            let result = Ok(replay.extents().into_iter().collect());
            return out.send(To::State(StateIn::LogLoaded { query, result }));
        }
        match HotSet::from_replay(self.slots(&layout), replay.slots) {
            Ok(set) => {
                let what = format!("{} extents of the log count as granted", set.held_count());
                out.fact(Fact::Recovered {
                    part: PartName::ActivityLog,
                    what,
                });
                let set = self.numbered(set);
                self.use_log(HotLog::new(layout, set, replay.next_number), out);
            }
            Err(error) => self.unusable(job, error.to_string(), out),
        }
    }

    /// The ring says nothing. For an attach that is an answer; a log in use cannot go on without it, and the disk is given up.
    fn unusable(&mut self, job: Job, text: String, out: &mut Outbox<ActivityEffect>) {
        if let Job::Load(query) = job {
            return out.send(To::State(StateIn::LogLoaded {
                query,
                result: Err(text),
            }));
        }
        let what = format!(
            "the activity log in use cannot be read back ({text}): the disk is given up; replace it or attach it anew"
        );
        out.fact(Fact::Alert { what });
        out.send(To::State(StateIn::DriverFailed {
            part: PartName::ActivityLog,
        }));
    }

    fn reset(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        layout: MetadataLayout,
        out: &mut Outbox<ActivityEffect>,
    ) {
        self.phase = Phase::Empty;
        out.send(To::State(StateIn::LogReset { query, result }));
        if result.is_ok() {
            let set = HotSet::new(self.slots(&layout));
            let set = self.numbered(set);
            self.use_log(HotLog::new(layout, set, 0), out);
        }
    }

    fn use_log(&mut self, mut log: HotLog, out: &mut Outbox<ActivityEffect>) {
        for wanted in std::mem::take(&mut self.parked) {
            log.activate(wanted, out);
        }
        self.phase = Phase::Hot(Box::new(log));
    }

    /// A generation of the volume part; a newer one ends what older ones wanted.
    fn volume_is(&mut self, generation: PartGeneration, out: &mut Outbox<ActivityEffect>) {
        if generation <= self.volume {
            return;
        }
        self.volume = generation;
        self.parked.retain(|wanted| wanted.holder >= generation);
        if let Phase::Hot(log) = &mut self.phase {
            log.volume_restarted(generation, out);
        }
    }

    fn activate(&mut self, wanted: Wanted, out: &mut Outbox<ActivityEffect>) {
        self.volume_is(wanted.holder, out);
        if wanted.holder < self.volume {
            return;
        }
        match &mut self.phase {
            Phase::Hot(log) => log.activate(wanted, out),
            Phase::Empty => {}
            Phase::Unknown | Phase::Due(..) | Phase::Reading(..) | Phase::Resetting(..) => {
                self.parked.push(wanted)
            }
        }
    }

    fn restarted(&mut self, part: PartName, generation: PartGeneration, out: &mut Outbox<ActivityEffect>) {
        match part {
            PartName::Volume => self.volume_is(generation, out),
            PartName::Disk => self.operations.ask(out),
            PartName::Bitmap => {
                if let Phase::Hot(log) = &self.phase {
                    log.bitmap_restarted(out);
                }
            }
            _ => {}
        }
    }

    fn unload(&mut self) {
        self.phase = Phase::Empty;
        self.parked.clear();
        self.operations.forget_all();
    }
}

impl Part for ActivityPart {
    type In = ActivityIn;
    type Effect = ActivityEffect;
    const NAME: PartName = PartName::ActivityLog;

    fn start(&mut self, _cx: &mut Context<'_>, out: &mut Outbox<ActivityEffect>) {
        if self.generation.0 > 1 {
            self.operations.ask(out);
        }
    }

    fn on(&mut self, _cx: &mut Context<'_>, message: ActivityIn, out: &mut Outbox<ActivityEffect>) {
        match message {
            ActivityIn::Snapshot(snapshot) => self.snapshot(snapshot, out),
            ActivityIn::Restarted { part, generation } => self.restarted(part, generation, out),
            ActivityIn::Load { query, layout } => self.due(Job::Load(query), *layout, out),
            ActivityIn::Reset { query, layout } => self.due(Job::Reset(query), *layout, out),
            ActivityIn::Unload => self.unload(),
            ActivityIn::Activate { extents, holder } => self.activate(Wanted { extents, holder }, out),
            ActivityIn::Released {
                number,
                grants,
                not_held,
            } => {
                if let Phase::Hot(log) = &mut self.phase {
                    log.released(number, grants, &not_held);
                }
            }
            ActivityIn::Touched(extents) => {
                if let Phase::Hot(log) = &mut self.phase {
                    log.touched(&extents);
                }
            }
            ActivityIn::ListHot { query } => self.listing = Some(query),
            ActivityIn::WrittenOut { query, result } => {
                if let Phase::Hot(log) = &mut self.phase {
                    log.written_out(query, result, &mut self.operations, out);
                }
            }
            ActivityIn::Meta(completions) => completions.into_iter().for_each(|one| self.completed(one, out)),
            ActivityIn::Table(answer) => {
                self.operations.answered(&answer, out);
                self.begin_due(out);
            }
        }
        if let Phase::Hot(log) = &mut self.phase {
            log.drive(&mut self.queries, &mut self.operations, out);
            // A new generation answers when it has read the ring again.
            if let Some(query) = self.listing.take() {
                out.send(To::Volume(VolumeIn::HotExtents {
                    query,
                    extents: log.extents(),
                }));
            }
        }
    }

    fn wake(&mut self, _cx: &mut Context<'_>, _out: &mut Outbox<ActivityEffect>) {}

    fn wake_at(&self) -> Option<Instant> {
        None
    }
}
