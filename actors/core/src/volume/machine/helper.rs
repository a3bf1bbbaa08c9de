//! Handlers that the state part wants run, and what their exit codes mean.

use super::StateEffect;
use super::part::StatePart;
use crate::fact::Fact;
use crate::helper::{Handler, HelperIn};
use crate::identity::Query;
use crate::part::{Context, Outbox, To};
use crate::volume::state::{ConnectionState, DisconnectReason};

/// A handler whose result decides nothing; started at the end of the step.
#[derive(Clone, Hash)]
pub(super) struct Wanted(pub Handler);

impl StatePart {
    pub(super) fn want_helper(&mut self, handler: Handler) {
        self.helper_wanted.push(Wanted(handler));
    }

    pub(super) fn run_wanted_helpers(&mut self, out: &mut Outbox<StateEffect>) {
        let limit = self.configuration.helper_timeout;
        for Wanted(handler) in std::mem::take(&mut self.helper_wanted) {
            self.run_helper(handler, limit, out);
        }
    }

    pub(super) fn run_helper(
        &mut self,
        handler: Handler,
        limit: u64,
        out: &mut Outbox<StateEffect>,
    ) -> Query {
        let query = self.query();
        out.send(To::Helper(HelperIn::Run {
            query,
            handler,
            limit,
        }));
        query
    }

    /// A `before-resync-*` handler was started; the resync waits for it.
    pub(super) fn sync_helper(&mut self, query: Query) {
        self.sync.helper = Some(query);
    }

    pub(super) fn helper_ended(
        &mut self,
        query: Query,
        exit_code: Option<i32>,
        outcome: String,
        cx: &mut Context<'_>,
        out: &mut Outbox<StateEffect>,
    ) {
        if self.detach_helper_ended(query) || self.sync.helper != Some(query) {
            return;
        }
        self.sync.helper = None;
        let source = self.vector().connection == ConnectionState::WFBitMapS;
        // Old tools answer 3 for a handler that they do not know.
        let agreed = match exit_code {
            Some(0) | None => true,
            Some(3) => source,
            Some(_) => false,
        };
        if !agreed {
            out.fact(Fact::Alert {
                what: format!("the handler refused the resync: {outcome}"),
            });
            let node = &self.configuration.node_name;
            let handler = if source { "source" } else { "target" };
            let text = format!("the handler before-resync-{handler} on {node} refused the resync: {outcome}");
            return self.part_with_peer(DisconnectReason::HandlerVeto, &text, cx, out);
        }
        if source {
            self.start_source(out)
        } else {
            self.start_target(out)
        }
    }
}
