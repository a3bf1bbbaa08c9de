//! D3, D7 and D8: the health file and the changed bitmap pages.

use super::super::StateEffect;
use super::super::part::StatePart;
use super::run::{Task, Told};
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::fact::Fact;
use crate::identity::Query;
use crate::part::{Context, Outbox, PartName, To};

impl StatePart {
    /// D7, early: the list is on this node before the helper may power it off.
    pub(super) fn start_early_health(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        let Some(detach) = self.detach.as_mut().filter(|detach| detach.early == Task::Due) else {
            return;
        };
        detach.early = Task::Running(query, cx.now.after_ms(1000));
        out.send(To::Bitmap(BitmapIn::PersistHealth { query }));
    }

    /// D7, second: all that the drain found.
    pub(super) fn start_late_health(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if detach.late == Task::Due && detach.drained.is_some() && detach.early.ended() {
            let cause = detach.cause;
            detach.late = Task::Running(query, cx.now.after_ms(2000));
            let change = HeaderChange {
                last_detach: Some(cause),
                ..HeaderChange::default()
            };
            out.send(To::Bitmap(BitmapIn::SetHeader {
                query,
                change: Box::new(change),
            }));
        }
    }

    /// D8: the changed pages are always written, unless the device is gone.
    pub(super) fn start_bitmap(&mut self, cx: &Context<'_>, out: &mut Outbox<StateEffect>) {
        let query = self.query();
        let timeout = self.configuration.detach_step_timeout;
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        let Some((mark, _)) = detach
            .drained
            .filter(|_| detach.bitmap == Task::Due && detach.told != Told::NotYet)
        else {
            return;
        };
        if detach.meta_gone {
            detach.bitmap = Task::Ended;
            return;
        }
        detach.bitmap = Task::Running(query, cx.now.after_ms(timeout));
        out.send(To::Bitmap(BitmapIn::WriteOut {
            requester: PartName::State,
            query,
            after: mark,
            extents: None,
        }));
    }

    pub(in crate::volume::machine) fn written_out(
        &mut self,
        query: Query,
        result: Result<(), i32>,
        uncovered: bool,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.pages_written(query, result) || self.role_pages_written(query, result, out) {
            return;
        }
        let Some(detach) = self
            .detach
            .as_mut()
            .filter(|detach| matches!(detach.bitmap, Task::Running(q, _) if q == query))
        else {
            return;
        };
        detach.bitmap = Task::Ended;
        detach.bitmap_ok = result.is_ok();
        detach.uncovered_bits |= uncovered;
        let outcome = match result {
            Ok(()) => "changed bitmap pages written".to_owned(),
            Err(errno) => format!("bitmap could not be written (errno {errno})"),
        };
        out.fact(Fact::Step { step: "D8", outcome });
    }
}
