//! A resync as the state part sees it: bitmaps exchanged, START and FINISH of source and target, each durable before it
//! is told.

use super::StateEffect;
use super::link::Link;
use super::part::StatePart;
use super::store::Then;
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::engine::VolumeIn;
use crate::fact::Fact;
use crate::helper::Handler;
use crate::identity::{ConnectionNumber, MarkNumber, Query};
use crate::part::{Context, Instant, Outbox, To};
use crate::planted::{Fault, is_planted};
use crate::volume::generations::exposed;
use crate::volume::generations::handshake::Decision;
use crate::volume::generations::identifiers::{Generation, Identifiers};
use crate::volume::state::{ConnectionState, DiskState, InconsistentReason, Role, StateVector};
use crate::volume::transition::{Confirmed, Kind};
use mendblock_net::wire::message::{Message, PeerState};

/// What a resync needs to know from its beginning to its end.
#[derive(Clone, Default, Hash)]
pub(super) struct Sync {
    pub set_bits: u64,
    /// The resync that was decided on last: on one connection another one may follow a resync that was given up, and what was
    /// stored for that one must not start this.
    round: Option<Query>,
    /// Own and peer's slots as corrected by the comparison.
    own_corrected: Option<Identifiers>,
    peer_identifiers: Option<Identifiers>,
    /// All bits are being set before the exchange.
    setting: Option<Query>,
    full: bool,
    exchanged: bool,
    sync_id: Option<Generation>,
    finishing: bool,
    running: bool,
    /// Target: the own disk failed a request meanwhile. Its blocks may have been marked behind the resync's last look.
    spoiled: Option<InconsistentReason>,
    lost: u64,
    /// "Outdated since", being written by a node without a disk.
    pub outdated_note: Option<(Query, u64)>,
    /// "Source open" is being written: START-SOURCE follows.
    /// The exchange of this resync was ordered.
    exchange_ordered: bool,
    source_open: Option<Query>,
    /// The volume part is asked to take up that writes wait: the question, and whether it went out.
    fence: Option<(Query, bool)>,
    /// A `before-resync-*` handler that is waited for.
    pub helper: Option<Query>,
    /// The peer was asked for a repair (`pass_on`).
    pub repair_asked: Option<u64>,
    /// It is not asked again before.
    pub repair_not_before: Option<Instant>,
    /// The generation that was named to a Primary without a disk.
    pub served_generation: Option<Generation>,
    /// The health file is being read at the start of the part.
    pub startup_health: Option<Query>,
    /// `invalidate` while alone: bits are being set.
    pub invalidating: Option<Query>,
}

impl Sync {
    /// A handshake has decided.
    pub fn begin(
        &mut self,
        round: Query,
        decision: &Decision,
        connection: ConnectionState,
        peer: Option<Identifiers>,
    ) {
        let set_bits = self.set_bits;
        let corrected = connection != ConnectionState::Connected;
        *self = Self {
            set_bits,
            round: Some(round),
            own_corrected: corrected.then(|| decision.verdict.own_corrected()),
            peer_identifiers: peer.map(|_| decision.verdict.peer_corrected()),
            ..Self::default()
        };
    }

    /// A resync that was agreed without a comparison (pass_on, invalidate).
    pub fn begin_agreed(&mut self, round: Query, own: Identifiers, peer: Option<Identifiers>) {
        let set_bits = self.set_bits;
        *self = Self {
            set_bits,
            round: Some(round),
            own_corrected: Some(own),
            peer_identifiers: peer,
            ..Self::default()
        };
    }

    fn is_at(&self, round: Query) -> bool {
        self.round == Some(round)
    }

    pub fn is_finishing(&self) -> bool {
        self.finishing
    }

    /// A request failed on the disk that stays in use.
    pub fn spoil(&mut self, reason: InconsistentReason) {
        let is_late = self.running || self.finishing;
        self.spoiled = Some(reason).filter(|_| is_late && !is_planted(Fault::ForgetSpoiledResync));
    }

    pub fn link_lost(&mut self, out: &mut Outbox<StateEffect>) {
        if self.running {
            out.fact(Fact::ResyncEnded {
                source: false,
                blocks: 0,
                failed: 0,
                aborted: Some("connection lost".to_owned()),
            });
        }
        let set_bits = self.set_bits;
        *self = Self {
            set_bits,
            spoiled: self.spoiled,
            // Its superblock is on the way all the same.
            finishing: self.finishing,
            ..Self::default()
        };
    }
}

impl StatePart {
    /// A resync that both agreed to without a comparison.
    pub(super) fn start_agreed_sync(
        &mut self,
        connection: ConnectionState,
        full: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.vector().disk.is_usable() {
            // It failed after it was asked for. The peer hears of that, too, and its side of the resync ends by it: the connection is
            // needed more than before.
            return;
        }
        let peer = self.link.as_ref().and_then(Link::peer_identifiers);
        let round = self.query();
        self.sync.begin_agreed(round, self.current.identifiers, peer);
        let target = connection == ConnectionState::WFBitMapT;
        let changed = self.change(Kind::Soft, Confirmed::Nothing, "resync agreed", out, |v| {
            v.connection = connection;
            if target {
                // Not Outdated: that would be refused, as nobody is while connected.
                v.disk = v.disk.min(DiskState::Inconsistent);
            } else {
                v.peer_disk = v.peer_disk.min(DiskState::Consistent);
            }
        });
        if target && full && changed.is_ok() {
            self.current.reasons.inconsistent = Some(InconsistentReason::Invalidated);
        }
        match changed {
            Ok(()) => self.begin_sync(full, cx, out),
            Err(refusal) => self.drop_link(&format!("the agreed resync is not possible: {refusal}"), out),
        }
    }

    /// WFBitMapS or WFBitMapT was entered.
    pub(super) fn begin_sync(&mut self, full: bool, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.sync.full = full;
        self.sync.exchange_ordered = false;
        if full {
            // The mark first: a crash between it and the last page sets everything again.
            self.set_full_sync(true);
            if let Some(round) = self.sync.round {
                self.store(Then::FullSyncMarked { round });
            }
        } else {
            self.ready_to_exchange(out);
        }
        let _ = cx;
    }

    /// The source sends its bitmap at once; the target answers only when its disk says Outdated, durably.
    fn ready_to_exchange(&mut self, out: &mut Outbox<StateEffect>) {
        match self.sync.round {
            Some(round) if self.vector().connection == ConnectionState::WFBitMapT => {
                self.store(Then::TargetOutdated { round });
            }
            _ => self.exchange(out),
        }
    }

    pub(super) fn target_outdated(&mut self, round: Query, ok: bool, out: &mut Outbox<StateEffect>) {
        if ok && self.sync.is_at(round) && self.vector().connection == ConnectionState::WFBitMapT {
            self.exchange(out);
        }
    }

    pub(super) fn full_sync_marked(&mut self, round: Query, ok: bool, out: &mut Outbox<StateEffect>) {
        if !ok || !self.sync.is_at(round) || !self.vector().connection.is_resync_setup() {
            return;
        }
        let query = self.query();
        self.sync.setting = Some(query);
        out.send(To::Bitmap(BitmapIn::SetAll {
            query,
            reason: "full sync".to_owned(),
        }));
    }

    pub(super) fn all_set(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.invalidated(query, result, cx, out) {
            return;
        }
        if self.sync.setting != Some(query) {
            return;
        }
        self.sync.setting = None;
        if result.is_ok() {
            self.set_full_sync(false);
            self.ready_to_exchange(out);
        }
    }

    /// Bitmaps are exchanged when the volume part has taken up that writes wait, and its marks are known: a bit that is set
    /// behind the exchange would never reach the target.
    fn exchange(&mut self, _out: &mut Outbox<StateEffect>) {
        // A superblock write of a connection before this one may end only now: one exchange is enough.
        if std::mem::replace(&mut self.sync.exchange_ordered, true) {
            return;
        }
        let query = self.query();
        self.sync.fence = Some((query, false));
    }

    /// The fence goes out behind the snapshot of this step.
    pub(super) fn send_fence(&mut self, out: &mut Outbox<StateEffect>) {
        if let Some((query, sent)) = self.sync.fence.as_mut().filter(|(_, sent)| !*sent) {
            *sent = true;
            out.send(To::Volume(VolumeIn::Fence { query: *query }));
        }
    }

    /// The volume part was restarted: it is asked again.
    pub(super) fn repeat_fence(&mut self) {
        if let Some((_, sent)) = self.sync.fence.as_mut() {
            *sent = false;
        }
    }

    pub(super) fn fenced(&mut self, query: Query, mark: MarkNumber, out: &mut Outbox<StateEffect>) {
        if self.sync.fence.is_none_or(|(asked, _)| asked != query) {
            return;
        }
        self.sync.fence = None;
        let source = self.vector().connection == ConnectionState::WFBitMapS;
        if let Some(connection) = self
            .link
            .as_ref()
            .map(|link| link.connection)
            .filter(|_| self.vector().connection.is_resync_setup())
        {
            out.send(To::Bitmap(BitmapIn::Exchange {
                connection,
                source,
                after: mark,
            }));
        }
    }

    pub(super) fn bitmap_exchanged(
        &mut self,
        connection: ConnectionNumber,
        set_bits: u64,
        _cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if !self.is_on(connection) {
            return;
        }
        self.sync.set_bits = set_bits;
        self.sync.exchanged = true;
        match self.vector().connection {
            ConnectionState::WFBitMapS => {
                let query = self.run_helper(
                    Handler::BeforeResyncSource,
                    self.configuration.helper_timeout,
                    out,
                );
                self.sync_helper(query);
            }
            ConnectionState::WFBitMapT => {
                let changed = self.change(Kind::Soft, Confirmed::Nothing, "bitmaps exchanged", out, |v| {
                    v.connection = ConnectionState::WFSyncUUID
                });
                if let Err(refusal) = changed {
                    return self.drop_link(&refusal.to_string(), out);
                }
                if let Some(id) = self.sync.sync_id {
                    self.sync_id(connection, id, out);
                }
            }
            _ => {}
        }
    }

    /// `before-resync-source` agreed: START-SOURCE. "Source open" is durable before the sync id can be heard.
    pub(super) fn start_source(&mut self, out: &mut Outbox<StateEffect>) {
        if self.link.is_none() || self.vector().connection != ConnectionState::WFBitMapS {
            return;
        }
        let current = self.current.identifiers.current.0;
        let query = self.set_header(
            HeaderChange {
                source_open: Some(Some(current)),
                ..HeaderChange::default()
            },
            out,
        );
        self.sync.source_open = Some(query);
    }

    pub(super) fn source_open_written(&mut self, query: Query, cx: &mut Context<'_>) -> bool {
        if self.sync.source_open != Some(query) {
            return false;
        }
        self.sync.source_open = None;
        if let (ConnectionState::WFBitMapS, Some(round)) = (self.vector().connection, self.sync.round) {
            let base = self.sync.own_corrected.unwrap_or(self.current.identifiers);
            let (identifiers, id) = base.start_source(cx.fresh());
            self.current.identifiers = identifiers.with_role(self.vector().role == Role::Primary);
            self.store(Then::SourceStarted { round, id });
        }
        true
    }

    pub(super) fn source_started(
        &mut self,
        round: Query,
        id: Generation,
        ok: bool,
        out: &mut Outbox<StateEffect>,
    ) {
        let connection = self.link.as_ref().map(|link| link.connection);
        let Some(connection) = connection.filter(|_| ok && self.sync.is_at(round)) else {
            return;
        };
        if self.vector().connection != ConnectionState::WFBitMapS {
            return;
        }
        self.send_peer(connection, Message::SyncId { id: id.0 }, out);
        self.resync_runs(
            true,
            "resync starts, this node is the source",
            |v| {
                v.connection = ConnectionState::SyncSource;
                v.peer_disk = DiskState::Inconsistent;
            },
            out,
        );
    }

    fn resync_runs(
        &mut self,
        source: bool,
        reason: &'static str,
        enter: impl FnOnce(&mut StateVector),
        out: &mut Outbox<StateEffect>,
    ) {
        match self.change(Kind::Soft, Confirmed::Nothing, reason, out, enter) {
            Ok(()) => {
                self.sync.running = true;
                out.fact(Fact::ResyncStarted {
                    source,
                    bits: self.sync.set_bits,
                });
            }
            Err(refusal) => self.drop_link(&refusal.to_string(), out),
        }
    }

    /// The source has begun: START-TARGET, durable before the first resync write.
    pub(super) fn sync_id(
        &mut self,
        connection: ConnectionNumber,
        id: Generation,
        out: &mut Outbox<StateEffect>,
    ) {
        self.sync.sync_id = Some(id);
        if !self.sync.exchanged || self.vector().connection != ConnectionState::WFSyncUUID {
            return;
        }
        let query = self.run_helper(
            Handler::BeforeResyncTarget,
            self.configuration.helper_timeout,
            out,
        );
        self.sync_helper(query);
        let _ = connection;
    }

    /// `before-resync-target` agreed.
    pub(super) fn start_target(&mut self, out: &mut Outbox<StateEffect>) {
        let (Some(round), Some(id)) = (self.sync.round, self.sync.sync_id) else {
            return;
        };
        if self.vector().connection != ConnectionState::WFSyncUUID {
            return;
        }
        let primary = self.vector().role == Role::Primary;
        let peer_current = self
            .sync
            .peer_identifiers
            .map_or(Generation::NONE, |ids| ids.current);
        self.fact("resync starts, this node is the target", out, |v| {
            v.disk = DiskState::Inconsistent
        });
        self.current.reasons.inconsistent = Some(InconsistentReason::ResyncTarget);
        self.current.identifiers = self.current.identifiers.start_target(primary, id);
        self.exposed = exposed::at_start_target(primary, id, peer_current);
        self.store(Then::TargetStarted { round });
    }

    pub(super) fn target_started(&mut self, round: Query, ok: bool, out: &mut Outbox<StateEffect>) {
        let mine = self.sync.is_at(round);
        if !ok || !mine || self.vector().connection != ConnectionState::WFSyncUUID {
            return;
        }
        self.resync_runs(
            false,
            "resync runs, this node is the target",
            |v| {
                v.connection = ConnectionState::SyncTarget;
            },
            out,
        );
    }

    /// Target: every block is done. FINISH-TARGET: superblock first (its write flushes the data before), then the word to the
    /// source.
    pub(super) fn resync_finished(
        &mut self,
        lost: u64,
        _cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.vector().connection != ConnectionState::SyncTarget || self.sync.finishing {
            return;
        }
        let (Some(peer), Some(round)) = (self.sync.peer_identifiers, self.sync.round) else {
            return;
        };
        self.sync.finishing = true;
        self.sync.lost = lost;
        let primary = self.vector().role == Role::Primary;
        self.current.identifiers = self.current.identifiers.finish_target(primary, &peer);
        // The flags of the finished state go out with the new slots in one write; the state itself changes when it is durable.
        self.flags_of_finished_target();
        self.store(Then::TargetFinished { round });
        let _ = out;
    }

    fn flags_of_finished_target(&mut self) {
        use mendblock_storage::format::superblock::Flags;
        if let Some(disk) = self.disk.as_mut() {
            let flags = disk
                .superblock
                .flags
                .with(Flags::CONSISTENT)
                .with(Flags::WAS_UP_TO_DATE)
                .without(Flags::FULL_SYNC);
            disk.superblock.flags = flags;
        }
    }

    pub(super) fn target_finished(
        &mut self,
        round: Query,
        ok: bool,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let mine = self.sync.is_at(round);
        if !mine && self.vector().connection.in_sync_phase() {
            // Another resync has begun since: its own end counts.
            return;
        }
        self.sync.finishing = false;
        if !ok || self.vector().disk != DiskState::Inconsistent {
            return;
        }
        self.sync.running = false;
        let to_connected = mine && self.vector().connection == ConnectionState::SyncTarget;
        let spoiled = self.sync.spoiled.take();
        if let (Some(reason), false) = (spoiled, to_connected) {
            // Without the source nothing mends what failed: the disk stays what it is, and the next handshake sees it.
            // The superblock that just landed calls it consistent: another one takes that back.
            self.current.reasons.inconsistent = Some(reason);
            return self.note_flags();
        }
        let changed = self.change(Kind::Hard, Confirmed::ByHandshake, "resync finished", out, |v| {
            v.disk = DiskState::UpToDate;
            if to_connected {
                v.connection = ConnectionState::Connected;
            }
        });
        if let Err(refusal) = changed {
            out.fact(Fact::Surprise {
                what: format!("the finished resync was refused by the state: {refusal}"),
            });
            return;
        }
        self.exposed = self.current.identifiers.current;
        self.current.own_loss_settled = true;
        out.fact(Fact::ResyncEnded {
            source: false,
            blocks: 0,
            failed: self.sync.lost,
            aborted: None,
        });
        if let (Some(link), true) = (self.link.as_mut(), to_connected)
            && let Some(info) = link.generations.as_mut()
        {
            let ids = self.current.identifiers;
            (info.current, info.bitmap, info.history) =
                (ids.current.0, ids.bitmap.0, [ids.history[0].0, ids.history[1].0]);
        }
        self.want_helper(Handler::AfterResyncTarget);
        self.clear_outdated(out);
        let connection = self.link.as_ref().map(|link| link.connection);
        if let (Some(reason), Some(connection)) = (spoiled, connection) {
            self.spoiled_again(connection, reason, out);
        }
        if !self.vector().connection.is_connected_or_better() {
            // The loss found no UpToDate disk here, so it made no generation; the writes that follow need one.
            self.lost_peer_data(cx, out);
        }
    }

    /// What the resync was to copy is here, but a request failed since: the source hears of both, and a repair follows. Nobody
    /// here sees the disk UpToDate in between, for a read of what failed would return old data.
    fn spoiled_again(
        &mut self,
        connection: ConnectionNumber,
        reason: InconsistentReason,
        out: &mut Outbox<StateEffect>,
    ) {
        let finished = self.peer_state();
        self.send_peer(connection, Message::State(finished), out);
        self.fact("the lower disk failed a request during the resync", out, |v| {
            v.disk = DiskState::Inconsistent;
        });
        self.current.reasons.inconsistent = Some(reason);
    }

    /// "Outdated since" may go: the superblock says UpToDate, durably.
    pub(super) fn outdated_void(&mut self, ok: bool, out: &mut Outbox<StateEffect>) {
        if ok && self.vector().disk == DiskState::UpToDate {
            self.set_header(
                HeaderChange {
                    outdated_since: Some(None),
                    ..HeaderChange::default()
                },
                out,
            );
        }
    }

    /// The peer's state on an established connection.
    pub(super) fn peer_state_changed(
        &mut self,
        state: PeerState,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        let peer_disk = DiskState::from_number(state.disk).unwrap_or(DiskState::DUnknown);
        let peer_connection =
            ConnectionState::from_number(state.connection).unwrap_or(ConnectionState::Connected);
        let old = *self.vector();
        if old.connection == ConnectionState::SyncSource
            && peer_connection == ConnectionState::Connected
            && peer_disk == DiskState::UpToDate
        {
            return self.finish_source(state, out);
        }
        let real = self.peer_disk_while_preparing(peer_disk, peer_connection);
        let role = Role::from_number(state.role).unwrap_or(Role::Unknown);
        let paused = state.paused;
        self.fact("the peer's state", out, |v| {
            v.peer_role = role;
            v.peer_disk = real;
            v.paused.peer = paused;
        });
        if peer_disk == DiskState::Diskless {
            // At latest its Diskless message says that "outdated since" is durable there (T4).
            self.current.peer_loss_settled = true;
        }
        self.peer_lost_its_disk(old.peer_disk, cx, out);
        self.serve_diskless_primary(cx, out);
        self.no_data_left_since(old, out);
    }

    /// A peer that only prepares a resync to itself, or has not yet heard of it, is not better than we know.
    fn peer_disk_while_preparing(
        &self,
        peer_disk: DiskState,
        _peer_connection: ConnectionState,
    ) -> DiskState {
        let source = matches!(
            self.vector().connection,
            ConnectionState::SyncSource | ConnectionState::WFBitMapS
        );
        if source && peer_disk > DiskState::Inconsistent && peer_disk != DiskState::DUnknown {
            self.vector().peer_disk
        } else {
            peer_disk
        }
    }

    /// Source: the target says that it is UpToDate. FINISH-SOURCE.
    fn finish_source(&mut self, state: PeerState, out: &mut Outbox<StateEffect>) {
        let role = Role::from_number(state.role).unwrap_or(Role::Unknown);
        self.sync.running = false;
        self.current.identifiers = self.current.identifiers.finish_source();
        self.fact("resync finished, the peer is UpToDate", out, |v| {
            v.connection = ConnectionState::Connected;
            v.peer_disk = DiskState::UpToDate;
            v.peer_role = role;
        });
        out.fact(Fact::ResyncEnded {
            source: true,
            blocks: 0,
            failed: 0,
            aborted: None,
        });
        self.store(Then::SourceFinished);
        let ids = self.current.identifiers;
        if let Some(link) = self.link.as_mut() {
            link.peer_is_healed();
        }
        if let Some(info) = self.link.as_mut().and_then(|link| link.generations.as_mut()) {
            (info.current, info.bitmap, info.history) =
                (ids.current.0, ids.bitmap.0, [ids.history[0].0, ids.history[1].0]);
        }
    }

    pub(super) fn source_finished(&mut self, ok: bool, out: &mut Outbox<StateEffect>) {
        if ok && self.health.source_open.is_some() {
            self.set_header(
                HeaderChange {
                    source_open: Some(None),
                    ..HeaderChange::default()
                },
                out,
            );
        }
    }

    /// Breaks the connection; it is made again.
    pub(super) fn drop_link(&mut self, text: &str, out: &mut Outbox<StateEffect>) {
        if let Some(connection) = self.link.as_ref().map(|link| link.connection) {
            out.send(To::Peer(crate::peer::PeerIn::Drop {
                connection,
                text: text.to_owned(),
            }));
        }
    }

    /// `pass_on`: the own disk is Inconsistent by errors, the peer UpToDate, nothing runs: ask for a resync of the marked
    /// blocks (6.4).
    pub(super) fn no_data_left_since(
        &mut self,
        old: crate::volume::state::StateVector,
        out: &mut Outbox<StateEffect>,
    ) {
        if old.has_up_to_date_data() && !self.vector().has_up_to_date_data() {
            self.no_data_left(out);
        }
    }

    pub(super) fn wants_repair(&self) -> bool {
        let vector = self.vector();
        vector.connection == ConnectionState::Connected
            && vector.disk == DiskState::Inconsistent
            && vector.peer_disk == DiskState::UpToDate
            && self.detach.is_none()
            && self.attach.is_none()
            && self.link.as_ref().is_some_and(Link::state_may_be_sent)
            && self.tells.all_answered()
            && self.current.reasons.inconsistent.is_some_and(|reason| {
                matches!(
                    reason,
                    InconsistentReason::ReadError
                        | InconsistentReason::WriteError
                        | InconsistentReason::FlushError
                )
            })
    }
}
