//! D4, D5, T and M: the peer is told, and what it answers is noted durably, before a write that only it has is answered.

use super::super::StateEffect;
use super::super::part::StatePart;
use super::run::{Task, Told};
use crate::bitmap::{BitmapIn, HeaderChange};
use crate::fact::Fact;
use crate::identity::Query;
use crate::part::{Context, Instant, Outbox, To};
use crate::volume::generations::identifiers::Generation;
use crate::volume::state::Role;
use mendblock_net::wire::message::Message;

impl StatePart {
    /// D5: ahead of every write that is admitted after D3.
    pub(super) fn start_telling(&mut self, out: &mut Outbox<StateEffect>) {
        let due = self
            .detach
            .as_ref()
            .is_some_and(|detach| detach.told == Told::NotYet && detach.helper.ended());
        let Some(attach_id) = self
            .current
            .disk
            .as_ref()
            .map(|disk| disk.attach_id.0)
            .filter(|_| due)
        else {
            return;
        };
        let sent = self.tell(attach_id, true, Vec::new(), out);
        let establishing = self
            .link
            .as_ref()
            .is_some_and(crate::volume::machine::link::Link::is_establishing);
        if let Some(detach) = self.detach.as_mut() {
            if sent {
                detach.told = Told::Sent;
            } else if !establishing {
                detach.told = Told::Nobody;
            }
        }
    }

    /// The peer answered: T. If it made a generation, "outdated since" is recorded at once (M).
    pub(in crate::volume::machine) fn detach_told(
        &mut self,
        current: u64,
        new_generation: bool,
        out: &mut Outbox<StateEffect>,
    ) {
        let answered = self.tells.all_answered();
        let own = self.current.identifiers.current;
        let query = self.query();
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if new_generation && detach.outdated_since.is_none() {
            detach.outdated_since = Some(current);
            self.exposed = Generation(current);
        }
        detach.peer_is_ahead |= new_generation || !Generation(current).same(own);
        if !answered || detach.told != Told::Sent {
            return;
        }
        detach.told = Told::Yes;
        // Until when is set by the next pass over the steps: the answer itself has no clock at hand.
        detach.marked = Task::Running(query, Instant(u64::MAX));
        let outdated = detach.outdated_since;
        match outdated {
            Some(generation) => {
                self.health.outdated_since = Some(generation);
                let change = Box::new(HeaderChange::outdated_since(generation));
                out.send(To::Bitmap(BitmapIn::SetHeader { query, change }));
            }
            // Both Secondary: no generation; the record of the blocks is the mark.
            None => out.send(To::Bitmap(BitmapIn::PersistHealth { query })),
        }
    }

    pub(super) fn tell_marked(&mut self, out: &mut Outbox<StateEffect>) {
        let generation = self.detach.as_ref().and_then(|detach| detach.outdated_since);
        if let (Some(generation), Some(link)) = (generation, self.link.as_ref()) {
            self.send_peer(link.connection, Message::Marked { generation }, out);
        }
    }

    /// T and M for the loss of the own disk: writes that only the peer has may be answered.
    pub(super) fn settle_loss(&mut self, cx: &Context<'_>, _out: &mut Outbox<StateEffect>) {
        let timeout = cx.now.after_ms(2000);
        let Some(detach) = self.detach.as_mut() else {
            return;
        };
        if let Task::Running(query, Instant(u64::MAX)) = detach.marked {
            detach.marked = Task::Running(query, timeout);
        }
        // Without a health file the superblock is the mark; where neither can be written, that was reported.
        let marked = detach.marked.ended() && (detach.mark_durable || detach.superblock.ended());
        // Answered without a generation, though this node is in use: the peer's disk failed as well before it could make one. Nothing
        // would tell later that this disk lacks what only the peer got, and attached first it would pass for current.
        let named = detach.peer_is_ahead || self.current.vector.role != Role::Primary;
        let settled = detach.told == Told::Yes && named && marked && self.tells.all_answered();
        self.current.own_loss_settled = settled;
    }

    /// The link was lost: nobody will answer the tell; requests that waited for T have no path.
    pub(in crate::volume::machine) fn detach_link_lost(&mut self) {
        if let Some(detach) = self
            .detach
            .as_mut()
            .filter(|detach| matches!(detach.told, Told::Sent | Told::NotYet))
        {
            detach.told = Told::Nobody;
        }
    }

    /// A health file write of the detach ended. True if it was one.
    pub(in crate::volume::machine) fn detach_health_written(
        &mut self,
        query: Query,
        durable: bool,
        out: &mut Outbox<StateEffect>,
    ) -> bool {
        let Some(detach) = self.detach.as_mut() else {
            return false;
        };
        if detach.early.end_if(query) {
            detach.health_lost |= !durable;
        } else if detach.late.end_if(query) {
            detach.health_lost = !durable;
        } else if detach.marked.end_if(query) {
            detach.mark_durable = durable;
            if durable {
                self.tell_marked(out);
            } else {
                out.fact(Fact::Alert { what: "the health file could not be written: that this disk is outdated is known to its superblock and to the peer alone".to_owned() });
            }
        } else {
            return false;
        }
        true
    }
}
