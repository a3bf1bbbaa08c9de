//! Attach, step by step (A1 to A14). Up to A12 a failed attach leaves no change on disk but bits that were set and the
//! log that they replace; the peer is told nothing that would make it take a generation.

use super::part::{AttachedDisk, StatePart};
use super::store::{Then, identifiers_of};
use super::{ErrorKind, StateEffect};
use crate::activity::ActivityIn;
use crate::bitmap::{BitmapIn, HeaderChange, HealthHeader, LoadPlan};
use crate::disk::{DiskIn, MetaCompletion, MetaKind, MetaOperation, OpenFailure, OpenedDevice};
use crate::fact::Fact;
use crate::identity::{AttachId, Query};
use crate::part::{Context, Instant, Outbox, PartName, To};
use crate::snapshot::DiskFacts;
use crate::volume::generations::exposed;
use crate::volume::generations::identifiers::Generation;
use crate::volume::state::{AttachFailure, ConnectionState, DetachCause, DiskState, DisklessReason, Role};
use crate::volume::transition::{Confirmed, Decided, Kind};
use mendblock_storage::format::META_BLOCK_BYTES;
use mendblock_storage::format::anchor::StoredAnchor;
use mendblock_storage::format::layout::{self, DeviceSizes};
use mendblock_storage::format::superblock::{Flags, UnverifiedSuperblock};

/// The step that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A2.
    Open(Query),
    /// A3: number of the read.
    Superblock(u64),
    /// A6.
    Health(Query),
    /// A9.
    Log(Query),
    /// A10, A11.
    Bitmap(Query),
    /// A11.
    Reset(Query),
    /// A12 waits until a connection that is being established has come to an end.
    Settle,
    /// A13.
    Commit,
    /// A14 with a connection: the handshake decides.
    Negotiate,
}

/// An attach that runs.
#[derive(Clone, Hash)]
pub(super) struct Attaching {
    step: Step,
    opened: Option<OpenedDevice>,
    new_disk: bool,
    commands: Vec<u64>,
    decided: Option<Decided>,
    crashed_primary: bool,
    extents: Vec<u32>,
    set_all: bool,
    list_lost: bool,
    until: Instant,
}

impl Attaching {
    pub fn wake_at(&self) -> Option<Instant> {
        Some(self.until)
    }

    pub fn is_committing(&self) -> bool {
        matches!(self.step, Step::Commit | Step::Negotiate)
    }

    /// The attach waits for the connection: the parameters that are sent do not depend on it.
    pub fn is_waiting(&self) -> bool {
        self.step == Step::Settle
    }

    /// What the meta-data says, while the handshake decides.
    pub fn decided(&self) -> Option<Decided> {
        self.decided
    }

    pub fn is_negotiating(&self) -> bool {
        self.step == Step::Negotiate
    }

    pub fn step_name(&self) -> &'static str {
        match self.step {
            Step::Open(_) => "attach A2",
            Step::Superblock(_) => "attach A3",
            Step::Health(_) => "attach A6",
            Step::Log(_) => "attach A9",
            Step::Bitmap(_) => "attach A10",
            Step::Reset(_) => "attach A11",
            Step::Settle => "attach A12",
            Step::Commit => "attach A13",
            Step::Negotiate => "attach A14",
        }
    }

    pub fn into_commands(self) -> Vec<u64> {
        self.commands
    }

    pub fn until(&self) -> Instant {
        self.until
    }
}

impl StatePart {
    /// A1, A2.
    pub(super) fn begin_attach(
        &mut self,
        command: u64,
        new_disk: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let query = self.query();
        self.attach = Some(Attaching {
            step: Step::Open(query),
            opened: None,
            new_disk,
            commands: vec![command],
            decided: None,
            crashed_primary: false,
            extents: Vec::new(),
            set_all: false,
            list_lost: false,
            until: cx.now.after_ms(self.configuration.detach_step_timeout),
        });
        out.send(To::Disk(DiskIn::Open { query }));
    }

    fn step(&mut self, step: Step, cx: &Context<'_>) {
        let timeout = self.configuration.detach_step_timeout;
        if let Some(attach) = self.attach.as_mut() {
            attach.step = step;
            attach.until = cx.now.after_ms(timeout);
        }
    }

    fn waits_for(&self, step: &Step) -> bool {
        self.attach.as_ref().is_some_and(|attach| attach.step == *step)
    }

    pub(super) fn disk_opened(
        &mut self,
        query: Query,
        result: Result<OpenedDevice, OpenFailure>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.waits_for(&Step::Open(query)) {
            // The attach gave up meanwhile: nobody uses this device.
            if result.is_ok() && self.disk.is_none() {
                out.send(To::Disk(DiskIn::Close));
            }
            return;
        }
        let opened = match result {
            Ok(opened) => opened,
            Err(failure) => return self.attach_failed(open_failure(&failure), open_text(failure), out),
        };
        let meta_bytes = opened.meta_bytes.unwrap_or(opened.data_bytes);
        let at = match layout::superblock_byte(self.configuration.meta_index, meta_bytes) {
            Ok(at) => at,
            Err(error) => return self.attach_failed(AttachFailure::NoMetaData, error.to_string(), out),
        };
        let number = self.query().0;
        if let Some(attach) = self.attach.as_mut() {
            attach.opened = Some(opened);
        }
        self.step(Step::Superblock(number), cx);
        out.send(To::Disk(DiskIn::Meta(vec![MetaOperation {
            holder: PartName::State,
            generation: self.generation,
            number,
            kind: MetaKind::Read {
                offset: at,
                length: META_BLOCK_BYTES as u32,
            },
        }])));
    }

    /// A3 to A5. True if the completion was for the attach.
    pub(super) fn attach_meta(
        &mut self,
        completion: &MetaCompletion,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        if !self.waits_for(&Step::Superblock(completion.number)) {
            return false;
        }
        let bytes = match &completion.result {
            Ok(Some(bytes)) => bytes.clone(),
            Ok(None) => return true,
            Err(errno) => {
                self.attach_failed(
                    AttachFailure::MetaDataIo,
                    format!("the superblock could not be read (errno {errno})"),
                    out,
                );
                return true;
            }
        };
        if let Err((failure, text)) = self.superblock_read(&bytes, cx, out) {
            self.attach_failed(failure, text, out);
        }
        true
    }

    fn superblock_read(
        &mut self,
        bytes: &[u8],
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> Result<(), (AttachFailure, String)> {
        let opened = self.attach.as_ref().and_then(|attach| attach.opened.clone());
        let Some(opened) = opened else { return Ok(()) };
        let sizes = DeviceSizes {
            data_bytes: opened.data_bytes,
            meta_bytes: opened.meta_bytes.unwrap_or(opened.data_bytes),
        };
        let verified = UnverifiedSuperblock::parse(bytes)
            .and_then(|superblock| superblock.verify(self.configuration.meta_index, sizes))
            .map_err(|error| (AttachFailure::NoMetaData, error.to_string()))?;
        let usable = verified.layout.usable_sectors();
        if self.current.volume_sectors > usable {
            let text = format!(
                "the disk has {usable} sectors, the volume {}",
                self.current.volume_sectors
            );
            return Err((AttachFailure::TooSmall, text));
        }
        let mut superblock = verified.superblock;
        if superblock.device_id == 0 {
            superblock.device_id = cx.fresh();
        }
        self.current.disk = Some(DiskFacts {
            attach_id: AttachId(cx.fresh()),
            data_sectors: usable,
            logical_block: opened.logical_block,
            device_id: superblock.device_id,
            backend: opened.backend,
            layout: verified.layout,
            superblock,
        });
        self.store.attached(superblock.flags);
        let device_id = superblock.device_id;
        self.disk = Some(AttachedDisk {
            layout: verified.layout,
            superblock,
        });
        let query = self.query();
        self.step(Step::Health(query), cx);
        out.send(To::Bitmap(BitmapIn::LoadHealth {
            query,
            device_id: Some(device_id),
        }));
        Ok(())
    }

    /// A6 to A9.
    pub(super) fn health_loaded(
        &mut self,
        query: Query,
        header: Option<Box<HealthHeader>>,
        bad_blocks: u64,
        last_device: Option<u64>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.startup_health(query, header.as_deref()) || !self.waits_for(&Step::Health(query)) {
            return;
        }
        if let Err((failure, text)) = self.health_read(header, bad_blocks, last_device, cx, out) {
            self.attach_failed(failure, text, out);
        }
    }

    fn health_read(
        &mut self,
        header: Option<Box<HealthHeader>>,
        bad_blocks: u64,
        last_device: Option<u64>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> Result<(), (AttachFailure, String)> {
        let Some(superblock) = self.disk.as_ref().map(|disk| disk.superblock) else {
            return Ok(());
        };
        let new_disk = self.attach.as_ref().is_some_and(|attach| attach.new_disk);
        let fresh = superblock.generations.current == Generation::JUST_CREATED.0;
        if let Some(last) = last_device.filter(|&last| last != superblock.device_id && !new_disk && !fresh) {
            let text = format!(
                "the disk has device id {:016X}, the one used last had {last:016X}",
                superblock.device_id
            );
            return Err((AttachFailure::OtherDisk, text));
        }
        self.list_of_anchor(&superblock.anchor, header.as_deref(), bad_blocks, out);
        self.health = header.map(|header| *header).unwrap_or_default();
        let identifiers = identifiers_of(superblock.generations.slots());
        let vector = *self.vector();
        exposed::may_attach(&exposed::Attach {
            exposed: self.exposed,
            current: identifiers.current,
            in_use: vector.role == Role::Primary || vector.peer_role == Role::Primary,
            peer_up_to_date: vector.connection.is_connected_or_better()
                && vector.peer_disk == DiskState::UpToDate,
        })
        .map_err(|error| (AttachFailure::DataNotCurrent, error.to_string()))?;
        self.change(Kind::Soft, Confirmed::Nothing, "attach", out, |v| {
            v.disk = DiskState::Attaching
        })
        .map_err(|refusal| (AttachFailure::StateRefused, refusal.to_string()))?;
        self.current.reasons.diskless = None;
        self.current.reasons.failed_request = None;
        self.current.identifiers = identifiers;
        let flags = superblock.flags;
        if let Some(attach) = self.attach.as_mut() {
            attach.crashed_primary =
                flags.contains(Flags::CRASHED_PRIMARY) || flags.contains(Flags::PRIMARY_IND);
            attach.set_all = flags.contains(Flags::FULL_SYNC)
                || (flags.contains(Flags::AL_DISABLED) && flags.contains(Flags::PRIMARY_IND));
        }
        if superblock.log_is_clean() {
            return self.load_bitmap(cx, out);
        }
        let query = self.query();
        self.step(Step::Log(query), cx);
        if let Some(disk) = self.disk.as_ref() {
            out.send(To::ActivityLog(ActivityIn::Load {
                query,
                layout: Box::new(disk.layout),
            }));
        }
        Ok(())
    }

    /// 9.3: what the anchor says about the list in the health file.
    fn list_of_anchor(
        &mut self,
        anchor: &StoredAnchor,
        header: Option<&HealthHeader>,
        bad_blocks: u64,
        out: &mut Outbox<StateEffect>,
    ) {
        let lost = match anchor {
            // Another file of the same disk (made when the first one was lost) counts from the beginning again.
            StoredAnchor::Present(anchor) => {
                let same = |header: &HealthHeader| match header.anchor {
                    StoredAnchor::Present(of_file) => of_file.health_id == anchor.health_id,
                    _ => true,
                };
                anchor.record_count > 0
                    && header.is_none_or(|header| header.sequence < anchor.sequence || !same(header))
            }
            StoredAnchor::Damaged(_) => true,
            StoredAnchor::Absent => false,
        };
        if lost {
            out.fact(Fact::Alert {
                what: format!("the superblock says that a bad-block list existed, but the health file is missing or older ({bad_blocks} records): every block that is out of sync counts as bad here; connect the peer"),
            });
        }
        if let Some(attach) = self.attach.as_mut() {
            attach.list_lost = lost;
        }
    }

    /// A9 ended.
    pub(super) fn log_loaded(
        &mut self,
        query: Query,
        result: Result<Vec<u32>, String>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.waits_for(&Step::Log(query)) {
            return;
        }
        let primary = self
            .disk
            .as_ref()
            .is_some_and(|disk| disk.superblock.flags.contains(Flags::PRIMARY_IND));
        match result {
            // Only a (crashed) Primary has writes under way that the log covers; a Secondary's blocks are in its peer's log.
            Ok(extents) => {
                if let Some(attach) = self.attach.as_mut().filter(|_| primary) {
                    attach.extents = extents;
                }
            }
            Err(text) => {
                out.fact(Fact::Alert {
                    what: format!("activity log unusable ({text}): all blocks count as out of sync"),
                });
                if let Some(attach) = self.attach.as_mut().filter(|_| primary) {
                    attach.set_all = true;
                }
            }
        }
        if let Err((failure, text)) = self.load_bitmap(cx, out) {
            self.attach_failed(failure, text, out);
        }
    }

    /// A10, A11.
    fn load_bitmap(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) -> Result<(), (AttachFailure, String)> {
        let query = self.query();
        let (Some(disk), Some(attach)) = (self.disk.as_ref(), self.attach.as_ref()) else {
            return Ok(());
        };
        let effective = disk.superblock.effective_sectors;
        let sectors = match (self.current.volume_sectors, effective) {
            (0, 0) => disk.layout.usable_sectors(),
            (0, effective) => effective,
            (known, _) => known,
        };
        let plan = LoadPlan {
            layout: disk.layout,
            volume_sectors: sectors,
            agreed_sectors: effective,
            set_all: attach.set_all,
            extents: attach.extents.clone(),
            list_lost: attach.list_lost,
        };
        self.current.volume_sectors = sectors;
        self.step(Step::Bitmap(query), cx);
        out.send(To::Bitmap(BitmapIn::Load {
            query,
            plan: Box::new(plan),
        }));
        Ok(())
    }

    pub(super) fn bitmap_loaded(
        &mut self,
        query: Query,
        result: Result<u64, i32>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.waits_for(&Step::Bitmap(query)) {
            return;
        }
        match result {
            Ok(bits) => self.sync.set_bits = bits,
            Err(errno) => {
                return self.attach_failed(
                    AttachFailure::MetaDataIo,
                    format!("the bitmap could not be written (errno {errno})"),
                    out,
                );
            }
        }
        let query = self.query();
        self.step(Step::Reset(query), cx);
        if let Some(disk) = self.disk.as_ref() {
            out.send(To::ActivityLog(ActivityIn::Reset {
                query,
                layout: Box::new(disk.layout),
            }));
        }
    }

    pub(super) fn log_reset(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.waits_for(&Step::Reset(query)) {
            return;
        }
        if let Err(errno) = result {
            return self.attach_failed(
                AttachFailure::MetaDataIo,
                format!("the activity log could not be reset (errno {errno})"),
                out,
            );
        }
        self.step(Step::Settle, cx);
        self.adopt(cx, out);
    }

    /// A12: the state that the meta-data gives, at once or (connected) after the handshake.
    pub(super) fn adopt(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let connection = self.vector().connection;
        let establishing = connection == ConnectionState::WFReportParams;
        if !self.waits_for(&Step::Settle) || establishing {
            return;
        }
        let (Some(disk), Some(facts)) = (self.disk.as_mut(), self.current.disk.clone()) else {
            return;
        };
        let flags = disk.superblock.flags;
        disk.superblock.flags = flags.without(Flags::FULL_SYNC);
        let outdated = self
            .health
            .outdated_since
            .is_some_and(|generation| self.outdated_stands(generation));
        let state = decided_state(flags, outdated);
        let peer_disk = if flags.contains(Flags::PEER_OUT_DATED) {
            DiskState::Outdated
        } else {
            DiskState::DUnknown
        };
        if let Some(attach) = self.attach.as_mut() {
            attach.decided = Some(Decided {
                disk: state,
                peer_disk,
            });
            self.current.crashed_primary |= attach.crashed_primary;
        }
        let negotiate = connection.is_connected_or_better();
        let wanted = if negotiate { DiskState::Negotiating } else { state };
        let changed = self.change(
            Kind::Soft,
            Confirmed::Nothing,
            "attach: state from the meta-data",
            out,
            |v| {
                v.disk = wanted;
                if !negotiate && peer_disk == DiskState::Outdated {
                    v.peer_disk = DiskState::Outdated;
                }
            },
        );
        if let Err(refusal) = changed {
            return self.attach_failed(AttachFailure::StateRefused, refusal.to_string(), out);
        }
        if self.vector().disk == DiskState::Inconsistent {
            self.current.reasons.inconsistent = Some(crate::volume::state::InconsistentReason::FoundAtAttach);
        }
        self.current.own_loss_settled = true;
        let primary = self.vector().role == Role::Primary;
        self.current.identifiers = self.current.identifiers.with_role(primary);
        self.only_disk_of_a_primary(cx, out);
        self.step(Step::Commit, cx);
        self.set_header(
            HeaderChange {
                attached: Some((facts.device_id, facts.attach_id.0)),
                ..HeaderChange::default()
            },
            out,
        );
        self.store(Then::AttachCommitted);
    }

    /// A record "outdated since G" is void when G is the disk's own current, bitmap or history id.
    pub(super) fn outdated_stands(&self, generation: u64) -> bool {
        let ids = self.current.identifiers;
        let generation = Generation(generation);
        ![ids.current, ids.bitmap, ids.history[0], ids.history[1]]
            .iter()
            .any(|id| id.same(generation))
    }

    /// A disk that becomes the only UpToDate copy of a Primary takes a new generation before it takes a write.
    pub(super) fn only_disk_of_a_primary(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        let in_use = vector.role == Role::Primary || vector.peer_role == Role::Primary;
        if vector.disk == DiskState::UpToDate && vector.peer_disk != DiskState::UpToDate && in_use {
            self.advance_generation("attached as the only disk of a Primary", cx, out);
        }
    }

    /// A13 ended, A14.
    pub(super) fn attach_committed(&mut self, ok: bool, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        if self.attach.is_none() {
            return;
        }
        if !ok {
            self.begin_detach(DetachCause::Attach, false, cx, out);
            return;
        }
        out.fact(Fact::Step {
            step: "A13",
            outcome: "attached".to_owned(),
        });
        if self.vector().disk == DiskState::Negotiating {
            self.step(Step::Negotiate, cx);
            self.offer_disk(out);
        } else {
            self.attach_ended(out);
            if self.vector().connection == ConnectionState::WFConnection {
                self.forget_sent_state();
            }
        }
    }

    /// The attach is over and well.
    pub(super) fn attach_ended(&mut self, out: &mut Outbox<StateEffect>) {
        let Some(attach) = self.attach.take() else { return };
        let answer = super::command::done(format!("disk is {}", self.vector().disk));
        for command in attach.commands {
            out.effect(StateEffect::Answer {
                id: command,
                answer: answer.clone(),
            });
        }
    }

    fn attach_text(&self, failure: AttachFailure, text: &str) -> String {
        format!("{failure} ({text})")
    }

    /// Undo: the volume is Diskless again, for this reason.
    pub(super) fn attach_failed(
        &mut self,
        failure: AttachFailure,
        text: String,
        out: &mut Outbox<StateEffect>,
    ) {
        let Some(attach) = self.attach.take() else { return };
        out.fact(Fact::Step {
            step: "attach",
            outcome: self.attach_text(failure, &text),
        });
        // Else the peer, which may have decided for a resync, would not be told, and the next attach would be refused.
        let offered = self.vector().disk == DiskState::Negotiating;
        if let Some(link) = self.link.as_mut().filter(|_| offered) {
            link.withdraw();
        }
        self.fact("the attach failed", out, |v| v.disk = DiskState::Diskless);
        self.current.reasons.diskless = Some(DisklessReason::AttachFailed(failure));
        self.release_disk(out);
        out.send(To::Disk(DiskIn::Close));
        let answer = super::command::attach_refused(failure, &text);
        for command in attach.commands {
            out.effect(StateEffect::Answer {
                id: command,
                answer: answer.clone(),
            });
        }
    }

    /// The link is gone before the handshake decided about the disk that is attached: by the rules it has the state of its
    /// meta-data now, or is let go.
    pub(super) fn negotiation_lost(&mut self, out: &mut Outbox<StateEffect>) {
        let Some(attach) = self.attach.as_ref().filter(|attach| attach.is_committing()) else {
            return;
        };
        if !self.vector().disk.is_usable() {
            self.attach_failed(
                AttachFailure::Interrupted,
                "the connection was lost while the disk was negotiated".to_owned(),
                out,
            );
            self.current.reasons.diskless = Some(DisklessReason::ConnectionLostWhileNegotiating);
        } else if attach.is_negotiating() {
            self.attach_ended(out);
        }
    }

    /// Everything that belongs to the attached disk is let go.
    pub(super) fn release_disk(&mut self, out: &mut Outbox<StateEffect>) {
        self.disk = None;
        self.current.disk = None;
        self.current.drain = None;
        out.send(To::Bitmap(BitmapIn::Unload));
        out.send(To::ActivityLog(ActivityIn::Unload));
    }

    /// A disk that never was in use failed during its attach: not a detach of a disk in use.
    pub(super) fn attach_error(
        &mut self,
        kind: ErrorKind,
        errno: i32,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        let early = self.attach.as_ref().is_some_and(|attach| !attach.is_committing());
        if early {
            self.attach_failed(
                AttachFailure::MetaDataIo,
                format!("{kind:?} error, errno {errno}"),
                out,
            );
        }
        early
    }

    pub(super) fn attach_deadline(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let late = self.attach.as_ref().is_some_and(|attach| attach.until <= cx.now);
        if late && self.vector().disk.is_usable() {
            // A13: the state is shown already, requests may be on the disk: it is drained.
            self.begin_detach(DetachCause::Attach, false, cx, out);
        } else if late {
            let negotiates = self.attach.as_ref().is_some_and(Attaching::is_negotiating);
            let step = self.attach.as_ref().map_or("attach", Attaching::step_name);
            self.attach_failed(
                AttachFailure::TimedOut,
                format!("{step} did not end in time"),
                out,
            );
            if negotiates {
                self.current.reasons.diskless = Some(DisklessReason::NegotiationTimedOut);
            }
        }
    }
}

fn decided_state(flags: Flags, outdated: bool) -> DiskState {
    match (
        flags.contains(Flags::CONSISTENT),
        flags.contains(Flags::WAS_UP_TO_DATE),
    ) {
        (false, _) => DiskState::Inconsistent,
        (true, false) => DiskState::Outdated,
        (true, true) if outdated => DiskState::Outdated,
        (true, true) => DiskState::UpToDate,
    }
}

fn open_failure(failure: &OpenFailure) -> AttachFailure {
    match failure {
        OpenFailure::Busy { .. } => AttachFailure::Busy,
        OpenFailure::Failed { in_use: true, .. } => AttachFailure::InUse,
        OpenFailure::Failed { .. } => AttachFailure::Open,
    }
}

fn open_text(failure: OpenFailure) -> String {
    match failure {
        OpenFailure::Busy { in_kernel, oldest } => {
            format!("{in_kernel} requests are in the kernel, the oldest since {oldest} ms")
        }
        OpenFailure::Failed { text, .. } => text,
    }
}
