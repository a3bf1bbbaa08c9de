//! An error for a client is final. Other parts and the peer may act on a later snapshot than this part has, and the picture of bad
//! blocks may be of an earlier one: the state part and, behind it, the bitmap part are asked first, and the request looks
//! again under what they know.

use super::VolumeEffect;
use super::part::VolumePart;
use crate::identity::{ErrorNumber, Query, SnapshotNumber};
use crate::part::{Outbox, To};
use crate::volume::machine::StateIn;

/// What is known to be under way, and what has arrived.
#[derive(Default)]
pub(super) struct News {
    /// The last question that was answered (which answers all before it), and the snapshot of which the picture is.
    heard: (Query, SnapshotNumber),
    /// The last failure of the own disk that ended an operation here.
    error: ErrorNumber,
}

impl News {
    pub fn arrived(&mut self, query: Query, snapshot: SnapshotNumber) {
        self.heard = self.heard.max((query, snapshot));
    }

    /// An operation of this part failed; the disk part tells the state part of the same error.
    pub fn failed(&mut self, error: ErrorNumber) {
        self.error = self.error.max(error);
    }
}

impl VolumePart {
    pub(super) fn fail_unless_there_is_news(
        &mut self,
        id: u64,
        errno: i32,
        why: &'static str,
        out: &mut Outbox<VolumeEffect>,
    ) {
        let Some(snapshot) = self.snapshot.as_ref() else {
            return;
        };
        if snapshot.errors_seen < self.news.error {
            // What it marked is in the picture already.
            return;
        }
        let (heard, of) = self.news.heard;
        let asked = self.requests.get(&id).and_then(|request| request.asked);
        match asked {
            Some(asked) if asked > heard || of > snapshot.number => {}
            Some(_) if of == snapshot.number => self.fail(id, errno, why, out),
            _ => {
                let query = Query(self.number());
                if let Some(request) = self.requests.get_mut(&id) {
                    request.asked = Some(query);
                }
                out.send(To::State(StateIn::AskNews { query }));
            }
        }
    }

    /// A new state or bitmap part has not heard the questions; its answer to the last one answers all.
    pub(super) fn ask_again(&self, out: &mut Outbox<VolumeEffect>) {
        let asked = self.requests.values().filter_map(|request| request.asked);
        if let Some(query) = asked.max().filter(|&query| query > self.news.heard.0) {
            out.send(To::State(StateIn::AskNews { query }));
        }
    }
}
