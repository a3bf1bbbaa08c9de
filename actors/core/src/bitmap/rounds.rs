//! Rounds of lists: what both nodes count their bad blocks by.
//!
//! One round is the list that this node sent and the one that the peer sent for it. Both nodes decide by the counts of a round, and
//! must come to the same: a block that goes bad while the lists cross is in neither's count. (Its tell and its own error say what is
//! to be done about it.)

use super::records::{joined, without};
use crate::identity::ConnectionNumber;
use mendblock_storage::units::BlockRange;
use std::collections::VecDeque;

/// What one node told the other: its own bad blocks, what it suspects of the other one's, and what it has healed.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    pub own: Vec<BlockRange>,
    pub suspect: Vec<BlockRange>,
    pub healed: Vec<BlockRange>,
}

impl Lists {
    /// The next part of a list.
    pub fn extend(&mut self, more: Self) {
        self.own.extend(more.own);
        self.suspect.extend(more.suspect);
        self.healed.extend(more.healed);
    }

    /// Blocks that are bad at this node, after both have heard the other: what the other one suspects counts unless it is healed.
    fn bad_beside(&self, other: &Self) -> u64 {
        let mut bad = without(other.suspect.clone(), &sorted(self.healed.clone()));
        bad.extend(&self.own);
        joined(sorted(bad))
            .iter()
            .map(|range| u64::from(range.count()))
            .sum()
    }
}

fn sorted(mut ranges: Vec<BlockRange>) -> Vec<BlockRange> {
    ranges.sort();
    ranges
}

/// The rounds of the present connection, in their order.
#[derive(Default)]
pub(super) struct Rounds {
    connection: Option<ConnectionNumber>,
    sent: VecDeque<Lists>,
    /// The peer's next list, as far as it has come.
    arriving: Lists,
    /// The peer's lists that are merged durably.
    merged: VecDeque<Lists>,
}

impl Rounds {
    fn on(&mut self, connection: ConnectionNumber) -> Option<&mut Self> {
        if self.connection < Some(connection) {
            *self = Self {
                connection: Some(connection),
                ..Self::default()
            };
        }
        (self.connection == Some(connection)).then_some(self)
    }

    /// This node sends its list.
    pub fn sent(&mut self, connection: ConnectionNumber, lists: Lists) {
        if let Some(rounds) = self.on(connection) {
            rounds.sent.push_back(lists);
        }
    }

    /// A part of the peer's list; the whole list after its last part.
    pub fn arrived(&mut self, connection: ConnectionNumber, part: Lists, last: bool) -> Option<Lists> {
        let rounds = self.on(connection)?;
        rounds.arriving.extend(part);
        last.then(|| std::mem::take(&mut rounds.arriving))
    }

    /// The peer's list is in the records.
    pub fn merged(&mut self, connection: ConnectionNumber, lists: Lists) {
        if let Some(rounds) = self.on(connection) {
            rounds.merged.push_back(lists);
        }
    }

    /// Bad blocks of this node and of the peer by the next round that is complete, and its connection.
    pub fn next(&mut self) -> Option<(ConnectionNumber, u64, u64)> {
        let connection = self.connection?;
        if self.sent.is_empty() || self.merged.is_empty() {
            return None;
        }
        let (own, peer) = (self.sent.pop_front()?, self.merged.pop_front()?);
        Some((connection, own.bad_beside(&peer), peer.bad_beside(&own)))
    }
}
