//! What follows from time and from the whole state: admission of requests, waits for `status`, deadlines, steps that have
//! become possible.

use super::StateEffect;
use super::attach::Attaching;
use super::part::StatePart;
use crate::identity::PartGeneration;
use crate::part::{Context, Outbox, PartName, To};
use crate::peer::{LinkWish, PeerIn};
use crate::snapshot::{Admission, HoldReason, Wait};
use crate::volume::state::{ConnectionState, DiskState};

impl StatePart {
    /// Steps that have become possible by whatever this message changed.
    pub(super) fn advance(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.send_parameters(out);
        self.establish(cx, out);
        self.adopt(cx, out);
        self.detach_steps(cx, out);
        self.advance_pending_detach(cx, out);
        self.advance_command(cx, out);
        self.ask_for_repair(cx, out);
    }

    pub(super) fn deadlines(&mut self, cx: &mut Context<'_>, out: &mut Outbox<StateEffect>) {
        self.attach_deadline(cx, out);
        self.command_deadline(cx, out);
        self.link_deadline(cx, out);
        self.store_deadline(cx, out);
    }

    /// Whether new writes (or reads) may start.
    pub(super) fn admission(&self, writes: bool) -> Admission {
        let vector = self.vector();
        let held = if vector.suspended.any() {
            Some(HoldReason::Suspended)
        } else if writes
            && self
                .detach
                .as_ref()
                .is_some_and(super::detach::DetachRun::holds_writes)
        {
            Some(HoldReason::Helper)
        } else if writes && vector.disk == DiskState::Negotiating {
            // The peer may have sent its bitmap already: what it alone gets now would be in nobody's bitmap but its own, and
            // this disk would pass for UpToDate without it.
            Some(HoldReason::BitmapExchange)
        } else if writes && vector.connection == ConnectionState::WFBitMapS {
            // A write now would be neither in the bitmap that is sent nor mirrored.
            Some(HoldReason::BitmapExchange)
        } else if matches!(
            vector.connection,
            ConnectionState::WFBitMapT | ConnectionState::WFSyncUUID | ConnectionState::StartingSyncT
        ) {
            Some(HoldReason::BitmapExchange)
        } else if writes && self.running_holds_writes() {
            Some(HoldReason::Detaching)
        } else {
            None
        };
        held.map_or(Admission::Open, Admission::Held)
    }

    /// Who waits for what, since when, until when.
    pub(super) fn waits(&self, cx: &Context<'_>) -> Vec<Wait> {
        let since = |who: &str| {
            self.current
                .waits
                .iter()
                .find(|wait| wait.who == who)
                .map_or(cx.now, |wait| wait.since)
        };
        let mut waits = Vec::new();
        if let Some(attach) = self.attach.as_ref() {
            let who = Attaching::step_name(attach);
            waits.push(Wait {
                who,
                what: "the disk is being attached".to_owned(),
                since: since(who),
                until: Some(attach.until()),
            });
        }
        if let Some((who, what, until)) = self.detach.as_ref().map(super::detach::DetachRun::wait) {
            waits.push(Wait {
                who,
                what,
                since: since(who),
                until,
            });
        }
        if let Some(running) = self.running.as_ref() {
            let who = running.name();
            waits.push(Wait {
                who,
                what: running.waits_for().to_owned(),
                since: since(who),
                until: Some(running.until),
            });
        }
        if self.vector().connection == ConnectionState::WFConnection {
            let what = format!("a connection to {}", self.configuration.peer_name);
            waits.push(Wait {
                who: "peer",
                what,
                since: since("peer"),
                until: None,
            });
        }
        if self.vector().suspended.any() {
            let what = format!("I/O is suspended: {}", self.vector().suspended);
            waits.push(Wait {
                who: "clients",
                what,
                since: since("clients"),
                until: None,
            });
        }
        waits
    }

    /// A neighbour was restarted: it got the snapshot; what it may have lost is said again.
    pub(super) fn take_up_after(
        &mut self,
        part: PartName,
        _generation: PartGeneration,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        match part {
            PartName::Peer => {
                let wish = if self.vector().connection == ConnectionState::StandAlone {
                    LinkWish::Down
                } else {
                    LinkWish::Up
                };
                out.send(To::Peer(PeerIn::Wish(wish)));
            }
            PartName::Disk | PartName::Bitmap | PartName::ActivityLog => self.repeat_queries(part, cx, out),
            PartName::Helper => self.helper_restarted(out),
            PartName::Volume => {
                self.repeat_quiesce(out);
                self.repeat_fence();
            }
            PartName::State | PartName::Resync | PartName::Client => {}
        }
    }
}
