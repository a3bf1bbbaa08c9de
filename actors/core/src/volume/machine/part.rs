//! The state part's value, its dispatch, and what every handler ends with: superblock, snapshot, word to the peer.

use super::attach::Attaching;
use super::command::Running;
use super::detach::DetachRun;
use super::link::Link;
use super::store::Store;
use super::{StateEffect, StateIn};
use crate::activity::ActivityIn;
use crate::bitmap::{BitmapIn, HealthHeader};
use crate::configuration::VolumeConfiguration;
use crate::disk::DiskIn;
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::identity::{ConnectionNumber, ErrorNumber, PartGeneration, Query, SnapshotNumber, TellNumber};
use crate::part::{Context, Instant, Outbox, Part, PartName, To};
use crate::peer::PeerIn;
use crate::resync::ResyncIn;
use crate::snapshot::{Admission, Reasons, Snapshot};
use crate::volume::generations::exposed;
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::state::{DiskState, DisklessReason, StateVector};
use crate::volume::transition::{self, Confirmed, Kind, Policy, Refusal, SideFacts};
use mendblock_storage::format::anchor::StoredAnchor;
use mendblock_storage::format::layout::MetadataLayout;
use mendblock_storage::format::superblock::Superblock;
use std::sync::Arc;

/// What is kept of an attached disk beside the snapshot.
#[derive(Clone, Debug, Hash)]
pub(super) struct AttachedDisk {
    /// Where things lie.
    pub layout: MetadataLayout,
    /// The superblock as it was read or last composed; flags are those of the last usable state.
    pub superblock: Superblock,
}

/// The state part.
#[derive(Clone)]
pub struct StatePart {
    pub(super) configuration: Arc<VolumeConfiguration>,
    pub(super) generation: PartGeneration,
    /// The picture that is being worked on; published at the end of a handler if it differs.
    pub(super) current: Snapshot,
    pub(super) published: Arc<Snapshot>,
    pub(super) queries: u64,
    pub(super) disk: Option<AttachedDisk>,
    /// What the application has seen last (`generations.md` 5).
    pub(super) exposed: Generation,
    pub(super) health: HealthHeader,
    /// A generation that is not durable yet.
    pub(super) unsettled: Option<super::generation::Unsettled>,
    pub(super) store: Store,
    pub(super) attach: Option<Attaching>,
    pub(super) detach: Option<DetachRun>,
    pub(super) link: Option<Link>,
    pub(super) running: Option<Running>,
    pub(super) errors: super::errors::Errors,
    pub(super) sync: super::sync::Sync,
    pub(super) tells: super::tell::Tells,
    pub(super) openers: u32,
    pub(super) discard_my_data: bool,
    pub(super) helper_wanted: Vec<super::helper::Wanted>,
    pub(super) last_superblock: Option<Superblock>,
    pub(super) taken: Vec<ErrorNumber>,
    /// Questions of the volume part, answered behind the snapshot of this step.
    pub(super) news_asked: Vec<Query>,
    pub(super) last_peer_state: Option<mendblock_net::wire::message::PeerState>,
}

impl StatePart {
    /// The first generation of a volume that was just configured.
    pub fn new(configuration: Arc<VolumeConfiguration>) -> Self {
        let start = Snapshot {
            number: SnapshotNumber(1),
            vector: StateVector::START,
            disk: None,
            volume_sectors: 0,
            connection: None,
            writes: Admission::Open,
            reads: Admission::Open,
            alone_settled: true,
            own_loss_settled: true,
            errors_seen: ErrorNumber(0),
            errors_settled: ErrorNumber(0),
            peer_loss_settled: true,
            tell: TellNumber(0),
            drain: None,
            mirror: false,
            link_lost_at: None,
            identifiers: Identifiers::default(),
            exposed: Generation::NONE,
            source_open: None,
            crashed_primary: false,
            reasons: Reasons {
                diskless: Some(DisklessReason::NeverAttached),
                ..Reasons::default()
            },
            waits: Vec::new(),
        };
        Self::with(configuration, PartGeneration(1), Arc::new(start))
    }

    /// A later generation: goes on from the last snapshot (R13). What ran is taken up by [`super::restart`].
    pub fn resume(
        configuration: Arc<VolumeConfiguration>,
        generation: PartGeneration,
        last: Arc<Snapshot>,
    ) -> Self {
        Self::with(configuration, generation, last)
    }

    fn with(
        configuration: Arc<VolumeConfiguration>,
        generation: PartGeneration,
        last: Arc<Snapshot>,
    ) -> Self {
        let last_disk = last.disk.as_ref().map(|facts| AttachedDisk {
            layout: facts.layout,
            superblock: facts.superblock,
        });
        let exposed = last.exposed;
        // The rest of the header is read again. This mark decides what a loss means, and the anchor goes into every
        // superblock, from the first step on.
        let anchor = last_disk
            .as_ref()
            .map_or(StoredAnchor::Absent, |disk| disk.superblock.anchor);
        let health = HealthHeader {
            source_open: last.source_open,
            anchor,
            ..HealthHeader::default()
        };
        Self {
            configuration,
            generation,
            current: (*last).clone(),
            published: last,
            // Numbers of another generation are never taken for own ones.
            queries: generation.0 << 32,
            disk: last_disk,
            exposed,
            health,
            unsettled: None,
            store: Store::default(),
            attach: None,
            detach: None,
            link: None,
            running: None,
            errors: super::errors::Errors::default(),
            sync: super::sync::Sync::default(),
            tells: super::tell::Tells::default(),
            openers: 0,
            discard_my_data: false,
            helper_wanted: Vec::new(),
            last_superblock: None,
            taken: Vec::new(),
            news_asked: Vec::new(),
            last_peer_state: None,
        }
    }

    /// The last published snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.published
    }

    pub(super) fn query(&mut self) -> Query {
        self.queries += 1;
        Query(self.queries)
    }

    pub(super) fn vector(&self) -> &StateVector {
        &self.current.vector
    }

    /// An error was taken up: its sender may forget it once the snapshot that shows it is out.
    /// Whether `connection` is the present one: an answer on an older one is void.
    pub(super) fn is_on(&self, connection: ConnectionNumber) -> bool {
        self.link
            .as_ref()
            .is_some_and(|link| link.connection == connection)
    }

    pub(super) fn take_error(&mut self, number: ErrorNumber) {
        self.taken.push(number);
    }

    pub(super) fn policy(&self, confirmed: Confirmed) -> Policy {
        Policy {
            suspend_without_data: self.configuration.on_no_data == crate::configuration::OnNoData::SuspendIo,
            facts: SideFacts {
                device_open: self.openers > 0,
                state_sent: self.link.as_ref().is_some_and(Link::is_establishing),
                // A disk that the application did not work with is not used without the peer.
                decided: self.attach.as_ref().and_then(Attaching::decided).filter(|_| {
                    exposed::negotiating_disk_stays(self.exposed, self.current.identifiers.current)
                }),
                confirmed,
                ..SideFacts::default()
            },
            ..Policy::default()
        }
    }

    /// Changes the state vector by the rules; the cause is for people.
    pub(super) fn change(
        &mut self,
        kind: Kind,
        confirmed: Confirmed,
        cause: &str,
        out: &mut Outbox<StateEffect>,
        edit: impl FnOnce(&mut StateVector),
    ) -> Result<(), Refusal> {
        let old = self.current.vector;
        let mut wanted = old;
        edit(&mut wanted);
        let change = transition::change(&old, &wanted, kind, &self.policy(confirmed))?;
        if change.new != old {
            out.fact(Fact::StateChanged {
                old,
                new: change.new,
                cause: cause.to_owned(),
            });
            self.current.vector = change.new;
            self.after_change(old);
        }
        Ok(())
    }

    /// A fact: it has happened; what the order of connection states does not allow is left out.
    pub(super) fn fact(
        &mut self,
        cause: &str,
        out: &mut Outbox<StateEffect>,
        edit: impl FnOnce(&mut StateVector),
    ) {
        if let Err(refusal) = self.change(Kind::Hard, Confirmed::Nothing, cause, out, edit) {
            out.fact(Fact::Surprise {
                what: format!("{cause}: the state refuses a fact: {refusal}"),
            });
        }
    }

    /// Facts that follow from the vector alone.
    fn after_change(&mut self, old: StateVector) {
        let new = self.current.vector;
        if new.disk == DiskState::UpToDate && new.peer_disk == DiskState::UpToDate {
            self.current.crashed_primary = false;
        }
        if new.disk != DiskState::Inconsistent {
            self.current.reasons.inconsistent = None;
        }
        if old.disk < DiskState::Consistent
            && new.disk >= DiskState::Consistent
            && new.disk != DiskState::DUnknown
        {
            self.exposed = self.current.identifiers.current;
        }
        self.note_flags();
    }

    /// What every handler ends with.
    fn finish(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.run_wanted_helpers(out);
        self.store_start(cx, out);
        self.tell_state(out);
        self.derive(cx);
        if self.current != *self.published {
            self.publish(out);
        }
        for query in std::mem::take(&mut self.news_asked) {
            let snapshot = self.current.number;
            out.send(To::Bitmap(BitmapIn::AskNews { query, snapshot }));
        }
        self.send_fence(out);
        for number in std::mem::take(&mut self.taken) {
            out.send(To::Disk(DiskIn::ErrorTaken { number }));
        }
    }

    /// Fields of the snapshot that follow from the rest.
    fn derive(&mut self, cx: &Context<'_>) {
        let vector = self.current.vector;
        let connected = vector.connection.is_connected_or_better();
        self.current.connection = self
            .link
            .as_ref()
            .filter(|_| connected)
            .map(|link| link.connection);
        self.current.mirror = transition::mirrors_writes(&vector);
        self.current.writes = self.admission(true);
        self.current.reads = self.admission(false);
        self.current.tell = self.tells.last_sent();
        self.current.exposed = self.exposed;
        self.current.source_open = self.health.source_open;
        if let (Some(facts), Some(disk)) = (self.current.disk.as_mut(), self.disk.as_ref()) {
            facts.superblock = disk.superblock;
        }
        self.current.waits = self.waits(cx);
    }

    fn publish(&mut self, out: &mut Outbox<StateEffect>) {
        self.current.number = self.current.number.next();
        let snapshot = Arc::new(self.current.clone());
        self.published = Arc::clone(&snapshot);
        out.effect(StateEffect::Publish(Arc::clone(&snapshot)));
        self.hand_out(&snapshot, out);
    }

    pub(super) fn hand_out(&self, snapshot: &Arc<Snapshot>, out: &mut Outbox<StateEffect>) {
        for part in [
            PartName::Peer,
            PartName::Volume,
            PartName::Disk,
            PartName::Bitmap,
            PartName::ActivityLog,
            PartName::Resync,
        ] {
            hand_to(part, snapshot, out);
        }
    }

    /// Tells the peer the own state when it differs from what it heard last.
    fn tell_state(&mut self, out: &mut Outbox<StateEffect>) {
        let Some(link) = self.link.as_ref().filter(|link| link.state_may_be_sent()) else {
            self.last_peer_state = None;
            return;
        };
        // T2: while `local-io-error` runs the peer hears nothing of the failed disk; afterwards D5's message goes first.
        if self.detach.as_ref().is_some_and(DetachRun::holds_tell) {
            return;
        }
        let connection = link.connection;
        let state = self.peer_state();
        let unnumbered = |state: mendblock_net::wire::message::PeerState| {
            mendblock_net::wire::message::PeerState { number: 0, ..state }
        };
        if self.last_peer_state.map(unnumbered) != Some(unnumbered(state)) {
            self.last_peer_state = Some(state);
            self.send_peer(
                connection,
                mendblock_net::wire::message::Message::State(state),
                out,
            );
        }
    }

    /// The own disk state that the peer heard last.
    pub(super) fn told_disk(&self) -> Option<u8> {
        self.last_peer_state.map(|state| state.disk)
    }

    /// The next own state is sent even if it is the same.
    pub(super) fn forget_sent_state(&mut self) {
        self.last_peer_state = None;
    }

    fn restarted(
        &mut self,
        part: PartName,
        generation: PartGeneration,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        hand_to(part, &Arc::clone(&self.published), out);
        self.take_up_after(part, generation, cx, out);
    }
}

fn hand_to(part: PartName, snapshot: &Arc<Snapshot>, out: &mut Outbox<StateEffect>) {
    let snapshot = Arc::clone(snapshot);
    match part {
        PartName::Peer => out.send(To::Peer(PeerIn::Snapshot(snapshot))),
        PartName::Volume => out.send(To::Volume(VolumeIn::Snapshot(snapshot))),
        PartName::Disk => out.send(To::Disk(DiskIn::Snapshot(snapshot))),
        PartName::Bitmap => out.send(To::Bitmap(BitmapIn::Snapshot(snapshot))),
        PartName::ActivityLog => out.send(To::ActivityLog(ActivityIn::Snapshot(snapshot))),
        PartName::Resync => out.send(To::Resync(ResyncIn::Snapshot(snapshot))),
        PartName::State | PartName::Client | PartName::Helper => {}
    }
}

impl Part for StatePart {
    type In = StateIn;
    type Effect = StateEffect;
    const NAME: PartName = PartName::State;

    fn start(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.begin(cx, out);
        self.finish(cx, out);
    }

    fn on(&mut self, cx: &mut Context<'_>, message: StateIn, out: &mut Outbox<StateEffect>) {
        match message {
            StateIn::Restarted { part, generation } => self.restarted(part, generation, cx, out),
            StateIn::AskNews { query } => self.news_asked.push(query),
            StateIn::Command { id, command } => self.command(id, command, cx, out),
            StateIn::Openers { count } => self.openers = count,
            StateIn::DiskOpened { query, result } => self.disk_opened(query, result, cx, out),
            StateIn::DiskClosed => self.disk_closed(cx, out),
            StateIn::IoError {
                number,
                kind,
                range,
                errno,
            } => self.io_error(number, kind, range, errno, cx, out),
            StateIn::Meta(completion) => self.meta_completed(completion, cx, out),
            StateIn::Table(answer) => self.table(&answer, cx, out),
            StateIn::DiskTimeout { operation, age } => self.disk_timeout(operation, age, cx, out),
            StateIn::Drained {
                snapshot,
                mark,
                complete,
            } => self.drained(snapshot, mark, complete, cx, out),
            StateIn::LossRetired { connection } => self.loss_retired(connection, cx, out),
            StateIn::Fenced { query, mark } => self.fenced(query, mark, out),
            StateIn::Quiesced { query, mark } => self.quiesced(query, mark, cx, out),
            StateIn::LogLoaded { query, result } => self.log_loaded(query, result, cx, out),
            StateIn::LogReset { query, result } => self.log_reset(query, result, cx, out),
            StateIn::HealthLoaded {
                query,
                header,
                bad_blocks,
                last_device,
            } => {
                self.health_loaded(query, header, bad_blocks, last_device, cx, out);
            }
            StateIn::BitmapLoaded { query, result } => self.bitmap_loaded(query, result, cx, out),
            StateIn::WrittenOut {
                query,
                result,
                uncovered,
            } => self.written_out(query, result, uncovered, out),
            StateIn::HealthWritten { query, durable } => self.health_written(query, durable, cx, out),
            StateIn::Anchor(anchor) => self.health.anchor = anchor,
            StateIn::ListUnwritten(anchor) => {
                self.health.anchor = anchor;
                self.store.want();
            }
            StateIn::LeftList { ranges } => self.tells.forget(&ranges),
            StateIn::TooManyBad => self.too_many_bad(cx, out),
            StateIn::TellRecorded { number, connection } => self.tell_recorded(number, connection, cx, out),
            StateIn::PeerRecordsMerged {
                connection,
                own_bad,
                peer_bad,
            } => {
                self.peer_records_merged(connection, own_bad, peer_bad, cx, out);
            }
            StateIn::BitmapExchanged { connection, set_bits } => {
                self.bitmap_exchanged(connection, set_bits, cx, out)
            }
            StateIn::AllSet { query, result } => self.all_set(query, result, cx, out),
            StateIn::SetBits { count } => self.sync.set_bits = count,
            StateIn::Link(fact) => self.link_fact(fact, cx, out),
            StateIn::Peer { connection, message } => self.peer_message(connection, message, cx, out),
            StateIn::ResyncFinished { lost } => self.resync_finished(lost, cx, out),
            StateIn::DriverFailed { part } => self.driver_failed(part, cx, out),
            StateIn::HelperEnded {
                query,
                exit_code,
                outcome,
            } => self.helper_ended(query, exit_code, outcome, cx, out),
        }
        self.advance(cx, out);
        self.finish(cx, out);
    }

    fn wake(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.deadlines(cx, out);
        self.advance(cx, out);
        self.finish(cx, out);
    }

    fn wake_at(&self) -> Option<Instant> {
        [
            self.attach.as_ref().and_then(Attaching::wake_at),
            self.detach.as_ref().and_then(DetachRun::wake_at),
            self.running.as_ref().map(Running::wake_at),
            self.sync.repair_not_before,
            self.link.as_ref().and_then(Link::wake_at),
            self.errors.wake_at(),
            self.store.wake_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
