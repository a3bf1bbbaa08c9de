//! What must hold in every state, and when everything has come to rest.

use crate::node::{Answer, Node};
use crate::world::{Wire, World};
use mendblock_core::volume::generations::compare::Rule;
use mendblock_core::volume::state::{ConnectionState, DiskState, Role};
use mendblock_core::volume::transition::is_legal;

const RULES: [Rule; 19] = [
    Rule::BothFresh,
    Rule::OwnFresh,
    Rule::PeerFresh,
    Rule::FinishNotHeard,
    Rule::FinishNotHeardByPeer,
    Rule::StartNotStoredByPeer,
    Rule::StartNotStored,
    Rule::SameGeneration,
    Rule::SameGenerationInUse,
    Rule::PeerWentOn,
    Rule::SyncIdLost,
    Rule::SyncIdLostThenRenamed,
    Rule::OwnOlder,
    Rule::OwnWentOn,
    Rule::SyncIdLostByPeer,
    Rule::SyncIdLostByPeerThenRenamed,
    Rule::PeerOlder,
    Rule::BothWentOn,
    Rule::NoCommonBase,
];

fn mirrored(answers: [Answer; 2]) -> bool {
    let [own, peer] = answers;
    let rule = RULES
        .iter()
        .find(|rule| rule.number() == own.rule)
        .map(|rule| rule.mirrored().number());
    let next = match own.next {
        's' => 't',
        't' => 's',
        other => other,
    };
    // One node alone may refuse: only it knows that its own disk is in use. The other one follows its word.
    let one_refuses = own.next == 'r' || peer.next == 'r';
    rule == Some(peer.rule) && (one_refuses || next == peer.next)
}

impl World {
    /// The two have agreed on a connection, and neither has lost it.
    fn talk(&self) -> bool {
        let closed = |node: usize| matches!(self.channels[node].back(), Some(Wire::Closed));
        self.ends == [true; 2]
            && !closed(0)
            && !closed(1)
            && self.nodes.iter().all(|node| node.seen.connection.is_some())
    }

    /// What is wrong with this state.
    pub fn wrong(&self) -> Option<String> {
        if let Some(what) = self.broken.first() {
            return Some(what.clone());
        }
        let talk = self.talk();
        if talk && self.nodes.iter().all(|node| node.vector().role == Role::Primary) {
            return Some("two Primaries on one connection".to_owned());
        }
        if let Some(node) = (0..2).find(|node| !is_legal(self.nodes[*node].vector())) {
            return Some(format!("no legal state: {}", self.nodes[node].vector()));
        }
        if let [Some(own), Some(peer)] = self.nodes.each_ref().map(|node| node.answer)
            && (own.connection, own.round) == (peer.connection, peer.round)
            && !mirrored([own, peer])
        {
            return Some(format!("the two nodes' answers do not fit: {own:?} and {peer:?}"));
        }
        self.wrong_data(talk)
    }

    fn wrong_data(&self, talk: bool) -> Option<String> {
        let disks = self.nodes.each_ref().map(|node| node.platters.held());
        if let Some(version) = self.ledger.lost(disks) {
            return Some(format!("acknowledged write {version} is on neither disk"));
        }
        for (node, disk) in disks
            .iter()
            .enumerate()
            .filter(|(node, _)| self.nodes[*node].up_to_date())
        {
            // A newer disk that is not attached cannot be copied from; until somebody is promoted beside it nobody is served
            // less. Who was promoted apart is split from it, which shows when that disk is attached.
            let in_use = self
                .nodes
                .iter()
                .any(|node| node.vector().role == Role::Primary && !node.promoted_apart);
            let talk = talk && (in_use || self.nodes[1 - node].disk_usable());
            if let Some(version) = self.ledger.missing(node, disk, talk) {
                return Some(format!(
                    "node {node} is UpToDate without acknowledged write {version}"
                ));
            }
        }
        let idle = self.channels.iter().all(|channel| channel.is_empty())
            && self.nodes.iter().all(|node| node.volume.pending.is_none());
        let in_sync =
            |node: &Node| node.up_to_date() && node.vector().connection == ConnectionState::Connected;
        if !(talk && idle && self.nodes.iter().all(in_sync)) {
            return None;
        }
        let known = self.nodes.iter().fold(0, |known, node| {
            known | node.bits.unwrap_or(0) | node.platters.bad | node.platters.suspect
        });
        let differs = |block: &usize| disks[0].data[*block] != disks[1].data[*block];
        (0..crate::ledger::BLOCKS)
            .find(|block| differs(block) && known & 1 << block == 0)
            .map(|block| format!("both are UpToDate and Connected, and block {block} differs without a bit"))
    }

    /// What is wrong with a state in which nothing more happens by itself.
    pub fn stuck(&self) -> Option<String> {
        for (node, it) in self.nodes.iter().enumerate() {
            let vector = it.vector();
            if matches!(
                vector.disk,
                DiskState::Failed | DiskState::Attaching | DiskState::Negotiating
            ) {
                return Some(format!("node {node} stays {vector}"));
            }
            if !matches!(
                vector.connection,
                ConnectionState::StandAlone | ConnectionState::WFConnection | ConnectionState::Connected
            ) {
                return Some(format!("node {node} stays {vector}"));
            }
            if let Some((_, command)) = it.commands.first() {
                return Some(format!("node {node} never answers {command:?}"));
            }
            if let Some(pending) = it.volume.pending {
                return Some(format!("node {node} never answers {pending:?}"));
            }
        }
        self.stuck_apart()
    }

    fn stuck_apart(&self) -> Option<String> {
        let [own, peer] = self.nodes.each_ref().map(|node| node.vector());
        let connections = (own.connection, peer.connection);
        let connected = ConnectionState::Connected;
        if (connections.0 == connected) != (connections.1 == connected) {
            return Some(format!("one side alone is connected: {own} and {peer}"));
        }
        if connections.0 != connected {
            return None;
        }
        if (own.peer_disk, peer.peer_disk) != (peer.disk, own.disk)
            || (own.peer_role, peer.peer_role) != (peer.role, own.role)
        {
            return Some(format!("the two see each other wrongly: {own} and {peer}"));
        }
        let behind = |one: DiskState, other: DiskState| {
            one == DiskState::UpToDate && other.is_usable() && other != DiskState::UpToDate
        };
        (behind(own.disk, peer.disk) || behind(peer.disk, own.disk))
            .then(|| format!("connected, and nobody starts the resync: {own} and {peer}"))
    }
}
