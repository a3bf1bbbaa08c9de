//! Becoming Secondary: writes are retired, changed pages and then the superblock are written, and only then is it answered.

use super::Command;
use super::StateEffect;
use super::command::{Stage, done, nothing_to_do, refused};
use super::part::StatePart;
use super::store::Then;
use crate::bitmap::BitmapIn;
use crate::engine::VolumeIn;
use crate::identity::MarkNumber;
use crate::part::{Outbox, PartName, To};
use crate::volume::state::{DiskState, Role};
use crate::volume::transition::{Confirmed, Kind};

impl StatePart {
    pub(super) fn begin_demotion(&mut self, out: &mut Outbox<StateEffect>) {
        if self.vector().role != Role::Primary {
            if self.store.is_idle() {
                return self.answer(nothing_to_do("role is Secondary"), out);
            }
            // An earlier order gave up before its superblock was written.
            return self.store_demotion();
        }
        if let Err(refusal) = self.would(|v| v.role = Role::Secondary) {
            return self.refuse_or_wait(&refusal, out);
        }
        let query = self.query();
        self.stage(Stage::Quiescing(query));
        out.send(To::Volume(VolumeIn::Quiesce { query }));
    }

    pub(super) fn demotion_pages(&mut self, mark: MarkNumber, out: &mut Outbox<StateEffect>) {
        if !self.vector().disk.is_usable() {
            return self.demote(out);
        }
        let query = self.query();
        self.stage(Stage::Pages(query));
        out.send(To::Bitmap(BitmapIn::WriteOut {
            requester: PartName::State,
            query,
            after: mark,
            extents: None,
        }));
    }

    /// The role changes first: a write behind a superblock that no longer says Primary would be in no log after a crash. The answer
    /// waits for the superblock: a crash before it makes this node a crashed Primary, whose copy would win.
    pub(super) fn demote(&mut self, out: &mut Outbox<StateEffect>) {
        let changed = self.change(Kind::Soft, Confirmed::Nothing, "demoted", out, |v| {
            v.role = Role::Secondary
        });
        match changed {
            Ok(()) => {
                self.current.identifiers = self.current.identifiers.with_role(false);
                self.note_flags();
                self.store_demotion();
            }
            Err(refusal) => self.answer(refused(&refusal, None), out),
        }
    }

    fn store_demotion(&mut self) {
        self.stage(Stage::Storing);
        self.store(Then::DemotionStored);
    }

    /// A demotion waits for its superblock.
    pub(super) fn demotion_pending(&self) -> bool {
        self.is_at(Stage::Storing)
            && self
                .running
                .as_ref()
                .is_some_and(|running| running.command == Command::Secondary)
    }

    /// The superblock says Secondary, durably. Where it cannot, the disk is being given up, and what its last superblock says is
    /// waited for.
    pub(super) fn demotion_stored(&mut self, ok: bool, out: &mut Outbox<StateEffect>) {
        if ok && self.demotion_pending() {
            self.answer(done("role is Secondary".to_owned()), out);
        }
    }

    /// The disk whose superblock a demotion waited for is gone.
    pub(super) fn demotion_without_disk(&mut self, out: &mut Outbox<StateEffect>) {
        if self.demotion_pending() && self.vector().disk == DiskState::Diskless {
            self.answer(done("role is Secondary".to_owned()), out);
        }
    }
}
