//! I/O errors of the own disk: what they mean (`errno`), and what the policy makes of them (D2).

use super::part::StatePart;
use super::{ErrorKind, StateEffect};
use crate::bitmap::BitmapIn;
use crate::configuration::OnIoError;
use crate::fact::Fact;
use crate::identity::{ErrorNumber, Query};
use crate::part::{Context, Instant, Outbox, To};
use crate::snapshot::FailedRequest;
use crate::volume::state::{DetachCause, DiskState, InconsistentReason, MetaDataKind, Role, TimedOperation};
use mendblock_net::wire::message::WireRecord;
use mendblock_storage::units::{BlockRange, SectorRange};
use std::collections::BTreeMap;

/// Linux errno values by which failures are told apart (`io-errors` 1.4).
pub(super) mod errno {
    pub const EPERM: i32 = 1;
    pub const ENXIO: i32 = 6;
    pub const EACCES: i32 = 13;
    pub const ENODEV: i32 = 19;
    pub const EINVAL: i32 = 22;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const ENOLINK: i32 = 67;
    pub const ENOTCONN: i32 = 107;
    pub const ESHUTDOWN: i32 = 108;
    pub const ESTALE: i32 = 116;
    pub const EDQUOT: i32 = 122;
    pub const ENOMEDIUM: i32 = 123;
}

/// An error of a disk that stays attached: settled when the peer was told and this node's own record is durable.
#[derive(Clone, Hash)]
struct Open {
    told: bool,
    recorded: Option<Query>,
}

/// Errors of the present attach.
#[derive(Clone, Default, Hash)]
pub(super) struct Errors {
    open: BTreeMap<ErrorNumber, Open>,
    highest: ErrorNumber,
    /// L1: a detach that waits until the peer has an UpToDate copy for 1 s.
    pub pending_detach: Option<(DetachCause, Option<Instant>)>,
    /// EINVAL on plain I/O: our own fault; three in one attach give the disk up.
    alignment: u8,
}

impl Errors {
    /// Health file writes that are waited for.
    pub fn recording(&self) -> Vec<Query> {
        self.open.values().filter_map(|open| open.recorded).collect()
    }

    pub fn wake_at(&self) -> Option<Instant> {
        self.pending_detach.and_then(|(_, at)| at)
    }
}

impl StatePart {
    pub(super) fn io_error(
        &mut self,
        number: ErrorNumber,
        kind: ErrorKind,
        range: Option<SectorRange>,
        errno: i32,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        self.take_error(number);
        if number <= self.errors.highest {
            return;
        }
        self.errors.highest = number;
        self.current.errors_seen = self.current.errors_seen.max(number);
        if self.attach_error(kind, errno, out) {
            return;
        }
        let (Some(disk), true) = (self.current.disk.as_ref(), self.disk.is_some()) else {
            return;
        };
        let attach_id = disk.attach_id;
        // A13 that fails is no error of a disk in use: no helper.
        let cause = match cause_of(kind, errno) {
            DetachCause::MetaData(_) if self.attach.is_some() => DetachCause::Attach,
            cause => cause,
        };
        let blocks = range.map(SectorRange::touched_blocks);
        let records: Vec<WireRecord> = blocks
            .into_iter()
            .map(|range| self.suspect(range, kind))
            .collect();
        if let Some(detach) = self.detach.as_mut() {
            // After D11 nothing refers to this disk any more; a late read error is in the bad-block list (Q4).
            if !detach.is_diskless() {
                detach.note(cause);
                // The peer knows already that the disk failed: only new ranges are news.
                if !records.is_empty() {
                    self.tell(attach_id.0, true, records, out);
                    self.current.own_loss_settled = false;
                }
            }
            return;
        }
        let failed = FailedRequest { cause, range, errno };
        match self.decide(kind, cause, errno, out) {
            Verdict::Stay => {
                if self.errors.pending_detach.is_some() {
                    self.current.reasons.failed_request.get_or_insert(failed);
                }
                self.stay_attached(number, attach_id.0, records, out);
            }
            Verdict::PassOn(reason) => {
                self.fact(
                    "the lower disk failed a request (on-io-error pass_on)",
                    out,
                    |v| v.disk = DiskState::Inconsistent,
                );
                if self.vector().disk == DiskState::Inconsistent {
                    self.current.reasons.inconsistent = Some(reason);
                    self.current.reasons.failed_request = Some(failed);
                    self.sync.spoil(reason);
                }
                self.stay_attached(number, attach_id.0, records, out);
            }
            Verdict::GiveUp => {
                self.tells.remember(records);
                self.current.reasons.failed_request = Some(failed);
                self.begin_detach(cause, false, cx, out);
            }
        }
    }

    /// D2: policy, last-copy rules, errno.
    fn decide(
        &mut self,
        kind: ErrorKind,
        cause: DetachCause,
        number: i32,
        out: &mut Outbox<StateEffect>,
    ) -> Verdict {
        let vector = *self.vector();
        if kind == ErrorKind::Meta || cause == DetachCause::DeviceGone {
            return Verdict::GiveUp;
        }
        if number == errno::EINVAL {
            self.errors.alignment += 1;
            out.fact(Fact::Surprise {
                what: format!("the lower disk refused the alignment of a {kind:?}: errno {number}"),
            });
            return if self.errors.alignment >= 3 {
                Verdict::GiveUp
            } else {
                Verdict::Stay
            };
        }
        let peer_has_it =
            vector.connection.is_connected_or_better() && vector.peer_disk == DiskState::UpToDate;
        let last_copy = vector.disk == DiskState::UpToDate && !peer_has_it;
        let peer_uses_it = last_copy && vector.connection.is_connected_or_better();
        let policy = self.configuration.on_io_error;
        let read = kind == ErrorKind::Read;
        if read && peer_uses_it {
            // L1: a read error never takes away the last good copy that a connected peer reads or resyncs from.
            if policy != OnIoError::PassOn {
                out.fact(Fact::Alert { what: format!("{cause}, but this is the last good copy and the peer uses it: the detach waits until the peer is UpToDate") });
                self.errors.pending_detach = Some((cause, None));
            }
            return Verdict::Stay;
        }
        match policy {
            OnIoError::PassOn if last_copy => {
                // L2: only the bad block answers with an error.
                out.fact(Fact::Alert { what: format!("{cause}; this is the last reachable copy: it stays in use, the bad blocks answer with an error") });
                Verdict::Stay
            }
            OnIoError::PassOn => Verdict::PassOn(match kind {
                ErrorKind::Read => InconsistentReason::ReadError,
                ErrorKind::Write => InconsistentReason::WriteError,
                ErrorKind::Flush | ErrorKind::Meta => InconsistentReason::FlushError,
            }),
            OnIoError::Detach | OnIoError::CallLocalIoError => {
                if cause == DetachCause::NoSpace && last_copy && vector.role == Role::Primary {
                    return Verdict::Stay;
                }
                Verdict::GiveUp
            }
        }
    }

    /// The disk stays: the error is settled when the peer was told (T) and the own record is durable (M).
    fn stay_attached(
        &mut self,
        number: ErrorNumber,
        attach_id: u64,
        records: Vec<WireRecord>,
        out: &mut Outbox<StateEffect>,
    ) {
        let query = self.query();
        out.send(To::Bitmap(BitmapIn::PersistHealth { query }));
        let told = !self.tell(attach_id, false, records, out);
        self.errors.open.insert(
            number,
            Open {
                told,
                recorded: Some(query),
            },
        );
    }

    /// An error whose tell was lost with the link: whoever waits for its T would wait for ever. Ranges are in the lists that
    /// the handshake exchanged; the answer says that they are durable there.
    pub(super) fn repeat_lost_tells(&mut self, out: &mut Outbox<StateEffect>) {
        let untold = self.errors.open.values().any(|open| !open.told) || self.tells.has_unsent();
        let attach_id = self.current.disk.as_ref().map(|disk| disk.attach_id.0);
        if let (Some(attach_id), true) = (attach_id, untold && self.detach.is_none()) {
            self.tell(attach_id, false, Vec::new(), out);
        }
    }

    /// A new part over a disk in use: what its predecessor had taken and not settled is recorded and told again, or a write that
    /// only the peer has would wait for ever. The connection is made anew, and with it the peer hears of all records.
    pub(super) fn errors_resumed(&mut self, out: &mut Outbox<StateEffect>) {
        if self.current.errors_seen <= self.current.errors_settled {
            return;
        }
        let query = self.query();
        out.send(To::Bitmap(BitmapIn::PersistHealth { query }));
        self.errors.open.insert(
            self.current.errors_seen,
            Open {
                told: false,
                recorded: Some(query),
            },
        );
    }

    /// All tells so far were answered.
    pub(super) fn errors_told(&mut self) {
        for open in self.errors.open.values_mut() {
            open.told = true;
        }
        self.settle_errors();
    }

    pub(super) fn error_recorded(&mut self, query: Query) -> bool {
        let Some(open) = self
            .errors
            .open
            .values_mut()
            .find(|open| open.recorded == Some(query))
        else {
            return false;
        };
        // An unwritable health file is reported by the bitmap part; the peer's record then stands alone.
        open.recorded = None;
        self.settle_errors();
        true
    }

    fn settle_errors(&mut self) {
        while let Some((&number, open)) = self.errors.open.first_key_value() {
            if !open.told || open.recorded.is_some() {
                return;
            }
            self.errors.open.remove(&number);
            self.current.errors_settled = number;
        }
    }

    /// The disk is gone and everything about it is settled: no error of it is open any more.
    pub(super) fn errors_end(&mut self) {
        self.current.errors_settled = self.current.errors_settled.max(self.errors.highest);
        let highest = self.errors.highest;
        self.errors = Errors {
            highest,
            ..Errors::default()
        };
    }

    /// L1: runs the pending detach when another UpToDate copy has been there for 1 s.
    pub(super) fn advance_pending_detach(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let Some((cause, at)) = self.errors.pending_detach else {
            return;
        };
        let vector = *self.vector();
        let other_copy = vector.connection == crate::volume::state::ConnectionState::Connected
            && vector.peer_disk == DiskState::UpToDate;
        self.errors.pending_detach = match (other_copy, at) {
            (false, _) => Some((cause, None)),
            (true, None) => Some((cause, Some(cx.now.after_ms(1000)))),
            (true, Some(at)) if at > cx.now => Some((cause, Some(at))),
            (true, Some(_)) => None,
        };
        if self.errors.pending_detach.is_none() && self.detach.is_none() && vector.disk.is_usable() {
            self.begin_detach(cause, false, cx, out);
        }
    }

    /// The own bad-block list is full (9.5): the disk is given up for a copy at the peer, at once or when there is one.
    pub(super) fn too_many_bad(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        let vector = *self.vector();
        let cause = DetachCause::TooManyBad;
        if let Some(detach) = self.detach.as_mut() {
            return detach.note(cause);
        }
        let peer_has_it =
            vector.connection.is_connected_or_better() && vector.peer_disk == DiskState::UpToDate;
        if peer_has_it && vector.disk.is_usable() {
            return self.begin_detach(cause, false, cx, out);
        }
        out.fact(Fact::Alert { what: format!("{cause}, but no good copy is reachable: the detach waits until the peer is UpToDate; connect the peer, and replace the disk") });
        self.errors.pending_detach.get_or_insert((cause, None));
    }

    pub(super) fn disk_timeout(
        &mut self,
        operation: &'static str,
        age: u64,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        out.fact(Fact::DiskTimeout {
            operation,
            milliseconds: age,
        });
        let vector = *self.vector();
        let peer_has_it =
            vector.connection.is_connected_or_better() && vector.peer_disk == DiskState::UpToDate;
        if self.detach.is_some() || !vector.disk.is_usable() {
            return;
        }
        if !peer_has_it && vector.disk == DiskState::UpToDate {
            out.fact(Fact::Alert {
                what: format!(
                    "slow disk: a {operation} is {age} ms old; this is the last copy, so it is waited for"
                ),
            });
            return;
        }
        let operation = match operation {
            "read" => TimedOperation::Read,
            "write" => TimedOperation::Write,
            "flush" => TimedOperation::Flush,
            _ => TimedOperation::MetaData,
        };
        self.begin_detach(
            DetachCause::Timeout {
                operation,
                age_ms: age,
            },
            true,
            cx,
            out,
        );
    }

    fn suspect(&self, range: BlockRange, kind: ErrorKind) -> WireRecord {
        WireRecord {
            range,
            state: 0,
            // Codes of the health file's causes are fixed there; 0 is "read", 8 "missed write" in spirit of a failed one.
            cause: u8::from(kind != ErrorKind::Read),
            good_at: 2,
            generation: self.current.identifiers.current.0,
        }
    }
}

enum Verdict {
    Stay,
    PassOn(InconsistentReason),
    GiveUp,
}

fn cause_of(kind: ErrorKind, number: i32) -> DetachCause {
    match number {
        errno::ENXIO
        | errno::ENODEV
        | errno::ESHUTDOWN
        | errno::ENOTCONN
        | errno::ENOLINK
        | errno::ENOMEDIUM
        | errno::ESTALE => {
            return DetachCause::DeviceGone;
        }
        errno::ENOSPC | errno::EDQUOT if kind != ErrorKind::Meta => return DetachCause::NoSpace,
        errno::EROFS | errno::EPERM | errno::EACCES => return DetachCause::ReadOnly,
        errno::EINVAL if kind != ErrorKind::Meta => return DetachCause::Alignment,
        _ => {}
    }
    match kind {
        ErrorKind::Read => DetachCause::ReadError,
        ErrorKind::Write => DetachCause::WriteError,
        ErrorKind::Flush => DetachCause::FlushError,
        ErrorKind::Meta => DetachCause::MetaData(MetaDataKind::Superblock),
    }
}
