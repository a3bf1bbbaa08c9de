//! A model of two nodes with one volume: just enough of disks, link and resync to make histories for the rules.

use super::histories::Event;
use super::node::Node;
use mendblock_core::volume::generations::exposed::*;
use mendblock_core::volume::generations::handshake::*;
use mendblock_core::volume::generations::promotion::may_promote;
use mendblock_core::volume::generations::*;
use std::collections::BTreeSet;

/// Blocks of the volume.
pub const BLOCKS: usize = 4;
const ALL: u8 = (1 << BLOCKS) - 1;

#[derive(Clone, Copy, Debug)]
struct Resync {
    source: usize,
    left: u8,
}

/// The pair.
#[derive(Clone, Debug)]
pub struct Pair {
    nodes: [Node; 2],
    link: bool,
    resync: Option<Resync>,
    random: u64,
    writes: u32,
    /// An operator has thrown data away: acknowledged writes may be missing.
    discarded: bool,
    /// Numbers of the rules that decided.
    pub rules: BTreeSet<u8>,
}

impl Pair {
    /// Two blank disks, not connected.
    pub fn fresh() -> Self {
        Self {
            nodes: [Node::fresh(), Node::fresh()],
            link: false,
            resync: None,
            random: 0,
            writes: 0,
            discarded: false,
            rules: BTreeSet::new(),
        }
    }

    /// Two equal disks, connected.
    pub fn in_sync() -> Self {
        let mut pair = Self {
            link: true,
            ..Self::fresh()
        };
        let slots = Identifiers {
            current: Generation(pair.random() & !1),
            ..Identifiers::FRESH
        };
        for node in &mut pair.nodes {
            node.disk.inconsistent = false;
            node.set_slots(slots);
        }
        pair
    }

    /// An event; does nothing when it is impossible.
    pub fn on(&mut self, event: Event) {
        match event {
            Event::Connect {
                discard,
                sync_id_arrives,
            } => self.connect(discard, sync_id_arrives),
            Event::LinkLost => self.lose_link(),
            Event::Write { node, block } => self.write(node, block),
            Event::Promote { node } => self.promote(node),
            Event::ForcedPromotion { node } => self.promote_by_force(node),
            Event::Demote { node } => self.demote(node),
            Event::Crash {
                node,
                block,
                on_own,
                on_peer,
            } => self.crash(node, block, on_own, on_peer),
            Event::Reboot { node } => self.reboot(node),
            Event::DiskFails { node, heard } => self.fail_disk(node, heard),
            Event::Attach {
                node,
                sync_id_arrives,
            } => self.attach(node, sync_id_arrives),
            Event::BlankDisk { node } => self.blank_disk(node),
            Event::CopyBlocks { count } => self.copy_blocks(count),
            Event::FinishResync { heard } => self.finish_resync(heard),
        }
    }

    fn random(&mut self) -> u64 {
        // The finaliser of splitmix64 over a counter: distinct, and never one of the special values here.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn in_use(&self) -> bool {
        self.nodes.iter().any(|node| node.primary)
    }

    fn write(&mut self, node: usize, block: usize) {
        let peer = 1 - node;
        let mirrored = self.link && self.nodes[peer].has_disk();
        let served = if self.nodes[node].up_to_date() {
            node
        } else if mirrored && self.nodes[peer].up_to_date() {
            peer
        } else {
            return;
        };
        if !self.nodes[node].primary {
            return;
        }
        let missing: Vec<_> = self.nodes[node]
            .seen
            .difference(&self.nodes[served].disk.has)
            .collect();
        assert!(
            missing.is_empty(),
            "the application is shown a copy without its writes {missing:?}"
        );
        self.writes += 1;
        let on_own = self.nodes[node].has_disk();
        for (holder, takes) in [(node, on_own), (peer, mirrored)] {
            let disk = &mut self.nodes[holder].disk;
            if takes {
                disk.data[block] = self.writes;
                disk.has.insert(self.writes);
                disk.bits |= if on_own && mirrored { 0 } else { 1 << block };
            }
        }
        self.nodes[node].seen.insert(self.writes);
    }

    fn promote(&mut self, node: usize) {
        let peer = 1 - node;
        if !self.nodes[node].up || self.nodes[node].primary || (self.link && self.nodes[peer].primary) {
            return;
        }
        if self.link && may_promote(self.nodes[node].known_disk(), self.nodes[peer].known_disk()).is_err() {
            return;
        }
        let peer_has_disk = self.link && self.nodes[peer].has_disk();
        let random = self.random();
        if self.nodes[node].up_to_date() {
            self.become_primary(node, node);
            if !peer_has_disk {
                self.nodes[node].advance(random);
                self.tell(node);
            }
        } else if self.link && self.nodes[peer].up_to_date() {
            self.become_primary(node, peer);
            if !self.nodes[node].attached {
                self.name_for_diskless(node, random);
            }
        }
    }

    fn become_primary(&mut self, node: usize, served: usize) {
        self.nodes[node].seen = self.nodes[served].disk.has.clone();
        let own = &mut self.nodes[node];
        own.primary = true;
        own.disk.primary_since = true;
        if own.attached {
            own.disk.was_primary = true;
            own.disk.slots = own.disk.slots.with_role(true);
        }
    }

    /// The peer of `node`, a Primary without a disk, works with its own.
    fn name_for_diskless(&mut self, node: usize, random: u64) {
        let unattached = Some(self.nodes[node].disk.slots.current);
        let peer = &mut self.nodes[1 - node];
        let named =
            peer.disk
                .slots
                .for_diskless_primary(peer.primary, random, peer.disk.source_open, unattached);
        if let Some(slots) = named {
            peer.set_slots(slots);
        }
        self.tell(1 - node);
    }

    /// `node` sends its identifiers while connected.
    fn tell(&mut self, node: usize) {
        let peer = 1 - node;
        if self.link && self.nodes[node].attached {
            let arrival = self.nodes[peer].arrival(&self.nodes[node], true, false);
            self.nodes[peer].exposed = receive(&arrival).unwrap().exposed;
            self.nodes[peer].picture = self.nodes[node].disk.slots;
        }
    }

    fn promote_by_force(&mut self, node: usize) {
        let own = &self.nodes[node];
        let other = &self.nodes[1 - node];
        let peer_useless = other.attached && other.disk.inconsistent && !other.primary;
        if !own.has_disk() || own.primary || !own.disk.inconsistent || (self.link && !peer_useless) {
            return;
        }
        self.discarded = true;
        self.resync = None;
        self.become_primary(node, node);
        let random = self.random();
        let own = &mut self.nodes[node];
        (own.disk.inconsistent, own.disk.outdated) = (false, false);
        own.set_slots(own.disk.slots.rotate_out().new_generation(true, random));
        if self.link {
            self.handshake(None, None, true);
        }
    }

    fn demote(&mut self, node: usize) {
        let own = &mut self.nodes[node];
        if own.primary {
            own.primary = false;
            own.seen.clear();
            if own.attached {
                own.disk.was_primary = false;
                own.disk.slots = own.disk.slots.with_role(false);
            }
        }
    }

    fn lose_link(&mut self) {
        if !std::mem::take(&mut self.link) {
            return;
        }
        let resync = self.abort_resync();
        for node in 0..2 {
            let random = self.random();
            let own = &mut self.nodes[node];
            let source = resync.is_some_and(|resync| resync.source == node);
            if own.up_to_date() && own.primary && (own.disk.slots.bitmap.is_none() || source) {
                own.advance(random);
            }
        }
    }

    fn abort_resync(&mut self) -> Option<Resync> {
        let resync = self.resync.take()?;
        for node in &mut self.nodes {
            node.disk.bits |= resync.left;
        }
        Some(resync)
    }

    fn crash(&mut self, node: usize, block: usize, on_own: bool, on_peer: bool) {
        if !self.nodes[node].up {
            return;
        }
        let peer = 1 - node;
        if self.nodes[node].primary {
            self.writes += 1;
            if on_peer && self.link && self.nodes[peer].has_disk() && self.nodes[node].has_disk() {
                self.nodes[peer].disk.data[block] = self.writes;
            }
            let own = &mut self.nodes[node];
            if own.attached {
                own.disk.data[block] = if on_own { self.writes } else { own.disk.data[block] };
                own.disk.bits |= 1 << block;
            }
        }
        let own = &mut self.nodes[node];
        (own.up, own.primary, own.exposed) = (false, false, Generation::NONE);
        own.seen.clear();
        self.lose_link();
    }

    fn reboot(&mut self, node: usize) {
        let own = &mut self.nodes[node];
        if !own.up {
            own.up = true;
            if own.attached {
                own.attach += 1;
                own.disk.slots = own.disk.slots.with_role(false);
                own.exposed = if own.disk.inconsistent {
                    Generation::NONE
                } else {
                    own.disk.slots.current
                };
            }
        }
    }

    fn fail_disk(&mut self, node: usize, heard: bool) {
        let peer = 1 - node;
        if !self.nodes[node].has_disk() {
            return;
        }
        self.nodes[node].attached = false;
        self.abort_resync();
        if !self.link {
            return;
        }
        let (random, in_use, attach) = (self.random(), self.in_use(), self.nodes[node].attach);
        let other = &mut self.nodes[peer];
        if other.up_to_date() && in_use && other.disk.slots.bitmap.is_none() {
            other.advance(random);
            other.disk.made_for = Some((attach, other.disk.slots.current));
            other.disk.primary_since = other.primary;
        }
        if heard {
            self.tell(peer);
        } else {
            self.lose_link();
        }
    }

    fn attach(&mut self, node: usize, sync_id_arrives: bool) {
        let peer = 1 - node;
        let (own, other) = (&self.nodes[node], &self.nodes[peer]);
        if !own.up || own.attached {
            return;
        }
        let peer_up_to_date = self.link && other.up_to_date();
        let in_use = own.primary || (self.link && other.primary);
        let (exposed, current) = (own.exposed, own.disk.slots.current);
        if may_attach(&Attach {
            exposed,
            current,
            in_use,
            peer_up_to_date,
        })
        .is_err()
        {
            return;
        }
        self.nodes[node].attach += 1;
        if self.link && self.nodes[peer].attached {
            let own = &mut self.nodes[node];
            own.attached = true;
            own.disk.slots = own.disk.slots.with_role(own.primary);
            self.handshake(Some(node), None, sync_id_arrives);
            return;
        }
        if self.link && receive(&self.nodes[peer].arrival(&self.nodes[node], true, true)).is_err() {
            self.lose_link();
        }
        self.attach_alone(node);
    }

    fn attach_alone(&mut self, node: usize) {
        let in_use = self.nodes[node].primary || (self.link && self.nodes[1 - node].primary);
        let random = self.random();
        let own = &mut self.nodes[node];
        own.attached = true;
        own.disk.slots = own.disk.slots.with_role(own.primary);
        if own.up_to_date() {
            own.exposed = own.disk.slots.current;
            if in_use {
                own.disk.was_primary = own.primary;
                own.advance(random);
            }
        }
        self.tell(node);
    }

    fn blank_disk(&mut self, node: usize) {
        let own = &mut self.nodes[node];
        if !own.up || !own.attached {
            let last_copy = !own.disk.has.is_empty();
            own.disk = Node::fresh().disk;
            self.discarded |= last_copy;
        }
    }

    fn connect(&mut self, discard: Option<usize>, sync_id_arrives: bool) {
        let [a, b] = &self.nodes;
        if self.link || !a.up || !b.up || (a.primary && b.primary) {
            return;
        }
        for node in 0..2 {
            let (own, other) = (&self.nodes[node], &self.nodes[1 - node]);
            if other.attached && receive(&own.arrival(other, false, false)).is_err() {
                return;
            }
        }
        self.link = true;
        if a_pair_of_disks(&self.nodes) {
            self.handshake(None, discard, sync_id_arrives);
            return;
        }
        for node in 0..2 {
            self.tell(node);
            let random = self.random();
            let (own, other) = (&self.nodes[node], &self.nodes[1 - node]);
            if own.primary && !own.attached && other.up_to_date() {
                self.name_for_diskless(node, random);
            }
        }
    }

    fn decision(&self, node: usize, attaching: Option<usize>, discard: Option<usize>) -> Decision {
        let side = |node: &Node| Side {
            identifiers: node.disk.slots,
            crashed_primary: node.disk.was_primary && !(node.primary && attaching.is_none()),
            primary: node.primary,
        };
        let participant = |index: usize| Participant {
            disk: self.nodes[index].negotiated(),
            discard_my_data: discard == Some(index),
            bits: u64::from(self.nodes[index].disk.bits.count_ones()),
        };
        let (own, peer) = (&self.nodes[node], &self.nodes[1 - node]);
        decide(&Handshake {
            comparison: Comparison {
                own: side(own),
                peer: side(peer),
                resolver: node == 1,
                agreed: Agreed::OURS,
            },
            own: participant(node),
            peer: participant(1 - node),
            own_disk_in_use: own.up_to_date() && attaching != Some(node),
            policies: Policies::default(),
            tentative: false,
            peer_dry_run: false,
            demotion_possible: false,
            peer_answer: None,
        })
    }

    fn handshake(&mut self, attaching: Option<usize>, discard: Option<usize>, sync_id_arrives: bool) {
        let decisions = [0, 1].map(|node| self.decision(node, attaching, discard));
        let [a, b] = &decisions;
        assert!(
            a.verdict.answer.fits(b.verdict.answer),
            "{}\n{}",
            a.verdict,
            b.verdict
        );
        for (node, decision) in decisions.iter().enumerate() {
            self.rules.insert(decision.verdict.answer.rule.number());
            self.nodes[node].picture = decision.verdict.peer_corrected();
        }
        let outdated_source = std::iter::zip(&self.nodes, &decisions).any(|(node, decision)| {
            decision.next == Next::WFBitMapS && !node.disk.inconsistent && node.disk.outdated
        });
        match (&a.next, &b.next) {
            (Next::Connected, Next::Connected) => self.no_resync(),
            _ if outdated_source => self.refuse(attaching),
            (Next::WFBitMapS, Next::WFBitMapT) => self.start_resync(0, &decisions, sync_id_arrives),
            (Next::WFBitMapT, Next::WFBitMapS) => self.start_resync(1, &decisions, sync_id_arrives),
            (Next::Refuse(_), _) | (_, Next::Refuse(_)) => self.refuse(attaching),
            other => panic!("the nodes go to {other:?}"),
        }
    }

    fn refuse(&mut self, attaching: Option<usize>) {
        match attaching {
            Some(node) => self.nodes[node].attached = false,
            None => self.lose_link(),
        }
    }

    fn no_resync(&mut self) {
        let [a, b] = &mut self.nodes;
        if !a.disk.inconsistent && !b.disk.inconsistent {
            (a.disk.outdated, b.disk.outdated) = (false, false);
            assert_eq!(a.disk.data, b.disk.data, "no resync, but the copies differ");
            (a.exposed, b.exposed) = (a.disk.slots.current, b.disk.slots.current);
            (a.disk.was_primary, b.disk.was_primary) = (a.primary, b.primary);
        }
    }

    fn start_resync(&mut self, source: usize, decisions: &[Decision; 2], sync_id_arrives: bool) {
        let target = 1 - source;
        let decision = &decisions[source];
        self.discarded |= decision.decided_by == Step::DiscardMyData;
        if !self.discarded {
            let lost: Vec<_> = self.nodes[target]
                .disk
                .has
                .difference(&self.nodes[source].disk.has)
                .collect();
            assert!(
                lost.is_empty(),
                "acknowledged writes {lost:?} are given up: {}",
                decision.verdict
            );
        }
        let union = self.nodes[0].disk.bits | self.nodes[1].disk.bits;
        let left = if decision.full_sync { ALL } else { union };
        self.nodes.iter_mut().for_each(|node| node.disk.bits = left);

        let random = self.random();
        let own = &mut self.nodes[source];
        own.disk.source_open = Some(own.disk.slots.current);
        let (slots, sync_id) = decision.verdict.own_corrected().start_source(random);
        own.disk.slots = slots;
        let (source_current, has) = (slots.current, own.disk.has.clone());
        self.resync = Some(Resync { source, left });
        self.nodes[target].disk.outdated = true;
        if !sync_id_arrives {
            return self.lose_link();
        }
        let own = &mut self.nodes[target];
        own.disk.slots = own.disk.slots.start_target(own.primary, sync_id);
        own.exposed = at_start_target(own.primary, sync_id, source_current);
        own.disk.inconsistent = true;
        own.disk.was_primary = own.primary;
        own.disk.has = has;
    }

    fn copy_blocks(&mut self, count: usize) {
        let Some(Resync { source, left: before }) = self.resync else {
            return;
        };
        let mut left = before;
        for block in (0..BLOCKS).filter(|block| before & (1 << block) != 0).take(count) {
            self.nodes[1 - source].disk.data[block] = self.nodes[source].disk.data[block];
            left &= !(1 << block);
        }
        self.nodes.iter_mut().for_each(|node| node.disk.bits = left);
        self.resync = Some(Resync { source, left });
    }

    fn finish_resync(&mut self, heard: bool) {
        let Some(Resync { source, left: 0 }) = self.resync else {
            return;
        };
        let target = 1 - source;
        let own = &mut self.nodes[target];
        let slots = own.disk.slots.finish_target(own.primary, &own.picture);
        own.set_slots(slots);
        (own.disk.inconsistent, own.disk.outdated) = (false, false);
        assert_eq!(
            self.nodes[0].disk.data, self.nodes[1].disk.data,
            "copies differ after a resync"
        );
        if !heard {
            return self.lose_link();
        }
        self.resync = None;
        let own = &mut self.nodes[source];
        own.disk.slots = own.disk.slots.finish_source();
        own.disk.source_open = None;
        let [a, b] = [0, 1].map(|node| self.nodes[node].disk.slots);
        let bare = |slots: Identifiers| {
            [slots.current, slots.bitmap, slots.history[0], slots.history[1]].map(Generation::without_role)
        };
        assert_eq!(bare(a), bare(b), "slots differ after a resync");
        assert!(a.bitmap.is_none());
        self.no_resync();
    }
}

fn a_pair_of_disks(nodes: &[Node; 2]) -> bool {
    nodes.iter().all(|node| node.attached)
}
