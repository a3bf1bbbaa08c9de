//! What a run has reached: transitions of states, steps, rules, kinds of messages. A cell that no run reaches is not tested.

use mendblock_core::fact::Fact;
use mendblock_core::volume::state::{ConnectionState, DiskState};
use mendblock_net::wire::kind::Kind;
use std::collections::BTreeMap;

/// Counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Connection states, from and to.
    pub connection: BTreeMap<(ConnectionState, ConnectionState), u64>,
    /// States of the own disk, from and to.
    pub disk: BTreeMap<(DiskState, DiskState), u64>,
    /// States of the peer's disk, from and to.
    pub peer_disk: BTreeMap<(DiskState, DiskState), u64>,
    /// Steps of attach and detach.
    pub steps: BTreeMap<&'static str, u64>,
    /// Rules of the comparison of generations, by DRBD's number.
    pub rules: BTreeMap<u16, u64>,
    /// Operations on generations.
    pub generations: BTreeMap<&'static str, u64>,
    /// Frames that were sent, by kind.
    pub kinds: BTreeMap<Kind, u64>,
}

impl Coverage {
    pub(crate) fn fact(&mut self, fact: &Fact) {
        match fact {
            Fact::StateChanged { old, new, .. } => {
                count(
                    &mut self.connection,
                    (old.connection, new.connection),
                    old.connection != new.connection,
                );
                count(&mut self.disk, (old.disk, new.disk), old.disk != new.disk);
                count(
                    &mut self.peer_disk,
                    (old.peer_disk, new.peer_disk),
                    old.peer_disk != new.peer_disk,
                );
            }
            Fact::Step { step, .. } => count(&mut self.steps, *step, true),
            Fact::Handshake { rule, .. } => count(&mut self.rules, *rule, true),
            Fact::Generation { operation, .. } => count(&mut self.generations, *operation, true),
            _ => {}
        }
    }

    pub(crate) fn sent(&mut self, kind: Kind) {
        count(&mut self.kinds, kind, true);
    }

    /// Adds what another run has reached.
    pub fn add(&mut self, other: &Self) {
        merge(&mut self.connection, &other.connection);
        merge(&mut self.disk, &other.disk);
        merge(&mut self.peer_disk, &other.peer_disk);
        merge(&mut self.steps, &other.steps);
        merge(&mut self.rules, &other.rules);
        merge(&mut self.generations, &other.generations);
        merge(&mut self.kinds, &other.kinds);
    }
}

fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K, reached: bool) {
    if reached {
        *counts.entry(key).or_insert(0) += 1;
    }
}

fn merge<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, times) in from {
        *into.entry(key.clone()).or_insert(0) += times;
    }
}
